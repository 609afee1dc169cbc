package fp

import "encoding/binary"

// operand is one input of an x87 instruction: unpacked, with the flags that fetching it raised.
type operand struct {
	num
	empty bool
}

func (x *X87) operand(i uint8) operand {
	f, used := x.ST(i)
	return operand{unpack80(f), !used}
}

// The memory operands.

func memF32(o *Operands) num { return unpack32(binary.LittleEndian.Uint32(o.Mem[:])) }
func memF64(o *Operands) num { return unpack64(binary.LittleEndian.Uint64(o.Mem[:])) }
func memI16(o *Operands) num { return fromSigned(int64(int16(binary.LittleEndian.Uint16(o.Mem[:])))) }
func memI32(o *Operands) num { return fromSigned(int64(int32(binary.LittleEndian.Uint32(o.Mem[:])))) }
func memI64(o *Operands) num { return fromSigned(int64(binary.LittleEndian.Uint64(o.Mem[:]))) }

type execFunc = func(x *X87, i uint8, o *Operands)

// dyadic is the common part of FADD, FSUB, …: dst is the stack index for the result.
func (x *X87) dyadic(op arith, reverse bool, dst uint8, a, b operand) bool {
	if a.empty || b.empty {
		if !x.stackUnderflow() {
			return false
		}
		x.setST(dst, indefinite().pack80())
		return true
	}
	if reverse {
		a, b = b, a
	}
	return x.deliver(dst, op.operate(x, a.num, b.num))
}

// dyadicST is dyadic on two registers.
func (x *X87) dyadicST(op arith, reverse bool, dst, src uint8) bool {
	a, usedA := x.ST(dst)
	b, usedB := x.ST(src)
	if usedA && usedB {
		if reverse {
			a, b = b, a
		}
		if x.tryOrdinary(op, dst, a, b) {
			return true
		}
	}
	return x.dyadic(op, reverse, dst, x.operand(dst), x.operand(src))
}

// arithMem is an operation of ST(0) with memory.
func arithMem(op arith, reverse bool, fetch func(*Operands) num) execFunc {
	return func(x *X87, _ uint8, o *Operands) {
		n := fetch(o)
		if a, used := x.ST(0); used && n.cls == finite && !n.denormal {
			b := n.pack80()
			if reverse {
				a, b = b, a
			}
			if x.tryOrdinary(op, 0, a, b) {
				return
			}
		}
		x.dyadic(op, reverse, 0, x.operand(0), operand{num: n})
	}
}

// arithST0 computes ST(0) = ST(0) op ST(i).
func arithST0(op arith, reverse bool) execFunc {
	return func(x *X87, i uint8, _ *Operands) { x.dyadicST(op, reverse, 0, i) }
}

// arithSTi computes ST(i) = ST(i) op ST(0), and pops if pop is set.
func arithSTi(op arith, reverse, pop bool) execFunc {
	return func(x *X87, i uint8, _ *Operands) {
		if x.dyadicST(op, reverse, i, 0) && pop {
			x.pop()
		}
	}
}

// Loads.

// loadFloat loads a narrower format: signalling NaNs are invalid, denormals raise DE.
func loadFloat(fetch func(*Operands) num) execFunc {
	return func(x *X87, _ uint8, o *Operands) {
		n := fetch(o)
		flags := denormalFlag(n, n)
		if n.cls == signalNaN {
			flags, n = IE, n.quiet()
		}
		x.pushResult(n.pack80(), flags)
	}
}

// pushResult pushes a loaded value that raised flags. An unmasked denormal operand does not prevent the push.
func (x *X87) pushResult(v Float80, flags uint32) {
	if x.Used>>((x.top()-1)&7)&1 != 0 {
		x.push(v) // the stack fault comes first
		return
	}
	x.raise(flags)
	if flags&IE&x.unmasked() != 0 {
		x.setC1(false)
		return
	}
	x.push(v)
}

func loadInt(fetch func(*Operands) num) execFunc {
	return func(x *X87, _ uint8, o *Operands) { x.push(fetch(o).pack80()) }
}

