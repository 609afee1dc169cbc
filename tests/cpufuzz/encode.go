package cpufuzz

import (
	"encoding/binary"
	"strings"

	"github.com/detvm/detvm/vcpu"
	"github.com/detvm/detvm/vcpu/soft"
)

// encoder builds one instruction of a row and arranges the state that makes it interesting.
type encoder struct {
	*generator
	f   *soft.Form
	out []byte

	size        uint64 // operand size in bits
	rexW        bool
	p66, p67    bool
	rep         byte
	seg         byte
	lock        bool
	opcode      byte
	mod, reg    int
	rm          int
	index       int
	scale       int
	disp        uint64
	dispLen     int
	sib, ripRel bool
	mem         bool
	target      uint64 // the address of the memory operand
	imm         []byte
	prelude     []byte // instructions before the one of the row
	shiftBy     uint64
	isShift     bool
}

func (e *encoder) build() {
	if processOnly(e.f) {
		e.pinned |= 1 << vcpu.RSP // the stack stays in the slot's own sandbox: the process executes no other slot
	}
	e.chooseSize()
	e.chooseRegs()
	e.chooseImm()
	if e.mem {
		e.target = e.address(e.memSize(), e.f.SIMD != nil && e.f.SIMD.Aligned)
		e.chooseAddressing()
		aligned := e.f.SIMD != nil && e.f.SIMD.Aligned || e.f.Mnemonic == "FXSAVE" || e.f.Mnemonic == "FXRSTOR" || e.f.Mnemonic == "CMPXCHG8B" && e.rexW
		if !canonical(e.target) || !canonical(e.target+uint64(e.memSize())) || aligned && e.target%16 != 0 {
			e.c.mayGP = true
			e.c.misaligned = e.c.misaligned || aligned && e.target%16 != 0
		}
	}
	e.arrange()
	if e.f.Lock && e.mem {
		e.lock = e.chance(3)
	} else if e.chance(100) && (e.f.SIMD != nil || e.f.X87 != nil || chainable(e.f)) {
		e.lock = true // #UD; not before others, see vendors in undefined.go
	}
	if e.seg == 0x36 && e.c.mayGP {
		e.seg = 0x3e // see undefined.go
	}
	e.emit()
}

// chooseSize draws the operand size and the prefixes.
func (e *encoder) chooseSize() {
	f := e.f
	e.size = 32
	branch := isJump(f.Mnemonic)
	switch {
	case f.SIMD != nil:
		switch f.W {
		case 0:
			e.rexW = e.chance(4)
		case 2:
			e.rexW = true
		case 3:
			e.p66 = true
		}
	case branch:
		// 66 before a near branch: AMD processors honour it, Intel's and the model do not.
		e.size = 64
		e.rexW = e.chance(8)
	case f.Prefix == soft.PrefixNP:
		e.rexW = e.chance(3)
	case f.X87 != nil:
		e.rexW, e.p66 = e.chance(8), e.chance(12)
	default:
		e.rexW, e.p66 = e.chance(3), e.chance(4)
	}
	if f.Def64 {
		e.size = 64
	}
	switch {
	case e.rexW:
		e.size = 64
	case e.p66 && f.Prefix != soft.Prefix66:
		e.size = 16
	}
	if f.Force64 {
		e.size = 64
	}
	if e.byteOperands() {
		e.size = 8
	}
	e.p67 = e.chance(24)
	if e.chance(10) {
		e.seg = []byte{0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65}[e.IntN(6)]
	}
	if branch {
		e.p67 = e.p67 && (strings.HasPrefix(f.Mnemonic, "LOOP") || f.Mnemonic == "JRCXZ")
		e.seg = 0
	}
	if isString(f.Mnemonic) && f.SIMD == nil {
		e.rep = []byte{0, 0xf2, 0xf3}[e.IntN(3)]
	}
	if has(f, "Mp") {
		e.rexW, e.size = false, min(e.size, 32) // see undefined.go
		if e.p66 {
			e.size = 16
		}
	}
	if f.Mnemonic == "MOVSXD" {
		e.p66, e.size = false, max(e.size, 32) // see undefined.go
	}
	if e.seg == 0x36 && (!f.HasModRM || len(e.c.forms) > 0) {
		e.seg = 0 // see undefined.go
	}
}

