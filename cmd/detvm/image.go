package main

import (
	"fmt"
	"os"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/detvm/detvm/images"
)

func newImageCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "image",
		Short: "Make and manage root file system images",
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		Args:  cobra.NoArgs,
	}
	c.AddCommand(newImageBuildCommand(), newImageListCommand(), newImagePruneCommand())
	return c
}

func newImageBuildCommand() *cobra.Command {
	var output, name, format, ref, epoch string
	var asJSON bool
	c := &cobra.Command{
		Use:   "build [flags] SOURCE",
		Short: "Make a root file system image from a directory, a tar, a docker-archive or an OCI layout",
		Long: `Make a root file system image. The same source gives the same bytes on any host: owners, modes, links, xattrs and device nodes are kept,
modification times are clamped to SOURCE_DATE_EPOCH (or --epoch; 0 by default).`,
		Example: `  detvm image build -o debian.img rootfs.tar
  docker save alpine:3 | tee alpine.tar >/dev/null && detvm image build --name alpine alpine.tar
  detvm run --image alpine -- /bin/busybox`,
		Args: cobra.ExactArgs(1),
		RunE: interruptible(func(cmd *cobra.Command, args []string) error {
			if (output == "") == (name == "") {
				return usagef("give either --output FILE or --name NAME")
			}
			opts := images.Options{Format: images.Format(format), Ref: ref}
			if epoch != "" {
				n, err := strconv.ParseInt(epoch, 10, 64)
				if err != nil {
					return usagef("--epoch %q: want Unix seconds", epoch)
				}
				opts.Epoch = &n
			}
			out := cmd.OutOrStdout()
			if name != "" {
				store, err := images.DefaultStore()
				if err != nil {
					return err
				}
				img, err := store.Build(cmd.Context(), args[0], name, opts)
				if err != nil {
					return err
				}
				return printJSONOr(out, asJSON, img, func() { fmt.Fprintf(out, "%s  %s\n", img.SHA256, name) })
			}
			r, err := images.Build(cmd.Context(), args[0], output, opts)
			if err != nil {
				return err
			}
			return printJSONOr(out, asJSON, r, func() { fmt.Fprintf(out, "%s  %s\n", r.SHA256, output) })
		}),
	}
	c.Flags().StringVarP(&output, "output", "o", "", "write the image to this file")
	c.Flags().StringVar(&name, "name", "", "keep the image in the user's store under this name")
	c.Flags().StringVar(&format, "format", "", "file system: erofs (the default)")
	c.Flags().StringVar(&ref, "ref", "", "which image of an archive that holds several")
	c.Flags().StringVar(&epoch, "epoch", "", "latest modification time, Unix seconds (default: SOURCE_DATE_EPOCH or 0)")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func newImageListCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:     "ls",
		Example: "  detvm image ls --json",
		Short:   "List the images in the store",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			store, err := images.DefaultStore()
			if err != nil {
				return err
			}
			list, err := store.List()
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			named := []namedImage{}
			for _, i := range list {
				named = append(named, namedImage{i.Name, i.Path, i.LastUsed, i})
			}
			return printJSONOr(out, asJSON, named, func() {
				w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
				fmt.Fprintln(w, "NAME\tSIZE\tSHA256")
				for _, i := range list {
					fmt.Fprintf(w, "%s\t%d\t%s\n", i.Name, i.Size, i.SHA256)
				}
				_ = w.Flush()
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// namedImage is an image of the store with what its own JSON form leaves out.
type namedImage struct {
	Name     string    `json:"name"`
	Path     string    `json:"path"`
	LastUsed time.Time `json:"last_used"`
	images.StoredImage
}

func newImagePruneCommand() *cobra.Command {
	var unused time.Duration
	var dryRun, asJSON bool
	c := &cobra.Command{
		Use:     "prune [NAME…]",
		Example: "  detvm image prune old-debian",
		Short:   "Remove images from the store, and files that nothing refers to",
		RunE: func(cmd *cobra.Command, args []string) error {
			store, err := images.DefaultStore()
			if err != nil {
				return err
			}
			p, err := store.Prune(images.PruneOptions{UnusedFor: unused, Names: args, DryRun: dryRun})
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			result := struct {
				Names []string `json:"names"`
				Files int      `json:"files"`
				Bytes int64    `json:"bytes"`
			}{append([]string{}, p.Names...), p.Files, p.Bytes}
			return printJSONOr(out, asJSON, result, func() { fmt.Fprintf(out, "%d names, %d files, %d bytes\n", len(p.Names), p.Files, p.Bytes) })
		},
	}
	c.Flags().DurationVar(&unused, "unused-for", 0, "remove names not used for so long")
	c.Flags().BoolVar(&dryRun, "dry-run", false, "remove nothing, only tell")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// findImage turns the argument of --image into a file: a path, or a name in the store.
func findImage(arg string) (string, error) {
	if _, err := os.Stat(arg); err == nil || !images.ValidName(arg) {
		return arg, nil
	}
	store, err := images.DefaultStore()
	if err != nil {
		return arg, nil
	}
	img, err := store.Lookup(arg)
	if err != nil {
		return "", fmt.Errorf("image %q: neither a file nor a name in the store (see 'detvm image ls')", arg)
	}
	return img.Path, nil
}
