package devices

import "github.com/detvm/detvm/devices/internal/wire"

// PIC is the pair of cascaded 8259A interrupt controllers of a PC with its two edge/level control registers (ELCR). IRQ 0–7 are the
// master's inputs, 8–15 the slave's; the slave's output is the master's input 2. References are to the Intel 8259A data sheet
// (order number 231468).
//
// An edge is latched in IRR until it is acknowledged or the chip is initialised again, even when the input falls first. (The data sheet
// wants the input held until the acknowledge and answers with a spurious IR7 otherwise; chip sets and hypervisors latch.) A
// level-triggered input that falls before the acknowledge does give the spurious vector. The cascade is held as the data sheet says, so
// that the slave takes its request back when its own input falls.
type PIC struct {
	master, slave chip
	pending       bool // the master's INT output
}

// chip is one 8259A.
type chip struct {
	irr, isr, imr byte
	lines         byte // levels of the inputs
	elcr          byte // inputs that are level-triggered
	first         byte // the input that now has the highest priority, 0–7
	base          byte // bits 7–3 of the vectors (ICW2)
	cascade       byte // ICW3, kept but not interpreted: the wiring is fixed

	expect  byte // the initialisation word awaited: 2, 3 or 4; 0 when operating
	ltim    bool // ICW1: every input is level-triggered
	single  bool // ICW1: no cascade
	hasICW4 bool // ICW1: an ICW4 follows

	autoEOI     bool // ICW4
	fullyNested bool // ICW4: special fully nested mode
	rotateAuto  bool // OCW2: rotate in automatic EOI mode
	specialMask bool // OCW3
	poll        bool // OCW3: the next read acknowledges
	readISR     bool // OCW3: reads of port 0 return ISR rather than IRR
}

const (
	cascadeIRQ = 2
	chipSize   = 6 + 2 + 10
	none       = -1

	// Inputs whose trigger mode cannot be changed: the timer, the keyboard and the cascade on the master, the clock and the
	// coprocessor on the slave (as in the ISA bridges that define ports 0x4d0 and 0x4d1).
	masterELCR = 0xf8
	slaveELCR  = 0xde
)

// NewPIC returns the controllers as at power-on: not initialised, every input masked and edge-triggered.
func NewPIC() *PIC {
	return &PIC{master: chip{imr: 0xff}, slave: chip{imr: 0xff}}
}

// Master returns the handler of ports 0x20 and 0x21.
func (p *PIC) Master() Handler { return chipPorts{p, &p.master} }

// Slave returns the handler of ports 0xa0 and 0xa1.
func (p *PIC) Slave() Handler { return chipPorts{p, &p.slave} }

// ELCR returns the handler of ports 0x4d0 and 0x4d1.
func (p *PIC) ELCR() Handler { return elcrPorts{p} }

// SetELCR makes the inputs whose bits are set level-triggered and the others edge-triggered, as a write to ports 0x4d0 (bits 0–7) and 0x4d1
// (bits 8–15) does. Bits 0, 1, 2, 8 and 13 cannot be set.
func (p *PIC) SetELCR(mask uint16) {
	p.master.setELCR(byte(mask) & masterELCR)
	p.slave.setELCR(byte(mask>>8) & slaveELCR)
	p.update()
}

// SetLine drives input irq, 0–15. Other numbers, and 2, which the slave drives, are ignored.
func (p *PIC) SetLine(irq int, level bool) {
	switch {
	case irq == cascadeIRQ || irq < 0 || irq > 15:
		return
	case irq < 8:
		p.master.setLine(uint(irq), level)
	default:
		p.slave.setLine(uint(irq-8), level)
	}
	p.update()
}

// Line returns SetLine for one input, as a Line.
func (p *PIC) Line(irq int) Line {
	return func(level bool) { p.SetLine(irq, level) }
}

// Pulse gives input irq one rising edge whatever its level is, and leaves the level as it was. It is how a source without a level of its own
// shares an edge-triggered input.
func (p *PIC) Pulse(irq int) {
	if irq < 0 || irq > 15 {
		return
	}
	level := (uint16(p.slave.lines)<<8|uint16(p.master.lines))>>uint(irq)&1 != 0
	p.SetLine(irq, false)
	p.SetLine(irq, true)
	p.SetLine(irq, level)
}

// Pending reports whether the controllers ask the processor for an interrupt (the INT pin).
func (p *PIC) Pending() bool { return p.pending }

