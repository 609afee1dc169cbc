package initramfs

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/u-root/u-root/pkg/cpio"
)

func TestArchiveIsAFunctionOfItsContents(t *testing.T) {
	records := Base([]byte("agent"))
	more, err := Userland([]byte("bb"), []string{"sh", "ls"})
	if err != nil {
		t.Fatal(err)
	}
	records = append(records, more...)
	want, err := Bytes(records)
	if err != nil {
		t.Fatal(err)
	}
	slices.Reverse(records)
	for i := range records {
		records[i].MTime = uint64(1000 + i)
		records[i].UID = 7
	}
	got, err := Bytes(records)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("another order, time or owner changed the archive")
	}
}

func TestArchiveHoldsWhatItShould(t *testing.T) {
	more, err := Userland([]byte("the userland"), []string{"sh", "ls"})
	if err != nil {
		t.Fatal(err)
	}
	b, err := Bytes(append(Base([]byte("the agent")), more...))
	if err != nil {
		t.Fatal(err)
	}
	records, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(b)))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]cpio.Record{}
	for _, r := range records {
		got[r.Name] = r
	}
	for name, want := range map[string]struct {
		mode    uint64
		content string
	}{
		"init":        {cpio.S_IFREG | 0o755, "the agent"},
		"bin/bb":      {cpio.S_IFREG | 0o755, "the userland"},
		"bin/ls":      {cpio.S_IFLNK | 0o777, "bb"},
		"tmp":         {cpio.S_IFDIR | 0o1777, ""},
		"dev/console": {cpio.S_IFCHR | 0o600, ""},
	} {
		r, ok := got[name]
		content := new(bytes.Buffer)
		if r.ReaderAt != nil {
			content.ReadFrom(&atReader{r: r})
		}
		if !ok || r.Mode != want.mode || content.String() != want.content {
			t.Errorf("%s: present %v, mode %o, content %q", name, ok, r.Mode, content)
		}
	}
}

// atReader reads a record's content from its start.
type atReader struct {
	r   cpio.Record
	off int64
}

func (a *atReader) Read(b []byte) (int, error) {
	n, err := a.r.ReadAt(b, a.off)
	a.off += int64(n)
	return n, err
}

func TestContentsOfLargeFilesArePageAligned(t *testing.T) {
	large := bytes.Repeat([]byte("0123456789abcdef"), 3*pageSize/16)
	more, err := Userland(append([]byte("userland"), large...), []string{"sh"})
	if err != nil {
		t.Fatal(err)
	}
	b, err := Bytes(append(Base(large), more...))
	if err != nil {
		t.Fatal(err)
	}
	records, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(b)))
	if err != nil {
		t.Fatal(err)
	}
	aligned := 0
	for _, r := range records {
		if r.FileSize >= pageSize && r.FilePos%pageSize == 0 {
			aligned++
		}
		if len(r.Name) >= maxName {
			t.Errorf("a name of %d bytes, which the kernel skips", len(r.Name))
		}
	}
	if aligned != 2 {
		t.Errorf("%d files are aligned, want 2", aligned)
	}
}

func TestWriteRefusesWhatTheKernelWouldDrop(t *testing.T) {
	for name, records := range map[string][]cpio.Record{
		"no directory": {cpio.StaticFile("a/b", "", 0o644)},
		"duplicate":    {cpio.StaticFile("a", "1", 0o644), cpio.StaticFile("a", "2", 0o644)},
	} {
		if _, err := Bytes(records); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestUserlandRefusesBadCommandLists(t *testing.T) {
	for _, commands := range []string{"ls", "sh a/b", "sh bb", "sh .."} {
		if _, err := Userland(nil, strings.Fields(commands)); err == nil {
			t.Errorf("%s: no error", commands)
		}
	}
}
