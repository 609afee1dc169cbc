package vmm

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/detvm/detvm/trace"
	"github.com/detvm/detvm/vcpu"
)

// ReplayConfig says how to replay a trace. What the trace stores itself (--self-contained) need not be given.
type ReplayConfig struct {
	Engine          string // EngineAuto when empty: any that can count the trace's clock
	Kernel          Blob   // its digest is compared with the trace's
	Initramfs       Blob
	Root, Data      *Disk
	Stdout, Stderr  io.Writer // nil drops the output
	SnapshotDir     string
	Until           func(index uint64, e *trace.Event) bool // stop after the first event for which it is true; nil replays all
	Progress        func(events uint64)
	Log, Notice     func(string)
	AllowMismatch   bool    // replay with other inputs than the recorded ones, to see where they part
	Seed            *uint64 // another seed than the recorded one, likewise; needs AllowMismatch
	WallTime, Stall time.Duration
	perturb         func(vcpu.CPU) vcpu.CPU
}

// ReplayResult is what a replay found.
type ReplayResult struct {
	Identical  bool        `json:"identical"` // the header is that of this run, every event of the trace came again, and nothing else
	Complete   bool        `json:"complete"`  // the replay went to the end of the trace
	Events     uint64      `json:"events"`    // that were compared
	Divergence *Divergence `json:"first_divergence"`
	// Partial lists the disks (roles) of which the trace stores only the blocks that were read: that the rest belongs to the digests in the header is
	// the recorder's word. With the files given there are none.
	Partial []string `json:"partial_inputs,omitempty"`
	// Header lists where the trace's header (A) says other things than what was replayed (B); only with ReplayConfig.AllowMismatch.
	Header []trace.FieldDifference `json:"header_differences,omitempty"`
	At     *Moment                 `json:"stopped_at,omitempty"` // where a partial replay stopped
	*Result
}

// Replay runs a trace again and compares every event. A divergence is a result, not an error.
func Replay(ctx context.Context, r *trace.Reader, rc ReplayConfig) (*ReplayResult, error) {
	result, err := replayOnce(ctx, r, rc)
	if err != nil || !result.FromSnapshot || result.BootExits > 0 || result.Divergence == nil && result.At == nil {
		return result, err
	}
	// It ended at an event of the boot, but the machine came out of a snapshot: to show it as it was at that event, it has to boot.
	rc.SnapshotDir = ""
	return replayOnce(ctx, r, rc)
}

func replayOnce(ctx context.Context, r *trace.Reader, rc ReplayConfig) (*ReplayResult, error) {
	m, err := NewReplay(r, rc)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	return m.Replay(ctx)
}

