package vmm

import (
	"bytes"
	"testing"
)

// echo answers reads with its name and remembers the last write.
type echo struct {
	value  byte
	offset uint64
	wrote  []byte
}

func (e *echo) Read(offset uint64, p []byte) {
	e.offset = offset
	for i := range p {
		p[i] = e.value
	}
}

func (e *echo) Write(offset uint64, p []byte) { e.offset, e.wrote = offset, bytes.Clone(p) }

func TestBusFindsTheDeviceThatAnAccessLiesIn(t *testing.T) {
	b := newBus()
	low, high := &echo{value: 1}, &echo{value: 2}
	lowID, highID := b.device("low"), b.device("high")
	b.mapPorts(highID, 0x40, 4, high)
	b.mapPorts(lowID, 0x20, 2, low)
	for _, c := range []struct {
		addr   uint64
		n      int
		id     uint16
		answer byte
		offset uint64
	}{
		{0x20, 1, lowID, 1, 0}, {0x21, 1, lowID, 1, 1}, {0x21, 2, noDevice, 0xff, 0}, {0x22, 1, noDevice, 0xff, 0},
		{0x43, 1, highID, 2, 3}, {0x40, 4, highID, 2, 0}, {0x1f, 1, noDevice, 0xff, 0}, {^uint64(0), 1, noDevice, 0xff, 0},
	} {
		p := make([]byte, c.n)
		if id := access(b.ports, c.addr, p, false); id != c.id || p[0] != c.answer {
			t.Errorf("read of %d at %#x: device %d answers %#x, want %d and %#x", c.n, c.addr, id, p[0], c.id, c.answer)
		}
		if c.id == highID && high.offset != c.offset || c.id == lowID && low.offset != c.offset {
			t.Errorf("read at %#x reached the wrong offset", c.addr)
		}
	}
	access(b.ports, 0x41, []byte{9}, true)
	if high.offset != 1 || !bytes.Equal(high.wrote, []byte{9}) {
		t.Errorf("write arrived as % x at %d", high.wrote, high.offset)
	}
}

func TestMemoryRefusesWhatIsNotRAM(t *testing.T) {
	m := testMemory(t)
	for _, c := range []struct {
		gpa, n uint64
		ok     bool
	}{
		{0, 1, true}, {MinMemory - 1, 1, true}, {MinMemory - 1, 2, false}, {MinMemory, 0, true}, {MinMemory, 1, false},
		{^uint64(0), 1, false}, {^uint64(0) - 3, 8, false}, {16, ^uint64(0), false}, {highMemory, 1, false},
	} {
		p, ok := m.Slice(c.gpa, c.n)
		if ok != c.ok || ok && uint64(len(p)) != c.n {
			t.Errorf("Slice(%#x, %#x): %v with %d bytes, want %v", c.gpa, c.n, ok, len(p), c.ok)
		}
	}
}
