// Package tests holds the whole-system tests: scripts in testdata that drive the built binary, bin/detvm, as a user would.
//
// Each script of testdata/*.txtar runs on each engine that the host has (soft always, kvm with /dev/kvm), with the default userland. The
// scripts of testdata/debian need the Debian image (make debian-image) and run when it was built. A script gets, besides
// testscript's own commands (go doc github.com/rogpeppe/go-internal/testscript):
//
//	$CPU                     the engine: soft or kvm
//	$DEBIAN                  the Debian image
//	$KERNEL                  Debian's cloud kernel
//	same N [args…]           'detvm run --cpu $CPU args…' N times: equal output, exit code and digests each time
//	code N command…          the command, which must end with exit code N
//	fails N command…         like code, and standard error must be one line that begins with "detvm: "
//	signal SIG MARK N cmd…   the command, which gets the signal SIG at a random time after it has written MARK, and must end with exit code N
//	replays N TRACE…         'detvm replay --cpu $CPU TRACE…' N times, one in ten from a cold boot: identical, with the same state each time
//	paced MS FILE cmd…       the command, with FILE written to its standard input in odd pieces with pauses of up to MS milliseconds
//	flip FILE FRACTION       flips a bit of the file, at that fraction of its length
//	jsonsame A B field…      two JSON files have equal values in the fields
//	jsonother A B field…     … different values
//	jsonhas A field value    a JSON file has a value in a field
//	parted R A B             R, the JSON result of a replay of the trace A in the circumstances of the trace B, names the first event in which these differ
//	nothing DIR              the directory is empty
//	kernels A B              makes two kernels: the built-in one, and one that differs from it in a character of its version
//	triplefault FILE         makes an ELF kernel whose first instruction ends in a triple fault
//	initramfs FILE name…     makes an initramfs: the default userland with these executable files in its root directory, /init in place of the agent
//
// and the conditions [soft], [kvm], [root] and [kernel] (Debian's cloud kernel is there: make debian-kernel).
package tests

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/u-root/u-root/pkg/cpio"

	"github.com/detvm/detvm/images"
	"github.com/detvm/detvm/initramfs"
	"github.com/detvm/detvm/trace"
	"github.com/detvm/detvm/vmm"
)

func TestSoft(t *testing.T) { runScripts(t, "soft", "soft", "testdata") }

func TestKVM(t *testing.T) {
	needKVM(t)
	runScripts(t, "kvm", "kvm", "testdata")
}

func TestDebianSoft(t *testing.T) {
	needDebian(t)
	runScripts(t, "debian-soft", "soft", "testdata/debian")
}

func TestDebianKVM(t *testing.T) {
	needKVM(t)
	needDebian(t)
	runScripts(t, "debian-kvm", "kvm", "testdata/debian")
}

func needKVM(t *testing.T) {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("needs /dev/kvm: %v", err)
	}
	f.Close()
}

// debianImage is where 'make debian-image' leaves the image, or $DETVM_DEBIAN_IMAGE.
func debianImage() string { return madeFile("DETVM_DEBIAN_IMAGE", "debian.img") }

// debianKernel is where 'make debian-kernel' leaves Debian's kernel, or $DETVM_DEBIAN_KERNEL.
func debianKernel() string { return madeFile("DETVM_DEBIAN_KERNEL", "debian-vmlinuz") }

// madeFile is a file that a target of the Makefile leaves in the user's cache, or what the environment variable says.
func madeFile(variable, name string) string {
	if path := os.Getenv(variable); path != "" {
		return path
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(cache, "detvm", name)
}

func needDebian(t *testing.T) {
	if _, err := os.Stat(debianImage()); err != nil {
		t.Skipf("needs the Debian image (make debian-image): %v", err)
	}
}

// binDir is the directory of the built binary.
func binDir(t *testing.T) string {
	dir, err := filepath.Abs("../bin")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "detvm")); err != nil {
		t.Fatalf("run 'make build' first: %v", err)
	}
	return dir
}

// cacheDir holds the boot snapshots of all scripts of this test process, apart from the user's.
var cacheDir string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "detvm-tests-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	cacheDir = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// processors are those that no script uses.
var processors = func() chan int {
	c := make(chan int, runtime.NumCPU())
	for n := range cap(c) {
		c <- n
	}
	return c
}()

