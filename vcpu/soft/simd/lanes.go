package simd

import "github.com/detvm/detvm/vcpu/soft/fp"

// The lane-wise instructions. MMX forms use the same functions: the upper word is then without meaning.

func paddb(d, s *Vec, _ uint8, _ *fp.Env)    { d[0], d[1] = addB(d[0], s[0]), addB(d[1], s[1]) }
func paddw(d, s *Vec, _ uint8, _ *fp.Env)    { d[0], d[1] = addW(d[0], s[0]), addW(d[1], s[1]) }
func paddd(d, s *Vec, _ uint8, _ *fp.Env)    { d[0], d[1] = addD(d[0], s[0]), addD(d[1], s[1]) }
func psubb(d, s *Vec, _ uint8, _ *fp.Env)    { d[0], d[1] = subB(d[0], s[0]), subB(d[1], s[1]) }
func psubw(d, s *Vec, _ uint8, _ *fp.Env)    { d[0], d[1] = subW(d[0], s[0]), subW(d[1], s[1]) }
func psubd(d, s *Vec, _ uint8, _ *fp.Env)    { d[0], d[1] = subD(d[0], s[0]), subD(d[1], s[1]) }
func paddusb(d, s *Vec, _ uint8, _ *fp.Env)  { d[0], d[1] = addUSB(d[0], s[0]), addUSB(d[1], s[1]) }
func paddusw(d, s *Vec, _ uint8, _ *fp.Env)  { d[0], d[1] = addUSW(d[0], s[0]), addUSW(d[1], s[1]) }
func psubusb(d, s *Vec, _ uint8, _ *fp.Env)  { d[0], d[1] = subUSB(d[0], s[0]), subUSB(d[1], s[1]) }
func psubusw(d, s *Vec, _ uint8, _ *fp.Env)  { d[0], d[1] = subUSW(d[0], s[0]), subUSW(d[1], s[1]) }
func paddsb(d, s *Vec, _ uint8, _ *fp.Env)   { d[0], d[1] = addSB(d[0], s[0]), addSB(d[1], s[1]) }
func paddsw(d, s *Vec, _ uint8, _ *fp.Env)   { d[0], d[1] = addSW(d[0], s[0]), addSW(d[1], s[1]) }
func psubsb(d, s *Vec, _ uint8, _ *fp.Env)   { d[0], d[1] = subSB(d[0], s[0]), subSB(d[1], s[1]) }
func psubsw(d, s *Vec, _ uint8, _ *fp.Env)   { d[0], d[1] = subSW(d[0], s[0]), subSW(d[1], s[1]) }
func pmaxub(d, s *Vec, _ uint8, _ *fp.Env)   { d[0], d[1] = maxUB(d[0], s[0]), maxUB(d[1], s[1]) }
func pmaxuw(d, s *Vec, _ uint8, _ *fp.Env)   { d[0], d[1] = maxUW(d[0], s[0]), maxUW(d[1], s[1]) }
func pmaxud(d, s *Vec, _ uint8, _ *fp.Env)   { d[0], d[1] = maxUD(d[0], s[0]), maxUD(d[1], s[1]) }
func pmaxsb(d, s *Vec, _ uint8, _ *fp.Env)   { d[0], d[1] = maxSB(d[0], s[0]), maxSB(d[1], s[1]) }
func pmaxsw(d, s *Vec, _ uint8, _ *fp.Env)   { d[0], d[1] = maxSW(d[0], s[0]), maxSW(d[1], s[1]) }
func pmaxsd(d, s *Vec, _ uint8, _ *fp.Env)   { d[0], d[1] = maxSD(d[0], s[0]), maxSD(d[1], s[1]) }
func pminub(d, s *Vec, _ uint8, _ *fp.Env)   { d[0], d[1] = minUB(d[0], s[0]), minUB(d[1], s[1]) }
func pminuw(d, s *Vec, _ uint8, _ *fp.Env)   { d[0], d[1] = minUW(d[0], s[0]), minUW(d[1], s[1]) }
func pminud(d, s *Vec, _ uint8, _ *fp.Env)   { d[0], d[1] = minUD(d[0], s[0]), minUD(d[1], s[1]) }
func pminsb(d, s *Vec, _ uint8, _ *fp.Env)   { d[0], d[1] = minSB(d[0], s[0]), minSB(d[1], s[1]) }
func pminsw(d, s *Vec, _ uint8, _ *fp.Env)   { d[0], d[1] = minSW(d[0], s[0]), minSW(d[1], s[1]) }
func pminsd(d, s *Vec, _ uint8, _ *fp.Env)   { d[0], d[1] = minSD(d[0], s[0]), minSD(d[1], s[1]) }
func pcmpeqb(d, s *Vec, _ uint8, _ *fp.Env)  { d[0], d[1] = eqB(d[0], s[0]), eqB(d[1], s[1]) }
func pcmpeqw(d, s *Vec, _ uint8, _ *fp.Env)  { d[0], d[1] = eqW(d[0], s[0]), eqW(d[1], s[1]) }
func pcmpeqd(d, s *Vec, _ uint8, _ *fp.Env)  { d[0], d[1] = eqD(d[0], s[0]), eqD(d[1], s[1]) }
func pcmpeqq(d, s *Vec, _ uint8, _ *fp.Env)  { d[0], d[1] = eqQ(d[0], s[0]), eqQ(d[1], s[1]) }
func pcmpgtb(d, s *Vec, _ uint8, _ *fp.Env)  { d[0], d[1] = gtB(d[0], s[0]), gtB(d[1], s[1]) }
func pcmpgtw(d, s *Vec, _ uint8, _ *fp.Env)  { d[0], d[1] = gtW(d[0], s[0]), gtW(d[1], s[1]) }
func pcmpgtd(d, s *Vec, _ uint8, _ *fp.Env)  { d[0], d[1] = gtD(d[0], s[0]), gtD(d[1], s[1]) }
func pcmpgtq(d, s *Vec, _ uint8, _ *fp.Env)  { d[0], d[1] = gtQ(d[0], s[0]), gtQ(d[1], s[1]) }
func pavgb(d, s *Vec, _ uint8, _ *fp.Env)    { d[0], d[1] = avgB(d[0], s[0]), avgB(d[1], s[1]) }
func pavgw(d, s *Vec, _ uint8, _ *fp.Env)    { d[0], d[1] = avgW(d[0], s[0]), avgW(d[1], s[1]) }
func psignb(d, s *Vec, _ uint8, _ *fp.Env)   { d[0], d[1] = signB(d[0], s[0]), signB(d[1], s[1]) }
func psignw(d, s *Vec, _ uint8, _ *fp.Env)   { d[0], d[1] = signW(d[0], s[0]), signW(d[1], s[1]) }
func psignd(d, s *Vec, _ uint8, _ *fp.Env)   { d[0], d[1] = signD(d[0], s[0]), signD(d[1], s[1]) }
func pmullw(d, s *Vec, _ uint8, _ *fp.Env)   { d[0], d[1] = mulLW(d[0], s[0]), mulLW(d[1], s[1]) }
func pmulhw(d, s *Vec, _ uint8, _ *fp.Env)   { d[0], d[1] = mulHW(d[0], s[0]), mulHW(d[1], s[1]) }
func pmulhuw(d, s *Vec, _ uint8, _ *fp.Env)  { d[0], d[1] = mulHUW(d[0], s[0]), mulHUW(d[1], s[1]) }
func pmulhrsw(d, s *Vec, _ uint8, _ *fp.Env) { d[0], d[1] = mulHRSW(d[0], s[0]), mulHRSW(d[1], s[1]) }
func pmulld(d, s *Vec, _ uint8, _ *fp.Env)   { d[0], d[1] = mulLD(d[0], s[0]), mulLD(d[1], s[1]) }
func pmaddwd(d, s *Vec, _ uint8, _ *fp.Env)  { d[0], d[1] = maddWD(d[0], s[0]), maddWD(d[1], s[1]) }
func pmaddubsw(d, s *Vec, _ uint8, _ *fp.Env) {
	d[0], d[1] = maddUBSW(d[0], s[0]), maddUBSW(d[1], s[1])
}
func psadbw(d, s *Vec, _ uint8, _ *fp.Env) { d[0], d[1] = sadB(d[0], s[0]), sadB(d[1], s[1]) }

