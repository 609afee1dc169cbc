package vmm

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/detvm/detvm/devices/virtio"
	"github.com/detvm/detvm/trace"
	"github.com/detvm/detvm/vcpu"
)

// Recording says where and how a run's trace is written.
type Recording struct {
	W             io.Writer // takes the trace as a stream; it is never closed
	Hash          trace.Hash
	MaxSize       int64 // bytes, 0 is no limit: the run ends when the trace is full
	Redactable    bool  // salt payloads, so that they can be withheld later
	SelfContained bool  // store kernel, initramfs and the disk blocks that were read
}

// Settings of a trace's header that a replay reads back.
const (
	settingMemory     = "memory"
	settingCmdline    = "kernel-parameters"
	settingCwd        = "cwd"
	settingUser       = "user"
	settingStdin      = "stdin"
	settingTerminal   = "terminal"
	settingCheckpoint = "checkpoint-every"
	settingLayout     = "kernel-layout"
	settingCPUID      = "cpuid"
	settingRing3      = "ring3" // absent: ring 3 does what the model says
	settingSeed       = "seed"
)

// Roles of the inputs in a trace's header, in its order.
const (
	roleKernel    = "kernel"
	roleInitramfs = "initramfs"
	roleImage     = "image"
	roleDisk      = "disk"
)

// traceHeader describes the run: all that a replay needs, and nothing that differs between two recordings of it. Its settings are sorted.
func (m *Machine) traceHeader(hash trace.Hash, redactable bool) *trace.Header {
	c := &m.config
	h := &trace.Header{
		Hash: hash, Redactable: redactable,
		MachineModel: MachineModel, CPUModel: CPUModel, Clock: string(c.Clock),
		NSPerCount: nsPerCount[c.Clock], ScaleNum: m.vt.rate / nsPerCount[c.Clock], ScaleDen: timeScaleUnit,
		StartTime: c.Start.UnixNano(), Seed: binary.LittleEndian.AppendUint64(nil, c.Seed), Version: Version,
		Command: c.Args, Env: c.Env, Devices: m.bus.names,
	}
	set := func(key, value string) { h.Config = append(h.Config, trace.Setting{Key: key, Value: value}) }
	set(settingMemory, strconv.FormatUint(c.Memory, 10))
	set(settingCmdline, c.Kernel.Cmdline)
	set(settingCwd, c.Cwd)
	set(settingUser, c.User)
	set(settingSeed, strconv.FormatUint(c.Seed, 10))
	set(settingStdin, strconv.FormatBool(c.Stdin != nil))
	set(settingCheckpoint, strconv.FormatUint(c.CheckpointEvery, 10))
	set(settingLayout, fmt.Sprintf("%#x %d %d", c.Kernel.Layout.CurrentTask, c.Kernel.Layout.CommOffset, c.Kernel.Layout.TGIDOffset))
	set(settingCPUID, encodeCPUID(m.cpu.CPUID()))
	if c.ring3 != nil {
		set(settingRing3, encodeRing3(c.ring3))
	}
	if c.Terminal {
		set(settingTerminal, fmt.Sprintf("%d %d", c.Rows, c.Cols))
	}
	slices.SortFunc(h.Config, func(a, b trace.Setting) int { return strings.Compare(a.Key, b.Key) })
	in := func(role, name string, size uint64, digest trace.Digest) {
		h.Inputs = append(h.Inputs, trace.Input{Role: role, Name: name, Size: size, Digest: digest})
	}
	in(roleKernel, "", c.Kernel.Image.Size, trace.DigestOf(trace.SHA256, c.Kernel.Image.Digest[:]))
	in(roleInitramfs, "", c.Initramfs.Size, trace.DigestOf(trace.SHA256, c.Initramfs.Digest[:]))
	for role, disk := range disks(c.Root, c.Data) {
		in(role, "", disk.Size, trace.DigestOf(trace.SHA256, disk.Digest[:]))
	}
	return h
}

// disks are those of a root image and a data disk that there are, with their roles, in the order of a header.
func disks(root, data *Disk) iter.Seq2[string, *Disk] {
	return func(yield func(string, *Disk) bool) {
		if root != nil && !yield(roleImage, root) || data == nil {
			return
		}
		yield(roleDisk, data)
	}
}

