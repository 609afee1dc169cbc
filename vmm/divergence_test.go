package vmm

import (
	"bytes"
	"context"
	"testing"

	"github.com/detvm/detvm/images"
	"github.com/detvm/detvm/trace"
	"github.com/detvm/detvm/vcpu"
)

// late is an engine that takes one interrupt one instruction late.
type late struct {
	vcpu.CPU
	skip  int // interrupts to deliver in time before that
	seen  int
	which int // number of the interrupt that was late, from 1
}

func (l *late) Interrupt(vector uint8) error {
	if l.seen++; l.which == 0 && l.seen > l.skip {
		var exit vcpu.Exit
		if err := l.Run(l.Count()+1, &exit); err != nil {
			return err
		}
		if exit.Reason != vcpu.ReasonHalt { // a halted processor has no instruction to be late by
			l.which = l.seen
		}
	}
	return l.CPU.Interrupt(vector)
}

func TestAnInterruptOneInstructionLateIsFound(t *testing.T) {
	kernel, err := images.GuestKernel()
	if err != nil {
		t.Fatal(err)
	}
	archive, err := images.DefaultInitramfs()
	if err != nil {
		t.Fatal(err)
	}
	var file bytes.Buffer
	c := Config{
		Engine: EngineSoft, Kernel: Kernel{Image: embedded(kernel.File), Cmdline: images.KernelCommandLine}, Initramfs: embedded(archive),
		Command: Command{Args: []string{"sh", "-c", "sleep 1; echo hi"}},
		Record:  &Recording{W: &file},
	}
	if _, err := Run(context.Background(), c); err != nil {
		t.Fatal(err)
	}
	r, err := trace.Open(bytes.NewReader(file.Bytes()), int64(file.Len()))
	if err != nil {
		t.Fatal(err)
	}
	perturbed := &late{skip: 10}
	result, err := Replay(context.Background(), r, ReplayConfig{
		Kernel: c.Kernel.Image, Initramfs: embedded(archive),
		perturb: func(cpu vcpu.CPU) vcpu.CPU {
			perturbed.CPU = cpu
			return perturbed
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if perturbed.which == 0 {
		t.Fatal("no interrupt was perturbed")
	}
	index, interrupts := uint64(0), 0
	for i, e := range r.All(&err) {
		if e.Kind == trace.KindInterrupt {
			if interrupts++; interrupts == perturbed.which {
				index = i
			}
		}
	}
	d := result.Divergence
	if result.Identical || d == nil {
		t.Fatalf("an interrupt one instruction late went unnoticed: %+v", result)
	}
	// The late injection itself is logged with the position at which the machine asked for it; what follows shows the difference.
	if d.Index < index || d.Index > index+2 {
		t.Errorf("found at event %d; the perturbed interrupt is event %d", d.Index, index)
	}
	if d.Reason == "" || d.Suspect == "" || d.At == nil {
		t.Errorf("the report is empty: %+v", d)
	}
}
