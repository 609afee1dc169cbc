package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/detvm/detvm/images"
	"github.com/detvm/detvm/vcpu"
	"github.com/detvm/detvm/vmm"
)

// stopGrace is how long a command may take to die from a forwarded SIGINT or SIGTERM before the machine is stopped.
const stopGrace = 2 * time.Second

// defaultStall is how long a work clock may stand still before the run is given up.
const defaultStall = 2 * time.Minute

// machineFlags are the flags of every command that makes a machine.
type machineFlags struct {
	image, kernel, initramfs, append string
	mem                              string
	seed                             uint64
	start                            string
	timeScale                        float64
	env                              []string
	cwd, user                        string
	clock, cpu                       string
	disk, diskOut                    string
	timeout, virtualTimeout, stall   time.Duration
	maxExits                         uint64
	noSnapshot, matchKVM             bool
	verbose                          bool
}

func (f *machineFlags) register(c *cobra.Command) {
	fs := c.Flags()
	fs.StringVar(&f.image, "image", "", "root file system image (made by 'detvm image build'); without it, a small userland of shell and core utilities")
	fs.StringVar(&f.kernel, "kernel", "", "guest kernel: bzImage or ELF vmlinux (default: the built-in one)")
	fs.StringVar(&f.initramfs, "initramfs", "", "initramfs with the detvm agent as /init (default: the built-in one)")
	fs.StringVar(&f.append, "append", "", "kernel parameters to add")
	fs.StringVar(&f.mem, "mem", "256M", "guest memory (K, M, G suffixes)")
	fs.Uint64Var(&f.seed, "seed", 0, "seed of all randomness in the guest")
	fs.StringVar(&f.start, "time", "", "wall-clock time at which the command starts: RFC 3339 or Unix seconds (default 2026-01-01T00:00:00Z)")
	fs.Float64Var(&f.timeScale, "time-scale", 1, "virtual time per unit of work, relative to the default")
	fs.StringArrayVar(&f.env, "env", nil, "environment variable K=V (repeatable)")
	fs.StringVar(&f.cwd, "cwd", "", "working directory in the guest")
	fs.StringVar(&f.user, "user", "", "user in the guest: name or uid[:gid] (default root)")
	fs.StringVar(&f.clock, "clock", "", "work clock: instructions, branches, kernel-instructions or exits (default: the best of the engine)")
	fs.StringVar(&f.cpu, "cpu", vmm.EngineAuto, "engine: auto, kvm or soft")
	fs.BoolVar(&f.matchKVM, "match-kvm", false, "show the guest the processor that KVM on this host shows, so that --clock exits has one trace on both engines")
	fs.StringVar(&f.disk, "disk", "", "raw image of a data disk, mounted at /data and writable; the file itself is not changed")
	fs.StringVar(&f.diskOut, "disk-out", "", "keep the data disk's final contents in this file")
	fs.DurationVar(&f.timeout, "timeout", 0, "end the run after this much time on the host (exit code 124)")
	fs.DurationVar(&f.virtualTimeout, "max-virtual-time", 0, "end the run after this much time in the guest (exit code 124; default 720h, 30 days, so that a command that waits for ever ends)")
	fs.Uint64Var(&f.maxExits, "max-exits", 0, "end the run after this many exits (exit code 124)")
	fs.DurationVar(&f.stall, "stall-timeout", defaultStall, "end the run when the work clock stands still for this long while the guest runs; 0 never")
	fs.BoolVar(&f.noSnapshot, "no-snapshot", false, "boot from cold and leave the snapshot cache alone")
	fs.BoolVarP(&f.verbose, "verbose", "v", false, "show the guest kernel's messages and what detvm does")
}

