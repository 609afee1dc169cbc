//go:build amd64 && linux

package simd

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/detvm/detvm/vcpu/soft/fp"
)

// onProcessor executes a case natively.
func (n *native) onProcessor(c *rowCase) block {
	b := c.in
	n.load(encode(c.op, c.memory, c.imm), usesMMX(c.op))
	n.runTrapping(&b)
	b.code, b.normal = 0, 0
	b.rflags &= fp.ArithFlags
	return b
}

// compareRow runs one row natively and interpreted and reports the first difference.
func compareRow(n *native, op *Op, memory, unmask bool, r *rand.Rand, cases int) error {
	for range cases {
		c := randomCase(op, memory, unmask, r)
		if want, got := n.onProcessor(&c), c.ours(); want != got {
			return fmt.Errorf("%s (memory %v, imm %#x)\nbefore %x\nnative %x\nours   %x", op.Name, memory, c.imm, c.in, want, got)
		}
	}
	return nil
}

func usesMMX(op *Op) bool {
	for _, l := range []Loc{op.Dst, op.Src, op.First} {
		if l == MReg || l == MRM {
			return true
		}
	}
	return false
}

// estimates reports whether the row's values are implementation-defined.
func estimates(op *Op) bool { return op.Opcode == 0x52 || op.Opcode == 0x53 }

var (
	cases  = flag.Int("cases", 400, "random cases for each form of each row")
	update = flag.Bool("update", false, "write the golden file from what this processor computes")
)

func TestRowsMatchProcessor(t *testing.T) {
	n := newNative(t)
	r := rand.New(rand.NewPCG(1, 2))
	eachForm(func(op *Op, memory bool) {
		if estimates(op) && !amdZen4() {
			return
		}
		if err := compareRow(n, op, memory, false, r, *cases); err != nil {
			t.Error(err)
		}
	})
}

// trappable prepares for instructions that raise unmasked exceptions: on the way from the signal to the panic the runtime's
// allocator and collector must not compute with our MXCSR, which is read on the same thread afterwards.
func trappable() (restore func()) {
	percent, rate := debug.SetGCPercent(-1), runtime.MemProfileRate
	runtime.MemProfileRate = 0
	runtime.LockOSThread()
	return func() {
		runtime.UnlockOSThread()
		runtime.MemProfileRate = rate
		debug.SetGCPercent(percent)
	}
}

func TestUnmaskedExceptionsMatchProcessor(t *testing.T) {
	defer trappable()()
	n := newNative(t)
	r := rand.New(rand.NewPCG(3, 4))
	eachForm(func(op *Op, memory bool) {
		if !op.FP {
			return
		}
		if err := compareRow(n, op, memory, true, r, *cases); err != nil {
			t.Error(err)
		}
	})
}

func TestGoldenFromProcessor(t *testing.T) {
	if !*update {
		t.Skip("writes the golden file; needs -update")
	}
	defer trappable()()
	n := newNative(t)
	var lines []string
	eachForm(func(op *Op, memory bool) {
		lines = append(lines, formName(op, memory)+": "+digest(op, memory, n.onProcessor))
	})
	if err := os.WriteFile(goldenFile, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}
