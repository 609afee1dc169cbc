package soft

import (
	"encoding/binary"

	"github.com/detvm/detvm/vcpu"
)

// Exits to the machine.
//
// IN, INS, RDMSR and WRMSR leave before they complete; finishExit completes them with the answer. OUT and OUTS are complete when they leave.
//
// Memory outside RAM may be touched by any instruction, at any point of it. An executor that meets it gives the instruction up as for a
// fault, with evSingle, and the run loop executes it again in a block of its own. There a write is queued and the instruction goes on; when
// it is done, the queue is returned, one exit at a time. A read is looked up in the answers that the machine has given for this
// instruction so far; if it is not there, the instruction is given up again and the read becomes an exit, after which the instruction is executed once more
// from the start with one answer more. Instructions change nothing before their last fault, so this is invisible, and each access reaches the machine
// exactly once, in order.

// mmioState is the progress of the instruction that accesses memory outside RAM.
type mmioState struct {
	answers []mmioAccess // reads of this instruction that have been answered
	next    int          // reads of this attempt so far
	writes  []mmioAccess
}

type mmioAccess struct {
	gpa, value uint64
	size       uint8
}

// pendKind is what an exit waits for.
type pendKind uint8

const (
	pendNone  pendKind = iota
	pendIn             // the value for a register
	pendIns            // the value for ES:rDI
	pendOut            // nothing
	pendHalt           // nothing
	pendRDMSR          // the value for EDX:EAX
	pendWRMSR          // whether it faults
	pendRead           // the value of a memory read
	pendQueue          // nothing: mmio.writes holds writes to report
)

// pendingExit is the exit being returned to, or answered by, the machine.
type pendingExit struct {
	kind  pendKind
	in    inst
	size  uint8
	addr  uint64
	value uint64
	exit  *vcpu.Exit
	data  [8]byte
}

// mmioLoad reads memory outside RAM, within one page.
func (c *CPU) mmioLoad(gpa, size uint64) (uint64, bool) {
	if !c.single {
		c.ev = evSingle
		return 0, false
	}
	m := &c.mmio
	if c.implicit {
		return ^uint64(0) >> (64 - 8*size), true // descriptor tables are not device registers
	}
	if size&(size-1) != 0 {
		return c.mmioSplitLoad(gpa, size)
	}
	if m.next < len(m.answers) {
		v := m.answers[m.next].value
		m.next++
		return v, true
	}
	c.pend = pendingExit{kind: pendRead, addr: gpa, size: uint8(size)}
	c.ev = evExit
	return 0, false
}

// mmioSplitLoad reads an odd number of bytes one by one.
func (c *CPU) mmioSplitLoad(gpa, size uint64) (uint64, bool) {
	var v uint64
	for i := range size {
		b, ok := c.mmioLoad(gpa+i, 1)
		if !ok {
			return 0, false
		}
		v |= b << (8 * i)
	}
	return v, true
}

// mmioStore queues a write to memory outside RAM. mayStore has made sure that the instruction is alone.
func (c *CPU) mmioStore(gpa, v, size uint64) {
	if c.implicit {
		return
	}
	if size&(size-1) != 0 {
		for i := range size {
			c.mmioStore(gpa+i, v>>(8*i)&0xff, 1)
		}
		return
	}
	c.mmio.writes = append(c.mmio.writes, mmioAccess{gpa: gpa, value: v, size: uint8(size)})
}

