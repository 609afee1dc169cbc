package cpufuzz

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/detvm/detvm/vcpu"
	"golang.org/x/sys/unix"
)

// The layout of the machine. Addresses below ramSize are mapped one to one; sandboxes lie apart with holes between them.
const (
	slots   = 256
	ramSize = 8 << 20

	gdtAt     = 0x1000
	idtAt     = 0x2000
	tssAt     = 0x3000
	stubsAt   = 0x4000 // 16 bytes for each of 32 vectors
	handlerAt = 0x4800
	tablesAt  = 0x10000 // page tables
	stack0    = 0x80000 // grows down
	controlAt = 0x90000 // written by ring 3: the data page of the slot that runs
	startAt   = 0xa0000 // ring 3: exit, then start with slot 0

	codeBase    = 0x100000 // one read-only page for each slot
	dataBase    = 0x200000 // one writable page for each slot, not executable
	sandboxPhys = 0x300000
	readOnlyAt  = 0x400000 // one read-only page for all
	sandboxBase = 0x10000000
	sandboxStep = 0x10000
	sandboxPage = 0x8000 // of the step

	page     = 4096
	donePort = 0xf5
	ioBitmap = 0x68 // in the TSS: permissions of the first 256 ports
	tssLimit = ioBitmap + 256/8
)

// Offsets in a data page.
const (
	inGPR    = 0
	inFlags  = 0x80
	inResume = 0x88 // where the exception handler resumes: the storing code
	inFX     = 0x100
	outGPR   = 0x400
	outFlags = 0x480
	outVec   = 0x488 // noFault when there was none
	outErr   = 0x490
	outRIP   = 0x498
	outFrame = 0x4a0 // RFLAGS in the exception frame
	outCR2   = 0x4a8
	outMark  = 0x4b0 // written by the code that a taken branch jumps over
	outFX    = 0x500
	outEnd   = 0x700
)

// Offsets in a code page.
const (
	testAt  = 0x100
	testMax = 0x80
	storeAt = 0x200
)

const noFault = ^uint64(0)

func codeOf(slot int) uint64    { return codeBase + uint64(slot)*page }
func dataOf(slot int) uint64    { return dataBase + uint64(slot)*page }
func sandboxOf(slot int) uint64 { return sandboxBase + uint64(slot)*sandboxStep + sandboxPage }

// newRAM returns memory for a machine, page aligned.
func newRAM() ([]byte, error) {
	ram, err := unix.Mmap(-1, 0, ramSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("allocate guest memory: %w", err)
	}
	return ram, nil
}

// assembler collects machine code.
type assembler []byte

func (a *assembler) bytes(b ...byte) { *a = append(*a, b...) }
func (a *assembler) imm32(v uint64)  { *a = binary.LittleEndian.AppendUint32(*a, uint32(v)) }

// movAbs emits mov between a 64-bit register and an absolute address below 2 GiB. Flags stay.
func (a *assembler) movAbs(opcode byte, reg int, addr uint64) {
	a.bytes(0x48|byte(reg>>3)<<2, opcode, byte(reg&7)<<3|4, 0x25)
	a.imm32(addr)
}

// movMem emits mov between rcx and [base+disp32], base being rax or rsp.
func (a *assembler) movMem(opcode byte, base int, disp uint64) {
	a.bytes(0x48, opcode, 0x88|byte(base))
	if base == vcpu.RSP {
		a.bytes(0x24)
	}
	a.imm32(disp)
}

func (a *assembler) jmp(from, to uint64) {
	a.bytes(0xe9)
	a.imm32(to - (from + uint64(len(*a)) + 4))
}

const (
	opLoad  = 0x8b // mov reg, mem
	opStore = 0x89 // mov mem, reg
)

// loadCode loads everything from the data page and goes to the code under test.
func loadCode(slot int) []byte {
	var a assembler
	data := dataOf(slot)
	a.bytes(0x48, 0xc7, 0x04, 0x25) // mov qword [controlAt], data
	a.imm32(controlAt)
	a.imm32(data)
	a.bytes(0x48, 0x0f, 0xae, 0x0c, 0x25) // fxrstor64
	a.imm32(data + inFX)
	a.bytes(0x48, 0xc7, 0xc4) // mov rsp
	a.imm32(data + inFlags)
	a.bytes(0x9d) // popfq
	for reg := range 16 {
		a.movAbs(opLoad, reg, data+inGPR+uint64(8*reg))
	}
	a.jmp(codeOf(slot), codeOf(slot)+testAt)
	return a
}

// storeCode stores everything and goes to the next slot.
func storeCode(slot int) []byte {
	var a assembler
	data := dataOf(slot)
	for reg := range 16 {
		a.movAbs(opStore, reg, data+outGPR+uint64(8*reg))
	}
	a.bytes(0x48, 0xc7, 0xc4) // mov rsp
	a.imm32(data + outFlags + 8)
	a.bytes(0x9c)                         // pushfq
	a.bytes(0x48, 0x0f, 0xae, 0x04, 0x25) // fxsave64
	a.imm32(data + outFX)
	next := uint64(startAt)
	if slot+1 < slots {
		next = codeOf(slot + 1)
	}
	a.jmp(codeOf(slot)+storeAt, next)
	return a
}

