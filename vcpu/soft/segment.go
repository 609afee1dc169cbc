package soft

import "github.com/detvm/detvm/vcpu"

// Attribute bits of vcpu.Segment.Attr.
const (
	attrWritable = 1 << 1 // of data; "readable" of code
	attrDown     = 1 << 2 // expand-down of data; "conforming" of code
	attrCode     = 1 << 3
	attrS        = 1 << 4
	attrP        = 1 << 7
	attrL        = 1 << 13
	attrDB       = 1 << 14
	attrG        = 1 << 15
)

// segDescriptor is a descriptor in usable form.
type segDescriptor struct {
	base     uint64
	at       uint64 // linear address of the descriptor
	limit    uint32
	attr     uint16
	selector uint16
	unusable bool
}

func (d *segDescriptor) dpl() uint8    { return uint8(d.attr >> 5 & 3) }
func (d *segDescriptor) present() bool { return d.attr&attrP != 0 }
func (d *segDescriptor) isCode() bool  { return d.attr&(attrS|attrCode) == attrS|attrCode }
func (d *segDescriptor) isData() bool  { return d.attr&(attrS|attrCode) == attrS }
func (d *segDescriptor) system() bool  { return d.attr&attrS == 0 }
func (d *segDescriptor) typ() uint8    { return uint8(d.attr & 15) }

// nullSegment is what a null selector loads.
func nullSegment(sel uint16) segDescriptor { return segDescriptor{selector: sel, unusable: true} }

// readDescriptor reads the descriptor of a selector from the GDT or LDT. It reports false if there is none (c.ev stays evNone) or if
// reading it faulted.
func (c *CPU) readDescriptor(sel uint16) (segDescriptor, bool) {
	base, limit := c.gdtr.Base, uint32(c.gdtr.Limit)
	if sel&4 != 0 {
		if c.ldtr.Unusable {
			return segDescriptor{}, false
		}
		base, limit = c.ldtr.Base, c.ldtr.Limit
	}
	at := uint64(sel &^ 7)
	if at+7 > uint64(limit) {
		return segDescriptor{}, false
	}
	v, ok := c.sysLoad(base+at, 8)
	if !ok {
		return segDescriptor{}, false
	}
	d := segDescriptor{selector: sel, at: base + at, attr: uint16(v>>40) & 0xf0ff, limit: uint32(v&0xffff | v>>32&0xf0000),
		base: v>>16&0xffffff | v>>32&0xff000000}
	if d.attr&attrG != 0 {
		d.limit = d.limit<<12 | 0xfff
	}
	if d.system() && c.efer&eferLMA != 0 && (d.typ() == 2 || d.typ() == 9 || d.typ() == 11) {
		if at+15 > uint64(limit) {
			return segDescriptor{}, false
		}
		hi, ok := c.sysLoad(d.at+8, 8)
		if !ok {
			return segDescriptor{}, false
		}
		d.base |= hi << 32
	}
	return d, true
}

// setAccessed sets the accessed bit of a code or data descriptor in memory.
func (c *CPU) setAccessed(d *segDescriptor) bool {
	if d.attr&1 != 0 {
		return true
	}
	d.attr |= 1
	v, ok := c.sysLoad(d.at+5, 1)
	return ok && c.sysStore(d.at+5, v|1, 1)
}

// setSeg loads a segment register and its hidden part.
func (c *CPU) setSeg(i int, d segDescriptor) {
	c.seg[i] = vcpu.Segment{Base: d.base, Limit: d.limit, Selector: d.selector, Attr: d.attr, Unusable: d.unusable}
	switch i {
	case segFS:
		c.r[regFS/8] = d.base
	case segGS:
		c.r[regGS/8] = d.base
	case segCS:
	default:
		c.segBases()
	}
}

// segBases copies the bases of the segments that only count outside 64-bit mode to the register file.
func (c *CPU) segBases() {
	for i := segES; i <= segDS; i++ {
		c.r[regES/8+i] = 0
		if c.mode&mode64 == 0 {
			c.r[regES/8+i] = c.seg[i].Base
		}
	}
}

