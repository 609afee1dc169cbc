package fp

import (
	"math"
	"math/bits"
)

// Exception flags, in the bit positions that MXCSR and the x87 status word share.
const (
	IE = 1 << iota // invalid operation
	DE             // denormal operand
	ZE             // division by zero
	OE             // overflow
	UE             // underflow
	PE             // precision (inexact)

	allFlags = IE | DE | ZE | OE | UE | PE
	// preFlags are found by looking at operands, before anything is computed (SDM vol. 1, 11.5.1).
	preFlags = IE | DE | ZE
)

// Rounding is a rounding mode in the encoding of MXCSR.RC and the x87 control word's RC.
type Rounding uint8

// The rounding modes (SDM vol. 1, table 4-8).
const (
	Nearest Rounding = iota // to nearest, ties to even
	Down                    // toward -infinity
	Up                      // toward +infinity
	Zero                    // toward zero
)

// class says what kind of value an operand is. Denormals are finite: they are normalised when unpacked.
type class uint8

const (
	zero class = iota
	finite
	infinite
	quietNaN
	signalNaN
	unsupported // an x87 encoding that is no number; see unpack80
)

func (c class) isNaN() bool { return c >= quietNaN }

// num is an unpacked number: for finite ones (-1)^neg × (mant.low)/2^63 × 2^exp, with bit 63 of mant set; low holds 64 more bits, the lowest of
// them sticky (set if anything below it was). For a NaN mant holds the significand, bit 63 set, left aligned.
type num struct {
	mant, low uint64
	exp       int32
	cls       class
	neg       bool
	denormal  bool
}

// format is a destination format: its precision in bits (with the integer bit) and the exponents of its smallest and largest normal numbers.
type format struct {
	prec       uint
	emin, emax int32
}

var (
	binary32 = format{24, -126, 127}
	binary64 = format{53, -1022, 1023}
	binary80 = format{64, -16382, 16383}
)

func unpack32(a uint32) num {
	n := num{neg: a>>31 != 0}
	frac, e := uint64(a)<<41>>1, int32(a>>23&0xff)
	n.unpack(frac, e, 0xff, 127)
	return n
}

func unpack64(a uint64) num {
	n := num{neg: a>>63 != 0}
	n.unpack(a<<12>>1, int32(a>>52&0x7ff), 0x7ff, 1023)
	return n
}

// unpack fills n from a fraction aligned below bit 63 and a biased exponent.
func (n *num) unpack(frac uint64, e, special, bias int32) {
	switch {
	case e == special && frac == 0:
		n.cls = infinite
	case e == special:
		n.mant, n.cls = frac|1<<63, quietNaN
		if frac>>62 == 0 {
			n.cls = signalNaN
		}
	case e != 0:
		n.mant, n.exp, n.cls = frac|1<<63, e-bias, finite
	case frac != 0:
		s := bits.LeadingZeros64(frac)
		n.mant, n.exp, n.cls, n.denormal = frac<<s, 1-bias-int32(s), finite, true
	}
}

// flushed returns n with a denormal replaced by a zero of its sign, if daz is set (MXCSR.DAZ).
func (n num) flushed(daz bool) num {
	if n.denormal && daz {
		return num{neg: n.neg}
	}
	return n
}

// quiet returns the NaN with its quiet bit set.
func (n num) quiet() num {
	n.mant |= 1 << 62
	n.cls = quietNaN
	return n
}

// indefinite is the QNaN that masked invalid operations give: negative, with only the quiet bit in its fraction.
func indefinite() num { return num{neg: true, mant: 3 << 62, cls: quietNaN} }

// shiftRightJam shifts mant:low right by d and keeps what falls off as the sticky bit.
func shiftRightJam(mant, low uint64, d uint32) (uint64, uint64) {
	switch {
	case d == 0:
		return mant, low
	case d < 64:
		l := low>>d | mant<<(64-d)
		return mant >> d, l | sticky(low<<(64-d))
	case d == 64:
		return 0, mant | sticky(low)
	case d < 128:
		return 0, mant>>(d-64) | sticky(low|mant<<(128-d))
	}
	return 0, sticky(mant | low)
}

func sticky(x uint64) uint64 {
	if x != 0 {
		return 1
	}
	return 0
}

// roundMant rounds mant:low to the prec leading bits of mant. It reports whether that was inexact, whether the magnitude grew, and whether
// it carried out of bit 63 (mant is then 1<<63 and the exponent must be incremented).
func roundMant(mant, low uint64, prec uint, neg bool, rc Rounding) (m uint64, inexact, up, carry bool) {
	drop := 64 - prec
	rest, tail := low, uint64(0)
	if drop > 0 {
		rest, tail = mant<<prec|low>>drop, low<<prec
		mant = mant >> drop << drop
	}
	if rest|tail == 0 {
		return mant, false, false, false
	}
	switch rc {
	case Nearest:
		const half = 1 << 63
		up = rest > half || rest == half && (tail != 0 || mant>>drop&1 != 0)
	case Down:
		up = neg
	case Up:
		up = !neg
	}
	if up {
		mant += 1 << drop
		if mant == 0 {
			return 1 << 63, true, true, true
		}
	}
	return mant, true, up, false
}

