package virtio

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// terminal is a console with the ports of the machine model and a driver for it.
type terminal struct {
	*driver
	console *Console
	out     [5]bytes.Buffer
	drained [5]int
}

func (c *terminal) ports() []ConsolePort {
	names := []string{"", "detvm.control", "detvm.stdin", "detvm.stdout", "detvm.stderr"}
	var ports []ConsolePort
	for i, name := range names {
		ports = append(ports, ConsolePort{
			Name: name, Console: i == 0, InputLimit: 1000,
			OnOutput:  func(p []byte) { c.out[i].Write(p) },
			OnDrained: func() { c.drained[i]++ },
		})
	}
	return ports
}

func newTerminal(t testing.TB) *terminal {
	c := &terminal{}
	c.console = NewConsole(c.ports())
	c.driver = newDriver(t, c.console).start(0)
	return c
}

func message(port uint32, event, value uint16) []byte {
	p := le.AppendUint32(nil, port)
	p = le.AppendUint16(p, event)
	return le.AppendUint16(p, value)
}

func (c *terminal) say(port uint32, event, value uint16) {
	c.call(queueControlOut, send(message(port, event, value)))
}

// offerControl gives the device buffers for control messages.
func (c *terminal) offerControl(n int) {
	for range n {
		c.add(queueControlIn, receive(64))
	}
	c.kick(queueControlIn)
}

// hear returns the control messages that came, as text.
func (c *terminal) hear() []string {
	var got []string
	for _, u := range c.collect(queueControlIn) {
		p := u.data[:u.length]
		got = append(got, strings.TrimSpace(fmt.Sprintf("%d/%d/%d %s", le.Uint32(p), le.Uint16(p[4:]), le.Uint16(p[6:]), p[8:])))
	}
	return got
}

// open brings a port up and opens it in the guest.
func (c *terminal) open(ports ...uint32) {
	c.offerControl(12)
	c.say(0xffffffff, ctlDeviceReady, 1)
	for _, port := range ports {
		c.say(port, ctlPortReady, 1)
		c.say(port, ctlPortOpen, 1)
	}
	c.hear()
}

func TestConsoleConfiguration(t *testing.T) {
	c := newTerminal(t)
	if c.get(regDeviceID) != 3 || c.get(regConfig+4) != 5 || len(c.tr.queue) != 12 {
		t.Errorf("device %d, %d ports, %d queues", c.get(regDeviceID), c.get(regConfig+4), len(c.tr.queue))
	}
	for port, want := range []int{0, 4, 6, 8, 10} {
		if inQueue(port) != want {
			t.Errorf("port %d has queue %d, want %d", port, inQueue(port), want)
		}
	}
}

// TestConsoleHandshake is the whole control protocol as Linux speaks it.
func TestConsoleHandshake(t *testing.T) {
	c := newTerminal(t)
	c.offerControl(3)
	c.say(0xffffffff, ctlDeviceReady, 1)
	if got, want := c.hear(), []string{"0/1/1", "1/1/1", "2/1/1"}; !slices.Equal(got, want) {
		t.Fatalf("heard %q, want %q", got, want)
	}
	restored := &terminal{} // with messages waiting
	restored.console = NewConsole(restored.ports())
	restored.driver = c.checkRestore(restored.console)
	c = restored
	c.offerControl(10) // what waited comes now
	if got, want := c.hear(), []string{"3/1/1", "4/1/1"}; !slices.Equal(got, want) {
		t.Fatalf("heard %q, want %q", got, want)
	}
	c.say(1, ctlPortReady, 1)
	if got, want := c.hear(), []string{"1/7/1 detvm.control", "1/6/1"}; !slices.Equal(got, want) {
		t.Errorf("heard %q, want %q", got, want)
	}
	c.say(0, ctlPortReady, 1)
	if got, want := c.hear(), []string{"0/4/1", "0/5/0 \x00\x00\x00\x00", "0/6/1"}; !slices.Equal(got, want) {
		t.Errorf("heard %q, want %q", got, want)
	}
	c.say(1, ctlPortReady, 1) // again
	c.say(9, ctlPortReady, 1) // no such port
	c.say(1, 99, 1)           // no such event
	c.say(2, ctlPortReady, 0) // the driver failed
	if got := c.hear(); got != nil {
		t.Errorf("heard %q", got)
	}
	if c.console.Open(1) {
		t.Error("a port is open before the guest opened it")
	}
	c.say(1, ctlPortOpen, 1)
	if !c.console.Open(1) {
		t.Error("the guest's open does not show")
	}
	c.say(1, ctlPortOpen, 0)
	if c.console.Open(1) || c.broken() {
		t.Error("the guest's close does not show")
	}
}

