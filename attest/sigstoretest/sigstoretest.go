// Package sigstoretest is a Sigstore of one process for tests: a certificate authority like Fulcio and a transparency log like Rekor, on a
// loopback address. It takes identity tokens at their word and keeps its log in memory.
package sigstoretest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"time"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
)

// Server is a running fake. Its exported fields may be changed between requests.
type Server struct {
	*httptest.Server
	CAKey  *ecdsa.PrivateKey
	CA     *x509.Certificate
	LogKey *ecdsa.PrivateKey
	// Name is that of the log. Its checkpoints begin with the name and the number of the tree, as Rekor's do.
	Name string
	// Now is the time of certificates and log entries.
	Now func() time.Time

	mu      sync.Mutex
	entries [][]byte
}

// New starts a fake. The caller closes it.
func New() (*Server, error) {
	s := &Server{Now: time.Now, Name: "rekor.test"}
	var err error
	if s.CAKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	if s.LogKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority", Organization: []string{"test"}}, NotBefore: time.Unix(0, 0),
		NotAfter: time.Now().Add(100 * 365 * 24 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}, SubjectKeyId: []byte{1, 2, 3, 4}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, s.CAKey.Public(), s.CAKey)
	if err != nil {
		return nil, err
	}
	if s.CA, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/v2/signingCert", handle(s.certify))
	mux.HandleFunc("POST /api/v1/log/entries", handle(s.enter))
	s.Server = httptest.NewServer(mux)
	return s, nil
}

// Token makes an identity token that nobody signed.
func Token(issuer, email string) string {
	enc := func(v any) string {
		b, _ := json.Marshal(v)
		return base64.RawURLEncoding.EncodeToString(b)
	}
	return enc(map[string]string{"alg": "none"}) + "." + enc(map[string]string{"iss": issuer, "sub": "1", "email": email}) + ".x"
}

func handle(f func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, err := f(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(v)
	}
}

func (s *Server) certify(r *http.Request) (any, error) {
	var in struct {
		PublicKeyRequest struct {
			PublicKey         struct{ Content string }
			ProofOfPossession []byte
		}
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		return nil, err
	}
	token := strings.Split(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), ".")
	if len(token) != 3 {
		return nil, errors.New("no token")
	}
	claims, err := base64.RawURLEncoding.DecodeString(token[1])
	if err != nil {
		return nil, err
	}
	var who struct{ Iss, Email string }
	if err := json.Unmarshal(claims, &who); err != nil {
		return nil, err
	}
	block, _ := pem.Decode([]byte(in.PublicKeyRequest.PublicKey.Content))
	if block == nil {
		return nil, errors.New("no key")
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	pub, ok := parsed.(*ecdsa.PublicKey)
	sum := sha256.Sum256([]byte(who.Email))
	if !ok || !ecdsa.VerifyASN1(pub, sum[:], in.PublicKeyRequest.ProofOfPossession) {
		return nil, errors.New("possession is not proved")
	}
	cert, err := s.Certificate(pub, who.Iss, who.Email)
	if err != nil {
		return nil, err
	}
	text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}))
	return map[string]any{"signedCertificateEmbeddedSct": map[string]any{"chain": map[string]any{"certificates": []string{text}}}}, nil
}

// Certificate issues a certificate for ten minutes, in DER.
func (s *Server) Certificate(pub crypto.PublicKey, issuer, email string) ([]byte, error) {
	value, err := asn1.MarshalWithParams(issuer, "utf8")
	if err != nil {
		return nil, err
	}
	now := s.Now()
	template := &x509.Certificate{SerialNumber: big.NewInt(now.UnixNano()), NotBefore: now.Add(-time.Second), NotAfter: now.Add(10 * time.Minute),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}, EmailAddresses: []string{email},
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 8}, Value: value}}}
	return x509.CreateCertificate(rand.Reader, template, s.CA, pub, s.CAKey)
}

// LogID is the SHA-256 of the log's public key.
func (s *Server) LogID() []byte {
	der, _ := x509.MarshalPKIXPublicKey(s.LogKey.Public())
	sum := sha256.Sum256(der)
	return sum[:]
}

