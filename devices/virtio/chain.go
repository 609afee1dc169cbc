package virtio

import "encoding/binary"

// MaxChainBytes bounds the data of one descriptor chain. The largest legal request, of the block device, is half of it.
const MaxChainBytes = 16 << 20

// Chain is one descriptor chain: first the bytes that the device reads, then the bytes that it writes. Both are streams; how the driver
// cut them into descriptors means nothing (2.7.4.3). A Chain is reused from Pop to Pop so that the steady state allocates nothing.
type Chain struct {
	mem      GuestMemory
	head     uint16
	segments []segment
	readable int // the segments before this one are for reading, the others for writing

	at, offset int // the read position: segment and byte
	wAt, wOff  int // the write position
	readLeft   uint64
	writeLeft  uint64
	written    uint32
}

// segment is the memory of one descriptor.
type segment struct {
	gpa  uint64
	data []byte
}

// load follows the descriptors from head on.
func (c *Chain) load(q *Queue, head uint16) error {
	*c = Chain{mem: q.mem, head: head, segments: c.segments[:0]}
	table, ok := q.mem.Slice(q.desc, q.descBytes())
	if !ok {
		return queueError("descriptor table at %#x is not in memory", q.desc)
	}
	if err := c.follow(q, table, head, false); err != nil {
		return err
	}
	c.at, c.wAt = 0, c.readable
	return nil
}

// follow adds the chain that starts at an index of a table. Every step adds a segment or descends to an indirect table, and there
// are at most as many segments as the queue has entries (2.7.5.3.1), so loops end.
func (c *Chain) follow(q *Queue, table []byte, index uint16, nested bool) error {
	for {
		if int(index) >= len(table)/descriptorSize {
			return queueError("descriptor %d of %d", index, len(table)/descriptorSize)
		}
		d := table[int(index)*descriptorSize:][:descriptorSize]
		gpa := binary.LittleEndian.Uint64(d)
		n := binary.LittleEndian.Uint32(d[8:])
		flags := binary.LittleEndian.Uint16(d[12:])
		if flags&descIndirect != 0 {
			if nested || !q.indirect || flags&descNext != 0 {
				return queueError("descriptor %d has flags %#x", index, flags)
			}
			return c.followIndirect(q, gpa, n)
		}
		if err := c.add(q, gpa, n, flags&descWrite != 0); err != nil {
			return err
		}
		if flags&descNext == 0 {
			return nil
		}
		index = binary.LittleEndian.Uint16(d[14:])
	}
}

func (c *Chain) followIndirect(q *Queue, gpa uint64, n uint32) error {
	if n == 0 || n%descriptorSize != 0 || uint64(n) > q.descBytes() {
		return queueError("indirect table of %d bytes", n)
	}
	table, ok := q.mem.Slice(gpa, uint64(n))
	if !ok {
		return queueError("indirect table at %#x is not in memory", gpa)
	}
	return c.follow(q, table, 0, true)
}

func (c *Chain) add(q *Queue, gpa uint64, n uint32, writable bool) error {
	if len(c.segments) == int(q.size) {
		return queueError("more than %d descriptors in a chain", q.size)
	}
	if c.readLeft+c.writeLeft+uint64(n) > MaxChainBytes {
		return queueError("more than %d bytes in a chain", MaxChainBytes)
	}
	data, ok := q.mem.Slice(gpa, uint64(n))
	if !ok {
		return queueError("buffer of %d bytes at %#x is not in memory", n, gpa)
	}
	switch {
	case writable:
		c.writeLeft += uint64(n)
	case c.readable < len(c.segments):
		return queueError("a readable buffer after a writable one") // 2.7.4.2
	default:
		c.readLeft += uint64(n)
		c.readable++
	}
	c.segments = append(c.segments, segment{gpa, data})
	return nil
}

// ReadLeft returns how many bytes are left to read.
func (c *Chain) ReadLeft() uint64 { return c.readLeft }

// WriteLeft returns how many bytes are left to write.
func (c *Chain) WriteLeft() uint64 { return c.writeLeft }

// NextRead consumes up to limit bytes of the readable part and returns them in place, or nil at the end. The slice is guest memory: it
// must not be kept or changed.
func (c *Chain) NextRead(limit uint64) []byte {
	for c.at < c.readable && limit > 0 {
		data := c.segments[c.at].data[c.offset:]
		if len(data) == 0 {
			c.at, c.offset = c.at+1, 0
			continue
		}
		data = data[:min(uint64(len(data)), limit)]
		c.offset += len(data)
		c.readLeft -= uint64(len(data))
		return data
	}
	return nil
}

// Read copies the next bytes of the readable part to p and returns how many there were.
func (c *Chain) Read(p []byte) int {
	n := 0
	for n < len(p) {
		data := c.NextRead(uint64(len(p) - n))
		if data == nil {
			break
		}
		n += copy(p[n:], data)
	}
	return n
}

// NextWrite consumes up to limit bytes of the writable part and returns them in place for the caller to fill completely, or nil at
// the end. They count as written.
func (c *Chain) NextWrite(limit uint64) []byte {
	for c.wAt < len(c.segments) && limit > 0 {
		s := &c.segments[c.wAt]
		data := s.data[c.wOff:]
		if len(data) == 0 {
			c.wAt, c.wOff = c.wAt+1, 0
			continue
		}
		data = data[:min(uint64(len(data)), limit)]
		c.mem.Written(s.gpa+uint64(c.wOff), uint64(len(data)))
		c.wOff += len(data)
		c.writeLeft -= uint64(len(data))
		c.written += uint32(len(data))
		return data
	}
	return nil
}

// Write copies p to the writable part and returns how many bytes fitted.
func (c *Chain) Write(p []byte) int {
	n := 0
	for n < len(p) {
		data := c.NextWrite(uint64(len(p) - n))
		if data == nil {
			break
		}
		n += copy(data, p[n:])
	}
	return n
}

// WriteLast writes the very last byte of the writable part, which must have one left, and ends the chain. Bytes skipped by it are
// not written, so that the chain then counts as written only up to where it was before (2.7.8.2).
func (c *Chain) WriteLast(v byte) {
	skipped := c.writeLeft > 1
	for i := len(c.segments) - 1; i >= c.readable; i-- {
		s := &c.segments[i]
		if n := len(s.data); n > 0 {
			s.data[n-1] = v
			c.mem.Written(s.gpa+uint64(n-1), 1)
			break
		}
	}
	c.wAt, c.wOff, c.writeLeft = len(c.segments), 0, 0
	if !skipped {
		c.written++
	}
}
