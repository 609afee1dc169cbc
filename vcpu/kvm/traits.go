package kvm

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/detvm/detvm/vcpu"
)

// hostTraits is how this host's KVM behaves where KVMs differ. It is measured once per process with tiny guests.
type hostTraits struct {
	outIsLazy      bool       // RIP still stands on the OUT at its exit
	needsThreadTSD bool       // ring 3 obeys CR4.TSD of the thread besides the guest's, so the thread must set it
	leaksTSC       bool       // RDTSC at ring 3 cannot be stopped at all
	msrs           []stateMSR // those of a State that the host keeps
}

var measuredTraits struct {
	once   sync.Once
	traits hostTraits
	err    error
}

// keeps reports whether KVM keeps a plain-state MSR on this host.
func (t *hostTraits) keeps(index uint32) bool {
	return slices.ContainsFunc(t.msrs, func(m stateMSR) bool { return m.index == index })
}

// measureTraits returns the traits of this host.
func measureTraits() (hostTraits, error) {
	m := &measuredTraits
	m.once.Do(func() { m.traits, m.err = measureHost() })
	return m.traits, m.err
}

func measureHost() (traits hostTraits, err error) {
	g, err := newTinyGuest(vcpu.ClockExits, hostTraits{}, 0, nil)
	if err != nil {
		return traits, err
	}
	defer func() { err = errors.Join(err, g.Close()) }()
	g.traits.msrs = g.supportedMSRs()
	traits = g.traits
	for _, ring := range []uint16{0, 3} {
		lazy, err := g.outIsLazy(ring)
		if err != nil {
			return traits, fmt.Errorf("measure OUT at ring %d: %w", ring, err)
		}
		traits.outIsLazy = traits.outIsLazy || lazy
	}
	trapped, err := g.trapsUserTSC()
	if err != nil || trapped {
		return traits, err
	}
	g.enterFunc = enterTrapping
	trapped, err = g.trapsUserTSC()
	traits.needsThreadTSD, traits.leaksTSC = trapped, !trapped
	return traits, err
}

// supportedMSRs asks for each MSR of a State by itself.
func (e *Engine) supportedMSRs() []stateMSR {
	var list []stateMSR
	for _, msr := range stateMSRs {
		m := kvmMSRs{n: 1}
		m.entries[0].index = msr.index
		if msrIoctl(e.cpu, ioGetMSRs, &m) == nil && msrIoctl(e.cpu, ioSetMSRs, &m) == nil {
			list = append(list, msr)
		}
	}
	return list
}

// outIsLazy sees where RIP stands when an OUT comes back.
func (g *tinyGuest) outIsLazy(ring uint16) (bool, error) {
	if err := g.load(ring, []byte{0xe6, 0x80, 0xf4}); err != nil { // out 0x80,al; hlt
		return false, err
	}
	exit, err := g.until(vcpu.ReasonIO)
	return err == nil && exit.PC == tinyCode, err
}

// trapsUserTSC runs RDTSC at ring 3 with CR4.TSD set and sees whether it faults.
func (g *tinyGuest) trapsUserTSC() (bool, error) {
	copy(g.ram[tinyCode:], []byte{0x0f, 0x31, 0xb0, 0xff, 0xe6, tinyFaultPort}) // rdtsc; mov al,0xff; out
	s := tinyState(3)
	s.CR4 |= cr4TSD
	if err := g.SetState(s); err != nil {
		return false, err
	}
	exit, err := g.until(vcpu.ReasonIO)
	if err != nil {
		return false, err
	}
	const gp = 13
	return exit.Addr == tinyFaultPort && exit.Data[0] == gp, nil
}

const cr4TSD = 1 << 2

// until runs to the next exit, which must be of the given kind.
func (g *tinyGuest) until(want vcpu.Reason) (*vcpu.Exit, error) {
	exit := new(vcpu.Exit)
	if err := g.Run(vcpu.NoStop, exit); err != nil {
		return nil, err
	}
	if exit.Reason != want {
		return nil, fmt.Errorf("the calibration guest stopped with %s instead of %s at %#x %s", exit.Reason, want, exit.PC, exit.Detail)
	}
	return exit, nil
}
