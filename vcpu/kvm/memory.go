package kvm

import (
	"errors"
	"fmt"
	"math/bits"
	"slices"

	"github.com/detvm/detvm/vcpu"
	"golang.org/x/sys/unix"
)

const pageSize = 4096

// slot is one KVM memory slot.
type slot struct {
	gpa   uint64
	host  []byte
	marks []uint64 // pages that are dirty besides those in KVM's log
}

func (s *slot) pages() int { return len(s.host) / pageSize }

// addMemory installs the machine's RAM.
func (e *Engine) addMemory(memory []vcpu.Memory) error {
	ranges := slices.Clone(memory)
	slices.SortFunc(ranges, func(a, b vcpu.Memory) int {
		if a.GPA < b.GPA {
			return -1
		}
		return 1
	})
	for _, m := range ranges {
		if len(m.Host) == 0 || len(m.Host)%pageSize != 0 || m.GPA%pageSize != 0 {
			return fmt.Errorf("guest memory at %#x: %d bytes are not whole pages", m.GPA, len(m.Host))
		}
		e.slots = append(e.slots, slot{gpa: m.GPA, host: m.Host, marks: make([]uint64, (len(m.Host)/pageSize+63)/64)})
	}
	return e.installSlots()
}

func (e *Engine) installSlots() error {
	for i := range e.slots {
		s := &e.slots[i]
		if err := setMemoryRegion(e.vm, uint32(i), memLogDirty, s.gpa, s.host, uint64(len(s.host))); err != nil {
			return fmt.Errorf("map guest memory at %#x: %w", s.gpa, err)
		}
	}
	return nil
}

// refreshSlots deletes and adds every memory slot. A KVM with shadow paging keeps what it derived from guest page tables; where the machine itself has
// replaced them (a restored snapshot) only this makes it look again.
func (e *Engine) refreshSlots() error {
	if err := e.saveDirty(); err != nil {
		return err
	}
	for i := range e.slots {
		s := &e.slots[i]
		if err := setMemoryRegion(e.vm, uint32(i), 0, s.gpa, s.host, 0); err != nil {
			return fmt.Errorf("unmap guest memory at %#x: %w", s.gpa, err)
		}
	}
	e.stale = false
	return e.installSlots()
}

// rebuild replaces the virtual machine by a new one with the same memory. What KVM had in flight is gone with the old one.
func (e *Engine) rebuild() error {
	if err := e.saveDirty(); err != nil {
		return err
	}
	e.guard.Lock()
	defer e.guard.Unlock()
	err := errors.Join(unix.Munmap(e.mapping), unix.Close(e.cpu), unix.Close(e.vm))
	e.mapping, e.run, e.cpu, e.vm = nil, nil, -1, -1
	if err != nil {
		return fmt.Errorf("discard the virtual machine: %w", err)
	}
	memory := make([]vcpu.Memory, len(e.slots))
	for i, s := range e.slots {
		memory[i] = vcpu.Memory{GPA: s.gpa, Host: s.host}
	}
	marks := e.slots
	e.slots = nil
	if err := e.build(vcpu.Config{Memory: memory, CPUID: e.cpuid}); err != nil {
		return err
	}
	for i := range e.slots {
		e.slots[i].marks = marks[i].marks
	}
	e.pending, e.stashed, e.debugging, e.ranOnce, e.stale = nil, false, false, false, false
	if e.kicked.Load() {
		e.run.control |= immediateExitWord
	}
	return nil
}

// saveDirty moves KVM's dirty log into the marks of the slots.
func (e *Engine) saveDirty() error {
	for i := range e.slots {
		s := &e.slots[i]
		log := make([]uint64, (s.pages()+63)/64)
		if err := getDirtyLog(e.vm, uint32(i), log); err != nil {
			return fmt.Errorf("read the dirty log at %#x: %w", s.gpa, err)
		}
		for w, v := range log {
			s.marks[w] |= v
		}
	}
	return nil
}

// MemoryWritten implements [vcpu.CPU]. KVM sees changed data by itself. Changed page tables are the caller's business only when it restores a state,
// and SetState takes care of them.
func (e *Engine) MemoryWritten(gpa, n uint64) {
	if n == 0 {
		return
	}
	for i := range e.slots {
		s := &e.slots[i]
		end := s.gpa + uint64(len(s.host))
		if gpa >= end || gpa+n <= s.gpa {
			continue
		}
		first, last := max(gpa, s.gpa)-s.gpa, min(gpa+n, end)-1-s.gpa
		for p := first / pageSize; p <= last/pageSize; p++ {
			s.marks[p/64] |= 1 << (p % 64)
		}
	}
}

// CollectDirty implements [vcpu.CPU].
func (e *Engine) CollectDirty(visit func(gpa uint64)) error {
	if e.closed {
		return ErrClosed
	}
	if err := e.saveDirty(); err != nil {
		return err
	}
	for i := range e.slots {
		s := &e.slots[i]
		for w, v := range s.marks {
			for ; v != 0; v &= v - 1 {
				visit(s.gpa + uint64(w*64+bits.TrailingZeros64(v))*pageSize)
			}
		}
		clear(s.marks)
	}
	return nil
}
