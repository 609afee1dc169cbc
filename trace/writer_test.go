package trace

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestTheRootDependsOnTheRunOnly(t *testing.T) {
	events := bootEvents(3000)
	var roots []string
	for _, opts := range []Options{{}, {ChunkEvents: 7}, {ChunkEvents: 1000, Host: []Setting{{"cpu", "other"}}}, {FlushInterval: time.Nanosecond}} {
		f, ok := open(t, record(t, testHeader(), opts, events)).Footer()
		if !ok {
			t.Fatal("no footer")
		}
		roots = append(roots, string(f.Root))
	}
	for i := range roots {
		if roots[i] != roots[0] {
			t.Errorf("root %d differs", i)
		}
	}
	h := testHeader()
	h.Redactable = true
	a, _ := open(t, record(t, h, Options{}, events)).Footer()
	b, _ := open(t, record(t, h, Options{}, events)).Footer()
	if bytes.Equal(a.Root, b.Root) {
		t.Error("two redactable traces have the same salts")
	}
}

func TestRandomEventsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := testHeader()
		h.Hash = rapid.SampledFrom([]Hash{SHA256, SHA512, BLAKE3}).Draw(t, "hash")
		h.Redactable = rapid.Bool().Draw(t, "redactable")
		h.NSPerCount = rapid.Uint64().Draw(t, "ns")
		h.ScaleNum, h.ScaleDen = rapid.Uint64().Draw(t, "num"), rapid.Uint64Min(1).Draw(t, "den")
		events := rapid.SliceOfN(rapid.Custom(genEvent), 0, 60).Draw(t, "events")
		for i := range events { // times and positions must not decrease
			if i > 0 {
				events[i].Position = max(events[i].Position, events[i-1].Position)
				events[i].Time = max(events[i].Time, events[i-1].Time)
			}
		}
		var b bytes.Buffer
		w, err := NewWriter(&b, h, Options{ChunkEvents: rapid.IntRange(1, 30).Draw(t, "chunk"), FlushInterval: -1})
		if err != nil {
			t.Fatal(err)
		}
		if err := w.AppendAll(events); err != nil {
			t.Fatal(err)
		}
		sum, err := w.Close(StatusAborted, nil)
		if err != nil {
			t.Fatal(err)
		}
		rep, err := Verify(bytes.NewReader(b.Bytes()), int64(b.Len()), nil)
		if err != nil || !rep.OK() || !bytes.Equal(rep.Root, sum.Root) {
			t.Fatal(err, rep.Err())
		}
		r, err := Open(bytes.NewReader(b.Bytes()), int64(b.Len()))
		if err != nil {
			t.Fatal(err)
		}
		var readErr error
		n := 0
		for i, e := range r.All(&readErr) {
			if !e.Equal(&events[i]) {
				t.Fatalf("event %d: %+v, want %+v", i, e, events[i])
			}
			n++
		}
		if readErr != nil || n != len(events) {
			t.Fatal(readErr, n)
		}
	})
}

func TestSizeLimitEndsWithACompleteFile(t *testing.T) {
	events := bootEvents(60000)
	for _, limit := range []int64{132 << 10, 150 << 10, 180 << 10, 200_001} {
		var b bytes.Buffer
		w, err := NewWriter(&b, testHeader(), Options{MaxSize: limit})
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for i := range events {
			if err = w.Append(&events[i]); err != nil {
				break
			}
			n++
		}
		if !errors.Is(err, ErrSizeLimit) {
			t.Fatalf("limit %d: after %d events: %v", limit, n, err)
		}
		last := events[n-1]
		if err := w.Append(&Event{Kind: KindEnd, Position: last.Position, Time: last.Time, Data: []byte("x")}); err != nil {
			t.Fatalf("the end does not fit: %v", err)
		}
		if err := w.Append(&events[n]); !errors.Is(err, ErrSizeLimit) {
			t.Fatalf("another event was taken: %v", err)
		}
		sum, err := w.Close(StatusComplete, []Setting{{"end", strings.Repeat("x", 1000)}})
		if err != nil {
			t.Fatal(err)
		}
		if int64(b.Len()) > limit || sum.Status != StatusSizeLimit || sum.Events != uint64(n+1) {
			t.Errorf("limit %d: %d bytes, %+v", limit, b.Len(), sum)
		}
		if rep := verify(t, b.Bytes()); !rep.OK() {
			t.Error(rep.Err())
		}
		t.Logf("limit %d: %d bytes, %d events", limit, b.Len(), n)
	}
	if _, err := NewWriter(io.Discard, testHeader(), Options{MaxSize: 1000}); err == nil {
		t.Error("a limit without room is accepted")
	}
}

