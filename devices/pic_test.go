package devices

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// initPIC is how Linux sets the controllers up: vectors 0x30 and 0x38, normal EOI, nothing masked.
func initPIC(p *PIC, icw4 byte) {
	for _, c := range []struct {
		h             Handler
		base, cascade byte
	}{{p.Master(), 0x30, 1 << cascadeIRQ}, {p.Slave(), 0x38, cascadeIRQ}} {
		out(c.h, 0, 0x11)
		out(c.h, 1, c.base)
		out(c.h, 1, c.cascade)
		out(c.h, 1, icw4)
	}
}

func newPIC() *PIC {
	p := NewPIC()
	initPIC(p, 0x01)
	return p
}

// drain acknowledges and ends interrupts until none is pending, and returns the vectors.
func drain(p *PIC) []uint8 {
	var got []uint8
	for p.Pending() && len(got) < 100 {
		v := p.Acknowledge()
		got = append(got, v)
		if v >= 0x38 {
			out(p.Slave(), 0, 0x20)
		}
		out(p.Master(), 0, 0x20)
	}
	return got
}

func TestPICServesInPriorityOrder(t *testing.T) {
	p := newPIC()
	for irq := range 16 {
		p.Pulse(irq)
	}
	// The slave sits at the master's input 2, so its inputs come between 1 and 3.
	want := []uint8{0x30, 0x31, 0x38, 0x39, 0x3a, 0x3b, 0x3c, 0x3d, 0x3e, 0x3f, 0x33, 0x34, 0x35, 0x36, 0x37}
	if got := drain(p); !slices.Equal(got, want) {
		t.Errorf("served %x, want %x", got, want)
	}
}

func TestPICHigherPriorityInterruptsLower(t *testing.T) {
	p := newPIC()
	p.Pulse(4)
	if v := p.Acknowledge(); v != 0x34 {
		t.Fatalf("vector %#x", v)
	}
	p.Pulse(6)
	if p.Pending() {
		t.Error("input 6 interrupts the service of 4")
	}
	p.Pulse(4)
	if p.Pending() {
		t.Error("input 4 interrupts its own service")
	}
	p.Pulse(1)
	if !p.Pending() || p.Acknowledge() != 0x31 {
		t.Error("input 1 does not interrupt the service of 4")
	}
}

// TestPICRotation is figure 8 of the data sheet: IR4 and IR6 in service with fixed priority; a rotate on non-specific EOI then makes IR4 the
// lowest, so that the order is 5 6 7 0 1 2 3 4.
func TestPICRotation(t *testing.T) {
	p := newPIC()
	p.Pulse(6)
	p.Acknowledge()
	p.Pulse(4)
	p.Acknowledge()
	out(p.Master(), 0, 0xa0)
	if isr := p.master.isr; isr != 1<<6 {
		t.Fatalf("in service after the EOI: %08b", isr)
	}
	out(p.Master(), 0, 0x66) // specific EOI of 6, no rotation
	for _, irq := range []int{0, 1, 3, 4, 5, 6, 7} {
		p.Pulse(irq)
	}
	want := []uint8{0x35, 0x36, 0x37, 0x30, 0x31, 0x33, 0x34}
	if got := drain(p); !slices.Equal(got, want) {
		t.Errorf("served %x, want %x", got, want)
	}
}

func TestPICSetPriorityMakesTheGivenInputLowest(t *testing.T) {
	for lowest := range 8 {
		p := newPIC()
		out(p.Master(), 0, 0xc0|byte(lowest))
		for _, irq := range []int{0, 1, 3, 4, 5, 6, 7} {
			p.Pulse(irq)
		}
		var want []uint8
		for i := range 8 {
			if irq := (lowest + 1 + i) % 8; irq != cascadeIRQ {
				want = append(want, 0x30+uint8(irq))
			}
		}
		if got := drain(p); !slices.Equal(got, want) {
			t.Errorf("with %d lowest served %x, want %x", lowest, got, want)
		}
	}
}

func TestPICRotateInAutomaticEOI(t *testing.T) {
	p := NewPIC()
	initPIC(p, 0x03)
	out(p.Master(), 0, 0x80)
	var got []uint8
	for range 4 {
		p.Pulse(0)
		p.Pulse(1)
		got = append(got, p.Acknowledge())
	}
	if want := []uint8{0x30, 0x31, 0x30, 0x31}; !slices.Equal(got, want) {
		t.Errorf("served %x, want %x: devices of equal priority take turns", got, want)
	}
	if p.master.isr != 0 {
		t.Error("automatic EOI leaves an input in service")
	}
}