// setCPL changes the current privilege level.
func (c *CPU) setCPL(cpl uint8) {
	c.cpl = cpl
	i := 0
	if cpl == 3 {
		i = 1
	}
	c.jc = &c.jcs[i]
	c.selectTLB()
}

// updateMode recomputes what decoding depends on.
func (c *CPU) updateMode() {
	var m uint16
	cs := &c.seg[segCS]
	switch {
	case c.efer&eferLMA != 0 && cs.Attr&attrL != 0:
		m = mode64
	case cs.Attr&attrDB != 0:
		m = mode32
	}
	if c.cr0&(cr0TS|cr0EM) != 0 {
		m |= modeNM
	}
	if c.cr0&cr0EM != 0 {
		m |= modeEM
	}
	if c.cr0&cr0EM != 0 || c.cr4&cr4OSFXSR == 0 {
		m |= modeNoSSE
	}
	if c.cr0&cr0TS != 0 {
		m |= modeTS
		if c.cr0&cr0MP != 0 {
			m |= modeMP
		}
	}
	if m != c.mode {
		c.mode = m
		c.segBases()
		c.newGeneration()
	} else if m&mode64 == 0 {
		c.segBases()
	}
}

// segCode is the error code of a selector.
func segCode(sel uint16) uint32 { return uint32(sel &^ 3) }

// loadSeg loads a data segment register or SS (SDM vol. 2B, MOV). On failure the exception is pending.
func (c *CPU) loadSeg(i int, sel uint16) bool {
	fail := func(vec uint8) bool {
		if c.ev != evFault {
			c.post(exception{vec: vec, hasCode: true, code: segCode(sel)})
		}
		return false
	}
	rpl := uint8(sel & 3)
	if sel&^3 == 0 {
		if i == segSS && (c.mode&mode64 == 0 || c.cpl == 3 || rpl != c.cpl) {
			return fail(vecGP)
		}
		c.setSeg(i, nullSegment(sel))
		return true
	}
	d, ok := c.readDescriptor(sel)
	if !ok {
		return fail(vecGP)
	}
	if i == segSS {
		if rpl != c.cpl || !d.isData() || d.attr&attrWritable == 0 || d.dpl() != c.cpl {
			return fail(vecGP)
		}
		if !d.present() {
			return fail(vecSS)
		}
	} else {
		if d.system() || d.isCode() && d.attr&attrWritable == 0 {
			return fail(vecGP)
		}
		if !(d.isCode() && d.attr&attrDown != 0) && (d.dpl() < rpl || d.dpl() < c.cpl) {
			return fail(vecGP)
		}
		if !d.present() {
			return fail(vecNP)
		}
	}
	if !c.setAccessed(&d) {
		return false
	}
	c.setSeg(i, d)
	return true
}

// setShadow starts the interrupt shadow of STI or a load of SS: instruction o is the one that is about to retire.
func (c *CPU) setShadow(o *op) {
	c.shadowSet = true
	c.shadowAt = c.icount() - uint64(o.rest) + 1
}

func xMovFromSeg(c *CPU, o *op) *op {
	sel := uint64(c.seg[o.in.reg&7%6].Selector)
	if o.in.reg&7 > 5 {
		return c.raise(o, vecUD)
	}
	if o.in.mem {
		if !c.store16(c.ea(o), uint16(sel)) {
			return c.fault(o)
		}
		return next(o)
	}
	c.setReg(o.a, o.size, sel)
	return next(o)
}

func xMovToSeg(c *CPU, o *op) *op {
	i := int(o.in.reg & 7)
	if i == segCS || i > segGS {
		return c.raise(o, vecUD)
	}
	var sel uint64
	ok := true
	if o.in.mem {
		var v uint16
		v, ok = c.load16(c.ea(o))
		sel = uint64(v)
	} else {
		sel = c.getReg(o.a, 2)
	}
	if !ok || !c.loadSeg(i, uint16(sel)) {
		return c.fault(o)
	}
	if i == segSS {
		c.setShadow(o)
	}
	return c.restart(o)
}

