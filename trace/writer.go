package trace

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/zstd"
)

// ErrSizeLimit says that there is no room for another event under Options.MaxSize. The run should end now: the writer still takes checkpoints and
// the end event, and Close writes a complete file within the limit.
var ErrSizeLimit = errors.New("the trace has reached its size limit")

// ErrClosed says that the writer was closed.
var ErrClosed = errors.New("trace writer is closed")

// Options of a [Writer]. The zero value is good.
type Options struct {
	// Host describes the recording host and its wall clock: what may differ between two recordings of the same run. Keys must be unique.
	Host []Setting
	// MaxSize limits the file, in bytes; 0 is no limit. It must leave room for the header and 128 KiB. Events count with their size before compression, so
	// that two recordings of one run end at the same event; the file is smaller.
	MaxSize int64
	// ChunkEvents is the number of events after which a chunk is written, at most 16384; 0 means 8192.
	ChunkEvents int
	// FlushInterval is how long an event waits at most before it is written, so that little is lost when the recorder is
	// killed. 0 means 2 s, negative is never. It moves chunk boundaries, which no digest in the trace root depends on.
	FlushInterval time.Duration
}

const (
	defaultChunkEvents = 8192
	chunkArena         = 1 << 20 // bytes of payload after which a chunk is written
)

// Writer records events as a stream in bounded memory. Append copies the event and returns; hashing, compression and writing happen on a goroutine of the
// writer's own. All methods are safe for concurrent use.
type Writer struct {
	mu      sync.Mutex
	header  Header
	opts    Options
	batch   *batch
	free    chan *batch
	jobs    chan func()
	stopped chan struct{} // closed when the worker has ended
	stop    chan struct{} // ends the flusher
	next    uint64        // number of the next event
	lastPos uint64
	lastT   uint64
	budget  budget
	queued  atomic.Int64 // upper bound of the chunks that the worker has yet to write
	closed  bool
	sink    sink
}

type batch struct {
	events []Event
	arena  []byte
}

// sink is the part of a writer that belongs to its worker goroutine. written and failed are for everyone.
type sink struct {
	w       io.Writer
	hash    *hasher
	tree    tree
	chain   *chain
	enc     *chunkEncoder
	zstd    *zstd.Encoder
	salted  bool
	header  []byte // digest
	leaves  []byte
	raw     []byte
	body    []byte
	record  []byte
	index   []indexEntry
	chunks  uint32
	host    []byte    // bodies of the host records, each with its length before it
	blobs   hash.Hash // of what the blob digest hashes
	written atomic.Int64
	failed  atomic.Pointer[error]
}

// Summary is what [Writer.Close] returns.
type Summary struct {
	Root       []byte // the trace root
	MerkleRoot []byte
	Events     uint64
	Status     Status
	Size       int64 // bytes of the file
}

// NewWriter writes the header and returns a writer that appends events to w. It never seeks. The header's Config is sorted for the caller.
func NewWriter(w io.Writer, h *Header, opts Options) (*Writer, error) {
	header := *h
	if header.Hash == "" {
		header.Hash = SHA256
	}
	header.Config = sortedSettings(h.Config)
	encoded, err := header.MarshalBinary()
	if err != nil {
		return nil, err
	}
	if opts.ChunkEvents <= 0 {
		opts.ChunkEvents = defaultChunkEvents
	}
	opts.ChunkEvents = min(opts.ChunkEvents, maxChunkEvents)
	if opts.FlushInterval == 0 {
		opts.FlushInterval = 2 * time.Second
	}
	compressor, err := newCompressor()
	if err != nil {
		return nil, err
	}
	digest, err := header.Digest()
	if err != nil {
		return nil, err
	}
	hs := newHasher(header.Hash)
	tw := &Writer{header: header, opts: opts, free: make(chan *batch, 3), jobs: make(chan func(), 2),
		stopped: make(chan struct{}), stop: make(chan struct{}),
		sink: sink{w: w, hash: hs, tree: tree{h: hs}, chain: newChain(hs, digest), enc: newChunkEncoder(header.layout()),
			zstd: compressor, salted: header.Redactable, header: digest, blobs: newBlobsHash(header.Hash)}}
	for range cap(tw.free) {
		tw.free <- &batch{}
	}
	tw.batch = <-tw.free
	if opts.MaxSize > 0 {
		tw.budget = newBudget(opts.MaxSize, int64(len(encoded)))
		if least := int64(len(encoded)) + 2*closeReserve; opts.MaxSize < least {
			return nil, fmt.Errorf("a trace size limit of %d bytes leaves no room for events: it must be at least %d", opts.MaxSize, least)
		}
	}
	if err := tw.sink.begin(encoded, opts.Host); err != nil {
		return nil, err
	}
	go tw.work()
	if opts.FlushInterval > 0 {
		go tw.flushRegularly()
	}
	return tw, nil
}

