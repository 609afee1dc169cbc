package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// readSource reads the tree that source stands for. An image archive is read like any other directory or tar first, and then
// its layers out of that: so each kind comes as a directory and as a tar, and nothing is read twice to tell them apart.
func readSource(ctx context.Context, source string, l *limits, sp *spool, ref string) (*tree, error) {
	fi, err := os.Stat(source)
	if err != nil {
		return nil, err
	}
	t := newTree(l)
	if fi.IsDir() {
		err = readDir(t, source)
	} else {
		err = readTarFile(t, source, sp)
	}
	if err != nil {
		return nil, err
	}
	a, err := openArchive(t)
	if err != nil {
		return nil, err
	}
	if a == nil {
		if ref != "" {
			return nil, fmt.Errorf("image %q asked for, but this is neither a docker-archive nor an OCI layout", ref)
		}
		return t, nil
	}
	img, err := a.pick(ref)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", a.kind, err)
	}
	return applyLayers(img, a, l, sp)
}

// readTarFile reads a tar file, plain or compressed.
func readTarFile(t *tree, path string, sp *spool) error {
	info, err := Inspect(path)
	if err != nil {
		return err
	}
	if info.Format != FormatRaw {
		return fmt.Errorf("this is already an image (%s)", info.Format)
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	plain, free, err := decompress(f)
	if err != nil {
		return err
	}
	defer free()
	head, err := plain.Peek(512)
	if err != nil && err != io.EOF {
		return fmt.Errorf("decompress: %w", err)
	}
	if !looksLikeTar(head) {
		return errors.New("not a directory, a tar, a docker-archive or an OCI layout")
	}
	return readTar(t, plain, sp, false)
}

// applyLayers puts the layers of an image on top of each other.
func applyLayers(img *archiveImage, a *archive, l *limits, sp *spool) (*tree, error) {
	t := newTree(l)
	for i, layer := range img.layers {
		t.layer = i
		if err := applyLayer(t, layer, a, sp); err != nil {
			return nil, fmt.Errorf("layer %d of %d: %w", i+1, len(img.layers), err)
		}
	}
	return t, nil
}

func applyLayer(t *tree, layer archiveLayer, a *archive, sp *spool) error {
	blob, err := a.open(layer.path)
	if err != nil {
		return err
	}
	defer blob.Close()
	stored := sha256.New()
	in := io.TeeReader(blob, stored)
	plain, free, err := decompress(in)
	if err != nil {
		return err
	}
	defer free()
	unpacked := sha256.New()
	if err := readTar(t, io.TeeReader(plain, unpacked), sp, true); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, in); err != nil { // what follows the compressed stream is hashed too
		return err
	}
	if err := checkDigest(layer.digest, stored.Sum(nil)); err != nil {
		return fmt.Errorf("blob: %w", err)
	}
	if err := checkDigest(layer.diffID, unpacked.Sum(nil)); err != nil {
		return fmt.Errorf("content: %w", err)
	}
	return nil
}

// checkDigest compares a "sha256:…" digest with a sum; an empty digest claims nothing.
func checkDigest(want string, sum []byte) error {
	if got := "sha256:" + hex.EncodeToString(sum); want != "" && want != got {
		return fmt.Errorf("corrupt: digest %s, want %s", got, want)
	}
	return nil
}

// maxJSON bounds each document of an archive that is read into memory.
const maxJSON = 8 << 20

// maxLayers bounds the layers of an image: Docker allows 127.
const maxLayers = 1024

// An archive is a docker-archive or OCI layout inside a tree.
type archive struct {
	kind   string
	tree   *tree
	images []archiveImage
}

// archiveImage is one image of an archive. Its layers are known after load.
type archiveImage struct {
	names  []string // tags
	load   func(*archiveImage) error
	layers []archiveLayer
}

type archiveLayer struct {
	path   string
	digest string // of the blob as stored; empty if the archive does not say
	diffID string // of the blob when decompressed; empty likewise
}

// openArchive returns the archive that t holds, or nil if it is an ordinary tree.
func openArchive(t *tree) (*archive, error) {
	a := &archive{tree: t}
	var layout struct{ ImageLayoutVersion string }
	if a.readJSON("oci-layout", &layout, "") == nil && layout.ImageLayoutVersion != "" && a.has("index.json") {
		a.kind = "OCI layout"
		return a, a.listOCI()
	}
	var manifest []dockerManifest
	if a.readJSON("manifest.json", &manifest, "") == nil && len(manifest) > 0 && manifest[0].Config != "" && a.has(manifest[0].Config) {
		a.kind = "docker-archive"
		a.listDocker(manifest)
		return a, nil
	}
	return nil, nil
}

func (a *archive) has(path string) bool {
	_, err := a.tree.lookup(path)
	return err == nil
}

