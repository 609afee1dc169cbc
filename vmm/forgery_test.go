package vmm_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/detvm/detvm/trace"
	"github.com/detvm/detvm/vmm"
)

// forgeries are the ways to change one event of a trace. Each reports whether the event had what it changes.
var forgeries = []struct {
	name string
	edit func(e *trace.Event) bool
}{
	{"kind", func(e *trace.Event) bool {
		if e.Kind != trace.KindIO {
			return false
		}
		e.Kind = trace.KindMMIO
		return true
	}},
	{"position", func(e *trace.Event) bool { e.Position++; return true }},
	{"time", func(e *trace.Event) bool { e.Time++; return true }},
	{"pc", func(e *trace.Event) bool { e.PC ^= 1; return e.PC > 1 }},
	{"address", func(e *trace.Event) bool { e.Addr ^= 1; return e.Addr > 1 }},
	{"value", func(e *trace.Event) bool { e.Value ^= 1 << 20; return true }},
	{"direction", func(e *trace.Event) bool { e.Write = !e.Write; return e.Size != 0 }},
	{"process", func(e *trace.Event) bool { e.PID++; return true }},
	{"program", func(e *trace.Event) bool { e.Task += "x"; return len(e.Task) > 1 }},
	{"first payload byte", func(e *trace.Event) bool { return flip(e, 0) }},
	{"last payload byte", func(e *trace.Event) bool { return flip(e, len(e.Data)-1) }},
	{"a longer payload", func(e *trace.Event) bool { e.Data = append(e.Data, 0); return len(e.Data) > 1 }},
}

func flip(e *trace.Event, i int) bool {
	if len(e.Data) == 0 {
		return false
	}
	e.Data[i] ^= 1
	return true
}

// forge copies a trace with one event changed, and all digests computed anew, as somebody with this package can. It returns nil for an
// event that no trace may hold.
func forge(t *testing.T, r *trace.Reader, index uint64, edit func(*trace.Event) bool) *trace.Reader {
	t.Helper()
	var file bytes.Buffer
	w, err := trace.NewWriter(&file, r.Header(), trace.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abandon()
	for i, e := range r.All(&err) {
		if i == index {
			c := e.Clone()
			if e = &c; !edit(e) {
				return nil
			}
		}
		if w.Append(e) != nil {
			return nil // positions must not decrease, for one
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	footer, _ := r.Footer()
	if _, err := w.Close(footer.Status, nil); err != nil {
		t.Fatal(err)
	}
	forged, err := trace.Open(bytes.NewReader(file.Bytes()), int64(file.Len()))
	if err != nil {
		t.Fatal(err)
	}
	if report, err := forged.Verify(nil); err != nil || !report.OK() {
		t.Fatalf("the forged trace does not verify: %+v, %v", report, err)
	}
	return forged
}

// A trace that is whole but says, of one event, something else than what happened, is never identical to its replay.
func TestNoForgedEventReplaysAsIdentical(t *testing.T) {
	c := builtin("sh", "-c", "cat; date; head -c 8 /dev/urandom | hexdump; sleep 1; echo end >&2")
	c.Stdin = bytes.NewReader([]byte("one line of input\n"))
	c.CheckpointEvery = 2_000_000
	c.SnapshotDir = t.TempDir()
	r, _ := openRecorded(t, c)
	replay := func(r *trace.Reader) *vmm.ReplayResult {
		result, err := vmm.Replay(context.Background(), r, vmm.ReplayConfig{Kernel: c.Kernel.Image, Initramfs: c.Initramfs, SnapshotDir: c.SnapshotDir})
		if err != nil {
			return &vmm.ReplayResult{} // refused
		}
		return result
	}
	if result := replay(r); !result.Identical || !result.Complete {
		t.Fatalf("the trace itself does not replay: %+v", result)
	}
	byKind := map[trace.Kind][]uint64{}
	var err error
	for i, e := range r.All(&err) {
		byKind[e.Kind] = append(byKind[e.Kind], i)
	}
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	forged := map[string]int{}
	for _, kind := range trace.Kinds() {
		indexes := byKind[kind]
		if len(indexes) == 0 {
			continue
		}
		for _, f := range forgeries {
			index := indexes[random.IntN(len(indexes))]
			fake := forge(t, r, index, f.edit)
			if fake == nil {
				continue
			}
			forged[f.name]++
			t.Run(fmt.Sprintf("%s of %v %d", f.name, kind, index), func(t *testing.T) {
				result := replay(fake)
				if result.Identical {
					t.Error("it replays as identical")
				}
				if d := result.Divergence; d != nil && d.Index < index {
					t.Errorf("found at event %d, before the change", d.Index)
				}
			})
		}
	}
	for _, f := range forgeries {
		if forged[f.name] == 0 {
			t.Errorf("%s was never forged", f.name)
		}
	}
}