func (w *Writer) work() {
	defer close(w.stopped)
	w.sink.zstd.EncodeAll(make([]byte, 4<<10), nil) // makes its tables now, beside the run, and not when somebody waits for Close
	for job := range w.jobs {
		job()
	}
}

func (w *Writer) flushRegularly() {
	ticker := time.NewTicker(w.opts.FlushInterval)
	defer ticker.Stop()
	for {
		select {
		case <-w.stop:
			return
		case <-ticker.C:
			w.flushInTime()
		}
	}
}

// flushInTime writes what has been appended, unless a size limit has no room for one more chunk.
func (w *Writer) flushInTime() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closed && w.budget.mayFlush(w.sink.written.Load()+w.queued.Load()) {
		w.submit()
	}
}

// Header is the header that was written.
func (w *Writer) Header() *Header { return &w.header }

// Events is the number of events appended so far.
func (w *Writer) Events() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.next
}

// Append adds an event and copies what it points to. Positions and times must not decrease. An error other than [ErrSizeLimit] is final.
func (w *Writer) Append(e *Event) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.append(e)
}

// AppendAll adds events in order, like Append.
func (w *Writer) AppendAll(events []Event) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range events {
		if err := w.append(&events[i]); err != nil {
			return err
		}
	}
	return nil
}

func (w *Writer) append(e *Event) error {
	if w.closed {
		return ErrClosed
	}
	if err := w.check(e); err != nil {
		return fmt.Errorf("append event %d: %w", w.next, err)
	}
	if !w.budget.take(e, w.sink.enc.clock) {
		return ErrSizeLimit
	}
	b := w.batch
	b.events = append(b.events, *e)
	c := &b.events[len(b.events)-1]
	if len(e.Data) > 0 {
		c.Data = b.keep(e.Data)
	}
	if e.Salt != nil {
		c.Salt = b.keep(e.Salt)
	}
	if e.Commitment != nil {
		c.Commitment = b.keep(e.Commitment)
	}
	w.next++
	w.lastPos, w.lastT = e.Position, e.Time
	switch {
	case w.budget.max == 0 && (len(b.events) >= w.opts.ChunkEvents || len(b.arena) >= chunkArena):
		w.submit()
	case w.budget.max != 0 && w.budget.windowEnds(w.opts.ChunkEvents):
		w.submit()
		w.budget.nextWindow()
	}
	return w.err()
}

// keep copies p into the batch.
func (b *batch) keep(p []byte) []byte {
	n := len(b.arena)
	b.arena = append(b.arena, p...)
	return b.arena[n:len(b.arena):len(b.arena)]
}

func (w *Writer) check(e *Event) error {
	if err := e.check(); err != nil {
		return err
	}
	switch {
	case e.Position < w.lastPos:
		return fmt.Errorf("position %d is before that of the last event, %d", e.Position, w.lastPos)
	case e.Time < w.lastT:
		return fmt.Errorf("virtual time %d is before that of the last event, %d", e.Time, w.lastT)
	case e.Withheld && len(e.Commitment) != w.header.Hash.size(), !e.Withheld && e.Commitment != nil:
		return errors.New("commitment does not fit the event")
	case e.Salt != nil && (!w.header.Redactable || len(e.Salt) != SaltSize):
		return errors.New("salt does not fit the trace")
	}
	return nil
}

