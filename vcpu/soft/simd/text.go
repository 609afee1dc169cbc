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

// elements unpacks a vector into 16 or 8 numbers.
func elements(v *Vec, imm uint8) (e [16]int32, n int) {
	n = 16
	if imm&1 != 0 {
		n = 8
	}
	for i := range n {
		switch imm & 3 {
		case 0:
			e[i] = int32(uint8(extract(v, uint(i), 8)))
		case 1:
			e[i] = int32(uint16(extract(v, uint(i), 16)))
		case 2:
			e[i] = int32(int8(extract(v, uint(i), 8)))
		case 3:
			e[i] = int32(int16(extract(v, uint(i), 16)))
		}
	}
	return e, n
}

// aggregate computes IntRes1: bit j tells about element j of b (src), for the la and lb valid elements of a (dst) and b.
func aggregate(a, b *[16]int32, la, lb, n int, imm uint8) (res uint32) {
	for j := range n {
		if hit(a, b, la, lb, n, j, imm>>2&3) {
			res |= 1 << j
		}
	}
	return res
}

// hit evaluates one element of src under an aggregation. Comparisons with invalid elements are overridden as in SDM table 4-3.
func hit(a, b *[16]int32, la, lb, n, j int, aggregation uint8) bool {
	switch aggregation {
	case 0: // equal any: b[j] is in the set a
		for i := 0; i < la; i++ {
			if j < lb && a[i] == b[j] {
				return true
			}
		}
		return false
	case 1: // ranges: b[j] lies in one of the ranges a[0]..a[1], a[2]..a[3]
		for i := 0; i+1 < la; i += 2 {
			if j < lb && b[j] >= a[i] && b[j] <= a[i+1] {
				return true
			}
		}
		return false
	case 2: // equal each
		return j >= la && j >= lb || j < la && j < lb && a[j] == b[j]
	}
	for i := 0; i < la && j+i < n; i++ { // equal ordered: a occurs in b at j
		if j+i >= lb || a[i] != b[j+i] {
			return false
		}
	}
	return true
}

// compareStrings computes IntRes2 and leaves the flags in e.
func compareStrings(d, s *Vec, imm uint8, la, lb int, e *fp.Env) (res uint32, n int) {
	a, n := elements(d, imm)
	b, _ := elements(s, imm)
	res = aggregate(&a, &b, la, lb, n, imm)
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
	n := int64(16)
	if imm&1 != 0 {
		n = 8
	}
	if v < -n || v > n {
		return int(n)
	}
	return int(max(v, -v))
}

// implicitLength counts the elements before the first zero.
func implicitLength(v *Vec, imm uint8) int {
	e, n := elements(v, imm)
	for i := range n {
		if e[i] == 0 {
			return i
		}
	}
	return n
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
