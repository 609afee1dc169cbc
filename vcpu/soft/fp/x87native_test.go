//go:build amd64 && linux

package fp

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
)

var (
	cases  = flag.Int("cases", 2000, "random cases for each instruction form")
	update = flag.Bool("update", false, "write the golden file from what this processor computes")
)

// onProcessor executes a case natively.
func (n *nativeX87) onProcessor(c *x87Case) x87Case {
	r := *c
	n.run(c.opcode, c.modrm, &r.x, &r.o)
	return r.canonical()
}

// compareX87 returns a description of the first difference.
func compareX87(n *nativeX87, opcode, modrm uint8, op *Op87, masked bool, r *rand.Rand, cases int) error {
	for range cases {
		c := randomX87Case(opcode, modrm, op, masked, r)
		want, got := n.onProcessor(&c), c.ours()
		if want != got {
			return fmt.Errorf("%x %x %s\nbefore %s mem %x\nnative %s mem %x eflags %x\nours   %s mem %x eflags %x", opcode, modrm, op.Name,
				describe(&c.x), c.o.Mem[:10], describe(&want.x), want.o.Mem[:10], want.o.EFLAGS, describe(&got.x), got.o.Mem[:10], got.o.EFLAGS)
		}
	}
	return nil
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

func TestFXSaveMatchesProcessor(t *testing.T) {
	n := newNativeX87(t)
	r := rand.New(rand.NewPCG(9, 10))
	for range *cases {
		x := randomX87(r, true)
		want, saved := n.fxsave(&x), x
		var got, image [512]byte
		saved.FXSave(&got, &[16][2]uint64{}, MXCSRDefault, true, 16)
		if [5]byte(want[:]) != [5]byte(got[:]) || [128]byte(want[32:]) != [128]byte(got[32:]) {
			t.Fatalf("%s\nnative %x\nours   %x", describe(&x), want[:160], got[:160])
		}
		for i := range 160 {
			image[i] = uint8(r.Uint32())
		}
		copy(image[24:], []byte{0x80, 0x1f, 0, 0})
		restored, mxcsr := x, uint32(0)
		if !restored.FXRestore(&image, &[16][2]uint64{}, &mxcsr, true, 16) || mxcsr != MXCSRDefault {
			t.Fatal("image was refused")
		}
		n.fxrstor(&x, &image)
		op := LookupX87(0xd9, 0xd0) // any
		ours, theirs := x87Case{op: op, x: restored}, x87Case{op: op, x: x}
		if ours, theirs := ours.canonical(), theirs.canonical(); ours != theirs {
			t.Fatalf("image %x\nnative %s\nours   %s", image[:160], describe(&theirs.x), describe(&ours.x))
		}
	}
}

func TestMMXAliasingMatchesProcessor(t *testing.T) {
	n := newNativeX87(t)
	r := rand.New(rand.NewPCG(11, 12))
	tests := []struct {
		name string
		code []byte
		ours func(x *X87)
	}{
		{"movq mm1, mm2", []byte{0x0f, 0x6f, 0xca}, func(x *X87) { x.EnterMMX(); x.SetMMX(1, x.MMX(2)) }},
		{"movq [r8], mm1", []byte{0x41, 0x0f, 0x7f, 0x88, offMem & 0xff, offMem >> 8, 0, 0}, (*X87).EnterMMX},
		{"emms", []byte{0x0f, 0x77}, (*X87).EMMS},
	}
	op := LookupX87(0xd9, 0xd0) // any
	for _, test := range tests {
		for range *cases / 4 {
			x := randomX87(r, true)
			want, got := x, x
			n.execute(test.code, &want, &Operands{})
			test.ours(&got)
			theirs, ours := x87Case{op: op, x: want}, x87Case{op: op, x: got}
			if theirs, ours := theirs.canonical(), ours.canonical(); theirs != ours {
				t.Fatalf("%s\nbefore %s\nnative %s\nours   %s", test.name, describe(&x), describe(&want), describe(&got))
			}
		}
	}
}

func TestX87GoldenFromProcessor(t *testing.T) {
	if !*update {
		t.Skip("writes the golden file; needs -update")
	}
	n := newNativeX87(t)
	var lines []string
	forEachX87(func(opcode, modrm uint8, op *Op87) {
		execute := n.onProcessor
		if transcendental[op.Name] {
			execute = (*x87Case).ours
		}
		lines = append(lines, x87FormName(opcode, modrm, op)+": "+x87Digest(opcode, modrm, op, execute))
	})
	if err := os.WriteFile(goldenFile, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}

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
	adjacent := d >= -1 && d <= 1 && a.SE == b.SE
	binade := order(a)-order(b) <= 3 && order(b)-order(a) <= 3 && a.SE&0x8000 == b.SE&0x8000 && a.SE != b.SE && (a.Mant<<1 == 0 || b.Mant<<1 == 0)
	return adjacent || binade
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
			c := randomX87Case(opcode, modrm, op, r.IntN(4) > 0, r)
			if op.Name == "F2XM1" && c.x.R[c.x.top()].SE&0x7fff >= 0x3fff {
				continue // undefined
			}
			want, got := n.onProcessor(&c).x, c.ours().x
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
				t.Errorf("%s\nbefore %s\nnative %s\nours   %s", op.Name, describe(&c.x), describe(&want), describe(&got))
			}
		}
		t.Logf("%s: %d the same, %d within one ulp, %d others", op.Name, same, near, far)
	})
}
