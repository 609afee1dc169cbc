package trace

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// Kind says what an event is. The numbers are part of the format and never change.
type Kind uint8

// The kinds of event. "Payload" is Event.Data.
const (
	// KindStart marks the boundary between boot and run. Payload: the canonical settings that the guest was started with.
	KindStart Kind = 1 + iota
	// KindIO is an access to an I/O port. Addr is the port, Value the datum; string I/O has its bytes in the payload.
	KindIO
	// KindMMIO is an access to a guest-physical address outside RAM.
	KindMMIO
	// KindRDMSR and KindWRMSR: Addr is the MSR, Value what was read or written.
	KindRDMSR
	KindWRMSR
	// KindHalt is a HLT. Value is by how many nanoseconds virtual time jumped.
	KindHalt
	// KindInterrupt is an injection. Value is the vector.
	KindInterrupt

	// The inputs from outside. KindStdin: the payload is the bytes; an empty one is the end of the input.
	KindStdin
	// KindSignal: Value is the number of the signal.
	KindSignal
	// KindWinsize: Value is rows<<16 | columns.
	KindWinsize
	// KindNetIn is a frame from the network, in the payload.
	KindNetIn

	// The outputs. KindStdout, KindStderr: the payload is the bytes.
	KindStdout
	KindStderr
	// KindDiskWrite and KindDiskRead: Addr is the first 512-byte sector, Value the number of bytes, the payload those bytes or their digest.
	KindDiskWrite
	KindDiskRead
	// KindNetOut is a frame to the network, in the payload.
	KindNetOut
	// KindFile is a file taken out of the guest. Payload: its path, a NUL, and its digest.
	KindFile

	// KindCheckpoint: the payload is the digest of the machine's whole state at this position.
	KindCheckpoint
	// KindEnd is the last event. Value is the exit code; the payload is an encoded [End].
	KindEnd

	kindMax = KindEnd
)

var kindNames = [...]string{"none", "start", "io", "mmio", "rdmsr", "wrmsr", "halt", "interrupt", "stdin", "signal", "winsize", "netin",
	"stdout", "stderr", "diskwrite", "diskread", "netout", "file", "checkpoint", "end"}

// String is the kind's name, as in inspect's output and filters.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// ParseKind is the inverse of [Kind.String] for the kinds that exist.
func ParseKind(name string) (Kind, error) {
	for k := KindStart; k <= kindMax; k++ {
		if kindNames[k] == name {
			return k, nil
		}
	}
	return 0, fmt.Errorf("unknown event kind %q (known: %s)", name, strings.Join(kindNames[1:], ", "))
}

// Kinds lists all kinds in the order of their numbers.
func Kinds() []Kind {
	ks := make([]Kind, 0, kindMax)
	for k := KindStart; k <= kindMax; k++ {
		ks = append(ks, k)
	}
	return ks
}

// Input reports whether events of this kind come from outside the machine, so that a replay must feed them.
func (k Kind) Input() bool { return k >= KindStdin && k <= KindNetIn }

// Output reports whether events of this kind are what the guest produced for the outside.
func (k Kind) Output() bool { return k >= KindStdout && k <= KindFile && k != KindDiskRead }

// Limits of one event. A writer refuses more, a reader too.
const (
	MaxData = 16 << 20 // bytes of payload
	MaxTask = 255      // bytes of a task's name
)

// SaltSize is the length in bytes of a payload's salt in a redactable trace.
const SaltSize = 16

