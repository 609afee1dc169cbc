package fp

import (
	_ "embed"
	"math"
)

// The SDM bounds the error of RCPSS and RSQRTSS (1.5 × 2^-12) but not their values, which differ between Intel and AMD. Ours are those of AMD's Zen 4: a
// function of the 12 leading fraction bits, with 12 fraction bits in the result. They are the reciprocal at the middle of
// each interval, truncated to 13 bits, plus a correction of -1 to 2 in the last place, measured on a processor and kept in estimates.bin: two bits for
// each interval (correction + 1; lowest first), 4096 intervals each for 1/x, for 1/√x in [1, 2) and for 1/√x in [2, 4).
//
//go:embed estimates.bin
var estimates string

// correction returns the correction of interval i in table t.
func correction(t, i uint32) uint32 {
	return uint32(estimates[t<<10|i>>2])>>(i&3*2)&3 - 1
}

const (
	infinity32   = 0xff << 23
	indefinite32 = 0xffc00000
)

// Rcp32 approximates 1/a (RCPSS). It raises no exceptions and ignores MXCSR; denormals count as zeros, and results that would be
// denormal are zeros.
func (e *Env) Rcp32(a uint32) uint32 {
	sign, exp, i := a&(1<<31), a>>23&0xff, a>>11&0xfff
	switch {
	case exp == 0:
		return sign | infinity32
	case exp == 0xff && a<<9 != 0:
		return a | 1<<22
	case exp >= 0xfd:
		return sign
	}
	r := 1<<26/(8193+2*i) + correction(0, i)
	return sign | (253-exp)<<23 | r&0xfff<<11
}

// Rsqrt32 approximates 1/√a (RSQRTSS), under the same conditions. Negative numbers give the indefinite NaN.
func (e *Env) Rsqrt32(a uint32) uint32 {
	sign, exp, i := a&(1<<31), a>>23&0xff, a>>11&0xfff
	switch {
	case exp == 0:
		return sign | infinity32
	case exp == 0xff && a<<9 != 0:
		return a | 1<<22
	case sign != 0:
		return indefinite32
	case exp == 0xff:
		return 0
	}
	odd := ^exp & 1 // of the unbiased exponent
	r := uint32(math.Sqrt(float64(1<<39/(8193+2*uint64(i))>>odd))) + correction(1+odd, i)
	return (126-uint32(int32(exp-odd-127)/2))<<23 | r&0xfff<<11
}
