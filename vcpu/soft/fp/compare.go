package fp

// relation is the outcome of a comparison.
type relation uint8

const (
	less relation = iota
	equal
	greater
	unordered
)

// compare relates two operands that are not NaN.
func compare(a, b num) relation {
	switch {
	case a.cls == zero && b.cls == zero:
		return equal
	case a.cls == zero:
		return signRelation(!b.neg)
	case b.cls == zero || a.neg != b.neg:
		return signRelation(a.neg)
	}
	switch m := compareMagnitude(a, b); {
	case m == 0:
		return equal
	default:
		return signRelation(m < 0 != a.neg)
	}
}

func signRelation(isLess bool) relation {
	if isLess {
		return less
	}
	return greater
}

func compareMagnitude(a, b num) int {
	switch {
	case a.cls != b.cls: // one is infinite
		return int(a.cls) - int(b.cls)
	case a.cls == infinite:
		return 0
	case a.exp != b.exp:
		return int(a.exp - b.exp)
	case a.mant < b.mant:
		return -1
	case a.mant > b.mant:
		return 1
	}
	return 0
}

// relate compares under MXCSR. A signalling NaN is always invalid; a quiet one only if signalQuiet is set.
func relate(a, b num, signalQuiet bool, mx uint32) (relation, uint32) {
	a, b = a.flushed(mx&DAZ != 0), b.flushed(mx&DAZ != 0)
	if a.cls.isNaN() || b.cls.isNaN() {
		if signalQuiet || a.cls == signalNaN || b.cls == signalNaN {
			return unordered, IE
		}
		return unordered, 0
	}
	return compare(a, b), denormalFlag(a, b)
}

// relationFlags are the EFLAGS of COMISS, UCOMISS and FCOMI: OF, SF and AF are cleared (SDM vol. 2, COMISS).
var relationFlags = [...]uint32{less: CF, equal: ZF, greater: 0, unordered: ZF | PF | CF}

// Compare32 is COMISS (signalQuiet set: quiet NaNs are invalid) and UCOMISS. It sets and returns e.EFLAGS.
func (e *Env) Compare32(a, b uint32, signalQuiet bool) uint32 {
	e.EFLAGS = relationFlags[e.relate32(a, b, signalQuiet)]
	return e.EFLAGS
}

// Compare64 is COMISD and UCOMISD.
func (e *Env) Compare64(a, b uint64, signalQuiet bool) uint32 {
	e.EFLAGS = relationFlags[e.relate64(a, b, signalQuiet)]
	return e.EFLAGS
}

// relate64 compares and raises the flags. Ordinary numbers are compared as integers.
func (e *Env) relate64(a, b uint64, signalQuiet bool) relation {
	if plain64(a) && plain64(b) {
		return relateInts(order64(a), order64(b))
	}
	r, flags := relate(unpack64(a), unpack64(b), signalQuiet, e.MXCSR)
	e.Raise(flags)
	return r
}

func (e *Env) relate32(a, b uint32, signalQuiet bool) relation {
	if plain32(a) && plain32(b) {
		return relateInts(order64(uint64(a)<<32), order64(uint64(b)<<32))
	}
	r, flags := relate(unpack32(a), unpack32(b), signalQuiet, e.MXCSR)
	e.Raise(flags)
	return r
}

func relateInts(x, y int64) relation {
	switch {
	case x < y:
		return less
	case x == y:
		return equal
	}
	return greater
}

// order64 maps numbers to integers in the same order; both zeros give 0.
func order64(a uint64) int64 {
	if a>>63 != 0 {
		return -int64(a << 1 >> 1)
	}
	return int64(a)
}

// predicate evaluates a CMPccSS predicate 0–7: EQ, LT, LE, UNORD, NEQ, NLT, NLE, ORD.
func predicate(pred uint8, r relation) bool {
	var t bool
	switch pred & 3 {
	case 0:
		t = r == equal
	case 1:
		t = r == less
	case 2:
		t = r == less || r == equal
	case 3:
		t = r == unordered
	}
	return t != (pred&4 != 0)
}

// signalling reports whether the predicate treats quiet NaNs as invalid: LT, LE, NLT, NLE do.
func signalling(pred uint8) bool { return pred&3 == 1 || pred&3 == 2 }

// Cmp32 is CMPSS with predicate pred (bits 2:0): all ones or zero.
func (e *Env) Cmp32(a, b uint32, pred uint8) uint32 {
	if predicate(pred, e.relate32(a, b, signalling(pred))) {
		return ^uint32(0)
	}
	return 0
}

// Cmp64 is CMPSD with predicate pred (bits 2:0): all ones or zero.
func (e *Env) Cmp64(a, b uint64, pred uint8) uint64 {
	if predicate(pred, e.relate64(a, b, signalling(pred))) {
		return ^uint64(0)
	}
	return 0
}

// Min32 is MINSS.
func (e *Env) Min32(a, b uint32) uint32 { return e.pick32(a, b, false) }

// Max32 is MAXSS.
func (e *Env) Max32(a, b uint32) uint32 { return e.pick32(a, b, true) }

// Min64 is MINSD.
func (e *Env) Min64(a, b uint64) uint64 { return e.pick64(a, b, false) }

// Max64 is MAXSD.
func (e *Env) Max64(a, b uint64) uint64 { return e.pick64(a, b, true) }

// pick32 and pick64 return the second operand unless the first is strictly smaller (greater): two zeros or a NaN give the second, and any
// NaN is invalid (SDM vol. 2, MINSS).

func (e *Env) pick32(a, b uint32, wantMax bool) uint32 {
	r := b
	if e.relate32(a, b, true) == wanted(wantMax) {
		r = a
	}
	if e.MXCSR&DAZ != 0 && r&(0xff<<23) == 0 {
		return r & (1 << 31)
	}
	return r
}

func (e *Env) pick64(a, b uint64, wantMax bool) uint64 {
	r := b
	if e.relate64(a, b, true) == wanted(wantMax) {
		r = a
	}
	if e.MXCSR&DAZ != 0 && r&(0x7ff<<52) == 0 {
		return r & (1 << 63)
	}
	return r
}

// wanted is the relation of the first operand to the second for which it is the result.
func wanted(wantMax bool) relation {
	if wantMax {
		return greater
	}
	return less
}
