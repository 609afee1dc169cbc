package vmm

import (
	"context"
	"crypto/sha256"
	"encoding"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"runtime/debug"
	"strings"
	"time"

	"github.com/detvm/detvm/devices"
	"github.com/detvm/detvm/devices/virtio"
	"github.com/detvm/detvm/guestagent"
	"github.com/detvm/detvm/trace"
	"github.com/detvm/detvm/vcpu"
)

// Version is detvm's version.
const Version = "0.1.0"

// CPUModel names the table of vcpu.DetvmV1.
const CPUModel = "detvm-v1"

// outputSink is where one of the guest's output streams goes.
type outputSink struct {
	w      io.Writer
	err    error
	digest hash.Hash
	size   uint64
}

// Machine is one virtual machine for one run. It is not reusable. Signal, Winsize and Stop may be called from any
// goroutine; everything else belongs to the one that calls Run.
type Machine struct {
	config Config
	cpu    vcpu.CPU
	caps   vcpu.Capabilities
	mem    *memory
	bus    *bus

	pic       *devices.PIC
	pit       *devices.PIT
	timer     *devices.Timer
	rtc       *devices.RTC
	uart      *devices.UART
	console   *virtio.Console
	rng       *virtio.RNG
	data      *virtio.Disk
	rootReads extents
	dataReads extents
	diskUsed  bool
	clockPage pvclock
	// parts is everything that snapshots and state digests cover, in a fixed order.
	parts []part

	kernel, initramfs []byte // from loadBootFiles until they are in guest RAM

	vt        virtualTime
	now       uint64 // virtual time at count
	count     uint64 // position after the last exit
	exits     uint64
	tscIsTime bool

	bootWallClock                   int64
	timerStop, retryStop, asyncStop uint64

	session     *guestagent.Session
	start       *guestagent.Start
	atReady     bool
	onReady     func(*vcpu.State) error // set when a snapshot is to be written
	stdinWanted int

	log           eventLog
	logging       bool
	writer        *trace.Writer           // of a recording
	replay        *replayer               // of a replay
	headerDiffers []trace.FieldDifference // of a replay: see ReplayResult.Header
	replaying     bool
	deferred      []trace.Event // events that happened inside a device, after the exit that caused them
	boot          *bootLog      // collects the events until READY
	task          taskReader
	digest        *memoryDigest
	nextMark      uint64 // position from which the next checkpoint is due
	outside       *outside
	ctx           context.Context

	outcome        *Outcome
	interrupted    bool // the host ended the run, not the guest
	divergence     *Divergence
	result         Result
	stdout, stderr outputSink
	serial         serialLog
	began          time.Time
	firstOutput    time.Duration
	watch          *stallWatch
}

// part is one component with state.
type part struct {
	name string
	encoding.BinaryMarshaler
	encoding.BinaryUnmarshaler
}

// stateful is what every device is.
type stateful interface {
	encoding.BinaryMarshaler
	encoding.BinaryUnmarshaler
}

