package images

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

// Info is what an image file's superblock says.
type Info struct {
	Format    Format
	Size      int64 // of the file, bytes
	Used      int64 // bytes that the file system says it takes; at most Size. 0 for FormatRaw
	BlockSize int64 // bytes; 0 for FormatRaw
}

// ErrCorrupt is wrapped by Inspect's errors about damaged images.
var ErrCorrupt = errors.New("corrupt image")

// Inspect tells the format of the image file at path by its superblock and checks that it can be whole: that the
// superblock's sizes make sense, that the file is not shorter than them, and its checksum if it has one (EROFS of ours does).
// A file in no known format is FormatRaw: fit for a data disk, not for a root file system. Errors are one line.
func Inspect(path string) (Info, error) {
	f, err := os.Open(path)
	if err != nil {
		return Info{}, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return Info{}, err
	}
	if !fi.Mode().IsRegular() {
		return Info{}, fmt.Errorf("%s is not a regular file", path)
	}
	info, err := inspect(f, fi.Size())
	if err != nil {
		return Info{}, fmt.Errorf("%s: %w", path, err)
	}
	return info, nil
}

// inspectHead is how much of an image its superblock needs: the largest EROFS block that Linux takes, since the checksum is over a block.
const inspectHead = 64 << 10

func inspect(r io.ReaderAt, size int64) (Info, error) {
	head := make([]byte, min(size, inspectHead))
	if _, err := r.ReadAt(head, 0); err != nil && err != io.EOF {
		return Info{}, err
	}
	if len(head) == 0 {
		return Info{}, errors.New("empty file")
	}
	info := Info{Format: FormatRaw, Size: size}
	le := binary.LittleEndian
	var err error
	switch {
	case len(head) >= erofsSuperOff+erofsSuperSize && le.Uint32(head[erofsSuperOff:]) == erofsMagic:
		info.Format = FormatEROFS
		err = info.readEROFS(head)
	case len(head) >= 2048 && le.Uint16(head[1024+56:]) == 0xef53:
		info.Format = FormatExt4
		err = info.readExt4(head[1024:2048])
	case len(head) >= 96 && string(head[:4]) == "hsqs":
		info.Format = FormatSquashFS
		err = info.readSquashFS(head)
	}
	if err == nil && info.Used > size {
		err = fmt.Errorf("%w: cut off: the %s file system has %d bytes, the file %d", ErrCorrupt, info.Format, info.Used, size)
	}
	if err != nil {
		return Info{}, err
	}
	return info, nil
}

func (i *Info) readEROFS(head []byte) error {
	sb := head[erofsSuperOff:]
	le := binary.LittleEndian
	bits := sb[12]
	if bits < 9 || bits > 16 {
		return fmt.Errorf("%w: EROFS block size 2^%d", ErrCorrupt, bits)
	}
	i.BlockSize = 1 << bits
	i.Used = int64(le.Uint32(sb[36:])) << bits
	if i.Used == 0 || le.Uint64(sb[16:]) == 0 {
		return fmt.Errorf("%w: EROFS superblock without blocks or inodes", ErrCorrupt)
	}
	if le.Uint32(sb[8:])&erofsCompatChecksum == 0 || i.BlockSize <= erofsSuperOff {
		return nil
	}
	if int64(len(head)) < i.BlockSize {
		return fmt.Errorf("%w: cut off in its first block", ErrCorrupt)
	}
	covered := append([]byte(nil), head[erofsSuperOff:i.BlockSize]...)
	clear(covered[4:8])
	if want := le.Uint32(sb[4:]); erofsChecksum(covered) != want {
		return fmt.Errorf("%w: the checksum of the EROFS superblock does not match", ErrCorrupt)
	}
	return nil
}

// readExt4 reads the superblock of ext2, ext3 or ext4 (Documentation/filesystems/ext4/super.rst).
func (i *Info) readExt4(sb []byte) error {
	le := binary.LittleEndian
	bits := le.Uint32(sb[24:])
	if bits > 6 {
		return fmt.Errorf("%w: ext4 block size 2^(10+%d)", ErrCorrupt, bits)
	}
	i.BlockSize = 1024 << bits
	blocks := uint64(le.Uint32(sb[4:]))
	const incompat64bit = 0x80
	if le.Uint32(sb[96:])&incompat64bit != 0 {
		blocks |= uint64(le.Uint32(sb[336:])) << 32
	}
	if blocks == 0 || blocks >= 1<<46 || le.Uint32(sb[0:]) == 0 {
		return fmt.Errorf("%w: ext4 superblock with %d blocks", ErrCorrupt, blocks)
	}
	i.Used = int64(blocks) * i.BlockSize
	return nil
}

// readSquashFS reads the superblock of SquashFS 4 (Documentation/filesystems/squashfs.rst).
func (i *Info) readSquashFS(head []byte) error {
	le := binary.LittleEndian
	i.BlockSize = int64(le.Uint32(head[12:]))
	used := le.Uint64(head[40:])
	if log := le.Uint16(head[22:]); log < 12 || log > 20 || i.BlockSize != 1<<log {
		return fmt.Errorf("%w: SquashFS block size %d", ErrCorrupt, i.BlockSize)
	}
	if used < 96 || used >= 1<<62 {
		return fmt.Errorf("%w: SquashFS of %d bytes", ErrCorrupt, used)
	}
	i.Used = int64(used)
	return nil
}
