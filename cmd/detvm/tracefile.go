package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/detvm/detvm/trace"
)

// traceFile is a trace opened for reading. Reads fail once ctx is done, so that an interrupted command ends.
type traceFile struct {
	*os.File
	ctx  context.Context
	size int64
}

func (f *traceFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.ctx.Err(); err != nil {
		return 0, err
	}
	return f.File.ReadAt(p, off)
}

// openTraceFile opens a regular file. Opening a pipe would wait for its writer, so it does not wait to see what it has opened.
func openTraceFile(ctx context.Context, path string) (*traceFile, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open the trace: %w", err)
	}
	info, err := f.Stat()
	switch {
	case err != nil:
		err = fmt.Errorf("open the trace: %w", err)
	case info.IsDir():
		err = fmt.Errorf("%s is a directory, not a trace", path)
	case !info.Mode().IsRegular():
		err = fmt.Errorf("%s: a trace is read here and there, so it has to be a file: write what comes through the pipe to one first", path)
	case info.Size() == 0:
		err = fmt.Errorf("%s is empty: nothing of a run was recorded", path)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return &traceFile{f, ctx, info.Size()}, nil
}

// openTrace opens a trace file. Close the returned closer when done with it.
func openTrace(ctx context.Context, path string) (*trace.Reader, io.Closer, error) {
	f, err := openTraceFile(ctx, path)
	if err != nil {
		return nil, nil, err
	}
	r, err := trace.Open(f, f.size)
	if err != nil {
		_ = f.Close()
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return r, f, nil
}

// openWhole opens a trace and checks all of it.
func openWhole(ctx context.Context, path string) (*trace.Reader, *trace.Report, io.Closer, error) {
	r, closer, err := openTrace(ctx, path)
	if err != nil {
		return nil, nil, nil, err
	}
	report, err := r.Verify(nil)
	if err == nil {
		err = report.Err()
	}
	if err != nil {
		_ = closer.Close()
		return nil, nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return r, report, closer, nil
}