// onOneProcessor returns a directory with a detvm that runs on processor n alone, and a cache of its own. Where ring 3 sees the host's processor, KVM runs bind
// themselves to the lowest processor that they may use (see vcpu/kvm): so each script gets one to itself.
func onOneProcessor(bin string, n int) (dir, cache string, err error) {
	cache = filepath.Join(cacheDir, fmt.Sprintf("processor-%d", n))
	dir = filepath.Join(cache, "bin")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", "", err
	}
	taskset, err := exec.LookPath("taskset")
	if err != nil {
		return "", "", err
	}
	wrapper := fmt.Sprintf("#!/bin/sh\nexec %s -c %d %s \"$@\"\n", taskset, n, filepath.Join(bin, "detvm"))
	return dir, cache, os.WriteFile(filepath.Join(dir, "detvm"), []byte(wrapper), 0o755)
}

// runScripts runs the scripts in dir on the engine cpu. It notes the suite's name in the file $DETVM_SUITES, if that is set, so that continuous
// integration knows a suite that passed from one that was skipped.
func runScripts(t *testing.T, suite, cpu, dir string) {
	bin := binDir(t)
	t.Cleanup(func() { // after the scripts, which run in parallel
		if err := noteSuite(suite); err != nil {
			t.Error(err)
		}
	})
	testscript.Run(t, testscript.Params{
		Dir:                dir,
		RequireUniqueNames: true,
		Setup: func(env *testscript.Env) error {
			path, cache := bin, cacheDir
			if cpu == "kvm" {
				n := <-processors
				env.Defer(func() { processors <- n })
				var err error
				if path, cache, err = onOneProcessor(bin, n); err != nil {
					return err
				}
			}
			env.Setenv("PATH", path+string(os.PathListSeparator)+env.Getenv("PATH"))
			env.Setenv("CPU", cpu)
			env.Setenv("DEBIAN", debianImage())
			env.Setenv("KERNEL", debianKernel())
			env.Setenv("XDG_CACHE_HOME", cache)
			return nil
		},
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "soft", "kvm":
				return cond == cpu, nil
			case "root":
				return os.Getuid() == 0, nil
			case "kernel":
				_, err := os.Stat(debianKernel())
				return err == nil, nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"same": same, "code": code, "fails": fails, "signal": signalled,
			"jsonsame": jsonSame, "jsonother": jsonOther, "jsonhas": jsonHas, "nothing": nothing, "paced": paced, "flip": flip, "replays": replays,
			"triplefault": tripleFault, "kernels": kernels, "parted": parted,
			"initramfs": makeInitramfs, "chunks": cutAtChunks, "documented": documented,
		},
	})
}

func noteSuite(suite string) error {
	path := os.Getenv("DETVM_SUITES")
	if path == "" {
		return nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o666)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(f, suite)
	return errors.Join(err, f.Close())
}

// outcome is what a process left.
type outcome struct {
	code           int
	stdout, stderr string
}

// command prepares a process in the script's directory and environment.
func command(ts *testscript.TestScript, args []string) *exec.Cmd {
	path := args[0]
	if path == "detvm" {
		path = filepath.Join(strings.Split(ts.Getenv("PATH"), string(os.PathListSeparator))[0], path)
	}
	c := exec.Command(path, args[1:]...)
	c.Dir = ts.MkAbs(".")
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "XDG_CACHE_HOME", "CPU", "DEBIAN", "WORK"} {
		c.Env = append(c.Env, name+"="+ts.Getenv(name))
	}
	return c
}

// finish waits for a process and hands its output to the script.
func finish(ts *testscript.TestScript, c *exec.Cmd, stdout, stderr *bytes.Buffer) outcome {
	err := c.Wait()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		ts.Fatalf("%s: %v", c.Path, err)
	}
	io.WriteString(ts.Stdout(), stdout.String())
	io.WriteString(ts.Stderr(), stderr.String())
	return outcome{c.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

func run(ts *testscript.TestScript, args []string) outcome {
	c := command(ts, args)
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	ts.Check(c.Start())
	return finish(ts, c, &stdout, &stderr)
}

// number reads the leading number of a custom command's arguments.
func number(ts *testscript.TestScript, neg bool, args []string) (int, []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: COMMAND N args…, without '!'")
	}
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	return n, args[1:]
}

