package fp

import "math/bits"

// monadic applies f to ST(0). NaNs and empty registers are dealt with here; f gets zero, finite or infinite operands.
func monadic(f func(x *X87, a num) rounded) execFunc {
	return func(x *X87, _ uint8, _ *Operands) {
		v := x.operand(0)
		switch {
		case v.empty:
			if x.stackUnderflow() {
				x.setST(0, indefinite().pack80())
			}
		case v.cls >= quietNaN:
			n, flags := nanX87(v.num, v.num)
			x.deliver(0, rounded{num: n, flags: flags})
		default:
			r := f(x, v.num)
			r.flags |= denormalFlag(v.num, v.num)
			if r.flags&IE != 0 {
				r.flags = IE
			}
			x.deliver(0, r)
		}
	}
}

func fsqrt(x *X87, a num) rounded {
	n, flags := sqrt(a)
	if flags != 0 {
		return rounded{num: n, flags: flags}
	}
	return x.round(n, x.precision())
}

func frndint(x *X87, a num) rounded {
	n, inexact, up := a.integral(x.rounding())
	r := rounded{num: n, up: up}
	if inexact {
		r.flags = PE
	}
	return r
}

// fxtract splits ST(0) into exponent (which replaces it) and significand (pushed).
func fxtract(x *X87, _ uint8, _ *Operands) {
	v := x.operand(0)
	if v.empty || x.Used>>x.phys(7)&1 != 0 {
		if x.stackFault(!v.empty) {
			ind := indefinite().pack80()
			x.setST(0, ind)
			x.setTop(x.top() - 1)
			x.setST(0, ind)
		}
		return
	}
	exponent, significand, flags := extract(v.num)
	if !x.settle(flags, false) {
		return
	}
	x.setST(0, exponent.pack80())
	x.setTop(x.top() - 1)
	x.setST(0, significand.pack80())
}

func extract(v num) (exponent, significand num, flags uint32) {
	switch {
	case v.cls >= quietNaN:
		n, flags := nanX87(v, v)
		return n, n, flags
	case v.cls == zero:
		return num{cls: infinite, neg: true}, v, ZE
	case v.cls == infinite:
		return num{cls: infinite}, v, 0
	}
	exponent = fromSigned(int64(v.exp))
	v.exp = 0
	return exponent, v, denormalFlag(v, v)
}

// fscale multiplies ST(0) by 2 to the integer part of ST(1).
func fscale(x *X87, _ uint8, _ *Operands) {
	a, b := x.operand(0), x.operand(1)
	if a.empty || b.empty {
		if x.stackUnderflow() {
			x.setST(0, indefinite().pack80())
		}
		return
	}
	x.deliver(0, x.scale(a.num, b.num))
}

func (x *X87) scale(a, b num) rounded {
	switch {
	case a.cls >= quietNaN || b.cls >= quietNaN:
		n, flags := nanX87(a, b)
		return rounded{num: n, flags: flags}
	case b.cls == infinite && (a.cls == zero && !b.neg || a.cls == infinite && b.neg):
		return rounded{num: indefinite(), flags: IE} // 0 × 2^inf, inf × 2^-inf
	case b.cls == infinite && a.cls == finite:
		n := num{cls: infinite, neg: a.neg}
		if b.neg {
			n.cls = zero
		}
		return rounded{num: n, flags: denormalFlag(a, a)}
	case a.cls != finite:
		return rounded{num: a, flags: denormalFlag(b, b)}
	}
	const far = 1 << 17 // farther than any exponent can go, even wrapped
	mag, _, _, huge := b.toInt(Zero)
	if huge || mag > far {
		mag = far
	}
	n := a
	n.exp += int32(mag)
	if b.neg {
		n.exp = a.exp - int32(mag)
	}
	r := x.roundScaled(n)
	r.flags |= denormalFlag(a, b)
	return r
}