func TestConsoleOutput(t *testing.T) {
	c := newTerminal(t)
	c.open(3, 4)
	c.call(inQueue(3)+1, send([]byte("to ")), send([]byte("stdout")))
	c.call(inQueue(4)+1, send([]byte("to stderr")))
	if c.out[3].String() != "to stdout" || c.out[4].String() != "to stderr" {
		t.Errorf("output %q %q", &c.out[3], &c.out[4])
	}
}

func TestConsoleInput(t *testing.T) {
	c := newTerminal(t)
	if n := c.console.Send(2, []byte("hello world")); n != 11 || c.console.Pending(2) != 11 {
		t.Fatalf("accepted %d, pending %d", n, c.console.Pending(2))
	}
	q := inQueue(2)
	c.add(q, receive(4))
	c.kick(q)
	if len(c.collect(q)) != 0 {
		t.Fatal("input reaches a port that is not open: Linux would drop it")
	}
	c.open(2)
	if got := c.collect(q); len(got) != 1 || string(got[0].data) != "hell" || c.console.Pending(2) != 7 {
		t.Fatalf("input %v, pending %d", got, c.console.Pending(2))
	}
	c.add(q, receive(3), receive(1))
	c.add(q, receive(100))
	c.kick(q)
	got := c.collect(q)
	if len(got) != 2 || string(got[0].data) != "o wo" || string(got[1].data[:got[1].length]) != "rld" {
		t.Fatalf("input %v", got)
	}
	if c.drained[2] != 1 || c.console.Pending(2) != 0 {
		t.Error("the end of the input is not told")
	}
	c.add(q, receive(8))
	c.ack()
	c.console.Send(2, []byte("now")) // a buffer waits
	if got := c.collect(q); len(got) != 1 || string(got[0].data[:3]) != "now" || !c.level {
		t.Errorf("input %v, interrupt %v", got, c.level)
	}
}

func TestConsoleRefusesMalformedWaitingMessages(t *testing.T) {
	for _, control := range [][]byte{{8}, {7, 0, 0, 0, 0, 0, 0, 0}, {9, 0, 0, 0, 0, 0, 0, 0, 0}} {
		state := append([]byte{0, 0, 0, 0, byte(len(control)), 0, 0, 0}, control...)
		if NewConsole(nil).DecodeState(state) == nil {
			t.Errorf("waiting messages %x are accepted", control)
		}
	}
}

func TestConsoleInputIsBounded(t *testing.T) {
	c := newTerminal(t)
	if n := c.console.Send(1, make([]byte, 600)); n != 600 {
		t.Errorf("accepted %d", n)
	}
	if n := c.console.Send(1, make([]byte, 600)); n != 400 || c.console.Pending(1) != 1000 {
		t.Errorf("accepted %d, pending %d", n, c.console.Pending(1))
	}
	if c.console.Send(5, []byte("x")) != 0 || c.console.Send(-1, []byte("x")) != 0 {
		t.Error("ports that do not exist accept input")
	}
}

func TestConsoleCloseComesAfterTheInput(t *testing.T) {
	c := newTerminal(t)
	c.open(2)
	q := inQueue(2)
	c.console.Send(2, []byte("last"))
	c.console.Close(2)
	if c.console.Send(2, []byte("more")) != 0 {
		t.Error("a closing port accepts input")
	}
	if got := c.hear(); got != nil {
		t.Errorf("heard %q before the input was taken", got)
	}
	c.add(q, receive(8))
	c.kick(q)
	if got := c.hear(); !slices.Equal(got, []string{"2/6/0"}) || len(c.collect(q)) != 1 {
		t.Errorf("heard %q", got)
	}
	c.console.Close(2)
	if got := c.hear(); got != nil {
		t.Errorf("heard %q after a second close", got)
	}
}