func xPopSeg(c *CPU, o *op) *op {
	v, ok := c.loadN(c.stackAddr(0), o.size)
	if !ok {
		return c.stackFault(o)
	}
	size := c.stackSize()
	if !c.loadSeg(int(o.a), uint16(v)) {
		return c.fault(o)
	}
	c.setReg(offRSP, size, c.r[4]+uint64(o.size))
	if int(o.a) == segSS {
		c.setShadow(o)
	}
	return c.restart(o)
}

// restart goes on after a terminal through the run loop, because modes, translations or traps may have changed.
func (c *CPU) restart(o *op) *op {
	c.rip = o.in.next - c.codeBase()
	return nil
}

// loadFarPointer is LDS, LES, LSS, LFS and LGS.
func loadFarPointer(i int) execFn {
	return func(c *CPU, o *op) *op {
		va := c.ea(o)
		off, ok := c.loadN(va, o.size)
		if !ok {
			return c.fault(o)
		}
		sel, ok := c.load16(va + uint64(o.size))
		if !ok || !c.loadSeg(i, sel) {
			return c.fault(o)
		}
		c.setReg(o.b, o.size, off)
		return c.restart(o)
	}
}

// farTarget checks the code segment of a far jump or call to selector sel without a gate, or of a far return to privilege rpl. On failure the
// exception is pending.
func (c *CPU) farTarget(sel uint16, isReturn bool) (segDescriptor, bool) {
	fail := func(vec uint8, code uint32) (segDescriptor, bool) {
		if c.ev != evFault {
			c.post(exception{vec: vec, hasCode: true, code: code})
		}
		return segDescriptor{}, false
	}
	if sel&^3 == 0 {
		return fail(vecGP, 0)
	}
	d, ok := c.readDescriptor(sel)
	if !ok || !d.isCode() {
		return fail(vecGP, segCode(sel))
	}
	if c.efer&eferLMA != 0 && d.attr&attrL != 0 && d.attr&attrDB != 0 {
		return fail(vecGP, segCode(sel))
	}
	rpl := uint8(sel & 3)
	conforming := d.attr&attrDown != 0
	switch {
	case isReturn && (rpl < c.cpl || conforming && d.dpl() > rpl || !conforming && d.dpl() != rpl):
		return fail(vecGP, segCode(sel))
	case !isReturn && (conforming && d.dpl() > c.cpl || !conforming && (d.dpl() != c.cpl || rpl > c.cpl)):
		return fail(vecGP, segCode(sel))
	case !d.present():
		return fail(vecNP, segCode(sel))
	}
	if !isReturn {
		d.selector = sel&^3 | uint16(c.cpl)
	}
	return d, c.setAccessed(&d)
}

// setCode switches to a code segment and instruction pointer.
func (c *CPU) setCode(d segDescriptor, rip uint64) {
	c.setSeg(segCS, d)
	c.setCPL(uint8(d.selector & 3))
	c.rip = rip
	c.updateMode()
	c.segBases()
	if c.mode&mode64 == 0 {
		c.rip = uint64(uint32(rip))
	}
}

// farPointer reads the operand of a far jump or call.
func (c *CPU) farPointer(o *op) (off uint64, sel uint16, ok bool) {
	if o.in.form.immLen == immFar {
		return o.in.imm, uint16(o.in.imm2), true
	}
	va := c.ea(o)
	if off, ok = c.loadN(va, o.size); !ok {
		return 0, 0, false
	}
	sel, ok = c.load16(va + uint64(o.size))
	return off, sel, ok
}

