package fp

import "math"

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
	if e.fast() && a>>63 == 0 && plain64(a) {
		return math.Float64bits(math.Sqrt(math.Float64frombits(a)))
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
	if e.fast() && a>>31 == 0 && plain32(a) {
		// The double square root of a float rounds to the float square root: 53 ≥ 2×24+2.
		return math.Float32bits(float32(math.Sqrt(float64(math.Float32frombits(a)))))
	}
	r, flags := sqrt32(a, e.MXCSR)
	e.Raise(flags)
	return r
}

func (e *Env) slow64(op arith, a, b uint64) uint64 {
	r, flags := op.sse64(a, b, e.MXCSR)
	e.Raise(flags)
	return r
}

func (e *Env) slow32(op arith, a, b uint32) uint32 {
	r, flags := op.sse32(a, b, e.MXCSR)
	e.Raise(flags)
	return r
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
