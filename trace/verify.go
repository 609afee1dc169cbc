package trace

import (
	"bytes"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"strings"
)

// Code names what kind of damage a [Finding] is about.
type Code string

// The kinds of damage.
const (
	CodeMagic     Code = "magic"     // the file does not begin like a trace
	CodeHeader    Code = "header"    // the header cannot be read
	CodeTruncated Code = "truncated" // the file ends early
	CodeDamaged   Code = "damaged"   // bytes were changed: a checksum or a structure is wrong
	CodeMissing   Code = "missing"   // a chunk is missing
	CodeRepeated  Code = "repeated"  // a chunk stands twice
	CodeOrder     Code = "order"     // a chunk stands in the wrong place
	CodeChain     Code = "chain"     // a chunk does not follow from the one before: its events were changed or it belongs to another trace
	CodeTree      Code = "tree"      // the events are not those that the footer's Merkle root was computed from
	CodeRoot      Code = "root"      // the trace root is not that of this header and these events
	CodeIndex     Code = "index"     // the seek index does not fit the file
	CodeFooter    Code = "footer"    // the footer contradicts the file
	CodeHost      Code = "host"      // the host section was modified; the trace root does not depend on it
	CodeBlob      Code = "blob"      // a stored input was modified
	CodeTrailing  Code = "trailing"  // there are bytes that belong to nothing
)

// Finding is one thing that is wrong with a trace.
type Finding struct {
	Code    Code   `json:"code"`
	Offset  int64  `json:"offset"`          // first byte concerned
	Length  int64  `json:"length"`          // number of bytes concerned; 0 if the finding is about a place, not a range
	Chunk   int    `json:"chunk"`           // number of the chunk, -1 if it is about none
	Event   uint64 `json:"event,omitempty"` // first event concerned, if Chunk is not -1
	Message string `json:"message"`
}

func (f Finding) String() string {
	where := fmt.Sprintf("offset %d", f.Offset)
	if f.Length > 0 {
		where = fmt.Sprintf("bytes %d–%d", f.Offset, f.Offset+f.Length-1)
	}
	if f.Chunk >= 0 {
		where += fmt.Sprintf(" (chunk %d, from event %d)", f.Chunk, f.Event)
	}
	return fmt.Sprintf("%s: %s: %s", f.Code, where, f.Message)
}

// maxFindings bounds a report. What comes after is counted, not listed.
const maxFindings = 1000

// Report is the result of [Verify].
type Report struct {
	Findings  []Finding
	Omitted   int    // findings beyond the first 1000
	Truncated bool   // the trace has no end
	Chunks    int    // intact chunks in sequence from the first
	Events    uint64 // events in them
	Withheld  uint64 // of these, events whose payload is withheld
	BlobBytes uint64 // stored bytes of inputs, uncompressed
	// PartialInputs lists the inputs (by index in the header) that are stored, but not completely. Complete ones were checked against the header's
	// digest; of these only BlobDigest, if it is known from elsewhere, says that their bytes are right.
	PartialInputs []int
	// Root and Parts are recomputed from the header and the events, not read from the footer. They are set only if
	// header, events and footer are intact.
	Root  []byte
	Parts RootParts
	// HostDigest and BlobDigest are recomputed from the host section and the stored inputs.
	HostDigest, BlobDigest []byte
}

// OK reports whether nothing is wrong.
func (r *Report) OK() bool { return len(r.Findings) == 0 }

// Damage is nil if nothing is wrong but that the recording was cut off: what there is of the trace can be relied on. Else it tells of the first finding.
func (r *Report) Damage() error {
	cut := Report{Omitted: r.Omitted}
	for _, f := range r.Findings {
		if f.Code != CodeTruncated {
			cut.Findings = append(cut.Findings, f)
		}
	}
	return cut.Err()
}

// Err is nil if nothing is wrong, and otherwise tells of the first finding.
func (r *Report) Err() error {
	if r.OK() {
		return nil
	}
	if n := len(r.Findings) + r.Omitted - 1; n > 0 {
		return fmt.Errorf("the trace is damaged: %s (and %d more)", r.Findings[0], n)
	}
	return fmt.Errorf("the trace is damaged: %s", r.Findings[0])
}

// quoted is how much of a string from a trace findings show.
const quoted = 100

