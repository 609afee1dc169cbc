package devices

import (
	"encoding/binary"

	"github.com/detvm/detvm/devices/internal/wire"
)

// counter is one counter of the 8254. Its counting element held count at tick start and has been decremented at every tick since, unless
// the gate froze it; the current value and output are computed from that.
//
// Methods that take a tick expect it not to be below any tick passed before.
type counter struct {
	mode   byte // 0–5
	access byte // 1: low byte only, 2: high byte only, 3: low then high
	bcd    bool
	gate   bool

	armed   bool   // a count was written since the control word
	waiting bool   // and no trigger or end of cycle has taken it to the counting element yet
	running bool   // the counting element was, or at tick start will be, loaded
	reload  uint32 // the count register, 1–65536 (10000 in BCD)
	count   uint32 // what the counting element is loaded with at tick start
	start   uint64
	before  bool   // modes 1, 4 and 5: the output until start
	lowHalf bool   // mode 3: the half cycle at start has the output low
	frozen  bool   // the gate holds the counting element
	elapsed uint32 // the ticks counted when it was frozen

	reloading bool   // modes 2 and 3: reload is to replace count at tick reloadAt, the end of the cycle or half cycle
	reloadAt  uint64 //

	writeHigh, readHigh bool // the next byte of a two-byte access is the high one
	low                 byte // the low byte written
	latched             bool
	latchedCount        uint16
	statusLatched       bool
	status              byte
}

// program is a control word for this counter.
func (c *counter) program(v byte) {
	mode := v >> 1 & 7
	if mode > 5 {
		mode &= 3 // 6 and 7 are 2 and 3
	}
	*c = counter{mode: mode, access: v >> 4 & 3, bcd: v&1 != 0, gate: c.gate}
}

// writeCount is a byte written to the counter's port.
func (c *counter) writeCount(v byte, tick uint64) {
	var raw uint16
	switch {
	case c.access == 1:
		raw = uint16(v)
	case c.access == 2:
		raw = uint16(v) << 8
	case !c.writeHigh:
		c.low, c.writeHigh = v, true
		if c.mode == 0 { // the first byte stops the count and puts the output low
			c.armed, c.running = false, false
		}
		return
	default:
		raw = uint16(v)<<8 | uint16(c.low)
		c.writeHigh = false
	}
	c.setReload(raw, tick)
}

func (c *counter) setReload(raw uint16, tick uint64) {
	c.settle(tick)
	c.reload = c.decodeCount(raw)
	first := !c.armed
	c.armed, c.waiting = true, true
	if c.running && tick < c.start { // the load still to come takes the newer count
		c.count, c.waiting = c.reload, false
		return
	}
	switch c.mode {
	case 0, 4:
		c.load(tick)
	case 2, 3:
		if first {
			c.load(tick)
		} else if c.running && !c.frozen {
			c.reloading, c.reloadAt = true, c.cycleEnd(tick)
		}
	}
}

// decodeCount turns the register's value into a number of ticks. Zero is the largest count. A count of 1 is illegal in modes 2 and 3 and
// taken as 2.
func (c *counter) decodeCount(raw uint16) uint32 {
	n := uint32(raw)
	if c.bcd {
		n = n>>12*1000 + n>>8&15*100 + n>>4&15*10 + n&15
		n %= 10000
	}
	if n == 0 {
		n = c.modulus()
	}
	if n == 1 && (c.mode == 2 || c.mode == 3) {
		n = 2
	}
	return n
}

// modulus is where the counting element wraps.
func (c *counter) modulus() uint32 {
	if c.bcd {
		return 10000
	}
	return 65536
}

// load moves the count register to the counting element at the next tick.
func (c *counter) load(tick uint64) {
	c.before = (c.mode == 1 || c.mode >= 4) && c.out(tick)
	c.running, c.count, c.start = true, c.reload, tick+1
	c.lowHalf, c.reloading, c.waiting = false, false, false
	// The gate holds modes 0 and 4 where they are, and modes 2 and 3 with the output high; it only triggers modes 1 and 5.
	c.frozen, c.elapsed = !c.gate && c.mode != 1 && c.mode != 5, 0
}

// setGate drives the gate input (data sheet, figure "Gate pin operations summary").
func (c *counter) setGate(gate bool, tick uint64) {
	if gate == c.gate {
		return
	}
	c.settle(tick)
	c.gate = gate
	switch c.mode {
	case 0, 4:
		c.hold(!gate, tick)
	case 1, 5:
		if gate && c.armed {
			c.load(tick)
		}
	case 2, 3:
		if gate && c.armed {
			c.load(tick)
		} else if !gate {
			c.hold(true, tick)
			c.reloading = false
		}
	}
}

