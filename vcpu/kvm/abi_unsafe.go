package kvm

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The ioctl requests, from Documentation/virt/kvm/api.rst and include/uapi/linux/kvm.h.
const (
	ioGetAPIVersion     = 0xae00
	ioCreateVM          = 0xae01
	ioCheckExtension    = 0xae03
	ioGetVCPUMmapSize   = 0xae04
	ioCreateVCPU        = 0xae41
	ioGetDirtyLog       = 0x4010ae42
	ioSetMemoryRegion   = 0x4020ae46
	ioSetTSSAddr        = 0xae47
	ioSetIdentityMap    = 0x4008ae48
	ioRun               = 0xae80
	ioGetRegs           = 0x8090ae81
	ioSetRegs           = 0x4090ae82
	ioGetSregs          = 0x8138ae83
	ioSetSregs          = 0x4138ae84
	ioTranslate         = 0xc018ae85
	ioInterrupt         = 0x4004ae86
	ioGetMSRs           = 0xc008ae88
	ioSetMSRs           = 0x4008ae89
	ioSetSignalMask     = 0x4004ae8b
	ioSetCPUID2         = 0x4008ae90
	ioGetCPUID2         = 0xc008ae91
	ioSetGuestDebug     = 0x4048ae9b
	ioGetVCPUEvents     = 0x8040ae9f
	ioSetVCPUEvents     = 0x4040aea0
	ioGetDebugRegs      = 0x8080aea1
	ioSetDebugRegs      = 0x4080aea2
	ioEnableCap         = 0x4068aea3
	ioGetXsave          = 0x9000aea4
	ioSetXsave          = 0x5000aea5
	ioSetMSRFilter      = 0x4188aec6
	ioPerfEnable        = 0x2400
	ioPerfDisable       = 0x2401
	ioPerfPeriod        = 0x40082404
	ioPerfSetFilter     = 0x40082406
	fcntlSetSig         = 10
	fcntlSetOwnEx       = 15
	ownerThread         = 0 // F_OWNER_TID
	kvmAPIVersion       = 12
	memLogDirty         = 1 << 0
	debugEnable         = 1 << 0
	debugSingleStep     = 1 << 1
	syncRegs            = 1 << 0
	eventsShadowValid   = 1 << 2
	cpuidIndexed        = 1 << 0
	msrFilterRead       = 1 << 0
	msrFilterWrite      = 1 << 1
	msrFilterDeny       = 1 << 0
	msrExitInval        = 1 << 0
	msrExitUnknown      = 1 << 1
	msrExitFilter       = 1 << 2
	capSetGuestDebug    = 23
	capVCPUEvents       = 41
	capDebugRegs        = 50
	capXsave            = 55
	capSyncRegs         = 74
	capImmediateExit    = 136
	capUserSpaceMSR     = 188
	capMSRFilter        = 189
	exitIO              = 2
	exitDebug           = 4
	exitHalt            = 5
	exitMMIO            = 6
	exitShutdown        = 8
	exitFailEntry       = 9
	exitInternalError   = 17
	exitRDMSR           = 29
	exitWRMSR           = 30
	internalEmulation   = 1
	emulationHasBytes   = 1 << 0
	immediateExitWord   = 0x100 // immediate_exit is byte 1 of the first little-endian word of struct kvm_run
	shadowSTI           = 2
	msrFilterBitmapSize = 16
)

