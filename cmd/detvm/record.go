package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/detvm/detvm/attest"
	"github.com/detvm/detvm/trace"
	"github.com/detvm/detvm/vmm"
)

// recordFlags are the flags of run that concern the trace.
type recordFlags struct {
	file, maxSize, hash       string
	selfContained, redactable bool
	sign                      signFlags
}

func (f *recordFlags) register(c *cobra.Command) {
	f.sign.register(c, "sign", "sign the recorded trace with this key")
	fs := c.Flags()
	fs.StringVar(&f.file, "record", "", "record the run into this trace file; a trace already there is kept, with its signatures, as NAME-old.dtr, NAME-old-2.dtr, …")
	fs.StringVar(&f.maxSize, "max-trace-size", "", "end the run before the trace reaches this size, counted before compression, so always at the same event (K, M, G suffixes; exit code 124)")
	fs.StringVar(&f.hash, "trace-hash", string(trace.SHA256), "hash algorithm of the trace: sha256, sha512 or blake3")
	fs.BoolVar(&f.selfContained, "self-contained", false, "store kernel, initramfs and the disk blocks that were read, so that the trace replays without other files")
	fs.BoolVar(&f.redactable, "redactable", false, "salt payloads, so that they can be withheld from a copy later ('detvm redact'); two such traces never have one root")
}

// minTraceSize is the smallest --max-trace-size: header and footer have to fit.
const minTraceSize = 256 << 10

// start prepares config to record. finish completes the file; it is called with nil when the run failed.
func (f *recordFlags) start(ctx context.Context, config *vmm.Config) (finish func(*vmm.Result) error, err error) {
	if f.sign.given() && f.file == "" {
		return nil, usagef("--sign needs --record")
	}
	if f.file == "" {
		return func(*vmm.Result) error { return nil }, nil
	}
	rec := &vmm.Recording{Hash: trace.Hash(f.hash), Redactable: f.redactable, SelfContained: f.selfContained}
	if !rec.Hash.Valid() {
		return nil, usagef("--trace-hash %q: want sha256, sha512 or blake3", f.hash)
	}
	if f.maxSize != "" {
		n, err := parseBytes(f.maxSize)
		if err != nil || n < minTraceSize {
			return nil, usagef("--max-trace-size %q: want a size of at least %dK", f.maxSize, minTraceSize>>10)
		}
		rec.MaxSize = int64(n)
	}
	kept := ""
	if info, err := os.Stat(f.file); err == nil && info.Mode().IsRegular() && info.Size() > 0 {
		kept = oldName(f.file)
		if err := moveTrace(f.file, kept); err != nil {
			return nil, fmt.Errorf("keep the old trace: %w", err)
		}
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("record into %s: %w", f.file, err)
	}
	file, err := os.OpenFile(f.file, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return nil, fmt.Errorf("record: %w", err)
	}
	rec.W = file
	config.Record = rec
	return func(result *vmm.Result) error {
		if err := errors.Join(file.Sync(), file.Close()); err != nil {
			return fmt.Errorf("record into %s: %w", f.file, err)
		}
		if result == nil {
			return f.withdraw(kept)
		}
		if !f.sign.given() {
			return nil
		}
		if _, err := f.sign.attestRun(ctx, f.file, ""); err != nil {
			return fmt.Errorf("the trace is recorded, but not signed: %w", err)
		}
		return nil
	}, nil
}

// oldName is a free name for a trace that has to make room: run-old.dtr, run-old-2.dtr and so on for run.dtr. The names of its bundles begin with
// it, and must not begin with that of the trace which takes its place.
func oldName(path string) string {
	ext := filepath.Ext(path)
	old := strings.TrimSuffix(path, ext) + "-old"
	name := old + ext
	for i := 2; ; i++ {
		if _, err := os.Lstat(name); err != nil {
			return name
		}
		name = fmt.Sprintf("%s-%d%s", old, i, ext)
	}
}

// moveTrace renames a trace and the bundles beside it.
func moveTrace(from, to string) error {
	bundles, err := attest.FindBundles(from)
	if err != nil {
		return err
	}
	if err := os.Rename(from, to); err != nil {
		return err
	}
	for _, b := range bundles {
		if err := os.Rename(b, filepath.Join(filepath.Dir(to), filepath.Base(to)+strings.TrimPrefix(filepath.Base(b), filepath.Base(from)))); err != nil {
			return err
		}
	}
	return nil
}

// withdraw undoes start after a run that failed before it wrote anything; kept is where an older trace was moved out of the way, or empty.
func (f *recordFlags) withdraw(kept string) error {
	info, err := os.Lstat(f.file)
	if err != nil || !info.Mode().IsRegular() || info.Size() > 0 {
		return nil // what there is of a trace is kept
	}
	if kept != "" {
		err = moveTrace(kept, f.file)
	} else {
		err = os.Remove(f.file)
	}
	if err != nil {
		return fmt.Errorf("remove the empty trace: %w", err)
	}
	return nil
}
