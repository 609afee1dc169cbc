package kvm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/detvm/detvm/vcpu"
	"golang.org/x/arch/x86/x86asm"
	"golang.org/x/sys/unix"
)

// Run implements [vcpu.CPU]. On ClockExits stop is honoured only when it equals Count. A halted processor without an interrupt answers ReasonHalt again,
// without counting it.
func (e *Engine) Run(stop uint64, exit *vcpu.Exit) error {
	if e.closed {
		return ErrClosed
	}
	if stop < e.count {
		return fmt.Errorf("run to %d: the count already stands at %d", stop, e.count)
	}
	if err := e.bind(); err != nil {
		return err
	}
	if e.dead != nil {
		*exit = *e.dead
		return nil
	}
	e.applyFault()
	*exit = vcpu.Exit{}
	if e.stale {
		if err := e.refreshSlots(); err != nil {
			return err
		}
	}
	switch {
	case e.stashed:
		e.stashed = false
		return e.report(exit)
	case stop == e.count:
		return e.stopHere(exit)
	case e.halted && !e.queued:
		exit.Reason, exit.PC = vcpu.ReasonHalt, e.haltPC
		if e.takeKick() {
			exit.Reason = vcpu.ReasonKick
		}
		return nil
	}
	return e.runOn(stop, exit)
}

// stopHere answers a Run whose stop is where the guest already stands: only the pending instruction is completed.
func (e *Engine) stopHere(exit *vcpu.Exit) error {
	if err := e.completePending(); err != nil {
		return err
	}
	if e.stashed {
		e.stashed = false
		return e.report(exit)
	}
	exit.Reason, exit.PC = vcpu.ReasonStop, e.run.regs.rip
	return nil
}

// runOn enters the guest until there is something to report.
func (e *Engine) runOn(stop uint64, exit *vcpu.Exit) error {
	for {
		got, err := e.advance(stop)
		if err != nil {
			return err
		}
		switch got {
		case outcomeExit:
			return e.report(exit)
		case outcomeReached:
			exit.Reason, exit.PC = vcpu.ReasonStop, e.run.regs.rip
			return e.noteDelivery()
		case outcomeInterrupted:
			if e.takeKick() {
				exit.Reason, exit.PC = vcpu.ReasonKick, e.run.regs.rip
				return e.noteDelivery()
			}
		}
	}
}

// advance runs the guest up to stop where the clock can, and keeps the count.
func (e *Engine) advance(stop uint64) (outcome, error) {
	if e.lander == nil {
		return e.execute(false)
	}
	got, err := e.lander.advance(e, stop, stop != vcpu.NoStop)
	e.count = e.lander.now
	return got, err
}

// noteDelivery finds out whether an interrupt that was queued is still on its way after Run came back without an exit.
func (e *Engine) noteDelivery() error {
	if !e.wasQueued {
		return nil
	}
	events, err := e.events()
	if err != nil {
		return err
	}
	e.queued = events.intInjected != 0
	e.wasQueued = e.queued
	return nil
}

// execute implements executor: it enters the guest once.
func (e *Engine) execute(step bool) (outcome, error) {
	var before stepOrigin
	if step || e.debugging {
		// Again before every step: an instruction that loads RFLAGS has switched stepping off.
		if err := e.setSingleStep(step); err != nil {
			return 0, err
		}
	}
	if step {
		var err error
		if before, err = e.stepOrigin(); err != nil {
			return 0, err
		}
	}
	err := e.enter()
	switch {
	case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
		drainSignal(stopSignal)
		return outcomeInterrupted, nil
	case err != nil:
		return 0, fmt.Errorf("run the processor: %w", err)
	}
	switch e.run.exitReason {
	case exitDebug:
		if before.op == x86asm.HLT && e.run.regs.rip != before.regs.rip {
			e.run.exitReason = exitHalt // some KVMs report only the step
			return outcomeExit, nil
		}
		return outcomeStepped, e.hideStep(before)
	case exitRDMSR, exitWRMSR:
		if e.keepMSR() {
			return outcomeStepped, nil
		}
	case exitInternalError:
		done, err := e.emulate()
		if err != nil || done {
			return outcomeStepped, err
		}
	}
	return outcomeExit, nil
}

// keepMSR answers an access to an MSR that is plain processor state but that this host's KVM does not keep: the engine does. It reports false for other MSRs.
func (e *Engine) keepMSR() bool {
	m := e.run.msr()
	for _, msr := range stateMSRs {
		if msr.index != m.index || e.traits.keeps(msr.index) {
			continue
		}
		field := msr.field(&e.kept)
		if e.run.exitReason == exitWRMSR {
			*field = binary.LittleEndian.Uint64(m.data[:])
		} else {
			binary.LittleEndian.PutUint64(m.data[:], *field)
		}
		m.fault = 0
		return true
	}
	return false
}

// enter is one KVM_RUN with the bookkeeping around it.
func (e *Engine) enter() error {
	e.wasQueued = e.wasQueued || e.queued
	e.queued, e.fresh, e.shadow, e.ranOnce, e.pending = false, false, false, true, nil
	e.halted = false
	e.inside.Store(int32(e.tid))
	err := e.enterFunc(e.cpu)
	e.inside.Store(0)
	return err
}

// applyFault hands the machine's verdict on an RDMSR or WRMSR to KVM.
func (e *Engine) applyFault() {
	if p := e.pending; p != nil && p.Fault && (p.Reason == vcpu.ReasonRDMSR || p.Reason == vcpu.ReasonWRMSR) {
		e.run.msr().fault = 1
	}
}