// Acknowledge is the processor's interrupt acknowledge cycle: it moves the request of the highest priority into service and returns
// its vector. When the request has gone away meanwhile it returns the spurious vector, input 7 of the controller that was asked
// (data sheet, "Interrupt sequence"), with nothing in service for it there.
func (p *PIC) Acknowledge() (vector uint8) {
	vector = p.acknowledge()
	p.update()
	return vector
}

func (p *PIC) acknowledge() uint8 {
	irq := p.master.request()
	if irq == none {
		return p.master.base | 7
	}
	p.master.accept(irq)
	if irq != cascadeIRQ || p.master.single {
		return p.master.base | byte(irq)
	}
	return p.slave.base | byte(p.acknowledgeSlave())
}

func (p *PIC) acknowledgeSlave() int {
	// INT falls with the acknowledge, so that a further request of the slave makes a new edge at the master.
	p.setCascade(false)
	irq := p.slave.request()
	if irq == none {
		return 7
	}
	p.slave.accept(irq)
	return irq
}

// update carries the slave's output to the master and the master's to the processor.
func (p *PIC) update() {
	p.setCascade(!p.master.single && p.slave.request() != none)
	p.pending = p.master.request() != none
}

func (p *PIC) setCascade(level bool) {
	p.master.setLine(cascadeIRQ, level)
	if !level {
		p.master.irr &^= 1 << cascadeIRQ
	}
}

// level reports which inputs are level-triggered.
func (c *chip) level() byte {
	if c.ltim {
		return 0xff
	}
	return c.elcr
}

func (c *chip) setLine(n uint, level bool) {
	bit := byte(1) << n
	if !level {
		c.lines &^= bit
		c.irr &^= bit & c.level()
		return
	}
	if c.lines&bit == 0 || c.level()&bit != 0 {
		c.irr |= bit
	}
	c.lines |= bit
}

func (c *chip) setELCR(mask byte) {
	changed := c.elcr ^ mask
	c.elcr = mask
	c.irr = c.irr&^changed | c.lines&changed&c.level()
}

// rank returns the priority (0 is highest) of the best input in set, or 8 when the set is empty.
func (c *chip) rank(set byte) int {
	for i := range 8 {
		if set>>((byte(i)+c.first)&7)&1 != 0 {
			return i
		}
	}
	return 8
}

// request returns the input to interrupt for, or none.
func (c *chip) request() int {
	asking := c.irr &^ c.imr
	if asking == 0 || c.expect != 0 {
		return none
	}
	rank := c.rank(asking)
	irq := (rank + int(c.first)) & 7
	serving := c.isr
	if c.specialMask {
		serving &^= c.imr
	}
	current := c.rank(serving)
	// In special fully nested mode a slave in service may ask again (data sheet, "The special fully nested mode").
	if rank < current || c.fullyNested && irq == cascadeIRQ && rank == current {
		return irq
	}
	return none
}

// accept moves a request into service.
func (c *chip) accept(irq int) {
	bit := byte(1) << irq
	c.irr &^= bit &^ c.level()
	if !c.autoEOI {
		c.isr |= bit
	} else if c.rotateAuto {
		c.first = byte(irq+1) & 7
	}
}

func (c *chip) read(port uint64) byte {
	switch {
	case c.poll:
		c.poll = false
		irq := c.request()
		if irq == none {
			return 0
		}
		c.accept(irq)
		return 0x80 | byte(irq)
	case port == 1:
		return c.imr
	case c.readISR:
		return c.isr
	}
	return c.irr
}

func (c *chip) write(port uint64, v byte) {
	switch {
	case port == 0 && v&0x10 != 0:
		c.initialise(v)
	case port == 0 && v&0x08 != 0:
		c.writeOCW3(v)
	case port == 0:
		c.writeOCW2(v)
	case c.expect != 0:
		c.writeICW(v)
	default:
		c.imr = v
	}
}

// initialise is ICW1. The edge detectors are cleared: an edge-triggered input that is high must fall and rise to ask again.
func (c *chip) initialise(v byte) {
	*c = chip{
		lines: c.lines, elcr: c.elcr, base: c.base, cascade: c.cascade,
		expect:  2,
		hasICW4: v&1 != 0, single: v&2 != 0, ltim: v&8 != 0,
	}
	c.irr = c.lines & c.level()
}

func (c *chip) writeICW(v byte) {
	word := c.expect
	c.expect = 0
	switch word {
	case 2:
		c.base = v & 0xf8
		if !c.single {
			c.expect = 3
		} else if c.hasICW4 {
			c.expect = 4
		}
	case 3:
		c.cascade = v
		if c.hasICW4 {
			c.expect = 4
		}
	case 4:
		c.autoEOI = v&0x02 != 0
		c.fullyNested = v&0x10 != 0
	}
}

