package vmm

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/detvm/detvm/vcpu"
)

func TestRing3IsReadBackAsWritten(t *testing.T) {
	table := []vcpu.CPUIDLeaf{{Leaf: 1, EAX: 2, EBX: 3, ECX: 4, EDX: 5}, {Leaf: 7, Subleaf: 1, HasSubleaf: true, EAX: 6}}
	for _, want := range []*vcpu.Ring3{nil, {}, {SyscallStays: true}, {CPUID: table}, {CPUID: table, SyscallStays: true}} {
		got, err := decodeRing3(encodeRing3(want))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%+v came back as %+v, %v", want, got, err)
		}
	}
	for _, bad := range []string{"falls", "stays zz", "switches 00", " "} {
		if got, err := decodeRing3(bad); err == nil {
			t.Errorf("%q is accepted as %+v", bad, got)
		}
	}
}

func TestTheUsersVariablesComeFirst(t *testing.T) {
	mine := []string{"A=b", "GODEBUG=gctrace=1"}
	c := Config{Kernel: Kernel{Cmdline: "quiet"}, Command: Command{Env: mine}}
	c.keepToModel()
	if !slices.Equal(c.Env[:2], mine) || len(c.Env) != 3 || !strings.HasPrefix(c.Env[2], "GLIBC_TUNABLES=") {
		t.Errorf("environment %q", c.Env)
	}
	if c.Kernel.Cmdline != "quiet"+initEnv {
		t.Errorf("command line %q", c.Kernel.Cmdline)
	}
	env, cmdline := c.Env, c.Kernel.Cmdline
	if c.keepToModel(); !slices.Equal(c.Env, env) || c.Kernel.Cmdline != cmdline {
		t.Errorf("a second time adds to it: %q, %q", c.Env, c.Kernel.Cmdline)
	}
}

func TestMatchingKVMNeedsTheSharedClock(t *testing.T) {
	c := Config{Engine: EngineSoft, Clock: vcpu.ClockInstructions, MatchKVM: true}
	if err := c.matchHost(); err == nil {
		t.Error("a run on the clock instructions claims to match KVM")
	}
}
