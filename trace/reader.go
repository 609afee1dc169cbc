package trace

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"sort"
	"sync"
)

// Reader reads a trace. Its methods are safe for concurrent use; its iterators are not, but several may be used side by side.
//
// A reader believes the file's structure and checksums; it does not recompute the Merkle tree. Before trusting a trace from elsewhere, call [Verify].
type Reader struct {
	r       io.ReaderAt
	size    int64
	header  Header
	digest  []byte
	host    [][]Setting // one list for each host record
	hostErr error
	records []recordAt
	chunks  []chunkInfo
	events  uint64
	footer  *footer
	cut     error // why there is no footer

	blobOnce sync.Once
	blobErr  error
	parts    map[uint32][]storedPart
}

type chunkInfo struct {
	record              recordAt
	first               uint64
	count               uint32
	firstPos, firstTime uint64
}

// Footer is what the end of a complete trace says.
type Footer struct {
	Events     uint64
	Chunks     int
	Status     Status
	MerkleRoot []byte
	Root       []byte // the trace root
	Chain      []byte // last link of the chain over the chunks
	HostDigest []byte // of the host section: bound by a signature, outside the trace root
	BlobDigest []byte // of the stored inputs: likewise
}

// Open reads the header and the index of a trace of size bytes. It fails only if there is no readable header. A trace without an
// intact end (the recorder was killed, the file was cut) opens with the chunks that are intact; see [Reader.Truncated].
func Open(r io.ReaderAt, size int64) (*Reader, error) {
	tr := &Reader{r: r, size: size}
	next, err := tr.readHeader()
	if err != nil {
		return nil, err
	}
	if err := tr.readEnd(next); err != nil {
		tr.records, tr.chunks, tr.events, tr.footer = nil, nil, 0, nil
		tr.cut = err
		tr.scan(next)
	}
	tr.readHost()
	return tr, nil
}

func (r *Reader) readHeader() (next int64, err error) {
	magic := make([]byte, min(int64(len(fileMagic)), r.size))
	if _, err := r.r.ReadAt(magic, 0); err != nil {
		return 0, &readError{"magic number", 0, err}
	}
	if string(magic) != fileMagic {
		return 0, errors.New("this is not a trace: it does not begin with a trace's magic number")
	}
	rec, err := readHead(r.r, int64(len(fileMagic)), r.size)
	if err == nil && rec.kind != recordHeader {
		err = errType
	}
	var body []byte
	if err == nil {
		body, _, err = readRecord(r.r, rec, nil)
	}
	if err != nil {
		return 0, fmt.Errorf("read trace header: %w", err)
	}
	if err := r.header.UnmarshalBinary(body); err != nil {
		return 0, err
	}
	if r.digest, err = r.header.Digest(); err != nil {
		return 0, err
	}
	return rec.end(), nil
}

// readEnd reads trailer, footer and index.
func (r *Reader) readEnd(next int64) error {
	t, err := readTrailer(r.r, r.size)
	if err != nil {
		return err
	}
	f, entries, err := r.readFooter(t)
	if err != nil {
		return err
	}
	offset := int64(len(fileMagic))
	for i, e := range entries {
		rec := recordAt{e.kind, offset, e.length}
		offset = rec.end()
		if (e.kind == recordHeader) != (i == 0) || i == 0 && offset != next || e.kind == recordIndex || e.kind == recordFooter || offset > t.index {
			return errors.New("the index does not fit the file")
		}
		r.records = append(r.records, rec)
		if e.kind == recordChunk {
			r.chunks = append(r.chunks, chunkInfo{rec, r.events, e.count, e.firstPos, e.firstTime})
			r.events += uint64(e.count)
		}
	}
	if offset != t.index || r.events != f.events || len(r.chunks) != int(f.chunks) {
		return errors.New("the index does not fit the file")
	}
	r.footer = f
	return nil
}

func readTrailer(r io.ReaderAt, size int64) (trailer, error) {
	if size < trailerSize {
		return trailer{}, errCut
	}
	var b [trailerSize]byte
	if _, err := r.ReadAt(b[:], size-trailerSize); err != nil {
		return trailer{}, &readError{"trailer", size - trailerSize, err}
	}
	return parseTrailer(b[:])
}

// readFooter reads footer and index, which end the file, and checks that they lie where the trailer says.
func (r *Reader) readFooter(t trailer) (*footer, []indexEntry, error) {
	end := r.size - trailerSize
	if t.index < 0 || t.footer < t.index || t.footer > end {
		return nil, nil, errors.New("the trailer points outside the file")
	}
	body := func(want recordType, from, to int64) ([]byte, error) {
		rec, err := readHead(r.r, from, to)
		if err == nil && (rec.kind != want || rec.end() != to) {
			err = errType
		}
		var b []byte
		if err == nil {
			b, _, err = readRecord(r.r, rec, nil)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", want, err)
		}
		return b, nil
	}
	b, err := body(recordFooter, t.footer, end)
	if err != nil {
		return nil, nil, err
	}
	f, err := parseFooter(b, r.header.Hash.size())
	if err != nil {
		return nil, nil, err
	}
	if b, err = body(recordIndex, t.index, t.footer); err != nil {
		return nil, nil, err
	}
	entries, err := decodeIndex(b)
	if err != nil {
		return nil, nil, err
	}
	return &f, entries, nil
}

