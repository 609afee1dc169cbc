package guestagent

import (
	"encoding/binary"
	"strconv"
	"strings"
)

// The agent is linked with this package and must stay small, so errors are made without package fmt.

// ProtocolError says what is wrong with a frame or a message.
type ProtocolError struct {
	Type   Type   // of the message concerned; 0 when the frame has none yet
	Reason string // in words
}

func (e *ProtocolError) Error() string {
	if e.Type == 0 {
		return "agent protocol: " + e.Reason
	}
	return "agent protocol: " + e.Type.String() + ": " + e.Reason
}

func hex8(v uint8) string {
	s := strconv.FormatUint(uint64(v), 16)
	return "0x" + strings.Repeat("0", 2-len(s)) + s
}

// maxFrame is the bound on frames of t's direction.
func maxFrame(t Type) int {
	if t < 0x80 {
		return MaxGuestFrame
	}
	return MaxHostFrame
}

// Append adds m's frame to b and returns the result. It fails with a *[ProtocolError], leaving b as it was, when a
// field is out of bounds.
func Append(b []byte, m Message) ([]byte, error) {
	if reason := m.check(); reason != "" {
		return b, &ProtocolError{m.Type(), reason}
	}
	start := len(b)
	b = append(b, 0, 0, 0, 0, byte(m.Type()))
	b = m.append(b)
	n := len(b) - start
	if n > maxFrame(m.Type()) {
		return b[:start], &ProtocolError{m.Type(), "message of " + strconv.Itoa(n) + " bytes is larger than " + strconv.Itoa(maxFrame(m.Type()))}
	}
	binary.LittleEndian.PutUint32(b[start:], uint32(n-4))
	return b, nil
}

// parsePayload decodes and checks the payload of a message of type t.
func parsePayload(t Type, payload []byte) (Message, error) {
	m := newMessage(t)
	if m == nil {
		return nil, &ProtocolError{t, "unknown message"}
	}
	p := parser{b: payload}
	m.parse(&p)
	if p.reason == "" && len(p.b) != 0 {
		p.reason = strconv.Itoa(len(p.b)) + " bytes too many"
	}
	if p.reason == "" {
		p.reason = m.check()
	}
	if p.reason != "" {
		return nil, &ProtocolError{t, p.reason}
	}
	return m, nil
}

// parser takes fields off the front of a payload. After the first mistake it stands still and yields zeros.
type parser struct {
	b      []byte
	reason string // the first mistake
}

func (p *parser) take(n int) []byte {
	if p.reason != "" || n > len(p.b) {
		if p.reason == "" {
			p.reason = "payload is too short"
		}
		return nil
	}
	b := p.b[:n]
	p.b = p.b[n:]
	return b
}

func (p *parser) u8() uint8 {
	if b := p.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (p *parser) u16() uint16 {
	if b := p.take(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

func (p *parser) u32() uint32 {
	if b := p.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (p *parser) u64() uint64 {
	if b := p.take(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

func (p *parser) bool() bool {
	v := p.u8()
	if v > 1 && p.reason == "" {
		p.reason = "boolean is neither 0 nor 1"
	}
	return v == 1
}

func (p *parser) string() string {
	n := p.u32()
	if uint64(n) > uint64(len(p.b)) {
		p.take(len(p.b) + 1)
		return ""
	}
	return string(p.take(int(n)))
}

// count reads a list's length: at most limit, and at most what the rest of the payload could hold with items of
// itemSize bytes or more, so that a forged count cannot make us allocate.
func (p *parser) count(limit, itemSize int) int {
	n := p.u32()
	if p.reason == "" && (uint64(n) > uint64(limit) || uint64(n)*uint64(itemSize) > uint64(len(p.b))) {
		p.reason = "list is too long"
	}
	if p.reason != "" {
		return 0
	}
	return int(n)
}

func (p *parser) strings() []string {
	n := p.count(MaxList, 4)
	if n == 0 {
		return nil
	}
	list := make([]string, n)
	for i := range list {
		list[i] = p.string()
	}
	return list
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

func appendString(b []byte, s string) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(s)))
	return append(b, s...)
}

func appendStrings(b []byte, list []string) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(list)))
	for _, s := range list {
		b = appendString(b, s)
	}
	return b
}

func (m *Ready) append(b []byte) []byte {
	return appendBool(binary.LittleEndian.AppendUint32(b, m.Version), m.CUSE)
}

func (m *Ready) parse(p *parser) { m.Version, m.CUSE = p.u32(), p.bool() }

func (m *Ready) check() string { return "" }

func (m *Started) append(b []byte) []byte { return binary.LittleEndian.AppendUint32(b, m.PID) }

func (m *Started) parse(p *parser) { m.PID = p.u32() }

func (m *Started) check() string {
	if m.PID == 0 || m.PID > 1<<22 {
		return "process ID out of range"
	}
	return ""
}

func (m *StdinWanted) append(b []byte) []byte { return binary.LittleEndian.AppendUint32(b, m.N) }

func (m *StdinWanted) parse(p *parser) { m.N = p.u32() }

func (m *StdinWanted) check() string {
	if m.N == 0 || m.N > MaxStdin {
		return "byte count out of range"
	}
	return ""
}

func (m *Exited) append(b []byte) []byte {
	b = append(b, m.Code, m.Signal)
	b = binary.LittleEndian.AppendUint64(b, m.UserTime)
	b = binary.LittleEndian.AppendUint64(b, m.SystemTime)
	return binary.LittleEndian.AppendUint64(b, m.MaxRSS)
}

func (m *Exited) parse(p *parser) {
	m.Code, m.Signal = p.u8(), p.u8()
	m.UserTime, m.SystemTime, m.MaxRSS = p.u64(), p.u64(), p.u64()
}

func (m *Exited) check() string {
	if m.Signal > MaxSignal {
		return "signal out of range"
	}
	if m.Signal != 0 && m.Code != 0 {
		return "both an exit code and a signal"
	}
	return ""
}

func (m *Failed) append(b []byte) []byte {
	b = appendString(b, m.Stage)
	b = binary.LittleEndian.AppendUint32(b, m.Errno)
	b = appendString(b, m.Message)
	return append(b, m.ExitCode)
}

func (m *Failed) parse(p *parser) {
	m.Stage, m.Errno, m.Message, m.ExitCode = p.string(), p.u32(), p.string(), p.u8()
}

func (m *Failed) check() string {
	if m.ExitCode < ExitAgentError || m.ExitCode > ExitNotFound {
		return "exit code out of range"
	}
	return checkText(m.Stage, m.Message)
}

func checkText(texts ...string) string {
	for _, s := range texts {
		if len(s) > MaxText {
			return "text is too long"
		}
	}
	return ""
}

func (m *Start) append(b []byte) []byte {
	b = appendStrings(b, m.Argv)
	b = appendStrings(b, m.Env)
	b = appendString(b, m.Cwd)
	b = appendString(b, m.User)
	b = appendString(b, m.Hostname)
	b = binary.LittleEndian.AppendUint64(b, uint64(m.WallClock))
	b = append(b, m.Seed[:]...)
	b = append(b, byte(m.Stdin))
	b = binary.LittleEndian.AppendUint16(b, m.Rows)
	b = binary.LittleEndian.AppendUint16(b, m.Cols)
	b = append(b, byte(m.Root), m.RootDevice)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(m.Disks)))
	for _, d := range m.Disks {
		b = append(b, d.Device)
		b = appendString(b, d.Path)
		b = appendBool(b, d.ReadOnly)
	}
	return b
}

