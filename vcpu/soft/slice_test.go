package soft

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/detvm/detvm/vcpu"
)

// randomCode fills the code region with a mix of ordinary instructions, some of which write to the code itself, and raw random bytes.
func randomCode(rnd *rand.Rand, code []byte) {
	for len(code) > 16 {
		n := randomInsn(rnd, code)
		code = code[n:]
	}
}

// randomInsn writes one instruction and returns its length.
func randomInsn(rnd *rand.Rand, b []byte) int {
	put := func(p ...byte) int { return copy(b, p) }
	r := func(n int) byte { return byte(rnd.IntN(n)) }
	modrm := func() byte { return 0xc0 | r(64) }
	rexW := 0x40 | r(2)*8
	switch rnd.IntN(24) {
	case 0, 1, 2, 3: // ALU register, register
		return put(rexW, r(8)*8+r(4), modrm())
	case 4, 5: // ALU with memory, base RBX, RSI or RDI, disp8
		return put(rexW, r(8)*8+r(4), 0x40|r(8)<<3|[]byte{3, 6, 7}[r(3)], r(256))
	case 6: // MOV register, memory or back
		return put(rexW, 0x88+r(4), 0x40|r(8)<<3|[]byte{3, 6, 7}[r(3)], r(256))
	case 7, 8: // Jcc forward or back a little
		return put(0x70+r(16), byte(int8(rnd.IntN(60)-20)))
	case 9:
		return put(rexW, 0x81, 0xc0|r(64), r(256), r(256), r(2), 0)
	case 10:
		return put(0x50 + r(16))
	case 11: // shift
		return put(rexW, 0xc0+r(2), modrm(), r(70))
	case 12: // INC, DEC, NEG, MUL, DIV …
		return put(rexW, []byte{0xf6, 0xf7, 0xfe}[r(3)], modrm())
	case 13: // short string operations
		return put(0xb1, r(40), 0xf3, []byte{0xa4, 0xa5, 0xaa, 0xab, 0xa6, 0xae}[r(6)])
	case 14: // point a base register at code, data or the page outside RAM
		return put(0x48, 0xc7, 0xc0|[]byte{3, 6, 7}[r(3)], r(256), r(16), []byte{1, 0x20, 0x20, 0x80}[r(4)], 0)
	case 15: // test, then a branch
		return put(0x85, modrm(), 0x74+r(2), r(20))
	case 16:
		return put(0x48, 0x39, modrm(), 0x7c+r(4), r(20))
	case 17:
		return put([]byte{0x99, 0x98, 0xf5, 0xf8, 0xf9, 0x9c, 0xfc, 0x90}[r(8)])
	case 18: // SSE
		return put(0x66, 0x0f, 0x60+r(0x20), modrm())
	case 19:
		return put(0xf2, 0x0f, 0x51+r(14), modrm())
	case 20: // 0F map with registers
		return put(rexW, 0x0f, []byte{0x40, 0x90, 0xa3, 0xaf, 0xb6, 0xbc, 0xbe, 0xc1, 0xb1, 0xc8}[r(10)]+r(4), modrm())
	case 21: // x87
		return put(0xd8+r(8), modrm())
	case 22: // STI, IN, RDTSC, POPF …
		return put([]byte{0xfb, 0xec, 0x9d, 0xee, 0xfa, 0xc9}[r(6)])
	}
	n := 1 + rnd.IntN(8)
	for i := range n {
		b[i] = r(256)
	}
	return n
}

// sliceRun is one way to run a guest: cut returns where to stop next.
type sliceRun struct {
	g     *guest
	exits []string
	moved uint64 // position of the last periodic relocation
}

const mmioVA = 0x800000 // maps to outside RAM

func newSliceRun(t testing.TB, seed uint64, clock vcpu.Clock) *sliceRun {
	rnd := rand.New(rand.NewPCG(seed, 1))
	code := make([]byte, 0x4000)
	randomCode(rnd, code)
	g := newGuest(t, clock, code)
	binary.LittleEndian.PutUint64(g.ram[guestPD+8*4:], 0x10000000|0x87)
	s := guestState()
	for i := range s.GPR {
		if i != vcpu.RSP {
			s.GPR[i] = guestData + uint64(rnd.IntN(4096))
		}
	}
	s.GPR[vcpu.RBX] = guestCode + uint64(rnd.IntN(0x4000))
	if seed%4 == 3 { // user mode
		s.Seg[vcpu.CS] = vcpu.Segment{Selector: 0x33, Limit: 0xffffffff, Attr: 0xa0fb}
		s.Seg[vcpu.SS] = vcpu.Segment{Selector: 0x2b, Limit: 0xffffffff, Attr: 0xc0f3}
	}
	g.set(s)
	return &sliceRun{g: g}
}

