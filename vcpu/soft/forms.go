package soft

import (
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/detvm/detvm/vcpu/soft/fp"
	"github.com/detvm/detvm/vcpu/soft/simd"
)

// table is the general-purpose and system part of the decoder, to be read beside the opcode maps of SDM vol. 2D, appendix A.
// A row is
//
//	[prefix] [0F [38|3A]] opcode[/digit][r|m] mnemonic [operands] [;notes]
//
// The mandatory prefix is NP, 66, F2 or F3; without one, 66 selects the operand size and F2/F3 are ignored or mean REP. "/digit" is
// ModRM.reg, "/XX" in hexadecimal from C0 up is a whole ModRM byte, r and m limit the form to registers or memory. Operands are
// written as in the manual: E r/m, G reg, M memory, R r/m register only, I immediate, J branch offset, O moffs, X DS:rSI, Y ES:rDI, S segment, C control, D debug
// register, Z the register in the opcode's low three bits; then b, w, d, q a fixed size, v the operand size, z the same but at
// most 32 bits, y 32 or 64 by REX.W, s a sign-extended byte. Notes: L LOCK is allowed; d64 the operand size defaults to 64 bits in
// 64-bit mode; f64 it is 64 bits there whatever the prefixes; i64 invalid in 64-bit mode; o64 valid only there.
//
// SSE and MMX rows come from package simd, x87 rows from package fp.
const table = `
00 ADD Eb,Gb ;L
01 ADD Ev,Gv ;L
02 ADD Gb,Eb
03 ADD Gv,Ev
04 ADD AL,Ib
05 ADD rAX,Iz
06 PUSH ES ;i64
07 POP ES ;i64
08 OR Eb,Gb ;L
09 OR Ev,Gv ;L
0A OR Gb,Eb
0B OR Gv,Ev
0C OR AL,Ib
0D OR rAX,Iz
0E PUSH CS ;i64
10 ADC Eb,Gb ;L
11 ADC Ev,Gv ;L
12 ADC Gb,Eb
13 ADC Gv,Ev
14 ADC AL,Ib
15 ADC rAX,Iz
16 PUSH SS ;i64
17 POP SS ;i64
18 SBB Eb,Gb ;L
19 SBB Ev,Gv ;L
1A SBB Gb,Eb
1B SBB Gv,Ev
1C SBB AL,Ib
1D SBB rAX,Iz
1E PUSH DS ;i64
1F POP DS ;i64
20 AND Eb,Gb ;L
21 AND Ev,Gv ;L
22 AND Gb,Eb
23 AND Gv,Ev
24 AND AL,Ib
25 AND rAX,Iz
27 DAA ;i64
28 SUB Eb,Gb ;L
29 SUB Ev,Gv ;L
2A SUB Gb,Eb
2B SUB Gv,Ev
2C SUB AL,Ib
2D SUB rAX,Iz
2F DAS ;i64
30 XOR Eb,Gb ;L
31 XOR Ev,Gv ;L
32 XOR Gb,Eb
33 XOR Gv,Ev
34 XOR AL,Ib
35 XOR rAX,Iz
37 AAA ;i64
38 CMP Eb,Gb
39 CMP Ev,Gv
3A CMP Gb,Eb
3B CMP Gv,Ev
3C CMP AL,Ib
3D CMP rAX,Iz
3F AAS ;i64
40+ INC Zv ;i64
48+ DEC Zv ;i64
50+ PUSH Zv ;d64
58+ POP Zv ;d64
60 PUSHA ;i64
61 POPA ;i64
62 BOUND Gv,M ;i64
63 ARPL Ew,Gw ;i64
63 MOVSXD Gv,Ed ;o64
68 PUSH Iz ;d64
69 IMUL3 Gv,Ev,Iz
6A PUSH Ibs ;d64
6B IMUL3 Gv,Ev,Ibs
6C INS Yb,DX
6D INS Yz,DX
6E OUTS DX,Xb
6F OUTS DX,Xz
70 JO Jb ;f64
71 JNO Jb ;f64
72 JB Jb ;f64
73 JAE Jb ;f64
74 JE Jb ;f64
75 JNE Jb ;f64
76 JBE Jb ;f64
77 JA Jb ;f64
78 JS Jb ;f64
79 JNS Jb ;f64
7A JP Jb ;f64
7B JNP Jb ;f64
7C JL Jb ;f64
7D JGE Jb ;f64
7E JLE Jb ;f64
7F JG Jb ;f64
80/0 ADD Eb,Ib ;L
80/1 OR Eb,Ib ;L
80/2 ADC Eb,Ib ;L
80/3 SBB Eb,Ib ;L
80/4 AND Eb,Ib ;L
80/5 SUB Eb,Ib ;L
80/6 XOR Eb,Ib ;L
80/7 CMP Eb,Ib
81/0 ADD Ev,Iz ;L
81/1 OR Ev,Iz ;L
81/2 ADC Ev,Iz ;L
81/3 SBB Ev,Iz ;L
81/4 AND Ev,Iz ;L
81/5 SUB Ev,Iz ;L
81/6 XOR Ev,Iz ;L
81/7 CMP Ev,Iz
82/0 ADD Eb,Ib ;L i64
82/1 OR Eb,Ib ;L i64
82/2 ADC Eb,Ib ;L i64
82/3 SBB Eb,Ib ;L i64
82/4 AND Eb,Ib ;L i64
82/5 SUB Eb,Ib ;L i64
82/6 XOR Eb,Ib ;L i64
82/7 CMP Eb,Ib ;i64
83/0 ADD Ev,Ibs ;L
83/1 OR Ev,Ibs ;L
83/2 ADC Ev,Ibs ;L
83/3 SBB Ev,Ibs ;L
83/4 AND Ev,Ibs ;L
83/5 SUB Ev,Ibs ;L
83/6 XOR Ev,Ibs ;L
83/7 CMP Ev,Ibs
84 TEST Eb,Gb
85 TEST Ev,Gv
86 XCHG Eb,Gb ;L
87 XCHG Ev,Gv ;L
88 MOV Eb,Gb
89 MOV Ev,Gv
8A MOV Gb,Eb
8B MOV Gv,Ev
8C MOVFROMSEG Ev,Sw
8D/m LEA Gv,M
8E MOVTOSEG Sw,Ew
8F/0 POP Ev ;d64
90+ XCHG Zv,rAX
98 CBW
99 CWD
9A CALLFAR Ap ;i64
9B FWAIT
9C PUSHF ;d64
9D POPF ;d64
9E SAHF
9F LAHF
A0 MOV AL,Ob
A1 MOV rAX,Ov
A2 MOV Ob,AL
A3 MOV Ov,rAX
A4 MOVS Yb,Xb
A5 MOVS Yv,Xv
A6 CMPS Xb,Yb
A7 CMPS Xv,Yv
A8 TEST AL,Ib
A9 TEST rAX,Iz
AA STOS Yb,AL
AB STOS Yv,rAX
AC LODS AL,Xb
AD LODS rAX,Xv
AE SCAS AL,Yb
AF SCAS rAX,Yv
B0+ MOV Zb,Ib
B8+ MOV Zv,Iv
C0/0 ROL Eb,Ib
C0/1 ROR Eb,Ib
C0/2 RCL Eb,Ib
C0/3 RCR Eb,Ib
C0/4 SHL Eb,Ib
C0/5 SHR Eb,Ib
C0/6 SHL Eb,Ib
C0/7 SAR Eb,Ib
C1/0 ROL Ev,Ib
C1/1 ROR Ev,Ib
C1/2 RCL Ev,Ib
C1/3 RCR Ev,Ib
C1/4 SHL Ev,Ib
C1/5 SHR Ev,Ib
C1/6 SHL Ev,Ib
C1/7 SAR Ev,Ib
C2 RET Iw ;f64
C3 RET ;f64
C6/0 MOV Eb,Ib
C7/0 MOV Ev,Iz
C8 ENTER Iw,Ib ;d64
C9 LEAVE ;d64
CA RETF Iw
CB RETF
CC INT3
CD INT Ib
CE INTO ;i64
CF IRET
D0/0 ROL Eb,1
D0/1 ROR Eb,1
D0/2 RCL Eb,1
D0/3 RCR Eb,1
D0/4 SHL Eb,1
D0/5 SHR Eb,1
D0/6 SHL Eb,1
D0/7 SAR Eb,1
D1/0 ROL Ev,1
D1/1 ROR Ev,1
D1/2 RCL Ev,1
D1/3 RCR Ev,1
D1/4 SHL Ev,1
D1/5 SHR Ev,1
D1/6 SHL Ev,1
D1/7 SAR Ev,1
D2/0 ROL Eb,CL
D2/1 ROR Eb,CL
D2/2 RCL Eb,CL
D2/3 RCR Eb,CL
D2/4 SHL Eb,CL
D2/5 SHR Eb,CL
D2/6 SHL Eb,CL
D2/7 SAR Eb,CL
D3/0 ROL Ev,CL
D3/1 ROR Ev,CL
D3/2 RCL Ev,CL
D3/3 RCR Ev,CL
D3/4 SHL Ev,CL
D3/5 SHR Ev,CL
D3/6 SHL Ev,CL
D3/7 SAR Ev,CL
D4 AAM Ib ;i64
D5 AAD Ib ;i64
D7 XLAT
E0 LOOPNE Jb ;f64
E1 LOOPE Jb ;f64
E2 LOOP Jb ;f64
E3 JRCXZ Jb ;f64
E4 IN AL,Ib
E5 IN rAX,Ib
E6 OUT Ib,AL
E7 OUT Ib,rAX
E8 CALL Jz ;f64
E9 JMP Jz ;f64
EA JMPFAR Ap ;i64
EB JMP Jb ;f64
EC IN AL,DX
ED IN rAX,DX
EE OUT DX,AL
EF OUT DX,rAX
F1 INT1
F4 HLT
F5 CMC
F6/0 TEST Eb,Ib
F6/1 TEST Eb,Ib
F6/2 NOT Eb ;L
F6/3 NEG Eb ;L
F6/4 MUL Eb
F6/5 IMUL Eb
F6/6 DIV Eb
F6/7 IDIV Eb
F7/0 TEST Ev,Iz
F7/1 TEST Ev,Iz
F7/2 NOT Ev ;L
F7/3 NEG Ev ;L
F7/4 MUL Ev
F7/5 IMUL Ev
F7/6 DIV Ev
F7/7 IDIV Ev
F8 CLC
F9 STC
FA CLI
FB STI
FC CLD
FD STD
FE/0 INC Eb ;L
FE/1 DEC Eb ;L
FF/0 INC Ev ;L
FF/1 DEC Ev ;L
FF/2 CALLIND Ev ;f64
FF/3m CALLFAR Mp
FF/4 JMPIND Ev ;f64
FF/5m JMPFAR Mp
FF/6 PUSH Ev ;d64
0F 00/0 SLDT Ev
0F 00/1 STR Ev
0F 00/2 LLDT Ew
0F 00/3 LTR Ew
0F 00/4 VERR Ew
0F 00/5 VERW Ew
0F 01/0m SGDT M
0F 01/1m SIDT M
0F 01/2m LGDT M
0F 01/3m LIDT M
0F 01/4 SMSW Ev
0F 01/6 LMSW Ew
0F 01/7m INVLPG M
0F 01/F8 SWAPGS ;o64
0F 01/F9 RDTSCP
0F 01/D0 XGETBV
0F 01/CA CLAC
0F 01/CB STAC
0F 02 LAR Gv,Ew
0F 03 LSL Gv,Ew
0F 05 SYSCALL
0F 06 CLTS
0F 07 SYSRET
0F 08 INVD
0F 09 WBINVD
0F 0B UD2
0F 0D/m NOP Ev
0F 18/m NOP Ev
0F 18/r NOP Ev
0F 19 NOP Ev
0F 1A NOP Ev
0F 1B NOP Ev
0F 1C NOP Ev
0F 1D NOP Ev
0F 1E NOP Ev
0F 1F NOP Ev
0F 20 MOVFROMCR Rq,Cq ;f64
0F 21 MOVFROMDR Rq,Dq ;f64
0F 22 MOVTOCR Cq,Rq ;f64
0F 23 MOVTODR Dq,Rq ;f64
0F 30 WRMSR
0F 31 RDTSC
0F 32 RDMSR
0F 33 RDPMC
0F 34 SYSENTER
0F 35 SYSEXIT
0F 40 CMOVO Gv,Ev
0F 41 CMOVNO Gv,Ev
0F 42 CMOVB Gv,Ev
0F 43 CMOVAE Gv,Ev
0F 44 CMOVE Gv,Ev
0F 45 CMOVNE Gv,Ev
0F 46 CMOVBE Gv,Ev
0F 47 CMOVA Gv,Ev
0F 48 CMOVS Gv,Ev
0F 49 CMOVNS Gv,Ev
0F 4A CMOVP Gv,Ev
0F 4B CMOVNP Gv,Ev
0F 4C CMOVL Gv,Ev
0F 4D CMOVGE Gv,Ev
0F 4E CMOVLE Gv,Ev
0F 4F CMOVG Gv,Ev
NP 0F 77 EMMS
0F 80 JO Jz ;f64
0F 81 JNO Jz ;f64
0F 82 JB Jz ;f64
0F 83 JAE Jz ;f64
0F 84 JE Jz ;f64
0F 85 JNE Jz ;f64
0F 86 JBE Jz ;f64
0F 87 JA Jz ;f64
0F 88 JS Jz ;f64
0F 89 JNS Jz ;f64
0F 8A JP Jz ;f64
0F 8B JNP Jz ;f64
0F 8C JL Jz ;f64
0F 8D JGE Jz ;f64
0F 8E JLE Jz ;f64
0F 8F JG Jz ;f64
0F 90 SETO Eb
0F 91 SETNO Eb
0F 92 SETB Eb
0F 93 SETAE Eb
0F 94 SETE Eb
0F 95 SETNE Eb
0F 96 SETBE Eb
0F 97 SETA Eb
0F 98 SETS Eb
0F 99 SETNS Eb
0F 9A SETP Eb
0F 9B SETNP Eb
0F 9C SETL Eb
0F 9D SETGE Eb
0F 9E SETLE Eb
0F 9F SETG Eb
0F A0 PUSH FS ;d64
0F A1 POP FS ;d64
0F A2 CPUID
0F A3 BT Ev,Gv
0F A4 SHLD Ev,Gv,Ib
0F A5 SHLD Ev,Gv,CL
0F A8 PUSH GS ;d64
0F A9 POP GS ;d64
0F AB BTS Ev,Gv ;L
0F AC SHRD Ev,Gv,Ib
0F AD SHRD Ev,Gv,CL
NP 0F AE/0m FXSAVE M
NP 0F AE/1m FXRSTOR M
NP 0F AE/2m LDMXCSR Ed
NP 0F AE/3m STMXCSR Ed
NP 0F AE/7m CLFLUSH M
NP 0F AE/5r LFENCE
NP 0F AE/6r MFENCE
NP 0F AE/7r SFENCE
0F AF IMUL2 Gv,Ev
0F B0 CMPXCHG Eb,Gb ;L
0F B1 CMPXCHG Ev,Gv ;L
0F B2/m LSS Gv,Mp
0F B3 BTR Ev,Gv ;L
0F B4/m LFS Gv,Mp
0F B5/m LGS Gv,Mp
0F B6 MOVZX Gv,Eb
0F B7 MOVZX Gv,Ew
0F B9 UD1 Gv,Ev
F3 0F B8 POPCNT Gv,Ev
0F BA/4 BT Ev,Ib
0F BA/5 BTS Ev,Ib ;L
0F BA/6 BTR Ev,Ib ;L
0F BA/7 BTC Ev,Ib ;L
0F BB BTC Ev,Gv ;L
0F BC BSF Gv,Ev
0F BD BSR Gv,Ev
0F BE MOVSX Gv,Eb
0F BF MOVSX Gv,Ew
0F C0 XADD Eb,Gb ;L
0F C1 XADD Ev,Gv ;L
NP 0F C3/m MOVNTI My,Gy
0F C7/1m CMPXCHG8B M ;L
0F C8+ BSWAP Zv
0F FF UD0 Gv,Ev
C4 LES Gv,Mp ;i64
C5 LDS Gv,Mp ;i64
`

