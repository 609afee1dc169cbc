package trace

import (
	"errors"
	"fmt"
	"io"
)

// ErrUnsalted says that withholding payloads of a trace that was not recorded redactable hides little: short payloads can be guessed from their digests.
var ErrUnsalted = errors.New("the trace was not recorded with --redactable: its payload digests are unsalted, so that short withheld payloads can be guessed")

// RedactOptions choose what a redacted copy leaves out.
type RedactOptions struct {
	// Withhold reports whether the payload of an event is to be withheld. The event itself stays. It must not keep e.
	Withhold func(index uint64, e *Event) bool
	// DropInput reports whether the stored bytes of an input are to be left out of the copy. nil drops none. Whoever withholds
	// the payloads of disk events will want to drop the disks.
	DropInput func(input int, in Input) bool
	// AllowUnsalted permits withholding in a trace that is not redactable.
	AllowUnsalted bool
}

// RedactSummary says what [Redact] did.
type RedactSummary struct {
	Summary
	Withheld uint64 // payloads withheld now
	Before   uint64 // payloads that were withheld already
}

// Redact copies a complete trace to w without the payloads chosen. The copy has the same trace root, so that a signature over it still holds; the
// withheld payloads and their salts are not in it. It fails if the copy's root is not the original's, which means that the original was damaged.
//
// What is withheld is the payload, not its effects: somebody who replays a guess at a short input, and finds every other event equal, has confirmed the guess.
func Redact(w io.Writer, r *Reader, opts RedactOptions) (*RedactSummary, error) {
	f, ok := r.Footer()
	if !ok {
		return nil, fmt.Errorf("redact: the trace has no end: %w", r.cut)
	}
	if !r.header.Redactable && !opts.AllowUnsalted {
		return nil, fmt.Errorf("redact: %w", ErrUnsalted)
	}
	if r.hostErr != nil || len(r.host) == 0 || len(r.host) > 2 {
		return nil, fmt.Errorf("redact: %w", errors.Join(errors.New("the host section is damaged"), r.hostErr))
	}
	tw, err := NewWriter(w, &r.header, Options{Host: r.host[0], FlushInterval: -1})
	if err != nil {
		return nil, fmt.Errorf("redact: %w", err)
	}
	defer tw.Abandon()
	var sum RedactSummary
	if err := sum.copyEvents(tw, r, opts.Withhold); err != nil {
		return nil, fmt.Errorf("redact: %w", err)
	}
	if err := copyBlobs(tw, r, opts.DropInput); err != nil {
		return nil, fmt.Errorf("redact: %w", err)
	}
	var lastHost []Setting
	if len(r.host) == 2 {
		lastHost = r.host[1]
	}
	s, err := tw.Close(f.Status, lastHost)
	if err != nil {
		return nil, fmt.Errorf("redact: %w", err)
	}
	if string(s.Root) != string(f.Root) {
		return nil, errors.New("redact: the events do not hash to the trace root in the footer: the trace is damaged, run verify")
	}
	sum.Summary = *s
	return &sum, nil
}

func (sum *RedactSummary) copyEvents(w *Writer, r *Reader, withhold func(uint64, *Event) bool) error {
	it := r.Events(0)
	defer it.Close()
	for it.Next() {
		e := *it.Event()
		switch {
		case e.Withheld:
			sum.Before++
		case len(e.Data) > 0 && withhold != nil && withhold(it.Index(), it.Event()):
			e.Commitment = r.header.Commit(e.Salt, e.Data)
			e.Withheld, e.Data, e.Salt = true, nil, nil
			sum.Withheld++
		}
		if err := w.Append(&e); err != nil {
			return err
		}
	}
	return it.Err()
}

// copyBlobs copies record by record, so that the blob digest stays the same when nothing is dropped.
func copyBlobs(w *Writer, r *Reader, drop func(int, Input) bool) error {
	if err := r.loadBlobs(); err != nil {
		return err
	}
	dec, err := newDecompressor()
	if err != nil {
		return err
	}
	defer dec.close()
	hs := newHasher(r.header.Hash)
	var buf []byte
	for _, rec := range r.records {
		if rec.kind != recordBlob {
			continue
		}
		var body []byte
		if body, buf, err = readRecord(r.r, rec, buf); err != nil {
			return err
		}
		head, data, err := r.header.expandBlob(body, dec, hs)
		if err != nil {
			return fmt.Errorf("blob at offset %d: %w", rec.offset, err)
		}
		if drop != nil && drop(int(head.input), r.header.Inputs[head.input]) {
			continue
		}
		if err := w.AddBlob(int(head.input), head.offset, data); err != nil {
			return err
		}
	}
	return nil
}
