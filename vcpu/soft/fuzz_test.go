package soft

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/detvm/detvm/vcpu"
)

// bounded runs a guest for at most n instructions, 200 exits and a second, answering everything with zeros. Instructions may be slow: each may come after a
// quarter of a million exceptions. What must not be is that a kick does not end them; the fuzzer finds that by its own limit, ten seconds.
func (g *guest) bounded(n uint64) {
	kick := time.AfterFunc(time.Second, g.cpu.Kick)
	defer kick.Stop()
	for range 200 {
		e := g.run(n)
		switch e.Reason {
		case vcpu.ReasonStop, vcpu.ReasonShutdown, vcpu.ReasonFailure, vcpu.ReasonHalt, vcpu.ReasonKick:
			return
		}
		e.Fault = true
	}
}

// FuzzCode executes raw bytes in ring 0 and ring 3, in 64-bit and in compatibility mode.
func FuzzCode(f *testing.F) {
	f.Add(uint8(0), sumLoop)
	f.Add(uint8(1), []byte{0xf3, 0xa4, 0x0f, 0x05, 0xcd, 0x80})
	f.Add(uint8(2), []byte{0x66, 0x67, 0xf0, 0x65, 0x0f, 0xc7, 0x4c, 0x85, 0x10})
	f.Add(uint8(3), []byte{0xc8, 0xff, 0xff, 0x1f, 0xdd, 0x34, 0x24, 0x0f, 0xae, 0x04, 0x24})
	f.Add(uint8(4), []byte{0x0f, 0x22, 0xd8, 0x0f, 0x30, 0x48, 0xcf, 0xca, 0x08, 0x00})
	f.Fuzz(func(t *testing.T, kind uint8, code []byte) {
		if len(code) > 4096 {
			return
		}
		g := newGuest(t, vcpu.ClockInstructions, code)
		g.device()
		s := guestState()
		if kind&1 != 0 {
			s.Seg[vcpu.CS] = vcpu.Segment{Selector: 0x33, Limit: 0xffffffff, Attr: 0xa0fb}
			s.Seg[vcpu.SS] = vcpu.Segment{Selector: 0x2b, Limit: 0xffffffff, Attr: 0xc0f3}
		}
		if kind&2 != 0 {
			s.Seg[vcpu.CS].Attr = s.Seg[vcpu.CS].Attr&^attrL | attrDB
		}
		if kind&4 != 0 {
			s.RFLAGS |= flagTF
			s.DR7, s.DR[0] = 0xf0703, guestData
		}
		if kind&8 != 0 {
			s.CR0 |= cr0TS
		}
		for i := range s.GPR {
			if i != vcpu.RSP {
				s.GPR[i] = guestData + uint64(i)<<uint(kind>>4)
			}
		}
		g.set(s)
		g.bounded(3000)
	})
}

// FuzzPageTables lets code read, write and execute through arbitrary page tables, which it may overwrite itself.
func FuzzPageTables(f *testing.F) {
	f.Add(binary.LittleEndian.AppendUint64(nil, guestData|3), uint16(0))
	f.Add(binary.LittleEndian.AppendUint64(nil, guestPML4|7), uint16(0x1000))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, uint16(8))
	f.Fuzz(func(t *testing.T, tables []byte, where uint16) {
		if len(tables) > 8192 {
			return
		}
		// mov rax,[rdi]; mov [rdi+8],rax; add [rsi],rax; rep movsb; call rdi; hlt
		g := newGuest(t, vcpu.ClockInstructions, []byte{0x48, 0x8b, 0x07, 0x48, 0x89, 0x47, 8, 0x48, 0x01, 0x06, 0xf3, 0xa4, 0xff, 0xd7, 0xf4})
		va, _ := g.mapPage(guestData, 7)
		copy(g.ram[guestPML4+uint64(where)%0x2000:], tables) // PML4 and PDPT
		copy(g.ram[0x8000:], tables)
		s := guestState()
		s.GPR[vcpu.RDI], s.GPR[vcpu.RSI], s.GPR[vcpu.RCX] = va+uint64(where), va+uint64(where)<<3, 5000
		s.CR4 |= uint64(where&1) * cr4PGE
		g.set(s)
		g.bounded(3000)
	})
}

// FuzzDecode checks that decoding is total and that an instruction never claims bytes that it was not given.
func FuzzDecode(f *testing.F) {
	f.Add([]byte{0x48, 0x8b, 0x84, 0x88, 1, 2, 3, 4})
	f.Add([]byte{0x66, 0x0f, 0x3a, 0x63, 0xc1, 0x0c})
	f.Fuzz(func(t *testing.T, b []byte) {
		buildTable()
		b = b[:min(len(b), 15)]
		for _, mode := range []uint16{mode64, mode32, 0} {
			var in inst
			if decode(&in, b, 0x1000, 0, mode) == decoded && (int(in.length) > len(b) || in.length == 0) {
				t.Errorf("% x in mode %d: length %d", b, mode, in.length)
			}
		}
	})
}

func TestTableHasNoAmbiguousRows(t *testing.T) {
	buildTable()
	for m := range decodeTable {
		for op, rows := range decodeTable[m] {
			for i, a := range rows {
				for _, b := range rows[:i] {
					if ambiguous(a, b) {
						t.Errorf("map %d opcode %02x: %s %v and %s %v match the same bytes", m, op, a.Mnemonic, a.Operands, b.Mnemonic, b.Operands)
					}
				}
			}
		}
	}
	if n := len(Forms()); n < 1000 {
		t.Errorf("only %d forms", n)
	}
}

// ambiguous reports whether two rows of one opcode can match the same instruction without one being preferred.
func ambiguous(a, b *Form) bool {
	if a.Prefix != b.Prefix || a.Inv64 && b.Only64 || a.Only64 && b.Inv64 || a.W != b.W {
		return false
	}
	if a.HasModRM != b.HasModRM {
		return true
	}
	for m := range 256 {
		if a.HasModRM && a.matchModRM(uint8(m)) && b.matchModRM(uint8(m)) {
			return true
		}
	}
	return !a.HasModRM
}
