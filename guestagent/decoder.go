package guestagent

import (
	"encoding/binary"
	"strconv"
)

// Side says who sends the frames that a [Decoder] reads.
type Side uint8

// The sides.
const (
	FromGuest Side = iota
	FromHost
)

func (s Side) sends(t Type) bool { return (t < 0x80) == (s == FromGuest) }

func (s Side) maxFrame() int {
	if s == FromGuest {
		return MaxGuestFrame
	}
	return MaxHostFrame
}

// Decoder turns a byte stream, cut anywhere, into messages. It is an io.Writer for the bytes and a queue for the
// messages; it holds at most one frame's bound of bytes that Next has not yet turned into messages, plus what one Write
// brought. It is not safe for concurrent use.
type Decoder struct {
	side Side
	buf  []byte // stream bytes; those before off are consumed
	off  int
	err  error // the first mistake in the stream; sticky
}

// NewDecoder returns a Decoder of frames that side sends.
func NewDecoder(side Side) *Decoder { return &Decoder{side: side} }

// Write adds stream bytes. Call [Decoder.Next] until it has no more after each Write: a Write that finds a whole
// frame's bound of bytes still waiting fails. The bytes are copied.
func (d *Decoder) Write(b []byte) (int, error) {
	if d.err == nil && d.Buffered() >= d.side.maxFrame() {
		d.err = &ProtocolError{0, "more than a frame is waiting to be read"}
	}
	if d.err != nil {
		return 0, d.err
	}
	d.buf = append(d.buf[:0], d.buf[d.off:]...)
	d.off = 0
	d.buf = append(d.buf, b...)
	return len(b), nil
}

// Next returns the next message, or false when the bytes so far hold no further whole one. A malformed frame gives a
// *[ProtocolError], now and ever after: there is no way to find the next frame.
func (d *Decoder) Next() (Message, bool, error) {
	if d.err != nil {
		return nil, false, d.err
	}
	frame, err := d.frame()
	if err != nil || frame == nil {
		return nil, false, err
	}
	m, err := parsePayload(Type(frame[4]), frame[headerSize:])
	if err != nil {
		d.err = err
		return nil, false, err
	}
	d.off += len(frame)
	return m, true, nil
}

// frame returns the frame at the front, or nil while it is not whole. The header is judged as soon as it is there.
func (d *Decoder) frame() ([]byte, error) {
	b := d.buf[d.off:]
	if len(b) < headerSize {
		return nil, nil
	}
	size, t := uint64(binary.LittleEndian.Uint32(b)), Type(b[4])
	switch {
	case size == 0 || size+4 > uint64(d.side.maxFrame()):
		d.err = &ProtocolError{0, "frame of " + strconv.FormatUint(size, 10) + " bytes"}
	case !d.side.sends(t) || newMessage(t) == nil:
		d.err = &ProtocolError{t, "unexpected message"}
	}
	if d.err != nil || uint64(len(b)) < size+4 {
		return nil, d.err
	}
	return b[:size+4], nil
}

// Buffered returns how many bytes wait for the rest of their frame.
func (d *Decoder) Buffered() int { return len(d.buf) - d.off }
