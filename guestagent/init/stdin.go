//go:build linux && amd64

package main

import (
	"encoding/binary"

	"github.com/detvm/detvm/guestagent"
	"golang.org/x/sys/unix"
)

// input is the command's standard input, seen from the agent.
type input interface {
	// bytes takes input that the machine sent; eof says that it was the last.
	bytes(b []byte, eof bool) error
	// ready handles an event on a descriptor of the input's own.
	ready(events uint32) error
	// ended tells that the command has ended: whoever still reads must be let go.
	ended() error
}

// noInput is /dev/null's.
type noInput struct{}

func (noInput) bytes([]byte, bool) error { return nil }
func (noInput) ready(uint32) error       { return nil }
func (noInput) ended() error             { return nil }

// demandInput serves the stdin device, which exists whatever the command's standard input is: unless it is this, the
// device is at its end. Readers queue; the first one's request is passed on to the machine, one at a
// time. A poll counts as a reader: it is answered when there is something to read, which is at once, since the machine
// stands still while it fetches input. For the same reason a non-blocking read waits.
type demandInput struct {
	a      *agent
	server *cuseServer
	queue  []waiter
	buf    []byte // input that nobody has read
	eof    bool
	wanted bool // STDIN_WANTED is out
	over   bool // the command has ended
}

// waiter is an unanswered READ or POLL.
type waiter struct {
	unique uint64
	size   uint32 // 0 for a POLL
}

// pollWants is how many bytes a poll asks for: the size of a small read.
const pollWants = 4096

func (d *demandInput) bytes(b []byte, eof bool) error {
	d.wanted = false
	d.buf = append(d.buf, b...)
	d.eof = d.eof || eof
	return d.pump()
}

func (d *demandInput) ended() error {
	d.over = true
	return d.pump()
}

// ready takes one request from the device.
func (d *demandInput) ready(uint32) error {
	r, err := d.server.next()
	if err != nil {
		return failure("stdin", "read from the stdin device", err)
	}
	switch r.op {
	case fuseOpen:
		err = d.server.answer(r.unique, 0, fuseOpenPayload())
	case fuseRelease:
		err = d.server.answer(r.unique, 0, nil)
	case fuseRead, fusePoll:
		size, ok := uint32(0), true
		if r.op == fuseRead {
			size, ok = fuseReadSize(r.arg)
		}
		if !ok || r.op == fuseRead && size == 0 {
			err = d.server.answer(r.unique, 0, nil)
			break
		}
		d.queue = append(d.queue, waiter{r.unique, size})
		return d.pump()
	case fuseInterrupt:
		if len(r.arg) >= 8 {
			err = d.interrupt(binary.LittleEndian.Uint64(r.arg))
		}
	default: // IOCTL above all: this is not a terminal
		err = d.server.answer(r.unique, unix.ENOTTY, nil)
	}
	if err != nil {
		return failure("stdin", "answer the stdin device", err)
	}
	return nil
}

// interrupt lets go of the reader whose thread got a signal. What was asked of the machine for it will serve the next.
func (d *demandInput) interrupt(unique uint64) error {
	for i, w := range d.queue {
		if w.unique == unique {
			d.queue = append(d.queue[:i], d.queue[i+1:]...)
			return d.server.answer(unique, unix.EINTR, nil)
		}
	}
	return nil
}

// pump answers readers as far as there is input, then asks for more if one is left.
func (d *demandInput) pump() error {
	for len(d.queue) > 0 {
		w := d.queue[0]
		if !d.over && !d.eof && len(d.buf) == 0 {
			return d.want(w)
		}
		d.queue = d.queue[1:]
		if err := d.satisfy(w); err != nil {
			return failure("stdin", "answer the stdin device", err)
		}
	}
	return nil
}

func (d *demandInput) want(w waiter) error {
	if !d.wanted {
		n := w.size
		if n == 0 {
			n = pollWants
		}
		d.wanted = true
		d.a.send(&guestagent.StdinWanted{N: min(n, guestagent.MaxStdin)})
	}
	return nil
}

func (d *demandInput) satisfy(w waiter) error {
	if d.over {
		return d.server.answer(w.unique, unix.EINTR, nil)
	}
	if w.size == 0 {
		var out [8]byte // struct fuse_poll_out
		const pollRdNorm = 0x40
		binary.LittleEndian.PutUint32(out[:], unix.POLLIN|pollRdNorm)
		return d.server.answer(w.unique, 0, out[:])
	}
	n := min(int(w.size), len(d.buf), guestagent.MaxStdin)
	err := d.server.answer(w.unique, 0, d.buf[:n])
	d.buf = d.buf[n:]
	if len(d.buf) == 0 {
		d.buf = nil
	}
	return err
}

// queueInput feeds a descriptor, of a pipe or of a terminal's master side, as fast as it takes input.
type queueInput struct {
	a     *agent
	fd    int
	buf   []byte
	eof   bool
	tty   bool // input comes unasked and ends with the terminal's end-of-file character
	armed bool // EPOLLOUT is watched
}

// endOfFileKey is ^D, a terminal's default VEOF.
const endOfFileKey = 4

func (q *queueInput) bytes(b []byte, eof bool) error {
	q.buf = append(q.buf, b...)
	if eof && q.tty {
		q.buf = append(q.buf, endOfFileKey)
	}
	q.eof = q.eof || eof
	return q.ready(0)
}

func (q *queueInput) ended() error {
	if q.fd < 0 {
		return nil
	}
	err := q.arm(false)
	q.buf, q.fd = nil, -1
	return err
}

// ready writes what it can, then watches for room, asks for more, or closes the pipe.
func (q *queueInput) ready(uint32) error {
	if q.fd < 0 {
		return nil
	}
	for len(q.buf) > 0 {
		n, err := unix.Write(q.fd, q.buf)
		if err == unix.EINTR {
			continue
		}
		if err == unix.EAGAIN {
			return q.arm(true)
		}
		if err != nil { // nobody will read it: EPIPE, or EIO from a terminal without a user
			q.buf, q.eof = nil, true
			break
		}
		q.buf = q.buf[n:]
	}
	if q.tty {
		return q.arm(false)
	}
	if q.eof {
		if err := q.arm(false); err != nil {
			return err
		}
		closeFD(q.fd)
		q.fd = -1
		return nil
	}
	return q.ask()
}

// ask asks for the pipe's next load.
func (q *queueInput) ask() error {
	if err := q.arm(false); err != nil {
		return err
	}
	q.a.send(&guestagent.StdinWanted{N: guestagent.MaxStdin})
	return nil
}

// arm watches for room to write, or stops it. A terminal's descriptor is watched for output already.
func (q *queueInput) arm(on bool) error {
	if on == q.armed {
		return nil
	}
	q.armed = on
	ev := unix.EpollEvent{Events: unix.EPOLLOUT, Fd: eventStdin}
	op := unix.EPOLL_CTL_ADD
	switch {
	case q.tty:
		op, ev.Fd, ev.Events = unix.EPOLL_CTL_MOD, eventOutput, unix.EPOLLIN
		if on {
			ev.Events |= unix.EPOLLOUT
		}
	case !on:
		op = unix.EPOLL_CTL_DEL
	}
	if err := unix.EpollCtl(q.a.epoll, op, q.fd, &ev); err != nil {
		return failure("stdin", "watch standard input", err)
	}
	return nil
}
