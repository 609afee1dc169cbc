package simd

import (
	"hash/crc32"

	"github.com/detvm/detvm/vcpu/soft/fp"
)

// castagnoli is the bitwise-reflected table of polynomial 11EDC6F41H, which CRC32 uses without inverting anything.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// crc feeds n bytes of x, lowest first, to the CRC.
func crc(sum uint32, x uint64, n int) uint32 {
	for ; n > 0; n-- {
		sum = castagnoli[uint8(sum)^uint8(x)] ^ sum>>8
		x >>= 8
	}
	return sum
}

func crc8(d, s *Vec, _ uint8, _ *fp.Env)   { *d = Vec{uint64(crc(uint32(d[0]), s[0], 1)), 0} }
func crc16(d, s *Vec, _ uint8, _ *fp.Env)  { *d = Vec{uint64(crc(uint32(d[0]), s[0], 2)), 0} }
func crc32l(d, s *Vec, _ uint8, _ *fp.Env) { *d = Vec{uint64(crc(uint32(d[0]), s[0], 4)), 0} }
func crc64(d, s *Vec, _ uint8, _ *fp.Env)  { *d = Vec{uint64(crc(uint32(d[0]), s[0], 8)), 0} }
