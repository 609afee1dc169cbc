package images

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// readDir adds the directory root of the host to t. Symbolic links are kept, never followed, except root itself.
func readDir(t *tree, root string) error {
	top, err := filepath.EvalSymlinks(root)
	if err != nil {
		return err
	}
	r := dirReader{tree: t, seen: map[fileID]*inode{}}
	var st unix.Stat_t
	if err := unix.Lstat(top, &st); err != nil {
		return &os.PathError{Op: "stat", Path: root, Err: err}
	}
	node, err := r.inode(top, &st)
	if err != nil {
		return err
	}
	t.root.takeAttributes(node)
	return r.walk(top, t.root, 0)
}

// fileID names a file of the host: hard links share it.
type fileID struct{ dev, ino uint64 }

type dirReader struct {
	tree *tree
	seen map[fileID]*inode
}

func (r *dirReader) walk(path string, dir *inode, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%s: directories are nested too deeply", path)
	}
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	names, err := d.Readdirnames(-1) // in the host's order: the tree does not keep it
	d.Close()
	if err != nil {
		return err
	}
	for _, name := range names {
		child := path + "/" + name
		var st unix.Stat_t
		if err := unix.Lstat(child, &st); err != nil {
			return &os.PathError{Op: "stat", Path: child, Err: err}
		}
		node, err := r.inode(child, &st)
		if err != nil {
			return err
		}
		if _, err := r.tree.addChild(dir, name, node); err != nil {
			return fmt.Errorf("%s: %w", child, err)
		}
		if node.isDir() {
			if err := r.walk(child, node, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// inode describes the file at path, or returns the inode of its earlier name.
func (r *dirReader) inode(path string, st *unix.Stat_t) (*inode, error) {
	id := fileID{st.Dev, st.Ino}
	if old := r.seen[id]; old != nil {
		return old, nil
	}
	node := &inode{mode: st.Mode, uid: st.Uid, gid: st.Gid, mtime: st.Mtim.Sec}
	switch node.kind() {
	case unix.S_IFDIR:
		node.children = map[string]*dirent{}
	case unix.S_IFREG:
		if err := r.tree.limits.addBytes(st.Size); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		node.size, node.data = st.Size, hostFile(path)
	case unix.S_IFLNK:
		target, err := os.Readlink(path)
		if err != nil {
			return nil, err
		}
		node.target = target
	case unix.S_IFCHR, unix.S_IFBLK:
		var err error
		if node.rdev, err = encodeDev(int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	case unix.S_IFIFO, unix.S_IFSOCK:
	default:
		return nil, fmt.Errorf("%s: unknown file type %#o", path, node.mode)
	}
	if err := readXattrs(node, path); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if st.Nlink > 1 && !node.isDir() {
		r.seen[id] = node
	}
	return node, nil
}

// readXattrs copies the attributes of a host file, except those that the host's own policy put there: labels and hashes of
// security modules, overlayfs's marks.
func readXattrs(node *inode, path string) error {
	buf, err := growing(func(p []byte) (int, error) { return unix.Llistxattr(path, p) })
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list extended attributes: %w", err)
	}
	for name := range strings.SplitSeq(string(buf), "\x00") {
		if name == "" || strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "security.") && name != "security.capability" {
			continue
		}
		value, err := growing(func(p []byte) (int, error) { return unix.Lgetxattr(path, name, p) })
		if err != nil {
			return fmt.Errorf("read extended attribute %s: %w", name, err)
		}
		if err := node.setXattr(name, string(value)); err != nil {
			return err
		}
	}
	return nil
}

// growing calls get with room for what it says it needs, until that is enough. Linux bounds both by 64 KiB.
func growing(get func([]byte) (int, error)) ([]byte, error) {
	for {
		n, err := get(nil)
		if err != nil || n == 0 {
			return nil, err
		}
		buf := make([]byte, n)
		n, err = get(buf)
		if errors.Is(err, unix.ERANGE) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return buf[:n], nil
	}
}

// openNoFollow opens a regular file that the walk saw, without blocking on what may have taken its place.
func openNoFollow(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = fmt.Errorf("%s changed while it was read", path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
