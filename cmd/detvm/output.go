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

	"github.com/spf13/pflag"
)

// outputFile is a file that appears under its name only when it is complete. It is prepared before the work is done, so that a path that cannot be written is
// noticed in time. Devices and pipes (/dev/stdout) cannot be replaced: they are opened and written at the end.
type outputFile struct {
	path string
	tmp  *os.File // beside path; nil for devices and pipes
}

// createOutput prepares an output. Call discard when done with it.
func createOutput(path string) (*outputFile, error) {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return &outputFile{path: path}, nil
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", path, err)
	}
	return &outputFile{path, f}, nil
}

// write fills the file and puts it in place, or leaves what was there.
func (o *outputFile) write(fill func(io.Writer) error) error {
	if o.tmp == nil {
		f, err := os.OpenFile(o.path, os.O_WRONLY, 0)
		if err != nil {
			return fmt.Errorf("open %s: %w", o.path, err)
		}
		return errors.Join(fill(f), f.Close())
	}
	defer o.discard()
	err := fill(o.tmp)
	if err == nil {
		err = errors.Join(o.tmp.Chmod(0o644), o.tmp.Sync(), o.tmp.Close())
	}
	if err == nil {
		err = os.Rename(o.tmp.Name(), o.path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", o.path, err)
	}
	o.tmp = nil
	return nil
}

// discard removes what was prepared, unless it was put in place. There may be no file.
func (o *outputFile) discard() {
	if o != nil && o.tmp != nil {
		_ = o.tmp.Close()
		_ = os.Remove(o.tmp.Name())
		o.tmp = nil
	}
}

// writeFile writes a file whole or not at all.
func writeFile(path string, fill func(io.Writer) error) error {
	o, err := createOutput(path)
	if err != nil {
		return err
	}
	return o.write(fill)
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

// jsonFile is where --json puts a result: an output, or standard output without one. A nil one takes nothing.
type jsonFile struct{ *outputFile }

// newJSONFile prepares path, "-" for standard output, unless it is empty. It refuses the files that the command reads or records.
func newJSONFile(path string, others ...string) (*jsonFile, error) {
	switch path {
	case "":
		return nil, nil
	case "-":
		return &jsonFile{}, nil
	}
	for _, other := range others {
		if other != "" && sameFile(path, other) {
			return nil, usagef("--json %s would overwrite the trace: give another name", path)
		}
	}
	o, err := createOutput(path)
	if err != nil {
		return nil, fmt.Errorf("write JSON: %w", err)
	}
	return &jsonFile{o}, nil
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

// put encodes v and puts the file in place.
func (j *jsonFile) put(v any) error {
	if j == nil {
		return nil
	}
	p, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode JSON: %w", err)
	}
	fill := func(w io.Writer) error {
		_, err := w.Write(append(p, '\n'))
		return err
	}
	if j.outputFile == nil {
		err = fill(os.Stdout)
	} else {
		err = j.outputFile.write(fill)
	}
	if err != nil {
		return fmt.Errorf("write JSON: %w", err)
	}
	return nil
}

// discard removes what was prepared, unless it was put in place.
func (j *jsonFile) discard() {
	if j != nil {
		j.outputFile.discard()
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

// changed returns the first of these flags that was given, or "".
func changed(flags *pflag.FlagSet, names ...string) string {
	for _, name := range names {
		if flags.Changed(name) {
			return name
		}
	}
	return ""
}
