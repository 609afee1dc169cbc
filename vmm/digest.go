package vmm

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
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

// all rehashes every page.
func (d *memoryDigest) all() error {
	return d.mem.pages(func(gpa uint64, _ []byte) error {
		d.page(gpa)
		return nil
	})
}

// page rehashes the page at gpa, which is RAM.
func (d *memoryDigest) page(gpa uint64) {
	for i, r := range d.mem.ranges {
		off := gpa - r.GPA
		if gpa < r.GPA || off >= uint64(len(r.Host)) {
			continue
		}
		page := r.Host[off : off+pageSize]
		sum := zeroPageDigest
		if !bytes.Equal(page, zeroPage[:]) {
			sum = sha256.Sum256(page)
		}
		copy(d.pages[i][off/pageSize*sha256.Size:], sum[:])
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
