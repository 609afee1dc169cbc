package cpufuzz

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/detvm/detvm/vcpu"
	"github.com/detvm/detvm/vcpu/soft"
)

// window is how much of a sandbox page, at its start and at its end, is filled anew for each case. Operands lie there.
const window = 256

// testCase is one case: what goes into a slot and what may come out differently.
type testCase struct {
	forms []int // rows of the decoder table, in the order of the instructions
	code  []byte
	gpr   [16]uint64
	flags uint64
	fx    [512]byte
	low   [window]byte
	high  [window]byte

	ignoreFlags uint64
	ignoreMem   []span // of the sandbox page
	mayGP       bool   // a memory operand is not canonical, not aligned as it must be, or holds reserved bits
	misaligned  bool   // of that, not aligned
	ignoreCR2   bool
	ignoreX87   bool // TOP, tags and registers
	mmx         bool // has an instruction that uses MMX registers
}

type span struct{ from, to int }

// generator makes cases from a random stream.
type generator struct {
	*rand.Rand
	forms  []soft.Form
	usable []int // rows that are compared
	chain  []int // rows that may stand in a sequence: no jumps, no stack, no undefined flags

	c      *testCase
	slot   int
	pinned uint16 // registers whose value must not change any more
}

func newGenerator(seed uint64) *generator {
	g := &generator{Rand: rand.New(rand.NewPCG(seed, 0x6465747663707566)), forms: soft.Forms()}
	for i := range g.forms {
		f := &g.forms[i]
		if f.Inv64 || exclusion(f) != "" {
			continue
		}
		g.usable = append(g.usable, i)
		if chainable(f) {
			g.chain = append(g.chain, i)
		}
	}
	return g
}

// restrict leaves only the rows of one mnemonic.
func (g *generator) restrict(mnemonic string) {
	g.usable = slices.DeleteFunc(g.usable, func(i int) bool { return g.forms[i].Mnemonic != mnemonic })
}

// chainable says that a form may be followed by another in one case.
func chainable(f *soft.Form) bool {
	if f.X87 != nil || f.SIMD != nil {
		return f.SIMD != nil && f.SIMD.MemSize != 0
	}
	if undefinedFlags[f.Mnemonic] != 0 || isJump(f.Mnemonic) || f.Force64 {
		return false
	}
	for _, p := range []string{"ADD", "ADC", "SUB", "SBB", "CMP", "INC", "DEC", "NEG", "NOT", "MOV", "CMOV", "SET", "XCHG", "XADD", "LEA", "BSWAP", "CBW", "CWD", "SAHF", "LAHF", "CLC", "STC", "CMC"} {
		if strings.HasPrefix(f.Mnemonic, p) && !strings.HasPrefix(f.Mnemonic, "MOVS") && !strings.HasPrefix(f.Mnemonic, "CMPS") && !strings.Contains(f.Mnemonic, "FROM") && !strings.Contains(f.Mnemonic, "TO") {
			return f.Mnemonic != "CMPXCHG" && f.Mnemonic != "CMPXCHG8B"
		}
	}
	return false
}

func isJump(m string) bool {
	return strings.HasPrefix(m, "J") || strings.HasPrefix(m, "LOOP") || strings.HasPrefix(m, "CALL") || m == "RET"
}

// chance is true once in n times.
func (g *generator) chance(n int) bool { return g.IntN(n) == 0 }

// next makes a case for a slot whose (first) instruction is of the given row.
func (g *generator) next(c *testCase, slot, form int) {
	*c = testCase{forms: c.forms[:0], code: c.code[:0], ignoreMem: c.ignoreMem[:0]}
	g.c, g.slot, g.pinned = c, slot, 0
	g.fillState()
	g.instruction(form)
	if g.chance(8) && chainable(&g.forms[form]) {
		for n := 1 + g.IntN(4); n > 0 && len(c.code) < testMax-40; n-- {
			g.instruction(g.chain[g.IntN(len(g.chain))])
		}
	}
	if isJump(g.forms[form].Mnemonic) {
		g.mark()
	}
	at := codeOf(slot) + testAt
	a := assembler(c.code)
	a.jmp(at, codeOf(slot)+storeAt)
	c.code = a
	for len(c.code) < testMax {
		c.code = append(c.code, 0xcc)
	}
}

// withoutCode is a case that does nothing in the same surroundings.
func (c *testCase) withoutCode(slot int) *testCase {
	e := &testCase{flags: 0x202, low: c.low, high: c.high}
	var a assembler
	a.jmp(codeOf(slot)+testAt, codeOf(slot)+storeAt)
	e.code = a
	return e
}

