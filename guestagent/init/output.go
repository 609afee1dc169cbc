//go:build linux && amd64

package main

import (
	"golang.org/x/sys/unix"
)

// output carries what the command writes to one port.
type output struct {
	name string
	from int // read end of the command's pipe, or the terminal's master; -1 when it is at its end
	port int
	tty  bool
	copy bool // splice does not work here
	buf  []byte
}

// outputChunk is what is moved at a time: a pipe's capacity. The console driver puts up to that many pages into one
// descriptor chain.
const outputChunk = 64 << 10

// move moves what is there to the port, at most one chunk. It returns the number of bytes, 0 at the end.
func (o *output) move() (int, error) {
	for {
		n, err := o.moveOnce()
		if err == unix.EINTR {
			continue
		}
		if err == unix.EIO && o.tty { // nobody has the terminal open any more
			return 0, nil
		}
		if err != nil && err != unix.EAGAIN {
			return 0, failure(o.name, "carry the command's output", err)
		}
		return n, err
	}
}

func (o *output) moveOnce() (int, error) {
	if !o.tty && !o.copy {
		// The driver takes over the pipe's pages: no copy is made.
		n, err := unix.Splice(o.from, nil, o.port, nil, outputChunk, unix.SPLICE_F_MOVE)
		if err != unix.EINVAL {
			return int(n), err
		}
		o.copy = true
	}
	if o.buf == nil {
		o.buf = make([]byte, outputChunk)
	}
	n, err := unix.Read(o.from, o.buf)
	if err != nil || n == 0 {
		return 0, err
	}
	return n, writeAll(o.port, o.buf[:n])
}

// ready handles an event on the output's descriptor. done says that there will be no more.
func (o *output) ready(events uint32) (done bool, err error) {
	if events&unix.EPOLLIN == 0 {
		return events&(unix.EPOLLHUP|unix.EPOLLERR) != 0, nil
	}
	n, err := o.move()
	if err == unix.EAGAIN {
		return false, nil
	}
	if err == nil && n == 0 && !o.tty {
		return true, o.lost()
	}
	return n == 0, err
}

// drain moves all that is left once nobody can write any more.
func (o *output) drain() error {
	for o.from >= 0 {
		if !o.tty {
			if left, err := unix.IoctlGetInt(o.from, unix.TIOCINQ); err != nil || left == 0 {
				return err
			}
		}
		n, err := o.move()
		if err == unix.EAGAIN || err == nil && n == 0 && o.tty {
			return nil
		}
		if err == nil && n == 0 {
			err = o.lost()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// lost is the error for bytes that were there and did not arrive. The kernel's splice reports what did not fit into the
// port's queue as nothing moved, and drops it.
func (o *output) lost() error {
	return failure(o.name, "the console lost output of the command", nil)
}