type (
	kvmRegs struct {
		rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp uint64
		r8, r9, r10, r11, r12, r13, r14, r15   uint64
		rip, rflags                            uint64
	}
	kvmSegment struct {
		base                      uint64
		limit                     uint32
		selector                  uint16
		typ, present, dpl, db     uint8
		s, l, g, avl, unusable, _ uint8
	}
	kvmTable struct {
		base  uint64
		limit uint16
		_     [3]uint16
	}
	kvmSregs struct {
		cs, ds, es, fs, gs, ss, tr, ldt kvmSegment
		gdt, idt                        kvmTable
		cr0, cr2, cr3, cr4, cr8         uint64
		efer, _                         uint64 // efer, apic_base
		interruptBitmap                 [4]uint64
	}
	kvmEvents struct {
		excInjected, excNr, _, excPending uint8  // injected, nr, has_error_code, pending
		_                                 uint32 // error_code
		intInjected, _, _, intShadow      uint8  // injected, nr, soft, shadow
		nmiInjected, nmiPending, _, _     uint8  // injected, pending, masked
		_, flags                          uint32 // sipi_vector, flags
		_                                 [40]uint8
	}
	kvmDebugRegs struct {
		db       [4]uint64
		dr6, dr7 uint64
		_        [10]uint64
	}
	kvmXsave [4096]byte
	kvmMSR   struct {
		index, _ uint32
		data     uint64
	}
	kvmMSRs struct {
		n, _    uint32
		entries [16]kvmMSR
	}
	kvmCPUIDEntry struct {
		function, index, flags, eax, ebx, ecx, edx uint32
		_                                          [3]uint32
	}
	kvmCPUID struct {
		n, _    uint32
		entries [128]kvmCPUIDEntry
	}
	kvmMemoryRegion struct {
		slot, flags     uint32
		gpa, size, host uint64
	}
	kvmDirtyLog struct {
		slot, _ uint32
		bitmap  uint64
	}
	kvmTranslation struct {
		linear, physical uint64
		valid            uint8
		_                [7]uint8
	}
	kvmGuestDebug struct {
		control, _ uint32
		_          [8]uint64
	}
	kvmEnableCap struct {
		cap, _ uint32
		args   [4]uint64
		_      [64]uint8
	}
	kvmMSRRange struct {
		flags, n, base uint32
		_              uint32
		bitmap         uint64
	}
	kvmMSRFilter struct {
		flags, _ uint32
		ranges   [16]kvmMSRRange
	}
	kvmSignalMask struct {
		n   uint32
		set [8]byte
	}

	// runPage is struct kvm_run, shared with the kernel.
	runPage struct {
		control           uint32 // request_interrupt_window, immediate_exit, padding
		_                 uint32
		exitReason        uint32
		readyForInterrupt uint8
		ifFlag            uint8
		_                 uint16
		cr8, apicBase     uint64
		union             [256]byte
		validRegs         uint64
		dirtyRegs         uint64
		regs              kvmRegs
	}
	runIO struct {
		direction, size uint8
		port            uint16
		count           uint32
		offset          uint64
	}
	runMMIO struct {
		gpa   uint64
		data  [8]byte
		n     uint32
		write uint8
	}
	runMSR struct {
		fault         uint8
		_             [7]uint8
		reason, index uint32
		data          [8]byte
	}
	runInternal struct {
		suberror, n uint32
		data        [16]uint64
	}
	runEmulation struct {
		suberror, n uint32
		flags       uint64
		size        uint8
		bytes       [15]uint8
	}
	runFailEntry struct {
		reason uint64
		cpu    uint32
	}
)

// The views of the union of struct kvm_run. Each is valid for the exit reason that it is named after.
func (r *runPage) io() *runIO               { return (*runIO)(unsafe.Pointer(&r.union)) }
func (r *runPage) mmio() *runMMIO           { return (*runMMIO)(unsafe.Pointer(&r.union)) }
func (r *runPage) msr() *runMSR             { return (*runMSR)(unsafe.Pointer(&r.union)) }
func (r *runPage) internal() *runInternal   { return (*runInternal)(unsafe.Pointer(&r.union)) }
func (r *runPage) emulation() *runEmulation { return (*runEmulation)(unsafe.Pointer(&r.union)) }
func (r *runPage) failEntry() *runFailEntry { return (*runFailEntry)(unsafe.Pointer(&r.union)) }

// viewRun maps the first bytes of a vCPU mapping to its struct.
func viewRun(mapping []byte) *runPage { return (*runPage)(unsafe.Pointer(&mapping[0])) }

// ioctl issues a request whose argument is a plain number.
func ioctl(fd int, request, arg uintptr) (int, error) {
	for {
		r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, arg)
		switch errno {
		case 0:
			return int(r), nil
		case unix.EINTR: // a signal of the Go runtime: making a virtual machine takes long enough
		default:
			return 0, errno
		}
	}
}

// ioctlPtr issues a request whose argument is a structure. The pointer becomes a number inside the system call expression, so the structure
// cannot move in between (rule 4 of package unsafe).
func ioctlPtr[T any](fd int, request uintptr, arg *T) error {
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(arg)))
		switch errno {
		case 0:
			return nil
		case unix.EINTR: // as above
		default:
			return errno
		}
	}
}

