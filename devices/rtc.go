package devices

import (
	"encoding/binary"
	"time"

	"github.com/detvm/detvm/devices/internal/wire"
)

// RTC is the MC146818 real-time clock with 128 bytes of CMOS RAM behind an index and a data port (Motorola MC146818 data sheet, and the
// century in register 0x32 as PCs have it). The calendar is computed from virtual time: wall clock = virtual time + an offset, which
// [RTC.SetWallClock] and the guest's own writes set. Dates are UTC.
//
// Update-in-progress is on for the last 244 µs of each second. Periodic, alarm and update-ended interrupts work; the interrupt
// flags of register C are computed when somebody looks.
type RTC struct {
	clock Clock
	line  Line

	index byte
	ram   [128]byte // registers A–D and RAM; the calendar registers live here only while they do not run
	// The wall clock at machine start: seconds since 1970 and 0–999999999 nanoseconds.
	startSeconds int64
	startNanos   uint32
	// seen is the virtual time up to which interrupt flags have been computed.
	seen uint64
}

// Register numbers.
const (
	rtcSeconds, rtcSecondsAlarm = 0, 1
	rtcMinutes, rtcMinutesAlarm = 2, 3
	rtcHours, rtcHoursAlarm     = 4, 5
	rtcWeekday                  = 6
	rtcDay                      = 7
	rtcMonth                    = 8
	rtcYear                     = 9
	rtcA, rtcB, rtcC, rtcD      = 10, 11, 12, 13
	rtcCentury                  = 0x32
)

const (
	aUpdating = 0x80 // register A

	bSet, bPeriodic, bAlarm, bUpdate = 0x80, 0x40, 0x20, 0x10 // register B
	bBinary, b24h                    = 0x04, 0x02

	cIRQ, cPeriodic, cAlarm, cUpdate = 0x80, 0x40, 0x20, 0x10 // register C

	dValid = 0x80 // register D: the battery is fine

	updateNs = 244_000
)

// NewRTC returns a clock that stands at 1970-01-01 at machine start and drives line, IRQ 8. Registers A and B are as a PC's firmware leaves
// them: 32768 Hz time base, 1024 Hz periodic rate, BCD, 24 hours, no interrupts.
func NewRTC(clock Clock, line Line) *RTC {
	r := &RTC{clock: clock, line: line}
	r.ram[rtcA] = 0x26
	r.ram[rtcB] = b24h
	return r
}

// SetWallClock makes the clock show unixNanos (nanoseconds since 1970-01-01 UTC) at virtual time at.
func (r *RTC) SetWallClock(unixNanos int64, at uint64) {
	r.setWall(time.Unix(0, unixNanos), at)
}

func (r *RTC) setWall(t time.Time, at uint64) {
	start := time.Unix(t.Unix()-int64(at/nsPerSecond), int64(t.Nanosecond())-int64(at%nsPerSecond))
	r.startSeconds, r.startNanos = start.Unix(), uint32(start.Nanosecond())
}

// wall returns the wall clock at a virtual time.
func (r *RTC) wall(now uint64) time.Time {
	return time.Unix(r.startSeconds+int64(now/nsPerSecond), int64(r.startNanos)+int64(now%nsPerSecond)).UTC()
}

// untilSecond returns the nanoseconds from virtual time now to the next full second of the wall clock, 1–10⁹.
func (r *RTC) untilSecond(now uint64) uint64 {
	return nsPerSecond - uint64(r.wall(now).Nanosecond())
}

// Read answers port 0x70 (offset 0, which cannot be read) and 0x71.
func (r *RTC) Read(offset uint64, p []byte) {
	if len(p) != 1 || offset != 1 {
		allOnes(p)
		return
	}
	p[0] = r.read(r.clock())
}

// Write selects a register (offset 0; bit 7, the NMI mask, does nothing) or writes the selected one.
func (r *RTC) Write(offset uint64, p []byte) {
	switch {
	case len(p) != 1 || offset > 1:
	case offset == 0:
		r.index = p[0] & 0x7f
	default:
		r.write(p[0], r.clock())
	}
}

func (r *RTC) read(now uint64) byte {
	switch r.index {
	case rtcA:
		v := r.ram[rtcA]
		if r.ram[rtcB]&bSet == 0 && r.untilSecond(now) <= updateNs {
			v |= aUpdating
		}
		return v
	case rtcC:
		r.evaluate(now)
		v := r.ram[rtcC]
		r.ram[rtcC] = 0
		r.line(false)
		return v
	case rtcD:
		return dValid
	}
	if isCalendar(r.index) && r.ram[rtcB]&bSet == 0 {
		return r.field(r.index, r.wall(now))
	}
	return r.ram[r.index]
}

