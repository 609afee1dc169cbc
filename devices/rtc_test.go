package devices

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// cmos is an RTC with a clock to set and the level of its line.
type cmos struct {
	*RTC
	now   uint64
	level bool
}

func newCMOS() *cmos {
	c := &cmos{}
	c.RTC = NewRTC(func() uint64 { return c.now }, func(level bool) { c.level = level })
	return c
}

func (c *cmos) get(reg byte) byte {
	out(c, 0, reg)
	return in(c, 1)
}

func (c *cmos) set(reg, v byte) {
	out(c, 0, reg)
	out(c, 1, v)
}

func bcd(n int) byte { return byte(n/10<<4 | n%10) }

func (c *cmos) check(t testing.TB, want time.Time) {
	t.Helper()
	got := [8]byte{c.get(rtcSeconds), c.get(rtcMinutes), c.get(rtcHours), c.get(rtcWeekday), c.get(rtcDay), c.get(rtcMonth), c.get(rtcYear), c.get(rtcCentury)}
	exp := [8]byte{
		bcd(want.Second()), bcd(want.Minute()), bcd(want.Hour()), bcd(int(want.Weekday()) + 1),
		bcd(want.Day()), bcd(int(want.Month())), bcd(want.Year() % 100), bcd(want.Year() / 100),
	}
	if got != exp {
		t.Errorf("%v: clock shows %x, want %x", want, got, exp)
	}
}

func TestRTCShowsTheCalendar(t *testing.T) {
	for _, start := range []time.Time{
		time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC),
		time.Date(1999, 12, 31, 23, 59, 59, 0, time.UTC),
		time.Date(2000, 2, 28, 23, 59, 59, 0, time.UTC), // a leap year: divisible by 400
		time.Date(2024, 2, 28, 23, 59, 59, 5e8, time.UTC),
		time.Date(2023, 2, 28, 23, 59, 59, 0, time.UTC),
		time.Date(2100, 2, 28, 23, 59, 59, 0, time.UTC), // not a leap year
		time.Date(2026, 7, 4, 12, 34, 56, 0, time.UTC),
	} {
		c := newCMOS()
		c.now = 77 * nsPerSecond
		c.SetWallClock(start.UnixNano(), c.now)
		c.check(t, start)
		c.now += 2 * nsPerSecond
		c.check(t, start.Add(2*time.Second))
		c.now += 366 * 24 * 3600 * nsPerSecond
		c.check(t, start.Add(2*time.Second+366*24*time.Hour))
	}
}

func TestRTCAgreesWithTime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := newCMOS()
		c.now = rapid.Uint64Range(0, 1<<60).Draw(t, "now")
		wall := rapid.Int64Range(0, 4102444800e9).Draw(t, "wall")
		c.SetWallClock(wall, c.now)
		c.now += rapid.Uint64Range(0, 1<<61).Draw(t, "later")
		want := time.Unix(0, wall).UTC().Add(time.Duration(c.now - rapidBase(c, wall)))
		got := c.wall(c.now)
		if !got.Equal(want) {
			t.Fatalf("clock at %v, want %v", got, want)
		}
	})
}

// rapidBase returns the virtual time at which the clock showed wall.
func rapidBase(c *cmos, wall int64) uint64 {
	return uint64(time.Unix(0, wall).Sub(time.Unix(c.startSeconds, int64(c.startNanos))))
}

func TestRTCFormats(t *testing.T) {
	c := newCMOS()
	for hour, want := range map[int][4]byte{ // BCD 24, binary 24, BCD 12, binary 12
		0: {0x00, 0, 0x12, 12}, 1: {0x01, 1, 0x01, 1}, 11: {0x11, 11, 0x11, 11},
		12: {0x12, 12, 0x92, 0x8c}, 13: {0x13, 13, 0x81, 0x81}, 23: {0x23, 23, 0x91, 0x8b},
	} {
		c.SetWallClock(time.Date(2026, 11, 23, hour, 0, 0, 0, time.UTC).UnixNano(), c.now)
		for i, b := range []byte{b24h, b24h | bBinary, 0, bBinary} {
			c.set(rtcB, b)
			if got := c.get(rtcHours); got != want[i] {
				t.Errorf("hour %d with register B %#x: %#x, want %#x", hour, b, got, want[i])
			}
			c.set(rtcB, b|bSet)
			c.set(rtcB, b) // through the registers and back
			if got := c.wall(c.now).Hour(); got != hour {
				t.Errorf("hour %d with register B %#x is set back as %d", hour, b, got)
			}
		}
	}
}

