package kvm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/detvm/detvm/vcpu"
	"golang.org/x/sys/unix"
)

// Host is what this host was measured to offer. Nothing in it is taken from a table alone.
type Host struct {
	KVM        error  // nil when KVM can be used; otherwise why not and what to do
	APIVersion int    // of /dev/kvm
	Vendor     string // the kernel's vendor modules: "vmx", "svm", "pvm", or "unknown"

	// KernelInstructions and Branches are nil when a guest of known length was counted and stopped exactly, every time.
	KernelInstructions, Branches error
	// BranchEvent names the processor family whose event was measured.
	BranchEvent string

	// ForcedCPUID lists the registers of leaves in which the guest sees something else than detvm-v1.
	ForcedCPUID []ForcedCPUID
	// UserTSC says how RDTSC at ring 3 is stopped: TSCTrapped, TSCThread or TSCLeaks.
	UserTSC string
	// UserCPUID is false when CPUID at ring 3 shows the host's processor instead of the table.
	UserCPUID bool
	// UserRDRAND is true when ring 3 can execute RDRAND although the model hides it.
	UserRDRAND bool
	// MissingMSRs lists the model's MSRs that this host does not keep.
	MissingMSRs []uint32
}

// The values of Host.UserTSC.
const (
	TSCTrapped = "trapped by the guest's CR4.TSD"
	TSCThread  = "trapped by the guest's CR4.TSD, with PR_SET_TSC on the vCPU thread"
	TSCLeaks   = "cannot be trapped"
)

// ForcedCPUID is one register of one CPUID leaf that a host does not show as asked.
type ForcedCPUID struct {
	Leaf, Subleaf uint32
	Register      string // "EAX" to "EDX"
	Want, Got     uint32
}

func (f ForcedCPUID) String() string {
	return fmt.Sprintf("CPUID %#x.%d %s: %#08x instead of %#08x (forced on %#08x, off %#08x)", f.Leaf, f.Subleaf, f.Register, f.Got, f.Want, f.Got&^f.Want, f.Want&^f.Got)
}

// BestClock is the clock to take when the user names none: branches, else kernel-instructions, else exits.
func (h Host) BestClock() vcpu.Clock {
	switch {
	case h.Branches == nil:
		return vcpu.ClockBranches
	case h.KernelInstructions == nil:
		return vcpu.ClockKernelInstructions
	}
	return vcpu.ClockExits
}

// Probe measures this host by running calibration guests. It takes some tens of milliseconds and must not run while the calling goroutine is inside Run.
func Probe() Host {
	h := Host{Vendor: vendor()}
	unusable := errors.New("KVM is not usable")
	h.KernelInstructions, h.Branches = unusable, unusable
	if h.APIVersion, h.KVM = probeDevice(); h.KVM != nil {
		return h
	}
	traits, err := measureTraits()
	if err != nil {
		h.KVM = err
		return h
	}
	h.KernelInstructions = calibrate(vcpu.ClockKernelInstructions, traits)
	if event, err := hostBranchEvent(); err != nil {
		h.Branches = err
	} else {
		h.BranchEvent = event.name
		h.Branches = calibrate(vcpu.ClockBranches, traits)
	}
	switch {
	case traits.leaksTSC:
		h.UserTSC = TSCLeaks
	case traits.needsThreadTSD:
		h.UserTSC = TSCThread
	default:
		h.UserTSC = TSCTrapped
	}
	for _, msr := range stateMSRs {
		if !traits.keeps(msr.index) {
			h.MissingMSRs = append(h.MissingMSRs, msr.index)
		}
	}
	h.KVM = h.probeInstructions(traits)
	return h
}

func probeDevice() (int, error) {
	fd, err := openDevice()
	if err != nil {
		return 0, err
	}
	version, err := ioctl(fd, ioGetAPIVersion, 0)
	return version, errors.Join(err, unix.Close(fd))
}

// vendor looks for the vendor module that is loaded, or built in, beside kvm.
func vendor() string {
	for _, m := range []struct{ module, name string }{{"kvm_pvm", "pvm"}, {"kvm_intel", "vmx"}, {"kvm_amd", "svm"}} {
		if _, err := os.Stat("/sys/module/" + m.module); err == nil {
			return m.name
		}
	}
	return "unknown"
}

// Length of the calibration loop and how often it runs.
const (
	calibrationLoops  = 20000
	interpretedLoops  = 2000 // where each instruction takes a microsecond: every run that does not name its clock waits for it
	calibrationRounds = 3
	calibrationStops  = 8
)

// calibrate counts a guest of known length several times and stops it at several places, all of which must come out exactly.
func calibrate(clock vcpu.Clock, traits hostTraits) (err error) {
	if err := checkCounter(clock); err != nil {
		return err
	}
	g, err := newTinyGuest(clock, traits, 0, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.Close()) }()
	for round := range calibrationRounds {
		if err := g.calibrateOnce(clock, round); err != nil {
			return fmt.Errorf("calibration round %d: %w", round+1, err)
		}
	}
	return nil
}

// calibrationCode is mov ecx,n; dec ecx; jnz to the dec; hlt: 2n+2 instructions and n conditional branches.
func calibrationCode(n uint32) []byte {
	code := []byte{0xb9, 0, 0, 0, 0, 0xff, 0xc9, 0x75, 0xfc, 0xf4}
	binary.LittleEndian.PutUint32(code[1:], n)
	return code
}

