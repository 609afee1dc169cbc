package simd

import (
	"testing"

	"github.com/detvm/detvm/vcpu/soft/fp"
)

// FuzzRows executes rows with arbitrary operands, modes and immediates: nothing panics, and a trapping row leaves its destination alone.
func FuzzRows(f *testing.F) {
	for i := 0; i < len(Table); i += 16 {
		f.Add(uint16(i), uint64(0x3ff0000000000001), uint64(0x7ff0000000000001), uint64(1), uint64(0x8000000000000000), uint8(i), uint32(0x1f80))
	}
	f.Fuzz(func(t *testing.T, row uint16, a, b, c, d uint64, imm uint8, mxcsr uint32) {
		op := &Table[int(row)%len(Table)]
		dst, src := Vec{a, b}, Vec{c, d}
		env := fp.Env{MXCSR: mxcsr & fp.MXCSRMask, XMM0: Vec{d, a}, Len1: int64(c), Len2: int64(b)}
		op.Fn(&dst, &src, imm, &env)
		if env.Unmasked != 0 && (!op.FP || dst != Vec{a, b}) {
			t.Errorf("%s trapped with %#x and left %x", op.Name, env.Unmasked, dst)
		}
		same := Vec{a, b}
		env.Unmasked = 0
		op.Fn(&same, &same, imm, &env)
	})
}
