package images

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// layeredImage makes a container image with the Go container registry library, an independent writer of the formats read here.
func layeredImage(t *testing.T, layers ...[]entry) v1.Image {
	img := empty.Image
	for _, entries := range layers {
		data := makeTar(t, entries...)
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil })
		if err != nil {
			t.Fatal(err)
		}
		if img, err = mutate.AppendLayers(img, layer); err != nil {
			t.Fatal(err)
		}
	}
	return img
}

// threeLayers uses every kind of whiteout.
func threeLayers(t *testing.T) v1.Image {
	return layeredImage(t,
		[]entry{dir("etc/"), reg("etc/old", "1"), reg("etc/kept", "1"), dir("opaque/"), reg("opaque/lower", "1"), dir("opaque/sub/"), reg("opaque/sub/lower", "1"),
			dir("gone/"), reg("gone/x", "1"), reg("shared", "one"), hardlink("alias", "shared"), dir("remade/"), reg("remade/lower", "1")},
		[]entry{reg("etc/.wh.old", ""), reg("etc/new", "2"),
			// What the layer has itself stays, before and after the marker.
			reg("opaque/sub/upper", "2"), reg("opaque/.wh..wh..opq", ""), reg("opaque/upper", "2"),
			reg(".wh.gone", ""), reg(".wh.never-there", ""), reg("no-such-dir/.wh.x", ""), reg(".wh..wh.plnk", ""),
			reg("remade/upper", "2"), reg(".wh.remade", ""), reg("shared", "two")},
		[]entry{hardlink("etc/link", "etc/kept"), symlink("lib", "usr/lib"), reg("lib/file", "3"), reg("etc/.wh.new", ""), reg("etc/.wh.old", "")},
	)
}

var threeLayersContent = map[string]string{
	"etc/kept": "1", "etc/link": "1", "opaque/sub/upper": "2", "opaque/upper": "2", "shared": "two", "alias": "one", "remade/upper": "2",
	"usr/lib/file": "3",
}

// contents returns what the regular files of a tree hold.
func contents(tree map[string]file) map[string]string {
	got := map[string]string{}
	for name, f := range tree {
		if fs.FileMode(f.Mode)&0o170000 == 0o100000 {
			got[name] = f.Data
		}
	}
	return got
}

