// Command detvm runs Linux programs in a deterministic micro-VM: runs that repeat bit for bit, can be recorded, replayed, compared and signed.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/detvm/detvm/trace"
	"github.com/detvm/detvm/vcpu"
	"github.com/detvm/detvm/vmm"
)

// Exit codes of detvm's own; a finished run has the guest's.
const (
	exitFailure = 1
	exitUsage   = 2
)

// exitError carries an exit code that is not a failure of detvm.
type exitError struct{ code int }

func (e exitError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// usageError is a mistake on the command line.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// heapFloor is untouched, takes no memory, and counts as live: the collector, which starts when the heap has doubled, leaves short runs alone.
var heapFloor = make([]byte, 64<<20)

func main() {
	code := run(context.Background(), os.Args[1:], os.Stdout, os.Stderr)
	runtime.KeepAlive(heapFloor)
	os.Exit(code)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	out := &checkedWriter{w: stdout}
	root.SetOut(out)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil && out.err != nil {
		err = fmt.Errorf("write standard output: %w", out.err)
	}
	var exit exitError
	var usage usageError
	var config *vmm.UsageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.code
	case errors.As(err, &usage), errors.As(err, &config):
		fmt.Fprintf(stderr, "detvm: %v (see 'detvm %s--help')\n", err, commandPath(root, args))
		return exitUsage
	}
	fmt.Fprintf(stderr, "detvm: %v\n", err)
	return exitFailure
}

// checkedWriter remembers the first error, so that nobody has to check each line that is printed.
type checkedWriter struct {
	w   io.Writer
	err error
}

func (c *checkedWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	if c.err == nil {
		c.err = err
	}
	return n, err
}

// commandPath is the subcommand that args name, with a space behind it, for the hint in a usage error.
func commandPath(root *cobra.Command, args []string) string {
	c, _, err := root.Find(args)
	if err != nil || c == root {
		return ""
	}
	return c.CommandPath()[len(root.Name())+1:] + " "
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "detvm",
		Short: "Run Linux programs in a deterministic micro-VM",
		Long: `detvm runs a Linux program in a one-CPU virtual machine whose every instant is a pure function of kernel, image,
command, seed and recorded inputs: the same run again gives the same bits.`,
		Example: `  detvm run -- sh -c 'date; head -c 8 /dev/urandom | hexdump'
  detvm run --image debian.img --seed 7 -- python3 -c 'import random; print(random.random())'
  detvm run --record run.dtr -- make test && detvm replay run.dtr`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(newRunCommand(), newReplayCommand(), newInspectCommand(), newDiffCommand(), newCheckCommand(), newVerifyCommand(),
		newKeygenCommand(), newAttestCommand(), newProveCommand(), newRedactCommand(), newImageCommand(), newSnapshotCommand(), newDoctorCommand(), newVersionCommand(), newManCommand())
	wrapArgs(root)
	completeValues(root)
	return root
}

// flagValues are the values of flags that have few, for shell completion.
var flagValues = map[string][]string{
	"cpu":        {vmm.EngineAuto, vmm.EngineKVM, vmm.EngineSoft},
	"clock":      {string(vcpu.ClockInstructions), string(vcpu.ClockBranches), string(vcpu.ClockKernelInstructions), string(vcpu.ClockExits)},
	"trace-hash": {string(trace.SHA256), string(trace.SHA512), string(trace.BLAKE3)},
	"kind":       kindNames(),
}

func kindNames() []string {
	var names []string
	for _, k := range trace.Kinds() {
		names = append(names, k.String())
	}
	return names
}

// completeValues registers flagValues for every command below c.
func completeValues(c *cobra.Command) {
	for name, values := range flagValues {
		if c.Flags().Lookup(name) != nil {
			_ = c.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)) // fails for unknown flags only
		}
	}
	for _, sub := range c.Commands() {
		completeValues(sub)
	}
}

// wrapArgs makes mistakes in positional arguments usage errors, for every command below c.
func wrapArgs(c *cobra.Command) {
	if check := c.Args; check != nil {
		c.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return usageError{err}
			}
			return nil
		}
	}
	if !c.HasParent() {
		c.Args = func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("unknown command %q", args[0])
			}
			return nil
		}
		c.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	}
	for _, sub := range c.Commands() {
		wrapArgs(sub)
	}
}
