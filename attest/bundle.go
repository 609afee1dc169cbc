package attest

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"

	ssldsse "github.com/secure-systems-lab/go-securesystemslib/dsse"
	bundlepb "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	commonpb "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	dssepb "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	rekorpb "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/options"
	"google.golang.org/protobuf/encoding/protojson"
)

// BundleType is the media type of the bundles that are written and read.
const BundleType = "application/vnd.dev.sigstore.bundle.v0.3+json"

// BundleSuffix is what the name of a trace's bundle adds to that of the trace.
const BundleSuffix = ".sigstore.json"

// maxBundle limits a bundle, in bytes: a statement in base64 and some certificates.
const maxBundle = maxStatement*4/3 + 1<<20

// Sign wraps a statement in a DSSE envelope, signs it and returns the Sigstore bundle as JSON.
func Sign(ctx context.Context, s *Statement, signer signature.Signer) ([]byte, error) {
	if err := checkSigner(signer); err != nil {
		return nil, fmt.Errorf("sign statement: %w", err)
	}
	pub, err := signer.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("sign statement: %w", err)
	}
	id, err := KeyID(pub)
	if err != nil {
		return nil, fmt.Errorf("sign statement: %w", err)
	}
	envelope, err := seal(ctx, s, signer)
	if err != nil {
		return nil, err
	}
	return marshalBundle(&bundlepb.Bundle{
		MediaType: BundleType,
		VerificationMaterial: &bundlepb.VerificationMaterial{
			Content: &bundlepb.VerificationMaterial_PublicKey{PublicKey: &commonpb.PublicKeyIdentifier{Hint: id}},
		},
		Content: &bundlepb.Bundle_DsseEnvelope{DsseEnvelope: envelope},
	})
}

// seal signs the statement's encoding as DSSE prescribes.
func seal(ctx context.Context, s *Statement, signer signature.Signer) (*dssepb.Envelope, error) {
	payload, err := s.MarshalJSON()
	if err != nil {
		return nil, fmt.Errorf("sign statement: %w", err)
	}
	if len(payload) > maxStatement {
		return nil, fmt.Errorf("sign statement: it has %d bytes, the limit is %d", len(payload), maxStatement)
	}
	sig, err := signer.SignMessage(bytes.NewReader(ssldsse.PAE(PayloadType, payload)), options.WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("sign statement: %w", err)
	}
	return &dssepb.Envelope{PayloadType: PayloadType, Payload: payload, Signatures: []*dssepb.Signature{{Sig: sig}}}, nil
}

// marshalBundle encodes canonically: protojson varies its spacing on purpose.
func marshalBundle(b *bundlepb.Bundle) ([]byte, error) {
	p, err := protojson.Marshal(b)
	if err != nil {
		return nil, fmt.Errorf("encode bundle: %w", err)
	}
	var c bytes.Buffer
	if err := json.Compact(&c, p); err != nil {
		return nil, fmt.Errorf("encode bundle: %w", err)
	}
	return c.Bytes(), nil
}

// parsed is a bundle whose form is right; nothing in it has been believed yet.
type parsed struct {
	keyHint string            // of a key, if certs is nil
	cert    *x509.Certificate // the signer's certificate
	entries []*rekorpb.TransparencyLogEntry
	payload []byte
	sig     []byte
}

func parseBundle(p []byte) (*parsed, error) {
	if len(p) > maxBundle {
		return nil, fmt.Errorf("the bundle has %d bytes, the limit is %d", len(p), maxBundle)
	}
	if err := checkJSON(p); err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	var b bundlepb.Bundle
	if err := protojson.Unmarshal(p, &b); err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	again, err := marshalBundle(&b)
	if err != nil {
		return nil, err
	}
	var c bytes.Buffer
	if err := json.Compact(&c, p); err != nil || !bytes.Equal(again, c.Bytes()) {
		return nil, errors.New("the bundle is not in canonical form: it could be read in two ways")
	}
	if b.GetMediaType() != BundleType {
		return nil, fmt.Errorf("the bundle is of type %q, not a Sigstore bundle v0.3", b.GetMediaType())
	}
	return unpack(&b)
}

