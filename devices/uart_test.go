package devices

import (
	"bytes"
	"testing"
)

// serial is a UART with what it sent and the level of its line.
type serial struct {
	*UART
	sent  []byte
	level bool
}

func newSerial() *serial {
	s := &serial{}
	s.UART = NewUART(func(level bool) { s.level = level }, func(p []byte) { s.sent = append(s.sent, p...) })
	return s
}

func TestUARTTransmits(t *testing.T) {
	s := newSerial()
	for _, c := range []byte("hello") {
		if in(s, uartLSR)&0x60 != 0x60 {
			t.Fatal("the transmitter is busy")
		}
		out(s, uartData, c)
	}
	if string(s.sent) != "hello" {
		t.Errorf("sent %q", s.sent)
	}
}

func TestUARTDivisorLatch(t *testing.T) {
	s := newSerial()
	out(s, uartIER, 0x05)
	out(s, uartLCR, 0x83)
	out(s, uartData, 0x01)
	out(s, uartIER, 0x02)
	if in(s, uartData) != 1 || in(s, uartIER) != 2 || len(s.sent) != 0 {
		t.Error("the divisor does not read back, or was transmitted")
	}
	out(s, uartLCR, 0x03)
	if in(s, uartIER) != 0x05 {
		t.Error("IER was overwritten through the divisor latch")
	}
}

// TestUARTTransmitterInterrupt: enabling raises it, reading IIR takes it back, writing a character raises it again.
func TestUARTTransmitterInterrupt(t *testing.T) {
	s := newSerial()
	out(s, uartMCR, mcrOut2)
	out(s, uartIER, ierEmptied)
	if !s.level || in(s, uartIIR) != iirEmptied {
		t.Fatal("enabling the interrupt with an empty transmitter does not raise it")
	}
	if s.level || in(s, uartIIR) != iirNone {
		t.Fatal("reading IIR does not take the interrupt back")
	}
	out(s, uartData, 'x')
	if !s.level {
		t.Fatal("no interrupt after a character")
	}
	out(s, uartMCR, 0)
	if s.level {
		t.Error("an interrupt passes while OUT2 is off")
	}
}

func TestUARTReceives(t *testing.T) {
	s := newSerial()
	out(s, uartIIR, 0x87) // FIFO on and clear, trigger at 8
	out(s, uartMCR, mcrOut2)
	out(s, uartIER, ierReceived)
	if n := s.Feed([]byte("0123456")); n != 7 || in(s, uartIIR) != 0xc0|iirTimeout {
		t.Fatalf("accepted %d, IIR %#x, want a time-out below the trigger level", n, in(s, uartIIR))
	}
	if n := s.Feed([]byte("789abcdefXYZ")); n != 9 || in(s, uartIIR) != 0xc0|iirReceived {
		t.Fatalf("accepted %d, IIR %#x", n, in(s, uartIIR))
	}
	var got []byte
	for in(s, uartLSR)&lsrReady != 0 {
		got = append(got, in(s, uartData))
	}
	if string(got) != "0123456789abcdef" || s.level {
		t.Errorf("received %q, interrupt %v", got, s.level)
	}
}

func TestUARTWithoutFIFOHoldsOneCharacter(t *testing.T) {
	s := newSerial()
	if n := s.Feed([]byte("ab")); n != 1 || in(s, uartData) != 'a' {
		t.Errorf("accepted %d", n)
	}
	if in(s, uartIIR) != iirNone {
		t.Error("IIR shows FIFOs")
	}
}

// TestUARTLoopback is what Linux's autoconfig does to find the port, and an overrun.
func TestUARTLoopback(t *testing.T) {
	s := newSerial()
	out(s, uartMCR, mcrLoop|0x0a)
	if got := in(s, uartMSR) & 0xf0; got != 0x90 {
		t.Errorf("MSR %#x, want DCD and CTS from OUT2 and RTS", got)
	}
	out(s, uartData, 'a')
	out(s, uartData, 'b')
	if len(s.sent) != 0 {
		t.Error("loopback characters leave the chip")
	}
	if lsr := in(s, uartLSR); lsr != 0x63 {
		t.Errorf("LSR %#x, want ready and overrun", lsr)
	}
	if lsr := in(s, uartLSR); lsr != 0x61 {
		t.Errorf("LSR %#x: reading does not clear the overrun", lsr)
	}
	if c := in(s, uartData); c != 'b' {
		t.Errorf("received %q, want the later character", c)
	}
	if s.Feed([]byte("x")) != 0 {
		t.Error("the receiver is connected in loopback")
	}
}