func encodeCPUID(table []vcpu.CPUIDLeaf) string {
	var b bytes.Buffer
	for _, l := range table {
		_ = binary.Write(&b, binary.LittleEndian, l) // a bytes.Buffer takes everything
	}
	return hex.EncodeToString(b.Bytes())
}

// maxCPUIDLeaves bounds the table in a trace.
const maxCPUIDLeaves = 1024

func decodeCPUID(s string) ([]vcpu.CPUIDLeaf, error) {
	p, err := hex.DecodeString(s)
	if err != nil {
		return nil, fmt.Errorf("decode the CPUID table: %w", err)
	}
	size := binary.Size(vcpu.CPUIDLeaf{})
	if len(p)%size != 0 || len(p)/size > maxCPUIDLeaves {
		return nil, fmt.Errorf("decode the CPUID table: %d bytes", len(p))
	}
	table := make([]vcpu.CPUIDLeaf, len(p)/size)
	if err := binary.Read(bytes.NewReader(p), binary.LittleEndian, table); err != nil {
		return nil, fmt.Errorf("decode the CPUID table: %w", err)
	}
	return table, nil
}

// startRecording opens the trace of a run that is recorded, once the machine stands ready: what fails before leaves none.
func (m *Machine) startRecording() error {
	r := m.config.Record
	if r == nil {
		return nil
	}
	header := m.traceHeader(r.Hash, r.Redactable)
	w, err := trace.NewWriter(r.W, header, trace.Options{MaxSize: r.MaxSize, Host: m.hostSection()})
	if err != nil {
		return fmt.Errorf("start the trace: %w", err)
	}
	m.writer = w
	m.log, m.logging = recorder{w}, true
	if !r.SelfContained {
		return nil
	}
	if err := m.loadBootFiles(); err != nil {
		return err
	}
	for i, p := range [][]byte{m.kernel, m.initramfs} {
		if err := w.AddBlob(i, 0, p); errors.Is(err, trace.ErrSizeLimit) {
			return usagef("--max-trace-size has no room for the kernel and the initramfs of a self-contained trace")
		} else if err != nil {
			return fmt.Errorf("store %s in the trace: %w", header.Inputs[i].Role, err)
		}
	}
	return nil
}

// hostSection is what may differ between two recordings of one run.
func (m *Machine) hostSection() []trace.Setting {
	return []trace.Setting{
		{Key: "engine", Value: m.caps.Engine},
		{Key: "host", Value: runtime.GOOS + "/" + runtime.GOARCH},
		{Key: "recorded-at", Value: m.began.UTC().Format(time.RFC3339)},
	}
}

// endLog logs the end of the run and closes the trace.
func (m *Machine) endLog(state Digest) error {
	r := &m.result
	if !m.logging || r.Outcome == OutcomeDiverged || r.Outcome == OutcomeReplayStopped || m.replaying && m.interrupted {
		return nil
	}
	status := trace.StatusComplete
	if r.Outcome == OutcomeStopped {
		status = trace.StatusAborted
	}
	end := trace.End{Reason: string(r.Outcome)}
	if m.exactEnd() {
		end.State = trace.DigestOf(trace.SHA256, state[:])
	}
	if m.data != nil {
		sum := overlayDigest(m.config.Data.Digest, m.data)
		end.Outputs = append(end.Outputs, trace.Setting{Key: "disk-overlay", Value: string(trace.DigestOf(trace.SHA256, sum[:]))})
	}
	payload, err := end.MarshalBinary()
	if err != nil {
		return fmt.Errorf("encode the end of the trace: %w", err)
	}
	e := trace.Event{Kind: trace.KindEnd, Value: uint64(r.ExitCode), Data: payload}
	m.stamp(&e)
	if err := m.log.event(&e); err != nil {
		return m.logError(err)
	}
	if m.writer == nil {
		return nil
	}
	if m.config.Record.SelfContained {
		if err := m.storeDisks(); errors.Is(err, trace.ErrSizeLimit) {
			status, r.Message = trace.StatusSizeLimit, "the trace reached --max-trace-size and does not hold all disk blocks: its replay needs the images"
		} else if err != nil {
			return err
		}
	}
	sum, err := m.writer.Close(status, []trace.Setting{
		{Key: "from-snapshot", Value: strconv.FormatBool(m.result.FromSnapshot)},
		{Key: "wall-ns", Value: strconv.FormatInt(m.wall().Nanoseconds(), 10)},
	})
	if err != nil {
		return fmt.Errorf("finish the trace: %w", err)
	}
	r.TraceRoot, r.Events, r.TraceBytes = hex.EncodeToString(sum.Root), sum.Events, sum.Size
	return nil
}

