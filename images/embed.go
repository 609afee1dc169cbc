package images

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// embedded holds what `make build` left in images/embedded; a fresh clone has only the README there.
//
//go:embed embedded/*
var embedded embed.FS

// ErrNotBuilt says that the binary was linked before `make build` made the embedded archives.
var ErrNotBuilt = errors.New("not built into this binary: run `make build`")

// maxEmbedded bounds the size of an embedded file after decompression, in bytes.
const maxEmbedded = 256 << 20

// File is a file inside this binary. Its size and digest are known without decompressing it.
type File struct {
	Name   string
	Size   uint64            // uncompressed, bytes
	SHA256 [sha256.Size]byte // of the uncompressed bytes, as it was committed or built

	compressed []byte
}

// newFile describes a compressed file whose digest stands in hexadecimal.
func newFile(name string, compressed []byte, sum string) (*File, error) {
	f := &File{Name: name, compressed: compressed}
	if n, err := hex.Decode(f.SHA256[:], []byte(sum)); err != nil || n != len(f.SHA256) {
		return nil, fmt.Errorf("%s: %q is no SHA-256", name, sum)
	}
	var frame zstd.Header
	if err := frame.Decode(compressed); err != nil {
		return nil, fmt.Errorf("%s: read the zstd frame: %w", name, err)
	}
	if !frame.HasFCS || frame.FrameContentSize > maxEmbedded {
		return nil, fmt.Errorf("%s: the zstd frame has to tell a size of at most %d bytes", name, maxEmbedded)
	}
	f.Size = frame.FrameContentSize
	return f, nil
}

// Load decompresses the file. Each call does so anew, so that a machine that has loaded it can let it go. That the bytes have the digest is for the
// caller to check: a machine does for what it boots.
func (f *File) Load() ([]byte, error) {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxEmbedded))
	if err != nil {
		return nil, fmt.Errorf("decompress %s: %w", f.Name, err)
	}
	defer d.Close()
	b, err := d.DecodeAll(f.compressed, make([]byte, 0, f.Size))
	if err != nil {
		return nil, fmt.Errorf("decompress %s: %w", f.Name, err)
	}
	return b, nil
}

// BaseInitramfs returns the initramfs (uncompressed cpio, format newc) with the agent alone, to boot a root image with. It fails with [ErrNotBuilt] when
// the binary was not made by `make build`. Safe for concurrent use.
func BaseInitramfs() (*File, error) { return builtFile("base.cpio") }

// DefaultInitramfs returns the initramfs with the agent and the default userland, to run commands without an image. It fails with [ErrNotBuilt] when the
// binary was not made by `make build`. Safe for concurrent use.
func DefaultInitramfs() (*File, error) { return builtFile("default.cpio") }

// builtFile finds what `make build` left: the compressed file and its digest.
func builtFile(name string) (*File, error) {
	b, err := embedded.ReadFile("embedded/" + name + ".zst")
	sum, errSum := embedded.ReadFile("embedded/" + name + ".sha256")
	if errors.Is(err, fs.ErrNotExist) || errors.Is(errSum, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", name, ErrNotBuilt)
	}
	if err := errors.Join(err, errSum); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return newFile(name, b, strings.TrimSpace(string(sum)))
}
