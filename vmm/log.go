package vmm

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/detvm/detvm/trace"
	"github.com/detvm/detvm/vcpu"
)

// eventLog is the one thing that differs between a plain run, a recorded run and a replay. The run loop tells it every event in order and asks it
// for everything that comes from outside the machine.
type eventLog interface {
	// event takes what the machine did. A recorder writes it; a replayer compares it and returns a *Divergence.
	event(e *trace.Event) error
	// input obtains what the guest waits for now. live fills e from the outside world; a replayer fills it from the trace instead.
	input(e *trace.Event, live func(e *trace.Event) error) error
	// async returns the next input that arrives by itself at this position, or nil. live asks the outside world.
	async(position uint64, live func() *trace.Event) (*trace.Event, error)
	// nextAsync is the position of the next such input when it is known beforehand, else vcpu.NoStop.
	nextAsync() uint64
}

// liveLog is a run that nobody records.
type liveLog struct{}

func (liveLog) event(*trace.Event) error { return nil }
func (liveLog) input(e *trace.Event, live func(*trace.Event) error) error {
	return live(e)
}
func (liveLog) async(_ uint64, live func() *trace.Event) (*trace.Event, error) { return live(), nil }
func (liveLog) nextAsync() uint64                                              { return vcpu.NoStop }

// recorder writes everything to a trace.
type recorder struct{ w *trace.Writer }

func (r recorder) event(e *trace.Event) error { return r.w.Append(e) }

func (r recorder) input(e *trace.Event, live func(*trace.Event) error) error {
	if err := live(e); err != nil {
		return err
	}
	return r.w.Append(e)
}

// async only passes the input on: the run loop logs it through event, once it is stamped with its position.
func (r recorder) async(_ uint64, live func() *trace.Event) (*trace.Event, error) { return live(), nil }

func (recorder) nextAsync() uint64 { return vcpu.NoStop }

// errReplayEnd ends a partial replay.
var errReplayEnd = errors.New("replay: the asked position is reached")

// asyncKinds are the inputs that arrive by themselves.
func isAsync(e *trace.Event) bool {
	return e.Kind == trace.KindSignal || e.Kind == trace.KindWinsize || e.Kind == trace.KindStdin && e.Value&stdinUnasked != 0
}

// stdinUnasked marks a stdin event that the guest did not ask for (a terminal), in Event.Value.
const stdinUnasked = 1

// replayer feeds the inputs of a trace and compares everything else with it.
type replayer struct {
	events   *trace.Iterator
	next     *trace.Event // the event that has to come now
	have     bool         // next is valid
	stopped  bool         // until was true
	index    uint64       // of next
	until    func(index uint64, e *trace.Event) bool
	progress func(index uint64)
	status   *trace.Status // as the trace says; nil when it was cut off
	disks    bool          // the run had disks: their blocks may not have fitted
}

// wrongStatus says what is wrong with the trace's status after a run that ended like this, or "".
func (r *replayer) wrongStatus(o Outcome) string {
	if r.status == nil {
		return ""
	}
	ok := false
	switch *r.status {
	case trace.StatusComplete:
		ok = o != OutcomeStopped && o != OutcomeTraceFull
	case trace.StatusAborted:
		ok = o == OutcomeStopped
	case trace.StatusSizeLimit:
		ok = o == OutcomeTraceFull || o == OutcomeLimit || r.disks
	}
	if ok {
		return ""
	}
	return fmt.Sprintf("the trace has the status %v, but its run ended with %s", *r.status, o)
}

// newReplayer starts at the first event. A trace that does not end with an end event (cut off, or full) stops the replay after its last one.
func newReplayer(t *trace.Reader, until func(uint64, *trace.Event) bool, progress func(uint64)) (*replayer, error) {
	n := t.NumEvents()
	if n == 0 {
		return nil, errors.New("the trace was cut off before its first event")
	}
	footer, whole := t.Footer()
	last, err := t.Event(n - 1)
	if err != nil {
		return nil, fmt.Errorf("read the last event of the trace: %w", err)
	}
	if last.Kind != trace.KindEnd && whole {
		return nil, errors.New("the trace is closed but does not say how the run ended")
	}
	if last.Kind != trace.KindEnd {
		asked := until
		until = func(i uint64, e *trace.Event) bool { return i == n-1 || asked != nil && asked(i, e) }
	}
	r := &replayer{events: t.Events(0), until: until, progress: progress, disks: len(t.Header().Inputs) > 2}
	if whole {
		r.status = &footer.Status
	}
	return r, r.advance()
}

// hostEnd is the recorded end of the run, if it comes next and was not the guest's doing: a replay has to end the machine there.
func (r *replayer) hostEnd() (end *trace.Event, reason Outcome) {
	if !r.have || r.next.Kind != trace.KindEnd {
		return nil, ""
	}
	if reason = endReason(r.next); !hostOutcomes[reason] {
		return nil, ""
	}
	return r.next, reason
}

// hostCode is the exit code of a run that its host ended: of the one who stopped it, else that of the reason.
func hostCode(reason Outcome, end *trace.Event) int {
	switch reason {
	case OutcomeStopped:
		return int(end.Value)
	case OutcomeLimit, OutcomeStalled, OutcomeTraceFull:
		return ExitLimit
	}
	return 1
}

