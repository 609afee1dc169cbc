package soft

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/detvm/detvm/vcpu"
)

// newGuestOf makes a guest whose processor has another CPUID table than detvm-v1: change edits a copy of that.
func newGuestOf(t testing.TB, code []byte, change func([]vcpu.CPUIDLeaf) []vcpu.CPUIDLeaf) *guest {
	t.Helper()
	g := newGuest(t, vcpu.ClockInstructions, code)
	cpu, err := New(vcpu.Config{Memory: []vcpu.Memory{{GPA: 0, Host: g.ram}}, CPUID: change(slices.Clone(vcpu.DetvmV1(true))), Clock: vcpu.ClockInstructions})
	if err != nil {
		t.Fatal(err)
	}
	g.cpu = cpu.(*CPU)
	return g
}

// withSMEPAndSMAP adds leaf 7. The model has none, because hosts rewrite it.
func withSMEPAndSMAP(table []vcpu.CPUIDLeaf) []vcpu.CPUIDLeaf {
	table[0].EAX = 7
	return append(table, vcpu.CPUIDLeaf{Leaf: 7, HasSubleaf: true, EBX: 1<<7 | 1<<20})
}

func without1GiBPages(table []vcpu.CPUIDLeaf) []vcpu.CPUIDLeaf {
	for i := range table {
		if table[i].Leaf == 0x80000001 {
			table[i].EDX &^= 1 << 26
		}
	}
	return table
}

const (
	codeRead  = 0 // mov rax,[rdi]
	codeWrite = 1 // mov [rdi],rax
	codeJump  = 2 // jmp rdi
	pteG      = 1 << 8
	giant     = 0x40000000 // linear address of the 1 GiB page of the tests
)

var accessCode = [][]byte{{0x48, 0x8b, 0x07}, {0x48, 0x89, 0x07}, {0xff, 0xe7}}

// TestPaging accesses one page through tables of every depth (SDM vol. 3A, 4.5 and 4.6).
func TestPaging(t *testing.T) {
	const fine = ^uint64(0)
	tests := []struct {
		name   string
		tables func(g *guest) (va uint64)
		access int
		state  func(*vcpu.State)
		want   uint64 // error code of the page fault, or fine
	}{
		{"4 KiB page", small(pteP | pteW), codeWrite, nil, fine},
		{"2 MiB page", large(pteP|pteW|ptePS, 0), codeWrite, nil, fine},
		{"1 GiB page", huge(pteP | pteW | ptePS), codeWrite, nil, fine},
		{"1 GiB page, read-only", huge(pteP | ptePS), codeWrite, nil, pfErrP | pfErrW},
		{"1 GiB page, reserved address bit", huge(pteP | pteW | ptePS | 1<<13), codeRead, nil, pfErrP | pfErrRsvd},
		{"2 MiB page, reserved address bit", large(pteP|pteW|ptePS|1<<13, 0), codeRead, nil, pfErrP | pfErrRsvd},
		{"2 MiB page, PAT bit", large(pteP|pteW|ptePS|1<<12, 0), codeRead, nil, fine},
		{"4 KiB page, PAT bit", small(pteP | 1<<7), codeRead, nil, fine},
		{"4 KiB page beyond the physical addresses", small(pteP | 1<<40), codeRead, nil, pfErrP | pfErrRsvd},
		{"page size bit in the PML4", top(7 | ptePS), codeRead, nil, pfErrP | pfErrRsvd},
		{"nothing in the PML4", top(0), codeRead, nil, 0},

		{"NX", small(pteP | pteNX), codeJump, nil, pfErrP | pfErrI},
		{"NX of the directory", large(pteP|pteW|ptePS, pteNX), codeJump, nil, pfErrP | pfErrI},
		{"NX does not stop reads", small(pteP | pteNX), codeRead, nil, fine},
		{"NX without EFER.NXE is reserved", small(pteP | pteNX), codeRead, func(s *vcpu.State) { s.EFER &^= eferNXE }, pfErrP | pfErrRsvd},
		{"execution without EFER.NXE", small(0), codeJump, func(s *vcpu.State) { s.EFER &^= eferNXE }, 0},

		{"supervisor writes read-only without CR0.WP", small(pteP), codeWrite, func(s *vcpu.State) { s.CR0 &^= cr0WP }, fine},
		{"user writes read-only without CR0.WP", small(pteP | pteU), codeWrite, func(s *vcpu.State) { s.CR0 &^= cr0WP; toUser(s) }, pfErrP | pfErrW | pfErrU},
		{"user", small(pteP | pteW | pteU), codeWrite, toUser, fine},
		{"user, supervisor's directory", large(pteP|pteU|ptePS, pteU), codeRead, toUser, pfErrP | pfErrU},
		{"user, read-only directory", large(pteP|pteW|pteU|ptePS, pteW), codeWrite, toUser, pfErrP | pfErrW | pfErrU},
		{"user executes the supervisor's page", small(pteP), codeJump, toUser, pfErrP | pfErrU | pfErrI},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := newGuest(t, vcpu.ClockInstructions, append(slices.Clone(accessCode[tt.access]), 0x0f, 0x0b))
			va := tt.tables(g)
			s := guestState()
			s.GPR[vcpu.RDI] = va
			if tt.state != nil {
				tt.state(s)
			}
			g.set(s)
			checkAccess(t, g.trap(), va, tt.want, fine)
		})
	}
}

