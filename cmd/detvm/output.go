package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/detvm/detvm/vmm"
)

// pendingFile is a file that appears under its name only when it is complete.
type pendingFile struct {
	*os.File
	path string
}

// createPending makes a temporary file beside path, so that a path that cannot be written is noticed before the work is done.
func createPending(path string) (*pendingFile, error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", path, err)
	}
	return &pendingFile{f, path}, nil
}

// commit puts the file in place. Devices and pipes (/dev/stdout) cannot be replaced and are written instead.
func (p *pendingFile) commit() error {
	err := errors.Join(p.Chmod(0o644), p.Sync(), p.Close())
	if err == nil {
		err = os.Rename(p.Name(), p.path)
	}
	if err != nil {
		_ = os.Remove(p.Name())
		return fmt.Errorf("write %s: %w", p.path, err)
	}
	return nil
}

func (p *pendingFile) discard() {
	_ = p.Close()
	_ = os.Remove(p.Name())
}

// writeFile writes a file whole or not at all.
func writeFile(path string, write func(io.Writer) error) error {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return fmt.Errorf("open %s: %w", path, err)
		}
		return errors.Join(write(f), f.Close())
	}
	p, err := createPending(path)
	if err != nil {
		return err
	}
	if err := write(p); err != nil {
		p.discard()
		return fmt.Errorf("write %s: %w", path, err)
	}
	return p.commit()
}

// diskOut is the file that keeps a data disk's final contents.
type diskOut struct{ file *pendingFile }

func newDiskOut(path string) (*diskOut, error) {
	if path == "" {
		return &diskOut{}, nil
	}
	f, err := createPending(path)
	if err != nil {
		return nil, err
	}
	return &diskOut{f}, nil
}

// keep writes the disk and puts the file in place.
func (d *diskOut) keep(m *vmm.Machine) error {
	if d.file == nil {
		return nil
	}
	if err := m.WriteDisk(d.file); err != nil {
		return fmt.Errorf("write %s: %w", d.file.path, err)
	}
	f := d.file
	d.file = nil
	return f.commit()
}

func (d *diskOut) discard() {
	if d.file != nil {
		d.file.discard()
	}
}
