package images

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"
)

func newStore(t *testing.T) *Store {
	s, err := OpenStore(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func names(t *testing.T, s *Store) []string {
	list, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, img := range list {
		if info, err := Inspect(img.Path); err != nil || info.Size != img.Size {
			t.Errorf("%s: %+v, %v", img.Name, info, err)
		}
		out = append(out, img.Name)
	}
	return out
}

func TestStore(t *testing.T) {
	s := newStore(t)
	source := writeDiskDir(t)
	ctx := context.Background()
	for _, name := range []string{"b", "a", "twin-of-a"} {
		if err := os.WriteFile(filepath.Join(source, "f"), []byte(name[len(name)-1:]), 0o644); err != nil {
			t.Fatal(err)
		}
		built, err := s.Build(ctx, source, name, at(0))
		if err != nil {
			t.Fatal(err)
		}
		found, err := s.Lookup(name)
		found.LastUsed = built.LastUsed
		if err != nil || found != built {
			t.Errorf("built %+v, found %+v, %v", built, found, err)
		}
	}
	if got := names(t, s); !slices.Equal(got, []string{"a", "b", "twin-of-a"}) {
		t.Errorf("names %v", got)
	}
	if _, err := s.Lookup("c"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("lookup of c: %v", err)
	}

	// a's file is twin-of-a's, too, and stays.
	p, err := s.Prune(PruneOptions{Names: []string{"a"}})
	if err != nil || !slices.Equal(p.Names, []string{"a"}) || p.Files != 0 {
		t.Errorf("prune a: %+v, %v", p, err)
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(s.namePath("b"), old, old); err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(s.dir, "blobs", "x"+tempMark+"1")
	if err := os.WriteFile(left, []byte("killed"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, dry := range []bool{true, false} {
		p, err := s.Prune(PruneOptions{UnusedFor: time.Minute, DryRun: dry})
		if err != nil || !slices.Equal(p.Names, []string{"b"}) || p.Files != 2 || p.Bytes < 4096 {
			t.Errorf("prune old, dry %v: %+v, %v", dry, p, err)
		}
	}
	if got := names(t, s); !slices.Equal(got, []string{"twin-of-a"}) {
		t.Errorf("names %v", got)
	}
}

func TestStoreNames(t *testing.T) {
	s := newStore(t)
	for _, name := range []string{"", ".", "..", "../x", "a/b", "A", "-x", "x.json", "é"} {
		if ValidName(name) {
			t.Errorf("%q is valid", name)
		}
		if _, err := s.Build(context.Background(), t.TempDir(), name, at(0)); err == nil {
			t.Errorf("built %q", name)
		}
		if _, err := s.Lookup(name); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("lookup of %q: %v", name, err)
		}
	}
}

func TestStoreFailedBuild(t *testing.T) {
	s := newStore(t)
	if _, err := s.Build(context.Background(), writeTemp(t, []byte("no tar")), "x", at(0)); err == nil {
		t.Fatal("no error")
	}
	wantNoFiles(t, filepath.Join(s.dir, "blobs"))
	wantNoFiles(t, filepath.Join(s.dir, "names"))
}

// Builds and prunes at one time leave a whole store.
func TestStoreConcurrent(t *testing.T) {
	s := newStore(t)
	source := writeDiskDir(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			if _, err := s.Build(context.Background(), source, fmt.Sprintf("n%d", i%3), at(0)); err != nil {
				t.Error(err)
			}
			if _, err := s.Prune(PruneOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := names(t, s); !slices.Equal(got, []string{"n0", "n1", "n2"}) {
		t.Errorf("names %v", got)
	}
}