func paddq(d, s *Vec, _ uint8, _ *fp.Env) { d[0], d[1] = d[0]+s[0], d[1]+s[1] }
func psubq(d, s *Vec, _ uint8, _ *fp.Env) { d[0], d[1] = d[0]-s[0], d[1]-s[1] }
func pand(d, s *Vec, _ uint8, _ *fp.Env)  { d[0], d[1] = d[0]&s[0], d[1]&s[1] }
func pandn(d, s *Vec, _ uint8, _ *fp.Env) { d[0], d[1] = s[0]&^d[0], s[1]&^d[1] }
func por(d, s *Vec, _ uint8, _ *fp.Env)   { d[0], d[1] = d[0]|s[0], d[1]|s[1] }
func pxor(d, s *Vec, _ uint8, _ *fp.Env)  { d[0], d[1] = d[0]^s[0], d[1]^s[1] }
func pmuludq(d, s *Vec, _ uint8, _ *fp.Env) {
	d[0], d[1] = uint64(uint32(d[0]))*uint64(uint32(s[0])), uint64(uint32(d[1]))*uint64(uint32(s[1]))
}
func pmuldq(d, s *Vec, _ uint8, _ *fp.Env) {
	d[0], d[1] = uint64(int64(int32(d[0]))*int64(int32(s[0]))), uint64(int64(int32(d[1]))*int64(int32(s[1])))
}
func pabsb(d, s *Vec, _ uint8, _ *fp.Env) { d[0], d[1] = absB(s[0]), absB(s[1]) }
func pabsw(d, s *Vec, _ uint8, _ *fp.Env) { d[0], d[1] = absW(s[0]), absW(s[1]) }
func pabsd(d, s *Vec, _ uint8, _ *fp.Env) { d[0], d[1] = absD(s[0]), absD(s[1]) }