// fullAt is the recorded end of the run, if e is the event for which the trace had no more room.
func (r *replayer) fullAt(e *trace.Event) *trace.Event {
	if r.have && r.next.Kind == trace.KindEnd && e.Kind != trace.KindEnd && e.Position == r.next.Position && e.Time == r.next.Time && endReason(r.next) == OutcomeTraceFull {
		return r.next
	}
	return nil
}

// endReason is how the run of an end event ended, or "".
func endReason(e *trace.Event) Outcome {
	var end trace.End
	if err := end.UnmarshalBinary(e.Data); err != nil {
		return ""
	}
	return Outcome(end.Reason)
}

// advance loads the next event of the trace.
func (r *replayer) advance() error {
	if r.have {
		r.index++
		if r.progress != nil && r.index%4096 == 0 {
			r.progress(r.index)
		}
	}
	if r.have = r.events.Next(); r.have {
		r.next = r.events.Event()
	}
	if err := r.events.Err(); !r.have && err != nil {
		return fmt.Errorf("read event %d of the trace: %w", r.index, err)
	}
	return nil
}

// expect compares an event with the trace and steps over it.
func (r *replayer) expect(e *trace.Event) error {
	if r.stopped { // what the last exit still has to log comes after the end
		return errReplayEnd
	}
	if end, reason := r.hostEnd(); end != nil && e.Kind != trace.KindEnd && e.Position > end.Position {
		return &recordedEnd{reason, hostCode(reason, end)} // the run was stopped before this event
	}
	if end := r.fullAt(e); end != nil {
		return &recordedEnd{OutcomeTraceFull, hostCode(OutcomeTraceFull, end)}
	}
	if !r.have {
		return &Divergence{Index: r.index, Got: cloneEvent(e), Reason: "the trace ends here, but the replay goes on"}
	}
	if r.next.Withheld {
		return fmt.Errorf("event %d of the trace is redacted: without its payload the run cannot be repeated or compared any further; replay the whole trace", r.index)
	}
	if reason := Differs(r.next, e); reason != "" {
		want := cloneEvent(r.next)
		return &Divergence{Index: r.index, Want: want, Got: cloneEvent(e), Reason: reason}
	}
	stop := r.until != nil && r.until(r.index, r.next)
	if err := r.advance(); err != nil {
		return err
	}
	if stop {
		r.stopped = true
		return errReplayEnd
	}
	return nil
}

func (r *replayer) event(e *trace.Event) error { return r.expect(e) }

// recordedEnd says that the recorded run was ended by its host here.
type recordedEnd struct {
	reason Outcome
	code   int
}

func (e *recordedEnd) Error() string { return "the recorded run ended here: " + string(e.reason) }

func (r *replayer) input(e *trace.Event, _ func(*trace.Event) error) error {
	if end, reason := r.hostEnd(); end != nil && e.Position >= end.Position {
		return &recordedEnd{reason, hostCode(reason, end)} // the run was stopped while it waited
	}
	if r.have && r.next.Kind == e.Kind && !isAsync(r.next) {
		fillInput(e, r.next)
	}
	return r.expect(e)
}

// asyncDue reports whether the next event is an input that arrived by itself at this position or before.
func (r *replayer) asyncDue(position uint64) bool {
	return r.have && isAsync(r.next) && r.next.Position <= position
}

func (r *replayer) async(position uint64, _ func() *trace.Event) (*trace.Event, error) {
	if !r.asyncDue(position) {
		return nil, nil
	}
	if r.next.Withheld {
		return nil, r.expect(r.next)
	}
	e := &trace.Event{Kind: r.next.Kind}
	fillInput(e, r.next)
	return e, nil
}

// maxIdle bounds one idle period, in nanoseconds, against hostile traces.
const maxIdle = 1 << 60

// fillInput takes from a recorded input what an input of its kind can say, and nothing else: comparing the two then shows whatever else the
// recorded one holds.
func fillInput(e, recorded *trace.Event) {
	switch e.Kind {
	case trace.KindStdin:
		e.Value, e.Data = recorded.Value&stdinUnasked, bytes.Clone(recorded.Data)
	case trace.KindSignal:
		e.Value = recorded.Value & 0x7f
	case trace.KindWinsize:
		e.Value = recorded.Value & 0xffffffff
	case trace.KindHalt:
		e.Value = min(recorded.Value, maxIdle)
	}
}

// refused says that the next event is an input that the machine does not take here.
func (r *replayer) refused() *Divergence {
	return &Divergence{Index: r.index, Want: cloneEvent(r.next), Reason: "the machine takes no such input here"}
}

func (r *replayer) nextAsync() uint64 {
	if end, _ := r.hostEnd(); end != nil || r.have && isAsync(r.next) {
		return r.next.Position
	}
	return vcpu.NoStop
}

// done checks that a finished replay used the whole trace, and that the trace's status is right for a run that ended like this.
func (r *replayer) done(o Outcome) *Divergence {
	if r.have {
		return &Divergence{Index: r.index, Want: cloneEvent(r.next), Reason: "the replay ended, but the trace goes on"}
	}
	if reason := r.wrongStatus(o); reason != "" {
		return &Divergence{Index: r.index, Reason: reason}
	}
	return nil
}
