// Command bench measures detvm's speed, side by side with QEMU where that is installed, and prints ratios. Every figure is the median of several runs in
// this one invocation; compare ratios, not seconds: machines differ and are shared.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/u-root/u-root/pkg/cpio"

	"github.com/detvm/detvm/images"
	"github.com/detvm/detvm/trace"
)

// The loads. peerScript is the workload of the project's comparison with QEMU's record/replay: boot, a few commands, a 3 s sleep.
const (
	peerScript = "ls /; cat /proc/cpuinfo; date; sleep 3; echo done"
	loopCount  = 100_000_000
)

type bench struct {
	detvm, dir, qemu, image string
	runs                    int
	initramfs               string // default userland plus the guest program
	kernel                  string // vmlinux
}

func main() {
	b := &bench{}
	flag.StringVar(&b.detvm, "detvm", "bin/detvm", "the binary to measure")
	flag.StringVar(&b.image, "image", "", "Debian root image for the python3 and gcc loads (see make debian-image)")
	flag.IntVar(&b.runs, "runs", 3, "runs of each measurement; the median counts")
	flag.Parse()
	if err := b.run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func (b *bench) run() (err error) {
	if b.dir, err = os.MkdirTemp("", "detvm-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	if b.detvm, err = filepath.Abs(b.detvm); err != nil {
		return err
	}
	b.qemu, _ = exec.LookPath("qemu-system-x86_64")
	if err := b.prepare(); err != nil {
		return err
	}
	for _, part := range []func() error{b.boot, b.loop, b.replay, b.traces, b.debian} {
		if err := part(); err != nil {
			return err
		}
	}
	return nil
}

// prepare builds the guest program and the initramfs that both sides boot.
func (b *bench) prepare() error {
	guest := filepath.Join(b.dir, "guest")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", guest, "./tests/bench/guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the guest program: %w: %s", err, out)
	}
	program, err := os.ReadFile(guest)
	if err != nil {
		return err
	}
	archive, err := images.DefaultInitramfs()
	if err != nil {
		return err
	}
	base, err := archive.Load()
	if err != nil {
		return err
	}
	script := "#!/bin/sh\nmount -t proc proc /proc\n%s\n/guest poweroff\n"
	var extra bytes.Buffer
	w := cpio.Newc.Writer(&extra)
	records := []cpio.Record{
		cpio.StaticFile("guest", string(program), 0o755),
		cpio.StaticFile("boot.sh", fmt.Sprintf(script, "echo hi"), 0o755),
		cpio.StaticFile("loop.sh", fmt.Sprintf(script, fmt.Sprintf("/guest loop %d", loopCount)), 0o755),
		cpio.StaticFile("peer.sh", fmt.Sprintf(script, peerScript), 0o755),
	}
	if err := cpio.WriteRecords(w, records); err != nil {
		return err
	}
	if err := cpio.WriteTrailer(w); err != nil {
		return err
	}
	b.initramfs = filepath.Join(b.dir, "initramfs.cpio")
	if err := os.WriteFile(b.initramfs, append(base, extra.Bytes()...), 0o600); err != nil {
		return err
	}
	k, err := images.GuestKernel()
	if err != nil {
		return err
	}
	vmlinux, err := k.Load()
	if err != nil {
		return err
	}
	b.kernel = filepath.Join(b.dir, "vmlinux")
	return os.WriteFile(b.kernel, vmlinux, 0o600)
}

// result is what detvm's --json says that benchmarks need.
type result struct {
	WallNS        int64  `json:"wall_ns"`
	FirstOutputNS int64  `json:"first_output_ns"`
	Position      uint64 `json:"position"`
	TraceBytes    int64  `json:"trace_bytes"`
	Events        uint64 `json:"events"`
	VirtualTimeNS uint64 `json:"virtual_time_ns"`
}

// detvmRun runs detvm and returns its result and wall time.
func (b *bench) detvmRun(args ...string) (result, time.Duration, error) {
	file := filepath.Join(b.dir, "result.json")
	cmd := exec.Command(b.detvm, append([]string{"run", "--json", file}, args...)...)
	wall, err := timed(cmd)
	if err != nil {
		return result{}, 0, err
	}
	p, err := os.ReadFile(file)
	if err != nil {
		return result{}, 0, err
	}
	var r result
	return r, wall, json.Unmarshal(p, &r)
}

func timed(cmd *exec.Cmd) (time.Duration, error) {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	start := time.Now()
	if err := cmd.Run(); err != nil {
		return 0, fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, out.Bytes())
	}
	return time.Since(start), nil
}

// median runs f b.runs times and returns the median of its durations.
func (b *bench) median(f func() (time.Duration, error)) (time.Duration, error) {
	var list []time.Duration
	for range b.runs {
		d, err := f()
		if err != nil {
			return 0, err
		}
		list = append(list, d)
	}
	slices.Sort(list)
	return list[len(list)/2], nil
}

