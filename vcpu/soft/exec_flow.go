package soft

// Control transfer and the stack. codeBase is the base of CS, which is zero in 64-bit mode: linear addresses are then instruction pointers.

func (c *CPU) codeBase() uint64 { return *c.r64(regCS) }

// fault abandons the instruction o, for the reason in c.ev, without having changed anything: its instructions are given back to the
// count, and rip is at it again.
func (c *CPU) fault(o *op) *op {
	c.left += int64(o.rest)
	c.rip = o.ip - c.codeBase()
	c.bounceSize = 0
	if c.exc.nonCanonical && c.ev == evFault {
		c.exc.nonCanonical = false
		if o.shift&opStackSeg != 0 {
			c.exc.vec = vecSS
		}
	}
	return nil
}

// stackFault is fault for an access through the stack pointer.
func (c *CPU) stackFault(o *op) *op {
	if c.exc.nonCanonical {
		c.exc.vec = vecSS
	}
	return c.fault(o)
}

// taken goes to the target of a direct branch.
func (c *CPU) taken(o *op) *op {
	if t := o.link; t != nil {
		if n := int64(t.rest); n <= c.left {
			c.left -= n
			return t
		}
	}
	return c.takenSlow(o)
}

func (c *CPU) takenSlow(o *op) *op {
	if c.single {
		return c.jump(o.in.target)
	}
	c.rip = o.in.target - c.codeBase()
	if o.link == nil {
		c.from, c.fromFall = o, false
	}
	return nil
}

// notTaken goes to the instruction after a terminal.
func (c *CPU) notTaken(o *op) *op {
	if t := o.fall; t != nil {
		if n := int64(t.rest); n <= c.left {
			c.left -= n
			return t
		}
	}
	return c.notTakenSlow(o)
}

func (c *CPU) notTakenSlow(o *op) *op {
	if c.single {
		return c.jump(o.in.next)
	}
	c.rip = o.in.next - c.codeBase()
	if o.fall == nil {
		c.from, c.fromFall = o, true
	}
	return nil
}

// xEnd ends a block that was cut; it is no instruction.
func xEnd(c *CPU, o *op) *op { return c.notTaken(o) }

// xCountBranch counts the conditional branch that follows it in the block, on ClockBranches.
func xCountBranch(c *CPU, o *op) *op {
	c.branches++
	if c.branches >= c.brStop {
		c.endSlice()
	}
	return next(o)
}

func xJmp(c *CPU, o *op) *op { return c.taken(o) }

// trunc cuts an instruction pointer to the operand size and adds the code base.
func (c *CPU) linear(ip uint64, size uint8) uint64 {
	if c.mode&mode64 == 0 {
		ip &= sizeMask(size)
	}
	return ip + c.codeBase()
}

func xJmpInd(c *CPU, o *op) *op {
	t, ok := c.loadRM(o)
	if !ok {
		return c.fault(o)
	}
	if !canonical(t) {
		return c.raiseGP(o)
	}
	return c.jump(c.linear(t, o.size))
}

func xCallNarrow(c *CPU, o *op) *op {
	if !c.push(o.in.next-c.codeBase(), o.size) {
		return c.stackFault(o)
	}
	return c.taken(o)
}

func xCallInd(c *CPU, o *op) *op {
	t, ok := c.loadRM(o)
	if !ok {
		return c.fault(o)
	}
	if !canonical(t) {
		return c.raiseGP(o)
	}
	if !c.push(o.in.next-c.codeBase(), o.size) {
		return c.stackFault(o)
	}
	return c.jump(c.linear(t, o.size))
}

func xRetImm(c *CPU, o *op) *op {
	t, ok := c.loadN(c.stackAddr(0), o.size)
	if !ok {
		return c.stackFault(o)
	}
	if !canonical(t) {
		return c.raiseGP(o)
	}
	c.addSP(uint64(o.size) + o.imm)
	return c.jump(c.linear(t, o.size))
}

func xJrcxz(c *CPU, o *op) *op {
	if c.r[1]&sizeMask(o.in.asize) == 0 {
		return c.taken(o)
	}
	return c.notTaken(o)
}

var loopExecs = map[string]execFn{
	"JRCXZ":  xJrcxz,
	"LOOP":   func(c *CPU, o *op) *op { return c.loop(o, true) },
	"LOOPE":  func(c *CPU, o *op) *op { return c.loop(o, c.zf()) },
	"LOOPNE": func(c *CPU, o *op) *op { return c.loop(o, !c.zf()) },
}

func (c *CPU) loop(o *op, also bool) *op {
	n := (c.r[1] - 1) & sizeMask(o.in.asize)
	c.setReg(offRCX, o.in.asize, n)
	if n != 0 && also {
		return c.taken(o)
	}
	return c.notTaken(o)
}

// stackSize is the width of the stack pointer: 8 in 64-bit mode, else as SS.B says.
func (c *CPU) stackSize() uint8 {
	switch {
	case c.mode&mode64 != 0:
		return 8
	case c.seg[segSS].Attr&attrDB != 0:
		return 4
	}
	return 2
}

