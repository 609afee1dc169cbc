package soft

import (
	"encoding/binary"
	"testing"

	"github.com/detvm/detvm/vcpu"
)

// trapFrame is what the handler of an exception or interrupt found on its stack.
type trapFrame struct {
	vector, code           uint64
	rip, cs, flags, sp, ss uint64
	state                  *vcpu.State // in the handler
}

// vectorsWithCode has a bit for each vector that pushes an error code (SDM vol. 3A, table 6-1).
const vectorsWithCode = 1<<vecDF | 1<<vecTS | 1<<vecNP | 1<<vecSS | 1<<vecGP | 1<<vecPF | 1<<vecAC

// trap runs to the HLT of a handler and returns its frame.
func (g *guest) trap() trapFrame {
	g.t.Helper()
	s := g.halt()
	f := trapFrame{vector: s.RIP&(1<<21-1) - guestHalt - 1, state: s} // the handlers may have an alias, see openToUser
	if f.vector > 255 {
		g.t.Fatalf("halted at %#x, in no handler", s.RIP)
	}
	at := s.GPR[vcpu.RSP]
	pop := func() uint64 {
		v := binary.LittleEndian.Uint64(g.ram[at:])
		at += 8
		return v
	}
	if f.vector < 32 && vectorsWithCode>>f.vector&1 != 0 {
		f.code = pop()
	}
	f.rip, f.cs, f.flags, f.sp, f.ss = pop(), pop(), pop(), pop(), pop()
	return f
}

func (g *guest) put64(at int, v uint64) { binary.LittleEndian.PutUint64(g.ram[at:], v) }

// Selectors of the guest's GDT that tests use, and what they put at its end.
const (
	selCode, selData         = 0x10, 0x18
	selUserCode, selUserData = 0x33, 0x2b
	selTSS, selSpare, selOut = 0x38, 0x40, 0x50

	descAbsentData = 0x00cf13000000ffff
	notCanonical   = 1 << 47
)

// gate writes the IDT entry of a vector.
func (g *guest) gate(vector int, selector, attr uint64) {
	h := uint64(guestHalt + vector)
	g.put64(guestIDT+16*vector, h&0xffff|selector<<16|attr<<32|h>>16<<48)
}

// Attributes of an IDT entry: present interrupt gate, with the stack of the IST or not.
const (
	gateIST1, gateIST2, gateNoIST, gateAbsent = 0xee01, 0xee02, 0xee00, 0x6e01
)

