package fp

import "math/bits"

// wide is a floating-point number with a 192-bit significand, for the x87's transcendental functions: (-1)^neg × m/2^191 × 2^exp, most significant
// word first, bit 63 of m[0] set unless the number is zero. Operations truncate, so that each adds an error below 2^-189 relative.
type wide struct {
	m   [3]uint64
	exp int32
	neg bool
}

// wideBits is the precision that series are summed to.
const wideBits = 192

func (w wide) isZero() bool { return w.m[0] == 0 }

// widen converts a finite number or zero, exactly.
func widen(n num) wide {
	if n.cls == zero {
		return wide{}
	}
	return wide{m: [3]uint64{n.mant, n.low}, exp: n.exp, neg: n.neg}
}

func wideInt(v int64) wide { return widen(fromSigned(v)) }

// narrow converts to a number with 64 bits below its significand; inexact sets the sticky bit for what a series left out.
func (w wide) narrow(inexact bool) num {
	if w.isZero() {
		return num{neg: w.neg}
	}
	low := w.m[1] | sticky(w.m[2])
	if inexact {
		low |= 1
	}
	return num{cls: finite, neg: w.neg, exp: w.exp, mant: w.m[0], low: low}
}

func (w wide) negated() wide { w.neg = !w.neg; return w }

// scaled multiplies by 2^n.
func (w wide) scaled(n int32) wide { w.exp += n; return w }

// normalise shifts the four-word significand (more significant first) left and truncates it.
func normalise(m [4]uint64, exp int32, neg bool) wide {
	for range 3 {
		if m[0] != 0 {
			break
		}
		m, exp = [4]uint64{m[1], m[2], m[3], 0}, exp-64
	}
	if m[0] == 0 {
		if m[0] = m[1]; m[0] == 0 {
			return wide{}
		}
		m[1] = 0
		exp -= 64
	}
	s := uint(bits.LeadingZeros64(m[0]))
	var r [3]uint64
	for i := range r {
		r[i] = m[i]<<s | m[i+1]>>(64-s)
	}
	return wide{r, exp - int32(s), neg}
}

func mulWide(a, b wide) wide {
	if a.isZero() || b.isZero() {
		return wide{}
	}
	var p [6]uint64 // least significant first
	for i := range 3 {
		var carry uint64
		for j := range 3 {
			hi, lo := bits.Mul64(a.m[2-i], b.m[2-j])
			var c uint64
			lo, c = bits.Add64(lo, p[i+j], 0)
			hi += c
			lo, c = bits.Add64(lo, carry, 0)
			hi += c
			p[i+j], carry = lo, hi
		}
		p[i+3] = carry
	}
	return normalise([4]uint64{p[5], p[4], p[3], p[2]}, a.exp+b.exp+1, a.neg != b.neg)
}

// shiftRight shifts a four-word significand right.
func shiftRight(m [4]uint64, d uint32) [4]uint64 {
	for ; d >= 64; d -= 64 {
		m = [4]uint64{0, m[0], m[1], m[2]}
		if m == ([4]uint64{}) {
			return m
		}
	}
	return [4]uint64{m[0] >> d, m[1]>>d | m[0]<<(64-d), m[2]>>d | m[1]<<(64-d), m[3]>>d | m[2]<<(64-d)}
}

func addWide(a, b wide) wide {
	switch {
	case a.isZero():
		return b
	case b.isZero():
		return a
	}
	if a.exp < b.exp || a.exp == b.exp && lessWords(a.m, b.m) {
		a, b = b, a
	}
	x := [4]uint64{a.m[0], a.m[1], a.m[2]}
	y := shiftRight([4]uint64{b.m[0], b.m[1], b.m[2]}, uint32(a.exp-b.exp))
	var c uint64
	if a.neg != b.neg {
		for i := 3; i >= 0; i-- {
			x[i], c = bits.Sub64(x[i], y[i], c)
		}
		return normalise(x, a.exp, a.neg)
	}
	for i := 3; i >= 0; i-- {
		x[i], c = bits.Add64(x[i], y[i], c)
	}
	if c != 0 {
		x = shiftRight(x, 1)
		x[0] |= 1 << 63
		a.exp++
	}
	return normalise(x, a.exp, a.neg)
}

func subWide(a, b wide) wide { return addWide(a, b.negated()) }

func lessWords(a, b [3]uint64) bool {
	for i := range a {
		if a[i] != b[i] {
			return a[i] < b[i]
		}
	}
	return false
}

// divSmall divides by a small positive integer.
func divSmall(a wide, n uint64) wide {
	var q [4]uint64
	var rem uint64
	for i := range 3 {
		q[i], rem = bits.Div64(rem, a.m[i], n)
	}
	q[3], _ = bits.Div64(rem, 0, n)
	return normalise(q, a.exp, a.neg)
}

// divWide divides by a non-zero number, by Newton's iteration for the reciprocal.
func divWide(a, b wide) wide {
	if a.isZero() {
		return wide{}
	}
	// 2^127 / b's leading word: 1/b to about 62 bits.
	guess := ^uint64(0)
	if b.m[0] > 1<<63 {
		guess, _ = bits.Div64(1<<63, 0, b.m[0])
	}
	r := wide{m: [3]uint64{guess}, exp: -1}
	d := b
	d.neg, d.exp = false, 0
	two := wideInt(2)
	for range 2 {
		r = mulWide(r, subWide(two, mulWide(d, r)))
	}
	q := mulWide(a, r)
	q.exp -= b.exp
	q.neg = a.neg != b.neg
	return q
}

// series sums first, and terms each of which is the one before times x, divided by what next returns for the number 1, 2, … of the term.
func series(first, x wide, next func(i uint64) uint64) wide {
	sum, term := first, first
	for i := uint64(1); !term.isZero() && term.exp > sum.exp-wideBits; i++ {
		term = divSmall(mulWide(term, x), next(i))
		sum = addWide(sum, term)
	}
	return sum
}
