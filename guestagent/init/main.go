//go:build linux && amd64

// Command init is the guest agent: PID 1 in the guest. It mounts what a Linux program expects, tells the machine READY,
// and on START runs one command, carries its input and output, and reports how it ended.
//
// # Shape
//
// The agent is one thread around one epoll set: the control port, SIGCHLD, the command's output, and the device that
// serves its standard input. There are no goroutines and no timers, so what the guest kernel schedules is a function of
// the command and its input only. Guest kernel code can be slow to execute (a system call costs tens of microseconds
// where KVM interprets it), so the agent avoids system calls, page faults and package initialisation it can do without;
// that is why it uses neither package os nor fmt. See quiet_unsafe.go for how the Go runtime's own thread is stilled.
//
// Everything before READY depends on nothing but the kernel and the initramfs: no seed, no time, no image. It is in the
// machine's boot snapshot, so work done there is paid once: even the child that becomes the command is forked there
// (launch_unsafe.go). The rest is in the order of the files: boot.go, start.go, root.go, child.go, loop.go.
//
// # Standard input on demand
//
// A pipe would have to be filled before the workload reads, at a moment that depends on the host. Instead fd 0 is a
// character device that the agent implements through /dev/cuse (cuse.go, stdin.go): a read by the workload becomes a
// STDIN_WANTED message at once, and the machine, which stands still meanwhile, answers it. Kernels without CUSE get a
// pipe that asks for input whenever it has room.
//
// # Failure
//
// Before READY there is nobody to tell: the agent writes to the kernel log and exits, which makes the kernel panic and
// the machine stop. After START it sends FAILED.
package main

import (
	"errors"
	"runtime"

	"github.com/detvm/detvm/guestagent"
	"golang.org/x/sys/unix"
)

// The whole program stays on the main thread: quietRuntime silences the others.
func init() { runtime.LockOSThread() }

func main() {
	a := new(agent)
	if err := a.boot(); err != nil {
		die(err)
	}
	if err := a.serve(); err != nil {
		a.fail(err)
	}
	die(failure("power off", "power off", unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)))
}

// die ends the guest: the kernel panics when PID 1 exits.
func die(err error) {
	msg := []byte("<0>detvm agent: " + err.Error() + "\n")
	if fd, openErr := unix.Open("/dev/kmsg", unix.O_WRONLY|unix.O_CLOEXEC, 0); openErr == nil {
		_, _ = unix.Write(fd, msg)
	} else {
		_, _ = unix.Write(2, msg)
	}
	unix.Exit(1)
}

// failure makes the error that becomes a FAILED message with the exit code for agent errors.
func failure(stage, what string, err error) *guestagent.Failed {
	f := &guestagent.Failed{Stage: stage, Message: what, ExitCode: guestagent.ExitAgentError}
	if err != nil {
		f.Message += ": " + err.Error()
	}
	var errno unix.Errno
	if errors.As(err, &errno) {
		f.Errno = uint32(errno)
	}
	return f
}

// send writes one message to the control port. Losing the control port is the end.
func (a *agent) send(m guestagent.Message) {
	b, err := guestagent.Append(a.frame[:0], m)
	if err != nil {
		die(err)
	}
	a.frame = b
	if err := writeAll(a.ports.control, b); err != nil {
		die(failure("control", "write to the control port", err))
	}
}

// fail sends FAILED for err.
func (a *agent) fail(err error) {
	var f *guestagent.Failed
	if !errors.As(err, &f) {
		f = failure("agent", err.Error(), nil)
	}
	if len(a.mounted) > 0 {
		unix.Sync()
	}
	f.Message = f.Message[:min(len(f.Message), guestagent.MaxText)]
	a.send(f)
}

func writeAll(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Write(fd, b)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// readFull fills b from fd; an end of file before that is EPIPE.
func readFull(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Read(fd, b)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return unix.EPIPE
		}
		b = b[n:]
	}
	return nil
}

// closeFD closes a descriptor. There is nothing to be done about an error, and nothing was written that could be lost.
func closeFD(fd int) { _ = unix.Close(fd) }
