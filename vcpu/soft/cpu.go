package soft

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/detvm/detvm/vcpu"
	"github.com/detvm/detvm/vcpu/soft/fp"
)

// Bits of the control registers, EFER and RFLAGS that the engine knows (SDM vol. 3A, 2.3, 2.5, 2.2.1).
const (
	cr0PE = 1 << 0
	cr0MP = 1 << 1
	cr0EM = 1 << 2
	cr0TS = 1 << 3
	cr0ET = 1 << 4
	cr0NE = 1 << 5
	cr0WP = 1 << 16
	cr0AM = 1 << 18
	cr0NW = 1 << 29
	cr0CD = 1 << 30
	cr0PG = 1 << 31

	cr4VME        = 1 << 0
	cr4PVI        = 1 << 1
	cr4TSD        = 1 << 2
	cr4DE         = 1 << 3
	cr4PSE        = 1 << 4
	cr4PAE        = 1 << 5
	cr4MCE        = 1 << 6
	cr4PGE        = 1 << 7
	cr4PCE        = 1 << 8
	cr4OSFXSR     = 1 << 9
	cr4OSXMMEXCPT = 1 << 10
	cr4SMEP       = 1 << 20
	cr4SMAP       = 1 << 21

	eferSCE = 1 << 0
	eferLME = 1 << 8
	eferLMA = 1 << 10
	eferNXE = 1 << 11

	flagCF   = 1 << 0
	flagR1   = 1 << 1
	flagPF   = 1 << 2
	flagAF   = 1 << 4
	flagZF   = 1 << 6
	flagSF   = 1 << 7
	flagTF   = 1 << 8
	flagIF   = 1 << 9
	flagDF   = 1 << 10
	flagOF   = 1 << 11
	flagIOPL = 3 << 12
	flagNT   = 1 << 14
	flagRF   = 1 << 16
	flagVM   = 1 << 17
	flagAC   = 1 << 18
	flagVIF  = 1 << 19
	flagVIP  = 1 << 20
	flagID   = 1 << 21

	arithFlags = flagCF | flagPF | flagAF | flagZF | flagSF | flagOF
)

// Bits of CPU.mode: what the meaning of instruction bytes depends on besides the bytes. It is part of the key of a block (block.go).
const (
	mode64    = 1 << 0 // 64-bit mode; otherwise protected mode with 32- or 16-bit segments
	mode32    = 1 << 1 // CS.D outside 64-bit mode
	modeNM    = 1 << 2 // CR0.TS or CR0.EM: x87 raises #NM
	modeNoSSE = 1 << 3 // SSE raises #UD (CR0.EM or not CR4.OSFXSR)
	modeTS    = 1 << 4 // CR0.TS: SSE raises #NM
	modeMP    = 1 << 5 // CR0.MP and CR0.TS: WAIT raises #NM
	modeEM    = 1 << 6 // CR0.EM: MMX raises #UD
	modeUser  = 1 << 7 // only in the key of a block: privilege 3
)

// sliceLen is how many instructions are executed between looks at the kick flag.
const sliceLen = 100_000

