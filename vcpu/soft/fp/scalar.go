package fp

import (
	"math"
	"math/bits"
)

// normal32 and normal64 report whether the number is normal: neither zero, denormal, infinite nor NaN.
func normal32(a uint32) bool { return a<<1-1<<24 < 0xfe<<24 }
func normal64(a uint64) bool { return a<<1-1<<53 < 0x7fe<<53 }

// above32 and above64 report whether the number is normal and not the smallest one: a product or quotient that was rounded up to that was tiny.
func above32(a uint32) bool { return a<<1-2<<24 < 0xfd<<24 }
func above64(a uint64) bool { return a<<1-2<<53 < 0x7fd<<53 }

// plain32 and plain64 report whether the number is normal or zero.
func plain32(a uint32) bool { return a<<1 == 0 || normal32(a) }
func plain64(a uint64) bool { return a<<1 == 0 || normal64(a) }

// Add64 returns a + b (ADDSD).
func (e *Env) Add64(a, b uint64) uint64 {
	if e.fast() {
		r := math.Float64bits(math.Float64frombits(a) + math.Float64frombits(b))
		// A sum that is zero is exact, so zeros are as good as normal numbers here.
		if plain64(r) && plain64(a) && plain64(b) {
			return r
		}
	}
	return e.slow64(opAdd, a, b)
}

// Sub64 returns a - b (SUBSD).
func (e *Env) Sub64(a, b uint64) uint64 {
	if e.fast() {
		r := math.Float64bits(math.Float64frombits(a) - math.Float64frombits(b))
		if plain64(r) && plain64(a) && plain64(b) {
			return r
		}
	}
	return e.slow64(opSub, a, b)
}

// Mul64 returns a × b (MULSD).
func (e *Env) Mul64(a, b uint64) uint64 {
	if e.fast() {
		r := math.Float64bits(math.Float64frombits(a) * math.Float64frombits(b))
		if above64(r) && normal64(a) && normal64(b) || a<<1 == 0 && plain64(b) || b<<1 == 0 && plain64(a) {
			return r
		}
	}
	return e.slow64(opMul, a, b)
}

// Div64 returns a / b (DIVSD).
func (e *Env) Div64(a, b uint64) uint64 {
	if e.fast() {
		r := math.Float64bits(math.Float64frombits(a) / math.Float64frombits(b))
		if normal64(b) && (above64(r) && normal64(a) || a<<1 == 0) {
			return r
		}
	}
	return e.slow64(opDiv, a, b)
}

// Sqrt64 returns the square root (SQRTSD).
func (e *Env) Sqrt64(a uint64) uint64 {
	if e.nearest() && a>>63 == 0 && plain64(a) {
		r := math.Float64bits(math.Sqrt(math.Float64frombits(a)))
		e.inexact(e.MXCSR&PE == 0 && a != 0 && !opDiv.exact64(a, r, r))
		return r
	}
	r, flags := sqrt64(a, e.MXCSR)
	e.Raise(flags)
	return r
}

// Add32 returns a + b (ADDSS).
func (e *Env) Add32(a, b uint32) uint32 {
	if e.fast() {
		r := math.Float32bits(math.Float32frombits(a) + math.Float32frombits(b))
		if plain32(r) && plain32(a) && plain32(b) {
			return r
		}
	}
	return e.slow32(opAdd, a, b)
}

// Sub32 returns a - b (SUBSS).
func (e *Env) Sub32(a, b uint32) uint32 {
	if e.fast() {
		r := math.Float32bits(math.Float32frombits(a) - math.Float32frombits(b))
		if plain32(r) && plain32(a) && plain32(b) {
			return r
		}
	}
	return e.slow32(opSub, a, b)
}

// Mul32 returns a × b (MULSS).
func (e *Env) Mul32(a, b uint32) uint32 {
	if e.fast() {
		r := math.Float32bits(math.Float32frombits(a) * math.Float32frombits(b))
		if above32(r) && normal32(a) && normal32(b) || a<<1 == 0 && plain32(b) || b<<1 == 0 && plain32(a) {
			return r
		}
	}
	return e.slow32(opMul, a, b)
}

// Div32 returns a / b (DIVSS).
func (e *Env) Div32(a, b uint32) uint32 {
	if e.fast() {
		r := math.Float32bits(math.Float32frombits(a) / math.Float32frombits(b))
		if normal32(b) && (above32(r) && normal32(a) || a<<1 == 0) {
			return r
		}
	}
	return e.slow32(opDiv, a, b)
}

