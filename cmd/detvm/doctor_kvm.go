//go:build linux && amd64

package main

import (
	"fmt"

	"github.com/detvm/detvm/vcpu/kvm"
)

// kvmFindings measures KVM on this host.
func kvmFindings() []finding {
	h := kvm.Probe()
	if h.KVM != nil {
		return []finding{{"KVM", false, h.KVM.Error(), "--cpu kvm does not work here; --cpu soft does"}}
	}
	list := []finding{{"KVM", true, fmt.Sprintf("usable (%s, API %d)", h.Vendor, h.APIVersion), "--cpu kvm works here"}}
	add := func(what string, err error, found, good, bad string) {
		f := finding{what, err == nil, found, good}
		if err != nil {
			f.Found, f.Means = err.Error(), bad
		}
		list = append(list, f)
	}
	add("clock branches", h.Branches, "measured exact with a calibration guest ("+h.BranchEvent+")",
		"KVM counts user and kernel code: --cpu auto takes it", "no hardware count of user and kernel code: --cpu auto takes soft")
	add("clock kernel-instructions", h.KernelInstructions, "measured exact with a calibration guest",
		"KVM interprets the guest kernel here and counts it: slow, but timers are exact in kernel code", "KVM falls back to the exits clock: timers fire only at exits")
	list = append(list,
		finding{"RDTSC at ring 3", h.UserTSC != kvm.TSCLeaks, h.UserTSC, "programs that read the TSC see virtual time, unless it cannot be trapped"},
		finding{"CPUID at ring 3", h.UserCPUID, map[bool]string{true: "the frozen model", false: "the host's"}[h.UserCPUID], "programs choose their code by CPUID: with the host's, runs on other hosts may differ"},
		finding{"RDRAND at ring 3", !h.UserRDRAND, map[bool]string{true: "executes", false: "hidden"}[h.UserRDRAND], "a program that executes RDRAND without asking CPUID is random under KVM where it executes; soft raises #UD"},
	)
	for _, f := range h.ForcedCPUID {
		list = append(list, finding{"CPU model", false, f.String(), "this host's KVM forces these bits; the guest kernel hides them from itself"})
	}
	return list
}
