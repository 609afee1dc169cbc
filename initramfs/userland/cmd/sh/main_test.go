package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// sh runs the shell with the given standard input and returns its output and exit code.
func sh(t *testing.T, stdin string, args ...string) (string, string, int) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "stdin")
	if err := os.WriteFile(path, []byte(stdin), 0o600); err != nil {
		t.Fatal(err)
	}
	in, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	var stdout, stderr bytes.Buffer
	code := run(args, in, &stdout, &stderr)
	return stdout.String(), stderr.String(), code
}

func TestShellCommandLine(t *testing.T) {
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("echo $0 $# $1; exit 3\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		stdin  string
		args   []string
		stdout string
		code   int
	}{
		{"a command", "", []string{"-c", "echo hi"}, "hi\n", 0},
		{"its name and arguments", "", []string{"-c", "echo $0 $1 $#", "me", "a b"}, "me a b 1\n", 0},
		{"joined options", "", []string{"-ec", "false; echo not reached"}, "", 1},
		{"an exit code", "", []string{"-c", "exit 7"}, "", 7},
		{"an exit trap", "", []string{"-c", "trap 'echo bye' EXIT; echo hi"}, "hi\nbye\n", 0},
		{"a script", "", []string{script, "x"}, script + " 1 x\n", 3},
		{"standard input", "echo a\necho b\n", nil, "a\nb\n", 0},
		{"a reader among the commands", "read x\nhello\necho got $x\n", nil, "got hello\n", 0},
		{"exit in the middle", "exit 4\necho no\n", nil, "", 4},
		{"wait for a job", "", []string{"-c", "true & wait $!; echo $?"}, "0\n", 0},
		{"pipes", "", []string{"-c", "echo a | { read x; echo b$x; }"}, "ba\n", 0},
		{"umask", "", []string{"-c", "umask 027; umask"}, "0027\n", 0},
		{"no such command", "", []string{"-c", "no-such-command-here"}, "", 127},
		{"no such script", "", []string{"/no/such/script"}, "", 127},
		{"a syntax error", "", []string{"-c", "if"}, "", 2},
		{"no command", "", []string{"-c"}, "", 2},
		{"an unknown option", "", []string{"-Q"}, "", 2},
	} {
		stdout, stderr, code := sh(t, c.stdin, c.args...)
		if stdout != c.stdout || code != c.code {
			t.Errorf("%s: got %q, code %d (%s); want %q, code %d", c.name, stdout, code, stderr, c.stdout, c.code)
		}
	}
}
