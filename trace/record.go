package trace

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/klauspost/compress/zstd"
)

// The file begins and ends with these. Like PNG's, the first detects transfers that change line ends or the eighth bit.
const (
	fileMagic    = "\x89DTR\r\n\x1a\n"
	trailerMagic = "\x89DTREND\n"
	trailerSize  = 8 + 8 + 8 + 4
)

// recordType is the first byte of a record.
type recordType byte

const (
	recordHeader recordType = 'H'
	recordHost   recordType = 'S'
	recordChunk  recordType = 'E'
	recordBlob   recordType = 'B'
	recordIndex  recordType = 'I'
	recordFooter recordType = 'F'
)

func (t recordType) String() string {
	switch t {
	case recordHeader:
		return "header"
	case recordHost:
		return "host section"
	case recordChunk:
		return "chunk"
	case recordBlob:
		return "blob"
	case recordIndex:
		return "index"
	case recordFooter:
		return "footer"
	}
	return fmt.Sprintf("record of unknown type %#x", byte(t))
}

// maxBody is the limit for a record's body, by type; 0 for types that do not exist.
func (t recordType) maxBody() uint32 {
	switch t {
	case recordHeader:
		return maxHeader
	case recordHost:
		return maxSettings
	case recordChunk:
		return maxChunkRaw + maxChunkRaw/8 + 1024
	case recordBlob:
		return maxBlobPart + maxBlobPart/8 + 1024
	case recordIndex:
		return maxRecords * 32
	case recordFooter:
		return 1024
	}
	return 0
}

// maxRecords limits the records of a file, so that its index fits into memory.
const maxRecords = 1 << 22

// A record is type (1 byte), length of the body (4, little endian), body, CRC-32C of all that (4).
const recordOverhead = 9

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func appendRecord(b []byte, t recordType, body []byte) []byte {
	start := len(b)
	b = append(b, byte(t))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(body)))
	b = append(b, body...)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[start:], castagnoli))
}

// recordAt is a record's place in the file.
type recordAt struct {
	kind   recordType
	offset int64
	length uint32 // of the body
}

func (r recordAt) end() int64 { return r.offset + recordOverhead + int64(r.length) }

// readError is a failure of the host to read the file, as opposed to damage in it.
type readError struct {
	what   string
	offset int64
	err    error
}

func (e *readError) Error() string {
	return fmt.Sprintf("read %s at offset %d: %v", e.what, e.offset, e.err)
}
func (e *readError) Unwrap() error { return e.err }

var (
	errChecksum = errors.New("the checksum does not match: the bytes were changed")
	errCut      = errors.New("the file ends inside it")
	errType     = errors.New("no record begins here")
)

// readHead reads where the record at offset ends. size is where the records of the file end at the latest.
func readHead(r io.ReaderAt, offset, size int64) (recordAt, error) {
	if size-offset < recordOverhead {
		return recordAt{}, errCut
	}
	var head [5]byte
	if _, err := r.ReadAt(head[:], offset); err != nil {
		return recordAt{}, &readError{"record", offset, err}
	}
	rec := recordAt{recordType(head[0]), offset, binary.LittleEndian.Uint32(head[1:])}
	if limit := rec.kind.maxBody(); limit == 0 || rec.length > limit {
		return recordAt{}, errType
	}
	if rec.end() > size {
		return rec, errCut
	}
	return rec, nil
}

// readRecord reads a whole record into buf, which it grows, and returns the body. The caller has bounded rec by the file's size (readHead).
func readRecord(r io.ReaderAt, rec recordAt, buf []byte) (body, newBuf []byte, err error) {
	n := int(rec.length) + recordOverhead
	if cap(buf) < n {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	if _, err := r.ReadAt(buf, rec.offset); err != nil {
		return nil, buf, &readError{rec.kind.String(), rec.offset, err}
	}
	sum := binary.LittleEndian.Uint32(buf[n-4:])
	if recordType(buf[0]) != rec.kind || binary.LittleEndian.Uint32(buf[1:]) != rec.length || crc32.Checksum(buf[:n-4], castagnoli) != sum {
		return nil, buf, errChecksum
	}
	return buf[5 : n-4], buf, nil
}

// chunkHead is the fixed part of a chunk's body, before the compressed content.
type chunkHead struct {
	number              uint32
	count               uint32
	first               uint64 // number of the first event
	firstPos, lastPos   uint64
	firstTime, lastTime uint64
	rawLen              uint32
	link                []byte // of the hash chain, after this chunk
}

const chunkHeadSize = 4 + 4 + 5*8 + 4 // without link

func (h *chunkHead) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, h.number)
	b = binary.LittleEndian.AppendUint32(b, h.count)
	for _, v := range [...]uint64{h.first, h.firstPos, h.lastPos, h.firstTime, h.lastTime} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	b = binary.LittleEndian.AppendUint32(b, h.rawLen)
	return append(b, h.link...)
}

