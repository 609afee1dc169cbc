package kvm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"

	"golang.org/x/arch/x86/x86asm"

	"github.com/detvm/detvm/vcpu"
)

// RFLAGS bits (SDM vol. 1, 3.4.3).
const (
	flagCF     = 1 << 0
	flagPF     = 1 << 2
	flagAF     = 1 << 4
	flagZF     = 1 << 6
	flagSF     = 1 << 7
	flagTF     = 1 << 8
	flagIF     = 1 << 9
	flagOF     = 1 << 11
	arithFlags = flagCF | flagPF | flagAF | flagZF | flagSF | flagOF
)

// errNotEmulated says that an instruction is left to the guest (#UD) or is fatal.
var errNotEmulated = errors.New("not emulated")

// emulate completes an instruction that KVM's emulator gave up on, where that is simple and exact. It reports whether the guest can run on.
// Instructions outside detvm-v1 get their #UD; those of the model that are not emulated here end the run. Some versions of KVM have queued #UD by then:
// writing the registers cancels it.
func (e *Engine) emulate() (bool, error) {
	code := e.failedBytes()
	if code == nil || e.debugging {
		return false, nil
	}
	if outsideModel(code) {
		return true, e.raiseUD()
	}
	inst, err := x86asm.Decode(code, 64)
	if err != nil || inst.Op == 0 {
		return false, nil
	}
	if outsideModelOps[inst.Op] {
		return true, e.raiseUD()
	}
	run, ok := emulations[inst.Op]
	if !ok {
		return false, nil
	}
	var regs kvmRegs
	if err := ioctlPtr(e.cpu, ioGetRegs, &regs); err != nil {
		return false, fmt.Errorf("read registers: %w", err)
	}
	c := &failedInst{engine: e, inst: inst, regs: &regs}
	if err := run(c); err != nil {
		if errors.Is(err, errNotEmulated) {
			return false, nil
		}
		return false, err
	}
	regs.rip += uint64(inst.Len)
	if err := ioctlPtr(e.cpu, ioSetRegs, &regs); err != nil {
		return false, fmt.Errorf("write registers: %w", err)
	}
	return true, nil
}

// raiseUD makes the next entry deliver #UD at the instruction.
func (e *Engine) raiseUD() error {
	const ud = 6
	events := kvmEvents{excInjected: 1, excNr: ud}
	if err := ioctlPtr(e.cpu, ioSetVCPUEvents, &events); err != nil {
		return fmt.Errorf("raise #UD: %w", err)
	}
	return nil
}

// failedBytes is the instruction that the emulator could not do, or nil when the exit is about something else.
func (e *Engine) failedBytes() []byte {
	f := e.run.emulation()
	if f.suberror != internalEmulation || f.flags&emulationHasBytes == 0 || f.size == 0 || int(f.size) > len(f.bytes) {
		return nil
	}
	return f.bytes[:f.size]
}

// emulationDetail explains an internal error of KVM to a person.
func (e *Engine) emulationDetail(pc uint64) string {
	code := e.failedBytes()
	if code == nil {
		return fmt.Sprintf("KVM internal error %d at %#x (data %#x); try --cpu soft", e.run.internal().suberror, pc, e.run.internal().data[:2])
	}
	text, n := "unknown instruction", len(code)
	if inst, err := x86asm.Decode(code, 64); err == nil && inst.Op != 0 {
		text, n = x86asm.IntelSyntax(inst, pc, nil), inst.Len
	}
	return fmt.Sprintf("this host's KVM interprets the kernel and lacks the instruction %q (% x) at %#x; use --cpu soft", text, code[:n], pc)
}

// outsideModelOps are instructions that detvm-v1 does not have: #UD is the right answer.
var outsideModelOps = map[x86asm.Op]bool{
	x86asm.XGETBV: true, x86asm.XSETBV: true, x86asm.XSAVE: true, x86asm.XSAVE64: true, x86asm.XSAVEOPT: true, x86asm.XSAVEOPT64: true,
	x86asm.XRSTOR: true, x86asm.XRSTOR64: true, x86asm.XRSTORS: true, x86asm.XRSTORS64: true, x86asm.XSAVEC: true, x86asm.XSAVEC64: true,
	x86asm.XSAVES: true, x86asm.XSAVES64: true, x86asm.INVPCID: true, x86asm.RDFSBASE: true,
	x86asm.RDGSBASE: true, x86asm.WRFSBASE: true, x86asm.WRGSBASE: true, x86asm.RDRAND: true,
	x86asm.UD1: true, x86asm.UD2: true,
}

