package kvm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/detvm/detvm/vcpu"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func needKVM(t *testing.T) hostTraits {
	t.Helper()
	if _, err := os.Stat("/dev/kvm"); err != nil {
		t.Skip("needs /dev/kvm")
	}
	traits, err := measureTraits()
	if err != nil {
		t.Skipf("needs /dev/kvm: %v", err)
	}
	return traits
}

func needCounter(t *testing.T) hostTraits {
	t.Helper()
	traits := needKVM(t)
	if err := checkCounter(vcpu.ClockKernelInstructions); err != nil {
		t.Skipf("needs the tracepoint counter: %v", err)
	}
	return traits
}

// guest makes a tiny guest that runs code on a clock.
func guest(t *testing.T, clock vcpu.Clock, ring uint16, code ...byte) *tinyGuest {
	t.Helper()
	traits := needKVM(t)
	if clock != vcpu.ClockExits {
		traits = needCounter(t)
	}
	g, err := newTinyGuest(clock, traits, ring, code)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return g
}

// next runs to the next exit and checks its kind.
func (g *tinyGuest) next(t *testing.T, want vcpu.Reason) *vcpu.Exit {
	t.Helper()
	exit, err := g.until(want)
	if err != nil {
		t.Fatal(err)
	}
	return exit
}

