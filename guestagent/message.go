package guestagent

// Type is a message's type byte. Those of the guest's messages are below 0x80, those of the machine's are not.
type Type uint8

// The types of messages.
const (
	TypeReady       Type = 0x01
	TypeStarted     Type = 0x02
	TypeStdinWanted Type = 0x03
	TypeExited      Type = 0x04
	TypeFailed      Type = 0x05

	TypeStart   Type = 0x81
	TypeStdin   Type = 0x82
	TypeSignal  Type = 0x83
	TypeWinsize Type = 0x84
)

var typeNames = [...]struct {
	t    Type
	name string
}{
	{TypeReady, "READY"}, {TypeStarted, "STARTED"}, {TypeStdinWanted, "STDIN_WANTED"},
	{TypeExited, "EXITED"}, {TypeFailed, "FAILED"},
	{TypeStart, "START"}, {TypeStdin, "STDIN"}, {TypeSignal, "SIGNAL"}, {TypeWinsize, "WINSIZE"},
}

// String returns the type's name as the documentation writes it.
func (t Type) String() string {
	for _, n := range typeNames {
		if n.t == t {
			return n.name
		}
	}
	return "type " + hex8(uint8(t))
}

// A Message is one of the message structs of this package, as a pointer.
type Message interface {
	// Type returns the message's type byte.
	Type() Type
	// append adds the payload to b.
	append(b []byte) []byte
	// parse fills the message from a payload; p records the first thing that was wrong.
	parse(p *parser)
	// check reports what makes the message unfit to be sent or accepted, or "".
	check() string
}

// Ready is the guest's first message: it has booted and waits for [Start].
type Ready struct {
	Version uint32 // [Version] of the agent
	// CUSE says that the agent can serve stdin on demand; without it [StdinDemand] means a pipe that is filled early.
	CUSE bool
}

// Started says that the command runs.
type Started struct {
	PID uint32 // its process ID in the guest
}

// StdinWanted says that the workload waits for input: send [Stdin] with 1 to N bytes, or the end of the input.
// At most one is outstanding.
type StdinWanted struct {
	N uint32 // bytes asked for, 1 to [MaxStdin]
}

// Exited is the guest's last message: the command has ended, its output is complete, disks are written.
type Exited struct {
	Code   uint8 // exit code, when Signal is 0
	Signal uint8 // the signal that killed it, or 0

	UserTime   uint64 // CPU time in user mode, nanoseconds of virtual time, the command and the children it waited for
	SystemTime uint64 // the same in kernel mode
	MaxRSS     uint64 // largest resident set of any of them, in bytes
}

// ExitCode returns the code that a shell would give: the exit code, or 128 plus the signal.
func (m *Exited) ExitCode() int {
	if m.Signal != 0 {
		return 128 + int(m.Signal)
	}
	return int(m.Code)
}

// Exit codes of a [Failed] message, those of POSIX shells and of container tools.
const (
	ExitAgentError    = 125 // the guest could not be set up
	ExitNotExecutable = 126 // the command was found but cannot be executed
	ExitNotFound      = 127 // the command was not found
)

// Failed is the guest's last message when the command could not be started or the agent met an error of its own.
type Failed struct {
	Stage    string // what the agent was doing: "mount", "user", "exec", …
	Errno    uint32 // Linux error number, or 0
	Message  string // one line for people
	ExitCode uint8  // [ExitAgentError], [ExitNotExecutable] or [ExitNotFound]
}

// Error makes *Failed an error.
func (m *Failed) Error() string { return m.Message }

// StdinMode says what the command's standard input is.
type StdinMode uint8

// The modes of standard input.
const (
	// StdinNone is /dev/null.
	StdinNone StdinMode = 0
	// StdinDemand is a device that asks for input (StdinWanted) when the workload reads, and never before.
	StdinDemand StdinMode = 1
	// StdinTTY is a terminal, and so are standard output and error: output goes to PortStdout. Input is not asked for;
	// send it when there is some.
	StdinTTY StdinMode = 2
)

// RootKind says where the command's root file system comes from.
type RootKind uint8

// The kinds of root.
const (
	// RootInitramfs is the initramfs itself.
	RootInitramfs RootKind = 0
	// RootBlock is a file system on a virtio block device, read-only, under an overlay in memory.
	RootBlock RootKind = 1
)

// Disk is a data disk to be mounted before the command starts.
type Disk struct {
	Device   uint8  // 0 is /dev/vda, 1 is /dev/vdb, …: the index among the machine's block devices
	Path     string // where to mount it, absolute, created when missing
	ReadOnly bool
}

// Start tells the agent what to run. There is one in a run's life.
type Start struct {
	Argv []string // the command and its arguments; at least the command
	Env  []string // NAME=value; added to, and overriding, the agent's defaults
	Cwd  string   // absolute working directory; "" means /
	// User is "", NAME, UID, NAME:GROUP, UID:GID and so on, looked up in the root's /etc/passwd and /etc/group.
	User     string
	Hostname string // "" means detvm

	WallClock int64          // CLOCK_REALTIME in nanoseconds since the Unix epoch, not negative
	Seed      [SeedSize]byte // mixed into the kernel's random pool and credited

	Stdin      StdinMode
	Rows, Cols uint16 // of the terminal, for StdinTTY; 0 means unknown

	Root       RootKind
	RootDevice uint8 // for RootBlock: as Disk.Device
	Disks      []Disk
}

// Stdin says that N bytes follow on [PortStdin], and whether they are the last. It answers [StdinWanted], with 1 to
// that many bytes or with the end; for [StdinTTY] it comes unasked.
type Stdin struct {
	N   uint32 // 0 only together with EOF
	EOF bool   // nothing comes after these bytes
}

// Signal sends a signal to the command; with a terminal, to its foreground process group.
type Signal struct {
	Number uint8 // 1 to MaxSignal
}

// Winsize sets the size of the terminal.
type Winsize struct {
	Rows, Cols uint16
}

// Type returns TypeReady.
func (*Ready) Type() Type { return TypeReady }

// Type returns TypeStarted.
func (*Started) Type() Type { return TypeStarted }

// Type returns TypeStdinWanted.
func (*StdinWanted) Type() Type { return TypeStdinWanted }

// Type returns TypeExited.
func (*Exited) Type() Type { return TypeExited }

// Type returns TypeFailed.
func (*Failed) Type() Type { return TypeFailed }

// Type returns TypeStart.
func (*Start) Type() Type { return TypeStart }

// Type returns TypeStdin.
func (*Stdin) Type() Type { return TypeStdin }

// Type returns TypeSignal.
func (*Signal) Type() Type { return TypeSignal }

// Type returns TypeWinsize.
func (*Winsize) Type() Type { return TypeWinsize }

// newMessage returns an empty message of type t, or nil for an unknown type.
func newMessage(t Type) Message {
	switch t {
	case TypeReady:
		return new(Ready)
	case TypeStarted:
		return new(Started)
	case TypeStdinWanted:
		return new(StdinWanted)
	case TypeExited:
		return new(Exited)
	case TypeFailed:
		return new(Failed)
	case TypeStart:
		return new(Start)
	case TypeStdin:
		return new(Stdin)
	case TypeSignal:
		return new(Signal)
	case TypeWinsize:
		return new(Winsize)
	}
	return nil
}
