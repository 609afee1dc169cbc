package kvm

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/detvm/detvm/vcpu"
)

// stateMSR pairs an MSR with its place in a State.
type stateMSR struct {
	index uint32
	field func(*vcpu.State) *uint64
}

var stateMSRs = []stateMSR{
	{vcpu.MSRSTAR, func(s *vcpu.State) *uint64 { return &s.STAR }},
	{vcpu.MSRLSTAR, func(s *vcpu.State) *uint64 { return &s.LSTAR }},
	{vcpu.MSRCSTAR, func(s *vcpu.State) *uint64 { return &s.CSTAR }},
	{vcpu.MSRSFMASK, func(s *vcpu.State) *uint64 { return &s.SFMASK }},
	{vcpu.MSRKernelGSBase, func(s *vcpu.State) *uint64 { return &s.KernelGSBase }},
	{vcpu.MSRSysenterCS, func(s *vcpu.State) *uint64 { return &s.SysenterCS }},
	{vcpu.MSRSysenterESP, func(s *vcpu.State) *uint64 { return &s.SysenterESP }},
	{vcpu.MSRSysenterEIP, func(s *vcpu.State) *uint64 { return &s.SysenterEIP }},
	{vcpu.MSRPAT, func(s *vcpu.State) *uint64 { return &s.PAT }},
	{vcpu.MSRTSCAux, func(s *vcpu.State) *uint64 { return &s.TSCAux }},
	{vcpu.MSRMiscEnable, func(s *vcpu.State) *uint64 { return &s.MiscEnable }},
}

// Layout of the FXSAVE64 image (SDM vol. 1, 10.5.1) and of the XSAVE header behind it (13.4.2).
const (
	fxFSW       = 2
	fxReserved  = 5
	fxFOP       = 6
	fxFIP       = 8
	fxMXCSRMask = 28
	fxST        = 32
	fxSpare     = 416 // XMM8–15 end here in the image; 48 bytes reserved, 48 free for software
	fxSize      = 512
	xstateBV    = 512
	xstateX87   = 1 << 0
	xstateSSE   = 1 << 1
	fswES       = 1 << 7
	mxcsrMask   = 0xffff
)