// handlerCode is the common part of the exception stubs. The stack holds vector, error code, RIP, CS, RFLAGS, RSP, SS.
func handlerCode() []byte {
	var a assembler
	a.bytes(0x50, 0x51) // push rax; push rcx
	a.movAbs(opLoad, vcpu.RAX, controlAt)
	for _, m := range []struct{ from, to uint64 }{{16, outVec}, {24, outErr}, {32, outRIP}, {48, outFrame}} {
		a.movMem(opLoad, vcpu.RSP, m.from)
		a.movMem(opStore, vcpu.RAX, m.to)
	}
	a.bytes(0x0f, 0x20, 0xd1) // mov rcx, cr2
	a.movMem(opStore, vcpu.RAX, outCR2)
	a.movMem(opLoad, vcpu.RAX, inResume)
	a.movMem(opStore, vcpu.RSP, 32)
	a.bytes(0x59, 0x58, 0x48, 0x83, 0xc4, 0x10, 0x48, 0xcf) // pop rcx; pop rax; add rsp,16; iretq
	return a
}

// errorCodes has a bit for each vector that pushes an error code (SDM vol. 3A, table 6-1).
const errorCodes = 1<<8 | 1<<10 | 1<<11 | 1<<12 | 1<<13 | 1<<14 | 1<<17 | 1<<21

// writeSystem lays out everything but the cases.
func writeSystem(ram []byte) {
	put := func(at int, v uint64) { binary.LittleEndian.PutUint64(ram[at:], v) }
	// Code and data descriptors lie where Linux has them.
	for i, d := range []uint64{0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0, 0x00cff3000000ffff, 0x00affb000000ffff, 0, 0x00008b0000000000 | tssAt<<16 | tssLimit} {
		put(gdtAt+8*i, d)
	}
	put(tssAt+4, stack0)
	put(tssAt+0x60, ioBitmap<<48)
	for i := tssAt + ioBitmap; i <= tssAt+tssLimit; i++ {
		ram[i] = 0xff // no port for ring 3
	}
	ram[tssAt+ioBitmap+donePort/8] &^= 1 << (donePort % 8)
	for v := range 32 {
		at := uint64(stubsAt + 16*v)
		var a assembler
		if errorCodes>>v&1 == 0 {
			a.bytes(0x6a, 0)
		}
		a.bytes(0x6a, byte(v))
		a.jmp(at, handlerAt)
		copy(ram[at:], a)
		gate := uint64(0x8e)
		if v == 3 || v == 4 {
			gate = 0xee // INT3 and INTO come from ring 3
		}
		put(idtAt+16*v, at&0xffff|0x10<<16|gate<<40|at>>16<<48)
	}
	copy(ram[handlerAt:], handlerCode())
	var start assembler
	start.bytes(0xe6, donePort)
	start.jmp(startAt, codeOf(0))
	copy(ram[startAt:], start)
	for s := range slots {
		copy(ram[codeOf(s):], loadCode(s))
		copy(ram[codeOf(s)+storeAt:], storeCode(s))
		put(int(dataOf(s))+inResume, codeOf(s)+storeAt)
	}
	for i := range page {
		ram[readOnlyAt+i] = byte(i*7 + i>>8)
	}
	writePageTables(ram)
}

// writePageTables maps RAM one to one with 4 KiB pages, and the sandboxes. Accessed and dirty bits are set from the start: the processors need not agree on
// when they set them.
func writePageTables(ram []byte) {
	const present, writable, user, accessed, dirty, nx = 1, 2, 4, 1 << 5, 1 << 6, 1 << 63
	const ad = accessed | dirty
	put := func(at, v uint64) { binary.LittleEndian.PutUint64(ram[at:], v) }
	next := uint64(tablesAt + 3*page)
	const pml4, pdpt, pd = tablesAt, tablesAt + page, tablesAt + 2*page
	put(pml4, pdpt|present|writable|user|ad)
	put(pdpt, pd|present|writable|user|ad)
	mapPage := func(virt, phys, bits uint64) {
		entry := pd + 8*(virt>>21)
		if binary.LittleEndian.Uint64(ram[entry:]) == 0 {
			put(entry, next|present|writable|user|ad)
			next += page
		}
		table := binary.LittleEndian.Uint64(ram[entry:]) &^ (page - 1)
		put(table+8*(virt>>12&511), phys|bits|present|ad)
	}
	for at := uint64(page); at < ramSize; at += page {
		switch {
		case at == controlAt, at >= dataBase && at < dataBase+slots*page:
			mapPage(at, at, writable|user|nx)
		case at == startAt, at >= codeBase && at < codeBase+slots*page:
			mapPage(at, at, user)
		case at == readOnlyAt:
			mapPage(at, at, user|nx)
		case at < codeBase:
			mapPage(at, at, writable) // the system's own
		}
	}
	for s := range slots {
		mapPage(sandboxOf(s), sandboxPhys+uint64(s)*page, writable|user|nx)
	}
}

