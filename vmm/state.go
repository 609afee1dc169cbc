package vmm

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/detvm/detvm/guestagent"
	"github.com/detvm/detvm/trace"
	"github.com/detvm/detvm/vcpu"
)

// checkpointEvery is the default distance of checkpoints on each work clock.
var checkpointEvery = map[vcpu.Clock]uint64{
	vcpu.ClockInstructions:       1_000_000_000,
	vcpu.ClockBranches:           200_000_000,
	vcpu.ClockKernelInstructions: 50_000_000,
	vcpu.ClockExits:              50_000,
}

// stateDigest is the digest of the whole machine: processor, virtual time, devices, RAM. It includes everything that the guest's future depends on but
// the inputs, so two machines with one digest go on alike.
func (m *Machine) stateDigest() (Digest, error) {
	state, err := m.cpu.State() // before RAM: it completes a pending exit, which may write
	if err != nil {
		return Digest{}, fmt.Errorf("read the processor state: %w", err)
	}
	if err := m.digest.update(m.cpu.CollectDirty); err != nil {
		return Digest{}, err
	}
	root := m.digest.root()
	h := sha256.New()
	add := func(name string, p []byte) {
		fmt.Fprintf(h, "%s\x00%d\x00", name, len(p))
		h.Write(p)
	}
	add("machine", []byte(MachineModel))
	sections, err := m.sections(state)
	if err != nil {
		return Digest{}, err
	}
	for _, s := range sections {
		add(s.name, s.data)
	}
	add("memory", root[:])
	return Digest(h.Sum(nil)), nil
}

// sections encodes everything but RAM, in a fixed order.
func (m *Machine) sections(state *vcpu.State) ([]section, error) {
	p, err := state.MarshalBinary()
	if err != nil {
		return nil, err
	}
	list := []section{{"cpu", p}, {"time", binary.LittleEndian.AppendUint64(nil, m.vt.skipped)}}
	for _, part := range m.parts {
		p, err := part.MarshalBinary()
		if err != nil {
			return nil, fmt.Errorf("encode the state of %s: %w", part.name, err)
		}
		list = append(list, section{part.name, p})
	}
	return list, nil
}

// checkpointIfDue logs a checkpoint at the first synchronous exit past the mark: there a processor's state is whole on every engine.
func (m *Machine) checkpointIfDue(reason vcpu.Reason) error {
	if m.count < m.nextMark || !m.logging || m.outcome != nil || reason == vcpu.ReasonStop || reason == vcpu.ReasonKick {
		return nil
	}
	return m.checkpoint()
}

// checkpoint logs the state digest and sets the mark for the next.
func (m *Machine) checkpoint() error {
	if !m.logging || m.outcome != nil {
		return nil
	}
	digest, err := m.stateDigest()
	if err != nil {
		return err
	}
	m.nextMark = m.count + m.config.CheckpointEvery
	return m.emit(&trace.Event{Kind: trace.KindCheckpoint, Data: digest[:]})
}

// snapshotKey identifies a boot: everything that the machine's state at READY, and the events until then, depend on.
func (m *Machine) snapshotKey() (Digest, error) {
	h := sha256.New()
	l := m.config.Kernel.Layout
	fmt.Fprintf(h, "%s %s %s %s %s %d %d %d %d %d %s\x00", snapshotMagic, Version, MachineModel, m.config.Engine, m.config.Clock, m.config.Memory, m.vt.rate,
		l.CurrentTask, l.CommOffset, l.TGIDOffset, m.cmdline())
	h.Write(m.config.Kernel.Image.Digest[:])
	h.Write(m.config.Initramfs.Digest[:])
	h.Write(m.cpuIdentity())
	for _, d := range disks(m.config.Root, m.config.Data) {
		fmt.Fprintf(h, "disk %d\x00", d.Size)
	}
	return Digest(h.Sum(nil)), nil
}

// keepSnapshot stores the machine as it stands at READY. Failing to is no failure of the run. A boot that read a disk depends on
// what was on it, and is not kept.
func (m *Machine) keepSnapshot(key Digest, state *vcpu.State) error {
	boot := m.boot
	m.log, m.logging, m.boot, m.onReady = boot.inner, m.config.Record != nil || m.replaying, nil, nil
	if m.diskUsed {
		m.verbose("the boot used a disk: no snapshot is kept")
		return nil
	}
	if boot.full || m.stdout.size+m.stderr.size > 0 {
		m.verbose("the boot logged too much or had output: no snapshot is kept")
		return nil
	}
	sections, err := m.sections(state)
	if err != nil {
		return err
	}
	events, err := trace.EncodeEvents(boot.events)
	if err != nil {
		return fmt.Errorf("encode the events of the boot: %w", err)
	}
	ready, err := guestagent.Append(nil, ptr(m.session.Ready()))
	if err != nil {
		return fmt.Errorf("encode the agent's greeting: %w", err)
	}
	meta := binary.LittleEndian.AppendUint64(nil, m.exits)
	sections = append(sections, section{"exits", meta}, section{"ready", ready}, section{"serial", m.serial.tail}, section{"events", events})
	if err := m.digest.update(m.cpu.CollectDirty); err != nil {
		return err
	}
	if err := writeSnapshot(m.config.SnapshotDir, key, sections, m.digest); err != nil {
		m.verbose("cannot keep a boot snapshot: " + err.Error())
		return nil
	}
	if _, err := PruneSnapshots(m.config.SnapshotDir, snapshotsKept); err != nil {
		m.verbose("cannot prune boot snapshots: " + err.Error())
	}
	m.verbose("kept the boot snapshot " + key.String())
	return nil
}