func parseChunkHead(body []byte, hashSize int) (h chunkHead, compressed []byte, err error) {
	d := decoder{b: body}
	h.number, h.count = d.uint32(), d.uint32()
	h.first, h.firstPos, h.lastPos, h.firstTime, h.lastTime = d.uint64(), d.uint64(), d.uint64(), d.uint64(), d.uint64()
	h.rawLen = d.uint32()
	h.link = d.bytes(hashSize)
	switch {
	case d.err != nil:
		return h, nil, fmt.Errorf("chunk's head: %w", d.err)
	case h.count == 0, h.count > maxChunkEvents, h.rawLen > maxChunkRaw, h.first > 1<<62, h.lastPos < h.firstPos, h.lastTime < h.firstTime:
		return h, nil, errors.New("chunk's head: a field is out of range")
	}
	return h, d.b, nil
}

// footer is the body of the footer record.
type footer struct {
	events uint64
	chunks uint32
	status Status
	merkle, link, host, blobs,
	root []byte
}

func (f *footer) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(b, f.events)
	b = binary.LittleEndian.AppendUint32(b, f.chunks)
	b = append(b, byte(f.status))
	for _, h := range [...][]byte{f.merkle, f.link, f.host, f.blobs, f.root} {
		b = append(b, h...)
	}
	return b
}

func parseFooter(body []byte, hashSize int) (footer, error) {
	d := decoder{b: cloneBytes(body)}
	var f footer
	f.events, f.chunks, f.status = d.uint64(), d.uint32(), Status(d.byte())
	for _, h := range [...]*[]byte{&f.merkle, &f.link, &f.host, &f.blobs, &f.root} {
		*h = d.bytes(hashSize)
	}
	if err := d.end(); err != nil {
		return f, fmt.Errorf("footer: %w", err)
	}
	if !f.status.valid() {
		return f, fmt.Errorf("footer: unknown status %d", f.status)
	}
	return f, nil
}

// decompressor wraps zstd with the limits of the format. It is not safe for concurrent use.
type decompressor struct {
	dec *zstd.Decoder
	buf []byte
}

func newDecompressor() (*decompressor, error) {
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecodeAllCapLimit(true),
		zstd.WithDecoderMaxMemory(maxChunkRaw), zstd.WithDecoderMaxWindow(maxChunkRaw))
	if err != nil {
		return nil, fmt.Errorf("make decompressor: %w", err)
	}
	return &decompressor{dec: dec}, nil
}

// expand decompresses to exactly rawLen bytes, which the caller has bounded. The result is valid until the next call.
func (d *decompressor) expand(compressed []byte, rawLen uint32) ([]byte, error) {
	if cap(d.buf) < int(rawLen) {
		d.buf = make([]byte, 0, rawLen)
	}
	if err := oneFrame(compressed); err != nil {
		return nil, err
	}
	raw, err := d.dec.DecodeAll(compressed, d.buf[:0:rawLen])
	if err != nil {
		return nil, fmt.Errorf("decompress: %w", err)
	}
	if len(raw) != int(rawLen) {
		return nil, fmt.Errorf("decompress: %d bytes came out, %d were declared", len(raw), rawLen)
	}
	return raw, nil
}

// oneFrame reports whether p is one zstd frame and nothing else (RFC 8878, section 3.1.1). The decoder would pass over skippable frames, in which a
// trace could carry what no digest covers and no reader shows.
func oneFrame(p []byte) error {
	var h zstd.Header
	if err := h.Decode(p); err != nil {
		return fmt.Errorf("decompress: read the frame's header: %w", err)
	}
	if h.Skippable {
		return errors.New("decompress: a frame that holds no content")
	}
	rest := p[min(h.HeaderSize, len(p)):]
	for last := false; !last; {
		if len(rest) < 3 {
			return errors.New("decompress: the frame is cut off")
		}
		block := uint32(rest[0]) | uint32(rest[1])<<8 | uint32(rest[2])<<16
		last = block&1 != 0
		size := int(block >> 3)
		if block>>1&3 == 1 { // RLE: one byte stands for size
			size = 1
		}
		if rest = rest[3:]; len(rest) < size {
			return errors.New("decompress: the frame is cut off")
		}
		rest = rest[size:]
	}
	if h.HasCheckSum {
		rest = rest[min(4, len(rest)):]
	}
	if len(rest) > 0 {
		return fmt.Errorf("decompress: %d bytes follow the frame", len(rest))
	}
	return nil
}

func (d *decompressor) close() { d.dec.Close() }

func newCompressor() (*zstd.Encoder, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false), zstd.WithSingleSegment(true),
		zstd.WithEncoderLevel(zstd.SpeedBetterCompression))
	if err != nil {
		return nil, fmt.Errorf("make compressor: %w", err)
	}
	return enc, nil
}
