package virtio

import (
	"encoding/binary"

	"github.com/detvm/detvm/devices/internal/wire"
)

// Feature bits of the console device (5.3.3).
const (
	consoleFeatureSize      = 1 << 0
	consoleFeatureMultiport = 1 << 1
)

// Control events (5.3.6.2).
const (
	ctlDeviceReady = 0
	ctlPortAdd     = 1
	ctlPortReady   = 3
	ctlConsolePort = 4
	ctlResize      = 5
	ctlPortOpen    = 6
	ctlPortName    = 7

	controlSize = 8 // le32 port, le16 event, le16 value
)

// Queues: 0 and 1 are port 0, 2 and 3 control, then two for each further port (5.3.2). Even ones carry data to the driver.
const (
	queueControlIn  = 2
	queueControlOut = 3
)

const (
	consoleInSize  = 16
	consoleOutSize = 32

	// DefaultInputLimit is how many bytes to the guest a port holds when [ConsolePort.InputLimit] is 0.
	DefaultInputLimit = 1 << 20

	// controlLimit bounds the control messages that wait for the driver to offer buffers: several times what the protocol needs.
	controlLimit = 256
	maxPorts     = 31
	maxPortName  = 64
)

// ConsolePort configures one port.
type ConsolePort struct {
	// Name is what the guest sees in the port's name attribute, up to 64 bytes; empty for none.
	Name string
	// Console makes the port a terminal (hvc0) rather than a character device.
	Console bool
	// OnOutput is called with what the guest writes, from within its notification; the slice is guest memory and must not be kept. It may
	// call Send.
	OnOutput func(data []byte)
	// OnDrained, if not nil, is called when the last pending byte of input has gone to the guest.
	OnDrained func()
	// InputLimit bounds the pending input in bytes; 0 is [DefaultInputLimit].
	InputLimit int
}

// port is the state of one port.
type port struct {
	config    ConsolePort
	ready     bool // the driver has set the port up
	guestOpen bool
	closing   bool // the host end closes after the pending input
	closed    bool // the host end is closed
	pending   []byte
	sent      int // of pending
}

// Console is the console device (5.3) with multiple ports: byte streams between the guest and the machine. Ports other than consoles
// get their input when a process has them open; the Linux driver would drop it before.
type Console struct {
	bus        Bus
	chain      Chain
	outChain   Chain // of what the driver sends; its own, since answering it may send to the driver
	ports      []port
	cols, rows uint16
	control    []byte // messages waiting for buffers, each after its length in one byte
}

// NewConsole returns a console device with the given ports, at most 31, open on the host side.
func NewConsole(ports []ConsolePort) *Console {
	d := &Console{}
	for _, p := range ports[:min(len(ports), maxPorts)] {
		if p.InputLimit == 0 {
			p.InputLimit = DefaultInputLimit
		}
		p.Name = p.Name[:min(len(p.Name), maxPortName)]
		d.ports = append(d.ports, port{config: p})
	}
	return d
}

// Send queues data as input of a port and returns how many bytes were accepted: all, unless the limit is reached or the port was closed.
// What the driver has buffers for reaches the guest at once.
func (d *Console) Send(port int, data []byte) int {
	p := d.port(port)
	if p == nil || p.closing || p.closed {
		return 0
	}
	n := min(len(data), p.config.InputLimit-d.Pending(port))
	if p.sent > 0 && len(p.pending)+n > cap(p.pending) {
		p.pending = p.pending[:copy(p.pending, p.pending[p.sent:])]
		p.sent = 0
	}
	p.pending = append(p.pending, data[:n]...)
	d.outside(d.deliver(port))
	return n
}

// Pending returns how many bytes of a port's input have not reached the guest.
func (d *Console) Pending(port int) int {
	p := d.port(port)
	if p == nil {
		return 0
	}
	return len(p.pending) - p.sent
}

// Close closes the host end of a port after its pending input: the guest then reads end of file.
func (d *Console) Close(port int) {
	p := d.port(port)
	if p == nil || p.closed {
		return
	}
	p.closing = true
	d.outside(d.deliver(port))
}

// Open reports whether the guest has a port open.
func (d *Console) Open(port int) bool {
	p := d.port(port)
	return p != nil && p.guestOpen
}

// Resize tells the guest the size of the terminal of its console ports, in characters.
func (d *Console) Resize(cols, rows uint16) {
	if d.cols == cols && d.rows == rows {
		return
	}
	d.cols, d.rows = cols, rows
	d.bus.ConfigChanged()
	var err error
	for i := range d.ports {
		if p := &d.ports[i]; p.ready && p.config.Console && err == nil {
			err = d.sendSize(i)
		}
	}
	d.outside(err)
}

