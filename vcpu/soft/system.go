package soft

import "github.com/detvm/detvm/vcpu"

// Debug register bits (SDM vol. 3B, 17.2).
const (
	dr6Fixed = 0xffff0ff0
	dr7Fixed = 0x400
	dr6BD    = 1 << 13
	dr6BS    = 1 << 14
	dr7GD    = 1 << 13
)

// msrs are the model-specific registers that are plain state and have no other home.
type msrs struct {
	star, lstar, cstar, sfmask           uint64
	kernelGS                             uint64
	sysenterCS, sysenterESP, sysenterEIP uint64
	pat, tscAux, miscEnable              uint64
}

// terminalExecs are the instructions that end a block and are lowered to one generic op.
var terminalExecs = map[string]execFn{
	"SYSCALL": xSyscall, "SYSRET": xSysret, "SYSENTER": xSysenter, "SYSEXIT": xSysexit, "SWAPGS": xSwapgs, "IRET": xIret,
	"INT": xInt, "INT3": xInt3, "INT1": xInt1, "INTO": xInto, "HLT": xHlt, "IN": xIn, "OUT": xOut, "RDMSR": xRdmsr, "WRMSR": xWrmsr,
	"MOVTOCR": xMovToCR, "MOVTODR": xMovToDR, "CLTS": xClts, "LMSW": xLmsw, "LGDT": xLgdt, "LIDT": xLidt, "LLDT": xLldt, "LTR": xLtr,
	"MOVTOSEG": xMovToSeg, "POPF": xPopf, "CALLFAR": xCallFar, "JMPFAR": xJmpFar, "RETF": xRetFar,
	"UD0": xUndefined, "UD1": xUndefined, "UD2": xUndefined, "CLAC": xClac, "STAC": xStac,
	"LDS": loadFarPointer(segDS), "LES": loadFarPointer(segES), "LSS": loadFarPointer(segSS), "LFS": loadFarPointer(segFS),
	"LGS": loadFarPointer(segGS),
}

func xPrivNop(c *CPU, o *op) *op {
	if c.cpl != 0 {
		return c.raiseGP(o)
	}
	return next(o)
}

func xSyscall(c *CPU, o *op) *op {
	if c.efer&eferSCE == 0 || c.mode&mode64 == 0 {
		return c.raise(o, vecUD)
	}
	c.r[1] = o.in.next
	c.r[11] = c.rflags() &^ flagRF
	c.setFlags(c.rflags() &^ (c.msr.sfmask | flagRF))
	if c.ring3.SyscallStays && c.cpl == 3 {
		c.rip = c.msr.lstar
		c.updateMode()
		return nil
	}
	sel := uint16(c.msr.star>>32) &^ 3
	c.setSeg(segCS, flatCode(sel, 0, true))
	c.setSeg(segSS, flatData(sel+8, 0))
	c.setCPL(0)
	c.rip = c.msr.lstar
	c.noTrap = true
	c.updateMode()
	return nil
}

// flatCode and flatData are the fixed segments that SYSCALL, SYSENTER and their returns load.
func flatCode(sel uint16, dpl uint8, long bool) segDescriptor {
	d := segDescriptor{selector: sel, limit: 0xffffffff, attr: attrG | attrP | attrS | attrCode | attrWritable | 1 | uint16(dpl)<<5}
	if long {
		d.attr |= attrL
	} else {
		d.attr |= attrDB
	}
	return d
}

func flatData(sel uint16, dpl uint8) segDescriptor {
	return segDescriptor{selector: sel, limit: 0xffffffff, attr: attrG | attrDB | attrP | attrS | attrWritable | 1 | uint16(dpl)<<5}
}