// hold stops the counting element, or lets it go on.
func (c *counter) hold(frozen bool, tick uint64) {
	if !c.running || frozen == c.frozen {
		return
	}
	if frozen {
		c.elapsed, c.frozen = c.position(tick), true
		return
	}
	c.frozen = false
	if tick >= c.start { // else it has not been loaded yet and counts from start
		c.start = tick - min(tick, uint64(c.elapsed))
	}
}

// settle makes a count that was waiting for the end of the cycle current, if that end has come.
func (c *counter) settle(tick uint64) {
	if !c.reloading || tick < c.reloadAt {
		return
	}
	if c.mode == 3 {
		// The cycle at reloadAt-1 tells which half has just ended.
		c.lowHalf = c.highAt(c.reloadAt - 1)
	}
	c.start, c.count = c.reloadAt, c.reload
	c.reloading, c.waiting = false, false
}

// settled returns the counter as it is at tick.
func (c *counter) settled(tick uint64) counter {
	s := *c
	s.settle(tick)
	return s
}

// position returns how many ticks ago the counting element was loaded, kept within one wrap for the one-shot modes.
func (c *counter) position(tick uint64) uint32 {
	if c.frozen {
		return c.elapsed
	}
	if tick < c.start {
		return 0
	}
	n := tick - c.start
	if c.mode == 2 || c.mode == 3 {
		return uint32(n % uint64(c.count))
	}
	// Past the terminal count only the value modulo the wrap can be seen.
	if limit := uint64(c.count) + 2; n > limit {
		n = limit + (n-limit)%uint64(c.modulus())
	}
	return uint32(n)
}

// cycleEnd returns the first tick after the given one at which modes 2 and 3 reload.
func (c *counter) cycleEnd(tick uint64) uint64 {
	if tick < c.start {
		tick = c.start
	}
	n := uint64(c.count)
	begin := tick - (tick-c.start)%n
	if c.mode == 3 {
		if half := begin + c.firstHalf(); tick < half {
			return half
		}
	}
	return begin + n
}

// firstHalf returns the length of the half cycle that begins at start: an odd count is high for the longer half.
func (c *counter) firstHalf() uint64 {
	if c.lowHalf {
		return uint64(c.count / 2)
	}
	return uint64(c.count - c.count/2)
}

// highAt returns the output of mode 3 without regard to gate and pending reloads.
func (c *counter) highAt(tick uint64) bool {
	return uint64(c.position(tick)) < c.firstHalf() != c.lowHalf
}

// out returns the output pin.
func (c *counter) out(tick uint64) bool {
	s := c.settled(tick)
	if !s.running {
		return s.mode != 0 // the control word puts it low in mode 0, high in the others
	}
	pos := s.position(tick)
	loaded := tick >= s.start
	switch s.mode {
	case 0:
		return pos >= s.count
	case 1:
		return loaded && pos >= s.count || !loaded && s.before
	case 2:
		return s.frozen || !loaded || pos != s.count-1
	case 3:
		return s.frozen || !loaded || s.highAt(tick)
	default:
		return loaded && pos != s.count || !loaded && s.before
	}
}

// nextRise returns the first tick after the given one at which the output goes from low to high, or never. The gate does not move.
func (c *counter) nextRise(after uint64) uint64 {
	s := c.settled(after)
	switch {
	case !s.running:
		return never
	case s.mode >= 4 && after < s.start && !s.before:
		return s.start // the load ends a strobe
	case s.frozen:
		return never
	}
	rise := s.rise(after)
	if s.reloading && rise >= s.reloadAt {
		at := s.reloadAt
		s.settle(at)
		if s.mode == 2 || !s.lowHalf {
			return at // the output rises with the reload itself
		}
		return s.rise(at)
	}
	return rise
}

func (c *counter) rise(after uint64) uint64 {
	n := uint64(c.count)
	first := c.start + n
	switch c.mode {
	case 4, 5:
		first++ // the strobe is low for one tick
	case 3:
		if c.lowHalf {
			first = c.start + c.firstHalf()
		}
	}
	if after < first {
		return first
	}
	if c.mode != 2 && c.mode != 3 {
		return never
	}
	return first + ((after-first)/n+1)*n
}