// loopsAt is what RCX holds when the calibration guest of that many loops stands exactly at a count.
func loopsAt(clock vcpu.Clock, loops, count uint64) uint64 {
	if clock == vcpu.ClockBranches {
		return loops - count
	}
	return loops - count/2
}

func (g *tinyGuest) calibrateOnce(clock vcpu.Clock, round int) error {
	loops := uint64(calibrationLoops)
	if clock == vcpu.ClockKernelInstructions {
		loops = interpretedLoops
	}
	if err := g.load(0, calibrationCode(uint32(loops))); err != nil {
		return err
	}
	want := loops
	if clock == vcpu.ClockKernelInstructions {
		want = 2*loops + 2
	}
	exit := new(vcpu.Exit)
	for i := range calibrationStops {
		stop := uint64(i+1)*want/(calibrationStops+1) + uint64(round)
		if err := g.Run(stop, exit); err != nil {
			return err
		}
		if exit.Reason != vcpu.ReasonStop || g.Count() != stop {
			return fmt.Errorf("asked to stop at %d, came back with %s at %d", stop, exit.Reason, g.Count())
		}
		if got := g.run.regs.rcx; got != loopsAt(clock, loops, stop) {
			return fmt.Errorf("stopped at count %d with %d loops to go instead of %d: the count is not exact", stop, got, loopsAt(clock, loops, stop))
		}
	}
	if _, err := g.until(vcpu.ReasonHalt); err != nil {
		return err
	}
	if g.Count() != want {
		return fmt.Errorf("a guest of %d events was counted as %d", want, g.Count())
	}
	return nil
}

// probeInstructions sees what CPUID and RDRAND do at ring 3 and which CPUID bits are forced.
func (h *Host) probeInstructions(traits hostTraits) (err error) {
	g, err := newTinyGuest(vcpu.ClockExits, traits, 3, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.Close()) }()
	h.ForcedCPUID = forcedCPUID(vcpu.DetvmV1(false), g.CPUID())
	if h.UserCPUID, err = g.showsModelCPUID(); err != nil {
		return err
	}
	// rdrand eax; mov al,0xff; out
	if err := g.load(3, []byte{0x0f, 0xc7, 0xf0, 0xb0, 0xff, 0xe6, tinyFaultPort}); err != nil {
		return err
	}
	exit, err := g.until(vcpu.ReasonIO)
	if err != nil {
		return err
	}
	h.UserRDRAND = exit.Data[0] == 0xff
	return nil
}

// showsModelCPUID compares the brand string's leaf as ring 3 sees it with what the guest should see.
func (g *tinyGuest) showsModelCPUID() (bool, error) {
	const leaf = 0x80000002
	code := []byte{0xb8, 2, 0, 0, 0x80, 0x0f, 0xa2, 0xe6, tinyFaultPort} // mov eax,leaf; cpuid; out
	if err := g.load(3, code); err != nil {
		return false, err
	}
	if _, err := g.until(vcpu.ReasonIO); err != nil {
		return false, err
	}
	a, b, c, d := vcpu.LookupCPUID(g.CPUID(), leaf, 0)
	r := g.run.regs
	return r.rax == uint64(a) && r.rbx == uint64(b) && r.rcx == uint64(c) && r.rdx == uint64(d), nil
}

// forcedCPUID lists the differences between two tables.
func forcedCPUID(want, got []vcpu.CPUIDLeaf) []ForcedCPUID {
	var list []ForcedCPUID
	for _, w := range want {
		a, b, c, d := vcpu.LookupCPUID(got, w.Leaf, w.Subleaf)
		for _, r := range []struct {
			name      string
			want, got uint32
		}{{"EAX", w.EAX, a}, {"EBX", w.EBX, b}, {"ECX", w.ECX, c}, {"EDX", w.EDX, d}} {
			if r.want != r.got {
				list = append(list, ForcedCPUID{w.Leaf, w.Subleaf, r.name, r.want, r.got})
			}
		}
	}
	return list
}

// String is what a person reads about the host: one line for each finding and what it means.
func (h Host) String() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	if h.KVM != nil {
		line("KVM: not usable: %v", h.KVM)
		return b.String()
	}
	line("KVM: usable, API version %d, vendor %s", h.APIVersion, h.Vendor)
	measured := func(name string, err error, good string) {
		if err != nil {
			line("clock %s: not available: %v", name, err)
			return
		}
		line("clock %s: measured exact (%d rounds, %d stops each): %s", name, calibrationRounds, calibrationStops, good)
	}
	measured("branches", h.Branches, "user and kernel code can be stopped anywhere; event for "+h.BranchEvent)
	measured("kernel-instructions", h.KernelInstructions, "this KVM interprets ring 0; kernel code can be stopped anywhere, user code only where it enters the kernel")
	line("clock exits: always available; the guest can be stopped only where it exits")
	line("RDTSC at ring 3: %s", h.UserTSC)
	if !h.UserCPUID {
		line("CPUID at ring 3: shows the host's processor, so user programs may behave differently on another host")
	}
	if h.UserRDRAND {
		line("RDRAND at ring 3: executes although the model hides it; a program that ignores CPUID gets true randomness")
	}
	for _, f := range h.ForcedCPUID {
		line("forced: %v", f)
	}
	for _, m := range h.MissingMSRs {
		line("MSR %#x is not kept by this host", m)
	}
	line("best clock: %s", h.BestClock())
	return b.String()
}
