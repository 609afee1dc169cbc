package virtio

import (
	"errors"
	"testing"
	"time"
)

// hostile brings an echo device up with plain descriptors in reach of the test, fills the first descriptors and notifies.
func hostile(t testing.TB, without uint64, descs ...[4]uint64) *driver {
	d := newDriver(t, &echo{}).start(without)
	for i, s := range descs {
		d.writeDesc(d.rings[0].desc, uint16(i), s[0], int(s[1]), uint16(s[2]), uint16(s[3]))
	}
	d.offer(0, 0)
	return d
}

func TestQueueRefusesHostileChains(t *testing.T) {
	const buf = 0x100000
	for name, c := range map[string]struct {
		without uint64
		descs   [][4]uint64
		setup   func(*driver)
	}{
		"a loop onto itself":           {0, [][4]uint64{{buf, 1, descNext, 0}}, nil},
		"a loop of two":                {0, [][4]uint64{{buf, 1, descNext, 1}, {buf, 1, descNext, 0}}, nil},
		"next out of range":            {0, [][4]uint64{{buf, 1, descNext, 8}}, nil},
		"next far out of range":        {0, [][4]uint64{{buf, 1, descNext, 0xffff}}, nil},
		"buffer outside memory":        {0, [][4]uint64{{4 << 20, 1, 0, 0}}, nil},
		"buffer across the end":        {0, [][4]uint64{{4<<20 - 1, 2, 0, 0}}, nil},
		"buffer wraps around":          {0, [][4]uint64{{^uint64(0), 2, 0, 0}}, nil},
		"buffer of 4 GiB":              {0, [][4]uint64{{0, 0xffffffff, 0, 0}}, nil},
		"readable after writable":      {0, [][4]uint64{{buf, 1, descNext | descWrite, 1}, {buf, 1, 0, 0}}, nil},
		"indirect without the feature": {FeatureIndirectDesc, [][4]uint64{{buf, 16, descIndirect, 0}}, nil},
		"indirect with next":           {0, [][4]uint64{{buf, 16, descIndirect | descNext, 1}, {buf, 1, 0, 0}}, nil},
		"indirect empty":               {0, [][4]uint64{{buf, 0, descIndirect, 0}}, nil},
		"indirect of odd size":         {0, [][4]uint64{{buf, 17, descIndirect, 0}}, nil},
		"indirect larger than queue":   {0, [][4]uint64{{buf, 16 * 9, descIndirect, 0}}, nil},
		"indirect of 4 GiB":            {0, [][4]uint64{{0, 0xfffffff0, descIndirect, 0}}, nil},
		"indirect outside memory":      {0, [][4]uint64{{4 << 20, 16, descIndirect, 0}}, nil},
		"indirect in indirect":         {0, [][4]uint64{{buf, 16, descIndirect, 0}}, func(d *driver) { d.writeDesc(buf, 0, buf, 16, descIndirect, 0) }},
		"indirect next out of table":   {0, [][4]uint64{{buf, 16, descIndirect, 0}}, func(d *driver) { d.writeDesc(buf, 0, buf, 1, descNext, 1) }},
		"indirect loop":                {0, [][4]uint64{{buf, 32, descIndirect, 0}}, func(d *driver) { d.writeDesc(buf, 0, buf, 1, descNext, 0) }},
		"chain then indirect, too long": {0, [][4]uint64{{buf, 1, descNext, 1}, {buf, 128, descIndirect, 0}}, func(d *driver) {
			for i := range uint16(8) {
				d.writeDesc(buf, i, buf, 1, descNext, (i+1)%8)
			}
		}},
		"head out of range": {0, nil, func(d *driver) { d.offer(0, 8) }},
		"index runs ahead":  {0, nil, func(d *driver) { le.PutUint16(d.mem.bytes[d.rings[0].avail+2:], 9) }},
		"index runs back":   {0, nil, func(d *driver) { le.PutUint16(d.mem.bytes[d.rings[0].avail+2:], 0xffff) }},
		"too many bytes":    {0, [][4]uint64{{0, 4 << 20, descNext, 1}, {0, 4 << 20, descNext, 2}, {0, 4 << 20, descNext, 3}, {0, 4 << 20, descNext, 4}, {0, 1, 0, 0}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			d := hostile(t, c.without, c.descs...)
			if c.setup != nil {
				c.setup(d)
			}
			start := time.Now()
			d.kick(0)
			if !d.broken() || !errors.Is(d.tr.Err(), ErrQueue) {
				t.Errorf("status %#x, error %v", d.get(regStatus), d.tr.Err())
			}
			if time.Since(start) > time.Second {
				t.Error("it takes too long")
			}
			d.start(0)
			if got := d.call(0, send([]byte("fine")), receive(4)); string(got.data) != "fine" {
				t.Error("the device does not work after a reset")
			}
		})
	}
}

