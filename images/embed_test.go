package images

import (
	"bytes"
	"errors"
	"testing"
)

func TestEmbeddedInitramfsIsAnArchiveOrSaysHowToGetIt(t *testing.T) {
	for name, load := range map[string]func() (*Initramfs, error){"base": BaseInitramfs, "default": DefaultInitramfs} {
		i, err := load()
		if errors.Is(err, ErrNotBuilt) {
			t.Logf("%s: %v", name, err)
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if i.Name != name || !bytes.HasPrefix(i.Bytes, []byte("070701")) {
			t.Errorf("%s: %q is no newc archive", name, i.Bytes[:min(6, len(i.Bytes))])
		}
	}
}
