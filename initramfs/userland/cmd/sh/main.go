// Command sh is the shell of the default userland: mvdan.cc/sh's interpreter behind the command line of sh(1).
//
//	sh [-efnuvx] [-c command [name [argument…]]] | [file [argument…]]
//
// Without a command or a file it reads commands from standard input, with prompts when that is a terminal. Known limits
// of the interpreter: subshells and background lists run inside the shell's process, so that $! is no process ID (wait
// knows it, kill does not), and trap knows EXIT and ERR only.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"
)

// Exit codes of the shell itself.
const (
	exitSyntax   = 2
	exitNotFound = 127
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// invocation is a parsed command line.
type invocation struct {
	options    []string // for interp.Params
	command    string
	hasCommand bool
	args       []string // file and its arguments, or name and arguments of a command
}

// parseArgs takes options apart, which may be joined (-ec).
func parseArgs(args []string) (invocation, error) {
	var inv invocation
	for len(args) > 0 && len(args[0]) > 1 && (args[0][0] == '-' || args[0][0] == '+') {
		arg := args[0]
		args = args[1:]
		if arg == "--" {
			break
		}
		for _, c := range arg[1:] {
			switch {
			case c == 'c':
				inv.hasCommand = true
			case strings.ContainsRune("aefnux", c):
				inv.options = append(inv.options, arg[:1]+string(c))
			case strings.ContainsRune("ilsv", c): // interactive, login, stdin, verbose: nothing to do
			default:
				return inv, fmt.Errorf("unknown option %s", arg)
			}
		}
	}
	if inv.hasCommand {
		if len(args) == 0 {
			return inv, errors.New("-c needs a command")
		}
		inv.command, args = args[0], args[1:]
	}
	inv.args = args
	return inv, nil
}

func run(args []string, stdin *os.File, stdout, stderr io.Writer) int {
	inv, err := parseArgs(args)
	if err != nil {
		fmt.Fprintln(stderr, "sh:", err)
		return exitSyntax
	}
	name, params := "sh", inv.args
	if len(params) > 0 {
		name, params = params[0], params[1:]
	}
	runner, err := interp.New(
		interp.StdIO(stdin, stdout, stderr),
		interp.CallHandler(missingBuiltins),
		interp.Params(append(append(inv.options, "--"), params...)...),
	)
	if err != nil {
		fmt.Fprintln(stderr, "sh:", err)
		return exitSyntax
	}
	switch {
	case inv.hasCommand:
		err = runWhole(runner, strings.NewReader(inv.command), name)
	case len(inv.args) > 0:
		err = runFile(runner, name)
	case isTerminal(stdin):
		err = runInteractive(runner, stdin, stdout)
	default:
		err = runStream(runner, stdin)
	}
	return exitCode(err, stderr)
}

// missingBuiltins stands in for the built-in commands that the interpreter knows by name only: it replaces such a command
// by another.
func missingBuiltins(_ context.Context, args []string) ([]string, error) {
	switch args[0] {
	case "kill":
		return append([]string{"/bin/kill"}, args[1:]...), nil
	case "hash":
		return []string{"true"}, nil
	case "umask":
		return umask(args[1:]), nil
	}
	return args, nil
}

// umask sets the file mode creation mask, or prints it.
func umask(args []string) []string {
	if len(args) == 0 {
		mask := unix.Umask(0)
		unix.Umask(mask)
		return []string{"echo", fmt.Sprintf("%04o", mask)}
	}
	mask, err := strconv.ParseUint(args[0], 8, 9)
	if err != nil {
		return []string{"false"}
	}
	unix.Umask(int(mask))
	return []string{"true"}
}

func exitCode(err error, stderr io.Writer) int {
	if status, ok := interp.IsExitStatus(err); ok {
		return int(status)
	}
	if err == nil {
		return 0
	}
	fmt.Fprintln(stderr, "sh:", err)
	if errors.Is(err, os.ErrNotExist) {
		return exitNotFound
	}
	return exitSyntax
}

func runFile(runner *interp.Runner, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return runWhole(runner, f, path)
}

// runWhole parses a program to its end, then runs it.
func runWhole(runner *interp.Runner, r io.Reader, name string) error {
	program, err := syntax.NewParser().Parse(r, name)
	if err != nil {
		return err
	}
	return runner.Run(context.Background(), program)
}

// oneByte reads a byte at a time, so that a command's standard input starts right after the command's line.
type oneByte struct{ r io.Reader }

func (o oneByte) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	return o.r.Read(b[:1])
}

// runStream runs each command of standard input as soon as it is complete.
func runStream(runner *interp.Runner, stdin io.Reader) error {
	var last error
	err := syntax.NewParser().Stmts(oneByte{stdin}, func(s *syntax.Stmt) bool {
		last = runner.Run(context.Background(), s)
		return !runner.Exited()
	})
	if err != nil {
		return err
	}
	return last
}

// runInteractive is runStream with prompts; a failed command or a syntax error does not end it.
func runInteractive(runner *interp.Runner, stdin io.Reader, stdout io.Writer) error {
	// ^C is for the command in the foreground, not for the shell. Ignoring the signal would be inherited.
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, os.Interrupt)
	defer signal.Stop(interrupts)
	var last error
	prompt := func(s string) { io.WriteString(stdout, s) }
	for {
		parser := syntax.NewParser()
		prompt("# ")
		err := parser.Interactive(stdin, func(stmts []*syntax.Stmt) bool {
			if parser.Incomplete() {
				prompt("> ")
				return true
			}
			for _, s := range stmts {
				last = runner.Run(context.Background(), s)
				if runner.Exited() {
					return false
				}
			}
			prompt("# ")
			return true
		})
		if err == nil || runner.Exited() {
			return last
		}
		fmt.Fprintln(stdout, "sh:", err)
	}
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