func (r *Report) add(f Finding) {
	if len(r.Findings) == maxFindings {
		r.Omitted++
		return
	}
	r.Findings = append(r.Findings, f)
}

// Verify reads a whole trace and checks everything in it: structure, checksums, hash chain, Merkle tree, root, index, host section and stored inputs. What is
// wrong is in the report; the error is only for files that cannot be read. progress, if not nil, is called now and then with the bytes done.
//
// A trace without findings is whole and consistent. That it is the trace which somebody vouches for needs a signature over its root (package attest).
func Verify(r io.ReaderAt, size int64, progress func(done, total int64)) (*Report, error) {
	v := &verifier{r: r, size: size, progress: progress, seen: map[uint32]bool{}, whole: true}
	if progress == nil {
		v.progress = func(int64, int64) {}
	}
	if err := v.run(); err != nil {
		return nil, fmt.Errorf("verify trace: %w", err)
	}
	return &v.report, nil
}

// Verify checks the trace that the reader was opened on.
func (r *Reader) Verify(progress func(done, total int64)) (*Report, error) {
	return Verify(r.r, r.size, progress)
}

type verifier struct {
	r        io.ReaderAt
	size     int64
	progress func(done, total int64)
	report   Report

	header  Header
	digest  []byte
	hash    *hasher
	tree    tree
	dec     *decompressor
	cd      chunkDecoder
	leaves  []byte
	buf     []byte
	link    []byte          // of the last chunk read, nil if it was damaged
	expect  uint32          // number of the next chunk
	seen    map[uint32]bool // chunk numbers
	whole   bool            // all chunks so far were intact and in sequence
	lastPos uint64
	lastT   uint64

	walked   []indexEntry
	hosts    []byte
	blobs    hash.Hash
	inputs   map[uint32]*wholeInput
	trailer  *trailer
	index    []indexEntry // what the index says, nil if it cannot be read
	starts   []int64      // offsets of those records, and of the index itself
	wasted   int64        // bytes of records that turned out damaged
	indexed  bool         // the index record was passed: only the footer may follow
	hostSeen bool         // the record after the header was passed
	lastHost *recordAt    // a later host section: the index has to follow
	footer   *footer
}

// run walks the file from the first byte to the last.
func (v *verifier) run() error {
	ok, next, err := v.start()
	if err != nil || !ok {
		return err
	}
	if v.dec, err = newDecompressor(); err != nil {
		return err
	}
	defer v.dec.close()
	if err := v.readEnd(next); err != nil {
		return err
	}
	if err := v.walk(next); err != nil {
		return err
	}
	v.conclude()
	return nil
}

// ioError returns err if the host could not read the file, and nil if err is about damage in it.
func ioError(err error) error {
	var failed *readError
	if errors.As(err, &failed) {
		return err
	}
	return nil
}

func (v *verifier) start() (ok bool, next int64, err error) {
	magic := make([]byte, min(int64(len(fileMagic)), v.size))
	if _, err := v.r.ReadAt(magic, 0); err != nil && len(magic) > 0 {
		return false, 0, &readError{"magic number", 0, err}
	}
	if string(magic) != fileMagic {
		v.report.add(Finding{Code: CodeMagic, Length: int64(len(magic)), Chunk: -1, Message: "the file does not begin with a trace's magic number"})
	}
	rec, err := readHead(v.r, int64(len(fileMagic)), v.size)
	if err == nil && rec.kind != recordHeader {
		err = errType
	}
	var body []byte
	if err == nil {
		body, _, err = readRecord(v.r, rec, nil)
	}
	if err == nil {
		if err = v.header.UnmarshalBinary(body); err != nil {
			err = fmt.Errorf("%w: %w", errType, err)
		}
	}
	if err != nil {
		if e := ioError(err); e != nil {
			return false, 0, e
		}
		v.report.add(Finding{Code: CodeHeader, Offset: int64(len(fileMagic)), Length: max(v.size-int64(len(fileMagic)), 0), Chunk: -1,
			Message: fmt.Sprintf("the header cannot be read, so that nothing after it can be checked: %v", err)})
		v.report.Truncated = errors.Is(err, errCut)
		return false, 0, nil
	}
	if v.digest, err = v.header.Digest(); err != nil {
		return false, 0, err
	}
	v.hash = newHasher(v.header.Hash)
	v.tree.h = v.hash
	v.cd.layout = v.header.layout()
	c := newChain(v.hash, v.digest)
	v.link = c.link
	v.inputs, v.blobs = map[uint32]*wholeInput{}, newBlobsHash(v.header.Hash)
	v.walked = append(v.walked, indexEntry{kind: recordHeader, length: rec.length})
	return true, rec.end(), nil
}