// OpMap is an opcode map: the bytes that come before the opcode.
type OpMap uint8

// The opcode maps.
const (
	Map1    OpMap = iota // one-byte opcodes
	Map0F                // 0F xx
	Map0F38              // 0F 38 xx
	Map0F3A              // 0F 3A xx
)

// Prefix is a mandatory prefix.
type Prefix uint8

// The mandatory prefixes. PrefixAny: none of them selects the form.
const (
	PrefixAny Prefix = iota
	PrefixNP
	Prefix66
	PrefixF3
	PrefixF2
)

// Mod limits a form by ModRM.mod.
type Mod uint8

// The limits on ModRM.mod.
const (
	ModAny Mod = iota
	ModReg     // mod == 3
	ModMem     // mod != 3
)

// Form is one row of the decoder table: one form of one instruction.
type Form struct {
	Mnemonic string
	Map      OpMap
	Prefix   Prefix
	Opcode   uint8
	// PlusReg: the low three bits of the opcode are a register; Opcode has them zero.
	PlusReg bool
	// HasModRM: a ModRM byte follows the opcode.
	HasModRM bool
	// Ext is the value of ModRM.reg that selects the form, or -1.
	Ext int8
	// ModRM is the whole ModRM byte that selects the form, or 0.
	ModRM uint8
	Mod   Mod
	// Operands in Intel order, in the notation of SDM vol. 2D, appendix A.2 (see table). Rows of package simd name theirs by simd.Loc.
	Operands []string
	Lock     bool // LOCK is allowed with a memory destination
	Def64    bool // operand size is 64 bits by default in 64-bit mode
	Force64  bool // operand size is always 64 bits there
	Inv64    bool // invalid in 64-bit mode
	Only64   bool // valid in 64-bit mode only
	// W is 0 for any REX.W, 1 for REX.W=0, 2 for REX.W=1, 3 for REX.W=0 with prefix 66 beside the mandatory one.
	W uint8
	// SIMD and X87 are the rows of packages simd and fp that the form comes from, if any.
	SIMD *simd.Op
	X87  *fp.Op87

	lower  lowerFn
	immLen uint8 // 0, 1, 2; immZ: 2 or 4 by operand size; immV: also 8; immFar: offset and selector; immOffs: address size
	imm8s  bool  // the immediate byte is sign-extended to the operand size
	byteOp bool  // operands are bytes
	branch bool  // the immediate is a branch offset
	enter  bool  // a second immediate byte follows
}