// pairs takes the medians of two measurements whose ratio is close to one: many runs by turns, so that both see the host in all its moods.
func (b *bench) pairs(f, g func() (time.Duration, error)) (mf, mg time.Duration, err error) {
	const times = 5
	var fs, gs []time.Duration
	for range times * b.runs {
		for _, m := range []struct {
			measure func() (time.Duration, error)
			list    *[]time.Duration
		}{{f, &fs}, {g, &gs}} {
			d, err := m.measure()
			if err != nil {
				return 0, 0, err
			}
			*m.list = append(*m.list, d)
		}
	}
	slices.Sort(fs)
	slices.Sort(gs)
	return fs[len(fs)/2], gs[len(gs)/2], nil
}

func row(name string, d time.Duration, note string) {
	fmt.Printf("%-52s %10.3f s  %s\n", name, d.Seconds(), note)
}

func ratio(name string, a, b time.Duration) {
	fmt.Printf("%-52s %10.2f\n", "  ratio "+name, a.Seconds()/b.Seconds())
}

// boot measures from the start of the process to the first byte of the command's output.
func (b *bench) boot() error {
	fmt.Println("== boot to the first output")
	first := func(args ...string) func() (time.Duration, error) {
		return func() (time.Duration, error) {
			r, _, err := b.detvmRun(append(args, "--", "echo", "hi")...)
			return time.Duration(r.FirstOutputNS), err
		}
	}
	cold, err := b.median(first("--cpu", "soft", "--no-snapshot"))
	if err != nil {
		return err
	}
	softCold := cold
	row("detvm soft, cold", cold, "(goal: 3 s)")
	warm, err := b.median(first("--cpu", "soft"))
	if err != nil {
		return err
	}
	row("detvm soft, from the cached snapshot", warm, "")
	if _, err := os.Stat("/dev/kvm"); err == nil {
		if cold, err = b.median(first("--cpu", "kvm", "--no-snapshot")); err != nil {
			return err
		}
		row("detvm kvm, cold", cold, "(goal: 15 s where ring 0 is interpreted)")
		if _, err := first("--cpu", "kvm")(); err != nil { // fills the snapshot cache
			return err
		}
		if warm, err = b.median(first("--cpu", "kvm")); err != nil {
			return err
		}
		row("detvm kvm, from the cached snapshot", warm, "(goal: 1.5 s)")
	}
	peer, err := b.qemuRun("boot.sh", "shift=3,sleep=off")
	if peer > 0 {
		row("QEMU TCG -icount shift=3, whole run", peer, "")
		ratio("detvm soft cold / QEMU", softCold, peer)
	}
	return err
}

// loop measures instructions per second in user code.
func (b *bench) loop() error {
	fmt.Println("== integer loop in the guest")
	load := []string{"--cpu", "soft", "--initramfs", b.initramfs, "--", "/guest", "loop", fmt.Sprint(loopCount)}
	idle := []string{"--cpu", "soft", "--initramfs", b.initramfs, "--", "/guest", "loop", "1"}
	if _, _, err := b.detvmRun(idle...); err != nil { // fills the snapshot cache
		return err
	}
	var rate, wall time.Duration
	var count uint64
	var err error
	base, _, err := b.detvmRun(idle...)
	if err != nil {
		return err
	}
	wall, err = b.median(func() (time.Duration, error) {
		r, _, err := b.detvmRun(load...)
		count = r.Position - base.Position
		return time.Duration(r.WallNS), err
	})
	if err != nil {
		return err
	}
	rate = wall - time.Duration(base.WallNS)
	row("detvm soft", wall, fmt.Sprintf("%.0f M instructions/s (goal: 150)", float64(count)/rate.Seconds()/1e6))
	for _, icount := range []string{"shift=3,sleep=off", "shift=0,sleep=off"} {
		peer, err := b.qemuRun("loop.sh", icount)
		if err != nil {
			return err
		}
		if peer > 0 {
			row("QEMU TCG -icount "+icount+", boot included", peer, "")
			ratio("detvm / QEMU "+icount, wall, peer)
		}
	}
	return nil
}

