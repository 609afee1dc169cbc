package kvm

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// branchEvent is how one processor family counts retired conditional branches.
type branchEvent struct {
	name   string
	config uint64 // raw perf config: event select and unit mask
	skid   uint64 // how many events an overflow interruption may be late
}

// The events. Each one was found by the rr project (github.com/rr-debugger/rr, src/PerfCounters.cc and PerfCounters_x86.h, table pmu_configs) to
// be the deterministic one: retired conditional branches, not "instructions retired", which drifts with interrupts and faults. The skid is rr's, measured on
// many machines of each kind; a run that sees more stops with an error (lateError).
var (
	// BR_INST_RETIRED.CONDITIONAL, Intel SDM vol. 3B ch. 20 (event C4H umask 01H).
	eventNehalem = branchEvent{"Nehalem to Comet Lake", 0x5101c4, 100}
	// BR_INST_RETIRED.COND, event C4H umask 11H since Ice Lake.
	eventIceLake = branchEvent{"Ice, Tiger and Rocket Lake", 0x5111c4, 100}
	eventAlder   = branchEvent{"Alder Lake to Granite Rapids, P-cores", 0x5111c4, 125}
	// Lunar and Arrow Lake need bit 8 of the second unit mask.
	eventLunar = branchEvent{"Lunar and Arrow Lake, P-cores", 0x100005111c4, 125}
	// BR_INST_RETIRED.JCC, event C4H umask 7EH.
	eventAtom = branchEvent{"Silvermont to Skymont", 0x517ec4, 100}
	// Retired conditional branches, AMD PPR event PMCx0D1. Exact only while speculative lock mapping is off (MSR C001_1020 bit 54, a chicken bit that
	// rr's zen_workaround.py sets); with it on, locked operations that are retried count again.
	eventZen = branchEvent{"AMD Zen 1 to 5", 0x5100d1, 10000}
)

// Processor models of family 6 by event, from the signature (leaf 1 EAX, as /proc/cpuinfo's "model" shows it).
var intelModels = []struct {
	event  branchEvent
	models []uint64
}{
	{eventNehalem, []uint64{
		0x1a, 0x1e, 0x2e, 0x25, 0x2c, 0x2f, // Nehalem, Westmere
		0x2a, 0x2d, 0x3a, 0x3e, // Sandy and Ivy Bridge
		0x3c, 0x3f, 0x45, 0x46, 0x3d, 0x47, 0x4f, 0x56, // Haswell, Broadwell
		0x4e, 0x55, 0x5e, 0x8e, 0x9e, 0xa5, 0xa6, // Skylake to Comet Lake
	}},
	{eventIceLake, []uint64{0x6a, 0x6c, 0x7e, 0x7d, 0x8c, 0x8d, 0xa7}},
	{eventAlder, []uint64{0x97, 0x9a, 0xb7, 0xba, 0xbf, 0x8f, 0xcf, 0xaa, 0xac, 0xad, 0xae}},
	{eventLunar, []uint64{0xbd, 0xc5, 0xc6}},
	{eventAtom, []uint64{0x37, 0x4a, 0x4c, 0x4d, 0x5a, 0x5c, 0x5f, 0x7a, 0x86, 0x8a, 0x96, 0x9c, 0xbe, 0xaf}},
}

// hostBranchEvent chooses the event for the processor of this host by its signature. Whether it really counts is for [Probe] to measure.
func hostBranchEvent() (branchEvent, error) {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return branchEvent{}, fmt.Errorf("identify the processor: %w", err)
	}
	return branchEventFor(string(text))
}

// branchEventFor reads the first processor in the text of /proc/cpuinfo.
func branchEventFor(cpuinfo string) (branchEvent, error) {
	field := func(name string) string {
		for line := range strings.Lines(cpuinfo) {
			key, value, ok := strings.Cut(line, ":")
			if ok && strings.TrimSpace(key) == name {
				return strings.TrimSpace(value)
			}
		}
		return ""
	}
	family, errFamily := strconv.ParseUint(field("cpu family"), 10, 32)
	model, errModel := strconv.ParseUint(field("model"), 10, 32)
	if err := errors.Join(errFamily, errModel); err != nil {
		return branchEvent{}, fmt.Errorf("identify the processor: %w", err)
	}
	switch vendor := field("vendor_id"); {
	case vendor == "AuthenticAMD" && (family == 0x17 || family == 0x19 || family == 0x1a):
		return eventZen, nil
	case vendor == "GenuineIntel" && family == 6:
		for _, row := range intelModels {
			for _, m := range row.models {
				if m == model {
					return row.event, nil
				}
			}
		}
	}
	return branchEvent{}, fmt.Errorf("no deterministic branch event is known for processor family %#x model %#x", family, model)
}
