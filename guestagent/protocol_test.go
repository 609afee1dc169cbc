package guestagent

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// samples holds one message of every type.
func samples() []Message {
	return []Message{
		&Ready{Version: Version, CUSE: true},
		&Started{PID: 42},
		&StdinWanted{N: 4096},
		&Exited{Code: 3, UserTime: 1, SystemTime: 2, MaxRSS: 1 << 20},
		&Failed{Stage: "exec", Errno: 2, Message: "no such command", ExitCode: ExitNotFound},
		&Start{
			Argv: []string{"sh", "-c", "echo hi"}, Env: []string{"A=b", "C="}, Cwd: "/", User: "nobody:1", Hostname: "h",
			WallClock: 1_700_000_000_000_000_000, Seed: [SeedSize]byte{1, 2, 63: 9}, Stdin: StdinTTY, Rows: 24, Cols: 80,
			Root: RootBlock, RootDevice: 1, Disks: []Disk{{Device: 2, Path: "/data", ReadOnly: true}},
		},
		&Stdin{N: 10, EOF: true},
		&Signal{Number: 15},
		&Winsize{Rows: 1, Cols: 2},
	}
}

func mustAppend(t testing.TB, m Message) []byte {
	t.Helper()
	b, err := Append(nil, m)
	if err != nil {
		t.Fatalf("Append(%v): %v", m.Type(), err)
	}
	return b
}

func side(m Message) Side {
	if FromGuest.sends(m.Type()) {
		return FromGuest
	}
	return FromHost
}

func TestEveryMessageSurvivesTheWire(t *testing.T) {
	for _, m := range samples() {
		t.Run(m.Type().String(), func(t *testing.T) {
			d := NewDecoder(side(m))
			for _, c := range mustAppend(t, m) { // byte by byte: cuts everywhere
				if _, ok, err := d.Next(); ok || err != nil {
					t.Fatalf("Next before the end = %v, %v", ok, err)
				}
				d.Write([]byte{c})
			}
			got, ok, err := d.Next()
			if err != nil || !ok {
				t.Fatalf("Next = %v, %v", ok, err)
			}
			if diff := cmp.Diff(m, got); diff != "" {
				t.Errorf("(-sent +received)\n%s", diff)
			}
		})
	}
}

func TestEncoderRefusesWhatIsOutOfBounds(t *testing.T) {
	ok := func() *Start { return &Start{Argv: []string{"x"}} }
	with := func(f func(*Start)) Message { m := ok(); f(m); return m }
	for name, m := range map[string]Message{
		"no command":             &Start{},
		"NUL in an argument":     with(func(m *Start) { m.Argv = []string{"a\x00b"} }),
		"relative cwd":           with(func(m *Start) { m.Cwd = "tmp" }),
		"environment without =":  with(func(m *Start) { m.Env = []string{"A"} }),
		"environment, no name":   with(func(m *Start) { m.Env = []string{"=b"} }),
		"long host name":         with(func(m *Start) { m.Hostname = strings.Repeat("h", 65) }),
		"time before 1970":       with(func(m *Start) { m.WallClock = -1 }),
		"relative mount point":   with(func(m *Start) { m.Disks = []Disk{{Path: "data"}} }),
		"too many disks":         with(func(m *Start) { m.Disks = make([]Disk, MaxDisks+1) }),
		"device for initramfs":   with(func(m *Start) { m.RootDevice = 1 }),
		"unknown stdin mode":     with(func(m *Start) { m.Stdin = 3 }),
		"frame too large":        with(func(m *Start) { m.Argv = []string{strings.Repeat("a", MaxHostFrame)} }),
		"stdin of nothing":       &Stdin{},
		"stdin too large":        &Stdin{N: MaxStdin + 1},
		"signal 0":               &Signal{},
		"code and signal":        &Exited{Code: 1, Signal: 9},
		"failed with exit code":  &Failed{ExitCode: 1},
		"failure too long":       &Failed{Message: strings.Repeat("a", MaxText+1), ExitCode: ExitAgentError},
		"process ID 0":           &Started{},
		"stdin wanted, no bytes": &StdinWanted{},
	} {
		b, err := Append([]byte("before"), m)
		var pe *ProtocolError
		if !errors.As(err, &pe) || string(b) != "before" {
			t.Errorf("%s: Append = %q, %v; want a ProtocolError and nothing added", name, b, err)
		}
	}
}