// CPU is a software x86-64 processor. It implements vcpu.CPU.
type CPU struct {
	r    [numRegs]uint64 // register file; must stay the first field
	left int64           // instructions that may still be started before the slice ends

	fa, fb uint64 // lazy flags (flags.go)
	fk     uint8
	cpl    uint8
	ev     uint8
	single bool   // executing a block of one instruction
	mode   uint16 // mode bits
	rip    uint64 // instruction pointer (without the CS base) when no block is being executed

	rd, wr *[tlbSize]tlbEntry // the data TLBs of the current privilege
	jc     *jumpCache         // the jump cache of the current privilege
	genTag uint64             // generation in the top 16 bits, for jump-cache tags

	sliceEnd uint64 // instruction count at which the slice ends; the count is sliceEnd-left
	branches uint64 // conditional branches retired (counted on ClockBranches only)
	brStop   uint64
	exits    uint64
	shift    uint64 // work-clock count minus the engine's own counter, set by SetState

	bounce, bounceVA, bounceSize uint64
	implicit                     bool // supervisor access on behalf of a descriptor table, whatever the CPL

	xmm         [16][2]uint64
	fpu         fpuState
	vecTmp      [2]uint64
	vecSrc      [2]uint64
	x87Operands fp.Operands
	tsc         func() uint64
	exc         exception
	pend        pendingExit
	mmio        mmioState

	flags         uint64 // RFLAGS without the arithmetic flags
	seg           [6]vcpu.Segment
	ldtr, tr      vcpu.Segment
	gdtr, idtr    vcpu.DescriptorTable
	cr0, cr2, cr3 uint64
	cr4, cr8      uint64
	efer          uint64
	dr            [4]uint64
	dr6, dr7      uint64
	debugHits     uint64 // DR6 bits that the instruction being executed has earned
	msr           msrs
	halted        bool
	noTrap        bool   // the instruction being stepped raises no single-step trap
	trapAfter     bool   // the instruction that waits for the machine's answer was single-stepped
	ownWrite      bool   // the instruction being stepped wrote to its own bytes
	shutdown      string // why the processor shut down, or empty
	failure       string // why it cannot go on, or empty
	shadowAt      uint64 // instruction count after an STI or MOV SS
	shadowSet     bool
	idleAt        uint64 // instruction count at the last exception
	idleEvents    uint32 // exceptions delivered at that count
	irq           int    // vector of the interrupt to deliver, or -1

	tlbs    [2]tlb
	jcs     [2]jumpCache
	tables  []tableRef
	ram     []ramRange
	lastRAM *ramRange
	blocks  blockStore

	from     *op // terminal whose successor is being looked up, to be linked
	fromFall bool

	clock       vcpu.Clock
	branchClock bool
	cpuid       []vcpu.CPUIDLeaf
	ring3       vcpu.Ring3 // what ring 3 does otherwise than the model
	mxcsrMask   uint32     // that FXSAVE stores
	physRsvd    uint64     // page-table bits above the physical address width
	has1G       bool
	hasSMEP     bool
	hasSMAP     bool
	kick        atomic.Bool
}

var _ vcpu.CPU = (*CPU)(nil)

// New makes a processor over the given RAM, in an undefined state until SetState. The clock may be any but ClockKernelInstructions.
func New(cfg vcpu.Config) (vcpu.CPU, error) {
	switch cfg.Clock {
	case vcpu.ClockInstructions, vcpu.ClockBranches, vcpu.ClockExits:
	default:
		return nil, fmt.Errorf("the software processor cannot count %q", cfg.Clock)
	}
	c := &CPU{clock: cfg.Clock, cpuid: cfg.CPUID, tsc: cfg.TSC, irq: -1}
	if cfg.Ring3 != nil {
		c.ring3 = *cfg.Ring3
	}
	c.mxcsrMask = c.ring3.MXCSRMask()
	if c.tsc == nil {
		c.tsc = c.icount
	}
	for _, m := range cfg.Memory {
		n := uint64(len(m.Host))
		if m.GPA&pageOff != 0 || n&pageOff != 0 || n == 0 || m.GPA+n < m.GPA {
			return nil, fmt.Errorf("guest memory at %#x, %#x bytes, is not made of whole pages", m.GPA, n)
		}
		c.ram = append(c.ram, ramRange{gpa: m.GPA, size: n, host: m.Host,
			flags: make([]uint8, n>>pageBits), code: make([]*codePage, n>>pageBits), tables: make([]int32, n>>pageBits)})
	}
	if len(c.ram) == 0 {
		return nil, errors.New("a processor needs memory")
	}
	c.resetDirty()
	c.branchClock = cfg.Clock == vcpu.ClockBranches
	buildTable()
	c.readModel()
	c.blocks.init()
	c.setCPL(0)
	c.flushTLB()
	if err := c.SetState(resetState()); err != nil {
		return nil, err
	}
	return c, nil
}

// readModel takes from the CPUID table what paging and control registers depend on.
func (c *CPU) readModel() {
	bits := uint32(36)
	if a, _, _, _ := vcpu.LookupCPUID(c.cpuid, 0x80000008, 0); a&0xff != 0 {
		bits = min(a&0xff, 52)
	}
	c.physRsvd = pteAddr &^ (1<<bits - 1)
	_, _, _, d := vcpu.LookupCPUID(c.cpuid, 0x80000001, 0)
	c.has1G = d&(1<<26) != 0
	if maxLeaf, _, _, _ := vcpu.LookupCPUID(c.cpuid, 0, 0); maxLeaf >= 7 {
		_, b, _, _ := vcpu.LookupCPUID(c.cpuid, 7, 0)
		c.hasSMEP, c.hasSMAP = b&(1<<7) != 0, b&(1<<20) != 0
	}
}

