package soft

import (
	"github.com/detvm/detvm/vcpu"
)

// State implements vcpu.CPU.
func (c *CPU) State() (*vcpu.State, error) {
	c.finishExit()
	s := &vcpu.State{
		RIP: c.rip, RFLAGS: c.rflags(), Seg: c.seg, LDTR: c.ldtr, TR: c.tr, GDTR: c.gdtr, IDTR: c.idtr,
		CR0: c.cr0, CR2: c.cr2, CR3: c.cr3, CR4: c.cr4, CR8: c.cr8, EFER: c.efer, DR: c.dr, DR6: c.dr6, DR7: c.dr7,
		STAR: c.msr.star, LSTAR: c.msr.lstar, CSTAR: c.msr.cstar, SFMASK: c.msr.sfmask, KernelGSBase: c.msr.kernelGS,
		SysenterCS: c.msr.sysenterCS, SysenterESP: c.msr.sysenterESP, SysenterEIP: c.msr.sysenterEIP,
		PAT: c.msr.pat, TSCAux: c.msr.tscAux, MiscEnable: c.msr.miscEnable,
		Halted: c.halted, Shadow: c.inShadow(), Count: c.Count(),
	}
	copy(s.GPR[:], c.r[:16])
	s.Seg[segFS].Base, s.Seg[segGS].Base = c.r[regFS/8], c.r[regGS/8]
	c.fpu.x87.FXSave(&s.FX, &c.xmm, c.fpu.env.MXCSR, true, 16)
	return s, nil
}

// SetState implements vcpu.CPU. Reserved bits of control registers, EFER and MXCSR are cleared: the state may come from a hostile file.
func (c *CPU) SetState(s *vcpu.State) error {
	c.pend, c.mmio = pendingExit{}, mmioState{}
	c.ev, c.irq, c.shutdown, c.failure = evNone, -1, "", ""
	c.single, c.implicit, c.bounceSize, c.from = false, false, 0, nil
	c.debugHits, c.trapAfter, c.noTrap, c.ownWrite = 0, false, false, false
	c.idleEvents = 0
	c.endSlice()
	copy(c.r[:16], s.GPR[:])
	c.rip = s.RIP
	c.seg, c.ldtr, c.tr, c.gdtr, c.idtr = s.Seg, s.LDTR, s.TR, s.GDTR, s.IDTR
	c.r[regFS/8], c.r[regGS/8] = s.Seg[segFS].Base, s.Seg[segGS].Base
	c.cr0, c.cr2, c.cr3, c.cr4, c.cr8 = s.CR0&cr0Known|cr0ET, s.CR2, s.CR3, s.CR4, s.CR8&15
	c.efer = s.EFER & (eferSCE | eferLME | eferLMA | eferNXE)
	c.dr, c.dr6, c.dr7 = s.DR, s.DR6&0xe00f|dr6Fixed, s.DR7&0xffff2bff|dr7Fixed
	c.msr = msrs{star: s.STAR, lstar: s.LSTAR, cstar: s.CSTAR, sfmask: s.SFMASK, kernelGS: s.KernelGSBase, sysenterCS: s.SysenterCS,
		sysenterESP: s.SysenterESP, sysenterEIP: s.SysenterEIP, pat: s.PAT, tscAux: s.TSCAux, miscEnable: s.MiscEnable}
	fx := s.FX
	fx[26] &= 0
	fx[27] &= 0
	c.fpu.x87.FXRestore(&fx, &c.xmm, &c.fpu.env.MXCSR, true, 16)
	c.fpu.env.Unmasked = 0
	c.halted = s.Halted
	c.shadowSet, c.shadowAt = s.Shadow, c.icount()
	c.shift += s.Count - c.Count()
	c.setFlags(s.RFLAGS)
	c.mode = ^uint16(0) // make updateMode see a change
	c.setCPL(uint8(s.Seg[segCS].Selector & 3))
	c.updateMode()
	c.flushTLB()
	return nil
}
