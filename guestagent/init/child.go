//go:build linux && amd64

package main

import (
	"encoding/binary"
	"errors"
	"strconv"
	"syscall"

	"github.com/detvm/detvm/guestagent"
	"golang.org/x/sys/unix"
)

// childStage is what the forked child was doing when it failed.
type childStage uint8

const (
	stageSession childStage = iota + 1
	stageTerminal
	stageStdin
	stageStreams
	stageLimits
	stageUser
	stageCwd
	stageExec
)

func (s childStage) String() string {
	names := [...]string{"agent", "session", "terminal", "stdin", "streams", "limits", "user", "cwd", "exec"}
	if int(s) >= len(names) {
		s = 0
	}
	return names[s]
}

// plan is all that the forked child needs, worked out before the fork.
type plan struct {
	id     identity
	cwd    string
	paths  []*byte
	argv   []*byte
	env    []*byte
	in     int    // the command's standard input, or -1
	stdin  string // what to open for it when in is -1; with StdinDemand the opening itself is served by the agent
	tty    bool
	out    [2]int // the command's standard output and error; -1 for a terminal
	status int    // where to report a failure
}

// spawn starts the command.
//
// The child is forked without exec'ing a helper and runs this program's code until it becomes the command. A Go process
// can do that only because it has no other thread that matters (see quiet_unsafe.go).
func (a *agent) spawn(id identity) error {
	p := plan{id: id, cwd: a.start.Cwd, tty: a.start.Stdin == guestagent.StdinTTY, in: -1, out: [2]int{-1, -1}}
	if p.cwd == "" {
		p.cwd = "/"
	}
	env := environment(a.start.Env, id, p.tty)
	var err error
	if p.argv, err = syscall.SlicePtrFromStrings(a.start.Argv); err == nil {
		p.env, err = syscall.SlicePtrFromStrings(env)
	}
	if err == nil {
		p.paths, err = syscall.SlicePtrFromStrings(candidates(a.start.Argv[0], env))
	}
	if err != nil {
		return failure("exec", "prepare the command", err)
	}
	if err := a.connect(&p); err != nil {
		return failure("streams", "prepare the command's streams", err)
	}
	var status [2]int
	if err := unix.Pipe2(status[:], unix.O_CLOEXEC); err != nil {
		return failure("exec", "make a pipe", err)
	}
	p.status, a.status = status[1], status[0]
	pid, _, errno := unix.RawSyscall(unix.SYS_FORK, 0, 0, 0)
	if errno != 0 {
		return failure("exec", "fork", errno)
	}
	if pid == 0 {
		p.become()
	}
	a.pid = int(pid)
	for _, fd := range []int{status[1], p.in, p.out[0], p.out[1]} {
		if fd >= 0 {
			closeFD(fd)
		}
	}
	return a.begin()
}

// begin watches the descriptors of the command that was just forked.
func (a *agent) begin() error {
	err := a.watch(a.status, eventStatus, unix.EPOLLIN)
	for i, o := range a.outputs {
		if err == nil {
			err = a.watch(o.from, eventOutput+int32(i), unix.EPOLLIN)
		}
	}
	if err != nil {
		return failure("streams", "watch the command's streams", err)
	}
	if q, ok := a.stdin.(*queueInput); ok && !q.tty {
		return q.ask()
	}
	return nil
}

// connect makes the command's streams.
func (a *agent) connect(p *plan) error {
	if p.tty {
		return a.connectTerminal(p)
	}
	for i, port := range []int{a.ports.stdout, a.ports.stderr} {
		var pipe [2]int
		if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
			return err
		}
		// So that the user may open /dev/stdout, which leads here.
		if err := unix.Fchown(pipe[1], int(p.id.uid), int(p.id.gid)); err != nil {
			return err
		}
		p.out[i] = pipe[1]
		a.outputs = append(a.outputs, &output{name: [...]string{"stdout", "stderr"}[i], from: pipe[0], port: port})
	}
	switch {
	case a.start.Stdin == guestagent.StdinNone:
		p.stdin = "/dev/null"
	case a.device != nil:
		p.stdin = "/dev/" + stdinDevice
		a.stdin, a.device.eof = a.device, false
	default:
		var pipe [2]int
		if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
			return err
		}
		if err := unix.SetNonblock(pipe[1], true); err != nil {
			return err
		}
		p.in = pipe[0]
		a.stdin = &queueInput{a: a, fd: pipe[1]}
	}
	return nil
}

