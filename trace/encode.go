package trace

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// EncodeEvents encodes events compactly for storage outside a trace, such as beside a snapshot of a booted machine. Positions and times must
// not decrease, payloads must not be withheld, salts are not kept. The encoding is not canonical: never hash it.
func EncodeEvents(events []Event) ([]byte, error) {
	zw, err := newCompressor()
	if err != nil {
		return nil, err
	}
	defer func() { _ = zw.Close() }() // nothing to flush: every frame is whole
	var out, raw []byte
	enc := newChunkEncoder(bareLayout)
	for first := 0; first < len(events); {
		n, size := 0, 0
		for first+n < len(events) && n < defaultChunkEvents && size < chunkArena {
			e := &events[first+n]
			if err := checkBare(events, first+n); err != nil {
				return nil, fmt.Errorf("encode event %d: %w", first+n, err)
			}
			size += len(e.Data)
			n++
		}
		raw = enc.encode(raw[:0], events[first:first+n])
		packed := zw.EncodeAll(raw, nil)
		out = binary.LittleEndian.AppendUint32(out, uint32(len(packed)))
		out = binary.LittleEndian.AppendUint32(out, uint32(len(raw)))
		out = append(out, packed...)
		first += n
	}
	return out, nil
}

var bareLayout = layout{clock: clockModel{0, 1}}

func checkBare(events []Event, i int) error {
	e := &events[i]
	if err := e.check(); err != nil {
		return err
	}
	if e.Withheld {
		return errors.New("its payload is withheld")
	}
	if i > 0 && (e.Position < events[i-1].Position || e.Time < events[i-1].Time) {
		return errors.New("its position or time is before that of the event before it")
	}
	return nil
}

// DecodeEvents calls visit for each event of an [EncodeEvents] buffer, in order. The event is valid during the call.
func DecodeEvents(buf []byte, visit func(*Event) error) error {
	dec, err := newDecompressor()
	if err != nil {
		return err
	}
	defer dec.close()
	cd := chunkDecoder{layout: bareLayout}
	var e Event
	for d := (decoder{b: buf}); len(d.b) > 0; {
		n, rawLen := d.uint32(), d.uint32()
		packed := d.bytes(int(n))
		if d.err != nil || rawLen > maxChunkRaw {
			return errors.New("decode events: malformed buffer")
		}
		raw, err := dec.expand(packed, rawLen)
		if err != nil {
			return fmt.Errorf("decode events: %w", err)
		}
		if err := cd.open(raw); err != nil {
			return err
		}
		for {
			ok, err := cd.next(&e)
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			if err := visit(&e); err != nil {
				return err
			}
		}
	}
	return nil
}

// AppendEncoded adds the events of an [EncodeEvents] buffer.
func (w *Writer) AppendEncoded(buf []byte) error { return DecodeEvents(buf, w.Append) }
