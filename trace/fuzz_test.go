package trace

import (
	"bytes"
	"testing"
)

// FuzzFile: whatever the file, readers neither panic nor hang, and what verifies is what was recorded.
func FuzzFile(f *testing.F) {
	original := smallTrace(f, testHeader(), smallEvents())
	root, _ := open(f, original).Footer()
	f.Add(original)
	f.Add(original[:len(original)/2])
	h := testHeader()
	h.Redactable, h.Hash = true, BLAKE3
	f.Add(smallTrace(f, h, smallEvents()))
	f.Fuzz(func(t *testing.T, file []byte) {
		n := readWhatIsLeft(t, file)
		rep, err := Verify(bytes.NewReader(file), int64(len(file)), nil)
		if err != nil {
			t.Fatal(err)
		}
		if rep.OK() {
			if cut, err := open(t, file).Truncated(); cut {
				t.Fatalf("verifies, but does not open as complete: %v", err)
			}
		}
		if rep.OK() && rep.Events != n {
			t.Fatalf("%d events verified, %d read", rep.Events, n)
		}
		if rep.OK() && bytes.Equal(rep.Root, root.Root) && n != root.Events {
			t.Fatal("another trace with the same root")
		}
	})
}

// FuzzMutate changes a larger trace in one place.
func FuzzMutate(f *testing.F) {
	original := record(f, testHeader(), Options{ChunkEvents: 500}, bootEvents(3000))
	f.Add(uint32(100), byte(1), uint16(0))
	f.Add(uint32(5000), byte(0), uint16(10))
	f.Fuzz(func(t *testing.T, at uint32, flip byte, drop uint16) {
		file := bytes.Clone(original)
		i := int(at) % len(file)
		file[i] ^= flip
		file = append(file[:i], file[min(len(file), i+int(drop)):]...)
		rep := verify(t, file)
		if same := bytes.Equal(file, original); rep.OK() != same {
			t.Fatalf("file is the original: %v; verifies: %v", same, rep.OK())
		}
		readWhatIsLeft(t, file)
	})
}

// FuzzChunk feeds the decoder of uncompressed content directly.
func FuzzChunk(f *testing.F) {
	events := smallEvents()
	f.Add(newChunkEncoder(testHeader().layout()).encode(nil, events))
	f.Fuzz(func(t *testing.T, raw []byte) {
		cd := chunkDecoder{layout: testHeader().layout()}
		if cd.open(raw) != nil {
			return
		}
		var e Event
		for n := 0; ; n++ {
			ok, err := cd.next(&e)
			if err != nil || !ok {
				return
			}
			if err := e.check(); err != nil || n > maxChunkEvents {
				t.Fatal(n, err)
			}
		}
	})
}

func FuzzDecodeEvents(f *testing.F) {
	buf, err := EncodeEvents(smallEvents())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(buf)
	f.Fuzz(func(t *testing.T, buf []byte) {
		_ = DecodeEvents(buf, func(e *Event) error { return e.check() })
	})
}
