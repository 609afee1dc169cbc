//go:build linux && amd64

package vmm

import (
	"github.com/detvm/detvm/vcpu"
	"github.com/detvm/detvm/vcpu/kvm"
)

func newKVM(c vcpu.Config) (vcpu.CPU, error) { return kvm.New(c) }

func bestKVMClock() (vcpu.Clock, error) { return kvm.BestClock() }
