package simd

import "github.com/detvm/detvm/vcpu/soft/fp"

// put32 and put64 write a scalar result unless the instruction raised an unmasked exception.

func put32(d *Vec, r uint32, e *fp.Env) {
	if e.Unmasked == 0 {
		d[0] = d[0]&^low32 | uint64(r)
	}
}

func put64(d *Vec, r uint64, e *fp.Env) {
	if e.Unmasked == 0 {
		d[0] = r
	}
}

// putWhole writes a result that replaces the whole destination: a general register, or an MMX register.
func putWhole(d *Vec, r uint64, e *fp.Env) {
	if e.Unmasked == 0 {
		*d = Vec{r, 0}
	}
}

// packed makes a row's function from one that computes the lanes in order: with unmasked exceptions the lanes are computed aside and
// written only if none of them trapped.
func packed(lanes Func) Func {
	return func(d, s *Vec, imm uint8, e *fp.Env) {
		if e.Masked() {
			lanes(d, s, imm, e)
			return
		}
		t, aside := *d, e.Lanes()
		lanes(&t, s, imm, &aside)
		if e.Raise(aside.Collected()) {
			*d = t
		}
	}
}

// map32 applies a two-operand operation to four lanes, map64 to two.

func map32(d, s *Vec, e *fp.Env, f func(e *fp.Env, a, b uint32) uint32) {
	for i := range d {
		a, b := d[i], s[i]
		lo := f(e, uint32(a), uint32(b))
		d[i] = uint64(lo) | uint64(f(e, uint32(a>>32), uint32(b>>32)))<<32
	}
}

func addss(d, s *Vec, _ uint8, e *fp.Env) { put32(d, e.Add32(uint32(d[0]), uint32(s[0])), e) }
func addsd(d, s *Vec, _ uint8, e *fp.Env) { put64(d, e.Add64(d[0], s[0]), e) }
func addps(d, s *Vec, _ uint8, e *fp.Env) { map32(d, s, e, (*fp.Env).Add32) }
func addpd(d, s *Vec, _ uint8, e *fp.Env) { d[0], d[1] = e.Add64(d[0], s[0]), e.Add64(d[1], s[1]) }

func subss(d, s *Vec, _ uint8, e *fp.Env) { put32(d, e.Sub32(uint32(d[0]), uint32(s[0])), e) }
func subsd(d, s *Vec, _ uint8, e *fp.Env) { put64(d, e.Sub64(d[0], s[0]), e) }
func subps(d, s *Vec, _ uint8, e *fp.Env) { map32(d, s, e, (*fp.Env).Sub32) }
func subpd(d, s *Vec, _ uint8, e *fp.Env) { d[0], d[1] = e.Sub64(d[0], s[0]), e.Sub64(d[1], s[1]) }

func mulss(d, s *Vec, _ uint8, e *fp.Env) { put32(d, e.Mul32(uint32(d[0]), uint32(s[0])), e) }
func mulsd(d, s *Vec, _ uint8, e *fp.Env) { put64(d, e.Mul64(d[0], s[0]), e) }
func mulps(d, s *Vec, _ uint8, e *fp.Env) { map32(d, s, e, (*fp.Env).Mul32) }
func mulpd(d, s *Vec, _ uint8, e *fp.Env) { d[0], d[1] = e.Mul64(d[0], s[0]), e.Mul64(d[1], s[1]) }

func divss(d, s *Vec, _ uint8, e *fp.Env) { put32(d, e.Div32(uint32(d[0]), uint32(s[0])), e) }
func divsd(d, s *Vec, _ uint8, e *fp.Env) { put64(d, e.Div64(d[0], s[0]), e) }
func divps(d, s *Vec, _ uint8, e *fp.Env) { map32(d, s, e, (*fp.Env).Div32) }
func divpd(d, s *Vec, _ uint8, e *fp.Env) { d[0], d[1] = e.Div64(d[0], s[0]), e.Div64(d[1], s[1]) }

