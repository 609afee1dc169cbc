package soft

import (
	"encoding/binary"
	"math"
	"testing"

	"github.com/detvm/detvm/vcpu"
)

func TestInterruptStacks(t *testing.T) {
	for _, tt := range []struct {
		name string
		attr uint64
		user bool
		sp   uint64 // before the frame
	}{
		{"same privilege: the current stack, aligned", gateNoIST, false, guestSP - 16},
		{"same privilege: IST", gateIST2, false, guestSP - 0x30000},
		{"from ring 3: RSP0", gateNoIST, true, guestSP - 0x10000},
		{"from ring 3: IST", gateIST2, true, guestSP - 0x30000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newGuest(t, vcpu.ClockInstructions, []byte{0x0f, 0x0b})
			g.gate(vecUD, selCode, tt.attr)
			g.put64(guestTSS+0x2c, guestSP-0x30000)
			s := guestState()
			if tt.user {
				toUser(s)
			}
			s.GPR[vcpu.RSP], s.RFLAGS = guestSP-3, 0x202|flagTF<<2|flagCF // DF, IF, CF
			g.set(s)
			f := g.trap()
			if f.state.GPR[vcpu.RSP] != tt.sp-40 || f.sp != guestSP-3 || f.flags != s.RFLAGS|flagRF {
				t.Errorf("handler's RSP %#x, pushed RSP %#x, flags %#x; want %#x", f.state.GPR[vcpu.RSP], f.sp, f.flags, tt.sp-40)
			}
			ss := f.state.Seg[vcpu.SS]
			if tt.user != ss.Unusable || tt.user && ss.Selector != 0 || f.state.Seg[vcpu.CS].Selector != selCode || f.state.RFLAGS&flagIF != 0 {
				t.Errorf("in the handler: SS %+v, CS %#x, flags %#x", ss, f.state.Seg[vcpu.CS].Selector, f.state.RFLAGS)
			}
		})
	}
}

func TestTrapGateLeavesInterruptsOn(t *testing.T) {
	g := newGuest(t, vcpu.ClockInstructions, []byte{0xcd, 0x80})
	g.gate(0x80, selCode, 0xef01)
	s := guestState()
	s.RFLAGS |= flagIF | flagNT
	g.set(s)
	if f := g.trap(); f.state.RFLAGS&flagIF == 0 || f.state.RFLAGS&flagNT != 0 || f.flags&flagNT == 0 {
		t.Errorf("flags %#x in the handler, %#x pushed", f.state.RFLAGS, f.flags)
	}
}

// push64 puts a value on the stack that the guest starts with.
func push64(g *guest, s *vcpu.State, values ...uint64) {
	for _, v := range values {
		s.GPR[vcpu.RSP] -= 8
		g.put64(int(s.GPR[vcpu.RSP]), v)
	}
}

func TestIRETQ(t *testing.T) {
	const target = guestCode + 0x100 // UD2
	tests := []struct {
		name        string
		ss, sp, fl  uint64
		cs, rip     uint64
		nt, user    bool
		vector, err uint64
		at          uint64
	}{
		{"to ring 3", selUserData, guestData + 64, 0x203, selUserCode, target, false, false, vecUD, 0, target},
		{"to ring 0", selData, guestSP - 99, 2, selCode, target, false, false, vecUD, 0, target},
		{"to ring 0 with a null SS", 0, guestSP - 64, 2, selCode, target, false, false, vecUD, 0, target},
		{"from ring 3", selUserData, guestData, 2, selUserCode, target, false, true, vecUD, 0, target},
		{"from ring 3 to ring 0", selData, guestData, 2, selCode, target, false, true, vecGP, selCode, guestCode},
		{"with NT", selUserData, guestData, 2, selUserCode, target, true, false, vecGP, 0, guestCode},
		{"to no canonical address", selUserData, guestData, 2, selUserCode, notCanonical, false, false, vecGP, 0, guestCode},
		{"to a null CS", selUserData, guestData, 2, 0, target, false, false, vecGP, 0, guestCode},
		{"to a data segment", selUserData, guestData, 2, selUserData, target, false, false, vecGP, selUserData &^ 3, guestCode},
		{"beyond the GDT", selUserData, guestData, 2, selOut | 3, target, false, false, vecGP, selOut, guestCode},
		{"to ring 3 with ring 0's SS", selData, guestData, 2, selUserCode, target, false, false, vecGP, selData, guestCode},
		{"to ring 3 with a null SS", 0, guestData, 2, selUserCode, target, false, false, vecGP, 0, guestCode},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := newGuest(t, vcpu.ClockInstructions, []byte{0x48, 0xcf})
			copy(g.ram[target:], []byte{0x0f, 0x0b})
			s := guestState()
			if tt.user {
				toUser(s)
			}
			if tt.nt {
				s.RFLAGS |= flagNT
			}
			push64(g, s, tt.ss, tt.sp, tt.fl, tt.cs, tt.rip)
			before := s.GPR[vcpu.RSP]
			g.set(s)
			f := g.trap()
			if f.vector != tt.vector || f.code != tt.err || f.rip != tt.at {
				t.Fatalf("exception %d, code %#x, at %#x", f.vector, f.code, f.rip)
			}
			if tt.vector == vecGP {
				if f.sp != before {
					t.Errorf("RSP is %#x, want %#x", f.sp, before)
				}
				return
			}
			if f.cs != tt.cs || f.ss != tt.ss || f.sp != tt.sp || f.flags&^flagRF != tt.fl {
				t.Errorf("went to CS %#x, SS %#x, RSP %#x, flags %#x", f.cs, f.ss, f.sp, f.flags)
			}
		})
	}
}

