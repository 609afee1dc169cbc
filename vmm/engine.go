package vmm

import (
	"fmt"

	"github.com/detvm/detvm/vcpu"
	"github.com/detvm/detvm/vcpu/soft"
)

// softClocks are the work clocks of the software engine, the best first.
var softClocks = []vcpu.Clock{vcpu.ClockInstructions, vcpu.ClockBranches, vcpu.ClockExits}

// chooseEngine settles which engine and clock a run uses: what was asked for, else KVM where the host counts user and kernel work in hardware, else
// the software engine, which counts everywhere.
func chooseEngine(engine string, clock vcpu.Clock) (string, vcpu.Clock, error) {
	if clock != "" && nsPerCount[clock] == 0 {
		return "", "", usagef("unknown work clock %q: want instructions, branches, kernel-instructions or exits", clock)
	}
	switch engine {
	case EngineAuto:
		switch clock {
		case "":
			if best, err := bestKVMClock(); err == nil && best == vcpu.ClockBranches {
				return EngineKVM, best, nil
			}
			return EngineSoft, vcpu.ClockInstructions, nil
		case vcpu.ClockKernelInstructions:
			return EngineKVM, clock, nil
		}
		return EngineSoft, clock, nil
	case EngineSoft:
		if clock == "" {
			clock = vcpu.ClockInstructions
		}
		if clock == vcpu.ClockKernelInstructions {
			return "", "", usagef("--cpu soft cannot count %s: want one of %v", clock, softClocks)
		}
		return engine, clock, nil
	case EngineKVM:
		if clock == vcpu.ClockInstructions {
			return "", "", usagef("--cpu kvm cannot count instructions exactly: use --cpu soft, or another --clock")
		}
		if clock == "" {
			best, err := bestKVMClock()
			if err != nil {
				return "", "", fmt.Errorf("use KVM: %w", err)
			}
			clock = best
		}
		return engine, clock, nil
	}
	return "", "", usagef("unknown engine %q: want auto, kvm or soft", engine)
}

func newEngine(engine string, c vcpu.Config) (vcpu.CPU, error) {
	if engine == EngineSoft {
		return soft.New(c)
	}
	return newKVM(c)
}