func TestPICAutomaticEOIServesAllOfTheSlave(t *testing.T) {
	p := NewPIC()
	initPIC(p, 0x03)
	p.Pulse(9)
	p.Pulse(10)
	if a, b := p.Acknowledge(), p.Acknowledge(); a != 0x39 || b != 0x3a || p.Pending() {
		t.Errorf("vectors %#x %#x, pending %v", a, b, p.Pending())
	}
}

func TestPICSpecialMaskModeLetsLowerPriorityIn(t *testing.T) {
	p := newPIC()
	p.Pulse(3)
	p.Acknowledge()
	out(p.Master(), 1, 1<<3)
	out(p.Master(), 0, 0x68) // ESMM, SMM
	p.Pulse(5)
	if !p.Pending() || p.Acknowledge() != 0x35 {
		t.Fatal("input 5 is held off by the masked service of 3")
	}
	// A non-specific EOI does not end a masked service in this mode.
	out(p.Master(), 0, 0x20)
	out(p.Master(), 0, 0x0b)
	if isr := in(p.Master(), 0); isr != 1<<3 {
		t.Errorf("in service: %08b", isr)
	}
	out(p.Master(), 0, 0x63)
	if isr := in(p.Master(), 0); isr != 0 {
		t.Errorf("in service after the specific EOI: %08b", isr)
	}
}

func TestPICSpecialFullyNestedMode(t *testing.T) {
	for _, nested := range []bool{false, true} {
		p := NewPIC()
		icw4 := byte(0x01)
		if nested {
			icw4 = 0x11
		}
		initPIC(p, icw4)
		p.Pulse(12)
		p.Acknowledge()
		p.Pulse(9) // of higher priority in the slave
		if p.Pending() != nested {
			t.Errorf("nested mode %v: a better input of the slave in service is pending: %v", nested, p.Pending())
		}
		p.Pulse(3) // of lower priority than the slave
		if nested && p.Acknowledge() != 0x39 {
			t.Error("wrong vector")
		}
		if p.Pending() {
			t.Error("input 3 interrupts the slave's service")
		}
	}
}

func TestPICPollReturnsAndAcknowledges(t *testing.T) {
	p := newPIC()
	out(p.Slave(), 0, 0x0c)
	if v := in(p.Slave(), 0); v != 0 {
		t.Fatalf("poll with nothing pending: %#x", v)
	}
	p.Pulse(11)
	out(p.Master(), 0, 0x0c)
	if v := in(p.Master(), 0); v != 0x82 {
		t.Fatalf("poll of the master: %#x", v)
	}
	out(p.Slave(), 0, 0x0c)
	if v := in(p.Slave(), 0); v != 0x83 {
		t.Fatalf("poll of the slave: %#x", v)
	}
	out(p.Slave(), 0, 0x0b)
	if isr := in(p.Slave(), 0); isr != 1<<3 || p.Pending() {
		t.Errorf("in service %08b, pending %v", isr, p.Pending())
	}
}

func TestPICSpuriousVectors(t *testing.T) {
	p := newPIC()
	p.SetELCR(1<<5 | 1<<10)
	p.SetLine(5, true)
	p.SetLine(5, false)
	if v := p.Acknowledge(); v != 0x37 || p.master.isr != 0 {
		t.Errorf("vector %#x, in service %08b", v, p.master.isr)
	}
	p.SetLine(10, true)
	p.SetLine(10, false)
	if p.Pending() {
		t.Error("the slave does not take its request back")
	}
	p.master.irr |= 1 << cascadeIRQ // as if it fell between the two acknowledge pulses
	if v := p.Acknowledge(); v != 0x3f || p.slave.isr != 0 || p.master.isr != 1<<2 {
		t.Errorf("vector %#x, in service %08b %08b", v, p.slave.isr, p.master.isr)
	}
}

func TestPICEdgeAndLevel(t *testing.T) {
	p := newPIC()
	out(p.ELCR(), 0, 0xff)
	out(p.ELCR(), 1, 0xff)
	if in(p.ELCR(), 0) != masterELCR || in(p.ELCR(), 1) != slaveELCR {
		t.Error("fixed inputs can be made level-triggered")
	}
	p.SetELCR(1 << 9)
	p.SetLine(9, true)
	p.SetLine(4, true)
	first := drain4(p)
	if want := []uint8{0x39, 0x39, 0x39, 0x39}; !slices.Equal(first, want) {
		t.Errorf("a high level-triggered input gives %x, want %x", first, want)
	}
	p.SetLine(9, false)
	if got := drain(p); !slices.Equal(got, []uint8{0x34}) {
		t.Errorf("a high edge-triggered input gives %x, want one 34", got)
	}
	p.SetLine(4, true)
	if p.Pending() {
		t.Error("repeating the level makes an edge")
	}
	p.Pulse(4)
	if !p.Pending() {
		t.Error("a pulse on a high line makes no edge")
	}
}

