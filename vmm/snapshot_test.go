package vmm

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func testMemory(t testing.TB) *memory {
	t.Helper()
	m, err := newMemory(MinMemory)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.close)
	return m
}

// digestOf hashes all of RAM anew.
func digestOf(mem *memory) *memoryDigest {
	d := newMemoryDigest(mem)
	for _, r := range mem.ranges {
		for off := uint64(0); off < uint64(len(r.Host)); off += pageSize {
			hashPage(d.page(r.GPA + off))
		}
	}
	return d
}

func storedSnapshot(t testing.TB) (dir string, key Digest, mem *memory) {
	t.Helper()
	mem, dir, key = testMemory(t), t.TempDir(), Digest{1, 2, 3}
	for _, gpa := range []uint64{0, 0x1000, 0x5008, MinMemory - 1} {
		if err := mem.store(gpa, []byte{byte(gpa>>12) + 1}); err != nil {
			t.Fatal(err)
		}
	}
	sections := []section{{"cpu", []byte("state")}, {"empty", nil}}
	if err := writeSnapshot(dir, key, sections, digestOf(mem)); err != nil {
		t.Fatal(err)
	}
	return dir, key, mem
}

func TestSnapshotBringsBackMemoryAndSections(t *testing.T) {
	dir, key, mem := storedSnapshot(t)
	fresh := testMemory(t)
	digest := newMemoryDigest(fresh)
	sections, err := readSnapshot(dir, key, digest)
	if err != nil {
		t.Fatal(err)
	}
	if digest.root() != digestOf(mem).root() {
		t.Error("the digest of memory differs after a restore")
	}
	if !bytes.Equal(mem.ranges[0].Host, fresh.ranges[0].Host) {
		t.Error("memory differs after a restore")
	}
	if len(sections) != 2 || sections[0].name != "cpu" || string(sections[0].data) != "state" {
		t.Errorf("sections %v", sections)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".new-*")); len(left) > 0 {
		t.Errorf("temporary files are left: %v", left)
	}
}

func TestMissingSnapshotIsNotExist(t *testing.T) {
	if _, err := readSnapshot(t.TempDir(), Digest{}, newMemoryDigest(testMemory(t))); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v, want fs.ErrNotExist", err)
	}
}

func TestDamagedSnapshotLeavesMemoryAllZeros(t *testing.T) {
	dir, key, _ := storedSnapshot(t)
	path := snapshotPath(dir, key)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	damaged := map[string][]byte{"empty": nil, "cut": whole[:len(whole)/2], "one byte short": whole[:len(whole)-1]}
	pages := len(whole) - 4*pageSize
	for _, at := range []int{0, 20, snapshotHead - 3, snapshotHead, snapshotHead + 50, snapshotHead + 120, pages, pages + pageSize + 1, len(whole) - 1} {
		p := bytes.Clone(whole)
		p[at] ^= 4
		damaged[fmt.Sprint("bit flipped in byte ", at)] = p
	}
	for name, p := range damaged {
		if err := os.WriteFile(path, p, 0o600); err != nil {
			t.Fatal(err)
		}
		fresh := testMemory(t)
		digest := newMemoryDigest(fresh)
		if _, err := readSnapshot(dir, key, digest); !errors.Is(err, errSnapshotCorrupt) {
			t.Errorf("%s: error %v, want errSnapshotCorrupt", name, err)
		}
		for off := 0; off < len(fresh.ranges[0].Host); off += pageSize {
			if !bytes.Equal(fresh.ranges[0].Host[off:off+pageSize], zeroPage[:]) {
				t.Fatalf("%s: page %#x was written", name, off)
			}
		}
		if digest.root() != newMemoryDigest(fresh).root() {
			t.Errorf("%s: the digest is not that of zeros", name)
		}
	}
}

func TestASnapshotThatCouldNotBeReadIsNotWritten(t *testing.T) {
	dir := t.TempDir()
	if err := writeSnapshot(dir, Digest{1}, []section{{"events", make([]byte, snapshotSectionMax+1)}}, newMemoryDigest(testMemory(t))); err == nil {
		t.Error("a section that is too long was written")
	}
	if list, err := ListSnapshots(dir); err != nil || len(list) != 0 {
		t.Errorf("there is %v, %v", list, err)
	}
}

func TestPruneKeepsTheMostRecentlyUsed(t *testing.T) {
	dir, mem := t.TempDir(), newMemoryDigest(testMemory(t))
	for i := range 4 {
		if err := writeSnapshot(dir, Digest{byte(i)}, nil, mem); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := readSnapshot(dir, Digest{0}, mem); err != nil { // a use
		t.Fatal(err)
	}
	removed, err := PruneSnapshots(dir, 1)
	if err != nil || len(removed) != 3 {
		t.Fatalf("removed %v, %v", removed, err)
	}
	list, err := ListSnapshots(dir)
	if err != nil || len(list) != 1 || list[0].Path != snapshotPath(dir, Digest{0}) {
		t.Errorf("kept %v, %v", list, err)
	}
}

func FuzzDecodeSnapshot(f *testing.F) {
	dir, key, _ := storedSnapshot(f)
	whole, err := os.ReadFile(snapshotPath(dir, key))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole[:4096])
	f.Add(whole)
	f.Fuzz(func(t *testing.T, p []byte) {
		s, err := decodeSnapshot(bytes.NewReader(p), int64(len(p)), key)
		if err != nil {
			return
		}
		mem := testMemory(t)
		defer mem.close()
		_ = s.loadPages(bytes.NewReader(p), int64(len(p)), newMemoryDigest(mem))
	})
}
