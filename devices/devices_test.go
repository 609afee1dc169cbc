package devices

import (
	"bytes"
	"encoding"
	"testing"
)

// out and in are one-byte port accesses.
func out(h Handler, offset uint64, v byte) { h.Write(offset, []byte{v}) }

func in(h Handler, offset uint64) byte {
	p := []byte{0}
	h.Read(offset, p)
	return p[0]
}

type state interface {
	encoding.BinaryMarshaler
	encoding.BinaryUnmarshaler
}

func marshal(t testing.TB, s state) []byte {
	t.Helper()
	b, err := s.MarshalBinary()
	if err != nil {
		t.Fatalf("encode %T: %v", s, err)
	}
	return b
}

// checkRestore checks that fresh becomes what old is, and that truncated and extended encodings are refused without effect.
func checkRestore(t testing.TB, old, fresh state) {
	t.Helper()
	want := marshal(t, old)
	before := marshal(t, fresh)
	for _, bad := range [][]byte{nil, want[:len(want)-1], append(bytes.Clone(want), 0)} {
		if err := fresh.UnmarshalBinary(bad); err == nil {
			t.Fatalf("%T accepts a state of %d bytes instead of %d", old, len(bad), len(want))
		}
	}
	if !bytes.Equal(marshal(t, fresh), before) {
		t.Fatalf("%T changed by a state that it refused", old)
	}
	if err := fresh.UnmarshalBinary(want); err != nil {
		t.Fatalf("%T refuses its own state: %v", old, err)
	}
	if got := marshal(t, fresh); !bytes.Equal(got, want) {
		t.Fatalf("%T restored as\n%x, want\n%x", old, got, want)
	}
}

// fuzzUnmarshal checks that any accepted encoding is the canonical one, and that the device then works for a while.
func fuzzUnmarshal(t *testing.T, data []byte, d state, exercise func()) {
	if err := d.UnmarshalBinary(data); err != nil {
		return
	}
	if got := marshal(t, d); !bytes.Equal(got, data) {
		t.Fatalf("state %x is encoded again as %x", data, got)
	}
	exercise()
}

func TestWrongWidthsReadOnesAndWriteNothing(t *testing.T) {
	clock := func() uint64 { return 12345 }
	pic := NewPIC()
	pit := NewPIT(clock, func(bool) {})
	rtc := NewRTC(clock, func(bool) {})
	uart := NewUART(func(bool) {}, func([]byte) { t.Error("a wide write transmits") })
	exit := NewExitPort(func(uint32) { t.Error("a 16-bit or 64-bit write exits") })
	reset := NewResetPort(func() { t.Error("a wide write resets") })
	for name, h := range map[string]Handler{
		"master": pic.Master(), "slave": pic.Slave(), "ELCR": pic.ELCR(), "PIT": pit.Ports(), "port B": pit.PortB(),
		"RTC": rtc, "UART": uart, "exit": exit, "reset": reset, "ignored": Ignored{},
	} {
		for _, width := range []int{2, 4, 8} {
			p := make([]byte, width)
			h.Read(0, p)
			if !bytes.Equal(p, bytes.Repeat([]byte{0xff}, width)) {
				t.Errorf("%s: a read of %d bytes gives %x", name, width, p)
			}
			if name == "exit" && width == 4 {
				continue
			}
			h.Write(0, bytes.Repeat([]byte{0xfe}, width))
		}
		p := []byte{0}
		if h.Read(100, p); p[0] != 0xff {
			t.Errorf("%s: a read beyond the registers gives %x", name, p)
		}
		h.Write(100, []byte{0x55})
	}
	for _, pair := range [][2]state{{pic, NewPIC()}, {pit, NewPIT(clock, nil)}, {rtc, NewRTC(clock, nil)}} {
		if !bytes.Equal(marshal(t, pair[0]), marshal(t, pair[1])) {
			t.Errorf("%T changed by wide writes", pair[0])
		}
	}
}

func TestExitPortTakes8And32Bits(t *testing.T) {
	var got []uint32
	e := NewExitPort(func(code uint32) { got = append(got, code) })
	e.Write(0, []byte{7})
	e.Write(0, []byte{1, 2, 3, 4})
	if len(got) != 2 || got[0] != 7 || got[1] != 0x04030201 {
		t.Errorf("exit codes %x", got)
	}
}

func TestResetPortResetsOnCommandFE(t *testing.T) {
	n := 0
	r := NewResetPort(func() { n++ })
	for v := range 256 {
		out(r, 0, byte(v))
	}
	if n != 1 || in(r, 0) != 0 {
		t.Errorf("%d resets, status %#x", n, in(r, 0))
	}
}

func TestTimerFiresOnceAtItsDeadline(t *testing.T) {
	now, fired := uint64(100), 0
	timer := NewTimer(func() uint64 { return now }, func() { fired++ })
	timer.Write(150)
	if at, ok := timer.Deadline(); !ok || at != 150 || timer.Read() != 150 || fired != 0 {
		t.Fatalf("deadline %d %v, reads %d, fired %d", at, ok, timer.Read(), fired)
	}
	timer.Advance(149)
	if fired != 0 {
		t.Fatal("fired early")
	}
	fresh := NewTimer(timer.clock, timer.fire)
	checkRestore(t, timer, fresh)
	fresh.Advance(150)
	fresh.Advance(200)
	if _, ok := fresh.Deadline(); ok || fired != 1 || fresh.Read() != 0 {
		t.Fatalf("after the deadline: armed %v, fired %d times", ok, fired)
	}
	fresh.Write(100) // not in the future
	if fired != 2 {
		t.Fatal("a past deadline does not fire at once")
	}
	fresh.Write(500)
	fresh.Write(0)
	fresh.Advance(1000)
	if fired != 2 {
		t.Fatal("a disarmed timer fires")
	}
}

func FuzzTimerUnmarshal(f *testing.F) {
	f.Add(make([]byte, 8))
	f.Fuzz(func(t *testing.T, data []byte) {
		d := NewTimer(func() uint64 { return 5 }, func() {})
		fuzzUnmarshal(t, data, d, func() { d.Advance(10); d.Write(3) })
	})
}
