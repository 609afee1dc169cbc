package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/detvm/detvm/attest"
)

// recordingFile is where a trace is recorded. It is opened at the first write, so that a run that never starts leaves nothing and moves nothing, and is locked
// while it is written. A trace that is there is kept under another name.
type recordingFile struct {
	path   string
	notice func(string)
	file   *os.File
	kept   string // where the older trace is now, or ""
}

func (r *recordingFile) Write(p []byte) (int, error) {
	if r.file != nil {
		return r.file.Write(p)
	}
	if err := r.open(); err != nil {
		return 0, err
	}
	n, err := r.file.Write(p)
	if n == 0 && err != nil {
		return 0, errors.Join(err, r.withdraw())
	}
	if r.kept != "" {
		r.notice(fmt.Sprintf("the trace that was %s is now %s", r.path, r.kept))
	}
	return n, err
}

// open makes the file, or takes what stands under its name if that is neither a trace nor in use.
func (r *recordingFile) open() error {
	for {
		f, err := os.OpenFile(r.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if errors.Is(err, fs.ErrExist) {
			f, err = os.OpenFile(r.path, os.O_WRONLY|os.O_CREATE, 0o644) // a device, a link to nowhere, an older trace
		}
		if err != nil {
			return fmt.Errorf("record: %w", err)
		}
		state, err := r.claim(f)
		if err == nil && state == claimed {
			r.file = f
			return nil
		}
		if err == nil && state == older {
			r.kept = oldName(r.path)
			if err = moveTrace(r.path, r.kept); err != nil {
				err = fmt.Errorf("keep the old trace: %w", err)
			}
		}
		_ = f.Close()
		if err != nil {
			return err
		}
	}
}

// claimState is what a file under the name turned out to be.
type claimState int

const (
	claimed claimState = iota // ours to write
	older                     // a trace that has to make room; nobody else moves it as long as the file is open
	gone                      // moved away meanwhile
)

// claim locks an opened file and looks what it is.
func (r *recordingFile) claim(f *os.File) (claimState, error) {
	info, err := f.Stat()
	if err != nil {
		return gone, fmt.Errorf("record: %w", err)
	}
	if !info.Mode().IsRegular() {
		return claimed, nil
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		return gone, fmt.Errorf("another detvm records into %s just now: give another name", r.path)
	} // file systems without locks have none
	now, err := os.Stat(r.path)
	if err != nil || !os.SameFile(info, now) {
		return gone, nil
	}
	if now.Size() > 0 {
		return older, nil
	}
	return claimed, nil
}

// withdraw undoes open: nothing could be written.
func (r *recordingFile) withdraw() error {
	info, err := r.file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return err
	}
	if r.kept != "" {
		return moveTrace(r.kept, r.path)
	}
	return os.Remove(r.path)
}

// close makes sure that the trace is on the disk.
func (r *recordingFile) close() error {
	if r.file == nil {
		return nil
	}
	err := r.file.Sync()
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTSUP) {
		err = nil // a device or a pipe
	}
	if err := errors.Join(err, r.file.Close()); err != nil {
		return fmt.Errorf("record into %s: %w", r.path, err)
	}
	return nil
}

// oldName is a free name for a trace that has to make room: run-old.dtr, run-old-2.dtr and so on for run.dtr. The names of its bundles begin with
// it, and must not begin with that of the trace which takes its place.
func oldName(path string) string {
	ext := filepath.Ext(path)
	old := strings.TrimSuffix(path, ext) + "-old"
	name := old + ext
	for i := 2; ; i++ {
		if _, err := os.Lstat(name); err != nil {
			return name
		}
		name = fmt.Sprintf("%s-%d%s", old, i, ext)
	}
}

// moveTrace renames a trace and the bundles beside it.
func moveTrace(from, to string) error {
	bundles, err := attest.FindBundles(from)
	if err != nil {
		return err
	}
	if err := os.Rename(from, to); err != nil {
		return err
	}
	for _, b := range bundles {
		if err := os.Rename(b, filepath.Join(filepath.Dir(to), filepath.Base(to)+strings.TrimPrefix(filepath.Base(b), filepath.Base(from)))); err != nil {
			return err
		}
	}
	return nil
}
