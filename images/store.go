package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A Store keeps images under names in a directory:
//
//	blobs/SHA256.erofs   image files, named by their digest, never changed
//	names/NAME.json      what a name stands for; its modification time is that of the last use
//	lock                 held shared while a blob gets its name, exclusively by Prune
//
// Several processes may use one store at a time.
type Store struct{ dir string }

// A StoredImage is an image with a name in a store.
type StoredImage struct {
	Name   string `json:"-"`
	Path   string `json:"-"` // of the image file
	SHA256 string `json:"sha256"`
	Size   int64  `json:"size"` // bytes
	Format Format `json:"format"`
	Source string `json:"source"` // what it was built from, as given to Build

	LastUsed time.Time `json:"-"`
}

// DefaultStore opens the store in the user's cache directory.
func DefaultStore() (*Store, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, fmt.Errorf("find the image store: %w", err)
	}
	return OpenStore(filepath.Join(cache, "detvm", "images"))
}

// OpenStore opens the store in dir and makes it if need be.
func OpenStore(dir string) (*Store, error) {
	for _, sub := range []string{"blobs", "names"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o777); err != nil {
			return nil, fmt.Errorf("open image store: %w", err)
		}
	}
	return &Store{dir}, nil
}

// nameForm is what a name may be: a file name without surprises, and no path, so that it cannot be taken for one.
var nameForm = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,99}$`)

// ValidName tells whether name can name an image in a store.
func ValidName(name string) bool {
	return nameForm.MatchString(name) && !strings.HasSuffix(name, ".json")
}

func (s *Store) namePath(name string) string { return filepath.Join(s.dir, "names", name+".json") }
func (s *Store) blobPath(i StoredImage) string {
	return filepath.Join(s.dir, "blobs", i.SHA256+"."+string(i.Format))
}

// lock takes the store's lock; how is unix.LOCK_SH or unix.LOCK_EX. The lock goes with the file.
func (s *Store) lock(how int) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(s.dir, "lock"), os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock image store: %w", err)
	}
	return f, nil
}

// Build builds an image from source (see the function Build) and gives it the name, which may have stood for another one.
func (s *Store) Build(ctx context.Context, source, name string, opts Options) (StoredImage, error) {
	if !ValidName(name) {
		return StoredImage{}, fmt.Errorf("image name %q: want lower-case letters, digits, '.', '_' and '-'", name)
	}
	lock, err := s.lock(unix.LOCK_SH) // Prune waits, or it would take a blob before it has its name
	if err != nil {
		return StoredImage{}, err
	}
	defer lock.Close()
	staged, err := createTemp(filepath.Join(s.dir, "blobs", name))
	if err != nil {
		return StoredImage{}, err
	}
	staged.Close()
	defer os.Remove(staged.Name()) // fails once it has moved, as it should
	res, err := Build(ctx, source, staged.Name(), opts)
	if err != nil {
		return StoredImage{}, err
	}
	img := StoredImage{Name: name, SHA256: res.SHA256, Size: res.Size, Format: res.Format, Source: source}
	img.Path = s.blobPath(img)
	if err := os.Rename(staged.Name(), img.Path); err != nil {
		return StoredImage{}, err
	}
	img.LastUsed = time.Now()
	return img, s.writeName(img)
}

func (s *Store) writeName(img StoredImage) error {
	data, err := json.Marshal(img)
	if err != nil {
		return err
	}
	return writeAtomically(s.namePath(img.Name), func(f *os.File) error {
		_, err := f.Write(append(data, '\n'))
		return err
	})
}

// Lookup finds the image called name and notes that it is used now. The error is os.ErrNotExist if there is none.
func (s *Store) Lookup(name string) (StoredImage, error) {
	if !ValidName(name) {
		return StoredImage{}, fmt.Errorf("image %q: %w", name, os.ErrNotExist)
	}
	img, err := s.readName(name)
	if err != nil {
		return StoredImage{}, err
	}
	now := time.Now()
	// A store that we may only read is of use, too: then the time of the last use stays.
	_ = os.Chtimes(s.namePath(name), now, now)
	return img, nil
}

func (s *Store) readName(name string) (StoredImage, error) {
	path := s.namePath(name)
	fi, err := os.Stat(path)
	if err != nil {
		return StoredImage{}, fmt.Errorf("image %q: %w", name, err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return StoredImage{}, fmt.Errorf("image %q: %w", name, err)
	}
	var img StoredImage
	if err := json.Unmarshal(data, &img); err != nil {
		return StoredImage{}, fmt.Errorf("image %q: %s: %w", name, path, err)
	}
	img.Name, img.LastUsed = name, fi.ModTime()
	img.Path = s.blobPath(img)
	return img, nil
}

// List returns the images of the store in the order of their names.
func (s *Store) List() ([]StoredImage, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, "names")) // sorted
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	var list []StoredImage
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok || !ValidName(name) {
			continue
		}
		img, err := s.readName(name)
		if errors.Is(err, os.ErrNotExist) {
			continue // pruned meanwhile
		}
		if err != nil {
			return nil, err
		}
		list = append(list, img)
	}
	return list, nil
}

// PruneOptions say what Prune removes besides files that nothing refers to.
type PruneOptions struct {
	UnusedFor time.Duration // names not used for so long; 0 keeps all names
	Names     []string      // these names
	DryRun    bool          // remove nothing, only tell
}

// Pruned is what Prune removed.
type Pruned struct {
	Names []string // in their order
	Files int      // image files and left-over temporary files
	Bytes int64    // of these
}

// Prune removes the names that opts selects, the image files that no name stands for any more and the temporary files of
// processes that were killed. It waits for builds to end. A run that has an image open keeps it until it ends.
func (s *Store) Prune(opts PruneOptions) (Pruned, error) {
	lock, err := s.lock(unix.LOCK_EX)
	if err != nil {
		return Pruned{}, err
	}
	defer lock.Close()
	list, err := s.List()
	if err != nil {
		return Pruned{}, err
	}
	var p Pruned
	keep := map[string]bool{}
	for _, img := range list {
		old := opts.UnusedFor > 0 && time.Since(img.LastUsed) >= opts.UnusedFor
		if !old && !slices.Contains(opts.Names, img.Name) {
			keep[filepath.Base(img.Path)] = true
			continue
		}
		p.Names = append(p.Names, img.Name)
		if !opts.DryRun {
			if err := os.Remove(s.namePath(img.Name)); err != nil {
				return p, err
			}
		}
	}
	return p, s.sweep(&p, keep, opts.DryRun)
}

// sweep removes the files that Prune does not keep. Nobody builds meanwhile, so each temporary file is a left-over.
func (s *Store) sweep(p *Pruned, keep map[string]bool, dryRun bool) error {
	for _, sub := range []string{"blobs", "names"} {
		entries, err := os.ReadDir(filepath.Join(s.dir, sub))
		if err != nil {
			return err
		}
		for _, e := range entries {
			if sub == "names" && !strings.Contains(e.Name(), tempMark) || keep[e.Name()] {
				continue
			}
			fi, err := e.Info()
			if err != nil {
				return err
			}
			p.Files++
			p.Bytes += fi.Size()
			if dryRun {
				continue
			}
			if err := os.Remove(filepath.Join(s.dir, sub, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}