// Event is one thing that happened at the boundary of the machine.
//
// Data, Salt and Commitment of an event that an [Iterator] returned alias its buffers: they are valid until the next call of Next.
type Event struct {
	Kind  Kind
	Size  uint8 // width of one access in bytes: 1, 2, 4 or 8; 0 where there is none
	Write bool  // the guest wrote
	// Fault: the access was answered with #GP.
	Fault bool
	// Withheld: the event has a payload that this copy of the trace does not contain. Data is empty, Commitment stands for it.
	Withheld bool
	// Device is the bus device that answered, an index into Header.Devices.
	Device   uint16
	PID      uint32 // process in the guest that ran; 0 when unknown
	Position uint64 // count on the work clock
	Time     uint64 // virtual nanoseconds since machine start
	PC       uint64
	Addr     uint64
	Value    uint64
	Task     string // name of the guest program that ran; may be empty
	Data     []byte // payload
	// Salt is set by the writer of a redactable trace (SaltSize random bytes, for events with a payload) and nil otherwise.
	Salt []byte
	// Commitment is the payload's digest (see docs/trace-format.md). It is set by readers when Withheld, and only then.
	Commitment []byte
}

// HasPayload reports whether the event has a payload, withheld or not.
func (e *Event) HasPayload() bool { return len(e.Data) > 0 || e.Withheld }

// Equal reports whether two events are the same event: all fields but Salt. A withheld payload is compared by its commitment, and equals
// nothing that is not withheld; use [Header.Commit] to compare across that line.
func (e *Event) Equal(o *Event) bool {
	return e.Kind == o.Kind && e.Size == o.Size && e.Write == o.Write && e.Fault == o.Fault && e.Withheld == o.Withheld &&
		e.Device == o.Device && e.PID == o.PID && e.Position == o.Position && e.Time == o.Time && e.PC == o.PC &&
		e.Addr == o.Addr && e.Value == o.Value && e.Task == o.Task &&
		string(e.Data) == string(o.Data) && string(e.Commitment) == string(o.Commitment)
}

// Clone returns a copy that shares nothing with e's buffers.
func (e *Event) Clone() Event {
	c := *e
	c.Data, c.Salt, c.Commitment = cloneBytes(e.Data), cloneBytes(e.Salt), cloneBytes(e.Commitment)
	return c
}

func cloneBytes(p []byte) []byte {
	if p == nil {
		return nil
	}
	return append([]byte{}, p...)
}

func (e *Event) check() error {
	switch {
	case e.Kind < KindStart || e.Kind > kindMax:
		return fmt.Errorf("event has unknown kind %d", e.Kind)
	case len(e.Data) > MaxData:
		return fmt.Errorf("%s event's payload of %d bytes is over the limit of %d", e.Kind, len(e.Data), MaxData)
	case len(e.Task) > MaxTask:
		return fmt.Errorf("%s event's task name of %d bytes is over the limit of %d", e.Kind, len(e.Task), MaxTask)
	case e.Withheld && len(e.Data) > 0:
		return fmt.Errorf("%s event is withheld but has its payload", e.Kind)
	}
	return nil
}

// Flags of the canonical encoding and of a chunk's site table.
const (
	flagWrite = 1 << iota
	flagFault
	flagPayload
	flagWithheld // chunk encoding only
	leafFlags    = flagWrite | flagFault | flagPayload
)

func (e *Event) flags() byte {
	var f byte
	if e.Write {
		f |= flagWrite
	}
	if e.Fault {
		f |= flagFault
	}
	if e.HasPayload() {
		f |= flagPayload
	}
	return f
}

// appendLeaf appends the event's canonical encoding, the content of its Merkle leaf. commitment is nil when there is no payload.
// A typical event fits one SHA-256 block together with the leaf prefix.
func (e *Event) appendLeaf(b, commitment []byte) []byte {
	b = append(b, byte(e.Kind), e.flags(), e.Size)
	b = binary.AppendUvarint(b, uint64(e.Device))
	b = binary.AppendUvarint(b, uint64(e.PID))
	b = binary.AppendUvarint(b, e.Position)
	b = binary.AppendUvarint(b, e.Time)
	b = binary.LittleEndian.AppendUint64(b, e.PC)
	b = binary.AppendUvarint(b, e.Addr)
	b = binary.AppendUvarint(b, e.Value)
	b = append(b, byte(len(e.Task)))
	b = append(b, e.Task...)
	return append(b, commitment...)
}

