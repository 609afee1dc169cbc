package vmm_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/detvm/detvm/trace"
	"github.com/detvm/detvm/vmm"
)

// forgeable is a recorded run whose trace the tests forge.
type forgeable struct {
	t      *testing.T
	c      vmm.Config
	header trace.Header
	events []trace.Event
	status trace.Status
}

func newForgeable(t *testing.T, c vmm.Config, stdin string) *forgeable {
	t.Helper()
	c.SnapshotDir = t.TempDir()
	if stdin != "" {
		c.Stdin = bytes.NewReader([]byte(stdin))
	}
	r, _ := openRecorded(t, c)
	f := &forgeable{t: t, c: c, header: *r.Header()}
	var err error
	for _, e := range r.All(&err) {
		f.events = append(f.events, e.Clone())
	}
	if err != nil {
		t.Fatal(err)
	}
	footer, _ := r.Footer()
	f.status = footer.Status
	if result := f.replay(f.write(f.header, f.events, f.status)); !result.Identical || !result.Complete {
		t.Fatalf("the trace itself does not replay: %+v", result)
	}
	return f
}

// write makes a whole trace, with all digests computed anew, as somebody with package trace can. It returns nil for what no trace may hold.
func (f *forgeable) write(h trace.Header, events []trace.Event, status trace.Status) *trace.Reader {
	f.t.Helper()
	var file bytes.Buffer
	w, err := trace.NewWriter(&file, &h, trace.Options{})
	if err != nil {
		return nil
	}
	defer w.Abandon()
	if w.AppendAll(events) != nil {
		return nil
	}
	if _, err := w.Close(status, nil); err != nil {
		return nil
	}
	forged, err := trace.Open(bytes.NewReader(file.Bytes()), int64(file.Len()))
	if err != nil {
		f.t.Fatal(err)
	}
	if report, err := forged.Verify(nil); err != nil || !report.OK() {
		f.t.Fatalf("the forged trace does not verify: %+v, %v", report, err)
	}
	return forged
}

func (f *forgeable) replay(r *trace.Reader) *vmm.ReplayResult {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 6*time.Second)
	defer cancel()
	result, err := vmm.Replay(ctx, r, vmm.ReplayConfig{Kernel: f.c.Kernel.Image, Initramfs: f.c.Initramfs, SnapshotDir: f.c.SnapshotDir})
	if ctx.Err() != nil {
		f.t.Errorf("the replay hangs: %+v, %v", result, err)
	}
	if err != nil {
		return &vmm.ReplayResult{} // refused
	}
	return result
}

// mustDiffer replays a forged trace, unless none can be written of these parts. name says what was forged.
func (f *forgeable) mustDiffer(name string, h trace.Header, events []trace.Event, status trace.Status) {
	f.t.Helper()
	r := f.write(h, events, status)
	if r == nil {
		return
	}
	if result := f.replay(r); result.Identical {
		f.t.Errorf("%s: it replays as identical (complete: %v), %d events", name, result.Complete, result.Events)
	}
}

// byKind lists the events of each kind.
func (f *forgeable) byKind() map[trace.Kind][]int {
	list := map[trace.Kind][]int{}
	for i, e := range f.events {
		list[e.Kind] = append(list[e.Kind], i)
	}
	return list
}

// find returns the last event of a kind.
func (f *forgeable) find(kind trace.Kind) int {
	for i := len(f.events) - 1; i >= 0; i-- {
		if f.events[i].Kind == kind {
			return i
		}
	}
	f.t.Fatalf("no %v event", kind)
	return 0
}

func set(h *trace.Header, key, value string) {
	h.Config = slices.Clone(h.Config)
	for i := range h.Config {
		if h.Config[i].Key == key {
			h.Config[i].Value = value
			return
		}
	}
	h.Config = append(h.Config, trace.Setting{Key: key, Value: value})
}

