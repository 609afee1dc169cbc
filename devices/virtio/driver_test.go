package virtio

import (
	"bytes"
	"encoding/binary"
	"testing"
)

var le = binary.LittleEndian

// ram is guest memory: bytes from address 0 on. It checks that devices mark what they write.
type ram struct {
	bytes  []byte
	marked []bool // nil: not checked
	shadow []byte
}

func newRAM(size int) *ram { return &ram{bytes: make([]byte, size)} }

func (m *ram) Slice(gpa, n uint64) ([]byte, bool) {
	size := uint64(len(m.bytes))
	if gpa > size || n > size-gpa {
		return nil, false
	}
	return m.bytes[gpa : gpa+n : gpa+n], true
}

func (m *ram) Written(gpa, n uint64) {
	if _, ok := m.Slice(gpa, n); !ok {
		panic("a device marks bytes that are not RAM")
	}
	if m.marked == nil {
		return
	}
	for i := gpa; i < gpa+n; i++ {
		m.marked[i] = true
	}
}

// watch starts checking marks.
func (m *ram) watch() {
	m.marked = make([]bool, len(m.bytes))
	m.shadow = bytes.Clone(m.bytes)
}

// checkMarks fails if a byte changed without a mark.
func (m *ram) checkMarks(t testing.TB) {
	t.Helper()
	for i := range m.bytes {
		if m.bytes[i] != m.shadow[i] && !m.marked[i] {
			t.Fatalf("byte %#x changed without being marked", i)
		}
	}
	m.marked = nil
}

// driver is a guest driver: it talks to a transport through registers and guest memory only.
type driver struct {
	t      testing.TB
	mem    *ram
	tr     *Transport
	level  bool // of the interrupt line
	next   uint64
	rings  []*ring
	event  bool
	direct bool // do not use indirect descriptors
}

// ring is the driver's end of a virtqueue.
type ring struct {
	size              uint16
	desc, avail, used uint64
	free              []uint16
	availIdx, usedIdx uint16
	chains            map[uint16][]part
}

// part is one buffer of a chain: bytes to send, or room for bytes to receive.
type part struct {
	out  []byte
	room int
	gpa  uint64
}

func send(p []byte) part   { return part{out: p} }
func receive(n int) part   { return part{room: n} }
func (p part) length() int { return len(p.out) + p.room }

func newDriver(t testing.TB, dev Device) *driver { return newDriverIn(t, newRAM(4<<20), dev) }

// newSmallDriver has little memory, for fuzz targets, which make many.
func newSmallDriver(t testing.TB, dev Device) *driver { return newDriverIn(t, newRAM(64<<10), dev) }

func newDriverIn(t testing.TB, mem *ram, dev Device) *driver {
	d := &driver{t: t, mem: mem, next: 0x1000}
	d.tr = NewTransport(dev, d.mem, func(level bool) { d.level = level })
	return d
}

func (d *driver) get(reg uint64) uint32 {
	p := make([]byte, 4)
	d.tr.Read(reg, p)
	return le.Uint32(p)
}

func (d *driver) set(reg uint64, v uint32) {
	d.tr.Write(reg, le.AppendUint32(nil, v))
}

func (d *driver) alloc(n int) uint64 {
	at := d.next
	d.next = (d.next + uint64(n) + 63) &^ 63
	if d.next > uint64(len(d.mem.bytes)) {
		d.next = uint64(len(d.mem.bytes)) / 2 // the tests reuse buffers that nothing uses any more
		return d.alloc(n)
	}
	return at
}

// offered reads the feature bits on offer.
func (d *driver) offered() uint64 {
	d.set(regDeviceFeatSel, 0)
	v := uint64(d.get(regDeviceFeatures))
	d.set(regDeviceFeatSel, 1)
	return v | uint64(d.get(regDeviceFeatures))<<32
}

