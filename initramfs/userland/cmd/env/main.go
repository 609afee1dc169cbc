// Command env prints the environment, or runs a command in a changed one.
//
//	env [-i] [-u NAME]… [NAME=value]… [command [argument…]]
package main

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
)

func main() {
	env, command, err := parse(os.Args[1:], os.Environ())
	if err != nil {
		fmt.Fprintln(os.Stderr, "env:", err)
		os.Exit(125)
	}
	if len(command) == 0 {
		for _, e := range env {
			fmt.Println(e)
		}
		return
	}
	os.Exit(run(env, command))
}

// parse works out the environment and the command.
func parse(args, env []string) (newEnv, command []string, err error) {
	for len(args) > 0 {
		arg := args[0]
		switch {
		case arg == "-i" || arg == "-":
			env = nil
		case arg == "-u" && len(args) > 1:
			args = args[1:]
			env = without(env, args[0])
		case strings.Index(arg, "=") > 0:
			env = append(without(env, arg[:strings.Index(arg, "=")]), arg)
		case strings.HasPrefix(arg, "-") && arg != "--":
			return nil, nil, fmt.Errorf("unknown option %s", arg)
		case arg == "--":
			return env, args[1:], nil
		default:
			return env, args, nil
		}
		args = args[1:]
	}
	return env, nil, nil
}

func without(env []string, name string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(e string) bool { return strings.HasPrefix(e, name+"=") })
}

// run replaces this process by the command, which is looked up in the new environment's PATH. It returns the exit code
// when it cannot.
func run(env, command []string) int {
	os.Unsetenv("PATH")
	for _, e := range env {
		if path, ok := strings.CutPrefix(e, "PATH="); ok {
			os.Setenv("PATH", path)
		}
	}
	path, err := exec.LookPath(command[0])
	if err == nil {
		err = syscall.Exec(path, command, env)
	}
	fmt.Fprintf(os.Stderr, "env: %v\n", err)
	if path == "" {
		return 127
	}
	return 126
}