var headerForgeries = []struct {
	name string
	edit func(h *trace.Header)
}{
	{"seed bytes", func(h *trace.Header) { h.Seed = []byte{1, 2, 3, 4, 5, 6, 7, 8} }},
	{"no seed bytes", func(h *trace.Header) { h.Seed = nil }},
	{"seed setting", func(h *trace.Header) { set(h, "seed", "77") }},
	{"a device's name", func(h *trace.Header) { h.Devices = slices.Clone(h.Devices); h.Devices[1] = "network" }},
	{"no devices", func(h *trace.Header) { h.Devices = nil }},
	{"scale 0", func(h *trace.Header) { h.ScaleNum = 0 }},
	{"scale 2", func(h *trace.Header) { h.ScaleNum *= 2 }},
	{"ns per count", func(h *trace.Header) { h.NSPerCount = 2 }},
	{"clock", func(h *trace.Header) { h.Clock = "exits"; h.NSPerCount = 20000 }},
	{"start time", func(h *trace.Header) { h.StartTime++ }},
	{"command", func(h *trace.Header) { h.Command = append(slices.Clone(h.Command), "x") }},
	{"environment", func(h *trace.Header) { h.Env = append(slices.Clone(h.Env), "X=y") }},
	{"memory 0", func(h *trace.Header) { set(h, "memory", "0") }},
	{"memory spelled otherwise", func(h *trace.Header) { set(h, "memory", " 0x10000000 ") }},
	{"memory", func(h *trace.Header) { set(h, "memory", "536870912") }},
	{"checkpoint interval 0", func(h *trace.Header) { set(h, "checkpoint-every", "0") }},
	{"cwd", func(h *trace.Header) { set(h, "cwd", "/") }},
	{"user", func(h *trace.Header) { set(h, "user", "0") }},
	{"stdin", func(h *trace.Header) { set(h, "stdin", "false") }},
	{"stdin nonsense", func(h *trace.Header) { set(h, "stdin", "no idea") }},
	{"terminal", func(h *trace.Header) { set(h, "terminal", "24 80") }},
	{"kernel parameters", func(h *trace.Header) { set(h, "kernel-parameters", "quiet") }},
	{"layout", func(h *trace.Header) { set(h, "kernel-layout", "0x0 0 0") }},
	{"cpuid", func(h *trace.Header) { set(h, "cpuid", "") }},
	{"ring3", func(h *trace.Header) { set(h, "ring3", "stays") }},
	{"a setting that does not exist", func(h *trace.Header) { set(h, "network", "none") }},
	{"kernel's name", func(h *trace.Header) { h.Inputs = slices.Clone(h.Inputs); h.Inputs[0].Name = "linux-6.99" }},
	{"kernel's size", func(h *trace.Header) { h.Inputs = slices.Clone(h.Inputs); h.Inputs[0].Size = 1 }},
	{"inputs swapped", func(h *trace.Header) {
		h.Inputs = slices.Clone(h.Inputs)
		h.Inputs[0], h.Inputs[1] = h.Inputs[1], h.Inputs[0]
	}},
	{"kernel twice", func(h *trace.Header) { h.Inputs = append(slices.Clone(h.Inputs), h.Inputs[0]) }},
	{"kernel's digest", func(h *trace.Header) {
		h.Inputs = slices.Clone(h.Inputs)
		h.Inputs[0].Digest = trace.NewDigest(trace.SHA256, nil)
	}},
	{"CPU model", func(h *trace.Header) { h.CPUModel = "x" }},
	{"an official kernel beside it", func(h *trace.Header) { h.Inputs = append([]trace.Input{h.Inputs[0]}, h.Inputs...) }},
}

// A trace whose header says something else than what was run is never identical to its replay.
func TestNoForgedHeaderReplaysAsIdentical(t *testing.T) {
	f := newForgeable(t, builtin("sh", "-c", "cat; echo end"), "one line\n")
	for _, edit := range headerForgeries {
		h := f.header
		edit.edit(&h)
		f.mustDiffer(edit.name, h, f.events, f.status)
	}
	for _, s := range []trace.Status{trace.StatusAborted, trace.StatusSizeLimit} {
		f.mustDiffer("status "+fmt.Sprint(s), f.header, f.events, s)
	}
}

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

// A trace that is whole but says, of one event, something else than what happened, is never identical to its replay.
func TestNoForgedEventReplaysAsIdentical(t *testing.T) {
	c := builtin("sh", "-c", "cat; date; head -c 8 /dev/urandom | hexdump; sleep 1; echo end >&2")
	c.CheckpointEvery = 2_000_000
	f := newForgeable(t, c, "one line of input\n")
	byKind := f.byKind()
	random := rand.New(rand.NewPCG(1, 2))
	forged := map[string]int{}
	for _, kind := range trace.Kinds() {
		for _, forgery := range forgeries {
			if len(byKind[kind]) == 0 {
				continue
			}
			i := byKind[kind][random.IntN(len(byKind[kind]))]
			events := slices.Clone(f.events)
			events[i] = events[i].Clone()
			if forgery.edit(&events[i]) {
				forged[forgery.name]++
				f.mustDiffer(fmt.Sprintf("%s of %v %d", forgery.name, kind, i), f.header, events, f.status)
			}
		}
	}
	for _, forgery := range forgeries {
		if forged[forgery.name] == 0 {
			t.Errorf("%s was never forged", forgery.name)
		}
	}
}