func (g *tinyGuest) mustState(t *testing.T) *vcpu.State {
	t.Helper()
	s, err := g.State()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestProbeAgreesWithItself(t *testing.T) {
	needKVM(t)
	h := Probe()
	t.Logf("\n%v", h)
	if h.KVM != nil {
		t.Fatal(h.KVM)
	}
	if clock := h.BestClock(); clock == vcpu.ClockKernelInstructions && h.KernelInstructions != nil {
		t.Errorf("best clock %s is not available", clock)
	}
}

func TestBestClockPrefersBranchesThenKernelInstructions(t *testing.T) {
	no := errors.New("no")
	for _, c := range []struct {
		h    Host
		want vcpu.Clock
	}{
		{Host{}, vcpu.ClockBranches},
		{Host{Branches: no}, vcpu.ClockKernelInstructions},
		{Host{Branches: no, KernelInstructions: no}, vcpu.ClockExits},
	} {
		if got := c.h.BestClock(); got != c.want {
			t.Errorf("best clock %s, want %s", got, c.want)
		}
	}
}

func TestPortExits(t *testing.T) {
	for _, ring := range []uint16{0, 3} {
		g := guest(t, vcpu.ClockExits, ring,
			0xb8, 0x44, 0x33, 0x22, 0x11, // mov eax,0x11223344
			0xe7, 0x80, // out 0x80,eax
			0x66, 0xba, 0x34, 0x12, // mov dx,0x1234
			0x66, 0xed, // in ax,dx
			0xee, // out dx,al
		)
		out := g.next(t, vcpu.ReasonIO)
		if !out.Write || out.Addr != 0x80 || out.Size != 4 || !bytes.Equal(out.Data, []byte{0x44, 0x33, 0x22, 0x11}) || out.PC != tinyCode+7 {
			t.Errorf("ring %d: OUT came as %+v", ring, out)
		}
		if ring == 3 && g.mustState(t).RFLAGS&(3<<12) == 0 {
			continue // a KVM that runs ring 3 under the host's own IOPL: IN would fault
		}
		in := g.next(t, vcpu.ReasonIO)
		if in.Write || in.Addr != 0x1234 || in.Size != 2 || len(in.Data) != 2 || in.PC != tinyCode+11 {
			t.Errorf("ring %d: IN came as %+v", ring, in)
		}
		copy(in.Data, []byte{0xcd, 0xab})
		if s := g.mustState(t); s.GPR[vcpu.RAX] != 0x1122abcd || s.RIP != tinyCode+13 {
			t.Errorf("ring %d: after IN RAX %#x RIP %#x", ring, s.GPR[vcpu.RAX], s.RIP)
		}
		if out := g.next(t, vcpu.ReasonIO); out.Data[0] != 0xcd || out.PC != tinyCode+14 {
			t.Errorf("ring %d: second OUT came as %+v", ring, out)
		}
		if g.Count() != 3 {
			t.Errorf("ring %d: count %d after 3 exits", ring, g.Count())
		}
	}
}

func TestStringPortExit(t *testing.T) {
	g := guest(t, vcpu.ClockExits, 0,
		0x66, 0xba, 0x10, 0x00, // mov dx,0x10
		0xb9, 4, 0, 0, 0, // mov ecx,4
		0xbf, 0x00, 0x00, 0x02, 0x00, // mov edi,tinyData
		0xfc, 0xf3, 0x6c, // cld; rep insb
		0xf4,
	)
	got := 0
	exit := new(vcpu.Exit)
	for {
		if err := g.Run(vcpu.NoStop, exit); err != nil {
			t.Fatal(err)
		}
		if exit.Reason == vcpu.ReasonHalt {
			break
		}
		for i := range exit.Data {
			got++
			exit.Data[i] = byte(got)
		}
	}
	if want := []byte{1, 2, 3, 4}; !bytes.Equal(g.ram[tinyData:tinyData+4], want) || got != 4 {
		t.Errorf("memory % x after %d bytes", g.ram[tinyData:tinyData+4], got)
	}
}

func TestMMIOExits(t *testing.T) {
	for _, ring := range []uint16{0, 3} {
		g := guest(t, vcpu.ClockExits, ring,
			0xbb, 0x10, 0x00, 0x20, 0x00, // mov ebx,tinyMMIO+0x10
			0xb8, 0x78, 0x56, 0x34, 0x12, // mov eax,0x12345678
			0x89, 0x03, // mov [rbx],eax
			0x48, 0x8b, 0x4b, 0x08, // mov rcx,[rbx+8]
			0x48, 0x89, 0x0b, // mov [rbx],rcx
		)
		w := g.next(t, vcpu.ReasonMMIO)
		if !w.Write || w.Addr != tinyMMIO+0x10 || w.Size != 4 || binary.LittleEndian.Uint32(w.Data) != 0x12345678 || w.PC != tinyCode+12 {
			t.Errorf("ring %d: write came as %+v", ring, w)
		}
		r := g.next(t, vcpu.ReasonMMIO)
		if r.Write || r.Addr != tinyMMIO+0x18 || r.Size != 8 || r.PC != tinyCode+12 {
			t.Errorf("ring %d: read came as %+v", ring, r)
		}
		binary.LittleEndian.PutUint64(r.Data, 0x1122334455667788)
		if w := g.next(t, vcpu.ReasonMMIO); w.Size != 8 || binary.LittleEndian.Uint64(w.Data) != 0x1122334455667788 || w.PC != tinyCode+19 {
			t.Errorf("ring %d: second write came as %+v", ring, w)
		}
	}
}

func TestMSRExits(t *testing.T) {
	g := guest(t, vcpu.ClockExits, 0,
		0xb9, 0x01, 0x00, 0x70, 0xd3, // mov ecx,0xd3700001
		0x0f, 0x32, // rdmsr
		0xff, 0xc9, // dec ecx
		0x0f, 0x30, // wrmsr
		0xb9, 0x77, 0x02, 0x00, 0x00, // mov ecx,PAT
		0x0f, 0x32, // rdmsr
		0xb9, 0x10, 0x00, 0x00, 0x00, // mov ecx,TSC
		0x0f, 0x32, // rdmsr
	)
	r := g.next(t, vcpu.ReasonRDMSR)
	if r.Addr != vcpu.MSRDetvmTime || r.PC != tinyCode+5 || len(r.Data) != 8 {
		t.Errorf("RDMSR came as %+v", r)
	}
	binary.LittleEndian.PutUint64(r.Data, 0x0102030405060708)
	w := g.next(t, vcpu.ReasonWRMSR)
	if w.Addr != vcpu.MSRDetvmTimer || w.PC != tinyCode+9 || binary.LittleEndian.Uint64(w.Data) != 0x0102030405060708 {
		t.Errorf("WRMSR came as %+v", w)
	}
	// PAT is the engine's; the next exit is the TSC.
	r = g.next(t, vcpu.ReasonRDMSR)
	if r.Addr != 0x10 {
		t.Errorf("RDMSR came as %+v", r)
	}
	if g.run.regs.rax != 0x00070406 || g.run.regs.rdx != 0x00070406 {
		t.Errorf("PAT read as %#x:%#x", g.run.regs.rdx, g.run.regs.rax)
	}
	r.Fault = true
	fault := g.next(t, vcpu.ReasonIO)
	if fault.Addr != tinyFaultPort || fault.Data[0] != 13 {
		t.Errorf("a refused MSR gave %+v instead of #GP", fault)
	}
	if sp := g.run.regs.rsp; binary.LittleEndian.Uint64(g.ram[sp+8:]) != tinyCode+23 {
		t.Errorf("#GP at %#x", binary.LittleEndian.Uint64(g.ram[sp+8:]))
	}
}

func TestEveryModelMSRIsKept(t *testing.T) {
	traits := needKVM(t)
	if len(traits.msrs) != len(stateMSRs) {
		t.Logf("this host keeps %d of %d MSRs", len(traits.msrs), len(stateMSRs))
	}
	// Nothing but plain state may be read without an exit: try one MSR of each kind that KVM itself knows.
	for _, msr := range []uint32{0x10, 0x1b, 0x3b, 0x8b, 0xc1, 0xfe, 0x186, 0x1d9, 0x2ff, 0x480, 0x802, 0x4b564d00, 0x4b564d01, 0x40000000, 0xc0010015, 0xdeadbeef} {
		g := guest(t, vcpu.ClockExits, 0, 0xb9, byte(msr), byte(msr>>8), byte(msr>>16), byte(msr>>24), 0x0f, 0x32)
		if exit := g.next(t, vcpu.ReasonRDMSR); exit.Addr != uint64(msr) {
			t.Errorf("MSR %#x came as %+v", msr, exit)
		}
	}
}

func TestHaltWaitsForAnInterrupt(t *testing.T) {
	g := guest(t, vcpu.ClockExits, 0, 0xfb, 0xf4, 0xe6, 0x80) // sti; hlt; out 0x80,al
	exit := g.next(t, vcpu.ReasonHalt)
	if exit.PC != tinyCode+2 || g.Count() != 1 {
		t.Errorf("HLT came as %+v at count %d", exit, g.Count())
	}
	if again := g.next(t, vcpu.ReasonHalt); again.PC != tinyCode+2 || g.Count() != 1 {
		t.Errorf("a halted processor answered %+v at count %d", again, g.Count())
	}
	if s := g.mustState(t); !s.Halted || s.Shadow {
		t.Errorf("halted %v, shadow %v", s.Halted, s.Shadow)
	}
	if !g.Interruptible() {
		t.Fatal("not interruptible in HLT with IF=1")
	}
	if err := g.Interrupt(0x31); err != nil {
		t.Fatal(err)
	}
	if g.Interruptible() {
		t.Error("two interrupts at once")
	}
	if _, err := g.State(); !errors.Is(err, ErrMidDelivery) {
		t.Errorf("State with a queued interrupt: %v", err)
	}
	if exit := g.next(t, vcpu.ReasonIO); exit.Addr != tinyFaultPort || exit.Data[0] != 0x31 {
		t.Errorf("the interrupt gave %+v", exit)
	}
	if g.Interruptible() {
		t.Error("interruptible in an interrupt gate")
	}
}

func TestNoInterruptWithoutIFOrInShadow(t *testing.T) {
	g := guest(t, vcpu.ClockExits, 0, 0xe6, 0x80, 0xfb, 0xe6, 0x80, 0xfb, 0xec, 0xe6, 0x80) // out; sti; out; sti; in al,dx; out
	g.next(t, vcpu.ReasonIO)
	if g.Interruptible() || g.Interrupt(0x20) == nil {
		t.Error("interruptible with IF=0")
	}
	g.next(t, vcpu.ReasonIO)
	if !g.Interruptible() {
		t.Error("not interruptible after STI; OUT")
	}
	in := g.next(t, vcpu.ReasonIO)
	if in.Write || !g.Interruptible() {
		t.Errorf("not interruptible at an IN with IF=1: %+v", in)
	}
	if err := g.Interrupt(0x40); err != nil {
		t.Fatal(err)
	}
	in.Data[0] = 0x5a
	if exit := g.next(t, vcpu.ReasonIO); exit.Data[0] != 0x40 {
		t.Errorf("the interrupt gave %+v", exit)
	}
	// The IN was completed first: the interrupt's frame points behind it.
	if sp := g.run.regs.rsp; binary.LittleEndian.Uint64(g.ram[sp:]) != tinyCode+7 {
		t.Errorf("interrupted at %#x", binary.LittleEndian.Uint64(g.ram[sp:]))
	}
}

func TestTripleFaultIsShutdown(t *testing.T) {
	g := guest(t, vcpu.ClockExits, 0)
	s := tinyState(0)
	s.IDTR.Limit = 0
	copy(g.ram[tinyCode:], []byte{0x0f, 0x0b})
	if err := g.SetState(s); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if exit := g.next(t, vcpu.ReasonShutdown); exit.Detail == "" {
			t.Error("no explanation")
		}
	}
	if err := g.load(0, []byte{0xf4}); err != nil {
		t.Fatal(err)
	}
	g.next(t, vcpu.ReasonHalt)
}

