package fp

import (
	"fmt"
	"math"
	"math/big"
	"testing"

	"pgregory.net/rapid"
)

// The oracle computes with rational numbers of math/big and rounds by the book: it shares nothing with the code under test.

// rat is the exact value of a finite number.
func rat(n num) *big.Rat {
	if n.cls == zero {
		return new(big.Rat)
	}
	v := new(big.Rat).SetInt(new(big.Int).SetUint64(n.mant))
	v.Mul(v, pow2(int(n.exp)-63))
	if n.neg {
		v.Neg(v)
	}
	return v
}

func pow2(e int) *big.Rat {
	p := new(big.Int).Lsh(big.NewInt(1), uint(max(e, -e)))
	if e < 0 {
		return new(big.Rat).SetFrac(big.NewInt(1), p)
	}
	return new(big.Rat).SetInt(p)
}

// floorLog2 is the exponent of a positive number.
func floorLog2(v *big.Rat) int {
	e := v.Num().BitLen() - v.Denom().BitLen()
	if v.Cmp(pow2(e)) < 0 {
		e--
	}
	return e
}

// expectation is a correctly rounded result: value × sign, or overflow to infinity.
type expectation struct {
	value    *big.Rat
	infinite bool
	flags    uint32
}

// expect rounds |v| (or its square root) to f.
func expect(v *big.Rat, neg, root bool, f format, rc Rounding) expectation {
	v = new(big.Rat).Abs(v)
	if v.Sign() == 0 {
		return expectation{value: v}
	}
	e := floorLog2(v)
	if root {
		e = int(math.Floor(float64(e) / 2))
	}
	wide, _ := roundAt(v, neg, root, e-int(f.prec)+1, rc)
	tiny := wide.Cmp(pow2(int(f.emin))) < 0
	got, inexact := roundAt(v, neg, root, max(e, int(f.emin))-int(f.prec)+1, rc)
	x := expectation{value: got}
	if inexact {
		x.flags = PE
		if tiny {
			x.flags |= UE
		}
	}
	largest := new(big.Rat).Mul(new(big.Rat).Sub(pow2(int(f.prec)), pow2(0)), pow2(int(f.emax)-int(f.prec)+1))
	if wide.Cmp(largest) > 0 {
		x.flags = OE | PE
		x.value = largest
		x.infinite = rc == Nearest || rc == Up && !neg || rc == Down && neg
	}
	return x
}

// roundAt rounds v (or its root) to a multiple of 2^q.
func roundAt(v *big.Rat, neg, root bool, q int, rc Rounding) (r *big.Rat, inexact bool) {
	scaled := new(big.Rat).Mul(v, pow2(-q))
	if root {
		scaled.Mul(v, pow2(-2*q))
	}
	k := new(big.Int).Quo(scaled.Num(), scaled.Denom())
	if root {
		k.Sqrt(k)
	}
	// exactly and half compare the value with k and k + 1/2.
	power := func(x *big.Rat) *big.Rat {
		if root {
			return new(big.Rat).Mul(x, x)
		}
		return x
	}
	exactly := scaled.Cmp(power(new(big.Rat).SetInt(k)))
	half := scaled.Cmp(power(new(big.Rat).Add(new(big.Rat).SetInt(k), big.NewRat(1, 2))))
	up := false
	switch rc {
	case Nearest:
		up = half > 0 || half == 0 && k.Bit(0) == 1
	case Up:
		up = !neg
	case Down:
		up = neg
	}
	if exactly != 0 && up {
		k.Add(k, big.NewInt(1))
	}
	return new(big.Rat).Mul(new(big.Rat).SetInt(k), pow2(q)), exactly != 0
}

// agree compares a result with what is expected.
func (x expectation) agree(got num, neg bool, flags uint32) error {
	switch {
	case x.infinite != (got.cls == infinite):
		return fmt.Errorf("infinite is %v", got.cls == infinite)
	case !x.infinite && new(big.Rat).Abs(rat(got)).Cmp(x.value) != 0:
		return fmt.Errorf("value is %v, want %v", rat(got), x.value)
	case got.cls != zero && got.neg != neg:
		return fmt.Errorf("sign is wrong")
	case flags&(OE|UE|PE) != x.flags:
		return fmt.Errorf("flags are %#x, want %#x", flags, x.flags)
	}
	return nil
}

// exactResult is a op b.
func exactResult(op arith, a, b num) *big.Rat {
	x, y := rat(a), rat(b)
	switch op {
	case opAdd:
		return x.Add(x, y)
	case opSub:
		return x.Sub(x, y)
	case opMul:
		return x.Mul(x, y)
	}
	return x.Quo(x, y)
}

