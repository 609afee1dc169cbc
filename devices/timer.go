package devices

import (
	"encoding/binary"

	"github.com/detvm/detvm/devices/internal/wire"
)

// Timer is DETVM_TIMER (docs/machine.md): a one-shot deadline in virtual nanoseconds, written through one MSR, so that the guest programs its
// clock with one exit where the PIT needs three.
type Timer struct {
	clock    Clock
	fire     func()
	deadline uint64 // 0: disarmed
}

// NewTimer returns a disarmed timer that calls fire once for each deadline reached; fire gives IRQ 0 an edge ([PIC.Pulse]).
func NewTimer(clock Clock, fire func()) *Timer {
	return &Timer{clock: clock, fire: fire}
}

// Write arms the timer for an absolute virtual time in nanoseconds, replacing the deadline armed before; 0 disarms. A time that is not in the
// future fires before Write returns.
func (t *Timer) Write(deadline uint64) {
	t.deadline = deadline
	t.Advance(t.clock())
}

// Read returns the armed deadline, or 0.
func (t *Timer) Read() uint64 { return t.deadline }

// Deadline returns when the timer fires, if it is armed.
func (t *Timer) Deadline() (ns uint64, ok bool) { return t.deadline, t.deadline != 0 }

// Advance fires the timer if it is due at virtual time now.
func (t *Timer) Advance(now uint64) {
	if t.deadline != 0 && t.deadline <= now {
		t.deadline = 0
		t.fire()
	}
}

// MarshalBinary encodes the deadline.
func (t *Timer) MarshalBinary() ([]byte, error) {
	return binary.LittleEndian.AppendUint64(nil, t.deadline), nil
}

// UnmarshalBinary is the inverse of MarshalBinary.
func (t *Timer) UnmarshalBinary(data []byte) error {
	r := wire.NewReader(data)
	deadline := r.Uint64()
	if err := r.Close(); err != nil {
		return err
	}
	t.deadline = deadline
	return nil
}
