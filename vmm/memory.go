package vmm

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/detvm/detvm/vcpu"
)

const (
	pageSize = 4096
	// lowMemoryEnd is where RAM below the MMIO hole ends at most; the rest starts at highMemory (docs/machine.md).
	lowMemoryEnd = 3 << 30
	highMemory   = 4 << 30

	// MinMemory and MaxMemory bound Config.Memory, in bytes.
	MinMemory = 32 << 20
	MaxMemory = 64 << 30
)

// memory is guest RAM: one or two ranges of anonymous host memory. It implements virtio.GuestMemory; all access is
// bounds-checked because addresses come from the guest.
type memory struct {
	ranges []vcpu.Memory
	// written is called for every change that the machine, not the processor, makes.
	written func(gpa, n uint64)
}

func newMemory(size uint64) (*memory, error) {
	if size < MinMemory || size > MaxMemory || size%pageSize != 0 {
		return nil, fmt.Errorf("guest memory of %d bytes: want a multiple of %d between %d MiB and %d GiB", size, pageSize, MinMemory>>20, MaxMemory>>30)
	}
	m := &memory{written: func(uint64, uint64) {}}
	low := min(size, lowMemoryEnd)
	for _, r := range []struct{ gpa, n uint64 }{{0, low}, {highMemory, size - low}} {
		if r.n == 0 {
			continue
		}
		host, err := unix.Mmap(-1, 0, int(r.n), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
		if err != nil {
			m.close()
			return nil, fmt.Errorf("map %d MiB of guest memory: %w", r.n>>20, err)
		}
		m.ranges = append(m.ranges, vcpu.Memory{GPA: r.gpa, Host: host})
	}
	return m, nil
}

func (m *memory) close() {
	for _, r := range m.ranges {
		_ = unix.Munmap(r.Host)
	}
	m.ranges = nil
}

// clear makes all RAM zeros again, as it was at first.
func (m *memory) clear() error {
	for _, r := range m.ranges {
		if err := unix.Madvise(r.Host, unix.MADV_DONTNEED); err != nil {
			return fmt.Errorf("clear guest memory: %w", err)
		}
	}
	return nil
}

// size is the amount of RAM in bytes.
func (m *memory) size() uint64 {
	var n uint64
	for _, r := range m.ranges {
		n += uint64(len(r.Host))
	}
	return n
}

// Slice returns guest RAM [gpa, gpa+n) as host memory, or false when any of it is not RAM.
func (m *memory) Slice(gpa, n uint64) ([]byte, bool) {
	for _, r := range m.ranges {
		if off := gpa - r.GPA; gpa >= r.GPA && off <= uint64(len(r.Host)) && n <= uint64(len(r.Host))-off {
			return r.Host[off : off+n : off+n], true
		}
	}
	return nil, false
}

// Written records that the machine changed [gpa, gpa+n).
func (m *memory) Written(gpa, n uint64) { m.written(gpa, n) }

// store copies p to gpa.
func (m *memory) store(gpa uint64, p []byte) error {
	dst, ok := m.Slice(gpa, uint64(len(p)))
	if !ok {
		return fmt.Errorf("guest memory [%#x, +%#x) is not RAM", gpa, len(p))
	}
	copy(dst, p)
	m.Written(gpa, uint64(len(p)))
	return nil
}

// uint64At reads a little-endian word; false when it is not RAM.
func (m *memory) uint64At(gpa uint64) (uint64, bool) {
	p, ok := m.Slice(gpa, 8)
	if !ok {
		return 0, false
	}
	return binary.LittleEndian.Uint64(p), true
}

var zeroPage [pageSize]byte
