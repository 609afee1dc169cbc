package vmm

import (
	"encoding/binary"
	"fmt"

	"github.com/detvm/detvm/vcpu"
)

// pvclock is the kvm-clock interface: two pages that the guest names by MSR and the machine fills (Linux Documentation/virt/kvm/x86/msr.rst).
type pvclock struct {
	systemGPA uint64 // of struct pvclock_vcpu_time_info, 0 when off
	version   uint32
	published uint64 // virtual time that the page holds
}

const (
	pvclockSize         = 32
	pvclockStable       = 1 << 0     // PVCLOCK_TSC_STABLE_BIT
	pvclockMulOne       = 0x80000000 // with shift 1: one nanosecond a tick
	pvclockShiftOne     = 1
	pvclockEnable       = 1
	wallClockSize       = 12
	nanosecondsInSecond = 1_000_000_000
)

// enableSystemTime is WRMSR of MSR_KVM_SYSTEM_TIME_NEW. It reports false (#GP) for an address that is not RAM.
func (m *Machine) enableSystemTime(value uint64) bool {
	if value&pvclockEnable == 0 {
		m.clockPage.systemGPA = 0
		return true
	}
	gpa := value &^ pvclockEnable
	if _, ok := m.mem.Slice(gpa, pvclockSize); !ok || gpa%4 != 0 {
		return false
	}
	m.clockPage.systemGPA = gpa
	m.writeClockPage()
	return true
}

// publishTime rewrites the page when time has moved and the guest cannot read it from the TSC.
func (m *Machine) publishTime() {
	if m.clockPage.systemGPA != 0 && !m.tscIsTime && m.clockPage.published != m.now {
		m.writeClockPage()
	}
}

func (m *Machine) writeClockPage() {
	c := &m.clockPage
	p, ok := m.mem.Slice(c.systemGPA, pvclockSize)
	if !ok {
		return
	}
	c.version += 2
	c.published = m.now
	clear(p)
	binary.LittleEndian.PutUint32(p[0:], c.version)
	if m.tscIsTime {
		binary.LittleEndian.PutUint32(p[24:], pvclockMulOne)
		p[28], p[29] = pvclockShiftOne, pvclockStable
	} else {
		binary.LittleEndian.PutUint64(p[16:], m.now)
	}
	m.mem.Written(c.systemGPA, pvclockSize)
}

// writeWallClock is WRMSR of MSR_KVM_WALL_CLOCK_NEW: the wall-clock time at machine start.
func (m *Machine) writeWallClock(gpa uint64) bool {
	p, ok := m.mem.Slice(gpa, wallClockSize)
	if !ok || gpa%4 != 0 {
		return false
	}
	binary.LittleEndian.PutUint32(p[0:], 2)
	binary.LittleEndian.PutUint32(p[4:], uint32(m.bootWallClock/nanosecondsInSecond))
	binary.LittleEndian.PutUint32(p[8:], uint32(m.bootWallClock%nanosecondsInSecond))
	m.mem.Written(gpa, wallClockSize)
	return true
}

// readMSR fills p with the value of an MSR, or reports false for #GP.
func (m *Machine) readMSR(index uint32, p []byte) bool {
	var v uint64
	switch index {
	case vcpu.MSRTSC, vcpu.MSRDetvmTime:
		v = m.now
	case vcpu.MSRDetvmTimer:
		v = m.timer.Read()
	case vcpu.MSRKVMSystemTime:
		v = m.clockPage.systemGPA
		if v != 0 {
			v |= pvclockEnable
		}
	case vcpu.MSRAPICBase, vcpu.MSRTSCAdjust, vcpu.MSRKVMWallClock:
	default:
		return false
	}
	binary.LittleEndian.PutUint64(p, v)
	return true
}

// writeMSR stores an MSR, or reports false for #GP.
func (m *Machine) writeMSR(index uint32, v uint64) bool {
	switch index {
	case vcpu.MSRTSC, vcpu.MSRTSCAdjust, vcpu.MSRAPICBase:
		return true
	case vcpu.MSRDetvmTimer:
		m.timer.Write(v)
		return true
	case vcpu.MSRKVMSystemTime:
		return m.enableSystemTime(v)
	case vcpu.MSRKVMWallClock:
		return m.writeWallClock(v)
	}
	return false
}

// MarshalBinary encodes the clock page's state for snapshots and digests.
func (c *pvclock) MarshalBinary() ([]byte, error) {
	p := make([]byte, 20)
	binary.LittleEndian.PutUint64(p[0:], c.systemGPA)
	binary.LittleEndian.PutUint32(p[8:], c.version)
	binary.LittleEndian.PutUint64(p[12:], c.published)
	return p, nil
}

// UnmarshalBinary is the inverse of MarshalBinary.
func (c *pvclock) UnmarshalBinary(p []byte) error {
	if len(p) != 20 {
		return fmt.Errorf("pvclock state of %d bytes, want 20", len(p))
	}
	c.systemGPA = binary.LittleEndian.Uint64(p[0:])
	c.version = binary.LittleEndian.Uint32(p[8:])
	c.published = binary.LittleEndian.Uint64(p[12:])
	return nil
}