// DecodeLeaf is the inverse of [Header.Leaf]: it decodes the canonical encoding of an event. The event comes without its payload: one that has a payload
// is Withheld with its Commitment. Anything but the one canonical encoding is refused.
func (h *Header) DecodeLeaf(leaf []byte) (Event, error) {
	d := decoder{b: leaf}
	var e Event
	e.Kind = Kind(d.byte())
	flags := d.byte()
	e.Write, e.Fault, e.Withheld = flags&flagWrite != 0, flags&flagFault != 0, flags&flagPayload != 0
	e.Size = d.byte()
	device, pid := d.uvarint(), d.uvarint()
	e.Device, e.PID = uint16(device), uint32(pid)
	e.Position, e.Time = d.uvarint(), d.uvarint()
	e.PC = d.uint64()
	e.Addr, e.Value = d.uvarint(), d.uvarint()
	e.Task = string(d.bytes(int(d.byte())))
	if e.Withheld {
		e.Commitment = cloneBytes(d.bytes(h.Hash.size()))
	}
	switch {
	case d.err != nil:
		return Event{}, fmt.Errorf("decode event: %w", d.err)
	case len(d.b) != 0:
		return Event{}, fmt.Errorf("decode event: %d bytes too many", len(d.b))
	case flags&^leafFlags != 0, device > 0xffff, pid > 0xffffffff:
		return Event{}, errors.New("decode event: a field is out of range")
	}
	if err := e.check(); err != nil {
		return Event{}, err
	}
	return e, nil
}

// decoder takes canonical fields off the front of b. After an error everything reads as zero.
type decoder struct {
	b   []byte
	err error
}

var (
	errShort    = errors.New("the encoding ends early")
	errOverlong = errors.New("a number is not in its shortest form or is too large")
)

func (d *decoder) fail(err error) {
	if d.err == nil {
		d.err = err
	}
	d.b = nil
}

func (d *decoder) bytes(n int) []byte {
	if n < 0 || n > len(d.b) {
		d.fail(errShort)
		return nil
	}
	p := d.b[:n:n]
	d.b = d.b[n:]
	return p
}

func (d *decoder) byte() byte {
	if p := d.bytes(1); p != nil {
		return p[0]
	}
	return 0
}

func (d *decoder) uint32() uint32 {
	if p := d.bytes(4); p != nil {
		return binary.LittleEndian.Uint32(p)
	}
	return 0
}

func (d *decoder) uint64() uint64 {
	if p := d.bytes(8); p != nil {
		return binary.LittleEndian.Uint64(p)
	}
	return 0
}

// uvarint decodes an unsigned LEB128 number and insists on the shortest form.
func (d *decoder) uvarint() uint64 {
	if len(d.b) > 0 && d.b[0] < 0x80 {
		v := d.b[0]
		d.b = d.b[1:]
		return uint64(v)
	}
	v, n := binary.Uvarint(d.b)
	switch {
	case n == 0:
		d.fail(errShort)
		return 0
	case n < 0, n > 1 && d.b[n-1] == 0:
		d.fail(errOverlong)
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) svarint() int64 {
	u := d.uvarint()
	return int64(u>>1) ^ -int64(u&1)
}

// length decodes a count of things that each take at least one byte of what is left, so that what is allocated for them is bounded by the input.
func (d *decoder) length() int {
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.fail(errShort)
		return 0
	}
	return int(n)
}

func zigzag(v int64) uint64 { return uint64(v)<<1 ^ uint64(v>>63) }

func unzigzag(u uint64) int64 { return int64(u>>1) ^ -int64(u&1) }

func uvarintLen(v uint64) int {
	n := 1
	for v >= 0x80 {
		v >>= 7
		n++
	}
	return n
}
