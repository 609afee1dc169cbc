package virtio

import (
	"encoding/binary"

	"github.com/detvm/detvm/devices/internal/wire"
)

// WindowSize is the size in bytes of a transport's register window.
const WindowSize = 0x1000

// Registers of the MMIO transport (4.2.2).
const (
	regMagic          = 0x000
	regVersion        = 0x004
	regDeviceID       = 0x008
	regVendorID       = 0x00c
	regDeviceFeatures = 0x010
	regDeviceFeatSel  = 0x014
	regDriverFeatures = 0x020
	regDriverFeatSel  = 0x024
	regQueueSel       = 0x030
	regQueueNumMax    = 0x034
	regQueueNum       = 0x038
	regQueueReady     = 0x044
	regQueueNotify    = 0x050
	regIntStatus      = 0x060
	regIntACK         = 0x064
	regStatus         = 0x070
	regQueueDescLow   = 0x080
	regQueueDescHigh  = 0x084
	regQueueAvailLow  = 0x090
	regQueueAvailHigh = 0x094
	regQueueUsedLow   = 0x0a0
	regQueueUsedHigh  = 0x0a4
	regSHMLenLow      = 0x0b0
	regSHMBaseHigh    = 0x0bc
	regGeneration     = 0x0fc
	regConfig         = 0x100

	magic    = 0x74726976 // "virt"
	version  = 2
	vendorID = 0x6d767464 // "dtvm"
)

// Device status bits (2.1).
const (
	StatusAcknowledge = 0x01
	StatusDriver      = 0x02
	StatusDriverOK    = 0x04
	StatusFeaturesOK  = 0x08
	StatusNeedsReset  = 0x40
	StatusFailed      = 0x80

	statusWritable = StatusAcknowledge | StatusDriver | StatusDriverOK | StatusFeaturesOK | StatusFailed
)

// Feature bits that belong to no device type (6).
const (
	FeatureIndirectDesc = 1 << 28
	FeatureEventIdx     = 1 << 29
	FeatureVersion1     = 1 << 32

	transportFeatures = FeatureIndirectDesc | FeatureEventIdx | FeatureVersion1
)

// Interrupt status bits (4.2.2).
const (
	intUsedBuffer   = 1
	intConfigChange = 2
)

// Device is what a device type adds to the transport. The Transport calls it; nothing else does, but for the type's own methods.
type Device interface {
	// ID is the device type (5).
	ID() uint32
	// Features are the feature bits of the device type on offer. They do not change.
	Features() uint64
	// QueueSizes has the maximum size of each queue, a power of two.
	QueueSizes() []uint16
	// ReadConfig and WriteConfig access the device-specific configuration space. What lies outside of it reads as zero.
	ReadConfig(offset uint64, p []byte)
	WriteConfig(offset uint64, p []byte)
	// Attach gives the device its bus, once, before anything else happens: NewTransport does it.
	Attach(Bus)
	// Notify handles what is available in a queue, for which [Bus.Queue] is not nil. An error puts the device into DEVICE_NEEDS_RESET.
	Notify(queue int) error
	// Reset forgets everything that the driver set up.
	Reset()
	// AppendBinary appends the state of the device type, and DecodeState reads all of its argument, without the transport's.
	AppendBinary(b []byte) ([]byte, error)
	// DecodeState leaves the device untouched when it fails.
	DecodeState(data []byte) error
}

// Bus is the transport as its device sees it.
type Bus interface {
	// Queue returns queue i, or nil while the driver has not made it usable.
	Queue(i int) *Queue
	// Negotiated reports whether the driver accepted all the given feature bits.
	Negotiated(features uint64) bool
	// Flush shows the driver what was pushed to the queues and interrupts it if it wants. Needed only outside of Notify.
	Flush()
	// ConfigChanged tells the driver that the configuration space has changed.
	ConfigChanged()
	// Fail puts the device into DEVICE_NEEDS_RESET. Needed only outside of Notify.
	Fail(err error)
}

// Transport is a virtio-mmio register window of version 2 (4.2) with its virtqueues, one device and one level-triggered interrupt line.
type Transport struct {
	dev   Device
	line  func(level bool)
	err   error
	queue []Queue

	status         uint32
	deviceFeatSel  uint32
	driverFeatSel  uint32
	driverFeatures uint64
	queueSel       uint32
	interrupt      uint32
	generation     uint32
}

// NewTransport attaches dev to a new, reset transport that reaches guest memory through mem and drives line.
func NewTransport(dev Device, mem GuestMemory, line func(level bool)) *Transport {
	t := &Transport{dev: dev, line: line}
	for _, n := range dev.QueueSizes() {
		q := Queue{mem: mem, maxSize: n}
		q.reset()
		t.queue = append(t.queue, q)
	}
	dev.Attach(t)
	return t
}

