package soft

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/detvm/detvm/vcpu"
)

// guest is a small machine: RAM identity-mapped with 2 MiB pages, user-accessible, a GDT, an IDT whose handlers are HLTs, and a TSS.
type guest struct {
	t   testing.TB
	cpu *CPU
	ram []byte
}

const (
	guestRAM  = 8 << 20
	guestPML4 = 0x1000
	guestPDPT = 0x2000
	guestPD   = 0x3000
	guestGDT  = 0x4000
	guestIDT  = 0x5000
	guestTSS  = 0x6000
	guestHalt = 0x7000 // one HLT for each vector
	guestCode = 0x10000
	guestData = 0x200000
	guestSP   = 0x180000
)

// newGuest makes a guest with code at guestCode, in ring 0.
func newGuest(t testing.TB, clock vcpu.Clock, code []byte) *guest {
	t.Helper()
	g := &guest{t: t, ram: make([]byte, guestRAM)}
	le := binary.LittleEndian
	le.PutUint64(g.ram[guestPML4:], guestPDPT|7)
	le.PutUint64(g.ram[guestPDPT:], guestPD|7)
	for i := uint64(0); i < guestRAM>>21; i++ {
		le.PutUint64(g.ram[guestPD+8*i:], i<<21|0x87)
	}
	for i, d := range []uint64{0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cffb000000ffff, 0x00cff3000000ffff, 0x00affb000000ffff,
		0x00008b0000000067 | guestTSS<<16, 0} {
		le.PutUint64(g.ram[guestGDT+8*i:], d)
	}
	for v := uint64(0); v < 256; v++ {
		h := guestHalt + v
		le.PutUint64(g.ram[guestIDT+16*v:], h&0xffff|0x10<<16|0xee01<<32|h>>16<<48)
		g.ram[h] = 0xf4
	}
	le.PutUint64(g.ram[guestTSS+4:], guestSP-0x10000)
	le.PutUint64(g.ram[guestTSS+0x24:], guestSP-0x20000) // IST 1, which all gates use
	copy(g.ram[guestCode:], code)
	cpu, err := New(vcpu.Config{Memory: []vcpu.Memory{{GPA: 0, Host: g.ram}}, CPUID: vcpu.DetvmV1(true), Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	g.cpu = cpu.(*CPU)
	g.set(guestState())
	return g
}

// guestState is 64-bit ring 0 at guestCode with SSE enabled.
func guestState() *vcpu.State {
	s := resetState()
	s.RIP, s.RFLAGS = guestCode, 2
	s.GPR[vcpu.RSP] = guestSP
	s.CR0 = cr0PG | cr0PE | cr0WP | cr0NE | cr0ET | cr0MP
	s.CR3, s.CR4 = guestPML4, cr4PAE|cr4OSFXSR|cr4OSXMMEXCPT
	s.EFER = eferLME | eferLMA | eferNXE | eferSCE
	s.Seg[vcpu.CS] = vcpu.Segment{Selector: 0x10, Limit: 0xffffffff, Attr: 0xa09b}
	data := vcpu.Segment{Selector: 0x18, Limit: 0xffffffff, Attr: 0xc093}
	s.Seg[vcpu.SS], s.Seg[vcpu.DS], s.Seg[vcpu.ES], s.Seg[vcpu.FS], s.Seg[vcpu.GS] = data, data, data, data, data
	s.TR = vcpu.Segment{Selector: 0x38, Base: guestTSS, Limit: 0x67, Attr: 0x8b}
	s.LDTR = vcpu.Segment{Unusable: true}
	s.GDTR = vcpu.DescriptorTable{Base: guestGDT, Limit: 0x47}
	s.IDTR = vcpu.DescriptorTable{Base: guestIDT, Limit: 0xfff}
	return s
}

// set replaces the processor's state.
func (g *guest) set(s *vcpu.State) {
	g.t.Helper()
	if err := g.cpu.SetState(s); err != nil {
		g.t.Fatal(err)
	}
}

// run runs to the next exit or stop and fails the test on an error.
func (g *guest) run(stop uint64) *vcpu.Exit {
	g.t.Helper()
	var e vcpu.Exit
	if err := g.cpu.Run(stop, &e); err != nil {
		g.t.Fatal(err)
	}
	return &e
}

// halt runs to HLT and returns the state there.
func (g *guest) halt() *vcpu.State {
	g.t.Helper()
	if e := g.run(vcpu.NoStop); e.Reason != vcpu.ReasonHalt {
		s, _ := g.cpu.State()
		g.t.Fatalf("exit %v (%s) at %#x, want halt", e.Reason, e.Detail, s.RIP)
	}
	s, err := g.cpu.State()
	if err != nil {
		g.t.Fatal(err)
	}
	return s
}

// A loop: mov ecx, 1000; 1: add rax, rcx; dec ecx; jnz 1b; hlt
var sumLoop = []byte{0xb9, 0xe8, 0x03, 0, 0, 0x48, 0x01, 0xc8, 0xff, 0xc9, 0x75, 0xf9, 0xf4}

func TestLoopCountsEveryInstruction(t *testing.T) {
	g := newGuest(t, vcpu.ClockInstructions, sumLoop)
	s := g.halt()
	if s.GPR[vcpu.RAX] != 500500 {
		t.Errorf("sum is %d, want 500500", s.GPR[vcpu.RAX])
	}
	if s.Count != 1+3*1000+1 {
		t.Errorf("count is %d, want 3002", s.Count)
	}
}

func TestLoopCountsBranches(t *testing.T) {
	g := newGuest(t, vcpu.ClockBranches, sumLoop)
	e := g.run(77)
	if e.Reason != vcpu.ReasonStop || g.cpu.Count() != 77 {
		t.Fatalf("stopped for %v at %d, want stop at 77", e.Reason, g.cpu.Count())
	}
	s, _ := g.cpu.State()
	if s.GPR[vcpu.RCX] != 1000-77 {
		t.Errorf("ecx is %d, want %d", s.GPR[vcpu.RCX], 1000-77)
	}
	if s := g.halt(); s.Count != 1000 {
		t.Errorf("count is %d, want 1000", s.Count)
	}
}

func BenchmarkIntegerLoop(b *testing.B) {
	// xorshift64 into a 256 KiB table: mov rax,rbx; shl rax,13; xor rbx,rax; mov rax,rbx; shr rax,7; xor rbx,rax; mov rax,rbx;
	// shl rax,17; xor rbx,rax; mov edx,ebx; and edx,0x3fff8; add [rdx+0x200000],rbx; dec rcx; jnz
	code := []byte{0x48, 0x89, 0xd8, 0x48, 0xc1, 0xe0, 13, 0x48, 0x31, 0xc3, 0x48, 0x89, 0xd8, 0x48, 0xc1, 0xe8, 7, 0x48, 0x31, 0xc3,
		0x48, 0x89, 0xd8, 0x48, 0xc1, 0xe0, 17, 0x48, 0x31, 0xc3, 0x89, 0xda, 0x81, 0xe2, 0xf8, 0xff, 0x03, 0x00,
		0x48, 0x01, 0x9a, 0x00, 0x00, 0x20, 0x00, 0x48, 0xff, 0xc9, 0x75, 0xce, 0xf4}
	benchLoop(b, code)
}

func BenchmarkSumLoop(b *testing.B) {
	benchLoop(b, append([]byte{0x48, 0x01, 0xc8}, 0x48, 0xff, 0xc9, 0x75, 0xf8, 0xf4))
}

func benchLoop(b *testing.B, code []byte) {
	g := newGuest(b, vcpu.ClockInstructions, code)
	s := guestState()
	s.GPR[vcpu.RBX], s.GPR[vcpu.RCX] = 88172645463325252, 1<<62
	g.set(s)
	const step = 1_000_000
	before := cpuSeconds()
	b.ResetTimer()
	for i := 0; i < b.N; i++ {
		g.run(g.cpu.Count() + step)
	}
	b.ReportMetric(step*float64(b.N)/(cpuSeconds()-before)/1e6, "Minstr/cpu-s")
}

// cpuSeconds is the processor time that the test has used, which other load on the machine does not distort.
func cpuSeconds() float64 {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return float64(u.Utime.Sec) + float64(u.Utime.Usec)/1e6
}
