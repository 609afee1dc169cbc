package attest

import (
	"bytes"
	"crypto"
	"testing"
	"time"

	"github.com/detvm/detvm/trace"
)

// A signed statement that a replay was not identical vouches for nothing, also where only events are proved.
func TestAReplayThatDifferedVouchesForNoProof(t *testing.T) {
	r, rep := openTrace(t, testTrace(t, nil))
	signer, pub := newKey(t, Ed25519)
	policy := &Policy{Keys: []crypto.PublicKey{pub}}
	for name, edit := range map[string]func(*Replay){
		"another verdict": func(p *Replay) { p.Verdict = "different" },
		"fewer events":    func(p *Replay) { p.Events = 2 },
	} {
		st, err := NewReplay(r, rep, "test", nil, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		edit(st.Replay)
		b := signStatement(t, st, signer)
		_, err = Verify(r, rep, [][]byte{b}, policy)
		failsAt(t, err, CheckMatch)
		proof, err := Prove(r, 2, 3, ProofOptions{Payloads: true, Bundles: [][]byte{b}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err = VerifyProof(proof, nil, policy); err == nil {
			t.Errorf("%s: the proof is accepted", name)
		} else {
			failsAt(t, err, CheckMatch)
		}
	}
}

// Subjects are compared one for one: of two equal ones in the trace, neither may stand for something else in the statement.
func TestAMadeUpOutputIsFoundBesideEqualOnes(t *testing.T) {
	file := testTrace(t, func(_ *trace.Header, events []trace.Event) {
		for _, i := range []int{1, 3} {
			events[i] = trace.Event{Kind: trace.KindFile, Position: events[i].Position, Time: events[i].Time, Data: []byte("/a\x00sha256:00")}
		}
	})
	r, rep := openTrace(t, file)
	signer, pub := newKey(t, Ed25519)
	st, err := NewRun(r, rep)
	if err != nil {
		t.Fatal(err)
	}
	replaced := false
	for i := range st.Subject {
		if st.Subject[i].Name == "file:/a" && !replaced {
			st.Subject[i], replaced = Subject{"file:/evil", map[string]string{"sha256": "ff"}}, true
		}
	}
	if !replaced {
		t.Fatal("the statement has no subject file:/a")
	}
	_, err = Verify(r, rep, [][]byte{signStatement(t, st, signer)}, &Policy{Keys: []crypto.PublicKey{pub}})
	failsAt(t, err, CheckMatch)
}

// eventsTrace records a trace of these events.
func eventsTrace(t *testing.T, events []trace.Event) []byte {
	t.Helper()
	h := &trace.Header{Hash: trace.SHA256, Redactable: true, MachineModel: "m", CPUModel: "c", Clock: "instructions", NSPerCount: 1, ScaleNum: 1, ScaleDen: 1}
	var out bytes.Buffer
	w, err := trace.NewWriter(&out, h, trace.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.AppendAll(events); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Close(trace.StatusComplete, nil); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// A statement lists the first checkpoints only; that one of them is withheld from a copy does not move others into its place.
func TestASignatureHoldsWhenOneOfManyCheckpointsIsWithheld(t *testing.T) {
	var events []trace.Event
	for i := range maxCheckpoints + 1 {
		events = append(events, trace.Event{Kind: trace.KindCheckpoint, Position: uint64(i), Time: uint64(i), Data: bytes.Repeat([]byte{byte(i)}, 32)})
	}
	file := eventsTrace(t, events)
	signer, pub := newKey(t, Ed25519)
	b, policy := signRun(t, file, signer), &Policy{Keys: []crypto.PublicKey{pub}}
	r, _ := openTrace(t, file)
	var copied bytes.Buffer
	if _, err := trace.Redact(&copied, r, trace.RedactOptions{Withhold: func(i uint64, _ *trace.Event) bool { return i == 7 }}); err != nil {
		t.Fatal(err)
	}
	redacted, rep := openTrace(t, copied.Bytes())
	v, err := Verify(redacted, rep, [][]byte{b}, policy)
	if err != nil || len(v.Notes) == 0 {
		t.Errorf("on the redacted copy: %+v, %v", v, err)
	}
	st, err := NewRun(openTrace(t, file))
	if err != nil {
		t.Fatal(err)
	}
	st.Run.Checkpoints[9].State = "00"
	_, err = Verify(redacted, rep, [][]byte{signStatement(t, st, signer)}, policy)
	failsAt(t, err, CheckMatch)
}

// A small trace can decompress to a statement without end: it gets none.
func TestATraceWithMoreOutputsThanAStatementHoldsIsRefused(t *testing.T) {
	var events []trace.Event
	path := append(bytes.Repeat([]byte("a"), 1<<20), "\x00sha256:00"...)
	for i := range maxStatement>>20 + 1 {
		events = append(events, trace.Event{Kind: trace.KindFile, Position: uint64(i), Time: uint64(i), Data: path})
	}
	r, rep := openTrace(t, eventsTrace(t, events))
	if _, err := NewRun(r, rep); err == nil {
		t.Error("it gets a statement")
	}
	if _, err := Prove(r, 0, uint64(len(events)), ProofOptions{Payloads: true}); err != nil {
		t.Error("events of it cannot be proved: ", err)
	}
}