func (r *RTC) write(v byte, now uint64) {
	switch {
	case r.index == rtcA:
		r.evaluate(now)
		r.ram[rtcA] = v &^ aUpdating
	case r.index == rtcB:
		r.writeB(v, now)
	case r.index == rtcC || r.index == rtcD: // read-only
	case isCalendar(r.index) && r.ram[rtcB]&bSet == 0:
		r.evaluate(now)
		r.stop(now)
		r.ram[r.index] = v
		r.start(now)
	default:
		if isAlarm(r.index) {
			r.evaluate(now)
		}
		r.ram[r.index] = v
	}
}

// writeB stops the calendar when SET goes on, and starts it from the registers when SET goes off. SET also turns update interrupts off.
func (r *RTC) writeB(v byte, now uint64) {
	r.evaluate(now)
	before := r.ram[rtcB]
	if v&bSet != 0 {
		v &^= bUpdate
		if before&bSet == 0 {
			r.stop(now)
		}
		r.ram[rtcB] = v
	} else {
		r.ram[rtcB] = v
		if before&bSet != 0 {
			r.start(now)
		}
	}
	r.raise()
}

func isAlarm(i byte) bool {
	return i == rtcSecondsAlarm || i == rtcMinutesAlarm || i == rtcHoursAlarm
}

func isCalendar(i byte) bool {
	return i <= rtcYear && !isAlarm(i) || i == rtcCentury
}

var calendar = [...]byte{rtcSeconds, rtcMinutes, rtcHours, rtcWeekday, rtcDay, rtcMonth, rtcYear, rtcCentury}

// stop copies the running calendar to the registers.
func (r *RTC) stop(now uint64) {
	t := r.wall(now)
	for _, i := range calendar {
		r.ram[i] = r.field(i, t)
	}
}

// start makes the calendar run from the registers, at the fraction of the second that the divider chain stands at.
func (r *RTC) start(now uint64) {
	t := time.Date(
		r.number(rtcCentury)*100+r.number(rtcYear), time.Month(r.number(rtcMonth)), r.number(rtcDay),
		r.hour(r.ram[rtcHours]), r.number(rtcMinutes), r.number(rtcSeconds), r.wall(now).Nanosecond(), time.UTC)
	r.setWall(t, now)
	for _, i := range calendar {
		r.ram[i] = 0 // so that equal clocks encode equally
	}
}

// field returns a calendar register at a time, in the format that register B asks for.
func (r *RTC) field(i byte, t time.Time) byte {
	switch i {
	case rtcSeconds:
		return r.encode(t.Second())
	case rtcMinutes:
		return r.encode(t.Minute())
	case rtcHours:
		return r.encodeHour(t.Hour())
	case rtcWeekday:
		return r.encode(int(t.Weekday()) + 1) // Sunday is 1
	case rtcDay:
		return r.encode(t.Day())
	case rtcMonth:
		return r.encode(int(t.Month()))
	case rtcYear:
		return r.encode(t.Year() % 100)
	}
	return r.encode(t.Year() / 100)
}

func (r *RTC) encode(n int) byte {
	if r.ram[rtcB]&bBinary != 0 {
		return byte(n)
	}
	return byte(n/10<<4 | n%10)
}

func (r *RTC) number(i byte) int { return r.decode(r.ram[i]) }

func (r *RTC) decode(v byte) int {
	if r.ram[rtcB]&bBinary != 0 {
		return int(v)
	}
	return int(v>>4)*10 + int(v&15)
}

// encodeHour encodes an hour, 0–23; in 12-hour format bit 7 is PM.
func (r *RTC) encodeHour(h int) byte {
	if r.ram[rtcB]&b24h != 0 {
		return r.encode(h)
	}
	v := r.encode((h+11)%12 + 1)
	if h >= 12 {
		v |= 0x80
	}
	return v
}

func (r *RTC) hour(v byte) int {
	if r.ram[rtcB]&b24h != 0 {
		return r.decode(v)
	}
	h := r.decode(v&0x7f) % 12
	if v&0x80 != 0 {
		h += 12
	}
	return h
}

// period returns the nanoseconds between periodic interrupts as a fraction of ticks of the 32768 Hz time base, or 0 when there are none (data
// sheet, table 5).
func (r *RTC) period() (ticks uint64) {
	rate := r.ram[rtcA] & 15
	switch {
	case rate == 0 || r.ram[rtcA]>>4&7 != 2:
		return 0
	case rate < 3:
		return 1 << (rate + 6) // 256 Hz and 128 Hz
	}
	return 1 << (rate - 1)
}

// nextPeriodic returns the first virtual time after the given one at which the periodic interrupt comes.
func (r *RTC) nextPeriodic(after uint64) uint64 {
	ticks := r.period()
	if ticks == 0 {
		return never
	}
	return nextMultiple(after, ticks)
}

