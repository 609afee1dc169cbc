package images

import (
	"crypto/sha256"
	"embed"
	"errors"
	"fmt"
	"io/fs"

	"github.com/klauspost/compress/zstd"
)

// embedded holds what `make build` left in images/embedded; a fresh clone has only the README there.
//
//go:embed embedded/*
var embedded embed.FS

// ErrNotBuilt says that the binary was linked before `make build` made the embedded archives.
var ErrNotBuilt = errors.New("not built into this binary: run `make build`")

// maxInitramfs bounds the size of an embedded archive after decompression, in bytes.
const maxInitramfs = 256 << 20

// Initramfs is an archive that the guest kernel unpacks at boot. Nobody may change Bytes.
type Initramfs struct {
	Name   string // "base" or "default"
	Bytes  []byte // uncompressed cpio, format newc
	SHA256 [sha256.Size]byte
}

// BaseInitramfs returns the archive with the agent alone, to boot a root image with. It fails with [ErrNotBuilt] when
// the binary was not made by `make build`. Safe for concurrent use.
func BaseInitramfs() (*Initramfs, error) { return loadInitramfs("base", "embedded/base.cpio", false) }

// DefaultInitramfs returns the archive with the agent and the default userland, to run commands without an image. It
// fails with [ErrNotBuilt] when the binary was not made by `make build`. Safe for concurrent use.
func DefaultInitramfs() (*Initramfs, error) {
	return loadInitramfs("default", "embedded/default.cpio.zst", true)
}

func loadInitramfs(name, path string, compressed bool) (*Initramfs, error) {
	b, err := embedded.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s initramfs: %w", name, ErrNotBuilt)
	}
	if err != nil {
		return nil, fmt.Errorf("%s initramfs: %w", name, err)
	}
	if compressed {
		if b, err = unzstd(b); err != nil {
			return nil, fmt.Errorf("%s initramfs: %w", name, err)
		}
	}
	return &Initramfs{Name: name, Bytes: b, SHA256: sha256.Sum256(b)}, nil
}

func unzstd(b []byte) ([]byte, error) {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxInitramfs))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.DecodeAll(b, nil)
}
