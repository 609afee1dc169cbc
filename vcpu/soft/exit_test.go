package soft

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/detvm/detvm/vcpu"
)

// device maps linear address mmioVA to guest-physical 0x10000000, outside RAM.
func (g *guest) device() {
	binary.LittleEndian.PutUint64(g.ram[guestPD+8*(mmioVA>>21):], 0x10000000|0x87)
}

func TestMMIOReadIsAnsweredOnce(t *testing.T) {
	// mov edi,mmioVA; mov eax,[rdi+4]; add eax,[rdi+8]; hlt
	g := newGuest(t, vcpu.ClockExits, []byte{0xbf, 0, 0, 0x80, 0, 0x8b, 0x47, 4, 0x03, 0x47, 8, 0xf4})
	g.device()
	for i, want := range []struct{ pc, addr uint64 }{{guestCode + 5, 0x10000004}, {guestCode + 8, 0x10000008}} {
		e := g.run(vcpu.NoStop)
		if e.Reason != vcpu.ReasonMMIO || e.Write || e.Size != 4 || e.PC != want.pc || e.Addr != want.addr {
			t.Fatalf("exit %d is %+v", i, *e)
		}
		binary.LittleEndian.PutUint32(e.Data, uint32(100+i))
		if g.cpu.Count() != uint64(i+1) {
			t.Errorf("count is %d after exit %d", g.cpu.Count(), i)
		}
	}
	if s := g.halt(); s.GPR[vcpu.RAX] != 201 || s.Count != 3 {
		t.Errorf("eax is %d, count %d; want 201, 3", s.GPR[vcpu.RAX], s.Count)
	}
}

func TestMMIOWriteIsComplete(t *testing.T) {
	// mov edi,mmioVA; mov dword [rdi],0x12345678; hlt
	g := newGuest(t, vcpu.ClockInstructions, []byte{0xbf, 0, 0, 0x80, 0, 0xc7, 0x07, 0x78, 0x56, 0x34, 0x12, 0xf4})
	g.device()
	e := g.run(vcpu.NoStop)
	if e.Reason != vcpu.ReasonMMIO || !e.Write || e.PC != guestCode+11 || !bytes.Equal(e.Data, []byte{0x78, 0x56, 0x34, 0x12}) || g.cpu.Count() != 2 {
		t.Fatalf("exit is %+v at count %d", *e, g.cpu.Count())
	}
	g.halt()
}

func TestMMIOReadModifyWrite(t *testing.T) {
	// mov edi,mmioVA; add dword [rdi],5; hlt
	g := newGuest(t, vcpu.ClockInstructions, []byte{0xbf, 0, 0, 0x80, 0, 0x83, 0x07, 5, 0xf4})
	g.device()
	e := g.run(vcpu.NoStop)
	if e.Reason != vcpu.ReasonMMIO || e.Write {
		t.Fatalf("first exit is %+v, want a read", *e)
	}
	binary.LittleEndian.PutUint32(e.Data, 37)
	e = g.run(vcpu.NoStop)
	if e.Reason != vcpu.ReasonMMIO || !e.Write || binary.LittleEndian.Uint32(e.Data) != 42 {
		t.Fatalf("second exit is %+v, want a write of 42", *e)
	}
	g.halt()
}

func TestRepeatedStoreToDevice(t *testing.T) {
	// mov edi,mmioVA; mov ecx,3; mov al,9; rep stosb; hlt
	g := newGuest(t, vcpu.ClockInstructions, []byte{0xbf, 0, 0, 0x80, 0, 0xb9, 3, 0, 0, 0, 0xb0, 9, 0xf3, 0xaa, 0xf4})
	g.device()
	for i := range uint64(3) {
		e := g.run(vcpu.NoStop)
		if e.Reason != vcpu.ReasonMMIO || !e.Write || e.Addr != 0x10000000+i || g.cpu.Count() != 4+i {
			t.Fatalf("exit %d is %+v at count %d", i, *e, g.cpu.Count())
		}
	}
	if s := g.halt(); s.Count != 7 {
		t.Errorf("count is %d, want 7", s.Count)
	}
}

