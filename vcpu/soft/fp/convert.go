package fp

import (
	"math"
	"math/bits"
)

// toInt rounds a finite or zero number to an integer: its magnitude (huge is set when it needs more than 64 bits), whether that was inexact, and
// whether rounding increased the magnitude.
func (n num) toInt(rc Rounding) (mag uint64, inexact, up, huge bool) {
	if n.cls == zero {
		return 0, false, false, false
	}
	if n.exp > 63 {
		return 0, false, false, true
	}
	mant, low := shiftRightJam(n.mant, n.low, uint32(min(63-n.exp, 200)))
	m, inexact, up, carry := roundMant(mant, low, 64, n.neg, rc)
	return m, inexact, up, carry
}

// toSigned rounds to a signed integer of the given width. On overflow or NaN it returns the integer indefinite (only the sign bit) and IE.
func (n num) toSigned(width uint, rc Rounding) (r int64, flags uint32, up bool) {
	indef := int64(-1) << (width - 1)
	if n.cls >= infinite {
		return indef, IE, false
	}
	mag, inexact, up, huge := n.toInt(rc)
	limit := uint64(1) << (width - 1)
	if huge || mag > limit || mag == limit && !n.neg {
		return indef, IE, false
	}
	r = int64(mag)
	if n.neg {
		r = -r
	}
	if inexact {
		flags = PE
	}
	return r, flags, up
}

// fromSigned unpacks an integer.
func fromSigned(v int64) num {
	if v == 0 {
		return num{}
	}
	n := num{cls: finite, exp: 63, neg: v < 0, mant: uint64(v)}
	if n.neg {
		n.mant = -n.mant
	}
	s := bits.LeadingZeros64(n.mant)
	n.mant <<= s
	n.exp -= int32(s)
	return n
}

func (e *Env) toSigned(n num, width uint, rc Rounding) int64 {
	r, flags, _ := n.flushed(e.MXCSR&DAZ != 0).toSigned(width, rc)
	e.Raise(flags)
	return r
}

// intRounding is the mode of a conversion to integer: MXCSR's, or toward zero for the CVTT forms.
func (e *Env) intRounding(truncate bool) Rounding {
	if truncate {
		return Zero
	}
	return rounding(e.MXCSR)
}

// hostInt converts with the host's operations: to nearest or toward zero, if the value is in [-2^(width-1), 2^(width-1)). A NaN is not.
func (e *Env) hostInt(f float64, limit float64, truncate bool) (v int64, ok bool) {
	if !e.nearest() || !(f >= -limit && f < limit) {
		return 0, false
	}
	whole := f
	if !truncate {
		if whole = math.RoundToEven(f); whole == limit {
			return 0, false
		}
	}
	v = int64(whole)
	e.inexact(float64(v) != f)
	return v, true
}

const (
	limit32 = 1 << 31
	limit64 = 1 << 63
)

// F32ToI32 converts to a 32-bit integer (CVTSS2SI, or CVTTSS2SI with truncate). Overflow and NaN give 0x80000000 and IE.
func (e *Env) F32ToI32(a uint32, truncate bool) uint32 {
	if plain32(a) {
		if v, ok := e.hostInt(float64(math.Float32frombits(a)), limit32, truncate); ok {
			return uint32(v)
		}
	}
	return uint32(e.toSigned(unpack32(a), 32, e.intRounding(truncate)))
}

// F32ToI64 converts to a 64-bit integer (CVTSS2SI r64, CVTTSS2SI r64).
func (e *Env) F32ToI64(a uint32, truncate bool) uint64 {
	if plain32(a) {
		if v, ok := e.hostInt(float64(math.Float32frombits(a)), limit64, truncate); ok {
			return uint64(v)
		}
	}
	return uint64(e.toSigned(unpack32(a), 64, e.intRounding(truncate)))
}

// F64ToI32 converts to a 32-bit integer (CVTSD2SI, CVTTSD2SI).
func (e *Env) F64ToI32(a uint64, truncate bool) uint32 {
	if plain64(a) {
		if v, ok := e.hostInt(math.Float64frombits(a), limit32, truncate); ok {
			return uint32(v)
		}
	}
	return uint32(e.toSigned(unpack64(a), 32, e.intRounding(truncate)))
}

// F64ToI64 converts to a 64-bit integer (CVTSD2SI r64, CVTTSD2SI r64).
func (e *Env) F64ToI64(a uint64, truncate bool) uint64 {
	if plain64(a) {
		if v, ok := e.hostInt(math.Float64frombits(a), limit64, truncate); ok {
			return uint64(v)
		}
	}
	return uint64(e.toSigned(unpack64(a), 64, e.intRounding(truncate)))
}

// I32ToF32 converts a 32-bit integer (CVTSI2SS).
func (e *Env) I32ToF32(v uint32) uint32 { return e.I64ToF32(uint64(int64(int32(v)))) }

// I64ToF32 converts a 64-bit integer (CVTSI2SS r64).
func (e *Env) I64ToF32(v uint64) uint32 {
	if i := int64(v); e.nearest() && i > -1<<62 && i < 1<<62 {
		r := float32(i)
		e.inexact(int64(r) != i)
		return math.Float32bits(r)
	}
	r, flags := fromSigned(int64(v)).roundSSE(binary32, e.MXCSR)
	e.Raise(flags)
	return r.pack32()
}

