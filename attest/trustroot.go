package attest

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	commonpb "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	trustrootpb "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"google.golang.org/protobuf/encoding/protojson"
)

// LoadTrustRoot reads authorities from PEM: certificates of the certificate authority (those that sign themselves are roots, the others intermediates)
// and public keys of transparency logs.
func LoadTrustRoot(certificates, logKeys []byte) (*TrustRoot, error) {
	t := &TrustRoot{}
	certs, err := cryptoutils.UnmarshalCertificatesFromPEM(certificates)
	if err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	for _, c := range certs {
		t.addCertificate(c)
	}
	for rest := bytes.TrimSpace(logKeys); len(rest) > 0; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil, errors.New("log keys: not in PEM form")
		}
		key, err := ParsePublicKey(pem.EncodeToMemory(block))
		if err != nil {
			return nil, fmt.Errorf("log key: %w", err)
		}
		t.LogKeys = append(t.LogKeys, key)
		rest = bytes.TrimSpace(rest)
	}
	return t, t.check()
}

// ParseTrustedRoot reads the authorities from a Sigstore trusted root (trusted_root.json), as Sigstore's own tools distribute it. Authorities
// count only within the periods that it gives them. Logs whose keys are of a kind that is not supported are left out.
func ParseTrustedRoot(p []byte) (*TrustRoot, error) {
	if len(p) > maxBundle {
		return nil, fmt.Errorf("trusted root: it has %d bytes, the limit is %d", len(p), maxBundle)
	}
	if err := checkJSON(p); err != nil {
		return nil, fmt.Errorf("trusted root: %w", err)
	}
	var pb trustrootpb.TrustedRoot
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(p, &pb); err != nil {
		return nil, fmt.Errorf("trusted root: %w", err)
	}
	t := &TrustRoot{valid: map[string]period{}}
	for _, ca := range pb.GetCertificateAuthorities() {
		for _, c := range ca.GetCertChain().GetCertificates() {
			cert, err := x509.ParseCertificate(c.GetRawBytes())
			if err != nil {
				return nil, fmt.Errorf("trusted root: certificate authority: %w", err)
			}
			t.addCertificate(cert)
			t.valid[string(cert.Raw)] = validity(ca.GetValidFor())
		}
	}
	for _, log := range pb.GetTlogs() {
		key, err := x509.ParsePKIXPublicKey(log.GetPublicKey().GetRawBytes())
		if err != nil {
			return nil, fmt.Errorf("trusted root: log key: %w", err)
		}
		if checkKey(key) != nil {
			continue
		}
		t.LogKeys = append(t.LogKeys, key)
		t.valid[string(log.GetPublicKey().GetRawBytes())] = validity(log.GetPublicKey().GetValidFor())
	}
	return t, t.check()
}

func validity(r *commonpb.TimeRange) period {
	var p period
	if r.GetStart() != nil {
		p.from = r.GetStart().AsTime()
	}
	if r.GetEnd() != nil {
		p.to = r.GetEnd().AsTime()
	}
	return p
}

// addCertificate sorts a certificate: those that sign themselves are roots.
func (t *TrustRoot) addCertificate(c *x509.Certificate) {
	if bytes.Equal(c.RawSubject, c.RawIssuer) {
		t.Roots = append(t.Roots, c)
	} else {
		t.Intermediates = append(t.Intermediates, c)
	}
}

func (t *TrustRoot) check() error {
	if len(t.Roots) == 0 || len(t.LogKeys) == 0 {
		return errors.New("a trust root has at least one root certificate and one log key")
	}
	return nil
}