// writeOCW2 handles end of interrupt and rotation (data sheet, figure 8).
func (c *chip) writeOCW2(v byte) {
	irq := int(v & 7)
	switch v >> 5 {
	case 0, 4: // rotate in automatic EOI mode: clear, set
		c.rotateAuto = v&0x80 != 0
		return
	case 6: // set priority
		c.first = byte(irq+1) & 7
		return
	case 2: // no operation
		return
	case 1, 5: // non-specific EOI, without and with rotation
		serving := c.isr
		if c.specialMask {
			serving &^= c.imr
		}
		rank := c.rank(serving)
		if rank == 8 {
			return
		}
		irq = (rank + int(c.first)) & 7
	}
	c.isr &^= 1 << irq
	if v&0x80 != 0 {
		c.first = byte(irq+1) & 7
	}
}

func (c *chip) writeOCW3(v byte) {
	c.poll = v&0x04 != 0
	if v&0x02 != 0 {
		c.readISR = v&0x01 != 0
	}
	if v&0x40 != 0 {
		c.specialMask = v&0x20 != 0
	}
}

// chipPorts are the two ports of one controller.
type chipPorts struct {
	pic  *PIC
	chip *chip
}

func (h chipPorts) Read(offset uint64, p []byte) {
	if len(p) != 1 || offset > 1 {
		allOnes(p)
		return
	}
	polled := h.chip.poll
	p[0] = h.chip.read(offset)
	if polled {
		if h.chip == &h.pic.slave {
			h.pic.setCascade(false)
		}
		h.pic.update()
	}
}

func (h chipPorts) Write(offset uint64, p []byte) {
	if len(p) != 1 || offset > 1 {
		return
	}
	h.chip.write(offset, p[0])
	h.pic.update()
}

// elcrPorts are the two edge/level control registers.
type elcrPorts struct{ pic *PIC }

func (h elcrPorts) Read(offset uint64, p []byte) {
	switch {
	case len(p) != 1 || offset > 1:
		allOnes(p)
	case offset == 0:
		p[0] = h.pic.master.elcr
	default:
		p[0] = h.pic.slave.elcr
	}
}

func (h elcrPorts) Write(offset uint64, p []byte) {
	switch {
	case len(p) != 1 || offset > 1:
		return
	case offset == 0:
		h.pic.master.setELCR(p[0] & masterELCR)
	default:
		h.pic.slave.setELCR(p[0] & slaveELCR)
	}
	h.pic.update()
}

// MarshalBinary encodes the state of both controllers.
func (p *PIC) MarshalBinary() ([]byte, error) {
	b := make([]byte, 0, 2*chipSize)
	b = p.master.append(b)
	return p.slave.append(b), nil
}

// UnmarshalBinary is the inverse of MarshalBinary.
func (p *PIC) UnmarshalBinary(data []byte) error {
	r := wire.NewReader(data)
	var n PIC
	n.master.decode(r, masterELCR)
	n.slave.decode(r, slaveELCR)
	master := n.master
	n.update()
	r.Check(n.master == master) // the cascade input is the slave's output
	if err := r.Close(); err != nil {
		return err
	}
	*p = n
	return nil
}

func (c *chip) append(b []byte) []byte {
	b = append(b, c.irr, c.isr, c.imr, c.lines, c.elcr, c.first, c.base, c.cascade, c.expect)
	for _, v := range c.flags() {
		b = wire.AppendBool(b, *v)
	}
	return b
}

func (c *chip) decode(r *wire.Reader, elcrMask byte) {
	for _, v := range []*byte{&c.irr, &c.isr, &c.imr, &c.lines, &c.elcr, &c.first, &c.base, &c.cascade, &c.expect} {
		*v = r.Uint8()
	}
	for _, v := range c.flags() {
		*v = r.Bool()
	}
	r.Check(c.elcr&^elcrMask == 0 && c.first < 8 && c.base&7 == 0 && c.expect != 1 && c.expect <= 4)
	r.Check((c.irr^c.lines)&c.level() == 0) // a level-triggered input asks while it is high
}

func (c *chip) flags() [9]*bool {
	return [9]*bool{&c.ltim, &c.single, &c.hasICW4, &c.autoEOI, &c.fullyNested, &c.rotateAuto, &c.specialMask, &c.poll, &c.readISR}
}
