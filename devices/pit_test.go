package devices

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// bench is a PIT with a clock that steps in ticks of its input.
type bench struct {
	*PIT
	tick  uint64
	level bool
	rises int
}

func newBench() *bench {
	b := &bench{}
	b.PIT = NewPIT(func() uint64 { return timeOf(b.tick) }, func(level bool) {
		if level && !b.level {
			b.rises++
		}
		b.level = level
	})
	return b
}

// count reads the 16-bit count of counter 2 by a latch command.
func (b *bench) count() uint16 {
	out(b.Ports(), 3, 0x80)
	lo := in(b.Ports(), 2)
	if b.counters[2].access == 3 {
		return uint16(lo) | uint16(in(b.Ports(), 2))<<8
	}
	return uint16(lo)
}

func (b *bench) out2() bool { return in(b.PortB(), 0)&0x20 != 0 }

// step is one line of a timing diagram: what happens before the clock pulse, and count and output after it.
type step struct {
	do   string // "", "lsb N" , "gate 0", "gate 1"
	want uint16
	out  byte
}

// TestPITTimingDiagrams replays the timing diagrams of the data sheet (figures 15 to 20): each step is one clock pulse.
func TestPITTimingDiagrams(t *testing.T) {
	for _, d := range []struct {
		name    string
		control byte // for counter 2, low byte only
		gate    byte
		steps   []step
	}{
		{"mode 0", 0x90, 1, []step{
			{"lsb 4", 4, 0}, {"", 3, 0}, {"", 2, 0}, {"", 1, 0}, {"", 0, 1}, {"", 0xff, 1}, {"", 0xfe, 1},
		}},
		{"mode 0, gate holds the count", 0x90, 1, []step{
			{"lsb 3", 3, 0}, {"", 2, 0}, {"gate 0", 2, 0}, {"", 2, 0}, {"gate 1", 1, 0}, {"", 0, 1}, {"", 0xff, 1},
		}},
		{"mode 0, new count", 0x90, 1, []step{
			{"lsb 3", 3, 0}, {"", 2, 0}, {"", 1, 0}, {"lsb 2", 2, 0}, {"", 1, 0}, {"", 0, 1}, {"", 0xff, 1},
		}},
		{"mode 1", 0x92, 0, []step{
			{"lsb 3", 0, 1}, {"", 0, 1}, {"gate 1", 3, 0}, {"", 2, 0}, {"", 1, 0}, {"", 0, 1}, {"", 0xff, 1},
			{"gate 0", 0xfe, 1}, {"gate 1", 3, 0}, {"", 2, 0},
		}},
		{"mode 1, triggered again", 0x92, 0, []step{
			{"lsb 3", 0, 1}, {"gate 1", 3, 0}, {"", 2, 0}, {"", 1, 0}, {"gate 0", 0, 1}, {"gate 1", 3, 0}, {"gate 0", 2, 0}, {"gate 1", 3, 0}, {"", 2, 0},
		}},
		{"mode 1, new count", 0x92, 0, []step{
			{"lsb 2", 0, 1}, {"gate 1", 2, 0}, {"", 1, 0}, {"lsb 4", 0, 1}, {"", 0xff, 1}, {"", 0xfe, 1}, {"gate 0", 0xfd, 1}, {"gate 1", 4, 0}, {"", 3, 0},
		}},
		{"mode 2", 0x94, 1, []step{
			{"lsb 3", 3, 1}, {"", 2, 1}, {"", 1, 0}, {"", 3, 1}, {"", 2, 1}, {"", 1, 0}, {"", 3, 1},
		}},
		{"mode 2, gate", 0x94, 1, []step{
			{"lsb 3", 3, 1}, {"", 2, 1}, {"gate 0", 2, 1}, {"gate 1", 3, 1}, {"", 2, 1}, {"", 1, 0}, {"", 3, 1},
		}},
		{"mode 2, new count", 0x94, 1, []step{
			{"lsb 4", 4, 1}, {"", 3, 1}, {"lsb 5", 2, 1}, {"", 1, 0}, {"", 5, 1}, {"", 4, 1}, {"", 3, 1},
		}},
		{"mode 3, even", 0x96, 1, []step{
			{"lsb 4", 4, 1}, {"", 2, 1}, {"", 4, 0}, {"", 2, 0}, {"", 4, 1}, {"", 2, 1}, {"", 4, 0}, {"", 2, 0},
		}},
		{"mode 3, odd", 0x96, 1, []step{
			{"lsb 5", 4, 1}, {"", 2, 1}, {"", 0, 1}, {"", 4, 0}, {"", 2, 0}, {"", 4, 1}, {"", 2, 1}, {"", 0, 1}, {"", 4, 0}, {"", 2, 0},
		}},
		{"mode 3, gate", 0x96, 1, []step{
			{"lsb 4", 4, 1}, {"", 2, 1}, {"", 4, 0}, {"gate 0", 4, 1}, {"", 4, 1}, {"gate 1", 4, 1}, {"", 2, 1}, {"", 4, 0}, {"", 2, 0},
		}},
		{"mode 4", 0x98, 1, []step{
			{"lsb 3", 3, 1}, {"", 2, 1}, {"", 1, 1}, {"", 0, 0}, {"", 0xff, 1}, {"", 0xfe, 1},
		}},
		{"mode 4, gate", 0x98, 0, []step{
			{"lsb 3", 3, 1}, {"", 3, 1}, {"gate 1", 2, 1}, {"", 1, 1}, {"", 0, 0}, {"", 0xff, 1},
		}},
		{"mode 5", 0x9a, 0, []step{
			{"lsb 3", 0, 1}, {"gate 1", 3, 1}, {"", 2, 1}, {"", 1, 1}, {"", 0, 0}, {"", 0xff, 1}, {"gate 0", 0xfe, 1}, {"gate 1", 3, 1},
		}},
	} {
		t.Run(d.name, func(t *testing.T) {
			b := newBench()
			out(b.PortB(), 0, d.gate)
			out(b.Ports(), 3, d.control)
			for i, s := range d.steps {
				var n byte
				if k, _ := fmt.Sscanf(s.do, "lsb %d", &n); k == 1 {
					out(b.Ports(), 2, n)
				} else if k, _ := fmt.Sscanf(s.do, "gate %d", &n); k == 1 {
					out(b.PortB(), 0, n)
				}
				b.tick++
				if got := b.count() & 0xff; got != s.want && !(i < 2 && s.want == 0) {
					t.Errorf("pulse %d (%s): count %#x, want %#x", i, s.do, got, s.want)
				}
				if got := b.out2(); got != (s.out == 1) {
					t.Errorf("pulse %d (%s): output %v, want %d", i, s.do, got, s.out)
				}
			}
		})
	}
}

