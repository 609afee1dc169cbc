package cpufuzz

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// native is a process of the host that executes cases as a guest's ring 3 does: with the same memory at the same addresses, traced, so that signals take the
// place of the exception stubs. It is asked where KVM would answer in place of the processor. What it cannot tell are error codes, and it has no
// memory where the guest's system pages are. It belongs to one operating-system thread.
type native struct {
	pid int
	ram []byte // shared with the process
}

// The process's program: a page with a system call and a breakpoint.
const (
	programAt = 0x70000000
	entryAt   = programAt + 0x80
)

// newNative starts the process. The calling goroutine is bound to its thread from then on.
func newNative() (n *native, err error) {
	runtime.LockOSThread()
	n = &native{}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("start a process to execute cases in: %w", err), n.close())
		}
	}()
	fd, err := unix.MemfdCreate("cpufuzz", unix.MFD_CLOEXEC)
	if err != nil {
		return n, err
	}
	shared := os.NewFile(uintptr(fd), "cpufuzz")
	defer shared.Close()
	if err := shared.Truncate(ramSize); err != nil {
		return n, err
	}
	if n.ram, err = unix.Mmap(fd, 0, ramSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return n, err
	}
	writeSystem(n.ram)
	for s := range slots { // stop where a slot would go on to the next
		n.ram[codeOf(s)+storeAt+uint64(len(storeCode(s)))-jmpLen] = 0xcc
	}
	if err := n.start(shared); err != nil {
		return n, err
	}
	return n, n.mapMemory()
}

const jmpLen = 5

// userRIP is where struct user of Linux has RIP.
const userRIP = 16 * 8

// processorTime, in seconds, is what all cases of a comparison may take in the process before it is called a hang.
const processorTime = 600

// start executes a program of one page and waits until it stands at its entry.
func (n *native) start(shared *os.File) error {
	file, err := os.CreateTemp("", "cpufuzz-")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	_, err = file.Write(program())
	if err := errors.Join(err, file.Chmod(0o700), file.Close()); err != nil {
		return err
	}
	p, err := os.StartProcess(file.Name(), []string{"cpufuzz"}, &os.ProcAttr{
		Files: []*os.File{nil, nil, nil, shared},
		Sys:   &syscall.SysProcAttr{Ptrace: true, Pdeathsig: syscall.SIGKILL},
	})
	if err != nil {
		return err
	}
	n.pid = p.Pid
	if err := n.wait(unix.SIGTRAP); err != nil {
		return err
	}
	limit := unix.Rlimit{Cur: processorTime, Max: processorTime}
	return unix.Prlimit(n.pid, unix.RLIMIT_CPU, &limit, nil)
}

// program is an ELF executable: SYSCALL, INT3.
func program() []byte {
	le := binary.LittleEndian
	b := make([]byte, entryAt-programAt, 256)
	copy(b, "\x7fELF\x02\x01\x01")
	le.PutUint32(b[16:], 2|62<<16) // executable, x86-64
	le.PutUint32(b[20:], 1)
	le.PutUint64(b[24:], entryAt)
	le.PutUint64(b[32:], 64)        // program headers
	le.PutUint32(b[52:], 64|56<<16) // sizes of the headers
	le.PutUint32(b[56:], 1|64<<16)  // one program header
	le.PutUint32(b[64:], 1)         // load
	le.PutUint32(b[68:], 5)         // readable, executable
	le.PutUint64(b[80:], programAt) // linear address
	le.PutUint64(b[88:], programAt) //
	le.PutUint64(b[96:], entryAt+3-programAt)
	le.PutUint64(b[104:], entryAt+3-programAt)
	le.PutUint64(b[112:], page)
	return append(b, 0x0f, 0x05, 0xcc)
}

// wait waits for the process to stop with the signal that is expected.
func (n *native) wait(want unix.Signal) error {
	got, err := n.stopped()
	if err == nil && got != want {
		err = fmt.Errorf("stopped by %v, want %v", got, want)
	}
	return err
}

func (n *native) stopped() (unix.Signal, error) {
	var status unix.WaitStatus
	for {
		_, err := unix.Wait4(n.pid, &status, 0, nil)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return 0, err
		case !status.Stopped():
			n.pid = 0
			return 0, fmt.Errorf("the process ended: %#x", uint32(status))
		}
		return status.StopSignal(), nil
	}
}