// mixed is a program with memory, flags, FPU state, calls and exits: the ground for the state tests.
var mixed = []byte{
	0xbf, 0x00, 0x00, 0x02, 0x00, // mov edi,tinyData
	0xb9, 0x32, 0x00, 0x00, 0x00, // mov ecx,50
	// loop:
	0x89, 0x0f, // mov [rdi],ecx
	0x83, 0xc7, 0x04, // add edi,4
	0x69, 0xd9, 0x91, 0x2a, 0x00, 0x00, // imul ebx,ecx,0x2a91
	0x0f, 0xc8 + 2, // bswap edx
	0x01, 0xda, // add edx,ebx
	0x88, 0xd0, // mov al,dl
	0xe6, 0x80, // out 0x80,al
	0xe4, 0x81, // in al,0x81
	0x00, 0xc2, // add dl,al
	0xff, 0xc9, // dec ecx
	0x75, 0xe5, // jnz loop
	0xf4, // hlt
}

type record struct {
	exit  vcpu.Reason
	pc    uint64
	data  byte
	count uint64
	state *vcpu.State
}

// runMixed runs g for n exits, answering IN with a counter, and records what happens.
func runMixed(t *testing.T, g *tinyGuest, from, n int) []record {
	t.Helper()
	var log []record
	for i := range n {
		exit := new(vcpu.Exit)
		if err := g.Run(vcpu.NoStop, exit); err != nil {
			t.Fatal(err)
		}
		r := record{exit: exit.Reason, pc: exit.PC, count: g.Count()}
		if exit.Reason == vcpu.ReasonIO {
			if !exit.Write {
				exit.Data[0] = byte(7 * (from + i))
			}
			r.data = exit.Data[0]
		}
		r.state = g.mustState(t)
		log = append(log, r)
		if exit.Reason == vcpu.ReasonHalt {
			break
		}
	}
	return log
}