func ptr[T any](v T) *T { return &v }

// bootLog collects the events up to READY, for the snapshot, and passes them on.
type bootLog struct {
	inner  eventLog
	events []trace.Event
	size   int // bytes of their payloads
	full   bool
}

// Bounds on what a boot may log and still be kept; detvm's own logs some hundred events.
const (
	bootEventsMax  = 1 << 17
	bootPayloadMax = 8 << 20
)

func (b *bootLog) event(e *trace.Event) error {
	b.size += len(e.Data)
	if b.full = b.full || len(b.events) == bootEventsMax || b.size > bootPayloadMax; b.full {
		b.events = nil
	} else {
		b.events = append(b.events, e.Clone())
	}
	return b.inner.event(e)
}

func (b *bootLog) input(e *trace.Event, live func(*trace.Event) error) error {
	return errors.New("the guest asked for input before it was ready")
}

func (b *bootLog) async(uint64, func() *trace.Event) (*trace.Event, error) { return nil, nil }
func (b *bootLog) nextAsync() uint64                                       { return vcpu.NoStop }

// restore brings the machine to READY from a snapshot, and tells the log the events that led there.
func (m *Machine) restore(key Digest) error {
	sections, err := readSnapshot(m.config.SnapshotDir, key, m.digest)
	if err != nil {
		return err
	}
	find := func(name string) []byte {
		i := slices.IndexFunc(sections, func(s section) bool { return s.name == name })
		if i < 0 {
			return nil
		}
		return sections[i].data
	}
	var state vcpu.State
	if err := state.UnmarshalBinary(find("cpu")); err != nil {
		return fmt.Errorf("restore the processor: %w", err)
	}
	for _, part := range m.parts {
		if err := part.UnmarshalBinary(find(part.name)); err != nil {
			return fmt.Errorf("restore %s: %w", part.name, err)
		}
	}
	skipped, exits := find("time"), find("exits")
	if len(skipped) != 8 || len(exits) != 8 {
		return fmt.Errorf("restore the counters: %w", errSnapshotCorrupt)
	}
	m.vt.skipped = binary.LittleEndian.Uint64(skipped)
	m.exits = binary.LittleEndian.Uint64(exits)
	m.serial.tail = find("serial")
	for _, r := range m.mem.ranges {
		m.cpu.MemoryWritten(r.GPA, uint64(len(r.Host)))
	}
	if err := m.cpu.SetState(&state); err != nil {
		return fmt.Errorf("restore the processor: %w", err)
	}
	if err := m.cpu.CollectDirty(func(uint64) {}); err != nil { // the digests came with the pages
		return fmt.Errorf("restore memory: %w", err)
	}
	m.count = state.Count
	m.now = m.vt.at(m.count)
	messages, err := m.session.FromGuest(find("ready"))
	if err != nil || len(messages) != 1 {
		return fmt.Errorf("restore the conversation with the agent: %w", errSnapshotCorrupt)
	}
	if err := m.startRecording(); err != nil {
		return err
	}
	if m.logging {
		err := trace.DecodeEvents(find("events"), m.log.event)
		if err := m.logError(err); err != nil || m.outcome != nil {
			return err
		}
	}
	if err := m.startCommand(); err != nil || m.outcome != nil {
		return err
	}
	m.fireTimers()
	m.publishTime()
	return m.injectPending()
}

// finish computes what a run leaves behind.
func (m *Machine) finish() (*Result, error) {
	r := &m.result
	digest, err := m.stateDigest()
	switch {
	case err == nil:
		r.StateSHA256 = digest.String()
	case m.interrupted && !m.exactEnd(): // stopped by the host in the middle of a delivery: there is no state to speak of
	default:
		return nil, err
	}
	r.StdoutSHA256, r.StdoutBytes = hex.EncodeToString(m.stdout.digest.Sum(nil)), m.stdout.size
	r.StderrSHA256, r.StderrBytes = hex.EncodeToString(m.stderr.digest.Sum(nil)), m.stderr.size
	r.VirtualTimeNS = m.now
	r.Exits, r.Position = m.exits, m.count
	r.Clock, r.Engine, r.MachineModel = m.caps.Clock, m.caps.Engine, MachineModel
	r.Seed, r.StartTime, r.MemoryBytes = m.config.Seed, m.config.Start.Format(time.RFC3339Nano), m.config.Memory
	r.KernelSHA256, r.InitramfsSHA256 = m.config.Kernel.Image.Digest.String(), m.config.Initramfs.Digest.String()
	if m.config.Root != nil {
		r.ImageSHA256 = m.config.Root.Digest.String()
	}
	if m.data != nil {
		r.DataSHA256 = m.config.Data.Digest.String()
	}
	if m.data != nil && !m.config.Data.partial {
		sum, err := m.data.Digest()
		if err != nil {
			return nil, fmt.Errorf("hash the data disk: %w", err)
		}
		r.DiskSHA256 = hex.EncodeToString(sum[:])
	}
	r.FirstOutputNS = m.firstOutput.Nanoseconds()
	r.Divergence = m.divergence
	if err := m.endLog(digest); err != nil {
		return nil, err
	}
	r.WallNS = m.wall().Nanoseconds()
	return r, nil
}