// drawFloat draws the bits of a finite number with the given fraction and exponent widths: all exponents, dense and sparse fractions.
func drawFloat(t *rapid.T, name string, fracBits, expBits uint) uint64 {
	frac := rapid.Uint64Range(0, 1<<fracBits-1).Draw(t, name+" fraction")
	if rapid.Bool().Draw(t, name+" sparse") {
		frac &= frac << (fracBits / 2) & (1<<fracBits - 1)
	}
	bias := uint64(1)<<(expBits-1) - 1
	var exp uint64
	switch rapid.IntRange(0, 3).Draw(t, name+" range") {
	case 0:
		exp = rapid.Uint64Range(0, 2*bias).Draw(t, name+" exponent")
	case 1:
		exp = rapid.Uint64Range(0, uint64(fracBits)+2).Draw(t, name+" exponent")
	case 2:
		exp = rapid.Uint64Range(bias-uint64(fracBits)-2, bias+uint64(fracBits)+2).Draw(t, name+" exponent")
	case 3:
		exp = 2*bias - rapid.Uint64Range(0, 2).Draw(t, name+" exponent")
	}
	return uint64(rapid.IntRange(0, 1).Draw(t, name+" sign"))<<(fracBits+expBits) | exp<<fracBits | frac
}

func drawRounding(t *rapid.T) Rounding { return Rounding(rapid.IntRange(0, 3).Draw(t, "rounding")) }

// drawMXCSR draws a value with everything masked.
func drawMXCSR(t *rapid.T, rc Rounding) uint32 {
	mx := MXCSRDefault | uint32(rc)<<RCShift
	if rapid.Bool().Draw(t, "sticky PE") {
		mx |= PE
	}
	return mx
}

func TestArithmetic64IsCorrectlyRounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := drawFloat(t, "a", 52, 11), drawFloat(t, "b", 52, 11)
		rc := drawRounding(t)
		op := arith(rapid.IntRange(0, 3).Draw(t, "op"))
		if op == opDiv && b<<1 == 0 {
			return
		}
		e := Env{MXCSR: drawMXCSR(t, rc)}
		before := e.MXCSR
		r := [...]func(*Env, uint64, uint64) uint64{(*Env).Add64, (*Env).Sub64, (*Env).Mul64, (*Env).Div64}[op](&e, a, b)
		v := exactResult(op, unpack64(a), unpack64(b))
		want := expect(v, v.Sign() < 0, false, binary64, rc)
		want.flags |= before & PE
		if err := want.agree(unpack64(r), v.Sign() < 0 || v.Sign() == 0 && r>>63 != 0, e.MXCSR); err != nil {
			t.Fatalf("%x op %d %x = %x: %v", a, op, b, r, err)
		}
	})
}

func TestArithmetic32IsCorrectlyRounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := uint32(drawFloat(t, "a", 23, 8)), uint32(drawFloat(t, "b", 23, 8))
		rc := drawRounding(t)
		op := arith(rapid.IntRange(0, 3).Draw(t, "op"))
		if op == opDiv && b<<1 == 0 {
			return
		}
		e := Env{MXCSR: drawMXCSR(t, rc)}
		before := e.MXCSR
		r := [...]func(*Env, uint32, uint32) uint32{(*Env).Add32, (*Env).Sub32, (*Env).Mul32, (*Env).Div32}[op](&e, a, b)
		v := exactResult(op, unpack32(a), unpack32(b))
		want := expect(v, v.Sign() < 0, false, binary32, rc)
		want.flags |= before & PE
		if err := want.agree(unpack32(r), v.Sign() < 0 || v.Sign() == 0 && r>>31 != 0, e.MXCSR); err != nil {
			t.Fatalf("%x op %d %x = %x: %v", a, op, b, r, err)
		}
	})
}

