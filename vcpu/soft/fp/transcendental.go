package fp

import "math/bits"

// The transcendental functions are computed with 192 bits and rounded once, so that they are correctly rounded but for a chance of about 2^-120. The
// SDM allows an error of 1 ulp (vol. 1, 8.3.10), which Intel and AMD processors use in different ways: their last bit differs from
// ours and from each other's in some per cent of cases. Arguments of the trigonometric functions are reduced with the same 66-bit π that the SDM gives and
// processors of both makers use.

// The constants π and ln 2 to 192 bits (OEIS A000796, A002162).
var (
	piWide  = wide{m: [3]uint64{0xc90fdaa22168c234, 0xc4c6628b80dc1cd1, 0x29024e088a67cc74}, exp: 1}
	ln2Wide = wide{m: [3]uint64{0xb17217f7d1cf79ab, 0xc9e3b39803f2f6af, 0x40f343267298b62d}, exp: -1}
	oneWide = wideInt(1)
)

// halfPi66 is π/2 as processors use it for argument reduction, times 2^65 (SDM vol. 1, 8.3.8).
var halfPi66 = [2]uint64{0x3, 0x243f6a8885a308d3}

func initTranscendental() {
	fill(&registerForms[1], [64]*Op87{
		0x30: plain("F2XM1", monadic(f2xm1)),
		0x31: plain("FYL2X", dyadicPop((*X87).fyl2x)),
		0x32: plain("FPTAN", fptan),
		0x33: plain("FPATAN", dyadicPop((*X87).fpatan)),
		0x39: plain("FYL2XP1", dyadicPop((*X87).fyl2xp1)),
		0x3b: plain("FSINCOS", fsincos),
		0x3e: plain("FSIN", trigonometric(func(s, _ num) num { return s })),
		0x3f: plain("FCOS", trigonometric(func(_, c num) num { return c })),
	})
}

// result rounds a computed value to extended precision; precision control does not apply.
func (x *X87) result(n num, flags uint32) rounded {
	r := x.round(n, binary80)
	r.flags |= flags
	return r
}

// f2xm1 computes 2^a - 1 for -1 ≤ a ≤ 1. Outside, where the SDM leaves the result undefined, it returns a.
func f2xm1(x *X87, a num) rounded {
	switch {
	case a.cls == zero:
		return rounded{num: a}
	case a.cls == infinite && a.neg:
		return rounded{num: fromSigned(-1)}
	case a.cls == infinite, a.exp > 0, a.exp == 0 && a.mant != 1<<63:
		return rounded{num: a}
	case a.exp == 0 && a.neg:
		return rounded{num: fromSigned(-1).halved()}
	case a.exp == 0:
		return rounded{num: a}
	}
	t := mulWide(widen(a), ln2Wide)
	return x.result(series(t, t, func(i uint64) uint64 { return i + 1 }).narrow(true), 0)
}

func (n num) halved() num { n.exp--; return n }

// reduce brings a into [-π/4, π/4] by subtracting k × π/2, with the 66-bit π. It is exact.
func reduce(a num) (r wide, k uint64) {
	if a.exp < -2 {
		return widen(a), 0
	}
	// a / (π/2) = mant × 2^(exp+2) / halfPi66: a division bit by bit, the remainder in hi:lo.
	var hi, lo uint64
	for i := int32(0); i < 64+a.exp+2; i++ {
		bit := uint64(0)
		if i < 64 {
			bit = a.mant >> (63 - i) & 1
		}
		hi, lo = hi<<1|lo>>63, lo<<1|bit
		k <<= 1
		if h, l, ok := subtract(hi, lo, halfPi66); ok {
			hi, lo = h, l
			k++
		}
	}
	neg := a.neg
	// Above π/4, go on to the next multiple.
	if h, l, ok := subtract(halfPi66[0], halfPi66[1], [2]uint64{hi, lo}); ok && (h < hi || h == hi && l < lo) {
		hi, lo, neg = h, l, !neg
		k++
	}
	if a.neg {
		k = -k
	}
	return normalise([4]uint64{hi, lo}, 62, neg), k
}