// run runs until the clock is at end, stopping where cut says, answering exits by a fixed rule. After each period the code goes on somewhere
// else, so that a run does not get stuck in a loop.
func (r *sliceRun) run(end, period uint64, cut func(now uint64) uint64) {
	g := r.g
	for g.cpu.Count() < end && len(r.exits) < 4000 {
		now := g.cpu.Count()
		e := g.run(min(end, now/period*period+period, cut(now)))
		now = g.cpu.Count()
		switch e.Reason {
		case vcpu.ReasonStop:
			if now%period == 0 && now != r.moved {
				r.moved = now
				r.exits = append(r.exits, fmt.Sprintf("%d rip %#x regs %x", now, e.PC, g.cpu.r[:16]))
				r.relocate(now, e.PC)
			}
			continue
		case vcpu.ReasonShutdown, vcpu.ReasonFailure:
			r.exits = append(r.exits, fmt.Sprintf("%d %v %s", now, e.Reason, e.Detail))
			return
		case vcpu.ReasonHalt:
			r.exits = append(r.exits, fmt.Sprintf("%d halt %#x regs %x", now, e.PC, g.cpu.r[:16]))
			r.relocate(now, e.PC)
			continue
		}
		r.exits = append(r.exits, fmt.Sprintf("%d %v pc %#x addr %#x write %v data %x", now, e.Reason, e.PC, e.Addr, e.Write, e.Data))
		if !e.Write && e.Reason != vcpu.ReasonWRMSR {
			for i := range e.Data {
				e.Data[i] = byte(now) + byte(i)*3
			}
		}
		e.Fault = e.Reason == vcpu.ReasonWRMSR && now%2 == 0
	}
}

// relocate lets the guest go on at a place that depends on the position only.
func (r *sliceRun) relocate(now, pc uint64) {
	g := r.g
	s, err := g.cpu.State()
	if err != nil {
		g.t.Fatal(err)
	}
	x := (now*0x9e3779b97f4a7c15 + pc*0xbf58476d1ce4e5b9) >> 20
	s.Halted = false
	s.RIP = guestCode + x%0x3f00
	s.GPR[vcpu.RSP] = guestSP
	s.RFLAGS &^= flagTF
	if x>>16%7 == 0 {
		s.RFLAGS |= flagTF
	}
	if x>>24%5 == 0 {
		s.DR7, s.DR = 0x000f0701, [4]uint64{guestData + 64, 0, guestCode + 128}
	} else {
		s.DR7 = 0
	}
	s.Count = now
	if x>>28%3 == 0 {
		s.RFLAGS |= flagIF
	}
	g.set(s)
	if g.cpu.Interruptible() {
		if err := g.cpu.Interrupt(uint8(0x40 + x%16)); err != nil {
			g.t.Fatal(err)
		}
	}
}

// compare fails the test if two runs differ.
func (r *sliceRun) compare(t *testing.T, name string, other *sliceRun) {
	t.Helper()
	for i := range min(len(r.exits), len(other.exits)) {
		if r.exits[i] != other.exits[i] {
			t.Fatalf("%s: exit %d is %s, want %s", name, i, other.exits[i], r.exits[i])
		}
	}
	if len(r.exits) != len(other.exits) {
		t.Fatalf("%s: %d exits, want %d", name, len(other.exits), len(r.exits))
	}
	a, _ := r.g.cpu.State()
	b, _ := other.g.cpu.State()
	if *a != *b {
		t.Fatalf("%s: states differ:\n%+v\n%+v", name, *a, *b)
	}
	if !bytes.Equal(r.g.ram, other.g.ram) {
		for i := range r.g.ram {
			if r.g.ram[i] != other.g.ram[i] {
				t.Fatalf("%s: memory differs at %#x", name, i)
			}
		}
	}
}

// One long run, the same run cut at random positions, and single-stepping must agree in every exit, in the state and in memory.
func TestSlicesAgree(t *testing.T) {
	seeds := uint64(12)
	if testing.Short() {
		seeds = 3
	}
	const end = 20000
	for seed := range seeds {
		for _, clock := range []vcpu.Clock{vcpu.ClockInstructions, vcpu.ClockBranches} {
			limit, period := uint64(end), uint64(300)
			if clock == vcpu.ClockBranches {
				limit, period = 1000, 20
			}
			whole := newSliceRun(t, seed, clock)
			whole.run(limit, period, func(uint64) uint64 { return limit })
			if seed == 0 {
				t.Logf("seed 0 on %s: %d exits", clock, len(whole.exits))
			}
			rnd := rand.New(rand.NewPCG(seed, 2))
			cut := newSliceRun(t, seed, clock)
			cut.run(limit, period, func(now uint64) uint64 { return now + 1 + uint64(rnd.IntN(100)) })
			whole.compare(t, fmt.Sprintf("seed %d, %s, random cuts", seed, clock), cut)
			step := newSliceRun(t, seed, clock)
			step.run(limit, period, func(now uint64) uint64 { return now + 1 })
			whole.compare(t, fmt.Sprintf("seed %d, %s, single steps", seed, clock), step)
		}
	}
}