func (e *encoder) byteOperands() bool {
	for _, o := range e.f.Operands {
		if o == "AL" || o == "Eb" && e.f.Mnemonic != "MOVZX" && e.f.Mnemonic != "MOVSX" && e.f.Mnemonic != "CRC32" || o == "Zb" || o == "Xb" || o == "Yb" || o == "Ob" {
			return true
		}
	}
	return false
}

func isString(m string) bool {
	switch m {
	case "MOVS", "CMPS", "STOS", "LODS", "SCAS":
		return true
	}
	return false
}

// chooseRegs draws ModRM.reg and ModRM.rm, or the register in the opcode.
func (e *encoder) chooseRegs() {
	f := e.f
	e.opcode, e.index = f.Opcode, -1
	e.rm, e.reg = e.IntN(16), e.IntN(16)
	if f.PlusReg {
		e.opcode |= byte(e.rm & 7)
		return
	}
	if !f.HasModRM {
		e.rm, e.reg = 0, 0
		return
	}
	if f.Ext >= 0 {
		e.reg = int(f.Ext)
		if e.chance(8) {
			e.reg |= 8 // REX.R is ignored
		}
	}
	e.mod = 3
	switch {
	case f.ModRM != 0:
		e.reg, e.rm = int(f.ModRM>>3&7), int(f.ModRM&7)
		return
	case f.Mod == soft.ModReg:
	case f.Mod == soft.ModMem, e.memOnly():
		e.mem = true
	default:
		e.mem = e.chance(2)
	}
	for _, o := range f.Operands {
		switch o {
		case "Rq":
			e.mem = false
		case "Cq":
			e.reg = []int{0, 2, 3, 4, 8}[e.IntN(5)]
		case "Dq", "Sw":
			e.reg &= 7
		}
	}
}

func (e *encoder) memOnly() bool {
	for _, o := range e.f.Operands {
		if o[0] == 'M' {
			return true
		}
	}
	return false
}

// memSize is the number of bytes that the memory operand has.
func (e *encoder) memSize() int {
	switch f := e.f; {
	case f.SIMD != nil:
		return int(max(f.SIMD.MemSize, 1))
	case f.X87 != nil:
		if n := int(f.X87.Size); n > 0 && n < 200 {
			return n
		}
		return 108
	case f.Mnemonic == "FXSAVE", f.Mnemonic == "FXRSTOR":
		return 512
	case f.Mnemonic == "CMPXCHG8B":
		if e.rexW {
			return 16
		}
		return 8
	}
	for _, o := range e.f.Operands {
		if o[0] == 'E' || o[0] == 'M' {
			switch o[1:] {
			case "b":
				return 1
			case "w":
				return 2
			case "d":
				return 4
			case "q":
				return 8
			}
		}
	}
	return int(e.size / 8)
}

// chooseImm draws the immediate.
func (e *encoder) chooseImm() {
	for _, o := range e.f.Operands {
		n := 0
		switch o {
		case "Ib", "Ibs", "Jb":
			n = 1
		case "Iw":
			n = 2
		case "Iz", "Jz":
			n = int(min(e.size, 32) / 8)
		case "Iv":
			n = int(e.size / 8)
		case "Ob", "Ov":
			n = 8
			if e.p67 {
				n = 4
			}
			e.target = e.address(int(e.size/8), false)
			e.imm = append(e.imm, le64(e.target)[:n]...)
			continue
		}
		v := e.value()
		if o[0] == 'J' {
			v = []uint64{0, markLen}[e.IntN(2)]
			if o == "Jz" && e.chance(10) {
				v = e.Uint64()&0x3fffffff | 0x20000000 // no page there
			}
		}
		e.imm = append(e.imm, le64(v)[:n]...)
	}
}

func le64(v uint64) []byte { return binary.LittleEndian.AppendUint64(nil, v) }