// scan finds the intact records of a trace without an index, up to the first that is not.
func (r *Reader) scan(offset int64) {
	var buf []byte
	for len(r.records) < maxRecords {
		rec, err := readHead(r.r, offset, r.size)
		if err != nil || rec.kind == recordHeader || rec.kind == recordIndex || rec.kind == recordFooter {
			return
		}
		var body []byte
		if body, buf, err = readRecord(r.r, rec, buf); err != nil {
			return
		}
		if rec.kind == recordChunk {
			h, _, err := parseChunkHead(body, r.header.Hash.size())
			if err != nil || h.first != r.events || int(h.number) != len(r.chunks) {
				return
			}
			r.chunks = append(r.chunks, chunkInfo{rec, h.first, h.count, h.firstPos, h.firstTime})
			r.events += uint64(h.count)
		}
		r.records = append(r.records, rec)
		offset = rec.end()
	}
}

// readHost reads the host sections, of which a trace has one after the header and at most one before the index.
func (r *Reader) readHost() {
	first, last := true, len(r.records)-1
	for i, rec := range r.records {
		if rec.kind == recordHeader {
			continue
		}
		atStart := first
		first = false
		if rec.kind != recordHost {
			continue
		}
		if !atStart && i != last {
			r.host, r.hostErr = nil, errHostPlace
			return
		}
		body, _, err := readRecord(r.r, rec, nil)
		var list []Setting
		if err == nil {
			list, err = DecodeSettings(body)
		}
		if err != nil {
			r.host, r.hostErr = nil, fmt.Errorf("host section: %w", err)
			return
		}
		r.host = append(r.host, list)
	}
}

// Header is the trace's header. It must not be changed.
func (r *Reader) Header() *Header { return &r.header }

// HeaderDigest is the digest of the header as the trace root hashes it.
func (r *Reader) HeaderDigest() []byte { return cloneBytes(r.digest) }

// Host is the host section: what the recorder says about the host and the wall clock. It is outside the trace root. The error says that it is damaged.
func (r *Reader) Host() ([]Setting, error) {
	var all []Setting
	for _, list := range r.host {
		all = append(all, list...)
	}
	return all, r.hostErr
}

// Size is the length of the file in bytes.
func (r *Reader) Size() int64 { return r.size }

// NumEvents is the number of events that can be read.
func (r *Reader) NumEvents() uint64 { return r.events }

// NumChunks is the number of chunks that can be read.
func (r *Reader) NumChunks() int { return len(r.chunks) }

// Truncated reports whether the trace has no intact end: the recorder was killed, or the file was cut or damaged. The
// error says what is wrong. The events that are left are in order and without gap from the first.
func (r *Reader) Truncated() (bool, error) { return r.footer == nil, r.cut }

// Footer returns what the end of the trace says; false if the trace is truncated.
func (r *Reader) Footer() (Footer, bool) {
	if r.footer == nil {
		return Footer{}, false
	}
	f := r.footer
	return Footer{Events: f.events, Chunks: int(f.chunks), Status: f.status, MerkleRoot: cloneBytes(f.merkle), Root: cloneBytes(f.root),
		Chain: cloneBytes(f.link), HostDigest: cloneBytes(f.host), BlobDigest: cloneBytes(f.blobs)}, true
}

// RootParts are the parts of the trace root as the file states them; false if the trace is truncated.
func (r *Reader) RootParts() (RootParts, bool) {
	f, ok := r.Footer()
	return RootParts{r.header.Hash, r.HeaderDigest(), f.Events, f.MerkleRoot, f.Status}, ok
}

// Iterator reads events in order:
//
//	it := r.Events(0)
//	defer it.Close()
//	for it.Next() {
//		use(it.Index(), it.Event())
//	}
//	err := it.Err()
type Iterator struct {
	r      *Reader
	next   uint64
	chunk  int // the next one to open
	dec    *decompressor
	buf    []byte
	cd     chunkDecoder
	head   chunkHead
	ev     Event
	opened bool
	err    error
}

// Events returns an iterator over the events from number from (0 is the first).
func (r *Reader) Events(from uint64) *Iterator {
	it := &Iterator{r: r, next: from}
	it.chunk = sort.Search(len(r.chunks), func(i int) bool { return r.chunks[i].first+uint64(r.chunks[i].count) > from })
	it.cd.layout = r.header.layout()
	return it
}

// Next advances to the next event. It returns false at the end of the trace and on errors.
func (it *Iterator) Next() bool {
	if it.err != nil {
		return false
	}
	if !it.opened || it.cd.left == 0 {
		if !it.nextChunk() {
			return false
		}
	}
	return it.decode()
}

