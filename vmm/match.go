package vmm

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/detvm/detvm/vcpu"
)

// One CPU model that both engines can give on this host.
//
// Some hosts force bits on in the guest's CPUID table, and some run ring 3 natively, so that user programs see the host's processor and SYSCALL ends in a fault
// (vcpu.Ring3). KVM cannot do otherwise there, but the software engine can do the same: with Config.MatchKVM, and in the replay of a KVM trace, it takes
// table and ring-3 behaviour from the host or from the trace. Programs that would then use instructions outside the model are asked by their environment
// not to (keepToModel). That is needed on KVM itself: the guest kernel, which sees no AVX, saves no AVX state when it switches between programs.

// modelEnv asks the Go runtime and glibc to use no processor features but those of the model.
var modelEnv = []string{
	"GODEBUG=cpu.all=off",
	"GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX,-AVX2,-AVX512F,-AVX512VL,-AVX512BW,-AVX512DQ,-BMI1,-BMI2,-FMA,-LZCNT,-MOVBE,-ERMS,-FSRM,-RTM,-XSAVE,-XSAVEC",
}

// initEnv is the part of modelEnv that the agent, a Go program, needs; the kernel hands it over from its command line.
const initEnv = " GODEBUG=cpu.all=off"

// matchHost settles table, ring-3 behaviour and environment of a run. A replay takes them from the trace, as far as the engine can.
func (c *Config) matchHost() error {
	if c.Engine != EngineKVM && (!c.MatchKVM || c.fromTrace) {
		return nil
	}
	if c.MatchKVM && c.Clock != vcpu.ClockExits {
		return usagef("a run that matches KVM needs the clock exits, which both engines have")
	}
	table, ring3, err := kvmModel()
	if err != nil {
		return fmt.Errorf("measure the processor that KVM shows: %w", err)
	}
	if c.fromTrace {
		if encodeCPUID(c.cpuid) != encodeCPUID(table) || encodeRing3(c.ring3) != encodeRing3(ring3) {
			c.Notice("KVM on this host shows the guest another processor than the recorded run saw: replay with --cpu soft, or with --force to see where that makes a difference")
		}
		c.ring3 = ring3
		return nil
	}
	c.ring3 = ring3
	if c.Engine == EngineSoft {
		c.cpuid = table
	}
	if ring3.CPUID != nil {
		c.keepToModel()
	}
	return nil
}

// keepToModel adds to the environment of the agent and the command what keeps them to the model, except for variables that the user set.
func (c *Config) keepToModel() {
	env := slices.Clone(c.Env)
	for _, e := range modelEnv {
		name, _, _ := strings.Cut(e, "=")
		if !slices.ContainsFunc(c.Env, func(s string) bool { return strings.HasPrefix(s, name+"=") }) {
			env = append(env, e)
		}
	}
	c.Env = env
	if !strings.Contains(c.Kernel.Cmdline, " GODEBUG=") {
		c.Kernel.Cmdline += initEnv
	}
}

// encodeRing3 and decodeRing3 are the form in a trace's header: "stays" or "switches", then the CPUID table.
func encodeRing3(r *vcpu.Ring3) string {
	if r == nil {
		return ""
	}
	word := "switches"
	if r.SyscallStays {
		word = "stays"
	}
	return word + " " + encodeCPUID(r.CPUID)
}

func decodeRing3(s string) (*vcpu.Ring3, error) {
	if s == "" {
		return nil, nil
	}
	word, table, _ := strings.Cut(s, " ")
	if word != "stays" && word != "switches" {
		return nil, fmt.Errorf("unknown behaviour of SYSCALL %q", word)
	}
	r := &vcpu.Ring3{SyscallStays: word == "stays"}
	var err error
	if table != "" {
		r.CPUID, err = decodeCPUID(table)
	}
	return r, err
}

// cpuIdentity is everything that the guest sees of its processor.
func (m *Machine) cpuIdentity() []byte {
	var p []byte
	for _, l := range m.cpu.CPUID() {
		p, _ = binary.Append(p, binary.LittleEndian, l) // fixed-size fields: no error
	}
	return append(p, encodeRing3(m.config.ring3)...)
}
