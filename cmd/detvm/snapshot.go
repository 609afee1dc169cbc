package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/detvm/detvm/vmm"
)

func newSnapshotCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "snapshot",
		Short: "Manage the cache of boot snapshots",
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		Args:  cobra.NoArgs,
	}
	var asJSON bool
	ls := &cobra.Command{
		Use: "ls", Short: "List cached boot snapshots", Args: cobra.NoArgs, Example: "  detvm snapshot ls --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := snapshotDir()
			if err != nil {
				return err
			}
			list, err := vmm.ListSnapshots(dir)
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			return printJSONOr(out, asJSON, list, func() {
				for _, s := range list {
					fmt.Fprintf(out, "%s  %d bytes  used %s\n", filepath.Base(s.Path), s.Size, s.Used.Format(time.RFC3339))
				}
			})
		},
	}
	ls.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	var keep int
	var pruneJSON bool
	prune := &cobra.Command{
		Use: "prune", Short: "Remove cached boot snapshots; the next run boots from cold", Args: cobra.NoArgs,
		Example: "  detvm snapshot prune --keep 2",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if keep < 0 {
				return usagef("--keep %d: want 0 or more", keep)
			}
			dir, err := snapshotDir()
			if err != nil {
				return err
			}
			removed, err := vmm.PruneSnapshots(dir, keep)
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			result := struct {
				Removed []string `json:"removed"`
			}{[]string{}}
			for _, s := range removed {
				result.Removed = append(result.Removed, s.Path)
			}
			return printJSONOr(out, pruneJSON, result, func() { fmt.Fprintf(out, "removed %d snapshots\n", len(removed)) })
		},
	}
	prune.Flags().BoolVar(&pruneJSON, "json", false, "print JSON")
	prune.Flags().IntVar(&keep, "keep", 0, "keep this many of the most recently used")
	c.AddCommand(ls, prune)
	return c
}

func snapshotDir() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache directory: %w", err)
	}
	return filepath.Join(dir, "detvm", "snapshots"), nil
}