func TestUARTModemStatusDeltas(t *testing.T) {
	s := newSerial()
	out(s, uartMCR, mcrLoop)
	in(s, uartMSR)
	out(s, uartMCR, mcrLoop|0x0f)
	if got := in(s, uartMSR); got != 0xfb {
		t.Errorf("MSR %#x after all inputs rose", got)
	}
	out(s, uartMCR, mcrLoop)
	if got := in(s, uartMSR); got != 0x0f {
		t.Errorf("MSR %#x after all inputs fell, the ring's trailing edge among them", got)
	}
	if got := in(s, uartMSR); got != 0 {
		t.Errorf("MSR %#x: reading does not clear the deltas", got)
	}
}

func TestUARTScratchAndUnusedBits(t *testing.T) {
	s := newSerial()
	out(s, uartSCR, 0xa5)
	out(s, uartIER, 0xff)
	out(s, uartMCR, 0xff)
	if in(s, uartSCR) != 0xa5 || in(s, uartIER) != 0x0f || in(s, uartMCR) != 0x1f {
		t.Errorf("SCR %#x IER %#x MCR %#x", in(s, uartSCR), in(s, uartIER), in(s, uartMCR))
	}
}

func uartOps(u *UART, ops []byte) {
	for len(ops) >= 2 {
		op, v := ops[0], ops[1]
		ops = ops[2:]
		switch op >> 4 & 3 {
		case 0, 1:
			out(u, uint64(op&7), v)
		case 2:
			in(u, uint64(op&7))
		case 3:
			u.Feed(bytes.Repeat([]byte{v}, int(op&15)))
		}
	}
}

func FuzzUART(f *testing.F) {
	f.Add([]byte{3, 0x83, 0, 1, 1, 0, 3, 3, 2, 0xc7, 4, 0x1b, 0, 'a', 0x25, 0, 0x20, 0, 4, 0x0b, 0x39, 'z', 1, 0x0f, 0x22, 0})
	f.Fuzz(func(t *testing.T, ops []byte) {
		s, fresh := newSerial(), newSerial()
		uartOps(s.UART, ops)
		checkRestore(t, s.UART, fresh.UART)
		s.sent = nil
		more := append(bytes.Clone(ops), 0x20, 0, 0x22, 0, 0x25, 0, 0x20, 0)
		uartOps(s.UART, more)
		uartOps(fresh.UART, more)
		if !bytes.Equal(s.sent, fresh.sent) || !bytes.Equal(marshal(t, s.UART), marshal(t, fresh.UART)) {
			t.Fatal("a restored port behaves differently")
		}
	})
}

func FuzzUARTUnmarshal(f *testing.F) {
	f.Add(marshal(f, newSerial().UART))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := newSerial()
		fuzzUnmarshal(t, data, s.UART, func() { uartOps(s.UART, data) })
	})
}

func TestHotPathsDoNotAllocate(t *testing.T) {
	u := NewUART(func(bool) {}, func([]byte) {})
	pic := newPIC()
	now := uint64(0)
	pit := NewPIT(func() uint64 { now += 1000; return now }, pic.Line(0))
	pitPorts, master := pit.Ports(), pic.Master()
	c, eoi, control := []byte{'x'}, []byte{0x20}, []byte{0x34}
	pitPorts.Write(3, control)
	pitPorts.Write(0, c)
	pitPorts.Write(0, c)
	if n := testing.AllocsPerRun(1000, func() {
		u.Write(uartData, c)
		u.Read(uartLSR, c)
		pic.Pulse(4)
		pic.Acknowledge()
		master.Write(0, eoi)
		pitPorts.Read(0, c)
		if at, ok := pit.Deadline(); ok {
			pit.Advance(at)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