// readEnd reads trailer, index and footer where they should be, for finding the way past damage. walk looks at them again in file order.
func (v *verifier) readEnd(next int64) error {
	t, err := readTrailer(v.r, v.size)
	if err != nil {
		return ioError(err)
	}
	v.trailer = &t
	tr := &Reader{r: v.r, size: v.size, header: v.header}
	f, entries, err := tr.readFooter(t)
	if err != nil {
		return ioError(err)
	}
	v.footer, v.index = f, entries
	at := int64(len(fileMagic))
	for _, e := range entries {
		v.starts = append(v.starts, at)
		at = recordAt{e.kind, at, e.length}.end()
	}
	v.starts = append(v.starts, at)
	return nil
}

// bound is where records end: before the trailer if there is one.
func (v *verifier) bound() int64 {
	if v.trailer != nil {
		return v.size - trailerSize
	}
	return v.size
}

func (v *verifier) walk(offset int64) error {
	for offset < v.bound() {
		if len(v.walked) > maxRecords {
			v.report.add(Finding{Code: CodeDamaged, Offset: offset, Length: v.size - offset, Chunk: -1, Message: "there are more records than a trace may have"})
			v.whole = false
			return nil
		}
		rec, body, err := v.read(offset)
		if err != nil {
			if e := ioError(err); e != nil {
				return e
			}
			next, ok := v.damaged(offset, rec, err)
			if !ok {
				return nil
			}
			offset = next
			continue
		}
		if rec.kind != recordIndex && rec.kind != recordFooter {
			v.walked = append(v.walked, indexEntry{kind: rec.kind, length: rec.length})
		}
		v.record(rec, body)
		offset = rec.end()
		v.progress(offset, v.size)
	}
	if v.trailer == nil {
		v.cutOff(offset, "the file has no end: the recorder was stopped before it could write one, or the end was cut off")
	}
	return nil
}

// read reads the record at offset.
func (v *verifier) read(offset int64) (recordAt, []byte, error) {
	rec, err := readHead(v.r, offset, v.bound())
	if err != nil {
		return rec, nil, err
	}
	if v.wasted > v.size { // damage that overlaps: reading each whole would take quadratic time
		if e, found := v.lookup(offset); found && e.length != rec.length {
			return rec, nil, errIndexed
		}
	}
	body, buf, err := readRecord(v.r, rec, v.buf)
	v.buf = buf
	if err != nil {
		v.wasted += int64(rec.length)
	}
	return rec, body, err
}

var errIndexed = errors.New("the index lists another record here")

// damaged reports a record that cannot be read and says where to go on.
func (v *verifier) damaged(offset int64, rec recordAt, err error) (next int64, ok bool) {
	v.hostSeen, v.lastHost = true, nil // what stands here is not known
	next, known := v.after(offset)
	if !known {
		next, known = rec.end(), rec.kind != 0 && !errors.Is(err, errCut) && v.plausible(rec.end())
	}
	if !known && v.trailer == nil {
		if errors.Is(err, errChecksum) && rec.end() < v.size || errors.Is(err, errType) && !v.trailerBegins(offset) {
			v.lost(offset, v.size, rec, err)
			v.report.Truncated = true
			return 0, false
		}
		v.cutOff(offset, "the file ends inside a record: the recorder was stopped while it wrote, or the end was cut off")
		return 0, false
	}
	if !known {
		next = v.bound()
	}
	v.lost(offset, next, rec, err)
	return next, true
}

// trailerBegins reports whether the file's last bytes, from offset on, are the beginning of a trailer.
func (v *verifier) trailerBegins(offset int64) bool {
	if v.size-offset >= trailerSize {
		return false
	}
	b := make([]byte, min(v.size-offset, int64(len(trailerMagic))))
	_, err := v.r.ReadAt(b, offset)
	return err == nil && strings.HasPrefix(trailerMagic, string(b))
}

