package simd

import (
	"encoding/binary"
	"math/bits"

	"github.com/detvm/detvm/vcpu/soft/fp"
)

const low32 = 0xffffffff

// Moves. Loads zero-extend into src, so that a load and a full register move are the same function.

func mov(d, s *Vec, _ uint8, _ *fp.Env)    { *d = *s }
func movLow(d, s *Vec, _ uint8, _ *fp.Env) { *d = Vec{s[0], 0} }
func mov32(d, s *Vec, _ uint8, _ *fp.Env)  { *d = Vec{s[0] & low32, 0} }

func movss(d, s *Vec, _ uint8, _ *fp.Env)     { d[0] = d[0]&^low32 | s[0]&low32 }
func movsd(d, s *Vec, _ uint8, _ *fp.Env)     { d[0] = s[0] }
func movhlps(d, s *Vec, _ uint8, _ *fp.Env)   { d[0] = s[1] }
func movlhps(d, s *Vec, _ uint8, _ *fp.Env)   { d[1] = s[0] }
func storeHigh(d, s *Vec, _ uint8, _ *fp.Env) { *d = Vec{s[1], 0} }

func movddup(d, s *Vec, _ uint8, _ *fp.Env) { *d = Vec{s[0], s[0]} }
func movsldup(d, s *Vec, _ uint8, _ *fp.Env) {
	*d = Vec{s[0] & low32 * (1<<32 + 1), s[1] & low32 * (1<<32 + 1)}
}
func movshdup(d, s *Vec, _ uint8, _ *fp.Env) {
	*d = Vec{s[0] >> 32 * (1<<32 + 1), s[1] >> 32 * (1<<32 + 1)}
}

// Masks of sign bits.

func movmskps(d, s *Vec, _ uint8, _ *fp.Env) {
	*d = Vec{s[0]>>31&1 | s[0]>>63<<1 | s[1]>>31&1<<2 | s[1]>>63<<3, 0}
}

func movmskpd(d, s *Vec, _ uint8, _ *fp.Env)    { *d = Vec{s[0]>>63 | s[1]>>63<<1, 0} }
func pmovmskb(d, s *Vec, _ uint8, _ *fp.Env)    { *d = Vec{moveMaskB(s[0]) | moveMaskB(s[1])<<8, 0} }
func pmovmskbMMX(d, s *Vec, _ uint8, _ *fp.Env) { *d = Vec{moveMaskB(s[0]), 0} }

// byteMask gives the bytes that MASKMOVQ and MASKMOVDQU write.
func byteMask(d, s *Vec, _ uint8, _ *fp.Env) { *d = Vec{fillB(s[0] & hB), fillB(s[1] & hB)} }

// Shuffles.

func dword(v *Vec, i uint8) uint64 { return v[i>>1&1] >> (i & 1 * 32) & low32 }

func pshufd(d, s *Vec, imm uint8, _ *fp.Env) {
	t := *s
	d[0] = dword(&t, imm&3) | dword(&t, imm>>2&3)<<32
	d[1] = dword(&t, imm>>4&3) | dword(&t, imm>>6)<<32
}

// shuffleW picks four words of x by the 2-bit fields of imm.
func shuffleW(x uint64, imm uint8) uint64 {
	pick := func(i uint8) uint64 { return x >> (i & 3 * 16) & 0xffff }
	return pick(imm) | pick(imm>>2)<<16 | pick(imm>>4)<<32 | pick(imm>>6)<<48
}

func pshufw(d, s *Vec, imm uint8, _ *fp.Env)  { d[0] = shuffleW(s[0], imm) }
func pshuflw(d, s *Vec, imm uint8, _ *fp.Env) { d[0], d[1] = shuffleW(s[0], imm), s[1] }
func pshufhw(d, s *Vec, imm uint8, _ *fp.Env) { d[0], d[1] = s[0], shuffleW(s[1], imm) }

