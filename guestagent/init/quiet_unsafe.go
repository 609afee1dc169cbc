//go:build linux && amd64

package main

import (
	"strconv"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The Go runtime's monitor thread wakes every 10 ms for as long as it believes that Go code runs. In a guest whose time
// jumps to the next timer when nothing else is to do, that is 360,000 wakes for a `sleep 3600`. The monitor preempts
// goroutines, retakes processors from blocked system calls and forces a collection every two minutes: an agent of one
// goroutine needs none of it. So the agent sends it a signal whose handler ends the thread.
//
// The handler does so only when the interrupted system call returned EINTR, that is when the thread was in a sleep with
// a timeout (SA_RESTART makes other waits restart): there the monitor holds none of the runtime's locks. Any other
// thread, such as the idle one that ran the runtime's initialisation, instead leaves the handler with SIGCHLD blocked:
// with a thread left that accepts SIGCHLD, the kernel would hand it there instead of to our signalfd.

// sigQuiet is the last real-time signal; nothing else uses it.
const sigQuiet = 64

// quieted counts handler runs. Written by the handler.
var quieted uint32

func handlerAddresses() (handler, restorer uintptr)

// kernelSigaction is struct sigaction as rt_sigaction(2) has it on x86-64.
type kernelSigaction struct {
	handler, flags, restorer uintptr
	mask                     uint64
}

// quietRuntime ends the runtime's monitor and blocks SIGCHLD in every thread. It needs /proc. It gives up silently when
// the monitor does not sleep in any of many attempts: that costs time, not correctness.
func quietRuntime() error {
	const saOnStack, saRestart, saRestorer = 0x08000000, 0x10000000, 0x04000000 // asm/signal.h
	handler, restorer := handlerAddresses()
	action := kernelSigaction{handler, saRestorer | saRestart | saOnStack, restorer, 0}
	if _, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, sigQuiet, uintptr(unsafe.Pointer(&action)), 0, 8, 0, 0); errno != 0 {
		return errno
	}
	tids, err := otherThreads()
	if err != nil {
		return err
	}
	pid := unix.Getpid()
	for i, tid := range tids {
		for range 100 {
			before := atomic.LoadUint32(&quieted)
			if unix.Tgkill(pid, tid, sigQuiet) != nil {
				break // it is gone
			}
			for atomic.LoadUint32(&quieted) == before {
				nap(50_000)
			}
			if i > 0 {
				break // not the monitor, which is the first thread that the runtime starts
			}
		}
	}
	set := unix.Sigset_t{Val: [16]uint64{1 << (unix.SIGCHLD - 1)}}
	return unix.PthreadSigmask(unix.SIG_BLOCK, &set, nil)
}

// nap sleeps for ns nanoseconds (below a second) without telling the Go scheduler.
func nap(ns int64) {
	t := unix.Timespec{Nsec: ns}
	_, _, _ = unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&t)), 0, 0)
}

// otherThreads returns the IDs of the process's threads but the main one, oldest first.
func otherThreads() ([]int, error) {
	names, err := readDir("/proc/self/task")
	if err != nil {
		return nil, err
	}
	var tids []int
	for _, name := range names {
		if tid, err := strconv.Atoi(name); err == nil && tid != unix.Getpid() {
			tids = append(tids, tid)
		}
	}
	return tids, nil
}

// readDir returns the names in a directory, in the kernel's order.
func readDir(path string) ([]string, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer closeFD(fd)
	var names []string
	buf := make([]byte, 2048)
	for {
		n, err := unix.ReadDirent(fd, buf)
		if err != nil || n == 0 {
			return names, err
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
}

// addEntropy adds seed to the kernel's random pool, counts it as fully random and makes the generator start afresh
// from it (random(4)).
func addEntropy(fd int, seed []byte) error {
	const rndAddEntropy, rndReseedCRNG = 0x40085203, 0x5207
	var pool struct {
		bits, size int32
		data       [128]byte
	}
	n := copy(pool.data[:], seed)
	pool.bits, pool.size = int32(8*n), int32(n)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), rndAddEntropy, uintptr(unsafe.Pointer(&pool))); errno != 0 {
		return errno
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), rndReseedCRNG, 0); errno != 0 {
		return errno
	}
	return nil
}