// Shifts by a count in the low 64 bits of src. Counts beyond the lane width give zero, or copies of the sign.

func psrlwBy(d *Vec, n uint64) {
	if n >= 16 {
		*d = Vec{}
		return
	}
	d[0], d[1] = srlW(d[0], uint(n)), srlW(d[1], uint(n))
}

func psrldBy(d *Vec, n uint64) {
	if n >= 32 {
		*d = Vec{}
		return
	}
	d[0], d[1] = srlD(d[0], uint(n)), srlD(d[1], uint(n))
}

func psllwBy(d *Vec, n uint64) {
	if n >= 16 {
		*d = Vec{}
		return
	}
	d[0], d[1] = sllW(d[0], uint(n)), sllW(d[1], uint(n))
}

func pslldBy(d *Vec, n uint64) {
	if n >= 32 {
		*d = Vec{}
		return
	}
	d[0], d[1] = sllD(d[0], uint(n)), sllD(d[1], uint(n))
}

func psrlqBy(d *Vec, n uint64) { d[0], d[1] = d[0]>>n, d[1]>>n }

func psllqBy(d *Vec, n uint64) { d[0], d[1] = d[0]<<n, d[1]<<n }

func psrawBy(d *Vec, n uint64) {
	n = min(n, 15)
	d[0], d[1] = sraW(d[0], uint(n)), sraW(d[1], uint(n))
}