func (s *Server) sign(message []byte) ([]byte, error) {
	sum := sha256.Sum256(message)
	return s.LogKey.Sign(rand.Reader, sum[:], crypto.SHA256)
}

func (s *Server) enter(r *http.Request) (any, error) {
	var in struct {
		Spec struct {
			ProposedContent struct {
				Envelope  string
				Verifiers []string
			}
		}
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		return nil, err
	}
	var env struct {
		Payload    []byte
		Signatures []struct{ Sig string }
	}
	if err := json.Unmarshal([]byte(in.Spec.ProposedContent.Envelope), &env); err != nil {
		return nil, err
	}
	if len(in.Spec.ProposedContent.Verifiers) != 1 || len(env.Signatures) != 1 {
		return nil, errors.New("one signature and one verifier are due")
	}
	hash := func(p []byte) map[string]string {
		sum := sha256.Sum256(p)
		return map[string]string{"algorithm": "sha256", "value": hex.EncodeToString(sum[:])}
	}
	// encoding/json sorts the keys of maps, as the log's canonical form asks for.
	body, err := json.Marshal(map[string]any{"apiVersion": "0.0.1", "kind": "dsse", "spec": map[string]any{
		"envelopeHash": hash([]byte(in.Spec.ProposedContent.Envelope)), "payloadHash": hash(env.Payload),
		"signatures": []any{map[string]string{"signature": env.Signatures[0].Sig, "verifier": in.Spec.ProposedContent.Verifiers[0]}}}})
	if err != nil {
		return nil, err
	}
	return s.add(body)
}

// add appends an entry and answers as Rekor does.
func (s *Server) add(body []byte) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.entries = append(s.entries, body)
	index, size := uint64(len(s.entries)-1), uint64(len(s.entries))
	hashes, root, err := s.prove(index, size)
	if err != nil {
		return nil, err
	}
	now := s.Now().Unix()
	promise, err := json.Marshal(map[string]any{"body": base64.StdEncoding.EncodeToString(body), "integratedTime": now,
		"logID": hex.EncodeToString(s.LogID()), "logIndex": index})
	if err != nil {
		return nil, err
	}
	set, err := s.sign(promise)
	if err != nil {
		return nil, err
	}
	text := fmt.Sprintf("%s - 1\n%d\n%s\n", s.Name, size, base64.StdEncoding.EncodeToString(root))
	sig, err := s.sign([]byte(text))
	if err != nil {
		return nil, err
	}
	note := binary.BigEndian.AppendUint32(nil, binary.BigEndian.Uint32(s.LogID()))
	checkpoint := fmt.Sprintf("%s\n\u2014 %s %s\n", text, s.Name, base64.StdEncoding.EncodeToString(append(note, sig...)))
	return map[string]any{"uuid" + fmt.Sprint(index): map[string]any{"body": body, "integratedTime": now, "logID": hex.EncodeToString(s.LogID()), "logIndex": index,
		"verification": map[string]any{"signedEntryTimestamp": set, "inclusionProof": map[string]any{"checkpoint": checkpoint, "hashes": hashes,
			"logIndex": index, "rootHash": hex.EncodeToString(root), "treeSize": size}}}}, nil
}

func (s *Server) prove(index, size uint64) (hashes []string, root []byte, err error) {
	h := rfc6962.DefaultHasher
	nodes, err := proof.Inclusion(index, size)
	if err != nil {
		return nil, nil, err
	}
	found := map[compact.NodeID][]byte{}
	r := (&compact.RangeFactory{Hash: h.HashChildren}).NewEmptyRange(0)
	for i, e := range s.entries {
		leaf := h.HashLeaf(e)
		found[compact.NewNodeID(0, uint64(i))] = leaf
		if err := r.Append(leaf, func(id compact.NodeID, hash []byte) { found[id] = hash }); err != nil {
			return nil, nil, err
		}
	}
	if root, err = r.GetRootHash(nil); err != nil {
		return nil, nil, err
	}
	var list [][]byte
	for _, id := range nodes.IDs {
		list = append(list, found[id])
	}
	if list, err = nodes.Rehash(list, h.HashChildren); err != nil {
		return nil, nil, err
	}
	hashes = []string{}
	for _, b := range list {
		hashes = append(hashes, hex.EncodeToString(b))
	}
	return hashes, root, nil
}