func (f *forgeable) insert(i int, e trace.Event) []trace.Event {
	at := f.events[i]
	e.Position, e.Time, e.Task, e.PID = at.Position, at.Time, at.Task, at.PID
	return slices.Insert(slices.Clone(f.events), i+1, e)
}

// inputs that the machine does not take leave no mark on it, so nothing but the event itself can show that they are forged.
func TestNoForgedInputReplaysAsIdentical(t *testing.T) {
	f := newForgeable(t, builtin("sh", "-c", "cat; sleep 1; echo end"), "one line\n")
	start, out := f.find(trace.KindStart), f.find(trace.KindStdout)
	for name, e := range map[string]trace.Event{
		"unasked stdin": {Kind: trace.KindStdin, Value: 1, Data: []byte("yes, delete everything\n")},
		"unasked end":   {Kind: trace.KindStdin, Value: 1},
		"stdin":         {Kind: trace.KindStdin, Data: []byte("x")},
		"window size":   {Kind: trace.KindWinsize, Value: 24<<16 | 80},
		"signal 0":      {Kind: trace.KindSignal, Value: 0},
		"signal 100":    {Kind: trace.KindSignal, Value: 100},
		"signal 28":     {Kind: trace.KindSignal, Value: 28},
	} {
		f.mustDiffer(name+" before the last output", f.header, f.insert(out-1, e), f.status)
		f.mustDiffer(name+" after the last output", f.header, f.insert(out, e), f.status)
		f.mustDiffer(name+" at start", f.header, f.insert(start+1, e), f.status)
		f.mustDiffer(name+" later after start", f.header, f.insert(start+8, e), f.status)
		f.mustDiffer(name+" in the boot", f.header, f.insert(start/2, e), f.status)
		f.mustDiffer(name+" before the end", f.header, f.insert(len(f.events)-2, e), f.status)
	}
}

// cut ends the trace before event i, as if the host had ended the run there.
func (f *forgeable) cut(i int, reason vmm.Outcome, code uint64, state string) []trace.Event {
	end := trace.End{Reason: string(reason), State: trace.Digest(state)}
	p, err := end.MarshalBinary()
	if err != nil {
		f.t.Fatal(err)
	}
	at := f.events[i]
	e := trace.Event{Kind: trace.KindEnd, Value: code, Data: p, Position: at.Position, Time: at.Time, Task: at.Task, PID: at.PID}
	return append(slices.Clone(f.events[:i]), e)
}

// A trace from which the last output was taken, and that says that the host ended the run there, is not identical to its replay.
func TestNoHiddenOutputReplaysAsIdentical(t *testing.T) {
	f := newForgeable(t, builtin("sh", "-c", "cat; sleep 1; echo end"), "one line\n")
	for _, kind := range []trace.Kind{trace.KindStdout, trace.KindInterrupt, trace.KindCheckpoint} {
		i := f.find(kind)
		r := f.write(f.header, f.events, f.status)
		result, err := vmm.Replay(context.Background(), r, vmm.ReplayConfig{Kernel: f.c.Kernel.Image, Initramfs: f.c.Initramfs, SnapshotDir: f.c.SnapshotDir,
			Until: func(n uint64, _ *trace.Event) bool { return n == uint64(i) }})
		if err != nil || result.At == nil {
			t.Fatal(err, result)
		}
		for _, reason := range []vmm.Outcome{vmm.OutcomeStopped, vmm.OutcomeTraceFull} {
			f.mustDiffer(fmt.Sprintf("%v hidden behind %s", kind, reason), f.header, f.cut(i, reason, 130, "sha256:"+result.StateSHA256), trace.StatusAborted)
			f.mustDiffer(fmt.Sprintf("%v hidden behind %s with code 0", kind, reason), f.header, f.cut(i, reason, 0, "sha256:"+result.StateSHA256), trace.StatusComplete)
		}
	}
}

