package images

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// holeSize is the unit in which zeros become holes of the files written here. It divides the buffer size.
const (
	holeSize   = 4096
	bufferSize = 256 << 10
)

// A sparseFile is an append-only file whose aligned stretches of zeros are holes: a sparse terabyte costs time, not disk.
type sparseFile struct {
	f    *os.File
	size int64
}

var zeros [holeSize]byte

// Write appends p. Short of an error it takes all of p.
func (s *sparseFile) Write(p []byte) (int, error) {
	for done := 0; done < len(p); {
		n := s.run(p[done:])
		if !isZero(p[done : done+n]) {
			if _, err := s.f.WriteAt(p[done:done+n], s.size); err != nil {
				return done, err
			}
		}
		s.size += int64(n)
		done += n
	}
	return len(p), nil
}

// run returns how many bytes of p to treat as one: up to the next hole boundary when they are zero, else up to the next zeros.
func (s *sparseFile) run(p []byte) int {
	next := min(len(p), holeSize-int(s.size%holeSize))
	if isZero(p[:next]) {
		return next
	}
	for next < len(p) {
		n := min(holeSize, len(p)-next)
		if isZero(p[next : next+n]) {
			break
		}
		next += n
	}
	return next
}

func isZero(p []byte) bool {
	return bytes.Equal(p, zeros[:min(len(p), holeSize)]) && len(p) <= holeSize
}

// A spool holds file contents that came through a stream. Its file has no name, so nothing is left behind however we end.
type spool struct{ sparseFile }

func newSpool(dir string) (*spool, error) {
	f, err := os.CreateTemp(dir, ".detvm-spool-*")
	if err != nil {
		return nil, fmt.Errorf("make a temporary file: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, fmt.Errorf("make a temporary file: %w", err)
	}
	return &spool{sparseFile{f: f}}, nil
}

// free gives the spool's disk space back.
func (s *spool) free() { s.f.Close() }

// keep copies exactly size bytes of r into the spool.
func (s *spool) keep(r io.Reader, size int64) (content, error) {
	start := s.size
	n, err := io.CopyBuffer(onlyWriter{s}, io.LimitReader(r, size), make([]byte, bufferSize))
	if err != nil {
		return nil, err
	}
	if n != size {
		return nil, io.ErrUnexpectedEOF
	}
	// A hole at the very end is part of no write: give it its length.
	if err := s.f.Truncate(s.size); err != nil {
		return nil, err
	}
	return spooled{s.f, start, size}, nil
}

// onlyWriter hides other methods from io.Copy.
type onlyWriter struct{ io.Writer }

// spooled is a stretch of a spool.
type spooled struct {
	f           *os.File
	start, size int64
}

func (c spooled) open() (io.ReadCloser, error) {
	return io.NopCloser(io.NewSectionReader(c.f, c.start, c.size)), nil
}

// hostFile is the content of a file of a source directory.
type hostFile string

func (c hostFile) open() (io.ReadCloser, error) { return openNoFollow(string(c)) }

// imageWriter writes an image front to back and hashes it on the way.
type imageWriter struct {
	sparseFile
	buf    []byte
	digest hash.Hash
}

func newImageWriter(f *os.File) *imageWriter {
	return &imageWriter{sparseFile: sparseFile{f: f}, buf: make([]byte, 0, bufferSize), digest: sha256.New()}
}

// Write buffers p.
func (w *imageWriter) Write(p []byte) (int, error) {
	for done := 0; done < len(p); {
		n := copy(w.buf[len(w.buf):cap(w.buf)], p[done:])
		w.buf = w.buf[:len(w.buf)+n]
		done += n
		if len(w.buf) == cap(w.buf) {
			if err := w.flush(); err != nil {
				return done, err
			}
		}
	}
	return len(p), nil
}

func (w *imageWriter) flush() error {
	w.digest.Write(w.buf)
	_, err := w.sparseFile.Write(w.buf)
	w.buf = w.buf[:0]
	return err
}

// position is the number of bytes written so far.
func (w *imageWriter) position() int64 { return w.size + int64(len(w.buf)) }

// padTo writes zeros up to position pos.
func (w *imageWriter) padTo(pos int64) error {
	for n := pos - w.position(); n > 0; n = pos - w.position() {
		if _, err := w.Write(zeros[:min(n, holeSize)]); err != nil {
			return err
		}
	}
	if w.position() != pos {
		return fmt.Errorf("image layout: at %d, want %d", w.position(), pos)
	}
	return nil
}

func (w *imageWriter) finish() error {
	if err := w.flush(); err != nil {
		return err
	}
	return w.f.Truncate(w.size)
}

func (w *imageWriter) sum() string { return hex.EncodeToString(w.digest.Sum(nil)) }

// writeAtomically makes the file at dest by write: all of it, on disk, or nothing.
func writeAtomically(dest string, write func(*os.File) error) (err error) {
	f, err := createTemp(dest)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if err := write(f); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), dest); err != nil {
		return err
	}
	return syncDir(filepath.Dir(dest))
}

// tempMark is in the name of every temporary file that has a name, so that prune finds what a killed process left.
const tempMark = ".detvm-tmp-"

// createTemp makes a new file beside dest, with the permissions that the umask gives (os.CreateTemp would give 0600).
func createTemp(dest string) (*os.File, error) {
	if fi, err := os.Stat(dest); err == nil && fi.IsDir() {
		return nil, fmt.Errorf("%s is a directory", dest)
	}
	for try := range 100 {
		name := dest + tempMark + strconv.Itoa(os.Getpid()) + "-" + strconv.FormatInt(time.Now().UnixNano()+int64(try), 36)
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
		if !errors.Is(err, os.ErrExist) {
			return f, err
		}
	}
	return nil, fmt.Errorf("no free temporary name beside %s", dest)
}

// syncDir makes a rename in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