func clocks(t *testing.T) []vcpu.Clock {
	needKVM(t)
	list := []vcpu.Clock{vcpu.ClockExits}
	if checkCounter(vcpu.ClockKernelInstructions) == nil {
		list = append(list, vcpu.ClockKernelInstructions)
	}
	return list
}

func compareRecords(t *testing.T, a, b []record) {
	t.Helper()
	if diff := cmp.Diff(a, b, cmp.AllowUnexported(record{})); diff != "" {
		t.Errorf("runs differ:\n%s", diff)
	}
}

func TestTwoRunsAreEqual(t *testing.T) {
	for _, clock := range clocks(t) {
		for _, ring := range []uint16{0, 3} {
			code := mixed
			if ring == 3 {
				code = append(append([]byte(nil), mixed[:len(mixed)-1]...), 0xe6, 0x80) // HLT is not for ring 3
			}
			a, b := guest(t, clock, ring, code...), guest(t, clock, ring, code...)
			n := 101
			compareRecords(t, runMixed(t, a, 0, n), runMixed(t, b, 0, n))
			if !bytes.Equal(a.ram, b.ram) {
				t.Error("memory differs")
			}
		}
	}
}

func TestStateMovesToAnotherMachine(t *testing.T) {
	for _, clock := range clocks(t) {
		whole := guest(t, clock, 0, mixed...)
		want := runMixed(t, whole, 0, 101)
		for _, cut := range []int{1, 2, 33, 50, 100} {
			first, second := guest(t, clock, 0, mixed...), guest(t, clock, 0)
			got := runMixed(t, first, 0, cut)
			copy(second.ram, first.ram)
			if err := second.SetState(got[cut-1].state); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(got[cut-1].state, second.mustState(t)); diff != "" {
				t.Errorf("state changed on the way:\n%s", diff)
			}
			got = append(got, runMixed(t, second, cut, 101-cut)...)
			compareRecords(t, want, got)
			if !bytes.Equal(whole.ram, second.ram) {
				t.Error("memory differs")
			}
		}
	}
}

func TestStateEncodesWhatItHolds(t *testing.T) {
	g := guest(t, vcpu.ClockExits, 0, 0xf4)
	want := tinyState(0)
	for i := range want.GPR {
		want.GPR[i] = 0x1111111111111111 * uint64(i)
	}
	for i := range want.FX[fxST : fxST+384] {
		want.FX[fxST+i] = byte(i)
	}
	for i := range 8 {
		clear(want.FX[fxST+16*i+10 : fxST+16*i+16])
	}
	want.FX[2], want.FX[3], want.FX[4] = 0x00, 0x38, 0xff
	binary.LittleEndian.PutUint32(want.FX[fxMXCSRMask:], mxcsrMask)
	want.STAR, want.LSTAR, want.CSTAR, want.SFMASK = 0x23001000000000, 0xffffffff81000000, 0xffffffff81000100, 0x47700
	want.KernelGSBase, want.SysenterCS, want.SysenterESP, want.SysenterEIP = 0xffff888000000000, 0x10, 0xfffffe0000001000, 0xffffffff81000200
	want.TSCAux, want.CR2, want.CR8 = 5, 0xdeadbeef, 3
	want.Seg[vcpu.FS].Base, want.Seg[vcpu.GS].Base = 0x7f0000001000, 0xffff888000001000
	want.DR[0], want.DR7 = 0x1234, 0x401
	want.Shadow, want.RFLAGS, want.Count = true, 0x3202, 77
	if err := g.SetState(want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, g.mustState(t)); diff != "" {
		t.Errorf("state came back changed:\n%s", diff)
	}
	if g.Interruptible() {
		t.Error("interruptible in a shadow")
	}
	want.Shadow = false
	if err := g.SetState(want); err != nil {
		t.Fatal(err)
	}
	if !g.Interruptible() {
		t.Error("not interruptible with IF=1")
	}
}