// rounded is a number rounded to a format, before it is packed: mant has its bit 63 clear only for denormals, whose exp is emin.
type rounded struct {
	num
	flags uint32
	up    bool // the last rounding increased the magnitude (the x87's C1)
}

// round rounds the finite or zero number n to f. A masked overflow or underflow gives the default result. On an unmasked one (its flag is set in
// unmasked) the exponent is wrapped by ±bias, as the x87 delivers it to a trap handler; SSE callers discard the result. ftz flushes tiny results to
// zero (MXCSR.FTZ with underflow masked). Tininess is detected after rounding (SDM vol. 1, 4.9.1.5).
func (n num) round(f format, rc Rounding, unmasked uint32, ftz bool, bias int32) rounded {
	if n.cls != finite {
		return rounded{num: n}
	}
	m, inexact, up, carry := roundMant(n.mant, n.low, f.prec, n.neg, rc)
	exp := n.exp
	if carry {
		exp++
	}
	r := rounded{num: n, up: up}
	r.mant, r.low, r.exp = m, 0, exp
	if inexact {
		r.flags = PE
	}
	switch {
	case exp > f.emax:
		r.overflow(f, rc, unmasked, bias)
	case exp < f.emin:
		r.underflow(n, f, rc, unmasked, ftz, bias)
	}
	return r
}

func (r *rounded) overflow(f format, rc Rounding, unmasked uint32, bias int32) {
	if unmasked&OE != 0 {
		r.flags |= OE
		r.exp -= bias
		return
	}
	r.flags |= OE | PE
	if rc == Nearest || rc == Up && !r.neg || rc == Down && r.neg {
		r.cls, r.mant, r.up = infinite, 0, true
		return
	}
	r.mant, r.exp, r.up = ^uint64(0)<<(64-f.prec), f.emax, false
}

func (r *rounded) underflow(n num, f format, rc Rounding, unmasked uint32, ftz bool, bias int32) {
	if unmasked&UE != 0 {
		r.flags |= UE
		r.exp += bias
		return
	}
	if ftz {
		r.num, r.flags, r.up = num{neg: n.neg}, UE|PE, false
		return
	}
	mant, low := shiftRightJam(n.mant, n.low, uint32(f.emin-n.exp))
	m, inexact, up, _ := roundMant(mant, low, f.prec, n.neg, rc)
	r.mant, r.exp, r.up, r.flags = m, f.emin, up, 0
	if inexact {
		r.flags = UE | PE
	}
	if m == 0 {
		r.cls = zero
	}
}

// pack32 packs a rounded number (or NaN) whose significand fits 24 bits.
func (n num) pack32() uint32 {
	s := uint32(0)
	if n.neg {
		s = 1 << 31
	}
	switch n.cls {
	case zero:
		return s
	case infinite:
		return s | 0xff<<23
	case finite:
		if n.mant>>63 == 0 {
			return s | uint32(n.mant>>40)
		}
		return s | uint32(n.exp+127)<<23 | uint32(n.mant<<1>>41)
	}
	return s | 0xff<<23 | uint32(n.mant<<1>>41)
}

// pack64 packs a rounded number (or NaN) whose significand fits 53 bits.
func (n num) pack64() uint64 {
	s := uint64(0)
	if n.neg {
		s = 1 << 63
	}
	switch n.cls {
	case zero:
		return s
	case infinite:
		return s | 0x7ff<<52
	case finite:
		if n.mant>>63 == 0 {
			return s | n.mant>>11
		}
		return s | uint64(n.exp+1023)<<52 | n.mant<<1>>12
	}
	return s | 0x7ff<<52 | n.mant<<1>>12
}

// The operations below take finite or special operands that are not NaN; they return the exact result (with a sticky bit) and IE or ZE.

func add(a, b num, rc Rounding) (num, uint32) {
	switch {
	case a.cls == infinite:
		if b.cls == infinite && a.neg != b.neg {
			return indefinite(), IE
		}
		return a, 0
	case b.cls == infinite:
		return b, 0
	case a.cls == zero && b.cls == zero:
		return num{neg: a.neg && b.neg || a.neg != b.neg && rc == Down}, 0
	case a.cls == zero:
		return b, 0
	case b.cls == zero:
		return a, 0
	}
	if a.exp < b.exp || a.exp == b.exp && a.mant < b.mant {
		a, b = b, a
	}
	mant, low := shiftRightJam(b.mant, b.low, uint32(a.exp-b.exp))
	if a.neg == b.neg {
		return addMagnitude(a, mant, low), 0
	}
	return subMagnitude(a, mant, low, rc), 0
}

