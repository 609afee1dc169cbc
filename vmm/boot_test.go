package vmm

import (
	"encoding/binary"
	"testing"

	"github.com/bobuhiro11/gokvm/bootparam"
)

// The offsets are those of Linux's Documentation/x86/zero-page.rst and boot.rst.
func TestBootParametersLieWhereLinuxReadsThem(t *testing.T) {
	var params bootparam.BootParam
	params.Hdr.BootFlag, params.Hdr.Header = bootFlag, bootparam.MagicSignature
	params.Hdr.CmdlinePtr, params.Hdr.RamdiskImage = 0x11223344, 0x55667788
	params.AddE820Entry(0x1234, 0x5678, bootparam.E820Ram)
	p, err := params.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	if len(p) > pageSize {
		t.Fatalf("boot parameters of %d bytes do not fit the zero page", len(p))
	}
	for _, f := range []struct {
		name   string
		offset int
		size   int
		want   uint64
	}{
		{"e820_entries", 0x1e8, 1, 1},
		{"boot_flag", 0x1fe, 2, bootFlag},
		{"header", 0x202, 4, bootparam.MagicSignature},
		{"ramdisk_image", 0x218, 4, 0x55667788},
		{"cmd_line_ptr", 0x228, 4, 0x11223344},
		{"e820_table[0].addr", 0x2d0, 8, 0x1234},
		{"e820_table[0].size", 0x2d8, 8, 0x5678},
		{"e820_table[0].type", 0x2e0, 4, bootparam.E820Ram},
	} {
		var b [8]byte
		copy(b[:], p[f.offset:f.offset+f.size])
		if got := binary.LittleEndian.Uint64(b[:]); got != f.want {
			t.Errorf("%s at %#x is %#x, want %#x", f.name, f.offset, got, f.want)
		}
	}
}