// connectTerminal makes a pseudo-terminal.
func (a *agent) connectTerminal(p *plan) error {
	master, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return err
	}
	n, err := unix.IoctlGetInt(master, unix.TIOCGPTN)
	if err != nil {
		return err
	}
	p.stdin = "/dev/pts/" + strconv.Itoa(n)
	const ttyGroup = 5
	if err := unix.Chown(p.stdin, int(p.id.uid), ttyGroup); err != nil {
		return err
	}
	setWinsize(master, a.start.Rows, a.start.Cols)
	a.outputs = []*output{{name: "terminal", from: master, port: a.ports.stdout, tty: true}}
	a.stdin = &queueInput{a: a, fd: master, tty: true}
	return nil
}

// setWinsize sets a terminal's size. Programs cope with a wrong one, so there is nothing to report.
func setWinsize(fd int, rows, cols uint16) {
	_ = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols})
}

// become turns the forked child into the command, or reports why it cannot and exits.
func (p *plan) become() {
	stage, errno := p.prepare()
	if errno == 0 {
		stage, errno = stageExec, p.exec()
	}
	var report [5]byte
	report[0] = byte(stage)
	binary.LittleEndian.PutUint32(report[1:], uint32(errno))
	_, _ = unix.Write(p.status, report[:])
	unix.Exit(guestagent.ExitAgentError)
}

// prepare does all that comes before exec. Descriptors other than 0, 1 and 2 close by themselves on exec.
func (p *plan) prepare() (childStage, unix.Errno) {
	if _, err := unix.Setsid(); err != nil {
		return stageSession, errnoOf(err)
	}
	fd := p.in
	if fd < 0 {
		flags := unix.O_RDONLY
		if p.tty {
			flags = unix.O_RDWR
		}
		var err error
		if fd, err = unix.Open(p.stdin, flags|unix.O_NOCTTY|unix.O_CLOEXEC, 0); err != nil {
			return stageStdin, errnoOf(err)
		}
	}
	if p.tty {
		if err := unix.IoctlSetInt(fd, unix.TIOCSCTTY, 0); err != nil {
			return stageTerminal, errnoOf(err)
		}
		p.out = [2]int{fd, fd}
	}
	for to, from := range []int{fd, p.out[0], p.out[1]} {
		if err := unix.Dup2(from, to); err != nil {
			return stageStreams, errnoOf(err)
		}
	}
	// The Go runtime raised the soft limit of this process; these are what most systems give.
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1024, Max: 512 << 10}, nil); err != nil {
		return stageLimits, errnoOf(err)
	}
	if errno := p.id.assume(); errno != 0 {
		return stageUser, errno
	}
	if err := unix.Chdir(p.cwd); err != nil {
		return stageCwd, errnoOf(err)
	}
	unix.Umask(0o022)
	var none unix.Sigset_t
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &none, nil); err != nil {
		return stageSession, errnoOf(err)
	}
	return 0, 0
}

// assume makes the calling process run as id. Package unix's functions of that purpose reach out to every thread of
// the runtime, of which a forked child has one.
func (id *identity) assume() unix.Errno {
	if errno := setGroups(id.groups); errno != 0 {
		return errno
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGID, uintptr(id.gid), 0, 0); errno != 0 {
		return errno
	}
	_, _, errno := unix.RawSyscall(unix.SYS_SETUID, uintptr(id.uid), 0, 0)
	return errno
}

// exec tries the paths in turn, as a shell does: one that may not be executed is remembered, one that does not exist is
// passed over, any other failure ends the search.
func (p *plan) exec() unix.Errno {
	result := unix.ENOENT
	for _, path := range p.paths {
		if path == nil { // the list ends like argv
			break
		}
		switch errno := execve(path, p.argv, p.env); errno {
		case unix.ENOENT, unix.ENOTDIR:
		case unix.EACCES:
			result = errno
		default:
			return errno
		}
	}
	return result
}

// settle finds out whether the command has started: the status pipe closes on exec, and carries a report otherwise.
func (a *agent) settle() error {
	if a.status < 0 {
		return nil
	}
	var report [5]byte
	n, err := unix.Read(a.status, report[:])
	if err != nil {
		return failure("exec", "read the child's status", err)
	}
	if err := unix.EpollCtl(a.epoll, unix.EPOLL_CTL_DEL, a.status, nil); err != nil {
		return failure("exec", "stop watching the child's status", err)
	}
	closeFD(a.status)
	a.status = -1
	if n == len(report) {
		return a.execFailure(childStage(report[0]), unix.Errno(binary.LittleEndian.Uint32(report[1:])))
	}
	a.send(&guestagent.Started{PID: uint32(a.pid)})
	return nil
}

func errnoOf(err error) unix.Errno {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return unix.EIO
}
