package vmm

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// A snapshot file holds a whole machine: processor, virtual time, devices, RAM, and the events that led to it, so that a recording that starts from a
// snapshot has the same trace as one that booted. Layout, little endian: magic, key, counted sections (name, bytes), page runs (GPA, count, pages; a
// count of 0 ends them), SHA-256 of all that precedes.
const (
	snapshotMagic      = "detvm snapshot 2"
	snapshotSectionMax = 64 << 20
	snapshotSections   = 64
	snapshotSuffix     = ".snapshot"
	snapshotsKept      = 12
)

var errSnapshotCorrupt = errors.New("snapshot is damaged")

// section is one named part of a machine's state.
type section struct {
	name string
	data []byte
}

// writeSnapshot stores sections and RAM in dir under key, atomically: readers see the whole file or none.
func writeSnapshot(dir string, key Digest, sections []section, mem *memory) (err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the snapshot directory: %w", err)
	}
	f, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return fmt.Errorf("create a snapshot: %w", err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	sum := sha256.New()
	w := bufio.NewWriterSize(io.MultiWriter(f, sum), 1<<20)
	encodeSnapshot(w, key, sections, mem)
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write a snapshot: %w", err)
	}
	if _, err := f.Write(sum.Sum(nil)); err != nil {
		return fmt.Errorf("write a snapshot: %w", err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("write a snapshot: %w", err)
	}
	if err := os.Rename(f.Name(), snapshotPath(dir, key)); err != nil {
		return fmt.Errorf("put a snapshot in place: %w", err)
	}
	return nil
}

func snapshotPath(dir string, key Digest) string {
	return filepath.Join(dir, key.String()+snapshotSuffix)
}

// encodeSnapshot writes everything but the checksum; w keeps the first error.
func encodeSnapshot(w *bufio.Writer, key Digest, sections []section, mem *memory) {
	word := func(v uint64) { _, _ = w.Write(binary.LittleEndian.AppendUint64(nil, v)) }
	counted := func(p []byte) {
		word(uint64(len(p)))
		_, _ = w.Write(p)
	}
	_, _ = w.WriteString(snapshotMagic)
	_, _ = w.Write(key[:])
	word(uint64(len(sections)))
	for _, s := range sections {
		counted([]byte(s.name))
		counted(s.data)
	}
	for _, r := range mem.ranges {
		for off := 0; off < len(r.Host); {
			n := 0
			for off+n < len(r.Host) && !bytes.Equal(r.Host[off+n:off+n+pageSize], zeroPage[:]) {
				n += pageSize
			}
			if n > 0 {
				word(r.GPA + uint64(off))
				word(uint64(n / pageSize))
				_, _ = w.Write(r.Host[off : off+n])
			}
			off += n + pageSize
		}
	}
	word(0)
	word(0)
}

// readSnapshot loads the snapshot for key into mem, which must be all zeros. An absent one is fs.ErrNotExist, a damaged one errSnapshotCorrupt; RAM
// is untouched then, because the checksum is checked first.
func readSnapshot(dir string, key Digest, mem *memory) ([]section, error) {
	f, err := os.Open(snapshotPath(dir, key))
	if err != nil {
		return nil, fmt.Errorf("open a snapshot: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("open a snapshot: %w", err)
	}
	body := info.Size() - sha256.Size
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(f, 0, max(body, 0))); err != nil {
		return nil, fmt.Errorf("read a snapshot: %w", err)
	}
	want := make([]byte, sha256.Size)
	if _, err := f.ReadAt(want, max(body, 0)); err != nil || !bytes.Equal(want, sum.Sum(nil)) {
		return nil, fmt.Errorf("%w: checksum of %s does not match", errSnapshotCorrupt, f.Name())
	}
	sections, err := decodeSnapshot(bufio.NewReaderSize(io.NewSectionReader(f, 0, body), 1<<20), key, mem)
	if err != nil {
		return nil, fmt.Errorf("snapshot %s: %w (remove it with 'detvm snapshot prune')", f.Name(), err)
	}
	now := time.Now()
	_ = os.Chtimes(f.Name(), now, now) // the age that pruning goes by; a read-only cache is fine
	return sections, nil
}

func decodeSnapshot(r io.Reader, key Digest, mem *memory) ([]section, error) {
	head := make([]byte, len(snapshotMagic)+len(key))
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, fmt.Errorf("read the header: %w", err)
	}
	if string(head) != snapshotMagic+string(key[:]) {
		return nil, errors.New("not the snapshot that its name says")
	}
	var failed error
	word := func() uint64 {
		var b [8]byte
		if _, err := io.ReadFull(r, b[:]); err != nil && failed == nil {
			failed = err
		}
		return binary.LittleEndian.Uint64(b[:])
	}
	counted := func() []byte {
		n := word()
		if n > snapshotSectionMax || failed != nil {
			failed = errors.Join(failed, errors.New("section too long"))
			return nil
		}
		p, err := io.ReadAll(io.LimitReader(r, int64(n)))
		if err == nil && uint64(len(p)) < n {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			failed = err
		}
		return p
	}
	n := word()
	if n > snapshotSections {
		return nil, fmt.Errorf("%d sections", n)
	}
	var sections []section
	for range n {
		name := counted()
		sections = append(sections, section{string(name), counted()})
		if failed != nil {
			return nil, fmt.Errorf("read a section: %w", failed)
		}
	}
	for {
		gpa, pages := word(), word()
		if failed != nil {
			return nil, fmt.Errorf("read a page run: %w", failed)
		}
		if pages == 0 {
			break
		}
		dst, ok := mem.Slice(gpa, pages*pageSize)
		if !ok || pages > MaxMemory/pageSize {
			return nil, fmt.Errorf("pages at %#x are outside RAM", gpa)
		}
		if _, err := io.ReadFull(r, dst); err != nil {
			return nil, fmt.Errorf("read pages at %#x: %w", gpa, err)
		}
	}
	return sections, nil
}

// CachedSnapshot describes one file of the boot-snapshot cache.
type CachedSnapshot struct {
	Path string    `json:"path"`
	Size int64     `json:"size"` // bytes
	Used time.Time `json:"used"` // last time a run started from it
}

// ListSnapshots lists the boot snapshots in a cache directory, most recently used first. A missing directory is empty.
func ListSnapshots(dir string) ([]CachedSnapshot, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	var list []CachedSnapshot
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || filepath.Ext(e.Name()) != snapshotSuffix {
			continue // removed meanwhile, or not ours
		}
		list = append(list, CachedSnapshot{filepath.Join(dir, e.Name()), info.Size(), info.ModTime()})
	}
	slices.SortFunc(list, func(a, b CachedSnapshot) int { return b.Used.Compare(a.Used) })
	return list, nil
}

// PruneSnapshots removes all but the keep most recently used snapshots and returns those that it removed. Runs that use one go on undisturbed.
// Temporary files that a killed run left are removed when they are older than an hour.
func PruneSnapshots(dir string, keep int) ([]CachedSnapshot, error) {
	list, err := ListSnapshots(dir)
	if err != nil {
		return nil, err
	}
	list = list[min(keep, len(list)):]
	for _, s := range list {
		if err := os.Remove(s.Path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("remove a snapshot: %w", err)
		}
	}
	stale, _ := filepath.Glob(filepath.Join(dir, ".new-*"))
	for _, path := range stale {
		if info, err := os.Stat(path); err == nil && time.Since(info.ModTime()) > time.Hour {
			_ = os.Remove(path)
		}
	}
	return list, nil
}
