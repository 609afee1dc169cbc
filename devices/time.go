package devices

import "math/bits"

// addTime adds two durations in nanoseconds and stops at never.
func addTime(a, b uint64) uint64 {
	sum, carry := bits.Add64(a, b, 0)
	if carry != 0 {
		return never
	}
	return sum
}

// nextMultiple returns the first nanosecond after the given time of a multiple of the given number of ticks of a 32768 Hz clock that ticked
// first at time 0.
func nextMultiple(after, ticks uint64) uint64 {
	const hz = 32768
	hi, lo := bits.Mul64(after, hz)
	tick, _ := bits.Div64(hi, lo, nsPerSecond)
	next := (tick/ticks + 1) * ticks
	hi, lo = bits.Mul64(next, nsPerSecond)
	lo, carry := bits.Add64(lo, hz-1, 0)
	hi += carry
	if hi >= hz {
		return never
	}
	q, _ := bits.Div64(hi, lo, hz)
	return q
}
