package images

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"testing"
)

// checkedLoad loads a file that must be as it says.
func checkedLoad(t *testing.T, f *File) []byte {
	t.Helper()
	b, err := f.Load()
	if err != nil {
		t.Fatal(err)
	}
	if uint64(len(b)) != f.Size || sha256.Sum256(b) != f.SHA256 {
		t.Fatalf("%s has %d bytes with sha256 %x, and says %d and %x", f.Name, len(b), sha256.Sum256(b), f.Size, f.SHA256)
	}
	return b
}

func TestEmbeddedInitramfsIsAnArchiveOrSaysHowToGetIt(t *testing.T) {
	for name, find := range map[string]func() (*File, error){"base.cpio": BaseInitramfs, "default.cpio": DefaultInitramfs} {
		f, err := find()
		if errors.Is(err, ErrNotBuilt) {
			t.Logf("%s: %v", name, err)
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if b := checkedLoad(t, f); f.Name != name || !bytes.HasPrefix(b, []byte("070701")) {
			t.Errorf("%s: %q is no newc archive", name, b[:min(6, len(b))])
		}
	}
}

func TestGuestKernelFilesHaveTheirCommittedDigests(t *testing.T) {
	for name, compressed := range map[string][]byte{"vmlinux": kernelELF, "System.map": kernelMap} {
		f, err := kernelFile(name, compressed)
		if err != nil {
			t.Fatal(err)
		}
		checkedLoad(t, f)
	}
	if _, err := kernelFile("unknown", kernelELF); err == nil {
		t.Error("a file without a committed digest is taken")
	}
	if _, err := kernelFile("vmlinux", kernelELF[:4]); err == nil {
		t.Error("a file that is no zstd frame is taken")
	}
}
