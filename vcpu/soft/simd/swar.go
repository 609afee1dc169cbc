package simd

// Lane masks. H? has the sign bit of each lane, L? the lowest bit.
const (
	hB = 0x8080808080808080
	hW = 0x8000800080008000
	hD = 0x8000000080000000
	lB = 0x0101010101010101
	lW = 0x0001000100010001
	lD = 0x0000000100000001
)

// fill? turns sign bits (and nothing else) into whole-lane masks.
func fillB(c uint64) uint64 { return c >> 7 * 0xff }
func fillW(c uint64) uint64 { return c >> 15 * 0xffff }
func fillD(c uint64) uint64 { return c >> 31 * 0xffffffff }

// Sums and differences modulo the lane width: the sign bits are added without carry.
func addB(a, b uint64) uint64 { return (a&^hB + b&^hB) ^ (a^b)&hB }
func addW(a, b uint64) uint64 { return (a&^hW + b&^hW) ^ (a^b)&hW }
func addD(a, b uint64) uint64 { return (a&^hD + b&^hD) ^ (a^b)&hD }
func subB(a, b uint64) uint64 { return (a | hB - b&^hB) ^ ^(a^b)&hB }
func subW(a, b uint64) uint64 { return (a | hW - b&^hW) ^ ^(a^b)&hW }
func subD(a, b uint64) uint64 { return (a | hD - b&^hD) ^ ^(a^b)&hD }

// borrow marks, in the sign bit of each lane, whether a-b (difference d) needed a borrow, that is, a < b unsigned.
func borrow(a, b, d uint64) uint64 { return ^a&b | (^a|b)&d }

// carry marks in the same way whether a+b (sum s) carried.
func carry(a, b, s uint64) uint64 { return a&b | (a|b)&^s }

func addUSB(a, b uint64) uint64 { s := addB(a, b); return s | fillB(carry(a, b, s)&hB) }
func addUSW(a, b uint64) uint64 { s := addW(a, b); return s | fillW(carry(a, b, s)&hW) }
func subUSB(a, b uint64) uint64 { d := subB(a, b); return d &^ fillB(borrow(a, b, d)&hB) }
func subUSW(a, b uint64) uint64 { d := subW(a, b); return d &^ fillW(borrow(a, b, d)&hW) }
func subUSD(a, b uint64) uint64 { d := subD(a, b); return d &^ fillD(borrow(a, b, d)&hD) }

// Signed saturation: on overflow the result is 0x7f… plus the sign bit of a.
func addSB(a, b uint64) uint64 {
	s := addB(a, b)
	m := fillB(^(a ^ b) & (a ^ s) & hB)
	return s&^m | (a>>7&lB+^uint64(hB))&m
}

func addSW(a, b uint64) uint64 {
	s := addW(a, b)
	m := fillW(^(a ^ b) & (a ^ s) & hW)
	return s&^m | (a>>15&lW+^uint64(hW))&m
}

func subSB(a, b uint64) uint64 {
	d := subB(a, b)
	m := fillB((a ^ b) & (a ^ d) & hB)
	return d&^m | (a>>7&lB+^uint64(hB))&m
}

func subSW(a, b uint64) uint64 {
	d := subW(a, b)
	m := fillW((a ^ b) & (a ^ d) & hW)
	return d&^m | (a>>15&lW+^uint64(hW))&m
}

// Unsigned maximum is b + (a -sat b), minimum a - (a -sat b): no lane carries. Signed ones flip the sign bits first.
func maxUB(a, b uint64) uint64 { return b + subUSB(a, b) }
func maxUW(a, b uint64) uint64 { return b + subUSW(a, b) }
func maxUD(a, b uint64) uint64 { return b + subUSD(a, b) }
func minUB(a, b uint64) uint64 { return a - subUSB(a, b) }
func minUW(a, b uint64) uint64 { return a - subUSW(a, b) }
func minUD(a, b uint64) uint64 { return a - subUSD(a, b) }
func maxSB(a, b uint64) uint64 { return maxUB(a^hB, b^hB) ^ hB }
func maxSW(a, b uint64) uint64 { return maxUW(a^hW, b^hW) ^ hW }
func maxSD(a, b uint64) uint64 { return maxUD(a^hD, b^hD) ^ hD }
func minSB(a, b uint64) uint64 { return minUB(a^hB, b^hB) ^ hB }
func minSW(a, b uint64) uint64 { return minUW(a^hW, b^hW) ^ hW }
func minSD(a, b uint64) uint64 { return minUD(a^hD, b^hD) ^ hD }

