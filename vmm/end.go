package vmm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/detvm/detvm/vcpu"
)

// end ends the run for a reason that is not the guest's own. The first reason stands.
func (m *Machine) end(o Outcome, message string) {
	code := 1
	if o == OutcomeLimit || o == OutcomeTraceFull {
		code = ExitLimit
	}
	m.endWith(o, code, message)
}

// endWith ends the run with an exit code.
func (m *Machine) endWith(o Outcome, code int, message string) {
	if m.outcome != nil {
		return
	}
	m.outcome = &o
	m.result.Outcome, m.result.ExitCode, m.result.Message = o, code, message
}

// hostFailed ends the run because the host cannot do its part. In a replay that is no difference to the recorded run: nothing is known of the rest.
func (m *Machine) hostFailed(o Outcome, message string) {
	m.interrupted = m.interrupted || m.replaying
	m.end(o, message)
}

// guestExit is a write to the exit port.
func (m *Machine) guestExit(code uint32) {
	m.endWith(OutcomePoweredOff, int(code&0xff), "")
}

// guestReset is a reset by the keyboard controller: what a panicking kernel does at last.
func (m *Machine) guestReset() {
	if reason := m.serial.panicMessage(); reason != "" {
		m.end(OutcomePanicked, "the guest kernel panicked: "+reason)
		return
	}
	m.end(OutcomeReset, "the guest reset its machine")
}

// endIfDue ends a run that the host wants to end: because somebody asked, time is up, a limit is reached, or, in a replay, because the recorded run was
// ended here. It is called at one place of the run loop only, so that a replay leaves the machine in the recorded state.
func (m *Machine) endIfDue() {
	if m.replaying {
		if end, reason := m.replay.hostEnd(); end != nil && m.count >= end.Position {
			m.endWith(reason, hostCode(reason, end), "")
			return
		}
	}
	code, why, asked := m.outside.stopRequest()
	err := m.ctx.Err()
	l := &m.config.Limits
	switch {
	case asked && code == ExitLimit:
		m.endWith(OutcomeStalled, code, why)
	case asked:
		m.endWith(OutcomeStopped, code, why)
	case errors.Is(err, context.DeadlineExceeded):
		m.end(OutcomeLimit, fmt.Sprintf("the run took longer than --timeout %v", l.WallTime))
	case err != nil:
		m.end(OutcomeStopped, "the run was cancelled")
	case l.Exits > 0 && m.exits >= l.Exits:
		m.end(OutcomeLimit, fmt.Sprintf("the guest reached --max-exits %d", l.Exits))
		return
	case !m.replaying && m.now-m.result.BootTimeNS >= uint64(m.virtualTimeLimit()):
		m.end(OutcomeLimit, fmt.Sprintf("the guest reached the virtual time limit of %v: it may wait for something that never comes", l.VirtualTime))
		return
	default:
		return
	}
	m.interrupted = true
}

// virtualTimeLimit counts from the start of the command. A boot, which a snapshot may have done before, has at least the default.
func (m *Machine) virtualTimeLimit() time.Duration {
	if m.result.BootExits == 0 {
		return max(m.config.Limits.VirtualTime, defaultVirtualTime)
	}
	return m.config.Limits.VirtualTime
}

// serialLog keeps the end of what the guest's kernel wrote to the UART.
type serialLog struct {
	w    io.Writer
	tail []byte
}

const serialTail = 64 << 10

func (s *serialLog) write(p []byte) {
	if s.w != nil {
		_, _ = s.w.Write(p) // a broken terminal must not change the run
	}
	s.tail = append(s.tail, p...)
	if len(s.tail) > 2*serialTail {
		s.tail = append([]byte(nil), s.tail[len(s.tail)-serialTail:]...)
	}
}

// panicMessage is the kernel's reason for a panic, or "".
func (s *serialLog) panicMessage() string {
	const mark = "Kernel panic - not syncing: "
	i := bytes.LastIndex(s.tail, []byte(mark))
	if i < 0 {
		return ""
	}
	line, _, _ := bytes.Cut(s.tail[i+len(mark):], []byte("\n"))
	return string(bytes.Map(printable, bytes.TrimSpace(line)))
}

// printable keeps a hostile guest from sending escape sequences to the user's terminal.
func printable(r rune) rune {
	if r < ' ' || r == 0x7f {
		return '.'
	}
	return r
}

// stallWatch notices, on the host's clock, that the work clock stands still while the guest runs: a loop that makes no exit on the exits clock, say. It only
// reports and ends runs; it never changes what a guest computes.
type stallWatch struct {
	beats    atomic.Uint64 // moves whenever the work clock was seen to have moved
	waiting  atomic.Bool   // the machine waits for the outside; not a stall
	finished chan struct{}
	done     sync.WaitGroup
}

const (
	stallNotice = 10 * time.Second // after how long a stall is told to the user
	stallSample = time.Second
)

func watchStalls(m *Machine) *stallWatch {
	w := &stallWatch{finished: make(chan struct{})}
	w.done.Add(1)
	go func() {
		defer w.done.Done()
		w.watch(m)
	}()
	return w
}

func (w *stallWatch) watch(m *Machine) {
	ticker := time.NewTicker(stallSample)
	defer ticker.Stop()
	beats, since, told := w.beats.Load(), time.Now(), false
	for {
		select {
		case <-w.finished:
			return
		case <-ticker.C:
		}
		m.cpu.Kick() // so that a long Run comes back and the run loop sees how far it is
		if now := w.beats.Load(); now != beats || w.waiting.Load() {
			beats, since, told = now, time.Now(), false
			continue
		}
		still := time.Since(since)
		if still >= stallNotice && !told {
			m.config.Notice(stallReason(m.caps, still))
			told = true
		}
		if limit := m.config.Limits.Stall; limit > 0 && still >= limit {
			m.outside.stop(ExitLimit, stallReason(m.caps, still))
			return
		}
	}
}

func (w *stallWatch) stop() {
	close(w.finished)
	w.done.Wait()
}

// stallReason names the clock that stands still and what would not.
func stallReason(caps vcpu.Capabilities, still time.Duration) string {
	return fmt.Sprintf("the guest has run for %v without any progress on the work clock %q, so that no timer can reach it; %s",
		still.Round(time.Second), caps.Clock, stallAdvice[caps.Clock])
}

var stallAdvice = map[vcpu.Clock]string{
	vcpu.ClockExits:              "--cpu soft (clock instructions) counts every instruction, or use --clock kernel-instructions or branches where the host has it",
	vcpu.ClockKernelInstructions: "it loops in user mode, which this clock does not count: --cpu soft (clock instructions) does",
	vcpu.ClockBranches:           "--cpu soft (clock instructions) counts every instruction",
	vcpu.ClockInstructions:       "this is a bug in detvm",
}