// Sqrt32 returns the square root (SQRTSS).
func (e *Env) Sqrt32(a uint32) uint32 {
	if e.nearest() && a>>31 == 0 && plain32(a) {
		// The double square root of a float rounds to the float square root: 53 ≥ 2×24+2.
		r := math.Float32bits(float32(math.Sqrt(float64(math.Float32frombits(a)))))
		e.inexact(e.MXCSR&PE == 0 && !opDiv.exact32(a, r, r))
		return r
	}
	r, flags := sqrt32(a, e.MXCSR)
	e.Raise(flags)
	return r
}

// slow64 and slow32 compute what the methods above do not return at once. With the default modes and ordinary operands only the precision flag is
// missing; otherwise everything is computed from the unpacked operands.

func (e *Env) slow64(op arith, a, b uint64) uint64 {
	if e.nearest() && plain64(a) && plain64(b) {
		r := op.host64(a, b)
		if above64(r) {
			e.inexact(!op.exact64(a, b, r))
			return r
		}
		if r<<1 == 0 && (op <= opSub || a<<1 == 0 || op == opMul && b<<1 == 0) { // not an underflow
			return r
		}
	}
	r, flags := op.sse64(a, b, e.MXCSR)
	e.Raise(flags)
	return r
}

func (e *Env) slow32(op arith, a, b uint32) uint32 {
	if e.nearest() && plain32(a) && plain32(b) {
		r := op.host32(a, b)
		if above32(r) {
			e.inexact(!op.exact32(a, b, r))
			return r
		}
		if r<<1 == 0 && (op <= opSub || a<<1 == 0 || op == opMul && b<<1 == 0) { // not an underflow
			return r
		}
	}
	r, flags := op.sse32(a, b, e.MXCSR)
	e.Raise(flags)
	return r
}

// host64 and host32 compute with the host's arithmetic, to nearest.

func (op arith) host64(a, b uint64) uint64 {
	x, y := math.Float64frombits(a), math.Float64frombits(b)
	switch op {
	case opAdd:
		return math.Float64bits(x + y)
	case opSub:
		return math.Float64bits(x - y)
	case opMul:
		return math.Float64bits(x * y)
	}
	return math.Float64bits(x / y)
}

func (op arith) host32(a, b uint32) uint32 {
	x, y := math.Float32frombits(a), math.Float32frombits(b)
	switch op {
	case opAdd:
		return math.Float32bits(x + y)
	case opSub:
		return math.Float32bits(x - y)
	case opMul:
		return math.Float32bits(x * y)
	}
	return math.Float32bits(x / y)
}

// exact64 reports whether a op b is exactly r, for plain operands and a normal result.
func (op arith) exact64(a, b, r uint64) bool {
	x, y, z := math.Float64frombits(a), math.Float64frombits(b), math.Float64frombits(r)
	switch op {
	case opSub:
		y = -y
		fallthrough
	case opAdd: // the rounding error of a sum is a number, which these differences give (Knuth's two-sum)
		v := z - x
		return (x-(z-v))+(y-v) == 0
	case opMul:
		return exactProduct64(a, b)
	}
	return exactProduct64(r, b) && z*y == x
}

// exactProduct64 reports whether the product of two normal numbers needs no more than 53 bits.
func exactProduct64(a, b uint64) bool {
	ma, mb := a&(1<<52-1)|1<<52, b&(1<<52-1)|1<<52
	hi, lo := bits.Mul64(ma, mb)
	zeros := bits.TrailingZeros64(lo)
	if lo == 0 {
		zeros = 64 + bits.TrailingZeros64(hi)
	}
	return 64+bits.Len64(hi)-zeros <= 53
}

// exact32 reports whether a op b is exactly r. Sums, differences and products of floats that are not too far apart are exact in doubles.
func (op arith) exact32(a, b, r uint32) bool {
	x, y, z := float64(math.Float32frombits(a)), float64(math.Float32frombits(b)), float64(math.Float32frombits(r))
	switch op {
	case opSub:
		y = -y
		fallthrough
	case opAdd:
		v := z - x
		return (x-(z-v))+(y-v) == 0
	case opMul:
		return float64(x*y) == z
	}
	return float64(z*y) == x
}

func sqrtSSE(a num, f format, mx uint32) (num, uint32) {
	a = a.flushed(mx&DAZ != 0)
	if a.cls.isNaN() {
		return nanSSE(a, a)
	}
	r, flags := sqrt(a)
	if flags != 0 {
		return r, flags
	}
	r, flags = r.roundSSE(f, mx)
	return r, flags | denormalFlag(a, a)
}

func sqrt64(a uint64, mx uint32) (uint64, uint32) {
	r, flags := sqrtSSE(unpack64(a), binary64, mx)
	return r.pack64(), flags
}

func sqrt32(a, mx uint32) (uint32, uint32) {
	r, flags := sqrtSSE(unpack32(a), binary32, mx)
	return r.pack32(), flags
}