// chooseAddressing draws an addressing form and sets the registers so that it gives e.target.
func (e *encoder) chooseAddressing() {
	e.mod, e.index, e.scale = 0, -1, 0
	switch kind := e.IntN(12); {
	case kind == 0 && e.target < 1<<31: // absolute
		e.sib, e.rm, e.disp, e.dispLen = true, 5, e.target, 4
		return
	case kind == 1 && e.target < 1<<31:
		e.ripRel, e.rm, e.dispLen = true, 5, 4 // the displacement follows when the length is known
		return
	case kind == 2: // index without base
		e.sib, e.rm, e.dispLen = true, 5, 4
		e.disp = uint64(int64(int32(e.Uint32() >> e.IntN(32))))
		if e.withIndex() && e.solve(e.index, e.target-e.disp-0, uint64(1)<<e.scale) {
			return
		}
	case kind >= 9:
		if e.withIndex() && e.withBase(e.c.gpr[e.index]<<e.scale) {
			return
		}
	}
	e.index, e.scale, e.sib = -1, 0, false
	for range 20 {
		if e.withBase(0) {
			return
		}
	}
	// Every register is taken: an absolute address in the sandbox.
	e.target = sandboxOf(e.slot)
	e.mod, e.sib, e.rm, e.disp, e.dispLen, e.index = 0, true, 5, e.target, 4, -1
}

// withIndex draws an index register and pins its value.
func (e *encoder) withIndex() bool {
	e.index, e.scale = e.IntN(16), e.IntN(4)
	if e.index == vcpu.RSP {
		e.index = -1
		return false
	}
	e.sib = true
	return true
}

// solve sets reg so that reg × factor is want.
func (e *encoder) solve(reg int, want, factor uint64) bool {
	if want%factor != 0 {
		e.disp += want % factor
		if int64(e.disp) != int64(int32(e.disp)) {
			return false
		}
		want -= want % factor
	}
	return e.pin(reg, want/factor)
}

// withBase draws a base register and a displacement and pins the register, the index contributing offset.
func (e *encoder) withBase(offset uint64) bool {
	e.rm = e.IntN(16)
	if e.rm == e.index {
		return false
	}
	if e.index >= 0 && !e.pin(e.index, e.c.gpr[e.index]) {
		return false
	}
	e.mod = e.IntN(3)
	if e.mod == 0 && e.rm&7 == 5 {
		e.mod = 1
	}
	switch e.mod {
	case 0:
		e.disp, e.dispLen = 0, 0
	case 1:
		e.disp, e.dispLen = uint64(int64(int8(e.Uint32()))), 1
	case 2:
		e.disp, e.dispLen = uint64(int64(int32(e.Uint32()>>e.IntN(32)))), 4
	}
	e.sib = e.index >= 0 || e.rm&7 == 4 || e.chance(16)
	v := e.target - e.disp - offset
	if e.p67 && e.pinned>>e.rm&1 == 0 {
		v = v&0xffffffff | e.Uint64()<<32 // only 32 bits count
	}
	return e.pin(e.rm, v)
}

// emit puts the bytes together.
func (e *encoder) emit() {
	f := e.f
	e.out = append(e.out, e.prelude...)
	if e.lock {
		e.out = append(e.out, 0xf0)
	}
	if e.seg != 0 {
		e.out = append(e.out, e.seg)
	}
	if e.p67 {
		e.out = append(e.out, 0x67)
	}
	if e.rep != 0 {
		e.out = append(e.out, e.rep)
	}
	if e.p66 || f.Prefix == soft.Prefix66 {
		e.out = append(e.out, 0x66)
	}
	switch f.Prefix {
	case soft.PrefixF3:
		e.out = append(e.out, 0xf3)
	case soft.PrefixF2:
		e.out = append(e.out, 0xf2)
	}
	rex := byte(e.reg>>3<<2 | e.rm>>3)
	if e.rexW {
		rex |= 8
	}
	if e.index >= 8 {
		rex |= 2
	}
	if f.ModRM != 0 {
		rex &= 8
	}
	if rex != 0 || e.chance(12) {
		e.out = append(e.out, 0x40|rex)
	}
	switch f.Map {
	case soft.Map0F:
		e.out = append(e.out, 0x0f)
	case soft.Map0F38:
		e.out = append(e.out, 0x0f, 0x38)
	case soft.Map0F3A:
		e.out = append(e.out, 0x0f, 0x3a)
	}
	e.out = append(e.out, e.opcode)
	if f.HasModRM {
		e.emitModRM()
	}
	e.out = append(e.out, e.imm...)
}

