package soft

// execFn executes one IR op and returns the op to execute next, or nil to go back to the run loop (CPU.ev says why, CPU.rip where to go on).
type execFn func(c *CPU, o *op) *op

// op is one operation of the intermediate representation: usually one guest instruction, sometimes a fused pair, sometimes an
// address computation that precedes one. It is one cache line. Ops of a block lie next to each other in memory, and the
// last op of a block is always a terminal: it never falls through to the op after it.
//
// a, b, base and index are byte offsets into the register file (CPU.r), so that AH..BH need no special case: they are the offset of
// RAX..RBX plus one.
type op struct {
	fn   execFn
	imm  uint64 // immediate, sign-extended; for direct branches and calls the address of the next instruction
	disp uint64 // displacement, with a RIP-relative base already added
	ip   uint64 // linear address (CS base included) of the instruction
	link *op    // first op of the block at the branch target, once known
	fall *op    // first op of the block after this one, once known
	in   *inst  // the decoded instruction, for the ops that need more of it
	// rest is how many instructions of the block are not retired when this one is the next to retire. In the first op of a
	// block it is therefore the number of instructions of the block.
	rest  uint16
	a     uint8
	b     uint8
	base  uint8
	index uint8
	shift uint8 // scale as a shift count; opStackSeg is set when the operand is in the stack segment
	size  uint8 // operand size in bytes
}

// opStackSeg in op.shift: a non-canonical address of this operand raises #SS, not #GP. (Shift counts are taken modulo 64.)
const opStackSeg = 0x80

// Byte offsets into the register file beyond the sixteen general registers.
const (
	regZero  = 16 * 8 // always zero: "no base", "no index"
	regFS    = 17 * 8 // FS base
	regGS    = 18 * 8 // GS base
	regTmp   = 19 * 8 // address computed by a preceding op
	regES    = 20 * 8 // bases of the segments that only count outside 64-bit mode
	regCS    = 21 * 8
	regSS    = 22 * 8
	regDS    = 23 * 8
	numRegs  = 24
	offRAX   = 0 * 8
	offRCX   = 1 * 8
	offRDX   = 2 * 8
	offRBX   = 3 * 8
	offRSP   = 4 * 8
	offRBP   = 5 * 8
	offRSI   = 6 * 8
	offRDI   = 7 * 8
	offR11   = 11 * 8
	maxInsns = 48 // instructions in a block at most
)

// The reasons for an executor to return nil.
const (
	evNone   = iota // go on at CPU.rip
	evFault         // the exception in CPU.exc is to be delivered; CPU.rip is at the faulting instruction
	evSingle        // execute the instruction at CPU.rip in a block of its own: it touches something that must not be done mid-block
	evExit          // CPU.pend holds an exit for the machine
	evStop          // leave the run loop: the branch clock reached its stop
)
