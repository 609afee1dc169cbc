package devices

import "encoding/binary"

// ExitPort is port 0x5d0: a write ends the run with the value as its exit code. It has no state.
type ExitPort struct{ exit func(code uint32) }

// NewExitPort returns an exit port that calls exit with the code, from within the guest's write.
func NewExitPort(exit func(code uint32)) *ExitPort { return &ExitPort{exit} }

// Read returns all ones.
func (e *ExitPort) Read(_ uint64, p []byte) { allOnes(p) }

// Write ends the run. It takes 8 and 32 bits; 16 bits are ignored.
func (e *ExitPort) Write(offset uint64, p []byte) {
	switch {
	case offset != 0:
	case len(p) == 1:
		e.exit(uint32(p[0]))
	case len(p) == 4:
		e.exit(binary.LittleEndian.Uint32(p))
	}
}

// ResetPort is port 0x64, what is left of the keyboard controller: reads give 0 (nothing to read, ready for commands), and the
// command 0xfe pulses the processor's reset pin. It has no state.
type ResetPort struct{ reset func() }

// NewResetPort returns a reset port that calls reset, from within the guest's write.
func NewResetPort(reset func()) *ResetPort { return &ResetPort{reset} }

// Read returns zero.
func (r *ResetPort) Read(offset uint64, p []byte) {
	if offset != 0 || len(p) != 1 {
		allOnes(p)
		return
	}
	p[0] = 0
}

// Write resets the machine when the command says so.
func (r *ResetPort) Write(offset uint64, p []byte) {
	if offset == 0 && len(p) == 1 && p[0] == 0xfe {
		r.reset()
	}
}

// Ignored answers ports that exist to be written and do nothing, like the POST code port 0x80. Reads give all ones.
type Ignored struct{}

// Read returns all ones.
func (Ignored) Read(_ uint64, p []byte) { allOnes(p) }

// Write does nothing.
func (Ignored) Write(uint64, []byte) {}