func TestRestoredPageTablesAreSeen(t *testing.T) {
	// mov al,[tinyMMIO-0x200000+tinyData... through a mapping that the machine changes in place.
	g := guest(t, vcpu.ClockExits, 0, 0x8b, 0x04, 0x25, 0x00, 0x00, 0x22, 0x00, 0xe7, 0x80, 0xf4) // mov eax,[0x220000]; out 0x80,eax
	entry := g.ram[tinyPages+0x2000+8 : tinyPages+0x2000+16]
	for _, want := range []struct {
		page  uint64 // the 2 MiB page behind 0x200000
		value uint32
	}{{0, 0xcafe}, {0, 0xbabe}} {
		binary.LittleEndian.PutUint64(entry, want.page|0x87)
		binary.LittleEndian.PutUint32(g.ram[tinyData:], want.value)
		if err := g.SetState(tinyState(0)); err != nil {
			t.Fatal(err)
		}
		if exit := g.next(t, vcpu.ReasonIO); binary.LittleEndian.Uint32(exit.Data) != want.value {
			t.Errorf("read % x, want %#x", exit.Data, want.value)
		}
	}
	binary.LittleEndian.PutUint64(entry, 0x200087)
	if err := g.SetState(tinyState(0)); err != nil {
		t.Fatal(err)
	}
	if exit := g.next(t, vcpu.ReasonMMIO); exit.Addr != 0x220000 {
		t.Errorf("the new mapping was not seen: %+v", exit)
	}
}

func TestSetStateForgetsAPendingRead(t *testing.T) {
	g := guest(t, vcpu.ClockExits, 0, 0xe4, 0x80, 0xf4) // in al,0x80
	g.next(t, vcpu.ReasonIO)
	s := tinyState(0)
	s.RIP, s.GPR[vcpu.RAX] = tinyCode+2, 0x55
	if err := g.SetState(s); err != nil {
		t.Fatal(err)
	}
	g.next(t, vcpu.ReasonHalt)
	if got := g.mustState(t); got.GPR[vcpu.RAX] != 0x55 || got.RIP != tinyCode+3 {
		t.Errorf("RAX %#x RIP %#x", got.GPR[vcpu.RAX], got.RIP)
	}
}

func TestDirtyLogNamesExactlyTheWrittenPages(t *testing.T) {
	for _, ring := range []uint16{0, 3} {
		g := guest(t, vcpu.ClockExits, ring,
			0xc6, 0x04, 0x25, 0x00, 0x00, 0x03, 0x00, 0x01, // mov byte [0x30000],1
			0xe6, 0x80,
			0xc6, 0x04, 0x25, 0xff, 0x2f, 0x06, 0x00, 0x01, // mov byte [0x62fff],1
			0x66, 0xc7, 0x04, 0x25, 0xff, 0x4f, 0x06, 0x00, 0x01, 0x02, // mov word [0x64fff],0x201
			0xe6, 0x80,
		)
		collect := func() (pages []uint64) {
			if err := g.CollectDirty(func(gpa uint64) { pages = append(pages, gpa) }); err != nil {
				t.Fatal(err)
			}
			return pages
		}
		collect() // what the test has written
		g.next(t, vcpu.ReasonIO)
		g.MemoryWritten(0x5fff, 2)
		got := collect()
		// Descriptor and page-table accesses may mark their pages (accessed bits).
		got = onlyAbove(got, 0x5000)
		if diff := cmp.Diff([]uint64{0x5000, 0x6000, 0x30000}, withoutTables(got)); diff != "" {
			t.Errorf("ring %d: dirty pages:\n%s", ring, diff)
		}
		g.next(t, vcpu.ReasonIO)
		if err := g.SetState(g.mustState(t)); err != nil { // keeps the log across new slots
			t.Fatal(err)
		}
		if err := g.refreshSlots(); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]uint64{0x62000, 0x64000, 0x65000}, withoutTables(collect())); diff != "" {
			t.Errorf("ring %d: dirty pages:\n%s", ring, diff)
		}
		if pages := collect(); len(pages) != 0 {
			t.Errorf("ring %d: %#x still dirty", ring, pages)
		}
	}
}

func onlyAbove(pages []uint64, from uint64) []uint64 {
	var out []uint64
	for _, p := range pages {
		if p >= from {
			out = append(out, p)
		}
	}
	return out
}

// withoutTables drops pages that are not written by a program's stores: page tables (accessed and dirty bits) and the code, which a KVM with shadow
// paging reports when it maps it writable for ring 3.
func withoutTables(pages []uint64) []uint64 {
	var out []uint64
	for _, p := range pages {
		if (p < tinyPages || p > tinyPages+0x2000) && p != tinyCode {
			out = append(out, p)
		}
	}
	return out
}

