package trace

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"sort"
)

// maxBlobPart is the number of bytes that one blob record holds at most.
const maxBlobPart = 1 << 20

// ErrNotStored says that a self-contained trace does not hold the bytes asked for: the recorded run did not read them.
var ErrNotStored = errors.New("not stored in the trace")

// blobHead is the fixed part of a blob record. The blob digest of the footer hashes the heads of all blobs in file order.
type blobHead struct {
	input  uint32
	offset uint64
	rawLen uint32
	digest []byte // H(0x0a || content)
}

func (h *blobHead) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, h.input)
	b = binary.LittleEndian.AppendUint64(b, h.offset)
	b = binary.LittleEndian.AppendUint32(b, h.rawLen)
	return append(b, h.digest...)
}

func (h *Header) parseBlobHead(body []byte) (b blobHead, compressed []byte, err error) {
	d := decoder{b: body}
	b.input, b.offset, b.rawLen = d.uint32(), d.uint64(), d.uint32()
	b.digest = d.bytes(h.Hash.size())
	if d.err != nil {
		return b, nil, fmt.Errorf("blob's head: %w", d.err)
	}
	if b.rawLen == 0 || b.rawLen > maxBlobPart || uint64(b.input) >= uint64(len(h.Inputs)) {
		return b, nil, errors.New("blob's head: a field is out of range")
	}
	if size := h.Inputs[b.input].Size; b.offset > size || uint64(b.rawLen) > size-b.offset {
		return b, nil, fmt.Errorf("blob lies outside input %q", short(h.Inputs[b.input].Name, quoted))
	}
	return b, d.b, nil
}

// newBlobsHash starts the blob digest: H(0x09 || heads of the blobs).
func newBlobsHash(alg Hash) hash.Hash {
	h := alg.New()
	h.Write([]byte{tagBlobs})
	return h
}

// Extent is a range of bytes of an input.
type Extent struct {
	Offset, Length uint64
}

// storedPart is where a blob record is and what it holds.
type storedPart struct {
	record recordAt
	head   blobHead
}

// Stored lists which bytes of an input the trace holds, in ascending order, adjacent parts joined. It is empty if the trace is not self-contained.
func (r *Reader) Stored(input int) ([]Extent, error) {
	if err := r.loadBlobs(); err != nil {
		return nil, err
	}
	var list []Extent
	for _, p := range r.parts[uint32(input)] {
		n := len(list)
		if n > 0 && list[n-1].Offset+list[n-1].Length == p.head.offset {
			list[n-1].Length += uint64(p.head.rawLen)
			continue
		}
		list = append(list, Extent{p.head.offset, uint64(p.head.rawLen)})
	}
	return list, nil
}

// loadBlobs reads the heads of all blob records, once.
func (r *Reader) loadBlobs() error {
	r.blobOnce.Do(func() { r.blobErr = r.readBlobHeads() })
	return r.blobErr
}

func (r *Reader) readBlobHeads() error {
	r.parts = map[uint32][]storedPart{}
	head := make([]byte, 5+16+r.header.Hash.size())
	for _, rec := range r.records {
		if rec.kind != recordBlob {
			continue
		}
		if int(rec.length) < len(head)-5 {
			return fmt.Errorf("blob at offset %d is too short", rec.offset)
		}
		if _, err := r.r.ReadAt(head, rec.offset); err != nil {
			return fmt.Errorf("read blob at offset %d: %w", rec.offset, err)
		}
		h, _, err := r.header.parseBlobHead(cloneBytes(head[5:]))
		if err != nil {
			return fmt.Errorf("read blob at offset %d: %w", rec.offset, err)
		}
		list := r.parts[h.input]
		if n := len(list); n > 0 && list[n-1].head.offset+uint64(list[n-1].head.rawLen) > h.offset {
			return fmt.Errorf("blob at offset %d overlaps the one before it or is out of order", rec.offset)
		}
		r.parts[h.input] = append(list, storedPart{rec, h})
	}
	return nil
}

// OpenInput returns the stored bytes of an input. Reading bytes that are not stored gives [ErrNotStored]. Each part is checked against its
// digest when it is read. The result is not safe for concurrent use.
func (r *Reader) OpenInput(input int) (*InputReader, error) {
	if err := r.loadBlobs(); err != nil {
		return nil, err
	}
	if input < 0 || input >= len(r.header.Inputs) {
		return nil, fmt.Errorf("the trace has no input %d", input)
	}
	if len(r.parts[uint32(input)]) == 0 {
		return nil, fmt.Errorf("input %q: %w", r.header.Inputs[input].Name, ErrNotStored)
	}
	dec, err := newDecompressor()
	if err != nil {
		return nil, err
	}
	return &InputReader{r: r, parts: r.parts[uint32(input)], size: r.header.Inputs[input].Size, dec: dec, current: -1}, nil
}

// InputReader reads an input out of a self-contained trace. It implements [io.ReaderAt].
type InputReader struct {
	r       *Reader
	parts   []storedPart
	size    uint64
	dec     *decompressor
	buf     []byte
	data    []byte // of the current part
	current int
}

// Size is the length of the input in bytes.
func (ir *InputReader) Size() int64 { return int64(ir.size) }

// ReadAt implements [io.ReaderAt].
func (ir *InputReader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("negative offset")
	}
	n := 0
	for n < len(p) {
		at := uint64(off) + uint64(n)
		if at >= ir.size {
			return n, io.EOF
		}
		i := sort.Search(len(ir.parts), func(i int) bool { return ir.parts[i].head.offset > at }) - 1
		if i < 0 || at-ir.parts[i].head.offset >= uint64(ir.parts[i].head.rawLen) {
			return n, fmt.Errorf("byte %d of the input: %w", at, ErrNotStored)
		}
		if err := ir.load(i); err != nil {
			return n, err
		}
		n += copy(p[n:], ir.data[at-ir.parts[i].head.offset:])
	}
	return n, nil
}

func (ir *InputReader) load(i int) error {
	if ir.current == i {
		return nil
	}
	ir.current = -1
	body, buf, err := readRecord(ir.r.r, ir.parts[i].record, ir.buf)
	ir.buf = buf
	if err == nil {
		_, ir.data, err = ir.r.header.expandBlob(body, ir.dec, newHasher(ir.r.header.Hash))
	}
	if err != nil {
		return fmt.Errorf("blob at offset %d: %w", ir.parts[i].record.offset, err)
	}
	ir.current = i
	return nil
}

// Close releases the decompressor.
func (ir *InputReader) Close() error {
	ir.dec.close()
	return nil
}

// expandBlob decompresses a blob record's body and checks its digest.
func (h *Header) expandBlob(body []byte, dec *decompressor, hs *hasher) (blobHead, []byte, error) {
	head, compressed, err := h.parseBlobHead(body)
	if err != nil {
		return head, nil, err
	}
	data, err := dec.expand(compressed, head.rawLen)
	if err != nil {
		return head, nil, err
	}
	var d [maxHashSize]byte
	hs.tagged(d[:hs.size], tagBlob, data)
	if string(d[:hs.size]) != string(head.digest) {
		return head, nil, errors.New("the content does not match its digest")
	}
	return head, data, nil
}
