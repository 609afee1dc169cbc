package soft

import "strings"

// lowerers says how each mnemonic of the decoder table is lowered.
var lowerers = makeLowerers()

// ALU operation numbers, as in the opcode bits; TEST is ours.
const (
	aluAdd = iota
	aluOr
	aluAdc
	aluSbb
	aluAnd
	aluSub
	aluXor
	aluCmp
	aluTest
)

func makeLowerers() map[string]lowerFn {
	m := map[string]lowerFn{
		"NOP": lowerNop, "MOV": lowerMov, "LEA": lowerLea, "MOVSXD": lowerMovsxd,
		"MOVZX": lowerExtend(&movZXR, &movZXM), "MOVSX": lowerExtend(&movSXR, &movSXM),
		"INC": lowerUnary(&unIncR, &unIncRNF, &unIncM, attrInc), "DEC": lowerUnary(&unDecR, &unDecRNF, &unDecM, attrInc),
		"NEG": lowerUnary(&unNegR, &unNegRNF, &unNegM, attrKill), "NOT": lowerUnary(&unNotR, nil, &unNotM, attrPure),
		"SHL": lowerShift(&shShlRI, &shShlRINF, attrKill, shiftShl), "SHR": lowerShift(&shShrRI, &shShrRINF, attrKill, shiftShr),
		"SAR": lowerShift(&shSarRI, &shSarRINF, attrKill, shiftSar), "ROL": lowerShift(&shRolRI, &shRolRINF, attrInc, shiftRol), "ROR": lowerShift(&shRorRI, &shRorRINF, attrInc, shiftRor),
		"RCL": lowerShift(nil, nil, attrOther, shiftRcl), "RCR": lowerShift(nil, nil, attrOther, shiftRcr),
		"PUSH": lowerPush, "POP": lowerPop, "JMP": lowerJmp, "CALL": lowerCall, "RET": lowerRet, "JMPIND": lowerTerminal(xJmpInd),
		"CALLIND": lowerTerminal(xCallInd), "IMUL2": lowerImul2, "IMUL3": lowerImul3, "XCHG": lowerXchg,
		"LEAVE": lowerFull(xLeave),
	}
	for i, n := range []string{"ADD", "OR", "ADC", "SBB", "AND", "SUB", "XOR", "CMP", "TEST"} {
		m[n] = lowerALU(i)
	}
	for cc, n := range strings.Fields("O NO B AE E NE BE A S NS P NP L GE LE G") {
		m["J"+n] = lowerJcc(uint8(cc))
		m["SET"+n] = lowerSetcc(uint8(cc))
		m["CMOV"+n] = lowerCmov(uint8(cc))
	}
	for n, fn := range fullExecs {
		m[n] = lowerFull(fn)
	}
	for n, fn := range terminalExecs {
		m[n] = lowerTerminal(fn)
	}
	for n, fn := range loopExecs {
		m[n] = lowerLoop(fn)
	}
	for n, s := range stringOps {
		m[n] = lowerString(s)
	}
	return m
}

// lowerFull lowers to one generic op in the middle of the block.
func lowerFull(fn execFn) lowerFn { return func(l *lowerer, in *inst) { l.full(in, fn) } }

// lowerTerminal lowers to one generic op that ends the block.
func lowerTerminal(fn execFn) lowerFn { return func(l *lowerer, in *inst) { l.terminal(in, fn) } }

func lowerNop(l *lowerer, in *inst) {
	l.emit(in, xNop)
	l.mark(attrPure, nil)
}

func xNop(_ *CPU, o *op) *op { return next(o) }

// operandKinds describes the operands of a two-operand form: destination and source by their first letters.
func operandKinds(in *inst) (dst, src byte) {
	kind := func(s string) byte {
		switch s {
		case "AL", "rAX":
			return 'A'
		case "CL", "1", "DX":
			return s[0]
		}
		return s[0]
	}
	ops := in.form.Operands
	return kind(ops[0]), kind(ops[1])
}

func lowerALU(n int) lowerFn {
	return func(l *lowerer, in *inst) {
		dst, src := operandKinds(in)
		sz := log2(in.osize)
		a := attrKill
		if n == aluAdc || n == aluSbb {
			a = attrOther
		}
		switch {
		case dst == 'A':
			o := l.emit(in, aluRI[n][sz])
			o.a, o.imm = offRAX, in.imm
			l.mark(a, aluRINF[n][sz])
			l.tag(n, tagRI)
		case dst == 'E' && src == 'I' && in.mem:
			o := l.emitMem(in, aluMI[n][sz])
			o.imm = in.imm
			l.tag(n, tagMI)
		case dst == 'E' && src == 'I':
			o := l.emit(in, aluRI[n][sz])
			o.a, o.imm = in.regOff(in.rm), in.imm
			l.mark(a, aluRINF[n][sz])
			l.tag(n, tagRI)
		case dst == 'E' && in.mem:
			o := l.emitMem(in, aluMR[n][sz])
			o.b = in.regOff(in.reg)
			l.tag(n, tagMR)
		case dst == 'E':
			l.aluRegs(in, n, in.regOff(in.rm), in.regOff(in.reg), a)
		case in.mem:
			o := l.emitMem(in, aluRM[n][sz])
			o.a = in.regOff(in.reg)
			l.mark(attrOther, aluRMNF[n][sz])
			l.tag(n, tagRM)
		default:
			l.aluRegs(in, n, in.regOff(in.reg), in.regOff(in.rm), a)
		}
	}
}

