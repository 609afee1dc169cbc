package simd

import (
	"testing"
	"testing/quick"
)

// unalignedNames are the instructions whose 16-byte memory operand may be anywhere; for all others misalignment is #GP (SDM vol. 1, 4.1.1).
var unalignedNames = map[string]bool{
	"MOVUPS": true, "MOVUPD": true, "MOVDQU": true, "LDDQU": true, "PCMPESTRI": true, "PCMPESTRM": true, "PCMPISTRI": true, "PCMPISTRM": true,
}

func TestRowsAreConsistent(t *testing.T) {
	for i := range Table {
		op := &Table[i]
		if op.Fn == nil {
			t.Errorf("%s has no function", op.Name)
		}
		if got, want := op.Aligned, op.MemSize == 16 && !unalignedNames[op.Name]; got != want {
			t.Errorf("%s: aligned is %v", op.Name, got)
		}
		if op.Mod == RegOnly && op.MemSize != 0 || op.Mod == MemOnly && op.MemSize == 0 {
			t.Errorf("%s: mod %d with memory size %d", op.Name, op.Mod, op.MemSize)
		}
		if (op.Map == Map0F3A) && !op.Imm {
			t.Errorf("%s has no immediate", op.Name)
		}
	}
}

func TestLookupFindsEveryRow(t *testing.T) {
	for i := range Table {
		op := &Table[i]
		modrm := uint8(0)
		if op.Mod != MemOnly {
			modrm = 0xc0
		}
		if op.Ext > 0 {
			modrm |= uint8(op.Ext) << 3
		}
		if got := Lookup(op.Map, op.Prefix, op.Opcode, modrm, op.W == W1, op.W == W16); got != op {
			t.Errorf("%s is found as %v", op.Name, got)
		}
		if !Has(op.Map, op.Opcode) {
			t.Errorf("%s: its opcode is not in its map", op.Name)
		}
	}
	if op := Lookup(Map0F, NP, 0x13, 0xc0, false, false); op != nil {
		t.Errorf("MOVLPS with two registers is found as %s", op.Name)
	}
}

// TestCRC32CheckValue checks against the published check value of CRC-32C: the sum of "123456789".
func TestCRC32CheckValue(t *testing.T) {
	sum := uint32(0xffffffff)
	for _, c := range []byte("123456789") {
		sum = crc(sum, uint64(c), 1)
	}
	if ^sum != 0xe3069283 {
		t.Errorf("CRC is %#x", ^sum)
	}
}

// lanesAgree checks a SWAR function against its definition on one lane.
func lanesAgree(t *testing.T, name string, width uint, f, lane func(a, b uint64) uint64) {
	mask := uint64(1)<<width - 1
	check := func(a, b uint64) bool {
		for n := uint(0); n < 64; n += width {
			if f(a, b)>>n&mask != lane(a>>n&mask, b>>n&mask)&mask {
				return false
			}
		}
		return true
	}
	if err := quick.Check(check, nil); err != nil {
		t.Errorf("%s: %v", name, err)
	}
}

func TestLanes(t *testing.T) {
	truth := func(b bool) uint64 {
		if b {
			return ^uint64(0)
		}
		return 0
	}
	clamp := func(v, lo, hi int64) uint64 { return uint64(max(lo, min(v, hi))) }
	lanesAgree(t, "addB", 8, addB, func(a, b uint64) uint64 { return a + b })
	lanesAgree(t, "subW", 16, subW, func(a, b uint64) uint64 { return a - b })
	lanesAgree(t, "addUSB", 8, addUSB, func(a, b uint64) uint64 { return min(a+b, 255) })
	lanesAgree(t, "subUSW", 16, subUSW, func(a, b uint64) uint64 { return clamp(int64(a)-int64(b), 0, 65535) })
	lanesAgree(t, "addSB", 8, addSB, func(a, b uint64) uint64 { return clamp(int64(int8(a))+int64(int8(b)), -128, 127) })
	lanesAgree(t, "subSW", 16, subSW, func(a, b uint64) uint64 { return clamp(int64(int16(a))-int64(int16(b)), -32768, 32767) })
	lanesAgree(t, "maxSD", 32, maxSD, func(a, b uint64) uint64 { return uint64(max(int32(a), int32(b))) })
	lanesAgree(t, "minUB", 8, minUB, func(a, b uint64) uint64 { return min(a, b) })
	lanesAgree(t, "eqB", 8, eqB, func(a, b uint64) uint64 { return truth(a == b) })
	lanesAgree(t, "eqB of sparse", 8, func(a, b uint64) uint64 { return eqB(a&b&lB, 0) }, func(a, b uint64) uint64 { return truth(a&b&1 == 0) })
	lanesAgree(t, "gtW", 16, gtW, func(a, b uint64) uint64 { return truth(int16(a) > int16(b)) })
	lanesAgree(t, "avgB", 8, avgB, func(a, b uint64) uint64 { return (a + b + 1) / 2 })
	lanesAgree(t, "signW", 16, signW, func(a, b uint64) uint64 {
		switch {
		case int16(b) < 0:
			return -a
		case b == 0:
			return 0
		}
		return a
	})
}