func shufps(d, s *Vec, imm uint8, _ *fp.Env) {
	lo := dword(d, imm&3) | dword(d, imm>>2&3)<<32
	hi := dword(s, imm>>4&3) | dword(s, imm>>6)<<32
	d[0], d[1] = lo, hi
}

func shufpd(d, s *Vec, imm uint8, _ *fp.Env) { d[0], d[1] = d[imm&1], s[imm>>1&1] }

func unpcklps(d, s *Vec, _ uint8, _ *fp.Env) {
	d[0], d[1] = mixD(d[0], s[0]), mixD(d[0]>>32, s[0]>>32)
}

func unpckhps(d, s *Vec, _ uint8, _ *fp.Env) {
	d[0], d[1] = mixD(d[1], s[1]), mixD(d[1]>>32, s[1]>>32)
}

func pshufb(d, s *Vec, _ uint8, _ *fp.Env) {
	var t [16]uint8
	binary.LittleEndian.PutUint64(t[:8], d[0])
	binary.LittleEndian.PutUint64(t[8:], d[1])
	lo, hi := s[0], s[1]
	d[0], d[1] = pickBytes(&t, lo, 15), pickBytes(&t, hi, 15)
}

func pshufbMMX(d, s *Vec, _ uint8, _ *fp.Env) {
	var t [16]uint8
	binary.LittleEndian.PutUint64(t[:8], d[0])
	d[0] = pickBytes(&t, s[0], 7)
}

// pickBytes looks up eight bytes by the low bits of the control bytes; those with the high bit set give zero.
func pickBytes(t *[16]uint8, control uint64, mask uint8) uint64 {
	pick := func(n uint) uint64 { return uint64(t[uint8(control>>n)&mask&15]) << n }
	r := pick(0) | pick(8) | pick(16) | pick(24) | pick(32) | pick(40) | pick(48) | pick(56)
	return r &^ fillB(control&hB)
}

// palignr takes 16 bytes from dst:src (dst above) at byte imm.
func palignr(d, s *Vec, imm uint8, _ *fp.Env) {
	all := [6]uint64{s[0], s[1], d[0], d[1]}
	if imm >= 32 {
		*d = Vec{}
		return
	}
	i, n := imm>>3, uint(imm&7)*8
	d[0] = all[i]>>n | all[i+1]<<(64-n)
	d[1] = all[i+1]>>n | all[i+2]<<(64-n)
}

func palignrMMX(d, s *Vec, imm uint8, _ *fp.Env) {
	n := uint(imm) * 8
	switch {
	case n < 64:
		d[0] = s[0]>>n | d[0]<<(64-n)
	default:
		d[0] >>= n - 64
	}
}

func psrldq(d, _ *Vec, imm uint8, _ *fp.Env) {
	n := uint(imm) * 8
	if n >= 64 {
		*d = Vec{d[1] >> (n - 64), 0}
		return
	}
	*d = Vec{d[0]>>n | d[1]<<(64-n), d[1] >> n}
}

func pslldq(d, _ *Vec, imm uint8, _ *fp.Env) {
	n := uint(imm) * 8
	if n >= 64 {
		*d = Vec{0, d[0] << (n - 64)}
		return
	}
	*d = Vec{d[0] << n, d[1]<<n | d[0]>>(64-n)}
}

// Extensions of the low lanes of src.

func pmovsxbw(d, s *Vec, _ uint8, _ *fp.Env) { x := s[0]; *d = Vec{signExtBW(x), signExtBW(x >> 32)} }
func pmovsxwd(d, s *Vec, _ uint8, _ *fp.Env) { x := s[0]; *d = Vec{signExtWD(x), signExtWD(x >> 32)} }
func pmovsxbd(d, s *Vec, _ uint8, _ *fp.Env) {
	x := s[0]
	*d = Vec{signExtWD(signExtBW(x)), signExtWD(signExtBW(x) >> 32)}
}
func pmovsxbq(d, s *Vec, _ uint8, _ *fp.Env) {
	x := s[0]
	*d = Vec{uint64(int8(x)), uint64(int8(x >> 8))}
}
func pmovsxwq(d, s *Vec, _ uint8, _ *fp.Env) {
	x := s[0]
	*d = Vec{uint64(int16(x)), uint64(int16(x >> 16))}
}
func pmovsxdq(d, s *Vec, _ uint8, _ *fp.Env) {
	x := s[0]
	*d = Vec{uint64(int32(x)), uint64(int32(x >> 32))}
}

