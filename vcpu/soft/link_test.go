package soft

import (
	"testing"

	"github.com/detvm/detvm/vcpu"
)

// callLoop calls 0xa00000 four times, and flips the bits rdx of the word at rsi after each call.
func callLoop() []byte {
	return asm(
		[]byte{0xb9, 4, 0, 0, 0, 0x31, 0xdb, 0xeb, 0x00}, // mov ecx,4; xor ebx,ebx; jmp 1f
		[]byte{0xe8}, le32(0xa00000-(guestCode+14)), // 1: call 0xa00000
		[]byte{0x48, 0x31, 0x16, 0xff, 0xc9, 0x75, 0xf4, 0xf4}) // xor [rsi],rdx; dec ecx; jnz 1b; hlt
}

// addAndReturn is a subroutine: add ebx,n; ret.
func addAndReturn(n byte) []byte { return []byte{0x83, 0xc3, n, 0xc3} }

func TestFarLinkFollowsThePageTable(t *testing.T) {
	g := newGuest(t, vcpu.ClockInstructions, callLoop())
	_, pte := g.mapPage(guestData, 3)
	copy(g.ram[guestData:], addAndReturn(1))
	copy(g.ram[guestData+0x1000:], addAndReturn(10))
	s := guestState()
	s.GPR[vcpu.RSI], s.GPR[vcpu.RDX] = pte, 0x1000
	g.set(s)
	s = g.halt()
	if s.GPR[vcpu.RBX] != 1+10+1+10 {
		t.Errorf("sum is %d, want 22", s.GPR[vcpu.RBX])
	}
	if s.Count != 3+4*6+1 {
		t.Errorf("count is %d, want 28", s.Count)
	}
}

func TestFarLinkToAPageThatGoesAway(t *testing.T) {
	g := newGuest(t, vcpu.ClockInstructions, callLoop())
	va, pte := g.mapPage(guestData, 3)
	copy(g.ram[guestData:], addAndReturn(1))
	s := guestState()
	s.GPR[vcpu.RSI], s.GPR[vcpu.RDX] = pte, pteP
	g.set(s)
	if s = g.halt(); s.RIP != guestHalt+vecPF+1 || s.CR2 != va || s.GPR[vcpu.RBX] != 1 {
		t.Errorf("stopped at %#x with cr2 %#x and sum %d, want the page-fault handler, %#x, 1", s.RIP, s.CR2, s.GPR[vcpu.RBX], va)
	}
}

func TestFarLinkToCodeThatChanges(t *testing.T) {
	g := newGuest(t, vcpu.ClockInstructions, callLoop())
	va, _ := g.mapPage(guestData, 3)
	copy(g.ram[guestData:], addAndReturn(1))
	s := guestState()
	s.GPR[vcpu.RSI], s.GPR[vcpu.RDX] = va, (1^10)<<16
	g.set(s)
	if s = g.halt(); s.GPR[vcpu.RBX] != 1+10+1+10 {
		t.Errorf("sum is %d, want 22", s.GPR[vcpu.RBX])
	}
}

// The same code runs in ring 0, where its call reaches a supervisor page, and then in ring 3, where it must not.
func TestFarLinkIsOfOnePrivilege(t *testing.T) {
	code := asm(
		[]byte{0xe8}, le32(0xa00000-(guestCode+5)), // call 0xa00000
		[]byte{0x6a, 0x2b, 0x68}, le32(guestSP), []byte{0x6a, 0x02, 0x6a, 0x33, 0x68}, le32(guestCode), // push ss, rsp, rflags, cs, rip
		[]byte{0x48, 0xcf}) // iretq
	g := newGuest(t, vcpu.ClockInstructions, code)
	va, _ := g.mapPage(guestData, 3)
	copy(g.ram[guestData:], addAndReturn(1))
	s := g.halt()
	if s.RIP != guestHalt+vecPF+1 || s.CR2 != va || s.GPR[vcpu.RBX] != 1 {
		t.Errorf("stopped at %#x with cr2 %#x and sum %d, want the page-fault handler, %#x, 1", s.RIP, s.CR2, s.GPR[vcpu.RBX], va)
	}
}

func TestJumpsWithACodeBase(t *testing.T) {
	code := []byte{0xb8, 0x10, 0, 0, 0, 0xff, 0xe0} // mov eax,0x10; jmp eax
	code = append(code, make([]byte, 0x10-len(code))...)
	code = append(code, 0xe8, 0x01, 0, 0, 0, 0xf4, 0x43, 0xc3) // 0x10: call 0x16; hlt; 0x16: inc ebx; ret
	g := newGuest(t, vcpu.ClockInstructions, code)
	for range 2 {
		s := guestState()
		s.Seg[vcpu.CS] = vcpu.Segment{Selector: 0x10, Base: guestCode, Limit: 0xffffffff, Attr: 0xc09b}
		s.RIP = 0
		g.set(s)
		if s = g.halt(); s.RIP != 0x16 || s.GPR[vcpu.RBX] != 1 {
			t.Errorf("stopped at %#x with ebx %d, want 0x16, 1", s.RIP, s.GPR[vcpu.RBX])
		}
	}
}
