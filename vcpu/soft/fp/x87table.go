package fp

// The opcode tables D8–DF (SDM vol. 2D, tables ), built once. Register forms at which the SDM shows nothing but which every x87 since the
// 8087 executes as an alias of another instruction are marked "alias".

var (
	memoryForms   [8][8]*Op87
	registerForms [8][64]*Op87
)

// load, store, plain and rows give the kinds of forms.

func load(name string, size uint8, f execFunc) *Op87 {
	return &Op87{Name: name, Size: size, Load: true, exec: f}
}

func store(name string, size uint8, f execFunc) *Op87 {
	return &Op87{Name: name, Size: size, Store: true, exec: f}
}

func plain(name string, f execFunc) *Op87 { return &Op87{Name: name, exec: f} }

func (op *Op87) control() *Op87  { op.Control = true; return op }
func (op *Op87) noWait() *Op87   { op.NoWait, op.Control = true, true; return op }
func (op *Op87) flagsOut() *Op87 { op.EFLAGS = true; return op }
func (op *Op87) flagsIn() *Op87  { op.FlagsIn = true; return op }

// arithOrder is the order of the eight operations in ModRM.reg; comparisons are handled apart.
var arithOrder = [8]struct {
	name    string
	op      arith
	reverse bool
	compare int // pops+1 of a comparison
}{
	{name: "FADD", op: opAdd}, {name: "FMUL", op: opMul}, {name: "FCOM", compare: 1}, {name: "FCOMP", compare: 2},
	{name: "FSUB", op: opSub}, {name: "FSUBR", op: opSub, reverse: true},
	{name: "FDIV", op: opDiv}, {name: "FDIVR", op: opDiv, reverse: true},
}

func init() {
	initArithmetic()
	initMemory()
	initRegister()
	initTranscendental()
}

