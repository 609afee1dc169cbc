package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

// finding is one line of doctor: what was looked at, what was found, what that means.
type finding struct {
	What  string `json:"what"`
	OK    bool   `json:"ok"`
	Found string `json:"found"`
	Means string `json:"means"`
}

func newDoctorCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Measure what this host offers and say what that means",
		Long: `Measure what this host offers: KVM, the counters that make positions exact (by running calibration guests), what the CPU model looks like in a guest.
The software engine works everywhere; doctor's exit code is 0 even when KVM is missing.`,
		Example: "  detvm doctor\n  detvm doctor --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			findings := append([]finding{{
				"soft engine", true, "available", "exact instruction counts on any host: record, replay and inspect work here",
			}}, kvmFindings()...)
			out := cmd.OutOrStdout()
			return printJSONOr(out, asJSON, findings, func() {
				for _, f := range findings {
					mark := "ok"
					if !f.OK {
						mark = "--"
					}
					fmt.Fprintf(out, "%s  %s: %s\n      %s\n", mark, f.What, f.Found, f.Means)
				}
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}