// TestPITModeThreeNewCount: the new count takes effect at the end of the half cycle.
func TestPITModeThreeNewCount(t *testing.T) {
	b := newBench()
	out(b.PortB(), 0, 1)
	out(b.Ports(), 3, 0x96)
	out(b.Ports(), 2, 6)
	b.tick = 2 // count 4 of the first half
	out(b.Ports(), 2, 4)
	var got []uint16
	var level []bool
	for range 7 {
		b.tick++
		got = append(got, b.count())
		level = append(level, b.out2())
	}
	if want := []uint16{2, 4, 2, 4, 2, 4, 2}; !slices.Equal(got, want) {
		t.Errorf("counts %d, want %d", got, want)
	}
	if want := []bool{true, false, false, true, true, false, false}; !slices.Equal(level, want) {
		t.Errorf("output %v, want %v", level, want)
	}
}

func TestPITPeriodicInterruptRate(t *testing.T) {
	// Linux at HZ=250 loads 4773: 1193182/4773 interrupts per second.
	b := newBench()
	out(b.Ports(), 3, 0x34)
	out(b.Ports(), 0, 4773&0xff)
	out(b.Ports(), 0, 4773>>8)
	const second = nsPerSecond
	b.rises = 0 // the control word itself put the output high
	var last uint64
	for {
		at, ok := b.Deadline()
		if !ok || at <= last {
			t.Fatalf("deadline %d %v after %d", at, ok, last)
		}
		if at > 10*second {
			break
		}
		before := b.rises
		b.Advance(at - 1)
		if b.rises != before {
			t.Fatal("an interrupt comes before its deadline")
		}
		b.Advance(at)
		if b.rises != before+1 {
			t.Fatalf("%d interrupts at the deadline", b.rises-before)
		}
		last = at
	}
	if want := 10 * pitHz / 4773; b.rises != want {
		t.Errorf("%d interrupts in 10 s, want %d", b.rises, want)
	}
}