// TestReturnsDropSegments: a return to ring 3 leaves it no data segment of ring 0, and null selectors without RPL (SDM vol. 2A, IRET). Bases without a segment stay.
func TestReturnsDropSegments(t *testing.T) {
	g := newGuest(t, vcpu.ClockInstructions, []byte{0x48, 0xcf})
	const target = guestCode + 0x100
	copy(g.ram[target:], []byte{0x0f, 0x0b})
	s := guestState()
	s.Seg[vcpu.ES] = vcpu.Segment{Selector: 3, Unusable: true}
	s.Seg[vcpu.FS] = vcpu.Segment{Selector: 2, Base: guestData, Unusable: true}
	s.Seg[vcpu.GS] = userState().Seg[vcpu.DS]
	push64(g, s, selUserData, guestData, 2, selUserCode, target)
	g.set(s)
	seg := g.trap().state.Seg
	if ds := seg[vcpu.DS]; ds.Selector != 0 || !ds.Unusable {
		t.Errorf("DS %+v, want null", ds)
	}
	if seg[vcpu.ES].Selector != 0 || seg[vcpu.FS].Selector != 0 || seg[vcpu.FS].Base != guestData || seg[vcpu.GS].Selector != selUserData {
		t.Errorf("ES %#x, FS %#x with base %#x, GS %#x", seg[vcpu.ES].Selector, seg[vcpu.FS].Selector, seg[vcpu.FS].Base, seg[vcpu.GS].Selector)
	}
}

func TestIRETQToCompatibilityMode(t *testing.T) {
	g := newGuest(t, vcpu.ClockInstructions, []byte{0x48, 0xcf})
	const target = guestCode + 0x100
	copy(g.ram[target:], []byte{0x40, 0x0f, 0x0b}) // inc eax (REX in 64-bit mode); ud2
	s := guestState()
	s.GPR[vcpu.RAX] = math.MaxUint64
	push64(g, s, selUserData, 0xffff_0000_1000, 2, 0x23, target)
	g.set(s)
	if f := g.trap(); f.vector != vecUD || f.rip != target+1 || f.cs != 0x23 || f.state.GPR[vcpu.RAX] != 0 {
		t.Errorf("exception %d at %#x, CS %#x, RAX %#x", f.vector, f.rip, f.cs, f.state.GPR[vcpu.RAX])
	}
}