func psradBy(d *Vec, n uint64) {
	n = min(n, 31)
	d[0], d[1] = sraD(d[0], uint(n)), sraD(d[1], uint(n))
}

func psrlw(d, s *Vec, _ uint8, _ *fp.Env) { psrlwBy(d, s[0]) }
func psrld(d, s *Vec, _ uint8, _ *fp.Env) { psrldBy(d, s[0]) }
func psrlq(d, s *Vec, _ uint8, _ *fp.Env) { psrlqBy(d, s[0]) }
func psraw(d, s *Vec, _ uint8, _ *fp.Env) { psrawBy(d, s[0]) }
func psrad(d, s *Vec, _ uint8, _ *fp.Env) { psradBy(d, s[0]) }
func psllw(d, s *Vec, _ uint8, _ *fp.Env) { psllwBy(d, s[0]) }
func pslld(d, s *Vec, _ uint8, _ *fp.Env) { pslldBy(d, s[0]) }
func psllq(d, s *Vec, _ uint8, _ *fp.Env) { psllqBy(d, s[0]) }

func psrlwImm(d, _ *Vec, imm uint8, _ *fp.Env) { psrlwBy(d, uint64(imm)) }
func psrldImm(d, _ *Vec, imm uint8, _ *fp.Env) { psrldBy(d, uint64(imm)) }
func psrlqImm(d, _ *Vec, imm uint8, _ *fp.Env) { psrlqBy(d, uint64(imm)) }
func psrawImm(d, _ *Vec, imm uint8, _ *fp.Env) { psrawBy(d, uint64(imm)) }
func psradImm(d, _ *Vec, imm uint8, _ *fp.Env) { psradBy(d, uint64(imm)) }
func psllwImm(d, _ *Vec, imm uint8, _ *fp.Env) { psllwBy(d, uint64(imm)) }
func pslldImm(d, _ *Vec, imm uint8, _ *fp.Env) { pslldBy(d, uint64(imm)) }
func psllqImm(d, _ *Vec, imm uint8, _ *fp.Env) { psllqBy(d, uint64(imm)) }

// Horizontal sums: the results of dst, then those of src. The MMX forms have half as many.

func phaddw(d, s *Vec, _ uint8, _ *fp.Env) {
	d[0], d[1] = haddW(d[0])|haddW(d[1])<<32, haddW(s[0])|haddW(s[1])<<32
}
func phaddd(d, s *Vec, _ uint8, _ *fp.Env) {
	d[0], d[1] = haddD(d[0])|haddD(d[1])<<32, haddD(s[0])|haddD(s[1])<<32
}
func phaddsw(d, s *Vec, _ uint8, _ *fp.Env) {
	d[0], d[1] = haddSW(d[0])|haddSW(d[1])<<32, haddSW(s[0])|haddSW(s[1])<<32
}
func phsubw(d, s *Vec, _ uint8, _ *fp.Env) {
	d[0], d[1] = hsubW(d[0])|hsubW(d[1])<<32, hsubW(s[0])|hsubW(s[1])<<32
}
func phsubd(d, s *Vec, _ uint8, _ *fp.Env) {
	d[0], d[1] = hsubD(d[0])|hsubD(d[1])<<32, hsubD(s[0])|hsubD(s[1])<<32
}
func phsubsw(d, s *Vec, _ uint8, _ *fp.Env) {
	d[0], d[1] = hsubSW(d[0])|hsubSW(d[1])<<32, hsubSW(s[0])|hsubSW(s[1])<<32
}
func phaddwMMX(d, s *Vec, _ uint8, _ *fp.Env)  { d[0] = haddW(d[0]) | haddW(s[0])<<32 }
func phadddMMX(d, s *Vec, _ uint8, _ *fp.Env)  { d[0] = haddD(d[0]) | haddD(s[0])<<32 }
func phaddswMMX(d, s *Vec, _ uint8, _ *fp.Env) { d[0] = haddSW(d[0]) | haddSW(s[0])<<32 }
func phsubwMMX(d, s *Vec, _ uint8, _ *fp.Env)  { d[0] = hsubW(d[0]) | hsubW(s[0])<<32 }
func phsubdMMX(d, s *Vec, _ uint8, _ *fp.Env)  { d[0] = hsubD(d[0]) | hsubD(s[0])<<32 }
func phsubswMMX(d, s *Vec, _ uint8, _ *fp.Env) { d[0] = hsubSW(d[0]) | hsubSW(s[0])<<32 }

