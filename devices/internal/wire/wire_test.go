package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
)

func TestReaderReadsWhatWasAppended(t *testing.T) {
	le := binary.LittleEndian
	b := []byte{1}
	b = le.AppendUint16(b, 0x0203)
	b = le.AppendUint32(b, 0x04050607)
	b = le.AppendUint64(b, 0x08090a0b0c0d0e0f)
	b = AppendBool(b, true)
	b = AppendBool(b, false)
	b = AppendBytes(b, []byte("text"))
	b = append(b, "rawrest"...)
	r := NewReader(b)
	if r.Uint8() != 1 || r.Uint16() != 0x0203 || r.Uint32() != 0x04050607 || r.Uint64() != 0x08090a0b0c0d0e0f || !r.Bool() || r.Bool() {
		t.Error("numbers differ")
	}
	if got := r.Bytes(4); string(got) != "text" {
		t.Errorf("bytes %q", got)
	}
	raw := make([]byte, 3)
	r.Fill(raw)
	if string(raw) != "raw" || string(r.Rest()) != "rest" || r.Close() != nil {
		t.Errorf("raw %q, then %v", raw, r.Close())
	}
}

func TestReaderRemembersTheFirstFailure(t *testing.T) {
	for name, read := range map[string]func(*Reader){
		"short integer":       func(r *Reader) { r.Uint64() },
		"boolean 2":           func(r *Reader) { r.Bool() },
		"long string":         func(r *Reader) { r.Bytes(1) },
		"string beyond end":   func(r *Reader) { r.Bytes(1 << 30) },
		"negative length":     func(r *Reader) { r.Raw(-1) },
		"failed check":        func(r *Reader) { r.Check(false) },
		"left over":           func(r *Reader) { r.Uint8() },
		"nothing read at all": func(*Reader) {},
	} {
		r := NewReader([]byte{2, 0, 0, 0, 9})
		read(r)
		if err := r.Close(); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	r := NewReader([]byte{1, 2, 3})
	r.Uint32()
	if !r.Failed() || r.Uint8() != 0 || r.Uint16() != 0 || r.Bool() || r.Bytes(9) != nil || r.Rest() != nil {
		t.Error("a failed reader goes on")
	}
}

func FuzzReader(f *testing.F) {
	f.Add([]byte{3, 0, 0, 0, 'a', 'b', 'c', 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		r := NewReader(data)
		p := r.Bytes(100)
		v := r.Bool()
		if r.Close() != nil {
			return
		}
		if again := AppendBool(AppendBytes(nil, p), v); !bytes.Equal(again, data) {
			t.Fatalf("%x is encoded again as %x", data, again)
		}
	})
}
