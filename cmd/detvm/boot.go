package main

import (
	"fmt"
	"os"

	"github.com/detvm/detvm/images"
	"github.com/detvm/detvm/vmm"
)

// embeddedBlob is a boot file inside this binary.
func embeddedBlob(f *images.File) vmm.Blob {
	return vmm.Blob{Size: f.Size, Digest: f.SHA256, Load: f.Load}
}

// fileBlob reads a boot file.
func fileBlob(what, path string) (vmm.Blob, error) {
	p, err := os.ReadFile(path)
	if err != nil {
		return vmm.Blob{}, fmt.Errorf("read the %s: %w", what, err)
	}
	if len(p) == 0 {
		return vmm.Blob{}, fmt.Errorf("the %s %s is empty", what, path)
	}
	return vmm.BlobOf(p), nil
}

// builtinKernel is the guest kernel that is embedded in this binary.
func builtinKernel() (vmm.Kernel, error) {
	k, err := images.GuestKernel()
	if err != nil {
		return vmm.Kernel{}, err
	}
	return vmm.Kernel{
		Image:   embeddedBlob(k.File),
		Cmdline: images.KernelCommandLine,
		Layout:  vmm.KernelLayout{CurrentTask: k.Symbols.CurrentTask, CommOffset: k.Symbols.CommOffset, TGIDOffset: k.Symbols.TGIDOffset},
	}, nil
}