// returnExit fills the machine's exit from c.pend.
func (c *CPU) returnExit(exit *vcpu.Exit) {
	p := &c.pend
	p.exit = exit
	*exit = vcpu.Exit{PC: c.rip, Addr: p.addr, Size: p.size}
	binary.LittleEndian.PutUint64(p.data[:], p.value)
	switch p.kind {
	case pendIn, pendIns:
		exit.Reason = vcpu.ReasonIO
		p.data = [8]byte{}
	case pendOut:
		exit.Reason, exit.Write = vcpu.ReasonIO, true
	case pendHalt:
		exit.Reason = vcpu.ReasonHalt
	case pendRDMSR:
		exit.Reason = vcpu.ReasonRDMSR
		p.size = 8
	case pendWRMSR:
		exit.Reason = vcpu.ReasonWRMSR
		p.size = 8
	case pendRead:
		exit.Reason = vcpu.ReasonMMIO
	case pendQueue:
		w := c.mmio.writes[0]
		c.mmio.writes = append(c.mmio.writes[:0], c.mmio.writes[1:]...)
		exit.Reason, exit.Write, exit.Addr, exit.Size = vcpu.ReasonMMIO, true, w.gpa, w.size
		p.size = w.size
		binary.LittleEndian.PutUint64(p.data[:], w.value)
	}
	if p.kind != pendHalt {
		exit.Size = p.size
		exit.Data = p.data[:p.size]
	}
}

// nextQueuedExit returns the next write of an instruction that made several.
func (c *CPU) nextQueuedExit(exit *vcpu.Exit) bool {
	if len(c.mmio.writes) == 0 {
		return false
	}
	c.pend = pendingExit{kind: pendQueue}
	c.exits++
	c.returnExit(exit)
	return true
}

// finishExit completes the instruction of the last exit with the answer that is in it now.
func (c *CPU) finishExit() {
	p := &c.pend
	kind := p.kind
	p.kind = pendNone
	var v uint64
	if p.exit != nil {
		var b [8]byte
		copy(b[:p.size], p.exit.Data)
		v = binary.LittleEndian.Uint64(b[:])
	}
	switch kind {
	case pendIn:
		c.setReg(offRAX, p.size, v)
		c.retire()
	case pendIns:
		c.finishIns(v)
	case pendRDMSR:
		if p.exit.Fault {
			c.gpAtRIP()
			return
		}
		c.r[0], c.r[2] = uint64(uint32(v)), v>>32
		c.retire()
	case pendWRMSR:
		if p.exit.Fault {
			c.gpAtRIP()
			return
		}
		c.retire()
	case pendRead:
		c.mmio.answers = append(c.mmio.answers, mmioAccess{gpa: p.addr, value: v, size: p.size})
		c.resumeMMIO()
	case pendOut, pendHalt:
		c.endTrap()
	}
}

// resumeMMIO executes the instruction at rip again with the answers so far. If it needs another one, the next Run returns it.
func (c *CPU) resumeMMIO() {
	c.mmio.next = 0
	c.sliceEnd, c.left = c.icount()+1, 1
	c.step()
	if c.ev == evExit {
		return // another read: Run reports it
	}
	c.trapAfter = false
	c.mmio.answers, c.mmio.next = c.mmio.answers[:0], 0
	c.endSlice()
}

// retire ends the instruction that was waiting for an answer.
func (c *CPU) retire() {
	c.rip = c.pend.in.next - c.codeBase()
	c.sliceEnd++
	c.endTrap()
}

// endTrap delivers the single-step trap of an instruction that waited for an answer.
func (c *CPU) endTrap() {
	if c.trapAfter {
		c.trapAfter = false
		c.deliverDebugTrap(dr6BS)
	}
}

// gpAtRIP makes the waiting instruction fault.
func (c *CPU) gpAtRIP() {
	c.trapAfter = false
	c.exc = exception{vec: vecGP, hasCode: true}
	c.deliverFault()
}

// ioAllowed checks IOPL and the I/O permission bitmap (SDM vol. 1, 19.5). On refusal or fault an exception is pending.
func (c *CPU) ioAllowed(port uint64, size uint8) bool {
	if uint64(c.cpl) <= c.flags&flagIOPL>>12 {
		return true
	}
	deny := func() bool {
		if c.ev != evFault {
			c.post(exception{vec: vecGP, hasCode: true})
		}
		return false
	}
	if c.tr.Unusable || c.tr.Limit < 0x67 {
		return deny()
	}
	base, ok := c.sysLoad(c.tr.Base+0x66, 2)
	if !ok {
		return deny()
	}
	at := base + port/8
	if at+1 > uint64(c.tr.Limit) {
		return deny()
	}
	bits, ok := c.sysLoad(c.tr.Base+at, 2)
	if !ok || bits>>(port&7)&(1<<size-1) != 0 {
		return deny()
	}
	return true
}

