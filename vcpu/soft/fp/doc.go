// Package fp is the floating-point arithmetic of the software CPU: SSE scalar arithmetic on binary32 and binary64, and the x87 unit with
// its 80-bit double extended format. Everything is computed with integers or with the host's correctly rounded IEEE-754 operations, so
// a guest sees the same bits on every host.
//
// # SSE
//
// An [Env] carries MXCSR. Its methods are the scalar instructions: they take and return the bit patterns of numbers and accumulate the
// sticky exception flags in Env.MXCSR. When an exception is raised that MXCSR does not mask, Env.Unmasked becomes non-zero: the caller
// must then leave the destination alone, raise #XM and clear Env.Unmasked.
//
// Each operation has two implementations. The fast one applies when MXCSR asks for rounding to nearest, masks everything and has the sticky
// precision flag set, which is nearly always: then the host's own operation gives the result, and it raises no further flag as long as
// operands and result are zero or normal numbers. The slow one unpacks the operands into sign, exponent and a 64-bit
// significand with 64 more bits below it, computes exactly, and rounds once; it serves every format, mode and exception. See soft.go.
//
// # x87
//
// [X87] is the state of the unit; [LookupX87] finds the [Op87] for an opcode D8–DF and a ModRM byte, which says how wide the memory operand is and
// which way it goes; [X87.Exec] executes it. The CPU core is left with address generation and the memory access itself.
//
// # What the manual leaves open
//
// Sources are the Intel SDM, vol. 1 chapters 4, 8, 10, 11 and the instruction pages of vol. 2. All instructions but the transcendental ones were compared
// with an AMD Zen 4 processor, masked and unmasked, without a difference. Where the SDM is silent, or two makes of processor differ, ours is
// that processor's behaviour, so that the same comparison can be repeated by anyone:
//
//   - x / 0 with a denormal x raises ZE only, not DE.
//   - RCPSS and RSQRTSS have that processor's tables (estimate.go).
//   - Comparisons record their outcome even if they raise an unmasked exception; FCOMI and FUCOMI do not touch C1 unless there is a stack fault
//     (the SDM has it cleared). FLD of a denormal pushes it even if DE is unmasked.
//   - FPREM and FPREM1 reduce the exponent by 32 to 63 in an incomplete step: the difference modulo 32, plus 32.
//   - DPPS and DPPD stop at the first step (products, sums) that traps.
//   - FYL2X flags exact results as inexact; FYL2XP1 at or below -1 returns its operand; F2XM1 outside [-1, 1] returns its operand.
//   - EMMS clears TOP. D9 D8+i (an alias of FSTP) does not check for an empty register.
//   - Transcendental results are correctly rounded here (transcendental.go). That processor's are in 99 of 100 cases, and else one unit off.
//
// The selectors FCS and FDS are not recorded but saved as zeros. FOP, FIP and FDP are recorded for every non-control instruction, as Intel's processors do; AMD's show them only while an exception is pending.
package fp