func TestConsoleCloseBeforeThePortIsUp(t *testing.T) {
	c := newTerminal(t)
	c.console.Close(2)
	c.offerControl(12)
	c.say(0xffffffff, ctlDeviceReady, 1)
	c.hear()
	c.say(2, ctlPortReady, 1)
	if got, want := c.hear(), []string{"2/7/1 detvm.stdin", "2/6/1", "2/6/0"}; !slices.Equal(got, want) {
		t.Errorf("heard %q, want %q", got, want)
	}
}

// TestConsoleAnswersFromWithinOutput: the machine reacts to a message by sending, while the message's buffer is being read.
func TestConsoleAnswersFromWithinOutput(t *testing.T) {
	var console *Console
	var heard string
	console = NewConsole([]ConsolePort{{}, {Name: "control", OnOutput: func(p []byte) {
		heard += string(p)
		console.Send(1, []byte("re: "+string(p)))
	}}})
	c := &terminal{console: console, driver: newDriver(t, console).start(0)}
	c.open(1)
	q := inQueue(1)
	for range 4 {
		c.add(q, receive(16))
	}
	c.call(q+1, send([]byte("ready")), send([]byte("steady")))
	got := c.collect(q)
	if heard != "readysteady" || len(got) != 2 || string(got[0].data[:got[0].length]) != "re: ready" || string(got[1].data[:got[1].length]) != "re: steady" {
		t.Errorf("heard %q, answers %v", heard, got)
	}
}

func TestConsoleResize(t *testing.T) {
	c := newTerminal(t)
	c.console.Resize(80, 25)
	c.open(0)
	c.ack()
	c.console.Resize(132, 43)
	c.console.Resize(132, 43)
	if got, want := c.hear(), []string{"0/5/0 \x84\x00\x2b\x00"}; !slices.Equal(got, want) {
		t.Errorf("heard %q, want %q", got, want)
	}
	if c.get(regConfig) != 43<<16|132 || c.ack()&intConfigChange == 0 {
		t.Error("the configuration space does not follow")
	}
}

func TestConsoleWithoutMultiport(t *testing.T) {
	c := &terminal{}
	c.console = NewConsole(c.ports())
	c.driver = newDriver(t, c.console).start(consoleFeatureMultiport)
	c.add(0, receive(8))
	c.console.Send(0, []byte("in"))
	if got := c.collect(0); len(got) != 1 || string(got[0].data[:2]) != "in" {
		t.Errorf("input %v", got)
	}
	c.call(1, send([]byte("out")))
	if c.out[0].String() != "out" {
		t.Errorf("output %q", &c.out[0])
	}
}

func TestConsoleBreaksOnHostileControl(t *testing.T) {
	for name, do := range map[string]func(*terminal){
		"short message": func(c *terminal) { c.add(queueControlOut, send([]byte{1, 2, 3})); c.kick(queueControlOut) },
		"no room for a message": func(c *terminal) {
			c.add(queueControlIn, receive(4))
			c.add(queueControlOut, send(message(0, ctlDeviceReady, 1)))
			c.kick(queueControlOut)
		},
		"readies without end": func(c *terminal) {
			for range 1000 {
				c.add(queueControlOut, send(message(0, ctlDeviceReady, 1)))
				c.kick(queueControlOut)
				c.collect(queueControlOut)
				if c.broken() {
					return
				}
			}
		},
		"an input buffer that is not writable": func(c *terminal) {
			c.open(1)
			c.add(inQueue(1), send([]byte("x")))
			c.console.Send(1, []byte("y"))
		},
	} {
		c := newTerminal(t)
		do(c)
		if !c.broken() {
			t.Errorf("%s: status %#x", name, c.get(regStatus))
		}
	}
}

func TestConsoleReset(t *testing.T) {
	c := newTerminal(t)
	c.open(1, 2)
	c.console.Send(1, []byte("kept"))
	c.console.Close(2)
	c.start(0)
	if c.console.Open(1) || c.console.Pending(1) != 4 {
		t.Error("reset leaves ports open or drops input")
	}
	c.offerControl(12)
	c.say(2, ctlPortReady, 1)
	if got, want := c.hear(), []string{"2/7/1 detvm.stdin", "2/6/1", "2/6/0"}; !slices.Equal(got, want) {
		t.Errorf("heard %q, want %q: the closed port is closed for the new driver too", got, want)
	}
}

