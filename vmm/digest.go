package vmm

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync"
)

// Digest is a SHA-256 value.
type Digest [sha256.Size]byte

// String is the digest in hexadecimal.
func (d Digest) String() string { return fmt.Sprintf("%x", d[:]) }

// memoryDigest keeps a SHA-256 per page of RAM and rehashes only the pages that it is told about, so that a checkpoint costs what was written since the last one.
type memoryDigest struct {
	mem   *memory
	pages [][]byte // per range: the concatenated page digests
	dirty [][]byte // scratch of update: pages to hash and, by turns, where their digests go
}

var zeroPageDigest = sha256.Sum256(zeroPage[:])

// newMemoryDigest describes RAM that is all zeros.
func newMemoryDigest(mem *memory) *memoryDigest {
	d := &memoryDigest{mem: mem}
	for _, r := range mem.ranges {
		d.pages = append(d.pages, bytes.Repeat(zeroPageDigest[:], len(r.Host)/pageSize))
	}
	return d
}

// clear makes RAM all zeros.
func (d *memoryDigest) clear() error {
	d.pages = newMemoryDigest(d.mem).pages
	return d.mem.clear()
}

// page returns the page at gpa, which is RAM, and where its digest is kept.
func (d *memoryDigest) page(gpa uint64) (page, sum []byte) {
	for i, r := range d.mem.ranges {
		if off := gpa - r.GPA; gpa >= r.GPA && off < uint64(len(r.Host)) {
			return r.Host[off : off+pageSize], d.pages[i][off/pageSize*sha256.Size:][:sha256.Size]
		}
	}
	panic(fmt.Sprintf("vmm: page %#x is not RAM", gpa)) // a mistake of the engine
}

// update rehashes the pages that collect visits, on all processors of the host.
func (d *memoryDigest) update(collect func(visit func(gpa uint64)) error) error {
	d.dirty = d.dirty[:0]
	if err := collect(func(gpa uint64) {
		page, sum := d.page(gpa)
		d.dirty = append(d.dirty, page, sum)
	}); err != nil {
		return fmt.Errorf("collect written pages: %w", err)
	}
	return inShares(len(d.dirty)/2, pageChunk, func(from, to int) error {
		for i := from; i < to; i++ {
			hashPage(d.dirty[2*i], d.dirty[2*i+1])
		}
		return nil
	})
}

// hashPage writes a page's digest to sum.
func hashPage(page, sum []byte) {
	digest := zeroPageDigest
	if !bytes.Equal(page, zeroPage[:]) {
		digest = sha256.Sum256(page)
	}
	copy(sum, digest[:])
}

// inShares lets every processor of the host do its share of the work items [0, n), of which grain are worth a goroutine, and joins the errors.
func inShares(n, grain int, work func(from, to int) error) error {
	workers := min(runtime.GOMAXPROCS(0), n/grain+1)
	errs := make([]error, workers)
	var done sync.WaitGroup
	for i := range workers - 1 {
		done.Go(func() { errs[i] = work(n*i/workers, n*(i+1)/workers) })
	}
	errs[workers-1] = work(n*(workers-1)/workers, n)
	done.Wait()
	return errors.Join(errs...)
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
