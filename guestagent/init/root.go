//go:build linux && amd64

package main

import (
	"bytes"
	"encoding/binary"

	"github.com/detvm/detvm/guestagent"
	"golang.org/x/sys/unix"
)

// Where the root of an image is put together; the directories are in the initramfs.
const (
	lowerDir = "/mnt/lower" // the image, read-only
	rwDir    = "/mnt/rw"    // a tmpfs for what is written
	rootDir  = "/mnt/root"  // the overlay of both, which becomes /
)

// enterRoot makes the image on a block device the root file system, under an overlay in memory.
func enterRoot(device string) error {
	fstype, err := identify(device)
	if err != nil {
		return err
	}
	if err := mountReadOnly(device, lowerDir, fstype); err != nil {
		return failure("root", "mount the root image ("+fstype+")", err)
	}
	if err := unix.Mount("tmpfs", rwDir, "tmpfs", 0, "mode=0755"); err != nil {
		return failure("root", "mount the root's overlay", err)
	}
	for _, dir := range []string{rwDir + "/upper", rwDir + "/work"} {
		if err := unix.Mkdir(dir, 0o755); err != nil {
			return failure("root", "make "+dir, err)
		}
	}
	options := "lowerdir=" + lowerDir + ",upperdir=" + rwDir + "/upper,workdir=" + rwDir + "/work"
	if err := unix.Mount("overlay", rootDir, "overlay", 0, options); err != nil {
		return failure("root", "mount the root's overlay", err)
	}
	for _, dir := range []string{"/dev", "/proc", "/sys"} {
		if err := makeDir(rootDir+dir, 0o755); err != nil {
			return failure("root", "make "+dir, err)
		}
		if err := unix.Mount(dir, rootDir+dir, "", unix.MS_MOVE, ""); err != nil {
			return failure("root", "move "+dir, err)
		}
	}
	if err := switchRoot(); err != nil {
		return failure("root", "switch to the root image", err)
	}
	return completeRoot()
}

// switchRoot makes rootDir the root. pivot_root(2) does not work on an initramfs.
func switchRoot() error {
	if err := unix.Chdir(rootDir); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return err
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	return unix.Chdir("/")
}

// completeRoot makes what programs expect and images built from scratch may lack.
func completeRoot() error {
	for _, d := range []struct {
		path string
		mode uint32
	}{{"/etc", 0o755}, {"/run", 0o755}, {"/tmp", 0o1777}} {
		if err := makeDir(d.path, d.mode); err != nil {
			return failure("root", "make "+d.path, err)
		}
	}
	for _, f := range []struct{ path, content string }{
		{"/etc/hostname", hostname + "\n"},
		{"/etc/hosts", "127.0.0.1\tlocalhost " + hostname + "\n"},
		{"/etc/resolv.conf", ""},
	} {
		if err := createFile(f.path, f.content); err != nil {
			return failure("root", "make "+f.path, err)
		}
	}
	return nil
}

// makeDir makes a directory with exactly that mode unless the path exists.
func makeDir(path string, mode uint32) error {
	err := unix.Mkdir(path, mode)
	if err == unix.EEXIST {
		return nil
	}
	if err != nil {
		return err
	}
	return unix.Chmod(path, mode)
}

// createFile makes a file unless the path exists, be it as a dangling link.
func createFile(path, content string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o644)
	if err == unix.EEXIST {
		return nil
	}
	if err != nil {
		return err
	}
	defer closeFD(fd)
	return writeAll(fd, []byte(content))
}

// mountDisk mounts a data disk. It is to be unmounted before EXITED when it can be written.
func (a *agent) mountDisk(d guestagent.Disk) error {
	device := blockDevice(d.Device)
	fstype, err := identify(device)
	if err != nil {
		return err
	}
	if err := makeDirs(d.Path); err != nil {
		return failure("disk", "make "+d.Path, err)
	}
	if d.ReadOnly {
		err = mountReadOnly(device, d.Path, fstype)
	} else {
		err = unix.Mount(device, d.Path, fstype, 0, "")
		a.mounted = append(a.mounted, d.Path)
	}
	if err != nil {
		return failure("disk", "mount the data disk ("+fstype+") at "+d.Path, err)
	}
	return nil
}

// makeDirs makes a directory and those above it.
func makeDirs(path string) error {
	for i := 1; i <= len(path); i++ {
		if i == len(path) || path[i] == '/' {
			if err := makeDir(path[:i], 0o755); err != nil {
				return err
			}
		}
	}
	return nil
}

// mountReadOnly mounts without writing to the device; ext4 would replay its journal.
func mountReadOnly(device, target, fstype string) error {
	err := unix.Mount(device, target, fstype, unix.MS_RDONLY, "")
	if err != nil && fstype == "ext4" {
		err = unix.Mount(device, target, fstype, unix.MS_RDONLY, "noload")
	}
	return err
}

func blockDevice(index uint8) string { return "/dev/vd" + string(rune('a'+index)) }

// identify reads a block device's superblock to tell the file system.
func identify(device string) (string, error) {
	fd, err := unix.Open(device, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", failure("root", "open "+device, err)
	}
	defer closeFD(fd)
	var head [2048]byte
	n, err := unix.Pread(fd, head[:], 0)
	if err != nil {
		return "", failure("root", "read "+device, err)
	}
	fstype := fileSystem(head[:n])
	if fstype == "" {
		return "", failure("root", device+" holds no file system that the guest knows (erofs, ext4, squashfs)", nil)
	}
	return fstype, nil
}

// fileSystem tells a file system from the first 2 KiB: by the superblock magic of erofs (fs/erofs/erofs_fs.h), ext2 to
// ext4 (fs/ext4/ext4.h) or squashfs (fs/squashfs/squashfs_fs.h). It returns "" for others.
func fileSystem(head []byte) string {
	if len(head) < 2048 {
		return ""
	}
	switch {
	case binary.LittleEndian.Uint32(head[1024:]) == 0xe0f5e1e2:
		return "erofs"
	case binary.LittleEndian.Uint16(head[1024+56:]) == 0xef53:
		return "ext4"
	case bytes.HasPrefix(head, []byte("hsqs")):
		return "squashfs"
	}
	return ""
}