func minss(d, s *Vec, _ uint8, e *fp.Env) { put32(d, e.Min32(uint32(d[0]), uint32(s[0])), e) }
func minsd(d, s *Vec, _ uint8, e *fp.Env) { put64(d, e.Min64(d[0], s[0]), e) }
func minps(d, s *Vec, _ uint8, e *fp.Env) { map32(d, s, e, (*fp.Env).Min32) }
func minpd(d, s *Vec, _ uint8, e *fp.Env) { d[0], d[1] = e.Min64(d[0], s[0]), e.Min64(d[1], s[1]) }

func maxss(d, s *Vec, _ uint8, e *fp.Env) { put32(d, e.Max32(uint32(d[0]), uint32(s[0])), e) }
func maxsd(d, s *Vec, _ uint8, e *fp.Env) { put64(d, e.Max64(d[0], s[0]), e) }
func maxps(d, s *Vec, _ uint8, e *fp.Env) { map32(d, s, e, (*fp.Env).Max32) }
func maxpd(d, s *Vec, _ uint8, e *fp.Env) { d[0], d[1] = e.Max64(d[0], s[0]), e.Max64(d[1], s[1]) }

func sqrtss(d, s *Vec, _ uint8, e *fp.Env) { put32(d, e.Sqrt32(uint32(s[0])), e) }
func sqrtsd(d, s *Vec, _ uint8, e *fp.Env) { put64(d, e.Sqrt64(s[0]), e) }
func sqrtpd(d, s *Vec, _ uint8, e *fp.Env) { d[0], d[1] = e.Sqrt64(s[0]), e.Sqrt64(s[1]) }
func sqrtps(d, s *Vec, _ uint8, e *fp.Env) { each32(d, s, e.Sqrt32) }

func rcpss(d, s *Vec, _ uint8, e *fp.Env)   { put32(d, e.Rcp32(uint32(s[0])), e) }
func rcpps(d, s *Vec, _ uint8, e *fp.Env)   { each32(d, s, e.Rcp32) }
func rsqrtss(d, s *Vec, _ uint8, e *fp.Env) { put32(d, e.Rsqrt32(uint32(s[0])), e) }
func rsqrtps(d, s *Vec, _ uint8, e *fp.Env) { each32(d, s, e.Rsqrt32) }

// each32 applies a one-operand operation to four lanes.
func each32(d, s *Vec, f func(a uint32) uint32) {
	for i, x := range *s {
		d[i] = uint64(f(uint32(x))) | uint64(f(uint32(x>>32)))<<32
	}
}

func cmpss(d, s *Vec, imm uint8, e *fp.Env) { put32(d, e.Cmp32(uint32(d[0]), uint32(s[0]), imm), e) }
func cmpsd(d, s *Vec, imm uint8, e *fp.Env) { put64(d, e.Cmp64(d[0], s[0], imm), e) }
func cmppd(d, s *Vec, imm uint8, e *fp.Env) {
	d[0], d[1] = e.Cmp64(d[0], s[0], imm), e.Cmp64(d[1], s[1], imm)
}

func cmpps(d, s *Vec, imm uint8, e *fp.Env) {
	for i := range d {
		a, b := d[i], s[i]
		lo := e.Cmp32(uint32(a), uint32(b), imm)
		d[i] = uint64(lo) | uint64(e.Cmp32(uint32(a>>32), uint32(b>>32), imm))<<32
	}
}

func comiss(d, s *Vec, _ uint8, e *fp.Env)  { e.Compare32(uint32(d[0]), uint32(s[0]), true) }
func ucomiss(d, s *Vec, _ uint8, e *fp.Env) { e.Compare32(uint32(d[0]), uint32(s[0]), false) }
func comisd(d, s *Vec, _ uint8, e *fp.Env)  { e.Compare64(d[0], s[0], true) }
func ucomisd(d, s *Vec, _ uint8, e *fp.Env) { e.Compare64(d[0], s[0], false) }

func roundss(d, s *Vec, imm uint8, e *fp.Env) { put32(d, e.Round32(uint32(s[0]), imm), e) }
func roundsd(d, s *Vec, imm uint8, e *fp.Env) { put64(d, e.Round64(s[0], imm), e) }
func roundpd(d, s *Vec, imm uint8, e *fp.Env) {
	d[0], d[1] = e.Round64(s[0], imm), e.Round64(s[1], imm)
}
func roundps(d, s *Vec, imm uint8, e *fp.Env) {
	each32(d, s, func(a uint32) uint32 { return e.Round32(a, imm) })
}

