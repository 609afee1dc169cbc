package cpufuzz

import (
	"strings"

	"github.com/detvm/detvm/vcpu/soft"
)

// The status flags.
const (
	cf     = 1 << 0
	pf     = 1 << 2
	af     = 1 << 4
	zf     = 1 << 6
	sf     = 1 << 7
	of     = 1 << 11
	status = cf | pf | af | zf | sf | of
)

// undefinedFlags lists the flags that the SDM (vol. 2, "Flags Affected" of each instruction) calls undefined whatever the operands.
var undefinedFlags = map[string]uint64{
	"AND": af, "OR": af, "XOR": af, "TEST": af, // "the state of the AF flag is undefined"
	"MUL": sf | zf | af | pf, "IMUL": sf | zf | af | pf, "IMUL2": sf | zf | af | pf, "IMUL3": sf | zf | af | pf, // only CF and OF are defined
	"DIV": status, "IDIV": status, // all are undefined
	"BSF": cf | of | sf | af | pf, "BSR": cf | of | sf | af | pf, // only ZF is defined
	"BT": of | sf | af | pf, "BTS": of | sf | af | pf, "BTR": of | sf | af | pf, "BTC": of | sf | af | pf, // only CF is defined, ZF is unaffected
}

// shiftFlags gives the flags of a shift or rotate that depend on the masked count (SDM vol. 2B, SAL/SAR/SHL/SHR and RCL/RCR/ROL/ROR; SHLD; SHRD).
func shiftFlags(mnemonic string, count, size uint64) uint64 {
	if count == 0 {
		return 0 // nothing changes
	}
	var undefined uint64
	if count != 1 {
		undefined |= of // "the OF flag is defined only for the 1-bit shifts"
	}
	switch mnemonic {
	case "SHL", "SHR", "SAR":
		undefined |= af
		if count >= size && mnemonic != "SAR" {
			undefined |= cf // "undefined for SHL and SHR where the count is greater than or equal to the size of the destination"
		}
	case "SHLD", "SHRD":
		undefined |= af
	}
	return undefined
}

// Rows that are not compared, with the reason. Everything in the decoder table that is not named here is.
const (
	hostTables   = "ring 3 of this host's KVM sees the host's descriptor tables, not the guest's"
	hostIdentity = "ring 3 sees the host's processor, not the model"
	gates        = "ring 3 of this host's KVM does not enter the guest's kernel by it: it raises #UD, or stays at ring 3"
	icebp        = "this host's KVM delivers it as a fault; it is a trap"
	timeDepends  = "reads time"
)

var excluded = map[string]string{
	"CPUID": hostIdentity, "XGETBV": hostIdentity, "XSETBV": hostIdentity, "RDTSC": timeDepends, "RDTSCP": timeDepends,
	"SGDT": hostTables, "SIDT": hostTables, "SLDT": hostTables, "STR": hostTables, "SMSW": hostTables,
	"SYSCALL": gates, "SYSENTER": gates, "INT1": icebp,
}

// exclusion is why a row is not compared, or "".
func exclusion(f *soft.Form) string { return excluded[f.Mnemonic] }

// processOnly says that a row is compared with a process of the host alone: at ring 3 of this host's KVM it uses the host's descriptor tables, faults and is
// emulated, or reaches the machine. Linux's descriptors and port permissions at ring 3 are those of writeSystem.
func processOnly(f *soft.Form) bool {
	switch f.Mnemonic {
	case "IN", "OUT", "INS", "OUTS", "CALLFAR", "JMPFAR", "RETF", "IRET", "INT", "MOVTOSEG", "MOVFROMSEG":
		return true
	case "PUSH", "POP":
		return len(f.Operands) == 1 && strings.HasSuffix(f.Operands[0], "S")
	}
	return false
}

// FXSAVE image fields that are not compared.
//   - FOP, FIP and FDP (bytes 6–23): AMD processors keep them only while an exception is pending (APM vol. 2, 11.4.4), Intel's always.
//   - MXCSR_MASK (28–31): AMD's has one bit more (misaligned SSE), which the model does not.
//   - The upper 48 bits of the ST slots and the bytes from 416 on are reserved.
func maskFX(fx []byte) {
	fx[5] = 0
	clear(fx[6:24])
	clear(fx[28:32])
	for i := range 8 {
		clear(fx[32+16*i+10 : 32+16*i+16])
	}
	clear(fx[416:512])
}

// What processors of different makes do differently, found by running this harness on an AMD processor; the model follows the SDM. Cases are generated so
// that it does not show, or the field is not compared:
//   - With an SS override (36) a non-canonical address gives #SS on AMD; the SDM has the override ignored in 64-bit mode. Not generated.
//   - A CMPXCHG r32 that fails leaves the upper half of the destination on AMD; the SDM writes the destination back, which clears it. Generated with an
//     upper half of zero.
//   - CVTPI2PS with a memory operand: no change to MMX state and no #MF on AMD; the SDM has both (only CVTPI2PD is the exception). x87 is not compared.
//   - An MMX instruction that faults: whether TOP and the tags have changed to MMX state by then. The manuals are silent. x87 is not compared.
//   - Which byte or page of an operand CR2 and the error code name when a masked or multi-part store or load (MASKMOV, FXSAVE, FNSAVE, …) faults. The
//     manuals are silent.
//   - Which of the two operands of CMPS is reported when both fault. Only one is made to fault.
//   - ENTER that copies frame pointers from where it pushes them: AMD reads them ahead; the SDM's operation goes one by one. Kept apart.
//   - 66 before MOVSXD: AMD reads four bytes, the SDM has two. Not generated.
//   - REX.W before LSS, LFS, LGS: AMD keeps the 32-bit offset, Intel has a 64-bit one. Not generated.
//   - A CALL or RET whose stack and target are both bad: which is reported. Only one is.
//   - 66 before a near branch: AMD takes it as a 16-bit branch, Intel ignores it. Not generated.
//   - REX.R before a segment register. Not generated.
//   - LOCK before NOP, fences, FXSAVE, SWAPGS: #UD by the SDM, but this host's KVM emulates some of them without looking. Not generated.