const (
	immZ    = 0xf0
	immV    = 0xf1
	immFar  = 0xf2
	immOffs = 0xf3
)

// decodeTable indexes the forms by map and opcode.
var decodeTable [4][256][]*Form

// allForms is decodeTable in the order of the tables it was made from.
var allForms []Form

var buildTable = sync.OnceFunc(func() {
	for _, line := range strings.Split(strings.TrimSpace(table), "\n") {
		allForms = append(allForms, parseForm(line))
	}
	for i := range simd.Table {
		if f, ok := simdForm(&simd.Table[i]); ok {
			allForms = append(allForms, f)
		}
	}
	allForms = append(allForms, x87Forms()...)
	for i := range allForms {
		f := &allForms[i]
		n := 1
		if f.PlusReg {
			n = 8
		}
		for j := range n {
			slot := &decodeTable[f.Map][int(f.Opcode)+j]
			*slot = append(*slot, f)
		}
	}
})

// Forms lists every instruction form that the CPU decodes, for generators and coverage reports. The slice is the caller's, what it points to is shared.
func Forms() []Form {
	buildTable()
	return append([]Form(nil), allForms...)
}

// parseForm reads a row of table.
func parseForm(line string) Form {
	line, notes, _ := strings.Cut(line, ";")
	w := strings.Fields(line)
	f := Form{Ext: -1}
	switch w[0] {
	case "NP", "66", "F2", "F3":
		if len(w) > 2 && w[1] == "0F" {
			f.Prefix = map[string]Prefix{"NP": PrefixNP, "66": Prefix66, "F2": PrefixF2, "F3": PrefixF3}[w[0]]
			w = w[1:]
		}
	}
	if w[0] == "0F" {
		f.Map, w = Map0F, w[1:]
		if len(w[0]) == 2 && len(w) > 2 && (w[0] == "38" || w[0] == "3A") {
			f.Map = map[string]OpMap{"38": Map0F38, "3A": Map0F3A}[w[0]]
			w = w[1:]
		}
	}
	f.parseOpcode(w[0])
	f.Mnemonic = w[1]
	if len(w) > 2 {
		f.Operands = strings.Split(w[2], ",")
	}
	for _, n := range strings.Fields(notes) {
		switch n {
		case "L":
			f.Lock = true
		case "d64":
			f.Def64 = true
		case "f64":
			f.Force64 = true
		case "i64":
			f.Inv64 = true
		case "o64":
			f.Only64 = true
		}
	}
	for _, o := range f.Operands {
		f.parseOperand(o)
	}
	f.lower = lowerers[f.Mnemonic]
	if f.lower == nil {
		panic(fmt.Sprintf("decoder table: no lowering for %s", f.Mnemonic))
	}
	return f
}

