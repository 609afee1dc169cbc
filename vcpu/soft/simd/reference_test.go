package simd

import (
	"math/rand/v2"

	"github.com/detvm/detvm/vcpu/soft/fp"
)

// block is what a native stub exchanges with its caller. The stub finds it through the context register of Go's calling convention (RDX): the
// func value points at code, the first word. Offsets are used in the machine code of native_unsafe_test.go.
type block struct {
	code   uintptr // 0
	_      uint64
	x1     Vec    // 16: destination
	x2     Vec    // 32: source
	x0     Vec    // 48: implicit operand
	_      Vec    // 64
	r9     uint64 // 80: destination
	r10    uint64 // 88: source
	rax    uint64 // 96
	rdx    uint64 // 104
	rcx    uint64 // 112
	mxcsr  uint32 // 120
	_      uint32 // 124
	rflags uint64 // 128
	_      uint64 // 136
	mem    Vec    // 144: memory operand
	m1     uint64 // 160: destination
	m2     uint64 // 168: source
	normal uint32 // 176: MXCSR for Go
	_      uint32
}

func isGPR(l Loc) bool { return l >= GReg32 && l <= GRM64 }

func isRM(l Loc) bool {
	switch l {
	case XRM, MRM, GRM8, GRM16, GRM32, GRM64:
		return true
	}
	return false
}

// interpret executes a row on a block as the CPU core does.
func interpret(op *Op, memory bool, imm uint8, b *block) {
	env := fp.Env{MXCSR: b.mxcsr, XMM0: b.x0, Len1: int64(int32(b.rax)), Len2: int64(int32(b.rdx))}
	var src Vec
	switch {
	case memory && isRM(op.Src):
		src = truncated(b.mem, op.MemSize)
	case op.Src == XReg, op.Src == XRM:
		src = b.x2
	case op.Src == MReg, op.Src == MRM:
		src = Vec{b.m2}
	case op.Src == GReg64, op.Src == GRM64:
		src = Vec{b.r10}
	case op.Src == GReg32, op.Src == GRM32:
		src = Vec{uint64(uint32(b.r10))}
	case op.Src == GReg16, op.Src == GRM16:
		src = Vec{uint64(uint16(b.r10))}
	case op.Src == GRM8:
		src = Vec{uint64(uint8(b.r10))}
	}
	dst := readDst(op, memory, b)
	op.Fn(&dst, &src, imm, &env)
	b.mxcsr = env.MXCSR
	if op.Flags && env.Unmasked == 0 {
		b.rflags = b.rflags&^fp.ArithFlags | uint64(env.EFLAGS)
	}
	if !op.NoWrite && env.Unmasked == 0 {
		writeDst(op, memory, b, dst)
	}
}

func truncated(v Vec, size uint8) Vec {
	switch {
	case size < 8:
		return Vec{v[0] & (1<<(8*size) - 1)}
	case size == 8:
		return Vec{v[0]}
	}
	return v
}

func readDst(op *Op, memory bool, b *block) Vec {
	l := op.Dst
	if op.First != None {
		l = op.First
	}
	switch {
	case memory && isRM(l):
		return truncated(b.mem, op.MemSize)
	case l == XReg, l == XRM:
		return b.x1
	case l == MReg, l == MRM:
		return Vec{b.m1}
	case isGPR(l):
		return Vec{b.r9}
	}
	return Vec{}
}

func writeDst(op *Op, memory bool, b *block, v Vec) {
	switch l := op.Dst; {
	case memory && isRM(l):
		keep := truncated(Vec{^uint64(0), ^uint64(0)}, op.MemSize)
		for i := range v {
			b.mem[i] = b.mem[i]&^keep[i] | v[i]&keep[i]
		}
	case l == XReg, l == XRM:
		b.x1 = v
	case l == MReg, l == MRM:
		b.m1 = v[0]
	case l == GReg16:
		b.r9 = b.r9&^0xffff | v[0]&0xffff
	case isGPR(l):
		b.r9 = v[0]
		if l != GReg64 && l != GRM64 {
			b.r9 &= low32
		}
	case l == ECX:
		b.rcx = v[0]
	case l == XMM0:
		b.x0 = v
	case l == MaskDI:
		data, n := b.x1, 2
		if op.First == MReg {
			data, n = Vec{b.m1}, 1
		}
		for i := range n {
			b.mem[i] = b.mem[i]&^v[i] | data[i]&v[i]
		}
	}
}