// transcendental lists the x87 instructions whose results the SDM specifies only to within one unit in the last place (vol. 1, 8.3.10). Results one unit apart are
// equal here; C1 (rounded up) and PE depend on it and are not compared, nor are ES and B, which follow from PE when it is not masked.
var transcendental = map[string]bool{
	"F2XM1": true, "FYL2X": true, "FYL2XP1": true, "FPTAN": true, "FPATAN": true, "FSIN": true, "FCOS": true, "FSINCOS": true,
}

// Vectors.
const (
	vecDE = 0
	vecUD = 6
	vecSS = 12
	vecGP = 13
	vecPF = 14
	vecMF = 16
	vecAC = 17
	vecXM = 19
)

// verdict is the exception that a processor took, if any.
type verdict struct{ vector, code, cr2 uint64 }

// emulatedQuirk says why the real processor's answer to a case is not its own but that of this host's KVM, which emulates instructions that raise #GP at ring 3 instead
// of delivering the exception. Such cases are compared with a process of the host (native.go). It is "" almost always.
func emulatedQuirk(c *testCase, forms []soft.Form, host, model verdict) string {
	first := forms[c.forms[0]].Mnemonic
	switch {
	case host.vector == vecUD && (model.vector == vecGP || model.vector == vecSS || model.vector == vecAC):
		return "what KVM's emulator lacks becomes #UD"
	case host.vector == vecUD && model.vector != vecUD && (len(c.forms) > 1 || c.gpr[4]>>28 != 1):
		return "RSP is no stack; what KVM's emulator lacks becomes #UD"
	case host.vector == vecPF && (model.vector == vecGP || model.vector == vecSS) && (!canonical(host.cr2) || first == "FXSAVE" || first == "FXRSTOR"):
		return "KVM's emulator finds #PF"
	case (first == "FXSAVE" || first == "FXRSTOR") && host.vector == noFault && model.vector == vecGP:
		return "KVM's emulator does not check alignment or reserved bits"
	}
	return ""
}

// freedom says which freedom the manual leaves to a processor explains a difference; such cases are counted apart and not compared. It is "" almost always.
func freedom(c *testCase, forms []soft.Form, host, model verdict) string {
	first := forms[c.forms[0]].Mnemonic
	switch {
	case host.vector != model.vector && (host.vector == vecMF || model.vector == vecMF) && host.vector != noFault && model.vector != noFault:
		return "a pending x87 exception and a memory fault have one priority (SDM vol. 3A, table 6-2)"
	case (first == "FXSAVE" || first == "FXRSTOR") && host.vector == vecAC && model.vector == vecGP && c.misaligned:
		return "a misaligned FXSAVE or FXRSTOR raises #AC or #GP where alignment is checked (SDM vol. 2A, FXSAVE: it may vary)"
	case first == "CALLIND" && isMemoryFault(host.vector) && isMemoryFault(model.vector) && host.vector != model.vector:
		return "a CALL with a bad stack and a bad target reports one of them (SDM vol. 3A, table 6-2: one priority)"
	case first == "CMPS" && isMemoryFault(host.vector) && isMemoryFault(model.vector) && (host.vector == vecAC || model.vector == vecAC):
		return "a CMPS with a misaligned operand and one that faults otherwise reports one of them (SDM vol. 3A, table 6-2: one priority)"
	case first == "ENTER" && isMemoryFault(host.vector) && isMemoryFault(model.vector) && host.vector != model.vector:
		return "an ENTER with a bad stack and bad frames reports one of them (SDM vol. 2A, ENTER, gives no order)"
	case (first == "RETF" || first == "IRET" || first == "CALLFAR") && isMemoryFault(host.vector) && isMemoryFault(model.vector) && host.vector != model.vector:
		return "a far transfer with a bad selector and a bad stack reports one of them (SDM vol. 3A, table 6-2: one priority)"
	case host.vector == vecSS && model.vector == vecGP && (c.misaligned || len(c.forms) > 1):
		return "a stack operand that is neither canonical nor aligned raises #SS or #GP: they have one priority (SDM vol. 3A, table 6-2)"
	case (host.vector == vecPF || host.vector == vecGP || host.vector == vecUD) && model.vector == noFault && strings.HasPrefix(first, "MASKMOV"):
		return "a masked store that writes nothing to a page may fault on it or not (SDM vol. 2B, MASKMOVDQU)"
	}
	return ""
}

// ignoreFrames leaves out of the comparison what an ENTER or far CALL that faults has written: the manual does not say how far it got, nor which of the accesses of
// these, RETF and IRET is reported when several fault.
func ignoreFrames(c *testCase, forms []soft.Form, host, model verdict) {
	if !isMemoryFault(host.vector) || !isMemoryFault(model.vector) {
		return
	}
	switch forms[c.forms[0]].Mnemonic {
	case "ENTER", "CALLFAR":
		c.ignoreMem, c.ignoreCR2 = append(c.ignoreMem, span{0, page}), true
	case "RETF", "IRET":
		c.ignoreCR2 = true
	}
}

func isMemoryFault(vector uint64) bool {
	return vector == vecSS || vector == vecGP || vector == vecPF || vector == vecAC
}