// replay measures recording, replay and verification of one workload on both sides.
func (b *bench) replay() error {
	fmt.Println("== record and replay: boot, a few commands, a 3 s sleep")
	file := filepath.Join(b.dir, "peer.dtr")
	command := []string{"--cpu", "soft", "--no-snapshot", "--initramfs", b.initramfs, "--", "sh", "-c", peerScript}
	var r result
	record := func() (wall time.Duration, err error) {
		if err := os.RemoveAll(file); err != nil {
			return 0, err
		}
		r, wall, err = b.detvmRun(append([]string{"--record", file}, command...)...)
		return wall, err
	}
	plain, recorded, err := b.pairs(func() (time.Duration, error) {
		_, wall, err := b.detvmRun(command...)
		return wall, err
	}, record)
	if err != nil {
		return err
	}
	row("detvm soft, not recorded", plain, "")
	row("detvm soft, recorded", recorded, fmt.Sprintf("%d events, %d bytes (goal: 350 KB)", r.Events, r.TraceBytes))
	ratio("recorded / not recorded (goal: 1.05)", recorded, plain)
	replayed, err := b.median(func() (time.Duration, error) {
		return timed(exec.Command(b.detvm, "replay", "--cpu", "soft", "--no-snapshot", "--initramfs", b.initramfs, file))
	})
	if err != nil {
		return err
	}
	row("detvm soft, replay", replayed, "")
	recorded, warm, err := b.pairs(record, func() (time.Duration, error) {
		return timed(exec.Command(b.detvm, "replay", "--cpu", "soft", "--initramfs", b.initramfs, file))
	})
	if err != nil {
		return err
	}
	row("detvm soft, replay from the cached snapshot", warm, "")
	ratio("replay / record (goal: 0.67)", warm, recorded)
	if err := b.snapshots(file); err != nil {
		return err
	}
	if err := b.signed(file); err != nil {
		return err
	}
	log := filepath.Join(b.dir, "peer.rr")
	qrec, err := b.qemuRun("peer.sh", "shift=3,rr=record,rrfile="+log)
	if err != nil || qrec == 0 {
		return err
	}
	info, err := os.Stat(log)
	if err != nil {
		return err
	}
	row("QEMU rr=record", qrec, fmt.Sprintf("%d bytes", info.Size()))
	ratio("detvm record / QEMU record", recorded, qrec)
	fmt.Printf("%-52s %10.4f\n", "  ratio detvm trace / QEMU log (bytes)", float64(r.TraceBytes)/float64(info.Size()))
	qrep, err := b.qemuRun("peer.sh", "shift=3,rr=replay,rrfile="+log)
	if err != nil {
		return err
	}
	row("QEMU rr=replay", qrep, "")
	ratio("detvm replay / QEMU replay", replayed, qrep)
	return nil
}

// snapshots compares a recording with its replay where both start from the cached snapshot: then both execute the same instructions.
func (b *bench) snapshots(recording string) error {
	file := filepath.Join(b.dir, "warm.dtr")
	recorded, replayed, err := b.pairs(func() (time.Duration, error) {
		if err := os.RemoveAll(file); err != nil {
			return 0, err
		}
		_, wall, err := b.detvmRun("--record", file, "--cpu", "soft", "--initramfs", b.initramfs, "--", "sh", "-c", peerScript)
		return wall, err
	}, func() (time.Duration, error) {
		return timed(exec.Command(b.detvm, "replay", "--cpu", "soft", "--initramfs", b.initramfs, recording))
	})
	if err != nil {
		return err
	}
	row("detvm soft, recorded from the cached snapshot", recorded, "")
	ratio("replay / record, both from the snapshot", replayed, recorded)
	return nil
}

// traces measures the format: how much a program that only computes leaves in a trace, and how fast events are read.
func (b *bench) traces() error {
	fmt.Println("== the trace")
	file := filepath.Join(b.dir, "loop.dtr")
	r, _, err := b.detvmRun("--record", file, "--cpu", "soft", "--initramfs", b.initramfs, "--", "/guest", "loop", fmt.Sprint(5*loopCount))
	if err != nil {
		return err
	}
	minutes := float64(r.VirtualTimeNS) / float64(time.Minute)
	fmt.Printf("%-52s %10.1f KB per minute (goal: 1000), measured over %.1f s\n", "computing without pause, virtual time", float64(r.TraceBytes)/1e3/minutes, 60*minutes)

	f, err := os.Create(filepath.Join(b.dir, "many.dtr"))
	if err != nil {
		return err
	}
	defer f.Close()
	n, err := manyEvents(f)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	read, err := b.median(func() (time.Duration, error) {
		start := time.Now()
		t, err := trace.Open(f, info.Size())
		if err != nil {
			return 0, err
		}
		events := 0
		for range t.All(&err) {
			events++
		}
		if err == nil && events != n {
			err = fmt.Errorf("read %d of %d events", events, n)
		}
		return time.Since(start), err
	})
	if err != nil {
		return err
	}
	row("read all events of a trace", read, fmt.Sprintf("%.1f M events/s (goal: 2), %.2f bytes each", float64(n)/read.Seconds()/1e6, float64(info.Size())/float64(n)))
	verified, err := b.median(func() (time.Duration, error) { return timed(exec.Command(b.detvm, "verify", f.Name())) })
	if err != nil {
		return err
	}
	row("detvm verify of it", verified, fmt.Sprintf("%.1f M events/s", float64(n)/verified.Seconds()/1e6))
	return nil
}