func TestSqrtAndNarrowingAreCorrectlyRounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := drawFloat(t, "a", 52, 11)
		rc := drawRounding(t)
		e := Env{MXCSR: drawMXCSR(t, rc)}
		before := e.MXCSR & PE
		r := e.F64ToF32(a)
		v := rat(unpack64(a))
		want := expect(v, a>>63 != 0, false, binary32, rc)
		want.flags |= before
		if err := want.agree(unpack32(r), a>>63 != 0, e.MXCSR); err != nil {
			t.Fatalf("narrow %x = %x: %v", a, r, err)
		}
		a &^= 1 << 63
		e = Env{MXCSR: drawMXCSR(t, rc)}
		before = e.MXCSR & PE
		root := e.Sqrt64(a)
		want = expect(rat(unpack64(a)), false, true, binary64, rc)
		want.flags |= before
		if err := want.agree(unpack64(root), false, e.MXCSR); err != nil {
			t.Fatalf("sqrt %x = %x: %v", a, root, err)
		}
		f := uint32(drawFloat(t, "f", 23, 8)) &^ (1 << 31)
		e = Env{MXCSR: drawMXCSR(t, rc)}
		before = e.MXCSR & PE
		root32 := e.Sqrt32(f)
		want = expect(rat(unpack32(f)), false, true, binary32, rc)
		want.flags |= before
		if err := want.agree(unpack32(root32), false, e.MXCSR); err != nil {
			t.Fatalf("sqrt %x = %x: %v", f, root32, err)
		}
	})
}

func TestX87ArithmeticIsCorrectlyRounded(t *testing.T) {
	draw := func(t *rapid.T, name string) Float80 {
		mant := rapid.Uint64().Draw(t, name+" mantissa")
		se := rapid.Uint16Range(16383-200, 16383+200).Draw(t, name+" exponent")
		switch rapid.IntRange(0, 5).Draw(t, name+" range") {
		case 0:
			return Float80{mant >> rapid.IntRange(0, 63).Draw(t, name+" shift"), 0}
		case 1:
			se = rapid.Uint16Range(1, 70).Draw(t, name+" small exponent")
		case 2:
			se = rapid.Uint16Range(32766-70, 32766).Draw(t, name+" large exponent")
		}
		return Float80{mant | 1<<63, se | uint16(rapid.IntRange(0, 1).Draw(t, name+" sign"))<<15}
	}
	rapid.Check(t, func(t *rapid.T) {
		a, b := draw(t, "a"), draw(t, "b")
		rc := drawRounding(t)
		pc := rapid.SampledFrom([]uint16{0, 2, 3}).Draw(t, "precision")
		reg := rapid.SampledFrom([]uint8{0, 1, 4, 6}).Draw(t, "operation") // FADD, FMUL, FSUB, FDIV ST(0), ST(1)
		if reg == 6 && b.Mant == 0 {
			return
		}
		x := X87{CW: 0x7f | pc<<8 | uint16(rc)<<10, Used: 0xff}
		x.R[0], x.R[1] = a, b
		x.Exec(LookupX87(0xd8, 0xc1|reg<<3), 0xc1|reg<<3, &Operands{})
		v := exactResult(map[uint8]arith{0: opAdd, 1: opMul, 4: opSub, 6: opDiv}[reg], unpack80(a), unpack80(b))
		want := expect(v, v.Sign() < 0, false, x.precision(), rc)
		got := unpack80(x.R[0])
		if err := want.agree(got, v.Sign() < 0 || v.Sign() == 0 && got.neg, uint32(x.SW)); err != nil {
			t.Fatalf("%x op %d %x = %x: %v", a, reg, b, x.R[0], err)
		}
	})
}

func TestIntegerConversionsRound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.Int64().Draw(t, "v") >> rapid.IntRange(0, 63).Draw(t, "shift")
		rc := drawRounding(t)
		e := Env{MXCSR: MXCSRDefault | uint32(rc)<<RCShift}
		r := e.I64ToF64(uint64(v))
		exact := new(big.Rat).SetInt64(v)
		if err := expect(exact, v < 0, false, binary64, rc).agree(unpack64(r), v < 0, e.MXCSR); err != nil {
			t.Fatalf("%d to %x: %v", v, r, err)
		}
		a := drawFloat(t, "a", 52, 11)
		e = Env{MXCSR: drawMXCSR(t, rc)}
		before := e.MXCSR & PE
		truncate := rapid.Bool().Draw(t, "truncate")
		got := int64(e.F64ToI64(a, truncate))
		if truncate {
			rc = Zero
		}
		value := rat(unpack64(a))
		mag, inexact := roundAt(new(big.Rat).Abs(value), a>>63 != 0, false, 0, rc)
		if a>>63 != 0 {
			mag.Neg(mag)
		}
		wantFlags := before
		want := int64(math.MinInt64)
		switch {
		case !mag.Num().IsInt64():
			wantFlags |= IE
		default:
			want = mag.Num().Int64()
			if inexact {
				wantFlags |= PE
			}
		}
		if got != want || e.MXCSR&(IE|PE) != wantFlags {
			t.Fatalf("%x to %d flags %#x, want %d flags %#x", a, got, e.MXCSR&allFlags, want, wantFlags)
		}
	})
}
