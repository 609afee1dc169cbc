package attest

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"
	"time"

	bundlepb "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	rekorpb "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/detvm/detvm/attest/sigstoretest"
)

func fakeSigstore(t *testing.T) (*sigstoretest.Server, *Keyless, *Policy) {
	t.Helper()
	s, err := sigstoretest.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	k := &Keyless{FulcioURL: s.URL, RekorURL: s.URL, Token: sigstoretest.Token("https://issuer.test", "alice@example.com")}
	p := &Policy{Identities: []Identity{{"https://issuer.test", "alice@example.com"}},
		Trust: &TrustRoot{Roots: []*x509.Certificate{s.CA}, LogKeys: []crypto.PublicKey{s.LogKey.Public()}}}
	return s, k, p
}

func TestKeylessSignature(t *testing.T) {
	_, k, policy := fakeSigstore(t)
	r, rep := openTrace(t, testTrace(t, nil))
	st, err := NewRun(r, rep)
	if err != nil {
		t.Fatal(err)
	}
	var b []byte
	for range 6 { // so that the log has more than one entry
		if b, err = k.Sign(context.Background(), st); err != nil {
			t.Fatal(err)
		}
	}
	v, err := Verify(r, rep, [][]byte{b}, policy)
	if err != nil {
		t.Fatal(err)
	}
	if v.Vouchers[0].Identity.Subject != "alice@example.com" || time.Since(v.Vouchers[0].LoggedAt) > time.Minute {
		t.Errorf("%+v", v.Vouchers[0])
	}
	for i := 0; i < len(b); i++ {
		b[i] ^= 1
		if _, err := VerifyBundle(b, policy); err == nil {
			t.Fatalf("byte %d of the bundle can be changed to %q", i, b[i])
		}
		b[i] ^= 1
	}
}

func TestKeylessSignaturesThatAreRefused(t *testing.T) {
	r, rep := openTrace(t, testTrace(t, nil))
	st, err := NewRun(r, rep)
	if err != nil {
		t.Fatal(err)
	}
	other, otherKeyless, _ := fakeSigstore(t)
	for _, c := range []struct {
		name  string
		check Check
		edit  func(s *sigstoretest.Server, p *Policy)
		tweak func(t *testing.T, b *bundlepb.Bundle)
	}{
		{"another identity", CheckSigner, func(_ *sigstoretest.Server, p *Policy) { p.Identities[0].Subject = "bob@example.com" }, nil},
		{"another issuer", CheckSigner, func(_ *sigstoretest.Server, p *Policy) { p.Identities[0].Issuer = "https://issuer.example" }, nil},
		{"no authorities", CheckCertificate, func(_ *sigstoretest.Server, p *Policy) { p.Trust = nil }, nil},
		{"unknown authority", CheckCertificate, func(_ *sigstoretest.Server, p *Policy) { p.Trust.Roots = []*x509.Certificate{other.CA} }, nil},
		{"unknown log", CheckLog, func(_ *sigstoretest.Server, p *Policy) { p.Trust.LogKeys = []crypto.PublicKey{other.LogKey.Public()} }, nil},
		{"expired when logged", CheckCertificate, func(s *sigstoretest.Server, _ *Policy) {
			first := true
			s.Now = func() time.Time {
				if first {
					first = false
					return time.Now()
				}
				return time.Now().Add(time.Hour)
			}
		}, nil},
		{"no log entry", CheckLog, nil, func(_ *testing.T, b *bundlepb.Bundle) { b.VerificationMaterial.TlogEntries = nil }},
		{"two log entries", CheckLog, nil, func(_ *testing.T, b *bundlepb.Bundle) {
			m := b.VerificationMaterial
			m.TlogEntries = append(m.TlogEntries, m.TlogEntries[0])
		}},
		{"another time", CheckLog, nil, func(_ *testing.T, b *bundlepb.Bundle) { b.VerificationMaterial.TlogEntries[0].IntegratedTime++ }},
		{"no promise", CheckLog, nil, func(_ *testing.T, b *bundlepb.Bundle) {
			b.VerificationMaterial.TlogEntries[0].InclusionPromise = nil
		}},
		{"no inclusion proof", CheckLog, nil, func(_ *testing.T, b *bundlepb.Bundle) { b.VerificationMaterial.TlogEntries[0].InclusionProof = nil }},
		{"another tree", CheckLog, nil, func(_ *testing.T, b *bundlepb.Bundle) {
			b.VerificationMaterial.TlogEntries[0].InclusionProof.RootHash[0] ^= 1
		}},
		{"unsigned checkpoint", CheckLog, nil, func(_ *testing.T, b *bundlepb.Bundle) {
			p := b.VerificationMaterial.TlogEntries[0].InclusionProof.Checkpoint
			p.Envelope, _, _ = strings.Cut(p.Envelope, "\u2014")
		}},
		{"entry of another signature", CheckLog, nil, func(t *testing.T, b *bundlepb.Bundle) {
			b.VerificationMaterial.TlogEntries = []*rekorpb.TransparencyLogEntry{entryOf(t, otherKeyless, st)}
		}},
		{"another certificate", CheckLog, nil, func(t *testing.T, b *bundlepb.Bundle) {
			key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			der, err := other.Certificate(key.Public(), "https://issuer.test", "alice@example.com")
			if err != nil {
				t.Fatal(err)
			}
			b.VerificationMaterial.GetCertificate().RawBytes = der
		}},
		{"another statement", CheckLog, nil, func(_ *testing.T, b *bundlepb.Bundle) { b.GetDsseEnvelope().Payload = []byte("{}") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, k, policy := fakeSigstore(t)
			if c.edit != nil {
				c.edit(s, policy)
			}
			b, err := k.Sign(context.Background(), st)
			if err != nil {
				t.Fatal(err)
			}
			if c.tweak != nil {
				pb := parsePB(t, b)
				c.tweak(t, pb)
				if b, err = marshalBundle(pb); err != nil {
					t.Fatal(err)
				}
			}
			_, err = Verify(r, rep, [][]byte{b}, policy)
			failsAt(t, err, c.check)
		})
	}
}