func xSysret(c *CPU, o *op) *op {
	if c.efer&eferSCE == 0 || c.mode&mode64 == 0 {
		return c.raise(o, vecUD)
	}
	if c.cpl != 0 {
		return c.raiseGP(o)
	}
	long := o.in.rex&rexW != 0
	if long && !canonical(c.r[1]) {
		return c.raiseGP(o)
	}
	c.setFlags(c.r[11]&0x3c7fd7 | flagR1)
	base := uint16(c.msr.star >> 48)
	rip, cs := uint64(uint32(c.r[1])), base
	if long {
		rip, cs = c.r[1], base+16
	}
	c.setSeg(segCS, flatCode(cs|3, 3, long))
	c.setSeg(segSS, flatData(base+8|3, 3))
	c.setCPL(3)
	c.rip = rip
	c.updateMode()
	return nil
}

func xSysenter(c *CPU, o *op) *op {
	if c.cr0&cr0PE == 0 || c.msr.sysenterCS&^3 == 0 {
		return c.raiseGP(o)
	}
	long := c.efer&eferLMA != 0
	sel := uint16(c.msr.sysenterCS) &^ 3
	c.flags &^= flagVM | flagIF | flagRF
	c.setSeg(segCS, flatCode(sel, 0, long))
	c.setSeg(segSS, flatData(sel+8, 0))
	c.setCPL(0)
	c.r[4], c.rip = c.msr.sysenterESP, c.msr.sysenterEIP
	c.noTrap = true
	c.updateMode()
	c.segBases()
	return nil
}

func xSysexit(c *CPU, o *op) *op {
	if c.cr0&cr0PE == 0 || c.msr.sysenterCS&^3 == 0 || c.cpl != 0 {
		return c.raiseGP(o)
	}
	long := o.in.rex&rexW != 0
	sel := uint16(c.msr.sysenterCS)&^3 + 16
	sp, rip := uint64(uint32(c.r[1])), uint64(uint32(c.r[2]))
	if long {
		sp, rip, sel = c.r[1], c.r[2], sel+16
		if !canonical(sp) || !canonical(rip) {
			return c.raiseGP(o)
		}
	}
	c.setSeg(segCS, flatCode(sel|3, 3, long))
	c.setSeg(segSS, flatData(sel+8|3, 3))
	c.setCPL(3)
	c.r[4], c.rip = sp, rip
	c.updateMode()
	c.segBases()
	return nil
}

func xSwapgs(c *CPU, o *op) *op {
	if c.cpl != 0 {
		return c.raiseGP(o)
	}
	gs := &c.r[regGS/8]
	*gs, c.msr.kernelGS = c.msr.kernelGS, *gs
	c.seg[segGS].Base = *gs
	return c.notTaken(o)
}

// software delivers INT n, INT3 and INTO: the instruction retires and the handler is entered with rip after it.
func (c *CPU) software(o *op, vec uint8) *op {
	c.rip = o.ip - c.codeBase()
	c.noTrap = true
	c.deliver(exception{vec: vec}, eventSoftware, o.in.next-c.codeBase())
	if c.shutdown != "" {
		c.ev = evStop
	}
	return nil
}

func xInt(c *CPU, o *op) *op  { return c.software(o, uint8(o.imm)) }
func xInt3(c *CPU, o *op) *op { return c.software(o, vecBP) }

func xInt1(c *CPU, o *op) *op {
	c.rip = o.in.next - c.codeBase()
	c.noTrap = true
	c.deliver(exception{vec: vecDB}, eventTrap, c.rip)
	if c.shutdown != "" {
		c.ev = evStop
	}
	return nil
}

func xInto(c *CPU, o *op) *op {
	if c.of() {
		return c.software(o, vecOF)
	}
	return c.notTaken(o)
}

func xSti(c *CPU, o *op) *op {
	if uint64(c.cpl) > c.flags&flagIOPL>>12 {
		return c.raiseGP(o)
	}
	if c.flags&flagIF == 0 {
		c.flags |= flagIF
		c.setShadow(o)
	}
	return next(o)
}

func xCli(c *CPU, o *op) *op {
	if uint64(c.cpl) > c.flags&flagIOPL>>12 {
		return c.raiseGP(o)
	}
	c.flags &^= flagIF
	return next(o)
}

func xClac(c *CPU, o *op) *op { return c.setAC(o, 0) }
func xStac(c *CPU, o *op) *op { return c.setAC(o, flagAC) }