// NewReplay makes the machine that a trace describes, ready for [Machine.Replay].
func NewReplay(r *trace.Reader, rc ReplayConfig) (*Machine, error) {
	c, err := replayConfig(r, &rc)
	if err != nil {
		return nil, err
	}
	m, err := New(c)
	if err != nil {
		return nil, err
	}
	own := m.traceHeader(r.Header().Hash, r.Header().Redactable)
	if own.Version != r.Header().Version {
		c.Notice(fmt.Sprintf("the trace was recorded by detvm %s, and is replayed by %s", r.Header().Version, own.Version))
		own.Version = r.Header().Version // nothing that a replay could confirm
	}
	if m.headerDiffers = r.Header().Differences(own); len(m.headerDiffers) > 0 && !rc.AllowMismatch {
		m.Close()
		return nil, headerError(m.headerDiffers[0].Short())
	}
	m.replaying = true
	if m.replay, err = newReplayer(r, rc.Until, rc.Progress); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// headerError says that the trace's header does not describe the run that its replay is: what it claims beyond that would go unchecked.
func headerError(d trace.FieldDifference) error {
	return fmt.Errorf("the trace's header says of its %s: %s, but a replay here is of a run with %s, so it cannot confirm the trace; with --force it shows where that makes a difference",
		d.Field, d.A, d.B)
}

// Replay runs the trace that the machine was made for.
func (m *Machine) Replay(ctx context.Context) (*ReplayResult, error) {
	m.log, m.logging = m.replay, true
	result, err := m.Run(ctx)
	if err != nil {
		return nil, err
	}
	rr := &ReplayResult{Result: result, Events: m.replay.index, Divergence: m.divergence, Header: m.headerDiffers, Partial: m.config.partialDisks()}
	same := len(m.headerDiffers) == 0
	switch result.Outcome {
	case OutcomeReplayStopped:
		rr.Identical, rr.At = same, m.moment()
		return rr, nil
	case OutcomeDiverged:
		return rr, nil
	}
	if m.divergence != nil { // in the end event itself
		return rr, nil
	}
	if m.interrupted {
		return rr, nil // by the replaying user: nothing is known of the rest
	}
	if d := m.replay.done(result.Outcome); d != nil {
		if result.Message != "" {
			d.Reason += " (" + result.Message + ")"
		}
		d.complete(m)
		rr.Divergence = d
		return rr, nil
	}
	rr.Identical, rr.Complete = same, true
	return rr, nil
}

// replayConfig turns a trace's header back into the configuration of its run.
func replayConfig(r *trace.Reader, rc *ReplayConfig) (Config, error) {
	h := r.Header()
	c := Config{
		Engine: rc.Engine, Clock: vcpu.Clock(h.Clock), Command: Command{Args: h.Command, Env: h.Env},
		Start: time.Unix(0, h.StartTime).UTC(), TimeScale: float64(h.ScaleNum) / timeScaleUnit,
		Stdout: rc.Stdout, Stderr: rc.Stderr, SnapshotDir: rc.SnapshotDir, Log: rc.Log, Notice: rc.Notice,
		Limits: Limits{WallTime: rc.WallTime, Stall: rc.Stall}, perturb: rc.perturb, fromTrace: true,
	}
	if h.MachineModel != MachineModel || h.CPUModel != CPUModel {
		return c, fmt.Errorf("the trace is of machine %s with CPU %s; this detvm has %s with %s", h.MachineModel, h.CPUModel, MachineModel, CPUModel)
	}
	if h.ScaleDen != timeScaleUnit || h.NSPerCount != nsPerCount[c.Clock] || nsPerCount[c.Clock] == 0 {
		return c, fmt.Errorf("the trace counts time in a way that this detvm does not: clock %s, %d ns × %d/%d", h.Clock, h.NSPerCount, h.ScaleNum, h.ScaleDen)
	}
	if err := c.applySettings(h); err != nil {
		return c, fmt.Errorf("the trace's header: %w", err)
	}
	if rc.Seed != nil && *rc.Seed != c.Seed {
		if !rc.AllowMismatch {
			return c, usagef("the given seed %d is not the recorded one, %d; with --force the replay shows where that makes a difference", *rc.Seed, c.Seed)
		}
		c.Seed = *rc.Seed
	}
	return c, c.replayInputs(r, rc)
}

// applySettings reads back what Machine.traceHeader set.
func (c *Config) applySettings(h *trace.Header) error {
	get := func(key string) string {
		v, _ := h.Setting(key)
		return v
	}
	c.Kernel.Cmdline, c.Cwd, c.User = get(settingCmdline), get(settingCwd), get(settingUser)
	l := &c.Kernel.Layout
	err := errors.Join(
		parseFields(get(settingMemory), &c.Memory),
		parseFields(get(settingSeed), &c.Seed),
		parseFields(get(settingCheckpoint), &c.CheckpointEvery),
		parseFields(get(settingLayout), &l.CurrentTask, &l.CommOffset, &l.TGIDOffset),
	)
	if err != nil {
		return err
	}
	if get(settingStdin) == "true" {
		c.Stdin = strings.NewReader("") // the trace has the bytes
	}
	if size, ok := h.Setting(settingTerminal); ok {
		var rows, cols uint64
		if err := parseFields(size, &rows, &cols); err != nil {
			return err
		}
		c.Terminal, c.Rows, c.Cols = true, uint16(rows), uint16(cols)
	}
	if c.cpuid, err = decodeCPUID(get(settingCPUID)); err != nil {
		return err
	}
	c.ring3, err = decodeRing3(get(settingRing3))
	return err
}

// replayInputs finds each input of the recorded run: as given, else in the trace.
func (c *Config) replayInputs(r *trace.Reader, rc *ReplayConfig) error {
	for i, in := range r.Header().Inputs {
		var err error
		switch in.Role {
		case roleKernel:
			c.Kernel.Image, err = replayBlob(r, i, in, rc.Kernel, rc.AllowMismatch)
		case roleInitramfs:
			c.Initramfs, err = replayBlob(r, i, in, rc.Initramfs, rc.AllowMismatch)
		case roleImage:
			c.Root, err = replayDisk(r, i, in, rc.Root, rc.AllowMismatch)
		case roleDisk:
			c.Data, err = replayDisk(r, i, in, rc.Data, rc.AllowMismatch)
		default:
			err = errors.New("this detvm does not know such an input")
		}
		if err != nil {
			return fmt.Errorf("the trace's %s: %w", in.Role, err)
		}
	}
	for role, given := range disks(rc.Root, rc.Data) {
		if !slices.ContainsFunc(r.Header().Inputs, func(in trace.Input) bool { return in.Role == role }) {
			return usagef("--%s %s: the recorded run had none", role, given.Name)
		}
	}
	return nil
}

// partialDisks names the disks that are known in part.
func (c *Config) partialDisks() []string {
	var roles []string
	for role, disk := range disks(c.Root, c.Data) {
		if disk.partial {
			roles = append(roles, role)
		}
	}
	return roles
}

// maxStoredBlob bounds a kernel or initramfs that is read out of a trace.
const maxStoredBlob = 1 << 30

func replayBlob(r *trace.Reader, i int, in trace.Input, given Blob, mismatch bool) (Blob, error) {
	if given.Size > 0 {
		return given, matches(in, trace.DigestOf(trace.SHA256, given.Digest[:]), mismatch)
	}
	stored, err := storedInput(r, i, in)
	if err != nil {
		return Blob{}, err
	}
	if in.Size > maxStoredBlob {
		return Blob{}, fmt.Errorf("%d bytes are too many", in.Size)
	}
	digest, err := inputDigest(in)
	return Blob{Size: in.Size, Digest: digest, Load: func() ([]byte, error) {
		p := make([]byte, in.Size)
		if _, err := io.ReadFull(io.NewSectionReader(stored, 0, int64(in.Size)), p); err != nil {
			return nil, fmt.Errorf("read it from the trace: %w", err)
		}
		return p, nil
	}}, err
}

// inputDigest is the digest of an input, which machines know by SHA-256.
func inputDigest(in trace.Input) (Digest, error) {
	sum, err := hex.DecodeString(in.Digest.Hex())
	if err != nil || len(sum) != len(Digest{}) || in.Digest.Algorithm() != trace.SHA256 {
		return Digest{}, fmt.Errorf("digest %s is not a SHA-256", in.Digest)
	}
	return Digest(sum), nil
}

// matches checks the digest of a given input.
func matches(in trace.Input, got trace.Digest, mismatch bool) error {
	if mismatch || got == in.Digest {
		return nil
	}
	return fmt.Errorf("the given file has the digest %s, not the recorded %s; a replay that allows for that (--force) shows where it makes a difference", got, in.Digest)
}

func replayDisk(r *trace.Reader, i int, in trace.Input, given *Disk, mismatch bool) (*Disk, error) {
	if given != nil {
		return given, matches(in, trace.DigestOf(trace.SHA256, given.Digest[:]), mismatch)
	}
	stored, err := storedInput(r, i, in)
	if err != nil {
		return nil, err
	}
	digest, err := inputDigest(in)
	return &Disk{Name: in.Role + " in the trace", Base: stored, Size: in.Size, Digest: digest, partial: true}, err
}

// storedInput opens an input inside the trace, or says which file is missing.
func storedInput(r *trace.Reader, i int, in trace.Input) (*trace.InputReader, error) {
	parts, err := r.Stored(i)
	if err != nil {
		return nil, fmt.Errorf("look for it in the trace: %w", err)
	}
	if len(parts) == 0 && in.Size > 0 {
		return nil, fmt.Errorf("the file with digest %s is needed: give it by flag, or record with --self-contained", in.Digest)
	}
	return r.OpenInput(i)
}
