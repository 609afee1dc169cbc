package virtio

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/detvm/detvm/devices/internal/wire"
)

// Descriptor flags (2.7.5) and ring flags (2.7.6, 2.7.8).
const (
	descNext     = 1
	descWrite    = 2
	descIndirect = 4

	availNoInterrupt = 1

	descriptorSize = 16
)

// ErrQueue reports a driver that broke the rules of a virtqueue. The errors of this package about guest behaviour wrap it.
var ErrQueue = errors.New("virtqueue broken by the driver")

func queueError(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrQueue}, args...)...)
}

// Queue is the device's end of a split virtqueue (2.7).
//
// The device takes chains with Pop and returns them with Push; the transport makes returned chains visible with publish. Indexes are
// free-running modulo 2¹⁶, as in the rings.
type Queue struct {
	mem     GuestMemory
	maxSize uint16

	size              uint16
	ready             bool
	desc, avail, used uint64
	lastAvail         uint16 // index of the next available entry to take
	usedIdx           uint16 // index of the next used entry to write
	published         uint16 // usedIdx as the driver last saw it
	popped            bool   // lastAvail moved since publish
	eventIdx          bool   // VIRTIO_F_EVENT_IDX negotiated
	indirect          bool   // VIRTIO_F_INDIRECT_DESC negotiated
}

func (q *Queue) reset() {
	*q = Queue{mem: q.mem, maxSize: q.maxSize, size: q.maxSize}
}

// enable checks the driver's configuration and makes the queue ready (2.7, 4.2.3.2).
func (q *Queue) enable(eventIdx, indirect bool) error {
	if err := q.checkLayout(); err != nil {
		return err
	}
	for _, area := range []struct{ at, n uint64 }{{q.desc, q.descBytes()}, {q.avail, q.availBytes()}, {q.used, q.usedBytes()}} {
		if _, ok := q.mem.Slice(area.at, area.n); !ok {
			return queueError("ring at %#x is not in memory", area.at)
		}
	}
	q.ready, q.eventIdx, q.indirect = true, eventIdx, indirect
	return nil
}

func (q *Queue) checkLayout() error {
	if q.size == 0 || q.size > q.maxSize || q.size&(q.size-1) != 0 {
		return queueError("size %d, at most %d", q.size, q.maxSize)
	}
	if q.desc%16 != 0 || q.avail%2 != 0 || q.used%4 != 0 {
		return queueError("rings at %#x, %#x, %#x are not aligned", q.desc, q.avail, q.used)
	}
	return nil
}

func (q *Queue) descBytes() uint64  { return uint64(q.size) * descriptorSize }
func (q *Queue) availBytes() uint64 { return 6 + 2*uint64(q.size) }
func (q *Queue) usedBytes() uint64  { return 6 + 8*uint64(q.size) }

// Pop takes the next available chain into c and reports whether there was one. After an error the queue is unusable until reset.
func (q *Queue) Pop(c *Chain) (bool, error) {
	avail, ok := q.mem.Slice(q.avail, q.availBytes())
	if !ok {
		return false, queueError("available ring at %#x is not in memory", q.avail)
	}
	waiting := binary.LittleEndian.Uint16(avail[2:]) - q.lastAvail
	if waiting == 0 {
		return false, nil
	}
	if waiting > q.size {
		return false, queueError("%d chains available in %d entries", waiting, q.size)
	}
	slot := q.lastAvail & (q.size - 1)
	head := binary.LittleEndian.Uint16(avail[4+2*int(slot):])
	if err := c.load(q, head); err != nil {
		return false, err
	}
	q.lastAvail++
	q.popped = true
	return true, nil
}

// Push returns a chain to the driver, with the number of bytes written to it from its first writable byte on.
func (q *Queue) Push(c *Chain) error {
	used, ok := q.mem.Slice(q.used, q.usedBytes())
	if !ok {
		return queueError("used ring at %#x is not in memory", q.used)
	}
	entry := used[4+8*int(q.usedIdx&(q.size-1)):]
	binary.LittleEndian.PutUint32(entry, uint32(c.head))
	binary.LittleEndian.PutUint32(entry[4:], c.written)
	q.usedIdx++
	return nil
}

// serve answers the chains that wait, in order, each loaded into c: at most a queue full of them. More cannot be waiting, unless the answers themselves write
// the ring, as requests to a disk can; such a driver has to notify again.
func (q *Queue) serve(c *Chain, answer func(*Chain) error) error {
	for range q.size {
		ok, err := q.Pop(c)
		if !ok || err != nil {
			return err
		}
		if err := answer(c); err != nil {
			return err
		}
		if err := q.Push(c); err != nil {
			return err
		}
	}
	return nil
}

// publish shows the driver what was pushed and how far the available ring was read, and reports whether it wants an interrupt for
// it (2.7.7.2, 2.7.10).
func (q *Queue) publish() (interrupt bool, err error) {
	if !q.ready || !q.popped && q.published == q.usedIdx {
		return false, nil
	}
	used, ok := q.mem.Slice(q.used, q.usedBytes())
	if !ok {
		return false, queueError("used ring at %#x is not in memory", q.used)
	}
	avail, ok := q.mem.Slice(q.avail, q.availBytes())
	if !ok {
		return false, queueError("available ring at %#x is not in memory", q.avail)
	}
	binary.LittleEndian.PutUint16(used[2:], q.usedIdx)
	if q.eventIdx {
		binary.LittleEndian.PutUint16(used[4+8*int(q.size):], q.lastAvail)
	}
	q.mem.Written(q.used, q.usedBytes())
	before := q.published
	q.published, q.popped = q.usedIdx, false
	if before == q.usedIdx {
		return false, nil
	}
	if !q.eventIdx {
		return binary.LittleEndian.Uint16(avail)&availNoInterrupt == 0, nil
	}
	event := binary.LittleEndian.Uint16(avail[4+2*int(q.size):])
	return q.usedIdx-event-1 < q.usedIdx-before, nil
}

// abandon marks what was pushed and will not be published: it is in memory all the same.
func (q *Queue) abandon() {
	if !q.ready || q.published == q.usedIdx {
		return
	}
	if _, ok := q.mem.Slice(q.used, q.usedBytes()); ok { // a restored queue may have any address
		q.mem.Written(q.used, q.usedBytes())
	}
}

func (q *Queue) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint16(b, q.size)
	for _, v := range [...]bool{q.ready, q.popped, q.eventIdx, q.indirect} {
		b = wire.AppendBool(b, v)
	}
	for _, v := range [...]uint64{q.desc, q.avail, q.used} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	for _, v := range [...]uint16{q.lastAvail, q.usedIdx, q.published} {
		b = binary.LittleEndian.AppendUint16(b, v)
	}
	return b
}

func (q *Queue) decode(r *wire.Reader) {
	q.size = r.Uint16()
	for _, v := range []*bool{&q.ready, &q.popped, &q.eventIdx, &q.indirect} {
		*v = r.Bool()
	}
	for _, v := range []*uint64{&q.desc, &q.avail, &q.used} {
		*v = r.Uint64()
	}
	for _, v := range []*uint16{&q.lastAvail, &q.usedIdx, &q.published} {
		*v = r.Uint16()
	}
	r.Check(!q.ready || q.checkLayout() == nil)
}
