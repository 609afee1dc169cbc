package soft

import "math/bits"

//go:generate go run ./gen

// lowerFn turns a decoded instruction into ops.
type lowerFn func(l *lowerer, in *inst)

// attr is what the dead-flags pass must know about an op.
type attr uint8

const (
	attrOther attr = iota // may fault, or reads flags, or ends the block: flags before it are live
	attrPure              // does not touch flags and cannot fault
	attrKill              // replaces all arithmetic flags, reads none, cannot fault
	attrInc               // as attrKill, but keeps CF
)

// lowerer builds the ops of one block.
type lowerer struct {
	ops       []op
	attrs     []attr
	quiet     []execFn // the variant of each op that does not compute flags, or nil
	tags      []uint8  // what fusion needs to know of each op
	fusedAttr attr     // attribute of the fusion just found
	n         int      // instructions so far
	mode      uint16
	branches  bool // count conditional branches
	done      bool // a terminal was emitted
	scratch   bool
	store     *blockStore
	size      uint64
	second    *ramRange // of a crossing instruction
	secondPA  uint64
	ev        bool // fetching the second page faulted
}

// emit appends an op for instruction in.
func (l *lowerer) emit(in *inst, fn execFn) *op {
	l.ops = append(l.ops, op{fn: fn, ip: in.va, rest: uint16(l.n), base: regZero, index: regZero, size: in.osize})
	l.attrs = append(l.attrs, attrOther)
	l.quiet = append(l.quiet, nil)
	l.tags = append(l.tags, 0)
	return &l.ops[len(l.ops)-1]
}

// mark sets the attribute of the op emitted last, and its variant without flags.
func (l *lowerer) mark(a attr, quiet execFn) {
	l.attrs[len(l.attrs)-1] = a
	l.quiet[len(l.quiet)-1] = quiet
}

// full emits an op that keeps the decoded instruction and, if there is one, its memory operand.
func (l *lowerer) full(in *inst, fn execFn) *op {
	var o *op
	if in.mem {
		o = l.emitMem(in, fn)
	} else {
		o = l.emit(in, fn)
		o.a = in.regOff(in.rm)
	}
	o.b = in.regOff(in.reg)
	o.imm = in.imm
	o.in = l.keep(in)
	return o
}

// terminal emits a full op that ends the block.
func (l *lowerer) terminal(in *inst, fn execFn) *op {
	l.done = true
	return l.full(in, fn)
}

// keep returns a copy of in that lives as long as the block.
func (l *lowerer) keep(in *inst) *inst {
	if l.scratch {
		p := &l.store.scratchI[min(l.n, maxInsns)]
		*p = *in
		return p
	}
	return l.store.keepInst(in)
}

// emitMem emits an op with the memory operand of in, preceded by an address computation if the addressing of ops cannot express it.
func (l *lowerer) emitMem(in *inst, fn execFn) *op {
	base, index, shift, disp := in.base, in.index, in.shift, in.disp
	stack := uint8(0)
	if in.seg == segSS {
		stack = opStackSeg
	}
	seg := uint8(regZero)
	switch {
	case in.seg >= segFS:
		seg = regFS + (in.seg-segFS)*8
	case l.mode&mode64 == 0:
		seg = regES + in.seg*8
	}
	switch {
	case l.mode&mode64 == 0 || in.asize != 8:
		t := l.emit(in, xAddress)
		t.base, t.index, t.shift, t.disp, t.size, t.a = base, index, shift, disp, in.asize, seg
		t.b = uint8(l.mode & mode64)
		l.mark(attrPure, nil)
		base, index, shift, disp = regTmp, regZero, 0, 0
	case seg == regZero:
	case index == regZero:
		index, shift = seg, 0
	default:
		t := l.emit(in, xAddress)
		t.base, t.index, t.shift, t.size, t.a, t.b = base, index, shift, 8, regZero, mode64
		l.mark(attrPure, nil)
		base, index, shift = regTmp, seg, 0
	}
	o := l.emit(in, fn)
	o.base, o.index, o.shift, o.disp = base, index, shift|stack, disp
	return o
}

