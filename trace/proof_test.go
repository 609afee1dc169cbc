package trace

import (
	"bytes"
	"errors"
	"testing"

	"pgregory.net/rapid"
)

func TestEveryEventHasAProofAndNothingElseHas(t *testing.T) {
	for _, alg := range []Hash{SHA256, SHA512, BLAKE3} {
		h := testHeader()
		h.Hash = alg
		events := smallEvents()
		r := open(t, smallTrace(t, h, events))
		parts, ok := r.RootParts()
		if !ok {
			t.Fatal("no root")
		}
		for i := range events {
			path, err := r.Prove(uint64(i))
			if err != nil {
				t.Fatal(err)
			}
			leaf := h.Leaf(&events[i])
			if err := parts.VerifyInclusion(uint64(i), leaf, path); err != nil {
				t.Fatal(err)
			}
			for j := range events {
				if j != i && parts.VerifyInclusion(uint64(j), leaf, path) == nil {
					t.Errorf("%s: the proof of event %d is accepted for event %d", alg, i, j)
				}
				if other := h.Leaf(&events[j]); j != i && parts.VerifyInclusion(uint64(i), other, path) == nil {
					t.Errorf("%s: the proof of event %d is accepted for the content of event %d", alg, i, j)
				}
			}
		}
		if _, err := r.Prove(uint64(len(events))); err == nil {
			t.Error("an event that does not exist has a proof")
		}
	}
}