// outside ends a call from the machine: errors and interrupts go to the transport.
func (d *Console) outside(err error) {
	if err != nil {
		d.bus.Fail(err)
		return
	}
	d.bus.Flush()
}

func (d *Console) port(i int) *port {
	if i < 0 || i >= len(d.ports) {
		return nil
	}
	return &d.ports[i]
}

// inQueue returns the number of the queue that carries a port's input. Its output has the next.
func inQueue(port int) int {
	if port == 0 {
		return 0
	}
	return 2*port + 2
}

// ID implements [Device].
func (d *Console) ID() uint32 { return 3 }

// Features implements [Device].
func (d *Console) Features() uint64 { return consoleFeatureSize | consoleFeatureMultiport }

// QueueSizes implements [Device].
func (d *Console) QueueSizes() []uint16 {
	var sizes []uint16
	for range max(len(d.ports), 1) + 1 {
		sizes = append(sizes, consoleInSize, consoleOutSize)
	}
	return sizes
}

// ReadConfig implements [Device] (5.3.4).
func (d *Console) ReadConfig(offset uint64, p []byte) {
	var config [12]byte
	binary.LittleEndian.PutUint16(config[0:], d.cols)
	binary.LittleEndian.PutUint16(config[2:], d.rows)
	binary.LittleEndian.PutUint32(config[4:], uint32(len(d.ports)))
	readConfig(config[:], offset, p)
}

// WriteConfig implements [Device]: there is no emergency write.
func (d *Console) WriteConfig(uint64, []byte) {}

// Attach implements [Device].
func (d *Console) Attach(bus Bus) { d.bus = bus }

// Reset implements [Device]. Input that has not reached the guest stays.
func (d *Console) Reset() {
	d.control = d.control[:0]
	for i := range d.ports {
		d.ports[i].ready, d.ports[i].guestOpen = false, false
		d.ports[i].closing, d.ports[i].closed = d.ports[i].closing || d.ports[i].closed, false
	}
}

// Notify implements [Device].
func (d *Console) Notify(queue int) error {
	switch queue {
	case queueControlIn:
		return d.deliverControl()
	case queueControlOut:
		return d.readControl()
	}
	port := 0
	if queue > queueControlOut {
		port = queue/2 - 1
	}
	if queue%2 == 0 {
		return d.deliver(port)
	}
	return d.output(port, queue)
}

// output hands what the guest wrote to a port to the machine.
func (d *Console) output(port, queue int) error {
	return d.bus.Queue(queue).serve(&d.outChain, func(c *Chain) error {
		if p := d.port(port); p != nil && p.config.OnOutput != nil {
			for data := c.NextRead(MaxChainBytes); data != nil; data = c.NextRead(MaxChainBytes) {
				p.config.OnOutput(data)
			}
		}
		return nil
	})
}

// deliver moves a port's pending input to the driver's buffers, and closes the port behind it if that was asked.
func (d *Console) deliver(port int) error {
	p := d.port(port)
	if p == nil {
		return nil
	}
	if err := d.deliverInput(p, port); err != nil {
		return err
	}
	if p.closing && p.ready && len(p.pending) == 0 {
		p.closing, p.closed = false, true
		return d.sendControl(port, ctlPortOpen, 0, nil)
	}
	return nil
}

func (d *Console) deliverInput(p *port, port int) error {
	q := d.bus.Queue(inQueue(port))
	multiport := d.bus.Negotiated(consoleFeatureMultiport)
	if q == nil || multiport && !(p.ready && (p.guestOpen || p.config.Console)) {
		return nil
	}
	for p.sent < len(p.pending) {
		ok, err := q.Pop(&d.chain)
		if !ok || err != nil {
			return err
		}
		n := d.chain.Write(p.pending[p.sent:])
		if n == 0 {
			return queueError("an input buffer without room")
		}
		p.sent += n
		if err := q.Push(&d.chain); err != nil {
			return err
		}
		if p.sent == len(p.pending) {
			p.pending, p.sent = p.pending[:0], 0
			if p.config.OnDrained != nil {
				p.config.OnDrained()
			}
		}
	}
	return nil
}

// sendControl queues a control message to the driver.
func (d *Console) sendControl(port int, event, value uint16, text []byte) error {
	if len(d.control) > controlLimit*(1+controlSize) {
		return queueError("more than %d console control messages wait", controlLimit)
	}
	d.control = append(d.control, byte(controlSize+len(text)))
	d.control = binary.LittleEndian.AppendUint32(d.control, uint32(port))
	d.control = binary.LittleEndian.AppendUint16(d.control, event)
	d.control = binary.LittleEndian.AppendUint16(d.control, value)
	d.control = append(d.control, text...)
	return d.deliverControl()
}