// New makes a machine that is ready to Run. Mistakes in the configuration are a *UsageError.
func New(c Config) (*Machine, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	engine, clock, err := chooseEngine(c.Engine, c.Clock)
	if err != nil {
		return nil, err
	}
	c.Engine, c.Clock = engine, clock
	if err := c.matchHost(); err != nil {
		return nil, err
	}
	if c.CheckpointEvery == 0 {
		c.CheckpointEvery = checkpointEvery[clock]
	}
	m := &Machine{config: c, log: liveLog{}, bootWallClock: bootEpoch.UnixNano()}
	if m.vt, err = newVirtualTime(clock, c.TimeScale); err != nil {
		return nil, &UsageError{err}
	}
	m.timerStop, m.retryStop, m.asyncStop, m.nextMark = vcpu.NoStop, vcpu.NoStop, vcpu.NoStop, vcpu.NoStop
	m.outside = newOutside(c.Stdin, !c.StdinLive, c.Terminal)
	m.stdout = outputSink{w: c.Stdout, digest: sha256.New()}
	m.stderr = outputSink{w: c.Stderr, digest: sha256.New()}
	m.serial.w = c.Serial
	m.start = c.startMessage()
	m.session = guestagent.NewSession()
	m.task.layout = c.Kernel.Layout
	if m.mem, err = newMemory(c.Memory); err != nil {
		return nil, &UsageError{err}
	}
	m.digest = newMemoryDigest(m.mem)
	if err := m.assemble(); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// startMessage is what the agent is told at the boundary between boot and run. That a user watches the machine (-v) is not part of it: it would change the run.
func (c *Config) startMessage() *guestagent.Start {
	s := &guestagent.Start{
		Argv: c.Args, Env: c.Env, Cwd: c.Cwd, User: c.User,
		WallClock: c.Start.UnixNano(), Seed: expandSeed(c.Seed),
	}
	switch {
	case c.Terminal:
		s.Stdin, s.Rows, s.Cols = guestagent.StdinTTY, c.Rows, c.Cols
	case c.Stdin != nil:
		s.Stdin = guestagent.StdinDemand
	}
	next := uint8(0)
	if c.Root != nil {
		s.Root = guestagent.RootBlock
		next++
	}
	if c.Data != nil {
		s.Disks = []guestagent.Disk{{Device: next, Path: DataPath}}
	}
	return s
}

// assemble makes processor and devices and wires them (docs/machine.md).
func (m *Machine) assemble() error {
	m.bus = newBus()
	clock := func() uint64 { return m.now }
	m.pic = devices.NewPIC()
	m.pit = devices.NewPIT(clock, m.pic.Line(0))
	m.timer = devices.NewTimer(clock, func() { m.pic.Pulse(0) })
	m.rtc = devices.NewRTC(clock, m.pic.Line(8))
	m.rtc.SetWallClock(m.bootWallClock, 0)
	m.uart = devices.NewUART(m.pic.Line(4), m.serial.write)

	port := func(name string, base, size uint64, h devices.Handler) {
		m.bus.mapPorts(m.bus.device(name), base, size, h)
	}
	port("pic1", 0x20, 2, m.pic.Master())
	port("pic2", 0xa0, 2, m.pic.Slave())
	port("elcr", 0x4d0, 2, m.pic.ELCR())
	port("pit", 0x40, 4, m.pit.Ports())
	port("portb", 0x61, 1, m.pit.PortB())
	port("reset", 0x64, 1, devices.NewResetPort(m.guestReset))
	port("rtc", 0x70, 2, m.rtc)
	port("post", 0x80, 1, devices.Ignored{})
	port("uart", 0x3f8, 8, m.uart)
	port("exit", 0x5d0, 4, devices.NewExitPort(m.guestExit))

	if err := m.assembleVirtio(); err != nil {
		return err
	}
	return m.makeCPU()
}

// part registers a component for snapshots and digests.
func (m *Machine) part(name string, s stateful) {
	m.parts = append(m.parts, part{name, s, s})
}

// makeCPU creates the engine and lets it hear of the machine's own writes to RAM.
func (m *Machine) makeCPU() error {
	m.tscIsTime = m.config.Engine == EngineSoft && m.config.Clock != vcpu.ClockExits
	table := m.config.cpuid
	if table == nil {
		table = vcpu.DetvmV1(m.tscIsTime)
	}
	cpu, err := newEngine(m.config.Engine, vcpu.Config{
		Memory: m.mem.ranges, CPUID: table, Ring3: m.config.ring3, Clock: m.config.Clock,
		TSC: func() uint64 { return m.vt.at(m.cpu.Count()) },
	})
	if err != nil {
		return err
	}
	if m.config.perturb != nil {
		cpu = m.config.perturb(cpu)
	}
	m.cpu, m.caps = cpu, cpu.Capabilities()
	m.mem.written = cpu.MemoryWritten
	m.outside.attach(cpu.Kick)
	return nil
}

// Close frees what the machine holds.
func (m *Machine) Close() {
	if m.cpu != nil {
		m.outside.attach(func() {})
		_ = m.cpu.Close()
		m.cpu = nil
	}
	if m.mem != nil {
		m.mem.close()
	}
}

// cmdline is the kernel command line with the machine's devices.
func (m *Machine) cmdline() string {
	var b strings.Builder
	b.WriteString(m.config.Kernel.Cmdline)
	for _, s := range virtioSlots {
		if s.present(m) {
			fmt.Fprintf(&b, " virtio_mmio.device=4K@%#x:%d", s.base(), s.irq)
		}
	}
	return b.String()
}

// Run boots or restores the machine and runs the command to its end. A guest that fails in whatever way is a Result, not an error; errors mean that
// the run could not be done. ctx ends the run early.
func (m *Machine) Run(ctx context.Context) (*Result, error) {
	m.began = time.Now()
	m.ctx = ctx
	if m.config.Limits.WallTime > 0 {
		var cancel context.CancelFunc
		m.ctx, cancel = context.WithTimeout(ctx, m.config.Limits.WallTime)
		defer cancel()
	}
	stopKick := context.AfterFunc(m.ctx, m.cpu.Kick)
	defer stopKick()
	defer func() {
		if m.writer != nil {
			m.writer.Abandon() // does nothing once finish has closed it
		}
	}()
	m.watch = watchStalls(m)
	defer m.watch.stop()
	if err := m.bootOrRestore(); err != nil {
		return nil, err
	}
	if m.kernel != nil {
		m.kernel, m.initramfs = nil, nil // they are in guest RAM now
		debug.FreeOSMemory()             // tens of megabytes
	}
	if m.config.Terminal && !m.replaying && m.config.Stdin != nil {
		go m.outside.pumpTerminal() // ends with the process: a read from a terminal cannot be interrupted
	}
	if err := m.loop(); err != nil {
		return nil, err
	}
	return m.finish()
}

// bootOrRestore brings the machine to its first instruction, or to the boot boundary when a snapshot of it exists.
func (m *Machine) bootOrRestore() error {
	if m.config.SnapshotDir == "" || m.config.Limits.Exits > 0 { // such a limit counts the boot, and may end it
		return m.loadGuest()
	}
	key, err := m.snapshotKey()
	if err != nil {
		return err
	}
	err = m.restore(key)
	switch {
	case err == nil:
		m.result.FromSnapshot = true
		m.verbose("restored the boot snapshot " + key.String())
		return nil
	case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errSnapshotCorrupt):
		return err
	}
	m.verbose("no boot snapshot: " + err.Error())
	if err := m.loadGuest(); err != nil {
		return err
	}
	m.boot = &bootLog{inner: m.log}
	m.log, m.logging = m.boot, true
	m.onReady = func(state *vcpu.State) error { return m.keepSnapshot(key, state) }
	return nil
}