func TestRTCSetByTheGuest(t *testing.T) {
	c := newCMOS()
	c.now = 5e9 + 123
	c.set(rtcB, b24h|bSet)
	for reg, v := range map[byte]byte{rtcSeconds: 0x58, rtcMinutes: 0x59, rtcHours: 0x23, rtcDay: 0x29, rtcMonth: 0x02, rtcYear: 0x24, rtcCentury: 0x20} {
		c.set(reg, v)
	}
	c.now += 10e9 // stands still
	if c.get(rtcSeconds) != 0x58 || c.get(rtcA)&aUpdating != 0 {
		t.Error("the clock runs while SET is on")
	}
	c.set(rtcB, b24h)
	c.check(t, time.Date(2024, 2, 29, 23, 59, 58, 0, time.UTC))
	c.now += 2e9
	c.check(t, time.Date(2024, 3, 1, 0, 0, 0, 0, time.UTC))
	c.set(rtcHours, 0x07) // without SET
	c.check(t, time.Date(2024, 3, 1, 7, 0, 0, 0, time.UTC))
}

func TestRTCUpdateInProgress(t *testing.T) {
	c := newCMOS()
	for ns, want := range map[uint64]bool{0: false, 1: false, 5e8: false, 1e9 - 244_001: false, 1e9 - 244_000: true, 1e9 - 1: true, 1e9: false} {
		c.now = 3e9 + ns
		if got := c.get(rtcA)&aUpdating != 0; got != want {
			t.Errorf("%d ns into a second: updating %v", ns, got)
		}
	}
}

func TestRTCUpdateInterrupt(t *testing.T) {
	c := newCMOS()
	c.now = 1.5e9
	c.get(rtcC)
	c.set(rtcB, b24h|bUpdate)
	at, ok := c.Deadline()
	if !ok || at != 2e9 {
		t.Fatalf("deadline %d %v", at, ok)
	}
	c.Advance(2e9 - 1)
	if c.level {
		t.Fatal("early")
	}
	c.now = 2e9
	c.Advance(c.now)
	if _, ok := c.Deadline(); !c.level || ok {
		t.Fatal("no interrupt, or another due before this one is taken")
	}
	if flags := c.get(rtcC); flags&(cIRQ|cUpdate) != cIRQ|cUpdate || c.level {
		t.Errorf("register C %#x, line %v", flags, c.level)
	}
	if flags := c.get(rtcC); flags != 0 {
		t.Errorf("register C %#x after it was read", flags)
	}
	if at, ok := c.Deadline(); !ok || at != 3e9 {
		t.Errorf("next deadline %d %v", at, ok)
	}
}

func TestRTCPeriodicInterrupt(t *testing.T) {
	for rate, hz := range map[byte]int{1: 256, 2: 128, 3: 8192, 6: 1024, 15: 2} {
		c := newCMOS()
		c.set(rtcA, 0x20|rate)
		c.set(rtcB, b24h|bPeriodic)
		n := 0
		for {
			at, ok := c.Deadline()
			if !ok {
				t.Fatal("no deadline")
			}
			if at > 1e9 {
				break
			}
			c.now = at
			c.Advance(at)
			if c.get(rtcC)&cPeriodic == 0 {
				t.Fatalf("rate %d: no interrupt at its deadline", rate)
			}
			n++
		}
		if n != hz {
			t.Errorf("rate %d: %d interrupts in a second, want %d", rate, n, hz)
		}
	}
}

