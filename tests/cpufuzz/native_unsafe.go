package cpufuzz

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"
)

// signalInfo returns what siginfo_t says of the stop that a traced process is in: the code, and the address for those that have one.
func signalInfo(pid int) (code int32, addr uint64, err error) {
	var info [128]byte
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_GETSIGINFO, uintptr(pid), 0, uintptr(unsafe.Pointer(&info[0])), 0, 0)
	if errno != 0 {
		return 0, 0, errno
	}
	return int32(binary.LittleEndian.Uint32(info[8:])), binary.LittleEndian.Uint64(info[16:]), nil
}
