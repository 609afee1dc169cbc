package vmm

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/detvm/detvm/vcpu"
)

func TestExtentsCoverExactlyWhatWasRead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const size = 4096
		var x extents
		var read [size]bool
		for range rapid.IntRange(0, 60).Draw(t, "reads") {
			start := rapid.Uint64Range(0, size-1).Draw(t, "start")
			n := rapid.Uint64Range(1, size-start).Draw(t, "n")
			x.add(start, n)
			for i := start; i < start+n; i++ {
				read[i] = true
			}
		}
		var covered [size]bool
		last := uint64(0)
		for _, e := range x.merged() {
			if e.start < last || e.end <= e.start {
				t.Fatalf("extent %v is out of order", e)
			}
			last = e.end
			for i := e.start; i < e.end; i++ {
				covered[i] = true
			}
		}
		if covered != read {
			t.Fatal("covered bytes are not those that were read")
		}
	})
}

func TestCPUIDTableSurvivesTheTraceHeader(t *testing.T) {
	want := vcpu.DetvmV1(true)
	got, err := decodeCPUID(encodeCPUID(want))
	if err != nil || len(got) != len(want) {
		t.Fatalf("%d leaves, %v", len(got), err)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("leaf %d is %v, want %v", i, got[i], want[i])
		}
	}
	for _, bad := range []string{"zz", "00", encodeCPUID(make([]vcpu.CPUIDLeaf, maxCPUIDLeaves+1))} {
		if _, err := decodeCPUID(bad); err == nil {
			t.Errorf("table of %d characters was accepted", len(bad))
		}
	}
}