// interesting lists bit patterns at which arithmetic changes its behaviour.
var interesting64 = []uint64{
	0, 1, 1 << 63, 1<<63 | 1, 0x3ff0000000000000, 0xbff0000000000000, 0x7ff0000000000000, 0xfff0000000000000, 0x7ff8000000000000,
	0xfff8000000000000, 0x7ff0000000000001, 0xfff4000000000000, 0x7fefffffffffffff, 0xffefffffffffffff, 0x0010000000000000, 0x8010000000000000,
	0x000fffffffffffff, 0x0008000000000000, 0x0010000000000001, 0x3fe0000000000000, 0x41e0000000000000, 0xc1e0000000000000, 0x43e0000000000000,
	0xc3e0000000000000, 0x41dfffffffc00000, 0x41dfffffffe00000, 0x3810000000000000, 0x380fffffffffffff, 0x47efffffe0000000, 0x47effffff0000000,
	0x36a0000000000000, 0x3690000000000000, ^uint64(0), 0x7fffffffffffffff, 0x0000000080000000, 0x00000000ffffffff, 0x0080008000800080,
	0x8000800080008000, 0x7fff7fff7fff7fff, 0x4008000000000000, 0x4004000000000000, 0xc012000000000000, 0x4340000000000001,
}

var interesting32 = []uint32{
	0, 1, 1 << 31, 1<<31 | 1, 0x3f800000, 0xbf800000, 0x7f800000, 0xff800000, 0x7fc00000, 0xffc00000, 0x7f800001, 0xffa00000, 0x7f7fffff,
	0xff7fffff, 0x00800000, 0x80800000, 0x007fffff, 0x00400000, 0x00800001, 0x3f000000, 0x4f000000, 0xcf000000, 0x5f000000, 0xdf000000,
	0x40400000, 0x40200000, 0xc0900000, 0x4effffff, 0x7fffffff, ^uint32(0), 0x00800000, 0x4b000001, 0x3f7fffff,
}

func random32(r *rand.Rand) uint32 {
	switch r.IntN(6) {
	case 0, 1:
		return interesting32[r.IntN(len(interesting32))]
	case 2: // near 1
		return r.Uint32()&0x80ffffff | uint32(120+r.IntN(14))<<23
	case 3: // near the ends of the range
		return r.Uint32()&^(0xff<<23) | uint32(r.IntN(3)+253*r.IntN(2))<<23
	case 4: // few significant bits
		return r.Uint32()&0xff800000 & ^uint32(0x40000000) | r.Uint32()&3<<21
	}
	return r.Uint32()
}

func random64(r *rand.Rand) uint64 {
	switch r.IntN(8) {
	case 0, 1:
		return interesting64[r.IntN(len(interesting64))]
	case 2:
		return r.Uint64()&^(0x7ff<<52) | uint64(1016+r.IntN(14))<<52
	case 3:
		return r.Uint64()&^(0x7ff<<52) | uint64(r.IntN(3)+2045*r.IntN(2))<<52
	case 4, 5:
		return uint64(random32(r)) | uint64(random32(r))<<32
	case 6: // around the integers' and binary32's limits
		return r.Uint64()&^(0x7ff<<52) | uint64([]int{1023 + 31, 1023 + 63, 1023 + 127, 1023 - 127, 1023 - 149, 1023 + 52}[r.IntN(6)]+r.IntN(3)-1)<<52
	}
	return r.Uint64()
}

func randomVec(r *rand.Rand) Vec { return Vec{random64(r), random64(r)} }

func randomBlock(r *rand.Rand) *block {
	b := &block{x1: randomVec(r), x2: randomVec(r), x0: randomVec(r), r9: r.Uint64(), r10: random64(r), rcx: r.Uint64(), mem: randomVec(r), m1: random64(r), m2: random64(r)}
	switch r.IntN(8) {
	case 0:
		b.x2[0], b.m2 = uint64(r.IntN(70)), uint64(r.IntN(70)) // shift counts
		b.mem[0] = uint64(r.IntN(70))
	case 1:
		b.x2 = b.x1
	}
	b.rax, b.rdx = uint64(r.IntN(40)-20), uint64(r.IntN(40)-20)
	b.mxcsr = 0x1f80 | uint32(r.IntN(64))
	if r.IntN(4) > 0 {
		b.mxcsr |= fp.PE
	}
	if r.IntN(2) > 0 {
		b.mxcsr |= uint32(r.IntN(4))<<fp.RCShift | uint32(r.IntN(2))<<6 | uint32(r.IntN(2))<<15
	}
	b.rflags = 0x202 | uint64(r.Uint32()&fp.ArithFlags)
	return b
}

func eachForm(visit func(op *Op, memory bool)) {
	for i := range Table {
		op := &Table[i]
		if op.Mod != MemOnly {
			visit(op, false)
		}
		if op.MemSize > 0 {
			visit(op, true)
		}
	}
}
