package vcpu

import (
	"encoding/binary"
	"reflect"
	"testing"

	"pgregory.net/rapid"
)

func TestStateSurvivesItsEncoding(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := rapid.SliceOfN(rapid.Byte(), StateSize, StateSize).Draw(t, "bytes")
		var s, again State
		if err := s.UnmarshalBinary(p); err != nil {
			t.Fatal(err)
		}
		q, err := s.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		if err := again.UnmarshalBinary(q); err != nil || !reflect.DeepEqual(s, again) {
			t.Fatalf("state changed on its way through the encoding: %v", err)
		}
	})
}

func TestStateOfTheWrongLengthIsRefused(t *testing.T) {
	var s State
	for _, n := range []int{0, StateSize - 1, StateSize + 1} {
		if err := s.UnmarshalBinary(make([]byte, n)); err == nil {
			t.Errorf("%d bytes were accepted", n)
		}
	}
}

// The model is frozen: what a guest sees may not change under a name that traces and snapshots carry.
func TestDetvmV1ShowsTheFrozenModel(t *testing.T) {
	text := func(words ...uint32) string {
		var p []byte
		for _, w := range words {
			p = binary.LittleEndian.AppendUint32(p, w)
		}
		return string(p)
	}
	for _, tsc := range []bool{false, true} {
		table := DetvmV1(tsc)
		_, b, c, d := LookupCPUID(table, 0, 0)
		if got := text(b, d, c); got != "GenuineIntel" {
			t.Errorf("vendor %q", got)
		}
		_, b, c, d = LookupCPUID(table, 0x40000100, 0)
		if got := text(b, c, d); got != "detvmdetvm\x00\x00" {
			t.Errorf("signature %q", got)
		}
		_, _, ecx, edx := LookupCPUID(table, 1, 0)
		for _, f := range []struct {
			name string
			word uint32
			bit  uint
			want bool
		}{
			{"SSE3", ecx, 0, true}, {"SSSE3", ecx, 9, true}, {"FMA", ecx, 12, false}, {"CX16", ecx, 13, true}, {"SSE4.1", ecx, 19, true}, {"SSE4.2", ecx, 20, true},
			{"x2APIC", ecx, 21, false}, {"POPCNT", ecx, 23, true}, {"TSC-deadline", ecx, 24, false}, {"AES", ecx, 25, false}, {"XSAVE", ecx, 26, false},
			{"AVX", ecx, 28, false}, {"RDRAND", ecx, 30, false}, {"hypervisor", ecx, 31, true},
			{"APIC", edx, 9, false}, {"FXSR", edx, 24, true}, {"SSE2", edx, 26, true},
		} {
			if got := f.word>>f.bit&1 == 1; got != f.want {
				t.Errorf("%s is %v, want %v", f.name, got, f.want)
			}
		}
		if a, _, _, _ := LookupCPUID(table, 0x40000101, 0); a>>1&1 == 1 != tsc {
			t.Errorf("RDTSC is virtual time: %#x, want %v", a, tsc)
		}
		if a, b, c, d := LookupCPUID(table, 0xd, 0); a|b|c|d != 0 {
			t.Error("a leaf that is not in the model does not answer zeros")
		}
	}
}