func TestStopsAreExact(t *testing.T) {
	g := guest(t, vcpu.ClockKernelInstructions, 0, calibrationCode(calibrationLoops)...)
	exit := new(vcpu.Exit)
	stop := uint64(0)
	for i := range 400 {
		stop += uint64(1 + i*i%97)
		if err := g.Run(stop, exit); err != nil {
			t.Fatal(err)
		}
		if exit.Reason != vcpu.ReasonStop || g.Count() != stop {
			t.Fatalf("asked for %d: %s at %d", stop, exit.Reason, g.Count())
		}
		if got, want := g.run.regs.rcx, loopsAt(vcpu.ClockKernelInstructions, calibrationLoops, stop); got != want {
			t.Fatalf("at %d: RCX %d, want %d", stop, got, want)
		}
		// Running to where we are changes nothing.
		if err := g.Run(stop, exit); err != nil || exit.Reason != vcpu.ReasonStop || g.Count() != stop {
			t.Fatalf("run to here: %v %s at %d", err, exit.Reason, g.Count())
		}
	}
	if err := g.Run(stop-1, exit); err == nil {
		t.Error("ran to the past")
	}
	if exit := g.next(t, vcpu.ReasonHalt); exit.PC != tinyCode+10 || g.Count() != 2*calibrationLoops+2 {
		t.Errorf("%+v at %d", exit, g.Count())
	}
}

func TestStopsDoNotChangeTheRun(t *testing.T) {
	whole := guest(t, vcpu.ClockKernelInstructions, 0, mixed...)
	want := runMixed(t, whole, 0, 101)
	last := want[len(want)-1]
	sliced := guest(t, vcpu.ClockKernelInstructions, 0, mixed...)
	exit := new(vcpu.Exit)
	n := 0
	for step := uint64(1); ; step = step%5 + 1 {
		stop := sliced.Count() + step
		if err := sliced.Run(stop, exit); err != nil {
			t.Fatal(err)
		}
		if exit.Reason == vcpu.ReasonStop {
			if sliced.Count() != stop {
				t.Fatalf("stopped at %d instead of %d", sliced.Count(), stop)
			}
			continue
		}
		if exit.Reason == vcpu.ReasonIO && !exit.Write {
			exit.Data[0] = byte(7 * n)
		}
		if exit.Reason != want[n].exit || exit.PC != want[n].pc || sliced.Count() != want[n].count {
			t.Fatalf("exit %d: %s at %#x count %d, want %+v", n, exit.Reason, exit.PC, sliced.Count(), want[n])
		}
		n++
		if exit.Reason == vcpu.ReasonHalt {
			break
		}
	}
	if diff := cmp.Diff(last.state, sliced.mustState(t)); diff != "" {
		t.Errorf("the end differs:\n%s", diff)
	}
}

func TestTwoEnginesOnOneThreadCountApart(t *testing.T) {
	a := guest(t, vcpu.ClockKernelInstructions, 0, calibrationCode(1000)...)
	b := guest(t, vcpu.ClockKernelInstructions, 0, calibrationCode(1000)...)
	exit := new(vcpu.Exit)
	for i := uint64(1); i <= 50; i++ {
		for _, step := range []struct {
			g    *tinyGuest
			stop uint64
		}{{a, 7 * i}, {b, 11 * i}} {
			if err := step.g.Run(step.stop, exit); err != nil || exit.Reason != vcpu.ReasonStop || step.g.Count() != step.stop {
				t.Fatalf("%v %s at %d, want %d", err, exit.Reason, step.g.Count(), step.stop)
			}
		}
	}
	for _, g := range []*tinyGuest{a, b} {
		if g.next(t, vcpu.ReasonHalt); g.Count() != 2002 {
			t.Errorf("count %d", g.Count())
		}
	}
}

func TestAnotherGoroutineMayContinue(t *testing.T) {
	g := guest(t, vcpu.ClockKernelInstructions, 0, calibrationCode(1000)...)
	for i := uint64(1); i <= 3; i++ {
		done := make(chan error)
		go func() {
			exit := new(vcpu.Exit)
			err := g.Run(100*i, exit)
			if err == nil && g.Count() != 100*i {
				err = errors.New("wrong count")
			}
			done <- err
		}()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	if g.next(t, vcpu.ReasonHalt); g.Count() != 2002 {
		t.Errorf("count %d", g.Count())
	}
}

func TestKick(t *testing.T) {
	for _, ring := range []uint16{0, 3} {
		g := guest(t, vcpu.ClockExits, ring, 0xeb, 0xfe) // jmp to itself
		g.Kick()
		if exit := g.next(t, vcpu.ReasonKick); exit.PC != tinyCode {
			t.Errorf("ring %d: kicked at %#x", ring, exit.PC)
		}
		for range 20 {
			timer := time.AfterFunc(2*time.Millisecond, g.Kick)
			g.next(t, vcpu.ReasonKick)
			timer.Stop()
		}
		g.mustState(t)
	}
}

func TestKicksAndSignalsDoNotChangeTheRun(t *testing.T) {
	for _, clock := range clocks(t) {
		quiet := guest(t, clock, 0, mixed...)
		want := runMixed(t, quiet, 0, 101)
		noisy := guest(t, clock, 0, mixed...)
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			for {
				select {
				case <-stop:
					return
				default:
				}
				noisy.Kick()
				// Signals to the process, as a terminal or a profiler sends them.
				_ = unix.Kill(unix.Getpid(), unix.SIGURG)
				runtime.Gosched()
			}
		}()
		var got []record
		kicks := 0
		for len(got) < len(want) {
			exit := new(vcpu.Exit)
			if err := noisy.Run(vcpu.NoStop, exit); err != nil {
				t.Fatal(err)
			}
			if exit.Reason == vcpu.ReasonKick {
				kicks++
				continue
			}
			r := record{exit: exit.Reason, pc: exit.PC, count: noisy.Count()}
			if exit.Reason == vcpu.ReasonIO {
				if !exit.Write {
					exit.Data[0] = byte(7 * len(got))
				}
				r.data = exit.Data[0]
			}
			r.state = noisy.mustState(t)
			got = append(got, r)
		}
		close(stop)
		<-stopped
		compareRecords(t, want, got)
		t.Logf("%s: %d kicks in %d exits", clock, kicks, len(got))
	}
}

