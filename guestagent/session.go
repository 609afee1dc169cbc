package guestagent

import "strconv"

// State is how far the conversation has come.
type State uint8

// The states of a [Session].
const (
	StateBooting State = iota // no READY yet
	StateReady                // READY came; START may be sent
	StateStarted              // START was sent; STARTED is awaited
	StateRunning              // the command runs
	StateEnded                // EXITED or FAILED came: the last message
	StateBroken               // the guest broke the protocol
)

func (s State) String() string {
	return [...]string{"booting", "ready", "started", "running", "ended", "broken"}[s]
}

// Session is the machine's side of the conversation: a state machine that is fed the bytes of the control port and
// makes the bytes to be sent there. It does no I/O and never waits. It is not safe for concurrent use.
type Session struct {
	dec    *Decoder
	state  State
	ready  Ready
	start  Start  // as sent; its bulky fields are dropped
	wanted uint32 // of the outstanding StdinWanted, or 0
	eof    bool   // the end of stdin was sent
}

// NewSession returns a Session with a guest that has not booted.
func NewSession() *Session { return &Session{dec: NewDecoder(FromGuest)} }

// ResumeSession returns a Session with a guest that was restored from a snapshot taken at its READY message: what that
// message said, and nothing else, must be kept with the snapshot.
func ResumeSession(r Ready) *Session {
	return &Session{dec: NewDecoder(FromGuest), state: StateReady, ready: r}
}

// State returns how far the conversation has come.
func (s *Session) State() State { return s.state }

// Ready returns what READY said; the zero value before that.
func (s *Session) Ready() Ready { return s.ready }

// AtFrameBoundary reports whether no part of a frame is waiting. The machine takes its boot snapshot only then.
func (s *Session) AtFrameBoundary() bool { return s.dec.Buffered() == 0 }

// StdinWanted returns the number of bytes that the guest waits for, or 0.
func (s *Session) StdinWanted() uint32 { return s.wanted }

// FromGuest takes bytes that the guest wrote to the control port and returns the messages that they complete. On error
// the messages before the mistake are returned with it; the session is then broken for good.
func (s *Session) FromGuest(b []byte) ([]Message, error) {
	var msgs []Message
	if _, err := s.dec.Write(b); err != nil {
		return nil, s.broken(err)
	}
	for {
		m, ok, err := s.dec.Next()
		if err != nil {
			return msgs, s.broken(err)
		}
		if !ok {
			return msgs, nil
		}
		if err := s.receive(m); err != nil {
			return msgs, s.broken(err)
		}
		msgs = append(msgs, m)
	}
}

func (s *Session) broken(err error) error {
	s.state = StateBroken
	return err
}

// receive moves the state on by one message from the guest.
func (s *Session) receive(m Message) error {
	legal := false
	switch m := m.(type) {
	case *Ready:
		if m.Version != Version {
			return &ProtocolError{m.Type(), "agent speaks version " + strconv.FormatUint(uint64(m.Version), 10) +
				", this machine speaks " + strconv.Itoa(Version)}
		}
		legal = s.state == StateBooting
		s.state, s.ready = StateReady, *m
	case *Started:
		legal = s.state == StateStarted
		s.state = StateRunning
	case *StdinWanted:
		legal = s.running() && s.start.Stdin == StdinDemand && s.wanted == 0 && !s.eof
		s.wanted = m.N
	case *Exited:
		legal = s.state == StateRunning
		s.state = StateEnded
	case *Failed:
		legal = s.running()
		s.state = StateEnded
	}
	if !legal {
		return &ProtocolError{m.Type(), "out of turn"}
	}
	return nil
}

// running reports whether START was sent and the end has not come. Input may be wanted before STARTED: the command's
// exec and the first read of its loader are not ordered with the agent's own steps.
func (s *Session) running() bool { return s.state == StateStarted || s.state == StateRunning }

// Start returns the bytes of START. It is for StateReady only.
func (s *Session) Start(m *Start) ([]byte, error) {
	if s.state != StateReady {
		return nil, s.refuse(m)
	}
	b, err := Append(nil, m)
	if err != nil {
		return nil, err
	}
	s.state, s.start = StateStarted, Start{Stdin: m.Stdin}
	return b, nil
}

// Stdin returns the bytes of STDIN, which announces n bytes that the caller then puts on PortStdin, the last ones if
// eof. With StdinDemand it must answer [StdinWanted]: n is at most what was asked for.
func (s *Session) Stdin(n int, eof bool) ([]byte, error) {
	m := &Stdin{N: uint32(min(max(n, 0), MaxStdin+1)), EOF: eof}
	switch {
	case !s.running() || s.start.Stdin == StdinNone || s.eof:
		return nil, s.refuse(m)
	case s.start.Stdin == StdinDemand && (s.wanted == 0 || m.N > s.wanted):
		return nil, &ProtocolError{m.Type(), "more than the guest asked for"}
	}
	b, err := Append(nil, m)
	if err != nil {
		return nil, err
	}
	s.wanted, s.eof = 0, eof
	return b, nil
}

// Signal returns the bytes of SIGNAL, which sends a signal to the command.
func (s *Session) Signal(number int) ([]byte, error) {
	m := &Signal{Number: uint8(min(max(number, 0), MaxSignal+1))}
	if !s.running() {
		return nil, s.refuse(m)
	}
	return Append(nil, m)
}

// Winsize returns the bytes of WINSIZE, which sets the terminal's size.
func (s *Session) Winsize(rows, cols uint16) ([]byte, error) {
	m := &Winsize{Rows: rows, Cols: cols}
	if !s.running() || s.start.Stdin != StdinTTY {
		return nil, s.refuse(m)
	}
	return Append(nil, m)
}

func (s *Session) refuse(m Message) error {
	return &ProtocolError{m.Type(), "cannot be sent while the guest is " + s.state.String()}
}
