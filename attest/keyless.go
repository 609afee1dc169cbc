package attest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	bundlepb "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	commonpb "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	dssepb "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	rekorpb "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"google.golang.org/protobuf/encoding/protojson"
)

// maxResponse limits what a server may answer, in bytes.
const maxResponse = 1 << 20

// Keyless signs for an identity: with a key that is made for one signature, certified by Fulcio for the bearer of an identity token, and forgotten.
// The signature is entered in a Rekor transparency log (its API version 1).
type Keyless struct {
	FulcioURL string
	RekorURL  string
	Token     string       // OpenID Connect identity token
	Client    *http.Client // nil means one with a timeout of 30 s
}

// Sign signs a statement and returns the Sigstore bundle as JSON.
func (k *Keyless) Sign(ctx context.Context, s *Statement) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key for one signature: %w", err)
	}
	cert, err := k.certificate(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("get a certificate: %w", err)
	}
	signer, err := signature.LoadSigner(key, crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("make signer: %w", err)
	}
	envelope, err := seal(ctx, s, signer)
	if err != nil {
		return nil, err
	}
	entry, err := k.log(ctx, envelope, cert)
	if err != nil {
		return nil, fmt.Errorf("enter the signature in the transparency log: %w", err)
	}
	return marshalBundle(&bundlepb.Bundle{
		MediaType: BundleType,
		VerificationMaterial: &bundlepb.VerificationMaterial{
			Content:     &bundlepb.VerificationMaterial_Certificate{Certificate: &commonpb.X509Certificate{RawBytes: cert.Raw}},
			TlogEntries: []*rekorpb.TransparencyLogEntry{entry},
		},
		Content: &bundlepb.Bundle_DsseEnvelope{DsseEnvelope: envelope},
	})
}

// post sends and receives JSON.
func (k *Keyless) post(ctx context.Context, base, path string, token string, in, out any) error {
	u, err := url.Parse(base)
	if err != nil {
		return fmt.Errorf("address %q: %w", base, err)
	}
	if ip := net.ParseIP(u.Hostname()); u.Scheme != "https" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("address %q: an identity token is sent over https only", base)
	}
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(base, "/")+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	client := k.Client
	if client == nil {
		client = &http.Client{Timeout: 30 * time.Second}
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxResponse+1))
	if err != nil {
		return fmt.Errorf("read answer of %s: %w", u.Host, err)
	}
	if resp.StatusCode/100 != 2 || len(answer) > maxResponse {
		return fmt.Errorf("%s answers %s: %.200q", u.Host, resp.Status, answer)
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("decode answer of %s: %w", u.Host, err)
	}
	return nil
}

// tokenSubject is the claim whose signature proves possession of the key: the mail address if the token has one, or else its subject. Fulcio
// checks the token; here it is only read.
func tokenSubject(token string) (string, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return "", errors.New("the identity token is not a JSON web token")
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return "", fmt.Errorf("identity token: %w", err)
	}
	var claims struct {
		Email   string `json:"email"`
		Subject string `json:"sub"`
	}
	if err := json.Unmarshal(b, &claims); err != nil {
		return "", fmt.Errorf("identity token: %w", err)
	}
	if claims.Email != "" {
		return claims.Email, nil
	}
	if claims.Subject == "" {
		return "", errors.New("the identity token names nobody")
	}
	return claims.Subject, nil
}

