package kvm

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/arch/x86/x86asm"
)

// Single-stepping sets TF in the guest's RFLAGS. KVM hides it from KVM_GET_REGS, but the processor itself copies RFLAGS in three places where the guest would
// find it: PUSHF, SYSCALL (into R11), and the frame of an exception or interrupt. Popped again after stepping has ended, it would give the guest a #DB that
// it never asked for. hideStep takes the flag out of the copy after each step.

// stepOrigin is what must be known about the guest before a step to see what the step did.
type stepOrigin struct {
	regs   kvmRegs
	cs, ss uint16
	op     x86asm.Op
}

// stepOrigin notes where a step starts.
func (e *Engine) stepOrigin() (stepOrigin, error) {
	var o stepOrigin
	if err := ioctlPtr(e.cpu, ioGetRegs, &o.regs); err != nil {
		return o, fmt.Errorf("read registers: %w", err)
	}
	s, err := e.sregs()
	if err != nil {
		return o, err
	}
	o.cs, o.ss = s.cs.selector, s.ss.selector
	mode := 64
	if s.cs.l == 0 {
		mode = 32
	}
	const longest = 15
	linear := o.regs.rip
	if mode == 32 {
		linear += s.cs.base
	}
	code, _, err := e.linearMemory(linear, int(min(longest, pageSize-linear%pageSize)))
	if err != nil || code == nil {
		return o, err
	}
	if inst, err := x86asm.Decode(code, mode); err == nil {
		o.op = inst.Op
	}
	return o, nil
}

// hideStep takes TF out of the copy of RFLAGS that the step from o may have made.
func (e *Engine) hideStep(o stepOrigin) error {
	if o.regs.rflags&flagTF != 0 {
		return nil // the guest's own
	}
	var now kvmRegs
	if err := ioctlPtr(e.cpu, ioGetRegs, &now); err != nil {
		return fmt.Errorf("read registers: %w", err)
	}
	frame, err := e.exceptionFrame(o, now.rsp)
	if err != nil {
		return err
	}
	if frame != 0 {
		return e.clearTF(frame)
	}
	switch o.op {
	case x86asm.PUSHF, x86asm.PUSHFD, x86asm.PUSHFQ:
		return e.clearTF(now.rsp)
	case x86asm.SYSCALL:
		now.r11 &^= flagTF
		if err := ioctlPtr(e.cpu, ioSetRegs, &now); err != nil {
			return fmt.Errorf("write registers: %w", err)
		}
	}
	return nil
}

// exceptionFrame is the address of the saved RFLAGS when the top of the stack is the frame of an exception or interrupt taken at o, and 0 otherwise. The frame
// is recognised by the code segment, stack pointer and stack segment in it, which must be those before the step: no other instruction pushes that.
func (e *Engine) exceptionFrame(o stepOrigin, rsp uint64) (uint64, error) {
	const maxFrame = 48
	stack, _, err := e.linearMemory(rsp, maxFrame)
	if err != nil || stack == nil {
		return 0, err
	}
	word := func(at int) uint64 { return binary.LittleEndian.Uint64(stack[at:]) }
	for _, at := range []int{0, 8} { // without and with an error code
		if word(at+8) == uint64(o.cs) && word(at+24) == o.regs.rsp && word(at+32) == uint64(o.ss) {
			return rsp + uint64(at) + 16, nil
		}
	}
	return 0, nil
}

// clearTF clears the trap flag in the image of RFLAGS at a linear address.
func (e *Engine) clearTF(linear uint64) error {
	image, gpa, err := e.linearMemory(linear, 2)
	if err != nil {
		return err
	}
	if image == nil {
		return fmt.Errorf("the flags that a single step saved at %#x cannot be found", linear)
	}
	flags := binary.LittleEndian.Uint16(image)
	if flags&flagTF != 0 {
		binary.LittleEndian.PutUint16(image, flags&^flagTF)
		e.MemoryWritten(gpa, 2)
	}
	return nil
}