func xJmpFar(c *CPU, o *op) *op {
	off, sel, ok := c.farPointer(o)
	if !ok {
		return c.fault(o)
	}
	d, ok := c.farTarget(sel, false)
	if !ok {
		return c.fault(o)
	}
	if !canonical(off) {
		return c.raiseGP(o)
	}
	c.setCode(d, off)
	return nil
}

func xCallFar(c *CPU, o *op) *op {
	off, sel, ok := c.farPointer(o)
	if !ok {
		return c.fault(o)
	}
	d, ok := c.farTarget(sel, false)
	if !ok {
		return c.fault(o)
	}
	if !canonical(off) {
		return c.raiseGP(o)
	}
	n := uint64(o.size)
	if !c.probeWrite(c.stackAddr(-n), n) || !c.probeWrite(c.stackAddr(-(n+n)), n) {
		return c.stackFault(o)
	}
	ret := o.in.next - c.codeBase()
	c.push(uint64(c.seg[segCS].Selector), o.size)
	c.push(ret, o.size)
	c.setCode(d, off)
	return nil
}

func xRetFar(c *CPU, o *op) *op {
	n := uint64(o.size)
	rip, ok := c.loadN(c.stackAddr(0), o.size)
	if !ok {
		return c.stackFault(o)
	}
	sel, ok := c.loadN(c.stackAddr(n), o.size)
	if !ok {
		return c.stackFault(o)
	}
	d, ok := c.farTarget(uint16(sel), true)
	if !ok {
		return c.fault(o)
	}
	if !canonical(rip) {
		return c.raiseGP(o)
	}
	if uint8(sel&3) == c.cpl {
		c.addSP(2*n + o.imm)
		c.setCode(d, rip)
		return nil
	}
	sp, ok := c.loadN(c.stackAddr(2*n+o.imm), o.size)
	if !ok {
		return c.stackFault(o)
	}
	ss, ok := c.loadN(c.stackAddr(3*n+o.imm), o.size)
	if !ok || !c.returnStack(uint16(ss), d) {
		return c.fault(o)
	}
	c.setCode(d, rip)
	c.setReg(offRSP, c.stackSize(), sp)
	c.addSP(o.imm)
	c.dropPrivilegedSegments()
	return nil
}

// returnStack loads SS for a return to code segment cs of another privilege.
func (c *CPU) returnStack(sel uint16, cs segDescriptor) bool {
	fail := func(vec uint8, code uint32) bool {
		if c.ev != evFault {
			c.post(exception{vec: vec, hasCode: true, code: code})
		}
		return false
	}
	rpl := uint8(cs.selector & 3)
	if sel&^3 == 0 {
		if cs.attr&attrL == 0 || rpl == 3 || uint8(sel&3) != rpl {
			return fail(vecGP, 0)
		}
		c.setSeg(segSS, nullSegment(sel))
		return true
	}
	d, ok := c.readDescriptor(sel)
	switch {
	case !ok || uint8(sel&3) != rpl || !d.isData() || d.attr&attrWritable == 0 || d.dpl() != rpl:
		return fail(vecGP, segCode(sel))
	case !d.present():
		return fail(vecSS, segCode(sel))
	}
	if !c.setAccessed(&d) {
		return false
	}
	c.setSeg(segSS, d)
	return true
}

// dropPrivilegedSegments nulls data segments that the new privilege may not use.
func (c *CPU) dropPrivilegedSegments() {
	for _, i := range []int{segES, segDS, segFS, segGS} {
		s := &c.seg[i]
		d := segDescriptor{attr: s.Attr}
		if s.Selector&^3 == 0 {
			s.Selector = 0 // without its RPL; the base stays
			continue
		}
		if (d.isData() || d.isCode() && d.attr&attrDown == 0) && d.dpl() < c.cpl {
			c.setSeg(i, nullSegment(0))
		}
	}
}

