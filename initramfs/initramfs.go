// Package initramfs builds the cpio archives that the guest kernel unpacks into its first root file system.
//
// There are two. The base archive holds the agent (guestagent/init) as /init and the few directories and device nodes
// that it needs before it has mounted anything; it boots any root image. The default archive adds a small userland, one
// multi-call binary with a symbolic link for each command, so that a command can run without an image.
//
// An archive is a pure function of what goes in: records are sorted, times and owners are zero, inode numbers count
// from 1. Its bytes are an input of every run, so two builds must agree on them.
//
// The contents of files of a page or more begin at a multiple of the page size, for which the record's name is followed by
// NULs. Our kernel gives such pages to the file instead of copying them; any other one sees an ordinary archive.
package initramfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/u-root/u-root/pkg/cpio"
)

// MultiCall is the path of the userland's multi-call binary in the default archive.
const MultiCall = "bin/bb"

// Base returns the records of the base archive with the given agent program as /init.
func Base(agent []byte) []cpio.Record {
	records := []cpio.Record{
		file("init", agent, 0o755),
		cpio.CharDev("dev/console", 0o600, 5, 1),
		cpio.CharDev("dev/null", 0o666, 1, 3),
		cpio.CharDev("dev/kmsg", 0o600, 1, 11),
		cpio.Directory("root", 0o700),
		cpio.Directory("tmp", 0o1777),
	}
	// /mnt/lower, /mnt/rw and /mnt/root are where the agent puts together the root of an image.
	for _, name := range []string{"dev", "mnt", "mnt/lower", "mnt/root", "mnt/rw", "proc", "run", "sys"} {
		records = append(records, cpio.Directory(name, 0o755))
	}
	return records
}

// Userland returns the records that the default archive has beyond the base: binary as the multi-call program, a link
// to it for each of the commands in /bin, and the files of /etc. The commands must include a shell, sh.
func Userland(binary []byte, commands []string) ([]cpio.Record, error) {
	if !slices.Contains(commands, "sh") {
		return nil, errors.New("userland has no command sh")
	}
	records := []cpio.Record{
		cpio.Directory("bin", 0o755),
		cpio.Directory("etc", 0o755),
		cpio.Directory("usr", 0o755),
		cpio.Symlink("usr/bin", "../bin"),
		cpio.Symlink("sbin", "bin"),
		file(MultiCall, binary, 0o755),
		cpio.StaticFile("etc/group", "root:x:0:\nnogroup:x:65534:\n", 0o644),
		cpio.StaticFile("etc/hostname", "detvm\n", 0o644),
		cpio.StaticFile("etc/hosts", "127.0.0.1\tlocalhost detvm\n", 0o644),
		cpio.StaticFile("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n", 0o644),
		cpio.StaticFile("etc/resolv.conf", "", 0o644),
	}
	for _, name := range commands {
		if name == "" || name == ".." || name != path.Base(name) || name == path.Base(MultiCall) {
			return nil, fmt.Errorf("userland command has an unusable name: %q", name)
		}
		records = append(records, cpio.Symlink("bin/"+name, path.Base(MultiCall)))
	}
	return records, nil
}

// Write writes records to w as a cpio archive of format newc, in canonical form: the order of records does not matter.
// Every directory must have a record of its own.
func Write(w io.Writer, records []cpio.Record) error {
	out := &counter{w: w}
	sorted := slices.Clone(records)
	cpio.MakeAllReproducible(sorted)
	slices.SortFunc(sorted, func(a, b cpio.Record) int { return strings.Compare(a.Name, b.Name) })
	dirs := map[string]bool{".": true}
	cw := cpio.Newc.Writer(out)
	for i := range sorted {
		r := &sorted[i]
		if !dirs[path.Dir(r.Name)] {
			return fmt.Errorf("initramfs: %s has no directory record for %s before it", r.Name, path.Dir(r.Name))
		}
		if i > 0 && r.Name == sorted[i-1].Name {
			return fmt.Errorf("initramfs: two records for %s", r.Name)
		}
		if r.Mode&cpio.S_IFMT == cpio.S_IFDIR {
			dirs[r.Name] = true
		}
		r.Ino = uint64(i + 1)
		r.NLink = 1
		padded := *r
		padded.Name = alignContents(r, out.n)
		if err := cw.WriteRecord(padded); err != nil {
			return fmt.Errorf("initramfs: %s: %w", r.Name, err)
		}
	}
	return cpio.WriteTrailer(cw)
}

// Sizes that alignContents goes by.
const (
	pageSize   = 4096
	headerSize = 110  // of a newc record, before the name
	maxName    = 4096 // PATH_MAX: the kernel skips records with longer names, the final NUL included
)

// alignContents returns the name, with NULs after it, with which the contents of a record written at pos begin at a page. A
// name that would be too long stays as it is.
func alignContents(r *cpio.Record, pos int64) string {
	if r.Mode&cpio.S_IFMT != cpio.S_IFREG || r.FileSize < pageSize {
		return r.Name
	}
	length := len(r.Name) + 1
	pad := -(int(pos%pageSize) + headerSize + length) & (pageSize - 1)
	if length+pad > maxName {
		return r.Name
	}
	return r.Name + strings.Repeat("\x00", pad)
}

// counter counts what is written.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// Bytes returns the canonical archive of records.
func Bytes(records []cpio.Record) ([]byte, error) {
	var b bytes.Buffer
	err := Write(&b, records)
	return b.Bytes(), err
}

func file(name string, content []byte, perm uint64) cpio.Record {
	return cpio.StaticRecord(content, cpio.Info{Name: name, Mode: cpio.S_IFREG | perm})
}