// mark emits an instruction that leaves a trace in memory, for jumps to jump over.
func (g *generator) mark() {
	a := assembler(g.c.code)
	a.bytes(0xc7, 0x04, 0x25) // mov dword [mark], 1
	a.imm32(dataOf(g.slot) + outMark)
	a.imm32(1)
	g.c.code = a
}

const markLen = 11

// fillState draws registers, flags, FPU and memory.
func (g *generator) fillState() {
	c := g.c
	for i := range c.gpr {
		c.gpr[i] = g.value()
	}
	c.flags = 0x202 | g.Uint64()&status
	if g.chance(4) {
		c.flags |= 1 << 10 // DF
	}
	if g.chance(16) {
		c.flags |= 1 << 18 // AC: what loads and stores the state around the case is aligned
	}
	g.fillBytes(c.low[:])
	g.fillBytes(c.high[:])
	g.fillFX()
	c.gpr[vcpu.RSP] = sandboxOf(g.slot) + page - 128 + uint64(8*g.IntN(8))
	switch g.IntN(40) {
	case 0:
		c.gpr[vcpu.RSP] = sandboxOf(g.slot) + uint64(g.IntN(16))
	case 1:
		c.gpr[vcpu.RSP] = g.badAddress()
	case 2:
		c.gpr[vcpu.RSP] += uint64(g.IntN(8))
	}
}

var interesting = []uint64{0, 1, 2, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff, 0x100000000, 0x7fffffffffffffff, 1 << 63, ^uint64(0), ^uint64(1)}

// value draws a number that is often special.
func (g *generator) value() uint64 {
	switch g.IntN(4) {
	case 0:
		return interesting[g.IntN(len(interesting))]
	case 1:
		return g.Uint64() >> g.IntN(64)
	case 2:
		return uint64(int64(g.Uint64()) >> g.IntN(64))
	}
	return g.Uint64()
}

func (g *generator) fillBytes(b []byte) {
	for i := 0; i+8 <= len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], g.lane())
	}
}

// lane draws eight bytes: integers, a double, or two floats.
func (g *generator) lane() uint64 {
	switch g.IntN(4) {
	case 0:
		return g.value()
	case 1:
		return uint64(g.float32()) | uint64(g.float32())<<32
	case 2:
		return g.float64()
	}
	return g.Uint64()
}

// float64 draws a double of every class: zero, denormal, one-ish, huge, infinite, NaN.
func (g *generator) float64() uint64 {
	sign, frac := g.Uint64()&(1<<63), g.Uint64()>>12>>g.IntN(53)
	exp := uint64(1023 + g.IntN(80) - 40)
	switch g.IntN(8) {
	case 0:
		exp = 0
	case 1:
		exp = 0x7ff
	case 2:
		exp = g.Uint64N(0x800)
	case 3:
		frac <<= g.IntN(52)
	}
	return sign | exp<<52 | frac&(1<<52-1)
}

func (g *generator) float32() uint32 {
	sign, frac := g.Uint32()&(1<<31), g.Uint32()>>9>>g.IntN(24)
	exp := uint32(127 + g.IntN(60) - 30)
	switch g.IntN(8) {
	case 0:
		exp = 0
	case 1:
		exp = 0xff
	case 2:
		exp = g.Uint32N(0x100)
	case 3:
		frac <<= g.IntN(23)
	}
	return sign | exp<<23 | frac&(1<<23-1)
}

// fillFX draws the FPU: control and status words, tags, registers of every class.
func (g *generator) fillFX() {
	fx := g.c.fx[:]
	fcw := uint16(0x37f)
	if g.chance(2) {
		fcw = uint16(g.IntN(16))<<8 | 0x7f // rounding and precision
		if fcw>>8&3 == 1 {
			fcw |= 0x300 // the reserved precision
		}
	}
	if g.chance(6) {
		fcw = fcw&^0x3f | uint16(g.IntN(64)) | 0x40
	}
	fsw := uint16(g.Uint32()) & 0x7f7f // condition codes, top, exceptions
	if fsw&0x3f&^fcw != 0 {
		if g.chance(4) {
			fsw |= 0x8080 // pending: ES and B
		} else {
			fsw &^= 0x3f
		}
	}
	binary.LittleEndian.PutUint16(fx[0:], fcw)
	binary.LittleEndian.PutUint16(fx[2:], fsw)
	fx[4] = byte(g.Uint32())
	switch g.IntN(3) {
	case 0:
		fx[4] = 0xff
	case 1:
		fx[4] |= byte(g.Uint32())
	}
	for i := range 8 {
		g.fillST(fx[32+16*i:])
	}
	mxcsr := uint32(0x1f80)
	if g.chance(2) {
		mxcsr = g.Uint32()&0xe07f | 0x1f80
	}
	if g.chance(6) {
		mxcsr = g.Uint32() & 0xffff
	}
	binary.LittleEndian.PutUint32(fx[24:], mxcsr)
	for at := 160; at < 416; at += 16 {
		g.fillVector(fx[at:])
	}
}

