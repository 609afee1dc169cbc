package devices

import "github.com/detvm/detvm/devices/internal/wire"

// UART is a 16550A serial port with 16-byte FIFOs (National Semiconductor PC16550D data sheet). Characters take no time: what the guest
// transmits is in the sink before its OUT instruction completes, and what is fed is received at once. The divisor is kept but means
// nothing. The modem at the other end is always there (CTS, DSR, DCD on).
type UART struct {
	line Line
	sink func([]byte)
	out  [1]byte // what sink is given, kept here so that transmitting does not allocate

	ier, lcr, mcr, scr byte
	fcr                byte // the bits that stick: FIFO enable, trigger level
	msrDelta           byte // bits 3–0 of MSR
	dll, dlm           byte
	overrun            bool
	emptied            bool // the transmitter-empty interrupt has not been taken yet
	fifo               [16]byte
	head, count        uint8
}

// Register offsets. RBR, THR and DLL share 0, IER and DLM share 1, IIR and FCR share 2.
const (
	uartData = iota
	uartIER
	uartIIR
	uartLCR
	uartMCR
	uartLSR
	uartMSR
	uartSCR
)

const (
	ierReceived, ierEmptied, ierLineStatus, ierModemStatus = 1, 2, 4, 8

	lcrDLAB = 0x80
	mcrOut2 = 0x08
	mcrLoop = 0x10

	lsrReady, lsrOverrun, lsrEmpty = 0x01, 0x02, 0x60
)

// NewUART returns a port after master reset. It calls sink with each transmitted character (the slice is reused) and drives line, IRQ 4 for
// the first port of a PC.
func NewUART(line Line, sink func([]byte)) *UART {
	return &UART{line: line, sink: sink}
}

// Feed receives characters from the outside, as many as the FIFO has room for, and returns how many that was. In loopback mode the
// receiver is disconnected and takes none.
func (u *UART) Feed(p []byte) int {
	if u.mcr&mcrLoop != 0 {
		return 0
	}
	n := 0
	for n < len(p) && int(u.count) < u.depth() {
		u.receive(p[n])
		n++
	}
	u.update()
	return n
}

// depth is the size of the receiver: 16 characters, or 1 without FIFO.
func (u *UART) depth() int {
	if u.fcr&1 != 0 {
		return len(u.fifo)
	}
	return 1
}

func (u *UART) receive(c byte) {
	if int(u.count) < u.depth() {
		u.fifo[(u.head+u.count)&15] = c
		u.count++
		return
	}
	u.overrun = true
	if u.fcr&1 == 0 {
		u.fifo[u.head] = c // the holding register is overwritten; a full FIFO is not (8.4, LSR bit 1)
	}
}

// Read answers one register.
func (u *UART) Read(offset uint64, p []byte) {
	if len(p) != 1 || offset > 7 {
		allOnes(p)
		return
	}
	p[0] = u.read(offset)
}

func (u *UART) read(offset uint64) byte {
	dlab := u.lcr&lcrDLAB != 0
	switch offset {
	case uartData:
		if dlab {
			return u.dll
		}
		return u.readData()
	case uartIER:
		if dlab {
			return u.dlm
		}
		return u.ier
	case uartIIR:
		return u.readIIR()
	case uartLCR:
		return u.lcr
	case uartMCR:
		return u.mcr
	case uartLSR:
		return u.readLSR()
	case uartMSR:
		v := u.modemLines() | u.msrDelta
		u.msrDelta = 0
		u.update()
		return v
	}
	return u.scr
}

func (u *UART) readData() byte {
	if u.count == 0 {
		return 0
	}
	c := u.fifo[u.head]
	u.fifo[u.head] = 0
	u.head = (u.head + 1) & 15
	u.count--
	if u.count == 0 {
		u.head = 0
	}
	u.update()
	return c
}

func (u *UART) readIIR() byte {
	id := u.interrupt()
	if id == iirEmptied {
		u.emptied = false
		u.update()
	}
	if u.fcr&1 != 0 {
		id |= 0xc0
	}
	return id
}

func (u *UART) readLSR() byte {
	v := byte(lsrEmpty)
	if u.count > 0 {
		v |= lsrReady
	}
	if u.overrun {
		v |= lsrOverrun
		u.overrun = false
		u.update()
	}
	return v
}

// modemLines returns bits 7–4 of MSR: DCD, RI, DSR, CTS. In loopback they are OUT2, OUT1, DTR, RTS (8.7).
func (u *UART) modemLines() byte {
	if u.mcr&mcrLoop == 0 {
		return 0xb0
	}
	m := u.mcr
	return m&0x0c<<4 | m&0x01<<5 | m&0x02<<3
}