// archives writes img in each form that Build reads: the two formats, as directory and as tar, and the tars compressed.
func archives(t *testing.T, img v1.Image) map[string]string {
	root := t.TempDir()
	forms := map[string]string{"OCI directory": filepath.Join(root, "oci"), "docker-archive": filepath.Join(root, "docker.tar")}
	p, err := layout.Write(forms["OCI directory"], empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.AppendImage(img, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": "v1"})); err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag("example:v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := tarball.WriteToFile(forms["docker-archive"], tag, img); err != nil {
		t.Fatal(err)
	}
	var oci []entry
	err = filepath.WalkDir(forms["OCI directory"], func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		rel, _ := filepath.Rel(forms["OCI directory"], path)
		oci = append(oci, reg(rel, string(data)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	forms["OCI tar"] = writeTemp(t, makeTar(t, oci...))
	docker, err := os.ReadFile(forms["docker-archive"])
	if err != nil {
		t.Fatal(err)
	}
	forms["compressed docker-archive"] = writeTemp(t, gzipped(t, docker))
	return forms
}

func TestContainerImages(t *testing.T) {
	var first Result
	for form, path := range archives(t, threeLayers(t)) {
		tree, res := buildTree(t, path, at(0))
		if diff := cmp.Diff(threeLayersContent, contents(tree)); diff != "" {
			t.Errorf("%s: %s", form, diff)
		}
		if first.SHA256 == "" {
			first = res
		}
		if res != first {
			t.Errorf("%s: %+v, another form gave %+v", form, res, first)
		}
		for _, gone := range []string{"gone", "no-such-dir", ".wh..wh.plnk"} {
			if _, ok := tree[gone]; ok {
				t.Errorf("%s: %s is there", form, gone)
			}
		}
	}
}

// A plain tar may have names that would be whiteouts in a layer.
func TestWhiteoutsOnlyInLayers(t *testing.T) {
	tree, _ := buildTree(t, writeTemp(t, makeTar(t, reg("a", "1"), reg(".wh.a", "2"))), at(0))
	if diff := cmp.Diff(map[string]string{"a": "1", ".wh.a": "2"}, contents(tree)); diff != "" {
		t.Error(diff)
	}
}

func TestRefs(t *testing.T) {
	images := map[name.Reference]v1.Image{}
	for _, v := range []string{"one", "two"} {
		tag, err := name.NewTag("example:" + v)
		if err != nil {
			t.Fatal(err)
		}
		images[tag] = layeredImage(t, []entry{reg("version", v)})
	}
	path := filepath.Join(t.TempDir(), "both.tar")
	if err := tarball.MultiRefWriteToFile(path, images); err != nil {
		t.Fatal(err)
	}
	opts := at(0)
	opts.Ref = "example:two"
	tree, _ := buildTree(t, path, opts)
	if tree["version"].Data != "two" {
		t.Errorf("version %q", tree["version"].Data)
	}
	for ref, want := range map[string]string{"": "2 images in it, choose one", "example:three": `no image "example:three"`} {
		opts.Ref = ref
		if _, err := Build(context.Background(), path, filepath.Join(t.TempDir(), "x"), opts); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ref %q: %v, want %q", ref, err, want)
		}
	}
	opts.Ref = "x"
	if _, err := Build(context.Background(), writeDiskDir(t), filepath.Join(t.TempDir(), "x"), opts); err == nil || !strings.Contains(err.Error(), "neither") {
		t.Errorf("ref with a plain directory: %v", err)
	}
}

// A changed byte in any blob is found by its digest.
func TestCorruptLayout(t *testing.T) {
	layoutDir := archives(t, threeLayers(t))["OCI directory"]
	blobs, err := filepath.Glob(filepath.Join(layoutDir, "blobs/sha256/*"))
	if err != nil || len(blobs) != 5 {
		t.Fatalf("%d blobs: %v", len(blobs), err)
	}
	for _, blob := range blobs {
		data, err := os.ReadFile(blob)
		if err != nil {
			t.Fatal(err)
		}
		bad := bytes.Clone(data)
		bad[len(bad)/2] ^= 1
		if err := os.WriteFile(blob, bad, 0o644); err != nil {
			t.Fatal(err)
		}
		out := t.TempDir()
		if _, err := Build(context.Background(), layoutDir, filepath.Join(out, "x"), at(0)); err == nil {
			t.Errorf("%s: no error", filepath.Base(blob))
		}
		wantNoFiles(t, out)
		if err := os.WriteFile(blob, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// Archives that lie about themselves.
func TestBadArchives(t *testing.T) {
	digest := "sha256:" + strings.Repeat("a", 64)
	index := func(s string) []entry {
		return []entry{reg("oci-layout", `{"imageLayoutVersion":"1.0.0"}`), reg("index.json", s)}
	}
	oci := `"mediaType":"application/vnd.oci.image.index.v1+json","digest":"` + digest + `"`
	tests := []struct {
		name, want string
		entries    []entry
	}{
		{"no images", "no image for linux/amd64", index(`{}`)},
		{"other platform", "no image for linux/amd64", index(`{"manifests":[{` + oci + `,"platform":{"os":"linux","architecture":"arm64"}}]}`)},
		{"missing index", "no such file", index(`{"manifests":[{` + oci + `}]}`)},
		{"odd digest", "only sha256", index(`{"manifests":[{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"sha256:../../etc/passwd"}]}`)},
		{"not JSON", "index.json", index(`{`)},
		{"missing layer", "no such file", []entry{reg("manifest.json", `[{"Config":"c","Layers":["l"]}]`), reg("c", `{"rootfs":{"diff_ids":["`+digest+`"]}}`)}},
		{"layer out", "leads out", []entry{reg("manifest.json", `[{"Config":"c","Layers":["../l"]}]`), reg("c", `{"rootfs":{"diff_ids":["`+digest+`"]}}`)}},
		{"layer loop", "not a regular file", []entry{reg("manifest.json", `[{"Config":"c","Layers":["l"]}]`), reg("c", `{"rootfs":{"diff_ids":["`+digest+`"]}}`), symlink("l", "l")}},
		{"layer is a pipe", "not a regular file", []entry{reg("manifest.json", `[{"Config":"c","Layers":["l"]}]`), reg("c", `{"rootfs":{"diff_ids":["`+digest+`"]}}`),
			{Header: tar.Header{Name: "l", Typeflag: tar.TypeFifo}}}},
		{"layer is text", "tar", []entry{reg("manifest.json", `[{"Config":"c","Layers":["l"]}]`), reg("c", `{"rootfs":{"diff_ids":["`+digest+`"]}}`), reg("l", "text")}},
		{"too few digests", "configuration lists 0", []entry{reg("manifest.json", `[{"Config":"c","Layers":["l"]}]`), reg("c", `{}`), reg("l", "")}},
		{"wrong content", "corrupt: digest", []entry{reg("manifest.json", `[{"Config":"c","Layers":["l"]}]`), reg("c", `{"rootfs":{"diff_ids":["`+digest+`"]}}`), reg("l", string(makeTar(t, reg("a", ""))))}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out := t.TempDir()
			_, err := Build(context.Background(), writeTemp(t, makeTar(t, tt.entries...)), filepath.Join(out, "x"), at(0))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
			wantNoFiles(t, out)
		})
	}
}

// Old "docker save" output replaces a layer that it has already by a symbolic link to it.
func TestLinkedLayers(t *testing.T) {
	layer := makeTar(t, reg("a", "x"))
	sum := sha(layer)
	archive := makeTar(t, reg("manifest.json", `[{"Config":"c.json","Layers":["one/layer.tar","two/layer.tar"]}]`),
		reg("c.json", fmt.Sprintf(`{"rootfs":{"diff_ids":[%q,%q]}}`, sum, sum)), dir("one"), reg("one/layer.tar", string(layer)), dir("two"), symlink("two/layer.tar", "../one/layer.tar"))
	tree, _ := buildTree(t, writeTemp(t, archive), at(0))
	if tree["a"].Data != "x" {
		t.Errorf("a is %q", tree["a"].Data)
	}
}
