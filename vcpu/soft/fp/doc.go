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
// Sources: Intel SDM vol. 1 chapters 4, 8, 10, 11 and the instruction pages of vol. 2. Where Intel and AMD processors differ, the choice made
// is written beside the code.
package fp