// deliverControl moves waiting control messages to the driver's buffers.
func (d *Console) deliverControl() error {
	q := d.bus.Queue(queueControlIn)
	for q != nil && len(d.control) > 0 {
		ok, err := q.Pop(&d.chain)
		if !ok || err != nil {
			return err
		}
		n := 1 + int(d.control[0])
		if d.chain.WriteLeft() < uint64(n-1) {
			return queueError("a console control buffer of %d bytes", d.chain.WriteLeft())
		}
		d.chain.Write(d.control[1:n])
		if err := q.Push(&d.chain); err != nil {
			return err
		}
		d.control = d.control[:copy(d.control, d.control[n:])]
	}
	return nil
}

// readControl handles the driver's control messages.
func (d *Console) readControl() error {
	return d.bus.Queue(queueControlOut).serve(&d.outChain, func(c *Chain) error {
		var m [controlSize]byte
		if c.Read(m[:]) != len(m) {
			return queueError("a short console control message")
		}
		le := binary.LittleEndian
		return d.handleControl(le.Uint32(m[:]), le.Uint16(m[4:]), le.Uint16(m[6:]))
	})
}

// handleControl acts on one message (5.3.6.1). Messages about ports that do not exist, and failures that the driver reports, change nothing.
func (d *Console) handleControl(id uint32, event, value uint16) error {
	if event == ctlDeviceReady {
		return d.announce(value)
	}
	if id >= uint32(len(d.ports)) {
		return nil
	}
	p := &d.ports[id]
	switch event {
	case ctlPortReady:
		if value == 1 && !p.ready {
			p.ready = true
			return d.introduce(int(id))
		}
	case ctlPortOpen:
		p.guestOpen = value == 1
		return d.deliver(int(id))
	}
	return nil
}

// announce adds all ports once the driver is ready.
func (d *Console) announce(value uint16) error {
	if value != 1 {
		return nil
	}
	for i := range d.ports {
		if err := d.sendControl(i, ctlPortAdd, 1, nil); err != nil {
			return err
		}
	}
	return nil
}

// introduce tells the driver about a port that it has set up.
func (d *Console) introduce(i int) error {
	p := &d.ports[i]
	if p.config.Console {
		if err := d.sendControl(i, ctlConsolePort, 1, nil); err != nil {
			return err
		}
		if err := d.sendSize(i); err != nil {
			return err
		}
	}
	if p.config.Name != "" {
		if err := d.sendControl(i, ctlPortName, 1, []byte(p.config.Name)); err != nil {
			return err
		}
	}
	if err := d.sendControl(i, ctlPortOpen, 1, nil); err != nil {
		return err
	}
	return d.deliver(i)
}

// sendSize sends the terminal size, columns first (5.3.6.2). Older Linux kernels take them for rows first; the machine tells the guest's programs
// their terminal size through the agent.
func (d *Console) sendSize(port int) error {
	var size [4]byte
	binary.LittleEndian.PutUint16(size[0:], d.cols)
	binary.LittleEndian.PutUint16(size[2:], d.rows)
	return d.sendControl(port, ctlResize, 0, size[:])
}

// AppendBinary implements [Device]: terminal size, waiting control messages, and each port's flags and pending input.
func (d *Console) AppendBinary(b []byte) ([]byte, error) {
	b = binary.LittleEndian.AppendUint16(b, d.cols)
	b = binary.LittleEndian.AppendUint16(b, d.rows)
	b = wire.AppendBytes(b, d.control)
	for i := range d.ports {
		p := &d.ports[i]
		for _, v := range [...]bool{p.ready, p.guestOpen, p.closing, p.closed} {
			b = wire.AppendBool(b, v)
		}
		b = wire.AppendBytes(b, p.pending[p.sent:])
	}
	return b, nil
}

// DecodeState implements [Device].
func (d *Console) DecodeState(data []byte) error {
	r := wire.NewReader(data)
	n := Console{bus: d.bus, cols: r.Uint16(), rows: r.Uint16()}
	n.control = append(n.control, r.Bytes(2*controlLimit*(1+controlSize))...)
	r.Check(wellFormed(n.control))
	for i := range d.ports {
		p := port{config: d.ports[i].config}
		for _, v := range []*bool{&p.ready, &p.guestOpen, &p.closing, &p.closed} {
			*v = r.Bool()
		}
		p.pending = append(p.pending, r.Bytes(p.config.InputLimit)...)
		r.Check(!p.closing || !p.closed)
		n.ports = append(n.ports, p)
	}
	if err := r.Close(); err != nil {
		return err
	}
	*d = n
	return nil
}

// wellFormed reports whether b is a sequence of control messages, each after its length.
func wellFormed(b []byte) bool {
	for len(b) > 0 {
		n := int(b[0])
		if n < controlSize || n >= len(b) {
			return false
		}
		b = b[1+n:]
	}
	return true
}