// subtract returns hi:lo - d if that is not negative.
func subtract(hi, lo uint64, d [2]uint64) (h, l uint64, ok bool) {
	l, borrow := bits.Sub64(lo, d[1], 0)
	h, borrow = bits.Sub64(hi, d[0], borrow)
	return h, l, borrow == 0
}

// sinCos computes both functions of a finite number below 2^63.
func sinCos(a num) (sin, cos num) {
	r, k := reduce(a)
	square := mulWide(r, r).negated()
	s := series(r, square, func(i uint64) uint64 { return 2 * i * (2*i + 1) }).narrow(true)
	c := series(oneWide, square, func(i uint64) uint64 { return (2*i - 1) * 2 * i }).narrow(true)
	if r.exp < -100 { // the second term is below all precision, but the result is below the first
		s, c = r.narrow(false).justBelow(), oneWide.narrow(false).justBelow()
	}
	if r.isZero() {
		s, c = num{neg: a.neg}, fromSigned(1)
	}
	switch k & 3 {
	case 1:
		s, c = c, s
		c.neg = !c.neg
	case 2:
		s.neg, c.neg = !s.neg, !c.neg
	case 3:
		s, c = c, s
		s.neg = !s.neg
	}
	return s, c
}

// justBelow is the number with the next smaller magnitude that can be told apart.
func (n num) justBelow() num {
	var borrow uint64
	n.low, borrow = bits.Sub64(n.low, 1, 0)
	n.mant -= borrow
	return n.normalised()
}

// trigOperand fetches the operand of FSIN, FCOS, FPTAN and FSINCOS. done says that the instruction ends here: NaN, infinity or out of range (C2).
func (x *X87) trigOperand(results int) (v operand, done bool) {
	v = x.operand(0)
	x.SW &^= C2
	switch {
	case v.empty, results == 2 && x.Used>>x.phys(7)&1 != 0:
		if x.stackFault(!v.empty) {
			x.setPair(indefinite().pack80(), indefinite().pack80(), results)
		}
		return v, true
	case v.cls >= quietNaN:
		n, flags := nanX87(v.num, v.num)
		if x.settle(flags, false) {
			x.setPair(n.pack80(), n.pack80(), results)
		}
		return v, true
	case v.cls == infinite:
		if x.settle(IE, false) {
			x.setPair(indefinite().pack80(), indefinite().pack80(), results)
		}
		return v, true
	case v.cls == finite && v.exp >= 63:
		x.setC1(false)
		x.SW |= C2
		return v, true
	}
	return v, false
}

// setPair writes ST(0), and pushes second if there are two results.
func (x *X87) setPair(first, second Float80, results int) {
	x.setST(0, first)
	if results == 2 {
		x.setTop(x.top() - 1)
		x.setST(0, second)
	}
}

func trigonometric(pick func(sin, cos num) num) execFunc {
	return func(x *X87, _ uint8, _ *Operands) {
		v, done := x.trigOperand(1)
		if done {
			return
		}
		if v.cls == zero {
			x.deliver(0, rounded{num: pick(v.num, fromSigned(1))})
			return
		}
		x.deliver(0, x.result(pick(sinCos(v.num)), denormalFlag(v.num, v.num)))
	}
}

func fsincos(x *X87, _ uint8, _ *Operands) {
	v, done := x.trigOperand(2)
	if done {
		return
	}
	s, c := rounded{num: v.num}, rounded{num: fromSigned(1)}
	if v.cls != zero {
		sin, cos := sinCos(v.num)
		s, c = x.result(sin, denormalFlag(v.num, v.num)), x.result(cos, 0)
	}
	if x.settle(s.flags|c.flags, s.up) {
		x.setPair(s.pack80(), c.pack80(), 2)
	}
}