// certificate asks Fulcio (API version 2) for a certificate of the key.
func (k *Keyless) certificate(ctx context.Context, key *ecdsa.PrivateKey) (*x509.Certificate, error) {
	subject, err := tokenSubject(k.Token)
	if err != nil {
		return nil, err
	}
	signer, err := signature.LoadSigner(key, crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("make signer: %w", err)
	}
	possession, err := signer.SignMessage(strings.NewReader(subject))
	if err != nil {
		return nil, fmt.Errorf("prove possession of the key: %w", err)
	}
	pub, err := cryptoutils.MarshalPublicKeyToPEM(key.Public())
	if err != nil {
		return nil, fmt.Errorf("encode public key: %w", err)
	}
	request := map[string]any{
		"credentials": map[string]string{"oidcIdentityToken": k.Token},
		"publicKeyRequest": map[string]any{
			"publicKey":         map[string]string{"algorithm": "ECDSA", "content": string(pub)},
			"proofOfPossession": possession,
		},
	}
	type withChain struct {
		Chain struct{ Certificates []string }
	}
	var answer struct {
		SignedCertificateEmbeddedSct withChain
		SignedCertificateDetachedSct withChain
	}
	if err := k.post(ctx, k.FulcioURL, "/api/v2/signingCert", k.Token, request, &answer); err != nil {
		return nil, err
	}
	chain := append(answer.SignedCertificateEmbeddedSct.Chain.Certificates, answer.SignedCertificateDetachedSct.Chain.Certificates...)
	if len(chain) == 0 {
		return nil, errors.New("the authority answered without a certificate")
	}
	block, _ := pem.Decode([]byte(chain[0]))
	if block == nil {
		return nil, errors.New("the authority's certificate is not in PEM form")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("the authority's certificate: %w", err)
	}
	if pub, ok := cert.PublicKey.(*ecdsa.PublicKey); !ok || !pub.Equal(key.Public()) {
		return nil, errors.New("the authority certified another key")
	}
	return cert, nil
}

// logAnswer is what Rekor says of a new entry.
type logAnswer struct {
	Body           []byte `json:"body"`
	IntegratedTime int64  `json:"integratedTime"`
	LogID          string `json:"logID"`
	LogIndex       int64  `json:"logIndex"`
	Verification   struct {
		SignedEntryTimestamp []byte `json:"signedEntryTimestamp"`
		InclusionProof       struct {
			Checkpoint string   `json:"checkpoint"`
			Hashes     []string `json:"hashes"`
			LogIndex   int64    `json:"logIndex"`
			RootHash   string   `json:"rootHash"`
			TreeSize   int64    `json:"treeSize"`
		} `json:"inclusionProof"`
	} `json:"verification"`
}

// log enters an envelope in Rekor as an entry of kind dsse.
func (k *Keyless) log(ctx context.Context, envelope *dssepb.Envelope, cert *x509.Certificate) (*rekorpb.TransparencyLogEntry, error) {
	e, err := protojson.Marshal(envelope)
	if err != nil {
		return nil, fmt.Errorf("encode envelope: %w", err)
	}
	request := map[string]any{
		"apiVersion": "0.0.1", "kind": "dsse",
		"spec": map[string]any{"proposedContent": map[string]any{
			"envelope":  string(e),
			"verifiers": [][]byte{cryptoutils.PEMEncode(cryptoutils.CertificatePEMType, cert.Raw)},
		}},
	}
	var answer map[string]logAnswer
	if err := k.post(ctx, k.RekorURL, "/api/v1/log/entries", "", request, &answer); err != nil {
		return nil, err
	}
	if len(answer) != 1 {
		return nil, fmt.Errorf("the log answered with %d entries", len(answer))
	}
	for _, a := range answer {
		return a.entry()
	}
	return nil, nil
}

func (a *logAnswer) entry() (*rekorpb.TransparencyLogEntry, error) {
	ip := a.Verification.InclusionProof
	var hashes [][]byte
	for _, h := range append([]string{a.LogID, ip.RootHash}, ip.Hashes...) {
		b, err := hex.DecodeString(h)
		if err != nil {
			return nil, fmt.Errorf("decode the log's answer: %w", err)
		}
		hashes = append(hashes, b)
	}
	return &rekorpb.TransparencyLogEntry{
		LogIndex:         a.LogIndex,
		LogId:            &commonpb.LogId{KeyId: hashes[0]},
		KindVersion:      &rekorpb.KindVersion{Kind: "dsse", Version: "0.0.1"},
		IntegratedTime:   a.IntegratedTime,
		InclusionPromise: &rekorpb.InclusionPromise{SignedEntryTimestamp: a.Verification.SignedEntryTimestamp},
		InclusionProof: &rekorpb.InclusionProof{LogIndex: ip.LogIndex, RootHash: hashes[1], TreeSize: ip.TreeSize, Hashes: hashes[2:],
			Checkpoint: &rekorpb.Checkpoint{Envelope: ip.Checkpoint}},
		CanonicalizedBody: a.Body,
	}, nil
}
