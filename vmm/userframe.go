package vmm

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"github.com/detvm/detvm/vcpu"
)

// UserFrame is where the running program stands: at the processor's own position, or where it entered the kernel. It is for a person who reads a report;
// nothing that is compared depends on it.
type UserFrame struct {
	RIP     uint64 `json:"rip"`
	Symbol  string `json:"symbol,omitempty"`   // the exported function there and the offset in it
	Module  string `json:"module,omitempty"`   // the shared library, if RIP is in one
	BuildID string `json:"build_id,omitempty"` // of program or library, in hexadecimal
	Address uint64 `json:"address,omitempty"`  // of RIP in its ELF file
}

// How Linux on x86-64 keeps the registers of a program that is in the kernel: in a struct pt_regs at the upper end of the task's kernel stack, which is
// THREAD_SIZE long and aligned (arch/x86/include/asm/ptrace.h, processor.h).
const (
	kernelStack      = 16 << 10
	taskStack        = 32 // task_struct.stack, behind thread_info and __state (include/linux/sched.h)
	ptRegsSize       = 21 * 8
	ptRegsRIP        = 16 * 8
	ptRegsCS         = 17 * 8
	ptRegsSS         = 20 * 8
	userCS, userSS   = 0x33, 0x2b
	privilegeOfCPL   = 3
	userAddressLimit = 1 << 47
)

// userFrame finds the program's position, or returns nil: the idle task and kernel threads have none.
func (m *Machine) userFrame(s *vcpu.State) *UserFrame {
	rip := s.RIP
	if s.Seg[vcpu.CS].Selector&privilegeOfCPL == 0 {
		if rip = m.kernelEntry(s); rip == 0 {
			return nil
		}
	}
	if rip >= userAddressLimit {
		return nil
	}
	f := &UserFrame{RIP: rip}
	if mod := m.findModule(s, rip); mod != nil {
		f.Address = rip - mod.bias
		f.Module, f.BuildID, f.Symbol = mod.name, hex.EncodeToString(mod.buildID), mod.function(f.Address)
	}
	return f
}

// kernelEntry is the RIP of the program that is in the kernel, or 0. Its registers are on the task's stack, which is the one in use unless an interrupt
// is handled; then the task knows it.
func (m *Machine) kernelEntry(s *vcpu.State) uint64 {
	word := func(va uint64) uint64 {
		if p := m.readVirtual(s, va, 8); len(p) == 8 {
			return binary.LittleEndian.Uint64(p)
		}
		return 0
	}
	tops := []uint64{s.GPR[vcpu.RSP]&^(kernelStack-1) + kernelStack}
	if at := m.task.layout.CurrentTask; at != 0 {
		tops = append(tops, word(word(at)+taskStack)+kernelStack)
	}
	for _, top := range tops {
		if regs := top - ptRegsSize; word(regs+ptRegsCS) == userCS && word(regs+ptRegsSS) == userSS {
			return word(regs + ptRegsRIP)
		}
	}
	return 0
}

// module is an ELF file that the guest has mapped, as far as its memory shows.
type module struct {
	read    func(va uint64, n int) []byte
	bias    uint64 // of guest addresses against those in the file
	buildID []byte
	name    string // DT_SONAME
	symbols uint64 // address of the dynamic symbols
	strings uint64 // and of their names, which linkers put behind them
}

// Bounds on what is read of the guest's memory, which may hold anything.
const (
	moduleSearch   = 64 << 20 // how far below an address its file's header may be
	moduleHeaders  = 64
	moduleDynamics = 128
	moduleNotes    = 4 << 10
	moduleSymbols  = 64 << 10
	moduleName     = 200
)

// findModule looks for the ELF header below an address, of a file one of whose segments holds it.
func (m *Machine) findModule(s *vcpu.State, va uint64) *module {
	read := func(va uint64, n int) []byte { return m.readVirtual(s, va, n) }
	for page := va &^ (pageSize - 1); page > 0 && va-page < moduleSearch; page -= pageSize {
		if !bytes.Equal(read(page, len(elf.ELFMAG)), []byte(elf.ELFMAG)) {
			continue
		}
		mod := &module{read: read}
		if mod.parse(page, va) {
			return mod
		}
	}
	return nil
}