// completePending lets KVM finish the instruction of the last exit without executing any other. Instructions that need several exits (string I/O,
// accesses wider than eight bytes) leave the next one stashed.
func (e *Engine) completePending() error {
	if e.pending == nil {
		return nil
	}
	e.applyFault()
	queued := e.queued
	atomic.OrUint32(&e.run.control, immediateExitWord)
	err := e.enter()
	e.guard.Lock()
	if !e.kicked.Load() {
		atomic.AndUint32(&e.run.control, ^uint32(immediateExitWord))
	}
	e.guard.Unlock()
	e.queued = queued
	switch {
	case errors.Is(err, unix.EINTR):
		return nil
	case err != nil:
		return fmt.Errorf("complete the last exit: %w", err)
	}
	e.stashed = true
	return nil
}

// report translates the exit in the run page.
func (e *Engine) report(exit *vcpu.Exit) error {
	r := e.run
	e.wasQueued = false
	exit.PC = r.regs.rip
	switch r.exitReason {
	case exitIO:
		io := r.io()
		n := uint64(io.size) * uint64(io.count)
		if io.offset > uint64(len(e.mapping)) || n > uint64(len(e.mapping))-io.offset {
			return fmt.Errorf("KVM reports port data outside its page: offset %d, %d bytes", io.offset, n)
		}
		exit.Reason, exit.Addr, exit.Write, exit.Size = vcpu.ReasonIO, uint64(io.port), io.direction == 1, io.size
		exit.Data = e.mapping[io.offset : io.offset+n : io.offset+n]
	case exitMMIO:
		m := r.mmio()
		if m.n > 8 {
			return fmt.Errorf("KVM reports an MMIO access of %d bytes", m.n)
		}
		exit.Reason, exit.Addr, exit.Write, exit.Size = vcpu.ReasonMMIO, m.gpa, m.write != 0, uint8(m.n)
		exit.Data = m.data[:m.n:m.n]
	case exitRDMSR, exitWRMSR:
		exit.Reason = vcpu.ReasonRDMSR
		if r.exitReason == exitWRMSR {
			exit.Reason = vcpu.ReasonWRMSR
		}
		m := r.msr()
		m.fault = 0
		exit.Addr, exit.Size, exit.Data = uint64(m.index), 8, m.data[:]
	case exitHalt:
		exit.Reason = vcpu.ReasonHalt
		e.halted, e.haltPC = true, exit.PC
	default:
		return e.reportEnd(exit)
	}
	if e.clock == vcpu.ClockExits {
		e.count++
	}
	e.pending = exit
	return e.finishWrite(exit)
}

// finishWrite keeps the convention of Exit.PC: writes are complete when they are reported. KVM's emulator has advanced RIP by then; its fast path for
// OUT has not on some hosts (hostTraits.outIsLazy), and is completed here. The data stays where it is.
func (e *Engine) finishWrite(exit *vcpu.Exit) error {
	if exit.Reason != vcpu.ReasonIO || !exit.Write || !e.traits.outIsLazy {
		return nil
	}
	if err := e.completePending(); err != nil {
		return err
	}
	if e.stashed {
		return errors.New("KVM exits twice for one OUT: this host's string output is not supported")
	}
	exit.PC = e.run.regs.rip
	return nil
}

// reportEnd translates an exit after which the processor cannot go on.
func (e *Engine) reportEnd(exit *vcpu.Exit) error {
	r := e.run
	exit.Reason = vcpu.ReasonFailure
	switch r.exitReason {
	case exitShutdown:
		exit.Reason = vcpu.ReasonShutdown
		exit.Detail = fmt.Sprintf("triple fault at %#x", exit.PC)
	case exitFailEntry:
		exit.Detail = fmt.Sprintf("the host's processor refused to enter the guest at %#x (hardware reason %#x)", exit.PC, r.failEntry().reason)
	case exitInternalError:
		exit.Detail = e.emulationDetail(exit.PC)
	default:
		exit.Detail = fmt.Sprintf("KVM exit %d at %#x, which detvm does not know", r.exitReason, exit.PC)
	}
	dead := *exit
	e.dead = &dead
	return nil
}

// Interruptible implements [vcpu.CPU].
func (e *Engine) Interruptible() bool {
	switch {
	case e.closed || e.dead != nil || e.queued || e.stashed:
		return false
	case e.fresh:
		return e.freshIF && !e.shadow
	case e.run.ifFlag == 0:
		return false
	case e.run.readyForInterrupt != 0:
		return true
	}
	// An instruction that is still to be completed ends the shadow that it runs in (STI; IN): the interrupt comes after it.
	if e.pending == nil {
		return false
	}
	events, err := e.events()
	return err == nil && events.intShadow != 0 && events.intInjected|events.excInjected|events.excPending|events.nmiInjected == 0
}

// Interrupt implements [vcpu.CPU].
func (e *Engine) Interrupt(vector uint8) error {
	if e.closed {
		return ErrClosed
	}
	// KVM would inject even with IF=0.
	if !e.Interruptible() {
		return errors.New("interrupt while the processor cannot take one")
	}
	v := uint32(vector)
	if err := ioctlPtr(e.cpu, ioInterrupt, &v); err != nil {
		return fmt.Errorf("inject interrupt %#x: %w", vector, err)
	}
	e.queued, e.halted = true, false
	return nil
}

func (e *Engine) setSingleStep(on bool) error {
	debug := kvmGuestDebug{}
	if on {
		debug.control = debugEnable | debugSingleStep
	}
	if err := ioctlPtr(e.cpu, ioSetGuestDebug, &debug); err != nil {
		return fmt.Errorf("set single-step: %w", err)
	}
	e.debugging = on
	return nil
}

func (e *Engine) events() (*kvmEvents, error) {
	var events kvmEvents
	if err := ioctlPtr(e.cpu, ioGetVCPUEvents, &events); err != nil {
		return nil, fmt.Errorf("read pending events: %w", err)
	}
	return &events, nil
}
