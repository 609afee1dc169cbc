package trace

import (
	"bytes"
	"testing"
)

func verify(t testing.TB, file []byte) *Report {
	t.Helper()
	rep, err := Verify(bytes.NewReader(file), int64(len(file)), nil)
	if err != nil {
		t.Fatal(err)
	}
	return rep
}

func TestRoundTrip(t *testing.T) {
	events := bootEvents(30000)
	file := record(t, testHeader(), Options{}, events)
	t.Logf("%d bytes for %d events", len(file), len(events))
	r := open(t, file)
	if cut, err := r.Truncated(); cut {
		t.Fatal(err)
	}
	got := readAll(t, r)
	if len(got) != len(events) {
		t.Fatalf("%d events read, %d written", len(got), len(events))
	}
	for i := range got {
		if !got[i].Equal(&events[i]) {
			t.Fatalf("event %d: read %+v, written %+v", i, got[i], events[i])
		}
	}
	if rep := verify(t, file); !rep.OK() || rep.Events != 30000 {
		t.Fatal(rep.Err())
	}
}

func BenchmarkVerify(b *testing.B) {
	file := record(b, testHeader(), Options{}, bootEvents(100000))
	for b.Loop() {
		if rep := verify(b, file); !rep.OK() {
			b.Fatal(rep.Err())
		}
	}
}
