package soft

import "github.com/detvm/detvm/vcpu/soft/simd"

// inst is a decoded instruction: what the bytes say, with addresses folded in, before it is lowered to ops.
type inst struct {
	form   *Form
	va     uint64 // linear address
	next   uint64 // linear address of the instruction after it
	target uint64 // linear address of the branch target
	imm    uint64 // immediate, extended as the form says
	imm2   uint64 // second immediate: ENTER's level, a far pointer's selector
	disp   uint64
	length uint8
	opcode uint8
	modrm  uint8
	rex    uint8
	reg    uint8 // ModRM.reg or the opcode's register, with REX
	rm     uint8 // ModRM.rm with REX, for register operands
	osize  uint8 // operand size in bytes
	asize  uint8 // address size in bytes
	rep    uint8 // 0xf2, 0xf3 or 0
	base   uint8 // memory operand, as in op
	index  uint8
	shift  uint8
	seg    uint8 // vcpu segment index of the memory operand
	segOvr bool  // by a prefix
	mem    bool  // ModRM.mod != 3
	lock   bool
	opsz16 bool // prefix 66
	near   bool // target is in the page of va
	nearNx bool // next is in the page of va
	vec    simd.Func
}

// decodeStatus is how decoding ended.
type decodeStatus uint8

const (
	decoded   decodeStatus = iota
	undefined              // #UD
	short                  // the bytes given do not hold the whole instruction
)

// decoder reads one instruction from bytes.
type decoder struct {
	buf  []byte
	pos  int
	mode uint16
	ok   bool
}

func (d *decoder) u8() uint8 {
	if d.pos >= len(d.buf) {
		d.ok = false
		return 0
	}
	b := d.buf[d.pos]
	d.pos++
	return b
}

// le reads n bytes, little endian.
func (d *decoder) le(n int) uint64 {
	if d.pos+n > len(d.buf) {
		d.ok = false
		d.pos = len(d.buf)
		return 0
	}
	var v uint64
	for i := range n {
		v |= uint64(d.buf[d.pos+i]) << (8 * i)
	}
	d.pos += n
	return v
}

const (
	rexB = 1
	rexX = 2
	rexR = 4
	rexW = 8
)

// decode reads one instruction at linear address va into in. csBase is the base of CS (0 in 64-bit mode).
func decode(in *inst, buf []byte, va, csBase uint64, mode uint16) decodeStatus {
	d := decoder{buf: buf, mode: mode, ok: true}
	*in = inst{va: va, seg: noSeg, base: regZero, index: regZero}
	op := d.prefixes(in)
	m := Map1
	if op == 0x0f {
		m = Map0F
		op = d.u8()
		switch op {
		case 0x38:
			m, op = Map0F38, d.u8()
		case 0x3a:
			m, op = Map0F3A, d.u8()
		}
	}
	if !d.ok {
		return short
	}
	in.opcode = op
	rows := decodeTable[m][op]
	if len(rows) == 0 {
		return undefined
	}
	f := rows[0]
	if f.HasModRM {
		if d.pos >= len(d.buf) {
			return short
		}
		in.modrm = d.buf[d.pos]
	}
	if f = choose(rows, in, mode); f == nil {
		return undefined
	}
	in.form = f
	d.sizes(in)
	if f.HasModRM {
		d.pos++
		d.modRM(in)
	} else if f.PlusReg {
		in.reg = op&7 | in.rex&rexB<<3
	}
	d.immediates(in)
	if !d.ok {
		return short
	}
	if in.lock && !(f.Lock && in.mem) {
		return undefined
	}
	in.length = uint8(d.pos)
	d.finish(in, csBase)
	return decoded
}

// noSeg in inst.seg: no segment override was seen.
const noSeg = 0xff