// Status returns the device status register, for diagnosis.
func (t *Transport) Status() uint32 { return t.status }

// Err returns why the device last went into DEVICE_NEEDS_RESET, or nil. It is for diagnosis and not part of the state.
func (t *Transport) Err() error { return t.err }

// Queue implements [Bus].
func (t *Transport) Queue(i int) *Queue {
	const live = StatusDriverOK | StatusNeedsReset
	if i < 0 || i >= len(t.queue) || t.status&live != StatusDriverOK || !t.queue[i].ready {
		return nil
	}
	return &t.queue[i]
}

// Negotiated implements [Bus].
func (t *Transport) Negotiated(features uint64) bool {
	return t.status&StatusFeaturesOK != 0 && t.driverFeatures&features == features
}

// Flush implements [Bus].
func (t *Transport) Flush() {
	for i := range t.queue {
		q := t.Queue(i)
		if q == nil {
			continue
		}
		wanted, err := q.publish()
		if err != nil {
			t.Fail(err)
			return
		}
		if wanted {
			t.raise(intUsedBuffer)
		}
	}
}

// ConfigChanged implements [Bus].
func (t *Transport) ConfigChanged() {
	if t.status&StatusDriverOK == 0 {
		return
	}
	t.generation++
	t.raise(intConfigChange)
}

// Fail implements [Bus]. The driver learns of it through a configuration change interrupt (2.1.2).
func (t *Transport) Fail(err error) {
	t.err = err
	t.status |= StatusNeedsReset
	for i := range t.queue {
		t.queue[i].abandon()
	}
	if t.status&StatusDriverOK != 0 {
		t.raise(intConfigChange)
	}
}

func (t *Transport) raise(cause uint32) {
	t.interrupt |= cause
	t.line(true)
}

// Read answers a register. Registers have 32 bits; only the configuration space takes other widths (4.2.2.2).
func (t *Transport) Read(offset uint64, p []byte) {
	switch {
	case offset >= regConfig && offset < WindowSize:
		t.dev.ReadConfig(offset-regConfig, p)
	case len(p) == 4 && offset < regConfig && offset%4 == 0:
		binary.LittleEndian.PutUint32(p, t.readRegister(offset))
	default:
		for i := range p {
			p[i] = 0xff
		}
	}
}

func (t *Transport) readRegister(offset uint64) uint32 {
	switch offset {
	case regMagic:
		return magic
	case regVersion:
		return version
	case regDeviceID:
		return t.dev.ID()
	case regVendorID:
		return vendorID
	case regDeviceFeatures:
		return half(t.offered(), t.deviceFeatSel)
	case regQueueNumMax:
		if q := t.selected(); q != nil {
			return uint32(q.maxSize)
		}
	case regQueueReady:
		if q := t.selected(); q != nil && q.ready {
			return 1
		}
	case regIntStatus:
		return t.interrupt
	case regStatus:
		return t.status
	case regGeneration:
		return t.generation
	}
	if offset >= regSHMLenLow && offset <= regSHMBaseHigh {
		return 0xffffffff // there is no shared memory region (4.2.2)
	}
	return 0
}

func (t *Transport) offered() uint64 { return t.dev.Features() | transportFeatures }

// half returns 32 bits of v: the lower for index 0, the upper for 1, none beyond.
func half(v uint64, index uint32) uint32 {
	if index > 1 {
		return 0
	}
	return uint32(v >> (32 * index))
}

// setHalf replaces 32 bits of *v.
func setHalf(v *uint64, index, bits uint32) {
	switch index {
	case 0:
		*v = *v&^0xffffffff | uint64(bits)
	case 1:
		*v = *v&0xffffffff | uint64(bits)<<32
	}
}

func (t *Transport) selected() *Queue {
	if t.queueSel >= uint32(len(t.queue)) {
		return nil
	}
	return &t.queue[t.queueSel]
}

// Write changes a register.
func (t *Transport) Write(offset uint64, p []byte) {
	switch {
	case offset >= regConfig && offset < WindowSize:
		t.dev.WriteConfig(offset-regConfig, p)
	case len(p) == 4 && offset < regConfig:
		t.writeRegister(offset, binary.LittleEndian.Uint32(p))
	}
}