func unpack(b *bundlepb.Bundle) (*parsed, error) {
	env := b.GetDsseEnvelope()
	switch {
	case env == nil:
		return nil, errors.New("the bundle holds no DSSE envelope: it does not sign a statement")
	case env.GetPayloadType() != PayloadType:
		return nil, fmt.Errorf("the envelope's payload is of type %q, not an in-toto statement", env.GetPayloadType())
	case len(env.GetSignatures()) != 1:
		return nil, fmt.Errorf("the envelope has %d signatures where exactly one is due: several parties sign several bundles", len(env.GetSignatures()))
	case env.GetSignatures()[0].GetKeyid() != "":
		return nil, errors.New("the envelope's signature names a key, which nothing protects; the bundle's verification material does that")
	}
	m := b.GetVerificationMaterial()
	out := &parsed{payload: env.GetPayload(), sig: env.GetSignatures()[0].GetSig(), entries: m.GetTlogEntries()}
	switch c := m.GetContent().(type) {
	case *bundlepb.VerificationMaterial_PublicKey:
		out.keyHint = c.PublicKey.GetHint()
		if len(m.GetTlogEntries()) > 0 || len(m.GetTimestampVerificationData().GetRfc3161Timestamps()) > 0 {
			return nil, errors.New("the bundle is signed with a plain key but carries log entries or timestamps, which detvm does not check for such bundles")
		}
	case *bundlepb.VerificationMaterial_Certificate:
		cert, err := x509.ParseCertificate(c.Certificate.GetRawBytes())
		if err != nil {
			return nil, fmt.Errorf("the bundle's certificate: %w", err)
		}
		out.cert = cert
	default:
		return nil, errors.New("the bundle names neither a key nor a certificate")
	}
	return out, nil
}

// WriteBundle stores a bundle in a file, replacing one that is there.
func WriteBundle(name string, bundle []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(name), ".bundle-*")
	if err != nil {
		return fmt.Errorf("store bundle: %w", err)
	}
	_, err = tmp.Write(append(bytes.Clone(bundle), '\n'))
	err = errors.Join(err, tmp.Chmod(0o644), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), name)
	}
	if err != nil {
		return fmt.Errorf("store bundle: %w", errors.Join(err, os.Remove(tmp.Name())))
	}
	return nil
}

// ReadBundle reads a bundle from a regular file, without checking anything but its size.
func ReadBundle(name string) ([]byte, error) {
	b, err := readBounded(name, maxBundle)
	if err != nil {
		return nil, fmt.Errorf("read bundle: %w", err)
	}
	return b, nil
}

// readBounded reads a regular file of at most limit bytes. Pipes and devices, which may stand beside a trace that somebody else packed, are refused.
func readBounded(name string, limit int64) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", name)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s has more than %d bytes", name, limit)
	}
	return b, err
}

// FindBundles lists the bundles beside a trace by the names that [RunPath] and [CountersignPath] give: the first signer's, then by name those of others who vouch
// for the run or have replayed it.
func FindBundles(tracePath string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Dir(tracePath))
	if err != nil {
		return nil, fmt.Errorf("look for bundles: %w", err)
	}
	base := filepath.Base(tracePath)
	var names []string
	for _, e := range entries {
		name, ok := strings.CutPrefix(e.Name(), base)
		middle, suffixed := strings.CutSuffix(name, BundleSuffix)
		if ok && suffixed && (middle == "" || strings.HasPrefix(middle, ".run-") || strings.HasPrefix(middle, ".replay-")) {
			names = append(names, e.Name())
		}
	}
	sort.Slice(names, func(i, j int) bool {
		if first := base + BundleSuffix; names[i] == first || names[j] == first {
			return names[i] == first && names[j] != first
		}
		return names[i] < names[j]
	})
	for i := range names {
		names[i] = filepath.Join(filepath.Dir(tracePath), names[i])
	}
	return names, nil
}

// CountersignPath is where a replay statement by the key belongs: beside the trace, named after the key.
func CountersignPath(tracePath, keyID string) string { return keyPath(tracePath, "replay", keyID) }

// RunPath is where a statement about the run by the key belongs: beside the trace, and named after the key if another statement is there already.
func RunPath(tracePath, keyID string) string {
	first := tracePath + BundleSuffix
	if _, err := os.Lstat(first); err != nil {
		return first
	}
	return keyPath(tracePath, "run", keyID)
}

func keyPath(tracePath, what, keyID string) string {
	short := strings.NewReplacer("/", "", "+", "", "=", "").Replace(keyID)
	return tracePath + "." + what + "-" + short[:min(10, len(short))] + BundleSuffix
}
