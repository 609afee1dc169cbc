package soft

import "fmt"

// Exception vectors (SDM vol. 3A, table 6-1).
const (
	vecDE = 0
	vecDB = 1
	vecBP = 3
	vecOF = 4
	vecBR = 5
	vecUD = 6
	vecNM = 7
	vecDF = 8
	vecTS = 10
	vecNP = 11
	vecSS = 12
	vecGP = 13
	vecPF = 14
	vecMF = 16
	vecAC = 17
	vecXM = 19
)

// exception is one that is to be delivered.
type exception struct {
	vec          uint8
	hasCode      bool
	nonCanonical bool // a #GP that is #SS if the access was to the stack
	code         uint32
	dr6          uint64 // bits that #DB sets
}

// event is how an interrupt or exception came about, which decides on checks and on what is pushed.
type event uint8

const (
	eventFault    event = iota // rip is at the instruction
	eventTrap                  // rip is after it
	eventSoftware              // INT n, INT3, INTO: gate DPL is checked
	eventExternal
)

// post makes an exception the pending one.
func (c *CPU) post(e exception) {
	c.exc = e
	c.ev = evFault
}

// raise abandons instruction o with an exception without error code.
func (c *CPU) raise(o *op, vec uint8) *op {
	c.post(exception{vec: vec})
	return c.fault(o)
}

// raiseCode abandons instruction o with an exception with error code.
func (c *CPU) raiseCode(o *op, vec uint8, code uint32) *op {
	c.post(exception{vec: vec, hasCode: true, code: code})
	return c.fault(o)
}

func (c *CPU) raiseGP(o *op) *op { return c.raiseCode(o, vecGP, 0) }

func (c *CPU) raisePF(va uint64, code uint32) {
	c.cr2 = va
	c.post(exception{vec: vecPF, hasCode: true, code: code})
}

func (c *CPU) raiseNonCanonical() {
	c.post(exception{vec: vecGP, hasCode: true, nonCanonical: true})
}

func xUndefined(c *CPU, o *op) *op { return c.raise(o, vecUD) }
func xTooLong(c *CPU, o *op) *op   { return c.raiseGP(o) }
func xNM(c *CPU, o *op) *op        { return c.raise(o, vecNM) }

// fail stops the engine for a reason that is not the guest's architecture.
func (c *CPU) fail(why string) {
	c.failure = fmt.Sprintf("%s, at rip %#x", why, c.rip)
	c.ev = evStop
}

// deliverFault delivers the pending exception with rip at the faulting instruction.
func (c *CPU) deliverFault() {
	e := c.exc
	kind := eventFault
	if e.vec == vecDB {
		c.dr6 = c.dr6&^0xf | e.dr6
		c.dr7 &^= dr7GD
	}
	c.deliver(e, kind, c.rip)
}

// deliverTrap delivers #DB after an instruction.
func (c *CPU) deliverDebugTrap(dr6 uint64) {
	c.dr6 = c.dr6&^0xf | dr6
	c.deliver(exception{vec: vecDB}, eventTrap, c.rip)
}

// interrupt delivers an external interrupt.
func (c *CPU) interrupt(vector uint8) {
	c.ev = evNone
	c.deliver(exception{vec: vector}, eventExternal, c.rip)
}

// contributory says how an exception combines with one that is raised while it is delivered (SDM vol. 3A, table 6-4).
func contributory(vec uint8) bool {
	return vec == vecDE || vec >= vecTS && vec <= vecGP
}

// deliver calls the handler of an interrupt or exception, following nested exceptions up to the triple fault.
func (c *CPU) deliver(e exception, kind event, rip uint64) {
	c.shadowSet = false
	c.halted = false
	c.from = nil
	if c.livelocked() {
		return
	}
	for {
		if c.enterGate(e, kind, rip) {
			c.ev = evNone
			return
		}
		if c.ev != evFault {
			return
		}
		second := c.exc
		c.ev = evNone
		benign := kind == eventExternal || kind == eventSoftware
		switch {
		case e.vec == vecDF && !benign:
			c.shutdown = fmt.Sprintf("triple fault: exception %d while delivering a double fault at rip %#x", second.vec, rip)
			return
		case !benign && (contributory(e.vec) && contributory(second.vec) || e.vec == vecPF && (contributory(second.vec) || second.vec == vecPF)):
			e = exception{vec: vecDF, hasCode: true}
		default:
			e = second
		}
		kind = eventFault
		rip = c.rip
	}
}