func TestPortIO(t *testing.T) {
	// in al,0x60; mov dx,0x3f8; out dx,eax; hlt
	g := newGuest(t, vcpu.ClockInstructions, []byte{0xe4, 0x60, 0x66, 0xba, 0xf8, 0x03, 0xef, 0xf4})
	e := g.run(vcpu.NoStop)
	if e.Reason != vcpu.ReasonIO || e.Write || e.Addr != 0x60 || e.Size != 1 || e.PC != guestCode || g.cpu.Count() != 0 {
		t.Fatalf("IN gives %+v at count %d", *e, g.cpu.Count())
	}
	e.Data[0] = 0xab
	e = g.run(vcpu.NoStop)
	if e.Reason != vcpu.ReasonIO || !e.Write || e.Addr != 0x3f8 || e.Size != 4 || e.Data[0] != 0xab || e.PC != guestCode+7 || g.cpu.Count() != 3 {
		t.Fatalf("OUT gives %+v at count %d", *e, g.cpu.Count())
	}
	g.halt()
}

func TestMSRsOfTheMachine(t *testing.T) {
	// mov ecx,0xd3700001; rdmsr; wrmsr; hlt
	code := []byte{0xb9, 1, 0, 0x70, 0xd3, 0x0f, 0x32, 0x0f, 0x30, 0xf4}
	for _, fault := range []bool{false, true} {
		g := newGuest(t, vcpu.ClockInstructions, code)
		e := g.run(vcpu.NoStop)
		if e.Reason != vcpu.ReasonRDMSR || e.Addr != vcpu.MSRDetvmTime || e.PC != guestCode+5 || len(e.Data) != 8 {
			t.Fatalf("RDMSR gives %+v", *e)
		}
		binary.LittleEndian.PutUint64(e.Data, 0x1122334455667788)
		e = g.run(vcpu.NoStop)
		if e.Reason != vcpu.ReasonWRMSR || binary.LittleEndian.Uint64(e.Data) != 0x1122334455667788 || e.PC != guestCode+7 {
			t.Fatalf("WRMSR gives %+v", *e)
		}
		e.Fault = fault
		s := g.halt()
		want, count := uint64(guestCode+10), uint64(4)
		if fault {
			want, count = guestHalt+vecGP+1, 3
		}
		if s.RIP != want || s.Count != count {
			t.Errorf("fault %v: halted at %#x, count %d; want %#x, %d", fault, s.RIP, s.Count, want, count)
		}
	}
}

func TestInterrupts(t *testing.T) {
	// sti; nop; nop; jmp $
	g := newGuest(t, vcpu.ClockInstructions, []byte{0xfb, 0x90, 0x90, 0xeb, 0xfe})
	for i, want := range []bool{false, false, true} {
		if e := g.run(uint64(i)); e.Reason != vcpu.ReasonStop {
			t.Fatalf("exit %v", e.Reason)
		}
		if got := g.cpu.Interruptible(); got != want {
			t.Errorf("interruptible after %d instructions: %v, want %v", i, got, want)
		}
	}
	if err := g.cpu.Interrupt(0x40); err != nil {
		t.Fatal(err)
	}
	s := g.halt()
	if s.RIP != guestHalt+0x40+1 || s.Count != 3 || s.RFLAGS&flagIF != 0 {
		t.Errorf("halted at %#x, count %d, flags %#x", s.RIP, s.Count, s.RFLAGS)
	}
	frame := g.ram[s.GPR[vcpu.RSP]:]
	if rip := binary.LittleEndian.Uint64(frame); rip != guestCode+2 {
		t.Errorf("pushed rip %#x, want %#x", rip, guestCode+2)
	}
	if g.cpu.Interruptible() {
		t.Error("interruptible inside the handler")
	}
}

func TestRepeatedStringStopsAnywhere(t *testing.T) {
	// mov edi,guestData; mov ecx,1000; rep stosb; hlt
	code := []byte{0xbf, 0, 0, 0x20, 0, 0xb9, 0xe8, 3, 0, 0, 0xf3, 0xaa, 0xf4}
	g := newGuest(t, vcpu.ClockInstructions, code)
	g.run(502)
	s, _ := g.cpu.State()
	if s.GPR[vcpu.RCX] != 500 || s.RIP != guestCode+10 {
		t.Errorf("rcx is %d at %#x, want 500 at the instruction", s.GPR[vcpu.RCX], s.RIP)
	}
	if s := g.halt(); s.Count != 2+1000+1 {
		t.Errorf("count is %d, want 1003", s.Count)
	}
}

func TestTSCSeesTheExactCount(t *testing.T) {
	// nop; rdtsc; mov ebx,eax; rdtsc; hlt
	g := newGuest(t, vcpu.ClockInstructions, []byte{0x90, 0x0f, 0x31, 0x89, 0xc3, 0x0f, 0x31, 0xf4})
	g.cpu.tsc = g.cpu.Count
	if s := g.halt(); s.GPR[vcpu.RBX] != 1 || s.GPR[vcpu.RAX] != 3 {
		t.Errorf("RDTSC gave %d and %d, want 1 and 3", s.GPR[vcpu.RBX], s.GPR[vcpu.RAX])
	}
}

