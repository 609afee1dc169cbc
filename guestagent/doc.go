// Package guestagent is the protocol between the machine and the agent that runs as PID 1 inside the guest.
//
// Only protocol code lives here: it does no I/O, starts no goroutine, reads no clock and depends on no device, so that
// the same bytes give the same messages on every run, on both sides. The agent itself is the program in
// guestagent/init; the machine must not import that.
//
// # The channel
//
// The two sides talk over the virtio-console port named [PortControl]. Bulk data has ports of its own: the workload's
// output leaves on [PortStdout] and [PortStderr] as raw bytes, and its input arrives on [PortStdin] as raw bytes, each
// run of them announced by a [Stdin] message on the control port.
//
// A message is a frame:
//
//	offset  size  field
//	0       4     length of what follows (type and payload), little-endian
//	4       1     type
//	5       n     payload
//
// Payload integers are little-endian and of fixed size; strings and lists carry a uint32 length or count before them;
// a boolean is one byte, 0 or 1. Every message has exactly one encoding and a decoder refuses all others (bytes left
// over, a boolean of 2, NUL inside a string), which makes a frame fit to be hashed and compared.
//
// # The conversation
//
//	guest                         machine
//	READY{version}          →
//	                        ←     START{command, time, seed, …}
//	STARTED{pid}            →
//	STDIN_WANTED{n}         →
//	                        ←     STDIN{n, eof}, then n bytes on detvm.stdin
//	                        ←     SIGNAL{number}, WINSIZE{rows, columns}
//	EXITED{code or signal}  →
//
// Up to READY nothing that the guest does depends on the command, the time, the seed or the image: the machine may
// take its boot snapshot there. FAILED takes the place of STARTED (the command could not be started) or of EXITED (the
// agent met an error of its own).
//
// The guest is not trusted. The machine reads its messages through a [Session], which bounds memory, refuses frames
// that the agent has no business sending, and refuses messages out of turn.
package guestagent

// The names of the virtio-console ports, as the VIRTIO_CONSOLE_PORT_NAME control messages carry them
// (virtio 1.2, 5.3.6.2).
const (
	PortControl = "detvm.control"
	PortStdin   = "detvm.stdin"
	PortStdout  = "detvm.stdout"
	PortStderr  = "detvm.stderr"
)

// Version is the version of the protocol that this package speaks; [Ready] carries the agent's. Versions are not
// negotiated: agent and machine come from one build, and a mismatch is an error.
const Version = 2

// Bounds. A frame that exceeds them is refused by the encoder and by the decoder.
const (
	// MaxGuestFrame bounds a frame that the guest sends, header included.
	MaxGuestFrame = 16 << 10
	// MaxHostFrame bounds a frame that the machine sends, header included: arguments and environment must fit.
	MaxHostFrame = 2 << 20
	// MaxText bounds the text of a Failed message, in bytes.
	MaxText = 8 << 10
	// MaxList bounds the number of arguments, and of environment entries.
	MaxList = 64 << 10
	// MaxDisks bounds the number of data disks.
	MaxDisks = 8
	// MaxStdin bounds the bytes that one StdinWanted asks for and one Stdin announces.
	MaxStdin = 64 << 10
	// SeedSize is the size of the seed that Start carries, in bytes.
	SeedSize = 64
	// MaxSignal is the largest signal number (x86-64 Linux).
	MaxSignal = 64
)

// headerSize is the length of a frame's length and type fields.
const headerSize = 5