// manyEvents writes a trace of timer ticks and disk requests, the events of a busy guest.
func manyEvents(w io.Writer) (n int, err error) {
	t, err := trace.NewWriter(w, &trace.Header{Hash: trace.SHA256, MachineModel: "bench", Clock: "instructions", NSPerCount: 1, ScaleNum: 1, ScaleDen: 1, Devices: []string{"pic", "disk"}}, trace.Options{})
	if err != nil {
		return 0, err
	}
	defer t.Abandon()
	const rounds = 250_000
	random := rand.New(rand.NewPCG(1, 2))
	position := uint64(0)
	for range rounds {
		for _, e := range []trace.Event{
			{Kind: trace.KindWRMSR, Size: 8, Write: true, Addr: 0xd3700000, PC: 0xffffffff81033001, Value: position + 4_000_000},
			{Kind: trace.KindMMIO, Size: 4, Write: true, Device: 1, Addr: 0xd0002050, PC: 0xffffffff815c0000},
			{Kind: trace.KindInterrupt, PC: 0xffffffff81000000 + random.Uint64N(1<<20), Value: 0x30},
			{Kind: trace.KindIO, Size: 1, Write: true, Addr: 0x20, PC: 0xffffffff81022000, Value: 0x60},
		} {
			position += 20 + random.Uint64N(100_000)
			e.Position, e.Time, e.Task, e.PID = position, position, "program", 42
			if err := t.Append(&e); err != nil {
				return n, err
			}
			n++
		}
	}
	_, err = t.Close(trace.StatusComplete, nil)
	return n, err
}

// signed measures what an auditor does.
func (b *bench) signed(file string) error {
	key := filepath.Join(b.dir, "key")
	if _, err := timed(exec.Command(b.detvm, "keygen", "-o", key)); err != nil {
		return err
	}
	if _, err := timed(exec.Command(b.detvm, "attest", file, "--key", key+".key")); err != nil {
		return err
	}
	whole, err := b.median(func() (time.Duration, error) { return timed(exec.Command(b.detvm, "verify", file)) })
	if err != nil {
		return err
	}
	row("detvm verify", whole, "(goal: 0.1 s)")
	both, err := b.median(func() (time.Duration, error) {
		return timed(exec.Command(b.detvm, "verify", file, "--key", key+".pub"))
	})
	if err != nil {
		return err
	}
	row("detvm verify --key", both, "(goal: 0.1 s)")
	return nil
}

// debian measures real programs.
func (b *bench) debian() error {
	if b.image == "" {
		fmt.Println("== python3, gcc: skipped, no --image given")
		return nil
	}
	fmt.Println("== programs of the Debian image")
	base, _, err := b.detvmRun("--cpu", "soft", "--image", b.image, "--", "/bin/true")
	if err != nil {
		return err
	}
	if base, _, err = b.detvmRun("--cpu", "soft", "--image", b.image, "--", "/bin/true"); err != nil {
		return err
	}
	for _, load := range []string{
		"python3 -c 'import json, re, random; print(len(json.dumps([random.random() for _ in range(20000)])))'",
		"printf '#include <stdio.h>\\nint main(void) { puts(\"hi\"); }\\n' >/tmp/a.c && gcc -O2 -o /tmp/a /tmp/a.c && /tmp/a",
	} {
		var count uint64
		wall, err := b.median(func() (time.Duration, error) {
			r, _, err := b.detvmRun("--cpu", "soft", "--image", b.image, "--", "sh", "-c", load)
			count = r.Position - base.Position
			return time.Duration(r.WallNS), err
		})
		if err != nil {
			return err
		}
		net := wall - time.Duration(base.WallNS)
		row("detvm soft: "+load[:min(len(load), 38)]+"…", wall, fmt.Sprintf("%.0f M instructions/s (goal: 100)", float64(count)/net.Seconds()/1e6))
	}
	return nil
}

// qemuTimeout bounds one run of the peer.
const qemuTimeout = 5 * time.Minute

// qemuRun boots the same kernel and initramfs under QEMU with one of the scripts as init. It returns 0 when QEMU is not installed.
func (b *bench) qemuRun(script, icount string) (time.Duration, error) {
	if b.qemu == "" {
		fmt.Println("   (no qemu-system-x86_64 here: no comparison)")
		return 0, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), qemuTimeout)
	defer cancel()
	return timed(exec.CommandContext(ctx, b.qemu, "-M", "microvm,pit=on,pic=on,rtc=on,acpi=off", "-accel", "tcg", "-icount", icount, "-cpu", "Nehalem", "-m", "256",
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio",
		"-kernel", b.kernel, "-initrd", b.initramfs, "-append", "console=ttyS0 quiet reboot=t panic=-1 rdinit=/"+script))
}
