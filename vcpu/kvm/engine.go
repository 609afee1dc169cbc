package kvm

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/detvm/detvm/vcpu"
	"golang.org/x/sys/unix"
)

// Errors that a caller may want to tell apart.
var (
	// ErrClosed is returned by every method after Close.
	ErrClosed = errors.New("the processor is closed")
	// ErrMidDelivery is returned by State when an exception or interrupt is on its way into the guest: a State has no place for it. It can happen after
	// ReasonKick, ReasonStop and Interrupt, never right after a synchronous exit. Running on to the next exit cures it.
	ErrMidDelivery = errors.New("an interrupt or exception is being delivered; run on to the next exit before saving the state")
)

// msrRange is a run of MSR numbers.
type msrRange struct{ base, n uint32 }

// plainMSRs are the MSRs that are plain processor state and stay with KVM (docs/machine.md).
var plainMSRs = []msrRange{
	{vcpu.MSRSysenterCS, 3},
	{vcpu.MSRMiscEnable, 1},
	{vcpu.MSRPAT, 1},
	{vcpu.MSREFER, 5},   // EFER, STAR, LSTAR, CSTAR, SFMASK
	{vcpu.MSRFSBase, 4}, // FS, GS, KERNEL_GS base, TSC_AUX
}

// Engine is a [vcpu.CPU] on /dev/kvm. The goroutine that calls Run is wired to its operating-system thread until Close (see the package comment); a
// Close from another goroutine leaves it wired.
type Engine struct {
	vm, cpu   int // file descriptors
	mapping   []byte
	run       *runPage
	slots     []slot
	clock     vcpu.Clock
	tsc       func() uint64
	traits    hostTraits
	cpuid     []vcpu.CPUIDLeaf
	enterFunc func(int) error

	affinity *unix.CPUSet // the processors that the bound thread could use before, when it was pinned to one

	tid    int     // the thread that Run is bound to; 0 before the first Run
	lander *lander // nil on ClockExits
	count  uint64

	pending   *vcpu.Exit // the last exit, whose instruction KVM completes on the next entry
	stashed   bool       // an exit came while a pending one was completed; it stands in the run page and goes out on the next Run
	halted    bool
	haltPC    uint64
	queued    bool // Interrupt was called and the guest has not run since
	wasQueued bool // an interrupt was queued at the last entry and may still be undelivered
	shadow    bool // SetState put an interrupt shadow in place and the guest has not run since
	fresh     bool // the state was set by SetState (or never) and the guest has not run since
	freshIF   bool // with fresh: the interrupt flag
	ranOnce   bool
	stale     bool // the memory slots must be made anew before the guest runs (see refreshSlots)
	dead      *vcpu.Exit

	kept vcpu.State // holds the MSRs that the host does not keep; its other fields are unused

	debugging bool // KVM_SET_GUEST_DEBUG single-step is on

	kicked atomic.Bool
	inside atomic.Int32 // the thread that is in KVM_RUN, or 0
	guard  sync.Mutex   // orders Kick against Close
	closed bool
}

var _ vcpu.CPU = (*Engine)(nil)

// New creates a virtual machine with one processor on /dev/kvm. Its errors are one line each and say what to do.
func New(config vcpu.Config) (vcpu.CPU, error) {
	traits, err := measureTraits()
	if err != nil {
		return nil, err
	}
	switch config.Clock {
	case vcpu.ClockExits:
	case vcpu.ClockKernelInstructions, vcpu.ClockBranches:
		if err := checkCounter(config.Clock); err != nil {
			return nil, fmt.Errorf("clock %s: %w", config.Clock, err)
		}
	default:
		return nil, fmt.Errorf("KVM cannot count %q: use exits, kernel-instructions or branches", config.Clock)
	}
	e, err := newEngine(config, traits)
	if err != nil {
		return nil, err
	}
	return e, nil
}

