package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/detvm/detvm/trace"
	"github.com/detvm/detvm/vmm"
)

// checkReport is what check found.
type checkReport struct {
	Deterministic bool            `json:"deterministic"` // all equal runs were equal in every event
	Runs          int             `json:"runs"`
	StateSHA256   string          `json:"state_sha256"`
	TraceRoot     string          `json:"trace_root"`
	ExitCode      int             `json:"exit_code"`
	Message       string          `json:"message,omitempty"`    // of the run: that the command does not exist, say
	Difference    *traceDiff      `json:"difference,omitempty"` // between the first run and the first that was not equal
	DifferentRun  int             `json:"different_run,omitempty"`
	Variations    []variationDiff `json:"variations"`
}

// variationDiff is what a changed seed or start time did.
type variationDiff struct {
	Name      string     `json:"name"`
	Changes   []string   `json:"changes"` // of stdout, stderr, exit code, disk, timing
	FirstSeen *eventDiff `json:"first_seen,omitempty"`
}

// checkedRun is one recorded run.
type checkedRun struct {
	result *vmm.Result
	path   string
}

func newCheckCommand() *cobra.Command {
	var f machineFlags
	var runs int
	var stdin string
	var asJSON bool
	c := &cobra.Command{
		Use:   "check [flags] -- command [args…]",
		Short: "Run a command several times and say what is deterministic and what depends on seed and time",
		Long: `Run a command several times with the same configuration and compare every event; then once with another seed and once with another start time, and say
what those change. Exit code 1 when equal runs differ, which is a bug in detvm or a fault of the host.`,
		Example: `  detvm check -- sh -c 'date; head -c 4 /dev/urandom | hexdump'
  detvm check --runs 20 --image debian.img -- make -C /src`,
		Args: cobra.MinimumNArgs(1),
		RunE: interruptible(func(cmd *cobra.Command, args []string) error {
			if runs < 2 {
				return usagef("--runs %d: want 2 or more", runs)
			}
			if f.diskOut != "" {
				return usagef("--disk-out: of which run? check keeps none: use 'detvm run'")
			}
			dir, err := os.MkdirTemp("", "detvm-check-")
			if err != nil {
				return fmt.Errorf("make a directory for the traces: %w", err)
			}
			defer os.RemoveAll(dir)
			if stdin, err = rereadable(stdin, dir); err != nil {
				return err
			}
			k := &checker{cmd: cmd, flags: f, args: args, dir: dir, stdin: stdin}
			k.bar = newProgress(cmd.ErrOrStderr(), "check", uint64(runs+2))
			report, err := k.check(runs)
			k.bar.clear()
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			if err := printJSONOr(out, asJSON, report, func() { printCheck(out, report) }); err != nil {
				return err
			}
			if !report.Deterministic {
				return exitError{exitFailure}
			}
			return nil
		}),
	}
	c.Flags().SetInterspersed(false)
	f.register(c)
	c.Flags().IntVar(&runs, "runs", 3, "how many equal runs to compare")
	c.Flags().StringVar(&stdin, "stdin", "", "file to feed to the command (default: empty input)")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// rereadable is a file with the bytes of the one at path that every run can read from the start: itself, or what has come out of a pipe or device.
func rereadable(path, dir string) (string, error) {
	if path == "" {
		return "", nil
	}
	in, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("open --stdin: %w", err)
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil || info.Mode().IsRegular() {
		return path, err
	}
	kept := filepath.Join(dir, "stdin")
	if err := writeFile(kept, func(w io.Writer) error {
		_, err := io.Copy(w, in)
		return err
	}); err != nil {
		return "", fmt.Errorf("keep --stdin for every run: %w", err)
	}
	return kept, nil
}

type checker struct {
	cmd   *cobra.Command
	flags machineFlags
	args  []string
	dir   string
	stdin string
	bar   *progressBar
	done  uint64
}

// run records one run, changed by vary.
func (k *checker) run(name string, vary func(*vmm.Config)) (*checkedRun, error) {
	config, cleanup, err := k.flags.config(k.args, k.cmd.ErrOrStderr())
	if err != nil {
		return nil, err
	}
	defer cleanup()
	if k.stdin != "" {
		in, err := os.Open(k.stdin)
		if err != nil {
			return nil, fmt.Errorf("open --stdin: %w", err)
		}
		defer in.Close()
		config.Stdin = in
	}
	path := filepath.Join(k.dir, name)
	file, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("create a trace: %w", err)
	}
	defer file.Close()
	config.Record = &vmm.Recording{W: file, Hash: trace.SHA256}
	vary(&config)
	result, err := vmm.Run(k.cmd.Context(), config)
	if err != nil {
		return nil, err
	}
	switch {
	case result.Outcome == vmm.OutcomeStopped:
		return nil, exitError{result.ExitCode}
	case hostEnded(result, config.Limits.WallTime):
		return nil, fmt.Errorf("run %q was ended by the host, at a position that no other run ends at, so there is nothing to compare: %s", name, result.Message)
	}
	k.done++
	k.bar.set(k.done)
	return &checkedRun{result, path}, nil
}

