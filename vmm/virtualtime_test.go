package vmm

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/detvm/detvm/vcpu"
)

func TestPositionIsTheFirstCountThatReachesATime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		clock := rapid.SampledFrom([]vcpu.Clock{vcpu.ClockInstructions, vcpu.ClockBranches, vcpu.ClockKernelInstructions, vcpu.ClockExits}).Draw(t, "clock")
		vt, err := newVirtualTime(clock, rapid.Float64Range(1.0/1024, 1024).Draw(t, "scale"))
		if err != nil {
			t.Fatal(err)
		}
		vt.skipped = rapid.Uint64Max(1<<50).Draw(t, "skipped")
		ns := rapid.Uint64Max(1<<60).Draw(t, "ns")
		c := vt.position(ns)
		if c == vcpu.NoStop {
			if vt.at(c) >= ns {
				t.Fatalf("no position for %d, but at(%d) = %d", ns, c, vt.at(c))
			}
			return
		}
		if vt.at(c) < ns {
			t.Fatalf("at(%d) = %d, before %d", c, vt.at(c), ns)
		}
		if c > 0 && vt.at(c-1) >= ns {
			t.Fatalf("at(%d) = %d already reaches %d", c-1, vt.at(c-1), ns)
		}
	})
}

func TestIdleSkipMovesTimeToTheDeadline(t *testing.T) {
	vt, err := newVirtualTime(vcpu.ClockInstructions, 1)
	if err != nil {
		t.Fatal(err)
	}
	const hour = 3600e9
	if got := vt.skipTo(1000, hour); got != hour-1000 {
		t.Errorf("skip of %d ns, want %d", got, uint64(hour)-1000)
	}
	if got := vt.at(1000); got != hour {
		t.Errorf("virtual time %d after the skip, want %d", got, uint64(hour))
	}
	if got := vt.skipTo(1000, hour-1); got != 0 {
		t.Errorf("skipped %d ns backwards", got)
	}
}

func TestUnusableTimeScalesAreRefused(t *testing.T) {
	nan := 0.0
	nan /= nan
	for _, s := range []float64{0, -1, 1e9, nan} {
		if _, err := newVirtualTime(vcpu.ClockExits, s); err == nil {
			t.Errorf("time scale %g was accepted", s)
		}
	}
}
