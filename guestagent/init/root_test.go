//go:build linux && amd64

package main

import (
	"encoding/binary"
	"testing"
)

func TestFileSystemIsToldByItsSuperblock(t *testing.T) {
	head := func(f func(b []byte)) []byte { b := make([]byte, 2048); f(b); return b }
	for want, b := range map[string][]byte{
		"erofs":    head(func(b []byte) { binary.LittleEndian.PutUint32(b[1024:], 0xe0f5e1e2) }),
		"ext4":     head(func(b []byte) { binary.LittleEndian.PutUint16(b[1080:], 0xef53) }),
		"squashfs": head(func(b []byte) { copy(b, "hsqs") }),
		"":         head(func([]byte) {}),
	} {
		if got := fileSystem(b); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if got := fileSystem([]byte("hsqs")); got != "" {
		t.Errorf("a short device is %q", got)
	}
}

func TestBlockDeviceNames(t *testing.T) {
	if blockDevice(0) != "/dev/vda" || blockDevice(25) != "/dev/vdz" {
		t.Error(blockDevice(0), blockDevice(25))
	}
}