// newEngine builds an engine for a host whose traits are known.
func newEngine(config vcpu.Config, traits hostTraits) (*Engine, error) {
	e := &Engine{vm: -1, cpu: -1, clock: config.Clock, tsc: config.TSC, traits: traits, fresh: true, enterFunc: enterPlain}
	if traits.needsThreadTSD {
		e.enterFunc = enterTrapping
	}
	if err := e.build(config); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

func (e *Engine) build(config vcpu.Config) (err error) {
	device, err := openDevice()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(device)) }()
	if e.vm, err = ioctl(device, ioCreateVM, 0); err != nil {
		return fmt.Errorf("create a virtual machine: %w", err)
	}
	unix.CloseOnExec(e.vm)
	if err := e.configureVM(); err != nil {
		return err
	}
	if err := e.addMemory(config.Memory); err != nil {
		return err
	}
	if e.cpu, err = ioctl(e.vm, ioCreateVCPU, 0); err != nil {
		return fmt.Errorf("create the processor: %w", err)
	}
	unix.CloseOnExec(e.cpu)
	size, err := ioctl(device, ioGetVCPUMmapSize, 0)
	if err != nil {
		return fmt.Errorf("size of the processor's shared page: %w", err)
	}
	if e.mapping, err = unix.Mmap(e.cpu, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return fmt.Errorf("map the processor's shared page: %w", err)
	}
	e.run = viewRun(e.mapping)
	e.run.validRegs = syncRegs
	if err := e.setCPUID(config.CPUID); err != nil {
		return err
	}
	mask := kvmSignalMask{n: 8}
	open := ^signalBit(stopSignal)
	for i := range mask.set {
		mask.set[i] = byte(open >> (8 * i))
	}
	if err := ioctlPtr(e.cpu, ioSetSignalMask, &mask); err != nil {
		return fmt.Errorf("set the signal mask of the processor: %w", err)
	}
	return nil
}