// port is the port operand of IN and OUT, whose operand names it is given.
func (c *CPU) port(o *op, operand string) uint64 {
	if operand == "DX" {
		return c.r[2] & 0xffff
	}
	return o.imm & 0xff
}

func xIn(c *CPU, o *op) *op {
	size := min(o.size, 4)
	port := c.port(o, o.in.form.Operands[1])
	if !c.ioAllowed(port, size) {
		return c.fault(o)
	}
	c.pend = pendingExit{kind: pendIn, in: *o.in, size: size, addr: port}
	c.ev = evExit
	return c.fault(o)
}

func xOut(c *CPU, o *op) *op {
	size := min(o.size, 4)
	port := c.port(o, o.in.form.Operands[0])
	if !c.ioAllowed(port, size) {
		return c.fault(o)
	}
	c.pend = pendingExit{kind: pendOut, size: size, addr: port, value: c.getReg(offRAX, size)}
	c.ev = evExit
	return c.restart(o)
}

// repDone reports that a repeated INS or OUTS has nothing to do.
func (c *CPU) repDone(o *op) bool { return o.in.rep != 0 && c.r[1]&sizeMask(o.in.asize) == 0 }

// repNext counts an iteration of INS or OUTS and returns the address where execution goes on.
func (c *CPU) repNext(in *inst) uint64 {
	if in.rep == 0 {
		return in.next
	}
	n := (c.r[1] - 1) & sizeMask(in.asize)
	c.setReg(offRCX, in.asize, n)
	if n == 0 {
		return in.next
	}
	return in.va
}

func xOuts(c *CPU, o *op) *op {
	if c.repDone(o) {
		return c.notTaken(o)
	}
	port := c.r[2] & 0xffff
	if !c.ioAllowed(port, o.size) {
		return c.fault(o)
	}
	v, ok := c.loadN(c.source(o), o.size)
	if !ok {
		return c.fault(o)
	}
	c.advance(o, offRSI, 1)
	c.pend = pendingExit{kind: pendOut, size: o.size, addr: port, value: v}
	c.ev = evExit
	c.rip = c.repNext(o.in) - c.codeBase()
	return nil
}

func xIns(c *CPU, o *op) *op {
	if c.repDone(o) {
		return c.notTaken(o)
	}
	port := c.r[2] & 0xffff
	if !c.ioAllowed(port, o.size) {
		return c.fault(o)
	}
	was := c.single
	c.single = true // the store happens between instructions
	ok := c.probeWrite(c.dest(o), uint64(o.size))
	c.single = was
	if !ok {
		return c.fault(o)
	}
	c.pend = pendingExit{kind: pendIns, in: *o.in, size: o.size, addr: port}
	c.ev = evExit
	return c.fault(o)
}

// finishIns stores what the machine answered. The page was writable when the instruction left, and nothing has run since.
func (c *CPU) finishIns(v uint64) {
	in := &c.pend.in
	o := op{in: in, size: in.osize}
	c.single = true
	ok := c.storeN(c.dest(&o), o.size, v)
	c.single = false
	if !ok {
		c.deliverFault()
		return
	}
	c.advance(&o, offRDI, 1)
	c.rip = c.repNext(in) - c.codeBase()
	c.sliceEnd++
	c.endTrap()
}

// exitMSR leaves for an MSR that the machine answers.
func (c *CPU) exitMSR(o *op, r vcpu.Reason, n uint32) *op {
	kind := pendRDMSR
	if r == vcpu.ReasonWRMSR {
		kind = pendWRMSR
	}
	c.pend = pendingExit{kind: kind, in: *o.in, addr: uint64(n), value: uint64(uint32(c.r[0])) | c.r[2]<<32, size: 8}
	c.ev = evExit
	return c.fault(o)
}

func xHlt(c *CPU, o *op) *op {
	if c.cpl != 0 {
		return c.raiseGP(o)
	}
	c.halted = true
	c.pend = pendingExit{kind: pendHalt}
	c.ev = evExit
	return c.restart(o)
}
