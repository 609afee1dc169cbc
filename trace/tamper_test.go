package trace

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// smallEvents is a handful of events that use every feature of the encoding.
func smallEvents() []Event {
	events := []Event{{Kind: KindStart, Data: []byte("config")}}
	for i := uint64(1); i < 14; i++ {
		events = append(events, Event{Kind: KindIO, Size: 1, Write: i%2 == 0, Device: 4, Addr: 0x3f8, PC: 0xffffffff81000000 + i%3, Value: i, Position: 10 * i, Time: 10 * i, Task: "sh", PID: 7})
	}
	return append(events,
		Event{Kind: KindStdin, Data: []byte("secret\n"), Position: 200, Time: 200, Task: "cat", PID: 8},
		Event{Kind: KindHalt, Value: 5_000_000, Position: 210, Time: 210, PC: 0xffffffff81000999},
		Event{Kind: KindRDMSR, Size: 8, Fault: true, Addr: 0xd3700001, Position: 220, Time: 5_000_220},
		Event{Kind: KindStdout, Data: []byte("hello\n"), Position: 230, Time: 5_000_230},
		Event{Kind: KindEnd, Position: 240, Time: 5_000_240, Data: []byte{0}},
	)
}

// smallTrace is a complete trace with several chunks, stored inputs and two host records.
func smallTrace(t testing.TB, h *Header, events []Event) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := NewWriter(&b, h, Options{ChunkEvents: 5, Host: []Setting{{"cpu", "EPYC"}, {"begin", "now"}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.AppendAll(events); err != nil {
		t.Fatal(err)
	}
	if err := w.AddBlob(0, 0, testKernel()); err != nil {
		t.Fatal(err)
	}
	if err := w.AddBlob(1, 4096, bytes.Repeat([]byte("block"), 100)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Close(StatusComplete, []Setting{{"end", "later"}}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestEverySingleBitIsCovered(t *testing.T) {
	h := testHeader()
	h.Redactable = true
	file := smallTrace(t, h, smallEvents())
	if rep := verify(t, file); !rep.OK() {
		t.Fatal(rep.Err())
	}
	r := open(t, file)
	hostRange := func(i int) bool {
		for _, rec := range r.records {
			if rec.kind == recordHost && int64(i) >= rec.offset && int64(i) < rec.end() {
				return true
			}
		}
		return false
	}
	for i := range file {
		for bit := range 8 {
			file[i] ^= 1 << bit
			rep := verify(t, file)
			if rep.OK() {
				t.Fatalf("flipping bit %d of byte %d of %d goes unnoticed", bit, i, len(file))
			}
			if !located(rep, int64(i)) {
				t.Errorf("flipping bit %d of byte %d of %d is not located: %v", bit, i, len(file), rep.Findings)
			}
			if hostRange(i) {
				onlyHost(t, rep, i)
			}
			readWhatIsLeft(t, file)
			file[i] ^= 1 << bit
		}
	}
}

// located reports whether a finding names the byte, or says that the end is unusable where the byte is in the end.
func located(rep *Report, at int64) bool {
	return slices.ContainsFunc(rep.Findings, func(f Finding) bool { return at >= f.Offset && at < f.Offset+f.Length })
}

func onlyHost(t *testing.T, rep *Report, at int) {
	t.Helper()
	if rep.Root == nil {
		t.Errorf("byte %d is in the host section, but the events could not be verified: %v", at, rep.Findings)
	}
	for _, f := range rep.Findings {
		if f.Code != CodeHost {
			t.Errorf("byte %d is in the host section, the finding is %v", at, f)
		}
	}
}

// readWhatIsLeft makes sure that readers survive damage.
func readWhatIsLeft(t testing.TB, file []byte) uint64 {
	t.Helper()
	r, err := Open(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		return 0
	}
	it := r.Events(0)
	defer it.Close()
	n := uint64(0)
	for it.Next() {
		n++
	}
	for i := range r.Header().Inputs {
		if in, err := r.OpenInput(i); err == nil {
			buf := make([]byte, 100)
			_, _ = in.ReadAt(buf, 4096)
			in.Close()
		}
	}
	return n
}

func TestACutFileReadsUpToTheCut(t *testing.T) {
	events := smallEvents()
	file := smallTrace(t, testHeader(), events)
	full := open(t, file)
	for n := range file {
		cut := file[:n]
		rep := verify(t, cut)
		if rep.OK() || !rep.Truncated {
			t.Fatalf("cut at %d of %d: not reported as truncated: %v", n, len(file), rep.Findings)
		}
		if err := rep.Damage(); err != nil && int64(n) >= full.records[0].end() {
			t.Fatalf("cut at %d of %d: %v", n, len(file), err)
		}
		want := uint64(0)
		for _, c := range full.chunks {
			if c.record.end() <= int64(n) {
				want += uint64(c.count)
			}
		}
		if rep.Events != want {
			t.Fatalf("cut at %d: %d events verified, %d are intact", n, rep.Events, want)
		}
		r, err := Open(bytes.NewReader(cut), int64(n))
		if int64(n) < full.records[0].end() {
			if err == nil {
				t.Fatalf("cut at %d, inside the header: opened", n)
			}
			continue
		}
		if err != nil {
			t.Fatalf("cut at %d: %v", n, err)
		}
		if is, _ := r.Truncated(); !is || r.NumEvents() != want {
			t.Fatalf("cut at %d: truncated %v, %d events to read, want %d", n, is, r.NumEvents(), want)
		}
		for i, e := range readAll(t, r) {
			if !e.Equal(&events[i]) {
				t.Fatalf("cut at %d: event %d differs", n, i)
			}
		}
	}
}

// dissect returns the bytes of each record before the index.
func dissect(t testing.TB, file []byte) (records [][]byte, kinds []recordType, tail []byte) {
	t.Helper()
	r := open(t, file)
	for _, rec := range r.records {
		records = append(records, file[rec.offset:rec.end()])
		kinds = append(kinds, rec.kind)
	}
	return records, kinds, file[r.records[len(r.records)-1].end():]
}

// assemble makes a file of records. With fixup it is as consistent as somebody without the original can make it without touching
// chunks: index and trailer are right, the footer is the original's.
func assemble(t testing.TB, records [][]byte, tail []byte, original []byte, fixup bool) []byte {
	t.Helper()
	b := []byte(fileMagic)
	var entries []indexEntry
	r := open(t, original)
	for _, rec := range records {
		e := indexEntry{kind: recordType(rec[0]), length: uint32(len(rec) - recordOverhead)}
		if e.kind == recordChunk {
			h, _, err := parseChunkHead(rec[5:len(rec)-4], r.header.Hash.size())
			if err != nil {
				t.Fatal(err)
			}
			e.count, e.firstPos, e.firstTime = h.count, h.firstPos, h.firstTime
		}
		entries = append(entries, e)
		b = append(b, rec...)
	}
	if !fixup {
		return append(b, tail...)
	}
	index := int64(len(b))
	b = appendRecord(b, recordIndex, encodeIndex(entries))
	footer := int64(len(b))
	b = appendRecord(b, recordFooter, r.footer.append(nil))
	return appendTrailer(b, index, footer)
}

func TestTamperedChunkSequencesAreFound(t *testing.T) {
	events := smallEvents()
	a := smallTrace(t, testHeader(), events)
	other := smallEvents()
	other[7].Value = 99
	b := smallTrace(t, testHeader(), other)
	recs, kinds, tail := dissect(t, a)
	foreign, _, _ := dissect(t, b)
	var chunks []int
	for i, k := range kinds {
		if k == recordChunk {
			chunks = append(chunks, i)
		}
	}
	type variant struct {
		name  string
		recs  [][]byte
		codes []Code
	}
	var variants []variant
	add := func(name string, recs [][]byte, codes ...Code) {
		variants = append(variants, variant{name, recs, codes})
	}
	for n, c := range chunks {
		add(fmt.Sprintf("drop chunk %d", n), slices.Delete(slices.Clone(recs), c, c+1), CodeMissing)
		add(fmt.Sprintf("duplicate chunk %d", n), slices.Insert(slices.Clone(recs), c, recs[c]), CodeRepeated)
		if n > 0 {
			swapped := slices.Clone(recs)
			swapped[c], swapped[c-1] = swapped[c-1], swapped[c]
			add(fmt.Sprintf("swap chunks %d and %d", n-1, n), swapped, CodeMissing, CodeOrder)
		}
		spliced := slices.Clone(recs)
		spliced[c] = foreign[c]
		if n > 0 { // chunk 0 is the same in both
			add(fmt.Sprintf("splice foreign chunk %d", n), spliced, CodeChain)
		}
	}
	for _, v := range variants {
		for _, fixup := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, fixed up %v", v.name, fixup), func(t *testing.T) {
				file := assemble(t, v.recs, tail, a, fixup)
				rep := verify(t, file)
				if rep.OK() {
					t.Fatal("not noticed")
				}
				for _, code := range v.codes {
					if !slices.ContainsFunc(rep.Findings, func(f Finding) bool { return f.Code == code }) {
						t.Errorf("no finding %q: %v", code, rep.Findings)
					}
				}
				readWhatIsLeft(t, file)
			})
		}
	}
	t.Run("concatenated", func(t *testing.T) {
		if rep := verify(t, append(slices.Clone(a), b...)); rep.OK() {
			t.Fatal("not noticed")
		}
	})
	t.Run("trailing byte", func(t *testing.T) {
		if rep := verify(t, append(slices.Clone(a), 0)); rep.OK() {
			t.Fatal("not noticed")
		}
	})
	t.Run("foreign header", func(t *testing.T) {
		h := testHeader()
		h.Seed = []byte("another seed")
		c, _, _ := dissect(t, smallTrace(t, h, events))
		spliced := slices.Clone(recs)
		spliced[0] = c[0]
		rep := verify(t, assemble(t, spliced, tail, a, true))
		if rep.OK() || rep.Findings[0].Code != CodeChain || rep.Findings[0].Chunk != 0 {
			t.Fatal(rep.Findings)
		}
	})
}

// A forger who rewrites everything makes a consistent file, but not one with the same root.
func TestARewrittenTraceHasAnotherRoot(t *testing.T) {
	base, _ := open(t, smallTrace(t, testHeader(), smallEvents())).Footer()
	for i := range smallEvents() {
		mutations := map[string]func(*Event){
			"size": func(e *Event) { e.Size ^= 2 }, "write": func(e *Event) { e.Write = !e.Write }, "fault": func(e *Event) { e.Fault = !e.Fault },
			"device": func(e *Event) { e.Device++ }, "pid": func(e *Event) { e.PID++ }, "pc": func(e *Event) { e.PC++ },
			"addr": func(e *Event) { e.Addr++ }, "value": func(e *Event) { e.Value++ }, "task": func(e *Event) { e.Task += "x" },
			"data": func(e *Event) { e.Data = append(cloneBytes(e.Data), 'x') },
		}
		for name, mutate := range mutations {
			events := smallEvents()
			mutate(&events[i])
			f, _ := open(t, smallTrace(t, testHeader(), events)).Footer()
			if bytes.Equal(f.Root, base.Root) {
				t.Errorf("event %d: changing %s leaves the root as it was", i, name)
			}
		}
	}
}

// What verifies must be what readers see: an index that readers do not accept is a finding, even when all else is right.
func TestVerifyAndOpenAgreeOnTheEnd(t *testing.T) {
	file := smallTrace(t, testHeader(), smallEvents())
	recs, kinds, _ := dissect(t, file)
	r := open(t, file)
	build := func(before, after [][]byte, entries []indexEntry) []byte {
		b := append([]byte(fileMagic), bytes.Join(before, nil)...)
		index := int64(len(b))
		b = appendRecord(b, recordIndex, encodeIndex(entries))
		b = append(b, bytes.Join(after, nil)...)
		footer := int64(len(b))
		return appendTrailer(appendRecord(b, recordFooter, r.footer.append(nil)), index, footer)
	}
	var entries []indexEntry
	chunks := 0
	for i, rec := range r.records {
		e := indexEntry{kind: rec.kind, length: rec.length}
		if kinds[i] == recordChunk {
			c := r.chunks[chunks]
			e.count, e.firstPos, e.firstTime = c.count, c.firstPos, c.firstTime
			chunks++
		}
		entries = append(entries, e)
	}
	n := len(recs)
	if rep := verify(t, build(recs, nil, entries)); !rep.OK() {
		t.Fatalf("the test does not rebuild the file: %v", rep.Err())
	}
	for name, f := range map[string][]byte{
		"host section after the index": build(recs[:n-1], recs[n-1:], entries[:n-1]),
		"host section listed too":      build(recs[:n-1], recs[n-1:], entries),
		"record not listed":            build(recs, nil, entries[:n-1]),
		"second index":                 build(recs, [][]byte{appendRecord(nil, recordIndex, encodeIndex(entries))}, entries),
	} {
		rep := verify(t, f)
		if cut, _ := open(t, f).Truncated(); rep.OK() || !cut {
			t.Errorf("%s: verify finds %v, opens as truncated: %v", name, rep.Findings, cut)
		}
	}
}

func TestDecompressionBombIsRefused(t *testing.T) {
	h := testHeader()
	file := smallTrace(t, h, smallEvents())
	recs, kinds, tail := dissect(t, file)
	zw, err := newCompressor()
	if err != nil {
		t.Fatal(err)
	}
	defer zw.Close()
	bomb := zw.EncodeAll(make([]byte, 64<<20), nil)
	for i, k := range kinds {
		if k != recordChunk && k != recordBlob {
			continue
		}
		body := recs[i][5 : len(recs[i])-4]
		var head []byte
		if k == recordChunk {
			head = body[:chunkHeadSize+32]
		} else {
			head = body[:16+32]
		}
		changed := slices.Clone(recs)
		changed[i] = appendRecord(nil, k, append(slices.Clone(head), bomb...))
		rep := verify(t, assemble(t, changed, tail, file, true))
		if rep.OK() || !strings.Contains(rep.Findings[0].Message, "decompress") {
			t.Errorf("record %d: %v", i, rep.Findings)
		}
	}
}