// xIret returns from an interrupt (SDM vol. 2A, IRET).
func xIret(c *CPU, o *op) *op {
	if c.flags&flagNT != 0 {
		return c.raiseGP(o)
	}
	n := uint64(o.size)
	var f [5]uint64
	long := c.mode&mode64 != 0
	for i := range f {
		if i == 3 && !long && uint8(f[1]&3) == c.cpl {
			break
		}
		v, ok := c.loadN(c.stackAddr(uint64(i)*n), o.size)
		if !ok {
			return c.stackFault(o)
		}
		f[i] = v
	}
	rip, sel, flags, sp, ss := f[0], uint16(f[1]), f[2], f[3], uint16(f[4])
	d, ok := c.farTarget(sel, true)
	if !ok {
		return c.fault(o)
	}
	if !canonical(rip) {
		return c.raiseGP(o)
	}
	outer := uint8(sel&3) != c.cpl
	if (outer || long) && !c.returnStack(ss, d) {
		return c.fault(o)
	}
	c.popFlags(flags, o.size, true)
	if !outer && !long {
		c.addSP(3 * n)
		c.setCode(d, rip)
		return nil
	}
	c.setCode(d, rip)
	c.setReg(offRSP, c.stackSize(), sp)
	if outer {
		c.dropPrivilegedSegments()
	}
	return nil
}

// popFlags writes RFLAGS as POPF and IRET do at the current privilege.
func (c *CPU) popFlags(v uint64, size uint8, iret bool) {
	mask := uint64(arithFlags | flagTF | flagDF | flagNT)
	if size >= 4 {
		mask |= flagAC | flagID
	}
	if iret && size >= 4 {
		mask |= flagRF
	}
	if c.cpl == 0 {
		mask |= flagIOPL
	}
	if uint64(c.cpl) <= c.flags&flagIOPL>>12 {
		mask |= flagIF
	}
	f := c.rflags()&^mask | v&mask
	// RF holds for one instruction only and matters to breakpoints alone. Without any it is not set at all: blocks do not clear it.
	if !iret || c.dr7&0xff == 0 {
		f &^= flagRF
	}
	c.setFlags(f)
}

// setFlags replaces RFLAGS.
func (c *CPU) setFlags(f uint64) {
	changed := c.flags ^ f
	c.flags = f&^arithFlags | flagR1
	c.setArith(f)
	if changed&flagAC != 0 {
		c.selectTLB()
	}
}

func xPushf(c *CPU, o *op) *op {
	return c.pushOp(o, c.rflags()&^(flagRF|flagVM))
}

func xPopf(c *CPU, o *op) *op {
	v, ok := c.pop(o.size)
	if !ok {
		return c.stackFault(o)
	}
	c.popFlags(v, o.size, false)
	return c.restart(o)
}

func xSldt(c *CPU, o *op) *op { return c.storeSelector(o, uint64(c.ldtr.Selector)) }
func xStr(c *CPU, o *op) *op  { return c.storeSelector(o, uint64(c.tr.Selector)) }

// storeSelector writes 16 bits to memory, or a zero-extended value to a register.
func (c *CPU) storeSelector(o *op, v uint64) *op {
	if o.in.mem {
		if !c.store16(c.ea(o), uint16(v)) {
			return c.fault(o)
		}
		return next(o)
	}
	c.setReg(o.a, o.size, v)
	return next(o)
}

func xSmsw(c *CPU, o *op) *op { return c.storeSelector(o, c.cr0) }

// selectorOperand reads the 16-bit r/m operand.
func (c *CPU) selectorOperand(o *op) (uint16, bool) {
	if o.in.mem {
		return c.load16(c.ea(o))
	}
	return *c.r16(o.a), true
}

func xLldt(c *CPU, o *op) *op { return c.loadSystemSegment(o, &c.ldtr, 2) }
func xLtr(c *CPU, o *op) *op  { return c.loadSystemSegment(o, &c.tr, 9) }

