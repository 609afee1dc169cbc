package trace

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

// The root of a run must never change while the format's version does not: signatures name it. If this fails, the canonical encoding was changed.
func TestRootsAreStable(t *testing.T) {
	for alg, want := range map[Hash]string{
		SHA256: "1714bdeeda346a693b51c48681668a9fabf1004e9b0673837dd601c5d0fb5240",
		SHA512: "f5cf865667cc480b67ec7ebe0336eddb7373684fa74391016c633e63b8d680ed99d5aee803fe287363939451293ca85627cd6bbc6b98e566af0ed4407bf7c7a2",
		BLAKE3: "4b121a7c799a44114ccf20b71597ce15eb5759289e50540cdd7a71c4c51bb718",
	} {
		h := testHeader()
		h.Hash = alg
		f, _ := open(t, smallTrace(t, h, smallEvents())).Footer()
		if got := hex.EncodeToString(f.Root); got != want {
			t.Errorf("%s: root is %s, it was %s", alg, got, want)
		}
	}
}

// Files that older versions wrote stay readable, salted payloads included.
func TestGoldenFileIsReadable(t *testing.T) {
	name := filepath.Join("testdata", "v1.dtr")
	h := testHeader()
	h.Redactable = true
	if *update {
		if err := os.WriteFile(name, smallTrace(t, h, smallEvents()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	file, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if rep := verify(t, file); !rep.OK() {
		t.Fatal(rep.Err())
	}
	events := smallEvents()
	for i, e := range readAll(t, open(t, file)) {
		if !e.Equal(&events[i]) {
			t.Errorf("event %d: %+v", i, e)
		}
	}
	if !bytes.HasPrefix(file, []byte(fileMagic)) {
		t.Error("no magic number")
	}
}

// A second implementation of docs/trace-format.md, section 7, as plain as can be.
func TestRootFollowsTheSpecification(t *testing.T) {
	h := testHeader()
	events := smallEvents()
	f, _ := open(t, smallTrace(t, h, events)).Footer()
	sum := func(parts ...[]byte) []byte {
		d := sha256.Sum256(bytes.Join(parts, nil))
		return d[:]
	}
	uv := func(v uint64) []byte { return binary.AppendUvarint(nil, v) }
	var leaves [][]byte
	for _, e := range events {
		flags, commitment := byte(0), []byte(nil)
		if e.Write {
			flags |= 1
		}
		if e.Fault {
			flags |= 2
		}
		if len(e.Data) > 0 {
			flags |= 4
			commitment = sum([]byte{2}, e.Data)
		}
		leaves = append(leaves, sum([]byte{0, byte(e.Kind), flags, e.Size}, uv(uint64(e.Device)), uv(uint64(e.PID)), uv(e.Position), uv(e.Time),
			binary.LittleEndian.AppendUint64(nil, e.PC), uv(e.Addr), uv(e.Value), []byte{byte(len(e.Task))}, []byte(e.Task), commitment))
	}
	var root func([][]byte) []byte // RFC 6962, section 2.1
	root = func(l [][]byte) []byte {
		if len(l) == 1 {
			return l[0]
		}
		k := 1
		for 2*k < len(l) {
			k *= 2
		}
		return sum([]byte{1}, root(l[:k]), root(l[k:]))
	}
	header, err := h.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	want := sum([]byte{6}, sum([]byte{7}, header), binary.LittleEndian.AppendUint64(nil, uint64(len(events))), root(leaves), []byte{1})
	if !bytes.Equal(f.Root, want) {
		t.Errorf("root is %x, the specification says %x", f.Root, want)
	}
}
