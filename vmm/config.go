package vmm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/detvm/detvm/trace"
	"github.com/detvm/detvm/vcpu"
)

// Engines that Config.Engine can name.
const (
	EngineAuto = "auto" // KVM where the host counts user and kernel instructions in hardware, else soft
	EngineKVM  = "kvm"
	EngineSoft = "soft"
)

// MachineModel names what docs/machine.md describes.
const MachineModel = "detvm-machine-v1"

// DefaultStart is the wall-clock time at which a command starts unless the user says otherwise: a constant, so that two runs see the same time.
var DefaultStart = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// bootEpoch is what the clock shows while the guest boots, before it learns the start time.
var bootEpoch = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)

// Defaults of Config.
const (
	DefaultMemory      = 256 << 20
	defaultVirtualTime = 30 * 24 * time.Hour // the kernel's own timers pass in seconds to a minute
)

// Command is what runs in the guest.
type Command struct {
	Args []string // the program and its arguments
	Env  []string // K=V, added to the agent's defaults
	Cwd  string   // "" is /
	User string   // "", name, or uid[:gid], looked up in the image
}

// Disk is a raw image behind a virtio block device. Base is read only; what the guest writes stays in memory.
type Disk struct {
	Name   string // for reports
	Base   io.ReaderAt
	Size   uint64 // bytes; rounded down to whole sectors
	Digest Digest // SHA-256 of Base
	// partial: Base holds only what the recorded run read (a self-contained trace).
	partial bool
}

// Limits end a run. Zero means none.
type Limits struct {
	WallTime    time.Duration // on the host's clock; it never changes what the guest computes, only whether it may finish
	VirtualTime time.Duration // of the guest since the command started; 0 is 30 days, which a guest of the software engine that waits for ever reaches in less than a minute
	Exits       uint64        // synchronous exits since machine start
	Stall       time.Duration // on the host's clock: how long the work clock may stand still while the guest runs; 0 is never
}

// Kernel is a guest kernel with what is known about it.
type Kernel struct {
	Image   Blob   // ELF vmlinux or bzImage
	Cmdline string // the kernel's own parameters; the machine adds its devices
	Layout  KernelLayout
}

// Config describes a run. The zero value of a field is its default. Everything that can change what the guest computes is here, and
// is part of the trace's header.
type Config struct {
	Engine    string     // EngineAuto when empty
	Clock     vcpu.Clock // the best of the engine when empty
	Memory    uint64     // bytes of RAM, a multiple of 4096
	TimeScale float64    // 0 is 1: see docs/machine.md, "Time"
	Kernel    Kernel
	Initramfs Blob

	Root *Disk // the root file system; nil is the initramfs itself
	Data *Disk // a writable data disk, mounted at DataPath
	Command
	Seed  uint64
	Start time.Time // wall clock when the command starts; DefaultStart when zero

	Stdin io.Reader // nil is an empty input
	// StdinLive delivers input as it arrives. Otherwise a demand is answered in full or up to the end of the input, so that
	// the pace of a pipe's writer leaves no mark on the run.
	StdinLive      bool
	Terminal       bool // the command gets a terminal of Rows × Cols; time is not skipped while it waits for input
	Rows, Cols     uint16
	Stdout, Stderr io.Writer
	Serial         io.Writer // the kernel's early messages; nil drops them

	Limits      Limits
	SnapshotDir string // cache of boot snapshots; "" boots every time

	// MatchKVM gives the guest of the software engine the processor that a guest of KVM sees on this host, so that a run on the clock exits has the same
	// events and states on both engines (docs/determinism.md, "Engines agree").
	MatchKVM bool

	Record          *Recording // nil records nothing
	CheckpointEvery uint64     // counts of the work clock between checkpoints of a recording; 0 is a default for the clock

	// Log receives lines for a person who asked for details, Notice those that every user should see while the run goes on. May be nil;
	// Notice is called from another goroutine than Run's.
	Log, Notice func(string)
	// Progress is called now and then from the run loop with the events replayed so far. May be nil.
	Progress func(events uint64)

	// cpuid overrides the CPU model, for the comparison of engines on a host that forces bits: see MatchKVM and replays.
	cpuid []vcpu.CPUIDLeaf
	// ring3 is what ring 3 does otherwise than the model: measured with KVM, obeyed by the software engine (MatchKVM, replays).
	ring3 *vcpu.Ring3
	// fromTrace: the configuration is a recorded one, to be taken as it is.
	fromTrace bool
	// perturb changes the engine for tests.
	perturb func(vcpu.CPU) vcpu.CPU
}

// DataPath is where Config.Data is mounted in the guest.
const DataPath = "/data"

// Outcome says how a run ended.
type Outcome string

// The outcomes. Only OutcomeExited is the guest's own; Result.ExitCode has its code.
const (
	OutcomeExited        Outcome = "exited"
	OutcomePoweredOff    Outcome = "powered-off" // wrote the exit port
	OutcomeReset         Outcome = "reset"       // reset itself without a panic
	OutcomePanicked      Outcome = "panicked"
	OutcomeTripleFault   Outcome = "triple-fault"
	OutcomeHalted        Outcome = "halted"   // HLT with interrupts off
	OutcomeDeadlock      Outcome = "deadlock" // idle for ever
	OutcomeLimit         Outcome = "limit"
	OutcomeTraceFull     Outcome = "trace-full" // Recording.MaxSize; at an event, so that a replay ends at the same one
	OutcomeStalled       Outcome = "stalled"
	OutcomeStopped       Outcome = "stopped" // by the user
	OutcomeAgentFailure  Outcome = "agent-failure"
	OutcomeEngineFailure Outcome = "engine-failure"
	OutcomeOutputFailure Outcome = "output-failure" // the host could not take the output
	OutcomeHostFailure   Outcome = "host-failure"   // the host could not read a disk
	OutcomeDiverged      Outcome = "diverged"
	OutcomeReplayStopped Outcome = "replay-stopped"
)

