//go:build !(linux && amd64)

package vmm

import (
	"errors"

	"github.com/detvm/detvm/vcpu"
)

var errNoKVM = errors.New("this build has no KVM engine: use --cpu soft")

func kvmModel() ([]vcpu.CPUIDLeaf, *vcpu.Ring3, error) { return nil, nil, errNoKVM }

func newKVM(vcpu.Config) (vcpu.CPU, error) { return nil, errNoKVM }

func bestKVMClock() (vcpu.Clock, error) { return "", errNoKVM }