func TestSyscallAndSysret(t *testing.T) {
	const kernel, back = guestCode + 0x100, guestCode + 2
	star := uint64(selCode)<<32 | 0x20<<48 // SYSRET: CS 0x33, SS 0x2b; 32-bit CS 0x23
	start := func(code, at []byte, user bool) (*guest, *vcpu.State) {
		g := newGuest(t, vcpu.ClockInstructions, code)
		copy(g.ram[kernel:], at)
		s := guestState()
		if user {
			toUser(s)
		}
		s.STAR, s.LSTAR, s.SFMASK = star, kernel, flagIF|flagDF
		return g, s
	}
	t.Run("there", func(t *testing.T) {
		g, s := start([]byte{0x0f, 0x05}, []byte{0x0f, 0x0b}, true)
		s.RFLAGS = 2 | flagIF | flagDF | flagCF
		g.set(s)
		f := g.trap()
		if f.vector != vecUD || f.rip != kernel || f.cs != selCode || f.ss != selCode+8 || f.flags&^flagRF != 2|flagCF || f.sp != guestSP {
			t.Errorf("exception %d at %#x, CS %#x, SS %#x, flags %#x, RSP %#x", f.vector, f.rip, f.cs, f.ss, f.flags, f.sp)
		}
		if f.state.GPR[vcpu.RCX] != back || f.state.GPR[vcpu.R11] != s.RFLAGS {
			t.Errorf("RCX %#x, R11 %#x", f.state.GPR[vcpu.RCX], f.state.GPR[vcpu.R11])
		}
	})
	t.Run("there and back", func(t *testing.T) {
		g, s := start([]byte{0x0f, 0x05, 0x0f, 0x0b}, []byte{0x48, 0x0f, 0x07}, true)
		s.RFLAGS = 2 | flagIF | flagDF | flagCF
		g.set(s)
		if f := g.trap(); f.vector != vecUD || f.rip != back || f.cs != selUserCode || f.ss != selUserData || f.flags&^flagRF != s.RFLAGS {
			t.Errorf("exception %d at %#x, CS %#x, SS %#x, flags %#x", f.vector, f.rip, f.cs, f.ss, f.flags)
		}
	})
	t.Run("back to compatibility mode", func(t *testing.T) {
		g, s := start([]byte{0x0f, 0x07}, []byte{0x40, 0x0f, 0x0b}, false)
		s.GPR[vcpu.RCX], s.GPR[vcpu.R11] = 1<<32|kernel, 2
		g.set(s)
		if f := g.trap(); f.vector != vecUD || f.rip != kernel+1 || f.cs != 0x23 || f.ss != selUserData {
			t.Errorf("exception %d at %#x, CS %#x, SS %#x", f.vector, f.rip, f.cs, f.ss)
		}
	})
	t.Run("back to no canonical address", func(t *testing.T) {
		g, s := start([]byte{0x48, 0x0f, 0x07}, nil, false)
		s.GPR[vcpu.RCX] = notCanonical
		g.set(s)
		if f := g.trap(); f.vector != vecGP || f.code != 0 || f.rip != guestCode || f.cs != selCode || f.sp != guestSP {
			t.Errorf("exception %d, code %#x, at %#x, CS %#x", f.vector, f.code, f.rip, f.cs)
		}
	})
	t.Run("without EFER.SCE", func(t *testing.T) {
		for _, code := range [][]byte{{0x0f, 0x05}, {0x48, 0x0f, 0x07}} {
			g, s := start(code, nil, false)
			s.EFER &^= eferSCE
			g.set(s)
			if f := g.trap(); f.vector != vecUD || f.rip != guestCode {
				t.Errorf("exception %d at %#x", f.vector, f.rip)
			}
		}
	})
}

func TestSysenterAndSysexit(t *testing.T) {
	const kernel, sp = guestCode + 0x100, guestSP - 0x40000
	g := newGuest(t, vcpu.ClockInstructions, []byte{0x0f, 0x34, 0x0f, 0x0b})
	// mov rdx,guestCode+2; mov rcx,guestData+64; sysexit (64-bit)
	copy(g.ram[kernel:], asm([]byte{0xba}, le32(guestCode+2), []byte{0xb9}, le32(guestData+64), []byte{0x48, 0x0f, 0x35}))
	s := guestState()
	toUser(s)
	s.RFLAGS |= flagIF
	s.SysenterCS, s.SysenterESP, s.SysenterEIP = selCode, sp, kernel
	g.set(s)
	g.run(1)
	if k, _ := g.cpu.State(); k.RIP != kernel || k.GPR[vcpu.RSP] != sp || k.Seg[vcpu.CS].Selector != selCode || k.Seg[vcpu.SS].Selector != selCode+8 || k.RFLAGS&flagIF != 0 {
		t.Errorf("SYSENTER went to %#x, RSP %#x, CS %#x, SS %#x, flags %#x", k.RIP, k.GPR[vcpu.RSP], k.Seg[vcpu.CS].Selector, k.Seg[vcpu.SS].Selector, k.RFLAGS)
	}
	if f := g.trap(); f.vector != vecUD || f.rip != guestCode+2 || f.sp != guestData+64 || f.cs != selUserCode || f.ss != selUserCode+8 {
		t.Errorf("exception %d at %#x, RSP %#x, CS %#x, SS %#x", f.vector, f.rip, f.sp, f.cs, f.ss)
	}

	// Without a segment it faults.
	s.SysenterCS = 3
	g.set(s)
	if f := g.trap(); f.vector != vecGP || f.code != 0 || f.rip != guestCode {
		t.Errorf("exception %d, code %#x, at %#x; want #GP(0)", f.vector, f.code, f.rip)
	}
}

