package kvm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/detvm/detvm/vcpu"
)

// Bounds of the search for CPUID leaves at ring 3: no processor has more leaves in a range or subleaves in a leaf, and a strange one must not make it long.
const (
	maxUserLeaves    = 64
	maxUserSubleaves = 64
)

// indexedLeaves are the leaves whose answer depends on ECX, with the highest subleaf to ask for (SDM vol. 2A and APM vol. 3, CPUID). A leaf that is not listed is
// asked once.
var indexedLeaves = map[uint32]uint32{
	4: 7, 7: 2, 0xb: 2, 0xd: maxUserSubleaves - 1, 0xf: 1, 0x10: 3, 0x12: 3, 0x14: 1, 0x17: 3, 0x18: 7, 0x1d: 1, 0x1e: 1, 0x1f: 5, 0x20: 1, 0x23: 5, 0x24: 1,
	0x8000001d: 7, 0x80000020: 3, 0x80000026: 4,
}

// Model finds out which processor a guest of this host sees: the CPUID table that KVM makes of detvm-v1, and what ring 3 does otherwise. It runs a tiny
// guest for a few milliseconds. What CPUID answers at ring 3 can depend on which processor of the host runs the guest: [Engine] binds its thread to one,
// and so does this measurement. It must not run while the calling goroutine is inside Run.
func Model() (table []vcpu.CPUIDLeaf, ring3 *vcpu.Ring3, err error) {
	traits, err := measureTraits()
	if err != nil {
		return nil, nil, err
	}
	g, err := newTinyGuest(vcpu.ClockExits, traits, 3, nil)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, g.Close()) }()
	ring3, err = g.measureRing3()
	return g.CPUID(), ring3, err
}

func (g *tinyGuest) measureRing3() (r *vcpu.Ring3, err error) {
	r = new(vcpu.Ring3)
	if r.SyscallStays, err = g.syscallStays(); err != nil {
		return nil, err
	}
	model, err := g.showsModelCPUID()
	if err != nil || model {
		return r, err
	}
	r.CPUID, err = g.userTable()
	return r, err
}

// syscallStays sees at which privilege level the code at LSTAR runs.
func (g *tinyGuest) syscallStays() (bool, error) {
	const entry = 0x100
	copy(g.ram[tinyCode:], []byte{0x0f, 0x05})                      // syscall
	copy(g.ram[tinyCode+entry:], []byte{0xe6, tinyFaultPort, 0xf4}) // out port, al; hlt
	s := tinyState(3)
	s.LSTAR, s.STAR = tinyCode+entry, selKernelCode<<32
	if err := g.SetState(s); err != nil {
		return false, err
	}
	if _, err := g.until(vcpu.ReasonIO); err != nil {
		return false, fmt.Errorf("execute SYSCALL at ring 3: %w", err)
	}
	s, err := g.State()
	if err != nil {
		return false, err
	}
	return s.Seg[vcpu.CS].Selector&3 == 3, nil
}

// userTable asks for every CPUID row that ring 3 can see.
func (g *tinyGuest) userTable() ([]vcpu.CPUIDLeaf, error) {
	ranges, err := g.userCPUID([]vcpu.CPUIDLeaf{{Leaf: 0}, {Leaf: 0x40000000}, {Leaf: 0x80000000}})
	if err != nil {
		return nil, err
	}
	var table []vcpu.CPUIDLeaf
	for _, r := range ranges {
		if r.EAX < r.Leaf { // the range does not exist
			continue
		}
		for leaf := r.Leaf; leaf <= min(r.EAX, r.Leaf+maxUserLeaves); leaf++ {
			last, indexed := indexedLeaves[leaf]
			for sub := uint32(0); sub <= last; sub++ {
				table = append(table, vcpu.CPUIDLeaf{Leaf: leaf, Subleaf: sub, HasSubleaf: indexed})
			}
		}
	}
	if table, err = g.userCPUID(table); err != nil {
		return nil, err
	}
	// An absent row answers zeros anyway.
	return slices.DeleteFunc(table, func(l vcpu.CPUIDLeaf) bool { return l.EAX|l.EBX|l.ECX|l.EDX == 0 }), nil
}

// userCPUID executes CPUID at ring 3 for each row, and fills it in.
func (g *tinyGuest) userCPUID(rows []vcpu.CPUIDLeaf) ([]vcpu.CPUIDLeaf, error) {
	const size = 24 // leaf, subleaf, EAX, EBX, ECX, EDX
	if len(rows)*size > tinyStack0-tinyData-pageSize {
		return nil, fmt.Errorf("%d rows of CPUID do not fit", len(rows))
	}
	code := []byte{
		0xbe, 0, 0, 2, 0, // mov esi, tinyData
		0x41, 0xb8, 0, 0, 0, 0, // mov r8d, len(rows)
		0x8b, 0x06, // loop: mov eax, [rsi]
		0x8b, 0x4e, 0x04, // mov ecx, [rsi+4]
		0x0f, 0xa2, // cpuid
		0x89, 0x46, 0x08, 0x89, 0x5e, 0x0c, 0x89, 0x4e, 0x10, 0x89, 0x56, 0x14, // mov [rsi+8], eax; and so on
		0x48, 0x83, 0xc6, size, // add rsi, size
		0x41, 0xff, 0xc8, // dec r8d
		0x75, 0xe4, // jnz loop
		0xe6, tinyFaultPort, // out port, al
	}
	binary.LittleEndian.PutUint32(code[1:], tinyData)
	binary.LittleEndian.PutUint32(code[7:], uint32(len(rows)))
	data := g.ram[tinyData:]
	for i, r := range rows {
		binary.LittleEndian.PutUint32(data[size*i:], r.Leaf)
		binary.LittleEndian.PutUint32(data[size*i+4:], r.Subleaf)
	}
	if err := g.load(3, code); err != nil {
		return nil, err
	}
	if _, err := g.until(vcpu.ReasonIO); err != nil {
		return nil, fmt.Errorf("execute CPUID at ring 3: %w", err)
	}
	for i := range rows {
		word := func(n int) uint32 { return binary.LittleEndian.Uint32(data[size*i+4*n:]) }
		r := &rows[i]
		r.EAX, r.EBX, r.ECX, r.EDX = word(2), word(3), word(4), word(5)
	}
	return rows, nil
}
