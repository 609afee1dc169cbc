// Package simd is the MMX and SSE to SSE4.2 instruction set of the software CPU, as a table of pure functions.
//
// [Table] has one row for each form of each instruction: how it is encoded, where its operands live, how wide its memory operand is, whether that must
// be aligned, and the function that computes it. The CPU core decodes the instruction, finds the row with [Lookup], fetches the source, calls Fn and
// writes the destination; it needs no knowledge of any single instruction. Floating-point rows compute with package fp and the environment
// that is passed along.
//
// Vectors are pairs of 64-bit words and the integer functions work on whole words (SWAR: several lanes in one ordinary addition with the carries
// between lanes suppressed), which is what makes them fast in Go.
//
// Source: Intel SDM vol. 2, per instruction, and its opcode maps (vol. 2D, appendix A).
package simd
