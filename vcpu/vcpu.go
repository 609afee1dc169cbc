// Package vcpu is the contract between the machine and whatever executes its one x86-64 processor.
//
// An engine (vcpu/kvm, vcpu/soft) executes guest instructions and nothing else: it owns the architectural state of one
// processor and reads and writes guest RAM that the machine lends to it. It has no devices, no notion of wall time and
// no randomness. Everything an engine cannot decide alone reaches the machine as an [Exit].
//
// The package also holds what both engines and the machine must agree on to the bit: the [State] of a processor and its
// canonical encoding, the frozen CPUID model [DetvmV1], and the work clocks on which positions are counted.
package vcpu

import "fmt"

// Clock names a work clock: what is counted to measure the guest's progress.
type Clock string

// The work clocks. A position on one clock means nothing on another.
const (
	// ClockInstructions counts every retired instruction, user and kernel; each REP iteration counts once. vcpu/soft only.
	ClockInstructions Clock = "instructions"
	// ClockBranches counts retired conditional branches (Jcc, JRCXZ, LOOPcc), taken or not: what a hardware PMU counts deterministically.
	ClockBranches Clock = "branches"
	// ClockKernelInstructions counts instructions emulated by a KVM that interprets ring 0. Only such hosts have it.
	ClockKernelInstructions Clock = "kernel-instructions"
	// ClockExits counts exits to the machine (PIO, MMIO, MSR, HLT). Any engine has it; it cannot stop between exits.
	ClockExits Clock = "exits"
)

// NoStop as the stop argument of [CPU.Run] means: no stop, run until an exit.
const NoStop = ^uint64(0)

// Reason says why [CPU.Run] came back.
type Reason uint8

// The reasons. The first five are synchronous exits: they come from an instruction, are counted by [ClockExits] and
// are events of the trace. The others are not visible to the guest.
const (
	ReasonIO       Reason = iota + 1 // IN, OUT, INS, OUTS
	ReasonMMIO                       // access to a guest-physical address outside RAM
	ReasonRDMSR                      // RDMSR of an MSR that is not plain CPU state
	ReasonWRMSR                      // WRMSR of such an MSR
	ReasonHalt                       // HLT; the processor waits for an interrupt
	ReasonStop                       // the clock reached the stop position exactly
	ReasonKick                       // [CPU.Kick] was called, or the host interrupted the engine; run again to go on
	ReasonShutdown                   // triple fault
	ReasonFailure                    // the engine cannot execute the guest any further; Exit.Detail says why
)

var reasonNames = [...]string{"none", "io", "mmio", "rdmsr", "wrmsr", "halt", "stop", "kick", "shutdown", "failure"}

func (r Reason) String() string {
	if int(r) < len(reasonNames) {
		return reasonNames[r]
	}
	return fmt.Sprintf("reason(%d)", uint8(r))
}

// Exit is one return of [CPU.Run]. The engine fills it; for reads the machine stores the answer in it before the next Run.
type Exit struct {
	Reason Reason
	// PC identifies the instruction: its own address for IN, MMIO reads, RDMSR and WRMSR (they complete on the next Run),
	// the address after it for OUT, MMIO writes and HLT (they are complete). Both engines keep this convention.
	PC uint64
	// Addr is the port (IO), guest-physical address (MMIO) or MSR index (RDMSR, WRMSR).
	Addr uint64
	// Write is the direction for IO and MMIO.
	Write bool
	// Size is the width of one access in bytes: 1, 2, 4 or 8.
	Size uint8
	// Data holds Size×n bytes, little endian: what the guest wrote, or room for what it reads. n is 1 except for string I/O.
	// The slice is the engine's and is valid until the next Run. For RDMSR and WRMSR it holds the 8 bytes of the value.
	Data []byte
	// Fault, set by the machine on an RDMSR or WRMSR, makes the instruction raise #GP(0) instead of completing.
	Fault bool
	// Detail explains ReasonFailure and ReasonShutdown to a person.
	Detail string
}

// Memory is one range of guest RAM that the machine lends to an engine. Host is page aligned and stays mapped until the engine is closed.
type Memory struct {
	GPA  uint64
	Host []byte
}

// Config is what an engine needs to exist.
type Config struct {
	Memory []Memory
	CPUID  []CPUIDLeaf
	// Ring3, when it is not nil, is what ring 3 does otherwise than the model, as on some host. Engines that cannot choose ignore it.
	Ring3 *Ring3
	Clock Clock
	// TSC returns the value of the time-stamp counter. Engines that can trap RDTSC call it, on the goroutine that is
	// inside Run, with Count() exact for the instruction that asks. Others ignore it.
	TSC func() uint64
}

// Capabilities is what an engine on this host can do with the clock that it was made with.
type Capabilities struct {
	Engine   string // "kvm" or "soft"
	Clock    Clock
	CanStop  bool // Run honours stop exactly; false on ClockExits
	TrapsTSC bool // RDTSC at every privilege level is answered by Config.TSC
}

// CPU is one virtual processor. All methods but Kick must be called from one goroutine at a time; an engine that is bound to
// an operating-system thread arranges that itself and says so.
type CPU interface {
	// Run executes the guest until there is an exit, the work clock reaches stop (which must not be behind Count), or Kick.
	// It first completes the exit that the previous Run returned, with the answers now in that Exit. An error means that
	// the engine itself is broken; nothing that a guest does causes one.
	Run(stop uint64, exit *Exit) error

	// Count is the position on the work clock: how much of it the guest has used since the count was last set by SetState.
	// A synchronous exit is counted on ClockExits when it is returned.
	Count() uint64

	// Interruptible reports whether Interrupt may be called now: RFLAGS.IF is set and no interrupt shadow (STI, MOV SS) or
	// undelivered event is in the way. It is meaningful after a synchronous exit or ReasonStop, and after SetState.
	Interruptible() bool
	// Interrupt makes the next Run deliver the external interrupt with this vector before it executes an instruction.
	// It ends a halt. The caller must have seen Interruptible.
	Interrupt(vector uint8) error

	// State returns the whole architectural state, after completing a pending exit (so answers must be in place).
	State() (*State, error)
	// SetState replaces it, including the count.
	SetState(*State) error

	// MemoryWritten tells the engine that the machine changed guest RAM [gpa, gpa+n) by itself (device DMA, the pvclock page), so that
	// translations and decoded code derived from it are dropped. It also marks the pages dirty.
	MemoryWritten(gpa, n uint64)
	// CollectDirty calls visit for each 4 KiB page that was written since the last collection (at first: since the engine was made), in ascending
	// order. A page whose contents are the same as before may be among them.
	CollectDirty(visit func(gpa uint64)) error

	// Kick makes a running or the next Run return ReasonKick soon. Safe from any goroutine. It never changes guest state.
	Kick()

	Capabilities() Capabilities
	// CPUID is the table that the guest really sees: hosts may force bits.
	CPUID() []CPUIDLeaf
	Close() error
}