// outsideModel recognises by their bytes the instructions outside detvm-v1 that the disassembler does not know, or knows only in part.
func outsideModel(code []byte) bool {
	i := 0
	for i < len(code) && (code[i] == 0x66 || code[i] == 0xf2 || code[i] == 0xf3 || code[i]&0xf0 == 0x40) {
		i++
	}
	rest := code[i:]
	switch {
	case len(rest) > 0 && (rest[0] == 0xc4 || rest[0] == 0xc5 || rest[0] == 0x62): // VEX, EVEX; LES, LDS and BOUND do not exist in 64-bit mode
		return true
	case len(rest) > 2 && rest[0] == 0x0f && rest[1] == 0x01:
		// XGETBV, XSETBV, CLAC, STAC, RDPKRU, WRPKRU by their ModRM byte.
		switch rest[2] {
		case 0xd0, 0xd1, 0xca, 0xcb, 0xee, 0xef:
			return true
		}
	case len(rest) > 2 && rest[0] == 0x0f && rest[1] == 0x38 && rest[2] == 0xf6: // ADCX, ADOX
		return true
	}
	return false
}

// failedInst is an instruction to be completed on a copy of the registers.
type failedInst struct {
	engine *Engine
	inst   x86asm.Inst
	regs   *kvmRegs
}

var emulations = map[x86asm.Op]func(*failedInst) error{
	x86asm.STMXCSR: (*failedInst).stmxcsr,
	x86asm.LDMXCSR: (*failedInst).ldmxcsr,
	x86asm.FWAIT:   (*failedInst).fwait,
	x86asm.POPCNT:  (*failedInst).popcnt,
	x86asm.RDTSCP:  (*failedInst).rdtscp,
	x86asm.FNSTSW:  (*failedInst).fnstsw,
	x86asm.FLDCW:   (*failedInst).fldcw,
}

// fpu gives the FXSAVE image to f, which may change it. It does not emulate what CR0 makes fault.
func (c *failedInst) fpu(f func(fx *[512]byte) (changed bool, err error)) error {
	s, err := c.engine.sregs()
	if err != nil {
		return err
	}
	const em, ts = 1 << 2, 1 << 3
	if s.cr0&(em|ts) != 0 {
		return errNotEmulated
	}
	x := new(kvmXsave)
	if err := ioctlPtr(c.engine.cpu, ioGetXsave, x); err != nil {
		return fmt.Errorf("read the FPU: %w", err)
	}
	changed, err := f((*[512]byte)(x[:fxSize]))
	if err != nil || !changed {
		return err
	}
	bv := binary.LittleEndian.Uint64(x[xstateBV:])
	binary.LittleEndian.PutUint64(x[xstateBV:], bv|xstateX87|xstateSSE)
	if err := ioctlPtr(c.engine.cpu, ioSetXsave, x); err != nil {
		return fmt.Errorf("write the FPU: %w", err)
	}
	return nil
}

const fxMXCSR = 24

func (c *failedInst) stmxcsr() error {
	mem, err := c.memory(c.inst.Args[0], 4, true)
	if err != nil {
		return err
	}
	return c.fpu(func(fx *[512]byte) (bool, error) {
		copy(mem, fx[fxMXCSR:fxMXCSR+4])
		return false, nil
	})
}

func (c *failedInst) ldmxcsr() error {
	mem, err := c.memory(c.inst.Args[0], 4, false)
	if err != nil {
		return err
	}
	if binary.LittleEndian.Uint32(mem)&^mxcsrMask != 0 {
		return errNotEmulated // #GP(0)
	}
	return c.fpu(func(fx *[512]byte) (bool, error) {
		copy(fx[fxMXCSR:fxMXCSR+4], mem)
		return true, nil
	})
}

// fwait does nothing unless an x87 exception is pending.
func (c *failedInst) fwait() error {
	return c.fpu(func(fx *[512]byte) (bool, error) {
		if binary.LittleEndian.Uint16(fx[fxFSW:])&fswES != 0 {
			return false, errNotEmulated // #MF
		}
		return false, nil
	})
}

func (c *failedInst) fnstsw() error {
	return c.fpu(func(fx *[512]byte) (bool, error) {
		if c.inst.Args[0] != x86asm.AX {
			mem, err := c.memory(c.inst.Args[0], 2, true)
			if err != nil {
				return false, err
			}
			copy(mem, fx[fxFSW:fxFSW+2])
			return false, nil
		}
		c.regs.rax = c.regs.rax&^0xffff | uint64(binary.LittleEndian.Uint16(fx[fxFSW:]))
		return false, nil
	})
}

func (c *failedInst) fldcw() error {
	mem, err := c.memory(c.inst.Args[0], 2, false)
	if err != nil {
		return err
	}
	return c.fpu(func(fx *[512]byte) (bool, error) {
		const exceptions = 0x3f
		control, status := binary.LittleEndian.Uint16(mem), binary.LittleEndian.Uint16(fx[fxFSW:])
		if status&fswES != 0 || status&exceptions&^control != 0 {
			return false, errNotEmulated // an exception is pending or becomes so
		}
		const one = 1 << 6 // reserved, reads as 1
		binary.LittleEndian.PutUint16(fx[0:], control&0x1f3f|one)
		return true, nil
	})
}

