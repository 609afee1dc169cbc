package images

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"math"
	"slices"

	"golang.org/x/sys/unix"
)

// The EROFS writer. The format is Documentation/filesystems/erofs.rst and fs/erofs/erofs_fs.h of Linux; what is written is its
// plainest form, which Linux 5.4 and later mount: no compression, no shared attributes, one device.
//
// It is ours because hard links need two names with one inode, which the Go EROFS library's writer has no call for, and ACLs
// a name index that it does not know. Its reader serves the tests as an independent judge.
//
// Layout: block 0 with the superblock; the inodes, in the order in which a walk through the sorted tree meets them, each
// followed by its attributes and, when it fits into the block, its content; the other contents in the same order.
const (
	erofsBlockBits = 12
	erofsBlock     = 1 << erofsBlockBits
	erofsMagic     = 0xe0f5e1e2
	erofsSuperOff  = 1024
	erofsSuperSize = 128
	erofsSlot      = 32 // an inode number (nid) counts these from the start of the metadata

	erofsCompact   = 32 // bytes of the short inode: 16-bit owners, 32-bit size, the image's build time
	erofsExtended  = 64
	erofsDirent    = 12
	erofsXattrHead = 12 // before an inode's attributes
	erofsXattrItem = 4

	erofsFlatPlain  = 0
	erofsFlatInline = 2

	erofsCompatChecksum = 1
)

// erofsInode is an inode with its place in the image.
type erofsInode struct {
	*inode
	nid      uint64
	parent   uint64 // directories: nid of the directory above
	nlink    uint32
	compact  bool
	inline   bool
	length   int64  // of the content
	xattrLen int64  // of the attributes on disk
	block    uint32 // of the content, when it is not inline
}

func (e *erofsInode) headLen() int64 {
	if e.compact {
		return erofsCompact + e.xattrLen
	}
	return erofsExtended + e.xattrLen
}

// erofsPlan is the layout of an image.
type erofsPlan struct {
	buildTime int64
	inodes    []*erofsInode // in the order of their nids
	byInode   map[*inode]*erofsInode
	metaEnd   int64 // byte position
	blocks    int64
}

// writeEROFS writes t as an EROFS image and returns how many inodes it has.
func writeEROFS(ctx context.Context, w *imageWriter, t *tree, buildTime int64) (int, error) {
	p := &erofsPlan{buildTime: buildTime, byInode: map[*inode]*erofsInode{}}
	if err := p.add(t.root); err != nil {
		return 0, err
	}
	if err := p.place(); err != nil {
		return 0, err
	}
	if _, err := w.Write(p.superblock()); err != nil {
		return 0, err
	}
	if err := p.writeInodes(ctx, w); err != nil {
		return 0, err
	}
	if err := p.writeContents(ctx, w); err != nil {
		return 0, err
	}
	return len(p.inodes), w.padTo(p.blocks * erofsBlock)
}

