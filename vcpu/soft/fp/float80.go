package fp

// unpack80 unpacks a double extended number. Formats that no x87 since the 387 produces or accepts (pseudo-NaN, pseudo-infinity, unnormal: a clear
// integer bit with a non-zero exponent) get the class unsupported; pseudo-denormals are denormals (SDM vol. 1, 8.2.2).
func unpack80(f Float80) num {
	n := num{neg: f.SE>>15 != 0, mant: f.Mant}
	e := int32(f.SE & 0x7fff)
	switch {
	case e == 0 && f.Mant == 0:
		return n
	case e == 0:
		n.exp, n.cls, n.denormal = -16382, finite, true
		return n.normalised()
	case f.Mant>>63 == 0:
		n.cls = unsupported
	case e != 0x7fff:
		n.exp, n.cls = e-16383, finite
	case f.Mant<<1 == 0:
		n.mant, n.cls = 0, infinite
	case f.Mant>>62&1 != 0:
		n.cls = quietNaN
	default:
		n.cls = signalNaN
	}
	return n
}

// pack80 packs a rounded number or a NaN.
func (n num) pack80() Float80 {
	f := Float80{Mant: n.mant}
	if n.neg {
		f.SE = 1 << 15
	}
	switch {
	case n.cls == zero:
		f.Mant = 0
	case n.cls == infinite:
		f.Mant = 1 << 63
		f.SE |= 0x7fff
	case n.cls != finite:
		f.SE |= 0x7fff
	case n.mant>>63 != 0:
		f.SE |= uint16(n.exp + 16383)
	}
	return f
}

// nanX87 returns the result of an x87 operation with a NaN or unsupported operand: a quiet NaN is preferred to a signalling one, then the
// larger significand, then the positive one (SDM vol. 1, table 4-7).
func nanX87(a, b num) (num, uint32) {
	if a.cls == unsupported || b.cls == unsupported {
		return indefinite(), IE
	}
	flags := uint32(0)
	if a.cls == signalNaN || b.cls == signalNaN {
		flags = IE
	}
	switch {
	case !b.cls.isNaN():
		return a.quiet(), flags
	case !a.cls.isNaN():
		return b.quiet(), flags
	case a.cls == signalNaN && b.cls == quietNaN:
		return b, flags
	case a.cls == quietNaN && b.cls == signalNaN:
		return a, flags
	case a.mant > b.mant || a.mant == b.mant && b.neg:
		return a.quiet(), flags
	}
	return b.quiet(), flags
}

// wrap is the exponent adjustment of results delivered with an unmasked overflow or underflow (SDM vol. 1, 8.5.4).
const wrap = 24576

// precision is the format selected by the control word's precision control.
func (x *X87) precision() format {
	f := binary80
	switch x.CW >> 8 & 3 {
	case 0:
		f.prec = 24
	case 2:
		f.prec = 53
	}
	return f
}

func (x *X87) rounding() Rounding { return Rounding(x.CW >> 10 & 3) }

func (x *X87) unmasked() uint32 { return uint32(^x.CW & allFlags) }

// round rounds a computed result to f under the control word.
func (x *X87) round(n num, f format) rounded {
	return n.round(f, x.rounding(), x.unmasked(), false, wrap)
}

// raise accumulates exception flags.
func (x *X87) raise(flags uint32) {
	x.SW |= uint16(flags)
	x.updateSummary()
}

func (x *X87) setC1(on bool) {
	x.SW &^= C1
	if on {
		x.SW |= C1
	}
}

// stackUnderflow raises the stack fault for an empty operand. It reports whether invalid operation is masked, so that the instruction
// continues with the indefinite value.
func (x *X87) stackUnderflow() bool { return x.stackFault(false) }

func (x *X87) stackFault(overflow bool) bool {
	x.setC1(overflow)
	x.raise(IE | StackFault)
	return x.CW&IE != 0
}

// settle raises the flags of an operation and reports whether its result is delivered: not if an exception found before computing is unmasked, in
// which case those found afterwards do not count. up goes to C1.
func (x *X87) settle(flags uint32, up bool) bool {
	x.setC1(false)
	if pre := flags & preFlags; pre&x.unmasked() != 0 {
		x.raise(pre)
		return false
	}
	x.setC1(up)
	x.raise(flags)
	return true
}

// deliver settles an operation and writes its result to ST(i).
func (x *X87) deliver(i uint8, r rounded) bool {
	if !x.settle(r.flags, r.up) {
		return false
	}
	x.setST(i, r.pack80())
	return true
}

// push decrements TOP and writes v there, unless that register is in use: then it is a stack overflow.
func (x *X87) push(v Float80) {
	p := (x.top() - 1) & 7
	if x.Used>>p&1 != 0 {
		if !x.stackFault(true) {
			return
		}
		v = indefinite().pack80()
	} else {
		x.setC1(false)
	}
	x.setTop(p)
	x.setST(0, v)
}

// operate computes a op b in extended range with the current precision.
func (op arith) operate(x *X87, a, b num) rounded {
	if a.cls >= quietNaN || b.cls >= quietNaN {
		n, flags := nanX87(a, b)
		return rounded{num: n, flags: flags}
	}
	n, flags := op.apply(a, b, x.rounding())
	if flags&(IE|ZE) != 0 { // these have priority over the denormal operand
		return rounded{num: n, flags: flags}
	}
	r := x.round(n, x.precision())
	r.flags |= denormalFlag(a, b)
	return r
}
