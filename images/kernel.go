package images

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"sort"
	"strconv"
	"strings"
	"sync"
)

// KernelCommandLine is the command line that the guest kernel boots with, without the parts that depend on the machine
// (virtio_mmio.device= for each device). The embedded kernel finds out by itself that it runs on detvm and needs few of these; the
// others are for a kernel given with --kernel.
//
//	quiet loglevel=2        each byte to the console is an exit; a panic raises the level by itself
//	noapic nolapic          there is no APIC, so do not look for one
//	lpj=10000               no calibration; delay loops are short, since no device here needs time
//	reboot=k panic=-1       a panic resets at once, through port 0x64
//	mitigations=off         no speculation defences inside one tenant's machine
//	random.trust_cpu=off    RDRAND must not credit the pool
//	swiotlb=noforce         no 64 MiB of bounce buffers in guests with more than 3 GiB: the devices reach all of memory
//	rodata=off              the kernel does not protect itself from itself: splitting its mappings into small pages costs a second where ring 0 is interpreted
const KernelCommandLine = "console=ttyS0 quiet loglevel=2 noapic nolapic lpj=10000 reboot=k panic=-1 mitigations=off random.trust_cpu=off swiotlb=noforce rodata=off"

//go:embed kernel/vmlinux.zst
var kernelELF []byte

//go:embed kernel/System.map.zst
var kernelMap []byte

//go:embed kernel/symbols.json
var kernelSymbols []byte

//go:embed kernel/SHA256SUMS
var kernelSums string

// Kernel is the guest kernel: an ELF vmlinux and what is known about it.
type Kernel struct {
	*File
	Symbols KernelSymbols
}

// KernelSymbols says where the guest kernel keeps what a report about the guest needs. Addresses are guest-virtual.
type KernelSymbols struct {
	Release string // uname -r
	// CurrentTask is the address of the pointer to the running task_struct (one processor: an ordinary variable).
	CurrentTask uint64
	// Offsets of fields in task_struct: PID and TGID are 32-bit; Comm is CommLen bytes, NUL terminated.
	PIDOffset, TGIDOffset, CommOffset, CommLen uint64
	// Text and TextEnd bound the kernel's code after boot.
	Text, TextEnd uint64
}

// GuestKernel returns the embedded guest kernel.
func GuestKernel() (*Kernel, error) {
	f, err := kernelFile("vmlinux", kernelELF)
	if err != nil {
		return nil, err
	}
	s, err := parseKernelSymbols(kernelSymbols)
	if err != nil {
		return nil, fmt.Errorf("guest kernel: %w", err)
	}
	return &Kernel{f, s}, nil
}

// KernelFunctions knows the functions of the embedded guest kernel by address.
type KernelFunctions struct {
	addrs []uint64 // ascending
	names []string
}

var guestKernelFunctions = sync.OnceValues(func() (*KernelFunctions, error) {
	file, err := kernelFile("System.map", kernelMap)
	if err != nil {
		return nil, err
	}
	m, err := file.Load()
	if err != nil {
		return nil, fmt.Errorf("guest kernel: %w", err)
	}
	f, err := parseSystemMap(string(m))
	if err != nil {
		return nil, fmt.Errorf("guest kernel: %w", err)
	}
	return f, nil
})

// GuestKernelFunctions returns the functions of the embedded guest kernel. Safe for concurrent use; parsed once.
func GuestKernelFunctions() (*KernelFunctions, error) { return guestKernelFunctions() }

// At names the function that contains the guest-virtual address addr and the offset in it. ok is false below the first function; the last one has no end,
// so callers first check that addr is inside the kernel's code (KernelSymbols.Text, TextEnd).
func (f *KernelFunctions) At(addr uint64) (name string, offset uint64, ok bool) {
	i := sort.Search(len(f.addrs), func(i int) bool { return f.addrs[i] > addr }) - 1
	if i < 0 {
		return "", 0, false
	}
	return f.names[i], addr - f.addrs[i], true
}

// Address returns the address of a function, the lowest when several share the name. ok is false when there is none.
func (f *KernelFunctions) Address(name string) (addr uint64, ok bool) {
	for i, n := range f.names {
		if n == name {
			return f.addrs[i], true
		}
	}
	return 0, false
}

// kernelFile is one of the files that images/kernel/build.sh makes, with its committed digest.
func kernelFile(name string, compressed []byte) (*File, error) {
	sum, _ := committedSum(kernelSums, name)
	f, err := newFile(name, compressed, sum)
	if err != nil {
		return nil, fmt.Errorf("guest kernel: %w", err)
	}
	return f, nil
}

// committedSum finds the line of a sha256sum(1) listing that is about name.
func committedSum(sums, name string) (string, bool) {
	for line := range strings.Lines(sums) {
		if f := strings.Fields(line); len(f) == 2 && f[1] == name {
			return f[0], true
		}
	}
	return "", false
}

func parseKernelSymbols(text []byte) (KernelSymbols, error) {
	var l struct {
		Release     string
		CurrentTask string `json:"current_task"`
		Text, Etext string
		PID         uint64 `json:"task_struct_pid"`
		TGID        uint64 `json:"task_struct_tgid"`
		Comm        uint64 `json:"task_struct_comm"`
		CommLen     uint64 `json:"task_comm_len"`
	}
	if err := json.Unmarshal(text, &l); err != nil {
		return KernelSymbols{}, fmt.Errorf("parse symbols.json: %w", err)
	}
	s := KernelSymbols{Release: l.Release, PIDOffset: l.PID, TGIDOffset: l.TGID, CommOffset: l.Comm, CommLen: l.CommLen}
	for _, a := range []struct {
		text string
		to   *uint64
	}{{l.CurrentTask, &s.CurrentTask}, {l.Text, &s.Text}, {l.Etext, &s.TextEnd}} {
		v, err := strconv.ParseUint(a.text, 0, 64)
		if err != nil {
			return KernelSymbols{}, fmt.Errorf("parse symbols.json: %w", err)
		}
		*a.to = v
	}
	return s, nil
}

// parseSystemMap reads lines of a hexadecimal address and a name, in ascending order.
func parseSystemMap(text string) (*KernelFunctions, error) {
	f := &KernelFunctions{}
	for line := range strings.Lines(text) {
		addr, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		v, err := strconv.ParseUint(addr, 16, 64)
		if !ok || err != nil {
			return nil, fmt.Errorf("parse System.map: bad line %q", line)
		}
		if n := len(f.addrs); n > 0 && v < f.addrs[n-1] {
			return nil, fmt.Errorf("parse System.map: %q is out of order", line)
		}
		f.addrs, f.names = append(f.addrs, v), append(f.names, name)
	}
	return f, nil
}
