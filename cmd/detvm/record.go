package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

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
func (f *recordFlags) start(ctx context.Context, flags *pflag.FlagSet, config *vmm.Config) (finish func(*vmm.Result) error, err error) {
	if f.file == "" {
		if name := changed(flags, "record", "sign", "fulcio-url", "max-trace-size", "trace-hash", "self-contained", "redactable"); name != "" {
			return nil, usagef("--%s needs --record FILE", name)
		}
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
	out := &recordingFile{path: f.file, notice: config.Notice}
	rec.W = out
	config.Record = rec
	return func(result *vmm.Result) error {
		if err := out.close(); err != nil || result == nil || !f.sign.given() {
			return err
		}
		if _, err := f.sign.attestRun(ctx, f.file, ""); err != nil {
			return fmt.Errorf("the trace is recorded, but not signed: %w", err)
		}
		return nil
	}, nil
}