// submit hands the batch to the worker.
func (w *Writer) submit() {
	b := w.batch
	if len(b.events) == 0 {
		return
	}
	bound := w.budget.chunk()
	w.queued.Add(bound)
	w.batch = <-w.free
	w.jobs <- func() {
		w.sink.writeChunk(b.events)
		w.queued.Add(-bound)
		clear(b.events)
		b.events, b.arena = b.events[:0], b.arena[:0]
		if cap(b.arena) > 2*chunkArena {
			b.arena = nil
		}
		w.free <- b
	}
}

// drain submits the batch and waits until everything is written.
func (w *Writer) drain() {
	w.submit()
	w.do(func() {})
}

// do runs f on the worker and waits.
func (w *Writer) do(f func()) {
	done := make(chan struct{})
	w.jobs <- func() { f(); close(done) }
	<-done
}

func (w *Writer) err() error {
	if p := w.sink.failed.Load(); p != nil {
		return *p
	}
	return nil
}

// AddBlob stores bytes [offset, offset+len(data)) of the input with this index in the header, so that the trace can be replayed without that file.
// It may be called several times, in ascending order of input and offset, without overlap.
func (w *Writer) AddBlob(input int, offset uint64, data []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return ErrClosed
	}
	if input < 0 || input >= len(w.header.Inputs) {
		return fmt.Errorf("add blob: the header has no input %d", input)
	}
	if size := w.header.Inputs[input].Size; offset > size || uint64(len(data)) > size-offset {
		return fmt.Errorf("add blob: bytes %d to %d are outside input %q of %d bytes", offset, offset+uint64(len(data)), w.header.Inputs[input].Name, size)
	}
	w.drain()
	for len(data) > 0 {
		part := data[:min(len(data), maxBlobPart)]
		if !w.budget.admitsBlob(len(part)) {
			return ErrSizeLimit
		}
		before := w.sink.written.Load()
		w.do(func() { w.sink.writeBlob(uint32(input), offset, part) })
		w.budget.used += w.sink.written.Load() - before + blobCost
		data, offset = data[len(part):], offset+uint64(len(part))
	}
	return w.err()
}

// Close ends the trace: it writes the rest of the events, host (more of the host section, such as the wall time at the end; may be nil), the index
// and the footer. It does not close the underlying writer. A run that reached the size limit gets StatusSizeLimit whatever status says.
func (w *Writer) Close(status Status, host []Setting) (*Summary, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil, ErrClosed
	}
	if !status.valid() {
		return nil, fmt.Errorf("close trace: unknown status %d", status)
	}
	if w.budget.full {
		status = StatusSizeLimit
	}
	w.drain()
	var sum Summary
	w.do(func() { sum = w.sink.finish(status, host) })
	w.shutdown()
	if err := w.err(); err != nil {
		return nil, err
	}
	return &sum, nil
}

// Abandon stops without a footer: the file reads as one that was cut off. It does nothing on a closed writer, so that it can be deferred.
func (w *Writer) Abandon() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closed {
		w.drain()
		w.shutdown()
	}
}

func (w *Writer) shutdown() {
	w.closed = true
	close(w.stop)
	close(w.jobs)
	<-w.stopped
	_ = w.sink.zstd.Close() // it has nothing to flush: every frame was written whole
}

func (s *sink) begin(header []byte, host []Setting) error {
	s.write([]byte(fileMagic))
	s.writeRecord(recordHeader, header)
	s.writeHost(host)
	if p := s.failed.Load(); p != nil {
		return *p
	}
	return nil
}

func (s *sink) fail(err error) {
	s.failed.CompareAndSwap(nil, &err)
}

func (s *sink) write(p []byte) {
	if s.failed.Load() != nil {
		return
	}
	n, err := s.w.Write(p)
	s.written.Add(int64(n))
	if err != nil {
		s.fail(fmt.Errorf("write trace: %w", err))
	}
}

