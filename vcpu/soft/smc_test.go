package soft

import (
	"encoding/binary"
	"testing"

	"github.com/detvm/detvm/vcpu"
)

// asm joins pieces of machine code.
func asm(parts ...[]byte) (code []byte) {
	for _, p := range parts {
		code = append(code, p...)
	}
	return code
}

func le32(v uint32) []byte { return binary.LittleEndian.AppendUint32(nil, v) }

func TestCodeThatChangesTheNextInstruction(t *testing.T) {
	// mov byte [rip+1], 5 ; mov al, 1 (becomes mov al, 5) ; hlt
	g := newGuest(t, vcpu.ClockInstructions, []byte{0xc6, 0x05, 1, 0, 0, 0, 5, 0xb0, 1, 0xf4})
	s := g.halt()
	if s.GPR[vcpu.RAX]&0xff != 5 {
		t.Errorf("al is %d: the old instruction was executed", s.GPR[vcpu.RAX]&0xff)
	}
	if s.Count != 3 {
		t.Errorf("count is %d, want 3", s.Count)
	}
}

func TestCodeThatChangesALinkedBlock(t *testing.T) {
	// A subroutine is called three times; between the calls its immediate is changed: mov al,1/2/3; add ebx,eax
	code := asm(
		[]byte{0x31, 0xc0, 0x31, 0xdb, 0xb9, 3, 0, 0, 0}, // xor eax,eax; xor ebx,ebx; mov ecx,3
		[]byte{0xe8}, le32(0x100-14), // 1: call sub (at 0x100)
		[]byte{0xfe, 0x05}, le32(0x101-20), // inc byte [sub+1]
		[]byte{0xff, 0xc9, 0x75, 0xf1, 0xf4}) // dec ecx; jnz 1b; hlt
	code = append(code, make([]byte, 0x100-len(code))...)
	code = append(code, 0xb0, 1, 0x01, 0xc3, 0xc3) // sub: mov al,1; add ebx,eax; ret
	g := newGuest(t, vcpu.ClockInstructions, code)
	if s := g.halt(); s.GPR[vcpu.RBX] != 1+2+3 {
		t.Errorf("sum is %d, want 6", s.GPR[vcpu.RBX])
	}
}

func TestMachineWritesCode(t *testing.T) {
	g := newGuest(t, vcpu.ClockInstructions, []byte{0xb0, 1, 0xf4, 0xeb, 0xfb}) // 1: mov al,1; hlt; jmp 1b
	g.halt()
	g.ram[guestCode+1] = 7
	g.cpu.MemoryWritten(guestCode+1, 1)
	g.cpu.halted = false
	if s := g.halt(); s.GPR[vcpu.RAX]&0xff != 7 {
		t.Errorf("al is %d, want 7", s.GPR[vcpu.RAX]&0xff)
	}
}

func TestInstructionAcrossPages(t *testing.T) {
	g := newGuest(t, vcpu.ClockInstructions, nil)
	// The mov's immediate begins in the next page; it is executed, changed, and executed again.
	code := asm([]byte{0xb8}, le32(0x11223344), []byte{0xf4})
	copy(g.ram[guestCode+0xfff:], code)
	for i, want := range []uint64{0x11223344, 0x11223377, 0x11223377} {
		s := guestState()
		s.RIP = guestCode + 0xfff
		g.set(s)
		if i == 1 {
			g.ram[guestCode+0x1000] = 0x77
			g.cpu.MemoryWritten(guestCode+0x1000, 1)
		}
		if s := g.halt(); s.GPR[vcpu.RAX] != want {
			t.Errorf("pass %d: eax is %#x, want %#x", i, s.GPR[vcpu.RAX], want)
		}
	}
}

// mapPage makes guestPD's last 2 MiB of linear space a table of 4 KiB pages and returns the address of the entry of its first page.
func (g *guest) mapPage(target, flags uint64) (va, pte uint64) {
	const table = 0x8000
	va = 0xa00000
	binary.LittleEndian.PutUint64(g.ram[guestPD+8*(va>>21):], table|7)
	binary.LittleEndian.PutUint64(g.ram[table:], target|flags)
	return va, table
}

