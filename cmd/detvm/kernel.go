package main

import (
	"github.com/detvm/detvm/images"
	"github.com/detvm/detvm/vmm"
)

// builtinKernel is the guest kernel that is embedded in this binary.
func builtinKernel() (vmm.Kernel, error) {
	k, err := images.GuestKernel()
	if err != nil {
		return vmm.Kernel{}, err
	}
	return vmm.Kernel{
		Image:   k.Image,
		Cmdline: images.KernelCommandLine,
		Layout:  vmm.KernelLayout{CurrentTask: k.Symbols.CurrentTask, CommOffset: k.Symbols.CommOffset, TGIDOffset: k.Symbols.TGIDOffset},
	}, nil
}
