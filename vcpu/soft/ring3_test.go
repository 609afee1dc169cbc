package soft

import (
	"encoding/binary"
	"testing"

	"github.com/detvm/detvm/vcpu"
)

// userState is guestState at ring 3.
func userState() *vcpu.State {
	s := guestState()
	s.Seg[vcpu.CS] = vcpu.Segment{Selector: 0x33, Limit: 0xffffffff, Attr: 0xa0fb}
	data := vcpu.Segment{Selector: 0x2b, Limit: 0xffffffff, Attr: 0xc0f3}
	s.Seg[vcpu.SS], s.Seg[vcpu.DS], s.Seg[vcpu.ES] = data, data, data
	return s
}

// hostRing3 is a host whose ring 3 shows a processor with XSAVE and keeps SYSCALL at ring 3.
var hostRing3 = vcpu.Ring3{
	SyscallStays: true,
	CPUID:        []vcpu.CPUIDLeaf{{Leaf: 1, EBX: 0x1234, ECX: 1 << 27}, {Leaf: 0xd, HasSubleaf: true, EAX: 0xe7}},
}

func TestRing3SeesTheHostsCPUID(t *testing.T) {
	// mov eax,1; cpuid; mov esi,ebx; xor ecx,ecx; xgetbv; ud2
	code := []byte{0xb8, 1, 0, 0, 0, 0x0f, 0xa2, 0x89, 0xde, 0x31, 0xc9, 0x0f, 0x01, 0xd0, 0x0f, 0x0b}
	for _, c := range []struct {
		name     string
		ring3    vcpu.Ring3
		state    *vcpu.State
		rsi, rax uint64
	}{
		{"ring 3 of the host", hostRing3, userState(), 0x1234, 0xe7},
		{"ring 0 of the host", hostRing3, guestState(), 0x10800, 0x106a0}, // XGETBV itself raises #UD
		{"ring 3 of the model", vcpu.Ring3{}, userState(), 0x10800, 0x106a0},
	} {
		g := newGuest(t, vcpu.ClockExits, code)
		g.cpu.ring3 = c.ring3
		g.set(c.state)
		s := g.halt()
		if s.RIP != guestHalt+vecUD+1 || s.GPR[vcpu.RSI] != c.rsi || s.GPR[vcpu.RAX] != c.rax {
			t.Errorf("%s: at %#x, EBX of leaf 1 %#x, EAX %#x; want %#x, %#x", c.name, s.RIP, s.GPR[vcpu.RSI], s.GPR[vcpu.RAX], c.rsi, c.rax)
		}
	}
}

func TestSyscallMayStayAtRing3(t *testing.T) {
	for _, stays := range []bool{false, true} {
		g := newGuest(t, vcpu.ClockExits, []byte{0x0f, 0x05}) // syscall
		copy(g.ram[guestCode+0x100:], []byte{0x0f, 0x0b})     // ud2
		g.cpu.ring3 = vcpu.Ring3{SyscallStays: stays}
		s := userState()
		s.LSTAR, s.STAR, s.SFMASK = guestCode+0x100, 0x10<<32, 0x40
		s.RFLAGS |= 0x41 // ZF, CF
		g.set(s)
		s = g.halt()
		frame := g.ram[guestSP-0x20000-40:]
		cs, flags := binary.LittleEndian.Uint64(frame[8:]), binary.LittleEndian.Uint64(frame[16:])
		want := uint64(0x10)
		if stays {
			want = 0x33
		}
		if cs != want || s.GPR[vcpu.RCX] != guestCode+2 || s.GPR[vcpu.R11]&0x41 != 0x41 || flags&0x41 != 1 {
			t.Errorf("stays %v: CS %#x, RCX %#x, R11 %#x, flags %#x", stays, cs, s.GPR[vcpu.RCX], s.GPR[vcpu.R11], flags)
		}
	}
}