func TestKick(t *testing.T) {
	g := newGuest(t, vcpu.ClockInstructions, []byte{0xeb, 0xfe})
	g.cpu.Kick()
	if e := g.run(vcpu.NoStop); e.Reason != vcpu.ReasonKick || g.cpu.Count() != 0 {
		t.Errorf("exit %v at %d, want a kick at once", e.Reason, g.cpu.Count())
	}
	go g.cpu.Kick()
	if e := g.run(vcpu.NoStop); e.Reason != vcpu.ReasonKick {
		t.Errorf("exit %v, want a kick", e.Reason)
	}
}

func TestTripleFault(t *testing.T) {
	g := newGuest(t, vcpu.ClockInstructions, []byte{0x0f, 0x0b})
	s := guestState()
	s.IDTR.Limit = 0
	g.set(s)
	for range 2 {
		if e := g.run(vcpu.NoStop); e.Reason != vcpu.ReasonShutdown || e.Detail == "" {
			t.Errorf("exit %v (%s), want shutdown", e.Reason, e.Detail)
		}
	}
}

func TestDirtyLog(t *testing.T) {
	// mov [guestData],al; hlt; mov [guestData+0x3000],al; hlt
	code := asm([]byte{0x88, 0x04, 0x25}, le32(guestData), []byte{0xf4, 0x88, 0x04, 0x25}, le32(guestData+0x3000), []byte{0xf4})
	g := newGuest(t, vcpu.ClockInstructions, code)
	collect := func() (pages []uint64) {
		if err := g.cpu.CollectDirty(func(gpa uint64) { pages = append(pages, gpa) }); err != nil {
			t.Fatal(err)
		}
		return pages
	}
	collect() // what newGuest has written
	g.halt()
	want := []uint64{guestPML4, guestPDPT, guestPD, guestData} // the tables get accessed bits
	if got := collect(); !equal(got, want) {
		t.Errorf("dirty pages %#x, want %#x", got, want)
	}
	g.cpu.halted = false
	g.halt()
	g.cpu.MemoryWritten(0x300ff0, 0x20)
	if got := collect(); !equal(got, []uint64{guestData + 0x3000, 0x300000, 0x301000}) {
		t.Errorf("dirty pages %#x", got)
	}
}

func equal(a, b []uint64) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func TestStateRoundTrip(t *testing.T) {
	s := guestState()
	for i := range s.GPR {
		s.GPR[i] = uint64(i) * 0x1111111111111111
	}
	for i := range s.FX[32:416] {
		if i%16 < 10 || i >= 128 {
			s.FX[32+i] = byte(i * 7)
		}
	}
	s.FX[28], s.FX[29] = 0xff, 0xff // MXCSR_MASK is not state
	s.RFLAGS, s.Count, s.CR2, s.Shadow = 0x246|flagOF, 12345, 0xdead, true
	s.STAR, s.LSTAR, s.SFMASK, s.KernelGSBase, s.TSCAux = 1<<40, 2, 3, 4, 5
	s.Seg[vcpu.FS].Base, s.Seg[vcpu.GS].Base = 0x1000, 0x2000
	g := newGuest(t, vcpu.ClockInstructions, nil)
	if err := g.cpu.SetState(s); err != nil {
		t.Fatal(err)
	}
	got, err := g.cpu.State()
	if err != nil {
		t.Fatal(err)
	}
	if *got != *s {
		t.Errorf("state changed:\n%+v\n%+v", *got, *s)
	}
}

// TestExceptionsEndTheSlice: a guest that takes exceptions without retiring an instruction does not keep Run from looking for a kick.
func TestExceptionsEndTheSlice(t *testing.T) {
	g := newGuest(t, vcpu.ClockInstructions, []byte{0x0f, 0x0b})
	copy(g.ram[guestHalt+vecUD:], []byte{0x0f, 0x0b}) // the handler's first instruction is undefined, too
	c := g.cpu
	c.beginSlice(vcpu.NoStop)
	c.execute()
	if c.idleEvents != idleSlice || c.failure != "" || c.Count() != 0 {
		t.Errorf("execute came back after %d exceptions, count %d, failure %q; want %d", c.idleEvents, c.Count(), c.failure, idleSlice)
	}
	if e := g.run(vcpu.NoStop); e.Reason != vcpu.ReasonFailure {
		t.Errorf("exit %v, want failure", e.Reason)
	}
}
