package images

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func sha(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func TestInspectOwnImages(t *testing.T) {
	dest := filepath.Join(t.TempDir(), "image")
	if _, err := Build(context.Background(), writeTemp(t, makeTar(t, everything()...)), dest, at(0)); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(dest)
	if err != nil {
		t.Fatal(err)
	}
	for n := 2048; n < len(whole); n += 997 {
		if info, err := inspect(bytes.NewReader(whole[:n]), int64(n)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("cut to %d bytes: %+v, %v", n, info, err)
		}
	}
	for bit := range 8 * erofsSuperSize {
		bad := bytes.Clone(whole)
		bad[erofsSuperOff+bit/8] ^= 1 << (bit % 8)
		info, err := inspect(bytes.NewReader(bad), int64(len(bad)))
		checksumOff := bit == 8*8 // the flag that says there is a checksum
		if err == nil && info.Format == FormatEROFS && !checksumOff {
			t.Errorf("bit %d of the superblock flipped: no error", bit)
		}
	}
}

// The images that other tools make are known, too.
func TestInspectOthers(t *testing.T) {
	root := t.TempDir()
	for _, tt := range []struct {
		format Format
		cmd    string
	}{
		{FormatExt4, "truncate -s 8M IMAGE && mke2fs -q -t ext4 IMAGE"},
		{FormatExt4, "truncate -s 1M IMAGE && mke2fs -q -t ext2 -b 1024 IMAGE"},
		{FormatEROFS, "mkdir -p d && mkfs.erofs IMAGE d"},
		{FormatSquashFS, "mkdir -p d && mksquashfs d IMAGE -quiet"},
	} {
		t.Run(tt.cmd, func(t *testing.T) {
			image := filepath.Join(root, strings.ReplaceAll(t.Name(), "/", "_"))
			cmd := exec.Command("sh", "-c", strings.ReplaceAll(tt.cmd, "IMAGE", "'"+image+"'"))
			cmd.Dir = root
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Skipf("needs the file system's tools: %s", out)
			}
			info, err := Inspect(image)
			if err != nil || info.Format != tt.format || info.Used == 0 || info.Used > info.Size {
				t.Fatalf("%+v, %v", info, err)
			}
			if err := os.Truncate(image, info.Used-1); err != nil {
				t.Fatal(err)
			}
			if _, err := Inspect(image); !errors.Is(err, ErrCorrupt) {
				t.Errorf("cut off: %v", err)
			}
		})
	}
}

func TestInspectBad(t *testing.T) {
	ext4 := make([]byte, 4096)
	ext4[1024+56], ext4[1024+57] = 0x53, 0xef
	squash := make([]byte, 4096)
	copy(squash, "hsqs")
	for name, data := range map[string][]byte{"ext4": ext4, "squashfs": squash} {
		if _, err := Inspect(writeTemp(t, data)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, path := range []string{t.TempDir(), "/dev/null", filepath.Join(t.TempDir(), "missing"), writeTemp(t, nil)} {
		if info, err := Inspect(path); err == nil {
			t.Errorf("%s: %+v", path, info)
		}
	}
	if info, err := Inspect(writeTemp(t, []byte("text"))); err != nil || info.Format != FormatRaw || info.Size != 4 {
		t.Errorf("text: %+v, %v", info, err)
	}
}

func FuzzInspect(f *testing.F) {
	f.Add(make([]byte, 2048))
	f.Add([]byte("hsqs"))
	dest := filepath.Join(f.TempDir(), "image")
	if _, err := Build(context.Background(), writeTemp(f, makeTar(f, reg("a", "b"))), dest, at(0)); err != nil {
		f.Fatal(err)
	}
	data, err := os.ReadFile(dest)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		info, err := inspect(bytes.NewReader(data), int64(len(data)))
		if err == nil && (info.Used < 0 || info.Used > int64(len(data))) {
			t.Errorf("%+v of %d bytes", info, len(data))
		}
	})
}