// config turns flags into a configuration. Files that it opens are closed by the returned function.
func (f *machineFlags) config(args []string, stderr io.Writer) (c vmm.Config, cleanup func(), err error) {
	var files []io.Closer
	cleanup = func() {
		for _, file := range files {
			_ = file.Close()
		}
	}
	defer func() {
		if err != nil {
			cleanup()
		}
	}()
	c = vmm.Config{
		Engine: f.cpu, Clock: vcpu.Clock(f.clock), TimeScale: f.timeScale, Seed: f.seed, MatchKVM: f.matchKVM,
		Command: vmm.Command{Args: args, Env: f.env, Cwd: f.cwd, User: f.user},
		Limits:  vmm.Limits{WallTime: f.timeout, VirtualTime: f.virtualTimeout, Exits: f.maxExits, Stall: f.stall},
	}
	if c.Memory, err = parseMemory(f.mem); err != nil {
		return c, cleanup, usagef("--mem: %w", err)
	}
	if f.timeScale == 0 { // the zero of a vmm.Config is the default
		return c, cleanup, usagef("--time-scale 0: want a number between 1/1024 and 1024")
	}
	if c.Start, err = parseTime(f.start); err != nil {
		return c, cleanup, usagef("--time: %w", err)
	}
	for _, kv := range f.env {
		if name, _, ok := strings.Cut(kv, "="); !ok || name == "" {
			return c, cleanup, usagef("--env %q: want K=V", kv)
		}
	}
	c.Notice = func(s string) { fmt.Fprintln(stderr, "detvm:", s) }
	if f.verbose {
		c.Serial = stderr
		c.Log = func(s string) { fmt.Fprintln(stderr, "detvm:", s) }
	}
	if err := f.loadKernel(&c); err != nil {
		return c, cleanup, err
	}
	if err := f.loadInitramfs(&c); err != nil {
		return c, cleanup, err
	}
	if f.image != "" {
		path, err := findImage(f.image)
		if err != nil {
			return c, cleanup, err
		}
		info, err := images.Inspect(path)
		if err != nil {
			return c, cleanup, fmt.Errorf("image %s: %w", f.image, err)
		}
		if info.Format == images.FormatRaw {
			return c, cleanup, fmt.Errorf("image %s: no file system that the guest can mount; make one with 'detvm image build'", f.image)
		}
		if c.Root, err = openDisk(path, &files); err != nil {
			return c, cleanup, err
		}
	}
	if f.disk != "" {
		if c.Data, err = openDisk(f.disk, &files); err != nil {
			return c, cleanup, err
		}
	}
	if f.diskOut != "" && f.disk == "" {
		return c, cleanup, usagef("--disk-out needs --disk")
	}
	if !f.noSnapshot {
		if dir, err := snapshotDir(); err == nil {
			c.SnapshotDir = dir
		}
	}
	return c, cleanup, nil
}

func (f *machineFlags) loadKernel(c *vmm.Config) (err error) {
	if f.kernel != "" {
		c.Kernel.Cmdline = images.KernelCommandLine
		c.Kernel.Image, err = fileBlob("kernel", f.kernel)
	} else {
		c.Kernel, err = builtinKernel()
	}
	if f.append != "" {
		c.Kernel.Cmdline += " " + f.append
	}
	return err
}

func (f *machineFlags) loadInitramfs(c *vmm.Config) (err error) {
	if f.initramfs != "" {
		c.Initramfs, err = fileBlob("initramfs", f.initramfs)
		return err
	}
	builtin := images.DefaultInitramfs
	if f.image != "" {
		builtin = images.BaseInitramfs
	}
	archive, err := builtin()
	if err != nil {
		return err
	}
	c.Initramfs = embeddedBlob(archive)
	return nil
}

func openDisk(path string, files *[]io.Closer) (*vmm.Disk, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open the disk image: %w", err)
	}
	*files = append(*files, f)
	sum := sha256.New()
	n, err := io.Copy(sum, f)
	if err != nil {
		return nil, fmt.Errorf("read the disk image %s: %w", path, err)
	}
	return &vmm.Disk{Name: path, Base: f, Size: uint64(n), Digest: vmm.Digest(sum.Sum(nil))}, nil
}

// parseBytes parses a number of bytes with an optional K, M or G (powers of 1024).
func parseBytes(s string) (uint64, error) {
	shift, digits := 0, s
	if n := len(s); n > 0 {
		if i := strings.IndexByte("KMG", s[n-1]&^0x20); i >= 0 {
			shift, digits = 10*(i+1), s[:n-1]
		}
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || n > math.MaxUint64>>shift {
		return 0, fmt.Errorf("%q: want a number with an optional K, M or G", s)
	}
	return n << shift, nil
}

// parseMemory parses --mem.
func parseMemory(s string) (uint64, error) {
	n, err := parseBytes(s)
	if err != nil || n < vmm.MinMemory || n > vmm.MaxMemory {
		return 0, fmt.Errorf("%q: want a size between %dM and %dG", s, vmm.MinMemory>>20, vmm.MaxMemory>>30)
	}
	return n, nil
}

func parseTime(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return time.Unix(n, 0).UTC(), nil
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return t, fmt.Errorf("%q: want RFC 3339 (2026-01-31T12:00:00Z) or Unix seconds", s)
	}
	return t.UTC(), nil
}

