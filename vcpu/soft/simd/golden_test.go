package simd

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/detvm/detvm/vcpu/soft/fp"
)

// The golden file carries what the real processor computed to machines of other architectures: for each form of each row a digest of
// the results of a seeded sequence of cases. `go test -run TestGoldenFromProcessor -update` writes it on an AMD processor of the Zen 4 family.
const (
	goldenFile  = "testdata/rows.golden"
	goldenCases = 300
)

// rowCase is one execution of a row.
type rowCase struct {
	op     *Op
	memory bool
	imm    uint8
	in     block
}

// randomCase draws a case; unmask clears random exception masks.
func randomCase(op *Op, memory, unmask bool, r *rand.Rand) rowCase {
	c := rowCase{op: op, memory: memory, imm: uint8(r.Uint32()), in: *randomBlock(r)}
	if op.Map == Map0F && op.Opcode == 0xc2 && c.imm > 7 && r.IntN(4) > 0 {
		c.imm &= 7
	}
	if unmask {
		c.in.mxcsr &^= r.Uint32() & (0x3f << fp.MaskShift)
	}
	return c
}

// ours computes the case as the CPU core does.
func (c *rowCase) ours() block {
	b := c.in
	interpret(c.op, c.memory, c.imm, &b)
	b.rflags &= fp.ArithFlags
	return b
}

// digest hashes the results of the golden cases of a form. Rows that can trap have half of their cases with unmasked exceptions.
func digest(op *Op, memory bool, execute func(*rowCase) block) string {
	h := sha256.New()
	r := rand.New(rand.NewPCG(uint64(op.Map)<<16|uint64(op.Prefix)<<8|uint64(op.Opcode), 1))
	for i := range goldenCases {
		c := randomCase(op, memory, op.FP && i&1 != 0, r)
		b := execute(&c)
		b.code, b.normal = 0, 0
		for _, v := range []any{b.x1, b.x0, b.r9, b.rcx, b.mxcsr, b.rflags, b.mem, b.m1} {
			if err := binary.Write(h, binary.LittleEndian, v); err != nil {
				return err.Error()
			}
		}
	}
	return fmt.Sprintf("%x", h.Sum(nil)[:12])
}

// formName identifies a form in the golden file.
func formName(op *Op, memory bool) string {
	return fmt.Sprintf("%s map%d prefix%d %02x ext%d w%d mod%d memory=%v", op.Name, op.Map, op.Prefix, op.Opcode, op.Ext, op.W, op.Mod, memory)
}

func TestGolden(t *testing.T) {
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
	eachForm(func(op *Op, memory bool) {
		forms++
		name := formName(op, memory)
		if got := digest(op, memory, (*rowCase).ours); got != want[name] {
			t.Errorf("%s: digest %s, the processor's is %s", name, got, want[name])
		}
	})
	if forms != len(want) {
		t.Errorf("%d forms, the golden file has %d", forms, len(want))
	}
}