func TestRTCAlarm(t *testing.T) {
	start := time.Date(2026, 3, 1, 22, 10, 30, 0, time.UTC)
	for _, a := range []struct {
		h, m, s byte
		want    time.Time
	}{
		{0x22, 0x10, 0x31, start.Add(time.Second)},
		{0x22, 0x10, 0x30, start.Add(24 * time.Hour)},
		{0x06, 0x00, 0x00, time.Date(2026, 3, 2, 6, 0, 0, 0, time.UTC)},
		{0xff, 0x05, 0x00, time.Date(2026, 3, 1, 23, 5, 0, 0, time.UTC)},
		{0xc0, 0xc0, 0x15, time.Date(2026, 3, 1, 22, 11, 15, 0, time.UTC)},
		{0xff, 0xff, 0xff, start.Add(time.Second)},
		{0x25, 0x00, 0x00, time.Time{}}, // no such hour
	} {
		c := newCMOS()
		c.now = 9e9
		c.SetWallClock(start.UnixNano(), c.now)
		c.set(rtcHoursAlarm, a.h)
		c.set(rtcMinutesAlarm, a.m)
		c.set(rtcSecondsAlarm, a.s)
		c.get(rtcC)
		c.set(rtcB, b24h|bAlarm)
		at, ok := c.Deadline()
		if a.want.IsZero() {
			if ok {
				t.Errorf("alarm %x:%x:%x comes at %v", a.h, a.m, a.s, c.wall(at))
			}
			continue
		}
		if !ok || !c.wall(at).Equal(a.want) {
			t.Errorf("alarm %x:%x:%x comes at %v (%v), want %v", a.h, a.m, a.s, c.wall(at), ok, a.want)
		}
		c.Advance(at)
		if !c.level {
			t.Error("no interrupt")
		}
	}
}

func TestRTCKeepsCMOSRAM(t *testing.T) {
	c := newCMOS()
	for reg := byte(14); reg < 128; reg++ {
		if reg != rtcCentury {
			c.set(reg|0x80, reg^0x5a) // with NMI masked
		}
	}
	for reg := byte(14); reg < 128; reg++ {
		if reg != rtcCentury && c.get(reg) != reg^0x5a {
			t.Errorf("register %#x reads %#x", reg, c.get(reg))
		}
	}
	if c.get(rtcD) != dValid {
		t.Error("the battery is flat")
	}
}

// rtcOps applies a byte string as register accesses and time.
func rtcOps(c *cmos, ops []byte) {
	for len(ops) >= 2 {
		op, v := ops[0], ops[1]
		ops = ops[2:]
		switch op >> 6 {
		case 0:
			c.set(op&15, v)
		case 1:
			c.get(v)
		case 2:
			c.set(v, op)
		case 3:
			c.now += uint64(v) << (op & 31)
			c.Advance(c.now)
		}
	}
}

func FuzzRTC(f *testing.F) {
	f.Add([]byte{10, 0x26, 11, 0x72, 0xdf, 1, 0x40, 12, 11, 0x80, 4, 0x99, 9, 0xff, 11, 2, 0x40, 9})
	f.Fuzz(func(t *testing.T, ops []byte) {
		c, fresh := newCMOS(), newCMOS()
		rtcOps(c, ops)
		checkRestore(t, c.RTC, fresh.RTC)
		fresh.now = c.now
		for range 4 {
			at, ok := c.Deadline()
			if again, okAgain := fresh.Deadline(); at != again || ok != okAgain {
				t.Fatalf("deadline %d %v, restored %d %v", at, ok, again, okAgain)
			}
			if !ok {
				break
			}
			c.now, fresh.now = max(at, c.now), max(at, c.now)
			c.Advance(c.now)
			fresh.Advance(fresh.now)
			if c.get(rtcC) != fresh.get(rtcC) {
				t.Fatal("a restored clock behaves differently")
			}
		}
	})
}

func FuzzRTCUnmarshal(f *testing.F) {
	f.Add(marshal(f, newCMOS().RTC))
	f.Fuzz(func(t *testing.T, data []byte) {
		c := newCMOS()
		fuzzUnmarshal(t, data, c.RTC, func() { rtcOps(c, data); c.Deadline() })
	})
}