// sameFields are the parts of the JSON result that depend on the run alone. Wall times do not, nor does whether it began from a snapshot.
var sameFields = []string{"outcome", "exit_code", "stdout_sha256", "stderr_sha256", "state_sha256", "disk_sha256", "virtual_time_ns", "exits", "position", "clock",
	"engine", "image_sha256", "kernel_sha256", "initramfs_sha256"}

func same(ts *testscript.TestScript, neg bool, args []string) {
	n, args := number(ts, neg, args)
	file := filepath.Join(ts.MkAbs("."), ".same.json")
	var first outcome
	var firstResult map[string]any
	for i := range n {
		got := run(ts, append([]string{"detvm", "run", "--cpu", ts.Getenv("CPU"), "--json", file}, args...))
		if got.code != 0 {
			ts.Fatalf("run %d: exit code %d", i+1, got.code)
		}
		result := readJSON(ts, file)
		if i == 0 {
			first, firstResult = got, result
			continue
		}
		if got != first {
			ts.Fatalf("run %d differs from run 1: %+v, %+v", i+1, got, first)
		}
		for _, field := range sameFields {
			if !reflect.DeepEqual(result[field], firstResult[field]) {
				ts.Fatalf("%s of run %d is %v, of run 1 %v", field, i+1, result[field], firstResult[field])
			}
		}
	}
}

func code(ts *testscript.TestScript, neg bool, args []string) {
	want, args := number(ts, neg, args)
	if got := run(ts, args); got.code != want {
		ts.Fatalf("exit code %d, want %d", got.code, want)
	}
}

func fails(ts *testscript.TestScript, neg bool, args []string) {
	want, args := number(ts, neg, args)
	got := run(ts, args)
	if got.code != want {
		ts.Fatalf("exit code %d, want %d", got.code, want)
	}
	wantOneLine(ts, got.stderr)
}

func wantOneLine(ts *testscript.TestScript, stderr string) {
	if !strings.HasPrefix(stderr, "detvm: ") || strings.Count(stderr, "\n") != 1 || !strings.HasSuffix(stderr, "\n") {
		ts.Fatalf("standard error is not one line of ours: %q", stderr)
	}
}

// signalled runs a command whose guest announces by MARK that it is ready for the signal.
func signalled(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 4 {
		ts.Fatalf("usage: signal SIG MARK N command…")
	}
	signals := map[string]syscall.Signal{"INT": syscall.SIGINT, "TERM": syscall.SIGTERM, "HUP": syscall.SIGHUP, "USR1": syscall.SIGUSR1, "KILL": syscall.SIGKILL}
	sig, ok := signals[args[0]]
	if !ok {
		ts.Fatalf("unknown signal %s", args[0])
	}
	want, err := strconv.Atoi(args[2])
	ts.Check(err)
	c := command(ts, args[3:])
	var stderr bytes.Buffer
	out := &watcher{mark: []byte(args[1]), seen: make(chan struct{})}
	c.Stdout, c.Stderr = out, &stderr
	ts.Check(c.Start())
	select {
	case <-out.seen:
	case <-time.After(2 * time.Minute):
		ts.Logf("no %q in the output; killed", args[1])
		c.Process.Kill()
	}
	time.Sleep(time.Duration(rand.IntN(200)) * time.Millisecond)
	ts.Check(c.Process.Signal(sig))
	got := finish(ts, c, &out.buf, &stderr)
	if got.code != want {
		ts.Fatalf("exit code %d, want %d", got.code, want)
	}
}