// Horizontal and alternating sums.

func haddpd(d, s *Vec, _ uint8, e *fp.Env) { d[0], d[1] = e.Add64(d[0], d[1]), e.Add64(s[0], s[1]) }
func hsubpd(d, s *Vec, _ uint8, e *fp.Env) { d[0], d[1] = e.Sub64(d[0], d[1]), e.Sub64(s[0], s[1]) }
func haddps(d, s *Vec, _ uint8, e *fp.Env) { horizontal(d, s, e.Add32) }
func hsubps(d, s *Vec, _ uint8, e *fp.Env) { horizontal(d, s, e.Sub32) }

func horizontal(d, s *Vec, f func(a, b uint32) uint32) {
	pair := func(x uint64) uint64 { return uint64(f(uint32(x), uint32(x>>32))) }
	lo := pair(d[0]) | pair(d[1])<<32
	d[0], d[1] = lo, pair(s[0])|pair(s[1])<<32
}

func addsubpd(d, s *Vec, _ uint8, e *fp.Env) { d[0], d[1] = e.Sub64(d[0], s[0]), e.Add64(d[1], s[1]) }
func addsubps(d, s *Vec, _ uint8, e *fp.Env) {
	for i := range d {
		a, b := d[i], s[i]
		lo := e.Sub32(uint32(a), uint32(b))
		d[i] = uint64(lo) | uint64(e.Add32(uint32(a>>32), uint32(b>>32)))<<32
	}
}

// stage computes one step of a multi-step instruction and reports whether the next may follow. An unmasked exception of one step stops the
// instruction before the flags of later steps are known.
func stage(e *fp.Env, step func(e *fp.Env)) bool {
	if e.Masked() {
		step(e)
		return true
	}
	aside := e.Lanes()
	step(&aside)
	return e.Raise(aside.Collected())
}

// dpps multiplies the lanes in imm[7:4], adds the products pairwise with rounding at each step, and puts the sum in the lanes imm[3:0].
func dpps(d, s *Vec, imm uint8, e *fp.Env) {
	var p [4]uint32
	products := func(e *fp.Env) {
		for i := range p {
			if imm>>(4+i)&1 != 0 {
				p[i] = e.Mul32(uint32(dword(d, uint8(i))), uint32(dword(s, uint8(i))))
			}
		}
	}
	pairs := func(e *fp.Env) { p[0], p[2] = e.Add32(p[0], p[1]), e.Add32(p[2], p[3]) }
	total := func(e *fp.Env) { p[0] = e.Add32(p[0], p[2]) }
	if stage(e, products) && stage(e, pairs) && stage(e, total) {
		sum := uint64(p[0]) * lD
		*d = Vec{sum & laneMask(imm, 32), sum & laneMask(imm>>2, 32)}
	}
}

func dppd(d, s *Vec, imm uint8, e *fp.Env) {
	var p [2]uint64
	products := func(e *fp.Env) {
		for i := range p {
			if imm>>(4+i)&1 != 0 {
				p[i] = e.Mul64(d[i], s[i])
			}
		}
	}
	total := func(e *fp.Env) { p[0] = e.Add64(p[0], p[1]) }
	if stage(e, products) && stage(e, total) {
		*d = Vec{p[0] & -uint64(imm&1), p[0] & -uint64(imm>>1&1)}
	}
}

// Conversions between scalars.

func cvtss2sd(d, s *Vec, _ uint8, e *fp.Env) { put64(d, e.F32ToF64(uint32(s[0])), e) }
func cvtsd2ss(d, s *Vec, _ uint8, e *fp.Env) { put32(d, e.F64ToF32(s[0]), e) }

func cvtsi2ss(d, s *Vec, _ uint8, e *fp.Env)  { put32(d, e.I32ToF32(uint32(s[0])), e) }
func cvtsi2sd(d, s *Vec, _ uint8, e *fp.Env)  { put64(d, fp.I32ToF64(uint32(s[0])), e) }
func cvtsi2ssq(d, s *Vec, _ uint8, e *fp.Env) { put32(d, e.I64ToF32(s[0]), e) }
func cvtsi2sdq(d, s *Vec, _ uint8, e *fp.Env) { put64(d, e.I64ToF64(s[0]), e) }