func TestPITOneShotInterruptsOnce(t *testing.T) {
	for _, control := range []byte{0x30, 0x38} {
		b := newBench()
		out(b.Ports(), 3, control)
		out(b.Ports(), 0, 100)
		out(b.Ports(), 0, 0)
		at, ok := b.Deadline()
		// N+1 pulses after the count is written; mode 4's strobe ends one later.
		want := timeOf(101)
		if control == 0x38 {
			want = timeOf(102)
		}
		if !ok || at != want {
			t.Errorf("control %#x: deadline %d, want %d", control, at, want)
		}
		before := b.rises
		b.Advance(at)
		b.Advance(1 << 40)
		if _, ok := b.Deadline(); ok || b.rises != before+1 {
			t.Errorf("control %#x: %d interrupts, another due: %v", control, b.rises-before, ok)
		}
	}
}

func TestPITReadBack(t *testing.T) {
	b := newBench()
	out(b.Ports(), 3, 0x34)
	out(b.Ports(), 3, 0xe2) // status of counter 0
	if got := in(b.Ports(), 0); got != 0xf4 {
		t.Errorf("status before the count is written %#x, want output, null count, both bytes, mode 2", got)
	}
	out(b.Ports(), 0, 0x10)
	out(b.Ports(), 0, 0x02)
	b.tick += 3
	out(b.Ports(), 3, 0xc2) // status and count
	b.tick += 100
	status, lo, hi := in(b.Ports(), 0), in(b.Ports(), 0), in(b.Ports(), 0)
	if status != 0xb4 || lo != 0x0e || hi != 0x02 {
		t.Errorf("read back %#x %#x %#x, want b4 0e 02", status, lo, hi)
	}
}

func TestPITCountsInBCD(t *testing.T) {
	b := newBench()
	out(b.PortB(), 0, 1)
	out(b.Ports(), 3, 0xb1) // counter 2, both bytes, mode 0, BCD
	out(b.Ports(), 2, 0x00)
	out(b.Ports(), 2, 0x10) // one thousand
	b.tick += 2
	if got := b.count(); got != 0x0999 {
		t.Errorf("1000 minus 1 reads %04x", got)
	}
	b.tick += 1000
	if got := b.count(); got != 0x9999 || !b.out2() {
		t.Errorf("after the end: %04x, output %v", got, b.out2())
	}
}

func TestPITLatchHoldsUntilRead(t *testing.T) {
	b := newBench()
	out(b.Ports(), 3, 0x30)
	out(b.Ports(), 0, 0xe8)
	out(b.Ports(), 0, 0x03)
	b.tick = 1
	out(b.Ports(), 3, 0x00)
	b.tick = 500
	out(b.Ports(), 3, 0x00) // ignored: the first has not been read
	if lo, hi := in(b.Ports(), 0), in(b.Ports(), 0); lo != 0xe8 || hi != 0x03 {
		t.Errorf("latched %02x%02x, want 03e8", hi, lo)
	}
	if lo, hi := in(b.Ports(), 0), in(b.Ports(), 0); uint16(lo)|uint16(hi)<<8 != 1000-499 {
		t.Errorf("live count %02x%02x, want 501", hi, lo)
	}
}

func TestPITPortB(t *testing.T) {
	b := newBench()
	out(b.PortB(), 0, 0xff)
	if got := in(b.PortB(), 0) &^ 0x30; got != 0x0f {
		t.Errorf("port B reads %#x", got)
	}
	var toggles int
	last := byte(0)
	for b.tick = range uint64(pitHz / 100) {
		if v := in(b.PortB(), 0) & 0x10; v != last {
			toggles, last = toggles+1, v
		}
	}
	if toggles < 650 || toggles > 670 {
		t.Errorf("the refresh bit toggles %d times in 10 ms, want about 663", toggles)
	}
}

