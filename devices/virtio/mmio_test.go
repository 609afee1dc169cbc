package virtio

import (
	"bytes"
	"errors"
	"testing"
)

// echo is a device that copies what it reads to what it may write.
type echo struct {
	bus    Bus
	chain  Chain
	config [8]byte
	resets int
	notify func(int) error
}

func (e *echo) ID() uint32                            { return 77 }
func (e *echo) Features() uint64                      { return 1<<3 | 1<<40 }
func (e *echo) QueueSizes() []uint16                  { return []uint16{8, 16} }
func (e *echo) ReadConfig(o uint64, p []byte)         { readConfig(e.config[:], o, p) }
func (e *echo) WriteConfig(o uint64, p []byte)        { copy(e.config[min(o, 8):], p) }
func (e *echo) Attach(b Bus)                          { e.bus = b }
func (e *echo) Reset()                                { e.resets++ }
func (e *echo) AppendBinary(b []byte) ([]byte, error) { return append(b, e.config[:]...), nil }
func (e *echo) DecodeState(data []byte) error {
	if len(data) != 8 {
		return errors.New("wrong length")
	}
	copy(e.config[:], data)
	return nil
}

func (e *echo) Notify(queue int) error {
	if e.notify != nil {
		return e.notify(queue)
	}
	q := e.bus.Queue(queue)
	for {
		ok, err := q.Pop(&e.chain)
		if !ok || err != nil {
			return err
		}
		for data := e.chain.NextRead(MaxChainBytes); data != nil; data = e.chain.NextRead(MaxChainBytes) {
			e.chain.Write(data)
		}
		if err := q.Push(&e.chain); err != nil {
			return err
		}
	}
}

func TestTransportIdentity(t *testing.T) {
	d := newDriver(t, &echo{})
	for reg, want := range map[uint64]uint32{
		regMagic: 0x74726976, regVersion: 2, regDeviceID: 77, regVendorID: vendorID, regStatus: 0, regGeneration: 0,
		regSHMLenLow: 0xffffffff, regSHMLenLow + 4: 0xffffffff, 0xff0 - 0xf00 + 8: 0,
	} {
		if got := d.get(reg); got != want {
			t.Errorf("register %#x reads %#x, want %#x", reg, got, want)
		}
	}
	if got := d.offered(); got != 1<<3|1<<40|FeatureIndirectDesc|FeatureEventIdx|FeatureVersion1 {
		t.Errorf("features %#x", got)
	}
	d.set(regDeviceFeatSel, 2)
	if d.get(regDeviceFeatures) != 0 {
		t.Error("features beyond bit 63")
	}
	for sel, want := range map[uint32]uint32{0: 8, 1: 16, 2: 0, 0xffffffff: 0} {
		d.set(regQueueSel, sel)
		if got := d.get(regQueueNumMax); got != want {
			t.Errorf("queue %d has size %d, want %d", sel, got, want)
		}
	}
}

func TestTransportAccessWidths(t *testing.T) {
	e := &echo{config: [8]byte{1, 2, 3, 4, 5, 6, 7, 8}}
	d := newDriver(t, e)
	for _, width := range []int{1, 2, 8} {
		p := make([]byte, width)
		d.tr.Read(regMagic, p)
		if !bytes.Equal(p, bytes.Repeat([]byte{0xff}, width)) {
			t.Errorf("a register read of %d bytes gives %x", width, p)
		}
		d.tr.Write(regStatus, bytes.Repeat([]byte{1}, width))
		p = make([]byte, width)
		d.tr.Read(regConfig, p)
		if !bytes.Equal(p, e.config[:width]) {
			t.Errorf("a configuration read of %d bytes gives %x", width, p)
		}
	}
	if d.get(regStatus) != 0 {
		t.Error("a register write of a wrong width has an effect")
	}
	p := []byte{9, 9, 9, 9}
	if d.tr.Read(regMagic+2, p); !bytes.Equal(p, []byte{0xff, 0xff, 0xff, 0xff}) {
		t.Errorf("a misaligned read gives %x", p)
	}
	if d.tr.Read(regConfig+6, p); !bytes.Equal(p, []byte{7, 8, 0, 0}) {
		t.Errorf("a configuration read over the end gives %x", p)
	}
	if d.tr.Read(WindowSize, p); !bytes.Equal(p, []byte{0xff, 0xff, 0xff, 0xff}) {
		t.Errorf("a read beyond the window gives %x", p)
	}
	d.tr.Write(regConfig+1, []byte{0xaa, 0xbb})
	if e.config != [8]byte{1, 0xaa, 0xbb, 4, 5, 6, 7, 8} {
		t.Errorf("configuration %x after a write", e.config)
	}
}

