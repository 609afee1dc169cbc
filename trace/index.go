package trace

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"sort"
)

func crc32c(p []byte) uint32 { return crc32.Checksum(p, castagnoli) }

func sortedSettings(settings []Setting) []Setting {
	list := append([]Setting{}, settings...)
	sort.Slice(list, func(i, j int) bool { return list[i].Key < list[j].Key })
	return list
}

// indexEntry is what the index says about one record. Offsets are not stored: records follow each other without gaps.
type indexEntry struct {
	kind      recordType
	length    uint32
	count     uint32 // chunks only, like the next two
	firstPos  uint64
	firstTime uint64
}

func encodeIndex(entries []indexEntry) []byte {
	b := binary.AppendUvarint(nil, uint64(len(entries)))
	var pos, time uint64
	for _, e := range entries {
		b = append(b, byte(e.kind))
		b = binary.AppendUvarint(b, uint64(e.length))
		if e.kind == recordChunk {
			b = binary.AppendUvarint(b, uint64(e.count))
			b = binary.AppendUvarint(b, e.firstPos-pos)
			b = binary.AppendUvarint(b, e.firstTime-time)
			pos, time = e.firstPos, e.firstTime
		}
	}
	return b
}

func decodeIndex(body []byte) ([]indexEntry, error) {
	d := decoder{b: body}
	n := d.length()
	if n > maxRecords {
		return nil, fmt.Errorf("index: %d records are over the limit of %d", n, maxRecords)
	}
	entries := make([]indexEntry, 0, n)
	var pos, time uint64
	for range n {
		e := indexEntry{kind: recordType(d.byte())}
		length := d.uvarint()
		if e.kind == recordChunk {
			count := d.uvarint()
			pos += d.uvarint()
			time += d.uvarint()
			e.firstPos, e.firstTime = pos, time
			if count == 0 || count > maxChunkEvents {
				d.fail(errors.New("number of events is out of range"))
			}
			e.count = uint32(count)
		}
		if d.err == nil && length > uint64(e.kind.maxBody()) {
			d.fail(errors.New("length of a record is out of range"))
		}
		if d.err != nil {
			break
		}
		e.length = uint32(length)
		entries = append(entries, e)
	}
	if err := d.end(); err != nil {
		return nil, fmt.Errorf("index: %w", err)
	}
	return entries, nil
}

type trailer struct{ index, footer int64 }

func parseTrailer(p []byte) (trailer, error) {
	d := decoder{b: p}
	magic := d.bytes(len(trailerMagic))
	t := trailer{int64(d.uint64()), int64(d.uint64())}
	sum := d.uint32()
	switch {
	case d.end() != nil || string(magic) != trailerMagic:
		return trailer{}, errors.New("the file does not end with a trace's trailer")
	case crc32c(p[:trailerSize-4]) != sum:
		return trailer{}, fmt.Errorf("trailer: %w", errChecksum)
	}
	return t, nil
}
