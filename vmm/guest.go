package vmm

import (
	"bytes"
	"context"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/detvm/detvm/guestagent"
	"github.com/detvm/detvm/trace"
	"github.com/detvm/detvm/vcpu"
)

// expandSeed turns the user's seed into what the guest's random pool is filled with.
func expandSeed(seed uint64) [guestagent.SeedSize]byte {
	return sha512.Sum512(append([]byte("detvm seed v1\x00"), binary.LittleEndian.AppendUint64(nil, seed)...))
}

// controlOutput takes bytes that the agent wrote to its control port.
func (m *Machine) controlOutput(p []byte) {
	messages, err := m.session.FromGuest(p)
	for _, msg := range messages {
		m.agentMessage(msg)
	}
	if err != nil {
		m.end(OutcomeAgentFailure, "the agent in the guest broke the protocol: "+err.Error())
	}
}

func (m *Machine) agentMessage(msg guestagent.Message) {
	switch msg := msg.(type) {
	case *guestagent.Ready:
		m.atReady = true
	case *guestagent.StdinWanted:
		m.stdinWanted = int(msg.N)
	case *guestagent.Exited:
		m.result.Signal = int(msg.Signal)
		m.endWith(OutcomeExited, msg.ExitCode(), "")
	case *guestagent.Failed:
		m.endWith(OutcomeExited, int(msg.ExitCode), msg.Message)
	}
}

// ready is the boundary between boot and run: the agent waits, and nothing so far depended on seed, time, image or command.
func (m *Machine) ready() error {
	m.atReady = false
	if !m.session.AtFrameBoundary() || m.outcome != nil {
		return nil
	}
	// A restored machine gets its processor state from SetState; do the same here, so that both go on from the same place.
	state, err := m.cpu.State()
	if err != nil {
		return fmt.Errorf("save the processor at the boot boundary: %w", err)
	}
	if err := m.cpu.SetState(state); err != nil {
		return fmt.Errorf("reload the processor at the boot boundary: %w", err)
	}
	if m.onReady != nil {
		if err := m.onReady(state); err != nil {
			return err
		}
	}
	return m.startCommand()
}

// startCommand gives the guest everything that makes this run different from others of the same machine.
func (m *Machine) startCommand() error {
	p, err := m.session.Start(m.start)
	if err != nil {
		return fmt.Errorf("start the command: %w", err)
	}
	m.rtc.SetWallClock(m.start.WallClock, m.now)
	m.rng.SetSeed(m.start.Seed[:])
	m.send(portControl, p)
	if err := m.emit(&trace.Event{Kind: trace.KindStart, Data: p}); err != nil {
		return err
	}
	m.result.BootExits = m.exits
	m.result.BootTimeNS = m.now
	return m.checkpoint()
}

// output takes what the guest wrote to stdout or stderr.
func (m *Machine) output(kind trace.Kind, p []byte) {
	sink := &m.stdout
	if kind == trace.KindStderr {
		sink = &m.stderr
	}
	sink.digest.Write(p)
	sink.size += uint64(len(p))
	if m.firstOutput == 0 {
		m.firstOutput = m.wall()
	}
	if sink.w != nil && sink.err == nil {
		if _, err := sink.w.Write(p); err != nil {
			sink.err = err
			m.hostFailed(OutcomeOutputFailure, "write the guest's output: "+err.Error())
		}
	}
	if m.logging {
		m.deferred = append(m.deferred, trace.Event{Kind: kind, Data: bytes.Clone(p)})
	}
}

// answerStdin answers the guest's demand for input. The guest stands still meanwhile.
func (m *Machine) answerStdin() error {
	n := m.stdinWanted
	m.stdinWanted = 0
	e := trace.Event{Kind: trace.KindStdin}
	m.stamp(&e)
	err := m.log.input(&e, func(e *trace.Event) (err error) {
		m.watch.waiting.Store(true)
		defer m.watch.waiting.Store(false)
		e.Data, err = m.outside.read(m.ctx, n)
		return err
	})
	switch {
	case errors.Is(err, errStopped) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded):
		return nil // endIfDue says why
	case err != nil:
		return m.logError(err)
	}
	if len(e.Data) > n {
		return fmt.Errorf("trace answers a read of %d bytes with %d", n, len(e.Data))
	}
	return m.sendStdin(e.Data)
}

// sendStdin passes input to the guest; none is the end of the input.
func (m *Machine) sendStdin(data []byte) error {
	p, err := m.session.Stdin(len(data), len(data) == 0)
	if err != nil {
		return fmt.Errorf("answer the guest's demand for input: %w", err)
	}
	m.send(portControl, p)
	m.send(portStdin, data)
	return nil
}

// asynchronousInputs delivers what came from outside by itself, where the position can be found again in a replay.
func (m *Machine) asynchronousInputs(reason vcpu.Reason) (delivered bool, err error) {
	if m.stdinWanted > 0 && m.outcome == nil {
		delivered = true
		if err := m.answerStdin(); err != nil {
			return delivered, err
		}
	}
	exact := reason != vcpu.ReasonKick || m.caps.Clock == vcpu.ClockInstructions || m.caps.Clock == vcpu.ClockBranches && m.caps.Engine == EngineSoft
	if !exact {
		if m.caps.CanStop && m.outside.pending() {
			m.asyncStop = m.count + 1
		}
		return delivered, nil
	}
	m.asyncStop = vcpu.NoStop
	for m.outcome == nil && m.session.State() == guestagent.StateRunning {
		e, err := m.log.async(m.count, m.outside.take)
		if e == nil || err != nil {
			return delivered, err
		}
		control, err := m.control(e)
		if err != nil && m.replaying {
			return delivered, m.logError(m.replay.refused())
		}
		if err != nil {
			continue // the command does not take it, so it is no input of the run
		}
		m.stamp(e)
		if err := m.log.event(e); errors.Is(err, trace.ErrSizeLimit) {
			m.end(OutcomeLimit, traceFull) // a replay does not see this input, and ends at this position like one that the host ended
			return delivered, nil
		} else if err := m.logError(err); err != nil || m.outcome != nil {
			return delivered, err
		}
		m.send(portControl, control)
		if e.Kind == trace.KindStdin {
			m.send(portStdin, e.Data)
		}
		delivered = true
	}
	if m.outcome == nil && m.replaying && m.replay.asyncDue(m.count) { // an input for a command that does not run
		return delivered, m.logError(m.replay.refused())
	}
	return delivered, nil
}

// control is what the agent is told of an input that arrived by itself. An error says that the command takes no such input.
func (m *Machine) control(e *trace.Event) ([]byte, error) {
	switch {
	case e.Kind == trace.KindSignal:
		return m.session.Signal(int(e.Value))
	case e.Kind == trace.KindWinsize:
		return m.session.Winsize(uint16(e.Value>>16), uint16(e.Value))
	case !m.config.Terminal: // such a command asks for its input
		return nil, errUnasked
	}
	return m.session.Stdin(len(e.Data), len(e.Data) == 0)
}

var errUnasked = errors.New("input that nobody asked for")