func TestKickAfterCloseIsHarmless(t *testing.T) {
	traits := needKVM(t)
	g, err := newTinyGuest(vcpu.ClockExits, traits, 0, []byte{0xf4})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	g.Kick()
	if err := g.Run(vcpu.NoStop, new(vcpu.Exit)); !errors.Is(err, ErrClosed) {
		t.Errorf("Run after Close: %v", err)
	}
	if _, err := g.State(); !errors.Is(err, ErrClosed) {
		t.Errorf("State after Close: %v", err)
	}
}

func TestUserTSCFaultsUnderTSD(t *testing.T) {
	traits := needKVM(t)
	if traits.leaksTSC {
		t.Skip("this host cannot trap RDTSC at ring 3")
	}
	g, err := newTinyGuest(vcpu.ClockExits, traits, 3, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	for range 200 {
		trapped, err := g.trapsUserTSC()
		if err != nil || !trapped {
			t.Fatalf("trapped %v, %v", trapped, err)
		}
		_ = time.Now() // dies when the thread still runs with RDTSC disabled
	}
}

func TestInstructionsThatTheEmulatorLacks(t *testing.T) {
	popcnt := func(s *vcpu.State) { s.GPR[vcpu.RBX] = 0xf0f0 }
	for _, c := range []struct {
		name  string
		code  []byte
		setup func(*vcpu.State)
		check func(*testing.T, *vcpu.State, []byte)
	}{
		{"popcnt rax,rbx", []byte{0xf3, 0x48, 0x0f, 0xb8, 0xc3}, popcnt, func(t *testing.T, s *vcpu.State, _ []byte) {
			if s.GPR[vcpu.RAX] != 8 || s.RFLAGS&arithFlags != 0 {
				t.Errorf("RAX %d flags %#x", s.GPR[vcpu.RAX], s.RFLAGS)
			}
		}},
		{"popcnt ax,[rsp]", []byte{0x66, 0xf3, 0x0f, 0xb8, 0x04, 0x24}, func(s *vcpu.State) { s.GPR[vcpu.RAX] = 0xffffffff }, func(t *testing.T, s *vcpu.State, _ []byte) {
			if s.GPR[vcpu.RAX] != 0xffff0000 || s.RFLAGS&arithFlags != flagZF {
				t.Errorf("RAX %#x flags %#x", s.GPR[vcpu.RAX], s.RFLAGS)
			}
		}},
		{"stmxcsr [rsp-4]", []byte{0x0f, 0xae, 0x5c, 0x24, 0xfc}, nil, func(t *testing.T, _ *vcpu.State, ram []byte) {
			if v := binary.LittleEndian.Uint32(ram[tinyStack0-4:]); v != 0x1f80 {
				t.Errorf("MXCSR %#x", v)
			}
		}},
		{"ldmxcsr [rip]", []byte{0x0f, 0xae, 0x15, 1, 0, 0, 0, 0xf4, 0xc0, 0x9f, 0, 0}, nil, func(t *testing.T, s *vcpu.State, _ []byte) {
			if v := binary.LittleEndian.Uint32(s.FX[fxMXCSR:]); v != 0x9fc0 {
				t.Errorf("MXCSR %#x", v)
			}
		}},
		{"fwait", []byte{0x9b}, nil, func(t *testing.T, s *vcpu.State, _ []byte) {
			if s.RIP != tinyCode+2 {
				t.Errorf("RIP %#x", s.RIP)
			}
		}},
		{"fnstsw ax", []byte{0xdf, 0xe0}, func(s *vcpu.State) { s.FX[3] = 0x38; s.GPR[vcpu.RAX] = ^uint64(0) }, func(t *testing.T, s *vcpu.State, _ []byte) {
			if s.GPR[vcpu.RAX] != 0xffffffffffff3800 {
				t.Errorf("RAX %#x", s.GPR[vcpu.RAX])
			}
		}},
		{"fldcw [rip]", []byte{0xd9, 0x2d, 1, 0, 0, 0, 0xf4, 0x7f, 0x0f}, nil, func(t *testing.T, s *vcpu.State, _ []byte) {
			if v := binary.LittleEndian.Uint16(s.FX[:]); v != 0xf7f {
				t.Errorf("FCW %#x", v)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, clock := range clocks(t) {
				g := guest(t, clock, 0, append(append([]byte(nil), c.code...), 0xf4)...)
				s := tinyState(0)
				if c.setup != nil {
					c.setup(s)
				}
				if err := g.SetState(s); err != nil {
					t.Fatal(err)
				}
				g.next(t, vcpu.ReasonHalt)
				if clock == vcpu.ClockKernelInstructions && g.Count() != 2 {
					t.Errorf("counted as %d", g.Count())
				}
				c.check(t, g.mustState(t), g.ram)
			}
		})
	}
}

func TestInstructionsOutsideTheModelRaiseUD(t *testing.T) {
	for name, code := range map[string][]byte{
		"xgetbv": {0x0f, 0x01, 0xd0}, "clac": {0x0f, 0x01, 0xca}, "vzeroupper": {0xc5, 0xf8, 0x77}, "invpcid": {0x66, 0x0f, 0x38, 0x82, 0x00},
		"adcx": {0x66, 0x0f, 0x38, 0xf6, 0xc3}, "rdpkru": {0x0f, 0x01, 0xee}, "ud2": {0x0f, 0x0b}, "andn": {0xc4, 0xe2, 0x70, 0xf2, 0xc3},
	} {
		g := guest(t, vcpu.ClockExits, 0, code...)
		if exit := g.next(t, vcpu.ReasonIO); exit.Addr != tinyFaultPort || exit.Data[0] != 6 {
			t.Errorf("%s gave %+v", name, exit)
		}
	}
}

func TestFailureNamesTheInstruction(t *testing.T) {
	traits := needKVM(t)
	g := guest(t, vcpu.ClockExits, 0, 0x0f, 0x58, 0xc1, 0xf4) // addps xmm0,xmm1
	exit := new(vcpu.Exit)
	if err := g.Run(vcpu.NoStop, exit); err != nil {
		t.Fatal(err)
	}
	if exit.Reason == vcpu.ReasonHalt {
		t.Skip("this KVM runs ring 0 natively")
	}
	for _, want := range []string{"addps xmm0, xmm1", "0f 58 c1", "0x10000", "--cpu soft"} {
		if exit.Reason != vcpu.ReasonFailure || !strings.Contains(exit.Detail, want) {
			t.Errorf("%s %q does not contain %q", exit.Reason, exit.Detail, want)
		}
	}
	_ = traits
}

func TestErrorsSayWhatToDo(t *testing.T) {
	needKVM(t)
	for _, c := range []struct {
		config vcpu.Config
		want   string
	}{
		{vcpu.Config{Clock: vcpu.ClockInstructions}, "KVM cannot count"},
		{vcpu.Config{Clock: vcpu.ClockExits, Memory: []vcpu.Memory{{GPA: 1, Host: make([]byte, 4096)}}}, "not whole pages"},
		{vcpu.Config{Clock: vcpu.ClockExits, CPUID: make([]vcpu.CPUIDLeaf, 1000)}, "too many rows"},
	} {
		cpu, err := New(c.config)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v, want %q", err, c.want)
		}
		if cpu != nil {
			t.Error("a processor came with the error")
		}
	}
}

// The kernel's structures have these sizes (include/uapi/linux/kvm.h, arch/x86/include/uapi/asm/kvm.h); the ioctl numbers hold most of them too.
func TestLayoutsHaveTheKernelsSizes(t *testing.T) {
	for _, c := range []struct {
		name      string
		got, want uintptr
	}{
		{"kvm_regs", layoutSizes.regs, 144}, {"kvm_sregs", layoutSizes.sregs, 312}, {"kvm_vcpu_events", layoutSizes.events, 64},
		{"kvm_debugregs", layoutSizes.debugRegs, 128}, {"kvm_translation", layoutSizes.translation, 24}, {"kvm_guest_debug", layoutSizes.guestDebug, 72},
		{"kvm_enable_cap", layoutSizes.enableCap, 104}, {"kvm_msr_filter", layoutSizes.msrFilter, 392}, {"kvm_userspace_memory_region", layoutSizes.region, 32},
		{"offset of kvm_run.s", layoutSizes.runRegs, 304},
	} {
		if c.got != c.want {
			t.Errorf("%s is %d bytes, want %d", c.name, c.got, c.want)
		}
	}
}