// add plans the subtree of i and counts the links to every inode in it.
func (p *erofsPlan) add(i *inode) error {
	if e := p.byInode[i]; e != nil {
		e.nlink++
		return nil
	}
	e := &erofsInode{inode: i, nlink: 1}
	p.byInode[i] = e
	p.inodes = append(p.inodes, e)
	var err error
	if e.xattrLen, err = erofsXattrLen(i.xattrs); err != nil {
		return err
	}
	switch i.kind() {
	case unix.S_IFREG:
		e.length = i.size
	case unix.S_IFLNK:
		e.length = int64(len(i.target))
	case unix.S_IFDIR:
		e.nlink = 2
		for _, name := range i.names() {
			child := i.children[name].inode
			if child.isDir() {
				e.nlink++
			}
			if err := p.add(child); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		e.length = direntsLen(i)
	}
	return nil
}

// place gives every inode its number and every content its block.
func (p *erofsPlan) place() error {
	pos := int64(erofsBlock + erofsSlot) // nid 0 stays free: it would be inode number 0, which readdir(3) takes for a deleted file
	for _, e := range p.inodes {
		e.compact = e.uid <= math.MaxUint16 && e.gid <= math.MaxUint16 && e.nlink <= math.MaxUint16 &&
			e.length <= math.MaxUint32 && e.mtime == p.buildTime
		// The kernel wants an inode, without its attributes, in one block, and inline content in the block where it starts.
		head := e.headLen()
		e.inline = e.length > 0 && head+e.length <= erofsBlock
		need := head - e.xattrLen
		if e.inline {
			need = head + e.length
		}
		if room := erofsBlock - pos%erofsBlock; need > room {
			pos += room
		}
		e.nid = uint64(pos-erofsBlock) / erofsSlot
		pos += head
		if e.inline {
			pos += e.length
		}
		pos = alignUp(pos, erofsSlot)
	}
	p.metaEnd = alignUp(pos, erofsBlock)
	p.blocks = p.metaEnd / erofsBlock
	for _, e := range p.inodes {
		if e.length > 0 && !e.inline {
			e.block = uint32(p.blocks)
			p.blocks += alignUp(e.length, erofsBlock) / erofsBlock
			if p.blocks > math.MaxUint32 {
				return errors.New("image is too large for EROFS")
			}
		}
	}
	p.setParents()
	return nil
}

func (p *erofsPlan) setParents() {
	root := p.inodes[0]
	root.parent = root.nid
	for _, e := range p.inodes {
		for _, d := range e.children {
			p.byInode[d.inode].parent = e.nid
		}
	}
}

func alignUp(n, to int64) int64 { return (n + to - 1) / to * to }

// superblock returns block 0. Its checksum covers all that follows the first 1024 bytes.
func (p *erofsPlan) superblock() []byte {
	block := make([]byte, erofsBlock)
	sb := block[erofsSuperOff:]
	le := binary.LittleEndian
	le.PutUint32(sb[0:], erofsMagic)
	le.PutUint32(sb[8:], erofsCompatChecksum)
	sb[12] = erofsBlockBits
	le.PutUint16(sb[14:], uint16(p.inodes[0].nid)) // the root is first, so this is small
	le.PutUint64(sb[16:], uint64(len(p.inodes)))
	le.PutUint64(sb[24:], uint64(p.buildTime))
	le.PutUint32(sb[36:], uint32(p.blocks))
	le.PutUint32(sb[40:], 1) // the block of the metadata
	le.PutUint32(sb[4:], erofsChecksum(sb))
	return block
}

// erofsChecksum is the CRC-32C of a superblock and the rest of its block, with the checksum field zero. Linux leaves out the
// usual inversion at the end.
func erofsChecksum(sb []byte) uint32 {
	return ^crc32.Checksum(sb, crc32.MakeTable(crc32.Castagnoli))
}

func (p *erofsPlan) writeInodes(ctx context.Context, w *imageWriter) error {
	for _, e := range p.inodes {
		if err := w.padTo(erofsBlock + int64(e.nid)*erofsSlot); err != nil {
			return err
		}
		if _, err := w.Write(e.encode()); err != nil {
			return err
		}
		if err := writeErofsXattrs(w, e.xattrs); err != nil {
			return err
		}
		if e.inline {
			if err := p.writeContent(ctx, w, e); err != nil {
				return err
			}
		}
	}
	return w.padTo(p.metaEnd)
}

func (p *erofsPlan) writeContents(ctx context.Context, w *imageWriter) error {
	for _, e := range p.inodes {
		if e.length == 0 || e.inline {
			continue
		}
		if err := w.padTo(int64(e.block) * erofsBlock); err != nil {
			return err
		}
		if err := p.writeContent(ctx, w, e); err != nil {
			return err
		}
	}
	return nil
}

// encode returns the inode as it is on disk (erofs_inode_compact, erofs_inode_extended).
func (e *erofsInode) encode() []byte {
	format := uint16(erofsFlatPlain << 1)
	if e.inline {
		format = erofsFlatInline << 1
	}
	xattrs := uint16(0)
	if e.xattrLen > 0 {
		xattrs = uint16((e.xattrLen-erofsXattrHead)/4 + 1)
	}
	place := e.block
	if k := e.kind(); k == unix.S_IFCHR || k == unix.S_IFBLK {
		place = e.rdev
	}
	le := binary.LittleEndian
	if e.compact {
		b := make([]byte, erofsCompact)
		le.PutUint16(b[0:], format)
		le.PutUint16(b[2:], xattrs)
		le.PutUint16(b[4:], uint16(e.mode))
		le.PutUint16(b[6:], uint16(e.nlink))
		le.PutUint32(b[8:], uint32(e.length))
		le.PutUint32(b[16:], place)
		le.PutUint16(b[24:], uint16(e.uid))
		le.PutUint16(b[26:], uint16(e.gid))
		return b
	}
	b := make([]byte, erofsExtended)
	le.PutUint16(b[0:], format|1)
	le.PutUint16(b[2:], xattrs)
	le.PutUint16(b[4:], uint16(e.mode))
	le.PutUint64(b[8:], uint64(e.length))
	le.PutUint32(b[16:], place)
	le.PutUint32(b[24:], e.uid)
	le.PutUint32(b[28:], e.gid)
	le.PutUint64(b[32:], uint64(e.mtime))
	le.PutUint32(b[44:], e.nlink)
	return b
}

// erofsXattrLen is the size of an inode's attributes on disk.
func erofsXattrLen(xattrs map[string]string) (int64, error) {
	if len(xattrs) == 0 {
		return 0, nil
	}
	n := int64(erofsXattrHead)
	for name, value := range xattrs {
		_, rest, _ := splitXattr(name)
		n += alignUp(int64(erofsXattrItem+len(rest)+len(value)), 4)
	}
	if (n-erofsXattrHead)/4+1 > math.MaxUint16 {
		return 0, fmt.Errorf("%d bytes of extended attributes are too many", n)
	}
	return n, nil
}

func writeErofsXattrs(w *imageWriter, xattrs map[string]string) error {
	if len(xattrs) == 0 {
		return nil
	}
	b := make([]byte, erofsXattrHead)
	for _, name := range slices.Sorted(maps.Keys(xattrs)) {
		index, rest, _ := splitXattr(name)
		value := xattrs[name]
		b = append(b, uint8(len(rest)), index)
		b = binary.LittleEndian.AppendUint16(b, uint16(len(value)))
		b = append(append(b, rest...), value...)
		b = append(b, zeros[:alignUp(int64(len(b)), 4)-int64(len(b))]...)
	}
	_, err := w.Write(b)
	return err
}

func (p *erofsPlan) writeContent(ctx context.Context, w *imageWriter, e *erofsInode) error {
	switch e.kind() {
	case unix.S_IFLNK:
		_, err := io.WriteString(w, e.target)
		return err
	case unix.S_IFDIR:
		return p.writeDirents(w, e)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	r, err := e.data.open()
	if err != nil {
		return err
	}
	defer r.Close()
	n, err := io.CopyBuffer(onlyWriter{w}, io.LimitReader(contextReader{ctx, r}, e.length), make([]byte, min(e.length, bufferSize)))
	if err == nil && n != e.length {
		err = errors.New("a file became shorter while it was read")
	}
	return err
}

// contextReader stops reading when its context is done.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// direntBlocks cuts the sorted names of a directory, "." and ".." among them, into blocks.
func direntBlocks(dir *inode) [][]string {
	names := append(dir.names(), ".", "..")
	slices.Sort(names)
	var blocks [][]string
	start, used := 0, 0
	for i, name := range names {
		if n := erofsDirent + len(name); used+n > erofsBlock {
			blocks = append(blocks, names[start:i])
			start, used = i, n
		} else {
			used += n
		}
	}
	return append(blocks, names[start:])
}

// direntsLen is the size of a directory: whole blocks, and what is used of the last one.
func direntsLen(dir *inode) int64 {
	blocks := direntBlocks(dir)
	n := int64(len(blocks)-1) * erofsBlock
	for _, name := range blocks[len(blocks)-1] {
		n += int64(erofsDirent + len(name))
	}
	return n
}

func (p *erofsPlan) writeDirents(w *imageWriter, dir *erofsInode) error {
	for n, names := range direntBlocks(dir.inode) {
		var head, tail []byte
		for _, name := range names {
			nid, kind := p.entry(dir, name)
			head = binary.LittleEndian.AppendUint64(head, nid)
			head = binary.LittleEndian.AppendUint16(head, uint16(len(names)*erofsDirent+len(tail)))
			head = append(head, kind, 0)
			tail = append(tail, name...)
		}
		block := append(head, tail...)
		if full := int64(n+1) * erofsBlock; full < dir.length {
			block = append(block, zeros[:erofsBlock-len(block)]...)
		}
		if _, err := w.Write(block); err != nil {
			return err
		}
	}
	return nil
}

// File types in directory entries (include/linux/fs_types.h).
var direntKinds = map[uint32]uint8{unix.S_IFREG: 1, unix.S_IFDIR: 2, unix.S_IFCHR: 3, unix.S_IFBLK: 4, unix.S_IFIFO: 5, unix.S_IFSOCK: 6, unix.S_IFLNK: 7}

// entry returns the nid and type that name stands for in dir.
func (p *erofsPlan) entry(dir *erofsInode, name string) (nid uint64, kind uint8) {
	switch name {
	case ".":
		return dir.nid, direntKinds[unix.S_IFDIR]
	case "..":
		return dir.parent, direntKinds[unix.S_IFDIR]
	}
	child := dir.children[name].inode
	return p.byInode[child].nid, direntKinds[child.kind()]
}