func loadF80(x *X87, _ uint8, o *Operands) {
	x.push(Float80{binary.LittleEndian.Uint64(o.Mem[:]), binary.LittleEndian.Uint16(o.Mem[8:])})
}

func loadST(x *X87, i uint8, _ *Operands) {
	v, used := x.ST(i)
	if !used {
		if !x.stackUnderflow() {
			return
		}
		x.setTop(x.top() - 1)
		x.setST(0, indefinite().pack80())
		return
	}
	x.push(v)
}

// Stores.

// stored finishes a store: it pops if asked, or forbids the store when an unmasked exception was raised.
func (x *X87) stored(o *Operands, flags uint32, up, pop bool) {
	if flags&x.unmasked()&^PE != 0 {
		x.setC1(false)
		x.raise(flags &^ PE)
		o.NoStore = true
		return
	}
	x.setC1(up)
	x.raise(flags)
	if pop {
		x.pop()
	}
}

// storeEmpty handles a store from an empty register: put writes the indefinite value.
func (x *X87) storeEmpty(o *Operands, pop bool, put func()) {
	if !x.stackUnderflow() {
		o.NoStore = true
		return
	}
	put()
	if pop {
		x.pop()
	}
}

// storeFloat rounds ST(0) to f and stores it.
func storeFloat(f format, pop bool, put func(*Operands, num)) execFunc {
	return func(x *X87, _ uint8, o *Operands) {
		v := x.operand(0)
		if v.empty {
			x.storeEmpty(o, pop, func() { put(o, indefinite()) })
			return
		}
		r := rounded{num: v.num}
		switch {
		case v.cls >= quietNaN:
			r.num, r.flags = nanX87(v.num, v.num)
		default:
			r = v.round(f, x.rounding(), x.unmasked(), false, 0)
		}
		if r.flags&x.unmasked()&^PE == 0 {
			put(o, r.num)
		}
		x.stored(o, r.flags, r.up, pop)
	}
}

func putF32(o *Operands, n num) { binary.LittleEndian.PutUint32(o.Mem[:], n.pack32()) }
func putF64(o *Operands, n num) { binary.LittleEndian.PutUint64(o.Mem[:], n.pack64()) }

func storeF80(x *X87, _ uint8, o *Operands) {
	v, used := x.ST(0)
	put := func() {
		binary.LittleEndian.PutUint64(o.Mem[:], v.Mant)
		binary.LittleEndian.PutUint16(o.Mem[8:], v.SE)
	}
	if !used {
		v = indefinite().pack80()
		x.storeEmpty(o, true, put)
		return
	}
	put()
	x.stored(o, 0, false, true)
}

// storeInt rounds ST(0) to an integer of the width and stores it; truncate is FISTTP.
func storeInt(width uint, pop, truncate bool) execFunc {
	return func(x *X87, _ uint8, o *Operands) {
		v := x.operand(0)
		if v.empty {
			x.storeEmpty(o, pop, func() { putInt(o, int64(-1)<<(width-1)) })
			return
		}
		rc := x.rounding()
		if truncate {
			rc = Zero
		}
		n, flags, up := v.toSigned(width, rc)
		putInt(o, n)
		x.stored(o, flags, up, pop)
	}
}

func putInt(o *Operands, v int64) { binary.LittleEndian.PutUint64(o.Mem[:], uint64(v)) }

// storeST copies ST(0) to ST(i).
func storeST(pop bool) execFunc {
	return func(x *X87, i uint8, _ *Operands) {
		v, used := x.ST(0)
		if !used {
			if !x.stackUnderflow() {
				return
			}
			v = indefinite().pack80()
		} else {
			x.setC1(false)
		}
		x.setST(i, v)
		if pop {
			x.pop()
		}
	}
}

// storeUnchecked is the alias of FSTP ST(i) that does not check for an empty ST(0): then it only pops.
func storeUnchecked(x *X87, i uint8, _ *Operands) {
	v, used := x.ST(0)
	if used {
		x.setST(i, v)
	}
	x.setC1(false)
	x.pop()
}

// Packed decimal: 18 digits and a sign byte.

const maxBCD = 999_999_999_999_999_999