// loadSystemSegment is LLDT and LTR: want is the descriptor type, LDT or available TSS.
func (c *CPU) loadSystemSegment(o *op, to *vcpu.Segment, want uint8) *op {
	if c.cpl != 0 {
		return c.raiseGP(o)
	}
	sel, ok := c.selectorOperand(o)
	if !ok {
		return c.fault(o)
	}
	if sel&^3 == 0 {
		if want == 9 {
			return c.raiseGP(o)
		}
		*to = vcpu.Segment{Selector: sel, Unusable: true}
		return c.restart(o)
	}
	d, ok := c.readDescriptor(sel)
	if c.ev == evFault {
		return c.fault(o)
	}
	if !ok || sel&4 != 0 || !d.system() || d.typ() != want {
		return c.raiseCode(o, vecGP, segCode(sel))
	}
	if !d.present() {
		return c.raiseCode(o, vecNP, segCode(sel))
	}
	if want == 9 {
		v, ok := c.sysLoad(d.at+5, 1)
		if !ok || !c.sysStore(d.at+5, v|2, 1) {
			return c.fault(o)
		}
		d.attr |= 2
	}
	*to = vcpu.Segment{Base: d.base, Limit: d.limit, Selector: sel, Attr: d.attr}
	return c.restart(o)
}

// visible looks a selector up for LAR, LSL, VERR and VERW: it reports false if the instruction must clear ZF.
func (c *CPU) visible(sel uint16, types uint32) (segDescriptor, bool) {
	if sel&^3 == 0 {
		return segDescriptor{}, false
	}
	d, ok := c.readDescriptor(sel)
	if !ok {
		return d, false
	}
	if d.system() {
		if types>>d.typ()&1 == 0 {
			return d, false
		}
	} else if d.isCode() && d.attr&attrDown != 0 {
		return d, true
	}
	return d, d.dpl() >= c.cpl && d.dpl() >= uint8(sel&3)
}

// Descriptor types that LAR and LSL accept in IA-32e mode (SDM vol. 2A, tables for LAR and LSL).
const (
	larTypes = 1<<2 | 1<<9 | 1<<11 | 1<<12
	lslTypes = 1<<2 | 1<<9 | 1<<11
)

func xLar(c *CPU, o *op) *op {
	return c.inspect(o, larTypes, func(d segDescriptor) uint64 {
		v, _ := c.sysLoad(d.at+4, 4)
		return v & 0xffff00
	})
}

func xLsl(c *CPU, o *op) *op {
	return c.inspect(o, lslTypes, func(d segDescriptor) uint64 { return uint64(d.limit) })
}

func (c *CPU) inspect(o *op, types uint32, value func(segDescriptor) uint64) *op {
	sel, ok := c.selectorOperand(o)
	if !ok {
		return c.fault(o)
	}
	d, ok := c.visible(sel, types)
	if c.ev == evFault {
		return c.fault(o)
	}
	if ok {
		c.setReg(o.b, o.size, value(d))
	}
	c.setZF(ok)
	return next(o)
}

func xVerr(c *CPU, o *op) *op {
	return c.verify(o, func(d segDescriptor) bool { return !d.isCode() || d.attr&attrWritable != 0 })
}

func xVerw(c *CPU, o *op) *op {
	return c.verify(o, func(d segDescriptor) bool { return d.isData() && d.attr&attrWritable != 0 })
}

func (c *CPU) verify(o *op, good func(segDescriptor) bool) *op {
	sel, ok := c.selectorOperand(o)
	if !ok {
		return c.fault(o)
	}
	d, ok := c.visible(sel, 0)
	if c.ev == evFault {
		return c.fault(o)
	}
	c.setZF(ok && good(d))
	return next(o)
}

func xArpl(c *CPU, o *op) *op {
	o.size = 2
	a, ok := c.rmwLoad(o)
	if !ok {
		return c.fault(o)
	}
	b := c.getReg(o.b, 2)
	less := a&3 < b&3
	if less {
		a = a&^3 | b&3
	}
	c.storeRM(o, a)
	c.setZF(less)
	return next(o)
}
