package vmm

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/bobuhiro11/gokvm/bootparam"

	"github.com/detvm/detvm/vcpu"
)

// Where boot structures lie in guest memory (docs/machine.md, "Memory").
const (
	gdtAddr        = 0x500
	bootParamsAddr = 0x7000
	pageTableAddr  = 0x9000
	cmdlineAddr    = 0x20000
	cmdlineMax     = 4096
	legacyHole     = 0x9fc00
	highLoadAddr   = 0x100000

	loaderUndefined = 0xff   // boot_params.hdr.type_of_loader for loaders without an ID
	bootFlag        = 0xaa55 // boot_params.hdr.boot_flag
	bootProtocol    = 0x020c // 2.12: 64-bit entry, what we pass for a vmlinux that has no setup header of its own
	entry64Offset   = 0x200  // 64-bit entry point of a bzImage's protected-mode part (boot.rst, 64-bit boot protocol)
	xloadKernel64   = 1 << 0 // hdr.xloadflags: has that entry point
	minBzProtocol   = 0x020c
)

// load puts a kernel, its command line and the initramfs into RAM and returns the processor state that enters the kernel.
func (m *memory) load(kernel, initramfs []byte, cmdline string) (*vcpu.State, error) {
	if len(cmdline) >= cmdlineMax {
		return nil, fmt.Errorf("kernel command line of %d bytes: at most %d", len(cmdline), cmdlineMax-1)
	}
	if err := m.store(cmdlineAddr, append([]byte(cmdline), 0)); err != nil {
		return nil, fmt.Errorf("store the kernel command line: %w", err)
	}
	params, entry, kernelEnd, err := m.loadKernel(kernel)
	if err != nil {
		return nil, err
	}
	low := min(m.size(), lowMemoryEnd)
	initrdAddr := (low - uint64(len(initramfs))) &^ (pageSize - 1)
	if uint64(len(initramfs)) > low || initrdAddr < kernelEnd {
		return nil, fmt.Errorf("kernel (ends at %d MiB) and initramfs (%d MiB) do not fit into %d MiB of guest memory: give --mem more", kernelEnd>>20, len(initramfs)>>20, low>>20)
	}
	if err := m.store(initrdAddr, initramfs); err != nil {
		return nil, fmt.Errorf("store the initramfs: %w", err)
	}

	h := &params.Hdr
	h.TypeOfLoader = loaderUndefined
	h.LoadFlags |= bootparam.LoadedHigh
	h.RamdiskImage, h.RamdiskSize = uint32(initrdAddr), uint32(len(initramfs))
	h.CmdlinePtr, h.CmdlineSize = cmdlineAddr, uint32(len(cmdline))
	params.AddE820Entry(0, legacyHole, bootparam.E820Ram)
	params.AddE820Entry(legacyHole, highLoadAddr-legacyHole, bootparam.E820Reserved)
	params.AddE820Entry(highLoadAddr, low-highLoadAddr, bootparam.E820Ram)
	if m.size() > low {
		params.AddE820Entry(highMemory, m.size()-low, bootparam.E820Ram)
	}
	p, err := params.Bytes()
	if err != nil {
		return nil, fmt.Errorf("encode boot parameters: %w", err)
	}
	if err := m.store(bootParamsAddr, p); err != nil {
		return nil, fmt.Errorf("store boot parameters: %w", err)
	}
	return m.entryState(entry)
}

// loadKernel places an ELF vmlinux or a bzImage and returns boot parameters to complete, the 64-bit entry point and where the kernel ends.
func (m *memory) loadKernel(kernel []byte) (*bootparam.BootParam, uint64, uint64, error) {
	if bytes.HasPrefix(kernel, []byte(elf.ELFMAG)) {
		entry, end, err := m.loadVmlinux(kernel)
		params := &bootparam.BootParam{}
		params.Hdr.BootFlag, params.Hdr.Header, params.Hdr.Version = bootFlag, bootparam.MagicSignature, bootProtocol
		return params, entry, end, err
	}
	params, err := bootparam.New(bytes.NewReader(kernel))
	if err != nil {
		return nil, 0, 0, fmt.Errorf("kernel is neither an ELF vmlinux nor a bzImage: %w", err)
	}
	entry, end, err := m.loadBzImage(kernel, &params.Hdr)
	return params, entry, end, err
}

// loadVmlinux copies the loadable segments to their physical addresses.
func (m *memory) loadVmlinux(kernel []byte) (entry, end uint64, err error) {
	f, err := elf.NewFile(bytes.NewReader(kernel))
	if err != nil {
		return 0, 0, fmt.Errorf("read the kernel's ELF headers: %w", err)
	}
	if f.Machine != elf.EM_X86_64 || f.Type != elf.ET_EXEC {
		return 0, 0, fmt.Errorf("kernel is ELF %v for %v: want an x86-64 executable", f.Type, f.Machine)
	}
	for _, p := range f.Progs {
		if p.Type != elf.PT_LOAD {
			continue
		}
		dst, ok := m.Slice(p.Paddr, p.Memsz)
		if !ok || p.Paddr < highLoadAddr || p.Filesz > p.Memsz {
			return 0, 0, fmt.Errorf("kernel segment at %#x (%d MiB) does not fit into guest memory: give --mem more", p.Paddr, p.Memsz>>20)
		}
		if _, err := io.ReadFull(p.Open(), dst[:p.Filesz]); err != nil {
			return 0, 0, fmt.Errorf("read the kernel segment for %#x: %w", p.Paddr, err)
		}
		m.Written(p.Paddr, p.Memsz)
		end = max(end, p.Paddr+p.Memsz)
	}
	if end == 0 {
		return 0, 0, errors.New("kernel has no loadable segment")
	}
	return f.Entry, end, nil
}