func (l *lowerer) aluRegs(in *inst, n int, a, b uint8, at attr) {
	sz := log2(in.osize)
	o := l.emit(in, aluRR[n][sz])
	o.a, o.b = a, b
	l.mark(at, aluRRNF[n][sz])
	l.tag(n, tagRR)
}

func lowerMov(l *lowerer, in *inst) {
	dst, src := operandKinds(in)
	sz := log2(in.osize)
	switch {
	case src == 'I' && in.mem:
		o := l.emitMem(in, movMI[sz])
		o.imm = in.imm
	case src == 'I':
		o := l.emit(in, movRI[sz])
		o.imm = in.imm
		o.a = in.regOff(in.rm)
		if dst == 'Z' {
			o.a = in.regOff(in.reg)
		}
		l.mark(attrPure, nil)
	case dst == 'O':
		l.emitMem(in, movMR[sz]).b = offRAX
	case src == 'O':
		l.emitMem(in, movRM[sz]).a = offRAX
	case dst == 'E' && in.mem:
		l.emitMem(in, movMR[sz]).b = in.regOff(in.reg)
	case dst == 'E':
		l.movRegs(in, in.rm, in.reg)
	case in.mem:
		l.emitMem(in, movRM[sz]).a = in.regOff(in.reg)
	default:
		l.movRegs(in, in.reg, in.rm)
	}
}

func (l *lowerer) movRegs(in *inst, dst, src uint8) {
	o := l.emit(in, movRR[log2(in.osize)])
	o.a, o.b = in.regOff(dst), in.regOff(src)
	l.mark(attrPure, nil)
}

// lowerExtend lowers MOVZX and MOVSX by the tables for register and memory sources.
func lowerExtend(reg, mem *[3][4]execFn) lowerFn {
	return func(l *lowerer, in *inst) {
		src := 0
		if in.opcode&1 != 0 {
			src = 1
		}
		l.extend(in, src, reg, mem)
	}
}

func (l *lowerer) extend(in *inst, src int, reg, mem *[3][4]execFn) {
	dst := log2(in.osize)
	if in.mem {
		l.emitMem(in, mem[src][dst]).a = in.reg * 8
		return
	}
	o := l.emit(in, reg[src][dst])
	o.a, o.b = in.reg*8, in.rm*8
	if src == 0 {
		o.b = in.byteReg(in.rm)
	}
	l.mark(attrPure, nil)
}

func lowerMovsxd(l *lowerer, in *inst) {
	if in.osize == 2 {
		if in.mem {
			l.emitMem(in, movRM[1]).a = in.reg * 8
			return
		}
		l.movRegs(in, in.reg, in.rm)
		return
	}
	l.extend(in, 2, &movSXR, &movSXM)
}

func lowerLea(l *lowerer, in *inst) {
	if l.mode&mode64 == 0 || in.asize != 8 {
		t := l.emit(in, xAddress)
		t.base, t.index, t.shift, t.disp, t.size, t.a, t.b = in.base, in.index, in.shift, in.disp, in.asize, regZero, mode64
		l.mark(attrPure, nil)
		o := l.emit(in, movRR[log2(in.osize)])
		o.a, o.b = in.reg*8, regTmp
		l.mark(attrPure, nil)
		return
	}
	fn := [4]execFn{nil, xLea16, xLea32, xLea64}[log2(in.osize)]
	if in.osize == 8 && in.index == regZero {
		fn = xLeaDisp64
		if in.base == regZero {
			fn = xLeaAbs64
		}
	}
	o := l.emit(in, fn)
	o.a, o.base, o.index, o.shift, o.disp = in.reg*8, in.base, in.index, in.shift, in.disp
	l.mark(attrPure, nil)
}

