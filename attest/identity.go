package attest

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"time"
)

// TrustRoot holds the authorities for keyless signatures.
type TrustRoot struct {
	// Roots and Intermediates are the certificates of the authority that certifies identities (Fulcio).
	Roots, Intermediates []*x509.Certificate
	// LogKeys are the public keys of the transparency log (Rekor).
	LogKeys []crypto.PublicKey
	// valid says from when to when an authority is to be believed, by the encoding of its certificate or key. Those not in it are, always.
	valid map[string]period
}

// period is a span of time; the zero Time leaves its side open.
type period struct{ from, to time.Time }

func (t *TrustRoot) believed(encoding []byte, at time.Time) bool {
	p, limited := t.valid[string(encoding)]
	return !limited || !at.Before(p.from) && (p.to.IsZero() || !at.After(p.to))
}

// Fulcio's certificate extensions that name the identity provider: the value is a DER UTF8String in the newer, raw text in the older.
var (
	oidIssuer    = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 8}
	oidIssuerOld = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 1}
)

// checkIdentity verifies a bundle that is signed with a short-lived certificate.
func (v *Voucher) checkIdentity(p *parsed, message []byte, policy *Policy) error {
	id, err := certificateIdentity(p.cert)
	if err != nil {
		return failure(CheckCertificate, err)
	}
	trusted := false
	for _, want := range policy.Identities {
		trusted = trusted || id == want
	}
	if !trusted {
		return failuref(CheckSigner, "the bundle is signed by %s, who is none of the %d identities that you trust", id, len(policy.Identities))
	}
	if policy.Trust == nil {
		return failuref(CheckCertificate, "no certificate authority is configured for identities")
	}
	logged, err := policy.Trust.checkLog(p)
	if err != nil {
		return failure(CheckLog, err)
	}
	if err := policy.Trust.checkChain(p.cert, logged); err != nil {
		return failure(CheckCertificate, err)
	}
	if err := checkSignature(p.cert.PublicKey, message, p.sig); err != nil {
		return failuref(CheckSignature, "the signature is not that of %s: %w", id, err)
	}
	v.Identity, v.LoggedAt = &id, logged
	return nil
}

// checkChain verifies that the certificate was issued by the authority and valid at the time.
func (t *TrustRoot) checkChain(cert *x509.Certificate, at time.Time) error {
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range t.Roots {
		if t.believed(c.Raw, at) {
			roots.AddCert(c)
		}
	}
	for _, c := range t.Intermediates {
		if t.believed(c.Raw, at) {
			intermediates.AddCert(c)
		}
	}
	_, err := cert.Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, CurrentTime: at,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}})
	if err != nil {
		return fmt.Errorf("the certificate of the time %s: %w", at.UTC().Format(time.RFC3339), err)
	}
	return nil
}

func certificateIdentity(cert *x509.Certificate) (Identity, error) {
	var names []string
	names = append(names, cert.EmailAddresses...)
	for _, u := range cert.URIs {
		names = append(names, u.String())
	}
	if len(names) != 1 {
		return Identity{}, fmt.Errorf("the certificate names %d subjects, not one", len(names))
	}
	id := Identity{Subject: names[0]}
	for _, ext := range cert.Extensions {
		switch {
		case ext.Id.Equal(oidIssuer):
			rest, err := asn1.Unmarshal(ext.Value, &id.Issuer)
			if err != nil || len(rest) > 0 {
				return Identity{}, errors.New("the certificate's issuer extension is malformed")
			}
		case ext.Id.Equal(oidIssuerOld) && id.Issuer == "":
			id.Issuer = string(bytes.Clone(ext.Value))
		}
	}
	if id.Issuer == "" {
		return Identity{}, errors.New("the certificate does not say which identity provider vouches for its subject")
	}
	return id, nil
}
