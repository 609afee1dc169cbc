package vmm_test

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/detvm/detvm/vmm"
)

// A limit ends a run at the same event whether it booted or started from a snapshot.
func TestLimitsEndBootedAndRestoredRunsAlike(t *testing.T) {
	snapshots := t.TempDir()
	run := func(l vmm.Limits, dir string) *vmm.Result {
		c := builtin("sh", "-c", "while :; do :; done")
		c.Limits, c.SnapshotDir = l, dir
		c.Record = &vmm.Recording{W: &bytes.Buffer{}}
		r, err := vmm.Run(context.Background(), c)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	some := vmm.Limits{VirtualTime: 20 * time.Millisecond}
	run(some, snapshots) // makes the snapshot
	for name, l := range map[string]vmm.Limits{
		"exits in the boot": {Exits: 200, VirtualTime: time.Second}, "exits after it": {Exits: 500, VirtualTime: time.Second},
		"virtual time": some, "virtual time shorter than a boot": {VirtualTime: 5 * time.Millisecond},
	} {
		booted, restored := run(l, ""), run(l, snapshots)
		if booted.Outcome != vmm.OutcomeLimit || booted.TraceRoot != restored.TraceRoot || booted.Events != restored.Events {
			t.Errorf("%s: booted %s after %d events, root %s; restored %s after %d, root %s", name,
				booted.Outcome, booted.Events, booted.TraceRoot, restored.Outcome, restored.Events, restored.TraceRoot)
		}
		if l.Exits == 0 && !restored.FromSnapshot {
			t.Errorf("%s: the second run did not start from the snapshot", name)
		}
	}
}
