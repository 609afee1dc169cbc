package soft

import (
	"testing"

	"github.com/detvm/detvm/vcpu"
)

// Fields of DR7 for breakpoint 0 (SDM vol. 3B, 17.2.4).
const (
	dr7Execute = 1
	dr7Write   = 1 | 1<<16
	dr7Access  = 1 | 3<<16
	dr7Len2    = 1 << 18
	dr7Len8    = 2 << 18
	dr7Len4    = 3 << 18
)

func TestDebugExceptions(t *testing.T) {
	write := []byte{0x90, 0x89, 0x07, 0x90, 0xf4}        // nop; mov [rdi],eax; nop; hlt
	read := []byte{0x90, 0x8b, 0x07, 0x90, 0xf4}         // nop; mov eax,[rdi]; nop; hlt
	intoSS := []byte{0x8e, 0xd1, 0x90, 0x90, 0xf4}       // mov ss,ecx; nop; nop; hlt
	popf := []byte{0x9d, 0x90, 0x90, 0xf4}               // popf; nop; nop; hlt
	stosb := []byte{0xf3, 0xaa, 0xf4}                    // rep stosb; hlt
	loadSS := []byte{0x8e, 0x16, 0x89, 0x07, 0x90, 0xf4} // mov ss,[rsi]; mov [rdi],eax; nop; hlt
	type setup = func(*guest, *vcpu.State)
	dr := func(address, dr7 uint64) setup {
		return func(_ *guest, s *vcpu.State) { s.DR[0], s.DR7 = address, dr7Fixed|dr7 }
	}
	tests := []struct {
		name  string
		code  []byte
		setup setup
		at    uint64 // of the pushed RIP
		dr6   uint64
		rf    bool
	}{
		{"execution", write, dr(guestCode+1, dr7Execute), 1, 1, false},
		{"execution after a branch", []byte{0xeb, 1, 0x90, 0x90, 0xf4}, dr(guestCode+3, dr7Execute), 3, 1, false},
		{"write", write, dr(guestData, dr7Write|dr7Len4), 3, 1, false},
		{"write to a part", write, dr(guestData+2, dr7Write), 3, 1, false},
		{"write to more", write, dr(guestData, dr7Write|dr7Len8), 3, 1, false},
		{"write with read or write", write, dr(guestData, dr7Access|dr7Len4), 3, 1, false},
		{"read", read, dr(guestData+2, dr7Access|dr7Len2), 3, 1, false},
		{"string: after the iteration", stosb, func(g *guest, s *vcpu.State) { dr(guestData+2, dr7Write)(g, s); s.GPR[vcpu.RCX] = 9 }, 0, 1, false},
		{"single step", write, func(_ *guest, s *vcpu.State) { s.RFLAGS |= flagTF }, 1, dr6BS, false},
		{"single step of a breakpoint", write[1:], func(g *guest, s *vcpu.State) { dr(guestData, dr7Write)(g, s); s.RFLAGS |= flagTF }, 2, dr6BS | 1, false},
		{"single step: not after MOV SS", intoSS, func(_ *guest, s *vcpu.State) { s.RFLAGS |= flagTF; s.GPR[vcpu.RCX] = selData }, 3, dr6BS, false},
		{"single step: POPF's takes effect after the next instruction", popf, func(g *guest, s *vcpu.State) { push64(g, s, flagTF|2) }, 2, dr6BS, false},
		{"data breakpoint after a load of SS", loadSS, func(g *guest, s *vcpu.State) {
			dr(guestData, dr7Write)(g, s)
			g.put64(guestData+0x1000, selData)
			s.GPR[vcpu.RSI] = guestData + 0x1000
		}, 4, 1, false},
		{"general detect", []byte{0x0f, 0x21, 0xc0}, func(_ *guest, s *vcpu.State) { s.DR7 |= dr7GD }, 0, dr6BD, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := newGuest(t, vcpu.ClockInstructions, tt.code)
			s := guestState()
			s.GPR[vcpu.RDI] = guestData
			tt.setup(g, s)
			g.set(s)
			f := g.trap()
			if f.vector != vecDB || f.rip != guestCode+tt.at || f.state.DR6&0xe00f != tt.dr6 || f.flags&flagRF != 0 != tt.rf {
				t.Errorf("exception %d at +%#x, DR6 %#x, flags %#x", f.vector, f.rip-guestCode, f.state.DR6, f.flags)
			}
			if f.state.RFLAGS&flagTF != 0 || f.state.DR7&dr7GD != 0 {
				t.Errorf("flags %#x, DR7 %#x in the handler", f.state.RFLAGS, f.state.DR7)
			}
		})
	}
}