// maxIdleEvents is how many exceptions in a row, with no instruction retired between them, are taken for a guest that will never go on. Before that, each
// idleSlice of them end the slice, so that Run sees a kick soon: a hostile guest may let an instruction retire just before the limit, again and again.
const (
	maxIdleEvents = 1 << 18
	idleSlice     = 1 << 12
)

// livelocked counts exceptions between retired instructions. A handler that faults before its first instruction, on a stack that does not run out, would
// keep the processor busy for ever without the work clock moving; nothing could stop it.
func (c *CPU) livelocked() bool {
	if now := c.icount(); now != c.idleAt {
		c.idleAt, c.idleEvents = now, 0
	}
	c.idleEvents++
	if c.idleEvents%idleSlice == 0 {
		c.endSlice()
	}
	if c.idleEvents > maxIdleEvents {
		c.fail("the guest takes exceptions without end and executes no instruction")
		return true
	}
	return false
}

// gate is an entry of the long-mode IDT.
type gate struct {
	selector uint16
	ist      uint8
	typ      uint8
	dpl      uint8
	present  bool
	offset   uint64
}

// readGate fetches and checks the gate of a vector.
func (c *CPU) readGate(e exception, kind event) (gate, bool) {
	code := uint32(e.vec)*8 + 2
	if kind != eventSoftware {
		code |= 1
	}
	at := uint64(e.vec) * 16
	if at+15 > uint64(c.idtr.Limit) {
		c.post(exception{vec: vecGP, hasCode: true, code: code})
		return gate{}, false
	}
	lo, ok := c.sysLoad(c.idtr.Base+at, 8)
	if !ok {
		return gate{}, false
	}
	hi, ok := c.sysLoad(c.idtr.Base+at+8, 8)
	if !ok {
		return gate{}, false
	}
	g := gate{selector: uint16(lo >> 16), ist: uint8(lo >> 32 & 7), typ: uint8(lo >> 40 & 0x1f), dpl: uint8(lo >> 45 & 3), present: lo>>47&1 != 0,
		offset: lo&0xffff | lo>>32&0xffff0000 | hi<<32}
	switch {
	case g.typ != 14 && g.typ != 15 || kind == eventSoftware && g.dpl < c.cpl:
		c.post(exception{vec: vecGP, hasCode: true, code: code})
		return g, false
	case !g.present:
		c.post(exception{vec: vecNP, hasCode: true, code: code})
		return g, false
	}
	return g, true
}

// enterGate delivers one event through the IDT (SDM vol. 3A, 6.14). On failure an exception is pending and nothing has changed.
func (c *CPU) enterGate(e exception, kind event, rip uint64) bool {
	if c.efer&eferLMA == 0 {
		c.shutdown = fmt.Sprintf("exception %d outside long mode at rip %#x", e.vec, rip)
		return false
	}
	g, ok := c.readGate(e, kind)
	if !ok {
		return false
	}
	ext := uint32(1)
	if kind == eventSoftware {
		ext = 0
	}
	cs, cpl, ok := c.gateCode(g, ext)
	if !ok {
		return false
	}
	sp, ok := c.gateStack(g, cpl, ext)
	if !ok {
		return false
	}
	flags := c.rflags()
	if kind == eventFault && (e.vec != vecDB || e.dr6&dr6BD != 0) { // but not for instruction breakpoints (SDM vol. 3B, 17.3.1.1)
		flags |= flagRF
	}
	frame := []uint64{uint64(c.seg[segSS].Selector), c.r[4], flags, uint64(c.seg[segCS].Selector), rip}
	if e.hasCode {
		frame = append(frame, uint64(e.code))
	}
	sp -= 8 * uint64(len(frame))
	if !c.pushFrame(sp, frame, cpl, ext) {
		return false
	}
	if cpl != c.cpl {
		c.setSeg(segSS, nullSegment(uint16(cpl)))
	}
	c.setSeg(segCS, cs)
	c.setCPL(cpl)
	c.r[4] = sp
	c.rip = g.offset
	c.flags &^= flagTF | flagNT | flagRF | flagVM
	if g.typ == 14 {
		c.flags &^= flagIF
	}
	c.updateMode()
	return true
}

