package vmm

import (
	"bytes"
	"fmt"

	"golang.org/x/arch/x86/x86asm"

	"github.com/detvm/detvm/vcpu"
)

// Moment is the processor at one position, for a person.
type Moment struct {
	RIP         uint64   `json:"rip"`
	Registers   string   `json:"registers"`
	Disassembly []string `json:"disassembly"` // from RIP on; empty when the code cannot be read
	Task        string   `json:"task,omitempty"`
	PID         uint32   `json:"pid,omitempty"`
	// User is where the program stands, nil where that cannot be told.
	User *UserFrame `json:"user,omitempty"`
}

// moment describes where the machine stands, or returns nil when its state cannot be read.
func (m *Machine) moment() *Moment {
	s, err := m.cpu.State()
	if err != nil {
		return nil
	}
	task, pid := m.task.current(m.mem)
	return &Moment{RIP: s.RIP, Registers: formatRegisters(s), Disassembly: m.disassemble(s, 6), Task: task, PID: pid, User: m.userFrame(s)}
}

// disassemble decodes up to n instructions at RIP.
func (m *Machine) disassemble(s *vcpu.State, n int) []string {
	code := m.readVirtual(s, s.RIP, 15*n)
	var lines []string
	for pc := s.RIP; n > 0 && len(code) > 0; n-- {
		inst, err := x86asm.Decode(code, 64)
		if err != nil || inst.Op == 0 || inst.Len == 0 {
			lines = append(lines, fmt.Sprintf("%x: (unknown) % x", pc, code[:min(len(code), 8)]))
			break
		}
		lines = append(lines, fmt.Sprintf("%x: %s", pc, x86asm.GNUSyntax(inst, pc, nil)))
		code, pc = code[inst.Len:], pc+uint64(inst.Len)
	}
	return lines
}

// Page-table entry bits (SDM vol. 3A, 4.5).
const (
	pteP, ptePS  = 1 << 0, 1 << 7
	pteAddrMask  = 0x000ffffffffff000
	pageBits     = 12
	indexBits    = 9
	pagingLevels = 4
)

// translate walks the guest's page tables as a debugger does: without setting accessed bits or checking rights.
func (m *Machine) translate(s *vcpu.State, va uint64) (gpa uint64, ok bool) {
	table := s.CR3 & pteAddrMask
	for level := pagingLevels - 1; level >= 0; level-- {
		shift := pageBits + indexBits*level
		entry, ok := m.mem.uint64At(table + va>>shift&(1<<indexBits-1)*8)
		if !ok || entry&pteP == 0 {
			return 0, false
		}
		if level == 0 || entry&ptePS != 0 {
			mask := uint64(1)<<shift - 1
			return entry&pteAddrMask&^mask | va&mask, true
		}
		table = entry & pteAddrMask
	}
	return 0, false
}

// readVirtual reads up to n bytes of guest code or data; fewer when it is not mapped.
func (m *Machine) readVirtual(s *vcpu.State, va uint64, n int) []byte {
	var b bytes.Buffer
	for b.Len() < n {
		at := va + uint64(b.Len())
		gpa, ok := m.translate(s, at)
		if !ok {
			break
		}
		chunk := min(n-b.Len(), pageSize-int(at%pageSize))
		p, ok := m.mem.Slice(gpa, uint64(chunk))
		if !ok {
			break
		}
		b.Write(p)
	}
	return b.Bytes()
}

func formatRegisters(s *vcpu.State) string {
	names := [...]string{"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"}
	var b bytes.Buffer
	fmt.Fprintf(&b, "rip %016x rflags %08x cr3 %x count %d\n", s.RIP, s.RFLAGS, s.CR3, s.Count)
	for i, n := range names {
		sep := " "
		if i%4 == 3 {
			sep = "\n"
		}
		fmt.Fprintf(&b, "%-3s %016x%s", n, s.GPR[i], sep)
	}
	return b.String()
}