func (g *generator) fillST(b []byte) {
	frac, exp := g.Uint64(), uint16(16383+g.IntN(128)-64)
	frac |= 1 << 63
	switch g.IntN(12) {
	case 0:
		frac = 1 << 63
	case 1:
		frac, exp = 0, 0
	case 2:
		exp = 0x7fff
	case 3:
		frac, exp = 1<<63, 0x7fff
	case 4:
		frac, exp = frac&^(1<<63), 0 // denormal
	case 5:
		exp = uint16(g.IntN(0x8000))
	case 6:
		frac, exp = g.Uint64(), uint16(g.IntN(0x8000)) // often unsupported
	case 7:
		frac = g.Uint64()<<g.IntN(64) | 1<<63
	case 8:
		exp = 0xffff // what MMX leaves
	}
	binary.LittleEndian.PutUint64(b, frac)
	binary.LittleEndian.PutUint16(b[8:], exp^uint16(g.IntN(2))<<15)
}

func (g *generator) fillVector(b []byte) {
	a, c := g.lane(), g.lane()
	if g.chance(6) {
		c = a
	}
	binary.LittleEndian.PutUint64(b, a)
	binary.LittleEndian.PutUint64(b[8:], c)
}

// badAddress draws an address that faults, or one that only may be read.
func (g *generator) badAddress() uint64 {
	switch g.IntN(5) {
	case 0:
		return sandboxOf(g.slot) + page + uint64(g.IntN(page)) // the hole
	case 1:
		return readOnlyAt + uint64(g.IntN(page-64))&^15
	case 2:
		return gdtAt + uint64(g.IntN(512))&^15 // the system's
	case 3:
		return g.Uint64() | 1<<62 // not canonical, or
	}
	return g.Uint64()&^(1<<63)>>17<<4 | 1<<40 // not mapped
}

// address draws where a memory operand of n bytes lies.
func (g *generator) address(n int, aligned bool) uint64 {
	box := sandboxOf(g.slot)
	if g.chance(12) {
		return g.badAddress()
	}
	room := window - n
	if n >= window {
		room = 0
	}
	at := uint64(0)
	if room > 0 {
		at = uint64(g.IntN(room + 1))
	}
	if aligned && !g.chance(16) {
		at &^= 15
	}
	switch {
	case n > window:
		return box + at
	case g.chance(2):
		return box + at
	case g.chance(16):
		return box + page - uint64(g.IntN(n+1)) // into the hole
	}
	return box + page - window + at
}

// poke writes bytes at an address if it lies in the windows of the sandbox.
func (g *generator) poke(addr uint64, b []byte) {
	off := addr - sandboxOf(g.slot)
	switch {
	case off < window && off+uint64(len(b)) <= window:
		copy(g.c.low[off:], b)
	case off < page && off >= page-window && off+uint64(len(b)) <= page:
		copy(g.c.high[off-(page-window):], b)
	}
}

// peek is its reverse; it reports whether all n bytes lie there.
func (g *generator) peek(addr uint64, b []byte) bool {
	off, n := addr-sandboxOf(g.slot), uint64(len(b))
	switch {
	case off < window && off+n <= window:
		copy(b, g.c.low[off:])
		return true
	case off < page && off >= page-window && off+n <= page:
		copy(b, g.c.high[off-(page-window):])
		return true
	}
	return false
}

// pin fixes a register unless an earlier instruction of the case did.
func (g *generator) pin(reg int, v uint64) bool {
	if g.pinned>>reg&1 != 0 {
		return g.c.gpr[reg] == v
	}
	g.pinned |= 1 << reg
	g.c.gpr[reg] = v
	return true
}

func canonical(a uint64) bool { return uint64(int64(a)<<16>>16) == a }

// instruction appends one instruction of a row.
func (g *generator) instruction(form int) {
	f := &g.forms[form]
	e := encoder{generator: g, f: f}
	e.build()
	g.c.forms = append(g.c.forms, form)
	g.c.code = append(g.c.code, e.out...)
	g.c.ignoreFlags |= e.undefined()
}

// has says that a form has an operand.
func has(f *soft.Form, operand string) bool { return slices.Contains(f.Operands, operand) }