func TestDecoderRefusesMalformedFrames(t *testing.T) {
	for name, frame := range map[string]string{
		"empty":               "\x00\x00\x00\x00\x01",
		"huge":                "\xff\xff\xff\xff\x01",
		"unknown type":        "\x01\x00\x00\x00\x7f",
		"the other side's":    "\x02\x00\x00\x00\x83\x0f",
		"short payload":       "\x02\x00\x00\x00\x02\x01",
		"bytes too many":      "\x06\x00\x00\x00\x02\x01\x00\x00\x00\x00",
		"boolean of 2":        "\x06\x00\x00\x00\x01\x01\x00\x00\x00\x02",
		"string beyond end":   "\x05\x00\x00\x00\x06\xff\xff\xff\xff",
		"check fails (PID 0)": "\x05\x00\x00\x00\x02\x00\x00\x00\x00",
	} {
		d := NewDecoder(FromGuest)
		d.Write([]byte(frame))
		_, ok, err := d.Next()
		if ok || err == nil {
			t.Errorf("%s: Next = %v, %v; want an error", name, ok, err)
		}
		if _, again := d.Write([]byte("x")); again != err {
			t.Errorf("%s: the error is not sticky: %v", name, again)
		}
	}
}

func TestDecoderBoundsWhatWaits(t *testing.T) {
	d := NewDecoder(FromGuest)
	for range 4 * MaxGuestFrame {
		if _, err := d.Write([]byte{1}); err != nil {
			if d.Buffered() > MaxGuestFrame {
				t.Errorf("%d bytes are buffered", d.Buffered())
			}
			return
		}
	}
	t.Error("a Decoder whose Next is never called grows without bound")
}

func TestForgedListCountDoesNotAllocate(t *testing.T) {
	p := parser{b: []byte{0xff, 0xff, 0, 0, 0, 0, 0, 0}}
	if list := p.strings(); list != nil || p.reason == "" {
		t.Errorf("strings = %d items, reason %q", len(list), p.reason)
	}
}

func TestSessionOfAWholeRun(t *testing.T) {
	s := NewSession()
	feed := func(m Message) {
		t.Helper()
		msgs, err := s.FromGuest(mustAppend(t, m))
		if err != nil || len(msgs) != 1 {
			t.Fatalf("FromGuest(%v) = %v, %v", m.Type(), msgs, err)
		}
	}
	feed(&Ready{Version: Version, CUSE: true})
	if !s.AtFrameBoundary() || s.State() != StateReady {
		t.Fatalf("after READY: %v, boundary %v", s.State(), s.AtFrameBoundary())
	}
	s = ResumeSession(s.Ready())
	start := &Start{Argv: []string{"cat"}, Stdin: StdinDemand}
	if _, err := s.Start(start); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Start(start); err == nil {
		t.Error("a second START is allowed")
	}
	feed(&Started{PID: 7})
	if _, err := s.Stdin(1, false); err == nil {
		t.Error("STDIN that nobody wants is allowed")
	}
	feed(&StdinWanted{N: 10})
	if _, err := s.Stdin(11, false); err == nil {
		t.Error("more STDIN than wanted is allowed")
	}
	if _, err := s.Stdin(10, true); err != nil || s.StdinWanted() != 0 {
		t.Errorf("Stdin: %v, wanted %d", err, s.StdinWanted())
	}
	if _, err := s.Signal(2); err != nil {
		t.Error(err)
	}
	if _, err := s.Signal(-1); err == nil {
		t.Error("signal -1 is allowed")
	}
	if _, err := s.Winsize(1, 1); err == nil {
		t.Error("WINSIZE without a terminal is allowed")
	}
	feed(&Exited{Signal: 9})
	if s.State() != StateEnded {
		t.Errorf("after EXITED: %v", s.State())
	}
}

