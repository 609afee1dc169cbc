package vmm

import (
	"fmt"
	"math"
	"math/bits"

	"github.com/detvm/detvm/vcpu"
)

// nsPerCount is how far virtual time moves for one count of a work clock (docs/machine.md, "Time").
var nsPerCount = map[vcpu.Clock]uint64{
	vcpu.ClockInstructions:       1,
	vcpu.ClockBranches:           5,
	vcpu.ClockKernelInstructions: 20,
	vcpu.ClockExits:              20_000,
}

// timeScaleUnit is the denominator of a time scale: scales are kept as exact multiples of 1/65536 so that every host computes the same times.
const timeScaleUnit = 1 << 16

// virtualTime turns positions into nanoseconds since machine start and back: ns = ⌊count × rate / timeScaleUnit⌋ + skipped.
// It is pure integer arithmetic, so that it is the same everywhere.
type virtualTime struct {
	rate    uint64 // ns per count × timeScaleUnit
	skipped uint64 // ns that idle skips added
}

// newVirtualTime returns the time of a clock. scale stretches virtual time: 2 makes the guest see twice as much of it pass for the same work.
func newVirtualTime(clock vcpu.Clock, scale float64) (virtualTime, error) {
	if !(scale >= 1.0/1024 && scale <= 1024) {
		return virtualTime{}, fmt.Errorf("time scale %g: want a number between 1/1024 and 1024", scale)
	}
	ns, ok := nsPerCount[clock]
	if !ok {
		return virtualTime{}, fmt.Errorf("unknown work clock %q", clock)
	}
	return virtualTime{rate: ns * uint64(math.Round(scale*timeScaleUnit))}, nil
}

// at is the virtual time at a position. It saturates rather than wraps.
func (t *virtualTime) at(count uint64) uint64 {
	hi, lo := bits.Mul64(count, t.rate)
	if hi >= timeScaleUnit {
		return math.MaxUint64
	}
	ns, _ := bits.Div64(hi, lo, timeScaleUnit)
	if ns > math.MaxUint64-t.skipped {
		return math.MaxUint64
	}
	return ns + t.skipped
}

// position is the first count whose virtual time is at least ns, or vcpu.NoStop when there is none.
func (t *virtualTime) position(ns uint64) uint64 {
	if ns <= t.skipped {
		return 0
	}
	hi, lo := bits.Mul64(ns-t.skipped, timeScaleUnit)
	lo, carry := bits.Add64(lo, t.rate-1, 0)
	hi += carry
	if hi >= t.rate {
		return vcpu.NoStop
	}
	count, _ := bits.Div64(hi, lo, t.rate)
	return count
}

// skipTo moves virtual time at count forward to ns and returns how far it jumped; 0 when ns is not ahead.
func (t *virtualTime) skipTo(count, ns uint64) uint64 {
	now := t.at(count)
	if ns <= now {
		return 0
	}
	t.skipped += ns - now
	return ns - now
}