// Comparisons give all-ones lanes. A lane is zero if neither its low bits carry into the sign bit nor the sign bit is set.
func eqB(a, b uint64) uint64 { x := a ^ b; return fillB(^(x&^hB + ^uint64(hB) | x) & hB) }
func eqW(a, b uint64) uint64 { x := a ^ b; return fillW(^(x&^hW + ^uint64(hW) | x) & hW) }
func eqD(a, b uint64) uint64 { x := a ^ b; return fillD(^(x&^hD + ^uint64(hD) | x) & hD) }

func gtB(a, b uint64) uint64 { a, b = a^hB, b^hB; return fillB(borrow(b, a, subB(b, a)) & hB) }
func gtW(a, b uint64) uint64 { a, b = a^hW, b^hW; return fillW(borrow(b, a, subW(b, a)) & hW) }
func gtD(a, b uint64) uint64 { a, b = a^hD, b^hD; return fillD(borrow(b, a, subD(b, a)) & hD) }

func eqQ(a, b uint64) uint64 {
	if a == b {
		return ^uint64(0)
	}
	return 0
}

func gtQ(a, b uint64) uint64 {
	if int64(a) > int64(b) {
		return ^uint64(0)
	}
	return 0
}

// Averages round up.
func avgB(a, b uint64) uint64 { return (a | b) - (a^b)>>1&^uint64(hB) }
func avgW(a, b uint64) uint64 { return (a | b) - (a^b)>>1&^uint64(hW) }

// negate lanes selected by the mask m.
func negB(a, m uint64) uint64 { return subB(a^m, m) }
func negW(a, m uint64) uint64 { return subW(a^m, m) }
func negD(a, m uint64) uint64 { return subD(a^m, m) }

func absB(a uint64) uint64 { return negB(a, fillB(a&hB)) }
func absW(a uint64) uint64 { return negW(a, fillW(a&hW)) }
func absD(a uint64) uint64 { return negD(a, fillD(a&hD)) }

// sign? gives a, 0 or -a by the sign of b.
func signB(a, b uint64) uint64 { return negB(a, fillB(b&hB)) &^ eqB(b, 0) }
func signW(a, b uint64) uint64 { return negW(a, fillW(b&hW)) &^ eqW(b, 0) }
func signD(a, b uint64) uint64 { return negD(a, fillD(b&hD)) &^ eqD(b, 0) }

// word returns 16-bit lane i of x, signed.
func word(x uint64, i uint) int32 { return int32(int16(x >> (16 * i))) }

func mulLW(a, b uint64) uint64 {
	return uint64(uint16(a)*uint16(b)) | uint64(uint16(a>>16)*uint16(b>>16))<<16 |
		uint64(uint16(a>>32)*uint16(b>>32))<<32 | uint64(uint16(a>>48)*uint16(b>>48))<<48
}

func mulHW(a, b uint64) (r uint64) {
	for i := uint(0); i < 4; i++ {
		r |= uint64(uint16(word(a, i)*word(b, i)>>16)) << (16 * i)
	}
	return r
}

func mulHUW(a, b uint64) (r uint64) {
	for i := uint(0); i < 64; i += 16 {
		r |= uint64(uint32(uint16(a>>i))*uint32(uint16(b>>i))>>16) << i
	}
	return r
}

// mulHRSW is the rounded high half of the product shifted left by one.
func mulHRSW(a, b uint64) (r uint64) {
	for i := uint(0); i < 4; i++ {
		r |= uint64(uint16((word(a, i)*word(b, i)>>14+1)>>1)) << (16 * i)
	}
	return r
}

func mulLD(a, b uint64) uint64 {
	return uint64(uint32(a)*uint32(b)) | uint64(uint32(a>>32)*uint32(b>>32))<<32
}

func maddWD(a, b uint64) uint64 {
	lo := uint32(word(a, 0)*word(b, 0)) + uint32(word(a, 1)*word(b, 1))
	hi := uint32(word(a, 2)*word(b, 2)) + uint32(word(a, 3)*word(b, 3))
	return uint64(lo) | uint64(hi)<<32
}

