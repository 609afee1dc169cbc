package images

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/erofs/go-erofs"
	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// file describes one name of a tree, for comparison: what stat, readlink, read and getxattr give.
type file struct {
	Mode     uint32
	UID, GID uint32
	Mtime    int64
	Rdev     uint32
	Nlink    int
	Size     int64
	Data     string // content, target of a symbolic link
	Xattrs   map[string]string
	SameAs   string // the first name of the same inode, in byte order
}

// readImage reads an image with the Go EROFS library, which is none of ours.
func readImage(t testing.TB, path string) map[string]file {
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	img, err := erofs.Open(f)
	if err != nil {
		t.Fatal(err)
	}
	files, first := map[string]file{}, map[int64]string{}
	err = fs.WalkDir(img, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		st := fi.Sys().(*erofs.Stat)
		out := file{Mode: unixMode(st.Mode), UID: st.UID, GID: st.GID, Mtime: int64(st.Mtime), Rdev: st.Rdev, Nlink: st.Nlink, Size: st.Size}
		if len(st.Xattrs) > 0 {
			out.Xattrs = map[string]string{}
			for k, v := range st.Xattrs {
				out.Xattrs[strings.TrimSuffix(k, ".")] = v // the library gives ACL names a dot too many
			}
		}
		switch {
		case fi.Mode().IsRegular():
			out.Data = readFile(t, img, name)
		case fi.Mode()&fs.ModeSymlink != 0:
			if out.Data, err = fs.ReadLink(img, name); err != nil {
				return err
			}
		case fi.IsDir():
			out.Size = 0 // on disk: an affair of the format
		}
		if _, ok := first[st.Ino]; !ok {
			first[st.Ino] = name
		}
		out.SameAs = first[st.Ino]
		files[name] = out
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func readFile(t testing.TB, img fs.FS, name string) string {
	b, err := fs.ReadFile(img, name)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return string(b)
}

func unixMode(m fs.FileMode) uint32 {
	mode := uint32(m.Perm())
	for bit, unixBit := range map[fs.FileMode]uint32{fs.ModeSetuid: unix.S_ISUID, fs.ModeSetgid: unix.S_ISGID, fs.ModeSticky: unix.S_ISVTX} {
		if m&bit != 0 {
			mode |= unixBit
		}
	}
	switch m.Type() {
	case 0:
		return mode | unix.S_IFREG
	case fs.ModeDir:
		return mode | unix.S_IFDIR
	case fs.ModeSymlink:
		return mode | unix.S_IFLNK
	case fs.ModeNamedPipe:
		return mode | unix.S_IFIFO
	case fs.ModeSocket:
		return mode | unix.S_IFSOCK
	case fs.ModeDevice:
		return mode | unix.S_IFBLK
	default:
		return mode | unix.S_IFCHR
	}
}

// entry is a tar entry with its content.
type entry struct {
	tar.Header
	body string
}

func reg(name, body string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(body))}, body}
}
func dir(name string) entry {
	return entry{Header: tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755}}
}
func symlink(name, target string) entry {
	return entry{Header: tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target}}
}
func hardlink(name, target string) entry {
	return entry{Header: tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: target}}
}