func TestTransportFeatureNegotiation(t *testing.T) {
	d := newDriver(t, &echo{})
	if d.negotiate(1 << 3) {
		t.Error("a driver without VERSION_1 is accepted")
	}
	if d.negotiate(FeatureVersion1 | 1<<7) {
		t.Error("a feature that was not offered is accepted")
	}
	if !d.negotiate(FeatureVersion1 | 1<<40) {
		t.Error("a subset is refused")
	}
	d.set(regDriverFeatSel, 0)
	d.set(regDriverFeatures, 1<<3)
	if d.tr.Negotiated(1<<3) || !d.tr.Negotiated(1<<40) {
		t.Error("features change after FEATURES_OK")
	}
	d.set(regStatus, StatusAcknowledge)
	if d.get(regStatus) != StatusAcknowledge|StatusDriver|StatusFeaturesOK {
		t.Errorf("the driver clears status bits: %#x", d.get(regStatus))
	}
}

func TestTransportDriverOKNeedsFeaturesOK(t *testing.T) {
	d := newDriver(t, &echo{})
	d.set(regStatus, StatusAcknowledge|StatusDriver|StatusDriverOK)
	if d.get(regStatus)&StatusDriverOK != 0 {
		t.Error("DRIVER_OK without FEATURES_OK")
	}
}

func TestTransportRefusesBadQueues(t *testing.T) {
	for name, q := range map[string]struct {
		size              uint32
		desc, avail, used uint64
	}{
		"size zero":              {0, 0x1000, 0x2000, 0x3000},
		"size not a power of 2":  {6, 0x1000, 0x2000, 0x3000},
		"size too large":         {16, 0x1000, 0x2000, 0x3000},
		"size beyond 16 bits":    {0x10008, 0x1000, 0x2000, 0x3000},
		"descriptors misaligned": {8, 0x1008, 0x2000, 0x3000},
		"available misaligned":   {8, 0x1000, 0x2001, 0x3000},
		"used misaligned":        {8, 0x1000, 0x2000, 0x3002},
		"descriptors outside":    {8, 4 << 20, 0x2000, 0x3000},
		"available crosses end":  {8, 0x1000, 4<<20 - 4, 0x3000},
		"used wraps":             {8, 0x1000, 0x2000, ^uint64(3)},
		"used above 4 GiB":       {8, 0x1000, 0x2000, 1<<32 + 0x3000},
	} {
		d := newDriver(t, &echo{})
		d.negotiate(d.offered())
		d.set(regQueueSel, 0)
		d.set(regQueueNum, q.size)
		for reg, v := range map[uint64]uint64{regQueueDescLow: q.desc, regQueueAvailLow: q.avail, regQueueUsedLow: q.used} {
			d.set(reg, uint32(v))
			d.set(reg+4, uint32(v>>32))
		}
		d.set(regQueueReady, 1)
		if d.get(regQueueReady) != 0 || !d.broken() || !errors.Is(d.tr.Err(), ErrQueue) {
			t.Errorf("%s: ready %d, status %#x, error %v", name, d.get(regQueueReady), d.get(regStatus), d.tr.Err())
		}
	}
}