// stackAddr is the linear address of the top of the stack moved by d.
func (c *CPU) stackAddr(d uint64) uint64 {
	size := c.stackSize()
	if size == 8 {
		return c.r[4] + d
	}
	return uint64(uint32((c.r[4]+d)&sizeMask(size) + *c.r64(regSS)))
}

// addSP moves the stack pointer.
func (c *CPU) addSP(d uint64) {
	size := c.stackSize()
	if size == 2 {
		*c.r16(offRSP) += uint16(d)
		return
	}
	c.setReg(offRSP, size, c.r[4]+d)
}

// push and pop move one value; on failure the stack pointer is unchanged.
func (c *CPU) push(v uint64, size uint8) bool {
	if !c.storeN(c.stackAddr(-uint64(size)), size, v) {
		return false
	}
	c.addSP(-uint64(size))
	return true
}

func (c *CPU) pop(size uint8) (uint64, bool) {
	v, ok := c.loadN(c.stackAddr(0), size)
	if ok {
		c.addSP(uint64(size))
	}
	return v, ok
}

func (c *CPU) pushOp(o *op, v uint64) *op {
	if !c.push(v, o.size) {
		return c.stackFault(o)
	}
	return next(o)
}

func xPushReg(c *CPU, o *op) *op { return c.pushOp(o, c.getReg(o.a, o.size)) }
func xPushImm(c *CPU, o *op) *op { return c.pushOp(o, o.imm) }

func xPushMem(c *CPU, o *op) *op {
	v, ok := c.loadRM(o)
	if !ok {
		return c.fault(o)
	}
	return c.pushOp(o, v)
}

func xPushSeg(c *CPU, o *op) *op { return c.pushOp(o, uint64(c.seg[o.a].Selector)) }

func xPopReg(c *CPU, o *op) *op {
	v, ok := c.pop(o.size)
	if !ok {
		return c.stackFault(o)
	}
	c.setReg(o.a, o.size, v)
	return next(o)
}

func xPopMem(c *CPU, o *op) *op {
	v, ok := c.loadN(c.stackAddr(0), o.size)
	if !ok {
		return c.stackFault(o)
	}
	if !c.storeN(c.ea(o), o.size, v) {
		return c.fault(o)
	}
	c.addSP(uint64(o.size))
	return next(o)
}

func xLeave(c *CPU, o *op) *op {
	size := c.stackSize()
	bp := c.r[5] & sizeMask(size)
	va := bp
	if size != 8 {
		va = uint64(uint32(bp + *c.r64(regSS)))
	}
	v, ok := c.loadN(va, o.size)
	if !ok {
		return c.stackFault(o)
	}
	c.setReg(offRSP, size, bp+uint64(o.size))
	c.setReg(offRBP, o.size, v)
	return next(o)
}

// xEnter creates a stack frame (SDM vol. 2A, ENTER). All accesses, and the write to the new top of the stack that the manual wants checked, are
// probed first, so that a fault leaves nothing behind.
func xEnter(c *CPU, o *op) *op {
	level := o.in.imm2 & 31
	size := uint64(o.size)
	ss := c.stackSize()
	base := uint64(0)
	if ss != 8 {
		base = *c.r64(regSS)
	}
	depth := size
	if level > 0 {
		depth = size * (level + 1)
	}
	for d := size; d <= depth; d += size {
		if !c.probeWrite(c.stackAddr(-d), size) {
			return c.stackFault(o)
		}
	}
	link := func(i uint64) (uint64, bool) { return c.loadN((c.r[5]-i*size)&sizeMask(ss)+base, o.size) }
	for i := uint64(1); i < level; i++ {
		if _, ok := link(i); !ok {
			return c.stackFault(o)
		}
	}
	if !c.probeWrite(c.stackAddr(-depth-o.imm), size) {
		return c.stackFault(o)
	}
	c.push(c.r[5], o.size)
	frame := c.r[4]
	for i := uint64(1); i < level; i++ {
		v, _ := link(i) // read only now: the pushes may overlap the old frame
		c.push(v, o.size)
	}
	if level > 0 {
		c.push(frame, o.size)
	}
	c.setReg(offRBP, min(o.size, ss), frame)
	c.addSP(-o.imm)
	return next(o)
}

func xPusha(c *CPU, o *op) *op {
	size := uint64(o.size)
	for d := size; d <= 8*size; d += size {
		if !c.probeWrite(c.stackAddr(-d), size) {
			return c.stackFault(o)
		}
	}
	sp := c.r[4]
	for i := range c.r[:8] {
		v := c.r[i]
		if i == 4 {
			v = sp
		}
		c.push(v, o.size)
	}
	return next(o)
}

func xPopa(c *CPU, o *op) *op {
	var v [8]uint64
	for i := range v {
		x, ok := c.loadN(c.stackAddr(uint64(i)*uint64(o.size)), o.size)
		if !ok {
			return c.stackFault(o)
		}
		v[7-i] = x
	}
	for i := range v {
		if i != 4 {
			c.setReg(uint8(i)*8, o.size, v[i])
		}
	}
	c.addSP(8 * uint64(o.size))
	return next(o)
}
