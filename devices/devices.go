// Package devices models the few chips of a PC that Linux cannot do without: two 8259 interrupt controllers ([PIC]), the 8254 interval
// timer ([PIT]), the detvm timer ([Timer]), the CMOS clock ([RTC]), a 16550 serial port ([UART]) and the ports that end a run ([ExitPort],
// [ResetPort]).
//
// A device is a struct of registers. It owns no goroutine, reads no host clock and no host randomness, and does no I/O: what it
// does is a function of the calls made to it and of the virtual time that its [Clock] returns. That is what makes a run repeatable.
// The machine calls a device in four ways:
//
//   - the guest's port accesses arrive through the [Handler] that covers the port range;
//   - time arrives through Advance, which fires everything due at or before the given instant, and Deadline says when Advance next has
//     something to do. Devices also read their Clock on register accesses, so Advance need not be called for those to be right;
//   - output leaves through the functions given to the constructor (a [Line] to the interrupt controller, a sink for characters);
//   - MarshalBinary and UnmarshalBinary carry the complete state into and out of snapshots. The encoding is canonical, so it is
//     also what state digests hash. UnmarshalBinary accepts only what MarshalBinary can have produced, leaves the device untouched when it
//     fails, and drives no line: the interrupt controller's own state holds the levels.
//
// Devices are not safe for concurrent use. Every access comes from the run loop.
//
// The virtio devices and their transport are in the package virtio below this one.
package devices

// Handler answers accesses to a range of ports or a window of guest-physical memory. The offset is relative to the start of the range; p
// has 1, 2, 4 or 8 bytes, little endian. An access of a width that the register does not have reads as all ones and writes nothing.
type Handler interface {
	Read(offset uint64, p []byte)
	Write(offset uint64, p []byte)
}

// Line drives one interrupt input to a level. Calls that repeat the current level are harmless.
type Line func(level bool)

// Clock returns the virtual time in nanoseconds since machine start. It never runs backwards.
type Clock func() uint64

// allOnes is what an access finds where there is no register: the bus floats high.
func allOnes(p []byte) {
	for i := range p {
		p[i] = 0xff
	}
}