// TestSystemRegistersAreStored: what ring 3 of a KVM host need not show as the guest's own.
func TestSystemRegistersAreStored(t *testing.T) {
	// sgdt [rdi]; sidt [rdi+16]; sldt eax; str ebx; smsw rcx; str [rdi+32]; rdtscp (ECX); hlt
	g := newGuest(t, vcpu.ClockInstructions, []byte{0x0f, 0x01, 0x07, 0x0f, 0x01, 0x4f, 16, 0x0f, 0x00, 0xc0, 0x0f, 0x00, 0xcb, 0x48, 0x0f, 0x01, 0xe1,
		0x0f, 0x00, 0x4f, 32, 0x89, 0xc5, 0x48, 0x89, 0xce, 0x0f, 0x01, 0xf9, 0xf4}) // mov ebp,eax; mov rsi,rcx before rdtscp
	s := guestState()
	s.GPR[vcpu.RDI], s.GPR[vcpu.RAX], s.GPR[vcpu.RBX] = guestData, math.MaxUint64, math.MaxUint64
	s.LDTR.Selector, s.TSCAux = 0, 42
	s.GDTR.Base, s.IDTR.Base = 0xffff800000000000|guestGDT, guestIDT
	g.set(s)
	e := g.halt()
	le := binary.LittleEndian
	if l, b := le.Uint16(g.ram[guestData:]), le.Uint64(g.ram[guestData+2:]); l != s.GDTR.Limit || b != s.GDTR.Base {
		t.Errorf("SGDT stored %#x, %#x", l, b)
	}
	if l, b := le.Uint16(g.ram[guestData+16:]), le.Uint64(g.ram[guestData+18:]); l != s.IDTR.Limit || b != s.IDTR.Base {
		t.Errorf("SIDT stored %#x, %#x", l, b)
	}
	if e.GPR[vcpu.RBP] != 0 || e.GPR[vcpu.RBX] != selTSS || e.GPR[vcpu.RSI] != s.CR0 || e.GPR[vcpu.RCX] != 42 {
		t.Errorf("SLDT %#x, STR %#x, SMSW %#x, RDTSCP's ECX %d", e.GPR[vcpu.RBP], e.GPR[vcpu.RBX], e.GPR[vcpu.RSI], e.GPR[vcpu.RCX])
	}
	if v := le.Uint64(g.ram[guestData+32:]); v != selTSS {
		t.Errorf("STR stored %#x: want 16 bits", v)
	}
}

func TestSwapgs(t *testing.T) {
	// swapgs; mov rax,gs:[0]; swapgs; mov rbx,gs:[0]
	g := newGuest(t, vcpu.ClockInstructions, []byte{0x0f, 0x01, 0xf8, 0x65, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0,
		0x0f, 0x01, 0xf8, 0x65, 0x48, 0x8b, 0x1c, 0x25, 0, 0, 0, 0, 0xf4})
	g.put64(guestData, 1)
	g.put64(guestData+0x1000, 2)
	s := guestState()
	s.Seg[vcpu.GS].Base, s.KernelGSBase = guestData, guestData+0x1000
	g.set(s)
	e := g.halt()
	if e.GPR[vcpu.RAX] != 2 || e.GPR[vcpu.RBX] != 1 || e.Seg[vcpu.GS].Base != guestData || e.KernelGSBase != guestData+0x1000 {
		t.Errorf("RAX %d, RBX %d, GS %#x, KernelGSBase %#x", e.GPR[vcpu.RAX], e.GPR[vcpu.RBX], e.Seg[vcpu.GS].Base, e.KernelGSBase)
	}
}

func TestLTRMakesTheTSSBusy(t *testing.T) {
	g := newGuest(t, vcpu.ClockInstructions, []byte{0x0f, 0x00, 0xd8, 0x0f, 0x00, 0xc9, 0x0f, 0x0b}) // ltr ax; str ecx; ud2
	g.ram[guestGDT+selTSS+5] = 0x89                                                                  // available
	s := guestState()
	s.GPR[vcpu.RAX], s.TR = selTSS, vcpu.Segment{Unusable: true}
	g.set(s)
	f := g.trap()
	if tr := f.state.TR; f.vector != vecUD || tr.Base != guestTSS || tr.Limit != 0x67 || tr.Selector != selTSS || tr.Attr != 0x8b {
		t.Errorf("exception %d, TR %+v", f.vector, tr)
	}
	if b := g.ram[guestGDT+selTSS+5]; b != 0x8b {
		t.Errorf("descriptor type %#x, want busy", b)
	}
}

