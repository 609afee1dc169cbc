package images

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// Format names an on-disk file system format.
type Format string

// The formats that Inspect tells apart. Build writes FormatEROFS.
const (
	FormatEROFS    Format = "erofs"
	FormatExt4     Format = "ext4" // ext2 and ext3 included: one superblock
	FormatSquashFS Format = "squashfs"
	FormatRaw      Format = "raw" // no superblock that we know
)

// Options say how Build makes an image. The zero value is the default.
type Options struct {
	// Format of the image; empty means FormatEROFS, the only one that Build writes. EROFS keeps all that a Linux root file system
	// has (owners, modes, hard links, xattrs, device nodes) and costs the guest least.
	Format Format

	// Epoch is the latest modification time in the image, in seconds since 1970: later ones become Epoch, earlier ones stay.
	// nil means the environment's SOURCE_DATE_EPOCH, or 0 without one. Python's .pyc files carry their source's time, so an
	// image with Python in it wants an epoch no earlier than its packages.
	Epoch *int64

	// Ref picks one image of a docker-archive or OCI layout that holds several: a repository tag ("debian:12") or the
	// org.opencontainers.image.ref.name annotation.
	Ref string

	// MaxBytes bounds the bytes read from the source after decompression, MaxEntries the names in it. Zero means
	// DefaultMaxBytes and DefaultMaxEntries.
	MaxBytes   int64
	MaxEntries int
}

// Bounds on hostile or mistaken sources when Options does not give any.
const (
	DefaultMaxBytes   = 32 << 30
	DefaultMaxEntries = 4 << 20
)

// maxMetadata bounds what Build keeps in memory (names, link targets, xattrs, one inode record each), in bytes.
const maxMetadata = 2 << 30

// Result describes a finished image.
type Result struct {
	SHA256 string // of the image file, in hex
	Size   int64  // bytes
	Format Format
	Files  int // inodes: a file with two names counts once
}

// ErrLimit is wrapped by errors about a source that is larger than Options allows.
var ErrLimit = errors.New("source exceeds the limit")

// Build makes a root file system image at dest from source and returns its digest. The source is one of
//
//   - a directory;
//   - a tar file, plain or compressed (gzip, zstd, bzip2);
//   - a docker-archive ("docker save") or an OCI image layout, each as a directory or a tar: the layers of its linux/amd64
//     image are applied in order, whiteouts included, and their digests are checked.
//
// The bytes of the image depend on the tree in the source, Options.Epoch and nothing else: not on the host, the order of
// directories, the umask or the time. Nothing is ever extracted to the host. dest appears whole or not at all: Build writes a
// temporary file beside it, syncs it and renames it. The image is made while the source stands still; a file that changes
// meanwhile is an error or gives either content.
//
// Build may be called concurrently, for different dest. When ctx is done it stops and returns ctx's error.
func Build(ctx context.Context, source, dest string, opts Options) (Result, error) {
	res, err := build(ctx, source, dest, opts)
	if err != nil {
		return Result{}, fmt.Errorf("build image from %s: %w", source, err)
	}
	return res, nil
}

func build(ctx context.Context, source, dest string, opts Options) (Result, error) {
	if opts.Format != "" && opts.Format != FormatEROFS {
		return Result{}, fmt.Errorf("format %q cannot be built; %q can", opts.Format, FormatEROFS)
	}
	epoch, err := opts.epoch()
	if err != nil {
		return Result{}, err
	}
	dir := filepath.Dir(dest)
	spool, err := newSpool(dir)
	if err != nil {
		return Result{}, err
	}
	defer spool.free()

	t, err := readSource(ctx, source, newLimits(ctx, opts), spool, opts.Ref)
	if err != nil {
		return Result{}, err
	}
	t.clampTimes(epoch)
	var res Result
	err = writeAtomically(dest, func(f *os.File) error {
		out := newImageWriter(f)
		files, err := writeEROFS(ctx, out, t, epoch)
		if err != nil {
			return err
		}
		if err := out.finish(); err != nil {
			return err
		}
		res = Result{SHA256: out.sum(), Size: out.size, Format: FormatEROFS, Files: files}
		return nil
	})
	return res, err
}

func (o Options) epoch() (int64, error) {
	if o.Epoch != nil {
		if *o.Epoch < 0 {
			return 0, fmt.Errorf("epoch %d is before 1970", *o.Epoch)
		}
		return *o.Epoch, nil
	}
	s := os.Getenv("SOURCE_DATE_EPOCH")
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("SOURCE_DATE_EPOCH=%q is not a number of seconds since 1970", s)
	}
	return n, nil
}

// limits counts what a source has cost so far, over all of its layers.
type limits struct {
	ctx                   context.Context
	maxBytes, bytes       int64
	maxEntries, entries   int
	metadata, maxMetadata int64
}

func newLimits(ctx context.Context, o Options) *limits {
	l := &limits{ctx: ctx, maxBytes: o.MaxBytes, maxEntries: o.MaxEntries, maxMetadata: maxMetadata}
	if l.maxBytes <= 0 {
		l.maxBytes = DefaultMaxBytes
	}
	if l.maxEntries <= 0 {
		l.maxEntries = DefaultMaxEntries
	}
	return l
}

// addBytes accounts for n bytes about to be read.
func (l *limits) addBytes(n int64) error {
	if n < 0 || n > l.maxBytes-l.bytes {
		return fmt.Errorf("%w of %d bytes", ErrLimit, l.maxBytes)
	}
	l.bytes += n
	return l.ctx.Err()
}

// addEntry accounts for one name with n bytes of metadata.
func (l *limits) addEntry(n int) error {
	if l.entries++; l.entries > l.maxEntries {
		return fmt.Errorf("%w of %d entries", ErrLimit, l.maxEntries)
	}
	const record = 256 // an inode and its place in a directory, roughly
	if l.metadata += int64(n) + record; l.metadata > l.maxMetadata {
		return fmt.Errorf("%w of %d bytes of names and attributes", ErrLimit, l.maxMetadata)
	}
	return l.ctx.Err()
}
