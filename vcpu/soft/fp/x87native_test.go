//go:build amd64 && linux

package fp

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
)

var cases = flag.Int("cases", 2000, "random cases for each instruction form")

var mantissas = []uint64{
	1 << 63, 1<<63 | 1, ^uint64(0), 3 << 62, 1<<63 | 1<<11, 1<<63 | 1<<40, 1<<63 | 1<<10, 1<<63 | 1<<39, 0xfffffffffffffc00, 0xffffff8000000000,
	0xfffffffffffff800, 0xffffff0000000000, 0xc90fdaa22168c234, 1<<63 | 1<<62 | 1, 5 << 61, 7 << 61,
}

// random80 gives numbers of every class.
func random80(r *rand.Rand) Float80 {
	mant := r.Uint64() | 1<<63
	if r.IntN(2) == 0 {
		mant = mantissas[r.IntN(len(mantissas))]
	}
	sign := uint16(r.IntN(2)) << 15
	switch r.IntN(16) {
	case 0:
		return Float80{0, sign}
	case 1:
		return Float80{1 << 63, sign | 0x7fff}
	case 2:
		return Float80{mant, sign | 0x7fff} // NaN
	case 3:
		return Float80{r.Uint64(), sign | uint16(r.IntN(3)) | uint16(r.IntN(2))*0x7ffd} // the ends, denormals, unsupported
	case 4:
		return Float80{r.Uint64() >> r.IntN(64), sign} // denormal
	case 5, 6:
		return Float80{mant, sign | uint16(16383+[]int{0, 31, 32, 63, 64, 15, 127, 128, -126, -127, -149, -150, 1023, 1024, -1022, -1023, -1074, -1075}[r.IntN(18)])}
	case 7, 8:
		n := fromSigned(r.Int64() >> r.IntN(64)).pack80()
		n.SE ^= sign
		return n
	case 9:
		return Float80{r.Uint64(), uint16(r.Uint32())}
	}
	return Float80{mant, sign | uint16(16383-70+r.IntN(140))}
}

func randomX87(r *rand.Rand, masked bool) X87 {
	x := X87{Used: 0xff, CW: 0x37f | uint16(r.IntN(4))<<10}
	for i := range x.R {
		x.R[i] = random80(r)
	}
	if r.IntN(2) == 0 {
		x.CW = x.CW&^0x300 | uint16([]int{0, 2, 3}[r.IntN(3)])<<8
	}
	if !masked {
		x.CW &^= uint16(r.Uint32() & allFlags)
	}
	x.SW = uint16(r.IntN(8))<<TopShift | uint16(r.Uint32())&conditionBits | uint16(r.Uint32())&x.CW&allFlags
	switch r.IntN(4) {
	case 0:
		x.Used = uint8(r.Uint32())
	case 1:
		x.Used = uint8(r.Uint32()) | 1<<x.top() | 1<<x.phys(1)
	case 2:
		x.Used &^= 1 << x.phys(7)
	}
	return x
}

func randomOperands(r *rand.Rand) *Operands {
	o := &Operands{EFLAGS: r.Uint32() & ArithFlags}
	for i := range o.Mem {
		o.Mem[i] = uint8(r.Uint32())
	}
	f := random80(r)
	switch r.IntN(4) {
	case 0:
		n := unpack80(f)
		putF64(o, n.round(binary64, Nearest, 0, false, 0).num)
	case 1:
		n := unpack80(f)
		putF32(o, n.round(binary32, Nearest, 0, false, 0).num)
	case 2:
		putInt(o, int64(f.Mant))
		o.Mem[8], o.Mem[9] = uint8(f.SE), uint8(f.SE>>8)
	}
	if r.IntN(2) == 0 { // small exponents: denormals
		o.Mem[7] &= 0x80
		o.Mem[3] &= 0x80
	}
	return o
}

// forEachX87 visits one ModRM of every form.
func forEachX87(visit func(opcode, modrm uint8, op *Op87)) {
	for opcode := uint8(0xd8); opcode <= 0xdf; opcode++ {
		for modrm := 0; modrm < 256; modrm++ {
			m := uint8(modrm)
			if m>>6 != 3 && (m&7 != 0 || m>>6 != 0) {
				continue
			}
			if op := LookupX87(opcode, m); op != nil {
				visit(opcode, m, op)
			}
		}
	}
}

