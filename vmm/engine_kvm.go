//go:build linux && amd64

package vmm

import (
	"github.com/detvm/detvm/vcpu"
	"github.com/detvm/detvm/vcpu/kvm"
)

// kvmModel is the processor that a guest of KVM sees on this host.
func kvmModel() ([]vcpu.CPUIDLeaf, *vcpu.Ring3, error) { return kvm.Model() }

func newKVM(c vcpu.Config) (vcpu.CPU, error) { return kvm.New(c) }

// bestKVMClock measures which work clock KVM offers here.
func bestKVMClock() (vcpu.Clock, error) {
	host := kvm.Probe()
	return host.BestClock(), host.KVM
}