// parse reads the headers at base and reports whether they are of a file that is mapped at va, too.
func (mod *module) parse(base, va uint64) bool {
	var h elf.Header64
	if !decode(mod.read(base, binary.Size(h)), &h) || h.Phentsize != uint16(binary.Size(elf.Prog64{})) || h.Phnum > moduleHeaders {
		return false
	}
	progs := make([]elf.Prog64, h.Phnum)
	if !decode(mod.read(base+h.Phoff, binary.Size(progs)), progs) {
		return false
	}
	found, first := false, true
	for _, p := range progs {
		if elf.ProgType(p.Type) != elf.PT_LOAD {
			continue
		}
		if first {
			mod.bias, first = base-p.Vaddr&^(pageSize-1), false
		}
		found = found || va-mod.bias-p.Vaddr < p.Memsz
	}
	if !found {
		return false
	}
	for _, p := range progs {
		switch elf.ProgType(p.Type) {
		case elf.PT_NOTE:
			mod.readNotes(mod.read(mod.bias+p.Vaddr, int(min(p.Filesz, moduleNotes))))
		case elf.PT_DYNAMIC:
			mod.readDynamic(mod.bias+p.Vaddr, int(min(p.Memsz/16, moduleDynamics)))
		}
	}
	return true
}

func decode(p []byte, v any) bool {
	return binary.Read(bytes.NewReader(p), binary.LittleEndian, v) == nil
}

// readNotes looks for NT_GNU_BUILD_ID.
func (mod *module) readNotes(p []byte) {
	const buildID = 3
	for len(p) >= 12 {
		name, desc, kind := uint64(binary.LittleEndian.Uint32(p)), uint64(binary.LittleEndian.Uint32(p[4:])), binary.LittleEndian.Uint32(p[8:])
		p = p[12:]
		skip := (name + 3) &^ 3
		if skip > uint64(len(p)) || desc > uint64(len(p))-skip {
			return
		}
		if kind == buildID && string(p[:name]) == "GNU\x00" && desc <= 64 {
			mod.buildID = bytes.Clone(p[skip : skip+desc])
		}
		p = p[min(skip+(desc+3)&^3, uint64(len(p))):]
	}
}

// readDynamic finds symbols and name. The loader has made the addresses absolute in libraries, not in programs that load themselves.
func (mod *module) readDynamic(va uint64, n int) {
	list := make([]elf.Dyn64, n)
	if !decode(mod.read(va, binary.Size(list)), list) {
		return
	}
	absolute := func(v uint64) uint64 {
		if v < mod.bias {
			return v + mod.bias
		}
		return v
	}
	soname := uint64(0)
	for _, d := range list {
		switch elf.DynTag(d.Tag) {
		case elf.DT_SYMTAB:
			mod.symbols = absolute(d.Val)
		case elf.DT_STRTAB:
			mod.strings = absolute(d.Val)
		case elf.DT_SONAME:
			soname = d.Val
		}
		if d.Tag == int64(elf.DT_NULL) {
			break
		}
	}
	if soname > 0 && mod.strings > 0 {
		mod.name = mod.text(soname)
	}
}

// text is a name in the string table.
func (mod *module) text(offset uint64) string {
	p := mod.read(mod.strings+offset, moduleName)
	i := bytes.IndexByte(p, 0)
	if i < 0 {
		return ""
	}
	return string(p[:i])
}

// function names the exported function that holds an address of the file, and the offset in it; "" when there is none.
func (mod *module) function(address uint64) string {
	if mod.symbols == 0 || mod.strings <= mod.symbols {
		return ""
	}
	const size, some = 24, 128
	for n := min((mod.strings-mod.symbols)/size, moduleSymbols); n > 0; {
		list := make([]elf.Sym64, min(n, some))
		n -= uint64(len(list))
		if !decode(mod.read(mod.symbols+n*size, len(list)*size), list) {
			continue // the guest has not touched this part of the file
		}
		for _, s := range list {
			if elf.ST_TYPE(s.Info) == elf.STT_FUNC && s.Shndx != 0 && address-s.Value < s.Size {
				return fmt.Sprintf("%s+%#x", mod.text(uint64(s.Name)), address-s.Value)
			}
		}
	}
	return ""
}