func loadBCD(x *X87, _ uint8, o *Operands) {
	var mag uint64
	for i := 8; i >= 0; i-- {
		mag = mag*100 + uint64(o.Mem[i]>>4)*10 + uint64(o.Mem[i]&15)
	}
	n := fromMagnitude(mag)
	n.neg = o.Mem[9]>>7 != 0
	x.push(n.pack80())
}

func storeBCD(x *X87, _ uint8, o *Operands) {
	v := x.operand(0)
	if v.empty {
		x.storeEmpty(o, true, func() { putBCDIndefinite(o) })
		return
	}
	var flags uint32
	mag, inexact, up, huge := uint64(0), false, false, true
	if v.cls < infinite {
		mag, inexact, up, huge = v.toInt(x.rounding())
	}
	switch {
	case huge || mag > maxBCD:
		flags, up = IE, false
		putBCDIndefinite(o)
	default:
		putBCD(o, mag, v.neg)
		if inexact {
			flags = PE
		}
	}
	x.stored(o, flags, up, true)
}

func putBCD(o *Operands, mag uint64, neg bool) {
	for i := range 9 {
		o.Mem[i] = uint8(mag%10 | mag/10%10<<4)
		mag /= 100
	}
	o.Mem[9] = 0
	if neg {
		o.Mem[9] = 0x80
	}
}

func putBCDIndefinite(o *Operands) {
	clear(o.Mem[:7])
	copy(o.Mem[7:10], []byte{0xc0, 0xff, 0xff})
}

// Comparisons.

// relationCodes are C3, C2, C0 after FCOM.
var relationCodes = [...]uint16{less: C0, equal: C3, greater: 0, unordered: C3 | C2 | C0}

// relate compares and raises the exceptions. pop is false if an unmasked exception keeps the registers where they are; the
// outcome is recorded even then, as processors do.
func (x *X87) relate(a, b operand, signalQuiet bool) (r relation, pop bool) {
	var flags uint32
	switch {
	case a.empty || b.empty:
		return unordered, x.stackUnderflow()
	case a.cls >= quietNaN || b.cls >= quietNaN:
		r = unordered
		if signalQuiet || a.cls > quietNaN || b.cls > quietNaN {
			flags = IE
		}
	default:
		r, flags = compare(a.num, b.num), denormalFlag(a.num, b.num)
	}
	x.raise(flags)
	return r, flags&x.unmasked() == 0
}

// compareCodes is FCOM and its kin; pops is how many registers to pop.
func (x *X87) compareCodes(a, b operand, signalQuiet bool, pops int) {
	r, pop := x.relate(a, b, signalQuiet)
	x.SW = x.SW&^conditionBits | relationCodes[r]
	if !pop {
		return
	}
	for range pops {
		x.pop()
	}
}

func compareMem(fetch func(*Operands) num, pops int) execFunc {
	return func(x *X87, _ uint8, o *Operands) {
		x.compareCodes(x.operand(0), operand{num: fetch(o)}, true, pops)
	}
}

func compareST(signalQuiet bool, pops int) execFunc {
	return func(x *X87, i uint8, _ *Operands) {
		r, ok := x.relateOrdinary(i)
		if !ok {
			x.compareCodes(x.operand(0), x.operand(i), signalQuiet, pops)
			return
		}
		x.SW = x.SW&^conditionBits | relationCodes[r]
		for range pops {
			x.pop()
		}
	}
}

// compareFlags is FCOMI and FUCOMI. They leave C1 alone unless there is a stack fault (AMD; the SDM says that it is cleared).
func compareFlags(signalQuiet, pop bool) execFunc {
	return func(x *X87, i uint8, o *Operands) {
		r, ok := x.relateOrdinary(i)
		if !ok {
			r, ok = x.relate(x.operand(0), x.operand(i), signalQuiet)
		}
		o.EFLAGS = o.EFLAGS&^ArithFlags | relationFlags[r]
		if ok && pop {
			x.pop()
		}
	}
}

func ftst(x *X87, _ uint8, _ *Operands) { x.compareCodes(x.operand(0), operand{}, true, 0) }

