//go:build linux && amd64

package main

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// The kernel speaks the FUSE protocol (include/uapi/linux/fuse.h) to the implementer of a CUSE device: requests are
// read from /dev/cuse whole, one a read, and answered by one write each, in any order. What is here is the part that a
// read-only stream needs.

// Operation codes.
const (
	fuseOpen      = 14
	fuseRead      = 15
	fuseRelease   = 18
	fuseInterrupt = 36
	fusePoll      = 40
	cuseInit      = 4096
)

// Sizes of structures.
const (
	fuseInHeader  = 40
	fuseOutHeader = 16
	cuseInitReply = 72
)

// stdinDevice is the name of the device in /dev.
const stdinDevice = "detvm-stdin"

// maxCUSERead is the largest read that the kernel passes on in one request. It is more than one answer ever carries:
// the kernel splits a larger read of the workload, and goes on with the next part only after a full answer, so an
// answer that is smaller than a part always ends the workload's read, like a pipe's.
const maxCUSERead = 128 << 10

// fuseRequest is one request of the kernel.
type fuseRequest struct {
	op     uint32
	unique uint64
	arg    []byte // what follows the header; valid until the next read
}

// parseFUSE takes apart what one read of the device returned.
func parseFUSE(b []byte) (fuseRequest, bool) {
	if len(b) < fuseInHeader || int(binary.LittleEndian.Uint32(b)) != len(b) {
		return fuseRequest{}, false
	}
	return fuseRequest{
		op:     binary.LittleEndian.Uint32(b[4:]),
		unique: binary.LittleEndian.Uint64(b[8:]),
		arg:    b[fuseInHeader:],
	}, true
}

// appendFUSEReply adds to b the answer to request unique: an error number (then there is no payload) or a payload.
func appendFUSEReply(b []byte, unique uint64, errno unix.Errno, payload []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(fuseOutHeader+len(payload)))
	b = binary.LittleEndian.AppendUint32(b, uint32(-int32(errno)))
	b = binary.LittleEndian.AppendUint64(b, unique)
	return append(b, payload...)
}

// cuseInitPayload is struct cuse_init_out and the device's name; minor is the protocol version that the kernel offered.
func cuseInitPayload(minor uint32) []byte {
	const fuseMajor = 7
	b := make([]byte, cuseInitReply, cuseInitReply+32)
	binary.LittleEndian.PutUint32(b[0:], fuseMajor)
	binary.LittleEndian.PutUint32(b[4:], minor)
	binary.LittleEndian.PutUint32(b[16:], maxCUSERead)
	binary.LittleEndian.PutUint32(b[20:], 4096) // max_write, which nobody uses
	return append(b, "DEVNAME="+stdinDevice+"\x00"...)
}

// fuseOpenPayload is struct fuse_open_out: no handle, and FOPEN_STREAM, for a file without a position. Our kernel's CUSE
// heeds it, so that lseek(2) fails as on a pipe; with others it seems to succeed, and a shell that reads its script from
// standard input ahead of the commands believes that it can go back.
func fuseOpenPayload() []byte {
	const fopenStream = 1 << 4
	b := make([]byte, 16)
	binary.LittleEndian.PutUint32(b[8:], fopenStream)
	return b
}

// fuseReadSize returns how many bytes a READ asks for (struct fuse_read_in).
func fuseReadSize(arg []byte) (uint32, bool) {
	if len(arg) < 20 {
		return 0, false
	}
	return binary.LittleEndian.Uint32(arg[16:]), true
}

// cuseServer is the kernel's end of the stdin device.
type cuseServer struct {
	fd    int
	in    [8 << 10]byte // FUSE_MIN_READ_BUFFER
	reply []byte
}

// openCUSE registers the device. It returns nil when the kernel has no CUSE.
func openCUSE() (*cuseServer, error) {
	fd, err := unix.Open("/dev/cuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT || err == unix.ENXIO || err == unix.ENODEV {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	s := &cuseServer{fd: fd}
	r, err := s.next()
	if err != nil {
		return nil, err
	}
	if r.op != cuseInit || len(r.arg) < 8 {
		return nil, unix.EPROTO
	}
	if err := s.answer(r.unique, 0, cuseInitPayload(binary.LittleEndian.Uint32(r.arg[4:]))); err != nil {
		return nil, err
	}
	// A workload that is not root may open /dev/stdin, which leads here.
	return s, unix.Chmod("/dev/"+stdinDevice, 0o666)
}

// next reads one request. It waits for one.
func (s *cuseServer) next() (fuseRequest, error) {
	for {
		n, err := unix.Read(s.fd, s.in[:])
		if err == unix.EINTR || err == unix.ENOENT { // ENOENT: the request was withdrawn while we read it
			continue
		}
		if err != nil {
			return fuseRequest{}, err
		}
		r, ok := parseFUSE(s.in[:n])
		if !ok {
			return fuseRequest{}, unix.EPROTO
		}
		return r, nil
	}
}

// answer answers a request. One that was withdrawn meanwhile (ENOENT) needs no answer.
func (s *cuseServer) answer(unique uint64, errno unix.Errno, payload []byte) error {
	s.reply = appendFUSEReply(s.reply[:0], unique, errno, payload)
	_, err := unix.Write(s.fd, s.reply)
	if err == unix.ENOENT {
		return nil
	}
	return err
}