// Packing with saturation.

func packsswb(d, s *Vec, _ uint8, _ *fp.Env) {
	d[0], d[1] = packSSWB(d[0])|packSSWB(d[1])<<32, packSSWB(s[0])|packSSWB(s[1])<<32
}
func packuswb(d, s *Vec, _ uint8, _ *fp.Env) {
	d[0], d[1] = packUSWB(d[0])|packUSWB(d[1])<<32, packUSWB(s[0])|packUSWB(s[1])<<32
}
func packssdw(d, s *Vec, _ uint8, _ *fp.Env) {
	d[0], d[1] = packSSDW(d[0])|packSSDW(d[1])<<32, packSSDW(s[0])|packSSDW(s[1])<<32
}
func packusdw(d, s *Vec, _ uint8, _ *fp.Env) {
	d[0], d[1] = packUSDW(d[0])|packUSDW(d[1])<<32, packUSDW(s[0])|packUSDW(s[1])<<32
}
func packsswbMMX(d, s *Vec, _ uint8, _ *fp.Env) { d[0] = packSSWB(d[0]) | packSSWB(s[0])<<32 }
func packuswbMMX(d, s *Vec, _ uint8, _ *fp.Env) { d[0] = packUSWB(d[0]) | packUSWB(s[0])<<32 }
func packssdwMMX(d, s *Vec, _ uint8, _ *fp.Env) { d[0] = packSSDW(d[0]) | packSSDW(s[0])<<32 }

// Interleaving of the low or high halves.

func punpcklbw(d, s *Vec, _ uint8, _ *fp.Env) {
	d[0], d[1] = mixB(d[0], s[0]), mixB(d[0]>>32, s[0]>>32)
}
func punpckhbw(d, s *Vec, _ uint8, _ *fp.Env) {
	d[0], d[1] = mixB(d[1], s[1]), mixB(d[1]>>32, s[1]>>32)
}
func punpckhbwMMX(d, s *Vec, _ uint8, _ *fp.Env) { d[0] = mixB(d[0]>>32, s[0]>>32) }
func punpcklwd(d, s *Vec, _ uint8, _ *fp.Env) {
	d[0], d[1] = mixW(d[0], s[0]), mixW(d[0]>>32, s[0]>>32)
}
func punpckhwd(d, s *Vec, _ uint8, _ *fp.Env) {
	d[0], d[1] = mixW(d[1], s[1]), mixW(d[1]>>32, s[1]>>32)
}
func punpckhwdMMX(d, s *Vec, _ uint8, _ *fp.Env) { d[0] = mixW(d[0]>>32, s[0]>>32) }
func punpckldq(d, s *Vec, _ uint8, _ *fp.Env) {
	d[0], d[1] = mixD(d[0], s[0]), mixD(d[0]>>32, s[0]>>32)
}
func punpckhdq(d, s *Vec, _ uint8, _ *fp.Env) {
	d[0], d[1] = mixD(d[1], s[1]), mixD(d[1]>>32, s[1]>>32)
}
func punpckhdqMMX(d, s *Vec, _ uint8, _ *fp.Env) { d[0] = mixD(d[0]>>32, s[0]>>32) }
func punpcklqdq(d, s *Vec, _ uint8, _ *fp.Env)   { d[1] = s[0] }
func punpckhqdq(d, s *Vec, _ uint8, _ *fp.Env)   { d[0], d[1] = d[1], s[1] }
