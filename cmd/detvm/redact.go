package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/detvm/detvm/trace"
	"github.com/spf13/cobra"
)

func newRedactCommand() *cobra.Command {
	var kinds []string
	var events, inputs []string
	var output string
	var guessable, asJSON bool
	c := &cobra.Command{
		Use:   "redact [flags] TRACE",
		Short: "Copy a trace with chosen payloads withheld; signatures over it stay valid",
		Long: `Copy a trace without the payloads of chosen events. The copy has the same trace root. Record with --redactable: from another trace, short payloads could be
guessed by their digests, and --guessable has to say that this is known.`,
		Example: `  detvm redact run.dtr --kind stdin -o public.dtr && detvm verify public.dtr --key alice.pub --bundle run.dtr.sigstore.json`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output == "" {
				return usagef("give --output")
			}
			if info, err := os.Stat(output); err == nil && info.Mode().IsRegular() {
				return fmt.Errorf("%s exists, and a trace might be lost with it: give another name for the copy", output)
			}
			r, _, closer, err := openWhole(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			defer closer.Close()
			opts, err := redactOptions(r, kinds, events, inputs)
			if err != nil {
				return err
			}
			opts.AllowUnsalted = guessable
			var sum *trace.RedactSummary
			if err := writeFile(output, func(w io.Writer) (err error) {
				sum, err = trace.Redact(w, r, opts)
				return err
			}); errors.Is(err, trace.ErrUnsalted) {
				return fmt.Errorf("%w; give --guessable to withhold them all the same", err)
			} else if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			if info, err := os.Stat(output); err == nil && !info.Mode().IsRegular() {
				out = cmd.ErrOrStderr() // standard output may be where the copy went
			}
			result := struct {
				Output   string   `json:"output"`
				Withheld uint64   `json:"withheld"`
				Dropped  []string `json:"dropped_inputs"`
			}{output, sum.Withheld, append([]string{}, inputs...)}
			return printJSONOr(out, asJSON, result, func() {
				fmt.Fprintf(out, "%s: %d payloads withheld, %d stored inputs dropped, same trace root\n", output, result.Withheld, len(result.Dropped))
			})
		},
	}
	c.Flags().StringSliceVar(&kinds, "kind", nil, "withhold the payloads of these kinds: stdin, stdout, stderr, diskread, diskwrite, start, …")
	c.Flags().StringSliceVar(&events, "event", nil, "withhold the payloads of these events: N or FIRST-LAST")
	c.Flags().StringSliceVar(&inputs, "input", nil, "drop these stored inputs: kernel, initramfs, image, disk")
	c.Flags().StringVarP(&output, "output", "o", "", "the copy")
	c.Flags().BoolVar(&guessable, "guessable", false, "withhold also from a trace recorded without --redactable, although short payloads can then be guessed")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// redactOptions turns the flags of redact into what to withhold of a trace. What is not there cannot be meant.
func redactOptions(r *trace.Reader, kinds, events, inputs []string) (trace.RedactOptions, error) {
	if len(kinds)+len(events)+len(inputs) == 0 {
		return trace.RedactOptions{}, usagef("say what to withhold: --kind, --event or --input")
	}
	withheld := map[trace.Kind]bool{}
	for _, name := range kinds {
		k, err := trace.ParseKind(name)
		if err != nil {
			return trace.RedactOptions{}, usagef("--kind: %w", err)
		}
		withheld[k] = true
	}
	type span struct{ first, last uint64 }
	var spans []span
	for _, e := range events {
		first, last, err := parseRange(e)
		if err != nil {
			return trace.RedactOptions{}, err
		}
		if last >= r.NumEvents() {
			return trace.RedactOptions{}, usagef("--event %s: the trace has %d events, from 0 on", e, r.NumEvents())
		}
		spans = append(spans, span{first, last})
	}
	dropped := map[string]bool{}
	for _, role := range inputs {
		dropped[role] = true
	}
	var stored []string
	for i, in := range r.Header().Inputs {
		parts, err := r.Stored(i)
		if err != nil {
			return trace.RedactOptions{}, err
		}
		if len(parts) > 0 {
			stored = append(stored, in.Role)
		}
	}
	for _, role := range inputs {
		if !slices.Contains(stored, role) {
			return trace.RedactOptions{}, usagef("--input %q: the trace stores %s", role, cmp.Or(plain(strings.Join(stored, ", ")), "no inputs"))
		}
	}
	return trace.RedactOptions{
		Withhold: func(i uint64, e *trace.Event) bool {
			for _, s := range spans {
				if i >= s.first && i <= s.last {
					return true
				}
			}
			return withheld[e.Kind]
		},
		DropInput: func(_ int, in trace.Input) bool { return dropped[in.Role] },
	}, nil
}