func drain4(p *PIC) []uint8 {
	var got []uint8
	for range 4 {
		got = append(got, p.Acknowledge())
		out(p.Slave(), 0, 0x20)
		out(p.Master(), 0, 0x20)
	}
	return got
}

func TestPICInitialisationClearsEdgesAndKeepsLevels(t *testing.T) {
	p := newPIC()
	p.SetELCR(1 << 11)
	p.SetLine(11, true)
	p.SetLine(6, true)
	out(p.Master(), 1, 0xff)
	initPIC(p, 0x01)
	if got := p.Acknowledge(); got != 0x3b {
		t.Errorf("vector %#x after initialisation, want the level-triggered 3b", got)
	}
	if p.master.irr != 0 {
		t.Error("an edge survives initialisation")
	}
}

func TestPICMaskAndRegisters(t *testing.T) {
	p := newPIC()
	out(p.Master(), 1, 0xfb)
	p.Pulse(1)
	if p.Pending() {
		t.Error("a masked input interrupts")
	}
	if in(p.Master(), 1) != 0xfb || in(p.Master(), 0) != 1<<1 {
		t.Errorf("IMR %#x IRR %#x", in(p.Master(), 1), in(p.Master(), 0))
	}
	out(p.Master(), 1, 0)
	if !p.Pending() || p.Acknowledge() != 0x31 {
		t.Error("an unmasked request does not interrupt")
	}
	out(p.Master(), 0, 0x0b)
	if in(p.Master(), 0) != 1<<1 {
		t.Error("ISR does not show the service")
	}
}

func TestPICMasterAlone(t *testing.T) {
	p := NewPIC()
	out(p.Master(), 0, 0x13) // single: no ICW3
	out(p.Master(), 1, 0x50)
	out(p.Master(), 1, 0x01)
	out(p.Master(), 1, 0x00)
	p.Pulse(7)
	if v := p.Acknowledge(); v != 0x57 {
		t.Errorf("vector %#x", v)
	}
}

// picOps applies a byte string as register accesses and line changes.
func picOps(p *PIC, ops []byte) {
	for len(ops) >= 2 {
		op, v := ops[0], ops[1]
		ops = ops[2:]
		h := []Handler{p.Master(), p.Slave(), p.ELCR()}[op>>1&3%3]
		switch op >> 4 & 3 {
		case 0:
			out(h, uint64(op&1), v)
		case 1:
			in(h, uint64(op&1))
		case 2:
			p.SetLine(int(v&15), v&16 != 0)
		case 3:
			if p.Pending() || v == 0 {
				p.Acknowledge()
			}
		}
	}
}

func FuzzPIC(f *testing.F) {
	f.Add([]byte{0, 0x11, 1, 0x30, 1, 4, 1, 1, 2, 0x11, 3, 0x38, 3, 2, 3, 1, 0x20, 0x14, 0x30, 1, 0, 0x20})
	f.Fuzz(func(t *testing.T, ops []byte) {
		p := NewPIC()
		picOps(p, ops)
		fresh := NewPIC()
		checkRestore(t, p, fresh)
		if p.Pending() != fresh.Pending() {
			t.Fatal("a restored controller disagrees about a pending interrupt")
		}
	})
}

func FuzzPICUnmarshal(f *testing.F) {
	f.Add(marshal(f, NewPIC()))
	f.Add(marshal(f, newPIC()))
	f.Fuzz(func(t *testing.T, data []byte) {
		p := NewPIC()
		fuzzUnmarshal(t, data, p, func() { p.Pulse(3); p.Acknowledge(); p.Pulse(12); p.Acknowledge() })
	})
}

// TestPICLosesNoEdge checks that whatever order edges come in, each input is served once when every interrupt is ended properly.
func TestPICLosesNoEdge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := newPIC()
		served := map[uint8]int{}
		raised := map[uint8]bool{}
		for _, irq := range rapid.SliceOf(rapid.SampledFrom([]int{0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15})).Draw(t, "irqs") {
			p.Pulse(irq)
			raised[0x30+uint8(irq)] = true
			if rapid.Bool().Draw(t, "serve") {
				for _, v := range drain(p) {
					served[v]++
				}
			}
		}
		for _, v := range drain(p) {
			served[v]++
		}
		for v := range raised {
			if served[v] == 0 {
				t.Fatalf("vector %#x was raised and never served", v)
			}
		}
		for v := range served {
			if !raised[v] {
				t.Fatalf("vector %#x was served and never raised", v)
			}
		}
	})
}

func BenchmarkPICInterrupt(b *testing.B) {
	p := newPIC()
	eoi := []byte{0x20}
	m := p.Master()
	b.ReportAllocs()
	for b.Loop() {
		p.Pulse(0)
		p.Acknowledge()
		m.Write(0, eoi)
	}
}
