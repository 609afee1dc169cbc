package fp

import "math/bits"

// ordinary reports whether the control word is as nearly all programs have it: 64-bit precision, to nearest, everything masked.
func (x *X87) ordinary() bool { return x.CW&0xf3f == 0x33f }

// normal80 reports whether the number is normal.
func normal80(f Float80) bool { return f.Mant>>63 != 0 && (f.SE&0x7fff)-1 < 0x7ffe }

// ordinaryResult computes a op b, both normal, in the ordinary mode. ok is false if the result is not an ordinary number either; then the
// general code must compute it. up says that rounding increased the magnitude, inexact that there was something to round.
func (op arith) ordinaryResult(a, b Float80) (r Float80, inexact, up, ok bool) {
	var mant, low uint64
	var exp int32
	sign := (a.SE ^ b.SE) & 0x8000
	ea, eb := int32(a.SE&0x7fff), int32(b.SE&0x7fff)
	switch op {
	case opMul:
		mant, low = bits.Mul64(a.Mant, b.Mant)
		exp = ea + eb - 16383 + 1
		if mant>>63 == 0 {
			mant, low, exp = mant<<1|low>>63, low<<1, exp-1
		}
	case opDiv:
		mant, low, exp = divMantissas(a.Mant, b.Mant)
		exp += ea - eb + 16383
	default:
		if op == opSub {
			b.SE ^= 0x8000
		}
		if ea < eb || ea == eb && a.Mant < b.Mant {
			a, b, ea, eb = b, a, eb, ea
		}
		sign = a.SE & 0x8000
		mant, low, exp = addMantissas(a.Mant, b.Mant, ea, ea-eb, (a.SE^b.SE)&0x8000 != 0)
	}
	if low > 1<<63 || low == 1<<63 && mant&1 != 0 {
		up = true
		if mant++; mant == 0 {
			mant, exp = 1<<63, exp+1
		}
	}
	if mant>>63 == 0 || exp < 1 || exp > 0x7ffe {
		return r, false, false, false
	}
	return Float80{mant, uint16(exp) | sign}, low != 0, up, true
}

// divMantissas divides two significands; exp is -1 if the quotient is below 1.
func divMantissas(a, b uint64) (mant, low uint64, exp int32) {
	hi, lo := a>>1, a<<63
	if a < b {
		hi, lo, exp = a, 0, -1
	}
	mant, rem := bits.Div64(hi, lo, b)
	low, rem = bits.Div64(rem, 0, b)
	return mant, low | sticky(rem), exp
}

// addMantissas adds b × 2^-d to a, or subtracts it, a being the larger. A zero result has a clear bit 63.
func addMantissas(a, b uint64, exp, d int32, subtract bool) (mant, low uint64, e int32) {
	b, lowB := shiftRightJam(b, 0, uint32(d))
	if !subtract {
		mant, carry := bits.Add64(a, b, 0)
		if carry != 0 {
			return mant>>1 | 1<<63, mant<<63 | lowB>>1 | lowB&1, exp + 1
		}
		return mant, lowB, exp
	}
	low, borrow := bits.Sub64(0, lowB, 0)
	mant, _ = bits.Sub64(a, b, borrow)
	if mant == 0 {
		mant, low, exp = low, 0, exp-64
	}
	s := uint(bits.LeadingZeros64(mant))
	return mant<<s | low>>(64-s), low << s, exp - int32(s)
}

// tryOrdinary computes an operation on ordinary numbers and writes it to ST(dst). It reports whether it could.
func (x *X87) tryOrdinary(op arith, dst uint8, a, b Float80) bool {
	if !x.ordinary() || !normal80(a) || !normal80(b) {
		return false
	}
	r, inexact, up, ok := op.ordinaryResult(a, b)
	if !ok {
		return false
	}
	x.SW &^= C1
	if inexact {
		x.SW |= PE
		if up {
			x.SW |= C1
		}
	}
	x.R[x.phys(dst)] = r
	return true
}
