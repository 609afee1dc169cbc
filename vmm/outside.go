package vmm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
	"time"

	"github.com/detvm/detvm/trace"
)

// outside is everything that may reach the guest while it runs: standard input, signals, the size of a terminal. Other goroutines put things in;
// only the run loop takes them out, at positions that it chooses.
type outside struct {
	mu      sync.Mutex
	queue   []*trace.Event
	arrived chan struct{} // capacity 1: the queue is not empty
	stopped bool
	why     string
	code    int

	stdin    io.Reader
	fill     bool // answer with all that was asked for, so that the pace of the writer leaves no mark
	terminal bool // input comes unasked
	kick     func()
}

func newOutside(stdin io.Reader, fill, terminal bool) *outside {
	return &outside{arrived: make(chan struct{}, 1), stdin: stdin, fill: fill, terminal: terminal, kick: func() {}}
}

// put queues an input and wakes the run loop.
func (o *outside) put(e *trace.Event) {
	o.mu.Lock()
	o.queue = append(o.queue, e)
	kick := o.kick
	o.mu.Unlock()
	o.wake()
	kick()
}

// stop asks the run loop to end the run.
func (o *outside) stop(code int, why string) {
	o.mu.Lock()
	if !o.stopped {
		o.stopped, o.code, o.why = true, code, why
	}
	kick := o.kick
	o.mu.Unlock()
	o.wake()
	kick()
}

func (o *outside) wake() {
	select {
	case o.arrived <- struct{}{}:
	default:
	}
}

// attach makes inputs interrupt a running processor.
func (o *outside) attach(kick func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.kick = kick
}

func (o *outside) take() *trace.Event {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.queue) == 0 {
		return nil
	}
	e := o.queue[0]
	o.queue = o.queue[1:]
	return e
}

func (o *outside) pending() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.queue) > 0
}

func (o *outside) stopRequest() (code int, why string, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.code, o.why, o.stopped
}

// idle waits until something arrives, the run is to end, or limit nanoseconds have passed (if armed; else for ever), and returns how many nanoseconds that took.
func (o *outside) idle(ctx context.Context, limit uint64, armed bool) uint64 {
	var expired <-chan time.Time
	if armed {
		timer := time.NewTimer(time.Duration(min(limit, math.MaxInt64)))
		defer timer.Stop()
		expired = timer.C
	}
	began := time.Now()
	for !o.pending() {
		if _, _, stopped := o.stopRequest(); stopped {
			break
		}
		select {
		case <-o.arrived:
			continue
		case <-ctx.Done():
		case <-expired:
			return limit
		}
		break
	}
	elapsed := uint64(time.Since(began))
	if armed {
		return min(elapsed, limit)
	}
	return elapsed
}

// read answers the guest's demand for up to n bytes of standard input; an empty answer is the end. It waits as long as the input does, while the guest stands still.
func (o *outside) read(ctx context.Context, n int) ([]byte, error) {
	type answer struct {
		p   []byte
		err error
	}
	if o.stdin == nil {
		return nil, nil
	}
	done := make(chan answer, 1)
	go func() {
		p := make([]byte, n)
		var got int
		var err error
		if o.fill {
			got, err = io.ReadFull(o.stdin, p)
		} else {
			for got == 0 && err == nil {
				got, err = o.stdin.Read(p)
			}
		}
		done <- answer{p[:got], err}
	}()
	for {
		select {
		case a := <-done:
			if len(a.p) > 0 || errors.Is(a.err, io.EOF) {
				return a.p, nil
			}
			if a.err != nil {
				return nil, fmt.Errorf("read standard input: %w", a.err)
			}
			return a.p, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-o.arrived:
			if _, _, stopped := o.stopRequest(); stopped {
				return nil, errStopped
			}
			// A signal is queued; it is delivered when the read has been answered. Keep it noticed.
		}
	}
}

// errStopped says that the run was asked to end while it waited for input.
var errStopped = errors.New("stopped while waiting for input")

// pumpTerminal queues what is typed, as it comes, until the input ends.
func (o *outside) pumpTerminal() {
	p := make([]byte, 4096)
	for {
		n, err := o.stdin.Read(p)
		if n > 0 {
			o.put(&trace.Event{Kind: trace.KindStdin, Value: stdinUnasked, Data: append([]byte(nil), p[:n]...)})
		}
		if err != nil {
			o.put(&trace.Event{Kind: trace.KindStdin, Value: stdinUnasked})
			return
		}
	}
}