func (e *encoder) emitModRM() {
	rm := e.rm & 7
	if e.mem && e.sib {
		index := 4
		if e.index >= 0 {
			index = e.index & 7
		}
		e.out = append(e.out, byte(e.mod<<6|e.reg&7<<3|4), byte(e.scale<<6|index<<3|rm))
	} else {
		e.out = append(e.out, byte(e.mod<<6|e.reg&7<<3|rm))
	}
	if !e.mem {
		return
	}
	if e.ripRel {
		end := codeOf(e.slot) + testAt + uint64(len(e.c.code)+len(e.out)+4+len(e.imm))
		e.disp = e.target - end
	}
	e.out = append(e.out, le64(e.disp)[:e.dispLen]...)
}

// arrange sets registers and memory that the instruction uses besides its operands.
func (e *encoder) arrange() {
	switch m := e.f.Mnemonic; {
	case isString(m) && e.f.SIMD == nil:
		e.arrangeString()
	case m == "SHL", m == "SHR", m == "SAR", m == "ROL", m == "ROR", m == "RCL", m == "RCR", m == "SHLD", m == "SHRD":
		e.arrangeShift()
	case m == "DIV", m == "IDIV":
		e.arrangeDivide()
	case m == "CMPXCHG":
		e.arrangeCompare()
	case m == "CMPXCHG8B":
		e.arrangeCompareWide()
	case strings.HasPrefix(m, "BT") && has(e.f, "Gv") && e.mem:
		e.arrangeBit()
	case m == "XLAT":
		e.pin(vcpu.RBX, e.address(1, false)-e.c.gpr[vcpu.RAX]&0xff)
	case strings.HasPrefix(m, "MASKMOV"):
		e.pin(vcpu.RDI, e.address(16, false))
		e.c.mayGP = e.c.mayGP || !canonical(e.c.gpr[vcpu.RDI])
	case m == "LOOP", m == "LOOPE", m == "LOOPNE", m == "JRCXZ":
		e.pin(vcpu.RCX, []uint64{0, 1, 2, 1 << 32, e.value()}[e.IntN(5)])
	case m == "JMPIND", m == "CALLIND":
		e.arrangeTarget()
	case m == "LAR", m == "LSL", m == "VERR", m == "VERW", m == "LSS", m == "LFS", m == "LGS":
		e.arrangeSelector()
	case processOnly(e.f):
		e.arrangeSegments()
	case m == "RET":
		e.poke(e.c.gpr[vcpu.RSP], le64(e.jumpTarget()))
	case m == "POPF":
		e.arrangePopFlags()
	case m == "LEAVE":
		e.pin(vcpu.RBP, e.address(64, false))
	case m == "ENTER":
		frames := sandboxOf(e.slot) + window - uint64(e.IntN(16)) // far from RSP, see undefined.go
		if e.chance(20) {
			frames = e.badAddress()
		}
		e.pin(vcpu.RBP, frames)
		if e.chance(4) { // the new top of the stack is in the sandbox before, often across the end of its page
			e.imm[0], e.imm[1] = byte(e.Uint32()), 0xff
		}
	case m == "FXRSTOR" && e.mem:
		e.c.mayGP = true
		e.arrangeRestore()
	case m == "LDMXCSR" && e.mem:
		e.c.mayGP = true
		reserved := uint64(0)
		if e.chance(8) {
			reserved = e.Uint64() & 0xfffd0000 // without bit 17, which AMD processors have
		}
		e.poke(e.target, le64(e.Uint64()&0xffff | reserved)[:4])
	}
	e.ignoreImages()
	e.ignoreVendors()
}

// arrangePopFlags keeps TF clear: with it the storing code would trap at every step.
func (e *encoder) arrangePopFlags() {
	var old [8]byte
	if !e.peek(e.c.gpr[vcpu.RSP], old[:]) {
		e.c.gpr[vcpu.RSP] = sandboxOf(e.slot) + page + 64
	}
	e.poke(e.c.gpr[vcpu.RSP], le64(e.Uint64()&(status|1<<10|1<<9|3<<12|1<<18|1<<21)))
}

