//go:build linux && amd64

package main

import (
	"github.com/detvm/detvm/guestagent"
	"golang.org/x/sys/unix"
)

// What an epoll event is about, in its Fd field. Values from eventOutput up are indices into agent.outputs.
const (
	eventControl int32 = iota
	eventSignal
	eventCUSE
	eventStatus
	eventStdin
	eventOutput
)

func (a *agent) watch(fd int, tag int32, events uint32) error {
	return unix.EpollCtl(a.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: tag})
}

// serve handles events until the command has ended and EXITED was sent. One event is handled at a time, so that each is
// decided with the state that the previous ones left.
func (a *agent) serve() error {
	a.stdin = noInput{}
	var event [1]unix.EpollEvent
	for !a.done {
		n, err := unix.EpollWait(a.epoll, event[:], -1)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return failure("agent", "wait for events", err)
		}
		if n == 1 {
			if err := a.handle(event[0].Fd, event[0].Events); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *agent) handle(tag int32, events uint32) error {
	switch tag {
	case eventControl:
		return a.control(events)
	case eventSignal:
		return a.reap()
	case eventStatus:
		return a.settle()
	case eventCUSE:
		return a.device.ready(events)
	case eventStdin:
		return a.stdin.ready(events)
	}
	o := a.outputs[tag-eventOutput]
	if o.tty && events&unix.EPOLLOUT != 0 {
		if err := a.stdin.ready(events); err != nil {
			return err
		}
		events &^= unix.EPOLLOUT
		if events == 0 {
			return nil
		}
	}
	done, err := o.ready(events)
	if done && err == nil {
		err = a.unwatch(o)
	}
	return err
}

func (a *agent) unwatch(o *output) error {
	if err := unix.EpollCtl(a.epoll, unix.EPOLL_CTL_DEL, o.from, nil); err != nil {
		return failure(o.name, "stop watching output", err)
	}
	if o.tty {
		a.stdin = noInput{} // it writes to the same descriptor
	}
	closeFD(o.from)
	o.from = -1
	return nil
}

// control reads the control port and does what the messages say.
func (a *agent) control(events uint32) error {
	if events&unix.EPOLLIN == 0 {
		return failure("control", "the machine closed the control port", nil)
	}
	var buf [4096]byte
	n, err := unix.Read(a.ports.control, buf[:])
	if err == unix.EINTR || err == unix.EAGAIN {
		return nil
	}
	if err != nil {
		return failure("control", "read the control port", err)
	}
	if _, err := a.decoder.Write(buf[:n]); err != nil {
		return err
	}
	for {
		m, ok, err := a.decoder.Next()
		if err != nil || !ok {
			return err
		}
		if err := a.obey(m); err != nil {
			return err
		}
	}
}

func (a *agent) obey(m guestagent.Message) error {
	switch m := m.(type) {
	case *guestagent.Start:
		if len(a.start.Argv) != 0 {
			return failure("control", "a second START", nil)
		}
		a.start = *m
		return a.run()
	case *guestagent.Stdin:
		b := make([]byte, m.N)
		if err := readFull(a.ports.stdin, b); err != nil {
			return failure("stdin", "read the stdin port", err)
		}
		return a.stdin.bytes(b, m.EOF)
	case *guestagent.Signal:
		a.signal(unix.Signal(m.Number))
	case *guestagent.Winsize:
		if a.start.Stdin == guestagent.StdinTTY && len(a.outputs) > 0 {
			setWinsize(a.outputs[0].from, m.Rows, m.Cols)
		}
	}
	return nil
}

// signal sends a signal to the command; with a terminal to the job in its foreground. A command that has just ended
// needs none.
func (a *agent) signal(s unix.Signal) {
	if a.pid <= 0 || a.dying {
		return
	}
	target := a.pid
	if a.start.Stdin == guestagent.StdinTTY && len(a.outputs) > 0 && a.outputs[0].from >= 0 {
		if group, err := unix.IoctlGetInt(a.outputs[0].from, unix.TIOCGPGRP); err == nil && group > 1 {
			target = -group
		}
	}
	_ = unix.Kill(target, s)
}

// reap collects the processes that ended: the command, and orphans, which PID 1 inherits.
func (a *agent) reap() error {
	var info [128]byte // struct signalfd_siginfo; several SIGCHLD merge into one
	_, _ = unix.Read(a.sig, info[:])
	for {
		var status unix.WaitStatus
		var usage unix.Rusage
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, &usage)
		switch {
		case err == unix.EINTR:
		case err == unix.ECHILD && a.dying:
			return a.finish()
		case err != nil || pid == 0:
			return nil
		case pid == a.pid && !a.dying:
			if err := a.commandEnded(status, &usage); err != nil {
				return err
			}
		}
	}
}

// commandEnded takes note of how the command ended and kills what it left behind, as the end of PID 1 would.
func (a *agent) commandEnded(status unix.WaitStatus, usage *unix.Rusage) error {
	if err := a.settle(); err != nil {
		return err
	}
	a.dying = true
	a.exited = guestagent.Exited{
		UserTime: uint64(usage.Utime.Nano()), SystemTime: uint64(usage.Stime.Nano()), MaxRSS: uint64(usage.Maxrss) << 10,
	}
	if status.Signaled() {
		a.exited.Signal = uint8(status.Signal())
	} else {
		a.exited.Code = uint8(status.ExitStatus())
	}
	_ = unix.Kill(-1, unix.SIGKILL) // ESRCH: nothing is left
	if a.device != nil {
		if err := a.device.ended(); err != nil {
			return err
		}
	}
	return a.stdin.ended()
}

// finish runs when no process is left: it carries the rest of the output, writes the disks and says EXITED.
func (a *agent) finish() error {
	for _, o := range a.outputs {
		if err := o.drain(); err != nil {
			return err
		}
	}
	for i := len(a.mounted) - 1; i >= 0; i-- {
		if err := unix.Unmount(a.mounted[i], 0); err != nil {
			return failure("unmount", "unmount the data disk at "+a.mounted[i], err)
		}
	}
	a.send(&a.exited)
	a.done = true
	return nil
}
