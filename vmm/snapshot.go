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
// snapshot has the same trace as one that booted. Layout, little endian: magic, key, length of the description, the description, its SHA-256, zeros up to a
// page boundary, pages. The description: counted sections (name, bytes), counted page runs (GPA, count), the SHA-256 of each page.
const (
	snapshotMagic      = "detvm snapshot 3"
	snapshotHead       = len(snapshotMagic) + sha256.Size + 8
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

// pageRun is a stretch of RAM that a snapshot holds.
type pageRun struct{ gpa, pages uint64 }

// writeSnapshot stores sections and RAM, whose digests must be up to date, in dir under key, atomically: readers see the whole file or none.
func writeSnapshot(dir string, key Digest, sections []section, mem *memoryDigest) (err error) {
	for _, s := range sections {
		if len(s.data) > snapshotSectionMax {
			return fmt.Errorf("write a snapshot: its section %s of %d bytes is too long", s.name, len(s.data))
		}
	}
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
	runs := mem.runs()
	w := bufio.NewWriterSize(f, 1<<20) // keeps the first error for Flush
	_, _ = w.Write(encodeSnapshot(key, sections, runs, mem))
	for _, r := range runs {
		p, _ := mem.mem.Slice(r.gpa, r.pages*pageSize)
		_, _ = w.Write(p)
	}
	if err := w.Flush(); err != nil {
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

// runs lists the pages that are not all zeros.
func (d *memoryDigest) runs() []pageRun {
	var runs []pageRun
	for i, r := range d.mem.ranges {
		open := false
		for off, sums := uint64(0), d.pages[i]; len(sums) > 0; off, sums = off+pageSize, sums[sha256.Size:] {
			switch zero := bytes.Equal(sums[:sha256.Size], zeroPageDigest[:]); {
			case zero:
				open = false
			case open:
				runs[len(runs)-1].pages++
			default:
				runs, open = append(runs, pageRun{r.GPA + off, 1}), true
			}
		}
	}
	return runs
}

// encodeSnapshot is everything before the pages.
func encodeSnapshot(key Digest, sections []section, runs []pageRun, mem *memoryDigest) []byte {
	var p []byte
	word := func(v uint64) { p = binary.LittleEndian.AppendUint64(p, v) }
	counted := func(b []byte) {
		word(uint64(len(b)))
		p = append(p, b...)
	}
	word(uint64(len(sections)))
	for _, s := range sections {
		counted([]byte(s.name))
		counted(s.data)
	}
	word(uint64(len(runs)))
	for _, r := range runs {
		word(r.gpa)
		word(r.pages)
	}
	for _, r := range runs {
		for i := range r.pages {
			_, sum := mem.page(r.gpa + i*pageSize)
			p = append(p, sum...)
		}
	}
	head := append([]byte(snapshotMagic), key[:]...)
	head = binary.LittleEndian.AppendUint64(head, uint64(len(p)))
	sum := sha256.Sum256(append(head, p...))
	head = append(append(head, p...), sum[:]...)
	return append(head, zeroPage[:-len(head)&(pageSize-1)]...)
}

// readSnapshot loads the snapshot for key into RAM, which must be all zeros, and sets the digests of its pages. An absent one is fs.ErrNotExist, a damaged
// one errSnapshotCorrupt; RAM is all zeros then, too.
func readSnapshot(dir string, key Digest, mem *memoryDigest) ([]section, error) {
	f, err := os.Open(snapshotPath(dir, key))
	if err != nil {
		return nil, fmt.Errorf("open a snapshot: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("open a snapshot: %w", err)
	}
	s, err := decodeSnapshot(f, info.Size(), key)
	if err == nil {
		err = s.loadPages(f, info.Size(), mem)
	}
	if err != nil {
		return nil, fmt.Errorf("snapshot %s: %w (remove it with 'detvm snapshot prune')", f.Name(), err)
	}
	now := time.Now()
	_ = os.Chtimes(f.Name(), now, now) // the age that pruning goes by; a read-only cache is fine
	return s.sections, nil
}

// snapshot is a decoded snapshot without its pages.
type snapshot struct {
	sections []section
	runs     []pageRun
	sums     []byte // of the pages, one after the other
	pages    int64  // where they begin in the file
}

func decodeSnapshot(f io.ReaderAt, size int64, key Digest) (*snapshot, error) {
	head := make([]byte, snapshotHead)
	if _, err := f.ReadAt(head, 0); err != nil {
		return nil, fmt.Errorf("%w: read the head: %w", errSnapshotCorrupt, err)
	}
	n := binary.LittleEndian.Uint64(head[len(head)-8:])
	if !bytes.HasPrefix(head, append([]byte(snapshotMagic), key[:]...)) || n > uint64(size) {
		return nil, fmt.Errorf("%w: not the snapshot that its name says", errSnapshotCorrupt)
	}
	p := make([]byte, uint64(len(head))+n+sha256.Size)
	if _, err := f.ReadAt(p, 0); err != nil {
		return nil, fmt.Errorf("%w: read the description: %w", errSnapshotCorrupt, err)
	}
	body, sum := p[:len(p)-sha256.Size], p[len(p)-sha256.Size:]
	if got := sha256.Sum256(body); !bytes.Equal(got[:], sum) {
		return nil, fmt.Errorf("%w: its description does not have its checksum", errSnapshotCorrupt)
	}
	s := &snapshot{pages: int64(len(p)+pageSize-1) &^ (pageSize - 1)}
	if err := s.parse(body[len(head):]); err != nil {
		return nil, fmt.Errorf("%w: %w", errSnapshotCorrupt, err)
	}
	return s, nil
}

// parse reads the description.
func (s *snapshot) parse(p []byte) error {
	bad := false
	take := func(n uint64) []byte {
		if n > uint64(len(p)) {
			p, bad = nil, true
			return nil
		}
		b := p[:n:n]
		p = p[n:]
		return b
	}
	word := func() uint64 {
		if b := take(8); b != nil {
			return binary.LittleEndian.Uint64(b)
		}
		return 0
	}
	n := word()
	if n > snapshotSections {
		return fmt.Errorf("%d sections", n)
	}
	for range n {
		name := take(word())
		s.sections = append(s.sections, section{string(name), take(min(word(), snapshotSectionMax))})
	}
	pages, end := uint64(0), uint64(0)
	if n = word(); n > uint64(len(p))/16 {
		return fmt.Errorf("%d runs of pages", n)
	}
	for range n {
		r := pageRun{word(), word()}
		if r.pages > MaxMemory/pageSize || r.gpa < end || r.gpa+r.pages*pageSize < r.gpa {
			return fmt.Errorf("a run of %d pages at %#x", r.pages, r.gpa)
		}
		end = r.gpa + r.pages*pageSize
		s.runs, pages = append(s.runs, r), pages+r.pages
	}
	if s.sums = p; bad || uint64(len(p)) != pages*sha256.Size {
		return errors.New("its description does not end where it should")
	}
	return nil
}

// pageChunk is how many pages of a snapshot are read at a time: few enough to be hashed out of the processor's cache.
const pageChunk = 64

// chunk is a part of a run.
type chunk struct {
	host, sums []byte
	off        int64 // in the file
}

// loadPages reads the pages into RAM and compares them with their digests, on all processors of the host.
func (s *snapshot) loadPages(f io.ReaderAt, size int64, mem *memoryDigest) (err error) {
	if size != s.pages+int64(len(s.sums)/sha256.Size)*pageSize {
		return fmt.Errorf("%w: it has %d bytes", errSnapshotCorrupt, size)
	}
	var chunks []chunk
	sums, off := s.sums, s.pages
	for _, r := range s.runs {
		host, ok := mem.mem.Slice(r.gpa, r.pages*pageSize)
		if !ok || r.gpa%pageSize != 0 {
			return fmt.Errorf("%w: pages at %#x are outside RAM", errSnapshotCorrupt, r.gpa)
		}
		for i := uint64(0); i < r.pages; i++ {
			_, sum := mem.page(r.gpa + i*pageSize)
			copy(sum, sums[i*sha256.Size:])
		}
		for len(host) > 0 {
			n := min(len(host)/pageSize, pageChunk)
			chunks = append(chunks, chunk{host[:n*pageSize], sums[:n*sha256.Size], off})
			host, sums, off = host[n*pageSize:], sums[n*sha256.Size:], off+int64(n)*pageSize
		}
	}
	err = inShares(len(chunks), 1, func(from, to int) error {
		for _, c := range chunks[from:to] {
			if err := c.load(f); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return errors.Join(err, mem.clear())
	}
	return nil
}

// load reads a chunk's pages and compares them with their digests.
func (c *chunk) load(f io.ReaderAt) error {
	if _, err := f.ReadAt(c.host, c.off); err != nil {
		return fmt.Errorf("%w: read its pages: %w", errSnapshotCorrupt, err)
	}
	for i := 0; i < len(c.host)/pageSize; i++ {
		sum := sha256.Sum256(c.host[i*pageSize:][:pageSize])
		if !bytes.Equal(sum[:], c.sums[i*sha256.Size:][:sha256.Size]) {
			return fmt.Errorf("%w: a page does not have its checksum", errSnapshotCorrupt)
		}
	}
	return nil
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