// arrangeString points RSI and RDI into the sandbox and keeps counts small.
func (e *encoder) arrangeString() {
	span := 64
	if e.rep != 0 {
		e.pin(vcpu.RCX, uint64(e.IntN(span/int(e.size/8)+1)))
	}
	back := uint64(0)
	if e.c.flags>>10&1 != 0 {
		back = uint64(e.IntN(span))
	}
	e.pin(vcpu.RSI, e.address(span, false)+back)
	if off := e.c.gpr[vcpu.RSI] - sandboxOf(e.slot); e.f.Mnemonic == "CMPS" && (off < uint64(span) || off > page-2*uint64(span)) {
		e.pin(vcpu.RDI, sandboxOf(e.slot)+window) // which of two bad operands is reported is the processor's choice
	} else {
		e.pin(vcpu.RDI, e.address(span, false)+back)
	}
	if e.rep != 0 && e.p67 && e.pinned>>vcpu.RCX&1 != 0 {
		e.c.gpr[vcpu.RCX] |= e.Uint64() << 32
	}
	if strings.HasPrefix(e.f.Mnemonic, "CMP") || e.f.Mnemonic == "SCAS" {
		// Long stretches of equal data.
		var same [48]byte
		for i := range same {
			same[i] = byte(e.c.gpr[vcpu.RAX])
		}
		e.poke(e.c.gpr[vcpu.RSI], same[:])
		e.poke(e.c.gpr[vcpu.RDI], same[:e.IntN(48)])
	}
}

func (e *encoder) arrangeShift() {
	mask := uint64(31)
	if e.size == 64 {
		mask = 63
	}
	e.isShift = true
	switch {
	case has(e.f, "1"):
		e.shiftBy = 1
	case has(e.f, "CL"):
		if e.pinned>>vcpu.RCX&1 == 0 && e.chance(2) {
			e.pin(vcpu.RCX, e.c.gpr[vcpu.RCX]&^0xff|uint64(e.IntN(70)))
		}
		e.shiftBy = e.c.gpr[vcpu.RCX] & mask
	default:
		e.shiftBy = uint64(e.imm[len(e.imm)-1]) & mask
	}
	double := e.f.Mnemonic == "SHLD" || e.f.Mnemonic == "SHRD"
	if double && e.size == 16 && e.shiftBy > 16 {
		// "If the count is greater than the operand size, the result is undefined": not generated.
		e.shiftBy &= 15
		if has(e.f, "CL") {
			e.pinned |= 1 << vcpu.RCX
			e.c.gpr[vcpu.RCX] = e.c.gpr[vcpu.RCX]&^0xff | e.shiftBy
			if e.mem {
				e.size, e.p66, e.shiftBy = 32, false, e.c.gpr[vcpu.RCX]&31
			}
		} else {
			e.imm[len(e.imm)-1] = byte(e.shiftBy)
		}
	}
}

// arrangeDivide makes quotients that fit, most of the time.
func (e *encoder) arrangeDivide() {
	switch e.IntN(4) {
	case 0:
	case 1:
		e.pin(vcpu.RDX, uint64(int64(e.c.gpr[vcpu.RAX])>>63))
	default:
		e.pin(vcpu.RDX, e.Uint64()>>(40+e.IntN(24)))
	}
	if e.size == 8 && e.chance(2) {
		e.pin(vcpu.RAX, e.Uint64()&0xfff)
	}
}

// arrangeCompare makes CMPXCHG succeed half of the time.
func (e *encoder) arrangeCompare() {
	if !e.mem {
		if e.size == 32 {
			e.pin(e.rm, e.c.gpr[e.rm]&0xffffffff) // see undefined.go
		}
		if e.chance(2) {
			e.pin(vcpu.RAX, e.c.gpr[e.rm])
		}
		return
	}
	if e.chance(2) {
		e.poke(e.target, le64(e.c.gpr[vcpu.RAX])[:e.size/8])
	}
}