// parseOpcode reads "C7/1m" and the like.
func (f *Form) parseOpcode(s string) {
	s, ext, hasExt := strings.Cut(s, "/")
	if s, f.PlusReg = strings.CutSuffix(s, "+"); f.PlusReg {
		defer func() { f.HasModRM = false }()
	}
	n, err := strconv.ParseUint(s, 16, 8)
	if err != nil {
		panic(fmt.Sprintf("decoder table: opcode %q", s))
	}
	f.Opcode = uint8(n)
	if !hasExt {
		return
	}
	f.HasModRM = true
	if m, ok := strings.CutSuffix(ext, "m"); ok {
		ext, f.Mod = m, ModMem
	} else if r, ok := strings.CutSuffix(ext, "r"); ok {
		ext, f.Mod = r, ModReg
	}
	switch len(ext) {
	case 1:
		f.Ext = int8(ext[0] - '0')
	case 2:
		n, _ := strconv.ParseUint(ext, 16, 8)
		f.ModRM = uint8(n)
		f.Mod = ModReg
	}
}

// parseOperand derives what the decoder must know from an operand.
func (f *Form) parseOperand(o string) {
	switch o {
	case "AL", "DX", "CL", "1", "rAX", "ES", "CS", "SS", "DS", "FS", "GS":
		if o == "AL" {
			f.byteOp = true
		}
		return
	}
	switch o[0] {
	case 'E', 'G', 'M', 'R', 'S', 'C', 'D':
		f.HasModRM = true
		if o == "Eb" && f.Mnemonic != "MOVZX" && f.Mnemonic != "MOVSX" && f.Mnemonic != "CRC32" {
			f.byteOp = true
		}
	case 'X', 'Y':
		f.byteOp = f.byteOp || o[1] == 'b'
	case 'Z':
		f.byteOp = f.byteOp || o[1] == 'b'
	case 'I', 'J':
		f.branch = o[0] == 'J'
		switch o[1:] {
		case "b", "bs":
			if f.immLen != 0 {
				f.enter = true
				return
			}
			f.immLen, f.imm8s = 1, o == "Ibs" || f.branch
		case "w":
			f.immLen = 2
		case "z":
			f.immLen = immZ
		case "v":
			f.immLen = immV
		}
	case 'A':
		f.immLen = immFar
	case 'O':
		f.immLen = immOffs
		f.byteOp = o[1] == 'b'
	}
}

