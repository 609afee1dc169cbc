package fp

import (
	"encoding/binary"
	"math/bits"
)

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

var (
	loadAnyF32 = loadFloat(memF32)
	loadAnyF64 = loadFloat(memF64)
)

// loadF32 and loadF64 are FLD m32 and m64, with a short way for normal numbers.

func loadF32(x *X87, i uint8, o *Operands) {
	if a := binary.LittleEndian.Uint32(o.Mem[:]); normal32(a) {
		x.push(Float80{1<<63 | uint64(a)<<41>>1, uint16(a>>16)&0x8000 | (uint16(a>>23&0xff) + 16383 - 127)})
		return
	}
	loadAnyF32(x, i, o)
}

func loadF64(x *X87, i uint8, o *Operands) {
	if a := binary.LittleEndian.Uint64(o.Mem[:]); normal64(a) {
		x.push(Float80{1<<63 | a<<12>>1, uint16(a>>48)&0x8000 | (uint16(a>>52&0x7ff) + 16383 - 1023)})
		return
	}
	loadAnyF64(x, i, o)
}

// storeF64 is FST m64 and FSTP m64, with a short way for numbers that stay normal.
func storeF64(pop bool) execFunc {
	general := storeFloat(binary64, pop, putF64)
	return func(x *X87, i uint8, o *Operands) {
		v, used := x.ST(0)
		exp := int32(v.SE&0x7fff) - 16383
		if !used || v.Mant>>63 == 0 || exp <= binary64.emin || exp >= binary64.emax || x.unmasked() != 0 {
			general(x, i, o)
			return
		}
		m, inexact, up, carry := roundMant(v.Mant, 0, 53, v.SE>>15 != 0, x.rounding())
		if carry {
			exp++
		}
		binary.LittleEndian.PutUint64(o.Mem[:], uint64(v.SE>>15)<<63|uint64(exp+1023)<<52|m<<1>>12)
		x.setC1(up)
		if inexact {
			x.SW |= PE
		}
		if pop {
			x.pop()
		}
	}
}

// plain80 reports whether the number is normal or zero.
func plain80(f Float80) bool { return normal80(f) || f.Mant == 0 && f.SE&0x7fff == 0 }

// relateOrdinary compares ST(0) with ST(i) if both are in use and normal or zero.
func (x *X87) relateOrdinary(i uint8) (r relation, ok bool) {
	a, usedA := x.ST(0)
	b, usedB := x.ST(i)
	if !usedA || !usedB || !plain80(a) || !plain80(b) {
		return unordered, false
	}
	if a.Mant|b.Mant == 0 {
		return equal, true
	}
	na, nb := a.SE>>15 != 0, b.SE>>15 != 0
	ea, eb := a.SE&0x7fff, b.SE&0x7fff
	switch {
	case a.Mant == 0:
		return signRelation(!nb), true
	case b.Mant == 0 || na != nb:
		return signRelation(na), true
	case ea != eb:
		return signRelation(ea < eb != na), true
	case a.Mant != b.Mant:
		return signRelation(a.Mant < b.Mant != na), true
	}
	return equal, true
}
