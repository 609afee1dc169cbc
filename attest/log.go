package attest

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	rekorpb "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
)

// checkLog verifies that the transparency log promised to hold, and proves that it holds, an entry for this signature, and returns when it took it.
func (t *TrustRoot) checkLog(p *parsed) (time.Time, error) {
	if len(p.entries) != 1 {
		return time.Time{}, fmt.Errorf("the bundle has %d entries of a transparency log where one is due; without it nobody knows when a short-lived certificate was used", len(p.entries))
	}
	e := p.entries[0]
	if err := checkEntryBody(e, p); err != nil {
		return time.Time{}, err
	}
	key, err := t.logKey(e.GetLogId().GetKeyId())
	if err != nil {
		return time.Time{}, err
	}
	if err := checkPromise(e, key); err != nil {
		return time.Time{}, err
	}
	if err := checkLogInclusion(e, key); err != nil {
		return time.Time{}, err
	}
	at := time.Unix(e.GetIntegratedTime(), 0)
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return time.Time{}, fmt.Errorf("encode the log's key: %w", err)
	}
	if !t.believed(der, at) {
		return time.Time{}, fmt.Errorf("the log's key was not valid at %s", at.UTC().Format(time.RFC3339))
	}
	return at, nil
}

// logKey finds a log by its ID: the SHA-256 of its public key.
func (t *TrustRoot) logKey(id []byte) (crypto.PublicKey, error) {
	for _, k := range t.LogKeys {
		der, err := x509.MarshalPKIXPublicKey(k)
		if err != nil {
			return nil, fmt.Errorf("encode the log's key: %w", err)
		}
		if sum := sha256.Sum256(der); bytes.Equal(sum[:], id) {
			return k, nil
		}
	}
	return nil, fmt.Errorf("the entry is of log %x, which is none of the %d that you trust", id, len(t.LogKeys))
}

// entryBody is Rekor's entry of kind dsse, version 0.0.1, as far as it matters here.
type entryBody struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Spec       struct {
		EnvelopeHash struct{ Algorithm, Value string }
		PayloadHash  struct{ Algorithm, Value string }
		Signatures   []struct{ Signature, Verifier string }
	} `json:"spec"`
}

// checkEntryBody makes sure that the entry is about this payload, signature and certificate.
func checkEntryBody(e *rekorpb.TransparencyLogEntry, p *parsed) error {
	if err := checkJSON(e.GetCanonicalizedBody()); err != nil {
		return fmt.Errorf("the log entry: %w", err)
	}
	var b entryBody
	if err := json.Unmarshal(e.GetCanonicalizedBody(), &b); err != nil {
		return fmt.Errorf("the log entry: %w", err)
	}
	if b.Kind != "dsse" || b.APIVersion != "0.0.1" || e.GetKindVersion().GetKind() != b.Kind || e.GetKindVersion().GetVersion() != b.APIVersion {
		return fmt.Errorf("the log entry is of kind %s %s, not dsse 0.0.1", b.Kind, b.APIVersion)
	}
	sum := sha256.Sum256(p.payload)
	if b.Spec.PayloadHash.Algorithm != "sha256" || b.Spec.PayloadHash.Value != hex.EncodeToString(sum[:]) {
		return errors.New("the log entry is about another statement")
	}
	if len(b.Spec.Signatures) != 1 || b.Spec.Signatures[0].Signature != base64.StdEncoding.EncodeToString(p.sig) {
		return errors.New("the log entry is about another signature")
	}
	der, err := base64.StdEncoding.DecodeString(b.Spec.Signatures[0].Verifier)
	block, _ := pem.Decode(der)
	if err != nil || block == nil || !bytes.Equal(block.Bytes, p.cert.Raw) {
		return errors.New("the log entry is about another certificate")
	}
	return nil
}

// checkPromise verifies the log's signed entry timestamp, over JSON with its keys in alphabetical order.
func checkPromise(e *rekorpb.TransparencyLogEntry, key crypto.PublicKey) error {
	message, err := marshal(struct {
		Body           string `json:"body"`
		IntegratedTime int64  `json:"integratedTime"`
		LogID          string `json:"logID"`
		LogIndex       int64  `json:"logIndex"`
	}{base64.StdEncoding.EncodeToString(e.GetCanonicalizedBody()), e.GetIntegratedTime(), hex.EncodeToString(e.GetLogId().GetKeyId()), e.GetLogIndex()})
	if err != nil {
		return err
	}
	if err := checkSignature(key, message, e.GetInclusionPromise().GetSignedEntryTimestamp()); err != nil {
		return fmt.Errorf("the log's signed time of the entry: %w", err)
	}
	return nil
}

// checkLogInclusion verifies the inclusion proof against the log's signed checkpoint.
func checkLogInclusion(e *rekorpb.TransparencyLogEntry, key crypto.PublicKey) error {
	ip := e.GetInclusionProof()
	if ip == nil || ip.GetLogIndex() < 0 || ip.GetTreeSize() <= 0 {
		return errors.New("the log entry has no inclusion proof")
	}
	size, root, err := checkpoint(ip.GetCheckpoint().GetEnvelope(), key)
	if err != nil {
		return fmt.Errorf("the log's checkpoint: %w", err)
	}
	if size != uint64(ip.GetTreeSize()) || !bytes.Equal(root, ip.GetRootHash()) {
		return errors.New("the inclusion proof is for another tree than the log's checkpoint")
	}
	h := rfc6962.DefaultHasher
	if err := proof.VerifyInclusion(h, uint64(ip.GetLogIndex()), size, h.HashLeaf(e.GetCanonicalizedBody()), ip.GetHashes(), root); err != nil {
		return fmt.Errorf("the inclusion proof of the log entry: %w", err)
	}
	return nil
}

// checkpoint verifies a signed note (origin, tree size, root; blank line; signatures) and returns its tree.
func checkpoint(note string, key crypto.PublicKey) (size uint64, root []byte, err error) {
	text, sigs, ok := strings.Cut(note, "\n\n")
	lines := strings.Split(text, "\n")
	if !ok || len(lines) < 3 || len(note) > 1<<16 {
		return 0, nil, errors.New("malformed note")
	}
	if size, err = strconv.ParseUint(lines[1], 10, 63); err != nil {
		return 0, nil, fmt.Errorf("tree size: %w", err)
	}
	if root, err = base64.StdEncoding.DecodeString(lines[2]); err != nil {
		return 0, nil, fmt.Errorf("root hash: %w", err)
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return 0, nil, fmt.Errorf("encode the log's key: %w", err)
	}
	sum := sha256.Sum256(der)
	for line := range strings.Lines(sigs) {
		fields := strings.Fields(line)
		if len(fields) != 3 || fields[0] != "\u2014" || lines[0] != fields[1] && !strings.HasPrefix(lines[0], fields[1]+" - ") {
			continue // a signature by somebody else, such as a witness
		}
		sig, err := base64.StdEncoding.Strict().DecodeString(fields[2])
		if err != nil || len(sig) < 5 || binary.BigEndian.Uint32(sig) != binary.BigEndian.Uint32(sum[:]) {
			continue
		}
		if err := checkSignature(key, []byte(text+"\n"), sig[4:]); err != nil {
			return 0, nil, err
		}
		return size, root, nil
	}
	return 0, nil, errors.New("it is not signed by the log")
}