func (c *CPU) setAC(o *op, ac uint64) *op {
	if !c.hasSMAP || c.cpl != 0 {
		return c.raise(o, vecUD)
	}
	c.flags = c.flags&^flagAC | ac
	return c.notTaken(o)
}

func xCpuid(c *CPU, o *op) *op {
	table := c.cpuid
	if c.cpl == 3 && c.ring3.CPUID != nil {
		table = c.ring3.CPUID
	}
	eax, ebx, ecx, edx := vcpu.LookupCPUID(table, uint32(c.r[0]), uint32(c.r[1]))
	c.r[0], c.r[3], c.r[1], c.r[2] = uint64(eax), uint64(ebx), uint64(ecx), uint64(edx)
	return next(o)
}

// xXgetbv does not belong to the model. Only ring 3 has it, where it is shown a host's processor whose operating system uses XSAVE; XCR0 then enables
// all that the processor supports.
func xXgetbv(c *CPU, o *op) *op {
	const osxsave = 1 << 27
	if _, _, features, _ := vcpu.LookupCPUID(c.ring3.CPUID, 1, 0); c.cpl != 3 || features&osxsave == 0 {
		return c.raise(o, vecUD)
	}
	if uint32(c.r[1]) != 0 {
		return c.raiseGP(o)
	}
	low, _, _, high := vcpu.LookupCPUID(c.ring3.CPUID, 0xd, 0)
	c.r[0], c.r[2] = uint64(low), uint64(high)
	return next(o)
}

// readTSC asks the machine for the time, with the count exact for instruction o.
func (c *CPU) readTSC(o *op) {
	c.left += int64(o.rest)
	v := c.tsc()
	c.left -= int64(o.rest)
	c.r[0], c.r[2] = uint64(uint32(v)), v>>32
}

func xRdtsc(c *CPU, o *op) *op {
	if c.cr4&cr4TSD != 0 && c.cpl != 0 {
		return c.raiseGP(o)
	}
	c.readTSC(o)
	return next(o)
}

func xRdtscp(c *CPU, o *op) *op {
	if c.cr4&cr4TSD != 0 && c.cpl != 0 {
		return c.raiseGP(o)
	}
	c.readTSC(o)
	c.r[1] = uint64(uint32(c.msr.tscAux))
	return next(o)
}

func xRdpmc(c *CPU, o *op) *op { return c.raiseGP(o) }

func xMovFromCR(c *CPU, o *op) *op {
	var v uint64
	switch o.in.reg {
	case 0:
		v = c.cr0
	case 2:
		v = c.cr2
	case 3:
		v = c.cr3
	case 4:
		v = c.cr4
	case 8:
		v = c.cr8
	default:
		return c.raise(o, vecUD)
	}
	if c.cpl != 0 {
		return c.raiseGP(o)
	}
	c.setReg(o.in.rm*8, o.size, v)
	return next(o)
}

func xMovToCR(c *CPU, o *op) *op {
	n := o.in.reg
	if n != 0 && n != 2 && n != 3 && n != 4 && n != 8 {
		return c.raise(o, vecUD)
	}
	if c.cpl != 0 {
		return c.raiseGP(o)
	}
	v := c.getReg(o.in.rm*8, o.size)
	ok := true
	switch n {
	case 0:
		ok = c.setCR0(v)
	case 2:
		c.cr2 = v
	case 3:
		ok = c.setCR3(v)
	case 4:
		ok = c.setCR4(v)
	case 8:
		if ok = v&^15 == 0; ok {
			c.cr8 = v
		}
	}
	if !ok {
		return c.raiseGP(o)
	}
	return c.restart(o)
}

const cr0Known = cr0PE | cr0MP | cr0EM | cr0TS | cr0ET | cr0NE | cr0WP | cr0AM | cr0NW | cr0CD | cr0PG