func TestTickArithmetic(t *testing.T) {
	for _, ns := range []uint64{0, 1, 838, 839, nsPerSecond, 3600 * nsPerSecond, 1 << 63, ^uint64(0)} {
		tick := tickAt(ns)
		if at := timeOf(tick); at > ns || tickAt(at) != tick {
			t.Errorf("tick %d at %d ns begins at %d", tick, ns, at)
		}
		if next := timeOf(tick + 1); next <= ns && next != never {
			t.Errorf("tick %d begins at %d, not after %d", tick+1, next, ns)
		}
	}
	if tickAt(nsPerSecond) != pitHz {
		t.Error("a second does not have 1193182 ticks")
	}
	if timeOf(1<<62) != never {
		t.Error("a tick after the end of time has a time")
	}
}

// chipModel is an 8254 counter that is stepped pulse by pulse, written from the data sheet's text as an independent check of the
// computed one. It does binary counts, low byte access.
type chipModel struct {
	mode                 byte
	gate, trigger        bool
	cr, ce               int
	haveCR, load         bool
	counting, outLevel   bool
	strobed, reloadFirst bool
}

func (m *chipModel) program(mode byte) {
	*m = chipModel{mode: mode, gate: m.gate, outLevel: mode != 0}
}

func (m *chipModel) write(n int) {
	first := !m.haveCR
	m.cr, m.haveCR = n, true
	switch m.mode {
	case 0:
		m.outLevel = false
		m.load = true
	case 4:
		m.load = true
	case 2, 3:
		if first {
			m.load = true
		}
	}
}

func (m *chipModel) setGate(g bool) {
	if g && !m.gate {
		m.trigger = true
		if m.haveCR && m.mode != 0 && m.mode != 4 {
			m.load = true
		}
	}
	m.gate = g
	if !g && (m.mode == 2 || m.mode == 3) {
		m.outLevel = true
	}
}

// pulse is one clock pulse.
func (m *chipModel) pulse() {
	if m.load {
		m.load, m.counting, m.strobed = false, true, false
		m.ce = m.cr
		if m.mode == 3 {
			m.ce &^= 1
			m.outLevel = true
		}
		if m.mode == 1 {
			m.outLevel = false
		}
		if m.mode == 2 || m.mode == 4 || m.mode == 5 {
			m.outLevel = true
		}
		return
	}
	if !m.counting || !m.gate && m.mode != 1 && m.mode != 5 {
		return
	}
	switch m.mode {
	case 0, 1:
		m.ce = (m.ce - 1) & 0xffff
		if m.ce == 0 {
			m.outLevel = true
		}
	case 2:
		if m.ce == 1 {
			m.ce, m.outLevel = m.cr, true
		} else {
			m.ce--
			m.outLevel = m.ce != 1
		}
	case 3:
		m.pulseSquare()
	case 4, 5:
		m.ce = (m.ce - 1) & 0xffff
		m.outLevel = true
		if m.ce == 0 && !m.strobed {
			m.outLevel, m.strobed = false, true
		}
	}
}

func (m *chipModel) pulseSquare() {
	end := 2
	if m.outLevel && m.reloadOdd() {
		end = 0
	}
	if m.ce == end {
		m.ce, m.outLevel = m.cr&^1, !m.outLevel
		m.reloadFirst = m.cr&1 != 0
		return
	}
	m.ce -= 2
}

// reloadOdd reports whether the count that the current half cycle runs on is odd.
func (m *chipModel) reloadOdd() bool { return m.reloadFirst }

