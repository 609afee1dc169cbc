package simd

import (
	"hash/crc32"

	"github.com/detvm/detvm/vcpu/soft/fp"
)

// castagnoli[0] is the bitwise-reflected table of polynomial 11EDC6F41H, which CRC32 uses without inverting anything; castagnoli[k] advances
// a byte over k more zero bytes, so that eight bytes take eight independent look-ups.
var castagnoli = crcTables()

func crcTables() (t [8]crc32.Table) {
	t[0] = *crc32.MakeTable(crc32.Castagnoli)
	for k := 1; k < 8; k++ {
		for i, v := range t[k-1] {
			t[k][i] = v>>8 ^ t[0][uint8(v)]
		}
	}
	return t
}

// crc feeds n bytes of x, lowest first, to the CRC.
func crc(sum uint32, x uint64, n int) uint32 {
	for ; n > 0; n-- {
		sum = castagnoli[0][uint8(sum)^uint8(x)] ^ sum>>8
		x >>= 8
	}
	return sum
}

// crcWord feeds eight bytes.
func crcWord(sum uint32, x uint64) uint32 {
	x ^= uint64(sum)
	return castagnoli[7][uint8(x)] ^ castagnoli[6][uint8(x>>8)] ^ castagnoli[5][uint8(x>>16)] ^ castagnoli[4][uint8(x>>24)] ^
		castagnoli[3][uint8(x>>32)] ^ castagnoli[2][uint8(x>>40)] ^ castagnoli[1][uint8(x>>48)] ^ castagnoli[0][uint8(x>>56)]
}

func crc8(d, s *Vec, _ uint8, _ *fp.Env)   { *d = Vec{uint64(crc(uint32(d[0]), s[0], 1)), 0} }
func crc16(d, s *Vec, _ uint8, _ *fp.Env)  { *d = Vec{uint64(crc(uint32(d[0]), s[0], 2)), 0} }
func crc32l(d, s *Vec, _ uint8, _ *fp.Env) { *d = Vec{uint64(crc(uint32(d[0]), s[0], 4)), 0} }
func crc64(d, s *Vec, _ uint8, _ *fp.Env)  { *d = Vec{uint64(crcWord(uint32(d[0]), s[0])), 0} }
