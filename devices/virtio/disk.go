package virtio

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"

	"github.com/detvm/detvm/devices/internal/wire"
)

const (
	// SectorSize is the unit in which the block device counts.
	SectorSize = 512
	// BlockSize is the unit of a disk's overlay.
	BlockSize = 4096
)

// ErrOverlayFull reports that the guest has written more blocks than its overlay may hold.
var ErrOverlayFull = errors.New("disk overlay is full")

// Disk is a disk image that is never written to, plus the blocks that the guest wrote over it, in memory.
type Disk struct {
	base       io.ReaderAt
	size       int64
	limit      int
	overlay    map[int64]*[BlockSize]byte // by block number; the tail of a last partial block is zero
	baseDigest *[sha256.Size]byte
}

// NewDisk returns a disk of size bytes, a multiple of SectorSize, that reads as base until written to. At most limit blocks of
// BlockSize bytes can be written; 0 is no limit but the size.
func NewDisk(base io.ReaderAt, size int64, limit int) (*Disk, error) {
	if size < 0 || size%SectorSize != 0 {
		return nil, fmt.Errorf("disk image of %d bytes: not a multiple of %d", size, SectorSize)
	}
	return &Disk{base: base, size: size, limit: limit, overlay: map[int64]*[BlockSize]byte{}}, nil
}

// Size returns the size in bytes.
func (d *Disk) Size() int64 { return d.size }

// DirtyBlocks returns how many blocks have been written.
func (d *Disk) DirtyBlocks() int { return len(d.overlay) }

// Dirty yields the written blocks in ascending order: the byte offset, and the content up to the end of the disk. The content must
// not be kept or changed.
func (d *Disk) Dirty() iter.Seq2[int64, []byte] {
	return func(yield func(int64, []byte) bool) {
		for _, block := range slices.Sorted(maps.Keys(d.overlay)) {
			at := block * BlockSize
			if !yield(at, d.overlay[block][:min(BlockSize, d.size-at)]) {
				return
			}
		}
	}
}

// checkRange rejects an access beyond the end, which a device excludes beforehand.
func (d *Disk) checkRange(at, n int64) error {
	if at < 0 || n < 0 || at > d.size || n > d.size-at {
		return fmt.Errorf("disk access of %d bytes at %d beyond the end, %d", n, at, d.size)
	}
	return nil
}

// ReadAt reads the current content, written blocks over the base. It implements [io.ReaderAt] but for never reading short.
func (d *Disk) ReadAt(p []byte, at int64) (int, error) {
	if err := d.checkRange(at, int64(len(p))); err != nil {
		return 0, err
	}
	for n := 0; n < len(p); {
		rest, pos := p[n:], at+int64(n)
		if b := d.overlay[pos/BlockSize]; b != nil {
			n += copy(rest, b[pos%BlockSize:])
			continue
		}
		run := d.cleanRun(pos, len(rest))
		if err := d.readBase(rest[:run], pos); err != nil {
			return n, err
		}
		n += run
	}
	return len(p), nil
}

// cleanRun returns how many of the n bytes at pos come from the base, in one piece. The block at pos does.
func (d *Disk) cleanRun(pos int64, n int) int {
	run := BlockSize - int(pos%BlockSize)
	for run < n && d.overlay[(pos+int64(run))/BlockSize] == nil {
		run += BlockSize
	}
	return min(run, n)
}

func (d *Disk) readBase(p []byte, at int64) error {
	n, err := d.base.ReadAt(p, at)
	if n == len(p) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read disk image at %d: %w", at, err)
}

// WriteAt writes to the overlay. It fails with [ErrOverlayFull] before the first block that does not fit.
func (d *Disk) WriteAt(p []byte, at int64) (int, error) {
	if err := d.checkRange(at, int64(len(p))); err != nil {
		return 0, err
	}
	for n := 0; n < len(p); {
		pos := at + int64(n)
		offset := int(pos % BlockSize)
		chunk := min(len(p)-n, BlockSize-offset)
		b, err := d.own(pos/BlockSize, chunk)
		if err != nil {
			return n, err
		}
		n += copy(b[offset:], p[n:n+chunk])
	}
	return len(p), nil
}

// own returns an overlay block, made from the base if need be, of which the caller will replace the given number of bytes.
func (d *Disk) own(block int64, replaced int) (*[BlockSize]byte, error) {
	if b := d.overlay[block]; b != nil {
		return b, nil
	}
	if d.limit > 0 && len(d.overlay) >= d.limit {
		return nil, ErrOverlayFull
	}
	b := new([BlockSize]byte)
	if replaced < BlockSize {
		at := block * BlockSize
		if err := d.readBase(b[:min(BlockSize, d.size-at)], at); err != nil {
			return nil, err
		}
	}
	d.overlay[block] = b
	return b, nil
}

// WriteTo writes the whole current content to w.
func (d *Disk) WriteTo(w io.Writer) (int64, error) {
	buf := make([]byte, 64<<10)
	for at := int64(0); at < d.size; {
		p := buf[:min(int64(len(buf)), d.size-at)]
		if _, err := d.ReadAt(p, at); err != nil {
			return at, err
		}
		n, err := w.Write(p)
		at += int64(n)
		if err != nil {
			return at, fmt.Errorf("write disk content: %w", err)
		}
	}
	return d.size, nil
}

// SetBaseDigest tells the SHA-256 of the base, if it is known already, so that [Disk.Digest] need not read an unchanged disk.
func (d *Disk) SetBaseDigest(sum [sha256.Size]byte) { d.baseDigest = &sum }

// Digest returns the SHA-256 of the current content. It reads the whole disk, except that the digest of an unchanged one is kept.
func (d *Disk) Digest() ([sha256.Size]byte, error) {
	if len(d.overlay) == 0 && d.baseDigest != nil {
		return *d.baseDigest, nil
	}
	var sum [sha256.Size]byte
	h := sha256.New()
	if _, err := d.WriteTo(h); err != nil {
		return sum, err
	}
	h.Sum(sum[:0])
	if len(d.overlay) == 0 {
		d.SetBaseDigest(sum)
	}
	return sum, nil
}

// append encodes the overlay: size, number of blocks, then number and content of each in ascending order.
func (d *Disk) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(d.size))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(d.overlay)))
	b = slices.Grow(b, len(d.overlay)*(8+BlockSize))
	for _, block := range slices.Sorted(maps.Keys(d.overlay)) {
		b = binary.LittleEndian.AppendUint64(b, uint64(block))
		b = append(b, d.overlay[block][:]...)
	}
	return b
}

// decode returns the overlay that append encoded, for a disk of the same size.
func (d *Disk) decode(r *wire.Reader) map[int64]*[BlockSize]byte {
	r.Check(r.Uint64() == uint64(d.size))
	count := r.Uint32()
	r.Check(d.limit == 0 || int64(count) <= int64(d.limit))
	overlay := map[int64]*[BlockSize]byte{}
	last := int64(-1)
	for range count {
		block := r.Uint64()
		content := r.Raw(BlockSize)
		r.Check(block < uint64((d.size+BlockSize-1)/BlockSize) && int64(block) > last)
		if r.Failed() {
			return nil
		}
		last = int64(block)
		overlay[last] = (*[BlockSize]byte)(slices.Clone(content))
		tail := overlay[last][min(BlockSize, d.size-last*BlockSize):]
		r.Check(!slices.ContainsFunc(tail, func(v byte) bool { return v != 0 }))
	}
	return overlay
}