// compareX87 returns a description of the first difference.
func compareX87(n *nativeX87, opcode, modrm uint8, op *Op87, masked bool, r *rand.Rand, cases int) error {
	for range cases {
		x, o := randomX87(r, masked), randomOperands(r)
		if op.Name == "FBLD" {
			validBCD(o, r)
		}
		o.Size16 = op.Size >= SizeEnv && r.IntN(4) == 0
		before := x
		want, wantO := x, *o
		n.run(opcode, modrm, &want, &wantO)
		got, gotO := x, *o
		mem := gotO.Mem
		got.Exec(op, modrm, &gotO)
		if !op.Store || gotO.NoStore {
			gotO.Mem = mem
		} else {
			copy(gotO.Mem[op.MemSize(o.Size16):], mem[op.MemSize(o.Size16):])
		}
		gotO.NoStore = false
		if !op.AX {
			wantO.AX, gotO.AX = 0, 0
		}
		for _, s := range []*X87{&want, &got} { // processors differ in which instructions record these
			s.FIP, s.FDP, s.FOP, s.FCS, s.FDS = 0, 0, 0, 0, 0
		}
		if op.Size >= SizeEnv && op.Store {
			ignorePointers(&wantO)
			ignorePointers(&gotO)
		}
		if want != got || wantO != gotO {
			return fmt.Errorf("%x %x %s\nbefore %s mem %x\nnative %s mem %x eflags %x\nours   %s mem %x eflags %x", opcode, modrm, op.Name, describe(&before), o.Mem[:10], describe(&want), wantO.Mem[:10], wantO.EFLAGS, describe(&got), gotO.Mem[:10], gotO.EFLAGS)
		}
	}
	return nil
}

func validBCD(o *Operands, r *rand.Rand) {
	for i := range 9 {
		o.Mem[i] = uint8(r.IntN(10) | r.IntN(10)<<4)
	}
}

func ignorePointers(o *Operands) {
	if o.Size16 {
		clear(o.Mem[6:14])
		return
	}
	clear(o.Mem[12:28])
}

func describe(x *X87) string {
	s := fmt.Sprintf("cw %04x sw %04x used %02x", x.CW, x.SW, x.Used)
	for i := range uint8(8) {
		f, _ := x.ST(i)
		s += fmt.Sprintf(" %04x:%016x", f.SE, f.Mant)
	}
	return s
}

func TestX87MatchesProcessor(t *testing.T) {
	n := newNativeX87(t)
	for _, masked := range []bool{true, false} {
		r := rand.New(rand.NewPCG(5, 6))
		forEachX87(func(opcode, modrm uint8, op *Op87) {
			if transcendental[op.Name] {
				return
			}
			if err := compareX87(n, opcode, modrm, op, masked, r, *cases/8); err != nil {
				t.Error(err)
			}
		})
	}
}

// transcendental functions agree with processors only to within their error bounds.
var transcendental = map[string]bool{"F2XM1": true, "FYL2X": true, "FYL2XP1": true, "FPTAN": true, "FPATAN": true, "FSIN": true, "FCOS": true, "FSINCOS": true}

// within reports whether two numbers are equal or neighbours.
func within(a, b Float80) bool {
	if a == b {
		return true
	}
	order := func(f Float80) int64 { return int64(f.SE&0x7fff)<<2 + int64(f.Mant>>62) }
	d := int64(a.Mant - b.Mant)
	if a.Mant>>63 != b.Mant>>63 {
		return false
	}
	close := d >= -1 && d <= 1 && a.SE == b.SE
	binade := order(a)-order(b) <= 3 && order(b)-order(a) <= 3 && a.SE&0x8000 == b.SE&0x8000 && a.SE != b.SE && (a.Mant<<1 == 0 || b.Mant<<1 == 0)
	return close || binade
}

func TestTranscendentalsNearProcessor(t *testing.T) {
	n := newNativeX87(t)
	forEachX87(func(opcode, modrm uint8, op *Op87) {
		if !transcendental[op.Name] {
			return
		}
		r := rand.New(rand.NewPCG(7, 8))
		same, near, far := 0, 0, 0
		for range *cases {
			x, o := randomX87(r, r.IntN(4) > 0), randomOperands(r)
			if op.Name == "F2XM1" && x.R[x.top()].SE&0x7fff >= 0x3fff {
				continue // undefined
			}
			want, got := x, x
			n.run(opcode, modrm, &want, o)
			got.Exec(op, modrm, o)
			for _, s := range []*X87{&want, &got} { // processors differ in which instructions record these
				s.FIP, s.FDP, s.FOP, s.FCS, s.FDS = 0, 0, 0, 0, 0
			}
			if want == got {
				same++
				continue
			}
			exact := got
			for i := range got.R {
				if within(want.R[i], got.R[i]) {
					exact.R[i] = want.R[i]
				}
			}
			exact.SW = exact.SW&^C1 | want.SW&C1 // tells on which side of the true value the processor's approximation was
			if exact == want {
				near++
				continue
			}
			if far++; far < 4 {
				t.Errorf("%s\nbefore %s\nnative %s\nours   %s", op.Name, describe(&x), describe(&want), describe(&got))
			}
		}
		t.Logf("%s: %d the same, %d within one ulp, %d others", op.Name, same, near, far)
	})
}
