package main

import (
	"io"
	"strconv"
	"strings"

	"github.com/detvm/detvm/attest"
	"github.com/spf13/cobra"
)

func newProveCommand() *cobra.Command {
	var event, output string
	var payloads bool
	c := &cobra.Command{
		Use:   "prove [flags] TRACE",
		Short: "Prove that an event belongs to a signed trace without handing over the trace",
		Example: `  detvm prove run.dtr --event 17 -o event-17.proof
  detvm verify --proof event-17.proof --key alice.pub`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			first, last, err := parseRange(event)
			if err != nil {
				return err
			}
			r, _, closer, err := openWhole(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			defer closer.Close()
			if last >= r.NumEvents() {
				return usagef("--event %s: the trace has %d events, from 0 on", event, r.NumEvents())
			}
			paths, err := attest.FindBundles(args[0])
			if err != nil {
				return err
			}
			bundles, err := readBundles(paths)
			if err != nil {
				return err
			}
			proof, err := attest.Prove(r, first, last+1, attest.ProofOptions{Payloads: payloads, Bundles: bundles})
			if err != nil {
				return err
			}
			if output == "" {
				_, err := cmd.OutOrStdout().Write(proof)
				return err
			}
			return writeFile(output, func(w io.Writer) error {
				_, err := w.Write(proof)
				return err
			})
		},
	}
	c.Flags().StringVar(&event, "event", "", "number of the event, or FIRST-LAST")
	c.Flags().BoolVar(&payloads, "payloads", true, "include what the events carried; without it only commitments")
	c.Flags().StringVarP(&output, "output", "o", "", "where to write the proof (default: standard output)")
	_ = c.MarkFlagRequired("event")
	return c
}

// parseRange parses N or FIRST-LAST.
func parseRange(s string) (first, last uint64, err error) {
	a, b, ranged := strings.Cut(s, "-")
	if !ranged {
		b = a
	}
	first, errA := strconv.ParseUint(a, 10, 64)
	last, errB := strconv.ParseUint(b, 10, 64)
	if errA != nil || errB != nil || first > last {
		return 0, 0, usagef("--event %q: want N or FIRST-LAST", s)
	}
	return first, last, nil
}
