package fp

import (
	"encoding/binary"
	"testing"
)

// exec runs register forms on x.
func exec(t *testing.T, x *X87, opcode, modrm uint8) {
	t.Helper()
	op := LookupX87(opcode, modrm)
	if op == nil {
		t.Fatalf("%x %x is undefined", opcode, modrm)
	}
	x.Exec(op, modrm, &Operands{})
}

func TestUnmaskedExceptionIsPending(t *testing.T) {
	var x X87
	x.Init()
	x.CW &^= ZE
	exec(t, &x, 0xd9, 0xe8) // FLD1
	exec(t, &x, 0xd9, 0xee) // FLDZ
	before := x.R
	exec(t, &x, 0xde, 0xf9) // FDIVP: 1/0
	if !x.Pending() || x.SW&ZE == 0 {
		t.Errorf("status is %#x, want a pending ZE", x.SW)
	}
	if x.R != before || x.top() != 6 {
		t.Errorf("the operands have changed")
	}
	exec(t, &x, 0xdb, 0xe2) // FNCLEX
	if x.Pending() {
		t.Errorf("FNCLEX leaves the exception pending")
	}
}

func TestStackFaults(t *testing.T) {
	var x X87
	x.Init()
	exec(t, &x, 0xd8, 0xc1) // FADD with empty registers
	if x.SW&(IE|StackFault|C1) != IE|StackFault {
		t.Errorf("underflow leaves status %#x", x.SW)
	}
	x.Init()
	for range 9 {
		exec(t, &x, 0xd9, 0xe8) // FLD1
	}
	if x.SW&(IE|StackFault|C1) != IE|StackFault|C1 {
		t.Errorf("overflow leaves status %#x", x.SW)
	}
	if v, _ := x.ST(0); v != indefinite().pack80() {
		t.Errorf("overflow pushes %x, want the indefinite NaN", v)
	}
}

func TestPrecisionControl(t *testing.T) {
	tests := []struct {
		name string
		pc   uint16
		want uint64
	}{{"24 bits", 0, 0xaaaaab0000000000}, {"53 bits", 2, 0xaaaaaaaaaaaaa800}, {"64 bits", 3, 0xaaaaaaaaaaaaaaab}}
	for _, test := range tests {
		x := X87{CW: 0x7f | test.pc<<8, Used: 0xff}
		x.R[0], x.R[1] = fromSigned(2).pack80(), fromSigned(3).pack80()
		exec(t, &x, 0xd8, 0xf1) // FDIV: 2/3
		if v, _ := x.ST(0); v.Mant != test.want {
			t.Errorf("%s: 2/3 is %x", test.name, v.Mant)
		}
	}
}

func TestUnmaskedOverflowWraps(t *testing.T) {
	x := X87{CW: 0x37f &^ OE, Used: 0xff}
	big := Float80{1 << 63, 0x7ffe}
	x.R[0], x.R[1] = big, big
	exec(t, &x, 0xd8, 0xc9) // FMUL
	if v, _ := x.ST(0); v != (Float80{1 << 63, 0x7ffe + 0x7ffe - 16383 - 24576}) || !x.Pending() {
		t.Errorf("result %x, status %#x", v, x.SW)
	}
}

func TestMMXSharesTheRegisters(t *testing.T) {
	var x X87
	x.Init()
	exec(t, &x, 0xd9, 0xe8) // FLD1: physical register 7
	x.EnterMMX()
	if x.top() != 0 || x.Used != 0xff || x.MMX(7) != 1<<63 {
		t.Errorf("top %d, used %#x, mm7 %#x", x.top(), x.Used, x.MMX(7))
	}
	x.SetMMX(7, 42)
	if x.R[7] != (Float80{42, 0xffff}) {
		t.Errorf("register 7 is %x", x.R[7])
	}
	x.EMMS()
	if x.Used != 0 {
		t.Errorf("EMMS leaves registers in use")
	}
}

func TestPointersAreSavedInEveryLayout(t *testing.T) {
	var x X87
	x.Init()
	x.SetPointers(0xdc, 0x0d, 0x33, 0x7fff12345678, true, 0x2b, 0x7fff9abcdef0)
	if x.FOP != 0x40d {
		t.Errorf("FOP is %#x", x.FOP)
	}
	for _, layout := range []struct{ size16, real bool }{{false, false}, {true, false}, {false, true}, {true, true}} {
		o := Operands{Size16: layout.size16, RealMode: layout.real}
		y := x
		fnstenv(&y, 0, &o)
		var z X87
		fldenv(&z, 0, &o)
		mask := uint64(0xffffffff)
		switch {
		case layout.size16 && layout.real:
			mask = 0xfffff
		case layout.size16:
			mask = 0xffff
		}
		if z.FIP != x.FIP&mask || z.FDP != x.FDP&mask {
			t.Errorf("%+v: pointers %#x %#x", layout, z.FIP, z.FDP)
		}
		if (layout.real || !layout.size16) && z.FOP != 0x40d {
			t.Errorf("%+v: opcode %#x", layout, z.FOP)
		}
	}
}

func TestFXSaveLayouts(t *testing.T) {
	var x X87
	x.Init()
	x.SetPointers(0xd9, 0x05, 0x33, 0x7fff12345678, true, 0x2b, 0x7fff9abcdef0)
	var xmm [16][2]uint64
	for i := range xmm {
		xmm[i] = [2]uint64{uint64(i), ^uint64(i)}
	}
	for _, wide := range []bool{false, true} {
		var image [512]byte
		x.FXSave(&image, &xmm, 0x9fc0, wide, 16)
		var y X87
		var got [16][2]uint64
		var mxcsr uint32
		if !y.FXRestore(&image, &got, &mxcsr, wide, 16) || got != xmm || mxcsr != 0x9fc0 {
			t.Fatalf("restored %x, MXCSR %#x", got, mxcsr)
		}
		want := x
		if !wide {
			want.FIP, want.FDP = uint64(uint32(x.FIP)), uint64(uint32(x.FDP))
		}
		if y != want {
			t.Errorf("restored %+v, want %+v", y, want)
		}
		binary.LittleEndian.PutUint32(image[24:], 1<<16)
		if y.FXRestore(&image, &got, &mxcsr, wide, 16) || mxcsr != 0x9fc0 || y != want {
			t.Errorf("a reserved bit of MXCSR was accepted")
		}
	}
}
