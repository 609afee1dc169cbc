package soft

import "math/bits"

// Lazy flags. An arithmetic instruction stores what its flags derive from in fa and fb and how they derive in fk; nothing is computed
// until somebody asks. Operands and results are kept sign-extended to 64 bits: that preserves equality and both orders, so that
// most conditions do not depend on the operand size.
//
//	kind   fa                      fb
//	fSub   minuend                 subtrahend                            (CMP, SUB, NEG)
//	fAdd   result                  first operand                         (ADD)
//	fRes   result (SF, ZF, PF)     CF, AF and OF in their RFLAGS places  (all others)
//	fAll   -                       all six flags in their RFLAGS places  (POPF, SAHF …)
//
// The low nibble of fk is the operand size in bytes.
const (
	fRes = 0 << 4
	fAdd = 1 << 4
	fSub = 2 << 4
	fAll = 3 << 4

	fSize = 0x0f
	fKind = 0xf0
)

// sext sign-extends the low size bytes of v.
func sext(v uint64, size uint8) uint64 {
	s := 64 - 8*uint(size)
	return uint64(int64(v<<(s&63)) >> (s & 63))
}

func b2u(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

func (c *CPU) setRes(res, rest uint64, size uint8) {
	c.fa, c.fb, c.fk = sext(res, size), rest, fRes|size
}

func (c *CPU) cf() bool {
	switch c.fk & fKind {
	case fSub:
		return c.fa < c.fb
	case fAdd:
		return c.fa < c.fb
	}
	return c.fb&flagCF != 0
}

// result is the sign-extended result that SF, ZF and PF come from; not for fAll.
func (c *CPU) result() uint64 {
	if c.fk&fKind == fSub {
		return sext(c.fa-c.fb, c.fk&fSize)
	}
	return c.fa
}

func (c *CPU) zf() bool {
	switch c.fk & fKind {
	case fSub:
		return c.fa == c.fb
	case fAll:
		return c.fb&flagZF != 0
	}
	return c.fa == 0
}

func (c *CPU) sf() bool {
	if c.fk&fKind == fAll {
		return c.fb&flagSF != 0
	}
	return int64(c.result()) < 0
}

func (c *CPU) of() bool {
	switch c.fk & fKind {
	case fSub:
		return (int64(c.fa) < int64(c.fb)) != (int64(c.result()) < 0)
	case fAdd:
		b := sext(c.fa-c.fb, c.fk&fSize)
		return int64((c.fa^c.fb)&(c.fa^b)) < 0
	}
	return c.fb&flagOF != 0
}

func (c *CPU) pf() bool {
	if c.fk&fKind == fAll {
		return c.fb&flagPF != 0
	}
	return bits.OnesCount8(uint8(c.result()))&1 == 0
}

func (c *CPU) af() bool {
	switch c.fk & fKind {
	case fSub, fAdd:
		return (c.fa^c.fb^(c.fa-c.fb))&0x10 != 0
	}
	return c.fb&flagAF != 0
}

// cond evaluates condition code cc (SDM vol. 1, appendix B).
func (c *CPU) cond(cc uint8) bool {
	if c.fk&fKind == fSub {
		switch cc {
		case 2:
			return c.fa < c.fb
		case 3:
			return c.fa >= c.fb
		case 4:
			return c.fa == c.fb
		case 5:
			return c.fa != c.fb
		case 6:
			return c.fa <= c.fb
		case 7:
			return c.fa > c.fb
		case 12:
			return int64(c.fa) < int64(c.fb)
		case 13:
			return int64(c.fa) >= int64(c.fb)
		case 14:
			return int64(c.fa) <= int64(c.fb)
		case 15:
			return int64(c.fa) > int64(c.fb)
		}
	}
	var v bool
	switch cc >> 1 {
	case 0:
		v = c.of()
	case 1:
		v = c.cf()
	case 2:
		v = c.zf()
	case 3:
		v = c.cf() || c.zf()
	case 4:
		v = c.sf()
	case 5:
		v = c.pf()
	case 6:
		v = c.sf() != c.of()
	default:
		v = c.zf() || c.sf() != c.of()
	}
	return v != (cc&1 != 0)
}

// arith materialises the six arithmetic flags.
func (c *CPU) arith() uint64 {
	if c.fk&fKind == fAll {
		return c.fb
	}
	f := b2u(c.cf()) | b2u(c.pf())<<2 | b2u(c.af())<<4 | b2u(c.zf())<<6 | b2u(c.sf())<<7 | b2u(c.of())<<11
	return f
}

// setArith replaces the six arithmetic flags.
func (c *CPU) setArith(f uint64) { c.fb, c.fk = f&arithFlags, fAll }

// rflags is RFLAGS in full.
func (c *CPU) rflags() uint64 { return c.flags&^arithFlags | c.arith() | flagR1 }

// carries turns the carry (or borrow) vector of an addition of the given size into CF, AF and OF.
func carries(cv uint64, size uint8) uint64 {
	top := 8*uint(size) - 1
	cf := cv >> (top & 63) & 1
	return cf | cv&8<<1 | (cf^cv>>((top-1)&63)&1)<<11
}

// adc computes a+b+cin and its CF, AF and OF.
func adc(a, b, cin uint64, size uint8) (res, rest uint64) {
	res = a + b + cin
	return res, carries(a&b|(a|b)&^res, size)
}

// sbb computes a-b-cin and its CF, AF and OF.
func sbb(a, b, cin uint64, size uint8) (res, rest uint64) {
	res = a - b - cin
	return res, carries(^a&b|(^a|b)&res, size)
}
