package trace

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// limited records events until the limit ends it, flushing whenever flush says so, and returns the file.
func limited(t *rapid.T, h *Header, opts Options, events []Event, flush func() bool) (file []byte, taken int, root []byte) {
	var b bytes.Buffer
	w, err := NewWriter(&b, h, opts)
	if err != nil {
		t.Fatal(err)
	}
	for i := range events {
		if flush() {
			w.flushInTime()
		}
		if err = w.Append(&events[i]); err != nil {
			break
		}
		taken++
	}
	if err != nil && !errors.Is(err, ErrSizeLimit) {
		t.Fatal(err)
	}
	last := events[max(taken, 1)-1]
	if err := w.Append(&Event{Kind: KindEnd, Position: last.Position, Time: last.Time, Data: []byte("end")}); err != nil {
		t.Fatalf("the end does not fit: %v", err)
	}
	sum, err := w.Close(StatusComplete, nil)
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), taken, sum.Root
}

// TestASizeLimitEndsEveryRecordingAtTheSameEvent: whenever chunks are flushed, and whatever the host section says.
func TestASizeLimitEndsEveryRecordingAtTheSameEvent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := testHeader()
		events := bootEvents(rapid.IntRange(2000, 30000).Draw(t, "events"))
		if rapid.Bool().Draw(t, "large payloads") {
			for i := range events {
				if i%100 == 0 {
					events[i].Kind, events[i].Data = KindStdin, incompressible(3000+i)
				}
			}
		}
		limit := int64(len(mustMarshal(t, h))) + 2*closeReserve + int64(rapid.IntRange(0, 1<<20).Draw(t, "room"))
		opts := func(host string) Options {
			return Options{MaxSize: limit, FlushInterval: -1, ChunkEvents: 1000, Host: []Setting{{"host", host}}}
		}
		plain, n, root := limited(t, h, opts("a"), events, func() bool { return false })
		every := rapid.IntRange(1, 500).Draw(t, "flush every")
		calls := 0
		flushed, m, other := limited(t, h, opts("another host"), events, func() bool { calls++; return calls%every == 0 })
		if n != m || !bytes.Equal(root, other) {
			t.Fatalf("%d events, root %x; flushed %d events, root %x", n, root, m, other)
		}
		for _, file := range [][]byte{plain, flushed} {
			if int64(len(file)) > limit {
				t.Fatalf("%d bytes are over the limit of %d", len(file), limit)
			}
			rep, err := Verify(bytes.NewReader(file), int64(len(file)), nil)
			if err != nil || !rep.OK() {
				t.Fatal(err, rep.Err())
			}
		}
	})
}

// incompressible returns n bytes that no compressor makes fewer.
func incompressible(n int) []byte {
	p := make([]byte, n)
	x := uint64(n)
	for i := range p {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		p[i] = byte(x >> 32)
	}
	return p
}

func mustMarshal(t *rapid.T, h *Header) []byte {
	p, err := h.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestALimitedRecorderStillWritesInTime(t *testing.T) {
	var b bytes.Buffer
	w, err := NewWriter(&b, testHeader(), Options{MaxSize: 1 << 20, FlushInterval: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abandon()
	events := bootEvents(9000)
	for i := range events {
		if i%1000 == 0 {
			w.flushInTime()
		}
		if err := w.Append(&events[i]); err != nil {
			t.Fatal(err)
		}
	}
	for range 1000 { // the worker writes by itself
		if w.queued.Load() == 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if n := w.sink.tree.count; n < 6000 {
		t.Errorf("with a flush every 1000 events, %d of %d are written", n, len(events))
	}
}