func (t *Transport) writeRegister(offset uint64, v uint32) {
	switch offset {
	case regDeviceFeatSel:
		t.deviceFeatSel = v
	case regDriverFeatSel:
		t.driverFeatSel = v
	case regDriverFeatures:
		if t.status&StatusFeaturesOK == 0 {
			setHalf(&t.driverFeatures, t.driverFeatSel, v)
		}
	case regQueueSel:
		t.queueSel = v
	case regQueueNotify:
		t.notify(v)
	case regIntACK:
		t.interrupt &^= v
		if t.interrupt == 0 {
			t.line(false)
		}
	case regStatus:
		t.writeStatus(v)
	default:
		t.writeQueueRegister(offset, v)
	}
}

// writeQueueRegister changes the selected queue. While it is ready the driver can only stop it, by writing zero to QueueReady, which
// forgets all about it (4.2.2.2).
func (t *Transport) writeQueueRegister(offset uint64, v uint32) {
	q := t.selected()
	switch {
	case q == nil:
		return
	case offset == regQueueReady:
		t.writeQueueReady(q, v)
		return
	case q.ready:
		return
	}
	switch offset {
	case regQueueNum:
		q.size = uint16(min(v, 0xffff))
	case regQueueDescLow:
		setHalf(&q.desc, 0, v)
	case regQueueDescHigh:
		setHalf(&q.desc, 1, v)
	case regQueueAvailLow:
		setHalf(&q.avail, 0, v)
	case regQueueAvailHigh:
		setHalf(&q.avail, 1, v)
	case regQueueUsedLow:
		setHalf(&q.used, 0, v)
	case regQueueUsedHigh:
		setHalf(&q.used, 1, v)
	}
}

func (t *Transport) writeQueueReady(q *Queue, v uint32) {
	if v == 0 && q.ready {
		q.reset()
	}
	if v != 1 || q.ready || t.status&StatusFeaturesOK == 0 {
		return
	}
	if err := q.enable(t.Negotiated(FeatureEventIdx), t.Negotiated(FeatureIndirectDesc)); err != nil {
		t.Fail(err)
	}
}

// writeStatus moves the status machine (3.1). The driver can only add bits, or write zero to reset.
func (t *Transport) writeStatus(v uint32) {
	if v == 0 {
		t.reset()
		return
	}
	v &= statusWritable
	if v&StatusFeaturesOK != 0 && t.status&StatusFeaturesOK == 0 {
		// VIRTIO_F_VERSION_1 is mandatory here (6.1, 6.2), and what was not offered cannot be accepted (2.2.2).
		if t.driverFeatures&FeatureVersion1 == 0 || t.driverFeatures&^t.offered() != 0 {
			v &^= StatusFeaturesOK
		}
	}
	if (t.status|v)&StatusFeaturesOK == 0 {
		v &^= StatusDriverOK
	}
	t.status |= v
}

func (t *Transport) reset() {
	for i := range t.queue {
		t.queue[i].reset()
	}
	*t = Transport{dev: t.dev, line: t.line, queue: t.queue, generation: t.generation}
	t.line(false)
	t.dev.Reset()
}

func (t *Transport) notify(v uint32) {
	if v >= uint32(len(t.queue)) || t.Queue(int(v)) == nil {
		return
	}
	if err := t.dev.Notify(int(v)); err != nil {
		t.Fail(err)
		return
	}
	t.Flush()
}

// MarshalBinary encodes the state of the transport, its queues and its device.
func (t *Transport) MarshalBinary() ([]byte, error) {
	var b []byte
	for _, v := range [...]uint32{t.status, t.deviceFeatSel, t.driverFeatSel, t.queueSel, t.interrupt, t.generation} {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	b = binary.LittleEndian.AppendUint64(b, t.driverFeatures)
	for i := range t.queue {
		b = t.queue[i].append(b)
	}
	return t.dev.AppendBinary(b)
}

// UnmarshalBinary is the inverse of MarshalBinary, for a transport with an equally configured device. Guest memory may be restored
// before or after.
func (t *Transport) UnmarshalBinary(data []byte) error {
	n := *t
	n.err = nil
	n.queue = make([]Queue, len(t.queue))
	r := wire.NewReader(data)
	for _, v := range []*uint32{&n.status, &n.deviceFeatSel, &n.driverFeatSel, &n.queueSel, &n.interrupt, &n.generation} {
		*v = r.Uint32()
	}
	n.driverFeatures = r.Uint64()
	for i := range n.queue {
		n.queue[i].mem, n.queue[i].maxSize = t.queue[i].mem, t.queue[i].maxSize
		n.queue[i].decode(r)
	}
	r.Check(n.status&^(statusWritable|StatusNeedsReset) == 0 && n.interrupt <= intUsedBuffer|intConfigChange)
	if r.Failed() {
		return wire.ErrMalformed
	}
	if err := t.dev.DecodeState(r.Rest()); err != nil {
		return err
	}
	*t = n
	return nil
}
