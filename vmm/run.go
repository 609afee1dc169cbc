package vmm

import (
	"errors"
	"fmt"
	"math"

	"github.com/detvm/detvm/guestagent"
	"github.com/detvm/detvm/trace"
	"github.com/detvm/detvm/vcpu"
)

// retryStep is after how many counts a pending interrupt is tried again when the guest could not take it. It is part of the machine model: changing it moves injections.
var retryStep = map[vcpu.Clock]uint64{
	vcpu.ClockInstructions:       256,
	vcpu.ClockBranches:           32,
	vcpu.ClockKernelInstructions: 512,
}

// loop runs the guest until m.outcome is set or something breaks. This is the only run loop: recording and replaying differ in m.log.
func (m *Machine) loop() error {
	var exit vcpu.Exit
	for m.outcome == nil {
		if err := m.cpu.Run(m.nextStop(), &exit); err != nil {
			return fmt.Errorf("run the processor: %w", err)
		}
		if count := m.cpu.Count(); count != m.count {
			m.count = count
			m.watch.beats.Add(1)
		}
		m.now = m.vt.at(m.count)
		inject, err := m.handle(&exit)
		if err != nil {
			return err
		}
		if m.atReady {
			if err := m.ready(); err != nil {
				return err
			}
		}
		if err := m.checkpointIfDue(exit.Reason); err != nil {
			return err
		}
		delivered, err := m.asynchronousInputs(exit.Reason)
		if err != nil {
			return err
		}
		m.endIfDue()
		if m.outcome == nil && (inject || delivered) {
			m.fireTimers()
			m.publishTime()
			if err := m.injectPending(); err != nil {
				return err
			}
		}
	}
	return nil
}

// nextStop is the position at which the machine has to look at the guest again without being asked.
func (m *Machine) nextStop() uint64 {
	if !m.caps.CanStop {
		return vcpu.NoStop
	}
	m.timerStop = vcpu.NoStop
	if ns, ok := m.deadline(); ok {
		m.timerStop = max(m.vt.position(ns), m.count)
	}
	return min(m.timerStop, m.retryStop, m.asyncStop, m.log.nextAsync())
}

// handle answers one exit and logs it. inject says that this is a position at which the machine may change what the guest sees: timers, the time page,
// interrupts. It depends on nothing but the guest and the work clock, so that kicks and other stops leave no mark.
func (m *Machine) handle(exit *vcpu.Exit) (inject bool, err error) {
	switch exit.Reason {
	case vcpu.ReasonIO, vcpu.ReasonMMIO, vcpu.ReasonRDMSR, vcpu.ReasonWRMSR:
		m.exits++
		return true, m.answer(exit)
	case vcpu.ReasonHalt:
		m.exits++
		return true, m.idle(exit)
	case vcpu.ReasonStop:
		return m.count >= min(m.timerStop, m.retryStop), nil
	case vcpu.ReasonKick:
		return false, nil
	case vcpu.ReasonShutdown:
		m.end(OutcomeTripleFault, "the guest triple-faulted: "+exit.Detail)
		return false, nil
	case vcpu.ReasonFailure:
		m.end(OutcomeEngineFailure, exit.Detail)
		return false, nil
	}
	return false, fmt.Errorf("engine returned an exit that the machine does not know: %v", exit.Reason)
}

// answer lets the bus or the MSR table answer and logs the exit, one event for each access of a string instruction.
func (m *Machine) answer(exit *vcpu.Exit) error {
	size := int(exit.Size)
	if size == 0 || size > 8 || len(exit.Data)%size != 0 {
		return fmt.Errorf("engine returned a %v exit of %d bytes in units of %d", exit.Reason, len(exit.Data), size)
	}
	for p := exit.Data; len(p) > 0; p = p[size:] {
		e := trace.Event{Kind: eventKinds[exit.Reason], PC: exit.PC, Addr: exit.Addr, Size: exit.Size, Write: exit.Write}
		var written uint64
		if exit.Write || exit.Reason == vcpu.ReasonWRMSR {
			written = littleEndian(p[:size])
		}
		switch exit.Reason {
		case vcpu.ReasonIO:
			e.Device = access(m.bus.ports, exit.Addr, p[:size], exit.Write)
		case vcpu.ReasonMMIO:
			e.Device = access(m.bus.mmio, exit.Addr, p[:size], exit.Write)
		case vcpu.ReasonRDMSR:
			exit.Fault = !m.readMSR(uint32(exit.Addr), p)
		case vcpu.ReasonWRMSR:
			e.Write = true
			exit.Fault = !m.writeMSR(uint32(exit.Addr), written)
		}
		e.Value = written
		if !e.Write {
			e.Value = littleEndian(p[:size])
		}
		e.Fault = exit.Fault
		if err := m.emit(&e); err != nil {
			return err
		}
	}
	return m.emitDeferred()
}

// emitDeferred logs what devices did while they handled an access, after the access itself.
func (m *Machine) emitDeferred() error {
	for i := range m.deferred {
		if err := m.emit(&m.deferred[i]); err != nil {
			return err
		}
	}
	m.deferred = m.deferred[:0]
	return nil
}