// setCR0 reports false for values that raise #GP.
func (c *CPU) setCR0(v uint64) bool {
	if v>>32 != 0 || v&cr0PG != 0 && v&cr0PE == 0 || v&cr0NW != 0 && v&cr0CD == 0 {
		return false
	}
	v = v&cr0Known | cr0ET
	old := c.cr0
	if v&cr0PG == 0 && c.mode&mode64 != 0 {
		return false
	}
	if v&^old&cr0PG != 0 && c.efer&eferLME != 0 {
		if c.cr4&cr4PAE == 0 || c.seg[segCS].Attr&attrL != 0 {
			return false
		}
		c.efer |= eferLMA
	}
	if old&^v&cr0PG != 0 {
		c.efer &^= eferLMA
	}
	c.cr0 = v
	if v&cr0PG != 0 && c.efer&eferLMA == 0 {
		c.fail("paging without long mode is not supported")
	}
	if (old^v)&(cr0PG|cr0WP|cr0PE) != 0 {
		c.flushTLB()
	}
	c.selectTLB()
	c.updateMode()
	return true
}

func (c *CPU) setCR3(v uint64) bool {
	if v&c.physRsvd != 0 || v>>52 != 0 {
		return false
	}
	if v != c.cr3 {
		c.cr3 = v
		c.flushTLB()
	}
	return true
}

func (c *CPU) setCR4(v uint64) bool {
	known := uint64(cr4VME | cr4PVI | cr4TSD | cr4DE | cr4PSE | cr4PAE | cr4MCE | cr4PGE | cr4PCE | cr4OSFXSR | cr4OSXMMEXCPT)
	if c.hasSMEP {
		known |= cr4SMEP
	}
	if c.hasSMAP {
		known |= cr4SMAP
	}
	if v&^known != 0 || c.efer&eferLMA != 0 && v&cr4PAE == 0 {
		return false
	}
	if (c.cr4^v)&(cr4SMEP|cr4SMAP|cr4PAE) != 0 {
		c.flushTLB()
	}
	c.cr4 = v
	c.updateMode()
	return true
}

func xClts(c *CPU, o *op) *op {
	if c.cpl != 0 {
		return c.raiseGP(o)
	}
	c.cr0 &^= cr0TS
	c.updateMode()
	return c.restart(o)
}

func xLmsw(c *CPU, o *op) *op {
	if c.cpl != 0 {
		return c.raiseGP(o)
	}
	v, ok := c.selectorOperand(o)
	if !ok {
		return c.fault(o)
	}
	c.setCR0(c.cr0&^(cr0MP|cr0EM|cr0TS) | uint64(v)&(cr0PE|cr0MP|cr0EM|cr0TS))
	return c.restart(o)
}

// debugRegister resolves the aliases DR4 and DR5; it reports false for #UD.
func (c *CPU) debugRegister(n uint8) (uint8, bool) {
	if n == 4 || n == 5 {
		return n + 2, c.cr4&cr4DE == 0
	}
	return n, n < 8
}

func xMovFromDR(c *CPU, o *op) *op {
	n, ok := c.debugRegister(o.in.reg)
	if !ok {
		return c.raise(o, vecUD)
	}
	if c.cpl != 0 {
		return c.raiseGP(o)
	}
	if c.dr7&dr7GD != 0 {
		c.post(exception{vec: vecDB, dr6: dr6BD})
		return c.fault(o)
	}
	v := c.dr7
	switch {
	case n < 4:
		v = c.dr[n]
	case n == 6:
		v = c.dr6
	}
	c.setReg(o.in.rm*8, o.size, v)
	return next(o)
}

func xMovToDR(c *CPU, o *op) *op {
	n, ok := c.debugRegister(o.in.reg)
	if !ok {
		return c.raise(o, vecUD)
	}
	if c.cpl != 0 {
		return c.raiseGP(o)
	}
	if c.dr7&dr7GD != 0 {
		c.post(exception{vec: vecDB, dr6: dr6BD})
		return c.fault(o)
	}
	v := c.getReg(o.in.rm*8, o.size)
	if n >= 6 && v>>32 != 0 {
		return c.raiseGP(o)
	}
	switch {
	case n < 4:
		c.dr[n] = v
	case n == 6:
		c.dr6 = v&0xe00f | dr6Fixed
	default:
		c.dr7 = v&0xffff2bff | dr7Fixed
	}
	c.flushTLB() // pages with data breakpoints stay out of the TLB
	return c.restart(o)
}