func addMagnitude(a num, mant, low uint64) num {
	var carry uint64
	a.low, carry = bits.Add64(a.low, low, 0)
	a.mant, carry = bits.Add64(a.mant, mant, carry)
	if carry != 0 {
		a.mant, a.low = shiftRightJam(a.mant, a.low, 1)
		a.mant |= 1 << 63
		a.exp++
	}
	return a
}

func subMagnitude(a num, mant, low uint64, rc Rounding) num {
	var borrow uint64
	a.low, borrow = bits.Sub64(a.low, low, 0)
	a.mant, _ = bits.Sub64(a.mant, mant, borrow)
	if a.mant|a.low == 0 {
		return num{neg: rc == Down}
	}
	return a.normalised()
}

// normalised shifts a non-zero significand left until bit 63 is set.
func (n num) normalised() num {
	if n.mant == 0 {
		n.mant, n.low, n.exp = n.low, 0, n.exp-64
	}
	if s := uint(bits.LeadingZeros64(n.mant)); s > 0 {
		n.mant = n.mant<<s | n.low>>(64-s)
		n.low <<= s
		n.exp -= int32(s)
	}
	return n
}

func mul(a, b num) (num, uint32) {
	neg := a.neg != b.neg
	switch {
	case a.cls == infinite || b.cls == infinite:
		if a.cls == zero || b.cls == zero {
			return indefinite(), IE
		}
		return num{cls: infinite, neg: neg}, 0
	case a.cls == zero || b.cls == zero:
		return num{neg: neg}, 0
	}
	r := num{cls: finite, neg: neg, exp: a.exp + b.exp + 1}
	r.mant, r.low = bits.Mul64(a.mant, b.mant)
	if r.mant>>63 == 0 {
		r.mant, r.low, r.exp = r.mant<<1|r.low>>63, r.low<<1, r.exp-1
	}
	return r, 0
}

func div(a, b num) (num, uint32) {
	neg := a.neg != b.neg
	switch {
	case a.cls == b.cls && a.cls != finite: // 0/0, inf/inf
		return indefinite(), IE
	case a.cls == infinite:
		return num{cls: infinite, neg: neg}, 0
	case b.cls == zero:
		return num{cls: infinite, neg: neg}, ZE
	case a.cls == zero || b.cls == infinite:
		return num{neg: neg}, 0
	}
	r := num{cls: finite, neg: neg, exp: a.exp - b.exp}
	hi, lo := a.mant>>1, a.mant<<63
	if a.mant < b.mant {
		hi, lo = a.mant, 0
		r.exp--
	}
	var rem uint64
	r.mant, rem = bits.Div64(hi, lo, b.mant)
	r.low, rem = bits.Div64(rem, 0, b.mant)
	r.low |= sticky(rem)
	return r, 0
}

func sqrt(a num) (num, uint32) {
	switch {
	case a.cls == zero:
		return a, 0
	case a.neg:
		return indefinite(), IE
	case a.cls == infinite:
		return a, 0
	}
	hi, lo := a.mant>>1, a.mant<<63
	if a.exp&1 != 0 {
		hi, lo = a.mant, 0
	}
	root, rem := sqrt128(hi, lo)
	r := num{cls: finite, exp: a.exp >> 1, mant: root, low: rem}
	return r, 0
}

// sqrt128 returns the integer square root of hi:lo (hi ≥ 2^62) and its next 64 bits as far as rounding needs them: half and sticky.
// The floating-point square root is only a first guess; the remainder decides.
func sqrt128(hi, lo uint64) (root, below uint64) {
	guess := math.Sqrt(float64(hi)) * (1 << 32)
	root = ^uint64(0)
	if guess < 1<<64 && uint64(guess) > hi {
		root = uint64(guess)
	}
	if hi < root { // one Newton step: 52 good bits become all but the last
		q, _ := bits.Div64(hi, lo, root)
		sum, carry := bits.Add64(root, q, 0)
		root = sum>>1 | carry<<63
	}
	for {
		h, l := bits.Mul64(root, root)
		if h > hi || h == hi && l > lo {
			root--
			continue
		}
		l, borrow := bits.Sub64(lo, l, 0)
		h, _ = bits.Sub64(hi, h, borrow)
		switch {
		case h == 0 && l <= root: // below root + 1/2
			return root, sticky(l)
		case h < root>>63 || h == root>>63 && l <= root<<1: // below root + 1; never exactly half
			return root, 1<<63 | 1
		}
		root++
	}
}