func fptan(x *X87, _ uint8, _ *Operands) {
	v, done := x.trigOperand(2)
	if done {
		return
	}
	t := rounded{num: v.num}
	if v.cls != zero {
		t = x.result(tangent(v.num), denormalFlag(v.num, v.num))
	}
	if x.settle(t.flags, t.up) {
		x.setPair(t.pack80(), fromSigned(1).pack80(), 2)
	}
}

func tangent(a num) num {
	if a.exp < -100 { // above a, by less than any precision
		a.low |= 1
		return a
	}
	r, k := reduce(a)
	square := mulWide(r, r).negated()
	s := series(r, square, func(i uint64) uint64 { return 2 * i * (2*i + 1) })
	c := series(oneWide, square, func(i uint64) uint64 { return (2*i - 1) * 2 * i })
	if k&1 != 0 {
		s, c = c.negated(), s
	}
	if c.isZero() {
		return num{cls: infinite, neg: s.neg}
	}
	return divWide(s, c).narrow(true)
}

// dyadicPop is an operation of ST(1) and ST(0) that replaces ST(1) and pops.
func dyadicPop(f func(x *X87, y, a num) rounded) execFunc {
	return func(x *X87, _ uint8, _ *Operands) {
		y, a := x.operand(1), x.operand(0)
		if y.empty || a.empty {
			if !x.stackUnderflow() {
				return
			}
			x.setST(1, indefinite().pack80())
			x.pop()
			return
		}
		var r rounded
		if y.cls >= quietNaN || a.cls >= quietNaN {
			r.num, r.flags = nanX87(y.num, a.num)
		} else {
			r = f(x, y.num, a.num)
			if r.flags&(IE|ZE) == 0 {
				r.flags |= denormalFlag(y.num, a.num)
			}
		}
		if x.deliver(1, r) {
			x.pop()
		}
	}
}

// fpatan computes the angle of the point (a, y).
func (x *X87) fpatan(y, a num) rounded {
	angle := func(n, d int64) rounded { // n/d × π with y's sign
		w := divSmall(mulWide(piWide, wideInt(n)), uint64(d))
		w.neg = y.neg
		return x.result(w.narrow(true), 0)
	}
	switch {
	case y.cls == infinite && a.cls == infinite && a.neg:
		return angle(3, 4)
	case y.cls == infinite && a.cls == infinite:
		return angle(1, 4)
	case (y.cls == zero || a.cls == infinite) && a.neg:
		return angle(1, 1)
	case y.cls == zero || a.cls == infinite:
		return rounded{num: num{neg: y.neg}}
	case a.cls == zero || y.cls == infinite:
		return angle(1, 2)
	}
	n := arctangent(y, a).narrow(true)
	n.neg = y.neg
	return x.result(n, 0)
}

// arctangent computes the angle between 0 and π for finite non-zero coordinates.
func arctangent(y, a num) wide {
	negative := a.neg
	y.neg, a.neg = false, false
	wy, wa := widen(y), widen(a)
	steep := compareMagnitude(y, a) > 0
	if steep {
		wy, wa = wa, wy
	}
	angle := arctanUnit(divWide(wy, wa))
	if steep {
		angle = subWide(piWide.scaled(-1), angle)
	}
	if negative {
		angle = subWide(piWide, angle)
	}
	return angle
}

// arctanUnit computes the arctangent of z in [0, 1]. Above about 0.4 it uses atan z = π/4 + atan((z-1)/(z+1)).
func arctanUnit(z wide) wide {
	offset := wide{}
	if z.exp >= -1 || z.exp == -2 && z.m[0] > 0xd413cccfe7799211 {
		offset = piWide.scaled(-2)
		z = divWide(subWide(z, oneWide), addWide(z, oneWide))
	}
	return addWide(offset, oddSeries(z, mulWide(z, z).negated()))
}

