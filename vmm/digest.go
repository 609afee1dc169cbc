package vmm

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// Digest is a SHA-256 value.
type Digest [sha256.Size]byte

// String is the digest in hexadecimal.
func (d Digest) String() string { return fmt.Sprintf("%x", d[:]) }

// memoryDigest keeps a SHA-256 per page of RAM and rehashes only the pages that it is told about, so that a checkpoint costs what was written since the last one.
type memoryDigest struct {
	mem   *memory
	pages [][]byte // per range: the concatenated page digests
}

var zeroPageDigest = sha256.Sum256(zeroPage[:])

func newMemoryDigest(mem *memory) *memoryDigest {
	d := &memoryDigest{mem: mem}
	for _, r := range mem.ranges {
		sums := make([]byte, len(r.Host)/pageSize*sha256.Size)
		for i := 0; i < len(sums); i += sha256.Size {
			copy(sums[i:], zeroPageDigest[:])
		}
		d.pages = append(d.pages, sums)
	}
	return d
}

// all rehashes every page, on all processors of the host: each page's digest has a place of its own.
func (d *memoryDigest) all() {
	workers := runtime.GOMAXPROCS(0)
	var done sync.WaitGroup
	for i, r := range d.mem.ranges {
		share := (len(r.Host)/pageSize/workers + 1) * pageSize
		for from := 0; from < len(r.Host); from += share {
			pages, sums := r.Host[from:min(from+share, len(r.Host))], d.pages[i][from/pageSize*sha256.Size:]
			done.Go(func() {
				// Maps the pages that nobody has touched to the host's page of zeros in one go, not fault by fault.
				_ = unix.Madvise(pages, unix.MADV_POPULATE_READ)
				for off := 0; off < len(pages); off += pageSize {
					hashPage(sums[off/pageSize*sha256.Size:], pages[off:off+pageSize])
				}
			})
		}
	}
	done.Wait()
}

// hashPage writes a page's digest to the beginning of sum.
func hashPage(sum, page []byte) {
	digest := zeroPageDigest
	if !bytes.Equal(page, zeroPage[:]) {
		digest = sha256.Sum256(page)
	}
	copy(sum, digest[:])
}

// page rehashes the page at gpa, which is RAM.
func (d *memoryDigest) page(gpa uint64) {
	for i, r := range d.mem.ranges {
		off := gpa - r.GPA
		if gpa < r.GPA || off >= uint64(len(r.Host)) {
			continue
		}
		hashPage(d.pages[i][off/pageSize*sha256.Size:], r.Host[off:off+pageSize])
	}
}

// root is the digest of all RAM: SHA-256 over each range's address, length and page digests.
func (d *memoryDigest) root() Digest {
	h := sha256.New()
	for i, r := range d.mem.ranges {
		var head [16]byte
		binary.LittleEndian.PutUint64(head[:], r.GPA)
		binary.LittleEndian.PutUint64(head[8:], uint64(len(r.Host)))
		h.Write(head[:])
		h.Write(d.pages[i])
	}
	return Digest(h.Sum(nil))
}