// xAddress computes an address into the temporary register: truncated to the address size, then moved by the segment base.
func xAddress(c *CPU, o *op) *op {
	v := c.ea(o)
	switch o.size {
	case 4:
		v = uint64(uint32(v))
	case 2:
		v = uint64(uint16(v))
	}
	v += *c.r64(o.a)
	if o.b == 0 {
		v = uint64(uint32(v))
	}
	*c.r64(regTmp) = v
	return next(o)
}

// log2 of an operand size, as an index of executor tables.
func log2(size uint8) int { return bits.TrailingZeros8(size) }

// finish completes the block: it makes sure that there is a terminal, drops dead flags, and turns instruction indices into counts.
func (l *lowerer) finish(next uint64, near bool) {
	if !l.done {
		in := inst{va: next, next: next, nearNx: near}
		o := l.emit(&in, xEnd)
		o.in = l.keep(&in)
	}
	live := true
	for i := len(l.ops) - 1; i >= 0; i-- {
		switch l.attrs[i] {
		case attrPure:
		case attrKill:
			if !live && l.quiet[i] != nil {
				l.ops[i].fn = l.quiet[i]
			}
			live = false
		case attrInc:
			if !live {
				l.ops[i].fn = l.quiet[i]
			} else {
				live = true
			}
		default:
			if !live && l.quiet[i] != nil {
				l.ops[i].fn = l.quiet[i]
			}
			live = true
		}
	}
	for i := range l.ops {
		l.ops[i].rest = uint16(l.n) - l.ops[i].rest
	}
}

// decodeBlock decodes at most limit instructions at va, which is at pa in ram. A scratch block is only good until the next
// scratch block. It returns nil after raising an exception. An instruction that crosses into the next page is a block of its own.
func (c *CPU) decodeBlock(va, pa uint64, ram *ramRange, limit int, scratch bool) *lowerer {
	s := &c.blocks
	l := &s.low
	*l = lowerer{ops: s.scratch[:0], attrs: s.attrs[:0], quiet: s.quiet[:0], tags: s.tags[:0], mode: c.mode, branches: c.branchClock, scratch: scratch, store: s}
	if !scratch {
		l.ops = s.room()
	}
	page := ram.host[(pa-ram.gpa)&pageMask:][:pageSize]
	csBase := c.codeBase()
	start := va
	var in inst
	for l.n < limit && !l.done {
		off := va & pageOff
		window := page[off:min(off+15, pageSize)]
		st := decode(&in, window, va, csBase, c.mode)
		if st == short && len(window) < 15 {
			if l.n > 0 {
				break
			}
			if st = c.decodeCrossing(l, &in, window, va, csBase); l.ev {
				return nil
			}
		}
		l.one(&in, st, va, len(window))
		va = in.next
		l.n++
		if va&pageOff == 0 || l.second != nil {
			break
		}
	}
	l.size = va - start
	l.finish(va, va>>pageBits == start>>pageBits)
	return l
}

// one lowers an instruction, or the exception that its bytes are. An undefined instruction is taken to depend on all n bytes up to the end of its page,
// so that changing any of them drops the block.
func (l *lowerer) one(in *inst, st decodeStatus, va uint64, n int) {
	if st == decoded {
		in.form.lower(l, in)
		return
	}
	fn := xUndefined
	if st == short {
		fn = xTooLong // longer than 15 bytes: #GP (SDM vol. 3A, 6.15)
	}
	if l.second != nil {
		n = 15
	}
	in.next = va + uint64(n)
	l.terminal(&inst{va: va, next: in.next, base: regZero, index: regZero}, fn)
}

// decodeCrossing decodes an instruction whose bytes go on in the next page. l.ev reports that fetching it faulted.
func (c *CPU) decodeCrossing(l *lowerer, in *inst, head []byte, va, csBase uint64) decodeStatus {
	pa, ram, ok := c.fetchPage((va + pageSize) & pageMask)
	if !ok {
		l.ev = true
		return short
	}
	if ram == nil {
		c.fail("execution outside RAM")
		l.ev = true
		return short
	}
	var buf [15]byte
	n := copy(buf[:], head)
	copy(buf[n:], ram.host[pa-ram.gpa:])
	l.second, l.secondPA = ram, pa
	return decode(in, buf[:], va, csBase, c.mode)
}