// I32ToF64 converts a 32-bit integer (CVTSI2SD); that is always exact.
func I32ToF64(v uint32) uint64 { return math.Float64bits(float64(int32(v))) }

// I64ToF64 converts a 64-bit integer (CVTSI2SD r64).
func (e *Env) I64ToF64(v uint64) uint64 {
	if i := int64(v); e.nearest() && i > -1<<62 && i < 1<<62 {
		r := float64(i)
		e.inexact(int64(r) != i)
		return math.Float64bits(r)
	}
	r, flags := fromSigned(int64(v)).roundSSE(binary64, e.MXCSR)
	e.Raise(flags)
	return r.pack64()
}

// F32ToF64 widens (CVTSS2SD).
func (e *Env) F32ToF64(a uint32) uint64 {
	if normal32(a) {
		return math.Float64bits(float64(math.Float32frombits(a)))
	}
	n, flags := e.convertOperand(unpack32(a))
	e.Raise(flags)
	return n.pack64()
}

// F64ToF32 narrows (CVTSD2SS).
func (e *Env) F64ToF32(a uint64) uint32 {
	if e.nearest() && normal64(a) {
		f := math.Float64frombits(a)
		if r := float32(f); above32(math.Float32bits(r)) {
			e.inexact(float64(r) != f)
			return math.Float32bits(r)
		}
	}
	r, flags := f64ToF32(a, e.MXCSR)
	e.Raise(flags)
	return r
}

func f64ToF32(a uint64, mx uint32) (uint32, uint32) {
	n, flags := (&Env{MXCSR: mx}).convertOperand(unpack64(a))
	n, fl := n.roundSSE(binary32, mx)
	return n.pack32(), flags | fl
}

// convertOperand quiets NaNs and applies DAZ.
func (e *Env) convertOperand(n num) (num, uint32) {
	n = n.flushed(e.MXCSR&DAZ != 0)
	if n.cls.isNaN() {
		return nanSSE(n, n)
	}
	return n, denormalFlag(n, n)
}

// Round control of ROUNDSS and its kin: the immediate (SDM vol. 2, ROUNDPD).
const (
	roundUseMXCSR  = 1 << 2
	roundNoInexact = 1 << 3
)

// Round32 rounds to an integral value (ROUNDSS). imm holds the mode in bits 1:0, "use MXCSR.RC" in bit 2, "suppress PE" in bit 3.
func (e *Env) Round32(a uint32, imm uint8) uint32 {
	if plain32(a) && e.hostRounds(imm) {
		f := float64(math.Float32frombits(a))
		r := hostRound(f, Rounding(imm&3))
		e.inexact(r != f && imm&roundNoInexact == 0)
		return math.Float32bits(float32(r))
	}
	n, flags := e.roundIntegral(unpack32(a), imm)
	e.Raise(flags)
	return n.pack32()
}

// Round64 rounds to an integral value (ROUNDSD).
func (e *Env) Round64(a uint64, imm uint8) uint64 {
	if plain64(a) && e.hostRounds(imm) {
		f := math.Float64frombits(a)
		r := hostRound(f, Rounding(imm&3))
		e.inexact(r != f && imm&roundNoInexact == 0)
		return math.Float64bits(r)
	}
	n, flags := e.roundIntegral(unpack64(a), imm)
	e.Raise(flags)
	return n.pack64()
}

// hostRounds reports whether the host's rounding functions serve an immediate: the mode is explicit and PE cannot trap.
func (e *Env) hostRounds(imm uint8) bool {
	return imm&roundUseMXCSR == 0 && (imm&roundNoInexact != 0 || e.nearest())
}

func hostRound(f float64, rc Rounding) float64 {
	switch rc {
	case Down:
		return math.Floor(f)
	case Up:
		return math.Ceil(f)
	case Zero:
		return math.Trunc(f)
	}
	return math.RoundToEven(f)
}

func (e *Env) roundIntegral(n num, imm uint8) (num, uint32) {
	n = n.flushed(e.MXCSR&DAZ != 0)
	if n.cls.isNaN() {
		return nanSSE(n, n)
	}
	rc := Rounding(imm & 3)
	if imm&roundUseMXCSR != 0 {
		rc = rounding(e.MXCSR)
	}
	r, inexact, _ := n.integral(rc)
	if inexact && imm&roundNoInexact == 0 {
		return r, PE
	}
	return r, 0
}

// integral rounds to an integral value, keeping the sign of zero.
func (n num) integral(rc Rounding) (r num, inexact, up bool) {
	if n.cls != finite || n.exp >= 63 {
		return n, false, false
	}
	mag, inexact, up, _ := n.toInt(rc)
	r = fromMagnitude(mag)
	r.neg = n.neg
	return r, inexact, up
}

// fromMagnitude unpacks an unsigned integer.
func fromMagnitude(mag uint64) num {
	if mag == 0 {
		return num{}
	}
	s := bits.LeadingZeros64(mag)
	return num{cls: finite, exp: 63 - int32(s), mant: mag << s}
}