func pmovzxbw(d, s *Vec, _ uint8, _ *fp.Env) { x := s[0]; *d = Vec{spreadB(x), spreadB(x >> 32)} }
func pmovzxwd(d, s *Vec, _ uint8, _ *fp.Env) { x := s[0]; *d = Vec{spreadW(x), spreadW(x >> 32)} }
func pmovzxbd(d, s *Vec, _ uint8, _ *fp.Env) {
	x := s[0]
	*d = Vec{spreadW(spreadB(x)), spreadW(spreadB(x) >> 32)}
}
func pmovzxbq(d, s *Vec, _ uint8, _ *fp.Env) { x := s[0]; *d = Vec{x & 0xff, x >> 8 & 0xff} }
func pmovzxwq(d, s *Vec, _ uint8, _ *fp.Env) { x := s[0]; *d = Vec{x & 0xffff, x >> 16 & 0xffff} }
func pmovzxdq(d, s *Vec, _ uint8, _ *fp.Env) { x := s[0]; *d = Vec{x & low32, x >> 32} }

// signExtBW and signExtWD widen the low half of a word with sign.
func signExtBW(x uint64) uint64 { x = spreadB(x); return x | fillB(x&(0x80*lW))<<8 }
func signExtWD(x uint64) uint64 { x = spreadW(x); return x | fillW(x&(0x8000*lD))<<16 }

// Inserts and extracts.

func insert(v *Vec, lane, width uint, x uint64) {
	mask := uint64(1)<<width - 1
	bit := lane * width
	w, n := bit>>6&1, bit&63
	v[w] = v[w]&^(mask<<n) | x&mask<<n
}

func extract(v *Vec, lane, width uint) uint64 {
	bit := lane * width
	return v[bit>>6&1] >> (bit & 63) & (1<<width - 1)
}

func pinsrb(d, s *Vec, imm uint8, _ *fp.Env)    { insert(d, uint(imm&15), 8, s[0]) }
func pinsrw(d, s *Vec, imm uint8, _ *fp.Env)    { insert(d, uint(imm&7), 16, s[0]) }
func pinsrwMMX(d, s *Vec, imm uint8, _ *fp.Env) { insert(d, uint(imm&3), 16, s[0]) }
func pinsrd(d, s *Vec, imm uint8, _ *fp.Env)    { insert(d, uint(imm&3), 32, s[0]) }
func pinsrq(d, s *Vec, imm uint8, _ *fp.Env)    { d[imm&1] = s[0] }
func pextrb(d, s *Vec, imm uint8, _ *fp.Env)    { *d = Vec{extract(s, uint(imm&15), 8), 0} }
func pextrw(d, s *Vec, imm uint8, _ *fp.Env)    { *d = Vec{extract(s, uint(imm&7), 16), 0} }
func pextrwMMX(d, s *Vec, imm uint8, _ *fp.Env) { *d = Vec{extract(s, uint(imm&3), 16), 0} }
func pextrd(d, s *Vec, imm uint8, _ *fp.Env)    { *d = Vec{extract(s, uint(imm&3), 32), 0} }
func pextrq(d, s *Vec, imm uint8, _ *fp.Env)    { *d = Vec{s[imm&1], 0} }

