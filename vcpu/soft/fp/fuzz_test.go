package fp

import (
	"encoding/binary"
	"testing"
)

// FuzzX87 executes instructions from arbitrary states: nothing panics, and the status word's summary stays in step with flags and masks.
func FuzzX87(f *testing.F) {
	f.Add(uint8(0xd8), uint8(0xc1), []byte{0x7f, 0x03, 0, 0x38, 0xff})
	f.Add(uint8(0xd9), uint8(0xf8), make([]byte, 200))
	f.Add(uint8(0xdf), uint8(0x30), []byte("0123456789abcdefghijklmnopqrstuvwxyz"))
	f.Fuzz(func(t *testing.T, opcode, modrm uint8, state []byte) {
		op := LookupX87(opcode, modrm)
		if op == nil {
			return
		}
		var image [512]byte
		copy(image[:], state)
		binary.LittleEndian.PutUint32(image[24:], MXCSRDefault)
		var x X87
		var o Operands
		var mxcsr uint32
		x.FXRestore(&image, &[16][2]uint64{}, &mxcsr, true, 16)
		copy(o.Mem[:], image[300:])
		o.Size16, o.RealMode = image[508]&1 != 0, image[508]&2 != 0
		x.Exec(op, modrm, &o)
		if pending := x.SW&^x.CW&allFlags != 0; pending != x.Pending() {
			t.Errorf("%s: summary is %v with status %#x and control %#x", op.Name, x.Pending(), x.SW, x.CW)
		}
		var again X87
		x.FXSave(&image, &[16][2]uint64{}, MXCSRDefault, true, 16)
		again.FXRestore(&image, &[16][2]uint64{}, &mxcsr, true, 16)
		if again != x {
			t.Errorf("%s: FXSAVE and FXRSTOR changed %+v to %+v", op.Name, x, again)
		}
	})
}

// FuzzArithmetic compares the host's arithmetic with the integer arithmetic behind it, result and flags.
func FuzzArithmetic(f *testing.F) {
	f.Add(uint64(0x3ff0000000000001), uint64(0x3fefffffffffffff), uint32(MXCSRDefault))
	f.Add(uint64(0x0010000000000000), uint64(0x3fefffffffffffff), uint32(MXCSRDefault|PE))
	f.Fuzz(func(t *testing.T, a, b uint64, mxcsr uint32) {
		mxcsr &= MXCSRMask
		for op, fast := range [...]func(*Env, uint64, uint64) uint64{(*Env).Add64, (*Env).Sub64, (*Env).Mul64, (*Env).Div64} {
			e := Env{MXCSR: mxcsr}
			got := fast(&e, a, b)
			slow := Env{MXCSR: mxcsr}
			want, flags := arith(op).sse64(a, b, mxcsr)
			slow.Raise(flags)
			if got != want || e != slow {
				t.Errorf("%x op %d %x under %x: %x %+v, want %x %+v", a, op, b, mxcsr, got, e, want, slow)
			}
		}
		for op, fast := range [...]func(*Env, uint32, uint32) uint32{(*Env).Add32, (*Env).Sub32, (*Env).Mul32, (*Env).Div32} {
			e := Env{MXCSR: mxcsr}
			got := fast(&e, uint32(a), uint32(b))
			slow := Env{MXCSR: mxcsr}
			want, flags := arith(op).sse32(uint32(a), uint32(b), mxcsr)
			slow.Raise(flags)
			if got != want || e != slow {
				t.Errorf("%x op %d %x under %x: %x %+v, want %x %+v", uint32(a), op, uint32(b), mxcsr, got, e, want, slow)
			}
		}
	})
}
