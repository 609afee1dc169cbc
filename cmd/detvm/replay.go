package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/detvm/detvm/images"
	"github.com/detvm/detvm/trace"
	"github.com/detvm/detvm/vmm"
)

// replayFlags are the flags of every command that replays.
type replayFlags struct {
	cpu, kernel, initramfs, image, disk string
	noSnapshot, force                   bool
	timeout                             time.Duration
	seed                                uint64
	reseed                              bool // --seed was given
}

func (f *replayFlags) register(c *cobra.Command) {
	f.registerFiles(c)
	c.Flags().BoolVar(&f.force, "force", false, "replay even with files (or a seed) that are not the recorded ones, to see where that makes a difference")
}

// registerFiles registers what a replay that must be true may be given.
func (f *replayFlags) registerFiles(c *cobra.Command) {
	fs := c.Flags()
	fs.StringVar(&f.cpu, "cpu", vmm.EngineAuto, "engine: auto, kvm or soft; it must be able to count the trace's clock")
	fs.StringVar(&f.kernel, "kernel", "", "kernel of the recorded run, if it was neither the built-in one nor stored in the trace")
	fs.StringVar(&f.initramfs, "initramfs", "", "initramfs of the recorded run, likewise")
	fs.StringVar(&f.image, "image", "", "root image of the recorded run (file or name), unless stored in the trace")
	fs.StringVar(&f.disk, "disk", "", "data disk of the recorded run, unless stored in the trace")
	fs.BoolVar(&f.noSnapshot, "no-snapshot", false, "boot from cold and leave the snapshot cache alone")
	fs.DurationVar(&f.timeout, "timeout", 0, "give up after this much time on the host")
}

// config finds the recorded run's files. Those that it opens are closed by cleanup.
func (f *replayFlags) config(h *trace.Header, stderr io.Writer) (rc vmm.ReplayConfig, cleanup func(), err error) {
	var files []io.Closer
	cleanup = func() {
		for _, file := range files {
			_ = file.Close()
		}
	}
	rc = vmm.ReplayConfig{Engine: f.cpu, AllowMismatch: f.force, WallTime: f.timeout, Stall: defaultStall,
		Notice: func(s string) { fmt.Fprintln(stderr, "detvm:", s) }}
	if f.reseed {
		rc.Seed = &f.seed
	}
	if err := f.bootFiles(h, &rc); err != nil {
		return rc, cleanup, err
	}
	if f.image != "" {
		path, err := findImage(f.image)
		if err != nil {
			return rc, cleanup, err
		}
		if rc.Root, err = openDisk(path, &files); err != nil {
			return rc, cleanup, err
		}
	}
	if f.disk != "" {
		if rc.Data, err = openDisk(f.disk, &files); err != nil {
			return rc, cleanup, err
		}
	}
	if !f.noSnapshot {
		if dir, err := snapshotDir(); err == nil {
			rc.SnapshotDir = dir
		}
	}
	return rc, cleanup, nil
}

// recorded reports whether the input with this role has the SHA-256 sum.
func recorded(h *trace.Header, role string, sum [sha256.Size]byte) bool {
	for _, in := range h.Inputs {
		if in.Role == role {
			return trace.DigestOf(trace.SHA256, sum[:]) == in.Digest
		}
	}
	return false
}

// bootFiles sets kernel and initramfs: those given, else those built in if they are the recorded ones. Otherwise the trace may store them.
func (f *replayFlags) bootFiles(h *trace.Header, rc *vmm.ReplayConfig) (err error) {
	if f.kernel != "" {
		if rc.Kernel, err = fileBlob("kernel", f.kernel); err != nil {
			return err
		}
	} else if k, err := images.GuestKernel(); err == nil && recorded(h, "kernel", k.SHA256) {
		rc.Kernel = embeddedBlob(k.File)
	}
	if f.initramfs != "" {
		rc.Initramfs, err = fileBlob("initramfs", f.initramfs)
		return err
	}
	for _, builtin := range []func() (*images.File, error){images.DefaultInitramfs, images.BaseInitramfs} {
		if a, err := builtin(); err == nil && recorded(h, "initramfs", a.SHA256) {
			rc.Initramfs = embeddedBlob(a)
		}
	}
	return nil
}

