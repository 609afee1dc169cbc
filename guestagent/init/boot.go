//go:build linux && amd64

package main

import (
	"slices"
	"strings"

	"github.com/detvm/detvm/guestagent"
	"golang.org/x/sys/unix"
)

// agent is the agent's state.
type agent struct {
	ports ports
	epoll int
	sig   int // signalfd of SIGCHLD

	frame   []byte // buffer for outgoing messages
	decoder *guestagent.Decoder
	start   guestagent.Start // what to run; Argv is empty until it came

	stdin    input
	device   *demandInput // what serves the stdin device; nil without CUSE
	outputs  []*output
	launcher *launcher
	pipes    [3]int // our ends of the launcher's streams; the first only without CUSE
	status   int    // pipe on which the launcher reports that it cannot become the command; -1 when settled
	pid      int    // of the launcher, then of the command
	dying    bool   // the command has ended, the rest is being killed
	exited   guestagent.Exited
	mounted  []string // data disks, in mount order
	done     bool
}

// ports are the file descriptors of the virtio-console ports.
type ports struct{ control, stdin, stdout, stderr int }

const hostname = "detvm"

// boot does all that does not depend on START, and says READY.
func (a *agent) boot() error {
	if err := bootMounts(); err != nil {
		return err
	}
	if err := quietRuntime(); err != nil {
		return failure("boot", "quiet the Go runtime", err)
	}
	if err := reserveStandardStreams(); err != nil {
		return failure("boot", "open /dev/null", err)
	}
	for _, link := range [][2]string{
		{"/proc/self/fd", "/dev/fd"}, {"/proc/self/fd/0", "/dev/stdin"}, {"/proc/self/fd/1", "/dev/stdout"}, {"/proc/self/fd/2", "/dev/stderr"},
	} {
		if err := unix.Symlink(link[0], link[1]); err != nil {
			return failure("boot", "link "+link[1], err)
		}
	}
	if err := unix.Sethostname([]byte(hostname)); err != nil {
		return failure("boot", "set the host name", err)
	}
	if err := loopbackUp(); err != nil {
		return failure("boot", "bring up the loopback interface", err)
	}
	if err := a.openPorts(); err != nil {
		return err
	}
	if err := a.openEvents(); err != nil {
		return err
	}
	if err := a.startLauncher(); err != nil {
		return failure("boot", "start the launcher", err)
	}
	a.decoder = guestagent.NewDecoder(guestagent.FromHost)
	a.send(&guestagent.Ready{Version: guestagent.Version, CUSE: a.device != nil})
	return nil
}

// bootMounts mounts the kernel's own file systems.
func bootMounts() error {
	const quietFlags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	for _, m := range []struct {
		fstype, target string
		flags          uintptr
		data           string
	}{
		{"proc", "/proc", quietFlags, ""},
		{"sysfs", "/sys", quietFlags, ""},
		{"devtmpfs", "/dev", unix.MS_NOSUID, "mode=0755"},
		{"devpts", "/dev/pts", unix.MS_NOSUID | unix.MS_NOEXEC, "gid=5,mode=0620,ptmxmode=0666"},
		{"tmpfs", "/dev/shm", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
	} {
		if strings.HasPrefix(m.target, "/dev/") {
			if err := unix.Mkdir(m.target, 0o755); err != nil && err != unix.EEXIST {
				return failure("boot", "make "+m.target, err)
			}
		}
		if err := unix.Mount(m.fstype, m.target, m.fstype, m.flags, m.data); err != nil {
			return failure("boot", "mount "+m.target, err)
		}
	}
	return nil
}

// reserveStandardStreams sees to it that no other descriptor of ours is 0, 1 or 2, which the command's are copied to:
// the kernel leaves them closed when it has no console.
func reserveStandardStreams() error {
	for {
		fd, err := unix.Open("/dev/null", unix.O_RDWR, 0)
		if err != nil {
			return err
		}
		if fd > 2 {
			closeFD(fd)
			return nil
		}
	}
}

// loopbackUp brings up lo. A kernel without a network has none, which is fine.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == unix.EAFNOSUPPORT || err == unix.ENOSYS {
		return nil
	}
	if err != nil {
		return err
	}
	defer closeFD(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
}

// openPorts finds the virtio-console ports by name. The kernel learns of them from messages that it handles in a
// worker thread, so they may appear a little later than the agent starts.
func (a *agent) openPorts() error {
	a.ports = ports{-1, -1, -1, -1}
	want := map[string]*int{
		guestagent.PortControl: &a.ports.control, guestagent.PortStdin: &a.ports.stdin,
		guestagent.PortStdout: &a.ports.stdout, guestagent.PortStderr: &a.ports.stderr,
	}
	const dir = "/sys/class/virtio-ports/"
	for range 10_000 {
		names, err := readDir(dir)
		if err != nil && err != unix.ENOENT {
			return failure("boot", "read "+dir, err)
		}
		for _, dev := range names {
			if dev[0] == '.' {
				continue
			}
			fd := want[strings.TrimSpace(string(readFile(dir+dev+"/name", 128)))]
			if fd == nil || *fd >= 0 {
				continue
			}
			if *fd, err = unix.Open("/dev/"+dev, unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
				return failure("boot", "open /dev/"+dev, err)
			}
		}
		if a.ports.control >= 0 && a.ports.stdin >= 0 && a.ports.stdout >= 0 && a.ports.stderr >= 0 {
			return nil
		}
		nap(1_000_000)
	}
	return failure("boot", "the machine has no detvm console ports", nil)
}

// openEvents makes the epoll set with what is known at boot.
func (a *agent) openEvents() error {
	var err error
	if a.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return failure("boot", "make the epoll set", err)
	}
	set := unix.Sigset_t{Val: [16]uint64{1 << (unix.SIGCHLD - 1)}}
	if a.sig, err = unix.Signalfd(-1, &set, unix.SFD_CLOEXEC|unix.SFD_NONBLOCK); err != nil {
		return failure("boot", "make the signal descriptor", err)
	}
	server, err := openCUSE()
	if err != nil {
		return failure("boot", "set up the stdin device", err)
	}
	if server != nil {
		a.device = &demandInput{a: a, server: server, eof: true}
		if err := a.watch(server.fd, eventCUSE, unix.EPOLLIN); err != nil {
			return failure("boot", "watch the stdin device", err)
		}
	}
	if err := a.watch(a.sig, eventSignal, unix.EPOLLIN); err != nil {
		return failure("boot", "watch for ended processes", err)
	}
	if err := a.watch(a.ports.control, eventControl, unix.EPOLLIN); err != nil {
		return failure("boot", "watch the control port", err)
	}
	return nil
}

// readFile returns up to limit bytes of a file, or nothing.
func readFile(path string, limit int) []byte {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer closeFD(fd)
	b := make([]byte, 0, min(limit, 2048)) // most are short, and a fresh page costs a fault
	for len(b) < limit {
		b = slices.Grow(b, 1)
		m, err := unix.Read(fd, b[len(b):min(cap(b), limit)])
		if err != nil || m == 0 {
			break
		}
		b = b[:len(b)+m]
	}
	return b
}
