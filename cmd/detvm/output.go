package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"unicode"
	"unicode/utf8"

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

// plain is a string from a trace or a guest as it may be printed: one that is not printable text in one line is quoted, so that it can neither send escape
// sequences to a terminal nor look like lines of ours.
func plain(s string) string {
	for _, r := range s {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return strconv.QuoteToASCII(s)
		}
	}
	return s
}

// jsonFile is where --json puts a result. The file is made before the work is done, and put in place after it. A nil one takes nothing.
type jsonFile struct {
	path string
	file *pendingFile // nil for standard output, devices and pipes
}

// newJSONFile prepares path, "-" for standard output, unless it is empty. It refuses the files that the command reads or records.
func newJSONFile(path string, others ...string) (*jsonFile, error) {
	if path == "" {
		return nil, nil
	}
	j := &jsonFile{path: path}
	if path == "-" {
		return j, nil
	}
	for _, other := range others {
		if other != "" && sameFile(path, other) {
			return nil, usagef("--json %s would overwrite the trace: give another name", path)
		}
	}
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return j, nil
	}
	var err error
	if j.file, err = createPending(path); err != nil {
		return nil, fmt.Errorf("write JSON: %w", err)
	}
	return j, nil
}

// sameFile reports whether two paths name one file, which need not exist.
func sameFile(a, b string) bool {
	infoA, errA := os.Stat(a)
	infoB, errB := os.Stat(b)
	if errA == nil && errB == nil {
		return os.SameFile(infoA, infoB)
	}
	absA, errA := filepath.Abs(a)
	absB, errB := filepath.Abs(b)
	return errA == nil && errB == nil && absA == absB
}

// write encodes v and puts the file in place.
func (j *jsonFile) write(v any) error {
	if j == nil {
		return nil
	}
	p, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode JSON: %w", err)
	}
	p = append(p, '\n')
	switch {
	case j.path == "-":
		_, err = os.Stdout.Write(p)
	case j.file == nil:
		err = os.WriteFile(j.path, p, 0o644)
	default:
		f := j.file
		j.file = nil
		if _, err = f.Write(p); err != nil {
			f.discard()
		} else {
			err = f.commit()
		}
	}
	if err != nil {
		return fmt.Errorf("write JSON: %w", err)
	}
	return nil
}

// discard removes what was prepared, if nothing was written.
func (j *jsonFile) discard() {
	if j != nil && j.file != nil {
		j.file.discard()
	}
}

// printJSONOr prints v as JSON, or calls plain.
func printJSONOr(out io.Writer, asJSON bool, v any, plain func()) error {
	if !asJSON {
		plain()
		return nil
	}
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