// readTableRegister is LGDT and LIDT.
func (c *CPU) readTableRegister(o *op, to *vcpu.DescriptorTable) *op {
	if c.cpl != 0 {
		return c.raiseGP(o)
	}
	va := c.ea(o)
	limit, ok := c.load16(va)
	if !ok {
		return c.fault(o)
	}
	size := uint8(4)
	if c.mode&mode64 != 0 {
		size = 8
	}
	base, ok := c.loadN(va+2, size)
	if !ok {
		return c.fault(o)
	}
	if !canonical(base) {
		return c.raiseGP(o)
	}
	if size == 4 && o.size == 2 {
		base &= 0xffffff
	}
	*to = vcpu.DescriptorTable{Base: base, Limit: limit}
	return c.restart(o)
}

func xLgdt(c *CPU, o *op) *op { return c.readTableRegister(o, &c.gdtr) }
func xLidt(c *CPU, o *op) *op { return c.readTableRegister(o, &c.idtr) }

func xSgdt(c *CPU, o *op) *op { return c.storeTableRegister(o, c.gdtr) }
func xSidt(c *CPU, o *op) *op { return c.storeTableRegister(o, c.idtr) }

func (c *CPU) storeTableRegister(o *op, t vcpu.DescriptorTable) *op {
	n := 6
	if c.mode&mode64 != 0 {
		n = 10
	}
	var b [10]byte
	b[0], b[1] = byte(t.Limit), byte(t.Limit>>8)
	for i := range 8 {
		b[2+i] = byte(t.Base >> (8 * i))
	}
	if !c.writeMem(c.ea(o), b[:n]) {
		return c.fault(o)
	}
	return next(o)
}

// readMSR returns an MSR that is plain CPU state; ok is false for those that the machine answers.
func (c *CPU) readMSR(n uint32) (v uint64, ok bool) {
	if p := c.plainMSR(n); p != nil {
		return *p, true
	}
	switch n {
	case vcpu.MSREFER:
		return c.efer, true
	case vcpu.MSRFSBase:
		return c.r[regFS/8], true
	case vcpu.MSRGSBase:
		return c.r[regGS/8], true
	}
	return 0, false
}

// plainMSR is the home of an MSR that has no side effects.
func (c *CPU) plainMSR(n uint32) *uint64 {
	m := &c.msr
	switch n {
	case vcpu.MSRSysenterCS:
		return &m.sysenterCS
	case vcpu.MSRSysenterESP:
		return &m.sysenterESP
	case vcpu.MSRSysenterEIP:
		return &m.sysenterEIP
	case vcpu.MSRMiscEnable:
		return &m.miscEnable
	case vcpu.MSRPAT:
		return &m.pat
	case vcpu.MSRSTAR:
		return &m.star
	case vcpu.MSRLSTAR:
		return &m.lstar
	case vcpu.MSRCSTAR:
		return &m.cstar
	case vcpu.MSRSFMASK:
		return &m.sfmask
	case vcpu.MSRKernelGSBase:
		return &m.kernelGS
	case vcpu.MSRTSCAux:
		return &m.tscAux
	}
	return nil
}

