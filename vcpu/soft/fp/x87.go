package fp

// Float80 is a number in double extended format: a significand with explicit integer bit, and sign and exponent.
type Float80 struct {
	Mant uint64
	SE   uint16 // bit 15 sign, bits 14:0 exponent biased by 16383
}

// Bits of the x87 status word beside the six exception flags (SDM vol. 1, 8.1.3).
const (
	StackFault = 1 << 6
	Summary    = 1 << 7 // an unmasked exception is pending
	C0         = 1 << 8
	C1         = 1 << 9
	C2         = 1 << 10
	TopShift   = 11
	C3         = 1 << 14
	Busy       = 1 << 15 // mirrors Summary

	conditionBits = C0 | C1 | C2 | C3
)

// X87 is the architectural state of the x87 unit, whose registers double as the MMX registers. Reset leaves it as FNINIT does.
// It is not safe for concurrent use.
type X87 struct {
	R    [8]Float80 // physical registers; ST(i) is R[(top+i)&7], MMi is R[i].Mant
	CW   uint16     // control word
	SW   uint16     // status word, with TOP in bits 13:11
	Used uint8      // bit i: physical register i is not empty (the abridged tag word of FXSAVE)
	FOP  uint16     // last opcode: low 3 bits of the first byte, then ModRM
	FIP  uint64
	FDP  uint64
}

// Operands carries what an x87 instruction exchanges with the core: its memory operand, EFLAGS and AX.
type Operands struct {
	// Mem is the memory operand, little endian from byte 0: filled by the core before a load, written to the guest after a store.
	Mem [108]byte
	// Size16 selects the 16-bit layout of FSTENV, FLDENV, FSAVE and FRSTOR (operand size prefix 66). Set by the core.
	Size16 bool
	// RealMode selects their real-address-mode layout. Set by the core; never in long or compatibility mode.
	RealMode bool
	// EFLAGS is read by FCMOVcc; FCOMI and its kin replace ArithFlags in it.
	EFLAGS uint32
	// AX is written by FNSTSW AX.
	AX uint16
	// NoStore is set by Exec when an unmasked exception forbids the store; memory keeps its value.
	NoStore bool
}

// Sizes of Op87 memory operands that depend on the operand size.
const (
	SizeEnv  = 0xfe // FSTENV, FLDENV: 28 bytes, 14 with Operands.Size16
	SizeSave = 0xff // FSAVE, FRSTOR: 108 bytes, 94 with Operands.Size16
)

// Op87 describes one form of an x87 instruction.
type Op87 struct {
	Name string
	// Size is the width of the memory operand in bytes, SizeEnv, SizeSave, or 0 if there is none.
	Size uint8
	// Load and Store say that the memory operand is read before, or written after, Exec.
	Load, Store bool
	// NoWait marks the forms that execute although an unmasked exception is pending (FNINIT, FNCLEX, FNSTSW, FNSTCW, FNSTENV, FNSAVE): for all
	// others the core must check X87.Pending first and raise #MF.
	NoWait bool
	// Control marks forms that leave FOP, FIP and FDP alone.
	Control bool
	// AX marks FNSTSW AX, EFLAGS the forms that write EFLAGS, FlagsIn those that read it.
	AX, EFLAGS, FlagsIn bool

	exec func(x *X87, i uint8, o *Operands)
}

// MemSize is the number of bytes that the instruction reads or writes in memory.
func (op *Op87) MemSize(size16 bool) int {
	switch {
	case op.Size == SizeEnv && size16:
		return 14
	case op.Size == SizeEnv:
		return 28
	case op.Size == SizeSave && size16:
		return 94
	case op.Size == SizeSave:
		return 108
	}
	return int(op.Size)
}

// LookupX87 finds the instruction for opcode 0xd8–0xdf and a ModRM byte (mod 3: register form). It returns nil for undefined forms (#UD).
// The result is shared and must not be modified.
func LookupX87(opcode, modrm uint8) *Op87 {
	if modrm>>6 == 3 {
		return registerForms[opcode&7][modrm&63]
	}
	return memoryForms[opcode&7][modrm>>3&7]
}

// Exec executes one instruction. The core has checked CR0.EM/TS (#NM) and, unless op.NoWait, Pending (#MF), has filled o for a load and stores o.Mem
// afterwards if op.Store and not o.NoStore. A store that faults must leave the unit unchanged: the core checks the
// address for writing before Exec. It never panics, whatever the state.
func (x *X87) Exec(op *Op87, modrm uint8, o *Operands) {
	o.NoStore = false
	op.exec(x, modrm&7, o)
}

// Pending reports whether an unmasked exception is pending, which the next waiting x87 or MMX instruction reports as #MF.
func (x *X87) Pending() bool { return x.SW&Summary != 0 }

// SetPointers records the opcode and the instruction and operand pointers of a non-control instruction; dp is 0 without a memory operand. The
// selectors (cs and ds) are not recorded but saved as zeros, as on all processors that deprecate them (SDM vol. 1, 8.1.8): so the
// FXSAVE64 image is the whole state of the unit.
func (x *X87) SetPointers(opcode, modrm uint8, _ uint16, ip uint64, hasMem bool, _ uint16, dp uint64) {
	x.FOP = uint16(opcode&7)<<8 | uint16(modrm)
	x.FIP, x.FDP = ip, 0
	if hasMem {
		x.FDP = dp
	}
}

// Init puts the unit in the state that FNINIT leaves. Registers keep their values but are empty.
func (x *X87) Init() {
	r := x.R
	*x = X87{R: r, CW: 0x37f}
}

// Reset puts the unit in its power-up state as Linux and hypervisors present it: FNINIT with zeroed registers.
func (x *X87) Reset() { *x = X87{CW: 0x37f} }

// EnterMMX does what every MMX instruction but EMMS does to the unit: TOP becomes 0 and all registers valid.
func (x *X87) EnterMMX() {
	x.SW &^= 7 << TopShift
	x.Used = 0xff
}

// SetMMX writes MMX register i: the exponent part of the register becomes all ones.
func (x *X87) SetMMX(i uint8, v uint64) { x.R[i&7] = Float80{Mant: v, SE: 0xffff} }

// MMX returns MMX register i.
func (x *X87) MMX(i uint8) uint64 { return x.R[i&7].Mant }

// EMMS empties all registers. Like the other MMX instructions it sets TOP to 0 (the SDM does not say so, processors do).
func (x *X87) EMMS() {
	x.EnterMMX()
	x.Used = 0
}

func (x *X87) top() uint8 { return uint8(x.SW >> TopShift & 7) }

func (x *X87) setTop(t uint8) { x.SW = x.SW&^(7<<TopShift) | uint16(t&7)<<TopShift }

// phys returns the physical index of ST(i).
func (x *X87) phys(i uint8) uint8 { return (x.top() + i) & 7 }

// ST returns ST(i) and whether it is in use.
func (x *X87) ST(i uint8) (Float80, bool) {
	p := x.phys(i)
	return x.R[p], x.Used>>p&1 != 0
}

// setST writes ST(i) and marks it used.
func (x *X87) setST(i uint8, v Float80) {
	p := x.phys(i)
	x.R[p] = v
	x.Used |= 1 << p
}

// pop empties ST(0) and increments TOP.
func (x *X87) pop() {
	x.Used &^= 1 << x.top()
	x.setTop(x.top() + 1)
}

// updateSummary recomputes the Summary and Busy bits from the flags and masks.
func (x *X87) updateSummary() {
	x.SW &^= Summary | Busy
	if x.SW&^x.CW&allFlags != 0 {
		x.SW |= Summary | Busy
	}
}