func lowerUnary(reg, quiet, mem *[4]execFn, a attr) lowerFn {
	return func(l *lowerer, in *inst) {
		sz := log2(in.osize)
		if in.mem {
			l.emitMem(in, mem[sz])
			return
		}
		o := l.emit(in, reg[sz])
		o.a = in.regOff(in.rm)
		if in.form.PlusReg {
			o.a = in.regOff(in.reg)
		}
		var q execFn
		if quiet != nil {
			q = quiet[sz]
		}
		l.mark(a, q)
		switch reg {
		case &unIncR:
			l.tags[len(l.tags)-1] = tagInc + tagRR
		case &unDecR:
			l.tags[len(l.tags)-1] = tagDec + tagRR
		}
	}
}

// lowerShift lowers shifts and rotates: those of a register by a plain constant to the executors in the tables, the others to the generic one.
func lowerShift(reg, quiet *[4]execFn, at attr, generic func(c *CPU, a uint64, n uint, size uint8) (uint64, bool)) lowerFn {
	exec := func(count func(c *CPU, o *op) uint64) execFn {
		return func(c *CPU, o *op) *op { return c.shiftOp(o, uint(count(c, o)), generic) }
	}
	byImm := exec(func(_ *CPU, o *op) uint64 { return o.imm })
	byCL := exec(func(c *CPU, _ *op) uint64 { return c.r[1] & 0xff })
	return func(l *lowerer, in *inst) {
		last := in.form.Operands[1]
		n := in.imm & 31
		if in.osize == 8 {
			n = in.imm & 63
		}
		if last == "1" {
			n = 1
		}
		switch {
		case last == "CL":
			l.full(in, byCL)
		case reg != nil && !in.mem && n != 0 && n < 8*uint64(in.osize):
			sz := log2(in.osize)
			o := l.emit(in, reg[sz])
			o.a, o.imm = in.regOff(in.rm), n
			l.mark(at, quiet[sz])
		default:
			l.full(in, byImm).imm = n
		}
	}
}

func lowerSetcc(cc uint8) lowerFn {
	return func(l *lowerer, in *inst) {
		if in.mem {
			l.emitMem(in, xSetccM).a = cc
			return
		}
		l.emit(in, setccR[cc]).a = in.byteReg(in.rm)
	}
}

func lowerCmov(cc uint8) lowerFn {
	return func(l *lowerer, in *inst) {
		if in.mem {
			o := l.full(in, xCmovM)
			o.a, o.imm = in.reg*8, uint64(cc)
			return
		}
		fn := [4]execFn{nil, xCmovR16, xCmovR32, xCmovR64}[log2(in.osize)]
		o := l.emit(in, fn)
		o.a, o.b, o.imm = in.reg*8, in.rm*8, uint64(cc)
	}
}

func lowerImul2(l *lowerer, in *inst) {
	sz := log2(in.osize)
	if in.mem {
		o := l.emitMem(in, [4]execFn{nil, xImulM, xImulM, xImulM}[sz])
		o.a = in.reg * 8
		return
	}
	o := l.emit(in, [4]execFn{nil, xImulRR, xImulRR32, xImulRR64}[sz])
	o.a, o.b = in.reg*8, in.rm*8
}

func lowerImul3(l *lowerer, in *inst) {
	if in.mem {
		o := l.emitMem(in, xImulMI)
		o.a, o.imm = in.reg*8, in.imm
		return
	}
	o := l.emit(in, xImulRI)
	o.a, o.b, o.imm = in.reg*8, in.rm*8, in.imm
}

func lowerXchg(l *lowerer, in *inst) {
	if in.form.PlusReg {
		if in.reg == 0 {
			lowerNop(l, in)
			return
		}
		in.rm = 0
	}
	o := l.full(in, xXchg)
	if !in.mem {
		l.mark(attrPure, nil)
	}
	if in.form.PlusReg {
		o.a, o.b = in.regOff(in.reg), offRAX
	}
}

func lowerPush(l *lowerer, in *inst) {
	long := l.mode&mode64 != 0
	switch kind := in.form.Operands[0]; {
	case len(kind) == 2 && kind[1] == 'S':
		l.full(in, xPushSeg).a = segNumber(kind)
	case kind[0] == 'I':
		l.full(in, xPushImm)
	case kind[0] == 'Z' && long && in.osize == 8:
		l.emit(in, xPush64).a = in.reg * 8
	case kind[0] == 'Z':
		l.full(in, xPushReg).a = in.reg * 8
	case in.mem:
		l.full(in, xPushMem)
	default:
		l.full(in, xPushReg)
	}
}

func lowerPop(l *lowerer, in *inst) {
	long := l.mode&mode64 != 0
	switch kind := in.form.Operands[0]; {
	case len(kind) == 2 && kind[1] == 'S':
		l.terminal(in, xPopSeg).a = segNumber(kind)
	case kind[0] == 'Z' && long && in.osize == 8:
		l.emit(in, xPop64).a = in.reg * 8
	case kind[0] == 'Z':
		l.full(in, xPopReg).a = in.reg * 8
	case in.mem:
		if in.base == offRSP {
			in.disp += uint64(in.osize) // the address is computed after the pop (SDM, POP)
		}
		l.full(in, xPopMem)
	default:
		l.full(in, xPopReg)
	}
}