// prefixes reads the legacy prefixes and REX, and returns the byte after them.
func (d *decoder) prefixes(in *inst) uint8 {
	in.asize = 4
	if d.mode&mode64 != 0 {
		in.asize = 8
	} else if d.mode&mode32 == 0 {
		in.asize = 2
	}
	for {
		b := d.u8()
		switch b {
		case 0x66:
			in.opsz16 = true
		case 0x67:
			switch {
			case d.mode&mode64 != 0:
				in.asize = 4
			case d.mode&mode32 != 0:
				in.asize = 2
			default:
				in.asize = 4
			}
		case 0x26, 0x2e, 0x36, 0x3e:
			// In 64-bit mode these are null prefixes; they do not cancel an FS or GS override.
			if d.mode&mode64 == 0 {
				in.seg, in.segOvr = b>>3&3, true
			}
		case 0x64, 0x65:
			in.seg, in.segOvr = b-0x60, true
		case 0xf0:
			in.lock = true
		case 0xf2, 0xf3:
			in.rep = b
		default:
			if b&0xf0 != 0x40 || d.mode&mode64 == 0 || !d.ok {
				return b
			}
			// REX counts only right before the opcode.
			in.rex = b
			if d.pos < len(d.buf) && isPrefix(d.buf[d.pos]) {
				in.rex = 0
				continue
			}
			return d.u8()
		}
	}
}

// isPrefix reports whether b is a legacy prefix or, in 64-bit mode, REX.
func isPrefix(b uint8) bool {
	switch b {
	case 0x66, 0x67, 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0xf0, 0xf2, 0xf3:
		return true
	}
	return b&0xf0 == 0x40
}

// choose picks the form among the rows of an opcode. A row with a mandatory prefix that is present wins over one without.
func choose(rows []*Form, in *inst, mode uint16) *Form {
	var best *Form
	for _, f := range rows {
		if f.HasModRM && !f.matchModRM(in.modrm) {
			continue
		}
		if f.Inv64 && mode&mode64 != 0 || f.Only64 && mode&mode64 == 0 {
			continue
		}
		if f.W == 1 && in.rex&rexW != 0 || f.W == 2 && in.rex&rexW == 0 || f.W == 3 && (in.rex&rexW != 0 || !in.opsz16) {
			continue
		}
		switch f.Prefix {
		case PrefixAny:
			if best == nil {
				best = f
			}
		case PrefixNP:
			if in.rep == 0 && !in.opsz16 {
				return f
			}
		case Prefix66:
			if in.rep == 0 && in.opsz16 {
				return f
			}
		case PrefixF3:
			if in.rep == 0xf3 {
				return f
			}
		case PrefixF2:
			if in.rep == 0xf2 {
				return f
			}
		}
	}
	return best
}

func (f *Form) matchModRM(m uint8) bool {
	switch {
	case f.ModRM != 0:
		return m == f.ModRM
	case f.Mod == ModMem && m >= 0xc0 || f.Mod == ModReg && m < 0xc0:
		return false
	}
	return f.Ext < 0 || m>>3&7 == uint8(f.Ext)
}

// sizes determines the operand size (SDM vol. 1, table 3-4).
func (d *decoder) sizes(in *inst) {
	f := in.form
	def16 := d.mode&(mode64|mode32) == 0
	in.osize = 4
	if in.opsz16 != def16 {
		in.osize = 2
	}
	if d.mode&mode64 != 0 {
		switch {
		case f.Force64 || in.rex&rexW != 0:
			in.osize = 8
		case f.Def64 && !in.opsz16:
			in.osize = 8
		}
	}
	if f.byteOp {
		in.osize = 1
	}
}

// modRM reads what follows the ModRM byte.
func (d *decoder) modRM(in *inst) {
	m := in.modrm
	in.reg = m>>3&7 | in.rex&rexR<<1
	in.rm = m&7 | in.rex&rexB<<3
	if m >= 0xc0 {
		return
	}
	// MOV to and from control and debug registers ignore mod.
	if in.form.Force64 && in.form.Map == Map0F && in.form.Opcode&0xfc == 0x20 {
		return
	}
	in.mem = true
	if in.asize == 2 {
		d.modRM16(in)
		return
	}
	mod := m >> 6
	rm := m & 7
	if rm == 4 {
		d.sib(in, mod)
	} else if rm == 5 && mod == 0 {
		in.disp = uint64(int64(int32(d.le(4))))
		if d.mode&mode64 != 0 {
			in.shift = ripRelative
		}
	} else {
		in.base = in.rm * 8
	}
	switch mod {
	case 1:
		in.disp = uint64(int64(int8(d.u8())))
	case 2:
		in.disp = uint64(int64(int32(d.le(4))))
	}
}

