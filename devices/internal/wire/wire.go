// Package wire encodes device state canonically: fixed-width little-endian integers in a fixed order, byte strings with a 32-bit length.
//
// One state has exactly one encoding and one encoding is at most one state, because the bytes are hashed into state digests. Encoding
// appends to a slice with the Append functions of encoding/binary and the ones here; decoding goes through a [Reader], which
// remembers the first failure so that callers check once, at the end, with [Reader.Close].
package wire

import (
	"encoding/binary"
	"errors"
)

// ErrMalformed reports an encoding that is too short, too long or not canonical.
var ErrMalformed = errors.New("malformed device state")

// AppendBool appends v as one byte, 0 or 1.
func AppendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

// AppendBytes appends p after its length in 32 bits.
func AppendBytes(b, p []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(p)))
	return append(b, p...)
}

// Reader decodes what the Append functions wrote. After a failure every method returns zero.
type Reader struct {
	rest   []byte
	failed bool
}

// NewReader returns a Reader of p, which it does not modify.
func NewReader(p []byte) *Reader { return &Reader{rest: p} }

// Raw returns the next n bytes, aliasing the input, or nil.
func (r *Reader) Raw(n int) []byte {
	if r.failed || n < 0 || n > len(r.rest) {
		r.failed = true
		return nil
	}
	p := r.rest[:n]
	r.rest = r.rest[n:]
	return p
}

// Fill copies the next len(p) bytes to p.
func (r *Reader) Fill(p []byte) { copy(p, r.Raw(len(p))) }

// Uint8 returns the next byte.
func (r *Reader) Uint8() uint8 {
	if p := r.Raw(1); p != nil {
		return p[0]
	}
	return 0
}

// Uint16 returns the next 16-bit integer.
func (r *Reader) Uint16() uint16 {
	if p := r.Raw(2); p != nil {
		return binary.LittleEndian.Uint16(p)
	}
	return 0
}

// Uint32 returns the next 32-bit integer.
func (r *Reader) Uint32() uint32 {
	if p := r.Raw(4); p != nil {
		return binary.LittleEndian.Uint32(p)
	}
	return 0
}

// Uint64 returns the next 64-bit integer.
func (r *Reader) Uint64() uint64 {
	if p := r.Raw(8); p != nil {
		return binary.LittleEndian.Uint64(p)
	}
	return 0
}

// Bool returns the next boolean. A byte other than 0 and 1 is a failure, as it would be a second encoding of true.
func (r *Reader) Bool() bool {
	v := r.Uint8()
	r.Check(v <= 1)
	return v == 1
}

// Bytes returns the next byte string, aliasing the input. A length above limit is a failure.
func (r *Reader) Bytes(limit int) []byte {
	n := r.Uint32()
	if uint64(n) > uint64(limit) {
		r.failed = true
		return nil
	}
	return r.Raw(int(n))
}

// Check records a failure unless ok: the caller found a value that no device writes.
func (r *Reader) Check(ok bool) {
	if !ok {
		r.failed = true
	}
}

// Failed reports whether anything went wrong so far. Loops over counts taken from the input ask it.
func (r *Reader) Failed() bool { return r.failed }

// Close ends decoding: it returns ErrMalformed after any failure and when input is left over.
func (r *Reader) Close() error {
	if r.failed || len(r.rest) != 0 {
		return ErrMalformed
	}
	return nil
}

// Rest returns all that is left of the input, aliasing it.
func (r *Reader) Rest() []byte { return r.Raw(len(r.rest)) }