// Write changes one register.
func (u *UART) Write(offset uint64, p []byte) {
	if len(p) != 1 || offset > 7 {
		return
	}
	u.write(offset, p[0])
	u.update()
}

func (u *UART) write(offset uint64, v byte) {
	dlab := u.lcr&lcrDLAB != 0
	switch offset {
	case uartData:
		if dlab {
			u.dll = v
		} else {
			u.transmit(v)
		}
	case uartIER:
		if dlab {
			u.dlm = v
			return
		}
		// Enabling the interrupt while the transmitter is empty raises it.
		if v&ierEmptied != 0 && u.ier&ierEmptied == 0 {
			u.emptied = true
		}
		u.ier = v & 0x0f
	case uartIIR:
		u.writeFCR(v)
	case uartLCR:
		u.lcr = v
	case uartMCR:
		u.writeMCR(v)
	case uartSCR:
		u.scr = v
	}
}

func (u *UART) transmit(c byte) {
	u.emptied = true
	if u.mcr&mcrLoop != 0 {
		u.receive(c)
		return
	}
	u.out[0] = c
	u.sink(u.out[:])
}

func (u *UART) writeFCR(v byte) {
	if (u.fcr^v)&1 != 0 || v&0x02 != 0 { // changing the mode clears the FIFOs, as bit 1 does
		u.fifo, u.head, u.count = [16]byte{}, 0, 0
	}
	u.fcr = 0
	if v&1 != 0 {
		u.fcr = v & 0xc1
	}
}

// writeMCR also records which modem inputs change when they are the outputs looped back. The delta of RI is its trailing edge.
func (u *UART) writeMCR(v byte) {
	before := u.modemLines()
	u.mcr = v & 0x1f
	after := u.modemLines()
	u.msrDelta |= (before^after)>>4&0x0b | before&^after>>4&0x04
}

// Values of IIR, in order of priority (table V of the data sheet).
const (
	iirNone       = 0x01
	iirLineStatus = 0x06
	iirReceived   = 0x04
	iirTimeout    = 0x0c
	iirEmptied    = 0x02
	iirModem      = 0x00
)

func (u *UART) interrupt() byte {
	switch {
	case u.ier&ierLineStatus != 0 && u.overrun:
		return iirLineStatus
	case u.ier&ierReceived != 0 && int(u.count) >= u.trigger():
		return iirReceived
	case u.ier&ierReceived != 0 && u.count > 0: // characters take no time, so neither does the time-out
		return iirTimeout
	case u.ier&ierEmptied != 0 && u.emptied:
		return iirEmptied
	case u.ier&ierModemStatus != 0 && u.msrDelta != 0:
		return iirModem
	}
	return iirNone
}

func (u *UART) trigger() int {
	if u.fcr&1 == 0 {
		return 1
	}
	return [4]int{1, 4, 8, 14}[u.fcr>>6]
}

// update drives the interrupt line. On a PC it passes through a gate that OUT2 opens; loopback mode turns OUT2 off.
func (u *UART) update() {
	u.line(u.interrupt() != iirNone && u.mcr&(mcrOut2|mcrLoop) == mcrOut2)
}

// MarshalBinary encodes the registers and the receiver.
func (u *UART) MarshalBinary() ([]byte, error) {
	b := make([]byte, 0, 28)
	b = append(b, u.ier, u.lcr, u.mcr, u.scr, u.fcr, u.msrDelta, u.dll, u.dlm)
	b = wire.AppendBool(b, u.overrun)
	b = wire.AppendBool(b, u.emptied)
	b = append(b, u.count)
	for i := range u.count {
		b = append(b, u.fifo[(u.head+i)&15])
	}
	return b, nil
}

// UnmarshalBinary is the inverse of MarshalBinary.
func (u *UART) UnmarshalBinary(data []byte) error {
	r := wire.NewReader(data)
	n := UART{line: u.line, sink: u.sink}
	for _, v := range []*byte{&n.ier, &n.lcr, &n.mcr, &n.scr, &n.fcr, &n.msrDelta, &n.dll, &n.dlm} {
		*v = r.Uint8()
	}
	n.overrun = r.Bool()
	n.emptied = r.Bool()
	n.count = r.Uint8()
	r.Check(n.ier <= 0x0f && n.mcr <= 0x1f && n.msrDelta <= 0x0f && n.fcr&0x3e == 0 && (n.fcr&1 != 0 || n.fcr == 0))
	r.Check(int(n.count) <= n.depth())
	if !r.Failed() {
		r.Fill(n.fifo[:n.count])
	}
	if err := r.Close(); err != nil {
		return err
	}
	*u = n
	return nil
}