func (s *sink) writeRecord(t recordType, body []byte) {
	if len(s.index) >= maxRecords-2 {
		s.fail(fmt.Errorf("write trace: it has over %d records", maxRecords-2))
		return
	}
	s.record = appendRecord(s.record[:0], t, body)
	s.index = append(s.index, indexEntry{kind: t, length: uint32(len(body))})
	s.write(s.record)
}

func (s *sink) writeHost(host []Setting) {
	body, err := EncodeSettings(host)
	if err == nil && len(body) > closeReserve/4 {
		err = fmt.Errorf("host section of %d bytes is over the limit of %d", len(body), closeReserve/4)
	}
	if err != nil {
		s.fail(fmt.Errorf("write host section: %w", err))
		return
	}
	s.host = appendString(s.host, string(body))
	s.writeRecord(recordHost, body)
}

func (s *sink) writeChunk(events []Event) {
	if s.failed.Load() != nil {
		return
	}
	first := s.tree.count
	s.leaves = s.leaves[:0]
	var leaf [maxHashSize]byte
	for i := range events {
		e := &events[i]
		if s.salted && len(e.Data) > 0 && e.Salt == nil {
			e.Salt = make([]byte, SaltSize)
			if _, err := rand.Read(e.Salt); err != nil {
				s.fail(fmt.Errorf("draw a salt: %w", err))
				return
			}
		}
		s.hash.leaf(leaf[:s.hash.size], e)
		s.leaves = append(s.leaves, leaf[:s.hash.size]...)
		s.tree.append(leaf[:s.hash.size])
	}
	s.chain.add(first, s.leaves)
	s.raw = s.enc.encode(s.raw[:0], events)
	last := &events[len(events)-1]
	head := chunkHead{number: s.chunks, count: uint32(len(events)), first: first, firstPos: events[0].Position, lastPos: last.Position,
		firstTime: events[0].Time, lastTime: last.Time, rawLen: uint32(len(s.raw)), link: s.chain.link}
	s.body = s.zstd.EncodeAll(s.raw, head.append(s.body[:0]))
	s.chunks++
	s.writeRecord(recordChunk, s.body)
	entry := &s.index[len(s.index)-1]
	entry.count, entry.firstPos, entry.firstTime = head.count, head.firstPos, head.firstTime
}

func (s *sink) writeBlob(input uint32, offset uint64, data []byte) {
	b := blobHead{input: input, offset: offset, rawLen: uint32(len(data)), digest: make([]byte, s.hash.size)}
	s.hash.tagged(b.digest, tagBlob, data)
	s.body = b.append(s.body[:0])
	s.blobs.Write(s.body)
	s.body = s.zstd.EncodeAll(data, s.body)
	s.writeRecord(recordBlob, s.body)
}

func (s *sink) finish(status Status, host []Setting) Summary {
	if len(host) > 0 {
		s.writeHost(host)
	}
	f := footer{events: s.tree.count, chunks: s.chunks, status: status, merkle: s.tree.root(), link: s.chain.link,
		host: make([]byte, s.hash.size), blobs: s.blobs.Sum(nil)}
	s.hash.tagged(f.host, tagHost, s.host)
	f.root = RootParts{s.hash.alg, s.header, f.events, f.merkle, status}.Root()
	indexOffset := s.written.Load()
	s.writeRecord(recordIndex, encodeIndex(s.index))
	footerOffset := s.written.Load()
	s.writeRecord(recordFooter, f.append(nil))
	s.write(appendTrailer(nil, indexOffset, footerOffset))
	return Summary{Root: f.root, MerkleRoot: f.merkle, Events: f.events, Status: status, Size: s.written.Load()}
}

func appendTrailer(b []byte, indexOffset, footerOffset int64) []byte {
	start := len(b)
	b = append(b, trailerMagic...)
	b = binary.LittleEndian.AppendUint64(b, uint64(indexOffset))
	b = binary.LittleEndian.AppendUint64(b, uint64(footerOffset))
	return binary.LittleEndian.AppendUint32(b, crc32c(b[start:]))
}