// parseUntil parses --until: an event number (N or event:N), position:N, or a time (time:DURATION or a plain duration) of virtual time since machine start.
func parseUntil(s string, r *trace.Reader) (func(index uint64, e *trace.Event) bool, error) {
	if s == "" {
		return nil, nil
	}
	kind, value, ok := strings.Cut(s, ":")
	if !ok {
		kind, value = "event", s
		if _, err := strconv.ParseUint(s, 10, 64); err != nil {
			kind = "time"
		}
	}
	if kind == "time" {
		d, err := time.ParseDuration(value)
		if err != nil || d < 0 {
			return nil, usagef("--until %q: want a time like 1.5s", s)
		}
		return func(_ uint64, e *trace.Event) bool { return e.Time >= uint64(d) }, nil
	}
	n, err := strconv.ParseUint(value, 10, 64)
	if err != nil {
		return nil, usagef("--until %q: want EVENT, position:N or time:DURATION", s)
	}
	switch kind {
	case "event":
		if n >= r.NumEvents() {
			return nil, usagef("--until %s: the trace has events 0 to %d", s, max(r.NumEvents(), 1)-1)
		}
		return func(index uint64, _ *trace.Event) bool { return index >= n }, nil
	case "position":
		return func(_ uint64, e *trace.Event) bool { return e.Position >= n }, nil
	}
	return nil, usagef("--until %q: want EVENT, position:N or time:DURATION", s)
}

