package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/detvm/detvm/trace"
	"github.com/detvm/detvm/vmm"
)

// traceDiff is where two traces part.
type traceDiff struct {
	Same       bool                    `json:"identical"`
	Event      *uint64                 `json:"first_difference"` // null when all events are equal
	DiffersIn  string                  `json:"differs_in,omitempty"`
	Suspect    string                  `json:"suspect,omitempty"`
	A          *eventJSON              `json:"a,omitempty"`
	B          *eventJSON              `json:"b,omitempty"`
	Before     []eventJSON             `json:"before,omitempty"` // the events before it, equal in both
	Output     *eventDiff              `json:"first_output,omitempty"`
	Header     []trace.FieldDifference `json:"header,omitempty"`
	Status     [2]string               `json:"status"`               // how the traces end
	Uncompared uint64                  `json:"uncompared,omitempty"` // withheld payloads that cannot be compared
	Machines   []*vmm.Moment           `json:"machines,omitempty"`   // of a and b before the difference, null where it cannot be shown
	want, got  *trace.Event
}

func newDiffCommand() *cobra.Command {
	var f replayFlags
	var context int
	var asJSON, noReplay bool
	c := &cobra.Command{
		Use:   "diff [flags] A B",
		Short: "Show where two traces part, and what to suspect",
		Long: `Find the first event in which two traces differ, and print it with the events before it. When the inputs of the runs are at hand, both are replayed
up to there and the processor is shown: registers, disassembly, the functions at which kernel and program stand, as far as the built-in kernel, the program's memory and the
image name them. Exit code 1 when the traces differ.`,
		Example: `  detvm diff good.dtr bad.dtr
  detvm diff --context 20 --no-replay good.dtr bad.dtr
  detvm diff --json good.dtr bad.dtr | jq .first_difference`,
		Args: cobra.ExactArgs(2),
		RunE: interruptible(func(cmd *cobra.Command, args []string) error {
			a, b, closePair, err := openPair(cmd.Context(), args[0], args[1])
			if err != nil {
				return err
			}
			defer closePair()
			d, err := diffTraces(a, b, context)
			if err != nil {
				return err
			}
			if d.Event != nil && !noReplay {
				d.Machines = []*vmm.Moment{f.momentAt(cmd, a, *d.Event), f.momentAt(cmd, b, *d.Event)}
			}
			if err := cmd.Context().Err(); err != nil {
				return err
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

// openPair opens two traces.
func openPair(ctx context.Context, pathA, pathB string) (a, b *trace.Reader, closePair func(), err error) {
	a, closeA, err := openTrace(ctx, pathA)
	if err != nil {
		return nil, nil, nil, err
	}
	b, closeB, err := openTrace(ctx, pathB)
	if err != nil {
		_ = closeA.Close()
		return nil, nil, nil, err
	}
	return a, b, func() { _, _ = closeA.Close(), closeB.Close() }, nil
}

// diffTraces compares headers, events and how the traces end.
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
		var reason string
		switch {
		case !okA && !okB:
			d.Same = len(d.Header) == 0 && d.Status[0] == d.Status[1] && d.Uncompared == 0
			return d, nil
		case !okA:
			reason = "the first trace ends (" + d.Status[0] + "), the second goes on"
		case !okB:
			reason = "the second trace ends (" + d.Status[1] + "), the first goes on"
		default:
			var compared bool
			if reason, compared = differs(a.Header(), ia.Event(), b.Header(), ib.Event()); !compared {
				d.Uncompared++
			}
		}
		if reason == "" {
			if context > 0 {
				d.Before = append(d.Before[max(0, len(d.Before)-context+1):], toJSON(a.Header(), n, ptr(ia.Event().Clone())))
			}
			continue
		}
		d.Event, d.DiffersIn = &n, reason
		if okA {
			d.want = ptr(ia.Event().Clone())
			d.A = ptr(toJSON(a.Header(), n, d.want))
		}
		if okB {
			d.got = ptr(ib.Event().Clone())
			d.B = ptr(toJSON(b.Header(), n, d.got))
		}
		if okA && okB {
			d.Suspect = vmm.Suspect(d.want, d.got, reason)
		}
		var err error
		d.Output, err = firstOutputDifference(a, b)
		return d, err
	}
}

// differs is vmm.Differs for events of which one trace may withhold the payload and the other not: then commitments are compared. compared is false when the
// events are equal but for payloads that cannot be compared.
func differs(ha *trace.Header, a *trace.Event, hb *trace.Header, b *trace.Event) (reason string, compared bool) {
	if !a.Withheld && !b.Withheld {
		return vmm.Differs(a, b), true
	}
	x, y := withheld(ha, a), withheld(hb, b)
	if ha.Hash == hb.Hash {
		return vmm.Differs(x, y), true
	}
	x.Commitment, y.Commitment = nil, nil
	return vmm.Differs(x, y), false
}

// withheld is an event without its payload, as a redacted trace has it.
func withheld(h *trace.Header, e *trace.Event) *trace.Event {
	c := e.Clone()
	if !c.Withheld && len(c.Data) > 0 {
		c.Withheld, c.Commitment, c.Data = true, h.Commit(c.Salt, c.Data), nil
	}
	return &c
}

// eventDiff is the first event of interest that differs.
type eventDiff struct {
	Event   uint64 `json:"event"`
	What    string `json:"what"`
	Program string `json:"program,omitempty"`
}

func (d *eventDiff) String() string {
	return fmt.Sprintf("event %d: %s by %s", d.Event, d.What, plain(d.Program))
}

// firstOutputDifference finds the first output that differs between two traces, or returns nil: what comes before it differs in timing, and says little.
func firstOutputDifference(a, b *trace.Reader) (*eventDiff, error) {
	ia, ib := a.Events(0), b.Events(0)
	defer ia.Close()
	defer ib.Close()
	next := func(it *trace.Iterator) bool {
		for it.Next() {
			if k := it.Event().Kind; k == trace.KindStdout || k == trace.KindStderr || k == trace.KindDiskWrite {
				return true
			}
		}
		return false
	}
	for {
		okA, okB := next(ia), next(ib)
		if err := errors.Join(ia.Err(), ib.Err()); err != nil {
			return nil, fmt.Errorf("read events: %w", err)
		}
		if !okA && !okB {
			return nil, nil
		}
		if okA && okB && string(ia.Event().Data) == string(ib.Event().Data) && ia.Event().Kind == ib.Event().Kind {
			continue
		}
		it, h := ia, a.Header()
		if !okA {
			it, h = ib, b.Header()
		}
		e := it.Event()
		return &eventDiff{it.Index(), e.Kind.String() + ": " + eventText(h, e), e.Task}, nil
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
	nameFunction(result.At, rc.Root)
	return result.At
}

func printDiff(out io.Writer, a, b *trace.Reader, d *traceDiff) {
	if d.Same {
		fmt.Fprintf(out, "identical: %d events, both %s\n", a.NumEvents(), d.Status[0])
		return
	}
	for _, h := range d.Header {
		h = h.Short()
		fmt.Fprintf(out, "header: %s differs\n  a: %s\n  b: %s\n", h.Field, h.A, h.B)
	}
	if d.Uncompared > 0 {
		fmt.Fprintf(out, "%d withheld payloads cannot be compared: the traces have different hash algorithms\n", d.Uncompared)
	}
	if d.Event == nil {
		fmt.Fprintf(out, "all %d events are equal; the first trace is %s, the second %s\n", a.NumEvents(), d.Status[0], d.Status[1])
		return
	}
	what := d.DiffersIn
	if d.want != nil && d.got != nil {
		what = fmt.Sprintf("in the %s; suspect: %s", d.DiffersIn, d.Suspect)
	}
	fmt.Fprintf(out, "first difference: event %d, %s\n", *d.Event, what)
	for _, e := range d.Before {
		fmt.Fprintf(out, "  both: #%d %s at position %d, pc %#x %s, %s[%d]\n", e.Event, e.Kind, e.Position, e.PC, e.Symbol, plain(e.Task), e.PID)
	}
	printEventLine(out, a.Header(), "a", *d.Event, d.want)
	printEventLine(out, b.Header(), "b", *d.Event, d.got)
	if d.Output != nil && d.Output.Event != *d.Event {
		fmt.Fprintf(out, "first output that differs: %v\n", d.Output)
	}
	for i, m := range d.Machines {
		if m != nil {
			fmt.Fprintf(out, "machine %s before it:\n", string(rune('a'+i)))
			printMoment(out, []*trace.Header{a.Header(), b.Header()}[i], m)
		}
	}
}
