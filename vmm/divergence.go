package vmm

import (
	"bytes"
	"fmt"
	"reflect"

	"github.com/detvm/detvm/guestagent"
	"github.com/detvm/detvm/trace"
	"github.com/detvm/detvm/vcpu"
)

// Differs names the first field in which two events differ, or returns "".
func Differs(want, got *trace.Event) string {
	switch {
	case want.Kind != got.Kind:
		return "kind"
	case want.Position != got.Position:
		return "position"
	case want.Time != got.Time:
		return "time"
	case want.Device != got.Device || want.Addr != got.Addr || want.Size != got.Size || want.Write != got.Write:
		return "access"
	case want.PC != got.PC:
		return "pc"
	case want.Value != got.Value || want.Fault != got.Fault:
		return "value"
	case want.Task != got.Task || want.PID != got.PID:
		return "task"
	case want.Withheld != got.Withheld || !bytes.Equal(want.Commitment, got.Commitment) || !bytes.Equal(want.Data, got.Data):
		return "data"
	}
	return ""
}

func cloneEvent(e *trace.Event) *trace.Event {
	c := e.Clone()
	return &c
}

// Divergence is where a replay parted from its trace. It is an error.
type Divergence struct {
	Index   uint64       `json:"event"`      // number of the event in the trace
	Want    *trace.Event `json:"want"`       // nil when the trace has ended
	Got     *trace.Event `json:"got"`        // nil when the replay has ended
	Reason  string       `json:"differs_in"` // the first differing field, or what is missing
	Suspect string       `json:"suspect"`    // clock, randomness, interrupt, input or memory
	At      *Moment      `json:"machine"`    // the replaying machine when it was noticed
}

func (d *Divergence) Error() string {
	return fmt.Sprintf("diverged at event %d: %s", d.Index, d.Reason)
}

// complete adds what the machine knows.
func (d *Divergence) complete(m *Machine) {
	d.Suspect = Suspect(d.Want, d.Got, d.Reason)
	d.At = m.moment()
}

// Suspect names the likeliest cause of a difference between two events, the first of which may be nil when a trace has ended: clock, randomness,
// interrupt, input or memory.
func Suspect(want, got *trace.Event, reason string) string {
	kind := func(k trace.Kind) bool { return want != nil && want.Kind == k || got != nil && got.Kind == k }
	switch {
	case want != nil && got != nil && want.Kind == trace.KindStart && got.Kind == trace.KindStart:
		return suspectStart(want.Data, got.Data)
	case kind(trace.KindStdin) || kind(trace.KindSignal) || kind(trace.KindWinsize) || kind(trace.KindStart):
		return "input"
	case kind(trace.KindInterrupt) && (reason == "kind" || reason == "position" || reason == "value"):
		return "interrupt"
	case reason == "time" || kind(trace.KindHalt) || want != nil && want.Kind == trace.KindRDMSR && want.Addr == vcpu.MSRDetvmTime || want != nil && want.Kind == trace.KindWRMSR && want.Addr == vcpu.MSRDetvmTimer:
		return "clock"
	case reason == "data" && (kind(trace.KindStdout) || kind(trace.KindStderr) || kind(trace.KindDiskWrite)):
		return "randomness"
	}
	return "memory"
}

// suspectStart compares what two commands were started with: only another seed, only another time, or anything else.
func suspectStart(want, got []byte) string {
	a, b := decodeStart(want), decodeStart(got)
	if a == nil || b == nil {
		return "input"
	}
	suspect := "input"
	switch {
	case a.Seed != b.Seed:
		suspect = "randomness"
	case a.WallClock != b.WallClock:
		suspect = "clock"
	}
	a.Seed, a.WallClock = b.Seed, b.WallClock
	if !reflect.DeepEqual(a, b) {
		return "input"
	}
	return suspect
}

// decodeStart reads the payload of a start event, or returns nil.
func decodeStart(p []byte) *guestagent.Start {
	d := guestagent.NewDecoder(guestagent.FromHost)
	if _, err := d.Write(p); err != nil {
		return nil
	}
	m, _, err := d.Next()
	start, ok := m.(*guestagent.Start)
	if err != nil || !ok {
		return nil
	}
	return start
}
