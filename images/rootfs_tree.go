package images

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Names and paths as long as Linux takes them (PATH_MAX includes the NUL).
const (
	maxName  = 255
	maxPath  = 4095
	maxDepth = 2048 // directories above a name: what maxPath allows
	maxLinks = 40   // symbolic links followed in one path, as in Linux
)

// content is where the bytes of a regular file are until the image is written.
type content interface {
	open() (io.ReadCloser, error)
}

// An inode is a file of any type. Directories own their children; any other inode may stand under several names.
type inode struct {
	mode     uint32 // S_IFMT and permission bits, as in stat(2)
	uid, gid uint32
	mtime    int64
	rdev     uint32 // device nodes: new_encode_dev form, as Linux file systems store it
	size     int64  // regular files
	data     content
	target   string            // symbolic links
	xattrs   map[string]string // only names that splitXattr takes
	children map[string]*dirent
}

// A dirent is a name in a directory, put there by a layer: whiteouts act on the names of lower layers only.
type dirent struct {
	*inode
	layer int
}

func (i *inode) kind() uint32 { return i.mode & unix.S_IFMT }
func (i *inode) isDir() bool  { return i.kind() == unix.S_IFDIR }

// names returns the names in a directory in byte order.
func (i *inode) names() []string { return slices.Sorted(maps.Keys(i.children)) }

func newDir(perm uint32) *inode {
	return &inode{mode: unix.S_IFDIR | perm&0o7777, children: map[string]*dirent{}}
}

// A tree is the file system to be: it exists in memory only, so no name in it can reach the host.
type tree struct {
	root   *inode
	layer  int // of the entries being added
	limits *limits
}

func newTree(l *limits) *tree { return &tree{root: newDir(0o755), limits: l} }

// splitPath cleans the path of an archive member. A leading slash means the root of the image, as for tar(1); ".." is refused.
func splitPath(p string) ([]string, error) {
	if len(p) > maxPath {
		return nil, fmt.Errorf("path of %d bytes is too long", len(p))
	}
	if strings.IndexByte(p, 0) >= 0 {
		return nil, fmt.Errorf("path %q has a NUL", p)
	}
	var parts []string
	for _, c := range strings.Split(p, "/") {
		switch {
		case c == "" || c == ".":
		case c == "..":
			return nil, fmt.Errorf("path %q leads out of the image", p)
		case len(c) > maxName:
			return nil, fmt.Errorf("name of %d bytes in %.40q… is too long", len(c), p)
		default:
			parts = append(parts, c)
		}
	}
	return parts, nil
}

var errNotExist = errors.New("no such file in the source")

// dir walks to the directory at parts, following symbolic links inside the image (its root is their root). With create set,
// missing directories are made, as tar(1) makes them.
func (t *tree) dir(parts []string, create bool) (*inode, error) {
	stack, todo, links := []*inode{t.root}, slices.Clone(parts), 0
	for len(todo) > 0 {
		name := todo[0]
		todo = todo[1:]
		cur := stack[len(stack)-1]
		switch name {
		case "", ".":
			continue
		case "..":
			stack = stack[:max(1, len(stack)-1)]
			continue
		}
		next := cur.children[name]
		if next == nil {
			if !create {
				return nil, errNotExist
			}
			var err error
			if next, err = t.addChild(cur, name, newDir(0o755)); err != nil {
				return nil, err
			}
		}
		switch next.kind() {
		case unix.S_IFDIR:
			if stack = append(stack, next.inode); len(stack) > maxDepth {
				return nil, errors.New("directories are nested too deeply")
			}
		case unix.S_IFLNK:
			if links++; links > maxLinks {
				return nil, errors.New("too many levels of symbolic links")
			}
			if strings.HasPrefix(next.target, "/") {
				stack = stack[:1]
			}
			todo = append(strings.Split(next.target, "/"), todo...)
		default:
			return nil, fmt.Errorf("%q is not a directory", name)
		}
	}
	return stack[len(stack)-1], nil
}

func (t *tree) addChild(dir *inode, name string, child *inode) (*dirent, error) {
	if len(name) > maxName {
		return nil, fmt.Errorf("name of %d bytes is too long", len(name))
	}
	n := len(name) + len(child.target)
	for k, v := range child.xattrs {
		n += len(k) + len(v) + 64
	}
	if err := t.limits.addEntry(n); err != nil {
		return nil, err
	}
	d := &dirent{inode: child, layer: t.layer}
	dir.children[name] = d
	return d, nil
}

// put gives child the name path. What was there before goes, except that a directory put over a directory keeps its
// children and takes the new attributes: the last entry wins.
func (t *tree) put(path string, child *inode) error {
	parts, err := splitPath(path)
	if err != nil {
		return err
	}
	if len(parts) == 0 {
		if !child.isDir() {
			return fmt.Errorf("the root %q is not a directory", path)
		}
		t.root.takeAttributes(child)
		return nil
	}
	name := parts[len(parts)-1]
	dir, err := t.dir(parts[:len(parts)-1], true)
	if err != nil {
		return err
	}
	if old := dir.children[name]; old != nil && old.isDir() && child.isDir() {
		old.takeAttributes(child)
		old.layer = t.layer
		return nil
	}
	_, err = t.addChild(dir, name, child)
	return err
}