var eventKinds = map[vcpu.Reason]trace.Kind{
	vcpu.ReasonIO:    trace.KindIO,
	vcpu.ReasonMMIO:  trace.KindMMIO,
	vcpu.ReasonRDMSR: trace.KindRDMSR,
	vcpu.ReasonWRMSR: trace.KindWRMSR,
}

func littleEndian(p []byte) uint64 {
	var v uint64
	for i, b := range p {
		v |= uint64(b) << (8 * i)
	}
	return v
}

// idleRounds bounds how many timer deadlines that wake nobody (masked lines) one halt passes over.
const idleRounds = 1 << 20

// idle handles HLT: virtual time jumps to the next deadline, so that waiting costs nothing.
func (m *Machine) idle(exit *vcpu.Exit) error {
	e := trace.Event{Kind: trace.KindHalt, PC: exit.PC}
	m.fireTimers()
	if m.config.Terminal && !m.pic.Pending() && m.session.State() == guestagent.StateRunning {
		return m.idleAtTerminal(&e)
	}
	for rounds := 0; !m.pic.Pending() && rounds < idleRounds; rounds++ {
		ns, ok := m.deadline()
		if !ok {
			break
		}
		e.Value += m.vt.skipTo(m.count, ns)
		m.now = m.vt.at(m.count)
		m.fireTimers()
	}
	if err := m.emit(&e); err != nil {
		return err
	}
	if m.pic.Pending() {
		if !m.cpu.Interruptible() {
			m.end(OutcomeHalted, "the guest halted its processor with interrupts off")
		}
		return nil
	}
	return m.waitForInput()
}

// idleAtTerminal waits on the host's clock: at a terminal, time passes as on the user's wall until somebody types. How much passed is an input like what
// was typed.
func (m *Machine) idleAtTerminal(e *trace.Event) error {
	m.stamp(e)
	until, armed := m.deadline()
	if !armed {
		until = math.MaxUint64
	}
	err := m.log.input(e, func(e *trace.Event) error {
		m.watch.waiting.Store(true)
		defer m.watch.waiting.Store(false)
		e.Value = m.outside.idle(m.ctx, until-m.now, armed)
		return nil
	})
	if err := m.logError(err); err != nil || m.outcome != nil {
		return err
	}
	if e.Value > until-m.now { // only a trace can say so
		return m.logError(&Divergence{Index: m.replay.index - 1, Want: cloneEvent(e), Reason: "the recorded idle time passes over the timer that ends it"})
	}
	m.vt.skipTo(m.count, m.now+e.Value)
	m.now = m.vt.at(m.count)
	m.fireTimers()
	return nil
}

// waitForInput is called when the guest is idle and no timer will ever wake it: only something from outside can.
func (m *Machine) waitForInput() error {
	if m.log.nextAsync() != vcpu.NoStop || m.outside.pending() {
		return nil
	}
	if m.endIfDue(); m.outcome != nil {
		return nil
	}
	m.end(OutcomeDeadlock, "the guest waits forever: every process sleeps, no timer is armed and no input can arrive")
	return nil
}

// emit stamps an event with position, time and the running program, and logs it.
func (m *Machine) emit(e *trace.Event) error {
	if !m.logging {
		return nil
	}
	m.stamp(e)
	return m.logError(m.log.event(e))
}

// stamp says where and when an event happened and which program ran.
func (m *Machine) stamp(e *trace.Event) {
	e.Position, e.Time = m.count, m.now
	e.Task, e.PID = m.task.current(m.mem)
}

const traceFull = "the trace reached --max-trace-size"

// logError turns the ways in which a log ends a run into outcomes.
func (m *Machine) logError(err error) error {
	var d *Divergence
	var end *recordedEnd
	switch {
	case err == nil:
		return nil
	case errors.As(err, &end):
		m.endWith(end.reason, end.code, "")
		return nil
	case errors.As(err, &d):
		d.complete(m)
		m.divergence = d
		m.end(OutcomeDiverged, d.Error())
		return nil
	case errors.Is(err, errReplayEnd):
		m.end(OutcomeReplayStopped, "the replay reached the asked position")
		return nil
	case errors.Is(err, trace.ErrSizeLimit) && m.result.BootExits == 0: // where it stood then would depend on whether it booted or was restored
		return usagef("--max-trace-size leaves no room for the %d events of the boot: give it more", m.writer.Events())
	case errors.Is(err, trace.ErrSizeLimit):
		m.end(OutcomeTraceFull, traceFull)
		return nil
	}
	return fmt.Errorf("log an event: %w", err)
}

// injectPending delivers the interrupt that the PIC asks for, if the guest can take it, else arranges another try.
func (m *Machine) injectPending() error {
	m.retryStop = vcpu.NoStop
	if m.outcome != nil || !m.pic.Pending() {
		return nil
	}
	if !m.cpu.Interruptible() {
		if step, ok := retryStep[m.caps.Clock]; ok {
			m.retryStop = m.count + step
		}
		return nil
	}
	vector := m.pic.Acknowledge()
	if err := m.emit(&trace.Event{Kind: trace.KindInterrupt, Value: uint64(vector)}); err != nil || m.outcome != nil {
		return err
	}
	if err := m.cpu.Interrupt(vector); err != nil {
		return fmt.Errorf("inject interrupt %#x: %w", vector, err)
	}
	return nil
}