// lost reports bytes [offset, end) as unreadable.
func (v *verifier) lost(offset, end int64, rec recordAt, err error) {
	f := Finding{Code: CodeDamaged, Offset: offset, Length: end - offset, Chunk: -1}
	kind := rec.kind
	if e, found := v.lookup(offset); found {
		kind = e.kind
		v.walked = append(v.walked, e)
	}
	switch kind {
	case recordHost:
		f.Code = CodeHost
	case recordBlob:
		f.Code = CodeBlob
	case recordIndex:
		f.Code = CodeIndex
	case recordFooter:
		f.Code = CodeFooter
	case recordChunk:
		f.Chunk, f.Event = int(v.expect), v.tree.count
		v.seen[v.expect] = true
		v.expect++
		v.whole, v.link = false, nil
	default:
		v.whole, v.link = false, nil
	}
	f.Message = fmt.Sprintf("%s: %v", kind, err)
	v.report.add(f)
}

// lookup finds the record that the index has at offset.
func (v *verifier) lookup(offset int64) (indexEntry, bool) {
	if i, found := slices.BinarySearch(v.starts, offset); found && i < len(v.index) {
		return v.index[i], true
	}
	return indexEntry{}, false
}

// after returns where, by index and trailer, the first record after offset begins.
func (v *verifier) after(offset int64) (int64, bool) {
	if i, _ := slices.BinarySearch(v.starts, offset+1); i < len(v.starts) {
		return min(v.starts[i], v.bound()), true
	}
	if v.trailer != nil {
		for _, at := range [...]int64{v.trailer.index, v.trailer.footer, v.bound()} {
			if at > offset && at <= v.bound() && v.plausible(at) {
				return at, true
			}
		}
	}
	return 0, false
}

// plausible reports whether a record may begin at offset.
func (v *verifier) plausible(offset int64) bool {
	if offset == v.bound() {
		return true
	}
	_, err := readHead(v.r, offset, v.bound())
	return err == nil
}

// errHostPlace says that a host section stands where none belongs: between others, or a third.
var errHostPlace = errors.New("a host section stands neither after the header nor before the index")

// placeHosts checks that host sections stand where they belong: one directly after the header, at most one more directly before the index.
func (v *verifier) placeHosts(rec recordAt) {
	bad := func(at recordAt, message string) {
		v.report.add(Finding{Code: CodeHost, Offset: at.offset, Length: at.end() - at.offset, Chunk: -1, Message: message})
	}
	if last := v.lastHost; last != nil && rec.kind != recordIndex {
		bad(*last, errHostPlace.Error())
	}
	v.lastHost = nil
	switch first := !v.hostSeen; {
	case first && rec.kind != recordHost:
		bad(rec, "no host section follows the header")
	case !first && rec.kind == recordHost:
		v.lastHost = &rec
	}
	v.hostSeen = true
}

func (v *verifier) cutOff(offset int64, message string) {
	v.report.Truncated = true
	v.report.add(Finding{Code: CodeTruncated, Offset: offset, Length: v.size - offset, Chunk: -1,
		Message: fmt.Sprintf("%s; %d events before it are intact", message, v.report.Events)})
}

func (v *verifier) record(rec recordAt, body []byte) {
	v.placeHosts(rec)
	if v.indexed && rec.kind != recordFooter {
		v.report.add(Finding{Code: CodeIndex, Offset: rec.offset, Length: rec.end() - rec.offset, Chunk: -1, Message: fmt.Sprintf("a %s stands after the index", rec.kind)})
	}
	switch rec.kind {
	case recordHeader:
		v.report.add(Finding{Code: CodeDamaged, Offset: rec.offset, Length: rec.end() - rec.offset, Chunk: -1, Message: "a second header: two traces were joined"})
	case recordHost:
		v.hosts = appendString(v.hosts, string(body))
		if _, err := DecodeSettings(body); err != nil {
			v.report.add(Finding{Code: CodeHost, Offset: rec.offset, Length: rec.end() - rec.offset, Chunk: -1, Message: err.Error()})
		}
	case recordChunk:
		v.chunk(rec, body)
	case recordBlob:
		v.blob(rec, body)
	case recordIndex:
		v.indexed = true
		if v.trailer != nil && rec.offset != v.trailer.index {
			v.report.add(Finding{Code: CodeIndex, Offset: rec.offset, Chunk: -1, Message: "the index is not where the trailer says"})
		} else if !bytes.Equal(body, encodeIndex(v.walked)) {
			v.report.add(Finding{Code: CodeIndex, Offset: rec.offset, Length: rec.end() - rec.offset, Chunk: -1, Message: "the index does not list the records before it"})
		}
	case recordFooter:
		f, err := parseFooter(body, v.hash.size)
		if err == nil {
			v.footer = &f
		}
		if err == nil && v.trailer != nil && (rec.offset != v.trailer.footer || rec.end() != v.bound()) {
			err = errors.New("the footer is not where the trailer says")
		}
		if err != nil {
			v.report.add(Finding{Code: CodeFooter, Offset: rec.offset, Length: rec.end() - rec.offset, Chunk: -1, Message: err.Error()})
		}
	}
}