func (i *inode) takeAttributes(from *inode) {
	i.mode, i.uid, i.gid, i.mtime, i.xattrs = from.mode, from.uid, from.gid, from.mtime, from.xattrs
}

// link gives the file at target the further name path: a hard link.
func (t *tree) link(path, target string) error {
	old, err := t.lookup(target)
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", target, err)
	}
	if old.isDir() {
		return fmt.Errorf("hard link to the directory %q", target)
	}
	return t.put(path, old)
}

// lookup finds the inode at path; a symbolic link at its end is not followed.
func (t *tree) lookup(path string) (*inode, error) {
	parts, err := splitPath(path)
	if err != nil {
		return nil, err
	}
	if len(parts) == 0 {
		return t.root, nil
	}
	dir, err := t.dir(parts[:len(parts)-1], false)
	if err != nil {
		return nil, err
	}
	if d := dir.children[parts[len(parts)-1]]; d != nil {
		return d.inode, nil
	}
	return nil, errNotExist
}

// Whiteouts of OCI image layers (image-spec, layer.md, "Whiteouts").
const (
	whiteoutPrefix = ".wh."
	whiteoutMeta   = ".wh..wh." // names that AUFS keeps for itself
	whiteoutOpaque = ".wh..wh..opq"
)

// whiteout applies the marker at path, and tells whether it was one.
func (t *tree) whiteout(path string) (bool, error) {
	parts, err := splitPath(path)
	if err != nil || len(parts) == 0 {
		return false, err
	}
	name := parts[len(parts)-1]
	if !strings.HasPrefix(name, whiteoutPrefix) {
		return false, nil
	}
	dir, err := t.dir(parts[:len(parts)-1], false)
	switch {
	case errors.Is(err, errNotExist):
		return true, nil // nothing below to hide
	case err != nil:
		return true, err
	}
	switch {
	case name == whiteoutOpaque:
		t.hideLower(dir)
	case strings.HasPrefix(name, whiteoutMeta):
	default:
		name = name[len(whiteoutPrefix):]
		if d := dir.children[name]; d != nil && !t.keepUpper(d) {
			delete(dir.children, name)
		}
	}
	return true, nil
}

// hideLower removes all names below dir that lower layers put there.
func (t *tree) hideLower(dir *inode) {
	for name, d := range dir.children {
		if !t.keepUpper(d) {
			delete(dir.children, name)
		}
	}
}

// keepUpper tells whether d or something in it is of the present layer, and hides the rest of what is in it.
func (t *tree) keepUpper(d *dirent) bool {
	if !d.isDir() {
		return d.layer == t.layer
	}
	t.hideLower(d.inode)
	return d.layer == t.layer || len(d.children) > 0
}

// clampTimes makes no modification time later than epoch or earlier than 1970.
func (t *tree) clampTimes(epoch int64) {
	var clamp func(*inode)
	clamp = func(i *inode) {
		i.mtime = max(0, min(i.mtime, epoch))
		for _, d := range i.children {
			clamp(d.inode)
		}
	}
	clamp(t.root)
}

// encodeDev packs a device number as Linux file systems store it (new_encode_dev: 12 bits of major, 20 of minor).
func encodeDev(major, minor int64) (uint32, error) {
	if major < 0 || major >= 1<<12 || minor < 0 || minor >= 1<<20 {
		return 0, fmt.Errorf("device number %d:%d is out of range", major, minor)
	}
	return uint32(minor&0xff | major<<8 | (minor&^0xff)<<12), nil
}

// Name prefixes of extended attributes that EROFS stores, with their indices (fs/erofs/xattr.h). The two ACL names are whole.
var xattrPrefixes = []struct {
	prefix string
	index  uint8
}{
	{"user.", 1},
	{"system.posix_acl_access", 2},
	{"system.posix_acl_default", 3},
	{"trusted.", 4},
	{"security.", 6},
}

// splitXattr returns the prefix index and the rest of an attribute's name; ok is false for a namespace that Linux does not have.
func splitXattr(name string) (index uint8, rest string, ok bool) {
	for _, p := range xattrPrefixes {
		rest, found := strings.CutPrefix(name, p.prefix)
		if whole := !strings.HasSuffix(p.prefix, "."); found && whole == (rest == "") {
			return p.index, rest, true
		}
	}
	return 0, "", false
}

// setXattr keeps an attribute of a Linux namespace, and drops one that a Linux guest could not have (a Mac's, for example).
func (i *inode) setXattr(name, value string) error {
	_, rest, ok := splitXattr(name)
	if !ok {
		return nil
	}
	const maxValue = 65535 // XATTR_SIZE_MAX is 65536; the on-disk field has 16 bits
	if len(rest) > maxName || len(value) > maxValue {
		return fmt.Errorf("extended attribute %.40q with %d bytes is too large", name, len(value))
	}
	if i.xattrs == nil {
		i.xattrs = map[string]string{}
	}
	i.xattrs[name] = value
	return nil
}