// pushFrame writes the interrupt frame on the stack of privilege cpl.
func (c *CPU) pushFrame(sp uint64, frame []uint64, cpl uint8, ext uint32) bool {
	was := c.implicit
	oldSingle := c.single
	c.implicit = cpl != 3
	c.single = true
	defer func() { c.implicit, c.single = was, oldSingle }()
	n := uint64(len(frame)) * 8
	ok := c.probeWrite(sp, 8) && c.probeWrite(sp+n-8, 8)
	for i := len(frame) - 1; i >= 0 && ok; i-- {
		ok = c.storeSlow(sp+uint64(len(frame)-1-i)*8, frame[i], 8)
	}
	if !ok && c.exc.nonCanonical {
		c.exc.vec, c.exc.code = vecSS, ext
	}
	return ok
}

// gateCode loads the code segment of a gate and returns it with the privilege that the handler runs at.
func (c *CPU) gateCode(g gate, ext uint32) (segDescriptor, uint8, bool) {
	sel := g.selector
	bad := func(vec uint8) (segDescriptor, uint8, bool) {
		c.post(exception{vec: vec, hasCode: true, code: uint32(sel&^3) | ext})
		return segDescriptor{}, 0, false
	}
	if sel&^3 == 0 {
		c.post(exception{vec: vecGP, hasCode: true, code: ext})
		return segDescriptor{}, 0, false
	}
	d, ok := c.readDescriptor(sel)
	if !ok {
		if c.ev == evFault {
			return segDescriptor{}, 0, false
		}
		return bad(vecGP)
	}
	if !d.isCode() || d.dpl() > c.cpl || d.attr&attrL == 0 || d.attr&attrDB != 0 {
		return bad(vecGP)
	}
	if !d.present() {
		return bad(vecNP)
	}
	cpl := d.dpl()
	if d.attr&4 != 0 { // conforming
		cpl = c.cpl
	}
	d.selector = sel&^3 | uint16(cpl)
	return d, cpl, true
}

// gateStack chooses the stack of a handler: an IST entry, the TSS's stack of the new privilege, or the current one.
func (c *CPU) gateStack(g gate, cpl uint8, ext uint32) (uint64, bool) {
	var at uint64
	switch {
	case g.ist != 0:
		at = 0x24 + 8*uint64(g.ist-1)
	case cpl != c.cpl:
		at = 4 + 8*uint64(cpl)
	default:
		return c.r[4] &^ 15, true
	}
	if at+7 > uint64(c.tr.Limit) {
		c.post(exception{vec: vecTS, hasCode: true, code: uint32(c.tr.Selector&^3) | ext})
		return 0, false
	}
	sp, ok := c.sysLoad(c.tr.Base+at, 8)
	if !ok {
		return 0, false
	}
	if !canonical(sp) {
		c.post(exception{vec: vecSS, hasCode: true, code: ext})
		return 0, false
	}
	return sp &^ 15, true
}

// sysLoad and sysStore access system structures: as supervisor, whatever the privilege.

func (c *CPU) sysLoad(va, size uint64) (uint64, bool) {
	was, wasSingle := c.implicit, c.single
	c.implicit, c.single = true, true
	v, ok := c.loadSlow(va, size)
	c.implicit, c.single = was, wasSingle
	return v, ok
}

func (c *CPU) sysStore(va, v, size uint64) bool {
	was, wasSingle := c.implicit, c.single
	c.implicit, c.single = true, true
	ok := c.storeSlow(va, v, size)
	c.implicit, c.single = was, wasSingle
	return ok
}
