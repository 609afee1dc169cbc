package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/detvm/detvm/vmm"
)

func newVersionCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "version", Short: "Print version, machine model and CPU model", Args: cobra.NoArgs, Example: "  detvm version --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			out := cmd.OutOrStdout()
			v := struct {
				Version string `json:"version"`
				Machine string `json:"machine_model"`
				CPU     string `json:"cpu_model"`
			}{vmm.Version, vmm.MachineModel, vmm.CPUModel}
			return printJSONOr(out, asJSON, v, func() { fmt.Fprintf(out, "detvm %s (%s, %s)\n", v.Version, v.Machine, v.CPU) })
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func newManCommand() *cobra.Command {
	return &cobra.Command{
		Use: "man DIR", Short: "Write man pages into a directory", Args: cobra.ExactArgs(1), Hidden: true, Example: "  detvm man /usr/local/share/man/man1",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return fmt.Errorf("make the directory: %w", err)
			}
			header := &doc.GenManHeader{Title: "DETVM", Section: "1", Source: "detvm " + vmm.Version, Date: &vmm.DefaultStart}
			return doc.GenManTree(cmd.Root(), header, args[0])
		},
	}
}