// TestConsoleIsAPipe sends random pieces through buffers of random sizes, with snapshots in between, and wants the same bytes.
func TestConsoleIsAPipe(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		c := newTerminal(t)
		c.open(1)
		q := inQueue(1)
		var sent, got []byte
		take := func() {
			for _, u := range c.collect(q) {
				got = append(got, u.data[:u.length]...)
			}
		}
		for i := range rapid.IntRange(1, 60).Draw(rt, "steps") {
			switch rapid.IntRange(0, 3).Draw(rt, "step") {
			case 0, 1:
				p := bytes.Repeat([]byte{byte(i)}, rapid.IntRange(0, 300).Draw(rt, "send"))
				sent = append(sent, p[:c.console.Send(1, p)]...)
			case 2:
				if len(c.rings[q].chains) < 10 {
					c.add(q, receive(rapid.IntRange(1, 200).Draw(rt, "room")))
					c.kick(q)
				}
			case 3:
				n := &terminal{}
				n.console = NewConsole(n.ports())
				n.driver = c.checkRestore(n.console)
				c = n
			}
			take()
		}
		for len(got) < len(sent) {
			c.add(q, receive(100))
			c.kick(q)
			take()
		}
		if !bytes.Equal(got, sent) || c.broken() {
			rt.Fatalf("sent %x, got %x, %v", sent, got, c.tr.Err())
		}
	})
}

// FuzzConsoleControl sends arbitrary control messages between data, resizes and closes.
func FuzzConsoleControl(f *testing.F) {
	var seed []byte
	for _, m := range [][3]uint32{{0, 0, 1}, {0, 3, 1}, {1, 3, 1}, {1, 6, 1}, {1, 6, 0}, {7, 3, 1}} {
		seed = append(append(seed, 0), message(m[0], uint16(m[1]), uint16(m[2]))...)
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, data []byte) {
		c := &terminal{}
		c.console = NewConsole(c.ports())
		c.driver = newSmallDriver(t, c.console).start(0)
		for len(data) >= 1+controlSize && !c.broken() {
			port := int(data[1] & 7)
			switch data[0] & 7 {
			case 1:
				c.console.Send(port, data[2:])
			case 2:
				c.console.Close(port)
			case 3:
				c.console.Resize(uint16(data[2]), uint16(data[3]))
			case 4:
				if q := inQueue(port); q < len(c.rings) && len(c.rings[q].free) > 0 {
					c.add(q, receive(int(data[2])))
					c.kick(q)
					c.collect(q)
				}
			case 5:
				if len(c.rings[queueControlIn].free) > 0 {
					c.offerControl(1)
				}
			default:
				c.add(queueControlOut, send(data[1:1+int(data[0]>>4)%(controlSize+1)]))
				c.kick(queueControlOut)
				c.collect(queueControlOut)
			}
			c.collect(queueControlIn)
			data = data[1+controlSize:]
		}
		fresh := &terminal{}
		c.checkRestore(NewConsole(fresh.ports()))
	})
}

// FuzzUnmarshal checks that states of any content are refused or taken as they are, and can be used.
func FuzzUnmarshal(f *testing.F) {
	devices := []func() Device{
		func() Device { return NewConsole((&terminal{}).ports()) },
		func() Device { return NewRNG() },
		func() Device {
			disk, _ := NewDisk(zeros{}, 3*BlockSize+SectorSize, 2)
			return NewBlock(disk, BlockOptions{})
		},
	}
	for i, dev := range devices {
		d := newDriver(f, dev()).start(0)
		if b, ok := d.tr.dev.(*Block); ok {
			if _, err := b.Disk().WriteAt([]byte("dirty"), BlockSize); err != nil {
				f.Fatal(err)
			}
		}
		state, err := d.tr.MarshalBinary()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(i), state)
	}
	f.Fuzz(func(t *testing.T, which uint8, state []byte) {
		d := newSmallDriver(t, devices[int(which)%len(devices)]())
		if d.tr.UnmarshalBinary(state) != nil {
			return
		}
		if again, err := d.tr.MarshalBinary(); err != nil || !bytes.Equal(again, state) {
			t.Fatalf("state %x is encoded again as %x", state, again)
		}
		for q := range d.tr.queue {
			d.kick(q)
		}
		switch dev := d.tr.dev.(type) {
		case *Console:
			dev.Send(1, []byte("x"))
			dev.Close(1)
		case *RNG:
			dev.SetSeed([]byte("x"))
		}
	})
}