// simdForm turns a row of package simd into a form. Rows that the table above has too are left to it.
func simdForm(s *simd.Op) (Form, bool) {
	switch s.Name {
	case "POPCNT", "EMMS", "MOVNTI":
		return Form{}, false
	}
	f := Form{Mnemonic: s.Name, Map: OpMap(s.Map), Prefix: Prefix(s.Prefix) + PrefixNP, Opcode: s.Opcode, HasModRM: true, Ext: s.Ext,
		Mod: Mod(s.Mod), W: simdWidths[s.W], SIMD: s, lower: lowerSIMD}
	if s.Prefix == simd.PF3 {
		f.Prefix = PrefixF3
	} else if s.Prefix == simd.PF2 {
		f.Prefix = PrefixF2
	}
	f.Operands = []string{locNames[s.Dst]}
	if s.Src != simd.None {
		f.Operands = append(f.Operands, locNames[s.Src])
	}
	if s.Imm {
		f.immLen = 1
		f.Operands = append(f.Operands, "Ib")
	}
	return f, true
}

// simdWidths turns the width limits of package simd into those of Form.W.
var simdWidths = map[simd.Width]uint8{simd.AnyW: 0, simd.W0: 1, simd.W1: 2, simd.W16: 3}

// locNames gives the operand locations of package simd in the manual's notation.
var locNames = map[simd.Loc]string{
	simd.XReg: "V", simd.XRM: "W", simd.MReg: "P", simd.MRM: "Q", simd.GReg16: "Gw", simd.GReg32: "Gd", simd.GReg64: "Gq", simd.GRM8: "Eb",
	simd.GRM16: "Ew", simd.GRM32: "Ed", simd.GRM64: "Eq", simd.ECX: "ECX", simd.XMM0: "XMM0", simd.MaskDI: "Y",
}

// x87Forms lists the forms of package fp: one for each memory form, one for each register form.
func x87Forms() []Form {
	var forms []Form
	for op := 0xd8; op <= 0xdf; op++ {
		for ext := range 8 {
			if x := fp.LookupX87(uint8(op), uint8(ext<<3)); x != nil {
				forms = append(forms, Form{Mnemonic: x.Name, Opcode: uint8(op), HasModRM: true, Ext: int8(ext), Mod: ModMem,
					Operands: []string{"M"}, X87: x, lower: lowerX87})
			}
		}
		for m := 0xc0; m <= 0xff; m++ {
			if x := fp.LookupX87(uint8(op), uint8(m)); x != nil {
				forms = append(forms, Form{Mnemonic: x.Name, Opcode: uint8(op), HasModRM: true, Ext: -1, ModRM: uint8(m), Mod: ModReg,
					X87: x, lower: lowerX87})
			}
		}
	}
	return forms
}
