package vmm

import (
	"bytes"
	"context"
	"os"
	"reflect"
	"testing"
	"time"

	"github.com/detvm/detvm/images"
	"github.com/detvm/detvm/trace"
	"github.com/detvm/detvm/vcpu"
)

// agreeScript runs several processes, a pipe, files, the clock, a sleep and randomness. It uses the default userland.
const agreeScript = `
echo start
for i in 1 2 3; do echo line $i; done > /tmp/f
cat /tmp/f | wc -l
sleep 2
date
head -c 8 /dev/urandom | hexdump
sleep 1 &
wait
ls /
`

// engineRun is one recorded run.
type engineRun struct {
	result *Result
	stdout string
	trace  *trace.Reader
}

// embedded is a boot file of the images package.
func embedded(f *images.File) Blob {
	return Blob{Size: f.Size, Digest: f.SHA256, Load: f.Load}
}

// agreeConfig is the run that the engines are compared on.
func agreeConfig(t *testing.T, engine, snapshots string) Config {
	t.Helper()
	kernel, err := images.GuestKernel()
	if err != nil {
		t.Fatal(err)
	}
	initramfs, err := images.DefaultInitramfs()
	if err != nil {
		t.Skip("needs the default userland: make build")
	}
	s := kernel.Symbols
	return Config{
		Engine: engine, Clock: vcpu.ClockExits, MatchKVM: true,
		Kernel: Kernel{
			Image: embedded(kernel.File), Cmdline: images.KernelCommandLine,
			Layout: KernelLayout{CurrentTask: s.CurrentTask, CommOffset: s.CommOffset, TGIDOffset: s.TGIDOffset},
		},
		Initramfs: embedded(initramfs), SnapshotDir: snapshots,
		Command: Command{Args: []string{"sh", "-c", agreeScript}},
		// Many checkpoints: the state digest of the whole machine is compared at each.
		CheckpointEvery: 50,
	}
}

func recordOn(t *testing.T, engine, snapshots string) engineRun {
	t.Helper()
	var out, file bytes.Buffer
	c := agreeConfig(t, engine, snapshots)
	c.Stdout, c.Stderr = &out, &out
	c.Record = &Recording{W: &file, Hash: trace.SHA256}
	began := time.Now()
	m, err := New(c)
	if err != nil {
		t.Fatalf("run on %s: %v", engine, err)
	}
	defer m.Close()
	result, err := m.Run(context.Background())
	if err != nil {
		t.Fatalf("run on %s: %v", engine, err)
	}
	if kept, anew := m.digest.root(), digestOf(m.mem).root(); kept != anew {
		t.Errorf("on %s the digest of memory, kept up by the pages that the engine calls dirty, is %s; of all pages it is %s", engine, kept, anew)
	}
	if result.Outcome != OutcomeExited || result.ExitCode != 0 {
		t.Fatalf("run on %s ended with %s, code %d, %s; output %q", engine, result.Outcome, result.ExitCode, result.Message, out.String())
	}
	t.Logf("%s: %d exits in %v, from a snapshot: %v", engine, result.Exits, time.Since(began).Round(time.Millisecond), result.FromSnapshot)
	r, err := trace.Open(bytes.NewReader(file.Bytes()), int64(file.Len()))
	if err != nil {
		t.Fatal(err)
	}
	return engineRun{result, out.String(), r}
}

// replayOn replays a run on an engine and wants it to be the same to the last event.
func replayOn(t *testing.T, run engineRun, engine, snapshots string) {
	t.Helper()
	c := agreeConfig(t, engine, "")
	got, err := Replay(context.Background(), run.trace, ReplayConfig{
		Engine: engine, Kernel: c.Kernel.Image, Initramfs: c.Initramfs, SnapshotDir: snapshots,
		Notice: func(s string) { t.Log("notice: " + s) },
	})
	switch {
	case err != nil:
		t.Errorf("replay on %s: %v", engine, err)
	case !got.Identical || !got.Complete:
		t.Errorf("replay on %s: identical %v, complete %v, %v", engine, got.Identical, got.Complete, got.Divergence)
	}
}

// firstDifference compares two traces event by event.
func firstDifference(t *testing.T, a, b *trace.Reader) {
	t.Helper()
	x, y := a.Events(0), b.Events(0)
	for n := 0; ; n++ {
		more, other := x.Next(), y.Next()
		switch {
		case more != other:
			t.Fatalf("one trace ends at event %d", n)
		case !more:
			if x.Err() != nil || y.Err() != nil {
				t.Fatal(x.Err(), y.Err())
			}
			return
		case !reflect.DeepEqual(x.Event(), y.Event()):
			t.Fatalf("event %d differs:\nsoft %+v\nkvm  %+v", n, x.Event(), y.Event())
		}
	}
}

// TestEnginesAgree is oracle O4: the same boot and the same commands on both engines give the same exits with the same addresses, values and program
// counters, the same digests of all memory, registers and devices at every checkpoint and at the end, and so one trace root. A trace of either engine
// replays on the other.
func TestEnginesAgree(t *testing.T) {
	if testing.Short() {
		t.Skip("boots Linux on KVM; not with -short")
	}
	if _, err := os.Stat("/dev/kvm"); err != nil {
		t.Skip("needs /dev/kvm")
	}
	snapshots := t.TempDir()
	soft := recordOn(t, EngineSoft, snapshots)
	kvm := recordOn(t, EngineKVM, snapshots)

	if soft.stdout != kvm.stdout {
		t.Errorf("output on soft %q, on KVM %q", soft.stdout, kvm.stdout)
	}
	firstDifference(t, soft.trace, kvm.trace)
	if soft.result.StateSHA256 != kvm.result.StateSHA256 {
		t.Errorf("final state on soft %s, on KVM %s", soft.result.StateSHA256, kvm.result.StateSHA256)
	}
	if soft.result.TraceRoot != kvm.result.TraceRoot {
		t.Errorf("trace root on soft %s, on KVM %s", soft.result.TraceRoot, kvm.result.TraceRoot)
	}
	replayOn(t, kvm, EngineSoft, snapshots)
	replayOn(t, soft, EngineKVM, snapshots)

	// O1 on KVM: restored from the snapshot, the run is the one that booted.
	again := recordOn(t, EngineKVM, snapshots)
	if again.result.TraceRoot != kvm.result.TraceRoot || again.result.StateSHA256 != kvm.result.StateSHA256 {
		t.Errorf("restored on KVM: root %s, state %s; booted: root %s, state %s", again.result.TraceRoot, again.result.StateSHA256, kvm.result.TraceRoot, kvm.result.StateSHA256)
	}
	if !again.result.FromSnapshot {
		t.Error("the second run on KVM did not start from the snapshot")
	}
}