func TestAbandonedTraceIsReadable(t *testing.T) {
	events := bootEvents(20000)
	var b bytes.Buffer
	w, err := NewWriter(&b, testHeader(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.AppendAll(events); err != nil {
		t.Fatal(err)
	}
	w.Abandon()
	w.Abandon()
	if err := w.Append(&events[0]); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	r := open(t, b.Bytes())
	if cut, _ := r.Truncated(); !cut || r.NumEvents() != 20000 {
		t.Fatal(cut, r.NumEvents())
	}
}

func TestEventsReachTheFileInTime(t *testing.T) {
	pr, pw := io.Pipe()
	defer pr.Close()
	got := make(chan struct{})
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, err := pr.Read(buf)
			if err != nil {
				return
			}
			if n > 0 && buf[0] == byte(recordChunk) {
				close(got)
				_, _ = io.Copy(io.Discard, pr)
				return
			}
		}
	}()
	w, err := NewWriter(pw, testHeader(), Options{FlushInterval: 5 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abandon()
	if err := w.Append(&smallEvents()[0]); err != nil {
		t.Fatal(err)
	}
	select {
	case <-got:
	case <-time.After(10 * time.Second):
		t.Fatal("the event was not written")
	}
}

func TestEventsThatAreRefused(t *testing.T) {
	w, err := NewWriter(io.Discard, testHeader(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abandon()
	if err := w.Append(&Event{Kind: KindIO, Position: 10, Time: 10}); err != nil {
		t.Fatal(err)
	}
	for name, e := range map[string]Event{
		"unknown kind":        {Kind: 99, Position: 10, Time: 10},
		"position 9":          {Kind: KindIO, Position: 9, Time: 10},
		"time 9":              {Kind: KindIO, Position: 10, Time: 9},
		"over the limit":      {Kind: KindIO, Position: 10, Time: 10, Task: strings.Repeat("x", 256)},
		"salt does not fit":   {Kind: KindStdin, Position: 10, Time: 10, Data: []byte("x"), Salt: make([]byte, SaltSize)},
		"commitment does not": {Kind: KindStdin, Position: 10, Time: 10, Withheld: true},
	} {
		if err := w.Append(&e); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: error is %v", name, err)
		}
	}
}

type failingWriter struct{ left int }

func (f *failingWriter) Write(p []byte) (int, error) {
	if len(p) > f.left {
		return 0, errors.New("disk full")
	}
	f.left -= len(p)
	return len(p), nil
}

func TestWriteErrorsAreReported(t *testing.T) {
	w, err := NewWriter(&failingWriter{2000}, testHeader(), Options{ChunkEvents: 100})
	if err != nil {
		t.Fatal(err)
	}
	events := bootEvents(5000)
	err = w.AppendAll(events)
	if err == nil {
		_, err = w.Close(StatusComplete, nil)
	}
	if err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Fatal(err)
	}
	w.Abandon()
}

func TestWritersLeaveNoGoroutines(t *testing.T) {
	before := runtime.NumGoroutine()
	for range 20 {
		record(t, testHeader(), Options{}, smallEvents())
	}
	for range 100 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d goroutines before, %d after", before, runtime.NumGoroutine())
}

func TestEncodedEventsAreAPrefix(t *testing.T) {
	events := bootEvents(20000)
	buf, err := EncodeEvents(events[:12345])
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes", len(buf))
	var b bytes.Buffer
	w, err := NewWriter(&b, testHeader(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.AppendEncoded(buf); err != nil {
		t.Fatal(err)
	}
	if err := w.AppendAll(events[12345:]); err != nil {
		t.Fatal(err)
	}
	sum, err := w.Close(StatusComplete, nil)
	if err != nil {
		t.Fatal(err)
	}
	f, _ := open(t, record(t, testHeader(), Options{}, events)).Footer()
	if !bytes.Equal(sum.Root, f.Root) {
		t.Error("a prefix from a buffer gives another root")
	}
}

func TestSeeking(t *testing.T) {
	events := bootEvents(1000)
	r := open(t, record(t, testHeader(), Options{ChunkEvents: 64}, events))
	for _, i := range []int{0, 1, 63, 64, 65, 500, 999} {
		want := i
		for want > 0 && events[want-1].Position == events[i].Position {
			want--
		}
		if got, err := r.SeekPosition(events[i].Position); err != nil || got != uint64(want) {
			t.Errorf("position of event %d: %d, %v; want %d", i, got, err, want)
		}
		want = i
		for want > 0 && events[want-1].Time == events[i].Time {
			want--
		}
		if got, err := r.SeekTime(events[i].Time); err != nil || got != uint64(want) {
			t.Errorf("time of event %d: %d, %v; want %d", i, got, err, want)
		}
		it := r.Events(uint64(i))
		if !it.Next() || it.Index() != uint64(i) || !it.Event().Equal(&events[i]) {
			t.Errorf("iterating from %d gives %d %+v", i, it.Index(), it.Event())
		}
		it.Close()
	}
	if n, err := r.SeekPosition(^uint64(0)); err != nil || n != 1000 {
		t.Error(n, err)
	}
	if it := r.Events(1000); it.Next() || it.Err() != nil {
		t.Error("there is an event after the last")
	}
}

func TestStoredInputs(t *testing.T) {
	file := smallTrace(t, testHeader(), smallEvents())
	if rep := verify(t, file); fmt.Sprint(rep.PartialInputs) != "[1]" {
		t.Errorf("inputs stored in part: %v", rep.PartialInputs)
	}
	r := open(t, file)
	in, err := r.OpenInput(0)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	got, err := io.ReadAll(io.NewSectionReader(in, 0, in.Size()))
	if err != nil || !bytes.Equal(got, testKernel()) {
		t.Errorf("kernel: %d bytes, %v", len(got), err)
	}
	disk, err := r.OpenInput(1)
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	buf := make([]byte, 10)
	if _, err := disk.ReadAt(buf, 4096+5); err != nil || string(buf) != "blockblock" {
		t.Errorf("%q, %v", buf, err)
	}
	if _, err := disk.ReadAt(buf, 4590); !errors.Is(err, ErrNotStored) {
		t.Error(err)
	}
	if x, err := r.Stored(1); err != nil || fmt.Sprint(x) != "[{4096 500}]" {
		t.Error(x, err)
	}
	// A kernel other than the header's is found, even though its blob is consistent.
	var b bytes.Buffer
	w, err := NewWriter(&b, testHeader(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	evil := testKernel()
	evil[1]++
	if err := w.AddBlob(0, 0, evil); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Close(StatusComplete, nil); err != nil {
		t.Fatal(err)
	}
	if rep := verify(t, b.Bytes()); rep.OK() || rep.Findings[0].Code != CodeBlob {
		t.Error(rep.Findings)
	}
}