// maddUBSW multiplies unsigned bytes of a by signed bytes of b and adds pairs with saturation.
func maddUBSW(a, b uint64) (r uint64) {
	for i := uint(0); i < 64; i += 16 {
		s := int32(uint8(a>>i))*int32(int8(b>>i)) + int32(uint8(a>>(i+8)))*int32(int8(b>>(i+8)))
		r |= uint64(uint16(saturate(s, -1<<15, 1<<15-1))) << i
	}
	return r
}

func saturate(v, lo, hi int32) int32 { return max(lo, min(v, hi)) }

// sadB sums the absolute differences of the bytes.
func sadB(a, b uint64) uint64 {
	d := subUSB(a, b) | subUSB(b, a)
	d = d&0x00ff00ff00ff00ff + d>>8&0x00ff00ff00ff00ff
	return d * lW >> 48
}

// moveMaskB gathers the sign bits of the bytes.
func moveMaskB(a uint64) uint64 { return (a & hB) * 0x0002040810204081 >> 56 }

// pack? narrow the lanes of one word, with saturation, into the low half of the result.
func packSSWB(a uint64) (r uint64) {
	for i := uint(0); i < 4; i++ {
		r |= uint64(uint8(saturate(word(a, i), -128, 127))) << (8 * i)
	}
	return r
}

func packUSWB(a uint64) uint64 {
	a &^= fillW(a & hW)             // negative: 0
	over := a &^ 0x00ff00ff00ff00ff // above 255
	a = (a | ^eqW(over, 0)) & 0x00ff00ff00ff00ff
	a = (a | a>>8) & 0x0000ffff0000ffff
	return uint64(uint32(a | a>>16))
}

func packSSDW(a uint64) uint64 {
	lo, hi := saturate(int32(a), -1<<15, 1<<15-1), saturate(int32(a>>32), -1<<15, 1<<15-1)
	return uint64(uint16(lo)) | uint64(uint16(hi))<<16
}

func packUSDW(a uint64) uint64 {
	lo, hi := saturate(int32(a), 0, 1<<16-1), saturate(int32(a>>32), 0, 1<<16-1)
	return uint64(lo) | uint64(hi)<<16
}

// spreadB and spreadW put the lanes of the low half at the bottom of lanes twice as wide.
func spreadB(x uint64) uint64 {
	x = uint64(uint32(x))
	x = (x | x<<16) & 0x0000ffff0000ffff
	return (x | x<<8) & 0x00ff00ff00ff00ff
}

func spreadW(x uint64) uint64 {
	x = uint64(uint32(x))
	return (x | x<<16) & 0x0000ffff0000ffff
}

// mix? interleave the low halves of a and b, a first.
func mixB(a, b uint64) uint64 { return spreadB(a) | spreadB(b)<<8 }
func mixW(a, b uint64) uint64 { return spreadW(a) | spreadW(b)<<16 }
func mixD(a, b uint64) uint64 { return uint64(uint32(a)) | b<<32 }

// Shifts of every lane by n, less than the lane width.
func srlW(a uint64, n uint) uint64 { return a >> n & (0xffff >> n * lW) }
func srlD(a uint64, n uint) uint64 { return a >> n & (0xffffffff >> n * lD) }
func sllW(a uint64, n uint) uint64 { return a << n &^ ((1<<n - 1) * lW) }
func sllD(a uint64, n uint) uint64 { return a << n &^ ((1<<n - 1) * lD) }
func sraW(a uint64, n uint) uint64 { return srlW(a, n) | fillW(a&hW)&^(0xffff>>n*lW) }
func sraD(a uint64, n uint) uint64 { return srlD(a, n) | fillD(a&hD)&^(0xffffffff>>n*lD) }

// hadd? add (or subtract) adjacent lanes of one word into the low half of the result.
func haddW(a uint64) uint64 {
	return uint64(uint16(a)+uint16(a>>16)) | uint64(uint16(a>>32)+uint16(a>>48))<<16
}

func hsubW(a uint64) uint64 {
	return uint64(uint16(a)-uint16(a>>16)) | uint64(uint16(a>>32)-uint16(a>>48))<<16
}

func haddD(a uint64) uint64 { return uint64(uint32(a) + uint32(a>>32)) }
func hsubD(a uint64) uint64 { return uint64(uint32(a) - uint32(a>>32)) }

func haddSW(a uint64) uint64 { s := addSW(a, a>>16); return uint64(uint16(s)) | s>>16&0xffff0000 }
func hsubSW(a uint64) uint64 { s := subSW(a, a>>16); return uint64(uint16(s)) | s>>16&0xffff0000 }