// State implements [vcpu.CPU]. Fields that carry noise are made canonical: see canonicalFX and fromSegment.
func (e *Engine) State() (*vcpu.State, error) {
	if e.closed {
		return nil, ErrClosed
	}
	if e.pending != nil {
		// Completing enters KVM_RUN, which belongs to the bound thread.
		if err := e.bind(); err != nil {
			return nil, err
		}
		halted := e.halted
		if err := e.completePending(); err != nil {
			return nil, err
		}
		e.halted = halted
	}
	if e.stashed || e.queued {
		return nil, ErrMidDelivery
	}
	events, err := e.events()
	if err != nil {
		return nil, err
	}
	if events.excInjected|events.excPending|events.intInjected|events.nmiInjected|events.nmiPending != 0 {
		return nil, ErrMidDelivery
	}
	s := &vcpu.State{Halted: e.halted, Shadow: events.intShadow != 0, Count: e.count}
	for _, read := range []func(*vcpu.State) error{e.readRegs, e.readSregs, e.readDebugRegs, e.readMSRs, e.readFX} {
		if err := read(s); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// SetState implements [vcpu.CPU].
func (e *Engine) SetState(s *vcpu.State) error {
	if e.closed {
		return ErrClosed
	}
	if err := e.forgetPending(); err != nil {
		return err
	}
	for _, write := range []func(*vcpu.State) error{e.writeSregs, e.writeRegs, e.writeDebugRegs, e.writeMSRs, e.writeFX, e.writeEvents} {
		if err := write(s); err != nil {
			return err
		}
	}
	e.count = s.Count
	if e.lander != nil {
		if err := e.lander.set(s.Count); err != nil {
			return err
		}
	}
	e.dead, e.stashed, e.queued, e.wasQueued = nil, false, false, false
	e.halted, e.haltPC, e.shadow = s.Halted, s.RIP, s.Shadow
	e.fresh, e.freshIF = true, s.RFLAGS&flagIF != 0
	e.stale = e.stale || e.ranOnce
	e.run.cr8 = s.CR8
	return nil
}

// forgetPending gets rid of the instruction that KVM would complete on the next entry. Completing it is harmless when it can only change registers; a
// string or memory instruction could write into RAM that the caller has just restored, so then the virtual machine is made anew.
func (e *Engine) forgetPending() error {
	p := e.pending
	if e.stashed || (p != nil && !p.Write && (p.Reason == vcpu.ReasonIO || p.Reason == vcpu.ReasonMMIO)) {
		return e.rebuild()
	}
	if p == nil {
		return nil
	}
	if err := e.bind(); err != nil {
		return err
	}
	if err := e.completePending(); err != nil {
		return err
	}
	if e.stashed {
		return e.rebuild()
	}
	return nil
}

func (e *Engine) readRegs(s *vcpu.State) error {
	var r kvmRegs
	if err := ioctlPtr(e.cpu, ioGetRegs, &r); err != nil {
		return fmt.Errorf("read registers: %w", err)
	}
	s.GPR = [16]uint64{r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15}
	s.RIP, s.RFLAGS = r.rip, r.rflags
	return nil
}

func (e *Engine) writeRegs(s *vcpu.State) error {
	g := &s.GPR
	r := kvmRegs{
		rax: g[vcpu.RAX], rcx: g[vcpu.RCX], rdx: g[vcpu.RDX], rbx: g[vcpu.RBX], rsp: g[vcpu.RSP], rbp: g[vcpu.RBP], rsi: g[vcpu.RSI], rdi: g[vcpu.RDI],
		r8: g[8], r9: g[9], r10: g[10], r11: g[11], r12: g[12], r13: g[13], r14: g[14], r15: g[15],
		rip: s.RIP, rflags: s.RFLAGS,
	}
	if err := ioctlPtr(e.cpu, ioSetRegs, &r); err != nil {
		return fmt.Errorf("write registers: %w", err)
	}
	e.run.regs = r
	return nil
}

// fromSegment makes the noise of an unusable segment zero; its base counts (FS and GS in 64-bit mode).
func fromSegment(k *kvmSegment) vcpu.Segment {
	if k.unusable != 0 || k.present == 0 {
		return vcpu.Segment{Base: k.base, Selector: k.selector, Unusable: true}
	}
	bit := func(v uint8, n uint) uint16 { return uint16(v&1) << n }
	return vcpu.Segment{
		Base: k.base, Limit: k.limit, Selector: k.selector,
		Attr: uint16(k.typ&0xf) | bit(k.s, 4) | uint16(k.dpl&3)<<5 | bit(k.present, 7) | bit(k.avl, 12) | bit(k.l, 13) | bit(k.db, 14) | bit(k.g, 15),
	}
}

func toSegment(s vcpu.Segment) kvmSegment {
	bit := func(n uint) uint8 { return uint8(s.Attr>>n) & 1 }
	k := kvmSegment{
		base: s.Base, limit: s.Limit, selector: s.Selector,
		typ: uint8(s.Attr) & 0xf, s: bit(4), dpl: uint8(s.Attr>>5) & 3, present: bit(7), avl: bit(12), l: bit(13), db: bit(14), g: bit(15),
	}
	if s.Unusable {
		k.unusable, k.present = 1, 0
	}
	return k
}

func (e *Engine) sregs() (*kvmSregs, error) {
	var k kvmSregs
	if err := ioctlPtr(e.cpu, ioGetSregs, &k); err != nil {
		return nil, fmt.Errorf("read control registers: %w", err)
	}
	return &k, nil
}

// segments lists the segment registers in the order of State.Seg.
func (k *kvmSregs) segments() [6]*kvmSegment {
	return [6]*kvmSegment{&k.es, &k.cs, &k.ss, &k.ds, &k.fs, &k.gs}
}

func (e *Engine) readSregs(s *vcpu.State) error {
	k, err := e.sregs()
	if err != nil {
		return err
	}
	for i, seg := range k.segments() {
		s.Seg[i] = fromSegment(seg)
	}
	s.LDTR, s.TR = fromSegment(&k.ldt), fromSegment(&k.tr)
	s.GDTR = vcpu.DescriptorTable{Base: k.gdt.base, Limit: k.gdt.limit}
	s.IDTR = vcpu.DescriptorTable{Base: k.idt.base, Limit: k.idt.limit}
	s.CR0, s.CR2, s.CR3, s.CR4, s.CR8, s.EFER = k.cr0, k.cr2, k.cr3, k.cr4, k.cr8, k.efer
	return nil
}

func (e *Engine) writeSregs(s *vcpu.State) error {
	k, err := e.sregs()
	if err != nil {
		return err
	}
	for i, seg := range k.segments() {
		*seg = toSegment(s.Seg[i])
	}
	k.ldt, k.tr = toSegment(s.LDTR), toSegment(s.TR)
	k.gdt = kvmTable{base: s.GDTR.Base, limit: s.GDTR.Limit}
	k.idt = kvmTable{base: s.IDTR.Base, limit: s.IDTR.Limit}
	k.cr0, k.cr2, k.cr3, k.cr4, k.cr8, k.efer = s.CR0, s.CR2, s.CR3, s.CR4, s.CR8, s.EFER
	k.interruptBitmap = [4]uint64{}
	if err := ioctlPtr(e.cpu, ioSetSregs, k); err != nil {
		return fmt.Errorf("write control registers: %w", err)
	}
	return nil
}

func (e *Engine) readDebugRegs(s *vcpu.State) error {
	var d kvmDebugRegs
	if err := ioctlPtr(e.cpu, ioGetDebugRegs, &d); err != nil {
		return fmt.Errorf("read debug registers: %w", err)
	}
	s.DR, s.DR6, s.DR7 = d.db, d.dr6, d.dr7
	return nil
}

func (e *Engine) writeDebugRegs(s *vcpu.State) error {
	d := kvmDebugRegs{db: s.DR, dr6: s.DR6, dr7: s.DR7}
	if err := ioctlPtr(e.cpu, ioSetDebugRegs, &d); err != nil {
		return fmt.Errorf("write debug registers: %w", err)
	}
	return nil
}

func (e *Engine) readMSRs(s *vcpu.State) error {
	m := kvmMSRs{n: uint32(len(e.traits.msrs))}
	for i, msr := range e.traits.msrs {
		m.entries[i].index = msr.index
	}
	if err := msrIoctl(e.cpu, ioGetMSRs, &m); err != nil {
		return fmt.Errorf("read MSRs: %w", err)
	}
	for _, msr := range stateMSRs {
		*msr.field(s) = *msr.field(&e.kept) // of those that the host does not keep
	}
	for i, msr := range e.traits.msrs {
		*msr.field(s) = m.entries[i].data
	}
	return nil
}

func (e *Engine) writeMSRs(s *vcpu.State) error {
	m := kvmMSRs{n: uint32(len(e.traits.msrs))}
	for i, msr := range e.traits.msrs {
		m.entries[i] = kvmMSR{index: msr.index, data: *msr.field(s)}
	}
	if err := msrIoctl(e.cpu, ioSetMSRs, &m); err != nil {
		return fmt.Errorf("write MSRs: %w", err)
	}
	for _, msr := range stateMSRs {
		*msr.field(&e.kept) = *msr.field(s)
	}
	return nil
}

func (e *Engine) readFX(s *vcpu.State) error {
	x := new(kvmXsave)
	if err := ioctlPtr(e.cpu, ioGetXsave, x); err != nil {
		return fmt.Errorf("read the FPU: %w", err)
	}
	copy(s.FX[:], x[:fxSize])
	canonicalFX(&s.FX)
	return nil
}

// canonicalFX zeroes what is not architectural state: reserved bytes, the upper 48 bits of the register slots, and, while no x87 exception is pending,
// the address and opcode of the last x87 instruction, which AMD processors do not keep then (APM vol. 2, 11.4.4) and which would therefore be noise.
func canonicalFX(fx *[512]byte) {
	fx[fxReserved] = 0
	binary.LittleEndian.PutUint32(fx[fxMXCSRMask:], mxcsrMask)
	for i := range 8 {
		clear(fx[fxST+16*i+10 : fxST+16*i+16])
	}
	clear(fx[fxSpare:])
	if binary.LittleEndian.Uint16(fx[fxFSW:])&fswES == 0 {
		clear(fx[fxFOP : fxFIP+16])
	}
}

func (e *Engine) writeFX(s *vcpu.State) error {
	x := new(kvmXsave)
	fx := s.FX
	canonicalFX(&fx)
	copy(x[:], fx[:])
	// Both components are present, so that nothing is taken from the initial configuration.
	binary.LittleEndian.PutUint64(x[xstateBV:], xstateX87|xstateSSE)
	if err := ioctlPtr(e.cpu, ioSetXsave, x); err != nil {
		return fmt.Errorf("write the FPU: %w", err)
	}
	return nil
}

// writeEvents clears whatever was on its way into the guest and sets the interrupt shadow.
func (e *Engine) writeEvents(s *vcpu.State) error {
	events := kvmEvents{flags: eventsShadowValid}
	if s.Shadow {
		events.intShadow = shadowSTI
	}
	if err := ioctlPtr(e.cpu, ioSetVCPUEvents, &events); err != nil {
		return fmt.Errorf("write pending events: %w", err)
	}
	return nil
}

// setCPUID shows the table to the guest, as far as the host obeys.
func (e *Engine) setCPUID(table []vcpu.CPUIDLeaf) error {
	k := new(kvmCPUID)
	if len(table) > len(k.entries) {
		return errors.New("the CPUID table has too many rows")
	}
	k.n = uint32(len(table))
	for i, l := range table {
		k.entries[i] = kvmCPUIDEntry{function: l.Leaf, index: l.Subleaf, eax: l.EAX, ebx: l.EBX, ecx: l.ECX, edx: l.EDX}
		if l.HasSubleaf {
			k.entries[i].flags = cpuidIndexed
		}
	}
	if err := ioctlPtr(e.cpu, ioSetCPUID2, k); err != nil {
		return fmt.Errorf("set CPUID: %w", err)
	}
	k = &kvmCPUID{n: uint32(len(k.entries))}
	if err := ioctlPtr(e.cpu, ioGetCPUID2, k); err != nil {
		return fmt.Errorf("read CPUID back: %w", err)
	}
	e.cpuid = make([]vcpu.CPUIDLeaf, 0, k.n)
	for _, l := range k.entries[:k.n] {
		e.cpuid = append(e.cpuid, vcpu.CPUIDLeaf{
			Leaf: l.function, Subleaf: l.index, HasSubleaf: l.flags&cpuidIndexed != 0, EAX: l.eax, EBX: l.ebx, ECX: l.ecx, EDX: l.edx,
		})
	}
	return nil
}

// CPUID implements [vcpu.CPU]: what KVM says that it shows, which some hosts change.
func (e *Engine) CPUID() []vcpu.CPUIDLeaf { return append([]vcpu.CPUIDLeaf(nil), e.cpuid...) }
