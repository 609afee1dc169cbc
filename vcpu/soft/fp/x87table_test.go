package fp

import (
	"fmt"
	"strings"
	"testing"
)

// undefined lists the forms at which a real processor (AMD Zen 4) raises #UD, as opcode and range of ModRM bytes.
const undefined = "d9 08-0f;d9 d1-d7;d9 e2-e3;d9 e6-e7;d9 ef-ef;da e0-e8;da ea-ff;db 20-27;db 30-37;db e5-e7;db f8-ff;dd 28-2f;dd f0-ff;de d8-d8;de da-df;df e1-e7;df f8-ff"

func TestUndefinedForms(t *testing.T) {
	want := map[[2]uint8]bool{}
	for _, r := range strings.Split(undefined, ";") {
		var op, lo, hi int
		if _, err := fmt.Sscanf(r, "%x %x-%x", &op, &lo, &hi); err != nil {
			t.Fatal(err)
		}
		for m := lo; m <= hi; m++ {
			want[[2]uint8{uint8(op), uint8(m)}] = true
		}
	}
	for op := 0xd8; op <= 0xdf; op++ {
		for m := range 256 {
			key := [2]uint8{uint8(op), uint8(m)}
			if m < 0xc0 {
				key[1] &= 0x3f
			}
			if got := LookupX87(uint8(op), uint8(m)) == nil; got != want[key] {
				t.Errorf("%02x %02x: undefined is %v, on the processor %v", op, m, got, want[key])
			}
		}
	}
}
