//go:build linux && amd64

package main

import (
	"encoding/binary"
	"strconv"

	"github.com/detvm/detvm/guestagent"
	"golang.org/x/sys/unix"
)

// childStage is what the launcher was doing when it failed.
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

// startLauncher forks the child that becomes the command. It does what does not depend on START, then waits.
func (a *agent) startLauncher() error {
	var status, order, stdin, stdout, stderr [2]int
	pipes := []*[2]int{&status, &order, &stdout, &stderr}
	if a.device == nil {
		pipes = append(pipes, &stdin)
	}
	for _, p := range pipes {
		if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
			return err
		}
	}
	l, err := newLauncher(status[1], guestagent.ExitAgentError)
	if err != nil {
		return err
	}
	l.add(must, stageSession, unix.SYS_SETSID)
	l.add(must, stageStreams, unix.SYS_DUP2, uintptr(stdout[1]), 1)
	l.add(must, stageStreams, unix.SYS_DUP2, uintptr(stderr[1]), 2)
	if a.device == nil {
		l.add(must, stageStreams, unix.SYS_DUP2, uintptr(stdin[0]), 0)
	}
	// The Go runtime raised the soft limit of this process; these are what most systems give.
	limit := l.bytes(binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, 1024), 512<<10))
	l.add(must, stageLimits, unix.SYS_PRLIMIT64, 0, unix.RLIMIT_NOFILE, limit, 0)
	zeros := l.bytes(make([]byte, 8))
	l.add(must, stageSession, unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, zeros, 0, 8)
	l.add(must, stageSession, unix.SYS_WRITE, uintptr(status[1]), zeros, 1)
	l.add(must, stageSession, unix.SYS_READ, uintptr(order[0]), zeros, 1)
	if err := l.fork(); err != nil {
		return err
	}
	a.launcher, a.pid, a.status, l.order = l, l.pid, status[0], order[1]
	a.pipes = [3]int{stdin[1], stdout[0], stderr[0]}
	for _, fd := range []int{status[1], order[0], stdout[1], stderr[1]} {
		closeFD(fd)
	}
	if a.device == nil {
		closeFD(stdin[0])
	}
	var there [1]byte
	return readFull(a.status, there[:])
}

// spawn tells the launcher to become the command.
func (a *agent) spawn(id identity) error {
	tty := a.start.Stdin == guestagent.StdinTTY
	stdin, err := a.connect(id, tty)
	if err != nil {
		return failure("streams", "prepare the command's streams", err)
	}
	l := a.launcher
	a.compose(id, stdin, tty)
	if l.err != nil {
		return failure("exec", "prepare the command", l.err)
	}
	if err := writeAll(l.order, []byte{0}); err != nil {
		return failure("exec", "start the command", err)
	}
	closeFD(l.order)
	return a.begin()
}

// compose writes the rest of the launcher's program. Descriptors other than 0, 1 and 2 close by themselves on exec.
func (a *agent) compose(id identity, stdin string, tty bool) {
	l := a.launcher
	// Until now the launcher followed the agent into the root of the image.
	l.add(must, stageCwd, unix.SYS_UNSHARE, unix.CLONE_FS)
	if stdin != "" {
		flags, here := unix.O_RDONLY, unix.AT_FDCWD
		if tty {
			flags = unix.O_RDWR
		}
		l.add(optional, stageStdin, unix.SYS_CLOSE, 0) // so that the next descriptor is 0
		l.add(must, stageStdin, unix.SYS_OPENAT, uintptr(here), l.text(stdin), uintptr(flags|unix.O_NOCTTY), 0)
	}
	if tty {
		l.add(must, stageTerminal, unix.SYS_IOCTL, 0, unix.TIOCSCTTY, 0)
		l.add(must, stageStreams, unix.SYS_DUP2, 0, 1)
		l.add(must, stageStreams, unix.SYS_DUP2, 0, 2)
	}
	groups := make([]byte, 0, 4*len(id.groups))
	for _, gid := range id.groups {
		groups = binary.LittleEndian.AppendUint32(groups, gid)
	}
	l.add(must, stageUser, unix.SYS_SETGROUPS, uintptr(len(id.groups)), l.bytes(groups))
	l.add(must, stageUser, unix.SYS_SETGID, uintptr(id.gid))
	l.add(must, stageUser, unix.SYS_SETUID, uintptr(id.uid))
	cwd := a.start.Cwd
	if cwd == "" {
		cwd = "/"
	}
	l.add(must, stageCwd, unix.SYS_CHDIR, l.text(cwd))
	l.add(must, stageCwd, unix.SYS_UMASK, 0o022)
	a.composeExec(environment(a.start.Env, id, tty))
}

// composeExec tries the paths in turn, as a shell does: one that may not be executed is remembered, one that does not exist is
// passed over (by a cheaper call than execve, where there are several), any other failure ends the search.
func (a *agent) composeExec(env []string) {
	l := a.launcher
	argv, envv := l.vector(a.start.Argv), l.vector(env)
	paths := candidates(a.start.Argv[0], env)
	for _, path := range paths {
		p := l.text(path)
		if len(paths) > 1 {
			l.add(probe, stageExec, unix.SYS_ACCESS, p, unix.F_OK)
		}
		l.add(try, stageExec, unix.SYS_EXECVE, p, argv, envv)
		if l.err != nil {
			return
		}
	}
	const noSuchCall = 1 << 20
	l.add(giveUp, stageExec, noSuchCall)
}

// begin watches the descriptors of the command.
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

// connect makes the command's streams and returns what is to be opened as its standard input; "" is the pipe that it has. With
// StdinDemand the opening itself is served by the agent.
func (a *agent) connect(id identity, tty bool) (string, error) {
	if tty {
		for _, fd := range a.pipes[1:] {
			closeFD(fd)
		}
		return a.connectTerminal(id)
	}
	for i, port := range []int{a.ports.stdout, a.ports.stderr} {
		from := a.pipes[1+i]
		// So that the user may open /dev/stdout, which leads here.
		if err := unix.Fchown(from, int(id.uid), int(id.gid)); err != nil {
			return "", err
		}
		a.outputs = append(a.outputs, &output{name: [...]string{"stdout", "stderr"}[i], from: from, port: port})
	}
	switch {
	case a.start.Stdin == guestagent.StdinNone:
		return "/dev/null", nil
	case a.device != nil:
		a.stdin, a.device.eof = a.device, false
		return "/dev/" + stdinDevice, nil
	}
	if err := unix.SetNonblock(a.pipes[0], true); err != nil {
		return "", err
	}
	a.stdin = &queueInput{a: a, fd: a.pipes[0]}
	return "", nil
}

// connectTerminal makes a pseudo-terminal and returns its path.
func (a *agent) connectTerminal(id identity) (string, error) {
	master, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return "", err
	}
	n, err := unix.IoctlGetInt(master, unix.TIOCGPTN)
	if err != nil {
		return "", err
	}
	path := "/dev/pts/" + strconv.Itoa(n)
	const ttyGroup = 5
	if err := unix.Chown(path, int(id.uid), ttyGroup); err != nil {
		return "", err
	}
	setWinsize(master, a.start.Rows, a.start.Cols)
	a.outputs = []*output{{name: "terminal", from: master, port: a.ports.stdout, tty: true}}
	a.stdin = &queueInput{a: a, fd: master, tty: true}
	return path, nil
}

// setWinsize sets a terminal's size. Programs cope with a wrong one, so there is nothing to report.
func setWinsize(fd int, rows, cols uint16) {
	_ = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols})
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