func cvtss2si(d, s *Vec, _ uint8, e *fp.Env)  { putWhole(d, uint64(e.F32ToI32(uint32(s[0]), false)), e) }
func cvtsd2si(d, s *Vec, _ uint8, e *fp.Env)  { putWhole(d, uint64(e.F64ToI32(s[0], false)), e) }
func cvtss2siq(d, s *Vec, _ uint8, e *fp.Env) { putWhole(d, e.F32ToI64(uint32(s[0]), false), e) }
func cvtsd2siq(d, s *Vec, _ uint8, e *fp.Env) { putWhole(d, e.F64ToI64(s[0], false), e) }

func cvttss2si(d, s *Vec, _ uint8, e *fp.Env)  { putWhole(d, uint64(e.F32ToI32(uint32(s[0]), true)), e) }
func cvttsd2si(d, s *Vec, _ uint8, e *fp.Env)  { putWhole(d, uint64(e.F64ToI32(s[0], true)), e) }
func cvttss2siq(d, s *Vec, _ uint8, e *fp.Env) { putWhole(d, e.F32ToI64(uint32(s[0]), true), e) }
func cvttsd2siq(d, s *Vec, _ uint8, e *fp.Env) { putWhole(d, e.F64ToI64(s[0], true), e) }

// Packed conversions.

func pair32(x uint64, f func(uint32) uint32) uint64 {
	return uint64(f(uint32(x))) | uint64(f(uint32(x>>32)))<<32
}

func cvtps2pd(d, s *Vec, _ uint8, e *fp.Env) {
	x := s[0]
	d[0], d[1] = e.F32ToF64(uint32(x)), e.F32ToF64(uint32(x>>32))
}

func cvtpd2ps(d, s *Vec, _ uint8, e *fp.Env) {
	*d = Vec{uint64(e.F64ToF32(s[0])) | uint64(e.F64ToF32(s[1]))<<32, 0}
}

func cvtdq2ps(d, s *Vec, _ uint8, e *fp.Env) {
	d[0], d[1] = pair32(s[0], e.I32ToF32), pair32(s[1], e.I32ToF32)
}

func cvtdq2pd(d, s *Vec, _ uint8, _ *fp.Env) {
	x := s[0]
	d[0], d[1] = fp.I32ToF64(uint32(x)), fp.I32ToF64(uint32(x>>32))
}

// cvtpi2ps replaces the low half only.
func cvtpi2ps(d, s *Vec, _ uint8, e *fp.Env) { d[0] = pair32(s[0], e.I32ToF32) }

func cvtps2dq(d, s *Vec, _ uint8, e *fp.Env) {
	f := func(a uint32) uint32 { return e.F32ToI32(a, false) }
	d[0], d[1] = pair32(s[0], f), pair32(s[1], f)
}

func cvtps2pi(d, s *Vec, _ uint8, e *fp.Env) {
	*d = Vec{pair32(s[0], func(a uint32) uint32 { return e.F32ToI32(a, false) }), 0}
}

func cvtpd2dq(d, s *Vec, _ uint8, e *fp.Env) {
	*d = Vec{uint64(e.F64ToI32(s[0], false)) | uint64(e.F64ToI32(s[1], false))<<32, 0}
}

func cvttps2dq(d, s *Vec, _ uint8, e *fp.Env) {
	f := func(a uint32) uint32 { return e.F32ToI32(a, true) }
	d[0], d[1] = pair32(s[0], f), pair32(s[1], f)
}

func cvttps2pi(d, s *Vec, _ uint8, e *fp.Env) {
	*d = Vec{pair32(s[0], func(a uint32) uint32 { return e.F32ToI32(a, true) }), 0}
}

func cvttpd2dq(d, s *Vec, _ uint8, e *fp.Env) {
	*d = Vec{uint64(e.F64ToI32(s[0], true)) | uint64(e.F64ToI32(s[1], true))<<32, 0}
}