func makeTar(t testing.TB, entries ...entry) []byte {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatalf("%s: %v", e.Name, err)
		}
		if _, err := io.WriteString(w, e.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// writeTemp writes data to a file of its own directory.
func writeTemp(t testing.TB, data []byte) string {
	path := filepath.Join(t.TempDir(), "source")
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func at(epoch int64) Options { return Options{Epoch: &epoch} }

// buildTree builds an image of source and reads it back.
func buildTree(t testing.TB, source string, opts Options) (map[string]file, Result) {
	dest := filepath.Join(t.TempDir(), "image")
	res, err := Build(context.Background(), source, dest, opts)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(dest)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	if got := hex.EncodeToString(sum[:]); got != res.SHA256 || int64(len(data)) != res.Size {
		t.Fatalf("Result says %s, %d bytes; the file is %s, %d bytes", res.SHA256, res.Size, got, len(data))
	}
	info, err := Inspect(dest)
	if err != nil {
		t.Fatal(err)
	}
	if want := (Info{FormatEROFS, res.Size, res.Size, erofsBlock}); info != want {
		t.Fatalf("Inspect: %+v, want %+v", info, want)
	}
	return readImage(t, dest), res
}

// someACL gives user 1000 read and execute permission: entries of tag, permissions and ID (include/uapi/linux/posix_acl_xattr.h).
const someACL = "\x02\x00\x00\x00" +
	"\x01\x00\x07\x00\xff\xff\xff\xff" + "\x02\x00\x05\x00\xe8\x03\x00\x00" + "\x04\x00\x05\x00\xff\xff\xff\xff" +
	"\x10\x00\x05\x00\xff\xff\xff\xff" + "\x20\x00\x05\x00\xff\xff\xff\xff"

// everything has one of each thing that an image keeps.
func everything() []entry {
	rich := reg("bin/tool", strings.Repeat("0123456789abcdef", 1000))
	rich.Mode, rich.Uid, rich.Gid, rich.ModTime, rich.Format = 0o6755, 12, 70000, time.Unix(1000, 5e8), tar.FormatPAX
	rich.PAXRecords = map[string]string{
		"SCHILY.xattr.security.capability":       "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		"SCHILY.xattr.user.note":                 "hello",
		"SCHILY.xattr.system.posix_acl_access":   someACL,
		"SCHILY.xattr.com.apple.quarantine":      "dropped",
		"SCHILY.xattr.trusted.empty":             "",
		"SCHILY.xattr.system.posix_acl_accessed": "dropped: no such name",
	}
	tmp := dir("tmp/")
	tmp.Mode, tmp.ModTime = 0o1777, time.Unix(5000, 0)
	old := reg("old", "from before 1970")
	old.ModTime = time.Unix(-5, 0)
	return []entry{
		dir("./"), dir("bin/"), rich, hardlink("bin/alias", "bin/tool"), tmp, old,
		symlink("sh", "bin/tool"), symlink("long", strings.Repeat("x", 4095)), hardlink("sh2", "sh"),
		{Header: tar.Header{Name: "null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3}},
		{Header: tar.Header{Name: "sda", Typeflag: tar.TypeBlock, Mode: 0o660, Devmajor: 4095, Devminor: 1<<20 - 1}},
		{Header: tar.Header{Name: "fifo", Typeflag: tar.TypeFifo, Mode: 0o600}},
		reg("empty", ""), reg("implicit/parent/file", "x"), reg("/absolute", "y"),
		reg("block", strings.Repeat("b", 4096)), reg("almost", strings.Repeat("a", 4064)), reg("holes", strings.Repeat("\x00", 100000)+"end"),
	}
}

func TestBuildKeepsEverything(t *testing.T) {
	got, res := buildTree(t, writeTemp(t, makeTar(t, everything()...)), at(2000))
	tool := file{Mode: unix.S_IFREG | 0o6755, UID: 12, GID: 70000, Mtime: 1000, Nlink: 2, Size: 16000, Data: strings.Repeat("0123456789abcdef", 1000),
		Xattrs: map[string]string{
			"security.capability":     "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
			"user.note":               "hello",
			"system.posix_acl_access": someACL,
			"trusted.empty":           "",
		}, SameAs: "bin/alias"}
	plain := func(name, data string) file {
		return file{Mode: unix.S_IFREG | 0o644, Nlink: 1, Size: int64(len(data)), Data: data, SameAs: name}
	}
	link := file{Mode: unix.S_IFLNK | 0o777, Nlink: 2, Size: 8, Data: "bin/tool", SameAs: "sh"}
	want := map[string]file{
		".":                    {Mode: unix.S_IFDIR | 0o755, Nlink: 5, SameAs: "."},
		"bin":                  {Mode: unix.S_IFDIR | 0o755, Nlink: 2, SameAs: "bin"},
		"bin/tool":             tool,
		"bin/alias":            tool,
		"tmp":                  {Mode: unix.S_IFDIR | 0o1777, Nlink: 2, Mtime: 2000, SameAs: "tmp"},
		"old":                  plain("old", "from before 1970"),
		"sh":                   link,
		"sh2":                  link,
		"long":                 {Mode: unix.S_IFLNK | 0o777, Nlink: 1, Size: 4095, Data: strings.Repeat("x", 4095), SameAs: "long"},
		"null":                 {Mode: unix.S_IFCHR | 0o666, Nlink: 1, Rdev: 0x103, SameAs: "null"},
		"sda":                  {Mode: unix.S_IFBLK | 0o660, Nlink: 1, Rdev: 0xffffffff, SameAs: "sda"},
		"fifo":                 {Mode: unix.S_IFIFO | 0o600, Nlink: 1, SameAs: "fifo"},
		"empty":                plain("empty", ""),
		"implicit":             {Mode: unix.S_IFDIR | 0o755, Nlink: 3, SameAs: "implicit"},
		"implicit/parent":      {Mode: unix.S_IFDIR | 0o755, Nlink: 2, SameAs: "implicit/parent"},
		"implicit/parent/file": plain("implicit/parent/file", "x"),
		"absolute":             plain("absolute", "y"),
		"block":                plain("block", strings.Repeat("b", 4096)),
		"almost":               plain("almost", strings.Repeat("a", 4064)),
		"holes":                plain("holes", strings.Repeat("\x00", 100000)+"end"),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if res.Files != len(want)-2 { // two names are hard links
		t.Errorf("%d inodes, want %d", res.Files, len(want)-2)
	}
}

// The bytes of an image are a promise to everybody who signs or compares them: a change here is a new format version.
func TestGoldenDigest(t *testing.T) {
	t.Setenv("TZ", "Asia/Kathmandu")
	const want = "0de4a4136b98a33ed5222a3c5c028d9c64bdb5f7c401831577aecb9bb3816813"
	source := writeTemp(t, makeTar(t, everything()...))
	if _, res := buildTree(t, source, at(2000)); res.SHA256 != want {
		t.Errorf("digest %s, want %s", res.SHA256, want)
	}
	t.Setenv("SOURCE_DATE_EPOCH", "2000")
	if _, res := buildTree(t, source, Options{}); res.SHA256 != want {
		t.Errorf("digest %s with SOURCE_DATE_EPOCH, want %s", res.SHA256, want)
	}
}

func TestBadEpoch(t *testing.T) {
	for _, s := range []string{"-1", "today", "1e9"} {
		t.Setenv("SOURCE_DATE_EPOCH", s)
		if _, err := Build(context.Background(), t.TempDir(), filepath.Join(t.TempDir(), "x"), Options{}); err == nil || !strings.Contains(err.Error(), "SOURCE_DATE_EPOCH") {
			t.Errorf("%q: %v", s, err)
		}
	}
}

// One tree as a directory, made in two orders under two umasks, and as tars in all compressions is one image.
func TestSourcesAgree(t *testing.T) {
	entries := []entry{dir("./"), dir("a/"), reg("a/one", "1"), reg("a/two", strings.Repeat("2", 9000)), symlink("link", "a/one"), dir("b/"), hardlink("b/three", "a/two")}
	for i := range entries {
		entries[i].Uid, entries[i].Gid = os.Getuid(), os.Getgid()
	}
	plain := makeTar(t, entries...)
	_, want := buildTree(t, writeTemp(t, plain), at(0))

	other := []entry{dir("b/"), dir("a/"), reg("b/three", strings.Repeat("2", 9000)), hardlink("a/two", "b/three"), symlink("link", "a/one"), reg("a/one", "1")}
	for i, order := range [][]entry{entries, other} {
		old := syscall.Umask([]int{0o077, 0o002}[i])
		root := t.TempDir()
		if err := os.Chmod(root, 0o755); err != nil {
			t.Fatal(err)
		}
		writeDisk(t, root, order)
		syscall.Umask(old)
		if _, got := buildTree(t, root, at(0)); got != want {
			t.Errorf("directory %d: %+v, want %+v", i, got, want)
		}
	}
	var zst bytes.Buffer
	z, err := zstd.NewWriter(&zst)
	if err != nil {
		t.Fatal(err)
	}
	z.Write(plain)
	z.Close()
	for name, data := range map[string][]byte{"gzip": gzipped(t, plain), "zstd": zst.Bytes()} {
		if _, got := buildTree(t, writeTemp(t, data), at(0)); got != want {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
}

func gzipped(t testing.TB, data []byte) []byte {
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// writeDisk makes entries in the directory root of the host.
func writeDisk(t *testing.T, root string, entries []entry) {
	for _, e := range entries {
		path := filepath.Join(root, e.Name)
		var err error
		switch e.Typeflag {
		case tar.TypeDir:
			if err = os.MkdirAll(path, 0o700); err == nil {
				err = os.Chmod(path, fs.FileMode(e.Mode))
			}
		case tar.TypeReg:
			if err = os.WriteFile(path, []byte(e.body), 0o600); err == nil {
				err = os.Chmod(path, fs.FileMode(e.Mode))
			}
		case tar.TypeSymlink:
			err = os.Symlink(e.Linkname, path)
		case tar.TypeLink:
			err = os.Link(filepath.Join(root, e.Linkname), path)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestLastEntryWins(t *testing.T) {
	private := dir("d/")
	private.Mode = 0o700
	got, _ := buildTree(t, writeTemp(t, makeTar(t,
		reg("f", "first"), hardlink("keeps", "f"), reg("f", "second"),
		dir("d/"), reg("d/child", "c"), private,
		reg("was-file", "x"), dir("was-file/"), reg("was-file/in", "y"),
		dir("was-dir/"), reg("was-dir/in", "z"), reg("was-dir", "now a file"),
		symlink("usrbin", "usr/bin"), reg("usrbin/through", "followed inside the image"), symlink("up", "../../etc"), reg("up/passwd", "p"),
		hardlink("f", "f"),
	)), at(0))
	for name, want := range map[string]string{"f": "second", "keeps": "first", "d/child": "c", "was-file/in": "y", "was-dir": "now a file",
		"usr/bin/through": "followed inside the image", "etc/passwd": "p"} {
		if got[name].Data != want {
			t.Errorf("%s: %q, want %q", name, got[name].Data, want)
		}
	}
	if got["d"].Mode != unix.S_IFDIR|0o700 {
		t.Errorf("d has mode %o", got["d"].Mode)
	}
	if _, ok := got["was-dir/in"]; ok {
		t.Error("was-dir/in is still there")
	}
}

// Sources that must be refused: with a message that says why, nothing at dest and nothing left beside it.
func TestBadSources(t *testing.T) {
	good := makeTar(t, reg("a", "aaa"), reg("b", strings.Repeat("b", 3000)))
	bomb, smallGzip := gzipped(t, makeTar(t, reg("zeros", strings.Repeat("\x00", 8<<20)))), gzipped(t, good)
	huge := makeTar(t, reg("a", ""))
	copy(huge[124:136], "\x80\x00\x00\x00\x3f\xff\xff\xff\xff\xff\xff\xff") // base-256 size of 4 EiB
	fixTarChecksum(huge)
	tests := []struct {
		name, want string
		data       []byte
	}{
		{"empty file", "empty file", nil},
		{"text", "not a directory, a tar", []byte("hello\n")},
		{"xz", "decompress it first", []byte("\xfd7zXZ\x00\x00\x04")},
		{"dot-dot", "leads out of the image", makeTar(t, reg("../etc/passwd", "x"))},
		{"dot-dot inside", "leads out of the image", makeTar(t, reg("a/../../etc/passwd", "x"))},
		{"hard link out", "leads out of the image", makeTar(t, hardlink("a", "../../etc/passwd"))},
		{"hard link to nothing", "no such file", makeTar(t, hardlink("a", "/etc/passwd"))},
		{"hard link to directory", "hard link to the directory", makeTar(t, dir("d"), hardlink("a", "d"))},
		{"symlink loop", "too many levels", makeTar(t, symlink("l", "l"), reg("l/x", ""))},
		{"file as directory", "not a directory", makeTar(t, reg("f", ""), reg("f/x", ""))},
		{"long name", "too long", makeTar(t, reg(strings.Repeat("n", 256), ""))},
		{"long path", "too long", makeTar(t, reg(strings.Repeat("n/", 2500)+"n", ""))},
		{"root is a file", "not a directory", makeTar(t, reg(".", ""))},
		{"device number", "out of range", makeTar(t, entry{Header: tar.Header{Name: "d", Typeflag: tar.TypeChar, Devmajor: 1 << 13}})},
		{"cut in a header", "unexpected EOF", good[:700]},
		{"cut in content", "unexpected EOF", good[:2600]},
		{"cut between entries", "cut off", good[:1024]},
		{"cut at the end", "cut off", good[:len(good)-1024]},
		{"cut gzip", "unexpected EOF", smallGzip[:len(smallGzip)/2]},
		{"bomb", "limit", bomb},
		{"absurd size", "limit", huge},
		{"many entries", "limit", makeTar(t, slices.Repeat([]entry{reg("f", "")}, 101)...)},
		{"large xattr", "too large", makeTar(t, entry{Header: tar.Header{Name: "x", Typeflag: tar.TypeReg, PAXRecords: map[string]string{"SCHILY.xattr.user.a": strings.Repeat("x", 65536)}}})},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out := t.TempDir()
			opts := at(0)
			opts.MaxBytes, opts.MaxEntries = 1<<20, 100
			_, err := Build(context.Background(), writeTemp(t, tt.data), filepath.Join(out, "image"), opts)
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %v, want one line with %q", err, tt.want)
			}
			wantNoFiles(t, out)
		})
	}
}

// fixTarChecksum recomputes the checksum of the first header.
func fixTarChecksum(b []byte) {
	copy(b[148:156], "        ")
	sum := 0
	for _, c := range b[:512] {
		sum += int(c)
	}
	copy(b[148:156], fmt.Sprintf("%06o\x00 ", sum))
}

func wantNoFiles(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// Cut anywhere, a tar is an error, except in its last blocks, which are the end mark and padding.
func TestTruncatedAnywhere(t *testing.T) {
	whole := makeTar(t, everything()[:6]...)
	end := len(whole) - 1024
	for n := 1; n < end; n += 251 {
		if _, err := Build(context.Background(), writeTemp(t, whole[:n]), filepath.Join(t.TempDir(), "x"), at(0)); err == nil {
			t.Errorf("cut to %d of %d bytes: no error", n, len(whole))
		}
	}
}

func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	out := t.TempDir()
	for _, source := range []string{writeTemp(t, makeTar(t, reg("a", "b"))), writeDiskDir(t)} {
		if _, err := Build(ctx, source, filepath.Join(out, "image"), at(0)); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
	}
	wantNoFiles(t, out)
}

func writeDiskDir(t *testing.T) string {
	root := t.TempDir()
	writeDisk(t, root, []entry{reg("a", "b")})
	return root
}

func TestDestErrors(t *testing.T) {
	source := writeDiskDir(t)
	for _, dest := range []string{t.TempDir(), filepath.Join(t.TempDir(), "missing", "x")} {
		if _, err := Build(context.Background(), source, dest, at(0)); err == nil {
			t.Errorf("%s: no error", dest)
		}
	}
	if _, err := Build(context.Background(), source, filepath.Join(t.TempDir(), "x"), Options{Format: FormatExt4}); err == nil {
		t.Error("ext4: no error")
	}
}

// Any tree that a tar can say comes back from the image as the tar said it.
func TestRandomTrees(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		names := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-c]{1,2}|[!-.]x|é|n{200,255}`), 2, 6, rapid.ID[string]).Draw(r, "names")
		model, order := map[string]file{".": {Mode: unix.S_IFDIR | 0o755}}, []entry{}
		dirs := []string{""}
		var regs []string
		for i := range rapid.IntRange(0, 40).Draw(r, "entries") {
			path := rapid.SampledFrom(dirs).Draw(r, "dir") + rapid.SampledFrom(names).Draw(r, "name")
			if _, taken := model[path]; taken {
				continue
			}
			e, f := drawEntry(r, path, i)
			switch {
			case e.Typeflag == tar.TypeLink && len(regs) == 0:
				continue
			case e.Typeflag == tar.TypeLink:
				e.Linkname = rapid.SampledFrom(regs).Draw(r, "target")
				f = model[e.Linkname]
			case e.Typeflag == tar.TypeDir:
				dirs = append(dirs, path+"/")
			default:
				regs = append(regs, path)
				f.SameAs = path
			}
			model[path], order = f, append(order, e)
		}
		epoch := rapid.Int64Range(0, 100).Draw(r, "epoch")
		got, _ := buildTree(t, writeTemp(t, makeTar(t, order...)), at(epoch))
		if diff := cmp.Diff(finishModel(model, epoch), got); diff != "" {
			r.Fatal(diff)
		}
	})
}

// drawEntry draws an entry of any type and what should become of it.
func drawEntry(r *rapid.T, path string, i int) (entry, file) {
	kind := rapid.SampledFrom([]byte{tar.TypeReg, tar.TypeReg, tar.TypeDir, tar.TypeDir, tar.TypeSymlink, tar.TypeLink, tar.TypeFifo, tar.TypeChar, tar.TypeBlock}).Draw(r, "type")
	e := entry{Header: tar.Header{Name: path, Typeflag: kind, Mode: rapid.Int64Range(0, 0o7777).Draw(r, "mode"), ModTime: time.Unix(rapid.Int64Range(0, 200).Draw(r, "time"), 0),
		Uid: rapid.IntRange(0, 1<<32-2).Draw(r, "uid"), Gid: rapid.IntRange(0, 70000).Draw(r, "gid")}}
	f := file{Mode: uint32(e.Mode), UID: uint32(e.Uid), GID: uint32(e.Gid), Mtime: e.ModTime.Unix()}
	if kind != tar.TypeLink && rapid.IntRange(0, 3).Draw(r, "with xattrs") == 0 {
		f.Xattrs, e.PAXRecords = map[string]string{}, map[string]string{}
		for range rapid.IntRange(1, 4).Draw(r, "xattrs") {
			name := rapid.SampledFrom([]string{"user.", "security.", "trusted."}).Draw(r, "namespace") + rapid.StringMatching(`[a-z]{1,8}`).Draw(r, "xattr")
			f.Xattrs[name] = rapid.StringN(0, 3000, -1).Draw(r, "value")
			e.PAXRecords["SCHILY.xattr."+name] = f.Xattrs[name]
		}
	}
	switch kind {
	case tar.TypeReg:
		n := rapid.OneOf(rapid.IntRange(0, 100), rapid.IntRange(3900, 4200), rapid.IntRange(8000, 300000)).Draw(r, "size")
		e.body = strings.Repeat(rapid.SampledFrom([]string{"\x00", "abcdefg", string(rune('A' + i))}).Draw(r, "fill"), n)
		e.Size, f.Size, f.Data = int64(len(e.body)), int64(len(e.body)), e.body
		f.Mode |= unix.S_IFREG
	case tar.TypeDir:
		f.Mode |= unix.S_IFDIR
	case tar.TypeSymlink:
		e.Linkname = rapid.StringMatching(`[a-z/.]{1,60}`).Draw(r, "link")
		f.Mode, f.Data, f.Size = unix.S_IFLNK|0o777, e.Linkname, int64(len(e.Linkname))
	case tar.TypeFifo:
		f.Mode |= unix.S_IFIFO
	case tar.TypeChar, tar.TypeBlock:
		e.Devmajor, e.Devminor = rapid.Int64Range(0, 255).Draw(r, "major"), rapid.Int64Range(0, 255).Draw(r, "minor")
		f.Rdev = uint32(e.Devmajor<<8 | e.Devminor)
		f.Mode |= map[byte]uint32{tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK}[kind]
	}
	return e, f
}

// finishModel computes what follows from the whole tree: link counts, first names and clamped times.
func finishModel(model map[string]file, epoch int64) map[string]file {
	links, first := map[string]int{}, map[string]string{}
	for _, path := range slices.Sorted(maps.Keys(model)) {
		f := model[path]
		if f.Mode&unix.S_IFMT == unix.S_IFDIR {
			f.SameAs = path
			model[path] = f
			links[path]++
			if path != "." {
				links[filepath.Dir(path)]++
			}
		}
		links[f.SameAs]++
	}
	// The walk meets names in the order of their directories' names, so "first" is by components.
	for _, path := range slices.SortedFunc(maps.Keys(model), func(a, b string) int {
		return slices.Compare(strings.Split(a, "/"), strings.Split(b, "/"))
	}) {
		if _, ok := first[model[path].SameAs]; !ok {
			first[model[path].SameAs] = path
		}
	}
	for path, f := range model {
		f.Nlink, f.SameAs, f.Mtime = links[f.SameAs], first[f.SameAs], min(f.Mtime, epoch)
		model[path] = f
	}
	return model
}

// Linux itself mounts the image and sees the same tree. Needs root, loop devices and EROFS in the host's kernel.
func TestMount(t *testing.T) {
	source := writeTemp(t, makeTar(t, append(everything(), manyFiles(600)...)...))
	image := filepath.Join(t.TempDir(), "image")
	if _, err := Build(context.Background(), source, image, at(2000)); err != nil {
		t.Fatal(err)
	}
	if fsck, err := exec.LookPath("fsck.erofs"); err == nil {
		if out, err := exec.Command(fsck, "--extract", image).CombinedOutput(); err != nil {
			t.Errorf("fsck.erofs: %v\n%s", err, out)
		}
	}
	mnt := t.TempDir()
	if out, err := exec.Command("mount", "-t", "erofs", "-o", "loop,ro", image, mnt).CombinedOutput(); err != nil {
		t.Skipf("needs to mount EROFS: %v: %s", err, out)
	}
	defer exec.Command("umount", mnt).Run()
	want := readImage(t, image)
	got := readDisk(t, mnt)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func manyFiles(n int) []entry {
	var list []entry
	for i := range n {
		list = append(list, reg(fmt.Sprintf("many/%d-%s", i, strings.Repeat("n", i%40)), fmt.Sprint(i)))
	}
	return list
}

// readDisk reads a mounted tree through the kernel.
func readDisk(t *testing.T, root string) map[string]file {
	files, first := map[string]file{}, map[uint64]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		f := file{Mode: st.Mode, UID: st.Uid, GID: st.Gid, Mtime: st.Mtim.Sec, Nlink: int(st.Nlink), Size: st.Size}
		node := &inode{}
		if err := readXattrs(node, path); err != nil {
			return err
		}
		f.Xattrs = node.xattrs
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			f.Data = string(b)
		case unix.S_IFLNK:
			if f.Data, err = os.Readlink(path); err != nil {
				return err
			}
		case unix.S_IFCHR, unix.S_IFBLK:
			if f.Rdev, err = encodeDev(int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))); err != nil {
				return err
			}
		case unix.S_IFDIR:
			f.Size = 0
		}
		if _, ok := first[st.Ino]; !ok {
			first[st.Ino] = name
		}
		f.SameAs = first[st.Ino]
		files[name] = f
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// Attributes of host files come along; those of the host's security modules do not.
func TestHostXattrs(t *testing.T) {
	root := t.TempDir()
	writeDisk(t, root, []entry{reg("f", "x")})
	if err := unix.Lsetxattr(filepath.Join(root, "f"), "user.kept", []byte("v"), 0); err != nil {
		t.Skipf("needs user xattrs: %v", err)
	}
	got, _ := buildTree(t, root, at(0))
	if diff := cmp.Diff(map[string]string{"user.kept": "v"}, got["f"].Xattrs); diff != "" {
		t.Error(diff)
	}
}

func FuzzTar(f *testing.F) {
	f.Add(makeTar(f, everything()...))
	f.Add(makeTar(f, reg("a", "x"), hardlink("b", "a"), symlink("c", "/a"), reg(".wh.a", "")))
	f.Add(makeTar(f, reg("oci-layout", `{"imageLayoutVersion":"1.0.0"}`), reg("index.json", `{"manifests":[]}`)))
	f.Add(makeTar(f, reg("manifest.json", `[{"Config":"c","Layers":["l"]}]`), reg("c", `{"rootfs":{"diff_ids":["sha256:x"]}}`), symlink("l", "../l")))
	f.Fuzz(func(t *testing.T, data []byte) {
		opts := at(5)
		opts.MaxBytes, opts.MaxEntries = 1<<20, 1000
		dest := filepath.Join(t.TempDir(), "image")
		if _, err := Build(context.Background(), writeTemp(t, data), dest, opts); err == nil {
			readImage(t, dest)
		}
	})
}

func FuzzLayer(f *testing.F) {
	f.Add(makeTar(f, dir("a"), reg("a/x", "1")), makeTar(f, reg("a/.wh.x", ""), reg("a/.wh..wh..opq", ""), reg(".wh.a", "")))
	f.Fuzz(func(t *testing.T, lower, upper []byte) {
		opts := Options{MaxBytes: 1 << 20, MaxEntries: 1000}
		sp, err := newSpool(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer sp.free()
		tr := newTree(newLimits(context.Background(), opts))
		for i, layer := range [][]byte{lower, upper} {
			tr.layer = i
			if err := readTar(tr, bytes.NewReader(layer), sp, true); err != nil {
				return
			}
		}
		out, err := os.Create(filepath.Join(t.TempDir(), "image"))
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		if _, err := writeEROFS(context.Background(), newImageWriter(out), tr, 0); err != nil {
			t.Fatal(err)
		}
	})
}