func (m *Start) parse(p *parser) {
	m.Argv, m.Env = p.strings(), p.strings()
	m.Cwd, m.User, m.Hostname = p.string(), p.string(), p.string()
	m.WallClock = int64(p.u64())
	copy(m.Seed[:], p.take(SeedSize))
	m.Stdin, m.Rows, m.Cols = StdinMode(p.u8()), p.u16(), p.u16()
	m.Root, m.RootDevice = RootKind(p.u8()), p.u8()
	if n := p.count(MaxDisks, 6); n > 0 {
		m.Disks = make([]Disk, n)
		for i := range m.Disks {
			m.Disks[i] = Disk{p.u8(), p.string(), p.bool()}
		}
	}
}

func (m *Start) check() string {
	switch {
	case len(m.Argv) == 0 || m.Argv[0] == "":
		return "no command"
	case len(m.Argv) > MaxList || len(m.Env) > MaxList:
		return "list is too long"
	case hasNUL(m.Argv...) || hasNUL(m.Env...) || hasNUL(m.Cwd, m.User, m.Hostname):
		return "NUL in a string"
	case m.Cwd != "" && m.Cwd[0] != '/':
		return "working directory is not absolute"
	case len(m.Hostname) > 64:
		return "host name is longer than 64 bytes"
	case m.WallClock < 0:
		return "time before 1970"
	case m.Stdin > StdinTTY:
		return "unknown stdin mode"
	case m.Root > RootBlock:
		return "unknown kind of root"
	case len(m.Disks) > MaxDisks:
		return "too many disks"
	case m.RootDevice > maxDevice || m.Root != RootBlock && m.RootDevice != 0:
		return "device index out of range"
	}
	for _, e := range m.Env {
		if strings.IndexByte(e, '=') <= 0 {
			return "environment entry is not NAME=value"
		}
	}
	for _, d := range m.Disks {
		if d.Device > maxDevice {
			return "device index out of range"
		}
		if d.Path == "" || d.Path[0] != '/' || hasNUL(d.Path) {
			return "mount point is not an absolute path"
		}
	}
	return ""
}

// maxDevice is the largest block device index: /dev/vdz.
const maxDevice = 25

func hasNUL(list ...string) bool {
	for _, s := range list {
		if strings.IndexByte(s, 0) >= 0 {
			return true
		}
	}
	return false
}

func (m *Stdin) append(b []byte) []byte {
	return appendBool(binary.LittleEndian.AppendUint32(b, m.N), m.EOF)
}

func (m *Stdin) parse(p *parser) { m.N, m.EOF = p.u32(), p.bool() }

func (m *Stdin) check() string {
	if m.N > MaxStdin || m.N == 0 && !m.EOF {
		return "byte count out of range"
	}
	return ""
}

func (m *Signal) append(b []byte) []byte { return append(b, m.Number) }

func (m *Signal) parse(p *parser) { m.Number = p.u8() }

func (m *Signal) check() string {
	if m.Number == 0 || m.Number > MaxSignal {
		return "signal out of range"
	}
	return ""
}

func (m *Winsize) append(b []byte) []byte {
	return binary.LittleEndian.AppendUint16(binary.LittleEndian.AppendUint16(b, m.Rows), m.Cols)
}

func (m *Winsize) parse(p *parser) { m.Rows, m.Cols = p.u16(), p.u16() }

func (m *Winsize) check() string { return "" }
