package images

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// maxWindow bounds the memory that a zstd frame may ask of its reader: zstd's own default limit for --long.
const maxWindow = 128 << 20

// Magic numbers of compressed streams.
var (
	magicGzip  = []byte{0x1f, 0x8b}
	magicZstd  = []byte{0x28, 0xb5, 0x2f, 0xfd}
	magicBzip2 = []byte("BZh")
	magicXz    = []byte{0xfd, '7', 'z', 'X', 'Z', 0}
)

// decompress returns the plain stream of r, which may be compressed in any of the ways we know, and a function that frees it.
func decompress(r io.Reader) (*bufio.Reader, func(), error) {
	in := bufio.NewReaderSize(r, bufferSize)
	head, err := in.Peek(6)
	if err != nil && err != io.EOF {
		return nil, nil, err
	}
	switch {
	case bytes.HasPrefix(head, magicGzip):
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, nil, fmt.Errorf("gzip: %w", err)
		}
		return bufio.NewReaderSize(z, bufferSize), func() {}, nil
	case bytes.HasPrefix(head, magicZstd):
		z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, nil, fmt.Errorf("zstd: %w", err)
		}
		return bufio.NewReaderSize(z, bufferSize), z.Close, nil
	case bytes.HasPrefix(head, magicBzip2):
		return bufio.NewReaderSize(bzip2.NewReader(in), bufferSize), func() {}, nil
	case bytes.HasPrefix(head, magicXz):
		return nil, nil, errors.New("xz-compressed; decompress it first (xz -d)")
	}
	return in, func() {}, nil
}

// tarStream counts and bounds what a tar reader takes from its source.
type tarStream struct {
	r      io.Reader
	read   int64
	zeros  int64 // how many bytes at the end of what was read are zero
	limits *limits
}

func (s *tarStream) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.read += int64(n)
	if tail := int64(n - len(bytes.TrimRight(p[:n], "\x00"))); tail == int64(n) {
		s.zeros += tail
	} else {
		s.zeros = tail
	}
	if lerr := s.limits.addBytes(int64(n)); lerr != nil {
		return n, lerr
	}
	return n, err
}

// looksLikeTar tells whether head, the first block of a file, is a tar header: by its magic, or by its checksum for the
// oldest format, which has none.
func looksLikeTar(head []byte) bool {
	if len(head) < 512 {
		return false
	}
	if bytes.HasPrefix(head[257:], []byte("ustar")) || isZero(head[:512]) {
		return true
	}
	_, err := tar.NewReader(bytes.NewReader(head[:512])).Next()
	return err == nil
}

// readTar adds the entries of the tar stream r to t, contents going to spool. layer says that whiteouts are to be obeyed.
// All of r is read, also what follows the tar's end.
func readTar(t *tree, r io.Reader, sp *spool, layer bool) error {
	stream := &tarStream{r: r, limits: t.limits}
	tr := tar.NewReader(stream)
	last := ""
	for {
		before := stream.read
		hdr, err := tr.Next()
		if err == io.EOF {
			// The end is two blocks of zeros; many readers take one. None at all is what a cut-off file looks like. The padding
			// of the entry before is less than a block.
			if stream.read-before < 512 || stream.zeros < 512 {
				return fmt.Errorf("tar is cut off after %q: %w", last, io.ErrUnexpectedEOF)
			}
			break
		}
		if err != nil {
			return fmt.Errorf("tar entry after %q: %w", last, err)
		}
		last = hdr.Name
		if err := addTarEntry(t, hdr, tr, sp, layer); err != nil {
			return fmt.Errorf("tar entry %q: %w", hdr.Name, err)
		}
	}
	_, err := io.CopyBuffer(onlyWriter{io.Discard}, stream, make([]byte, bufferSize))
	return err
}

func addTarEntry(t *tree, hdr *tar.Header, r io.Reader, sp *spool, layer bool) error {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	if layer {
		if done, err := t.whiteout(hdr.Name); done || err != nil {
			return err
		}
	}
	if hdr.Typeflag == tar.TypeLink {
		return t.link(hdr.Name, hdr.Linkname)
	}
	node, err := tarInode(hdr)
	if err != nil {
		return err
	}
	if node.kind() == unix.S_IFREG {
		// What the stream costs is counted as it is read; a sparse file's holes are not in the stream.
		if hdr.Size > t.limits.maxBytes {
			return fmt.Errorf("%w of %d bytes", ErrLimit, t.limits.maxBytes)
		}
		if err := t.limits.addHoles(hdr); err != nil {
			return err
		}
		if node.data, err = sp.keep(r, hdr.Size); err != nil {
			return err
		}
		node.size = hdr.Size
	}
	return t.put(hdr.Name, node)
}

// addHoles accounts for the logical size of an entry that may be sparse. archive/tar does not tell the holes from the data,
// so such an entry's data count twice.
func (l *limits) addHoles(hdr *tar.Header) error {
	sparse := hdr.Typeflag == tar.TypeGNUSparse
	for key := range hdr.PAXRecords {
		sparse = sparse || strings.HasPrefix(key, "GNU.sparse.")
	}
	if !sparse {
		return nil
	}
	return l.addBytes(hdr.Size)
}

// tarInode translates the attributes of an entry.
func tarInode(hdr *tar.Header) (*inode, error) {
	const maxID = 1<<32 - 2 // the last one means "no change" in chown(2)
	if hdr.Uid < 0 || hdr.Uid > maxID || hdr.Gid < 0 || hdr.Gid > maxID {
		return nil, fmt.Errorf("owner %d:%d is out of range", hdr.Uid, hdr.Gid)
	}
	if hdr.Size < 0 {
		return nil, fmt.Errorf("size %d", hdr.Size)
	}
	node := &inode{mode: uint32(hdr.Mode & 0o7777), uid: uint32(hdr.Uid), gid: uint32(hdr.Gid), mtime: hdr.ModTime.Unix()}
	var err error
	switch hdr.Typeflag {
	case tar.TypeReg, '\x00', tar.TypeCont, tar.TypeGNUSparse: // NUL: a regular file in the oldest tars
		node.mode |= unix.S_IFREG
	case tar.TypeDir:
		node.mode |= unix.S_IFDIR
		node.children = map[string]*dirent{}
	case tar.TypeSymlink:
		if hdr.Linkname == "" || len(hdr.Linkname) > maxPath || strings.IndexByte(hdr.Linkname, 0) >= 0 {
			return nil, fmt.Errorf("symbolic link to %.40q (%d bytes)", hdr.Linkname, len(hdr.Linkname))
		}
		node.mode, node.target = unix.S_IFLNK|0o777, hdr.Linkname
	case tar.TypeChar:
		node.mode |= unix.S_IFCHR
		node.rdev, err = encodeDev(hdr.Devmajor, hdr.Devminor)
	case tar.TypeBlock:
		node.mode |= unix.S_IFBLK
		node.rdev, err = encodeDev(hdr.Devmajor, hdr.Devminor)
	case tar.TypeFifo:
		node.mode |= unix.S_IFIFO
	default:
		err = fmt.Errorf("unknown type %q", hdr.Typeflag)
	}
	if err != nil {
		return nil, err
	}
	for key, value := range hdr.PAXRecords {
		if name, ok := strings.CutPrefix(key, "SCHILY.xattr."); ok {
			if err := node.setXattr(name, value); err != nil {
				return nil, err
			}
		}
	}
	return node, nil
}