func TestQueueAcceptsUnusualChains(t *testing.T) {
	const buf = 0x100000
	for name, c := range map[string]struct {
		descs [][4]uint64
		setup func(*driver)
		want  uint32
	}{
		"empty buffers": {[][4]uint64{{buf, 0, descNext, 1}, {buf, 3, descNext, 2}, {buf, 0, descNext | descWrite, 3}, {buf + 9, 5, descWrite, 0}}, nil, 3},
		"chain then indirect": {[][4]uint64{{buf, 2, descNext, 1}, {buf + 64, 32, descIndirect | descWrite, 0}}, func(d *driver) {
			d.writeDesc(buf+64, 0, buf+32, 1, descNext, 1)
			d.writeDesc(buf+64, 1, buf+48, 9, descWrite, 0)
		}, 3},
		"a full queue": {[][4]uint64{
			{buf, 1, descNext, 1}, {buf, 1, descNext, 2}, {buf, 1, descNext, 3}, {buf, 1, descNext, 4},
			{buf, 1, descNext, 5}, {buf, 1, descNext, 6}, {buf, 1, descNext, 7}, {buf + 9, 9, descWrite, 0},
		}, nil, 7},
	} {
		d := hostile(t, 0, c.descs...)
		if c.setup != nil {
			c.setup(d)
		}
		d.kick(0)
		if used := d.mem.bytes[d.rings[0].used:]; d.broken() || le.Uint16(used[2:]) != 1 || le.Uint32(used[8:]) != c.want {
			t.Errorf("%s: %v, used %x", name, d.tr.Err(), used[:12])
		}
	}
}

// FuzzQueue gives a device a guest memory full of fuzz: rings at fixed places, any content, several notifications.
func FuzzQueue(f *testing.F) {
	seed := make([]byte, 3*0x100)
	le.PutUint64(seed[0:], 0x180)
	le.PutUint32(seed[8:], 0x40)
	le.PutUint16(seed[12:], descNext)
	le.PutUint16(seed[14:], 1)
	le.PutUint64(seed[16:], 0x1c0)
	le.PutUint32(seed[24:], 0x40)
	le.PutUint16(seed[28:], descWrite)
	le.PutUint16(seed[0x102:], 1)
	f.Add(seed, uint8(0), false)
	f.Add(seed, uint8(1), true)
	f.Fuzz(func(t *testing.T, memory []byte, which uint8, event bool) {
		devices := []func() Device{
			func() Device { return &echo{} },
			func() Device {
				disk, _ := NewDisk(zeros{}, 64<<10, 4)
				return NewBlock(disk, BlockOptions{ID: "fuzz"})
			},
			func() Device {
				r := NewRNG()
				r.key, r.seeded = [32]byte{1}, true
				return r
			},
			func() Device { return NewConsole([]ConsolePort{{Name: "fuzz"}, {}}) },
		}
		d := newSmallDriver(t, devices[int(which)%len(devices)]())
		copy(d.mem.bytes, memory)
		features := d.offered()
		if !event {
			features &^= FeatureEventIdx
		}
		if !d.negotiate(features) {
			t.Fatal("features refused")
		}
		for q := range d.tr.queue {
			d.set(regQueueSel, uint32(q))
			d.set(regQueueNum, 8)
			base := uint32(q) * 0x300
			d.set(regQueueDescLow, base)
			d.set(regQueueAvailLow, base+0x100)
			d.set(regQueueUsedLow, base+0x140)
			d.set(regQueueReady, 1)
		}
		d.set(regStatus, StatusAcknowledge|StatusDriver|StatusFeaturesOK|StatusDriverOK)
		d.mem.watch()
		for q := range d.tr.queue {
			d.kick(q)
			d.kick(q)
		}
		d.mem.checkMarks(t)
		if d.level != (d.get(regIntStatus) != 0) {
			t.Fatal("the line disagrees with the interrupt status")
		}
	})
}

// zeros is an image without content.
type zeros struct{}

func (zeros) ReadAt(p []byte, _ int64) (int, error) {
	clear(p)
	return len(p), nil
}
