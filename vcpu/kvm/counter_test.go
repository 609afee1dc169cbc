package kvm

import (
	"errors"
	"testing"

	"github.com/detvm/detvm/vcpu"
	"pgregory.net/rapid"
)

// simHost is a processor whose counter interrupts late, as a PMU does. Its program is an endless sequence of instructions, some of which are counted
// events and some of which exit.
type simHost struct {
	t          *rapid.T
	claimed    uint64 // the skid that the counter admits to
	real       uint64 // the largest skid that happens
	stride     uint64 // every stride-th instruction is an event
	exitEvery  uint64 // every exitEvery-th instruction exits; 0: none
	at, events uint64
	trigger    uint64 // the event count at which the interruption becomes due; 0 when disarmed
	on         bool
}

func (h *simHost) read() (uint64, error) { return h.events, nil }
func (h *simHost) arm(n uint64) error {
	if n == 0 {
		return errors.New("armed for nothing")
	}
	h.trigger, h.on = h.events+n, true
	return nil
}
func (h *simHost) disarm() error  { h.trigger, h.on = 0, true; return nil }
func (h *simHost) suspend() error { h.trigger, h.on = 0, false; return nil }
func (h *simHost) skid() uint64   { return h.claimed }
func (h *simHost) close() error   { return nil }

// one executes an instruction and reports whether it exits.
func (h *simHost) one() bool {
	h.at++
	if h.at%h.stride == 0 {
		if !h.on {
			h.t.Fatal("the guest runs while the counter is off")
		}
		h.events++
	}
	return h.exitEvery != 0 && h.at%h.exitEvery == 0
}

func (h *simHost) execute(step bool) (outcome, error) {
	if step {
		if h.one() {
			return outcomeExit, nil
		}
		return outcomeStepped, nil
	}
	late := rapid.Uint64Range(0, h.real).Draw(h.t, "skid")
	kick := rapid.Uint64Range(1, 20000).Draw(h.t, "kick")
	for n := uint64(0); ; n++ {
		if h.trigger != 0 && h.events >= h.trigger+late {
			return outcomeInterrupted, nil
		}
		if n == kick {
			return outcomeInterrupted, nil
		}
		if h.one() {
			return outcomeExit, nil
		}
	}
}

func newSimHost(t *rapid.T) *simHost {
	h := &simHost{
		t: t, stride: rapid.Uint64Range(1, 5).Draw(t, "stride"), exitEvery: rapid.SampledFrom([]uint64{0, 0, 3, 17, 1000}).Draw(t, "exits"),
		claimed: rapid.Uint64Range(0, 60).Draw(t, "margin"),
	}
	h.real = h.claimed
	return h
}

// A stop is always at the first instruction boundary at which the counter stands at the target, whatever the skid, exits and kicks on the way.
func TestLandingIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := newSimHost(t)
		base := rapid.Uint64Range(0, 1<<40).Draw(t, "base")
		l := &lander{counter: h}
		if err := l.set(base); err != nil {
			t.Fatal(err)
		}
		for range rapid.IntRange(1, 8).Draw(t, "stops") {
			target := l.now + rapid.Uint64Range(0, 300).Draw(t, "distance")
			start := l.now
			for {
				got, err := l.advance(h, target, true)
				if err != nil {
					t.Fatal(err)
				}
				if l.now != h.events+base {
					t.Fatalf("position %d, counter %d", l.now, h.events)
				}
				if got == outcomeReached {
					break
				}
			}
			if l.now != target {
				t.Fatalf("landed at %d instead of %d", l.now, target)
			}
			// The first boundary: the instruction just executed is the event. An exit at that very instruction was reported before.
			if target > start && h.at%h.stride != 0 {
				t.Fatalf("landed %d instructions after the event", h.at%h.stride)
			}
			if rapid.Bool().Draw(t, "another engine runs") {
				if err := l.suspend(); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}

// A counter whose interruptions come later than it admits gives exact stops or an error, never a late stop.
func TestASkidBeyondTheMarginIsAnError(t *testing.T) {
	failed := 0
	rapid.Check(t, func(t *rapid.T) {
		h := newSimHost(t)
		h.exitEvery, h.real = 0, h.claimed+50
		l := &lander{counter: h}
		target := rapid.Uint64Range(1, 2000).Draw(t, "target")
		for {
			got, err := l.advance(h, target, true)
			var late *lateError
			if errors.As(err, &late) {
				failed++
				if late.now <= target {
					t.Fatalf("%v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got == outcomeReached {
				if l.now != target {
					t.Fatalf("late stop at %d instead of %d", l.now, target)
				}
				return
			}
		}
	})
	if failed == 0 {
		t.Error("the simulated counter never was too late")
	}
}

func TestWithoutAStopTheCounterOnlyCounts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := newSimHost(t)
		h.exitEvery = 100
		l := &lander{counter: h}
		for range 5 {
			if _, err := l.advance(h, vcpu.NoStop, false); err != nil {
				t.Fatal(err)
			}
			if l.now != h.events || h.trigger != 0 {
				t.Fatalf("position %d, counter %d, trigger %d", l.now, h.events, h.trigger)
			}
		}
	})
}

func TestBranchEventByProcessor(t *testing.T) {
	info := func(vendor, family, model string) string {
		return "processor\t: 0\nvendor_id\t: " + vendor + "\ncpu family\t: " + family + "\nmodel\t\t: " + model + "\nmodel name\t: x\n"
	}
	for _, c := range []struct {
		text   string
		config uint64
		skid   uint64
	}{
		{info("GenuineIntel", "6", "26"), 0x5101c4, 100},       // Nehalem
		{info("GenuineIntel", "6", "165"), 0x5101c4, 100},      // Comet Lake
		{info("GenuineIntel", "6", "106"), 0x5111c4, 100},      // Ice Lake
		{info("GenuineIntel", "6", "143"), 0x5111c4, 125},      // Sapphire Rapids
		{info("GenuineIntel", "6", "189"), 0x100005111c4, 125}, // Lunar Lake
		{info("GenuineIntel", "6", "122"), 0x517ec4, 100},      // Goldmont Plus
		{info("AuthenticAMD", "25", "33"), 0x5100d1, 10000},    // Zen 3
		{info("AuthenticAMD", "21", "1"), 0, 0},                // Bulldozer
		{info("GenuineIntel", "6", "15"), 0, 0},                // Core 2
		{"", 0, 0},
		{"cpu family: x\nmodel: y\n", 0, 0},
	} {
		event, err := branchEventFor(c.text)
		if (err == nil) != (c.config != 0) || event.config != c.config || event.skid != c.skid {
			t.Errorf("%q: %+v, %v", c.text, event, err)
		}
	}
}
