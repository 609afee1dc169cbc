package fp

import (
	"math"
	"testing"
)

const (
	inf32  = 0x7f800000
	qnan32 = 0x7fc00001
	snan32 = 0x7f800002
	one32  = 0x3f800000
	two32  = 0x40000000
	tiny32 = 0x00000001 // the smallest denormal
	neg032 = 1 << 31
)

func TestScalarRules(t *testing.T) {
	const masked = MXCSRDefault
	tests := []struct {
		name         string
		f            func(e *Env) uint32
		mxcsr        uint32
		want         uint32
		wantFlags    uint32
		wantUnmasked uint32
		noResult     bool // an unmasked exception: the result does not matter
	}{
		{name: "the first operand's NaN wins, made quiet", f: func(e *Env) uint32 { return e.Add32(snan32, qnan32) }, mxcsr: masked, want: snan32 | 1<<22, wantFlags: IE},
		{name: "a quiet NaN is no exception", f: func(e *Env) uint32 { return e.Mul32(one32, qnan32) }, mxcsr: masked, want: qnan32},
		{name: "inf - inf is the indefinite NaN", f: func(e *Env) uint32 { return e.Sub32(inf32, inf32) }, mxcsr: masked, want: indefinite32, wantFlags: IE},
		{name: "division by zero", f: func(e *Env) uint32 { return e.Div32(one32, neg032) }, mxcsr: masked, want: inf32 | 1<<31, wantFlags: ZE},
		{name: "zero divided by zero", f: func(e *Env) uint32 { return e.Div32(0, 0) }, mxcsr: masked, want: indefinite32, wantFlags: IE},
		{name: "the sum of opposites is +0", f: func(e *Env) uint32 { return e.Sub32(one32, one32) }, mxcsr: masked, want: 0},
		{name: "and -0 when rounding down", f: func(e *Env) uint32 { return e.Sub32(one32, one32) }, mxcsr: masked | uint32(Down)<<RCShift, want: neg032},
		{name: "a denormal operand", f: func(e *Env) uint32 { return e.Add32(tiny32, 0) }, mxcsr: masked, want: tiny32, wantFlags: DE},
		{name: "is zero under DAZ", f: func(e *Env) uint32 { return e.Add32(tiny32, 0) }, mxcsr: masked | DAZ, want: 0},
		{name: "a tiny product", f: func(e *Env) uint32 { return e.Mul32(0x00800001, 0x3f000000) }, mxcsr: masked, want: 0x00400000, wantFlags: UE | PE},
		{name: "is flushed under FTZ", f: func(e *Env) uint32 { return e.Mul32(0x00800001, 0x3f000000) }, mxcsr: masked | FTZ, want: 0, wantFlags: UE | PE},
		{name: "an exact denormal is no underflow", f: func(e *Env) uint32 { return e.Mul32(0x00800000, 0x3f000000) }, mxcsr: masked, want: 0x00400000},
		{name: "but it is when underflow is unmasked", f: func(e *Env) uint32 { return e.Mul32(0x00800000, 0x3f000000) }, mxcsr: masked &^ (UE << MaskShift), wantFlags: UE, wantUnmasked: UE, noResult: true},
		{name: "overflow rounds to the largest number toward zero", f: func(e *Env) uint32 { return e.Add32(0x7f7fffff, 0x7f7fffff) }, mxcsr: masked | uint32(Zero)<<RCShift, want: 0x7f7fffff, wantFlags: OE | PE},
		{name: "an unmasked invalid operation hides later flags", f: func(e *Env) uint32 { return e.Sqrt32(one32 | 1<<31) }, mxcsr: masked &^ (IE << MaskShift), wantFlags: IE, wantUnmasked: IE, noResult: true},
		{name: "the root of -0 is -0", f: func(e *Env) uint32 { return e.Sqrt32(neg032) }, mxcsr: masked, want: neg032},
		{name: "MIN of two zeros is the second", f: func(e *Env) uint32 { return e.Min32(0, neg032) }, mxcsr: masked, want: neg032},
		{name: "MAX with a NaN is the second operand", f: func(e *Env) uint32 { return e.Max32(qnan32, one32) }, mxcsr: masked, want: one32, wantFlags: IE},
		{name: "MIN keeps a signalling second operand as it is", f: func(e *Env) uint32 { return e.Min32(one32, snan32) }, mxcsr: masked, want: snan32, wantFlags: IE},
		{name: "CMPEQ is quiet about quiet NaNs", f: func(e *Env) uint32 { return e.Cmp32(qnan32, qnan32, 0) }, mxcsr: masked, want: 0},
		{name: "CMPLT is not", f: func(e *Env) uint32 { return e.Cmp32(qnan32, one32, 1) }, mxcsr: masked, want: 0, wantFlags: IE},
		{name: "CMPNLE of unordered operands is true", f: func(e *Env) uint32 { return e.Cmp32(one32, qnan32, 6) }, mxcsr: masked, want: math.MaxUint32, wantFlags: IE},
		{name: "an integer out of range is the integer indefinite", f: func(e *Env) uint32 { return e.F32ToI32(0x4f000000, true) }, mxcsr: masked, want: 1 << 31, wantFlags: IE},
		{name: "conversion rounds to even", f: func(e *Env) uint32 { return e.F64ToI32(math.Float64bits(2.5), false) }, mxcsr: masked, want: 2, wantFlags: PE},
		{name: "truncation does not round", f: func(e *Env) uint32 { return e.F64ToI32(math.Float64bits(-2.75), true) }, mxcsr: masked, want: 0xfffffffe, wantFlags: PE},
		{name: "ROUNDSS keeps the sign of zero", f: func(e *Env) uint32 { return e.Round32(0xbe800000, 2) }, mxcsr: masked, want: neg032, wantFlags: PE},
		{name: "ROUNDSS may be silent", f: func(e *Env) uint32 { return e.Round32(0x3fc00000, 0|8) }, mxcsr: masked, want: two32},
		{name: "1/0 of RCPSS is no exception", f: func(e *Env) uint32 { return e.Rcp32(neg032) }, mxcsr: masked, want: inf32 | 1<<31},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			e := Env{MXCSR: test.mxcsr}
			got := test.f(&e)
			if got != test.want && !test.noResult {
				t.Errorf("result is %#x, want %#x", got, test.want)
			}
			if e.MXCSR != test.mxcsr|test.wantFlags || e.Unmasked != test.wantUnmasked {
				t.Errorf("flags are %#x, unmasked %#x; want %#x and %#x", e.MXCSR&allFlags, e.Unmasked, test.wantFlags, test.wantUnmasked)
			}
		})
	}
}