// paced feeds a command slowly; the pieces and pauses are other ones in each run, since nothing may depend on them.
func paced(ts *testscript.TestScript, neg bool, args []string) {
	pause, args := number(ts, neg, args)
	data := []byte(ts.ReadFile(args[0]))
	c := command(ts, args[1:])
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	stdin, err := c.StdinPipe()
	ts.Check(err)
	ts.Check(c.Start())
	for len(data) > 0 {
		n := min(len(data), 1+rand.IntN(1+len(data)/4))
		if _, err := stdin.Write(data[:n]); err != nil {
			ts.Logf("write to the command: %v", err)
			break
		}
		data = data[n:]
		time.Sleep(time.Duration(rand.IntN(pause+1)) * time.Millisecond)
	}
	stdin.Close()
	if got := finish(ts, c, &stdout, &stderr); got.code != 0 {
		ts.Fatalf("exit code %d", got.code)
	}
}

func replays(ts *testscript.TestScript, neg bool, args []string) {
	n, args := number(ts, neg, args)
	file := filepath.Join(ts.MkAbs("."), ".replay.json")
	var state, events any
	for i := range n {
		command := []string{"detvm", "replay", "--cpu", ts.Getenv("CPU"), "--json", file}
		if i%10 == 9 {
			command = append(command, "--no-snapshot")
		}
		if got := run(ts, append(command, args...)); got.code != 0 {
			ts.Fatalf("replay %d: exit code %d", i+1, got.code)
		}
		r := readJSON(ts, file)
		if i == 0 {
			state, events = r["state_sha256"], r["events"]
		}
		if r["identical"] != true || r["complete"] != true || r["state_sha256"] != state || r["events"] != events {
			ts.Fatalf("replay %d: %v", i+1, r)
		}
	}
}

func flip(ts *testscript.TestScript, neg bool, args []string) {
	data := []byte(ts.ReadFile(args[0]))
	at, err := strconv.ParseFloat(args[1], 64)
	ts.Check(err)
	data[int(at*float64(len(data)))] ^= 0x10
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), data, 0o644))
}

// watcher is a buffer that tells when a mark was written to it.
type watcher struct {
	buf  bytes.Buffer
	mark []byte
	seen chan struct{}
	done bool
}

func (w *watcher) Write(p []byte) (int, error) {
	n, err := w.buf.Write(p)
	if !w.done && bytes.Contains(w.buf.Bytes(), w.mark) {
		w.done = true
		close(w.seen)
	}
	return n, err
}

func readJSON(ts *testscript.TestScript, file string) map[string]any {
	var v map[string]any
	if err := json.Unmarshal([]byte(ts.ReadFile(file)), &v); err != nil {
		ts.Fatalf("%s: %v", file, err)
	}
	return v
}

func jsonSame(ts *testscript.TestScript, neg bool, args []string)  { jsonCompare(ts, neg, args, true) }
func jsonOther(ts *testscript.TestScript, neg bool, args []string) { jsonCompare(ts, neg, args, false) }

func jsonCompare(ts *testscript.TestScript, neg bool, args []string, want bool) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: jsonsame|jsonother A B field…")
	}
	a, b := readJSON(ts, args[0]), readJSON(ts, args[1])
	for _, field := range args[2:] {
		if a[field] == nil {
			ts.Fatalf("%s has no %s", args[0], field)
		}
		if reflect.DeepEqual(a[field], b[field]) != want {
			ts.Fatalf("%s: %v and %v", field, a[field], b[field])
		}
	}
}

func jsonHas(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: jsonhas A field value")
	}
	if got := fmt.Sprint(readJSON(ts, args[0])[args[1]]); (got == args[2]) == neg {
		ts.Fatalf("%s is %s", args[1], got)
	}
}

func nothing(ts *testscript.TestScript, neg bool, args []string) {
	entries, err := os.ReadDir(ts.MkAbs(args[0]))
	ts.Check(err)
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if slices.Sort(names); (len(names) == 0) == neg {
		ts.Fatalf("%s holds %v", args[0], names)
	}
}

// kernels writes the built-in kernel, and a copy with another version.
func kernels(ts *testscript.TestScript, neg bool, args []string) {
	k, err := images.GuestKernel()
	ts.Check(err)
	image, err := k.Load()
	ts.Check(err)
	other := bytes.ReplaceAll(image, []byte("Linux version 6.1."), []byte("Linux version 6.x."))
	if bytes.Equal(image, other) {
		ts.Fatalf("the kernel does not say its version")
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), image, 0o644))
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), other, 0o644))
}