// segNumber is the number of the segment register with this name.
func segNumber(name string) uint8 {
	for i, n := range []string{"ES", "CS", "SS", "DS", "FS", "GS"} {
		if n == name {
			return uint8(i)
		}
	}
	return segDS
}

func lowerJmp(l *lowerer, in *inst) { l.terminal(in, xJmp) }

func lowerCall(l *lowerer, in *inst) {
	fn := xCall
	if l.mode&mode64 == 0 {
		fn = xCallNarrow
	}
	l.terminal(in, fn)
	l.ops[len(l.ops)-1].imm = in.next
}

func lowerRet(l *lowerer, in *inst) {
	if l.mode&mode64 != 0 && in.imm == 0 {
		l.terminal(in, xRet)
		return
	}
	l.terminal(in, xRetImm)
}

// lowerJcc lowers a conditional branch, fused with the CMP or TEST before it if there is one.
func lowerJcc(cc uint8) lowerFn {
	return func(l *lowerer, in *inst) {
		if l.branches {
			l.emit(in, xCountBranch)
			l.terminal(in, jcc[cc])
			return
		}
		if l.fuse(in, cc) {
			return
		}
		l.terminal(in, jcc[cc])
	}
}

// lowerLoop lowers JRCXZ and LOOPcc.
func lowerLoop(fn execFn) lowerFn {
	return func(l *lowerer, in *inst) {
		if l.branches {
			l.emit(in, xCountBranch)
		}
		l.terminal(in, fn)
	}
}

// fuse replaces a CMP, TEST or other arithmetic at the end of the block by its fusion with the conditional branch in.
func (l *lowerer) fuse(in *inst, cc uint8) bool {
	if len(l.ops) == 0 || int(l.ops[len(l.ops)-1].rest) != l.n-1 {
		return false
	}
	o := &l.ops[len(l.ops)-1]
	sz := log2(o.size)
	fn := l.fusion(sz, cc)
	if fn == nil {
		return false
	}
	o.fn = fn
	o.in = l.keep(in)
	l.done = true
	l.attrs[len(l.attrs)-1] = l.fusedAttr
	l.quiet[len(l.quiet)-1] = nil
	return true
}

// Tags of ops that can be fused with a conditional branch: the operand kinds, plus a multiple of tagOps for the operation.
const (
	tagRR = iota + 1
	tagRI
	tagRM
	tagMI
	tagMR

	tagCmp  = 0
	tagTest = 8
	tagSub  = 16
	tagAnd  = 24
	tagAdd  = 32
	tagInc  = 40
	tagDec  = 48
)

// fusions holds the fused executors by tag.
var fusions = [...]*[16][4]execFn{
	tagCmp + tagRR: &fusedCmpRR, tagCmp + tagRI: &fusedCmpRI, tagCmp + tagRM: &fusedCmpRM, tagCmp + tagMI: &fusedCmpMI, tagCmp + tagMR: &fusedCmpMR,
	tagTest + tagRR: &fusedTestRR, tagTest + tagRI: &fusedTestRI, tagTest + tagMI: &fusedTestMI, tagTest + tagMR: &fusedTestMR,
	tagSub + tagRR: &fusedSubRR, tagSub + tagRI: &fusedSubRI, tagAnd + tagRR: &fusedAndRR, tagAnd + tagRI: &fusedAndRI,
	tagAdd + tagRR: &fusedAddRR, tagAdd + tagRI: &fusedAddRI, tagInc + tagRR: &fusedIncR, tagDec + tagRR: &fusedDecR,
}

// fusion finds the fused executor for the op emitted last, or nil.
func (l *lowerer) fusion(sz int, cc uint8) execFn {
	tag := l.tags[len(l.tags)-1]
	if tag == 0 || int(tag) >= len(fusions) || fusions[tag] == nil {
		return nil
	}
	l.fusedAttr = attrOther
	if kind := tag & 7; kind <= tagRI {
		l.fusedAttr = attrKill
		if tag >= tagInc {
			l.fusedAttr = attrOther // keeps CF
		}
	}
	return fusions[tag][cc][sz]
}

// tag marks the op emitted last as ALU operation n with operands of the given kind.
func (l *lowerer) tag(n int, kind uint8) {
	op, ok := uint8(0), true
	switch n {
	case aluCmp:
		op = tagCmp
	case aluTest:
		op = tagTest
	case aluSub:
		op = tagSub
	case aluAnd:
		op = tagAnd
	case aluAdd:
		op = tagAdd
	default:
		ok = false
	}
	if ok {
		l.tags[len(l.tags)-1] = op + kind
	}
}