func TestSessionRefusesMessagesOutOfTurn(t *testing.T) {
	ready := &Ready{Version: Version}
	for name, msgs := range map[string][]Message{
		"wrong version":         {&Ready{Version: Version + 1}},
		"READY twice":           {ready, ready},
		"EXITED before READY":   {&Exited{}},
		"EXITED before START":   {ready, &Exited{}},
		"STARTED before START":  {ready, &Started{PID: 1}},
		"FAILED before START":   {ready, &Failed{ExitCode: 125}},
		"stdin before START":    {ready, &StdinWanted{N: 1}},
		"anything after EXITED": {ready, nil, &Started{PID: 1}, &Exited{}, &Failed{ExitCode: 125}},
		"two STDIN_WANTED":      {ready, nil, &StdinWanted{N: 1}, &StdinWanted{N: 1}},
	} {
		s := NewSession()
		var err error
		for _, m := range msgs {
			if m == nil {
				_, err = s.Start(&Start{Argv: []string{"x"}, Stdin: StdinDemand})
			} else {
				_, err = s.FromGuest(mustAppend(t, m))
			}
		}
		if err == nil || s.State() != StateBroken {
			t.Errorf("%s: error %v, state %v", name, err, s.State())
		}
	}
}

func TestAnyStartSurvivesTheWire(t *testing.T) {
	text := rapid.StringOfN(rapid.RuneFrom([]rune("ab/=é ")), 0, 20, -1)
	rapid.Check(t, func(t *rapid.T) {
		m := &Start{
			Argv:      append([]string{"x"}, rapid.SliceOf(text).Draw(t, "argv")...),
			Cwd:       "/" + text.Draw(t, "cwd"),
			User:      text.Draw(t, "user"),
			WallClock: rapid.Int64Min(0).Draw(t, "clock"),
			Stdin:     StdinMode(rapid.IntRange(0, 2).Draw(t, "stdin")),
			Rows:      rapid.Uint16().Draw(t, "rows"),
		}
		for range rapid.IntRange(0, MaxDisks).Draw(t, "disks") {
			m.Disks = append(m.Disks, Disk{uint8(rapid.IntRange(0, maxDevice).Draw(t, "device")), "/" + text.Draw(t, "path"), rapid.Bool().Draw(t, "ro")})
		}
		b, err := Append(nil, m)
		if err != nil {
			t.Fatal(err)
		}
		d := NewDecoder(FromHost)
		cut := rapid.IntRange(0, len(b)).Draw(t, "cut")
		d.Write(b[:cut])
		d.Write(b[cut:])
		got, ok, err := d.Next()
		if !ok || err != nil || !cmp.Equal(Message(m), got) {
			t.Fatalf("got %+v, %v, %v", got, ok, err)
		}
	})
}

// FuzzDecoder checks that hostile bytes neither panic nor slip through: whatever is accepted encodes to the same bytes.
func FuzzDecoder(f *testing.F) {
	for _, m := range samples() {
		f.Add(mustAppend(f, m), uint8(3), side(m) == FromHost)
	}
	f.Fuzz(func(t *testing.T, stream []byte, chunk uint8, host bool) {
		d, step := NewDecoder(FromGuest), int(chunk)+1
		if host {
			d = NewDecoder(FromHost)
		}
		var back []byte
		for rest := stream; len(rest) > 0; rest = rest[min(step, len(rest)):] {
			if _, err := d.Write(rest[:min(step, len(rest))]); err != nil {
				return
			}
			for {
				m, ok, err := d.Next()
				if err != nil {
					return
				}
				if !ok {
					break
				}
				back = append(back, mustAppend(t, m)...)
			}
		}
		if !bytes.Equal(back, stream[:len(stream)-d.Buffered()]) {
			t.Fatalf("accepted %x, encodes to %x", stream, back)
		}
	})
}

// FuzzSession checks that no bytes of the guest make the machine's side panic.
func FuzzSession(f *testing.F) {
	var all []byte
	for _, m := range samples() {
		if side(m) == FromGuest {
			all = append(all, mustAppend(f, m)...)
		}
	}
	f.Add(all, uint16(9))
	f.Fuzz(func(t *testing.T, stream []byte, startAt uint16) {
		s := NewSession()
		cut := min(int(startAt), len(stream))
		s.FromGuest(stream[:cut])
		s.Start(&Start{Argv: []string{"x"}, Stdin: StdinDemand})
		s.FromGuest(stream[cut:])
		s.Stdin(int(s.StdinWanted()), false)
	})
}
