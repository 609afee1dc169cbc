package kvm

import (
	"fmt"
)

// counter counts the guest's progress in hardware or in the kernel and interrupts KVM_RUN when asked.
type counter interface {
	// read is the number of events since the counter was made. It never goes back.
	read() (uint64, error)
	// arm asks for an interruption of the running guest once n more events have happened (n > 0). The interruption may come up to
	// skid events late, never early. A new arm replaces the last one.
	arm(n uint64) error
	// disarm counts on without interruptions.
	disarm() error
	// suspend stops counting until the next arm or disarm.
	suspend() error
	// skid is how many events an interruption may be late.
	skid() uint64
	close() error
}

// outcome says why the guest stopped executing.
type outcome uint8

const (
	outcomeExit        outcome = iota // an exit to the machine
	outcomeInterrupted                // the host interrupted it: overflow of the counter or a kick
	outcomeStepped                    // one instruction was executed (asked for with step)
	outcomeReached                    // the counter stands exactly at the target
)

// executor runs the guest. The engine is one; tests have a simulated one.
type executor interface {
	// execute runs the guest until an exit or an interruption, or with step for one instruction at most.
	execute(step bool) (outcome, error)
}

// lander stops an executor exactly where a counter reaches a target: it lets the guest run freely until skid events before the target and
// steps the rest, one instruction at a time. The target is reached at the first instruction boundary at which the counter equals it.
type lander struct {
	counter counter
	armed   uint64 // the count at which the counter will interrupt; 0 when it will not
	running bool   // the counter counts
	now     uint64 // the position: the last value read plus base
	base    uint64 // position minus counter value, modulo 2^64
}

// lateError says that the guest was not stopped in time. The run cannot go on: its position is past the one asked for.
type lateError struct{ target, now, skid uint64 }

func (e *lateError) Error() string {
	return fmt.Sprintf("the work counter passed the stop at %d and stands at %d: the interruption came later than the %d events that this processor was assumed to need", e.target, e.now, e.skid)
}

// advance executes until the counter stands at target, an exit, or an interruption that is not the counter's. Without a target (NoStop) it
// only counts.
func (l *lander) advance(x executor, target uint64, bounded bool) (outcome, error) {
	for {
		if bounded && l.now >= target {
			if l.now > target {
				return 0, &lateError{target, l.now, l.counter.skid()}
			}
			return outcomeReached, nil
		}
		step, err := l.prepare(target, bounded)
		if err != nil {
			return 0, err
		}
		trigger := l.armed
		got, err := x.execute(step)
		if err != nil {
			return 0, err
		}
		if err := l.refresh(); err != nil {
			return 0, err
		}
		switch {
		case got == outcomeExit && bounded && l.now > target:
			return 0, &lateError{target, l.now, l.counter.skid()}
		case got == outcomeExit:
			return outcomeExit, nil
		case got == outcomeInterrupted && (trigger == 0 || l.now < trigger):
			return outcomeInterrupted, nil
		}
	}
}

// prepare arms the counter for the way to the target, or chooses a single step when the rest is within the skid.
func (l *lander) prepare(target uint64, bounded bool) (step bool, err error) {
	skid := l.counter.skid()
	if bounded && target-l.now > skid {
		want := target - skid
		if l.armed == want && l.running {
			return false, nil
		}
		if err := l.counter.arm(want - l.now); err != nil {
			return false, fmt.Errorf("arm the work counter: %w", err)
		}
		l.armed, l.running = want, true
		return false, nil
	}
	if l.armed != 0 || !l.running {
		if err := l.counter.disarm(); err != nil {
			return false, fmt.Errorf("disarm the work counter: %w", err)
		}
		l.armed, l.running = 0, true
	}
	return bounded, nil
}

// refresh reads the counter. A counter that went off stops counting and has to be armed or disarmed before the guest goes on.
func (l *lander) refresh() error {
	v, err := l.counter.read()
	if err != nil {
		return fmt.Errorf("read the work counter: %w", err)
	}
	l.now = v + l.base
	if l.armed != 0 && l.now >= l.armed {
		l.armed, l.running = 0, false
	}
	return nil
}

// set makes the position count, whatever the counter stands at.
func (l *lander) set(count uint64) error {
	if err := l.suspend(); err != nil {
		return err
	}
	v, err := l.counter.read()
	if err != nil {
		return fmt.Errorf("read the work counter: %w", err)
	}
	l.base, l.now = count-v, count
	return nil
}

// suspend stops the counter because another engine is about to run on its thread.
func (l *lander) suspend() error {
	l.armed, l.running = 0, false
	return l.counter.suspend()
}