// TestPITAgreesWithSteppedModel runs random programs against chipModel. Mode 3 with a count changed while it runs is left to
// TestPITModeThreeNewCount, since the model keeps no copy of the old count.
func TestPITAgreesWithSteppedModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := newBench()
		var m chipModel
		out(b.Ports(), 3, 0x90)
		m.program(0)
		for range rapid.IntRange(1, 60).Draw(t, "operations") {
			switch rapid.SampledFrom([]string{"program", "count", "gate", "run", "run", "run"}).Draw(t, "operation") {
			case "program":
				mode := rapid.ByteRange(0, 5).Draw(t, "mode")
				out(b.Ports(), 3, 0x90|mode<<1)
				m.program(mode)
			case "count":
				if m.mode == 3 && m.haveCR {
					continue
				}
				n := rapid.ByteRange(2, 12).Draw(t, "count")
				out(b.Ports(), 2, n)
				m.write(int(n))
				m.reloadFirst = n&1 != 0
			case "gate":
				g := rapid.Bool().Draw(t, "gate")
				v := byte(0)
				if g {
					v = 1
				}
				out(b.PortB(), 0, v)
				m.setGate(g)
			case "run":
				for range rapid.IntRange(1, 30).Draw(t, "pulses") {
					rise := b.counters[2].nextRise(b.tick)
					was := m.outLevel
					b.tick++
					m.pulse()
					if b.out2() != m.outLevel {
						t.Fatalf("mode %d, tick %d: output %v, want %v", m.mode, b.tick, b.out2(), m.outLevel)
					}
					if m.counting && b.count() != uint16(m.ce&0xff) && m.mode < 6 {
						t.Fatalf("mode %d, tick %d: count %#x, want %#x", m.mode, b.tick, b.count(), m.ce)
					}
					if rose := m.outLevel && !was; rose != (rise == b.tick) {
						t.Fatalf("mode %d, tick %d: rises %v, foretold for %d", m.mode, b.tick, rose, rise)
					}
				}
			}
		}
	})
}

// pitOps applies a byte string as register accesses and time.
func pitOps(p *PIT, now *uint64, ops []byte) {
	for len(ops) >= 2 {
		op, v := ops[0], ops[1]
		ops = ops[2:]
		switch op >> 4 & 3 {
		case 0:
			out(p.Ports(), uint64(op&3), v)
		case 1:
			in(p.Ports(), uint64(op&3))
			in(p.PortB(), 0)
		case 2:
			out(p.PortB(), 0, v)
		case 3:
			*now += uint64(v) << (op & 15)
			p.Advance(*now)
		}
	}
}

func FuzzPIT(f *testing.F) {
	f.Add([]byte{3, 0x34, 0, 0xa5, 0, 0x12, 0x38, 200, 0x13, 0, 3, 0xe2, 0x10, 0, 0x20, 3})
	f.Add([]byte{3, 0xb6, 2, 7, 2, 0, 0x20, 1, 0x31, 9, 2, 5, 2, 0, 0x33, 2, 0x20, 0, 0x20, 1})
	f.Fuzz(func(t *testing.T, ops []byte) {
		var now uint64
		p := NewPIT(func() uint64 { return now }, func(bool) {})
		pitOps(p, &now, ops)
		fresh := NewPIT(p.clock, p.line)
		checkRestore(t, p, fresh)
		for range 4 {
			at, ok := p.Deadline()
			if again, okAgain := fresh.Deadline(); again != at || okAgain != ok {
				t.Fatalf("deadline %d %v, restored %d %v", at, ok, again, okAgain)
			}
			if !ok {
				break
			}
			now = at
			p.Advance(at)
			fresh.Advance(at)
			if next, ok := p.Deadline(); ok && next <= at {
				t.Fatalf("deadline %d stays after it was reached", next)
			}
		}
	})
}

func FuzzPITUnmarshal(f *testing.F) {
	f.Add(marshal(f, NewPIT(nil, nil)))
	f.Fuzz(func(t *testing.T, data []byte) {
		now := uint64(1e9)
		p := NewPIT(func() uint64 { return now }, func(bool) {})
		fuzzUnmarshal(t, data, p, func() {
			for i := range 64 {
				now += 1 << i
				pitOps(p, &now, []byte{0x10, 0, 0x11, 0, 0x12, 0, 0x20, byte(i), 0, byte(i), 2, byte(i), 3, byte(i * 37), 0x30, 1})
				p.Deadline()
			}
		})
	})
}

func BenchmarkPITDeadline(b *testing.B) {
	n := newBench()
	out(n.Ports(), 3, 0x34)
	out(n.Ports(), 0, 0)
	out(n.Ports(), 0, 0)
	b.ReportAllocs()
	for b.Loop() {
		n.tick++
		n.Deadline()
		n.Advance(timeOf(n.tick))
	}
}