// openDevice opens /dev/kvm and checks what every engine needs of it.
func openDevice() (int, error) {
	fd, err := unix.Open("/dev/kvm", unix.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return -1, fmt.Errorf("no /dev/kvm on this host (KVM is not loaded, or this machine is a guest without nested virtualisation); use --cpu soft: %w", err)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return -1, fmt.Errorf("no permission for /dev/kvm: add user %d to the group that owns it (usually kvm), or use --cpu soft: %w", os.Getuid(), err)
	case err != nil:
		return -1, fmt.Errorf("open /dev/kvm: %w", err)
	}
	if err := checkDevice(fd); err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

var requiredCaps = []struct {
	cap  uintptr
	name string
}{
	{capSyncRegs, "KVM_CAP_SYNC_REGS"},
	{capImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"},
	{capXsave, "KVM_CAP_XSAVE"},
	{capDebugRegs, "KVM_CAP_DEBUGREGS"},
	{capVCPUEvents, "KVM_CAP_VCPU_EVENTS"},
	{capUserSpaceMSR, "KVM_CAP_X86_USER_SPACE_MSR"},
	{capMSRFilter, "KVM_CAP_X86_MSR_FILTER"},
}

func checkDevice(fd int) error {
	version, err := ioctl(fd, ioGetAPIVersion, 0)
	if err != nil {
		return fmt.Errorf("/dev/kvm does not answer: %w", err)
	}
	if version != kvmAPIVersion {
		return fmt.Errorf("/dev/kvm speaks API version %d, not %d", version, kvmAPIVersion)
	}
	for _, c := range requiredCaps {
		if v, err := ioctl(fd, ioCheckExtension, c.cap); err != nil || v <= 0 {
			return fmt.Errorf("the host's KVM lacks %s (Linux 5.12 or later has it); use --cpu soft", c.name)
		}
	}
	return nil
}

// configureVM sets what must be set before the processor exists.
func (e *Engine) configureVM() error {
	// VMX without unrestricted guests borrows four pages of guest-physical space; they are put just below 4 GiB, where the machine has neither
	// RAM nor devices. Other vendors ignore or refuse the calls.
	if _, err := ioctl(e.vm, ioSetTSSAddr, 0xfffbd000); err != nil && !ignorable(err) {
		return fmt.Errorf("place the VMX task state segment: %w", err)
	}
	identity := uint64(0xfffbc000)
	if err := ioctlPtr(e.vm, ioSetIdentityMap, &identity); err != nil && !ignorable(err) {
		return fmt.Errorf("place the VMX identity map: %w", err)
	}
	toUser := kvmEnableCap{cap: capUserSpaceMSR}
	toUser.args[0] = msrExitInval | msrExitUnknown | msrExitFilter
	if err := ioctlPtr(e.vm, ioEnableCap, &toUser); err != nil {
		return fmt.Errorf("send MSR accesses to user space: %w", err)
	}
	if err := setMSRFilter(e.vm, plainMSRs); err != nil {
		return fmt.Errorf("filter MSRs: %w", err)
	}
	return nil
}

func ignorable(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EOPNOTSUPP)
}

// Close frees the virtual machine. It must not be called while Run is active.
func (e *Engine) Close() error {
	e.guard.Lock()
	defer e.guard.Unlock()
	if e.closed {
		return nil
	}
	e.closed = true
	var errs []error
	if e.tid != 0 {
		errs = append(errs, e.unbind())
	}
	if e.mapping != nil {
		errs = append(errs, unix.Munmap(e.mapping))
		e.mapping, e.run = nil, nil
	}
	for _, fd := range []int{e.cpu, e.vm} {
		if fd >= 0 {
			errs = append(errs, unix.Close(fd))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close the processor: %w", err)
	}
	return nil
}

// counterOwners says which engine's counter is on in each thread: two engines on one thread must not count each other's guests.
var counterOwners struct {
	sync.Mutex
	byThread map[int]*Engine
}

// bind makes the calling thread the engine's own: signal blocked, counter open on it. It is cheap when nothing changed.
func (e *Engine) bind() error {
	if unix.Gettid() != e.tid {
		if err := e.rebind(); err != nil {
			return err
		}
	}
	if e.lander == nil {
		return nil
	}
	counterOwners.Lock()
	defer counterOwners.Unlock()
	switch owner := counterOwners.byThread[e.tid]; owner {
	case e:
		return nil
	case nil:
	default:
		if err := owner.lander.suspend(); err != nil {
			return fmt.Errorf("stop the counter of another processor on this thread: %w", err)
		}
	}
	if counterOwners.byThread == nil {
		counterOwners.byThread = map[int]*Engine{}
	}
	counterOwners.byThread[e.tid] = e
	return nil
}

func (e *Engine) rebind() error {
	if e.tid != 0 {
		if err := e.unbind(); err != nil {
			return err
		}
	}
	runtime.LockOSThread()
	tid := unix.Gettid()
	var err error
	if e.traits.needsThreadTSD {
		if e.affinity, err = pinThread(); err != nil {
			runtime.UnlockOSThread()
			return err
		}
	}
	if err := blockSignal(stopSignal, true); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("block the stop signal: %w", err)
	}
	if e.clock != vcpu.ClockExits {
		c, err := openCounter(e.clock, tid)
		if err != nil {
			runtime.UnlockOSThread()
			return fmt.Errorf("open the work counter: %w", err)
		}
		e.lander = &lander{counter: c, now: e.count, base: e.count}
	}
	e.tid = tid
	return nil
}

// pinThread binds the calling thread to the lowest processor that it may use. Where ring 3 runs on the host's own terms, CPUID shows it the number of
// the host processor (the initial APIC ID): it has to be the same in every run. It returns the processors that the thread could use before.
func pinThread() (allowed *unix.CPUSet, err error) {
	var one unix.CPUSet
	allowed = new(unix.CPUSet)
	if err := unix.SchedGetaffinity(0, allowed); err != nil {
		return nil, fmt.Errorf("find the processors of this thread: %w", err)
	}
	for n := range len(allowed) * 64 {
		if allowed.IsSet(n) {
			one.Set(n)
			break
		}
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return nil, fmt.Errorf("bind the thread to a processor: %w", err)
	}
	return allowed, nil
}

// unbind gives the thread back. LockOSThread is undone only when the caller is on it.
func (e *Engine) unbind() error {
	var err error
	if e.lander != nil {
		counterOwners.Lock()
		if counterOwners.byThread[e.tid] == e {
			delete(counterOwners.byThread, e.tid)
		}
		err = e.lander.counter.close()
		e.lander = nil
		counterOwners.Unlock()
	}
	if unix.Gettid() == e.tid {
		drainSignal(stopSignal)
		if e.affinity != nil {
			err = errors.Join(err, unix.SchedSetaffinity(0, e.affinity))
			e.affinity = nil
		}
		runtime.UnlockOSThread()
	}
	e.tid = 0
	return err
}

// Kick makes a running or the next Run return ReasonKick. It may be called from any goroutine at any time, also after Close.
func (e *Engine) Kick() {
	e.guard.Lock()
	defer e.guard.Unlock()
	if e.closed || e.kicked.Swap(true) {
		return
	}
	// The flag stops an entry that has not happened yet; the signal stops one that has.
	atomic.OrUint32(&e.run.control, immediateExitWord)
	if tid := e.inside.Load(); tid != 0 {
		// A failure means that the thread is gone, and with it the entry to interrupt.
		_ = unix.Tgkill(unix.Getpid(), int(tid), stopSignal)
	}
}

// takeKick consumes a kick. It also clears an immediate_exit that a kick left behind.
func (e *Engine) takeKick() bool {
	e.guard.Lock()
	defer e.guard.Unlock()
	atomic.AndUint32(&e.run.control, ^uint32(immediateExitWord))
	return e.kicked.Swap(false)
}

// Count implements [vcpu.CPU].
func (e *Engine) Count() uint64 { return e.count }

// Capabilities implements [vcpu.CPU].
func (e *Engine) Capabilities() vcpu.Capabilities {
	return vcpu.Capabilities{Engine: "kvm", Clock: e.clock, CanStop: e.clock != vcpu.ClockExits}
}
