package kvm

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The runtime's own bracket around a blocking system call. enterTrapping needs it because several raw system calls must happen as one.
//
//go:linkname runtimeEntersyscall runtime.entersyscall
func runtimeEntersyscall()

//go:linkname runtimeExitsyscall runtime.exitsyscall
func runtimeExitsyscall()

// enterPlain runs the guest until KVM_RUN returns.
func enterPlain(vcpu int) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(vcpu), ioRun, 0); errno != 0 {
		return errno
	}
	return nil
}

// enterTrapping runs the guest like enterPlain, with RDTSC disabled for the thread (PR_SET_TSC) while the guest runs: some hosts run ring 3 of the
// guest under the thread's own CR4.TSD. Go code under that setting would die on its next look at the clock (the vDSO uses RDTSC), so nothing but
// raw system calls happens inside, and every signal is blocked so that no handler of the runtime runs either.
//
//go:nosplit
func enterTrapping(vcpu int) error {
	runtimeEntersyscall()
	errno := runWithoutTSC(uintptr(vcpu))
	runtimeExitsyscall()
	if errno != 0 {
		return errno
	}
	return nil
}

// runWithoutTSC is the part of enterTrapping in which the runtime believes the thread to be in the kernel.
//
//go:nosplit
//go:norace
func runWithoutTSC(vcpu uintptr) syscall.Errno {
	all, saved := ^uint64(0), uint64(0)
	if _, _, errno := syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&all)), uintptr(unsafe.Pointer(&saved)), 8, 0, 0); errno != 0 {
		return errno
	}
	_, _, result := syscall.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_TSC, unix.PR_TSC_SIGSEGV, 0)
	if result == 0 {
		_, _, result = syscall.RawSyscall(unix.SYS_IOCTL, vcpu, ioRun, 0)
		if _, _, errno := syscall.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_TSC, unix.PR_TSC_ENABLE, 0); errno != 0 {
			result = errno
		}
	}
	if _, _, errno := syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&saved)), 0, 8, 0, 0); errno != 0 {
		result = errno
	}
	return result
}
