// Package soft is a complete software x86-64 processor behind vcpu.CPU. It counts every instruction exactly, stops at any of them, and needs
// nothing from the host.
//
// # From bytes to effects
//
// Three stages, each in files of its own:
//
//   - decode (forms.go, decode.go): one table, written like the opcode maps of SDM vol. 2D, says what exists; decode turns bytes into an inst. [Forms]
//     exports the table. SSE and MMX rows come from package simd, x87 rows from package fp, which also compute them.
//   - lower (lower.go, lower_int.go): an inst becomes one or a few ops (ir.go), each with the executor that is special to its operation, operand size and
//     operand kind. Comparisons and arithmetic are fused with the conditional branch that follows, and flags that nobody can see are not computed.
//   - execute (exec_*.go, string.go, simd.go, system.go, segment.go, io.go): an executor does its op and returns the next one, so the heart of the
//     processor is the two-line loop in CPU.execute. exec_gen_unsafe.go is written by gen.
//
// Ops and the block cache are where translation to host code would attach: they hold all that a translator needs and nothing of the encoding.
//
// # Blocks
//
// Ops of straight-line code form a block. Blocks are cached by physical page (block.go); a write to a page that holds code takes the slow path
// and drops exactly the blocks whose bytes change. Direct branches link block to block; other transfers go through a jump cache by linear address.
//
// # Counting
//
// Entering a block charges all its instructions at once (CPU.left). An instruction that faults, or leaves for the machine, gives back its own and the
// ones after it (op.rest). When a stop falls inside a block, the first instructions of it are decoded again into a shorter block. So
// Run stops exactly, at no cost per instruction. Repeated string instructions count, and can stop, at each iteration. On ClockBranches
// an extra op before each conditional branch counts it.
//
// # Memory
//
// mmu.go walks page tables and keeps a soft TLB per privilege, which loads and stores consult inline. The TLB is coherent: a write to a page-table entry
// from which it derives drops what derived from it. The guest therefore sees one definite behaviour, whether or not a run was cut, restored from
// a snapshot or asked for dirty pages in between; INVLPG has nothing left to do. Pages that hold code, live page tables or no write since dirty pages
// were last collected are kept out of the write TLB.
//
// # Exceptions and restarts
//
// An executor that cannot complete changes nothing, sets CPU.ev and returns through CPU.fault. The run loop then delivers the exception
// (exception.go), executes the instruction again alone, or leaves for the machine. Executing alone, in a block of one instruction, is the way for everything
// that must not happen in the middle of a block: writes to decoded code or to page tables in use, accesses outside RAM (io.go explains how these are answered),
// single-stepping and breakpoints.
//
// # The model
//
// The processor is an Intel-like one without microarchitecture: CPUID is what Config gives; CR4, EFER and the MSRs have what the model needs and
// raise #GP for the rest. What the SDM leaves undefined follows the AMD processor that tests/cpufuzz compares with, where it was easy to find out. Outside
// long mode only protected mode without paging runs; real mode, 32-bit paging, task switches and call gates do not exist. Segment limits are not checked.
// An interrupt or a data breakpoint between the iterations of a string instruction pushes RFLAGS without RF.
//
// SMEP, SMAP, STAC and CLAC are there for a CPUID table that shows them in leaf 7. The model detvm-v1 has no leaf 7, because KVM rewrites it on some hosts, so its
// guests get #GP for the bits of CR4 and #UD for the instructions.
package soft
