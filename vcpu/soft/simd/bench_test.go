package simd

import (
	"testing"

	"github.com/detvm/detvm/vcpu/soft/fp"
)

func BenchmarkRows(b *testing.B) {
	for _, c := range []struct {
		name   string
		p      Prefix
		m      Map
		opcode uint8
	}{
		{"PXOR", P66, Map0F, 0xef}, {"PADDB", P66, Map0F, 0xfc}, {"PCMPEQB", P66, Map0F, 0x74}, {"PMOVMSKB", P66, Map0F, 0xd7}, {"PMINUB", P66, Map0F, 0xda},
		{"PSHUFD", P66, Map0F, 0x70}, {"PSHUFB", P66, Map0F38, 0x00}, {"PSRLD", P66, Map0F, 0xd2}, {"PUNPCKLBW", P66, Map0F, 0x60}, {"PMADDWD", P66, Map0F, 0xf5},
		{"PMULUDQ", P66, Map0F, 0xf4}, {"PALIGNR", P66, Map0F3A, 0x0f}, {"PACKUSWB", P66, Map0F, 0x67}, {"PSADBW", P66, Map0F, 0xf6}, {"PCMPISTRI", P66, Map0F3A, 0x63},
		{"CRC32", PF2, Map0F38, 0xf1}, {"ADDSD", PF2, Map0F, 0x58}, {"MULPS", NP, Map0F, 0x59}, {"CVTSI2SD", PF2, Map0F, 0x2a}, {"UCOMISD", P66, Map0F, 0x2e}, {"SHUFPS", NP, Map0F, 0xc6},
	} {
		op := Lookup(c.m, c.p, c.opcode, 0xc0, false, false)
		if op == nil || op.Name != c.name {
			b.Fatalf("%s is not in the table", c.name)
		}
		b.Run(c.name, func(b *testing.B) {
			env := fp.Env{MXCSR: fp.MXCSRDefault | fp.PE}
			dst, src := Vec{0x3ff8000000000000, 0x4008000040a00000}, Vec{0x4009000040490fdb, 0x0102030405060708}
			start := dst
			for range b.N {
				dst = start
				op.Fn(&dst, &src, 0x1b, &env)
			}
		})
	}
}