// roundScaled rounds a result whose exponent may be so far out of range that even wrapping does not bring it back: then it is an infinity or zero.
func (x *X87) roundScaled(n num) rounded {
	r := x.round(n, binary80)
	switch {
	case r.cls == finite && r.exp > binary80.emax:
		r.cls, r.mant, r.flags, r.up = infinite, 0, r.flags|PE, true
	case r.cls == finite && r.exp < binary80.emin:
		r.cls, r.mant, r.flags, r.up = zero, 0, r.flags|PE, false
	}
	return r
}

// fprem is FPREM and, with nearest, FPREM1: the partial remainder of ST(0) by ST(1).
func fprem(nearest bool) execFunc {
	return func(x *X87, _ uint8, _ *Operands) {
		a, b := x.operand(0), x.operand(1)
		x.SW &^= C2
		if a.empty || b.empty {
			if x.stackUnderflow() {
				x.setST(0, indefinite().pack80())
			}
			return
		}
		r, quotient, partial := x.remainder(a.num, b.num, nearest)
		if !x.deliver(0, r) {
			return
		}
		if r.flags&IE != 0 || r.cls.isNaN() {
			return
		}
		x.SW &^= conditionBits
		if partial {
			x.SW |= C2
			return
		}
		x.SW |= uint16(quotient&1)*C1 | uint16(quotient>>1&1)*C3 | uint16(quotient>>2&1)*C0
	}
}

// remainder computes one step: complete if the exponents differ by less than 64, else it reduces the difference by 32 to 63.
func (x *X87) remainder(a, b num, nearest bool) (r rounded, quotient uint64, partial bool) {
	switch {
	case a.cls >= quietNaN || b.cls >= quietNaN:
		n, flags := nanX87(a, b)
		return rounded{num: n, flags: flags}, 0, false
	case a.cls == infinite || b.cls == zero:
		return rounded{num: indefinite(), flags: IE}, 0, false
	}
	flags := denormalFlag(a, b)
	d := a.exp - b.exp
	if a.cls == zero || b.cls == infinite || d < -1 || d < 0 && !nearest {
		r = x.round(a, binary80)
		r.flags |= flags
		return r, 0, false
	}
	steps := d
	if d >= 64 {
		steps, partial = d&31|32, true
	}
	rest, quotient := longDivide(a.mant, b.mant, steps)
	n := num{cls: finite, neg: a.neg, mant: rest, exp: a.exp - max(steps, 0)}
	if nearest && !partial {
		n, quotient = nearestRemainder(n, b, d, quotient)
	}
	if n.mant == 0 {
		return rounded{num: num{neg: a.neg}, flags: flags}, quotient, partial
	}
	r = x.round(n.normalised(), binary80)
	r.flags |= flags
	return r, quotient, partial
}

// longDivide divides a × 2^steps by b and returns the remainder and the quotient (its low 64 bits). With steps -1, a is below b and remains.
func longDivide(a, b uint64, steps int32) (rest, quotient uint64) {
	rest = a
	if steps >= 0 && rest >= b {
		rest, quotient = rest-b, 1
	}
	for range steps {
		carry := rest >> 63
		rest <<= 1
		quotient <<= 1
		if carry != 0 || rest >= b {
			rest -= b
			quotient |= 1
		}
	}
	return rest, quotient
}

// nearestRemainder turns a truncated remainder n (of exponent difference d ≥ -1) into the one of the nearest quotient, ties to even.
func nearestRemainder(n, b num, d int32, quotient uint64) (num, uint64) {
	divisor := b.mant // in units of n
	twice, carry := bits.Add64(n.mant, n.mant, 0)
	if d < 0 { // b is one binade above: compare n with b/2
		divisor, twice, carry = b.mant<<1, n.mant, 0
	}
	if carry == 0 && (twice < b.mant || twice == b.mant && quotient&1 == 0) {
		return n, quotient
	}
	n.neg = !n.neg
	n.mant = divisor - n.mant // modulo 2^64; below b/2
	return n, quotient + 1
}
