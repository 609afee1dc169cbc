package kvm

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/detvm/detvm/vcpu"
	"golang.org/x/sys/unix"
)

// Where things lie in a tiny guest. Linear addresses equal physical ones; every page may be used by ring 3.
const (
	tinySize   = 2 << 20
	tinyGDT    = 0x1000
	tinyIDT    = 0x2000
	tinyTSS    = 0x3000
	tinyStubs  = 0x4000 // one 16-byte stub per vector
	tinyPages  = 0x9000 // PML4, PDPT, PD
	tinyCode   = 0x10000
	tinyData   = 0x20000
	tinyStack0 = 0x40000 // grows down, ring 0
	tinyStack3 = 0x50000 // grows down, ring 3
	tinyMMIO   = tinySize

	// Every exception stub writes its vector to this port and halts.
	tinyFaultPort = 0xf4

	selKernelCode = 0x10
	selKernelData = 0x18
	selUserData   = 0x2b
	selUserCode   = 0x33
	selTSS        = 0x40
)

// tinyGuest is a machine of a few pages in long mode that runs hand-assembled code to measure what the host does with it.
type tinyGuest struct {
	*Engine
	ram []byte
}

// newTinyGuest makes a guest with code at tinyCode, about to run at ring 0 or 3.
func newTinyGuest(clock vcpu.Clock, traits hostTraits, ring uint16, code []byte) (*tinyGuest, error) {
	ram, err := unix.Mmap(-1, 0, tinySize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("allocate guest memory: %w", err)
	}
	g := &tinyGuest{ram: ram}
	config := vcpu.Config{Memory: []vcpu.Memory{{GPA: 0, Host: ram}}, CPUID: vcpu.DetvmV1(false), Clock: clock}
	if g.Engine, err = newEngine(config, traits); err != nil {
		return nil, errors.Join(err, unix.Munmap(ram))
	}
	writeTinySystem(ram)
	if err := g.load(ring, code); err != nil {
		return nil, errors.Join(err, g.Close())
	}
	return g, nil
}

// load puts other code in place and starts over.
func (g *tinyGuest) load(ring uint16, code []byte) error {
	copy(g.ram[tinyCode:tinyData], code)
	return g.SetState(tinyState(ring))
}

func (g *tinyGuest) Close() error {
	return errors.Join(g.Engine.Close(), unix.Munmap(g.ram))
}

// writeTinySystem lays out descriptor tables, page tables and exception stubs.
func writeTinySystem(ram []byte) {
	put := func(at int, v uint64) { binary.LittleEndian.PutUint64(ram[at:], v) }
	put(tinyGDT+selKernelCode, 0x00af9b000000ffff)
	put(tinyGDT+selKernelData, 0x00cf93000000ffff)
	put(tinyGDT+selUserData&^7, 0x00cff3000000ffff)
	put(tinyGDT+selUserCode&^7, 0x00affb000000ffff)
	put(tinyGDT+selTSS, 0x00008b0000000067|tinyTSS<<16)
	put(tinyTSS+4, tinyStack0) // RSP0
	const present, writable, user, large = 1, 2, 4, 1 << 7
	put(tinyPages, (tinyPages+0x1000)|present|writable|user)
	put(tinyPages+0x1000, (tinyPages+0x2000)|present|writable|user)
	for i := range 512 { // the first GiB, so that addresses beyond the RAM are MMIO
		put(tinyPages+0x2000+8*i, uint64(i)<<21|present|writable|user|large)
	}
	for v := range 256 {
		stub := tinyStubs + 16*v
		copy(ram[stub:], []byte{0xb0, byte(v), 0xe6, tinyFaultPort, 0xf4, 0xeb, 0xfd}) // mov al,v; out port,al; hlt; jmp to the hlt
		put(tinyIDT+16*v, uint64(stub&0xffff)|selKernelCode<<16|0x8e<<40|uint64(stub>>16)<<48)
	}
}

// tinyState is the state in which a tiny guest starts: long mode, interrupts off, I/O allowed at every ring.
func tinyState(ring uint16) *vcpu.State {
	s := &vcpu.State{
		RIP: tinyCode, RFLAGS: 3<<12 | 2,
		CR0: 0x80050033, CR3: tinyPages, CR4: 0x6a0, EFER: 0xd01,
		GDTR: vcpu.DescriptorTable{Base: tinyGDT, Limit: 0x4f}, IDTR: vcpu.DescriptorTable{Base: tinyIDT, Limit: 0xfff},
		TR:  vcpu.Segment{Base: tinyTSS, Limit: 0x67, Selector: selTSS, Attr: 0x8b},
		DR6: 0xffff0ff0, DR7: 0x400, PAT: 0x0007040600070406, LDTR: vcpu.Segment{Unusable: true},
		MiscEnable: 1,
	}
	code, data := vcpu.Segment{Limit: 0xffffffff, Selector: selKernelCode, Attr: 0xa09b}, vcpu.Segment{Limit: 0xffffffff, Selector: selKernelData, Attr: 0xc093}
	s.GPR[vcpu.RSP] = tinyStack0
	if ring == 3 {
		code.Selector, code.Attr = selUserCode, 0xa0fb
		data.Selector, data.Attr = selUserData, 0xc0f3
		s.GPR[vcpu.RSP] = tinyStack3
	}
	for i := range s.Seg {
		s.Seg[i] = data
	}
	s.Seg[vcpu.CS] = code
	binary.LittleEndian.PutUint16(s.FX[0:], 0x37f)
	binary.LittleEndian.PutUint32(s.FX[fxMXCSR:], 0x1f80)
	return s
}