func (e *encoder) arrangeCompareWide() {
	if e.chance(2) {
		return
	}
	if e.rexW {
		e.poke(e.target, append(le64(e.c.gpr[vcpu.RAX]), le64(e.c.gpr[vcpu.RDX])...))
		return
	}
	e.poke(e.target, le64(e.c.gpr[vcpu.RAX]&0xffffffff|e.c.gpr[vcpu.RDX]<<32))
}

// arrangeBit keeps the bit offset within the sandbox, or so far away that the address is not canonical.
func (e *encoder) arrangeBit() {
	if e.seg == 0x36 {
		e.seg = 0x3e // see undefined.go
	}
	v := uint64(int64(e.IntN(2048) - 1024))
	if e.size == 64 && e.chance(16) {
		v = 1 << 62
	}
	if !e.pin(e.reg, v) && e.reg != e.rm {
		e.reg = e.rm
	}
}

// jumpTarget is where an indirect jump may go.
func (e *encoder) jumpTarget() uint64 {
	if (e.c.gpr[vcpu.RSP]-sandboxOf(e.slot)-8)>>12 != 0 {
		return codeOf(e.slot) + storeAt // one fault is enough: which of two is reported is the processor's choice
	}
	switch e.IntN(6) {
	case 0:
		return e.badAddress()
	case 1:
		return sandboxOf(e.slot) + uint64(e.IntN(page)) // not executable
	}
	return codeOf(e.slot) + storeAt
}

func (e *encoder) arrangeTarget() {
	if e.mem {
		e.poke(e.target, le64(e.jumpTarget()))
		return
	}
	if e.rm == vcpu.RSP {
		e.rm = vcpu.RBX // CALL RSP would have a bad target and a bad stack
	}
	e.pin(e.rm, e.jumpTarget())
}

// arrangeSelector takes selectors that no descriptor table holds: ring 3 of some hosts sees the host's table.
func (e *encoder) arrangeSelector() {
	sel := e.Uint64() | 0x8000
	if e.chance(4) {
		sel = e.Uint64N(4) // null
	}
	if !e.mem {
		e.pin(e.rm, e.c.gpr[e.rm]&^0xffff|sel&0xffff)
		return
	}
	at := e.target
	if has(e.f, "Mp") {
		at += e.size / 8 // after the offset of the far pointer
	}
	e.poke(at, le64(sel)[:2])
}

// segmentSelector draws a selector that means the same to the guest and to Linux: often the one that fits.
func (e *encoder) segmentSelector(fits uint64) uint64 {
	switch e.IntN(4) {
	case 0:
		return []uint64{0, 1, 2, 3, 0x28, 0x29, 0x2a, 0x2b, 0x30, 0x31, 0x32, 0x33, 0x08, 0x10, 0x13, 0x18, 0x1b, 0x40, 0x43}[e.IntN(19)]
	case 1:
		return e.Uint64N(1<<16) | 0x80 // beyond the tables
	}
	return fits
}

const ring3Code, ring3Data = 0x33, 0x2b

// arrangeSegments makes selectors for what loads, pushes or pops them, on the stack or in the operand.
func (e *encoder) arrangeSegments() {
	n := int(e.size / 8)
	stack := func(values ...uint64) {
		var b []byte
		for _, v := range values {
			b = append(b, le64(v)[:n]...)
		}
		e.poke(e.c.gpr[vcpu.RSP], b)
	}
	target := codeOf(e.slot) + storeAt
	if e.chance(8) {
		target = e.badAddress()
	}
	switch m := e.f.Mnemonic; m {
	case "CALLFAR", "JMPFAR":
		e.poke(e.target, append(le64(target)[:n], le64(e.segmentSelector(ring3Code))[:2]...))
	case "RETF":
		stack(target, e.segmentSelector(ring3Code))
	case "IRET":
		stack(target, e.segmentSelector(ring3Code), e.Uint64()&(status|1<<10|1<<9|1<<18|1<<21)|2, e.value(), e.segmentSelector(ring3Data))
	case "IN", "OUT", "INS", "OUTS":
		if len(e.imm) > 0 && e.imm[0] == donePort {
			e.imm[0]++
		}
		e.pin(vcpu.RDX, e.c.gpr[vcpu.RDX]|1<<15)
	case "INT":
		for e.imm[0] == 3 || e.imm[0] == 4 || e.imm[0] == 0x80 { // those are open to ring 3
			e.imm[0] = byte(e.Uint32())
		}
	case "MOVTOSEG":
		sel := e.segmentSelector(ring3Data)
		if e.mem {
			e.poke(e.target, le64(sel)[:2])
		} else {
			e.pin(e.rm, e.c.gpr[e.rm]&^0xffff|sel)
		}
	case "MOVFROMSEG":
		e.loadSegment(e.reg)
	case "PUSH":
		e.loadSegment(segmentOf(e.f))
	case "POP":
		stack(e.segmentSelector(ring3Data))
	}
}

