package vmm

import (
	"testing"

	"github.com/detvm/detvm/trace"
)

// A guest decides how much its boot logs; what is kept of it for a snapshot is bounded.
func TestABootThatLogsWithoutEndIsNotKept(t *testing.T) {
	for name, c := range map[string]struct {
		events  int
		payload int
	}{"events": {bootEventsMax + 1, 0}, "payloads": {20, bootPayloadMax / 16}} {
		log := &bootLog{inner: liveLog{}}
		e := trace.Event{Kind: trace.KindIO, Data: make([]byte, c.payload)}
		for range c.events {
			if err := log.event(&e); err != nil {
				t.Fatal(err)
			}
		}
		if !log.full || len(log.events) != 0 {
			t.Errorf("%s: full %v, %d events are kept", name, log.full, len(log.events))
		}
	}
}