func TestExceptions(t *testing.T) {
	type setup = func(*guest, *vcpu.State)
	spare := func(descriptor uint64) setup {
		return func(g *guest, s *vcpu.State) {
			g.put64(guestGDT+selSpare, descriptor)
			s.GPR[vcpu.RAX] = selSpare
		}
	}
	rdi := func(v uint64) setup { return func(_ *guest, s *vcpu.State) { s.GPR[vcpu.RDI] = v } }
	user := func(_ *guest, s *vcpu.State) {
		u := userState()
		s.Seg, s.RIP = u.Seg, u.RIP
	}
	all := func(fs ...setup) setup {
		return func(g *guest, s *vcpu.State) {
			for _, f := range fs {
				f(g, s)
			}
		}
	}
	set := func(f func(s *vcpu.State)) setup { return func(_ *guest, s *vcpu.State) { f(s) } }
	none := func(*guest, *vcpu.State) {}
	alignment := set(func(s *vcpu.State) { s.CR0 |= cr0AM; s.RFLAGS |= flagAC })
	unmaskedDivide := set(func(s *vcpu.State) {
		s.FX[24], s.FX[25] = 0x80, 0x1d // MXCSR with ZM clear
		binary.LittleEndian.PutUint32(s.FX[160:], 0x3f800000)
	})
	tests := []struct {
		name   string
		code   []byte
		setup  setup
		vector uint64
		err    uint64
		at     uint64 // of the pushed RIP, from the start of the code
	}{
		{"divide by zero", []byte{0x90, 0xf7, 0xf1}, none, vecDE, 0, 1},
		{"INT1", []byte{0xf1}, none, vecDB, 0, 1},
		{"INT3", []byte{0xcc}, user, vecBP, 0, 1},
		{"INT n", []byte{0xcd, 0x80}, user, 0x80, 0, 2},
		{"UD2", []byte{0x90, 0x0f, 0x0b}, none, vecUD, 0, 1},
		{"too long", []byte{0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90}, none, vecGP, 0, 0},
		{"x87 with CR0.TS", []byte{0xd9, 0xe8}, set(func(s *vcpu.State) { s.CR0 |= cr0TS }), vecNM, 0, 0},
		{"SSE with CR0.TS", []byte{0x0f, 0x57, 0xc0}, set(func(s *vcpu.State) { s.CR0 |= cr0TS }), vecNM, 0, 0},
		{"SSE without CR4.OSFXSR", []byte{0x0f, 0x57, 0xc0}, set(func(s *vcpu.State) { s.CR4 &^= cr4OSFXSR }), vecUD, 0, 0},
		{"x87 with CR0.EM", []byte{0xd9, 0xe8}, set(func(s *vcpu.State) { s.CR0 |= cr0EM }), vecNM, 0, 0},
		{"MMX with CR0.EM", []byte{0x0f, 0x77}, set(func(s *vcpu.State) { s.CR0 |= cr0EM }), vecUD, 0, 0},
		// fld1; fldz; fdivp; wait
		{"pending x87 exception", []byte{0xd9, 0xe8, 0xd9, 0xee, 0xde, 0xf9, 0x9b}, set(func(s *vcpu.State) { s.FX[0] = 0x7b }), vecMF, 0, 6},
		{"SSE exception", []byte{0xf3, 0x0f, 0x5e, 0xc1}, unmaskedDivide, vecXM, 0, 0},
		{"SSE exception without CR4.OSXMMEXCPT", []byte{0xf3, 0x0f, 0x5e, 0xc1}, all(unmaskedDivide, set(func(s *vcpu.State) { s.CR4 &^= cr4OSXMMEXCPT })), vecUD, 0, 0},

		{"MOVAPS from an odd address", []byte{0x0f, 0x28, 0x07}, rdi(guestData + 1), vecGP, 0, 0},
		{"read, not canonical", []byte{0x48, 0x8b, 0x07}, rdi(notCanonical), vecGP, 0, 0},
		{"read across the end of the canonical half", []byte{0x48, 0x8b, 0x07}, rdi(notCanonical - 4), vecGP, 0, 0},
		{"16-byte read across it", []byte{0x0f, 0x10, 0x07}, rdi(notCanonical - 8), vecGP, 0, 0},
		{"read based on RBP, not canonical", []byte{0x48, 0x8b, 0x45, 0}, set(func(s *vcpu.State) { s.GPR[vcpu.RBP] = notCanonical }), vecSS, 0, 0},
		{"push, not canonical", []byte{0x50}, set(func(s *vcpu.State) { s.GPR[vcpu.RSP] = notCanonical + 64 }), vecSS, 0, 0},
		{"jump, not canonical", []byte{0xff, 0xe7}, rdi(notCanonical), vecGP, 0, 0},
		{"RET, not canonical", []byte{0x57, 0xc3}, rdi(notCanonical), vecGP, 0, 1},

		{"misaligned with AC", []byte{0x48, 0x8b, 0x07}, all(user, alignment, rdi(guestData+4)), vecAC, 0, 0},
		{"misaligned store with AC", []byte{0x90, 0x89, 0x07}, all(user, alignment, rdi(guestData+2)), vecAC, 0, 1},
		{"misaligned push with AC", []byte{0x50}, all(user, alignment, set(func(s *vcpu.State) { s.GPR[vcpu.RSP]-- })), vecAC, 0, 0},
		{"16 bytes at 8 with AC", []byte{0x0f, 0x10, 0x07}, all(user, alignment, rdi(guestData+8)), vecAC, 0, 0},
		{"aligned with AC", []byte{0x8b, 0x07, 0x0f, 0x0b}, all(user, alignment, rdi(guestData+4)), vecUD, 0, 2},
		{"misaligned with AC, not canonical", []byte{0x48, 0x8b, 0x07}, all(user, alignment, rdi(notCanonical+4)), vecGP, 0, 0},
		{"misaligned with AC at ring 0", []byte{0x48, 0x8b, 0x07, 0x0f, 0x0b}, all(alignment, rdi(guestData+4)), vecUD, 0, 3},
		{"misaligned with AC but without CR0.AM", []byte{0x48, 0x8b, 0x07, 0x0f, 0x0b}, all(user, alignment, set(func(s *vcpu.State) { s.CR0 &^= cr0AM }), rdi(guestData+4)), vecUD, 0, 3},
		// mov rax,[rdi] (fills the TLB); push 0x40002; popf; mov rax,[rdi]
		{"AC by POPF", []byte{0x48, 0x8b, 0x07, 0x68, 2, 0, 4, 0, 0x9d, 0x48, 0x8b, 0x07}, all(user, alignment, set(func(s *vcpu.State) { s.RFLAGS &^= flagAC }), rdi(guestData+4)), vecAC, 0, 9},

		{"HLT at ring 3", []byte{0xf4}, user, vecGP, 0, 0},
		{"CLI at ring 3", []byte{0xfa}, user, vecGP, 0, 0},
		{"INVLPG at ring 3", []byte{0x0f, 0x01, 0x3f}, user, vecGP, 0, 0},
		{"RDMSR at ring 3", []byte{0x0f, 0x32}, user, vecGP, 0, 0},
		{"MOV from CR0 at ring 3", []byte{0x0f, 0x20, 0xc0}, user, vecGP, 0, 0},
		{"LGDT at ring 3", []byte{0x0f, 0x01, 0x17}, all(user, rdi(guestData)), vecGP, 0, 0},
		{"SWAPGS at ring 3", []byte{0x0f, 0x01, 0xf8}, user, vecGP, 0, 0},
		{"SYSRET at ring 3", []byte{0x48, 0x0f, 0x07}, user, vecGP, 0, 0},
		{"IN at ring 3", []byte{0xe4, 0x60}, all(user, func(g *guest, _ *vcpu.State) { g.ram[guestTSS+0x66] = 0x68 }), vecGP, 0, 0},
		{"RDTSC at ring 3 with CR4.TSD", []byte{0x0f, 0x31}, all(user, set(func(s *vcpu.State) { s.CR4 |= cr4TSD })), vecGP, 0, 0},
		{"RDPMC", []byte{0x0f, 0x33}, none, vecGP, 0, 0},

		{"reserved bit of CR4", []byte{0x0f, 0x22, 0xe0}, set(func(s *vcpu.State) { s.GPR[vcpu.RAX] = s.CR4 | 1<<15 }), vecGP, 0, 0},
		{"CR4.PAE off in long mode", []byte{0x0f, 0x22, 0xe0}, none, vecGP, 0, 0},
		{"CR0.PG without PE", []byte{0x0f, 0x22, 0xc0}, set(func(s *vcpu.State) { s.GPR[vcpu.RAX] = cr0PG }), vecGP, 0, 0},
		{"CR0.NW without CD", []byte{0x0f, 0x22, 0xc0}, set(func(s *vcpu.State) { s.GPR[vcpu.RAX] = s.CR0 | cr0NW }), vecGP, 0, 0},
		{"paging off in 64-bit mode", []byte{0x0f, 0x22, 0xc0}, set(func(s *vcpu.State) { s.GPR[vcpu.RAX] = s.CR0 &^ cr0PG }), vecGP, 0, 0},
		{"CR3 beyond the physical addresses", []byte{0x0f, 0x22, 0xd8}, set(func(s *vcpu.State) { s.GPR[vcpu.RAX] = 1 << 40 }), vecGP, 0, 0},
		{"CR8 above 15", []byte{0x44, 0x0f, 0x22, 0xc0}, set(func(s *vcpu.State) { s.GPR[vcpu.RAX] = 16 }), vecGP, 0, 0},
		{"CR1", []byte{0x0f, 0x20, 0xc8}, none, vecUD, 0, 0},
		{"LSTAR, not canonical", []byte{0x0f, 0x30}, set(func(s *vcpu.State) { s.GPR[vcpu.RCX], s.GPR[vcpu.RDX] = vcpu.MSRLSTAR, 1<<15 }), vecGP, 0, 0},
		{"reserved bit of EFER", []byte{0x0f, 0x30}, set(func(s *vcpu.State) { s.GPR[vcpu.RCX], s.GPR[vcpu.RAX] = vcpu.MSREFER, 0x8501 }), vecGP, 0, 0},
		{"long mode off while paging", []byte{0x0f, 0x30}, set(func(s *vcpu.State) { s.GPR[vcpu.RCX], s.GPR[vcpu.RAX] = vcpu.MSREFER, eferSCE }), vecGP, 0, 0},
		{"reserved memory type in PAT", []byte{0x0f, 0x30}, set(func(s *vcpu.State) { s.GPR[vcpu.RCX], s.GPR[vcpu.RAX] = vcpu.MSRPAT, 2 }), vecGP, 0, 0},
		{"DR4 with CR4.DE", []byte{0x0f, 0x21, 0xe0}, set(func(s *vcpu.State) { s.CR4 |= cr4DE }), vecUD, 0, 0},
		{"upper half of DR7", []byte{0x0f, 0x23, 0xf8}, set(func(s *vcpu.State) { s.GPR[vcpu.RAX] = 1 << 32 }), vecGP, 0, 0},

		{"selector beyond the GDT", []byte{0x8e, 0xd8}, set(func(s *vcpu.State) { s.GPR[vcpu.RAX] = selOut }), vecGP, selOut, 0},
		{"selector of an LDT that there is not", []byte{0x8e, 0xd8}, set(func(s *vcpu.State) { s.GPR[vcpu.RAX] = 0xf }), vecGP, 0xc, 0},
		{"absent data segment", []byte{0x8e, 0xd8}, spare(descAbsentData), vecNP, selSpare, 0},
		{"absent stack segment", []byte{0x8e, 0xd0}, spare(descAbsentData), vecSS, selSpare, 0},
		{"code as the stack segment", []byte{0x8e, 0xd0}, set(func(s *vcpu.State) { s.GPR[vcpu.RAX] = selCode }), vecGP, selCode, 0},
		{"ring 0 data at ring 3", []byte{0x8e, 0xd8}, all(user, set(func(s *vcpu.State) { s.GPR[vcpu.RAX] = selData })), vecGP, selData, 0},
		{"null stack segment at ring 3", []byte{0x8e, 0xd0}, user, vecGP, 0, 0},
		{"MOV to CS", []byte{0x8e, 0xc8}, none, vecUD, 0, 0},
		{"LTR of a busy TSS", []byte{0x0f, 0x00, 0xd8}, set(func(s *vcpu.State) { s.GPR[vcpu.RAX] = selTSS }), vecGP, selTSS, 0},
		{"LTR of null", []byte{0x0f, 0x00, 0xd8}, none, vecGP, 0, 0},
		{"LLDT of data", []byte{0x0f, 0x00, 0xd0}, set(func(s *vcpu.State) { s.GPR[vcpu.RAX] = selData }), vecGP, selData, 0},

		{"INT n beyond the IDT", []byte{0xcd, 0x80}, set(func(s *vcpu.State) { s.IDTR.Limit = 0x80*16 + 14 }), vecGP, 0x80*8 + 2, 0},
		{"INT n through an absent gate", []byte{0xcd, 0x80}, func(g *guest, _ *vcpu.State) { g.gate(0x80, selCode, gateAbsent) }, vecNP, 0x80*8 + 2, 0},
		{"INT n through a gate of ring 0", []byte{0xcd, 0x80}, all(user, func(g *guest, _ *vcpu.State) { g.gate(0x80, selCode, 0x8e01) }), vecGP, 0x80*8 + 2, 0},
		{"INT n through no gate", []byte{0xcd, 0x80}, func(g *guest, _ *vcpu.State) { g.gate(0x80, selCode, 0xeb01) }, vecGP, 0x80*8 + 2, 0},
		{"INT n with a null selector", []byte{0xcd, 0x80}, func(g *guest, _ *vcpu.State) { g.gate(0x80, 0, gateIST1) }, vecGP, 0, 0},
		{"INT n with a data selector", []byte{0xcd, 0x80}, func(g *guest, _ *vcpu.State) { g.gate(0x80, selData, gateIST1) }, vecGP, selData, 0},
		{"INT n with an absent code segment", []byte{0xcd, 0x80}, func(g *guest, _ *vcpu.State) {
			g.put64(guestGDT+selSpare, 0x00af1b000000ffff)
			g.gate(0x80, selSpare, gateIST1)
		}, vecNP, selSpare, 0},
		{"fault through an absent gate", []byte{0x0f, 0x0b}, func(g *guest, _ *vcpu.State) { g.gate(vecUD, selCode, gateAbsent) }, vecNP, vecUD*8 + 3, 0},
		{"fault through a gate with a bad selector", []byte{0x0f, 0x0b}, func(g *guest, _ *vcpu.State) { g.gate(vecUD, selOut, gateIST1) }, vecGP, selOut | 1, 0},
		{"fault whose stack lies beyond the TSS", []byte{0x0f, 0x0b}, func(g *guest, s *vcpu.State) {
			g.gate(vecUD, selCode, gateIST2)
			s.TR.Limit = 0x2b
		}, vecTS, selTSS | 1, 0},
		{"fault whose stack is not canonical", []byte{0x0f, 0x0b}, func(g *guest, _ *vcpu.State) {
			g.gate(vecUD, selCode, gateIST2)
			g.put64(guestTSS+0x2c, notCanonical)
		}, vecSS, 1, 0},

		{"#GP in #GP", []byte{0x8e, 0xd8}, func(g *guest, s *vcpu.State) {
			s.GPR[vcpu.RAX] = selOut
			g.gate(vecGP, selCode, gateAbsent)
		}, vecDF, 0, 0},
		{"#PF in #PF", []byte{0x48, 0x8b, 0x07}, func(g *guest, s *vcpu.State) {
			s.GPR[vcpu.RDI] = guestRAM
			g.gate(vecPF, selCode, gateIST2)
			g.put64(guestTSS+0x2c, guestRAM+0x1000)
		}, vecDF, 0, 0},
		{"#PF in #GP is no double fault", []byte{0x8e, 0xd8}, func(g *guest, s *vcpu.State) {
			s.GPR[vcpu.RAX] = selOut
			g.gate(vecGP, selCode, gateIST2)
			g.put64(guestTSS+0x2c, guestRAM+0x1000)
		}, vecPF, pfErrW, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := newGuest(t, vcpu.ClockInstructions, append(tt.code, 0xf4))
			s := guestState()
			tt.setup(g, s)
			g.set(s)
			f := g.trap()
			if f.vector != tt.vector || f.code != tt.err || f.rip != guestCode+tt.at {
				t.Errorf("exception %d, error code %#x, at +%#x; want %d, %#x, +%#x", f.vector, f.code, f.rip-guestCode, tt.vector, tt.err, tt.at)
			}
			if f.cs != uint64(s.Seg[vcpu.CS].Selector) || f.ss != uint64(s.Seg[vcpu.SS].Selector) {
				t.Errorf("pushed CS %#x, SS %#x", f.cs, f.ss)
			}
		})
	}
}