// open opens a file of the archive. Old "docker save" output has symbolic links in place of repeated layers.
func (a *archive) open(path string) (io.ReadCloser, error) {
	node, err := a.tree.lookup(path)
	for hops := 0; err == nil && node.kind() == unix.S_IFLNK && hops < maxLinks; hops++ {
		path = joinLink(path, node.target)
		node, err = a.tree.lookup(path)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if node.kind() != unix.S_IFREG {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	return node.data.open()
}

// joinLink resolves a symbolic link's target against the link's path, inside the tree.
func joinLink(link, target string) string {
	parts := strings.Split(link, "/")
	parts = parts[:len(parts)-1]
	if strings.HasPrefix(target, "/") {
		parts = nil
	}
	for c := range strings.SplitSeq(target, "/") {
		switch {
		case c == "" || c == ".":
		case c == "..":
			parts = parts[:max(0, len(parts)-1)]
		default:
			parts = append(parts, c)
		}
	}
	return strings.Join(parts, "/")
}

// readJSON reads the JSON document at path into v and checks its digest.
func (a *archive) readJSON(path string, v any, digest string) error {
	r, err := a.open(path)
	if err != nil {
		return err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, maxJSON+1))
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if len(data) > maxJSON {
		return fmt.Errorf("%s is too large for a JSON document", path)
	}
	sum := sha256.Sum256(data)
	if err := checkDigest(digest, sum[:]); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// pick chooses the image called ref, or the only one when ref is empty.
func (a *archive) pick(ref string) (*archiveImage, error) {
	var found []*archiveImage
	var names []string
	for i := range a.images {
		img := &a.images[i]
		names = append(names, img.names...)
		if ref == "" || slices.Contains(img.names, ref) {
			found = append(found, img)
		}
	}
	switch {
	case len(found) == 0 && ref == "":
		return nil, errors.New("no image for linux/amd64 in it")
	case len(found) == 0:
		return nil, fmt.Errorf("no image %q in it; it has: %s", ref, strings.Join(names, ", "))
	case len(found) > 1:
		return nil, fmt.Errorf("%d images in it, choose one: %s", len(found), strings.Join(names, ", "))
	}
	img := found[0]
	if err := img.load(img); err != nil {
		return nil, err
	}
	if len(img.layers) > maxLayers {
		return nil, fmt.Errorf("%d layers are too many", len(img.layers))
	}
	return img, nil
}

// dockerManifest is an element of manifest.json, the table of contents of "docker save".
type dockerManifest struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// imageConfig is the part of an image's configuration that is about its layers (OCI image-spec, config.md).
type imageConfig struct {
	RootFS struct {
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`
}

func (a *archive) listDocker(manifests []dockerManifest) {
	for _, m := range manifests {
		a.images = append(a.images, archiveImage{names: m.RepoTags, load: func(img *archiveImage) error {
			var config imageConfig
			if err := a.readJSON(m.Config, &config, ""); err != nil {
				return err
			}
			for _, path := range m.Layers {
				img.layers = append(img.layers, archiveLayer{path: path})
			}
			return img.setDiffIDs(config)
		}})
	}
}

// setDiffIDs gives each layer the digest that its content must have.
func (img *archiveImage) setDiffIDs(config imageConfig) error {
	ids := config.RootFS.DiffIDs
	if len(ids) != len(img.layers) {
		return fmt.Errorf("%d layers, but the configuration lists %d", len(img.layers), len(ids))
	}
	for i, id := range ids {
		if !strings.HasPrefix(id, "sha256:") {
			return fmt.Errorf("layer digest %.80q: only sha256 is supported", id)
		}
		img.layers[i].diffID = id
	}
	return nil
}

// descriptor points to a blob of an OCI layout (image-spec, descriptor.md).
type descriptor struct {
	MediaType   string
	Digest      string
	Annotations map[string]string
	Platform    *struct{ OS, Architecture string }
}

// Media types that are read here; Docker's older names stand for the same documents.
var (
	indexTypes = []string{"application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"}
	imageTypes = []string{"application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"}
)

// runsHere tells whether a descriptor can be a linux/amd64 image. One without a platform can.
func (d descriptor) runsHere() bool {
	return d.Platform == nil || d.Platform.OS == "linux" && d.Platform.Architecture == "amd64"
}

// blobPath is where an OCI layout keeps the blob of a digest (image-spec, image-layout.md).
func blobPath(digest string) (string, error) {
	sum, ok := strings.CutPrefix(digest, "sha256:")
	if raw, err := hex.DecodeString(sum); !ok || err != nil || len(raw) != sha256.Size {
		return "", fmt.Errorf("digest %.80q: only sha256 is supported", digest)
	}
	return "blobs/sha256/" + sum, nil
}

// listOCI finds the images of index.json, and of the indexes that it points to.
func (a *archive) listOCI() error {
	const maxIndexes = 4 // deep
	if err := a.addIndex("index.json", "", "", maxIndexes); err != nil {
		return fmt.Errorf("%s: %w", a.kind, err)
	}
	return nil
}

func (a *archive) addIndex(path, digest, name string, depth int) error {
	var index struct{ Manifests []descriptor }
	if depth == 0 {
		return errors.New("indexes are nested too deeply")
	}
	if err := a.readJSON(path, &index, digest); err != nil {
		return err
	}
	for _, d := range index.Manifests {
		if !d.runsHere() {
			continue
		}
		name := name
		if n := d.Annotations["org.opencontainers.image.ref.name"]; n != "" {
			name = n
		}
		path, err := blobPath(d.Digest)
		switch {
		case err != nil:
			return err
		case slices.Contains(indexTypes, d.MediaType):
			err = a.addIndex(path, d.Digest, name, depth-1)
		case slices.Contains(imageTypes, d.MediaType):
			a.addOCIImage(path, d.Digest, name)
		}
		if err != nil {
			return err
		}
		if len(a.images) > maxLayers {
			return errors.New("too many images")
		}
	}
	return nil
}

func (a *archive) addOCIImage(path, digest, name string) {
	a.images = append(a.images, archiveImage{names: []string{name}, load: func(img *archiveImage) error {
		var manifest struct {
			Config descriptor
			Layers []descriptor
		}
		if err := a.readJSON(path, &manifest, digest); err != nil {
			return err
		}
		for _, d := range manifest.Layers {
			path, err := blobPath(d.Digest)
			if err != nil {
				return err
			}
			img.layers = append(img.layers, archiveLayer{path: path, digest: d.Digest})
		}
		path, err := blobPath(manifest.Config.Digest)
		if err != nil {
			return err
		}
		var config imageConfig
		if err := a.readJSON(path, &config, manifest.Config.Digest); err != nil {
			return err
		}
		return img.setDiffIDs(config)
	}})
}
