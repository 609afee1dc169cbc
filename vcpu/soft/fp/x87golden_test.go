package fp

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
)

// The golden file carries what the real processor computed to machines of other architectures: for each x87 form a digest of the results of a
// seeded sequence of cases. `go test -run TestX87GoldenFromProcessor -update` writes it. The digests of transcendental functions
// are our own, so that they are at least the same everywhere.
const (
	goldenFile  = "testdata/x87.golden"
	goldenCases = 300
)

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

// x87Case is one execution of an instruction: the state and operands before, or after.
type x87Case struct {
	opcode, modrm uint8
	op            *Op87
	x             X87
	o             Operands
}

func randomX87Case(opcode, modrm uint8, op *Op87, masked bool, r *rand.Rand) x87Case {
	c := x87Case{opcode: opcode, modrm: modrm, op: op, x: randomX87(r, masked), o: *randomOperands(r)}
	if op.Name == "FBLD" {
		validBCD(&c.o, r)
	}
	c.o.Size16 = op.Size >= SizeEnv && r.IntN(4) == 0
	return c
}

// ours executes the case as the CPU core does.
func (c *x87Case) ours() x87Case {
	r := *c
	r.x.Exec(c.op, c.modrm, &r.o)
	size := c.op.MemSize(r.o.Size16)
	if !c.op.Store || r.o.NoStore {
		size = 0
	}
	copy(r.o.Mem[size:], c.o.Mem[size:])
	return r.canonical()
}

// canonical clears what need not agree: pointers (processors differ in which instructions record them) and absent results.
func (c x87Case) canonical() x87Case {
	c.x.FIP, c.x.FDP, c.x.FOP = 0, 0, 0
	if c.op.Size >= SizeEnv && c.op.Store {
		ignorePointers(&c.o)
	}
	if !c.op.AX {
		c.o.AX = 0
	}
	c.o.NoStore = false
	return c
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

// transcendental functions agree with processors only to within their error bounds.
var transcendental = map[string]bool{"F2XM1": true, "FYL2X": true, "FYL2XP1": true, "FPTAN": true, "FPATAN": true, "FSIN": true, "FCOS": true, "FSINCOS": true}

func x87FormName(opcode, modrm uint8, op *Op87) string {
	return fmt.Sprintf("%02x %02x %s", opcode, modrm, op.Name)
}

// x87Digest hashes the results of the golden cases of a form, half of them with unmasked exceptions.
func x87Digest(opcode, modrm uint8, op *Op87, execute func(*x87Case) x87Case) string {
	h := sha256.New()
	r := rand.New(rand.NewPCG(uint64(opcode), uint64(modrm)))
	for i := range goldenCases {
		c := randomX87Case(opcode, modrm, op, i&1 == 0, r)
		a := execute(&c)
		for _, v := range []any{a.x.R, a.x.CW, a.x.SW, a.x.Used, a.o.Mem, a.o.EFLAGS, a.o.AX} {
			if err := binary.Write(h, binary.LittleEndian, v); err != nil {
				return err.Error()
			}
		}
	}
	return fmt.Sprintf("%x", h.Sum(nil)[:12])
}

func TestX87Golden(t *testing.T) {
	f, err := os.Open(goldenFile)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	want := map[string]string{}
	for s := bufio.NewScanner(f); s.Scan(); {
		name, sum, _ := strings.Cut(s.Text(), ": ")
		want[name] = sum
	}
	forms := 0
	forEachX87(func(opcode, modrm uint8, op *Op87) {
		forms++
		name := x87FormName(opcode, modrm, op)
		if got := x87Digest(opcode, modrm, op, (*x87Case).ours); got != want[name] {
			t.Errorf("%s: digest %s, the processor's is %s", name, got, want[name])
		}
	})
	if forms != len(want) {
		t.Errorf("%d forms, the golden file has %d", forms, len(want))
	}
}