// resetState is a harmless state: 64-bit code cannot run in it, and Run shuts down at once.
func resetState() *vcpu.State {
	s := &vcpu.State{RFLAGS: flagR1, CR0: cr0ET, DR6: dr6Fixed, DR7: dr7Fixed, PAT: 0x0007040600070406}
	s.FX[0], s.FX[1] = 0x7f, 0x03
	s.FX[24], s.FX[25] = 0x80, 0x1f
	return s
}

// icount is the number of instructions retired since the processor was made.
func (c *CPU) icount() uint64 { return c.sliceEnd - uint64(c.left) }

// Count implements vcpu.CPU.
func (c *CPU) Count() uint64 { return c.counter() + c.shift }

// counter is the engine's own running total of what the clock counts.
func (c *CPU) counter() uint64 {
	switch c.clock {
	case vcpu.ClockBranches:
		return c.branches
	case vcpu.ClockExits:
		return c.exits
	}
	return c.icount()
}

// Run implements vcpu.CPU.
func (c *CPU) Run(stop uint64, exit *vcpu.Exit) error {
	c.finishExit()
	*exit = vcpu.Exit{}
	if c.ev == evExit { // the instruction reads outside RAM once more
		c.ev = evNone
		c.exits++
		c.returnExit(exit)
		return nil
	}
	if c.failure != "" {
		return c.leave(exit, vcpu.ReasonFailure, c.failure)
	}
	if c.shutdown != "" {
		return c.leave(exit, vcpu.ReasonShutdown, c.shutdown)
	}
	if c.nextQueuedExit(exit) {
		return nil
	}
	if c.irq >= 0 {
		v := uint8(c.irq)
		c.irq = -1
		c.halted = false
		c.interrupt(v)
	}
	for {
		switch {
		case c.kick.Swap(false):
			return c.leave(exit, vcpu.ReasonKick, "")
		case c.failure != "":
			return c.leave(exit, vcpu.ReasonFailure, c.failure)
		case c.shutdown != "":
			return c.leave(exit, vcpu.ReasonShutdown, c.shutdown)
		case c.clock != vcpu.ClockExits && c.Count() >= stop:
			return c.leave(exit, vcpu.ReasonStop, "")
		case c.halted:
			*exit = vcpu.Exit{Reason: vcpu.ReasonHalt, PC: c.rip}
			return nil
		}
		c.beginSlice(stop)
		c.execute()
		if c.ev == evExit {
			c.ev = evNone
			c.exits++
			c.returnExit(exit)
			return nil
		}
		c.ev = evNone
	}
}

// beginSlice sets how far execute may go.
func (c *CPU) beginSlice(stop uint64) {
	c.from = nil // an interrupt may have changed rip since
	now := c.icount()
	n := uint64(sliceLen)
	if c.clock == vcpu.ClockInstructions {
		n = min(n, stop-c.Count())
	}
	c.sliceEnd, c.left = now+n, int64(n)
	c.brStop = ^uint64(0)
	if c.clock == vcpu.ClockBranches && stop != vcpu.NoStop {
		c.brStop = stop - c.shift
	}
}

// endSlice makes execute stop at the next block boundary without changing the count.
func (c *CPU) endSlice() {
	c.sliceEnd -= uint64(c.left)
	c.left = 0
}

func (c *CPU) leave(exit *vcpu.Exit, r vcpu.Reason, detail string) error {
	exit.Reason, exit.PC, exit.Detail = r, c.rip, detail
	return nil
}

// execute runs until the slice is used up or there is something for Run to do.
func (c *CPU) execute() {
	for {
		o := c.enter()
		for o != nil {
			o = o.fn(c, o)
		}
		switch c.ev {
		case evNone:
			if c.left <= 0 {
				return
			}
		case evFault:
			c.ev = evNone
			c.deliverFault()
			if c.shutdown != "" || c.failure != "" || c.left <= 0 {
				return
			}
		case evSingle:
			c.ev = evNone
			if !c.stepOne() || c.left <= 0 {
				return
			}
		default:
			return
		}
	}
}

// stepOne executes the instruction at rip alone, and the ones after it for as long as single-stepping or breakpoints are on. It reports whether
// execute may go on.
func (c *CPU) stepOne() bool {
	for {
		c.step()
		if c.ev != evNone || c.shutdown != "" || c.failure != "" || c.halted {
			return false
		}
		if len(c.mmio.writes) > 0 {
			c.ev = evExit
			c.pend = pendingExit{kind: pendQueue}
			return false
		}
		if c.left <= 0 || !c.stepping() {
			return true
		}
	}
}

