package simd

// The rows are written with the small constructors below, in the order of the opcode maps. Names are those of the SDM; REX.W and memory variants
// share them.

// Table has all rows. It is never modified. Rows that share an encoding differ in Mod, W or Ext; the first that matches is the one.
var Table = concat(moves, arithmetic0F, groups, integer0F, map38, map3A)

func concat(parts ...[]Op) (all []Op) {
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

// xmm is the common form xmm, xmm/m128 with an aligned memory operand.
func xmm(name string, p Prefix, opcode uint8, fn Func) Op {
	return Op{Name: name, Map: Map0F, Prefix: p, Opcode: opcode, Ext: -1, Dst: XReg, Src: XRM, MemSize: 16, Aligned: true, Fn: fn}
}

// mmx is the form mm, mm/m64.
func mmx(name string, opcode uint8, fn Func) Op {
	return Op{Name: name, Map: Map0F, Opcode: opcode, Ext: -1, Dst: MReg, Src: MRM, MemSize: 8, Fn: fn}
}

// both gives the MMX and the SSE form of one instruction.
func both(name string, opcode uint8, mm, x Func) []Op {
	return []Op{mmx(name, opcode, mm), xmm(name, P66, opcode, x)}
}

// The methods below return a changed copy of the row.

func (op Op) mem(size uint8) Op { op.MemSize, op.Aligned = size, false; return op }
func (op Op) locs(dst, src Loc) Op {
	op.Dst, op.Src = dst, src
	return op
}
func (op Op) only(m Mod) Op {
	op.Mod = m
	if m == RegOnly {
		op.MemSize, op.Aligned = 0, false
	}
	return op
}
func (op Op) width(w Width) Op { op.W = w; return op }
func (op Op) imm() Op          { op.Imm = true; return op }
func (op Op) flags() Op        { op.Flags = true; return op }
func (op Op) noWrite() Op      { op.NoWrite = true; return op }
func (op Op) writeOnly() Op    { op.WriteOnly = true; return op }
func (op Op) in(m Map) Op      { op.Map = m; return op }
func (op Op) xmm0() Op         { op.XMM0 = true; return op }
func (op Op) fp() Op           { op.FP = true; return op }
func (op Op) lanes() Op        { op.FP, op.Fn = true, packed(op.Fn); return op }
func (op Op) digit(n int8) Op  { op.Ext = n; return op }
func (op Op) mmxRegOnly() Op   { op.MMXRegOnly = true; return op }
func (op Op) first(l Loc) Op   { op.First = l; return op }
func (op Op) lengths() Op      { op.Lengths = true; return op }

// store turns a load row into the store row of the same size.
func (op Op) store() Op { return op.locs(XRM, XReg) }

// sizes gives the 32- and 64-bit forms of a row with a general register, for REX.W = 0 and 1. General-register memory operands are as wide.
func sizes(op Op, fn32, fn64 Func) []Op {
	a, b := op.width(W0), op.width(W1)
	a.Fn, b.Fn = fn32, fn64
	wide := map[Loc]Loc{GReg32: GReg64, GRM32: GRM64}
	if l, ok := wide[b.Dst]; ok {
		b.Dst = l
	}
	if l, ok := wide[b.Src]; ok {
		b.Src = l
	}
	if b.Src == GRM64 || b.Dst == GRM64 {
		b.MemSize = 8
	}
	return []Op{a, b}
}

var moves = concat([]Op{
	xmm("MOVUPS", NP, 0x10, mov).mem(16).writeOnly(),
	xmm("MOVUPD", P66, 0x10, mov).mem(16).writeOnly(),
	xmm("MOVSS", PF3, 0x10, movss).only(RegOnly),
	xmm("MOVSS", PF3, 0x10, mov).mem(4).only(MemOnly).writeOnly(),
	xmm("MOVSD", PF2, 0x10, movsd).only(RegOnly),
	xmm("MOVSD", PF2, 0x10, mov).mem(8).only(MemOnly).writeOnly(),
	xmm("MOVUPS", NP, 0x11, mov).mem(16).store().writeOnly(),
	xmm("MOVUPD", P66, 0x11, mov).mem(16).store().writeOnly(),
	xmm("MOVSS", PF3, 0x11, movss).store().only(RegOnly),
	xmm("MOVSS", PF3, 0x11, mov).mem(4).store().only(MemOnly).writeOnly(),
	xmm("MOVSD", PF2, 0x11, movsd).store().only(RegOnly),
	xmm("MOVSD", PF2, 0x11, mov).mem(8).store().only(MemOnly).writeOnly(),
	xmm("MOVHLPS", NP, 0x12, movhlps).only(RegOnly),
	xmm("MOVLPS", NP, 0x12, movsd).mem(8).only(MemOnly),
	xmm("MOVLPD", P66, 0x12, movsd).mem(8).only(MemOnly),
	xmm("MOVSLDUP", PF3, 0x12, movsldup).writeOnly(),
	xmm("MOVDDUP", PF2, 0x12, movddup).mem(8).writeOnly(),
	xmm("MOVLPS", NP, 0x13, mov).mem(8).store().only(MemOnly).writeOnly(),
	xmm("MOVLPD", P66, 0x13, mov).mem(8).store().only(MemOnly).writeOnly(),
	xmm("UNPCKLPS", NP, 0x14, unpcklps),
	xmm("UNPCKLPD", P66, 0x14, punpcklqdq),
	xmm("UNPCKHPS", NP, 0x15, unpckhps),
	xmm("UNPCKHPD", P66, 0x15, punpckhqdq),
	xmm("MOVLHPS", NP, 0x16, movlhps).only(RegOnly),
	xmm("MOVHPS", NP, 0x16, movlhps).mem(8).only(MemOnly),
	xmm("MOVHPD", P66, 0x16, movlhps).mem(8).only(MemOnly),
	xmm("MOVSHDUP", PF3, 0x16, movshdup).writeOnly(),
	xmm("MOVHPS", NP, 0x17, storeHigh).mem(8).store().only(MemOnly).writeOnly(),
	xmm("MOVHPD", P66, 0x17, storeHigh).mem(8).store().only(MemOnly).writeOnly(),
	xmm("MOVAPS", NP, 0x28, mov).writeOnly(),
	xmm("MOVAPD", P66, 0x28, mov).writeOnly(),
	xmm("MOVAPS", NP, 0x29, mov).store().writeOnly(),
	xmm("MOVAPD", P66, 0x29, mov).store().writeOnly(),
	xmm("MOVNTPS", NP, 0x2b, mov).store().only(MemOnly).writeOnly(),
	xmm("MOVNTPD", P66, 0x2b, mov).store().only(MemOnly).writeOnly(),
	xmm("MOVMSKPS", NP, 0x50, movmskps).locs(GReg32, XRM).only(RegOnly).writeOnly(),
	xmm("MOVMSKPD", P66, 0x50, movmskpd).locs(GReg32, XRM).only(RegOnly).writeOnly(),
},
	sizes(mmx("MOVD", 0x6e, nil).mem(4).locs(MReg, GRM32).writeOnly(), mov32, movLow),
	sizes(xmm("MOVD", P66, 0x6e, nil).mem(4).locs(XReg, GRM32).writeOnly(), mov32, movLow),
	sizes(mmx("MOVD", 0x7e, nil).mem(4).locs(GRM32, MReg).writeOnly(), mov32, movLow),
	sizes(xmm("MOVD", P66, 0x7e, nil).mem(4).locs(GRM32, XReg).writeOnly(), mov32, movLow),
	[]Op{
		mmx("MOVQ", 0x6f, movLow).writeOnly(),
		xmm("MOVDQA", P66, 0x6f, mov).writeOnly(),
		xmm("MOVDQU", PF3, 0x6f, mov).mem(16).writeOnly(),
		xmm("MOVQ", PF3, 0x7e, movLow).mem(8).writeOnly(),
		mmx("MOVQ", 0x7f, movLow).locs(MRM, MReg).writeOnly(),
		xmm("MOVDQA", P66, 0x7f, mov).store().writeOnly(),
		xmm("MOVDQU", PF3, 0x7f, mov).mem(16).store().writeOnly(),
	},
	sizes(mmx("MOVNTI", 0xc3, nil).mem(4).locs(GRM32, GReg32).only(MemOnly).writeOnly(), mov32, movLow),
	[]Op{
		xmm("MOVQ", P66, 0xd6, movLow).mem(8).store().writeOnly(),
		xmm("MOVQ2DQ", PF3, 0xd6, movLow).locs(XReg, MRM).only(RegOnly).writeOnly(),
		xmm("MOVDQ2Q", PF2, 0xd6, movLow).locs(MReg, XRM).only(RegOnly).writeOnly(),
		mmx("PMOVMSKB", 0xd7, pmovmskbMMX).locs(GReg32, MRM).only(RegOnly).writeOnly(),
		xmm("PMOVMSKB", P66, 0xd7, pmovmskb).locs(GReg32, XRM).only(RegOnly).writeOnly(),
		mmx("MOVNTQ", 0xe7, movLow).locs(MRM, MReg).only(MemOnly).writeOnly(),
		xmm("MOVNTDQ", P66, 0xe7, mov).store().only(MemOnly).writeOnly(),
		xmm("LDDQU", PF2, 0xf0, mov).mem(16).only(MemOnly).writeOnly(),
		mmx("MASKMOVQ", 0xf7, byteMask).locs(MaskDI, MRM).first(MReg).only(RegOnly).writeOnly(),
		xmm("MASKMOVDQU", P66, 0xf7, byteMask).locs(MaskDI, XRM).first(XReg).only(RegOnly).writeOnly(),
	})

// family gives the PS, PD, SS and SD forms of an arithmetic instruction.
func family(name string, opcode uint8, ps, pd, ss, sd Func) []Op {
	return []Op{
		xmm(name+"PS", NP, opcode, ps).lanes(),
		xmm(name+"PD", P66, opcode, pd).lanes(),
		xmm(name+"SS", PF3, opcode, ss).mem(4).fp(),
		xmm(name+"SD", PF2, opcode, sd).mem(8).fp(),
	}
}

var arithmetic0F = concat([]Op{
	xmm("CVTPI2PS", NP, 0x2a, cvtpi2ps).mem(8).locs(XReg, MRM).lanes(),
	xmm("CVTPI2PD", P66, 0x2a, cvtdq2pd).mem(8).locs(XReg, MRM).mmxRegOnly().writeOnly(),
},
	sizes(xmm("CVTSI2SS", PF3, 0x2a, nil).mem(4).locs(XReg, GRM32).fp(), cvtsi2ss, cvtsi2ssq),
	sizes(xmm("CVTSI2SD", PF2, 0x2a, nil).mem(4).locs(XReg, GRM32).fp(), cvtsi2sd, cvtsi2sdq),
	[]Op{
		xmm("CVTTPS2PI", NP, 0x2c, cvttps2pi).mem(8).locs(MReg, XRM).lanes().writeOnly(),
		xmm("CVTTPD2PI", P66, 0x2c, cvttpd2dq).locs(MReg, XRM).lanes().writeOnly(),
		xmm("CVTPS2PI", NP, 0x2d, cvtps2pi).mem(8).locs(MReg, XRM).lanes().writeOnly(),
		xmm("CVTPD2PI", P66, 0x2d, cvtpd2dq).locs(MReg, XRM).lanes().writeOnly(),
	},
	sizes(xmm("CVTTSS2SI", PF3, 0x2c, nil).mem(4).locs(GReg32, XRM).fp().writeOnly(), cvttss2si, cvttss2siq),
	sizes(xmm("CVTTSD2SI", PF2, 0x2c, nil).mem(8).locs(GReg32, XRM).fp().writeOnly(), cvttsd2si, cvttsd2siq),
	sizes(xmm("CVTSS2SI", PF3, 0x2d, nil).mem(4).locs(GReg32, XRM).fp().writeOnly(), cvtss2si, cvtss2siq),
	sizes(xmm("CVTSD2SI", PF2, 0x2d, nil).mem(8).locs(GReg32, XRM).fp().writeOnly(), cvtsd2si, cvtsd2siq),
	[]Op{
		xmm("UCOMISS", NP, 0x2e, ucomiss).mem(4).fp().flags().noWrite(),
		xmm("UCOMISD", P66, 0x2e, ucomisd).mem(8).fp().flags().noWrite(),
		xmm("COMISS", NP, 0x2f, comiss).mem(4).fp().flags().noWrite(),
		xmm("COMISD", P66, 0x2f, comisd).mem(8).fp().flags().noWrite(),
	},
	family("SQRT", 0x51, sqrtps, sqrtpd, sqrtss, sqrtsd),
	[]Op{
		xmm("RSQRTPS", NP, 0x52, rsqrtps),
		xmm("RSQRTSS", PF3, 0x52, rsqrtss).mem(4),
		xmm("RCPPS", NP, 0x53, rcpps),
		xmm("RCPSS", PF3, 0x53, rcpss).mem(4),
		xmm("ANDPS", NP, 0x54, pand),
		xmm("ANDPD", P66, 0x54, pand),
		xmm("ANDNPS", NP, 0x55, pandn),
		xmm("ANDNPD", P66, 0x55, pandn),
		xmm("ORPS", NP, 0x56, por),
		xmm("ORPD", P66, 0x56, por),
		xmm("XORPS", NP, 0x57, pxor),
		xmm("XORPD", P66, 0x57, pxor),
	},
	family("ADD", 0x58, addps, addpd, addss, addsd),
	family("MUL", 0x59, mulps, mulpd, mulss, mulsd),
	[]Op{
		xmm("CVTPS2PD", NP, 0x5a, cvtps2pd).mem(8).lanes().writeOnly(),
		xmm("CVTPD2PS", P66, 0x5a, cvtpd2ps).lanes().writeOnly(),
		xmm("CVTSS2SD", PF3, 0x5a, cvtss2sd).mem(4).fp(),
		xmm("CVTSD2SS", PF2, 0x5a, cvtsd2ss).mem(8).fp(),
		xmm("CVTDQ2PS", NP, 0x5b, cvtdq2ps).lanes().writeOnly(),
		xmm("CVTPS2DQ", P66, 0x5b, cvtps2dq).lanes().writeOnly(),
		xmm("CVTTPS2DQ", PF3, 0x5b, cvttps2dq).lanes().writeOnly(),
	},
	family("SUB", 0x5c, subps, subpd, subss, subsd),
	family("MIN", 0x5d, minps, minpd, minss, minsd),
	family("DIV", 0x5e, divps, divpd, divss, divsd),
	family("MAX", 0x5f, maxps, maxpd, maxss, maxsd),
	[]Op{
		xmm("HADDPD", P66, 0x7c, haddpd).lanes(),
		xmm("HADDPS", PF2, 0x7c, haddps).lanes(),
		xmm("HSUBPD", P66, 0x7d, hsubpd).lanes(),
		xmm("HSUBPS", PF2, 0x7d, hsubps).lanes(),
		xmm("CMPPS", NP, 0xc2, cmpps).imm().lanes(),
		xmm("CMPPD", P66, 0xc2, cmppd).imm().lanes(),
		xmm("CMPSS", PF3, 0xc2, cmpss).mem(4).imm().fp(),
		xmm("CMPSD", PF2, 0xc2, cmpsd).mem(8).imm().fp(),
		xmm("SHUFPS", NP, 0xc6, shufps).imm(),
		xmm("SHUFPD", P66, 0xc6, shufpd).imm(),
		xmm("ADDSUBPD", P66, 0xd0, addsubpd).lanes(),
		xmm("ADDSUBPS", PF2, 0xd0, addsubps).lanes(),
		xmm("CVTTPD2DQ", P66, 0xe6, cvttpd2dq).lanes().writeOnly(),
		xmm("CVTDQ2PD", PF3, 0xe6, cvtdq2pd).mem(8).writeOnly(),
		xmm("CVTPD2DQ", PF2, 0xe6, cvtpd2dq).lanes().writeOnly(),
	})

// shift gives the immediate forms of a shift in groups 12–14: MMX and SSE.
func shift(name string, opcode uint8, digit int8, fn Func) []Op {
	return []Op{
		mmx(name, opcode, fn).locs(MRM, None).only(RegOnly).imm().digit(digit),
		xmm(name, P66, opcode, fn).locs(XRM, None).only(RegOnly).imm().digit(digit),
	}
}

var groups = concat(
	shift("PSRLW", 0x71, 2, psrlwImm), shift("PSRAW", 0x71, 4, psrawImm), shift("PSLLW", 0x71, 6, psllwImm),
	shift("PSRLD", 0x72, 2, psrldImm), shift("PSRAD", 0x72, 4, psradImm), shift("PSLLD", 0x72, 6, pslldImm),
	shift("PSRLQ", 0x73, 2, psrlqImm), shift("PSLLQ", 0x73, 6, psllqImm),
	shift("PSRLDQ", 0x73, 3, psrldq)[1:], shift("PSLLDQ", 0x73, 7, pslldq)[1:],
)

// low gives PUNPCKL forms: the MMX one reads only 32 bits of memory.
func low(name string, opcode uint8, fn Func) []Op {
	return []Op{mmx(name, opcode, fn).mem(4), xmm(name, P66, opcode, fn)}
}

var integer0F = concat(
	low("PUNPCKLBW", 0x60, punpcklbw), low("PUNPCKLWD", 0x61, punpcklwd), low("PUNPCKLDQ", 0x62, punpckldq),
	both("PACKSSWB", 0x63, packsswbMMX, packsswb),
	both("PCMPGTB", 0x64, pcmpgtb, pcmpgtb), both("PCMPGTW", 0x65, pcmpgtw, pcmpgtw), both("PCMPGTD", 0x66, pcmpgtd, pcmpgtd),
	both("PACKUSWB", 0x67, packuswbMMX, packuswb),
	both("PUNPCKHBW", 0x68, punpckhbwMMX, punpckhbw), both("PUNPCKHWD", 0x69, punpckhwdMMX, punpckhwd), both("PUNPCKHDQ", 0x6a, punpckhdqMMX, punpckhdq),
	both("PACKSSDW", 0x6b, packssdwMMX, packssdw),
	[]Op{
		xmm("PUNPCKLQDQ", P66, 0x6c, punpcklqdq),
		xmm("PUNPCKHQDQ", P66, 0x6d, punpckhqdq),
		mmx("PSHUFW", 0x70, pshufw).imm().writeOnly(),
		xmm("PSHUFD", P66, 0x70, pshufd).imm().writeOnly(),
		xmm("PSHUFHW", PF3, 0x70, pshufhw).imm().writeOnly(),
		xmm("PSHUFLW", PF2, 0x70, pshuflw).imm().writeOnly(),
	},
	both("PCMPEQB", 0x74, pcmpeqb, pcmpeqb), both("PCMPEQW", 0x75, pcmpeqw, pcmpeqw), both("PCMPEQD", 0x76, pcmpeqd, pcmpeqd),
	bitCount("POPCNT", PF3, 0xb8, popcnt),
	[]Op{
		mmx("PINSRW", 0xc4, pinsrwMMX).mem(2).locs(MReg, GRM32).imm(),
		xmm("PINSRW", P66, 0xc4, pinsrw).mem(2).locs(XReg, GRM32).imm(),
		mmx("PEXTRW", 0xc5, pextrwMMX).locs(GReg32, MRM).only(RegOnly).imm().writeOnly(),
		xmm("PEXTRW", P66, 0xc5, pextrw).locs(GReg32, XRM).only(RegOnly).imm().writeOnly(),
	},
	both("PSRLW", 0xd1, psrlw, psrlw), both("PSRLD", 0xd2, psrld, psrld), both("PSRLQ", 0xd3, psrlq, psrlq),
	both("PADDQ", 0xd4, paddq, paddq), both("PMULLW", 0xd5, pmullw, pmullw),
	both("PSUBUSB", 0xd8, psubusb, psubusb), both("PSUBUSW", 0xd9, psubusw, psubusw), both("PMINUB", 0xda, pminub, pminub),
	both("PAND", 0xdb, pand, pand), both("PADDUSB", 0xdc, paddusb, paddusb), both("PADDUSW", 0xdd, paddusw, paddusw),
	both("PMAXUB", 0xde, pmaxub, pmaxub), both("PANDN", 0xdf, pandn, pandn),
	both("PAVGB", 0xe0, pavgb, pavgb), both("PSRAW", 0xe1, psraw, psraw), both("PSRAD", 0xe2, psrad, psrad),
	both("PAVGW", 0xe3, pavgw, pavgw), both("PMULHUW", 0xe4, pmulhuw, pmulhuw), both("PMULHW", 0xe5, pmulhw, pmulhw),
	both("PSUBSB", 0xe8, psubsb, psubsb), both("PSUBSW", 0xe9, psubsw, psubsw), both("PMINSW", 0xea, pminsw, pminsw),
	both("POR", 0xeb, por, por), both("PADDSB", 0xec, paddsb, paddsb), both("PADDSW", 0xed, paddsw, paddsw),
	both("PMAXSW", 0xee, pmaxsw, pmaxsw), both("PXOR", 0xef, pxor, pxor),
	both("PSLLW", 0xf1, psllw, psllw), both("PSLLD", 0xf2, pslld, pslld), both("PSLLQ", 0xf3, psllq, psllq),
	both("PMULUDQ", 0xf4, pmuludq, pmuludq), both("PMADDWD", 0xf5, pmaddwd, pmaddwd), both("PSADBW", 0xf6, psadbw, psadbw),
	both("PSUBB", 0xf8, psubb, psubb), both("PSUBW", 0xf9, psubw, psubw), both("PSUBD", 0xfa, psubd, psubd), both("PSUBQ", 0xfb, psubq, psubq),
	both("PADDB", 0xfc, paddb, paddb), both("PADDW", 0xfd, paddw, paddw), both("PADDD", 0xfe, paddd, paddd),
)

// bitCount gives the 16-, 32- and 64-bit forms of POPCNT.
func bitCount(name string, p Prefix, opcode uint8, fn Func) []Op {
	row := xmm(name, p, opcode, fn).flags().writeOnly()
	return []Op{
		row.mem(2).locs(GReg16, GRM16).width(W16),
		row.mem(4).locs(GReg32, GRM32).width(W0),
		row.mem(8).locs(GReg64, GRM64).width(W1),
	}
}

// in38 moves rows to map 0F 38, in3A to map 0F 3A with an immediate.
func in38(rows ...Op) []Op {
	for i := range rows {
		rows[i] = rows[i].in(Map0F38)
	}
	return rows
}

func in3A(rows ...Op) []Op {
	for i := range rows {
		rows[i] = rows[i].in(Map0F3A).imm()
	}
	return rows
}

var map38 = in38(concat(
	both("PSHUFB", 0x00, pshufbMMX, pshufb),
	both("PHADDW", 0x01, phaddwMMX, phaddw), both("PHADDD", 0x02, phadddMMX, phaddd), both("PHADDSW", 0x03, phaddswMMX, phaddsw),
	both("PMADDUBSW", 0x04, pmaddubsw, pmaddubsw),
	both("PHSUBW", 0x05, phsubwMMX, phsubw), both("PHSUBD", 0x06, phsubdMMX, phsubd), both("PHSUBSW", 0x07, phsubswMMX, phsubsw),
	both("PSIGNB", 0x08, psignb, psignb), both("PSIGNW", 0x09, psignw, psignw), both("PSIGND", 0x0a, psignd, psignd),
	both("PMULHRSW", 0x0b, pmulhrsw, pmulhrsw),
	[]Op{
		xmm("PBLENDVB", P66, 0x10, pblendvb).xmm0(),
		xmm("BLENDVPS", P66, 0x14, blendvps).xmm0(),
		xmm("BLENDVPD", P66, 0x15, blendvpd).xmm0(),
		xmm("PTEST", P66, 0x17, ptest).flags().noWrite(),
	},
	both("PABSB", 0x1c, pabsb, pabsb), both("PABSW", 0x1d, pabsw, pabsw), both("PABSD", 0x1e, pabsd, pabsd),
	[]Op{
		xmm("PMOVSXBW", P66, 0x20, pmovsxbw).mem(8).writeOnly(),
		xmm("PMOVSXBD", P66, 0x21, pmovsxbd).mem(4).writeOnly(),
		xmm("PMOVSXBQ", P66, 0x22, pmovsxbq).mem(2).writeOnly(),
		xmm("PMOVSXWD", P66, 0x23, pmovsxwd).mem(8).writeOnly(),
		xmm("PMOVSXWQ", P66, 0x24, pmovsxwq).mem(4).writeOnly(),
		xmm("PMOVSXDQ", P66, 0x25, pmovsxdq).mem(8).writeOnly(),
		xmm("PMULDQ", P66, 0x28, pmuldq),
		xmm("PCMPEQQ", P66, 0x29, pcmpeqq),
		xmm("MOVNTDQA", P66, 0x2a, mov).only(MemOnly).writeOnly(),
		xmm("PACKUSDW", P66, 0x2b, packusdw),
		xmm("PMOVZXBW", P66, 0x30, pmovzxbw).mem(8).writeOnly(),
		xmm("PMOVZXBD", P66, 0x31, pmovzxbd).mem(4).writeOnly(),
		xmm("PMOVZXBQ", P66, 0x32, pmovzxbq).mem(2).writeOnly(),
		xmm("PMOVZXWD", P66, 0x33, pmovzxwd).mem(8).writeOnly(),
		xmm("PMOVZXWQ", P66, 0x34, pmovzxwq).mem(4).writeOnly(),
		xmm("PMOVZXDQ", P66, 0x35, pmovzxdq).mem(8).writeOnly(),
		xmm("PCMPGTQ", P66, 0x37, pcmpgtq),
		xmm("PMINSB", P66, 0x38, pminsb),
		xmm("PMINSD", P66, 0x39, pminsd),
		xmm("PMINUW", P66, 0x3a, pminuw),
		xmm("PMINUD", P66, 0x3b, pminud),
		xmm("PMAXSB", P66, 0x3c, pmaxsb),
		xmm("PMAXSD", P66, 0x3d, pmaxsd),
		xmm("PMAXUW", P66, 0x3e, pmaxuw),
		xmm("PMAXUD", P66, 0x3f, pmaxud),
		xmm("PMULLD", P66, 0x40, pmulld),
		xmm("PHMINPOSUW", P66, 0x41, phminposuw).writeOnly(),
		xmm("CRC32", PF2, 0xf0, crc8).mem(1).locs(GReg32, GRM8).width(W16),
		xmm("CRC32", PF2, 0xf0, crc8).mem(1).locs(GReg32, GRM8).width(W0),
		xmm("CRC32", PF2, 0xf0, crc8).mem(1).locs(GReg64, GRM8).width(W1),
		xmm("CRC32", PF2, 0xf1, crc16).mem(2).locs(GReg32, GRM16).width(W16),
		xmm("CRC32", PF2, 0xf1, crc32l).mem(4).locs(GReg32, GRM32).width(W0),
		xmm("CRC32", PF2, 0xf1, crc64).mem(8).locs(GReg64, GRM64).width(W1),
	},
)...)

var map3A = in3A(concat(
	[]Op{
		xmm("ROUNDPS", P66, 0x08, roundps).lanes().writeOnly(),
		xmm("ROUNDPD", P66, 0x09, roundpd).lanes().writeOnly(),
		xmm("ROUNDSS", P66, 0x0a, roundss).mem(4).fp(),
		xmm("ROUNDSD", P66, 0x0b, roundsd).mem(8).fp(),
		xmm("BLENDPS", P66, 0x0c, blendps),
		xmm("BLENDPD", P66, 0x0d, blendpd),
		xmm("PBLENDW", P66, 0x0e, pblendw),
	},
	both("PALIGNR", 0x0f, palignrMMX, palignr),
	[]Op{
		xmm("PEXTRB", P66, 0x14, pextrb).mem(1).locs(GRM32, XReg).writeOnly(),
		xmm("PEXTRW", P66, 0x15, pextrw).mem(2).locs(GRM32, XReg).writeOnly(),
	},
	sizes(xmm("PEXTRD", P66, 0x16, nil).mem(4).locs(GRM32, XReg).writeOnly(), pextrd, pextrq),
	[]Op{
		xmm("EXTRACTPS", P66, 0x17, pextrd).mem(4).locs(GRM32, XReg).writeOnly(),
		xmm("PINSRB", P66, 0x20, pinsrb).mem(1).locs(XReg, GRM32),
		xmm("INSERTPS", P66, 0x21, insertps).only(RegOnly),
		xmm("INSERTPS", P66, 0x21, insertpsMem).mem(4).only(MemOnly),
	},
	sizes(xmm("PINSRD", P66, 0x22, nil).mem(4).locs(XReg, GRM32), pinsrd, pinsrq),
	[]Op{
		xmm("DPPS", P66, 0x40, dpps).fp(),
		xmm("DPPD", P66, 0x41, dppd).fp(),
		xmm("MPSADBW", P66, 0x42, mpsadbw),
		xmm("PCMPESTRM", P66, 0x60, pcmpestrm).mem(16).locs(XMM0, XRM).first(XReg).flags().lengths(),
		xmm("PCMPESTRI", P66, 0x61, pcmpestri).mem(16).locs(ECX, XRM).first(XReg).flags().lengths(),
		xmm("PCMPISTRM", P66, 0x62, pcmpistrm).mem(16).locs(XMM0, XRM).first(XReg).flags(),
		xmm("PCMPISTRI", P66, 0x63, pcmpistri).mem(16).locs(ECX, XRM).first(XReg).flags(),
	},
)...)