func TestTransportEchoes(t *testing.T) {
	const laps = 70000 // more than the 16-bit indexes count
	for name, without := range map[string]uint64{
		"all features": 0, "no event index": FeatureEventIdx, "no indirect": FeatureIndirectDesc, "neither": FeatureEventIdx | FeatureIndirectDesc,
	} {
		t.Run(name, func(t *testing.T) {
			d := newDriver(t, &echo{}).start(without)
			rounds := 500
			if without == 0 {
				rounds = laps
			}
			for i := range rounds {
				want := []byte{byte(i), byte(i >> 8), 3}
				got := d.call(i&1, send(want[:1]), send(want[1:]), receive(1), receive(5))
				if got.length != 3 || !bytes.Equal(got.data[:3], want) {
					t.Fatalf("round %d: %d bytes %x, want %x", i, got.length, got.data, want)
				}
				if !d.level || d.ack() != intUsedBuffer || d.level {
					t.Fatalf("round %d: the interrupt does not come or go", i)
				}
			}
		})
	}
}

func TestTransportMarksWhatItWrites(t *testing.T) {
	d := newDriver(t, &echo{}).start(0)
	d.add(0, send([]byte("marks")), receive(3), receive(9))
	d.mem.watch()
	d.kick(0)
	d.mem.checkMarks(t)
}

func TestTransportSuppressesInterrupts(t *testing.T) {
	d := newDriver(t, &echo{}).start(FeatureEventIdx)
	le.PutUint16(d.mem.bytes[d.rings[0].avail:], availNoInterrupt)
	d.call(0, send([]byte{1}), receive(1))
	if d.level {
		t.Error("an interrupt comes against the available ring's flag")
	}

	d = newDriver(t, &echo{}).start(0)
	r := d.rings[0]
	le.PutUint16(d.mem.bytes[r.avail+4+2*uint64(r.size):], 2) // wants one when the third comes back
	for i, want := range []bool{false, false, true} {
		d.add(0, send([]byte{1}), receive(1))
		d.kick(0)
		if d.level != want {
			t.Errorf("interrupt %v after chain %d came back", d.level, i)
		}
	}
}

// TestTransportEventIndexSavesNotifications: while the device does not take from the queue, only the first addition notifies.
func TestTransportEventIndexSavesNotifications(t *testing.T) {
	e := &echo{notify: func(int) error { return nil }}
	d := newDriver(t, e).start(0)
	kicks := 0
	for range 6 {
		d.add(0, receive(16))
		if d.wantsKick(0, 1) {
			kicks++
			d.kick(0)
		}
	}
	if kicks != 1 {
		t.Errorf("%d notifications", kicks)
	}
	e.notify = nil
	d.kick(0)
	if got := len(d.collect(0)); got != 6 {
		t.Errorf("%d chains came back", got)
	}
	d.add(0, receive(16))
	if !d.wantsKick(0, 1) {
		t.Error("the device sleeps with an empty queue")
	}
}

func TestTransportReset(t *testing.T) {
	e := &echo{}
	d := newDriver(t, e).start(0)
	d.add(0, send([]byte{1}), receive(1))
	d.kick(0)
	resets := e.resets
	d.set(regStatus, 0)
	if d.level || d.get(regStatus) != 0 || d.get(regIntStatus) != 0 || d.get(regQueueReady) != 0 || e.resets != resets+1 {
		t.Error("reset leaves something behind")
	}
	d.kick(0)
	d.start(0)
	if got := d.call(1, send([]byte("again")), receive(5)); string(got.data) != "again" {
		t.Errorf("after reset: %q", got.data)
	}
}

func TestTransportStopsAQueue(t *testing.T) {
	d := newDriver(t, &echo{}).start(0)
	d.call(0, send([]byte("x")), receive(1))
	d.set(regQueueSel, 0)
	d.set(regQueueNum, 2) // ignored while it runs
	d.set(regQueueReady, 0)
	if d.get(regQueueReady) != 0 || d.tr.Queue(0) != nil || d.tr.Queue(1) == nil {
		t.Error("the queue does not stop, or the other does")
	}
	d.add(0, send([]byte("y")), receive(1))
	d.kick(0)
	if len(d.collect(0)) != 0 || d.broken() {
		t.Error("a stopped queue works")
	}
	if got := d.call(1, send([]byte("z")), receive(1)); string(got.data) != "z" {
		t.Error("the other queue does not work")
	}
}

func TestTransportConfigChange(t *testing.T) {
	e := &echo{}
	d := newDriver(t, e)
	e.bus.ConfigChanged()
	if d.level {
		t.Error("a configuration interrupt before DRIVER_OK")
	}
	d.start(0)
	before := d.get(regGeneration)
	e.bus.ConfigChanged()
	if !d.level || d.ack() != intConfigChange || d.get(regGeneration) == before {
		t.Error("a configuration change does not show")
	}
}