// value returns the counting element as the register reads.
func (c *counter) value(tick uint64) uint16 {
	s := c.settled(tick)
	if !s.running {
		return 0
	}
	pos, n := s.position(tick), s.count
	switch s.mode {
	case 2:
		n -= pos
	case 3:
		n = s.squareWaveValue(pos)
	default:
		n = (n + 2*s.modulus() - pos%s.modulus()) % s.modulus()
	}
	n %= s.modulus()
	if s.bcd {
		n = n/1000<<12 | n/100%10<<8 | n/10%10<<4 | n%10
	}
	return uint16(n)
}

// squareWaveValue is mode 3: each half cycle counts down by two from the even part of the count.
func (c *counter) squareWaveValue(pos uint32) uint32 {
	if half := uint32(c.firstHalf()); pos >= half {
		pos -= half
	}
	return c.count&^1 - 2*pos
}

// latch is the counter latch command: it keeps the count for the next read. A second one before that read is ignored.
func (c *counter) latch(tick uint64) {
	if !c.latched {
		c.latched, c.latchedCount = true, c.value(tick)
	}
}

// latchStatus keeps the status byte: output, null count, access, mode, BCD.
func (c *counter) latchStatus(tick uint64) {
	if c.statusLatched {
		return
	}
	c.statusLatched = true
	c.status = c.access<<4 | c.mode<<1
	if c.out(tick) {
		c.status |= 0x80
	}
	if c.null(tick) {
		c.status |= 0x40
	}
	if c.bcd {
		c.status |= 0x01
	}
}

// null reports that the count register holds a count that has not reached the counting element.
func (c *counter) null(tick uint64) bool {
	s := c.settled(tick)
	return !s.armed || s.waiting || tick < s.start
}

// read returns the next byte of the status, the latched count or the live count, in that order.
func (c *counter) read(tick uint64) byte {
	if c.statusLatched {
		c.statusLatched = false
		return c.status
	}
	v := c.latchedCount
	if !c.latched {
		v = c.value(tick)
	}
	high := c.access == 2 || c.access == 3 && c.readHigh
	if c.access == 3 {
		c.readHigh = !c.readHigh
	}
	if c.access != 3 || high {
		c.latched = false
	}
	if high {
		return byte(v >> 8)
	}
	return byte(v)
}

func (c *counter) flags() [13]*bool {
	return [13]*bool{
		&c.bcd, &c.gate, &c.armed, &c.waiting, &c.running, &c.before, &c.lowHalf, &c.frozen, &c.reloading,
		&c.writeHigh, &c.readHigh, &c.latched, &c.statusLatched,
	}
}

func (c *counter) append(b []byte) []byte {
	b = append(b, c.mode, c.access, c.low, c.status)
	for _, v := range c.flags() {
		b = wire.AppendBool(b, *v)
	}
	b = binary.LittleEndian.AppendUint16(b, c.latchedCount)
	b = binary.LittleEndian.AppendUint32(b, c.reload)
	b = binary.LittleEndian.AppendUint32(b, c.count)
	b = binary.LittleEndian.AppendUint32(b, c.elapsed)
	b = binary.LittleEndian.AppendUint64(b, c.start)
	return binary.LittleEndian.AppendUint64(b, c.reloadAt)
}

func (c *counter) decode(r *wire.Reader) {
	for _, v := range []*byte{&c.mode, &c.access, &c.low, &c.status} {
		*v = r.Uint8()
	}
	for _, v := range c.flags() {
		*v = r.Bool()
	}
	c.latchedCount = r.Uint16()
	for _, v := range []*uint32{&c.reload, &c.count, &c.elapsed} {
		*v = r.Uint32()
	}
	c.start = r.Uint64()
	c.reloadAt = r.Uint64()
	c.validate(r)
}

// validate rejects what would make the arithmetic overflow or divide by zero.
func (c *counter) validate(r *wire.Reader) {
	const lastTick = 1 << 55 // beyond tickAt(MaxUint64)
	least := uint32(1)
	if c.mode == 2 || c.mode == 3 {
		least = 2
	}
	inRange := func(n uint32) bool { return n >= least && n <= c.modulus() }
	r.Check(c.mode <= 5 && c.access >= 1 && c.access <= 3)
	r.Check(!c.armed || inRange(c.reload))
	r.Check(!c.running || inRange(c.count))
	r.Check(c.start <= lastTick && c.reloadAt <= lastTick && c.elapsed <= 3*65536)
	r.Check(c.mode != 2 && c.mode != 3 || !c.running || c.elapsed < c.count)
	r.Check(!c.reloading || c.armed && c.running && !c.frozen && (c.mode == 2 || c.mode == 3) && c.reloadAt > c.start)
}