// initArithmetic fills D8, DC, DA, DE with the eight operations.
func initArithmetic() {
	for reg, a := range arithOrder {
		for _, m := range []struct {
			opcode, size uint8
			prefix       string
			fetch        func(*Operands) num
		}{{0, 4, "F", memF32}, {4, 8, "F", memF64}, {2, 4, "FI", memI32}, {6, 2, "FI", memI16}} {
			name := m.prefix + a.name[1:]
			if a.compare > 0 {
				memoryForms[m.opcode][reg] = load(name, m.size, compareMem(m.fetch, a.compare-1))
				continue
			}
			memoryForms[m.opcode][reg] = load(name, m.size, arithMem(a.op, a.reverse, m.fetch))
		}
		if a.compare > 0 {
			column(0, reg, plain(a.name, compareST(true, a.compare-1)))
			column(4, reg, plain(a.name, compareST(true, a.compare-1))) // alias
			continue
		}
		column(0, reg, plain(a.name, arithST0(a.op, a.reverse)))
		// With ST(i) as destination, FSUB and FSUBR, FDIV and FDIVR exchange their encodings, and again their meaning: DC E8 is FSUB ST(i), ST(0).
		other := arithOrder[reg^b2i(reg >= 4)]
		column(4, reg, plain(other.name, arithSTi(a.op, a.reverse != (reg >= 4), false)))
		column(6, reg, plain(other.name+"P", arithSTi(a.op, a.reverse != (reg >= 4), true)))
	}
	column(6, 2, plain("FCOMP", compareST(true, 1))) // alias
	registerForms[6][0x19] = plain("FCOMPP", compareST(true, 2))
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// column fills the eight register forms of one ModRM.reg.
func column(opcode, reg int, op *Op87) {
	for i := range 8 {
		registerForms[opcode][reg*8+i] = op
	}
}

// fill sets the forms that are given.
func fill(forms *[64]*Op87, with [64]*Op87) {
	for i, op := range with {
		if op != nil {
			forms[i] = op
		}
	}
}

func initMemory() {
	memoryForms[1] = [8]*Op87{
		load("FLD", 4, loadF32), nil,
		store("FST", 4, storeFloat(binary32, false, putF32)), store("FSTP", 4, storeFloat(binary32, true, putF32)),
		load("FLDENV", SizeEnv, fldenv).control(), load("FLDCW", 2, fldcw).control(),
		store("FNSTENV", SizeEnv, fnstenv).noWait(), store("FNSTCW", 2, fnstcw).noWait(),
	}
	memoryForms[3] = [8]*Op87{
		load("FILD", 4, loadInt(memI32)), store("FISTTP", 4, storeInt(32, true, true)),
		store("FIST", 4, storeInt(32, false, false)), store("FISTP", 4, storeInt(32, true, false)),
		nil, load("FLD", 10, loadF80), nil, store("FSTP", 10, storeF80),
	}
	memoryForms[5] = [8]*Op87{
		load("FLD", 8, loadF64), store("FISTTP", 8, storeInt(64, true, true)),
		store("FST", 8, storeF64(false)), store("FSTP", 8, storeF64(true)),
		load("FRSTOR", SizeSave, frstor).control(), nil,
		store("FNSAVE", SizeSave, fnsave).noWait(), store("FNSTSW", 2, fnstsw).noWait(),
	}
	memoryForms[7] = [8]*Op87{
		load("FILD", 2, loadInt(memI16)), store("FISTTP", 2, storeInt(16, true, true)),
		store("FIST", 2, storeInt(16, false, false)), store("FISTP", 2, storeInt(16, true, false)),
		load("FBLD", 10, loadBCD), load("FILD", 8, loadInt(memI64)),
		store("FBSTP", 10, storeBCD), store("FISTP", 8, storeInt(64, true, false)),
	}
}

func initRegister() {
	column(1, 0, plain("FLD", loadST))
	for _, opcode := range []int{1, 5, 7} { // DD and DF: alias
		column(opcode, 1, plain("FXCH", fxch))
	}
	registerForms[1][0x10] = plain("FNOP", fnop).control()
	column(1, 3, plain("FSTPNCE", storeUnchecked)) // alias
	fill(&registerForms[1], [64]*Op87{
		0x20: plain("FCHS", fchs), 0x21: plain("FABS", fabs), 0x24: plain("FTST", ftst), 0x25: plain("FXAM", fxam),
		0x28: plain("FLD1", constant(1<<63, 0, 0)),
		0x29: plain("FLDL2T", constant(0xd49a784bcd1b8afe, 0x492bf6ff4dafdb4d, 1)),
		0x2a: plain("FLDL2E", constant(0xb8aa3b295c17f0bb, 0xbe87fed0691d3e89, 0)),
		0x2b: plain("FLDPI", constant(0xc90fdaa22168c234, 0xc4c6628b80dc1cd1, 1)),
		0x2c: plain("FLDLG2", constant(0x9a209a84fbcff798, 0x8f8959ac0b7c9178, -2)),
		0x2d: plain("FLDLN2", constant(0xb17217f7d1cf79ab, 0xc9e3b39803f2f6af, -1)),
		0x2e: plain("FLDZ", constant(0, 0, 0)),
		0x34: plain("FXTRACT", fxtract), 0x35: plain("FPREM1", fprem(true)), 0x38: plain("FPREM", fprem(false)),
		0x36: plain("FDECSTP", fdecstp).control(), 0x37: plain("FINCSTP", fincstp).control(),
		0x3a: plain("FSQRT", monadic(fsqrt)), 0x3c: plain("FRNDINT", monadic(frndint)), 0x3d: plain("FSCALE", fscale),
	})
	for i, c := range []struct {
		name  string
		flags uint32
	}{{"B", CF}, {"E", ZF}, {"BE", CF | ZF}, {"U", PF}} {
		column(2, i, plain("FCMOV"+c.name, fcmov(c.flags, false)).flagsIn())
		column(3, i, plain("FCMOVN"+c.name, fcmov(c.flags, true)).flagsIn())
	}
	registerForms[2][0x29] = plain("FUCOMPP", compareST(false, 2))
	for _, i := range []int{0x20, 0x21, 0x24} { // FENI, FDISI, FSETPM of the 8087 and 287 do nothing
		registerForms[3][i] = plain("FNOP", fnop).noWait()
	}
	registerForms[3][0x22] = plain("FNCLEX", fnclex).noWait()
	registerForms[3][0x23] = plain("FNINIT", fninit).noWait()
	column(3, 5, plain("FUCOMI", compareFlags(false, false)).flagsOut())
	column(3, 6, plain("FCOMI", compareFlags(true, false)).flagsOut())
	column(5, 0, plain("FFREE", ffree(false)).control())
	column(5, 2, plain("FST", storeST(false)))
	column(5, 3, plain("FSTP", storeST(true)))
	column(5, 4, plain("FUCOM", compareST(false, 0)))
	column(5, 5, plain("FUCOMP", compareST(false, 1)))
	column(7, 0, plain("FFREEP", ffree(true)).control()) // undocumented but universal
	column(7, 2, plain("FSTP", storeST(true)))           // alias
	column(7, 3, plain("FSTP", storeST(true)))           // alias
	ax := plain("FNSTSW", fnstswAX).noWait()
	ax.AX = true
	registerForms[7][0x20] = ax
	column(7, 5, plain("FUCOMIP", compareFlags(false, true)).flagsOut())
	column(7, 6, plain("FCOMIP", compareFlags(true, true)).flagsOut())
}