// segmentOf is the number of the segment register that PUSH or POP name.
func segmentOf(f *soft.Form) int { return strings.Index("ESCSSSDSFSGS", f.Operands[0]) / 2 }

// loadSegment puts MOV sreg, r16 before the instruction, so that the segment register holds the same on both sides. A null selector has RPL 0: with another, it
// changes when an interrupt returns.
func (e *encoder) loadSegment(reg int) {
	if reg == vcpu.CS || reg == vcpu.SS || reg > vcpu.GS {
		return
	}
	sel := []uint64{0, 0x28, 0x29, 0x2a, 0x2b, 0x33}[e.IntN(6)]
	for _, r := range []int{vcpu.RAX, vcpu.RBX, vcpu.RDX} { // an operand takes two of them at most
		if e.pinned>>r&1 == 0 {
			e.pin(r, e.c.gpr[r]&^0xffff|sel)
			e.prelude = []byte{0x8e, 0xc0 | byte(reg)<<3 | byte(r)}
			return
		}
	}
}

// arrangeRestore puts a whole FXSAVE image into the low window and beyond: only its head varies by case, the rest is what the sandbox holds.
func (e *encoder) arrangeRestore() {
	head := append([]byte(nil), e.c.fx[:32]...)
	if e.chance(8) {
		head[26] = 1 // a reserved MXCSR bit
	}
	e.poke(e.target, head)
}

// ignoreImages notes the memory that holds fields of FPU images which hosts differ in (see maskFX).
func (e *encoder) ignoreImages() {
	off := int(e.target - sandboxOf(e.slot))
	if !e.mem || off < 0 || off >= page {
		return
	}
	switch e.f.Mnemonic {
	case "FXSAVE":
		e.c.ignoreMem = append(e.c.ignoreMem, span{off + 5, off + 24}, span{off + 28, off + 32}, span{off + 416, off + 512})
		for i := range 8 {
			e.c.ignoreMem = append(e.c.ignoreMem, span{off + 32 + 16*i + 10, off + 48 + 16*i})
		}
	case "FNSAVE", "FNSTENV":
		if e.p66 {
			e.c.ignoreMem = append(e.c.ignoreMem, span{off + 6, off + 14})
		} else {
			e.c.ignoreMem = append(e.c.ignoreMem, span{off + 2, off + 4}, span{off + 6, off + 8}, span{off + 10, off + 28})
		}
	}
}

// undefined is the set of flags that the manual leaves open for this instruction.
func (e *encoder) undefined() uint64 {
	if e.isShift {
		return shiftFlags(e.f.Mnemonic, e.shiftBy, e.size)
	}
	return undefinedFlags[e.f.Mnemonic]
}

// ignoreVendors notes what processors of different makes do differently, as vendors lists it.
func (e *encoder) ignoreVendors() {
	m := e.f.Mnemonic
	switch {
	case strings.HasPrefix(m, "MASKMOV"), m == "FXSAVE", m == "FXRSTOR", m == "FNSAVE", m == "FRSTOR", m == "FNSTENV", m == "FLDENV":
		e.c.ignoreCR2 = true
	case m == "CVTPI2PS" && e.mem:
		e.c.ignoreX87 = true
		e.c.fx[2], e.c.fx[3] = 0, e.c.fx[3]&0x7f // no pending exception
	}
	for _, o := range e.f.Operands {
		if o == "P" || o == "Q" {
			e.c.mmx = true
		}
	}
}