func TestTransportIgnoresNotificationsThatMakeNoSense(t *testing.T) {
	e := &echo{notify: func(int) error { t.Error("notified"); return nil }}
	d := newDriver(t, e)
	d.kick(0)
	d.negotiate(d.offered())
	d.kick(0)
	d.set(regStatus, StatusAcknowledge|StatusDriver|StatusFeaturesOK|StatusDriverOK)
	d.kick(0) // not ready
	d.kick(2)
	d.kick(-1)
}

func TestTransportStopsAfterAnError(t *testing.T) {
	e := &echo{notify: func(int) error { return queueError("of the test") }}
	d := newDriver(t, e).start(0)
	d.kick(0)
	if !d.broken() || !d.level || d.ack() != intConfigChange {
		t.Fatalf("status %#x", d.get(regStatus))
	}
	e.notify = func(int) error { t.Error("a broken device is notified"); return nil }
	d.kick(0)
	if e.bus.Queue(0) != nil {
		t.Error("a broken device has queues")
	}
	d.set(regStatus, 0)
	if d.broken() || d.tr.Err() != nil {
		t.Error("reset does not mend the device")
	}
}

func TestTransportSnapshotInFlight(t *testing.T) {
	e := &echo{notify: func(int) error { return nil }}
	d := newDriver(t, e).start(0)
	d.call2(0)
	n := d.checkRestore(&echo{})
	n.kick(0)
	if got := n.collect(0); len(got) != 2 || string(got[0].data) != "one" || string(got[1].data) != "two" {
		t.Errorf("after the restore: %v", got)
	}
}

// call2 makes two chains available that stay there.
func (d *driver) call2(queue int) {
	d.add(queue, send([]byte("one")), receive(3))
	d.kick(queue)
	d.add(queue, send([]byte("two")), receive(3))
}

// registerOps applies a byte string as register accesses.
func registerOps(d *driver, ops []byte) {
	for len(ops) >= 6 {
		reg := uint64(ops[0])<<2 | uint64(ops[1])<<10&0xc00
		v := le.Uint32(ops[2:])
		switch ops[1] >> 6 {
		case 0, 1:
			d.set(reg, v)
		case 2:
			d.get(reg)
		case 3:
			width := 1 << (v & 3)
			d.tr.Read(reg, make([]byte, width))
			d.tr.Write(reg, bytes.Repeat([]byte{ops[2]}, width))
		}
		ops = ops[6:]
	}
}

// initSequence are the register writes of a plain initialisation, for the seed corpus.
func initSequence() []byte {
	var b []byte
	w := func(reg uint64, v uint32) { b = le.AppendUint32(append(b, byte(reg>>2), byte(reg>>10)), v) }
	w(regStatus, 1)
	w(regStatus, 3)
	w(regDriverFeatures, FeatureEventIdx|FeatureIndirectDesc)
	w(regDriverFeatSel, 1)
	w(regDriverFeatures, 1)
	w(regStatus, 11)
	for q := range uint32(4) {
		w(regQueueSel, q)
		w(regQueueNum, 8)
		w(regQueueDescLow, 0x1000)
		w(regQueueAvailLow, 0x2000)
		w(regQueueUsedLow, 0x3000)
		w(regQueueReady, 1)
	}
	w(regStatus, 15)
	for q := range uint32(4) {
		w(regQueueNotify, q)
	}
	w(regIntACK, 3)
	return b
}

func FuzzRegisters(f *testing.F) {
	f.Add(initSequence())
	f.Fuzz(func(t *testing.T, ops []byte) {
		d := newSmallDriver(t, NewConsole([]ConsolePort{{Name: "a", Console: true}, {Name: "b"}}))
		registerOps(d, ops)
		d.checkRestore(NewConsole([]ConsolePort{{Name: "a", Console: true}, {Name: "b"}}))
		if d.level != (d.get(regIntStatus) != 0) {
			t.Fatal("the line disagrees with the interrupt status")
		}
	})
}