// nextUpdate returns the first virtual time after the given one at which the seconds change.
func (r *RTC) nextUpdate(after uint64) uint64 {
	if r.ram[rtcB]&bSet != 0 {
		return never
	}
	return addTime(after, r.untilSecond(after))
}

// nextAlarm returns the first virtual time after the given one at which the time matches the alarm registers, or never. Any value of
// 0xc0 and above matches always.
func (r *RTC) nextAlarm(after uint64) uint64 {
	at := r.nextUpdate(after)
	if at == never {
		return never
	}
	const day = 24 * 3600
	t := r.wall(at)
	second := t.Hour()*3600 + t.Minute()*60 + t.Second()
	for last := second + day; second <= last; { // alarms come daily or never
		switch {
		case !r.matches(rtcHoursAlarm, r.encodeHour(second/3600%24)):
			next := (second/3600 + 1) * 3600
			at, second = addTime(at, uint64(next-second)*nsPerSecond), next
		case !r.matches(rtcMinutesAlarm, r.encode(second/60%60)):
			next := (second/60 + 1) * 60
			at, second = addTime(at, uint64(next-second)*nsPerSecond), next
		case !r.matches(rtcSecondsAlarm, r.encode(second%60)):
			at, second = addTime(at, nsPerSecond), second+1
		default:
			return at
		}
	}
	return never
}

func (r *RTC) matches(alarm, now byte) bool {
	return r.ram[alarm] >= 0xc0 || r.ram[alarm] == now
}

// evaluate sets the flags of what happened after seen, up to now.
func (r *RTC) evaluate(now uint64) {
	if now <= r.seen {
		return
	}
	if r.ram[rtcC]&cPeriodic == 0 && r.nextPeriodic(r.seen) <= now {
		r.ram[rtcC] |= cPeriodic
	}
	if r.ram[rtcC]&cUpdate == 0 && r.nextUpdate(r.seen) <= now {
		r.ram[rtcC] |= cUpdate
	}
	if r.ram[rtcC]&cAlarm == 0 && r.nextAlarm(r.seen) <= now {
		r.ram[rtcC] |= cAlarm
	}
	r.seen = now
	r.raise()
}

// raise makes IRQF and the line follow the flags and their enables.
func (r *RTC) raise() {
	if r.ram[rtcB]&r.ram[rtcC]&(cPeriodic|cAlarm|cUpdate) != 0 {
		r.ram[rtcC] |= cIRQ
	} else {
		r.ram[rtcC] &^= cIRQ
	}
	r.line(r.ram[rtcC]&cIRQ != 0)
}

// Deadline returns when the clock next interrupts, if an interrupt is enabled and none is waiting for register C to be read.
func (r *RTC) Deadline() (ns uint64, ok bool) {
	b := r.ram[rtcB]
	if b&(bPeriodic|bAlarm|bUpdate) == 0 || r.ram[rtcC]&cIRQ != 0 {
		return 0, false
	}
	at := uint64(never)
	if b&bPeriodic != 0 {
		at = min(at, r.nextPeriodic(r.seen))
	}
	if b&bUpdate != 0 {
		at = min(at, r.nextUpdate(r.seen))
	}
	if b&bAlarm != 0 {
		at = min(at, r.nextAlarm(r.seen))
	}
	return at, at != never
}

// Advance fires what is due at virtual time now.
func (r *RTC) Advance(now uint64) {
	if at, ok := r.Deadline(); ok && at <= now {
		r.evaluate(now)
	}
}

// MarshalBinary encodes the registers and the time base.
func (r *RTC) MarshalBinary() ([]byte, error) {
	b := append(make([]byte, 0, 160), r.index)
	b = append(b, r.ram[:]...)
	b = binary.LittleEndian.AppendUint64(b, uint64(r.startSeconds))
	b = binary.LittleEndian.AppendUint32(b, r.startNanos)
	return binary.LittleEndian.AppendUint64(b, r.seen), nil
}

// UnmarshalBinary is the inverse of MarshalBinary.
func (r *RTC) UnmarshalBinary(data []byte) error {
	d := wire.NewReader(data)
	n := RTC{clock: r.clock, line: r.line}
	n.index = d.Uint8()
	d.Fill(n.ram[:])
	n.startSeconds = int64(d.Uint64())
	n.startNanos = d.Uint32()
	n.seen = d.Uint64()
	const farthest = 1 << 41 // seconds; more than any value of the registers gives
	d.Check(n.startSeconds >= -farthest && n.startSeconds <= farthest && n.startNanos < nsPerSecond)
	d.Check(n.index < 128 && n.ram[rtcA]&aUpdating == 0 && n.ram[rtcD] == 0 && n.ram[rtcC]&0x0f == 0)
	if err := d.Close(); err != nil {
		return err
	}
	*r = n
	return nil
}