// TestPortPermissions: ring 3 may use a port if IOPL says so, or the TSS's bitmap (SDM vol. 1, 19.5).
func TestPortPermissions(t *testing.T) {
	const bitmap = 0x68
	for _, tt := range []struct {
		name  string
		setup func(*guest, *vcpu.State)
		may   bool
	}{
		{"bitmap beyond the TSS", func(*guest, *vcpu.State) {}, false},
		{"IOPL 3", func(_ *guest, s *vcpu.State) { s.RFLAGS |= flagIOPL }, true},
		{"bits clear", func(_ *guest, s *vcpu.State) { s.TR.Limit = bitmap + 32 }, true},
		{"one of two bits set", func(g *guest, s *vcpu.State) { s.TR.Limit, g.ram[guestTSS+bitmap+12] = bitmap+32, 1<<6 }, false},
		{"other bits set", func(g *guest, s *vcpu.State) { s.TR.Limit, g.ram[guestTSS+bitmap+12] = bitmap+32, 0x9f }, true},
		{"bitmap that ends before its last byte", func(_ *guest, s *vcpu.State) { s.TR.Limit = bitmap + 12 }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newGuest(t, vcpu.ClockInstructions, []byte{0x66, 0xe5, 0x65}) // in ax,0x65: bits 5 and 6 of byte 12
			g.ram[guestTSS+0x66] = bitmap
			s := guestState()
			toUser(s)
			tt.setup(g, s)
			g.set(s)
			e := g.run(vcpu.NoStop)
			if may := e.Reason == vcpu.ReasonIO && e.Addr == 0x65 && e.Size == 2; may != tt.may {
				t.Errorf("exit %v at %#x", e.Reason, e.PC)
			}
		})
	}
}

// TestExtendedPrecision: what does not fit into a double survives in x87 registers, arithmetic, and FXSAVE.
func TestExtendedPrecision(t *testing.T) {
	// fld tbyte [rsi]; fld1; fadd st,st(1); fstp tbyte [rdi]; fxsave64 [rdi+16]; fninit; fxrstor64 [rdi+16]; fstp tbyte [rdi+0x240]; hlt
	g := newGuest(t, vcpu.ClockInstructions, []byte{0xdb, 0x2e, 0xd9, 0xe8, 0xd8, 0xc1, 0xdb, 0x3f, 0x48, 0x0f, 0xae, 0x47, 0x10, 0xdb, 0xe3,
		0x48, 0x0f, 0xae, 0x4f, 0x10, 0xdb, 0xbf, 0x40, 2, 0, 0, 0xf4})
	put := func(at int, mantissa uint64, exponent uint16) {
		g.put64(at, mantissa)
		binary.LittleEndian.PutUint16(g.ram[at+8:], exponent)
	}
	get := func(at int) (uint64, uint16) {
		return binary.LittleEndian.Uint64(g.ram[at:]), binary.LittleEndian.Uint16(g.ram[at+8:])
	}
	put(guestData, 0x8000000000000003, 0x3fff) // 1 + 3×2⁻⁶³
	s := guestState()
	s.GPR[vcpu.RSI], s.GPR[vcpu.RDI] = guestData, guestData+0x1000
	for i := range 256 {
		s.FX[160+i] = byte(i + 1)
	}
	g.set(s)
	e := g.halt()
	if m, x := get(guestData + 0x1000); m != 0x8000000000000002 || x != 0x4000 { // 2 + 3×2⁻⁶³ lies half way; to even
		t.Errorf("sum is %#x, exponent %#x", m, x)
	}
	if m, x := get(guestData + 0x1240); m != 0x8000000000000003 || x != 0x3fff {
		t.Errorf("restored %#x, exponent %#x", m, x)
	}
	saved := [512]byte(g.ram[guestData+0x1010:])
	if [256]byte(saved[160:]) != [256]byte(s.FX[160:]) || [256]byte(e.FX[160:]) != [256]byte(s.FX[160:]) {
		t.Error("FXSAVE and FXRSTOR changed XMM registers")
	}
	if saved[4] != 0x80 { // one register in use, seven deep
		t.Errorf("abridged tag word is %#x", saved[4])
	}
}