// chunk checks one chunk whose checksum is right.
func (v *verifier) chunk(rec recordAt, body []byte) {
	head, compressed, err := parseChunkHead(body, v.hash.size)
	bad := func(code Code, format string, args ...any) {
		v.report.add(Finding{Code: code, Offset: rec.offset, Length: rec.end() - rec.offset, Chunk: int(head.number), Event: head.first, Message: fmt.Sprintf(format, args...)})
		v.whole = false
	}
	entry := &v.walked[len(v.walked)-1]
	entry.count, entry.firstPos, entry.firstTime = head.count, head.firstPos, head.firstTime
	if err != nil {
		bad(CodeDamaged, "%v", err)
		v.link = nil
		return
	}
	v.sequence(&head, bad)
	if err := v.leafHashes(&head, compressed); err != nil {
		bad(CodeDamaged, "%v", err)
		v.link = nil
		return
	}
	if v.link != nil {
		c := chain{v.hash, cloneBytes(v.link)}
		c.add(head.first, v.leaves)
		if !bytes.Equal(c.link, head.link) {
			bad(CodeChain, "the hash chain breaks here: events were changed, or this chunk does not belong to this trace")
		}
	}
	v.link = cloneBytes(head.link)
	if !v.whole {
		return
	}
	for l := v.leaves; len(l) > 0; l = l[v.hash.size:] {
		v.tree.append(l[:v.hash.size])
	}
	v.report.Chunks++
	v.report.Events = v.tree.count
}

// sequence checks that the chunk is the one that should stand here.
func (v *verifier) sequence(head *chunkHead, bad func(Code, string, ...any)) {
	switch {
	case head.number == v.expect:
		if v.whole && head.first != v.tree.count {
			bad(CodeOrder, "the chunk begins with event %d, the one before it ended at event %d", head.first, v.tree.count)
		}
	case v.seen[head.number]:
		bad(CodeRepeated, "chunk %d stands in the file a second time, or two traces were joined", head.number)
		v.link = nil
		return
	case head.number > v.expect:
		bad(CodeMissing, "chunk %d follows where chunk %d should: chunks are missing or stand elsewhere", head.number, v.expect)
		v.link = nil
	default:
		bad(CodeOrder, "chunk %d stands after chunks that should follow it", head.number)
		v.link = nil
	}
	if v.whole && (head.firstPos < v.lastPos || head.firstTime < v.lastT) {
		bad(CodeOrder, "the chunk's events lie before those of the chunk before it")
	}
	v.lastPos, v.lastT = head.lastPos, head.lastTime
	v.seen[head.number] = true
	v.expect = max(v.expect, head.number+1)
}

// leafHashes decodes a chunk and fills v.leaves.
func (v *verifier) leafHashes(head *chunkHead, compressed []byte) error {
	raw, err := v.dec.expand(compressed, head.rawLen)
	if err != nil {
		return err
	}
	if err := v.cd.open(raw); err != nil {
		return err
	}
	if v.cd.count != int(head.count) {
		return fmt.Errorf("it holds %d events, its head says %d", v.cd.count, head.count)
	}
	v.leaves = v.leaves[:0]
	var leaf [maxHashSize]byte
	var e Event
	for i := 0; ; i++ {
		var last Event
		last.Position, last.Time = e.Position, e.Time
		ok, err := v.cd.next(&e)
		if err != nil {
			return fmt.Errorf("event %d: %w", head.first+uint64(i), err)
		}
		if !ok {
			if last.Position != head.lastPos || last.Time != head.lastTime {
				return errors.New("its last event is not where its head says")
			}
			return nil
		}
		if i == 0 && (e.Position != head.firstPos || e.Time != head.firstTime) {
			return errors.New("its first event is not where its head says")
		}
		if e.Withheld {
			v.report.Withheld++
		}
		v.hash.leaf(leaf[:v.hash.size], &e)
		v.leaves = append(v.leaves, leaf[:v.hash.size]...)
	}
}