// checkAccess compares what an access ended with; after one that succeeds comes a UD2.
func checkAccess(t *testing.T, f trapFrame, va, want, fine uint64) {
	t.Helper()
	switch {
	case want == fine && f.vector != vecUD:
		t.Errorf("exception %d, error code %#x, at %#x; want none", f.vector, f.code, f.rip)
	case want != fine && (f.vector != vecPF || f.code != want || f.state.CR2 != va):
		t.Errorf("exception %d, error code %#x, CR2 %#x; want a page fault, %#x, %#x", f.vector, f.code, f.state.CR2, want, va)
	}
}

func toUser(s *vcpu.State) {
	u := userState()
	s.Seg = u.Seg
}

// small, large, huge and top map a page at each depth and return the linear address to try.

func small(bits uint64) func(*guest) uint64 {
	return func(g *guest) uint64 {
		va, _ := g.mapPage(guestData, bits)
		return va + 8
	}
}

func large(bits, directory uint64) func(*guest) uint64 {
	return func(g *guest) uint64 {
		const table, page = 0x9000, 0x200000
		at := guestPDPT + 8*(giant>>30)
		if directory == pteNX {
			g.put64(at, table|7|pteNX)
		} else {
			g.put64(at, (table|7)&^directory)
		}
		g.put64(table, page|bits)
		return giant + 16
	}
}

func huge(bits uint64) func(*guest) uint64 {
	return func(g *guest) uint64 {
		g.put64(guestPDPT+8*(giant>>30), bits)
		return giant + guestData + 24
	}
}

func top(entry uint64) func(*guest) uint64 {
	return func(g *guest) uint64 {
		if entry != 0 {
			entry |= guestPDPT
		}
		g.put64(guestPML4+8, entry)
		return 1<<39 + guestData
	}
}

func TestGiantPageIsTheRightMemory(t *testing.T) {
	g := newGuest(t, vcpu.ClockInstructions, []byte{0x48, 0x8b, 0x07, 0x48, 0x89, 0x47, 8, 0xf4}) // mov rax,[rdi]; mov [rdi+8],rax; hlt
	at := guestPDPT + 8*(giant>>30)
	g.put64(at, pteP|pteW|ptePS)
	g.put64(guestData+0x5678, 0x1122334455667788)
	s := guestState()
	s.GPR[vcpu.RDI] = giant + guestData + 0x5678
	g.set(s)
	g.halt()
	if v := binary.LittleEndian.Uint64(g.ram[guestData+0x5680:]); v != 0x1122334455667788 {
		t.Errorf("wrote %#x", v)
	}
	if e := binary.LittleEndian.Uint64(g.ram[at:]); e&(pteA|pteD) != pteA|pteD {
		t.Errorf("entry %#x: want accessed and dirty", e)
	}
	if e := binary.LittleEndian.Uint64(g.ram[guestPML4:]); e&(pteA|pteD) != pteA {
		t.Errorf("PML4 entry %#x: want accessed, not dirty", e)
	}
}

func TestGiantPageOfAProcessorWithout(t *testing.T) {
	g := newGuestOf(t, accessCode[codeRead], without1GiBPages)
	s := guestState()
	s.GPR[vcpu.RDI] = huge(pteP | ptePS)(g)
	g.set(s)
	checkAccess(t, g.trap(), s.GPR[vcpu.RDI], pfErrP|pfErrRsvd, ^uint64(0))
}