// loadBzImage copies the protected-mode part to where the header prefers it; the guest decompresses it by itself.
func (m *memory) loadBzImage(kernel []byte, h *bootparam.SetupHeader) (entry, end uint64, err error) {
	if h.Version < minBzProtocol || h.XloadFlags&xloadKernel64 == 0 {
		return 0, 0, fmt.Errorf("bzImage has boot protocol %#x without a 64-bit entry point: want a 64-bit kernel of 3.8 or later", h.Version)
	}
	setup := int(h.SetupSects)
	if setup == 0 {
		setup = 4 // boot.rst: 0 means 4, for old kernels
	}
	start := (setup + 1) * 512
	if start+entry64Offset >= len(kernel) {
		return 0, 0, errors.New("bzImage is cut short")
	}
	addr := h.PrefAddress
	if err := m.store(addr, kernel[start:]); err != nil {
		return 0, 0, fmt.Errorf("load the bzImage at %#x: %w (give --mem more)", addr, err)
	}
	h.Code32Start = uint32(addr)
	return addr + entry64Offset, addr + max(uint64(h.InitSize), uint64(len(kernel)-start)), nil
}

// Descriptors of the boot GDT and the attributes that they stand for (SDM vol. 3A, 3.4.5).
const (
	bootCS, bootDS = 0x10, 0x18
	attrCode64     = 0xa09b // present, DPL 0, code, execute/read, accessed; L, G
	attrData       = 0xc093 // present, DPL 0, data, read/write, accessed; D/B, G
	attrTSS        = 0x808b // present, 64-bit busy TSS; G
	gdtCode64      = 0x00af9b000000ffff
	gdtData        = 0x00cf93000000ffff

	cr0PE, cr0MP, cr0ET, cr0NE, cr0WP, cr0PG = 1 << 0, 1 << 1, 1 << 4, 1 << 5, 1 << 16, 1 << 31
	cr4PAE                                   = 1 << 5
	eferLME, eferLMA                         = 1 << 8, 1 << 10
	rflagsReserved                           = 1 << 1
	dr6Reset, dr7Reset                       = 0xffff0ff0, 0x400
	patReset                                 = 0x0007040600070406
	fcwReset, mxcsrReset, mxcsrMask          = 0x037f, 0x1f80, 0xffff
	miscEnableFastStrings                    = 1
)

// entryState writes the boot GDT and an identity map of the first 4 GiB, and returns the state that the 64-bit boot protocol asks for.
func (m *memory) entryState(entry uint64) (*vcpu.State, error) {
	var gdt [32]byte
	binary.LittleEndian.PutUint64(gdt[bootCS:], gdtCode64)
	binary.LittleEndian.PutUint64(gdt[bootDS:], gdtData)
	if err := m.store(gdtAddr, gdt[:]); err != nil {
		return nil, fmt.Errorf("store the boot GDT: %w", err)
	}
	const present, writable, large = 1, 2, 0x80
	tables := make([]byte, 6*pageSize) // PML4, PDPT, 4 page directories
	entryAt := func(i int, v uint64) { binary.LittleEndian.PutUint64(tables[i*8:], v) }
	entryAt(0, pageTableAddr+pageSize|present|writable)
	for gib := range 4 {
		entryAt(512+gib, uint64(pageTableAddr+(2+gib)*pageSize)|present|writable)
	}
	for i := range 4 * 512 {
		entryAt(2*512+i, uint64(i)<<21|present|writable|large)
	}
	if err := m.store(pageTableAddr, tables); err != nil {
		return nil, fmt.Errorf("store the boot page tables: %w", err)
	}

	s := resetState()
	s.RIP = entry
	s.GPR[vcpu.RSI] = bootParamsAddr
	s.CR3 = pageTableAddr
	return s, nil
}

// resetState is a processor in long mode with flat segments and everything else as after reset (SDM vol. 3A, table 10-1).
func resetState() *vcpu.State {
	flat := func(selector, attr uint16) vcpu.Segment {
		return vcpu.Segment{Limit: 0xffffffff, Selector: selector, Attr: attr}
	}
	s := &vcpu.State{
		RFLAGS: rflagsReserved,
		TR:     vcpu.Segment{Limit: 0xffff, Attr: attrTSS},
		LDTR:   vcpu.Segment{Unusable: true},
		GDTR:   vcpu.DescriptorTable{Base: gdtAddr, Limit: 31},
		IDTR:   vcpu.DescriptorTable{},
		CR0:    cr0PE | cr0MP | cr0ET | cr0NE | cr0WP | cr0PG,
		CR4:    cr4PAE, EFER: eferLME | eferLMA,
		DR6: dr6Reset, DR7: dr7Reset, PAT: patReset, MiscEnable: miscEnableFastStrings,
	}
	for i := range s.Seg {
		s.Seg[i] = flat(bootDS, attrData)
	}
	s.Seg[vcpu.CS] = flat(bootCS, attrCode64)
	binary.LittleEndian.PutUint16(s.FX[0:], fcwReset)
	binary.LittleEndian.PutUint32(s.FX[24:], mxcsrReset)
	binary.LittleEndian.PutUint32(s.FX[28:], mxcsrMask)
	return s
}
