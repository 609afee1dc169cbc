//go:build linux && amd64

package main

import (
	"strings"

	"github.com/detvm/detvm/guestagent"
	"golang.org/x/sys/unix"
)

// run does what START says: sets time and randomness, prepares the root and the disks, and starts the command.
func (a *agent) run() error {
	s := &a.start
	if err := a.seed(); err != nil { // before the clock is set: the time must not go into the pool
		return err
	}
	now := unix.NsecToTimespec(s.WallClock)
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &now); err != nil {
		return failure("clock", "set the clock", err)
	}
	if s.Hostname != "" && s.Hostname != hostname {
		if err := unix.Sethostname([]byte(s.Hostname)); err != nil {
			return failure("hostname", "set the host name", err)
		}
	}
	if s.Root == guestagent.RootBlock {
		if err := enterRoot(blockDevice(s.RootDevice)); err != nil {
			return err
		}
	}
	for _, d := range s.Disks {
		if err := a.mountDisk(d); err != nil {
			return err
		}
	}
	id, problem := lookUpUser(s.User, readFile("/etc/passwd", maxAccounts), readFile("/etc/group", maxAccounts))
	if problem != "" {
		return failure("user", problem, nil)
	}
	return a.spawn(id)
}

func (a *agent) seed() error {
	fd, err := unix.Open("/dev/urandom", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return failure("seed", "open /dev/urandom", err)
	}
	defer closeFD(fd)
	if err := addEntropy(fd, a.start.Seed[:]); err != nil {
		return failure("seed", "seed the random pool", err)
	}
	clear(a.start.Seed[:])
	return nil
}

// environment returns the command's environment: the defaults, with START's entries in place of those of the same name
// and after them.
func environment(extra []string, id identity, tty bool) []string {
	name := id.name
	if name == "" {
		name = "root"
		if id.uid != 0 {
			name = "user"
		}
	}
	home := id.home
	if id.name == "" && id.uid == 0 {
		home = "/root"
	}
	term := "dumb"
	if tty {
		term = "xterm"
	}
	env := []string{
		"PATH=" + defaultPath, "HOME=" + home, "USER=" + name, "LANG=C.UTF-8", "TERM=" + term,
	}
	for _, e := range extra {
		env = setEnv(env, e)
	}
	return env
}

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// setEnv puts entry in place of the one with its name, or at the end.
func setEnv(env []string, entry string) []string {
	name := entry[:strings.IndexByte(entry, '=')+1]
	for i, e := range env {
		if strings.HasPrefix(e, name) {
			env[i] = entry
			return env
		}
	}
	return append(env, entry)
}

// candidates returns the paths at which a command is tried: itself if it has a slash, else in each directory of PATH.
func candidates(command string, env []string) []string {
	if strings.Contains(command, "/") {
		return []string{command}
	}
	var list []string
	for _, e := range env {
		if path, ok := strings.CutPrefix(e, "PATH="); ok {
			for _, dir := range strings.Split(path, ":") {
				if dir == "" {
					dir = "."
				}
				list = append(list, dir+"/"+command)
			}
		}
	}
	return list
}

// execFailure makes the FAILED message for a child that could not become the command.
func (a *agent) execFailure(stage childStage, errno unix.Errno) *guestagent.Failed {
	command := a.start.Argv[0]
	f := &guestagent.Failed{Stage: stage.String(), Errno: uint32(errno), ExitCode: guestagent.ExitAgentError}
	switch {
	case stage == stageExec && (errno == unix.ENOENT || errno == unix.ENOTDIR):
		f.ExitCode = guestagent.ExitNotFound
		f.Message = command + ": command not found"
		if strings.Contains(command, "/") {
			f.Message = command + ": no such file, or its interpreter is missing"
		}
	case stage == stageExec:
		f.ExitCode = guestagent.ExitNotExecutable
		f.Message = "cannot execute " + command + ": " + errno.Error()
	case stage == stageCwd:
		f.Message = "change to directory " + a.start.Cwd + ": " + errno.Error()
	default:
		f.Message = "prepare the command: " + stage.String() + ": " + errno.Error()
	}
	return f
}
