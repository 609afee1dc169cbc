package simd

import (
	"math/bits"

	"github.com/detvm/detvm/vcpu/soft/fp"
)

// The string comparisons PCMPESTRI, PCMPESTRM, PCMPISTRI and PCMPISTRM (SDM vol. 2, section 4.1). Their immediate holds:
//
//	1:0 element: unsigned byte, unsigned word, signed byte, signed word
//	3:2 aggregation: equal any, ranges, equal each, equal ordered
//	5:4 polarity: +, -, +, - only where src is valid
//	6   index: least or most significant; mask: bits or elements

// count is the number of elements.
func count(imm uint8) int { return 16 >> (imm & 1) }

// element returns element i as a number.
func element(v *Vec, i int, imm uint8) int32 {
	switch imm & 3 {
	case 0:
		return int32(uint8(extract(v, uint(i), 8)))
	case 1:
		return int32(uint16(extract(v, uint(i), 16)))
	case 2:
		return int32(int8(extract(v, uint(i), 8)))
	}
	return int32(int16(extract(v, uint(i), 16)))
}

// equals has a bit for each element of b that equals element i of a.
func equals(a, b *Vec, i int, imm uint8) uint32 {
	if imm&1 == 0 {
		x := extract(a, uint(i), 8) * lB
		return uint32(moveMaskB(eqB(b[0], x)) | moveMaskB(eqB(b[1], x))<<8)
	}
	x := extract(a, uint(i), 16) * lW
	return wordMask(eqW(b[0], x), eqW(b[1], x))
}

// wordMask has a bit for each all-ones word.
func wordMask(lo, hi uint64) uint32 { return uint32(moveMaskB(packSSWB(lo) | packSSWB(hi)<<32)) }

// aggregate computes IntRes1: bit j tells about element j of b (src), for the la and lb valid elements of a (dst) and b. Comparisons
// with invalid elements are overridden as in SDM table 4-3.
func aggregate(a, b *Vec, la, lb int, imm uint8) (res uint32) {
	all := uint32(1)<<count(imm) - 1
	validA, validB := uint32(1)<<la-1, uint32(1)<<lb-1
	switch imm >> 2 & 3 {
	case 0: // equal any: b[j] is in the set a
		for i := range la {
			res |= equals(a, b, i, imm)
		}
		return res & validB
	case 1: // ranges: b[j] lies in one of the ranges a[0]..a[1], a[2]..a[3]
		for j := range lb {
			x := element(b, j, imm)
			for i := 0; i+1 < la; i += 2 {
				if x >= element(a, i, imm) && x <= element(a, i+1, imm) {
					res |= 1 << j
				}
			}
		}
		return res
	case 2: // equal each
		if imm&1 == 0 {
			res = uint32(moveMaskB(eqB(a[0], b[0])) | moveMaskB(eqB(a[1], b[1]))<<8)
		} else {
			res = wordMask(eqW(a[0], b[0]), eqW(a[1], b[1]))
		}
		return res&validA&validB | all&^(validA|validB)
	}
	res = all // equal ordered: a occurs in b at j, as far as b reaches
	for i := range la {
		res &= equals(a, b, i, imm)&validB>>i | all&^(all>>i)
	}
	return res
}

// compareStrings computes IntRes2 and leaves the flags in e.
func compareStrings(d, s *Vec, imm uint8, la, lb int, e *fp.Env) (res uint32, n int) {
	n = count(imm)
	res = aggregate(d, s, la, lb, imm)
	all := uint32(1)<<n - 1
	switch imm >> 4 & 3 {
	case 1:
		res ^= all
	case 3:
		res ^= 1<<lb - 1
	}
	e.EFLAGS = 0
	if res != 0 {
		e.EFLAGS |= fp.CF
	}
	if lb < n {
		e.EFLAGS |= fp.ZF
	}
	if la < n {
		e.EFLAGS |= fp.SF
	}
	if res&1 != 0 {
		e.EFLAGS |= fp.OF
	}
	return res, n
}

func stringIndex(d *Vec, res uint32, n int, imm uint8) {
	i := n
	if res != 0 {
		i = bits.TrailingZeros32(res)
		if imm>>6&1 != 0 {
			i = 31 - bits.LeadingZeros32(res)
		}
	}
	*d = Vec{uint64(i), 0}
}

func stringMask(d *Vec, res uint32, n int, imm uint8) {
	if imm>>6&1 == 0 {
		*d = Vec{uint64(res), 0}
		return
	}
	*d = Vec{}
	for i := range n {
		if res>>i&1 != 0 {
			insert(d, uint(i), uint(128/n), ^uint64(0))
		}
	}
}

// explicitLength is the absolute value of a length, at most the number of elements.
func explicitLength(v int64, imm uint8) int {
	n := int64(count(imm))
	if v < -n || v > n {
		return int(n)
	}
	return int(max(v, -v))
}

// implicitLength counts the elements before the first zero.
func implicitLength(v *Vec, imm uint8) int {
	var null Vec
	return min(bits.TrailingZeros32(equals(&null, v, 0, imm)), count(imm))
}

// In these rows the comparison's first operand is ModRM.reg and the second r/m, while the result goes to ECX or XMM0: dst enters holding
// the first operand and leaves holding the result.

func pcmpestri(d, s *Vec, imm uint8, e *fp.Env) {
	res, n := compareStrings(d, s, imm, explicitLength(e.Len1, imm), explicitLength(e.Len2, imm), e)
	stringIndex(d, res, n, imm)
}

func pcmpestrm(d, s *Vec, imm uint8, e *fp.Env) {
	res, n := compareStrings(d, s, imm, explicitLength(e.Len1, imm), explicitLength(e.Len2, imm), e)
	stringMask(d, res, n, imm)
}

func pcmpistri(d, s *Vec, imm uint8, e *fp.Env) {
	res, n := compareStrings(d, s, imm, implicitLength(d, imm), implicitLength(s, imm), e)
	stringIndex(d, res, n, imm)
}

func pcmpistrm(d, s *Vec, imm uint8, e *fp.Env) {
	res, n := compareStrings(d, s, imm, implicitLength(d, imm), implicitLength(s, imm), e)
	stringMask(d, res, n, imm)
}
