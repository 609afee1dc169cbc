package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/detvm/detvm/trace"
	"github.com/detvm/detvm/vmm"
)

// traceDiff is where two traces part.
type traceDiff struct {
	Same      bool                    `json:"identical"`
	Event     uint64                  `json:"first_difference,omitempty"`
	DiffersIn string                  `json:"differs_in,omitempty"`
	Suspect   string                  `json:"suspect,omitempty"`
	A         *eventJSON              `json:"a,omitempty"`
	B         *eventJSON              `json:"b,omitempty"`
	Before    []eventJSON             `json:"before,omitempty"`
	Header    []trace.FieldDifference `json:"header,omitempty"`
	Status    [2]string               `json:"status"` // how the traces end
	Machines  [2]*vmm.Moment          `json:"machines"`
	want, got *trace.Event
}

func newDiffCommand() *cobra.Command {
	var f replayFlags
	var context int
	var asJSON, noReplay bool
	c := &cobra.Command{
		Use:   "diff [flags] A B",
		Short: "Show where two traces part, and what to suspect",
		Long: `Find the first event in which two traces differ, and print it with the events before it. When the inputs of the runs are at hand, both are replayed
up to there and the processor is shown: registers, disassembly, the kernel function at RIP. Exit code 1 when the traces differ.`,
		Args: cobra.ExactArgs(2),
		RunE: interruptible(func(cmd *cobra.Command, args []string) error {
			a, closeA, err := openTrace(args[0])
			if err != nil {
				return err
			}
			defer closeA.Close()
			b, closeB, err := openTrace(args[1])
			if err != nil {
				return err
			}
			defer closeB.Close()
			d, err := diffTraces(a, b, context)
			if err != nil {
				return err
			}
			if !d.Same && !noReplay {
				for i, r := range []*trace.Reader{a, b} {
					d.Machines[i] = f.momentAt(cmd, r, d.Event)
				}
			}
			out := cmd.OutOrStdout()
			if err := printJSONOr(out, asJSON, d, func() { printDiff(out, a, b, d) }); err != nil {
				return err
			}
			if !d.Same {
				return exitError{exitFailure}
			}
			return nil
		}),
	}
	f.register(c)
	c.Flags().IntVar(&context, "context", 5, "how many events before the difference to show")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.Flags().BoolVar(&noReplay, "no-replay", false, "do not replay the traces to show the processor")
	return c
}

// diffTraces compares headers and events.
func diffTraces(a, b *trace.Reader, context int) (*traceDiff, error) {
	d := &traceDiff{Header: a.Header().Differences(b.Header()), Status: [2]string{endText(a), endText(b)}}
	ia, ib := a.Events(0), b.Events(0)
	defer ia.Close()
	defer ib.Close()
	for n := uint64(0); ; n++ {
		okA, okB := ia.Next(), ib.Next()
		if err := errors.Join(ia.Err(), ib.Err()); err != nil {
			return nil, fmt.Errorf("read events: %w", err)
		}
		if !okA && !okB {
			d.Same = len(d.Header) == 0 && d.Status[0] == d.Status[1]
			return d, nil
		}
		var reason string
		switch {
		case !okA:
			reason = "the first trace has ended (" + d.Status[0] + ")"
		case !okB:
			reason = "the second trace has ended (" + d.Status[1] + ")"
		default:
			reason = vmm.Differs(ia.Event(), ib.Event())
		}
		if reason == "" {
			if context > 0 {
				d.Before = append(d.Before[max(0, len(d.Before)-context+1):], toJSON(a.Header(), n, ptr(ia.Event().Clone())))
			}
			continue
		}
		d.Event, d.DiffersIn = n, reason
		if okA {
			d.want = ptr(ia.Event().Clone())
			d.A = ptr(toJSON(a.Header(), n, d.want))
		}
		if okB {
			d.got = ptr(ib.Event().Clone())
			d.B = ptr(toJSON(b.Header(), n, d.got))
		}
		d.Suspect = vmm.Suspect(d.want, d.got, reason)
		return d, nil
	}
}

func ptr[T any](v T) *T { return &v }

// endText says how a trace ends.
func endText(r *trace.Reader) string {
	if f, ok := r.Footer(); ok {
		return f.Status.String()
	}
	return "cut off"
}

// momentAt replays r up to the event before number n and returns the processor there, or nil when it cannot be replayed here.
func (f *replayFlags) momentAt(cmd *cobra.Command, r *trace.Reader, n uint64) *vmm.Moment {
	if n == 0 || r.NumEvents() == 0 {
		return nil
	}
	rc, cleanup, err := f.config(r.Header(), io.Discard)
	if err != nil {
		return nil
	}
	defer cleanup()
	last := min(n, r.NumEvents()) - 1
	rc.Until = func(i uint64, _ *trace.Event) bool { return i >= last }
	bar := newProgress(cmd.ErrOrStderr(), "replay", last+1)
	rc.Progress = bar.set
	result, err := vmm.Replay(cmd.Context(), r, rc)
	bar.clear()
	if err != nil {
		return nil
	}
	return result.At
}

func printDiff(out io.Writer, a, b *trace.Reader, d *traceDiff) {
	if d.Same {
		fmt.Fprintf(out, "identical: %d events, both %s\n", a.NumEvents(), d.Status[0])
		return
	}
	for _, h := range d.Header {
		fmt.Fprintf(out, "header: %s differs\n  a: %s\n  b: %s\n", h.Field, h.A, h.B)
	}
	if d.DiffersIn == "" {
		fmt.Fprintf(out, "all %d events are equal; the first trace is %s, the second %s\n", a.NumEvents(), d.Status[0], d.Status[1])
		return
	}
	fmt.Fprintf(out, "first difference: event %d, in the %s; suspect: %s\n", d.Event, d.DiffersIn, d.Suspect)
	for _, e := range d.Before {
		fmt.Fprintf(out, "  both: #%d %s at position %d, pc %#x %s, %s[%d]\n", e.Event, e.Kind, e.Position, e.PC, e.Symbol, e.Task, e.PID)
	}
	printEventLine(out, a.Header(), "a", d.Event, d.want)
	printEventLine(out, b.Header(), "b", d.Event, d.got)
	for i, m := range d.Machines {
		if m != nil {
			fmt.Fprintf(out, "machine %s before it:\n", string(rune('a'+i)))
			printMoment(out, m)
		}
	}
}
