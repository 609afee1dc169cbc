//go:build linux && amd64

package main

import (
	"encoding/binary"
	"testing"

	"github.com/detvm/detvm/guestagent"
	"golang.org/x/sys/unix"
)

// bench is an agent whose control port and stdin device are socket pairs: datagrams stand for the kernel's requests.
type bench struct {
	t       *testing.T
	kernel  int // our end of the device
	control int // our end of the control port
	dec     *guestagent.Decoder
	d       *demandInput
}

func newBench(t *testing.T) *bench {
	t.Helper()
	pair := func(kind int) [2]int {
		fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fds[0]); unix.Close(fds[1]) })
		return fds
	}
	dev, ctl := pair(unix.SOCK_SEQPACKET), pair(unix.SOCK_STREAM)
	a := &agent{ports: ports{control: ctl[0]}}
	return &bench{t, dev[1], ctl[1], guestagent.NewDecoder(guestagent.FromGuest), &demandInput{a: a, server: &cuseServer{fd: dev[0]}}}
}

// ask delivers a request to the agent.
func (b *bench) ask(op uint32, unique uint64, arg []byte) {
	b.t.Helper()
	if _, err := unix.Write(b.kernel, request(op, unique, arg)); err != nil {
		b.t.Fatal(err)
	}
	if err := b.d.ready(unix.EPOLLIN); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) read(unique uint64, size uint32) {
	b.t.Helper()
	arg := make([]byte, 40)
	binary.LittleEndian.PutUint32(arg[16:], size)
	b.ask(fuseRead, unique, arg)
}

// answered checks the next answer of the agent to the kernel.
func (b *bench) answered(unique uint64, errno unix.Errno, payload string) {
	b.t.Helper()
	buf := make([]byte, 1<<17)
	n, _, err := unix.Recvfrom(b.kernel, buf, unix.MSG_DONTWAIT)
	if err != nil {
		b.t.Fatalf("no answer to %d: %v", unique, err)
	}
	if want := appendFUSEReply(nil, unique, errno, []byte(payload)); string(buf[:n]) != string(want) {
		b.t.Errorf("answer %x, want %x", buf[:n], want)
	}
}

// wants checks that the agent asked the machine for n bytes, or with 0 for nothing.
func (b *bench) wants(n uint32) {
	b.t.Helper()
	buf := make([]byte, 4096)
	k, _, err := unix.Recvfrom(b.control, buf, unix.MSG_DONTWAIT)
	if err == nil {
		b.dec.Write(buf[:k])
	}
	m, ok, err := b.dec.Next()
	if err != nil || ok != (n != 0) {
		b.t.Fatalf("message %v (%v, %v), want STDIN_WANTED %d", m, ok, err, n)
	}
	if w, is := m.(*guestagent.StdinWanted); ok && (!is || w.N != n) {
		b.t.Errorf("message %+v, want STDIN_WANTED %d", m, n)
	}
}

func (b *bench) bytes(s string, eof bool) {
	b.t.Helper()
	if err := b.d.bytes([]byte(s), eof); err != nil {
		b.t.Fatal(err)
	}
}

func TestReadAsksForInputAndGetsIt(t *testing.T) {
	b := newBench(t)
	b.ask(fuseOpen, 1, make([]byte, 8))
	b.answered(1, 0, string(fuseOpenPayload()))
	b.wants(0)
	b.read(2, 100)
	b.wants(100)
	b.bytes("hello", false)
	b.answered(2, 0, "hello")
	b.read(3, 1<<20)
	b.wants(guestagent.MaxStdin)
	b.bytes("", true)
	b.answered(3, 0, "")
	b.read(4, 10) // after the end: at once
	b.answered(4, 0, "")
	b.wants(0)
}

func TestReadersQueueAndShareInput(t *testing.T) {
	b := newBench(t)
	b.read(1, 2)
	b.read(2, 2)
	b.wants(2)
	b.wants(0)
	b.bytes("abc", false)
	b.answered(1, 0, "ab")
	b.answered(2, 0, "c")
}

func TestInterruptedReaderLeavesItsInputToTheNext(t *testing.T) {
	b := newBench(t)
	b.read(1, 10)
	b.wants(10)
	b.ask(fuseInterrupt, 1|1<<63, binary.LittleEndian.AppendUint64(nil, 1))
	b.answered(1, unix.EINTR, "")
	b.read(3, 4)
	b.wants(0)
	b.bytes("0123456789", false)
	b.answered(3, 0, "0123")
	b.read(5, 10)
	b.answered(5, 0, "456789")
}

func TestPollWaitsForInput(t *testing.T) {
	b := newBench(t)
	b.ask(fusePoll, 1, make([]byte, 24))
	b.wants(pollWants)
	b.bytes("x", false)
	b.answered(1, 0, "\x41\x00\x00\x00\x00\x00\x00\x00")
	b.read(2, 5)
	b.answered(2, 0, "x")
}

func TestDeviceIsNoTerminal(t *testing.T) {
	b := newBench(t)
	b.ask(39, 1, make([]byte, 32)) // IOCTL
	b.answered(1, unix.ENOTTY, "")
	b.ask(fuseRelease, 2, make([]byte, 24))
	b.answered(2, 0, "")
}

func TestEndedCommandLetsReadersGo(t *testing.T) {
	b := newBench(t)
	b.read(1, 5)
	b.wants(5)
	if err := b.d.ended(); err != nil {
		t.Fatal(err)
	}
	b.answered(1, unix.EINTR, "")
	b.read(2, 5)
	b.answered(2, unix.EINTR, "")
}
