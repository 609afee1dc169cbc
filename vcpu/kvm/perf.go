package kvm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/detvm/detvm/vcpu"
	"golang.org/x/sys/unix"
)

// stopSignal is the real-time signal of kicks and counter overflows (see the package comment). glibc keeps 32 to 34 for itself; the Go runtime uses none of the
// real-time signals.
const stopSignal = unix.Signal(42)

// farAway is a sampling period that never ends.
const farAway = 1 << 62

// perfCounter is a counter on a perf event that is bound to one thread.
type perfCounter struct {
	fd   int
	late uint64
}

// openCounter opens the counter of a clock on a thread.
func openCounter(clock vcpu.Clock, tid int) (*perfCounter, error) {
	switch clock {
	case vcpu.ClockKernelInstructions:
		return openTracepoint(tid)
	case vcpu.ClockBranches:
		event, err := hostBranchEvent()
		if err != nil {
			return nil, err
		}
		return openBranches(event, tid)
	}
	return nil, fmt.Errorf("clock %q has no counter", clock)
}

// counterChecks remembers the clocks whose counter could be opened in this process. Opening a tracepoint takes some tens of milliseconds.
var counterChecks struct {
	sync.Mutex
	passed map[vcpu.Clock]bool
}

// checkCounter opens the counter of a clock once, to see that it can be.
func checkCounter(clock vcpu.Clock) error {
	counterChecks.Lock()
	defer counterChecks.Unlock()
	if counterChecks.passed[clock] {
		return nil
	}
	c, err := openCounter(clock, unix.Gettid())
	if err != nil {
		return err
	}
	if err := c.close(); err != nil {
		return fmt.Errorf("close the probed counter: %w", err)
	}
	if counterChecks.passed == nil {
		counterChecks.passed = map[vcpu.Clock]bool{}
	}
	counterChecks.passed[clock] = true
	return nil
}

// openTracepoint counts the instructions that KVM emulates. failed == 1 marks a second record of an instruction that the emulator gave up on; without the
// filter such an instruction would count twice.
func openTracepoint(tid int) (*perfCounter, error) {
	id, err := emulationTracepoint()
	if err != nil {
		return nil, err
	}
	attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_TRACEPOINT, Config: id, Sample: farAway, Bits: unix.PerfBitDisabled}
	return newPerfCounter(&attr, "failed == 0", tid, 0)
}

// openBranches counts retired conditional branches of the guest only.
func openBranches(event branchEvent, tid int) (*perfCounter, error) {
	attr := unix.PerfEventAttr{
		Type: unix.PERF_TYPE_RAW, Config: event.config, Sample: farAway,
		Bits: unix.PerfBitDisabled | unix.PerfBitExcludeHost | unix.PerfBitPinned,
	}
	return newPerfCounter(&attr, "", tid, event.skid)
}

func newPerfCounter(attr *unix.PerfEventAttr, filter string, tid int, skid uint64) (*perfCounter, error) {
	fd, err := perfOpen(attr, tid)
	if err != nil {
		return nil, perfOpenError(err)
	}
	c := &perfCounter{fd: fd, late: skid}
	if filter != "" {
		if err := perfSetFilter(fd, filter); err != nil {
			return nil, errors.Join(fmt.Errorf("filter the event: %w", err), c.close())
		}
	}
	if err := perfSignalThread(fd, tid, stopSignal); err != nil {
		return nil, errors.Join(fmt.Errorf("route the event's signal: %w", err), c.close())
	}
	return c, nil
}

// perfOpenError turns what perf_event_open says into what a person can do.
func perfOpenError(err error) error {
	switch {
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return fmt.Errorf("perf events are not permitted (set kernel.perf_event_paranoid to 1 or less, or grant CAP_PERFMON): %w", err)
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.EOPNOTSUPP):
		return fmt.Errorf("this host's kernel has no such event (no hardware PMU): %w", err)
	}
	return fmt.Errorf("open the perf event: %w", err)
}

func (c *perfCounter) read() (uint64, error) { return perfRead(c.fd) }

// arm sets the period while the event is disabled: enabling then starts a whole new period. Setting it on a running event would not. The event is
// enabled without a limit (not by PERF_EVENT_IOC_REFRESH): it counts on after an overflow, so that a guest that runs past the stop is noticed.
func (c *perfCounter) arm(n uint64) error {
	if err := c.suspend(); err != nil {
		return err
	}
	if err := ioctlPtr(c.fd, ioPerfPeriod, &n); err != nil {
		return fmt.Errorf("set the period: %w", err)
	}
	if _, err := ioctl(c.fd, ioPerfEnable, 0); err != nil {
		return fmt.Errorf("enable the event: %w", err)
	}
	return nil
}

func (c *perfCounter) disarm() error { return c.arm(farAway) }

func (c *perfCounter) suspend() error {
	if _, err := ioctl(c.fd, ioPerfDisable, 0); err != nil {
		return fmt.Errorf("disable the event: %w", err)
	}
	return nil
}

func (c *perfCounter) skid() uint64 { return c.late }
func (c *perfCounter) close() error { return unix.Close(c.fd) }

// emulationTracepoint finds the number of kvm:kvm_emulate_insn in tracefs. Where tracefs is not mounted it is mounted on a directory of our own for the
// moment of the look-up.
func emulationTracepoint() (uint64, error) {
	const event = "events/kvm/kvm_emulate_insn/id"
	for _, root := range []string{"/sys/kernel/tracing", "/sys/kernel/debug/tracing"} {
		if id, err := readID(filepath.Join(root, event)); err == nil {
			return id, nil
		}
	}
	dir, err := os.MkdirTemp("", "detvm-tracefs-")
	if err != nil {
		return 0, fmt.Errorf("make a mount point for tracefs: %w", err)
	}
	defer os.Remove(dir)
	if err := unix.Mount("tracefs", dir, "tracefs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return 0, fmt.Errorf("the tracepoint kvm:kvm_emulate_insn cannot be read: tracefs is not mounted and mounting it failed: %w", err)
	}
	id, err := readID(filepath.Join(dir, event))
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
		return 0, fmt.Errorf("unmount tracefs again: %w", err)
	}
	if err != nil {
		return 0, fmt.Errorf("this kernel has no tracepoint kvm:kvm_emulate_insn: %w", err)
	}
	return id, nil
}

func readID(path string) (uint64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(text)), 10, 32)
}