func TestFaultInTheDoubleFaultHandlerShutsDown(t *testing.T) {
	g := newGuest(t, vcpu.ClockInstructions, []byte{0x8e, 0xd8})
	for _, v := range []int{vecGP, vecDF} {
		g.gate(v, selCode, gateAbsent)
	}
	s := guestState()
	s.GPR[vcpu.RAX] = selOut
	g.set(s)
	if e := g.run(vcpu.NoStop); e.Reason != vcpu.ReasonShutdown {
		t.Errorf("exit %v, want shutdown", e.Reason)
	}
}

// TestEnterThatFaultsChangesNothing: the manual has ENTER fail when a write to the new top of the stack would (SDM vol. 2A, ENTER); the write is a whole operand.
func TestEnterThatFaultsChangesNothing(t *testing.T) {
	g := newGuest(t, vcpu.ClockInstructions, []byte{0xc8, 0x10, 0, 0}) // enter 16, 0
	va, pte := g.mapPage(guestData, 3)
	g.put64(int(pte)+8, 0)                 // the hole
	g.put64(int(pte)+16, guestData|0x2003) // where the stack is
	s := guestState()
	s.GPR[vcpu.RSP], s.GPR[vcpu.RBP] = va+0x2000+8+12, 77 // ends at va+0x1ffc, four bytes into the hole
	g.set(s)
	f := g.trap()
	if f.vector != vecPF || f.code != pfErrW || f.sp != s.GPR[vcpu.RSP] || f.state.CR2 != va+0x1ffc || f.state.GPR[vcpu.RBP] != 77 {
		t.Errorf("exception %d, code %#x, RSP %#x, CR2 %#x, RBP %d", f.vector, f.code, f.sp, f.state.CR2, f.state.GPR[vcpu.RBP])
	}
	if v := binary.LittleEndian.Uint64(g.ram[guestData+0x2000+12:]); v != 0 {
		t.Errorf("it pushed %#x", v)
	}
}