// writeMSR writes an MSR that is plain CPU state. known is false for those that the machine answers, ok false for #GP.
func (c *CPU) writeMSR(n uint32, v uint64) (known, ok bool) {
	switch n {
	case vcpu.MSRLSTAR, vcpu.MSRCSTAR, vcpu.MSRSysenterESP, vcpu.MSRSysenterEIP, vcpu.MSRFSBase, vcpu.MSRGSBase, vcpu.MSRKernelGSBase:
		if !canonical(v) {
			return true, false
		}
	case vcpu.MSRTSCAux, vcpu.MSRSFMASK:
		if v>>32 != 0 {
			return true, false
		}
	case vcpu.MSRPAT:
		for i := range 8 {
			if t := v >> (8 * i) & 0xff; t > 7 || t == 2 || t == 3 {
				return true, false
			}
		}
	case vcpu.MSREFER:
		return true, c.setEFER(v)
	}
	switch n {
	case vcpu.MSRFSBase:
		c.r[regFS/8], c.seg[segFS].Base = v, v
	case vcpu.MSRGSBase:
		c.r[regGS/8], c.seg[segGS].Base = v, v
	default:
		p := c.plainMSR(n)
		if p == nil {
			return false, false
		}
		*p = v
	}
	return true, true
}

func (c *CPU) setEFER(v uint64) bool {
	if v&^(eferSCE|eferLME|eferLMA|eferNXE) != 0 {
		return false
	}
	if (v^c.efer)&eferLME != 0 && c.cr0&cr0PG != 0 {
		return false
	}
	if (v^c.efer)&eferNXE != 0 {
		c.flushTLB()
	}
	c.efer = v&^eferLMA | c.efer&eferLMA
	c.updateMode()
	return true
}

func xRdmsr(c *CPU, o *op) *op {
	if c.cpl != 0 {
		return c.raiseGP(o)
	}
	n := uint32(c.r[1])
	if v, ok := c.readMSR(n); ok {
		c.r[0], c.r[2] = uint64(uint32(v)), v>>32
		return c.restart(o)
	}
	return c.exitMSR(o, vcpu.ReasonRDMSR, n)
}

func xWrmsr(c *CPU, o *op) *op {
	if c.cpl != 0 {
		return c.raiseGP(o)
	}
	n := uint32(c.r[1])
	known, ok := c.writeMSR(n, uint64(uint32(c.r[0]))|c.r[2]<<32)
	switch {
	case !known:
		return c.exitMSR(o, vcpu.ReasonWRMSR, n)
	case !ok:
		return c.raiseGP(o)
	}
	return c.restart(o)
}

// stepping reports whether every instruction must be looked at: single-step trap or enabled breakpoints.
func (c *CPU) stepping() bool { return c.flags&flagTF != 0 || c.dr7&0xff != 0 }

// breakpointsNear reports whether a data breakpoint is enabled in the page of va, which therefore must not be in the TLB.
func (c *CPU) breakpointsNear(va uint64) bool {
	if c.dr7&0xff == 0 {
		return false
	}
	for i := range c.dr {
		if c.dr7>>(2*i)&3 != 0 && c.dr[i]&pageMask == va&pageMask {
			return true
		}
	}
	return false
}

// breakpointLen is the length of breakpoint i.
func (c *CPU) breakpointLen(i int) uint64 {
	return [4]uint64{1, 2, 8, 4}[c.dr7>>(18+4*i)&3]
}

// checkDataBreak notes data breakpoints that an access hits; they trap after the instruction.
func (c *CPU) checkDataBreak(va, size uint64, write bool) {
	if c.dr7&0xff == 0 || c.implicit {
		return
	}
	for i := range c.dr {
		rw := c.dr7 >> (16 + 4*i) & 3
		if c.dr7>>(2*i)&3 == 0 || rw == 0 || rw == 2 || rw == 1 && !write {
			continue
		}
		n := c.breakpointLen(i)
		if start := c.dr[i] &^ (n - 1); va < start+n && start < va+size {
			c.debugHits |= 1 << i
		}
	}
}

// codeBreak raises #DB if an instruction breakpoint is at rip.
func (c *CPU) codeBreak() bool {
	if c.dr7&0xff == 0 || c.flags&flagRF != 0 {
		return false
	}
	var hits uint64
	for i := range c.dr {
		if c.dr7>>(2*i)&3 != 0 && c.dr7>>(16+4*i)&3 == 0 && c.dr[i] == c.rip+c.codeBase() {
			hits |= 1 << i
		}
	}
	if hits == 0 {
		return false
	}
	c.post(exception{vec: vecDB, dr6: hits})
	return true
}