// mapMemory gives the process the memory of a guest's ring 3, by system calls in its name.
func (n *native) mapMemory() error {
	const r, w, x = unix.PROT_READ, unix.PROT_WRITE, unix.PROT_EXEC
	regions := []struct{ at, offset, size, prot uint64 }{
		{controlAt, controlAt, page, r | w}, {codeBase, codeBase, slots * page, r | x},
		{dataBase, dataBase, slots * page, r | w}, {readOnlyAt, readOnlyAt, page, r},
	}
	for s := range slots {
		regions = append(regions, struct{ at, offset, size, prot uint64 }{sandboxOf(s), sandboxPhys + uint64(s)*page, page, r | w})
	}
	for _, m := range regions {
		regs := unix.PtraceRegs{Rip: entryAt, Cs: 0x33, Ss: 0x2b, Eflags: 0x202, Orig_rax: ^uint64(0),
			Rax: unix.SYS_MMAP, Rdi: m.at, Rsi: m.size, Rdx: m.prot, R10: unix.MAP_SHARED | unix.MAP_FIXED_NOREPLACE, R8: 3, R9: m.offset}
		err := n.resume(&regs, unix.SIGTRAP)
		if err == nil && regs.Rax != m.at {
			err = fmt.Errorf("errno %d", -int64(regs.Rax))
		}
		if err != nil {
			return fmt.Errorf("map memory at %#x: %w", m.at, err)
		}
	}
	return nil
}

// resume lets the process run with the given registers until the signal, and fetches them again.
func (n *native) resume(regs *unix.PtraceRegs, until unix.Signal) error {
	if err := errors.Join(unix.PtraceSetRegs(n.pid, regs), unix.PtraceCont(n.pid, 0), n.wait(until)); err != nil {
		return err
	}
	return unix.PtraceGetRegs(n.pid, regs)
}

// run executes the case in a slot and leaves in the data page what the exception stubs of a guest would. pending says that the case may meet a
// pending x87 exception, which Linux does not tell from an SSE exception.
func (n *native) run(slot int, pending bool) error {
	regs := unix.PtraceRegs{Rip: codeOf(slot), Cs: 0x33, Ss: 0x2b, Eflags: 0x202, Orig_rax: ^uint64(0)}
	if err := errors.Join(unix.PtraceSetRegs(n.pid, &regs), unix.PtraceCont(n.pid, 0)); err != nil {
		return err
	}
	sig, err := n.stopped()
	if err != nil || sig == unix.SIGTRAP {
		return err // at the end of the slot
	}
	code, addr, err := signalInfo(n.pid)
	if err := errors.Join(err, unix.PtraceGetRegs(n.pid, &regs)); err != nil {
		return err
	}
	data := dataOf(slot)
	put := func(at, v uint64) { binary.LittleEndian.PutUint64(n.ram[data+at:], v) }
	put(outVec, vectorOf(sig, code, pending))
	put(outCR2, addr)
	put(outErr, 0)
	put(outRIP, regs.Rip)
	put(outFrame, regs.Eflags)
	// RIP alone: PTRACE_SETREGS takes no selectors of other rings, which a case may have loaded.
	if _, err := unix.PtracePokeUser(n.pid, userRIP, binary.LittleEndian.AppendUint64(nil, codeOf(slot)+storeAt)); err != nil {
		return err
	}
	return errors.Join(unix.PtraceCont(n.pid, 0), n.wait(unix.SIGTRAP))
}

// vectorOf is the exception that Linux reports by a signal (arch/x86/kernel/traps.c); 255 is one that no case takes.
func vectorOf(sig unix.Signal, code int32, pending bool) uint64 {
	const kernel, intDivide, alignment = 0x80, 1, 1 // SI_KERNEL, FPE_INTDIV, BUS_ADRALN
	switch {
	case sig == unix.SIGSEGV && code == kernel:
		return vecGP
	case sig == unix.SIGSEGV:
		return vecPF
	case sig == unix.SIGBUS && code == kernel:
		return vecSS
	case sig == unix.SIGBUS && code == alignment:
		return vecAC
	case sig == unix.SIGILL:
		return vecUD
	case sig == unix.SIGFPE && code == intDivide:
		return vecDE
	case sig == unix.SIGFPE && pending:
		return vecMF
	case sig == unix.SIGFPE:
		return vecXM
	}
	return 255
}

func (n *native) close() error {
	if n.pid != 0 {
		_ = unix.Kill(n.pid, unix.SIGKILL)
		_, _ = unix.Wait4(n.pid, nil, 0, nil)
		n.pid = 0
	}
	if n.ram == nil {
		return nil
	}
	return unix.Munmap(n.ram)
}