func newReplayCommand() *cobra.Command {
	var f replayFlags
	var sign signFlags
	var until, jsonPath string
	var output bool
	c := &cobra.Command{
		Use:   "replay [flags] TRACE",
		Short: "Run a trace again and compare every event",
		Long: `Run a trace again, feeding it the recorded inputs, and compare every event with the recorded one. The first difference stops the replay and is
reported: exit code 1. Neither network, standard input nor (for a self-contained trace) any other file is needed.`,
		Example: `  detvm replay run.dtr
  detvm replay run.dtr --output                # and print what the command printed
  detvm replay run.dtr --until time:2.5s       # stop there and show the processor
  detvm replay run.dtr --json result.json
  detvm replay run.dtr --force --kernel vmlinux # where does another kernel make a difference?`,
		Args: cobra.ExactArgs(1),
		RunE: interruptible(func(cmd *cobra.Command, args []string) error {
			r, closer, err := openTrace(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			defer closer.Close()
			results, err := newJSONFile(jsonPath, args[0])
			if err != nil {
				return err
			}
			defer results.discard()
			f.reseed = cmd.Flags().Changed("seed")
			result, err := f.replay(cmd, r, until, output)
			if err != nil {
				return err
			}
			if err := results.put(newReplayJSON(r.Header(), result)); err != nil {
				return err
			}
			if err := reportReplay(cmd.ErrOrStderr(), r, result, until); err != nil || !sign.given() {
				return err
			}
			path, err := sign.countersign(cmd.Context(), args[0], r, result)
			if err != nil {
				return fmt.Errorf("attest the replay: %w", err)
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "signed: %s\n", path)
			return nil
		}),
	}
	f.register(c)
	c.Flags().Uint64Var(&f.seed, "seed", 0, "with --force: another seed than the recorded one")
	sign.register(c, "attest", "sign that the replay was identical at every event, with this key")
	c.Flags().StringVar(&until, "until", "", "stop after this event: number N, or the first at or after position:N or time:DURATION of virtual time")
	c.Flags().BoolVar(&output, "output", false, "write the command's output to standard output and error")
	c.Flags().StringVar(&jsonPath, "json", "", "write the result as JSON to this file ('-' is standard output)")
	return c
}

// replay runs a trace with a progress bar.
func (f *replayFlags) replay(cmd *cobra.Command, r *trace.Reader, until string, output bool) (*vmm.ReplayResult, error) {
	checking := newProgress(cmd.ErrOrStderr(), "verify", uint64(r.Size()))
	report, err := r.Verify(func(done, _ int64) { checking.set(uint64(done)) })
	checking.clear()
	if err != nil {
		return nil, err
	}
	if err := report.Damage(); err != nil {
		return nil, fmt.Errorf("%w; a damaged trace is not replayed", err)
	}
	rc, cleanup, err := f.config(r.Header(), cmd.ErrOrStderr())
	if err != nil {
		return nil, err
	}
	defer cleanup()
	stop, err := parseUntil(until, r)
	if err != nil {
		return nil, err
	}
	rc.Until = stop
	if output {
		rc.Stdout, rc.Stderr = cmd.OutOrStdout(), cmd.ErrOrStderr()
	}
	bar := newProgress(cmd.ErrOrStderr(), "replay", r.NumEvents())
	rc.Progress = bar.set
	result, err := vmm.Replay(cmd.Context(), r, rc)
	bar.clear()
	if err != nil {
		return nil, err
	}
	nameFunction(result.At, rc.Root)
	if d := result.Divergence; d != nil {
		nameFunction(d.At, rc.Root)
	}
	return result, nil
}

// replayJSON is replay's JSON form: events in it look like those of inspect and diff.
type replayJSON struct {
	*vmm.ReplayResult
	Divergence *divergenceJSON `json:"first_divergence"`
}

type divergenceJSON struct {
	*vmm.Divergence
	Want *eventJSON `json:"want"`
	Got  *eventJSON `json:"got"`
}

func newReplayJSON(h *trace.Header, r *vmm.ReplayResult) replayJSON {
	j := replayJSON{ReplayResult: r}
	if d := r.Divergence; d != nil {
		j.Divergence = &divergenceJSON{d, optionalJSON(h, d.Index, d.Want), optionalJSON(h, d.Index, d.Got)}
	}
	return j
}

// reportReplay tells a person what a replay found; a divergence is exit code 1.
func reportReplay(w io.Writer, r *trace.Reader, result *vmm.ReplayResult, until string) error {
	for _, d := range result.Header {
		d = d.Short()
		fmt.Fprintf(w, "header: %s differs\n  recorded: %s\n  replayed: %s\n", d.Field, d.A, d.B)
	}
	if d := result.Divergence; d != nil {
		what := "the " + d.Reason + " differs"
		if d.Want == nil || d.Got == nil {
			what = d.Reason // one of the two has ended
		}
		fmt.Fprintf(w, "DIVERGED at event %d: %s; suspect: %s\n", d.Index, what, d.Suspect)
		printEventLine(w, r.Header(), "recorded", d.Index, d.Want)
		printEventLine(w, r.Header(), "replayed", d.Index, d.Got)
		printMoment(w, ranKernel(r.Header(), result), d.At)
		return exitError{exitFailure}
	}
	if len(result.Header) > 0 && (result.Complete || result.At != nil) {
		fmt.Fprintf(w, "all %d events are equal, but the header is not\n", result.Events)
		return exitError{exitFailure}
	}
	if cut, _ := r.Truncated(); cut {
		fmt.Fprintf(w, "identical at all %d events that the trace has; the recording was cut off there\n", result.Events)
		return nil
	}
	if result.Complete && until != "" {
		fmt.Fprintf(w, "the run ends before --until %s\n", until)
	}
	if !result.Complete && result.At != nil {
		fmt.Fprintf(w, "identical at all %d events up to here\n", result.Events)
		printMoment(w, ranKernel(r.Header(), result), result.At)
		return nil
	}
	if !result.Identical {
		return fmt.Errorf("the replay ended early (%s) after %d events: %s", result.Outcome, result.Events, result.Message)
	}
	fmt.Fprintf(w, "identical: %d events, state %s\n", result.Events, result.StateSHA256)
	for _, role := range result.Partial {
		fmt.Fprintf(w, "note: the trace stores only what the run read of its %s; that this belongs to the %s with the digest in the header is the recorder's word (--%s FILE checks it)\n", role, role, role)
	}
	return nil
}

// ranKernel is the header if the replay ran the kernel that it names, and else, with --force, one that names none: no function of it is known.
func ranKernel(h *trace.Header, result *vmm.ReplayResult) *trace.Header {
	sum, err := hex.DecodeString(result.KernelSHA256)
	if err != nil || len(sum) != sha256.Size || !recorded(h, "kernel", [sha256.Size]byte(sum)) {
		return &trace.Header{}
	}
	return h
}

func printMoment(w io.Writer, h *trace.Header, m *vmm.Moment) {
	if m == nil {
		return
	}
	fmt.Fprintf(w, "%s(%s, pid %d)%s\n", m.Registers, plain(m.Task), m.PID, symbolSuffix(h, m.RIP))
	for _, line := range m.Disassembly {
		fmt.Fprintln(w, " ", line)
	}
	if u := m.User; u != nil {
		fmt.Fprintf(w, "program at rip %016x", u.RIP)
		if u.Symbol != "" {
			fmt.Fprintf(w, " <%s>", plain(u.Symbol))
		}
		if u.Module != "" {
			fmt.Fprintf(w, " in %s", plain(u.Module))
		}
		fmt.Fprintln(w)
	}
}

// nameFunction looks in the root image for a name of the function that the program is in, if the guest's memory had none.
func nameFunction(m *vmm.Moment, root *vmm.Disk) {
	if m == nil || m.User == nil || m.User.Symbol != "" || m.User.BuildID == "" || root == nil {
		return
	}
	if name, err := images.Function(root.Base, m.User.BuildID, m.User.Address); err == nil { // else there is no name
		m.User.Symbol = name
	}
}