// msrIoctl issues KVM_GET_MSRS or KVM_SET_MSRS; both return how many entries the kernel took.
func msrIoctl(fd int, request uintptr, arg *kvmMSRs) error {
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(arg)))
	if errno != 0 {
		return errno
	}
	if int(n) < int(arg.n) {
		return fmt.Errorf("MSR %#x is refused by this host", arg.entries[n].index)
	}
	return nil
}

// setMemoryRegion installs, changes or (with size 0) deletes a memory slot.
func setMemoryRegion(vm int, slot, flags uint32, gpa uint64, host []byte, size uint64) error {
	region := kvmMemoryRegion{slot: slot, flags: flags, gpa: gpa, size: size, host: uint64(uintptr(unsafe.Pointer(&host[0])))}
	return ioctlPtr(vm, ioSetMemoryRegion, &region)
}

// getDirtyLog fills bitmap, one bit for each 4 KiB page of the slot, and clears the kernel's.
func getDirtyLog(vm int, slot uint32, bitmap []uint64) error {
	log := kvmDirtyLog{slot: slot, bitmap: uint64(uintptr(unsafe.Pointer(&bitmap[0])))}
	err := ioctlPtr(vm, ioGetDirtyLog, &log)
	runtime.KeepAlive(bitmap)
	return err
}

// setMSRFilter lets the guest use the MSRs in allowed directly and denies all others.
func setMSRFilter(vm int, allowed []msrRange) error {
	// The bitmaps must not live on the stack: the kernel reads them through numbers that the garbage collector does not see.
	bitmaps := make([][msrFilterBitmapSize]byte, len(allowed))
	filter := kvmMSRFilter{flags: msrFilterDeny}
	for i, r := range allowed {
		for bit := range r.n {
			bitmaps[i][bit/8] |= 1 << (bit % 8)
		}
		filter.ranges[i] = kvmMSRRange{flags: msrFilterRead | msrFilterWrite, n: r.n, base: r.base, bitmap: uint64(uintptr(unsafe.Pointer(&bitmaps[i])))}
	}
	err := ioctlPtr(vm, ioSetMSRFilter, &filter)
	runtime.KeepAlive(bitmaps)
	return err
}

// perfOpen opens a perf event on one thread.
func perfOpen(attr *unix.PerfEventAttr, tid int) (int, error) {
	attr.Size = uint32(unsafe.Sizeof(*attr))
	return unix.PerfEventOpen(attr, tid, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
}

// perfSetFilter attaches a tracepoint filter.
func perfSetFilter(fd int, filter string) error {
	text, err := unix.BytePtrFromString(filter)
	if err != nil {
		return err
	}
	return ioctlPtr(fd, ioPerfSetFilter, text)
}

// perfSignalThread makes overflows of the event send signal to exactly that thread.
func perfSignalThread(fd, tid int, signal unix.Signal) error {
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, unix.O_ASYNC); err != nil {
		return err
	}
	if _, err := unix.FcntlInt(uintptr(fd), fcntlSetSig, int(signal)); err != nil {
		return err
	}
	owner := struct{ kind, tid int32 }{ownerThread, int32(tid)}
	if _, _, errno := unix.Syscall(unix.SYS_FCNTL, uintptr(fd), fcntlSetOwnEx, uintptr(unsafe.Pointer(&owner))); errno != 0 {
		return errno
	}
	return nil
}

// perfRead reads the 8-byte value of an event.
func perfRead(fd int) (uint64, error) {
	var v uint64
	n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&v)), 8)
	if errno != 0 {
		return 0, errno
	}
	if n != 8 {
		return 0, errors.New("the event is in the error state: the host could not keep it on the processor")
	}
	return v, nil
}

// signalBit is the kernel's sigset with one signal in it.
func signalBit(s unix.Signal) uint64 { return 1 << (uint(s) - 1) }

// blockSignal blocks (or unblocks) one signal in the calling thread.
func blockSignal(s unix.Signal, block bool) error {
	how := uintptr(unix.SIG_UNBLOCK)
	if block {
		how = unix.SIG_BLOCK
	}
	set := signalBit(s)
	if _, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, how, uintptr(unsafe.Pointer(&set)), 0, 8, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// drainSignal collects every pending instance of a blocked signal of the calling thread.
func drainSignal(s unix.Signal) {
	set := signalBit(s)
	var zero unix.Timespec
	for {
		_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGTIMEDWAIT, uintptr(unsafe.Pointer(&set)), 0, uintptr(unsafe.Pointer(&zero)), 8, 0, 0)
		if errno != 0 && errno != unix.EINTR {
			return
		}
	}
}