// hostEnded reports whether the host's clock or files ended a run, rather than anything that a run like it would meet again.
func hostEnded(r *vmm.Result, timeout time.Duration) bool {
	switch r.Outcome {
	case vmm.OutcomeStalled, vmm.OutcomeOutputFailure, vmm.OutcomeHostFailure:
		return true
	case vmm.OutcomeLimit:
		return timeout > 0 && time.Duration(r.WallNS) >= timeout
	}
	return false
}

func (k *checker) check(runs int) (*checkReport, error) {
	same := func(*vmm.Config) {}
	first, err := k.run("run-0", same)
	if err != nil {
		return nil, err
	}
	report := &checkReport{Deterministic: true, Runs: 1, StateSHA256: first.result.StateSHA256, TraceRoot: first.result.TraceRoot, ExitCode: first.result.ExitCode,
		Message: first.result.Message, Variations: []variationDiff{}}
	for n := 1; n < runs; n++ {
		again, err := k.run(fmt.Sprintf("run-%d", n), same)
		if err != nil {
			return nil, err
		}
		report.Runs++
		if again.result.TraceRoot == first.result.TraceRoot && again.result.StateSHA256 == first.result.StateSHA256 {
			continue
		}
		report.Deterministic, report.DifferentRun = false, n
		report.Difference, err = k.difference(first, again)
		return report, err
	}
	for _, v := range []struct {
		name string
		vary func(*vmm.Config)
	}{
		{"seed", func(c *vmm.Config) { c.Seed++ }},
		{"start time", func(c *vmm.Config) {
			if c.Start.IsZero() {
				c.Start = vmm.DefaultStart
			}
			c.Start = c.Start.Add(1234567891 * time.Millisecond)
		}},
	} {
		other, err := k.run(v.name, v.vary)
		if err != nil {
			return nil, err
		}
		d, err := compareVariation(k.cmd.Context(), v.name, first, other)
		if err != nil {
			return nil, err
		}
		report.Variations = append(report.Variations, *d)
	}
	return report, nil
}

// compareVariation says what a variation changed for the user, and where it first showed.
func compareVariation(ctx context.Context, name string, a, b *checkedRun) (*variationDiff, error) {
	v := &variationDiff{Name: name, Changes: []string{}}
	for _, c := range []struct {
		what string
		same bool
	}{
		{"stdout", a.result.StdoutSHA256 == b.result.StdoutSHA256},
		{"stderr", a.result.StderrSHA256 == b.result.StderrSHA256},
		{"exit code", a.result.ExitCode == b.result.ExitCode},
		{"disk", a.result.DiskSHA256 == b.result.DiskSHA256},
		{"number of exits", a.result.Exits == b.result.Exits},
	} {
		if !c.same {
			v.Changes = append(v.Changes, c.what)
		}
	}
	if len(v.Changes) == 0 {
		return v, nil
	}
	ra, rb, closePair, err := openPair(ctx, a.path, b.path)
	if err != nil {
		return nil, err
	}
	defer closePair()
	v.FirstSeen, err = firstOutputDifference(ra, rb)
	return v, err
}

// difference compares two runs that should be equal.
func (k *checker) difference(a, b *checkedRun) (*traceDiff, error) {
	ra, rb, closePair, err := openPair(k.cmd.Context(), a.path, b.path)
	if err != nil {
		return nil, err
	}
	defer closePair()
	return diffTraces(ra, rb, 5)
}

func printCheck(out io.Writer, r *checkReport) {
	if !r.Deterministic {
		fmt.Fprintf(out, "NOT deterministic: run %d differs from run 0", r.DifferentRun)
		if r.Difference != nil {
			d := r.Difference
			if d.Event != nil {
				fmt.Fprintf(out, " at event %d (%s); suspect: %s", *d.Event, d.DiffersIn, cmp.Or(d.Suspect, "how the runs ended"))
			}
		}
		fmt.Fprintln(out)
		return
	}
	fmt.Fprintf(out, "deterministic: %d runs, every event equal (exit code %d)\n  trace root %s\n  state      %s\n", r.Runs, r.ExitCode, r.TraceRoot, r.StateSHA256)
	if r.Message != "" {
		fmt.Fprintf(out, "  each run ended with: %s\n", plain(r.Message))
	}
	for _, v := range r.Variations {
		if len(v.Changes) == 0 {
			fmt.Fprintf(out, "does not depend on the %s\n", v.Name)
			continue
		}
		fmt.Fprintf(out, "depends on the %s, which changes: %s", v.Name, strings.Join(v.Changes, ", "))
		if v.FirstSeen != nil {
			fmt.Fprintf(out, "; first seen in %v", v.FirstSeen)
		}
		fmt.Fprintln(out)
	}
}