func newRunCommand() *cobra.Command {
	var f machineFlags
	var rec recordFlags
	var jsonPath string
	var live, terminal bool
	c := &cobra.Command{
		Use:   "run [flags] -- command [args…]",
		Short: "Run a command in a deterministic machine",
		Long: `Run a command in a deterministic machine. Standard input, output and error pass through byte for byte; the guest's exit code
becomes detvm's (128+n for signal n, 127 when the command does not exist, 124 when a limit ended the run).

Standard input reaches the guest when the command reads it, and time stands still meanwhile, so that the pace of a pipe changes nothing.
Use -i when a program at the other end of the pipe waits for answers.`,
		Example: `  detvm run -- sh -c 'echo hello from $(uname -sr); date'
  detvm run --seed 7 -- sh -c 'head -c 16 /dev/urandom | hexdump'
  detvm run --image debian.img --json result.json -- gcc --version
  echo data | detvm run -- wc -c`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			stderr := cmd.ErrOrStderr()
			config, cleanup, err := f.config(args, stderr)
			if err != nil {
				return err
			}
			defer cleanup()
			results, err := newJSONFile(jsonPath, rec.file)
			if err != nil {
				return err
			}
			defer results.discard()
			config.Stdin, config.Stdout, config.Stderr = os.Stdin, cmd.OutOrStdout(), stderr
			config.StdinLive = live || term.IsTerminal(int(os.Stdin.Fd()))
			restore := func() {}
			if terminal {
				if restore, err = rawTerminal(&config); err != nil {
					return err
				}
			}
			finish, err := rec.start(cmd.Context(), cmd.Flags(), &config)
			if err != nil {
				restore()
				return err
			}
			signal.Ignore(syscall.SIGPIPE) // a reader that goes away ends the run like any failing output: the trace is completed
			result, err := runMachine(cmd.Context(), config, f.diskOut, terminal)
			restore()
			if err = errors.Join(err, finish(result)); err != nil {
				return err
			}
			return report(result, results, stderr)
		},
	}
	c.Flags().SetInterspersed(false)
	f.register(c)
	rec.register(c)
	c.Flags().StringVar(&jsonPath, "json", "", "write the result as JSON to this file ('-' is standard output)")
	c.Flags().BoolVarP(&live, "interactive", "i", false, "pass standard input on as it arrives")
	c.Flags().BoolVarP(&terminal, "tty", "t", false, "give the command a terminal")
	return c
}

// runMachine runs config with the process's signals wired to the guest.
func runMachine(ctx context.Context, config vmm.Config, diskOut string, terminal bool) (*vmm.Result, error) {
	var out *outputFile
	if diskOut != "" {
		var err error
		if out, err = createOutput(diskOut); err != nil {
			return nil, err
		}
		defer out.discard()
	}
	m, err := vmm.New(config)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	stop := forwardSignals(m, terminal)
	defer stop()
	result, err := m.Run(ctx)
	if err != nil {
		return nil, err
	}
	if out != nil {
		if err := out.write(m.WriteDisk); err != nil {
			return nil, err
		}
	}
	return result, nil
}

// forwardSignals passes signals to the guest's command until stop is called. SIGINT and SIGTERM end the run by force when the command does not end soon,
// or at once when they come again.
func forwardSignals(m *vmm.Machine, terminal bool) (stop func()) {
	signals := make(chan os.Signal, 16)
	notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH)
	done := make(chan struct{})
	go func() {
		seen := 0
		for {
			select {
			case <-done:
				return
			case s := <-signals:
				n := int(s.(syscall.Signal))
				if s == syscall.SIGWINCH {
					if cols, rows, err := term.GetSize(int(os.Stdin.Fd())); err == nil && terminal {
						m.Winsize(uint16(rows), uint16(cols))
					}
					continue
				}
				m.Signal(n)
				if s == syscall.SIGINT || s == syscall.SIGTERM {
					why := fmt.Sprintf("stopped by %v", s)
					if seen++; seen > 1 {
						m.Stop(128+n, why)
					}
					time.AfterFunc(stopGrace, func() { m.Stop(128+n, why) })
				}
			}
		}
	}()
	return func() {
		signal.Stop(signals)
		close(done)
	}
}

// rawTerminal prepares config for a command with a terminal and the process's own terminal for raw input.
func rawTerminal(c *vmm.Config) (restore func(), err error) {
	fd := int(os.Stdin.Fd())
	if !term.IsTerminal(fd) {
		return nil, usagef("--tty: standard input is not a terminal")
	}
	cols, rows, err := term.GetSize(fd)
	if err != nil {
		return nil, fmt.Errorf("get the terminal's size: %w", err)
	}
	old, err := term.MakeRaw(fd)
	if err != nil {
		return nil, fmt.Errorf("make the terminal raw: %w", err)
	}
	c.Terminal, c.Rows, c.Cols = true, uint16(rows), uint16(cols)
	return func() { _ = term.Restore(fd, old) }, nil
}

// report writes the JSON result and turns the outcome into an exit code.
func report(r *vmm.Result, results *jsonFile, stderr io.Writer) error {
	if err := results.put(r); err != nil {
		return err
	}
	if r.Message != "" {
		fmt.Fprintln(stderr, "detvm:", r.Message)
	}
	if r.ExitCode != 0 {
		return exitError{r.ExitCode}
	}
	return nil
}