// exactEnd reports whether the machine stands where a replay can stop it too: wherever the guest itself ended the run, and anywhere on a clock that counts
// every instruction.
func (m *Machine) exactEnd() bool {
	return !hostOutcomes[m.result.Outcome] || m.caps.Clock == vcpu.ClockInstructions
}

// overlayDigest identifies a disk's final contents by its base's digest and the blocks written over it, so that a replay can compute it without the whole base.
func overlayDigest(base Digest, d *virtio.Disk) Digest {
	h := sha256.New()
	h.Write(base[:])
	for at, block := range d.Dirty() {
		h.Write(binary.LittleEndian.AppendUint64(nil, uint64(at)))
		h.Write(block)
	}
	return Digest(h.Sum(nil))
}

// storeDisks writes the disk blocks that the guest read into the trace.
func (m *Machine) storeDisks() error {
	input := 2
	for _, d := range []struct {
		disk  *Disk
		reads *extents
	}{{m.config.Root, &m.rootReads}, {m.config.Data, &m.dataReads}} {
		if d.disk == nil {
			continue
		}
		for _, x := range d.reads.merged() {
			p := make([]byte, x.end-x.start)
			if _, err := d.disk.Base.ReadAt(p, int64(x.start)); err != nil && err != io.EOF {
				return fmt.Errorf("read the disk for the trace: %w", err)
			}
			if err := m.writer.AddBlob(input, x.start, p); err != nil {
				return fmt.Errorf("store disk blocks in the trace: %w", err)
			}
		}
		input++
	}
	return nil
}

// extents collects byte ranges of a disk that the guest read.
type extents struct{ list []extent }

type extent struct{ start, end uint64 }

// extentsCompactAt bounds the list of a guest that reads all over the disk: it is merged when it grows to this.
const extentsCompactAt = 1 << 16

// extentMax bounds one stored range, so that storing it needs little memory.
const extentMax = 4 << 20

func (x *extents) add(start, n uint64) {
	if last := len(x.list) - 1; last >= 0 && x.list[last].end == start {
		x.list[last].end += n
		return
	}
	if x.list = append(x.list, extent{start, start + n}); len(x.list) == extentsCompactAt {
		x.list = x.union()
	}
}

// union sorts and joins the ranges.
func (x *extents) union() []extent {
	slices.SortFunc(x.list, func(a, b extent) int { return int(int64(a.start) - int64(b.start)) })
	var out []extent
	for _, e := range x.list {
		if last := len(out) - 1; last >= 0 && e.start <= out[last].end {
			out[last].end = max(out[last].end, e.end)
			continue
		}
		out = append(out, e)
	}
	return out
}

// merged is the union in pieces of at most extentMax bytes, ascending.
func (x *extents) merged() []extent {
	var out []extent
	for _, e := range x.union() {
		for e.start < e.end {
			end := min(e.end, e.start+extentMax)
			out = append(out, extent{e.start, end})
			e.start = end
		}
	}
	return out
}

// parseFields parses space-separated numbers of a setting.
func parseFields(s string, fields ...*uint64) error {
	words := strings.Fields(s)
	if len(words) != len(fields) {
		return fmt.Errorf("setting %q: want %d numbers", s, len(fields))
	}
	for i, w := range words {
		v, err := strconv.ParseUint(w, 0, 64)
		if err != nil {
			return fmt.Errorf("setting %q: %w", s, err)
		}
		*fields[i] = v
	}
	return nil
}