// negotiate goes through initialisation (3.1.1) up to FEATURES_OK and reports whether the device agreed.
func (d *driver) negotiate(features uint64) bool {
	d.set(regStatus, 0)
	d.set(regStatus, StatusAcknowledge)
	d.set(regStatus, StatusAcknowledge|StatusDriver)
	d.set(regDriverFeatSel, 0)
	d.set(regDriverFeatures, uint32(features))
	d.set(regDriverFeatSel, 1)
	d.set(regDriverFeatures, uint32(features>>32))
	d.set(regStatus, StatusAcknowledge|StatusDriver|StatusFeaturesOK)
	return d.get(regStatus)&StatusFeaturesOK != 0
}

// start brings the device up with all features but those given.
func (d *driver) start(without uint64) *driver {
	d.t.Helper()
	features := d.offered() &^ without
	if !d.negotiate(features) {
		d.t.Fatalf("features %#x refused", features)
	}
	d.event = features&FeatureEventIdx != 0
	d.direct = features&FeatureIndirectDesc == 0
	d.rings = nil
	for i := range d.tr.queue {
		d.set(regQueueSel, uint32(i))
		size := uint16(d.get(regQueueNumMax))
		r := &ring{
			size: size, desc: d.alloc(int(size) * 16), avail: d.alloc(6 + 2*int(size)), used: d.alloc(6 + 8*int(size)),
			chains: map[uint16][]part{},
		}
		for _, area := range [][2]uint64{{r.desc, uint64(size) * 16}, {r.avail, 6 + 2*uint64(size)}, {r.used, 6 + 8*uint64(size)}} {
			clear(d.mem.bytes[area[0]:][:area[1]])
		}
		for j := range size {
			r.free = append(r.free, size-1-j)
		}
		d.set(regQueueNum, uint32(size))
		for reg, v := range map[uint64]uint64{regQueueDescLow: r.desc, regQueueAvailLow: r.avail, regQueueUsedLow: r.used} {
			d.set(reg, uint32(v))
			d.set(reg+4, uint32(v>>32))
		}
		d.set(regQueueReady, 1)
		if d.get(regQueueReady) != 1 {
			d.t.Fatalf("queue %d does not get ready: %v", i, d.tr.Err())
		}
		d.rings = append(d.rings, r)
	}
	d.set(regStatus, StatusAcknowledge|StatusDriver|StatusFeaturesOK|StatusDriverOK)
	return d
}

// writeDesc writes one descriptor of a table.
func (d *driver) writeDesc(table uint64, index uint16, gpa uint64, n int, flags, next uint16) {
	p := d.mem.bytes[table+16*uint64(index):]
	le.PutUint64(p, gpa)
	le.PutUint32(p[8:], uint32(n))
	le.PutUint16(p[12:], flags)
	le.PutUint16(p[14:], next)
}

// add makes a chain available without notifying, and returns its head.
func (d *driver) add(queue int, parts ...part) uint16 {
	d.t.Helper()
	r := d.rings[queue]
	for i := range parts {
		parts[i].gpa = d.alloc(parts[i].length())
		copy(d.mem.bytes[parts[i].gpa:], parts[i].out)
	}
	flags := func(i int) uint16 {
		f := uint16(0)
		if parts[i].room > 0 {
			f |= descWrite
		}
		if i+1 < len(parts) {
			f |= descNext
		}
		return f
	}
	need := len(parts)
	if !d.direct {
		need = 1
	}
	if len(r.free) < need {
		d.t.Fatalf("queue %d is full", queue)
	}
	take := r.free[len(r.free)-need:]
	r.free = r.free[:len(r.free)-need]
	if d.direct {
		for i, p := range parts {
			next := uint16(0)
			if i+1 < len(parts) {
				next = take[i+1]
			}
			d.writeDesc(r.desc, take[i], p.gpa, p.length(), flags(i), next)
		}
	} else {
		table := d.alloc(16 * len(parts))
		for i, p := range parts {
			d.writeDesc(table, uint16(i), p.gpa, p.length(), flags(i), uint16(i+1))
		}
		d.writeDesc(r.desc, take[0], table, 16*len(parts), descIndirect, 0)
	}
	r.chains[take[0]] = parts
	d.offer(queue, take[0])
	return take[0]
}

// offer puts a head into the available ring.
func (d *driver) offer(queue int, head uint16) {
	r := d.rings[queue]
	le.PutUint16(d.mem.bytes[r.avail+4+2*uint64(r.availIdx%r.size):], head)
	r.availIdx++
	le.PutUint16(d.mem.bytes[r.avail+2:], r.availIdx)
}