// startState is where a machine begins: ring 3 at the exit before slot 0.
func startState() *vcpu.State {
	s := &vcpu.State{
		RIP: startAt, RFLAGS: 0x202,
		CR0: 0x80050033, CR3: tablesAt, CR4: 0x6a0, EFER: 0xd01,
		GDTR: vcpu.DescriptorTable{Base: gdtAt, Limit: 0x4f}, IDTR: vcpu.DescriptorTable{Base: idtAt, Limit: 0x1ff},
		TR:  vcpu.Segment{Base: tssAt, Limit: tssLimit, Selector: 0x40, Attr: 0x8b},
		DR6: 0xffff0ff0, DR7: 0x400, PAT: 0x0007040600070406, LDTR: vcpu.Segment{Unusable: true}, MiscEnable: 1,
	}
	for i := range s.Seg {
		s.Seg[i] = vcpu.Segment{Limit: 0xffffffff, Selector: 0x2b, Attr: 0xc0f3}
	}
	s.Seg[vcpu.CS] = vcpu.Segment{Limit: 0xffffffff, Selector: 0x33, Attr: 0xa0fb}
	binary.LittleEndian.PutUint16(s.FX[0:], 0x37f)
	binary.LittleEndian.PutUint32(s.FX[24:], 0x1f80)
	return s
}

// machine is one processor with its own copy of the memory.
type machine struct {
	name string
	cpu  vcpu.CPU
	ram  []byte
}

func newMachine(name string, create func(vcpu.Config) (vcpu.CPU, error)) (*machine, error) {
	ram, err := newRAM()
	if err != nil {
		return nil, err
	}
	writeSystem(ram)
	cpu, err := create(vcpu.Config{Memory: []vcpu.Memory{{GPA: 0, Host: ram}}, CPUID: vcpu.DetvmV1(true), Clock: vcpu.ClockExits, TSC: func() uint64 { return 0 }})
	if err != nil {
		return nil, fmt.Errorf("create the %s processor: %w", name, err)
	}
	m := &machine{name: name, cpu: cpu, ram: ram}
	if err := cpu.SetState(startState()); err != nil {
		return nil, fmt.Errorf("start the %s processor: %w", name, err)
	}
	return m, m.run() // to the exit before slot 0
}

func (m *machine) close() error {
	if err := m.cpu.Close(); err != nil {
		return err
	}
	return unix.Munmap(m.ram)
}

// put places a case in its slot.
func (m *machine) put(slot int, c *testCase) {
	putCase(m.ram, slot, c)
	m.cpu.MemoryWritten(codeOf(slot)+testAt, testMax)
	m.cpu.MemoryWritten(dataOf(slot), outEnd)
	m.cpu.MemoryWritten(sandboxPhys+uint64(slot)*page, page)
}

// putCase writes a case to memory.
func putCase(ram []byte, slot int, c *testCase) {
	code := codeOf(slot) + testAt
	copy(ram[code:code+testMax], c.code)
	data := dataOf(slot)
	for i, v := range c.gpr {
		binary.LittleEndian.PutUint64(ram[data+inGPR+uint64(8*i):], v)
	}
	binary.LittleEndian.PutUint64(ram[data+inFlags:], c.flags)
	copy(ram[data+inFX:], c.fx[:])
	clear(ram[data+outGPR : data+outEnd])
	binary.LittleEndian.PutUint64(ram[data+outVec:], noFault)
	putSandbox(ram, slot, c)
}

// putSandbox fills the windows of a sandbox.
func putSandbox(ram []byte, slot int, c *testCase) {
	box := sandboxPhys + uint64(slot)*page
	copy(ram[box:], c.low[:])
	copy(ram[box+page-window:], c.high[:])
}

// batchTime is how long a machine may stay with one case before it is called a hang.
const batchTime = 20 * time.Second

// run executes the batch.
func (m *machine) run() error {
	exit := new(vcpu.Exit)
	for slot := -1; ; {
		hung := time.AfterFunc(batchTime, m.cpu.Kick)
		err := m.cpu.Run(vcpu.NoStop, exit)
		hung.Stop()
		at := int(binary.LittleEndian.Uint64(m.ram[controlAt:])-dataBase) / page
		switch {
		case err != nil:
			return fmt.Errorf("%s: %w", m.name, err)
		case exit.Reason == vcpu.ReasonIO && exit.Addr == donePort:
			return nil
		case exit.Reason == vcpu.ReasonKick && at != slot:
			slot = at // a host that stood still for a while hangs nothing
		default:
			return &strayError{m.name, at, *exit}
		}
	}
}

// strayError is a batch that did not come to its end.
type strayError struct {
	machine string
	slot    int
	exit    vcpu.Exit
}

func (e *strayError) Error() string {
	return fmt.Sprintf("%s: slot %d: %s at %#x, port or address %#x: %s", e.machine, e.slot, e.exit.Reason, e.exit.PC, e.exit.Addr, e.exit.Detail)
}

// restart puts a machine that went astray back to the start.
func (m *machine) restart() error {
	if err := m.cpu.SetState(startState()); err != nil {
		return err
	}
	return m.run()
}
