package simd

import "github.com/detvm/detvm/vcpu/soft/fp"

// Vec is an XMM register: word 0 is bits 63:0. MMX registers, general registers and narrower memory operands travel in word 0
// with the rest zero. It is an alias so that packages need not agree on a name.
type Vec = [2]uint64

// Map is an opcode map: the bytes before the opcode.
type Map uint8

// The opcode maps that have rows here.
const (
	Map0F   Map = iota + 1 // 0F xx
	Map0F38                // 0F 38 xx
	Map0F3A                // 0F 3A xx
)

// Prefix is the mandatory prefix that selects a row. F2 and F3 win over 66; see Lookup for rows of CRC32 and POPCNT that combine them.
type Prefix uint8

// The mandatory prefixes.
const (
	NP  Prefix = iota // none
	P66               // 66
	PF3               // F3
	PF2               // F2
)

// Mod restricts a row to register or memory forms of ModRM.
type Mod uint8

// The restrictions on ModRM.mod.
const (
	AnyMod  Mod = iota
	RegOnly     // mod == 3
	MemOnly     // mod != 3
)

// Width restricts a row by the operand size, where that is an attribute of the instruction and not part of the opcode.
type Width uint8

// The restrictions on operand size.
const (
	AnyW Width = iota
	W16        // 16-bit operands: REX.W = 0 and a 66 prefix beside the mandatory one (POPCNT, CRC32)
	W0         // REX.W = 0; rows of W16 come before it
	W1         // REX.W = 1
)

// Loc says where an operand lives.
type Loc uint8

// The operand locations. "Reg" is ModRM.reg (with REX.R), "RM" is ModRM.rm (with REX.B) or memory of Op.MemSize bytes.
const (
	None   Loc = iota
	XReg       // XMM register in reg
	XRM        // XMM register or memory in r/m
	MReg       // MMX register in reg: the row touches MMX state (#MF if pending, fp.X87.EnterMMX first)
	MRM        // MMX register or memory in r/m; as MReg, unless the operand is memory and Op.MMXRegOnly
	GReg32     // 32-bit general register in reg; a write zero-extends to 64
	GReg64     // 64-bit general register in reg
	GReg16     // 16-bit general register in reg; a write merges
	GRM8       // 8-bit general register or memory in r/m (register numbering as for any byte operand: AH… without REX)
	GRM16      // 16-bit …
	GRM32      // 32-bit …; a write zero-extends to 64
	GRM64      // 64-bit …
	ECX        // the implicit ECX; a write zero-extends to 64 (PCMPxSTRI)
	XMM0       // the implicit XMM0 (PCMPxSTRM)
	MaskDI     // memory at DS:[rDI] (or the overridden segment): the bytes of First are written where the mask that Fn leaves in dst is 0xff (MASKMOVQ, MASKMOVDQU)
)

// Func computes an instruction: dst is the destination's old value and becomes its new value; src may be the same Vec as dst.
type Func func(dst, src *Vec, imm uint8, env *fp.Env)

// Op is one row of the table.
type Op struct {
	Name   string
	Map    Map
	Prefix Prefix
	Opcode uint8
	Mod    Mod
	W      Width
	// Ext is the ModRM.reg digit for group opcodes (PSRLW imm8 …), or -1.
	Ext int8
	// Dst and Src are the operands. For group shifts Dst is XRM or MRM (register only) and Src None.
	Dst, Src Loc
	// First, if not None, is where the first operand is read from when that is not the destination: dst enters holding it (PCMPxSTRx).
	First Loc
	// MemSize is the width in bytes of the memory operand, if ModRM selects memory; 0 for register-only rows. A load zero-extends into a Vec; a store
	// writes the low MemSize bytes of dst.
	MemSize uint8
	// Aligned says that a memory operand must be 16-byte aligned (#GP(0) otherwise).
	Aligned bool
	// Imm says that an immediate byte follows.
	Imm bool
	// FP says that Fn may leave env.Unmasked non-zero: then it leaves dst unchanged, and the core raises #XM (or #UD) instead of setting flags.
	FP bool
	// Flags says that Fn leaves the new OF, SF, ZF, AF, PF, CF in env.EFLAGS.
	Flags bool
	// NoWrite says that there is no destination to write (COMISS, PTEST): Fn reads dst and src.
	NoWrite bool
	// WriteOnly says that the old value of dst does not matter: the core need not read it (it must still pass a Vec).
	WriteOnly bool
	// MMXRegOnly limits the MMX transition to forms whose MMX operand is a register (CVTPI2PD).
	MMXRegOnly bool
	// XMM0 says that the caller sets env.XMM0 first (BLENDVPS, BLENDVPD, PBLENDVB).
	XMM0 bool
	// Lengths says that the caller sets env.Len1 and env.Len2 first (PCMPESTRI, PCMPESTRM).
	Lengths bool

	// Fn computes the row. For MaskDI rows, src is the mask register (r/m) and dst becomes the byte mask: 0xff for each byte that is to be written.
	Fn Func
}
