package fp

import (
	"math"
	"testing"
)

var sink64 uint64

func BenchmarkScalar(b *testing.B) {
	one, third := math.Float64bits(1.5), math.Float64bits(1/3.0)
	ops := []struct {
		name string
		f    func(e *Env, x, y uint64) uint64
	}{
		{"Add64", (*Env).Add64}, {"Mul64", (*Env).Mul64}, {"Div64", (*Env).Div64},
		{"Sqrt64", func(e *Env, x, _ uint64) uint64 { return e.Sqrt64(x) }},
		{"Max64", (*Env).Max64},
		{"Cmp64", func(e *Env, x, y uint64) uint64 { return e.Cmp64(x, y, 1) }},
		{"Compare64", func(e *Env, x, y uint64) uint64 { return uint64(e.Compare64(x, y, false)) }},
		{"Add32", func(e *Env, x, y uint64) uint64 { return uint64(e.Add32(0x3fc00000, 0x3eaaaaab)) }},
		{"F64ToI64", func(e *Env, x, _ uint64) uint64 { return e.F64ToI64(x, true) }},
		{"F64ToF32", func(e *Env, x, _ uint64) uint64 { return uint64(e.F64ToF32(x)) }},
	}
	for _, mode := range []struct {
		name  string
		mxcsr uint32
	}{{"fast", MXCSRDefault | PE}, {"exact", MXCSRDefault}, {"slow", MXCSRDefault | uint32(Up)<<RCShift}} {
		for _, op := range ops {
			b.Run(op.name+"/"+mode.name, func(b *testing.B) {
				e := Env{}
				for range b.N {
					e.MXCSR = mode.mxcsr
					sink64 += op.f(&e, one, third)
				}
			})
		}
	}
}

func BenchmarkX87(b *testing.B) {
	for _, c := range []struct {
		name          string
		opcode, modrm uint8
	}{{"FADD", 0xd8, 0xc1}, {"FMUL", 0xd8, 0xc9}, {"FDIV", 0xd8, 0xf1}, {"FSQRT", 0xd9, 0xfa}, {"FCOMI", 0xdb, 0xf1}, {"FXCH", 0xd9, 0xc9}, {"FSIN", 0xd9, 0xfe}, {"FYL2X", 0xd9, 0xf1}} {
		b.Run(c.name, func(b *testing.B) {
			var o Operands
			op := LookupX87(c.opcode, c.modrm)
			x := X87{CW: 0x37f, Used: 0xff}
			for range b.N {
				x.R[0], x.R[1] = Float80{0xc90fdaa22168c235, 0x4000}, Float80{0xaaaaaaaaaaaaaaab, 0x3ffd}
				x.Exec(op, c.modrm, &o)
				sink64 += x.R[0].Mant
			}
		})
	}
}