func TestBreakpointsThatDoNotHit(t *testing.T) {
	for _, tt := range []struct {
		name         string
		address, dr7 uint64
	}{
		{"write beside", guestData + 4, dr7Write | dr7Len4},
		{"reads do not hit a write breakpoint", guestData + 64, dr7Write | dr7Len4},
		{"disabled", guestData, dr7Write &^ 1},
		{"execution of data", guestData, dr7Execute},
		{"inside an instruction", guestCode + 1, dr7Execute},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newGuest(t, vcpu.ClockInstructions, []byte{0x89, 0x07, 0x8b, 0x47, 64, 0xf4}) // mov [rdi],eax; mov eax,[rdi+64]; hlt
			s := guestState()
			s.GPR[vcpu.RDI], s.DR[0], s.DR7 = guestData, tt.address, dr7Fixed|tt.dr7
			g.set(s)
			if e := g.halt(); e.RIP != guestCode+6 || e.Count != 3 {
				t.Errorf("halted at %#x, count %d, DR6 %#x", e.RIP, e.Count, e.DR6)
			}
		})
	}
}

// TestResumeFlag: a handler that sets RF in the frame of an instruction breakpoint goes on past it, once (SDM vol. 3B, 17.3.1.1).
func TestResumeFlag(t *testing.T) {
	g := newGuest(t, vcpu.ClockInstructions, []byte{0x90, 0x90, 0xeb, 0xfc}) // 1: nop; nop; jmp 1b
	const handler = 0x7800
	// inc ebx; cmp ebx,3; je 1f; or dword [rsp+16],0x10000; iretq; 1: hlt
	copy(g.ram[handler:], []byte{0xff, 0xc3, 0x83, 0xfb, 3, 0x74, 10, 0x81, 0x4c, 0x24, 0x10, 0, 0, 1, 0, 0x48, 0xcf, 0xf4})
	g.put64(guestIDT+16*vecDB, handler|selCode<<16|gateIST1<<32)
	s := guestState()
	s.DR[0], s.DR7 = guestCode+1, dr7Fixed|dr7Execute
	g.set(s)
	e := g.halt()
	if want := uint64(1 + 5 + 3 + 5 + 3 + 4); e.GPR[vcpu.RBX] != 3 || e.Count != want { // nop; handler; nop, jmp, nop; …
		t.Errorf("hit %d times in %d instructions, want 3 in %d", e.GPR[vcpu.RBX], e.Count, want)
	}
}

func TestShadowOfMovSS(t *testing.T) {
	g := newGuest(t, vcpu.ClockInstructions, []byte{0x8e, 0xd1, 0x90, 0x90, 0xfb, 0x90, 0xf4}) // mov ss,ecx; nop; nop; sti; nop; hlt
	s := guestState()
	s.RFLAGS |= flagIF
	s.GPR[vcpu.RCX] = selData
	g.set(s)
	for i, want := range []bool{true, false, true, true, true, true} { // an STI that changes nothing has no shadow
		if e := g.run(uint64(i)); e.Reason != vcpu.ReasonStop {
			t.Fatalf("exit %v", e.Reason)
		}
		if got := g.cpu.Interruptible(); got != want {
			t.Errorf("interruptible after %d instructions: %v, want %v", i, got, want)
		}
	}
}

func TestDebugRegisterAliases(t *testing.T) {
	// mov dr5,rax (DR7); mov rbx,dr4 (DR6); mov rcx,dr7; hlt
	g := newGuest(t, vcpu.ClockInstructions, []byte{0x0f, 0x23, 0xe8, 0x0f, 0x21, 0xe3, 0x0f, 0x21, 0xf9, 0xf4})
	s := guestState()
	s.GPR[vcpu.RAX] = 0xffff0000 // lengths and kinds, none enabled
	g.set(s)
	if e := g.halt(); e.GPR[vcpu.RBX] != dr6Fixed || e.GPR[vcpu.RCX] != 0xffff0000|dr7Fixed {
		t.Errorf("DR6 %#x, DR7 %#x", e.GPR[vcpu.RBX], e.GPR[vcpu.RCX])
	}
}
