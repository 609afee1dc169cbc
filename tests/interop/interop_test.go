// Package interop checks that what detvm signs is understood by others: by sigstore-go, the reference implementation of Sigstore bundles, and by openssl.
// It is a module of its own, so that sigstore-go's dependencies stay out of detvm's.
package interop

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/detvm/detvm/attest"
	"github.com/detvm/detvm/attest/sigstoretest"
	"github.com/detvm/detvm/trace"
)

const output = "hello\n"

// statement is that of a small trace.
func statement(t *testing.T) *attest.Statement {
	t.Helper()
	h := &trace.Header{Hash: trace.SHA256, MachineModel: "v1", CPUModel: "detvm-v1", Clock: "instructions", NSPerCount: 1, ScaleNum: 1, ScaleDen: 1,
		Seed: []byte("seed"), Version: "interop", Command: []string{"echo", "hello <&> \u2028"},
		Inputs: []trace.Input{{Role: "kernel", Name: "vmlinux", Size: 1, Digest: trace.NewDigest(trace.SHA256, []byte("k"))}}}
	var b bytes.Buffer
	w, err := trace.NewWriter(&b, h, trace.Options{Host: []trace.Setting{{Key: "engine", Value: "soft"}}})
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range []trace.Event{{Kind: trace.KindStart}, {Kind: trace.KindStdout, Data: []byte(output)}, {Kind: trace.KindEnd}} {
		e.Position, e.Time = uint64(i), uint64(i)
		if err := w.Append(&e); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Close(trace.StatusComplete, nil); err != nil {
		t.Fatal(err)
	}
	r, err := trace.Open(bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil {
		t.Fatal(err)
	}
	rep, err := r.Verify(nil)
	if err != nil {
		t.Fatal(err)
	}
	st, err := attest.NewRun(r, rep)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func keyPair(t *testing.T, kind attest.KeyType) (*attest.KeyPair, signature.Signer, crypto.PublicKey) {
	t.Helper()
	pair, err := attest.GenerateKey(kind, nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := attest.ParseSigner(pair.Private, nil)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := attest.ParsePublicKey(pair.Public)
	if err != nil {
		t.Fatal(err)
	}
	return pair, s, pub
}

func parse(t *testing.T, raw []byte) *bundle.Bundle {
	t.Helper()
	b := &bundle.Bundle{}
	if err := b.UnmarshalJSON(raw); err != nil {
		t.Fatalf("sigstore-go does not read the bundle: %v", err)
	}
	return b
}

func TestSigstoreGoVerifiesBundlesSignedWithKeys(t *testing.T) {
	st := statement(t)
	for _, kind := range []attest.KeyType{attest.ECDSAP256, attest.Ed25519} {
		t.Run(string(kind), func(t *testing.T) {
			_, signer, pub := keyPair(t, kind)
			raw, err := attest.Sign(context.Background(), st, signer)
			if err != nil {
				t.Fatal(err)
			}
			id, err := attest.KeyID(pub)
			if err != nil {
				t.Fatal(err)
			}
			v, err := signature.LoadVerifier(pub, crypto.SHA256)
			if err != nil {
				t.Fatal(err)
			}
			material := root.NewTrustedPublicKeyMaterialFromMapping(map[string]*root.ExpiringKey{id: root.NewExpiringKey(v, time.Time{}, time.Time{})})
			verifier, err := verify.NewVerifier(material, verify.WithNoObserverTimestamps())
			if err != nil {
				t.Fatal(err)
			}
			b := parse(t, raw)
			if _, err := verifier.Verify(b, verify.NewPolicy(verify.WithoutArtifactUnsafe(), verify.WithKey())); err != nil {
				t.Errorf("without an artifact: %v", err)
			}
			sum := sha256.Sum256([]byte(output))
			if _, err := verifier.Verify(b, verify.NewPolicy(verify.WithArtifactDigest("sha256", sum[:]), verify.WithKey())); err != nil {
				t.Errorf("with the run's standard output as the artifact: %v", err)
			}
			if _, err := verifier.Verify(b, verify.NewPolicy(verify.WithArtifact(bytes.NewReader([]byte(output))), verify.WithKey())); err != nil {
				t.Errorf("with the run's standard output: %v", err)
			}
			sum[0] ^= 1
			if _, err := verifier.Verify(b, verify.NewPolicy(verify.WithArtifactDigest("sha256", sum[:]), verify.WithKey())); err == nil {
				t.Error("another output is accepted")
			}
			changed := parse(t, raw)
			changed.GetDsseEnvelope().Payload[30] ^= 1
			if _, err := verifier.Verify(changed, verify.NewPolicy(verify.WithoutArtifactUnsafe(), verify.WithKey())); err == nil {
				t.Error("a changed statement is accepted")
			}
		})
	}
}

func TestSigstoreGoVerifiesKeylessBundles(t *testing.T) {
	s, err := sigstoretest.New()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	k := &attest.Keyless{FulcioURL: s.URL, RekorURL: s.URL, Token: sigstoretest.Token("https://issuer.test", "alice@example.com")}
	raw, err := k.Sign(context.Background(), statement(t))
	if err != nil {
		t.Fatal(err)
	}
	material := &fakeRoot{server: s}
	verifier, err := verify.NewVerifier(material, verify.WithTransparencyLog(1), verify.WithIntegratedTimestamps(1))
	if err != nil {
		t.Fatal(err)
	}
	identity := func(mail string) verify.PolicyOption {
		id, err := verify.NewShortCertificateIdentity("https://issuer.test", "", mail, "")
		if err != nil {
			t.Fatal(err)
		}
		return verify.WithCertificateIdentity(id)
	}
	if _, err := verifier.Verify(parse(t, raw), verify.NewPolicy(verify.WithoutArtifactUnsafe(), identity("alice@example.com"))); err != nil {
		t.Error(err)
	}
	if _, err := verifier.Verify(parse(t, raw), verify.NewPolicy(verify.WithoutArtifactUnsafe(), identity("bob@example.com"))); err == nil {
		t.Error("another identity is accepted")
	}
}

// fakeRoot is the fake's authorities in sigstore-go's terms.
type fakeRoot struct {
	root.BaseTrustedMaterial
	server *sigstoretest.Server
}

func (f *fakeRoot) FulcioCertificateAuthorities() []root.CertificateAuthority {
	return []root.CertificateAuthority{&root.FulcioCertificateAuthority{Root: f.server.CA, URI: f.server.URL}}
}

func (f *fakeRoot) RekorLogs() map[string]*root.TransparencyLog {
	id := f.server.LogID()
	return map[string]*root.TransparencyLog{hex.EncodeToString(id): {BaseURL: f.server.URL, ID: id, ValidityPeriodStart: time.Unix(0, 0), HashFunc: crypto.SHA256,
		PublicKey: f.server.LogKey.Public(), SignatureHashFunc: crypto.SHA256}}
}

// openssl checks the raw signature over DSSE's pre-authentication encoding, with the public key file as keygen writes it.
func TestOpenSSLVerifiesTheSignature(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("needs openssl")
	}
	st := statement(t)
	for _, kind := range []attest.KeyType{attest.ECDSAP256, attest.Ed25519} {
		t.Run(string(kind), func(t *testing.T) {
			pair, signer, _ := keyPair(t, kind)
			raw, err := attest.Sign(context.Background(), st, signer)
			if err != nil {
				t.Fatal(err)
			}
			env := parse(t, raw).GetDsseEnvelope()
			dir := t.TempDir()
			file := func(name string, content []byte) string {
				p := filepath.Join(dir, name)
				if err := os.WriteFile(p, content, 0o600); err != nil {
					t.Fatal(err)
				}
				return p
			}
			pub, sig := file("key.pub", pair.Public), file("sig", env.GetSignatures()[0].GetSig())
			check := func(message []byte) ([]byte, error) {
				m := file("message", message)
				args := []string{"dgst", "-sha256", "-verify", pub, "-signature", sig, m}
				if kind == attest.Ed25519 {
					args = []string{"pkeyutl", "-verify", "-pubin", "-inkey", pub, "-rawin", "-in", m, "-sigfile", sig}
				}
				return exec.Command(openssl, args...).CombinedOutput()
			}
			message := dsse.PAE(env.GetPayloadType(), env.GetPayload())
			if out, err := check(message); err != nil {
				t.Errorf("openssl: %v: %s", err, out)
			}
			message[40] ^= 1
			if out, err := check(message); err == nil {
				t.Errorf("openssl accepts a changed message: %s", out)
			}
		})
	}
}
