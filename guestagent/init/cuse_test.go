//go:build linux && amd64

package main

import (
	"encoding/binary"
	"encoding/hex"
	"testing"

	"golang.org/x/sys/unix"
)

// request builds what a read of /dev/cuse returns.
func request(op uint32, unique uint64, arg []byte) []byte {
	b := make([]byte, fuseInHeader)
	binary.LittleEndian.PutUint32(b, uint32(fuseInHeader+len(arg)))
	binary.LittleEndian.PutUint32(b[4:], op)
	binary.LittleEndian.PutUint64(b[8:], unique)
	return append(b, arg...)
}

func TestFUSERequestIsTakenApart(t *testing.T) {
	arg := make([]byte, 40)
	binary.LittleEndian.PutUint32(arg[16:], 4096)
	r, ok := parseFUSE(request(fuseRead, 77, arg))
	if !ok || r.op != fuseRead || r.unique != 77 {
		t.Fatalf("parseFUSE = %+v, %v", r, ok)
	}
	if size, ok := fuseReadSize(r.arg); !ok || size != 4096 {
		t.Errorf("fuseReadSize = %d, %v", size, ok)
	}
	for name, b := range map[string][]byte{
		"nothing":         nil,
		"half a header":   make([]byte, 39),
		"length too long": append(request(fuseRead, 1, nil), 0),
	} {
		if _, ok := parseFUSE(b); ok {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, ok := fuseReadSize(make([]byte, 19)); ok {
		t.Error("a short READ is accepted")
	}
}

func TestFUSEReplyHasTheKernelsLayout(t *testing.T) {
	for name, c := range map[string]struct {
		errno   unix.Errno
		payload string
		want    string
	}{
		"data":  {0, "ab", "12000000" + "00000000" + "0900000000000000" + "6162"},
		"error": {unix.EINTR, "", "10000000" + "fcffffff" + "0900000000000000"},
	} {
		if got := hex.EncodeToString(appendFUSEReply(nil, 9, c.errno, []byte(c.payload))); got != c.want {
			t.Errorf("%s: got %s, want %s", name, got, c.want)
		}
	}
}

func TestCUSEInitNamesTheDevice(t *testing.T) {
	b := cuseInitPayload(37)
	if string(b[cuseInitReply:]) != "DEVNAME=detvm-stdin\x00" {
		t.Errorf("device information %q", b[cuseInitReply:])
	}
	if binary.LittleEndian.Uint32(b) != 7 || binary.LittleEndian.Uint32(b[4:]) != 37 {
		t.Errorf("version %x", b[:8])
	}
}

func FuzzParseFUSE(f *testing.F) {
	f.Add(request(fuseRead, 1, make([]byte, 40)))
	f.Add(request(fuseInterrupt, 3, make([]byte, 8)))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, ok := parseFUSE(b); ok {
			fuseReadSize(r.arg)
		}
	})
}