// parted compares what a replay found with the first event in which two recordings differ.
func parted(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: parted R A B")
	}
	var result struct {
		Identical  bool
		Divergence *struct {
			Event   uint64
			Reason  string `json:"differs_in"`
			Suspect string
		} `json:"first_divergence"`
	}
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &result))
	if result.Identical || result.Divergence == nil {
		ts.Fatalf("the replay was identical")
	}
	var readers [2]*trace.Reader
	for i, name := range args[1:] {
		data := []byte(ts.ReadFile(name))
		r, err := trace.Open(bytes.NewReader(data), int64(len(data)))
		ts.Check(err)
		readers[i] = r
	}
	n, reason := uint64(0), ""
	for ; reason == ""; n++ {
		a, errA := readers[0].Event(n)
		b, errB := readers[1].Event(n)
		ts.Check(errors.Join(errA, errB))
		reason = vmm.Differs(&a, &b)
	}
	if d := result.Divergence; d.Event != n-1 || d.Reason != reason || d.Suspect == "" {
		ts.Fatalf("the replay parted at event %d in %s (suspect: %s), the recordings at event %d in %s", d.Event, d.Reason, d.Suspect, n-1, reason)
	}
	ts.Logf("event %d, %s", n-1, reason)
}

// documented checks that docs/json.md has the name of every field in a JSON file.
func documented(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: documented FILE")
	}
	doc, err := os.ReadFile("../docs/json.md")
	ts.Check(err)
	dynamic := []string{"header", "host", "events_by_kind", "events_by_device"} // their fields are the trace's own
	var check func(v any)
	check = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, item := range v {
				check(item)
			}
		case map[string]any:
			for name, value := range v {
				if !bytes.Contains(doc, []byte("`"+name+"`")) {
					ts.Fatalf("docs/json.md does not know %q", name)
				}
				if !slices.Contains(dynamic, name) {
					check(value)
				}
			}
		}
	}
	var v any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &v))
	check(v)
}

// cutAtChunks writes copies PREFIX-1, PREFIX-2, … of a trace that end behind its first, second, … chunk (docs/trace-format.md, section 1).
func cutAtChunks(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: chunks TRACE PREFIX")
	}
	const magic, head, checksum = 8, 5, 4
	data, n := []byte(ts.ReadFile(args[0])), 0
	for at := magic; at+head < len(data); {
		kind := data[at]
		at += head + int(binary.LittleEndian.Uint32(data[at+1:])) + checksum
		switch kind {
		case 'E':
			n++
			ts.Check(os.WriteFile(ts.MkAbs(fmt.Sprintf("%s-%d", args[1], n)), data[:at], 0o644))
		case 'F':
			at = len(data)
		}
	}
	if n < 3 {
		ts.Fatalf("%d chunks are too few to say anything", n)
	}
}

// tripleFault writes an ELF kernel of one instruction, UD2, for which it has no interrupt table.
func tripleFault(ts *testscript.TestScript, neg bool, args []string) {
	const load, offset = 0x1000000, 0x1000
	var b bytes.Buffer
	header := elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT), Entry: load,
		Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1,
	}
	segment := elf.Prog64{
		Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Off: offset, Vaddr: load, Paddr: load, Filesz: 2, Memsz: 2, Align: 0x1000,
	}
	ts.Check(binary.Write(&b, binary.LittleEndian, header))
	ts.Check(binary.Write(&b, binary.LittleEndian, segment))
	b.Write(make([]byte, offset-b.Len()))
	b.Write([]byte{0x0f, 0x0b})
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b.Bytes(), 0o644))
}

// makeInitramfs writes the default userland and, as a second archive that the kernel unpacks over it, executable files.
func makeInitramfs(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: initramfs FILE name…")
	}
	archive, err := images.DefaultInitramfs()
	ts.Check(err)
	userland, err := archive.Load()
	ts.Check(err)
	var records []cpio.Record
	for _, name := range args[1:] {
		records = append(records, cpio.StaticRecord([]byte(ts.ReadFile(name)), cpio.Info{Name: name, Mode: cpio.S_IFREG | 0o755}))
	}
	files, err := initramfs.Bytes(records)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), slices.Concat(userland, files), 0o644))
}