// loadGuest places kernel and initramfs, sets the processor to the kernel's entry and opens the trace of a recording.
func (m *Machine) loadGuest() error {
	if err := m.loadBootFiles(); err != nil {
		return err
	}
	state, err := m.mem.load(m.kernel, m.initramfs, m.cmdline())
	if err != nil {
		return err
	}
	if err := m.cpu.SetState(state); err != nil {
		return fmt.Errorf("set the processor to the kernel's entry: %w", err)
	}
	m.pic.SetELCR(m.virtioELCR())
	return m.startRecording()
}

// deadline is the earliest virtual time at which a device wants to act.
func (m *Machine) deadline() (ns uint64, ok bool) {
	for _, d := range [...]interface{ Deadline() (uint64, bool) }{m.timer, m.pit, m.rtc} {
		if t, armed := d.Deadline(); armed && (!ok || t < ns) {
			ns, ok = t, true
		}
	}
	return ns, ok
}

// fireTimers lets every device act that is due.
func (m *Machine) fireTimers() {
	m.timer.Advance(m.now)
	m.pit.Advance(m.now)
	m.rtc.Advance(m.now)
}

func (m *Machine) verbose(s string) { m.config.Log(s) }

func (m *Machine) wall() time.Duration { return time.Since(m.began) }

// WriteDisk writes the data disk's final contents.
func (m *Machine) WriteDisk(w io.Writer) error {
	if m.data == nil {
		return errors.New("the machine has no data disk")
	}
	_, err := m.data.WriteTo(w)
	return err
}