// ripRelative in inst.shift marks an operand to which the address of the next instruction is still to be added.
const ripRelative = 0xff

func (d *decoder) sib(in *inst, mod uint8) {
	s := d.u8()
	base := s&7 | in.rex&rexB<<3
	index := s>>3&7 | in.rex&rexX<<2
	if index != 4 {
		in.index, in.shift = index*8, s>>6
	}
	if base&7 == 5 && mod == 0 {
		in.disp = uint64(int64(int32(d.le(4))))
	} else {
		in.base = base * 8
	}
}

// modRM16 reads a 16-bit address form (SDM vol. 2A, table 2-1).
func (d *decoder) modRM16(in *inst) {
	mod, rm := in.modrm>>6, in.modrm&7
	pairs := [8][2]uint8{{offRBX, offRSI}, {offRBX, offRDI}, {offRBP, offRSI}, {offRBP, offRDI}, {offRSI, regZero}, {offRDI, regZero},
		{offRBP, regZero}, {offRBX, regZero}}
	in.base, in.index = pairs[rm][0], pairs[rm][1]
	switch {
	case mod == 0 && rm == 6:
		in.base = regZero
		in.disp = uint64(int64(int16(d.le(2))))
	case mod == 1:
		in.disp = uint64(int64(int8(d.u8())))
	case mod == 2:
		in.disp = uint64(int64(int16(d.le(2))))
	}
}

// immediates reads the immediate bytes and extends them.
func (d *decoder) immediates(in *inst) {
	f := in.form
	switch f.immLen {
	case 0:
	case 1:
		in.imm = d.le(1)
		if f.imm8s {
			in.imm = uint64(int64(int8(in.imm)))
		}
	case 2:
		in.imm = d.le(2)
	case immZ:
		if in.osize == 2 {
			in.imm = uint64(int64(int16(d.le(2))))
		} else {
			in.imm = uint64(int64(int32(d.le(4))))
		}
	case immV:
		in.imm = d.le(int(in.osize))
	case immFar:
		in.imm = d.le(min(int(in.osize), 4))
		in.imm2 = d.le(2)
	case immOffs:
		in.disp = d.le(int(in.asize))
		in.mem = true
	}
	if f.enter {
		in.imm2 = d.le(1)
	}
}

// finish computes addresses that depend on the length.
func (d *decoder) finish(in *inst, csBase uint64) {
	in.next = in.va + uint64(in.length)
	if in.shift == ripRelative {
		in.shift = 0
		in.disp += in.next
	}
	if in.form.branch {
		rip := in.next - csBase + in.imm
		switch {
		case in.osize == 2 && d.mode&mode64 == 0:
			rip &= 0xffff
		case d.mode&mode64 == 0:
			rip &= 0xffffffff
		}
		in.target = rip + csBase
	}
	in.near = in.target>>pageBits == in.va>>pageBits
	in.nearNx = in.next>>pageBits == in.va>>pageBits
	if in.seg == noSeg {
		in.seg = segDS
		if in.base == offRSP || in.base == offRBP {
			in.seg = segSS
		}
	}
}

// Segment register numbers as encoded.
const (
	segES = iota
	segCS
	segSS
	segDS
	segFS
	segGS
)

// byteReg is the register-file offset of byte register n: without REX, 4 to 7 are AH, CH, DH, BH.
func (in *inst) byteReg(n uint8) uint8 {
	if in.rex == 0 && n >= 4 && n < 8 {
		return (n-4)*8 + 1
	}
	return n * 8
}

// regOff is the register-file offset of register n at the instruction's operand size.
func (in *inst) regOff(n uint8) uint8 {
	if in.osize == 1 {
		return in.byteReg(n)
	}
	return n * 8
}
