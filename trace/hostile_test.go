package trace

import (
	"bytes"
	"encoding/binary"
	"io"
	"runtime"
	"strings"
	"testing"
)

// withRecord replaces a record of a trace and makes index and trailer fit.
func withRecord(t *testing.T, file []byte, n int, kind recordType, body []byte) []byte {
	t.Helper()
	records, _, tail := dissect(t, file)
	records[n] = appendRecord(nil, kind, body)
	return assemble(t, records, tail, file, true)
}

func TestAChunkHoldsOneFrameAndNothingElse(t *testing.T) {
	file := smallTrace(t, testHeader(), smallEvents())
	records, kinds, _ := dissect(t, file)
	for n, kind := range kinds {
		if kind != recordChunk && kind != recordBlob {
			continue
		}
		body := records[n][5 : len(records[n])-4]
		for name, extra := range map[string][]byte{
			"a skippable frame":    {0x50, 0x2a, 0x4d, 0x18, 6, 0, 0, 0, 'h', 'i', 'd', 'd', 'e', 'n'},
			"an empty frame":       {0x28, 0xb5, 0x2f, 0xfd, 0x20, 0x00, 0x01, 0x00, 0x00},
			"bytes behind the end": {0},
		} {
			longer := withRecord(t, file, n, kind, append(cloneBytes(body), extra...))
			if rep := verify(t, longer); rep.OK() {
				t.Errorf("%s in %v %d goes unnoticed", name, kind, n)
			}
			readWhatIsLeft(t, longer)
		}
	}
}

func TestHostSectionsHaveTheirPlaces(t *testing.T) {
	file := smallTrace(t, testHeader(), smallEvents()) // header, host, chunks and inputs, host
	records, _, tail := dissect(t, file)
	first, last := records[1], records[len(records)-1]
	middle := records[2 : len(records)-1]
	join := func(parts ...[][]byte) (all [][]byte) {
		for _, p := range parts {
			all = append(all, p...)
		}
		return all
	}
	head := records[:1]
	for name, list := range map[string][][]byte{
		"none":                  join(head, middle),
		"none at the beginning": join(head, middle, [][]byte{last}),
		"one between chunks":    join(head, [][]byte{first}, middle[:1], [][]byte{last}, middle[1:]),
		"two at the beginning":  join(head, [][]byte{first, last}, middle),
		"three":                 join(head, [][]byte{first}, middle, [][]byte{last, last}),
	} {
		forged := assemble(t, list, tail, file, true)
		found := false
		for _, f := range verify(t, forged).Findings {
			found = found || f.Code == CodeHost && (strings.Contains(f.Message, "host section"))
		}
		if !found {
			t.Errorf("%s: not found: %v", name, verify(t, forged).Findings)
		}
		if n := readWhatIsLeft(t, forged); n != uint64(len(smallEvents())) {
			t.Errorf("%s: %d events can be read", name, n)
		}
	}
}

// countingReader counts the bytes that were read.
type countingReader struct {
	io.ReaderAt
	read int64
}

func (c *countingReader) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.ReaderAt.ReadAt(p, off)
	c.read += int64(n)
	return n, err
}

// hostileFiles are small files made to take much memory or time.
func hostileFiles(t *testing.T) map[string][]byte {
	head := func(h *Header) []byte {
		p, err := h.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		return appendRecord([]byte(fileMagic), recordHeader, p)
	}
	end := func(b []byte, entries []indexEntry) []byte {
		index := int64(len(b))
		b = appendRecord(b, recordIndex, encodeIndex(entries))
		footerAt := int64(len(b))
		zero := make([]byte, 32)
		f := footer{status: StatusComplete, merkle: zero, link: zero, host: zero, blobs: zero, root: zero}
		b = appendRecord(b, recordFooter, f.append(nil))
		return appendTrailer(b, index, footerAt)
	}
	files := map[string][]byte{}

	long := testHeader()
	long.Inputs = []Input{{Role: "kernel", Name: strings.Repeat("\x01", 1<<20), Size: 10, Digest: NewDigest(SHA256, nil)}}
	b := head(long)
	outside := blobHead{input: 0, offset: 100, rawLen: 1, digest: make([]byte, 32)}
	for range maxFindings {
		b = appendRecord(b, recordBlob, outside.append(nil))
	}
	files["a thousand findings about an input with a long name"] = b

	enc, err := testHeader().MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(enc, []byte("\x06kernel")) - 1 // the number of inputs
	declared := binary.AppendUvarint(cloneBytes(enc[:at]), 4<<20)
	files["a header that declares more inputs than it has"] = appendRecord([]byte(fileMagic), recordHeader, append(declared, bytes.Repeat([]byte{0xff}, 4<<20)...))

	b = head(testHeader())
	entries := []indexEntry{{kind: recordHeader, length: uint32(len(b) - len(fileMagic) - recordOverhead)}}
	const announced = 1 << 20
	for range 20_000 { // an index entry for every 9 bytes, at each of which a record of a megabyte seems to begin
		b = append(b, 'E', 0, 0, announced>>16, 0, 0, 0, 0, 0)
		entries = append(entries, indexEntry{kind: recordHost})
	}
	files["records that overlap"] = end(append(b, make([]byte, announced+100)...), entries)
	return files
}

func TestHostileFilesTakeBoundedMemoryAndTime(t *testing.T) {
	for name, file := range hostileFiles(t) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		r := &countingReader{ReaderAt: bytes.NewReader(file)}
		rep, err := Verify(r, int64(len(file)), nil)
		if err != nil || rep.OK() {
			t.Errorf("%s: %v, no finding", name, err)
		}
		readWhatIsLeft(t, file)
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 256<<20 {
			t.Errorf("%s: %d bytes of file made the reader allocate %d MiB", name, len(file), n>>20)
		}
		if r.read > 16*int64(len(file)) {
			t.Errorf("%s: %d bytes of a file of %d were read", name, r.read, len(file))
		}
	}
}