// wholeInput hashes an input that is stored completely, against the header's digest.
type wholeInput struct {
	next uint64 // bytes seen without gap
	sum  hash.Hash
}

func (v *verifier) blob(rec recordAt, body []byte) {
	bad := func(format string, args ...any) {
		v.report.add(Finding{Code: CodeBlob, Offset: rec.offset, Length: rec.end() - rec.offset, Chunk: -1, Message: fmt.Sprintf(format, args...)})
	}
	head, data, err := v.header.expandBlob(body, v.dec, v.hash)
	if err != nil {
		bad("%v", err)
		return
	}
	v.blobs.Write(head.append(nil))
	v.report.BlobBytes += uint64(len(data))
	in := v.header.Inputs[head.input]
	w := v.inputs[head.input]
	if w == nil {
		w = &wholeInput{sum: in.Digest.Algorithm().New()}
		v.inputs[head.input] = w
	}
	if head.offset < w.next {
		bad("it overlaps the stored part before it")
	}
	if head.offset != w.next {
		w.sum = nil
	}
	w.next = head.offset + uint64(len(data))
	if w.sum == nil {
		return
	}
	if _, err := w.sum.Write(data); err != nil {
		bad("%v", err)
	}
	if w.next == in.Size && DigestOf(in.Digest.Algorithm(), w.sum.Sum(nil)) != in.Digest {
		bad("the stored %q %q is not the one that the header names by its digest", short(in.Role, quoted), short(in.Name, quoted))
	}
}

// conclude compares what was found with what the footer says.
func (v *verifier) conclude() {
	v.report.HostDigest, v.report.BlobDigest = make([]byte, v.hash.size), v.blobs.Sum(nil)
	v.hash.tagged(v.report.HostDigest, tagHost, v.hosts)
	for i, in := range v.header.Inputs {
		if w := v.inputs[uint32(i)]; w != nil && (w.sum == nil || w.next != in.Size) {
			v.report.PartialInputs = append(v.report.PartialInputs, i)
		}
	}
	v.progress(v.size, v.size)
	if v.trailer == nil {
		return
	}
	at := v.trailer.footer
	bad := func(code Code, format string, args ...any) {
		v.report.add(Finding{Code: code, Offset: at, Chunk: -1, Message: fmt.Sprintf(format, args...)})
	}
	if v.footer == nil {
		bad(CodeFooter, "there is no footer where the trailer says")
		return
	}
	if v.index == nil && v.report.OK() {
		bad(CodeIndex, "the index is not where the trailer says, or cannot be read")
	}
	f := v.footer
	if !bytes.Equal(f.host, v.report.HostDigest) {
		bad(CodeHost, "the host section is not the one that the footer was written for")
	}
	if !bytes.Equal(f.blobs, v.report.BlobDigest) {
		bad(CodeBlob, "the stored inputs are not those that the footer was written for")
	}
	if !v.whole {
		return
	}
	if f.events != v.tree.count || f.chunks != v.expect {
		bad(CodeMissing, "the footer counts %d events in %d chunks, the file has %d in %d", f.events, f.chunks, v.tree.count, v.expect)
		return
	}
	parts := RootParts{v.header.Hash, v.digest, v.tree.count, v.tree.root(), f.status}
	switch root := parts.Root(); {
	case !bytes.Equal(f.merkle, parts.MerkleRoot):
		bad(CodeTree, "the events are not those that the footer's Merkle root was computed from")
	case !bytes.Equal(f.link, v.link):
		bad(CodeChain, "the chain ends in another link than the footer says")
	case !bytes.Equal(f.root, root):
		bad(CodeRoot, "the footer's trace root is not that of this header and these events")
	default:
		v.report.Root, v.report.Parts = root, parts
	}
}

func (p RootParts) String() string {
	return fmt.Sprintf("%d events, header %x, Merkle root %x, %s", p.Events, p.HeaderDigest, p.MerkleRoot, p.Status)
}
