package vmm

import (
	"crypto/sha256"
	"fmt"
)

// Blob is a boot file, the kernel or the initramfs: known by its size and digest, read only by a machine that boots from it or stores it in its trace.
// A machine that starts from a snapshot reads neither.
type Blob struct {
	Size   uint64 // bytes
	Digest Digest // SHA-256
	// Load returns the bytes; the machine compares them with Size and Digest and does not change them. It is called when they are needed, on any goroutine.
	Load func() ([]byte, error)

	bytes []byte // set when Digest was computed from them
}

// BlobOf is the blob that holds p, which nobody may change any more.
func BlobOf(p []byte) Blob {
	return Blob{Size: uint64(len(p)), Digest: sha256.Sum256(p), bytes: p}
}

// load returns the bytes that have the digest, or an error.
func (b *Blob) load() ([]byte, error) {
	if b.bytes != nil || b.Load == nil {
		return b.bytes, nil
	}
	p, err := b.Load()
	if err != nil {
		return nil, err
	}
	if sum := Digest(sha256.Sum256(p)); sum != b.Digest || uint64(len(p)) != b.Size {
		return nil, fmt.Errorf("%d bytes with the digest %s are not the %d bytes with %s that they should be", len(p), sum, b.Size, b.Digest)
	}
	return p, nil
}

// loadBootFiles reads kernel and initramfs, both at the same time, unless they are there.
func (m *Machine) loadBootFiles() error {
	if m.kernel != nil {
		return nil
	}
	loaded := make(chan error, 1)
	go func() {
		var err error
		if m.initramfs, err = m.config.Initramfs.load(); err != nil {
			err = fmt.Errorf("load the initramfs: %w", err)
		}
		loaded <- err
	}()
	kernel, err := m.config.Kernel.Image.load()
	if err != nil {
		err = fmt.Errorf("load the kernel: %w", err)
	}
	if initramfsErr := <-loaded; err == nil {
		err = initramfsErr
	}
	m.kernel = kernel
	return err
}