// TestTranslationsAfterInvalidation: after INVLPG, and for a page that is not global after a load of CR3, the new translation must be seen. (It may be
// before; global pages too.)
func TestTranslationsAfterInvalidation(t *testing.T) {
	for _, tt := range []struct {
		name       string
		invalidate []byte
		bits       uint64
	}{
		{"INVLPG", []byte{0x0f, 0x01, 0x3f}, 0},
		{"INVLPG of a global page", []byte{0x0f, 0x01, 0x3f}, pteG},
		{"load of CR3", []byte{0x0f, 0x20, 0xd9, 0x0f, 0x22, 0xd9}, 0}, // mov rcx,cr3; mov cr3,rcx
		// mov rcx,cr4; and cl,0x7f; mov cr4,rcx; or cl,0x80; mov cr4,rcx
		{"CR4.PGE off and on", []byte{0x0f, 0x20, 0xe1, 0x80, 0xe1, 0x7f, 0x0f, 0x22, 0xe1, 0x80, 0xc9, 0x80, 0x0f, 0x22, 0xe1}, pteG},
	} {
		t.Run(tt.name, func(t *testing.T) {
			// mov rax,[rdi]; mov [rsi],rdx (the entry); …; mov rbx,[rdi]; ud2
			code := asm([]byte{0x48, 0x8b, 0x07, 0x48, 0x89, 0x16}, tt.invalidate, []byte{0x48, 0x8b, 0x1f, 0x0f, 0x0b})
			g := newGuest(t, vcpu.ClockInstructions, code)
			va, pte := g.mapPage(guestData, pteP|tt.bits)
			g.put64(guestData, 111)
			g.put64(guestData+0x1000, 222)
			s := guestState()
			s.CR4 |= cr4PGE
			s.GPR[vcpu.RDI], s.GPR[vcpu.RSI], s.GPR[vcpu.RDX] = va, pte, guestData+0x1000|pteP|tt.bits
			g.set(s)
			if f := g.trap(); f.vector != vecUD || f.state.GPR[vcpu.RAX] != 111 || f.state.GPR[vcpu.RBX] != 222 {
				t.Errorf("exception %d; read %d and %d, want 111 and 222", f.vector, f.state.GPR[vcpu.RAX], f.state.GPR[vcpu.RBX])
			}
		})
	}
}

// TestSMEPAndSMAP: SDM vol. 3A, 4.6.1. The model detvm-v1 has neither, since KVM hosts cannot all be made to show them; the walker does.
func TestSMEPAndSMAP(t *testing.T) {
	const fine = ^uint64(0)
	smap := func(s *vcpu.State) { s.CR4 |= cr4SMAP }
	withAC := func(s *vcpu.State) { s.CR4 |= cr4SMAP; s.RFLAGS |= flagAC }
	smep := func(s *vcpu.State) { s.CR4 |= cr4SMEP }
	tests := []struct {
		name   string
		bits   uint64
		access int
		state  func(*vcpu.State)
		want   uint64
	}{
		{"supervisor executes a user page", pteP | pteU, codeJump, smep, pfErrP | pfErrI},
		{"without NX in EFER too", pteP | pteU, codeJump, func(s *vcpu.State) { s.CR4 |= cr4SMEP; s.EFER &^= eferNXE }, pfErrP | pfErrI},
		{"supervisor executes its own page", pteP, codeJump, smep, fine},
		{"user executes a user page", pteP | pteU, codeJump, func(s *vcpu.State) { s.CR4 |= cr4SMEP; toUser(s) }, fine},
		{"supervisor reads a user page", pteP | pteU, codeRead, smap, pfErrP},
		{"supervisor writes a user page", pteP | pteU | pteW, codeWrite, smap, pfErrP | pfErrW},
		{"without CR0.WP too", pteP | pteU, codeWrite, func(s *vcpu.State) { s.CR4 |= cr4SMAP; s.CR0 &^= cr0WP }, pfErrP | pfErrW},
		{"supervisor reads its own page", pteP, codeRead, smap, fine},
		{"supervisor reads a user page with AC", pteP | pteU, codeRead, withAC, fine},
		{"supervisor writes a user page with AC", pteP | pteU | pteW, codeWrite, withAC, fine},
		{"read-only stays read-only with AC", pteP | pteU, codeWrite, withAC, pfErrP | pfErrW},
		{"user reads a user page", pteP | pteU, codeRead, func(s *vcpu.State) { s.CR4 |= cr4SMAP; toUser(s) }, fine},
		{"supervisor executes a user page with SMAP", pteP | pteU, codeJump, smap, fine},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := newGuestOf(t, append(slices.Clone(accessCode[tt.access]), 0x0f, 0x0b), withSMEPAndSMAP)
			supervisorOnly(g)
			va, _ := g.mapPage(guestData, tt.bits)
			g.put64(guestData+8, 0x0b0f)
			s := guestState()
			s.GPR[vcpu.RDI], s.GPR[vcpu.RAX] = va+8, 0x0b0f // UD2, for those that jump
			tt.state(s)
			if s.Seg[vcpu.CS].Selector&3 == 3 {
				openToUser(g, s)
			}
			g.set(s)
			checkAccess(t, g.trap(), va+8, tt.want, fine)
		})
	}
}