// popcnt: SDM vol. 2B, POPCNT. ZF says that the source is zero; the other arithmetic flags are cleared.
func (c *failedInst) popcnt() error {
	dst, ok := c.inst.Args[0].(x86asm.Reg)
	if !ok {
		return errNotEmulated
	}
	size := c.inst.DataSize / 8
	var src uint64
	switch arg := c.inst.Args[1].(type) {
	case x86asm.Reg:
		src = *c.gpr(arg)
	default:
		mem, err := c.memory(arg, size, false)
		if err != nil {
			return err
		}
		var wide [8]byte
		copy(wide[:], mem)
		src = binary.LittleEndian.Uint64(wide[:])
	}
	src &= ^uint64(0) >> (64 - 8*size)
	c.regs.rflags &^= arithFlags
	if src == 0 {
		c.regs.rflags |= flagZF
	}
	n, p := uint64(bits.OnesCount64(src)), c.gpr(dst)
	if size == 2 {
		n |= *p &^ 0xffff
	}
	*p = n
	return nil
}

// rdtscp returns virtual time, when the machine gave a clock.
func (c *failedInst) rdtscp() error {
	if c.engine.tsc == nil {
		return errNotEmulated
	}
	m := kvmMSRs{n: 1}
	m.entries[0].index = vcpu.MSRTSCAux
	if err := msrIoctl(c.engine.cpu, ioGetMSRs, &m); err != nil {
		return fmt.Errorf("read TSC_AUX: %w", err)
	}
	if c.engine.lander != nil {
		if err := c.engine.lander.refresh(); err != nil {
			return err
		}
		c.engine.count = c.engine.lander.now
	}
	t := c.engine.tsc()
	c.regs.rax, c.regs.rdx, c.regs.rcx = t&0xffffffff, t>>32, m.entries[0].data&0xffffffff
	return nil
}

// gpr is the register that an operand names, whatever its width.
func (c *failedInst) gpr(r x86asm.Reg) *uint64 {
	g := c.regs
	all := [16]*uint64{&g.rax, &g.rcx, &g.rdx, &g.rbx, &g.rsp, &g.rbp, &g.rsi, &g.rdi, &g.r8, &g.r9, &g.r10, &g.r11, &g.r12, &g.r13, &g.r14, &g.r15}
	switch {
	case r >= x86asm.AX && r <= x86asm.R15W:
		return all[r-x86asm.AX]
	case r >= x86asm.EAX && r <= x86asm.R15L:
		return all[r-x86asm.EAX]
	case r >= x86asm.RAX && r <= x86asm.R15:
		return all[r-x86asm.RAX]
	}
	return nil
}

// memory is the guest memory of an operand of n bytes, when it lies in one page of RAM. What does not is left to the caller's error path, with nothing
// done yet.
func (c *failedInst) memory(arg x86asm.Arg, n int, write bool) ([]byte, error) {
	m, ok := arg.(x86asm.Mem)
	if !ok {
		return nil, errNotEmulated
	}
	linear, err := c.linear(m)
	if err != nil {
		return nil, err
	}
	mem, gpa, err := c.engine.linearMemory(linear, n)
	if err != nil {
		return nil, err
	}
	if mem == nil {
		return nil, errNotEmulated
	}
	if write {
		c.engine.MemoryWritten(gpa, uint64(n))
	}
	return mem, nil
}

// linearMemory finds the RAM behind n bytes at a linear address of the guest, and its guest-physical address. It is nil when they are not all in one page of
// mapped RAM.
func (e *Engine) linearMemory(linear uint64, n int) ([]byte, uint64, error) {
	if linear%pageSize+uint64(n) > pageSize {
		return nil, 0, nil
	}
	t := kvmTranslation{linear: linear}
	if err := ioctlPtr(e.cpu, ioTranslate, &t); err != nil {
		return nil, 0, fmt.Errorf("translate %#x: %w", linear, err)
	}
	if t.valid == 0 {
		return nil, 0, nil
	}
	for i := range e.slots {
		s := &e.slots[i]
		if off := t.physical - s.gpa; t.physical >= s.gpa && off+uint64(n) <= uint64(len(s.host)) {
			return s.host[off : off+uint64(n)], t.physical, nil
		}
	}
	return nil, 0, nil
}

// linear is the linear address of a 64-bit memory operand.
func (c *failedInst) linear(m x86asm.Mem) (uint64, error) {
	if c.inst.AddrSize != 64 {
		return 0, errNotEmulated
	}
	addr := uint64(m.Disp)
	switch {
	case m.Base == x86asm.RIP:
		addr += c.regs.rip + uint64(c.inst.Len)
	case m.Base != 0:
		p := c.gpr(m.Base)
		if p == nil {
			return 0, errNotEmulated
		}
		addr += *p
	}
	if m.Index != 0 {
		p := c.gpr(m.Index)
		if p == nil {
			return 0, errNotEmulated
		}
		addr += *p * uint64(m.Scale)
	}
	if m.Segment == x86asm.FS || m.Segment == x86asm.GS {
		s, err := c.engine.sregs()
		if err != nil {
			return 0, err
		}
		if m.Segment == x86asm.FS {
			return addr + s.fs.base, nil
		}
		return addr + s.gs.base, nil
	}
	return addr, nil
}