// hostOutcomes are the outcomes that the guest did not bring about.
var hostOutcomes = map[Outcome]bool{
	OutcomeStopped: true, OutcomeLimit: true, OutcomeStalled: true, OutcomeOutputFailure: true, OutcomeHostFailure: true,
}

// ExitLimit is the exit code of a run that a limit ended, that of timeout(1).
const ExitLimit = 124

// Result is what a run leaves behind. Its JSON form is what --json writes.
type Result struct {
	Outcome  Outcome `json:"outcome"`
	ExitCode int     `json:"exit_code"`
	Signal   int     `json:"signal,omitempty"` // that killed the command
	Message  string  `json:"message,omitempty"`

	StdoutSHA256 string `json:"stdout_sha256"`
	StderrSHA256 string `json:"stderr_sha256"`
	StdoutBytes  uint64 `json:"stdout_bytes"`
	StderrBytes  uint64 `json:"stderr_bytes"`
	// StateSHA256 is over final memory, processor and devices.
	StateSHA256 string `json:"state_sha256"`
	DiskSHA256  string `json:"disk_sha256,omitempty"` // final contents of the data disk

	VirtualTimeNS uint64     `json:"virtual_time_ns"` // since machine start
	BootTimeNS    uint64     `json:"boot_time_ns"`    // of it, until the command could start
	Exits         uint64     `json:"exits"`
	BootExits     uint64     `json:"boot_exits"`
	Position      uint64     `json:"position"`
	Clock         vcpu.Clock `json:"clock"`
	Engine        string     `json:"engine"`
	MachineModel  string     `json:"machine_model"`
	Seed          uint64     `json:"seed"`
	StartTime     string     `json:"start_time"` // RFC 3339
	MemoryBytes   uint64     `json:"memory_bytes"`

	ImageSHA256     string `json:"image_sha256,omitempty"`
	DataSHA256      string `json:"data_sha256,omitempty"`
	KernelSHA256    string `json:"kernel_sha256"`
	InitramfsSHA256 string `json:"initramfs_sha256"`

	FromSnapshot  bool   `json:"from_snapshot"`
	WallNS        int64  `json:"wall_ns"`
	FirstOutputNS int64  `json:"first_output_ns,omitempty"` // wall time from start to the first byte of output
	TraceRoot     string `json:"trace_root,omitempty"`
	Events        uint64 `json:"events,omitempty"`
	TraceBytes    int64  `json:"trace_bytes,omitempty"`

	Divergence *Divergence `json:"-"`
}

// Signal forwards a signal to the command once it runs. Numbers that are no signal of Linux, which has 1 to 64, are ignored.
func (m *Machine) Signal(number int) {
	if number < 1 || number > 64 {
		return
	}
	m.outside.put(&trace.Event{Kind: trace.KindSignal, Value: uint64(number)})
}

// Winsize tells the guest's terminal its new size.
func (m *Machine) Winsize(rows, cols uint16) {
	m.outside.put(&trace.Event{Kind: trace.KindWinsize, Value: uint64(rows)<<16 | uint64(cols)})
}

// Stop ends the run soon; Result.ExitCode will be code.
func (m *Machine) Stop(code int, why string) { m.outside.stop(code, why) }

// UsageError is a mistake in a Config: what a command line reports with exit code 2.
type UsageError struct{ Err error }

func (e *UsageError) Error() string { return e.Err.Error() }
func (e *UsageError) Unwrap() error { return e.Err }

func usagef(format string, args ...any) error { return &UsageError{fmt.Errorf(format, args...)} }

// withDefaults fills in and checks a configuration.
func (c Config) withDefaults() (Config, error) {
	if c.Engine == "" {
		c.Engine = EngineAuto
	}
	if c.Memory == 0 {
		c.Memory = DefaultMemory
	}
	if c.TimeScale == 0 {
		c.TimeScale = 1
	}
	if c.Start.IsZero() {
		c.Start = DefaultStart
	}
	if c.Limits.VirtualTime == 0 {
		c.Limits.VirtualTime = defaultVirtualTime
	}
	if c.Log == nil {
		c.Log = func(string) {}
	}
	if c.Notice == nil {
		c.Notice = func(string) {}
	}
	switch {
	case len(c.Args) == 0 || c.Args[0] == "":
		return c, usagef("no command given")
	case c.Start.Unix() < 0 || c.Start.Year() > 2200:
		return c, usagef("start time %s: want one between 1970 and 2200", c.Start.Format(time.RFC3339))
	case c.Kernel.Image.Size == 0 || c.Initramfs.Size == 0:
		return c, errors.New("no kernel or initramfs given")
	}
	return c, nil
}

// Run executes a command in a new machine.
func Run(ctx context.Context, c Config) (*Result, error) {
	m, err := New(c)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	return m.Run(ctx)
}