func (it *Iterator) decode() bool {
	ok, err := it.cd.next(&it.ev)
	if err == nil && it.cd.left == 0 && ok {
		err = it.checkEnd()
	}
	if err != nil {
		it.err = fmt.Errorf("chunk %d: %w", it.chunk-1, err)
		return false
	}
	if ok {
		it.next++
	}
	return ok
}

// checkEnd makes sure, at a chunk's last event, that nothing is left over and that it is the event that the chunk's head announces.
func (it *Iterator) checkEnd() error {
	var none Event
	if _, err := it.cd.next(&none); err != nil {
		return err
	}
	if it.ev.Position != it.head.lastPos || it.ev.Time != it.head.lastTime {
		return errors.New("its last event is not where its head says")
	}
	return nil
}

// nextChunk opens the next chunk and skips to the event wanted.
func (it *Iterator) nextChunk() bool {
	if it.chunk >= len(it.r.chunks) {
		return false
	}
	info := it.r.chunks[it.chunk]
	it.chunk++
	if err := it.openChunk(info); err != nil {
		it.err = fmt.Errorf("chunk %d at offset %d: %w", it.chunk-1, info.record.offset, err)
		return false
	}
	it.opened = true
	for n := it.next; n > info.first; n-- {
		if ok, err := it.cd.next(&it.ev); err != nil || !ok {
			it.err = fmt.Errorf("chunk %d: %w", it.chunk-1, errors.Join(err, errShort))
			return false
		}
	}
	return true
}

func (it *Iterator) openChunk(info chunkInfo) error {
	if it.dec == nil {
		dec, err := newDecompressor()
		if err != nil {
			return err
		}
		it.dec = dec
	}
	body, buf, err := readRecord(it.r.r, info.record, it.buf)
	it.buf = buf
	if err != nil {
		return err
	}
	head, compressed, err := parseChunkHead(body, it.r.header.Hash.size())
	if err != nil {
		return err
	}
	it.head = head
	if int(head.number) != it.chunk-1 || head.first != info.first || head.count != info.count ||
		head.firstPos != info.firstPos || head.firstTime != info.firstTime {
		return errors.New("it is not the chunk that the index says")
	}
	raw, err := it.dec.expand(compressed, head.rawLen)
	if err != nil {
		return err
	}
	if err := it.cd.open(raw); err != nil {
		return err
	}
	if it.cd.count != int(head.count) {
		return errors.New("it holds another number of events than its head says")
	}
	return nil
}

// Event is the event that Next advanced to. It is valid, with all that it points to, until the next call of Next.
func (it *Iterator) Event() *Event { return &it.ev }

// Index is the number of that event.
func (it *Iterator) Index() uint64 { return it.next - 1 }

// Err is the error that stopped the iterator, nil at the end of the trace.
func (it *Iterator) Err() error { return it.err }

// Close releases the iterator's memory. It must not be used afterwards.
func (it *Iterator) Close() {
	if it.dec != nil {
		it.dec.close()
		it.dec = nil
	}
	it.chunk, it.opened, it.cd = len(it.r.chunks), false, chunkDecoder{}
}

// All iterates over the events and their numbers. The event is valid for one turn of the loop. *err is set if the iteration ended early because of damage.
func (r *Reader) All(err *error) iter.Seq2[uint64, *Event] {
	return func(yield func(uint64, *Event) bool) {
		it := r.Events(0)
		defer it.Close()
		for it.Next() {
			if !yield(it.Index(), it.Event()) {
				return
			}
		}
		*err = it.Err()
	}
}

// SeekPosition returns the number of the first event whose position is at least position; NumEvents if there is none.
func (r *Reader) SeekPosition(position uint64) (uint64, error) {
	return r.seek(func(c *chunkInfo) bool { return c.firstPos >= position }, func(e *Event) bool { return e.Position >= position })
}

// SeekTime returns the number of the first event at or after the virtual time (nanoseconds since machine start).
func (r *Reader) SeekTime(time uint64) (uint64, error) {
	return r.seek(func(c *chunkInfo) bool { return c.firstTime >= time }, func(e *Event) bool { return e.Time >= time })
}

func (r *Reader) seek(chunkIs func(*chunkInfo) bool, eventIs func(*Event) bool) (uint64, error) {
	i := sort.Search(len(r.chunks), func(i int) bool { return chunkIs(&r.chunks[i]) })
	if i == 0 {
		return 0, nil
	}
	it := r.Events(r.chunks[i-1].first)
	defer it.Close()
	for it.Next() {
		if eventIs(it.Event()) {
			return it.Index(), nil
		}
	}
	return r.events, it.Err()
}

// Event reads one event by its number.
func (r *Reader) Event(n uint64) (Event, error) {
	it := r.Events(n)
	defer it.Close()
	if !it.Next() {
		if it.Err() != nil {
			return Event{}, it.Err()
		}
		return Event{}, fmt.Errorf("the trace has no event %d, only %d", n, r.events)
	}
	return it.ev.Clone(), nil
}