// A trace of which whole events were taken out, doubled, moved or made up is never identical to its replay, and never makes it hang.
func TestNoForgedOrderReplaysAsIdentical(t *testing.T) {
	f := newForgeable(t, builtin("sh", "-c", "cat; date; head -c 8 /dev/urandom | hexdump; sleep 1; echo end >&2"), "one line of input\n")
	byKind := f.byKind()
	random := rand.New(rand.NewPCG(3, 4))
	start := f.find(trace.KindStart)
	for _, kind := range trace.Kinds() {
		for n := range min(3, len(byKind[kind])) {
			i := byKind[kind][len(byKind[kind])-1-random.IntN(len(byKind[kind]))]
			if n == 0 { // one of the run
				i = byKind[kind][len(byKind[kind])-1]
			}
			name := fmt.Sprintf("%v %d ", kind, i)
			f.mustDiffer(name+"deleted", f.header, slices.Delete(slices.Clone(f.events), i, i+1), f.status)
			f.mustDiffer(name+"doubled", f.header, slices.Insert(slices.Clone(f.events), i, f.events[i]), f.status)
			f.mustDiffer(name+"last", f.header, f.events[:i], f.status)
			if i+1 < len(f.events) {
				swapped := slices.Clone(f.events)
				swapped[i], swapped[i+1] = swapped[i+1], swapped[i]
				swapped[i].Position, swapped[i+1].Position = swapped[i+1].Position, swapped[i].Position
				swapped[i].Time, swapped[i+1].Time = swapped[i+1].Time, swapped[i].Time
				f.mustDiffer(name+"swapped", f.header, swapped, f.status)
			}
			if at := start + random.IntN(len(f.events)-start); i != at {
				f.mustDiffer(fmt.Sprintf("%scopied to %d", name, at), f.header, f.insert(at, f.events[i]), f.status)
			}
		}
	}
}

// An end event that says something else is never identical.
func TestNoForgedEndReplaysAsIdentical(t *testing.T) {
	f := newForgeable(t, builtin("sh", "-c", "echo end; exit 3"), "")
	last := len(f.events) - 1
	var end trace.End
	if err := end.UnmarshalBinary(f.events[last].Data); err != nil {
		t.Fatal(err)
	}
	forge := func(name string, code uint64, edit func(*trace.End)) {
		e := end
		edit(&e)
		p, err := e.MarshalBinary()
		if err != nil {
			t.Fatal(name, err)
		}
		events := slices.Clone(f.events)
		events[last].Data, events[last].Value = p, code
		f.mustDiffer(name, f.header, events, f.status)
	}
	forge("code", 0, func(*trace.End) {})
	for _, o := range []vmm.Outcome{vmm.OutcomePoweredOff, vmm.OutcomeReset, vmm.OutcomePanicked, vmm.OutcomeDeadlock, vmm.OutcomeLimit, vmm.OutcomeTraceFull, vmm.OutcomeStopped,
		vmm.OutcomeStalled, vmm.OutcomeOutputFailure, vmm.OutcomeHostFailure, vmm.OutcomeDiverged, vmm.OutcomeReplayStopped, ""} {
		forge("reason "+string(o), 3, func(e *trace.End) { e.Reason = string(o) })
		forge("reason and code "+string(o), 0, func(e *trace.End) { e.Reason = string(o) })
	}
	forge("no state", 3, func(e *trace.End) { e.State = "" })
	forge("state", 3, func(e *trace.End) { e.State = trace.NewDigest(trace.SHA256, nil) })
	forge("outputs", 3, func(e *trace.End) { e.Outputs = []trace.Setting{{Key: "a", Value: "b"}} })
}

// At a terminal, how long the guest was idle is an input; but no guest is idle beyond its next timer.
func TestIdleTimeBeyondATimerIsFound(t *testing.T) {
	c := builtin("sh", "-c", "sleep 0.2; echo end")
	c.Terminal, c.Rows, c.Cols = true, 24, 80
	keyboard, hands := io.Pipe() // nobody types
	defer hands.Close()
	c.Stdin = keyboard
	f := newForgeable(t, c, "")
	for i, e := range f.events {
		if e.Kind != trace.KindHalt || e.Value < uint64(time.Millisecond) || i < f.find(trace.KindStart) {
			continue
		}
		const late = uint64(time.Second)
		events := slices.Clone(f.events)
		events[i].Value += late
		for n := i + 1; n < len(events); n++ {
			events[n].Time += late
		}
		result := f.replay(f.write(f.header, events, f.status))
		if result.Identical || result.Divergence == nil || result.Divergence.Index != uint64(i) {
			t.Errorf("a halt of %v made longer at event %d: identical %v, divergence %v", time.Duration(e.Value), i, result.Identical, result.Divergence)
		}
		return
	}
	t.Error("the command was never idle")
}