// insertps takes lane imm[7:6] of a register (lane 0 of memory), puts it in lane imm[5:4] and clears the lanes in imm[3:0].
func insertps(d, s *Vec, imm uint8, _ *fp.Env)    { insertLane(d, dword(s, imm>>6), imm) }
func insertpsMem(d, s *Vec, imm uint8, _ *fp.Env) { insertLane(d, s[0]&low32, imm) }

func insertLane(d *Vec, x uint64, imm uint8) {
	insert(d, uint(imm>>4&3), 32, x)
	for i := uint(0); i < 4; i++ {
		if imm>>i&1 != 0 {
			insert(d, i, 32, 0)
		}
	}
}

// Blends.

func blendMask(d, s *Vec, m0, m1 uint64) {
	d[0], d[1] = d[0]&^m0|s[0]&m0, d[1]&^m1|s[1]&m1
}

// laneMask spreads the low bits of imm over lanes of the given width in one word.
func laneMask(imm uint8, width uint) (m uint64) {
	for i := uint(0); i < 64; i += width {
		if imm&1 != 0 {
			m |= (1<<width - 1) << i
		}
		imm >>= 1
	}
	return m
}

func pblendw(d, s *Vec, imm uint8, _ *fp.Env) {
	blendMask(d, s, laneMask(imm, 16), laneMask(imm>>4, 16))
}
func blendps(d, s *Vec, imm uint8, _ *fp.Env) {
	blendMask(d, s, laneMask(imm, 32), laneMask(imm>>2, 32))
}
func blendpd(d, s *Vec, imm uint8, _ *fp.Env) { blendMask(d, s, -uint64(imm&1), -uint64(imm>>1&1)) }

func pblendvb(d, s *Vec, _ uint8, e *fp.Env) {
	blendMask(d, s, fillB(e.XMM0[0]&hB), fillB(e.XMM0[1]&hB))
}
func blendvps(d, s *Vec, _ uint8, e *fp.Env) {
	blendMask(d, s, fillD(e.XMM0[0]&hD), fillD(e.XMM0[1]&hD))
}
func blendvpd(d, s *Vec, _ uint8, e *fp.Env) {
	blendMask(d, s, -(e.XMM0[0] >> 63), -(e.XMM0[1] >> 63))
}

// ptest sets ZF if src AND dst is zero, CF if src AND NOT dst is zero.
func ptest(d, s *Vec, _ uint8, e *fp.Env) {
	e.EFLAGS = 0
	if d[0]&s[0]|d[1]&s[1] == 0 {
		e.EFLAGS |= fp.ZF
	}
	if s[0]&^d[0]|s[1]&^d[1] == 0 {
		e.EFLAGS |= fp.CF
	}
}

// mpsadbw sums absolute differences of a 4-byte group of src with eight overlapping groups of dst.
func mpsadbw(d, s *Vec, imm uint8, _ *fp.Env) {
	group := uint32(dword(s, imm&3))
	from := imm >> 2 & 1 * 4
	t := *d
	*d = Vec{}
	for i := uint8(0); i < 8; i++ {
		var sum uint64
		for j := uint8(0); j < 4; j++ {
			a, b := int(extract(&t, uint(from+i+j), 8)), int(uint8(group>>(8*j)))
			sum += uint64(max(a-b, b-a))
		}
		insert(d, uint(i), 16, sum)
	}
}

// phminposuw finds the smallest unsigned word and its first index.
func phminposuw(d, s *Vec, _ uint8, _ *fp.Env) {
	best, at := extract(s, 0, 16), uint64(0)
	for i := uint(1); i < 8; i++ {
		if v := extract(s, i, 16); v < best {
			best, at = v, uint64(i)
		}
	}
	*d = Vec{best | at<<16, 0}
}

// Bit counts: ZF for a zero source, the other flags cleared.

func popcnt(d, s *Vec, _ uint8, e *fp.Env) {
	e.EFLAGS = 0
	if s[0] == 0 {
		e.EFLAGS = fp.ZF
	}
	*d = Vec{uint64(bits.OnesCount64(s[0])), 0}
}