func TestCompareSetsFlags(t *testing.T) {
	tests := []struct {
		name   string
		a, b   float64
		quiet  bool
		want   uint32
		raised uint32
	}{
		{"greater", 2, 1, true, 0, 0}, {"less", -1, 1, true, CF, 0}, {"equal", 1, 1, true, ZF, 0},
		{"zeros are equal", 0, math.Copysign(0, -1), true, ZF, 0}, {"infinity", math.Inf(-1), -1e30, true, CF, 0},
		{"UCOMISD of NaN", math.NaN(), 1, true, ZF | PF | CF, 0}, {"COMISD of NaN", 1, math.NaN(), false, ZF | PF | CF, IE},
	}
	for _, test := range tests {
		e := Env{MXCSR: MXCSRDefault}
		if got := e.Compare64(math.Float64bits(test.a), math.Float64bits(test.b), !test.quiet); got != test.want || e.MXCSR&allFlags != test.raised {
			t.Errorf("%s: EFLAGS %#x, raised %#x", test.name, got, e.MXCSR&allFlags)
		}
		e = Env{MXCSR: MXCSRDefault}
		a, b := math.Float32bits(float32(test.a)), math.Float32bits(float32(test.b))
		if got := e.Compare32(a, b, !test.quiet); got != test.want || e.MXCSR&allFlags != test.raised {
			t.Errorf("%s in binary32: EFLAGS %#x, raised %#x", test.name, got, e.MXCSR&allFlags)
		}
	}
}

// TestEstimatesAreCloseEnough checks the bound that the SDM gives, at both ends of every interval.
func TestEstimatesAreCloseEnough(t *testing.T) {
	const bound = 1.5 / 4096
	var e Env
	for i := uint32(0); i < 2*4096; i++ {
		for _, a := range []uint32{one32 + i<<11, one32 + i<<11 + 0x7ff} {
			x := float64(math.Float32frombits(a))
			if got := float64(math.Float32frombits(e.Rcp32(a))); math.Abs(got*x-1) > bound {
				t.Fatalf("1/%v is %v", x, got)
			}
			if got := float64(math.Float32frombits(e.Rsqrt32(a))); math.Abs(got*math.Sqrt(x)-1) > bound {
				t.Fatalf("1/√%v is %v", x, got)
			}
		}
	}
}