// fxam classifies ST(0) in C3, C2, C0 with its sign in C1 (SDM vol. 2, FXAM).
func fxam(x *X87, _ uint8, _ *Operands) {
	v := x.operand(0)
	codes := [...]uint16{zero: C3, finite: C2, infinite: C2 | C0, quietNaN: C0, signalNaN: C0, unsupported: 0}[v.cls]
	switch {
	case v.empty:
		codes = C3 | C0
	case v.denormal:
		codes = C3 | C2
	}
	x.SW = x.SW&^conditionBits | codes
	x.setC1(v.neg)
}

// Moves and register housekeeping.

func fxch(x *X87, i uint8, _ *Operands) {
	a, aUsed := x.ST(0)
	b, bUsed := x.ST(i)
	if !aUsed || !bUsed {
		if !x.stackUnderflow() {
			return
		}
		if !aUsed {
			a = indefinite().pack80()
		}
		if !bUsed {
			b = indefinite().pack80()
		}
	} else {
		x.setC1(false)
	}
	x.setST(0, b)
	x.setST(i, a)
}

// fcmov moves ST(i) to ST(0) if the EFLAGS condition (B, E, BE, U) differs from negate.
func fcmov(flags uint32, negate bool) execFunc {
	return func(x *X87, i uint8, o *Operands) {
		_, used0 := x.ST(0)
		v, used := x.ST(i)
		if !used0 || !used {
			if x.stackUnderflow() {
				x.setST(0, indefinite().pack80())
			}
			return
		}
		if (o.EFLAGS&flags != 0) != negate {
			x.setST(0, v)
		}
	}
}

func ffree(pop bool) execFunc {
	return func(x *X87, i uint8, _ *Operands) {
		x.Used &^= 1 << x.phys(i)
		x.setC1(false)
		if pop {
			x.pop()
		}
	}
}

func fdecstp(x *X87, _ uint8, _ *Operands) { x.setTop(x.top() - 1); x.setC1(false) }
func fincstp(x *X87, _ uint8, _ *Operands) { x.setTop(x.top() + 1); x.setC1(false) }
func fnop(*X87, uint8, *Operands)          {}

// Sign changes work on any bit pattern.

func (x *X87) changeSign(f func(se uint16) uint16) {
	v, used := x.ST(0)
	if !used {
		if x.stackUnderflow() {
			x.setST(0, indefinite().pack80())
		}
		return
	}
	x.setC1(false)
	v.SE = f(v.SE)
	x.setST(0, v)
}

func fchs(x *X87, _ uint8, _ *Operands) { x.changeSign(func(se uint16) uint16 { return se ^ 1<<15 }) }
func fabs(x *X87, _ uint8, _ *Operands) {
	x.changeSign(func(se uint16) uint16 { return se &^ (1 << 15) })
}

// constant pushes a constant: its significand has 64 more bits below, so that it is rounded as RC says (SDM vol. 2, FLD1).
func constant(mant, low uint64, exp int32) execFunc {
	n := num{cls: finite, mant: mant, low: low, exp: exp}
	if mant == 0 {
		n = num{}
	}
	return func(x *X87, _ uint8, _ *Operands) {
		// Precision control does not apply, and loading a constant is never inexact.
		x.push(n.round(binary80, x.rounding(), 0, false, 0).pack80())
	}
}

// Control.

func fninit(x *X87, _ uint8, _ *Operands) { x.Init() }

func fnclex(x *X87, _ uint8, _ *Operands) { x.SW &^= allFlags | StackFault | Summary | Busy }

func fldcw(x *X87, _ uint8, o *Operands) {
	x.CW = fixCW(binary.LittleEndian.Uint16(o.Mem[:]))
	x.updateSummary()
}

func fnstcw(x *X87, _ uint8, o *Operands)   { binary.LittleEndian.PutUint16(o.Mem[:], x.CW) }
func fnstsw(x *X87, _ uint8, o *Operands)   { binary.LittleEndian.PutUint16(o.Mem[:], x.SW) }
func fnstswAX(x *X87, _ uint8, o *Operands) { o.AX = x.SW }