func TestPageTableChangesAreSeenAtOnce(t *testing.T) {
	// mov rax,[rdi]; mov [rsi],rdx (the entry); mov rbx,[rdi]; hlt
	g := newGuest(t, vcpu.ClockInstructions, []byte{0x48, 0x8b, 0x07, 0x48, 0x89, 0x16, 0x48, 0x8b, 0x1f, 0xf4})
	va, pte := g.mapPage(guestData, 3)
	binary.LittleEndian.PutUint64(g.ram[guestData:], 111)
	binary.LittleEndian.PutUint64(g.ram[guestData+0x1000:], 222)
	for _, nx := range []uint64{0, pteNX} {
		binary.LittleEndian.PutUint64(g.ram[pte:], guestData|3|nx)
		s := guestState()
		s.GPR[vcpu.RDI], s.GPR[vcpu.RSI], s.GPR[vcpu.RDX] = va, pte, guestData+0x1000|3|nx
		g.set(s)
		if s := g.halt(); s.GPR[vcpu.RAX] != 111 || s.GPR[vcpu.RBX] != 222 {
			t.Errorf("nx %#x: read %d and %d, want 111 and 222", nx, s.GPR[vcpu.RAX], s.GPR[vcpu.RBX])
		}
	}
	if e := binary.LittleEndian.Uint64(g.ram[pte:]); e&pteA == 0 || e&pteD != 0 {
		t.Errorf("entry %#x: want accessed and not dirty", e)
	}
}

func TestPageFaultCodes(t *testing.T) {
	tests := []struct {
		name  string
		flags uint64
		user  bool
		code  []byte
		want  uint64
	}{
		{"read, not present", 0, false, []byte{0x48, 0x8b, 0x07}, 0},
		{"write, not present", 0, false, []byte{0x48, 0x89, 0x07}, pfErrW},
		{"write, read-only", pteP, false, []byte{0x48, 0x89, 0x07}, pfErrW | pfErrP},
		{"user reads supervisor page", pteP | pteW, true, []byte{0x48, 0x8b, 0x07}, pfErrU | pfErrP},
		{"user writes read-only", pteP | pteU, true, []byte{0x48, 0x89, 0x07}, pfErrU | pfErrP | pfErrW},
		{"execute no-execute", pteP | pteNX, false, []byte{0xff, 0xe7}, pfErrP | pfErrI},
		{"reserved bit", pteP | 1<<45, false, []byte{0x48, 0x8b, 0x07}, pfErrP | pfErrRsvd},
		{"read-modify-write reports a write", pteP, false, []byte{0x48, 0x01, 0x07}, pfErrW | pfErrP},
		{"compare-exchange reports a write", pteP, false, []byte{0xf0, 0x48, 0x0f, 0xb1, 0x07}, pfErrW | pfErrP},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := newGuest(t, vcpu.ClockInstructions, append(tt.code, 0xf4))
			va, _ := g.mapPage(guestData, tt.flags)
			s := guestState()
			s.GPR[vcpu.RDI] = va + 8
			if tt.user {
				s.Seg[vcpu.CS] = vcpu.Segment{Selector: 0x33, Limit: 0xffffffff, Attr: 0xa0fb}
				s.Seg[vcpu.SS] = vcpu.Segment{Selector: 0x2b, Limit: 0xffffffff, Attr: 0xc0f3}
			}
			g.set(s)
			s = g.halt()
			if s.RIP != guestHalt+vecPF+1 {
				t.Fatalf("halted at %#x, not in the page-fault handler", s.RIP)
			}
			if s.CR2 != va+8 {
				t.Errorf("CR2 is %#x, want %#x", s.CR2, va+8)
			}
			frame := g.ram[s.GPR[vcpu.RSP]:]
			if code := binary.LittleEndian.Uint64(frame); code != tt.want {
				t.Errorf("error code %#x, want %#x", code, tt.want)
			}
			wantRIP := uint64(guestCode)
			if tt.want&pfErrI != 0 {
				wantRIP = va + 8
			}
			if rip := binary.LittleEndian.Uint64(frame[8:]); rip != wantRIP {
				t.Errorf("pushed rip %#x, want %#x", rip, wantRIP)
			}
		})
	}
}