// oddSeries sums z × (1 + s/3 + s²/5 + …): the arctangent for s = -z², the inverse hyperbolic tangent for s = z².
func oddSeries(z, s wide) wide {
	sum, power := z, z
	for i := uint64(3); !power.isZero() && power.exp > sum.exp-wideBits; i += 2 {
		power = mulWide(power, s)
		sum = addWide(sum, divSmall(power, i))
	}
	return sum
}

// log2 computes the binary logarithm of a positive finite number. exact says that it is an integer.
func log2(a num) (w wide, exact bool) {
	e := a.exp
	a.exp = 0
	if a.mant > 0xb504f333f9de6484 { // above √2
		a.exp, e = -1, e+1
	}
	if a.mant == 1<<63 && a.low == 0 && a.exp == 0 {
		return wideInt(int64(e)), true
	}
	m := widen(a)
	z := divWide(subWide(m, oneWide), addWide(m, oneWide))
	return addWide(wideInt(int64(e)), overLn2(z)), false
}

// overLn2 computes log2((1+z)/(1-z)) = 2 atanh(z) / ln 2.
func overLn2(z wide) wide {
	return divWide(oddSeries(z, mulWide(z, z)), ln2Wide).scaled(1)
}

// fyl2x computes y × log2(a).
func (x *X87) fyl2x(y, a num) rounded {
	invalid := rounded{num: indefinite(), flags: IE}
	switch {
	case a.neg && a.cls != zero:
		return invalid
	case a.cls == zero && y.cls == zero, a.cls == infinite && y.cls == zero:
		return invalid
	case a.cls == zero && y.cls == infinite:
		return rounded{num: num{cls: infinite, neg: !y.neg}}
	case a.cls == zero:
		return rounded{num: num{cls: infinite, neg: !y.neg}, flags: ZE}
	case a.cls == infinite:
		return rounded{num: num{cls: infinite, neg: y.neg}}
	}
	w, exact := log2(a)
	return x.timesLog(y, w, exact)
}

// timesLog multiplies y with a logarithm.
func (x *X87) timesLog(y num, log wide, exact bool) rounded {
	switch {
	case y.cls == infinite && log.isZero():
		return rounded{num: indefinite(), flags: IE}
	case y.cls == infinite:
		return rounded{num: num{cls: infinite, neg: y.neg != log.neg}}
	case y.cls == zero || log.isZero():
		return rounded{num: num{neg: y.neg != log.neg}}
	}
	r := x.result(mulWide(widen(y), log).narrow(!exact), 0)
	if exact { // processors flag even these as inexact
		r.flags |= PE
		if r.cls != infinite && r.mant>>63 == 0 {
			r.flags |= UE
		}
	}
	return r
}

// fyl2xp1 computes y × log2(1+a), accurate for small a. The SDM defines it for |a| < 1-√½; beyond, this goes on with the mathematical function, and
// for -1 and below it returns a, as AMD's processors do.
func (x *X87) fyl2xp1(y, a num) rounded {
	switch {
	case a.cls == zero:
		if y.cls == infinite {
			return rounded{num: indefinite(), flags: IE}
		}
		return rounded{num: num{neg: y.neg != a.neg}}
	case a.cls == infinite:
		if a.neg || y.cls == zero {
			return rounded{num: indefinite(), flags: IE}
		}
		return rounded{num: num{cls: infinite, neg: y.neg}}
	case a.neg && a.exp >= 0:
		if y.cls != finite {
			return rounded{num: num{cls: y.cls, neg: !y.neg}}
		}
		return rounded{num: a, flags: PE}
	case a.exp >= -2:
		sum, _ := add(a, fromSigned(1), Nearest)
		return x.fyl2x(y, sum)
	}
	w := widen(a)
	return x.timesLog(y, overLn2(divWide(w, addWide(w, wideInt(2)))), false)
}
