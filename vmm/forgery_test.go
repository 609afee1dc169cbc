package vmm_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
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

// forge copies a trace with other events or another header, and all digests computed anew, as somebody with this package can. It returns nil for what
// no trace may hold.
func forge(t *testing.T, r *trace.Reader, h *trace.Header, edit func(i uint64, e *trace.Event) []trace.Event) *trace.Reader {
	t.Helper()
	var file bytes.Buffer
	w, err := trace.NewWriter(&file, h, trace.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abandon()
	for i, e := range r.All(&err) {
		for _, e := range edit(i, e) {
			if w.Append(&e) != nil {
				return nil // positions must not decrease, for one
			}
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

// forgeryVictim records the run whose trace is forged, and returns how to replay it; a replay that is refused gives a zero result.
func forgeryVictim(t *testing.T) (*trace.Reader, func(*trace.Reader) *vmm.ReplayResult) {
	t.Helper()
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
	return r, replay
}

// headerForgeries change what a header says about the run.
var headerForgeries = map[string]func(h *trace.Header){
	"seed":        func(h *trace.Header) { h.Seed = []byte("lie") },
	"seed absent": func(h *trace.Header) { h.Seed = nil },
	"devices":     func(h *trace.Header) { h.Devices = append([]string{"lie"}, h.Devices[1:]...) },
	"a setting that no machine has": func(h *trace.Header) {
		h.Config = append(slices.Clone(h.Config), trace.Setting{Key: "zz-network", Value: "off, promise"})
	},
	"a setting":      func(h *trace.Header) { h.Config = setting(h.Config, "cwd", "/tmp") },
	"memory in hex":  func(h *trace.Header) { h.Config = setting(h.Config, "memory", "0x10000000") },
	"stdin":          func(h *trace.Header) { h.Config = setting(h.Config, "stdin", "maybe") },
	"kernel layout":  func(h *trace.Header) { h.Config = setting(h.Config, "kernel-layout", "0x0 0 0") },
	"one more input": func(h *trace.Header) { h.Inputs = append([]trace.Input{h.Inputs[0]}, h.Inputs...) },
	"input's size":   func(h *trace.Header) { h.Inputs = slices.Clone(h.Inputs); h.Inputs[0].Size++ },
	"input's name":   func(h *trace.Header) { h.Inputs = slices.Clone(h.Inputs); h.Inputs[0].Name = "official" },
	"start time":     func(h *trace.Header) { h.StartTime++ },
	"command":        func(h *trace.Header) { h.Command = append(slices.Clone(h.Command), "more") },
	"environment":    func(h *trace.Header) { h.Env = []string{"A=b"} },
	"time scale":     func(h *trace.Header) { h.ScaleNum++ },
}

func setting(list []trace.Setting, key, value string) []trace.Setting {
	list = slices.Clone(list)
	for i := range list {
		if list[i].Key == key {
			list[i].Value = value
		}
	}
	return list
}

// A trace whose header says anything else than what a recording of this run would say is never identical to its replay.
func TestNoForgedHeaderReplaysAsIdentical(t *testing.T) {
	r, replay := forgeryVictim(t)
	for name, edit := range headerForgeries {
		h := *r.Header()
		edit(&h)
		if len(h.Differences(r.Header())) == 0 {
			t.Errorf("%s: nothing was forged", name)
		}
		fake := forge(t, r, &h, func(_ uint64, e *trace.Event) []trace.Event { return []trace.Event{*e} })
		if replay(fake).Identical {
			t.Errorf("%s: it replays as identical", name)
		}
	}
}

// A trace whose events were dropped, doubled or swapped is never identical to its replay.
func TestNoTraceWithOtherEventsReplaysAsIdentical(t *testing.T) {
	r, replay := forgeryVictim(t)
	random := rand.New(rand.NewPCG(3, 4))
	for name, edit := range map[string]func(e, before *trace.Event) []trace.Event{
		"dropped": func(*trace.Event, *trace.Event) []trace.Event { return nil },
		"doubled": func(e, _ *trace.Event) []trace.Event { return []trace.Event{*e, *e} },
		"swapped": func(e, before *trace.Event) []trace.Event {
			a, b := *e, *before
			a.Position, a.Time, b.Position, b.Time = b.Position, b.Time, a.Position, a.Time
			return []trace.Event{a, b}
		},
	} {
		for _, index := range []uint64{1, 2, random.Uint64N(r.NumEvents()-3) + 1, random.Uint64N(r.NumEvents()-3) + 1, r.NumEvents() - 2, r.NumEvents() - 1} {
			before, err := r.Event(index - 1)
			if err != nil {
				t.Fatal(err)
			}
			same := false
			fake := forge(t, r, r.Header(), func(i uint64, e *trace.Event) []trace.Event {
				if name == "swapped" && i == index-1 {
					return nil
				}
				if i != index {
					return []trace.Event{*e}
				}
				a, b := *e, before
				a.Position, a.Time = b.Position, b.Time
				same = name == "swapped" && a.Equal(&b)
				return edit(e, &before)
			})
			if fake != nil && !same && replay(fake).Identical {
				t.Errorf("event %d %s: it replays as identical", index, name)
			}
		}
	}
}

// A trace that is whole but says, of one event, something else than what happened, is never identical to its replay.
func TestNoForgedEventReplaysAsIdentical(t *testing.T) {
	r, replay := forgeryVictim(t)
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
			index, applies := indexes[random.IntN(len(indexes))], true
			fake := forge(t, r, r.Header(), func(i uint64, e *trace.Event) []trace.Event {
				c := e.Clone()
				if i == index {
					applies = f.edit(&c)
				}
				return []trace.Event{c}
			})
			if fake == nil || !applies {
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
