//go:build linux && amd64

package main

import (
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A command is started by a launcher: a child of the agent that is forked before READY, so that the fork is in the boot
// snapshot, and waits there for what to do. It runs no Go code. Its address space is the page of its code and a region that it
// shares with the agent, in which the agent writes a program: system calls one after another, each with what its failure
// means. So there is next to nothing to copy when it is forked and to take down when it becomes the command, and all that
// needs a runtime is done by the agent, which has one. See launch_amd64.s.

// stepSize is the size of a step in bytes: the words of launch_amd64.s.
const stepSize = 64

// regionSize is room for the longest START: its strings, and a pointer for each.
const regionSize = 16 << 20

// stepKind says what the failure of a system call means.
type stepKind uint8

const (
	must     stepKind = iota // report it and exit
	optional                 // nothing
	probe                    // a path that does not exist: pass over the next step
	try                      // execve: go on with the next path unless the failure is of another kind than "not here"
	giveUp                   // no path could be executed: report the most telling failure
)

// launcher is the waiting child, and the program that it is given. Steps grow from the start of the region, data from its end.
type launcher struct {
	region []byte
	steps  int // bytes of steps, header included
	data   int // where data begins
	err    error

	pid   int
	order int // written to when the program is complete
}

// forkLauncher makes the child and returns its PID, or a negative error number.
func forkLauncher(program uintptr) (result uintptr)

// launcherCode returns where the child's code is.
func launcherCode() (start, end uintptr)

const pageSize = 4096

// newLauncher makes the region. report is the descriptor on which the child says why it cannot become the command, exitCode its
// exit code then.
func newLauncher(report, exitCode int) (*launcher, error) {
	region, err := unix.Mmap(-1, 0, regionSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, err
	}
	l := &launcher{region: region, steps: stepSize, data: regionSize}
	header := (*[8]uintptr)(unsafe.Pointer(&region[0]))
	header[0], header[1], header[2] = uintptr(report), l.bytes(make([]byte, 8)), uintptr(exitCode)
	return l, nil
}

// add appends a system call to the program.
func (l *launcher) add(kind stepKind, stage childStage, nr uintptr, args ...uintptr) {
	if l.steps+stepSize > l.data {
		l.fail(unix.E2BIG)
		return
	}
	step := (*[8]uintptr)(unsafe.Pointer(&l.region[l.steps]))
	step[0], step[7] = nr, uintptr(kind)|uintptr(stage)<<8
	copy(step[1:7], args)
	l.steps += stepSize
}

// bytes puts data into the region and returns its address, which is a multiple of eight.
func (l *launcher) bytes(b []byte) uintptr {
	at := (l.data - len(b)) &^ 7
	if at < l.steps {
		l.fail(unix.E2BIG)
		return 0
	}
	l.data = at
	copy(l.region[at:], b)
	return uintptr(unsafe.Pointer(&l.region[at]))
}

// text puts a string with a NUL into the region.
func (l *launcher) text(s string) uintptr {
	if strings.IndexByte(s, 0) >= 0 {
		l.fail(unix.EINVAL)
	}
	at := l.data - len(s) - 1
	if at < l.steps {
		l.fail(unix.E2BIG)
		return 0
	}
	l.data = at
	copy(l.region[at:], s)
	l.region[at+len(s)] = 0
	return uintptr(unsafe.Pointer(&l.region[at]))
}

// vector puts strings and the list of their addresses, which a zero ends, into the region.
func (l *launcher) vector(list []string) uintptr {
	addresses := make([]uintptr, len(list)+1)
	for i, s := range list {
		addresses[i] = l.text(s)
	}
	return l.bytes(unsafe.Slice((*byte)(unsafe.Pointer(&addresses[0])), len(addresses)*8))
}

func (l *launcher) fail(err error) {
	if l.err == nil {
		l.err = err
	}
}

// fork makes the child, which begins with the program at once. Everything of the agent's but the code and the region is kept
// out of the child for good: the agent never forks again.
func (l *launcher) fork() error {
	start, end := launcherCode()
	region := uintptr(unsafe.Pointer(&l.region[0]))
	from := uintptr(0)
	const taskSize = 1<<47 - pageSize
	// In ascending order: the kernel maps regions far above programs.
	for _, keep := range [][2]uintptr{{start, end}, {region, region + regionSize}, {taskSize, taskSize}} {
		// ENOMEM says that there are holes.
		if err := madvise(from, keep[0]&^(pageSize-1)-from, unix.MADV_DONTFORK); err != 0 && err != unix.ENOMEM {
			return err
		}
		from = (keep[1] + pageSize - 1) &^ (pageSize - 1)
	}
	result := int(forkLauncher(region))
	if result < 0 {
		return unix.Errno(-result)
	}
	l.pid = result
	return nil
}

func madvise(start, size uintptr, advice uintptr) unix.Errno {
	_, _, errno := unix.RawSyscall(unix.SYS_MADVISE, start, size, advice)
	return errno
}