func TestNoProofForAnEventThatIsNotInTheTrace(t *testing.T) {
	h := testHeader()
	events := bootEvents(500)
	r := open(t, record(t, h, Options{ChunkEvents: 50}, events))
	parts, _ := r.RootParts()
	rapid.Check(t, func(t *rapid.T) {
		i := rapid.Uint64Range(0, 499).Draw(t, "event")
		path, err := r.Prove(i)
		if err != nil {
			t.Fatal(err)
		}
		e := genEvent(t)
		if bytes.Equal(h.Leaf(&e), h.Leaf(&events[i])) {
			t.Skip("the same event")
		}
		if parts.VerifyInclusion(i, h.Leaf(&e), path) == nil {
			t.Fatal("a foreign event was accepted")
		}
		if len(path) > 0 {
			n := rapid.IntRange(0, len(path)-1).Draw(t, "hash")
			path[n] = cloneBytes(path[n])
			path[n][rapid.IntRange(0, 31).Draw(t, "byte")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
			if parts.VerifyInclusion(i, h.Leaf(&events[i]), path) == nil {
				t.Fatal("a changed proof was accepted")
			}
		}
	})
}

func TestRangeProofs(t *testing.T) {
	h := testHeader()
	events := bootEvents(37)
	r := open(t, record(t, h, Options{ChunkEvents: 8}, events))
	parts, _ := r.RootParts()
	var leaves [][]byte
	for i := range events {
		leaves = append(leaves, h.Leaf(&events[i]))
	}
	for from := range events {
		for to := from + 1; to <= len(events); to++ {
			p, err := r.ProveRange(uint64(from), uint64(to))
			if err != nil {
				t.Fatal(err)
			}
			if err := parts.VerifyRange(uint64(from), leaves[from:to], p); err != nil {
				t.Fatal(err)
			}
			if to < len(events) && parts.VerifyRange(uint64(from+1), leaves[from:to], p) == nil {
				t.Fatalf("proof of [%d,%d) accepted one event later", from, to)
			}
			if to-from > 1 && parts.VerifyRange(uint64(from), leaves[from:to-1], p) == nil {
				t.Fatalf("proof of [%d,%d) accepted without the last event", from, to)
			}
		}
	}
}

func redactableTrace(t *testing.T, redactable bool) ([]Event, *Reader) {
	h := testHeader()
	h.Redactable = redactable
	events := smallEvents()
	return events, open(t, smallTrace(t, h, events))
}

func stdinOnly(_ uint64, e *Event) bool { return e.Kind == KindStdin }

func TestRedactedTraceHasTheSameRootAndNotThePayload(t *testing.T) {
	events, r := redactableTrace(t, true)
	f, _ := r.Footer()
	var out bytes.Buffer
	sum, err := Redact(&out, r, RedactOptions{Withhold: stdinOnly})
	if err != nil {
		t.Fatal(err)
	}
	if sum.Withheld != 1 || !bytes.Equal(sum.Root, f.Root) {
		t.Fatalf("%+v", sum)
	}
	rep := verify(t, out.Bytes())
	if !rep.OK() || !bytes.Equal(rep.Root, f.Root) || rep.Withheld != 1 {
		t.Fatal(rep.Err())
	}
	if g, _ := open(t, out.Bytes()).Footer(); !bytes.Equal(g.HostDigest, f.HostDigest) || !bytes.Equal(g.BlobDigest, f.BlobDigest) {
		t.Error("redaction changed the host section or the stored inputs")
	}
	got := readAll(t, open(t, out.Bytes()))
	for i := range got {
		if events[i].Kind == KindStdin {
			if !got[i].Withheld || len(got[i].Data) > 0 || got[i].Salt != nil {
				t.Errorf("event %d: %+v", i, got[i])
			}
			if bytes.Equal(got[i].Commitment, r.header.Commit(nil, events[i].Data)) {
				t.Error("the commitment is not salted")
			}
		} else if !got[i].Equal(&events[i]) {
			t.Errorf("event %d changed", i)
		}
	}
	var again bytes.Buffer
	if sum, err := Redact(&again, open(t, out.Bytes()), RedactOptions{}); err != nil || sum.Before != 1 || !bytes.Equal(sum.Root, f.Root) {
		t.Errorf("redacting again: %+v, %v", sum, err)
	}
}

func TestRedactionCanDropStoredInputs(t *testing.T) {
	_, r := redactableTrace(t, true)
	var out bytes.Buffer
	_, err := Redact(&out, r, RedactOptions{DropInput: func(_ int, in Input) bool { return in.Role == "image" }})
	if err != nil {
		t.Fatal(err)
	}
	c := open(t, out.Bytes())
	if _, err := c.OpenInput(1); !errors.Is(err, ErrNotStored) {
		t.Error(err)
	}
	if _, err := c.OpenInput(0); err != nil {
		t.Error(err)
	}
	if rep := verify(t, out.Bytes()); !rep.OK() {
		t.Error(rep.Err())
	}
}

func TestRedactingAnUnsaltedTraceNeedsConsent(t *testing.T) {
	_, r := redactableTrace(t, false)
	var out bytes.Buffer
	if _, err := Redact(&out, r, RedactOptions{Withhold: stdinOnly}); !errors.Is(err, ErrUnsalted) {
		t.Fatal(err)
	}
	out.Reset()
	if _, err := Redact(&out, r, RedactOptions{Withhold: stdinOnly, AllowUnsalted: true}); err != nil {
		t.Fatal(err)
	}
	if rep := verify(t, out.Bytes()); !rep.OK() {
		t.Fatal(rep.Err())
	}
}

// A withheld payload cannot be put back as something else: the event's leaf commits to it.
func TestAWithheldPayloadCannotBeSwapped(t *testing.T) {
	events, r := redactableTrace(t, true)
	parts, _ := r.RootParts()
	for i := range events {
		if events[i].Kind != KindStdin {
			continue
		}
		path, err := r.Prove(uint64(i))
		if err != nil {
			t.Fatal(err)
		}
		e, err := r.Event(uint64(i))
		if err != nil {
			t.Fatal(err)
		}
		if err := parts.VerifyInclusion(uint64(i), r.header.Leaf(&e), path); err != nil {
			t.Fatal(err)
		}
		e.Data = []byte("Secret\n")
		if parts.VerifyInclusion(uint64(i), r.header.Leaf(&e), path) == nil {
			t.Fatal("another payload was accepted")
		}
	}
}