// step executes one instruction (or one iteration of a string instruction) with its debug traps.
func (c *CPU) step() {
	before, tf, rf := c.icount(), c.flags&flagTF, c.flags&flagRF
	c.debugHits, c.noTrap = 0, false
	if !c.codeBreak() {
		c.single = true
		others := c.left - 1
		c.sliceEnd, c.left = c.sliceEnd-uint64(others), 1 // so that no other block is entered
		for o := c.singleOp(); o != nil; {
			o = o.fn(c, o)
		}
		c.sliceEnd, c.left = c.sliceEnd+uint64(others), c.left+others
		if c.branches >= c.brStop {
			c.endSlice()
		}
		c.single = false
	}
	c.from = nil
	switch c.ev {
	case evFault:
		c.ev = evNone
		c.deliverFault()
		return
	case evSingle:
		c.failure = fmt.Sprintf("the instruction at rip %#x cannot be executed", c.rip)
		return
	case evExit:
		c.trapAfter = tf != 0 && !c.noTrap
		return
	}
	if c.icount() == before || c.shutdown != "" {
		return
	}
	c.flags &^= rf // RF holds for one instruction; one that IRET has just loaded is for the next
	dr6 := c.debugHits
	if tf != 0 && !c.noTrap && !c.inShadow() {
		dr6 |= dr6BS
	}
	if dr6 != 0 {
		c.deliverDebugTrap(dr6)
	}
}

// Interruptible implements vcpu.CPU.
func (c *CPU) Interruptible() bool {
	return c.flags&flagIF != 0 && c.irq < 0 && !c.inShadow() && c.shutdown == "" && c.failure == ""
}

// inShadow reports whether the instruction just retired was STI or a load of SS.
func (c *CPU) inShadow() bool { return c.shadowSet && c.shadowAt == c.icount() }

// Interrupt implements vcpu.CPU.
func (c *CPU) Interrupt(vector uint8) error {
	if c.irq >= 0 {
		return fmt.Errorf("interrupt %#x: another interrupt is waiting for delivery", vector)
	}
	c.irq = int(vector)
	return nil
}

// Kick implements vcpu.CPU.
func (c *CPU) Kick() { c.kick.Store(true) }

// Capabilities implements vcpu.CPU.
func (c *CPU) Capabilities() vcpu.Capabilities {
	return vcpu.Capabilities{Engine: "soft", Clock: c.clock, CanStop: c.clock != vcpu.ClockExits, TrapsTSC: true}
}

// CPUID implements vcpu.CPU: the guest sees exactly the table of the Config.
func (c *CPU) CPUID() []vcpu.CPUIDLeaf { return c.cpuid }

// Close implements vcpu.CPU. It drops the decoded code; the memory stays the caller's.
func (c *CPU) Close() error {
	c.dropAllCode()
	return nil
}

// MemoryWritten implements vcpu.CPU.
func (c *CPU) MemoryWritten(gpa, n uint64) {
	for n > 0 {
		k := min(n, pageSize-gpa&pageOff)
		if r := c.findRAM(gpa); r != nil {
			i := (gpa - r.gpa) >> pageBits
			if r.flags[i]&pfTable != 0 {
				c.flushTLB()
			}
			c.dropCode(r, gpa, k)
			c.markDirty(r, gpa)
		}
		if gpa+k < gpa {
			return
		}
		gpa += k
		n -= k
	}
}

// CollectDirty implements vcpu.CPU.
func (c *CPU) CollectDirty(visit func(gpa uint64)) error {
	for i := range c.ram {
		r := &c.ram[i]
		for j, f := range r.flags {
			if f&pfClean == 0 {
				visit(r.gpa + uint64(j)<<pageBits)
			}
		}
	}
	c.resetDirty()
	return nil
}

// resetDirty empties the dirty log and makes the first write to each page come to the slow path.
func (c *CPU) resetDirty() {
	for i := range c.ram {
		flags := c.ram[i].flags
		for j := range flags {
			flags[j] = flags[j]&^pfWriteTL | pfClean
		}
	}
	for i := range c.tlbs {
		wr := &c.tlbs[i].wr
		for j := range wr {
			wr[j] = tlbEntry{tag: tlbEmpty}
		}
	}
}
