package vmm_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/detvm/detvm/trace"
	"github.com/detvm/detvm/vmm"
)

func openRecorded(t *testing.T, c vmm.Config) (*trace.Reader, *vmm.Result) {
	t.Helper()
	var file bytes.Buffer
	c.Record = &vmm.Recording{W: &file}
	result, err := vmm.Run(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	r, err := trace.Open(bytes.NewReader(file.Bytes()), int64(file.Len()))
	if err != nil {
		t.Fatal(err)
	}
	return r, result
}

// oddReader gives its input in pieces of odd sizes, as a slow pipe does.
type oddReader struct {
	r    io.Reader
	next int
}

func (o *oddReader) Read(p []byte) (int, error) {
	o.next = (o.next*7 + 3) % 4099
	return o.r.Read(p[:min(len(p), o.next+1)])
}

func TestThePaceOfInputLeavesNoMark(t *testing.T) {
	input := bytes.Repeat([]byte("0123456789abcdef\n"), 30_000)
	config := func(odd bool) vmm.Config {
		c := builtin("sh", "-c", "wc; date")
		c.Stdin = bytes.NewReader(input)
		if odd {
			c.Stdin = &oddReader{r: bytes.NewReader(input)}
		}
		return c
	}
	r, a := openRecorded(t, config(false))
	_, b := openRecorded(t, config(true))
	if a.TraceRoot != b.TraceRoot || a.StateSHA256 != b.StateSHA256 {
		t.Errorf("roots %s and %s, states %s and %s", a.TraceRoot, b.TraceRoot, a.StateSHA256, b.StateSHA256)
	}
	c := config(false)
	result, err := vmm.Replay(context.Background(), r, vmm.ReplayConfig{Kernel: c.Kernel.Image, Initramfs: c.Initramfs})
	if err != nil || !result.Identical || !result.Complete {
		t.Errorf("replay without the input: %+v, %v", result, err)
	}
}

func TestRecordingDoesNotChangeTheRun(t *testing.T) {
	c := builtin("sh", "-c", "head -c 8 /dev/urandom | hexdump; sleep 100; date")
	plain, err := vmm.Run(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	c.CheckpointEvery = 1_000_000
	_, recorded := openRecorded(t, c)
	if plain.StateSHA256 != recorded.StateSHA256 || plain.Exits != recorded.Exits || plain.Position != recorded.Position {
		t.Errorf("plain %s at %d, recorded %s at %d", plain.StateSHA256, plain.Position, recorded.StateSHA256, recorded.Position)
	}
}

func TestASnapshotMakesTheSameRunAndTrace(t *testing.T) {
	dir := t.TempDir()
	c := builtin("sh", "-c", "date; head -c 8 /dev/urandom | hexdump")
	_, cold := openRecorded(t, c)
	c.SnapshotDir = dir
	_, kept := openRecorded(t, c)
	c = builtin("sh", "-c", "date; head -c 8 /dev/urandom | hexdump")
	c.SnapshotDir = dir
	_, restored := openRecorded(t, c)
	if kept.FromSnapshot || !restored.FromSnapshot {
		t.Fatalf("from snapshot: %v, then %v", kept.FromSnapshot, restored.FromSnapshot)
	}
	for _, r := range []*vmm.Result{kept, restored} {
		if r.TraceRoot != cold.TraceRoot || r.StateSHA256 != cold.StateSHA256 {
			t.Errorf("root %s and state %s, cold %s and %s", r.TraceRoot, r.StateSHA256, cold.TraceRoot, cold.StateSHA256)
		}
	}
	c.Seed = 5
	_, seeded := openRecorded(t, c)
	if seeded.StdoutSHA256 == cold.StdoutSHA256 {
		t.Error("another seed after a restore gives the same random bytes")
	}
}

func TestReplayFindsAnotherSeedAtTheFirstEventThatItChanges(t *testing.T) {
	r, _ := openRecorded(t, builtin("sh", "-c", "head -c 8 /dev/urandom | hexdump"))
	other, _ := openRecorded(t, func() vmm.Config {
		c := builtin("sh", "-c", "head -c 8 /dev/urandom | hexdump")
		c.Seed = 1
		return c
	}())
	var start uint64
	var err error
	for i, e := range r.All(&err) {
		if e.Kind == trace.KindStart {
			start = i
		}
	}
	if err != nil || start == 0 {
		t.Fatalf("no start event: %v", err)
	}
	for i := range start {
		a, errA := r.Event(i)
		b, errB := other.Event(i)
		if errA != nil || errB != nil || vmm.Differs(&a, &b) != "" {
			t.Fatalf("event %d before the start depends on the seed: %v %v", i, errA, errB)
		}
	}
	a, _ := r.Event(start)
	b, _ := other.Event(start)
	if vmm.Differs(&a, &b) != "data" {
		t.Error("the start event does not show the seed")
	}
}

// never is an input that does not come.
type never struct{ asked chan struct{} }

func (n never) Read([]byte) (int, error) {
	close(n.asked)
	select {}
}

func TestARunStoppedWhileItWaitsForInputReplays(t *testing.T) {
	c := builtin("cat")
	input := never{make(chan struct{})}
	c.Stdin = input
	var file bytes.Buffer
	c.Record = &vmm.Recording{W: &file}
	m, err := vmm.New(c)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	go func() {
		<-input.asked
		m.Stop(130, "stopped by the test")
	}()
	result, err := m.Run(context.Background())
	if err != nil || result.Outcome != vmm.OutcomeStopped || result.ExitCode != 130 {
		t.Fatalf("%+v, %v", result, err)
	}
	r, err := trace.Open(bytes.NewReader(file.Bytes()), int64(file.Len()))
	if err != nil {
		t.Fatal(err)
	}
	again, err := vmm.Replay(context.Background(), r, vmm.ReplayConfig{Kernel: c.Kernel.Image, Initramfs: c.Initramfs})
	if err != nil || !again.Identical || !again.Complete {
		t.Errorf("replay: %+v, %v", again, err)
	}
}

// TestAFullTraceReplays records until the trace has no more room, while signals arrive all the time: whatever it is that does not fit, the replay ends there.
func TestAFullTraceReplays(t *testing.T) {
	const sigwinch = 28 // which a shell ignores
	snapshots := t.TempDir()
	for range 3 {
		c := builtin("sh", "-c", "while true; do echo; done")
		c.SnapshotDir = snapshots
		var file bytes.Buffer
		c.Record = &vmm.Recording{W: &file, MaxSize: 256 << 10}
		m, err := vmm.New(c)
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() {
			for {
				select {
				case <-ended:
					return
				case <-time.After(100 * time.Microsecond):
					m.Signal(sigwinch)
				}
			}
		}()
		result, err := m.Run(context.Background())
		close(ended)
		m.Close()
		if err != nil || result.ExitCode != vmm.ExitLimit || int64(file.Len()) > c.Record.MaxSize {
			t.Fatalf("%+v, %v, %d bytes", result, err, file.Len())
		}
		r, err := trace.Open(bytes.NewReader(file.Bytes()), int64(file.Len()))
		if err != nil {
			t.Fatal(err)
		}
		again, err := vmm.Replay(context.Background(), r, vmm.ReplayConfig{Kernel: c.Kernel.Image, Initramfs: c.Initramfs, SnapshotDir: snapshots})
		if err != nil || !again.Identical || !again.Complete {
			t.Errorf("a run that ended with %s: replay %+v, %v", result.Outcome, again, err)
		}
	}
}

func TestAPartialReplayShowsTheMachineAtThatEvent(t *testing.T) {
	c := builtin("true")
	c.SnapshotDir = t.TempDir()
	r, _ := openRecorded(t, c)
	for _, until := range []uint64{0, 100, r.NumEvents() - 20} {
		result, err := vmm.Replay(context.Background(), r, vmm.ReplayConfig{
			Kernel: c.Kernel.Image, Initramfs: c.Initramfs, SnapshotDir: c.SnapshotDir,
			Until: func(index uint64, _ *trace.Event) bool { return index >= until },
		})
		if err != nil || !result.Identical || result.Complete || result.At == nil {
			t.Fatalf("until event %d: %+v, %v", until, result, err)
		}
		e, err := r.Event(until)
		if err != nil || result.Events != until+1 || result.Position != e.Position {
			t.Errorf("until event %d: %d events, the machine is at position %d, the event at %d; %v", until, result.Events, result.Position, e.Position, err)
		}
	}
}

// brokenDisk cannot be read.
type brokenDisk struct{}

func (brokenDisk) ReadAt([]byte, int64) (int, error) { return 0, errors.New("the host cannot read it") }

// What the replaying host cannot do says nothing of the recorded run.
func TestAHostThatCannotReadADiskIsNoDivergence(t *testing.T) {
	content := make([]byte, 1<<20)
	c := builtin("true")
	c.Data = &vmm.Disk{Name: "data", Base: bytes.NewReader(content), Size: uint64(len(content)), Digest: sha256.Sum256(content)}
	r, _ := openRecorded(t, c)
	broken := *c.Data
	broken.Base = brokenDisk{}
	for _, disk := range []*vmm.Disk{c.Data, &broken} {
		result, err := vmm.Replay(context.Background(), r, vmm.ReplayConfig{Kernel: c.Kernel.Image, Initramfs: c.Initramfs, Data: disk})
		if err != nil {
			t.Fatal(err)
		}
		if result.Identical != (disk == c.Data) || result.Divergence != nil {
			t.Errorf("with %T: identical %v, %s, divergence %v", disk.Base, result.Identical, result.Outcome, result.Divergence)
		}
	}
}