// wantsKick reports whether the device asked to be notified of the last n additions (2.7.10).
func (d *driver) wantsKick(queue int, n uint16) bool {
	r := d.rings[queue]
	if !d.event {
		return le.Uint16(d.mem.bytes[r.used:])&1 == 0
	}
	event := le.Uint16(d.mem.bytes[r.used+4+8*uint64(r.size):])
	return r.availIdx-event-1 < n
}

func (d *driver) kick(queue int) { d.set(regQueueNotify, uint32(queue)) }

// done is a chain that came back.
type done struct {
	head   uint16
	length uint32
	data   []byte // of the writable parts, all of them
}

// collect takes what the device returned.
func (d *driver) collect(queue int) []done {
	r := d.rings[queue]
	var got []done
	for r.usedIdx != le.Uint16(d.mem.bytes[r.used+2:]) {
		entry := d.mem.bytes[r.used+4+8*uint64(r.usedIdx%r.size):]
		u := done{head: uint16(le.Uint32(entry)), length: le.Uint32(entry[4:])}
		parts, ok := r.chains[u.head]
		if !ok {
			d.t.Fatalf("queue %d returned %d, which is not outstanding", queue, u.head)
		}
		delete(r.chains, u.head)
		for _, p := range parts {
			u.data = append(u.data, d.mem.bytes[p.gpa:][:p.room]...)
		}
		r.free = append(r.free, d.descriptors(r, u.head)...)
		r.usedIdx++
		got = append(got, u)
	}
	if d.event {
		le.PutUint16(d.mem.bytes[r.avail+4+2*uint64(r.size):], r.usedIdx)
	}
	return got
}

// descriptors lists the descriptors of a chain in the main table.
func (d *driver) descriptors(r *ring, head uint16) []uint16 {
	all := []uint16{head}
	for i := head; ; {
		p := d.mem.bytes[r.desc+16*uint64(i):]
		if le.Uint16(p[12:])&descNext == 0 {
			return all
		}
		i = le.Uint16(p[14:])
		all = append(all, i)
	}
}

// call makes a chain available, notifies and returns the chain, which must come back alone.
func (d *driver) call(queue int, parts ...part) done {
	d.t.Helper()
	d.add(queue, parts...)
	d.kick(queue)
	got := d.collect(queue)
	if len(got) != 1 {
		d.t.Fatalf("queue %d returned %d chains, not one: %v", queue, len(got), d.tr.Err())
	}
	return got[0]
}

func (d *driver) broken() bool { return d.get(regStatus)&StatusNeedsReset != 0 }

// ack takes the interrupt as a driver does, and returns its causes.
func (d *driver) ack() uint32 {
	v := d.get(regIntStatus)
	d.set(regIntACK, v)
	return v
}

// checkRestore restores the transport's state into that of a fresh driver on the same memory, which it returns.
func (d *driver) checkRestore(fresh Device) *driver {
	d.t.Helper()
	state, err := d.tr.MarshalBinary()
	if err != nil {
		d.t.Fatalf("encode: %v", err)
	}
	n := *d
	n.tr = NewTransport(fresh, d.mem, func(level bool) { n.level = level })
	before, _ := n.tr.MarshalBinary()
	for _, bad := range [][]byte{nil, state[:len(state)/2], state[:len(state)-1], append(bytes.Clone(state), 0)} {
		if n.tr.UnmarshalBinary(bad) == nil {
			d.t.Fatalf("a state of %d bytes instead of %d is accepted", len(bad), len(state))
		}
	}
	if after, _ := n.tr.MarshalBinary(); !bytes.Equal(before, after) {
		d.t.Fatal("a refused state has an effect")
	}
	if err := n.tr.UnmarshalBinary(state); err != nil {
		d.t.Fatalf("restore: %v", err)
	}
	if again, _ := n.tr.MarshalBinary(); !bytes.Equal(again, state) {
		d.t.Fatalf("restored as\n%x, want\n%x", again, state)
	}
	return &n
}
