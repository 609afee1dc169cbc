package soft

// String instructions (SDM vol. 1, 7.3.9). Each iteration of a repeated one counts as an instruction. Repeated ones end their block, so
// that the count can stop between iterations: rip then stays at the instruction.

// stringOp describes a string instruction: step does one iteration; bulk, if there is one, does up to n at once where that is simple.
type stringOp struct {
	step  func(c *CPU, o *op) bool
	bulk  func(c *CPU, o *op, n uint64) uint64
	flags bool // REPE and REPNE look at ZF
}

var stringOps = map[string]stringOp{
	"MOVS": {step: stepMovs, bulk: bulkMovs},
	"STOS": {step: stepStos, bulk: bulkStos},
	"LODS": {step: stepLods},
	"CMPS": {step: stepCmps, flags: true},
	"SCAS": {step: stepScas, flags: true},
	"INS":  {step: nil},
	"OUTS": {step: nil},
}

func lowerString(s stringOp) lowerFn {
	once := func(c *CPU, o *op) *op {
		if !s.step(c, o) {
			return c.fault(o)
		}
		return next(o)
	}
	repeated := func(c *CPU, o *op) *op { return c.repeat(o, s) }
	return func(l *lowerer, in *inst) {
		name := in.form.Mnemonic
		switch {
		case name == "INS" || name == "OUTS":
			in.osize = min(in.osize, 4)
			l.terminal(in, map[string]execFn{"INS": xIns, "OUTS": xOuts}[name])
		case in.rep != 0:
			l.terminal(in, repeated)
		default:
			l.full(in, once)
		}
	}
}

// repeat runs a repeated string instruction.
func (c *CPU) repeat(o *op, s stringOp) *op {
	asize := o.in.asize
	n := c.r[1] & sizeMask(asize)
	if n == 0 {
		return c.notTaken(o)
	}
	charged := true // the block's charge covers one iteration
	c.ownWrite = false
	for {
		if !charged {
			if c.left <= 0 {
				return c.pause(o)
			}
			c.left--
		}
		charged = false
		done := uint64(0)
		if s.bulk != nil && !c.single {
			done = s.bulk(c, o, min(n, uint64(c.left)+1))
		}
		if done > 0 {
			c.left -= int64(done) - 1
		} else {
			if !s.step(c, o) {
				return c.fault(o)
			}
			done = 1
		}
		n -= done
		c.setReg(offRCX, asize, n)
		if n == 0 || s.flags && c.zf() != (o.in.rep == 0xf3) {
			return c.notTaken(o)
		}
		if c.single && (c.stepping() || len(c.mmio.writes) > 0 || c.ownWrite) {
			return c.pause(o)
		}
	}
}

// pause leaves a repeated instruction between two iterations.
func (c *CPU) pause(o *op) *op {
	c.rip = o.ip - c.codeBase()
	return nil
}

// stringAddr is the linear address of a string operand.
func (c *CPU) stringAddr(o *op, off uint64, seg uint8) uint64 {
	switch {
	case seg >= segFS:
		off += c.r[regFS/8+int(seg-segFS)]
	case c.mode&mode64 == 0:
		off += c.r[regES/8+int(seg)]
	}
	if c.mode&mode64 == 0 {
		off = uint64(uint32(off))
	}
	return off
}

// source and dest are the linear addresses of DS:rSI and ES:rDI.
func (c *CPU) source(o *op) uint64 {
	return c.stringAddr(o, c.r[6]&sizeMask(o.in.asize), o.in.seg)
}

func (c *CPU) dest(o *op) uint64 {
	return c.stringAddr(o, c.r[7]&sizeMask(o.in.asize), segES)
}

// advance moves an index register by n elements in the direction of DF.
func (c *CPU) advance(o *op, off uint8, n uint64) {
	d := n * uint64(o.size)
	if c.flags&flagDF != 0 {
		d = -d
	}
	c.setReg(off, o.in.asize, *c.r64(off)+d)
}

func stepMovs(c *CPU, o *op) bool {
	v, ok := c.loadN(c.source(o), o.size)
	if !ok || !c.storeN(c.dest(o), o.size, v) {
		return false
	}
	c.advance(o, offRSI, 1)
	c.advance(o, offRDI, 1)
	return true
}

func stepStos(c *CPU, o *op) bool {
	if !c.storeN(c.dest(o), o.size, c.r[0]) {
		return false
	}
	c.advance(o, offRDI, 1)
	return true
}

func stepLods(c *CPU, o *op) bool {
	v, ok := c.loadN(c.source(o), o.size)
	if !ok {
		return false
	}
	c.setReg(offRAX, o.size, v)
	c.advance(o, offRSI, 1)
	return true
}

func stepCmps(c *CPU, o *op) bool {
	a, ok := c.loadN(c.source(o), o.size)
	if !ok {
		return false
	}
	b, ok := c.loadN(c.dest(o), o.size)
	if !ok {
		return false
	}
	c.subFlags(a, b, o.size)
	c.advance(o, offRSI, 1)
	c.advance(o, offRDI, 1)
	return true
}

func stepScas(c *CPU, o *op) bool {
	b, ok := c.loadN(c.dest(o), o.size)
	if !ok {
		return false
	}
	c.subFlags(c.getReg(offRAX, o.size), b, o.size)
	c.advance(o, offRDI, 1)
	return true
}

// elements is how many whole elements from va on lie in its page, at most n, or 0 if the simple case does not apply.
func (c *CPU) elements(o *op, va, n uint64) uint64 {
	if c.flags&flagDF != 0 || o.in.asize != 8 {
		return 0
	}
	return min(n, (pageSize-va&pageOff)/uint64(o.size))
}

// bulkMovs copies as much as lies in the current source and destination pages, if both are in the TLB and the copy does not feed on
// its own output.
func bulkMovs(c *CPU, o *op, n uint64) uint64 {
	src, dst := c.source(o), c.dest(o)
	n = c.elements(o, dst, c.elements(o, src, n))
	if n < 2 {
		return 0
	}
	size := int(n) * int(o.size)
	from, to := c.readable(src, size), c.writable(dst, size)
	if from == nil || to == nil || overlapForward(from, to) {
		return 0
	}
	copy(to, from)
	c.advance(o, offRSI, n)
	c.advance(o, offRDI, n)
	return n
}

// bulkStos fills as much as lies in the current page.
func bulkStos(c *CPU, o *op, n uint64) uint64 {
	dst := c.dest(o)
	n = c.elements(o, dst, n)
	if n < 2 {
		return 0
	}
	to := c.writable(dst, int(n)*int(o.size))
	if to == nil {
		return 0
	}
	size := int(o.size)
	for i := range size {
		to[i] = byte(c.r[0] >> (8 * i))
	}
	for done := size; done < len(to); done *= 2 {
		copy(to[done:], to[:done])
	}
	c.advance(o, offRDI, n)
	return n
}
