package devices

import (
	"encoding/binary"
	"math"
	"math/bits"

	"github.com/detvm/detvm/devices/internal/wire"
)

// PIT is an 8254 programmable interval timer with its three counters, clocked at 1193182 Hz of virtual time, and system control port B (0x61),
// which holds counter 2's gate. Counter 0's output is IRQ 0. All six modes, BCD, the latch and read-back commands follow the Intel 8254 data
// sheet (order number 231164).
//
// A count written between two ticks is loaded at the next tick, as on the chip. Counters are computed from the tick of their load, not
// stepped, so time may move by any amount at once. When several periods end within one step of time, the line sees one edge: the interrupt
// controller could not have told them apart either.
type PIT struct {
	clock    Clock
	line     Line
	counters [3]counter
	synced   uint64 // the tick up to which rising edges of counter 0 have been sent to the line
	speaker  byte   // bits 3–1 of port 0x61
}

const (
	pitHz       = 1_193_182
	nsPerSecond = 1_000_000_000
	never       = math.MaxUint64

	// refreshNs is half the period of the bit of port 0x61 that follows the memory refresh request.
	refreshNs = 15_085
)

// NewPIT returns a timer with all counters idle, which drives line with the output of counter 0.
func NewPIT(clock Clock, line Line) *PIT {
	p := &PIT{clock: clock, line: line}
	for i := range p.counters {
		p.counters[i] = counter{access: 3, gate: i != 2}
	}
	return p
}

// Ports returns the handler of ports 0x40–0x43.
func (p *PIT) Ports() Handler { return pitPorts{p} }

// PortB returns the handler of port 0x61.
func (p *PIT) PortB() Handler { return portB{p} }

// tickAt returns the number of input clock pulses up to virtual time ns.
func tickAt(ns uint64) uint64 {
	hi, lo := bits.Mul64(ns, pitHz)
	q, _ := bits.Div64(hi, lo, nsPerSecond)
	return q
}

// timeOf returns the first nanosecond of a tick: tickAt(timeOf(t)) == t. Ticks beyond the end of time give never.
func timeOf(tick uint64) uint64 {
	hi, lo := bits.Mul64(tick, nsPerSecond)
	lo, carry := bits.Add64(lo, pitHz-1, 0)
	hi += carry
	if hi >= pitHz {
		return never
	}
	q, _ := bits.Div64(hi, lo, pitHz)
	return q
}

// Deadline returns when counter 0 next interrupts.
func (p *PIT) Deadline() (ns uint64, ok bool) {
	rise := p.counters[0].nextRise(p.synced)
	if rise == never {
		return 0, false
	}
	ns = timeOf(rise)
	return ns, ns != never
}

// Advance gives the line an edge if counter 0's output has risen by virtual time now. It changes nothing before [PIT.Deadline].
func (p *PIT) Advance(now uint64) {
	tick := tickAt(now)
	if p.counters[0].nextRise(p.synced) > tick {
		return
	}
	p.line(false)
	p.line(true)
	p.sync(tick)
}

// sync makes the line follow counter 0's output at tick.
func (p *PIT) sync(tick uint64) {
	c := &p.counters[0]
	c.settle(tick)
	p.synced = tick
	p.line(c.out(tick))
}

// now fires what is due and returns the current tick.
func (p *PIT) now() uint64 {
	now := p.clock()
	p.Advance(now)
	return max(tickAt(now), p.synced)
}

type pitPorts struct{ pit *PIT }

func (h pitPorts) Read(offset uint64, p []byte) {
	if len(p) != 1 || offset > 2 { // the control word cannot be read
		allOnes(p)
		return
	}
	tick := h.pit.now()
	p[0] = h.pit.counters[offset].read(tick)
}

func (h pitPorts) Write(offset uint64, p []byte) {
	if len(p) != 1 || offset > 3 {
		return
	}
	tick := h.pit.now()
	if offset < 3 {
		h.pit.counters[offset].writeCount(p[0], tick)
	} else {
		h.pit.control(p[0], tick)
	}
	h.pit.sync(tick)
}

// control is a write of the control word (data sheet, "Control word format" and "Read-back command").
func (p *PIT) control(v byte, tick uint64) {
	if n := v >> 6; n < 3 {
		if v>>4&3 == 0 {
			p.counters[n].latch(tick)
		} else {
			p.counters[n].program(v)
		}
		return
	}
	for i := range p.counters {
		c := &p.counters[i]
		if v>>(i+1)&1 == 0 {
			continue
		}
		if v&0x20 == 0 {
			c.latch(tick)
		}
		if v&0x10 == 0 {
			c.latchStatus(tick)
		}
	}
}

type portB struct{ pit *PIT }

// Read returns the gate and speaker bits as written, the refresh toggle in bit 4 and counter 2's output in bit 5.
func (h portB) Read(offset uint64, p []byte) {
	if len(p) != 1 || offset != 0 {
		allOnes(p)
		return
	}
	now := h.pit.clock()
	c := &h.pit.counters[2]
	v := h.pit.speaker | byte(now/refreshNs&1)<<4
	if c.gate {
		v |= 0x01
	}
	if c.out(max(tickAt(now), h.pit.synced)) {
		v |= 0x20
	}
	p[0] = v
}

func (h portB) Write(offset uint64, p []byte) {
	if len(p) != 1 || offset != 0 {
		return
	}
	h.pit.counters[2].setGate(p[0]&1 != 0, h.pit.now())
	h.pit.speaker = p[0] & 0x0e
}

// MarshalBinary encodes the counters and port B.
func (p *PIT) MarshalBinary() ([]byte, error) {
	b := make([]byte, 0, 200)
	for i := range p.counters {
		b = p.counters[i].append(b)
	}
	b = binary.LittleEndian.AppendUint64(b, p.synced)
	return append(b, p.speaker), nil
}

// UnmarshalBinary is the inverse of MarshalBinary.
func (p *PIT) UnmarshalBinary(data []byte) error {
	r := wire.NewReader(data)
	n := PIT{clock: p.clock, line: p.line}
	for i := range n.counters {
		n.counters[i].decode(r)
	}
	n.synced = r.Uint64()
	n.speaker = r.Uint8()
	r.Check(n.synced <= tickAt(math.MaxUint64) && n.speaker&^0x0e == 0)
	if err := r.Close(); err != nil {
		return err
	}
	*p = n
	return nil
}
