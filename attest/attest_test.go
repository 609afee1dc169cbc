package attest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	ssldsse "github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/kms/fake"

	"github.com/detvm/detvm/trace"
)

func testEvents() []trace.Event {
	end, _ := (&trace.End{Reason: "exited", State: trace.NewDigest(trace.SHA256, []byte("state")),
		Outputs: []trace.Setting{{Key: "disk:0", Value: string(trace.NewDigest(trace.SHA256, []byte("disk")))}}}).MarshalBinary()
	return []trace.Event{
		{Kind: trace.KindStart, Position: 1, Time: 1, Data: []byte("config")},
		{Kind: trace.KindStdin, Position: 2, Time: 2, Data: []byte("1234\n")},
		{Kind: trace.KindIO, Position: 3, Time: 3, Size: 1, Addr: 0x3f8, Value: 'x', Write: true},
		{Kind: trace.KindStdout, Position: 4, Time: 4, Data: []byte("hello\n")},
		{Kind: trace.KindCheckpoint, Position: 5, Time: 5, Data: []byte("0123456789abcdef0123456789abcdef")},
		{Kind: trace.KindEnd, Position: 6, Time: 6, Value: 3, Data: end},
	}
}

func testTrace(t testing.TB, change func(*trace.Header, []trace.Event)) []byte {
	t.Helper()
	h := &trace.Header{Hash: trace.SHA256, Redactable: true, MachineModel: "v1", CPUModel: "detvm-v1", Clock: "instructions", NSPerCount: 1,
		ScaleNum: 1, ScaleDen: 1, StartTime: 1_700_000_000_000_000_001, Seed: []byte{1, 2, 3}, Version: "test",
		Config:  []trace.Setting{{Key: "memory", Value: "64M"}},
		Inputs:  []trace.Input{{Role: "kernel", Name: "vmlinux <6.1>", Size: 6, Digest: trace.NewDigest(trace.SHA256, []byte("kernel"))}, {Role: "image", Name: "root", Size: 9000, Digest: trace.NewDigest(trace.SHA256, nil)}},
		Command: []string{"sh", "-c", "echo hello && exit 3"}, Env: []string{"A=b\xff"}}
	events := testEvents()
	if change != nil {
		change(h, events)
	}
	var b bytes.Buffer
	w, err := trace.NewWriter(&b, h, trace.Options{Host: []trace.Setting{{Key: "engine", Value: "soft"}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.AppendAll(events); err != nil {
		t.Fatal(err)
	}
	if err := w.AddBlob(0, 0, []byte("kernel")); err != nil {
		t.Fatal(err)
	}
	if err := w.AddBlob(1, 4096, []byte("block")); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Close(trace.StatusComplete, []trace.Setting{{Key: "ended", Value: "now"}}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func openTrace(t testing.TB, file []byte) (*trace.Reader, *trace.Report) {
	t.Helper()
	r, err := trace.Open(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		t.Fatal(err)
	}
	rep, err := r.Verify(nil)
	if err != nil {
		t.Fatal(err)
	}
	return r, rep
}

func newKey(t testing.TB, kind KeyType) (signature.Signer, crypto.PublicKey) {
	t.Helper()
	pair, err := GenerateKey(kind, nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ParseSigner(pair.Private, nil)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := ParsePublicKey(pair.Public)
	if err != nil {
		t.Fatal(err)
	}
	return s, pub
}

func signRun(t testing.TB, file []byte, s signature.Signer) []byte {
	t.Helper()
	r, rep := openTrace(t, file)
	st, err := NewRun(r, rep)
	if err != nil {
		t.Fatal(err)
	}
	return signStatement(t, st, s)
}

func signStatement(t testing.TB, st *Statement, s signature.Signer) []byte {
	t.Helper()
	b, err := Sign(context.Background(), st, s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// failsAt checks that err is a failure of the check.
func failsAt(t testing.TB, err error, check Check) {
	t.Helper()
	var f *Failure
	if !errors.As(err, &f) {
		t.Errorf("error is %v, want a failure of the %s check", err, check)
	} else if f.Check != check {
		t.Errorf("the %s check failed, it should be %s: %v", f.Check, check, err)
	} else if f.Meaning == "" {
		t.Errorf("the failure of %s does not say what it means", check)
	}
}

func TestSignedTraceVerifies(t *testing.T) {
	file := testTrace(t, nil)
	for _, kind := range []KeyType{ECDSAP256, Ed25519} {
		s, pub := newKey(t, kind)
		b := signRun(t, file, s)
		r, rep := openTrace(t, file)
		v, err := Verify(r, rep, [][]byte{b}, &Policy{Keys: []crypto.PublicKey{pub}})
		if err != nil {
			t.Fatal(err)
		}
		run := v.Vouchers[0].Statement.Run
		if v.Parties != 1 || len(v.Notes) != 0 || run.Result.ExitCode != 3 || run.Result.Reason != "exited" || run.Host["engine"] != "soft" ||
			len(run.Checkpoints) != 1 || run.Machine.StartTime != "2023-11-14T22:13:20.000000001Z" {
			t.Errorf("%+v %+v", v, run)
		}
		names := []string{}
		for _, s := range v.Vouchers[0].Statement.Subject {
			names = append(names, s.Name)
		}
		if got := strings.Join(names, " "); got != "trace disk:0 stderr stdout" {
			t.Errorf("subjects are %s", got)
		}
	}
}

func TestEveryChangedByteOfABundleIsRefused(t *testing.T) {
	file := testTrace(t, nil)
	for _, kind := range []KeyType{ECDSAP256, Ed25519} {
		s, pub := newKey(t, kind)
		b := signRun(t, file, s)
		policy := &Policy{Keys: []crypto.PublicKey{pub}}
		for i := range b {
			for _, bit := range [...]int{i % 8, (i*3 + 5) % 8} {
				b[i] ^= 1 << bit
				_, err := VerifyBundle(b, policy)
				if err == nil {
					t.Fatalf("%s: bit %d of byte %d (now %q) can be changed", kind, bit, i, b[i])
				}
				var f *Failure
				if !errors.As(err, &f) {
					t.Fatalf("error without a check: %v", err)
				}
				b[i] ^= 1 << bit
			}
		}
		for n := 0; n < len(b); n += 7 {
			if _, err := VerifyBundle(b[:n], policy); err == nil {
				t.Fatalf("a bundle cut at %d verifies", n)
			}
		}
	}
}

func TestChangedTraceIsRefused(t *testing.T) {
	file := testTrace(t, nil)
	s, pub := newKey(t, ECDSAP256)
	b := signRun(t, file, s)
	policy := &Policy{Keys: []crypto.PublicKey{pub}}
	for i := range file {
		file[i] ^= 1
		r, err := trace.Open(bytes.NewReader(file), int64(len(file)))
		if err == nil {
			rep, verr := r.Verify(nil)
			if verr != nil {
				t.Fatal(verr)
			}
			_, err = Verify(r, rep, [][]byte{b}, policy)
			failsAt(t, err, CheckTrace)
		}
		if err == nil {
			t.Fatalf("byte %d can be changed", i)
		}
		file[i] ^= 1
	}
	other, rep := openTrace(t, testTrace(t, nil)) // the same run, other salts: another root
	_, err := Verify(other, rep, [][]byte{b}, policy)
	failsAt(t, err, CheckMatch)
}

func TestStatementsThatDoNotFitTheTraceAreRefused(t *testing.T) {
	file := testTrace(t, nil)
	r, rep := openTrace(t, file)
	s, pub := newKey(t, Ed25519)
	for name, lie := range map[string]func(*Statement){
		"root":         func(s *Statement) { s.Run.Trace.Root = strings.Repeat("0", 64) },
		"events":       func(s *Statement) { s.Run.Trace.Events++ },
		"status":       func(s *Statement) { s.Run.Trace.Status = "aborted" },
		"host digest":  func(s *Statement) { s.Run.Trace.HostDigest = strings.Repeat("0", 64) },
		"blob digest":  func(s *Statement) { s.Run.Trace.BlobDigest = strings.Repeat("0", 64) },
		"hash":         func(s *Statement) { s.Run.Trace.Hash = "sha512" },
		"command":      func(s *Statement) { s.Run.Command[0] = "true" },
		"seed":         func(s *Statement) { s.Run.Machine.Seed = "" },
		"config":       func(s *Statement) { s.Run.Machine.Configuration["memory"] = "1M" },
		"input":        func(s *Statement) { s.Run.Inputs[0].Digest["sha256"] = "00" },
		"exit code":    func(s *Statement) { s.Run.Result.ExitCode = 0 },
		"no result":    func(s *Statement) { s.Run.Result = nil },
		"host":         func(s *Statement) { s.Run.Host["engine"] = "kvm" },
		"checkpoint":   func(s *Statement) { s.Run.Checkpoints[0].State = "00" },
		"checkpoints":  func(s *Statement) { s.Run.Checkpoints = nil },
		"stdout":       func(s *Statement) { s.Subject[3].Digest["sha256"] = strings.Repeat("0", 64) },
		"more outputs": func(s *Statement) { s.Subject = append(s.Subject, Subject{"x", map[string]string{"sha256": "00"}}) },
		"less outputs": func(s *Statement) { s.Subject = s.Subject[:2] },
	} {
		st, err := NewRun(r, rep)
		if err != nil {
			t.Fatal(err)
		}
		lie(st)
		b, err := Sign(context.Background(), st, s)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(name, func(t *testing.T) {
			_, err := Verify(r, rep, [][]byte{b}, &Policy{Keys: []crypto.PublicKey{pub}})
			failsAt(t, err, CheckMatch)
		})
	}
}

// envelope signs any payload the way Sign does and lets the bundle be edited.
func forge(t testing.TB, s signature.Signer, pub crypto.PublicKey, payload string, edit func(map[string]any)) []byte {
	t.Helper()
	sig, err := s.SignMessage(bytes.NewReader(ssldsse.PAE(PayloadType, []byte(payload))))
	if err != nil {
		t.Fatal(err)
	}
	id, err := KeyID(pub)
	if err != nil {
		t.Fatal(err)
	}
	b := map[string]any{
		"mediaType":            BundleType,
		"verificationMaterial": map[string]any{"publicKey": map[string]any{"hint": id}},
		"dsseEnvelope":         map[string]any{"payload": []byte(payload), "payloadType": PayloadType, "signatures": []any{map[string]any{"sig": sig}}},
	}
	if edit != nil {
		edit(b)
	}
	p, err := marshal(ordered{b})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// ordered encodes a bundle's map in protojson's order.
type ordered struct{ m map[string]any }

func (o ordered) MarshalJSON() ([]byte, error) {
	env, _ := o.m["dsseEnvelope"].(map[string]any)
	type e struct {
		Payload     any `json:"payload,omitempty"`
		PayloadType any `json:"payloadType,omitempty"`
		Signatures  any `json:"signatures,omitempty"`
	}
	return json.Marshal(struct {
		MediaType any `json:"mediaType,omitempty"`
		VM        any `json:"verificationMaterial,omitempty"`
		Env       e   `json:"dsseEnvelope,omitempty"`
	}{o.m["mediaType"], o.m["verificationMaterial"], e{env["payload"], env["payloadType"], env["signatures"]}})
}

func TestOddBundlesAreRefused(t *testing.T) {
	file := testTrace(t, nil)
	r, rep := openTrace(t, file)
	st, err := NewRun(r, rep)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := st.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	s, pub := newKey(t, ECDSAP256)
	policy := &Policy{Keys: []crypto.PublicKey{pub}}
	if _, err := Verify(r, rep, [][]byte{forge(t, s, pub, string(payload), nil)}, policy); err != nil {
		t.Fatalf("the forge does not work: %v", err)
	}
	env := func(b map[string]any) map[string]any { return b["dsseEnvelope"].(map[string]any) }
	dup := strings.Replace(string(payload), `"predicateType"`, `"predicateType":"https://example.com","predicateType"`, 1)
	for _, c := range []struct {
		name    string
		payload string
		edit    func(map[string]any)
		check   Check
		message string
	}{
		{"two signatures", "", func(b map[string]any) {
			e := env(b)
			sigs := e["signatures"].([]any)
			e["signatures"] = append(sigs, sigs[0])
		}, CheckBundle, "2 signatures"},
		{"no signature", "", func(b map[string]any) { env(b)["signatures"] = nil }, CheckBundle, "0 signatures"},
		{"another payload type", "", func(b map[string]any) { env(b)["payloadType"] = "text/plain" }, CheckBundle, "payload is of type"},
		{"another bundle version", "", func(b map[string]any) { b["mediaType"] = "application/vnd.dev.sigstore.bundle+json;version=0.1" }, CheckBundle, "v0.3"},
		{"no key", "", func(b map[string]any) { b["verificationMaterial"] = nil }, CheckBundle, "neither a key nor"},
		{"unknown key", "", func(b map[string]any) {
			b["verificationMaterial"] = map[string]any{"publicKey": map[string]any{"hint": "x"}}
		}, CheckSigner, "none of the 1"},
		{"duplicate key in statement", dup, nil, CheckStatement, "twice"},
		{"unknown field in statement", strings.Replace(string(payload), `"predicateType"`, `"x":1,"predicateType"`, 1), nil, CheckStatement, "unknown field"},
		{"field in other case", strings.Replace(string(payload), `"subject"`, `"Subject"`, 1), nil, CheckStatement, "canonical"},
		{"space in statement", string(payload) + " ", nil, CheckStatement, "canonical"},
		{"another statement type", strings.Replace(string(payload), "Statement/v1", "Statement/v0.1", 1), nil, CheckStatement, "not an in-toto Statement v1"},
		{"another predicate", strings.Replace(string(payload), "run/v1", "run/v2", 1), nil, CheckStatement, "neither a run nor a replay"},
		{"not JSON", "hello", nil, CheckStatement, "JSON"},
		{"deep JSON", strings.Repeat("[", 100000), nil, CheckStatement, "deeper"},
		{"huge statement", `{"_type":"` + strings.Repeat("x", maxStatement) + `"}`, nil, CheckBundle, "limit"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.payload == "" {
				c.payload = string(payload)
			}
			if c.name == "huge statement" {
				c.payload += strings.Repeat(" ", 1<<20)
			}
			_, err := Verify(r, rep, [][]byte{forge(t, s, pub, c.payload, c.edit)}, policy)
			failsAt(t, err, c.check)
			if err == nil || !strings.Contains(err.Error(), c.message) {
				t.Errorf("%v does not mention %q", err, c.message)
			}
		})
	}
	b := forge(t, s, pub, string(payload), nil)
	double := bytes.Replace(b, []byte(`{"mediaType"`), []byte(`{"mediaType":"x","mediaType"`), 1)
	_, err = Verify(r, rep, [][]byte{double}, policy)
	failsAt(t, err, CheckBundle)
	double = bytes.Replace(b, []byte(`"dsseEnvelope":`), []byte(`"dsse_envelope":{},"dsseEnvelope":`), 1)
	_, err = Verify(r, rep, [][]byte{double}, policy)
	failsAt(t, err, CheckBundle)
}

func TestWrongKeyAndAlgorithmConfusion(t *testing.T) {
	file := testTrace(t, nil)
	r, rep := openTrace(t, file)
	ec, ecPub := newKey(t, ECDSAP256)
	_, otherPub := newKey(t, ECDSAP256)
	_, edPub := newKey(t, Ed25519)
	b := signRun(t, file, ec)
	_, err := Verify(r, rep, [][]byte{b}, &Policy{Keys: []crypto.PublicKey{otherPub, edPub}})
	failsAt(t, err, CheckSigner)
	// The hint of another key does not help, of whatever algorithm.
	ecID, _ := KeyID(ecPub)
	for _, pub := range []crypto.PublicKey{otherPub, edPub} {
		id, err := KeyID(pub)
		if err != nil {
			t.Fatal(err)
		}
		_, err = Verify(r, rep, [][]byte{bytes.Replace(b, []byte(ecID), []byte(id), 1)}, &Policy{Keys: []crypto.PublicKey{pub}})
		failsAt(t, err, CheckSignature)
	}
	_, err = Verify(r, rep, nil, &Policy{})
	failsAt(t, err, CheckThreshold)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []crypto.PrivateKey{rsaKey, p384} {
		sv, err := signature.LoadSigner(key, crypto.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Sign(context.Background(), &Statement{Run: &Run{}}, sv); err == nil {
			t.Errorf("a %T signs", key)
		}
	}
}

func TestThresholdCountsParties(t *testing.T) {
	file := testTrace(t, nil)
	r, rep := openTrace(t, file)
	var bundles [][]byte
	var keys []crypto.PublicKey
	for i := range 3 {
		s, pub := newKey(t, []KeyType{ECDSAP256, Ed25519}[i%2])
		st, err := NewReplay(r, rep, "test", []trace.Setting{{Key: "engine", Value: "soft"}}, time.Unix(1, 0))
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			bundles = append(bundles, signRun(t, file, s))
		}
		b, err := Sign(context.Background(), st, s)
		if err != nil {
			t.Fatal(err)
		}
		bundles, keys = append(bundles, b), append(keys, pub)
	}
	// bundles: run by 0, replays by 0, 1, 2
	for _, c := range []struct {
		keys, bundles, threshold int
		check                    Check
	}{
		{3, 4, 3, ""}, {3, 4, 0, ""}, {3, 4, 4, CheckThreshold}, {3, 3, 3, CheckThreshold}, {1, 4, 2, CheckThreshold}, {1, 2, 2, CheckThreshold}, {1, 4, 1, ""},
	} {
		v, err := Verify(r, rep, bundles[:c.bundles], &Policy{Keys: keys[:c.keys], Threshold: c.threshold})
		if c.check != "" {
			failsAt(t, err, c.check)
		} else if err != nil || v.Parties != c.keys {
			t.Errorf("%+v: %v", c, err)
		}
	}
	// The same key twice in the policy is one party.
	_, err := Verify(r, rep, bundles[:2], &Policy{Keys: []crypto.PublicKey{keys[0], keys[0]}, Threshold: 2})
	failsAt(t, err, CheckThreshold)
	// A replay statement that is not "identical", or of fewer events, vouches for nothing.
	s, pub := newKey(t, Ed25519)
	for _, lie := range []func(*Replay){func(r *Replay) { r.Verdict = "different" }, func(r *Replay) { r.Events-- }} {
		st, err := NewReplay(r, rep, "test", nil, time.Unix(1, 0))
		if err != nil {
			t.Fatal(err)
		}
		lie(st.Replay)
		_, err = Verify(r, rep, [][]byte{signStatement(t, st, s)}, &Policy{Keys: []crypto.PublicKey{pub}})
		failsAt(t, err, CheckMatch)
	}
}

func TestRedactedTraceStaysSigned(t *testing.T) {
	file := testTrace(t, nil)
	s, pub := newKey(t, ECDSAP256)
	b := signRun(t, file, s)
	policy := &Policy{Keys: []crypto.PublicKey{pub}}
	r, _ := openTrace(t, file)
	redact := func(opts trace.RedactOptions) (*Verification, error) {
		var out bytes.Buffer
		if _, err := trace.Redact(&out, r, opts); err != nil {
			t.Fatal(err)
		}
		rr, rep := openTrace(t, out.Bytes())
		return Verify(rr, rep, [][]byte{b}, policy)
	}
	kind := func(kinds ...trace.Kind) func(uint64, *trace.Event) bool {
		return func(_ uint64, e *trace.Event) bool { return strings.Contains(fmt.Sprint(kinds), e.Kind.String()) }
	}
	v, err := redact(trace.RedactOptions{Withhold: kind(trace.KindStdin)})
	if err != nil || len(v.Notes) != 0 {
		t.Fatal(err, v)
	}
	var out bytes.Buffer
	if _, err := trace.Redact(&out, r, trace.RedactOptions{Withhold: kind(trace.KindStdin)}); err != nil {
		t.Fatal(err)
	}
	rr, rep := openTrace(t, out.Bytes())
	if _, err := NewReplay(rr, rep, "test", nil, time.Now()); err == nil || !strings.Contains(err.Error(), "withheld") {
		t.Errorf("a replay of a redacted trace is vouched for: %v", err)
	}
	v, err = redact(trace.RedactOptions{Withhold: kind(trace.KindStdout, trace.KindCheckpoint)})
	if err != nil || len(v.Notes) != 2 || !strings.Contains(strings.Join(v.Notes, "; "), "stdout") {
		t.Fatal(err, v)
	}
	v, err = redact(trace.RedactOptions{Withhold: func(uint64, *trace.Event) bool { return true }, DropInput: func(int, trace.Input) bool { return true }})
	if err != nil || len(v.Notes) != 4 {
		t.Fatal(err, v.Notes)
	}
	_, err = redact(trace.RedactOptions{DropInput: func(i int, _ trace.Input) bool { return i == 0 }}) // partial blocks stay, without their digest
	failsAt(t, err, CheckMatch)
}

func TestProofs(t *testing.T) {
	file := testTrace(t, nil)
	r, _ := openTrace(t, file)
	s, pub := newKey(t, Ed25519)
	b := signRun(t, file, s)
	policy := &Policy{Keys: []crypto.PublicKey{pub}}
	events := testEvents()
	for from := range events {
		for to := from + 1; to <= len(events); to++ {
			for _, payloads := range []bool{false, true} {
				p, err := Prove(r, uint64(from), uint64(to), ProofOptions{Payloads: payloads, Bundles: [][]byte{b}})
				if err != nil {
					t.Fatal(err)
				}
				v, err := VerifyProof(p, nil, policy)
				if err != nil {
					t.Fatal(err)
				}
				for i, e := range v.Events {
					want := events[from+i]
					if payloads != (string(e.Data) == string(want.Data)) && want.HasPayload() || e.Kind != want.Kind || e.Position != want.Position {
						t.Errorf("event %d: %+v", from+i, e)
					}
				}
			}
		}
	}
	p, err := Prove(r, 1, 2, ProofOptions{Payloads: true, Bundles: [][]byte{b}})
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(p); i += 1 + i/200 {
		p[i] ^= 1
		if _, err := VerifyProof(p, nil, policy); err == nil {
			t.Fatalf("byte %d of a proof can be changed to %q", i, p[i])
		}
		p[i] ^= 1
	}
	bare, err := Prove(r, 1, 2, ProofOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(bare, []byte("MTIzNAo")) {
		t.Error("a proof without payloads holds one")
	}
	_, err = VerifyProof(bare, nil, policy)
	failsAt(t, err, CheckThreshold)
	if _, err := VerifyProof(bare, [][]byte{b}, policy); err != nil {
		t.Error(err)
	}
	_, err = VerifyProof(bare, [][]byte{signRun(t, testTrace(t, nil), s)}, policy)
	failsAt(t, err, CheckMatch)
}

func TestKeyFiles(t *testing.T) {
	dir := t.TempDir()
	ctx := context.Background()
	password := func(p string) PasswordFunc { return func(bool) ([]byte, error) { return []byte(p), nil } }
	for _, kind := range []KeyType{ECDSAP256, Ed25519} {
		for _, secret := range []PasswordFunc{nil, password("correct horse")} {
			if secret != nil && kind == Ed25519 && testing.Short() {
				continue // deriving keys from passwords is slow on purpose
			}
			prefix := filepath.Join(dir, fmt.Sprintf("%s-%v", kind, secret != nil))
			pair, err := GenerateKey(kind, secret)
			if err != nil {
				t.Fatal(err)
			}
			if err := pair.WriteFiles(prefix); err != nil {
				t.Fatal(err)
			}
			if err := pair.WriteFiles(prefix); err == nil {
				t.Error("a key file was overwritten")
			}
			info, err := os.Stat(prefix + ".key")
			if err != nil || info.Mode().Perm() != 0o600 {
				t.Fatal(info.Mode(), err)
			}
			s, err := LoadSigner(ctx, prefix+".key", secret)
			if err != nil {
				t.Fatal(err)
			}
			pub, err := LoadPublicKey(ctx, prefix+".pub")
			if err != nil {
				t.Fatal(err)
			}
			got, err := s.PublicKey()
			if err != nil {
				t.Fatal(err)
			}
			if a, _ := KeyID(pub); a == "" {
				t.Error("no key ID")
			} else if b, _ := KeyID(got); a != b {
				t.Error("the pair does not belong together")
			}
			if secret != nil {
				if _, err := LoadSigner(ctx, prefix+".key", nil); !errors.Is(err, ErrPasswordRequired) {
					t.Error(err)
				}
				if _, err := LoadSigner(ctx, prefix+".key", password("wrong")); err == nil {
					t.Error("a wrong password opens the key")
				}
			}
			if err := os.Chmod(prefix+".key", 0o640); err != nil {
				t.Fatal(err)
			}
			if _, err := LoadSigner(ctx, prefix+".key", secret); err == nil || !strings.Contains(err.Error(), "chmod 600") {
				t.Error(err)
			}
			if _, err := LoadPublicKey(ctx, prefix+".key"); err == nil {
				t.Error("a private key passes as a public one")
			}
		}
	}
	if _, err := GenerateKey("rsa", nil); err == nil {
		t.Error("RSA is offered")
	}
	if _, err := LoadSigner(ctx, "nosuchkms://key", nil); err == nil {
		t.Error("an unknown key service is accepted")
	}
}

// A key management service signs like a key file.
func TestKeyManagementService(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.WithValue(context.Background(), fake.KmsCtxKey{}, crypto.PrivateKey(key))
	s, err := LoadSigner(ctx, "fakekms://key", nil)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := LoadPublicKey(ctx, "fakekms://key")
	if err != nil {
		t.Fatal(err)
	}
	file := testTrace(t, nil)
	r, rep := openTrace(t, file)
	if _, err := Verify(r, rep, [][]byte{signRun(t, file, s)}, &Policy{Keys: []crypto.PublicKey{pub}}); err != nil {
		t.Error(err)
	}
}

func TestFindBundles(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "run.dtr")
	id := "ab/+cdefghijklmn="
	for _, name := range []string{CountersignPath(path, id), path + BundleSuffix, filepath.Join(dir, "other.dtr"+BundleSuffix)} {
		if err := WriteBundle(name, []byte("{}")); err != nil {
			t.Fatal(err)
		}
	}
	got, err := FindBundles(path)
	if err != nil || len(got) != 2 || got[0] != path+BundleSuffix || filepath.Base(got[1]) != "run.dtr.replay-abcdefghij.sigstore.json" {
		t.Error(got, err)
	}
	if b, err := ReadBundle(got[0]); err != nil || string(b) != "{}\n" {
		t.Error(b, err)
	}
}

func FuzzVerifyBundle(f *testing.F) {
	file := testTrace(f, nil)
	s, pub := newKey(f, ECDSAP256)
	b := signRun(f, file, s)
	f.Add(b)
	policy := &Policy{Keys: []crypto.PublicKey{pub}}
	f.Fuzz(func(t *testing.T, p []byte) {
		if v, err := VerifyBundle(p, policy); err == nil && v.Statement.Trace() == nil {
			t.Fatal("no trace")
		}
		if v, err := VerifyBundle(p, policy); err == nil {
			var c bytes.Buffer
			if json.Compact(&c, p) != nil || !bytes.Equal(c.Bytes(), b) {
				t.Fatalf("another bundle verifies: %+v", v)
			}
		}
	})
}

func FuzzParse(f *testing.F) {
	file := testTrace(f, nil)
	r, rep := openTrace(f, file)
	st, err := NewRun(r, rep)
	if err != nil {
		f.Fatal(err)
	}
	p, err := st.MarshalJSON()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(p)
	proof, err := Prove(r, 1, 3, ProofOptions{Payloads: true})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(proof)
	f.Fuzz(func(t *testing.T, p []byte) {
		_, _ = ParseStatement(p)
		_, _ = VerifyProof(p, nil, &Policy{})
	})
}

func BenchmarkVerify(b *testing.B) {
	file := testTrace(b, nil)
	s, pub := newKey(b, ECDSAP256)
	bundle := signRun(b, file, s)
	r, rep := openTrace(b, file)
	for b.Loop() {
		if _, err := Verify(r, rep, [][]byte{bundle}, &Policy{Keys: []crypto.PublicKey{pub}}); err != nil {
			b.Fatal(err)
		}
	}
}
