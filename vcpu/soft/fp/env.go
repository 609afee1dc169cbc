package fp

// Control bits of MXCSR (SDM vol. 1, 10.2.3).
const (
	DAZ       = 1 << 6  // denormals are zeros
	MaskShift = 7       // exception masks, in the order of the flags
	RCShift   = 13      // rounding control
	FTZ       = 1 << 15 // flush to zero

	MXCSRDefault = 0x1f80 // after reset
	MXCSRMask    = 0xffff // bits that may be set; LDMXCSR and FXRSTOR of others raise #GP
)

// fastMask and fastWant select the MXCSR values under which the host's operation may be used: round to nearest, everything masked, precision
// flag already set. DAZ and FTZ do not matter because the fast path refuses denormals.
const (
	fastMask = 3<<RCShift | allFlags<<MaskShift | PE
	fastWant = allFlags<<MaskShift | PE
)

// EFLAGS bits that comparisons and tests set.
const (
	CF = 1 << 0
	PF = 1 << 2
	AF = 1 << 4
	ZF = 1 << 6
	SF = 1 << 7
	OF = 1 << 11

	// ArithFlags are the flags that COMISS, PTEST, PCMPxSTRx, POPCNT and FCOMI-like rows write; see Env.EFLAGS.
	ArithFlags = CF | PF | AF | ZF | SF | OF
)

// Env is the SSE floating-point environment of the processor. The zero value is not useful; MXCSR is MXCSRDefault after reset.
// It is not safe for concurrent use.
type Env struct {
	// MXCSR is the register itself: control bits in, sticky flags accumulated.
	MXCSR uint32
	// Unmasked holds the exceptions of the current instruction that MXCSR does not mask. When it is non-zero, the
	// destination keeps its value, the processor raises #XM (or #UD if CR4.OSXMMEXCPT is clear), and the caller clears it.
	Unmasked uint32
	// EFLAGS is where instructions that set ZF, PF, CF, OF, SF and AF leave them (only those bits).
	EFLAGS uint32
	// XMM0 is the implicit third operand of the rows of package simd that say so, set by the caller.
	XMM0 [2]uint64
	// Len1 and Len2 are the lengths from EAX and EDX (RAX and RDX with REX.W, sign-extended otherwise) for the rows that say so.
	Len1, Len2 int64

	collect bool // Raise only accumulates; see Lanes
}

// rounding returns the rounding mode of an MXCSR value.
func rounding(mx uint32) Rounding { return Rounding(mx >> RCShift & 3) }

// unmaskedBits returns the exceptions that an MXCSR value does not mask.
func unmaskedBits(mx uint32) uint32 { return ^(mx >> MaskShift) & allFlags }

// Raise accumulates the flags that one instruction raised, and reports whether its result may be written. If an
// exception that is found before computing is unmasked, those found after computing are not flagged (SDM vol. 1, 11.5.1).
func (e *Env) Raise(flags uint32) bool {
	if e.collect {
		e.MXCSR |= flags
		return true
	}
	unmasked := unmaskedBits(e.MXCSR)
	if flags&unmasked&preFlags != 0 {
		flags &= preFlags
	}
	e.MXCSR |= flags
	e.Unmasked = flags & unmasked
	return e.Unmasked == 0
}

// fast reports whether the host's operations may be used.
func (e *Env) fast() bool { return e.MXCSR&fastMask == fastWant }

// nearest reports whether rounding is to nearest and everything masked: the host's operations then give the results, but perhaps not all flags.
func (e *Env) nearest() bool { return e.MXCSR&(fastMask&^PE) == fastWant&^PE }

// inexact raises PE, in the default modes.
func (e *Env) inexact(yes bool) {
	if yes {
		e.MXCSR |= PE
	}
}

// roundSSE rounds to an SSE format.
func (n num) roundSSE(f format, mx uint32) (num, uint32) {
	r := n.round(f, rounding(mx), unmaskedBits(mx), mx&FTZ != 0 && unmaskedBits(mx)&UE == 0, 0)
	return r.num, r.flags
}

// nanSSE returns the result of an operation with a NaN among its operands: the first NaN, made quiet (SDM vol. 1, table 4-7).
func nanSSE(a, b num) (num, uint32) {
	flags := uint32(0)
	if a.cls == signalNaN || b.cls == signalNaN {
		flags = IE
	}
	if a.cls.isNaN() {
		return a.quiet(), flags
	}
	return b.quiet(), flags
}

// arith is a two-operand operation on numbers that are not NaN.
type arith uint8

const (
	opAdd arith = iota
	opSub
	opMul
	opDiv
)

func (op arith) apply(a, b num, rc Rounding) (num, uint32) {
	switch op {
	case opAdd:
		return add(a, b, rc)
	case opSub:
		b.neg = !b.neg
		return add(a, b, rc)
	case opMul:
		return mul(a, b)
	}
	return div(a, b)
}

// sse computes one lane in the given format: the slow, complete path.
func (op arith) sse(a, b num, f format, mx uint32) (num, uint32) {
	a, b = a.flushed(mx&DAZ != 0), b.flushed(mx&DAZ != 0)
	if a.cls.isNaN() || b.cls.isNaN() {
		return nanSSE(a, b)
	}
	flags := denormalFlag(a, b)
	r, fl := op.apply(a, b, rounding(mx))
	if fl&(IE|ZE) != 0 { // these have priority over the denormal operand
		return r, fl
	}
	r, fl2 := r.roundSSE(f, mx)
	return r, flags | fl2
}

func denormalFlag(a, b num) uint32 {
	if a.denormal || b.denormal {
		return DE
	}
	return 0
}

func (op arith) sse32(a, b, mx uint32) (uint32, uint32) {
	r, flags := op.sse(unpack32(a), unpack32(b), binary32, mx)
	return r.pack32(), flags
}

func (op arith) sse64(a, b uint64, mx uint32) (uint64, uint32) {
	r, flags := op.sse(unpack64(a), unpack64(b), binary64, mx)
	return r.pack64(), flags
}

// Masked reports whether all exceptions are masked, so that no operation can set Unmasked.
func (e *Env) Masked() bool { return e.MXCSR>>MaskShift&allFlags == allFlags }

// Lanes returns an environment for computing the lanes of a packed instruction one by one when exceptions are unmasked: it collects the
// flags of all lanes without judging them. Afterwards e.Raise(lanes.Collected()) decides for all of them together, as the processor does.
func (e *Env) Lanes() Env {
	l := *e
	l.MXCSR &^= allFlags
	l.collect = true
	return l
}

// Collected returns the flags raised since Lanes.
func (e *Env) Collected() uint32 { return e.MXCSR & allFlags }