// supervisorOnly takes the guest's low memory, with its code, tables and stacks, away from ring 3.
func supervisorOnly(g *guest) { g.put64(guestPD, ptePS|pteP|pteW) }

// openToUser gives ring 3 the low memory back, with the code, and moves what handlers need to memory that is the supervisor's alone.
func openToUser(g *guest, s *vcpu.State) {
	const high = 0x600000
	copy(g.ram[high:], g.ram[:0x8000])
	for v := range 256 {
		gate := guestIDT + 16*v
		binary.LittleEndian.PutUint16(g.ram[high+gate+6:], high>>16) // the handlers lie below 64 KiB
	}
	s.GDTR.Base, s.IDTR.Base, s.TR.Base = high+guestGDT, high+guestIDT, high+guestTSS
	g.put64(high+guestTSS+0x24, high+0x100000)
	g.put64(guestPD, ptePS|7)
	g.put64(guestPD+8*(high>>21), high|ptePS|pteP|pteW)
}

func TestSTACAndCLAC(t *testing.T) {
	// stac; mov rax,[rdi]; clac; mov rbx,[rdi]
	code := []byte{0x0f, 0x01, 0xcb, 0x48, 0x8b, 0x07, 0x0f, 0x01, 0xca, 0x48, 0x8b, 0x1f}
	g := newGuestOf(t, code, withSMEPAndSMAP)
	supervisorOnly(g)
	va, _ := g.mapPage(guestData, pteP|pteU)
	g.put64(guestData, 111)
	s := guestState()
	s.CR4 |= cr4SMAP
	s.GPR[vcpu.RDI] = va
	g.set(s)
	f := g.trap()
	if f.vector != vecPF || f.code != pfErrP || f.rip != guestCode+9 || f.state.GPR[vcpu.RAX] != 111 || f.flags&flagAC != 0 {
		t.Errorf("exception %d, code %#x, at +%#x, RAX %d, flags %#x", f.vector, f.code, f.rip-guestCode, f.state.GPR[vcpu.RAX], f.flags)
	}

	// They are undefined at ring 3, and on the model.
	for _, user := range []bool{false, true} {
		g := newGuest(t, vcpu.ClockInstructions, code)
		s := guestState()
		if user {
			g = newGuestOf(t, code, withSMEPAndSMAP)
			toUser(s)
		}
		g.set(s)
		if f := g.trap(); f.vector != vecUD || f.rip != guestCode {
			t.Errorf("ring 3 %v: exception %d at +%#x, want #UD", user, f.vector, f.rip-guestCode)
		}
	}
}

// TestImplicitAccessesIgnoreAC: accesses to descriptor tables are the supervisor's, whatever the privilege level, and AC does not open user pages to them.
func TestImplicitAccessesIgnoreAC(t *testing.T) {
	for _, tt := range []struct {
		name string
		bits uint64
		user bool
		want uint64
	}{
		{"GDT in a user page", pteP | pteW | pteU, false, vecPF},
		{"GDT in a user page, from ring 3", pteP | pteW | pteU, true, vecPF},
		{"GDT in a supervisor page, from ring 3", pteP | pteW, true, vecUD},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newGuestOf(t, []byte{0x8e, 0xd8, 0x0f, 0x0b}, withSMEPAndSMAP) // mov ds,eax; ud2
			supervisorOnly(g)
			va, pte := g.mapPage(guestGDT, tt.bits)
			// The handlers' descriptors lie in the supervisor's memory: only selSpare is looked up in the page, as part of an LDT.
			g.put64(int(pte), guestData|tt.bits)
			g.put64(guestData+8, 0x00cff2000000ffff) // accessed bit clear: it is written, too
			s := guestState()
			s.LDTR = vcpu.Segment{Selector: 0x48, Base: va, Limit: 0xf, Attr: 0x82}
			s.CR4 |= cr4SMAP
			s.RFLAGS |= flagAC
			s.GPR[vcpu.RAX] = 0xf
			if tt.user {
				toUser(s)
				openToUser(g, s)
			}
			g.set(s)
			f := g.trap()
			if f.vector != tt.want || f.vector == vecPF && (f.code != pfErrP || f.state.CR2 != va+8) {
				t.Errorf("exception %d, code %#x, CR2 %#x; want %d at %#x", f.vector, f.code, f.state.CR2, tt.want, va+8)
			}
			if e := binary.LittleEndian.Uint64(g.ram[guestData+8:]); e>>40&1 != 0 == (tt.want == vecPF) {
				t.Errorf("descriptor is %#x", e)
			}
		})
	}
}