func parsePB(t *testing.T, b []byte) *bundlepb.Bundle {
	t.Helper()
	var pb bundlepb.Bundle
	if err := protojson.Unmarshal(b, &pb); err != nil {
		t.Fatal(err)
	}
	return proto.Clone(&pb).(*bundlepb.Bundle)
}

func entryOf(t *testing.T, k *Keyless, st *Statement) *rekorpb.TransparencyLogEntry {
	t.Helper()
	b, err := k.Sign(context.Background(), st)
	if err != nil {
		t.Fatal(err)
	}
	return parsePB(t, b).VerificationMaterial.TlogEntries[0]
}

func TestTokensGoOverHTTPSOnly(t *testing.T) {
	k := &Keyless{FulcioURL: "http://fulcio.example", Token: sigstoretest.Token("i", "a@b")}
	if _, err := k.Sign(context.Background(), &Statement{Run: &Run{}}); err == nil || !strings.Contains(err.Error(), "https only") {
		t.Error(err)
	}
}

func TestTrustedRootFile(t *testing.T) {
	s, k, policy := fakeSigstore(t)
	r, rep := openTrace(t, testTrace(t, nil))
	st, err := NewRun(r, rep)
	if err != nil {
		t.Fatal(err)
	}
	b, err := k.Sign(context.Background(), st)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(s.LogKey.Public())
	if err != nil {
		t.Fatal(err)
	}
	file := func(caFrom, caTo, logTo string) []byte {
		end := func(t string) string {
			if t == "" {
				return ""
			}
			return `,"end":"` + t + `"`
		}
		return fmt.Appendf(nil, `{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1","tlogs":[{"baseUrl":%q,"hashAlgorithm":"SHA2_256",
			"publicKey":{"rawBytes":%q,"keyDetails":"PKIX_ECDSA_P256_SHA_256","validFor":{"start":"2020-01-01T00:00:00Z"%s}},"logId":{"keyId":%q}}],
			"certificateAuthorities":[{"subject":{"organization":"test"},"uri":%q,"certChain":{"certificates":[{"rawBytes":%q}]},"validFor":{"start":%q%s}}],"somethingNew":1}`,
			s.URL, base64.StdEncoding.EncodeToString(der), end(logTo), base64.StdEncoding.EncodeToString(s.LogID()), s.URL,
			base64.StdEncoding.EncodeToString(s.CA.Raw), caFrom, end(caTo))
	}
	for _, c := range []struct {
		name  string
		file  []byte
		check Check
	}{
		{"good", file("2020-01-01T00:00:00Z", "", ""), ""},
		{"authority of the past", file("2020-01-01T00:00:00Z", "2021-01-01T00:00:00Z", ""), CheckCertificate},
		{"authority of the future", file("2999-01-01T00:00:00Z", "", ""), CheckCertificate},
		{"log of the past", file("2020-01-01T00:00:00Z", "", "2021-01-01T00:00:00Z"), CheckLog},
	} {
		if policy.Trust, err = ParseTrustedRoot(c.file); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if _, err = Verify(r, rep, [][]byte{b}, policy); c.check != "" {
			failsAt(t, err, c.check)
		} else if err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", "{}", `{"tlogs":1}`, `{"a":1,"a":2}`} {
		if _, err := ParseTrustedRoot([]byte(bad)); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
	pemCA, pemLog := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.CA.Raw}), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	if policy.Trust, err = LoadTrustRoot(pemCA, pemLog); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(r, rep, [][]byte{b}, policy); err != nil {
		t.Error(err)
	}
}
