package soft

import (
	"math/bits"
)

// Executors of the integer instructions that are not worth one function per operand size. They use op.in, op.size, op.a (the r/m register) and
// op.b (the reg register).
var fullExecs = map[string]execFn{
	"MUL": xMul, "IMUL": xImulWide, "DIV": xDiv, "IDIV": xIdiv, "CBW": xCbw, "CWD": xCwd, "BSF": xBsf, "BSR": xBsr, "POPCNT": xPopcnt,
	"BT": xBt, "BTS": xBts, "BTR": xBtr, "BTC": xBtc, "SHLD": xShld, "SHRD": xShrd, "XADD": xXadd, "CMPXCHG": xCmpxchg,
	"CMPXCHG8B": xCmpxchg8b, "BSWAP": xBswap, "XLAT": xXlat, "SAHF": xSahf, "LAHF": xLahf, "CMC": xCmc, "CLC": xClc, "STC": xStc,
	"CLD": xCld, "STD": xStd, "ENTER": xEnter, "MOVNTI": xMovnti, "DAA": xDaa, "DAS": xDas, "AAA": xAaa, "AAS": xAas,
	"AAM": xAam, "AAD": xAad, "PUSHA": xPusha, "POPA": xPopa, "BOUND": xBound,
	"CLFLUSH": xClflush, "LFENCE": xNop, "MFENCE": xNop, "SFENCE": xNop, "PUSHF": xPushf, "FWAIT": xFwait, "STI": xSti, "CLI": xCli,
	"MOVFROMSEG": xMovFromSeg, "SLDT": xSldt, "STR": xStr, "SMSW": xSmsw, "SGDT": xSgdt, "SIDT": xSidt, "LAR": xLar, "LSL": xLsl,
	"VERR": xVerr, "VERW": xVerw, "CPUID": xCpuid, "XGETBV": xXgetbv, "RDTSC": xRdtsc, "RDTSCP": xRdtscp, "ARPL": xArpl,
	"FXSAVE": xFxsave, "FXRSTOR": xFxrstor, "LDMXCSR": xLdmxcsr, "STMXCSR": xStmxcsr, "EMMS": xEmms,
	"WBINVD": xPrivNop, "INVD": xPrivNop, "INVLPG": xPrivNop,
	"MOVFROMCR": xMovFromCR, "MOVFROMDR": xMovFromDR, "RDPMC": xRdpmc,
}

// getReg and setReg access a register operand of any size; a 32-bit write zero-extends.
func (c *CPU) getReg(off, size uint8) uint64 {
	switch size {
	case 1:
		return uint64(*c.r8(off))
	case 2:
		return uint64(*c.r16(off))
	case 4:
		return uint64(*c.r32(off))
	}
	return *c.r64(off)
}

func (c *CPU) setReg(off, size uint8, v uint64) {
	switch size {
	case 1:
		*c.r8(off) = uint8(v)
	case 2:
		*c.r16(off) = uint16(v)
	case 4:
		*c.r64(off) = uint64(uint32(v))
	default:
		*c.r64(off) = v
	}
}

// loadN and storeN access memory operands of any size up to 8.
func (c *CPU) loadN(va uint64, size uint8) (uint64, bool) {
	switch size {
	case 1:
		v, ok := c.load8(va)
		return uint64(v), ok
	case 2:
		v, ok := c.load16(va)
		return uint64(v), ok
	case 4:
		v, ok := c.load32(va)
		return uint64(v), ok
	}
	return c.load64(va)
}

func (c *CPU) storeN(va uint64, size uint8, v uint64) bool {
	switch size {
	case 1:
		return c.store8(va, uint8(v))
	case 2:
		return c.store16(va, uint16(v))
	case 4:
		return c.store32(va, uint32(v))
	}
	return c.store64(va, v)
}

// loadRM reads the r/m operand.
func (c *CPU) loadRM(o *op) (uint64, bool) {
	if o.in.mem {
		return c.loadN(c.ea(o), o.size)
	}
	return c.getReg(o.a, o.size), true
}

// rmwLoad reads the r/m operand and makes sure that it can be written.
func (c *CPU) rmwLoad(o *op) (uint64, bool) {
	if !o.in.mem {
		return c.getReg(o.a, o.size), true
	}
	return c.rmwLoadAt(c.ea(o), o.size)
}

func (c *CPU) rmwLoadAt(va uint64, size uint8) (uint64, bool) {
	if c.writable(va, int(size)) == nil && !c.probeWrite(va, uint64(size)) {
		return 0, false
	}
	return c.loadN(va, size)
}

// storeRM writes the r/m operand. After rmwLoad it cannot fail.
func (c *CPU) storeRM(o *op, v uint64) bool {
	if o.in.mem {
		return c.storeN(c.ea(o), o.size, v)
	}
	c.setReg(o.a, o.size, v)
	return true
}

func sizeMask(size uint8) uint64 { return ^uint64(0) >> (64 - 8*uint(size)) }

func xLea16(c *CPU, o *op) *op { *c.r16(o.a) = uint16(c.ea(o)); return next(o) }
func xLea32(c *CPU, o *op) *op { *c.r64(o.a) = uint64(uint32(c.ea(o))); return next(o) }
func xLea64(c *CPU, o *op) *op { *c.r64(o.a) = c.ea(o); return next(o) }

func xLeaDisp64(c *CPU, o *op) *op { *c.r64(o.a) = *c.r64(o.base) + o.disp; return next(o) }
func xLeaAbs64(c *CPU, o *op) *op  { *c.r64(o.a) = o.disp; return next(o) }

func xSetccM(c *CPU, o *op) *op {
	if !c.store8(c.ea(o), uint8(b2u(c.cond(o.a)))) {
		return c.fault(o)
	}
	return next(o)
}

func xCmovR16(c *CPU, o *op) *op {
	if c.cond(uint8(o.imm)) {
		*c.r16(o.a) = *c.r16(o.b)
	}
	return next(o)
}

func xCmovR32(c *CPU, o *op) *op {
	v := *c.r32(o.a)
	if c.cond(uint8(o.imm)) {
		v = *c.r32(o.b)
	}
	*c.r64(o.a) = uint64(v)
	return next(o)
}

func xCmovR64(c *CPU, o *op) *op {
	if c.cond(uint8(o.imm)) {
		*c.r64(o.a) = *c.r64(o.b)
	}
	return next(o)
}

func xCmovM(c *CPU, o *op) *op {
	v, ok := c.loadN(c.ea(o), o.size)
	if !ok {
		return c.fault(o)
	}
	if !c.cond(uint8(o.imm)) {
		v = c.getReg(o.a, o.size)
	}
	c.setReg(o.a, o.size, v)
	return next(o)
}

// Shifts and rotates. Each takes the operand, the count and the size, sets flags, and returns the result. A count that is zero after masking changes
// nothing. The SDM leaves AF undefined after a shift; here it is set, as AMD processors do.

func (c *CPU) shiftOp(o *op, n uint, f func(c *CPU, a uint64, n uint, size uint8) (uint64, bool)) *op {
	a, ok := c.rmwLoad(o)
	if !ok {
		return c.fault(o)
	}
	if o.size == 8 {
		n &= 63
	} else {
		n &= 31
	}
	res, changed := a, false
	if n != 0 {
		res, changed = f(c, a, n, o.size)
	}
	if changed || o.size == 4 {
		c.storeRM(o, res)
	}
	return next(o)
}

func shiftShl(c *CPU, a uint64, n uint, size uint8) (uint64, bool) {
	width := 8 * uint(size)
	cf := uint64(0)
	if n <= width {
		cf = a >> (width - n) & 1
	}
	res := a << n & sizeMask(size)
	c.setRes(res, cf|flagAF|(cf^res>>(width-1))<<11, size)
	return res, true
}

func shiftShr(c *CPU, a uint64, n uint, size uint8) (uint64, bool) {
	cf := a >> (n - 1) & 1
	res := a >> n
	c.setRes(res, cf|flagAF|(res^res<<1)>>(8*uint(size)-1)&1<<11, size)
	return res, true
}

func shiftSar(c *CPU, a uint64, n uint, size uint8) (uint64, bool) {
	s := int64(sext(a, size))
	cf := uint64(s>>(n-1)) & 1
	res := uint64(s>>n) & sizeMask(size)
	c.setRes(res, cf|flagAF, size)
	return res, true
}

// setCFOF replaces CF and OF only.
func (c *CPU) setCFOF(cf, of uint64) {
	c.setArith(c.arith()&^(flagCF|flagOF) | cf&1 | of&1<<11)
}

func shiftRol(c *CPU, a uint64, n uint, size uint8) (uint64, bool) {
	width := 8 * uint(size)
	k := n % width
	res := (a<<k | a>>(width-k)) & sizeMask(size)
	c.setCFOF(res, res^res>>(width-1))
	return res, true
}

func shiftRor(c *CPU, a uint64, n uint, size uint8) (uint64, bool) {
	width := 8 * uint(size)
	k := n % width
	res := (a>>k | a<<(width-k)) & sizeMask(size)
	c.setCFOF(res>>(width-1), res>>(width-1)^res>>(width-2))
	return res, true
}

func shiftRcl(c *CPU, a uint64, n uint, size uint8) (uint64, bool) {
	width := 8 * uint(size)
	cf := b2u(c.cf())
	for range n % (width + 1) {
		top := a >> (width - 1) & 1
		a = a<<1&sizeMask(size) | cf
		cf = top
	}
	c.setCFOF(cf, cf^a>>(width-1))
	return a, true
}

func shiftRcr(c *CPU, a uint64, n uint, size uint8) (uint64, bool) {
	width := 8 * uint(size)
	cf := b2u(c.cf())
	for range n % (width + 1) {
		low := a & 1
		a = a>>1 | cf<<(width-1)
		cf = low
	}
	c.setCFOF(cf, a>>(width-1)^a>>(width-2))
	return a, true
}

func xShld(c *CPU, o *op) *op { return c.doubleShift(o, true) }
func xShrd(c *CPU, o *op) *op { return c.doubleShift(o, false) }

// doubleShift is SHLD and SHRD. For 16-bit operands and counts above 16, whose result the SDM leaves undefined, the double-width value is
// extended with the destination once more, as processors do.
func (c *CPU) doubleShift(o *op, left bool) *op {
	a, ok := c.rmwLoad(o)
	if !ok {
		return c.fault(o)
	}
	n := uint(o.imm)
	if o.in.form.Opcode&1 != 0 {
		n = uint(c.r[1])
	}
	if o.size == 8 {
		n &= 63
	} else {
		n &= 31
	}
	if n == 0 {
		if o.size == 4 {
			c.storeRM(o, a)
		}
		return next(o)
	}
	b := c.getReg(o.b, o.size)
	width := 8 * uint(o.size)
	var res, cf uint64
	switch {
	case o.size == 2 && left:
		wide := a<<32 | b<<16 | a
		res, cf = wide<<n>>32&0xffff, wide>>(48-n)&1
	case o.size == 2:
		wide := a<<32 | b<<16 | a
		res, cf = wide>>n&0xffff, wide>>(n-1)&1
	case left:
		res, cf = (a<<n|b>>(width-n))&sizeMask(o.size), a>>(width-n)&1
	default:
		res, cf = (a>>n|b<<(width-n))&sizeMask(o.size), a>>(n-1)&1
	}
	c.storeRM(o, res)
	of := cf ^ res>>(width-1) // defined for a count of 1; for others, and AF, as AMD processors have it
	if !left {
		of = (res ^ res<<1) >> (width - 1)
	}
	c.setRes(res, cf|flagAF|of&1<<11, o.size)
	return next(o)
}

// mulFlags sets CF and OF after a multiplication. The other flags, which the SDM leaves undefined, stay as they are, as on AMD processors.
func (c *CPU) mulFlags(overflow bool) {
	rest := b2u(overflow) * (flagCF | flagOF)
	switch c.fk & fKind {
	case fRes:
		c.fb = c.fb&flagAF | rest
	case fAll:
		c.fb = c.fb&^(flagCF|flagOF) | rest
	default:
		c.fa, c.fb, c.fk = c.result(), b2u(c.af())<<4|rest, fRes|c.fk&fSize
	}
}

// imul multiplies two signed operands of the given size.
func (c *CPU) imul(a, b uint64, size uint8) uint64 {
	if size == 8 {
		hi, lo := bits.Mul64(a, b)
		hi -= b2u(int64(a) < 0)*b + b2u(int64(b) < 0)*a
		c.mulFlags(hi != uint64(int64(lo)>>63))
		return lo
	}
	p := sext(a, size) * sext(b, size)
	c.mulFlags(p != sext(p, size))
	return p
}

func xImulRR64(c *CPU, o *op) *op {
	p := c.r64(o.a)
	*p = c.imul(*p, *c.r64(o.b), 8)
	return next(o)
}

func xImulRR32(c *CPU, o *op) *op {
	v := int64(int32(*c.r32(o.a))) * int64(int32(*c.r32(o.b)))
	*c.r64(o.a) = uint64(uint32(v))
	c.mulFlags(v != int64(int32(v)))
	return next(o)
}

func xImulRR(c *CPU, o *op) *op {
	c.setReg(o.a, o.size, c.imul(c.getReg(o.a, o.size), c.getReg(o.b, o.size), o.size))
	return next(o)
}

func xImulM(c *CPU, o *op) *op {
	v, ok := c.loadN(c.ea(o), o.size)
	if !ok {
		return c.fault(o)
	}
	c.setReg(o.a, o.size, c.imul(c.getReg(o.a, o.size), v, o.size))
	return next(o)
}

func xImulRI(c *CPU, o *op) *op {
	c.setReg(o.a, o.size, c.imul(c.getReg(o.b, o.size), o.imm, o.size))
	return next(o)
}

func xImulMI(c *CPU, o *op) *op {
	v, ok := c.loadN(c.ea(o), o.size)
	if !ok {
		return c.fault(o)
	}
	c.setReg(o.a, o.size, c.imul(v, o.imm, o.size))
	return next(o)
}

// setWide writes a double-width result to AX, DX:AX, EDX:EAX or RDX:RAX.
func (c *CPU) setWide(lo, hi uint64, size uint8) {
	if size == 1 {
		*c.r16(offRAX) = uint16(lo&0xff | hi<<8)
		return
	}
	c.setReg(offRAX, size, lo)
	c.setReg(offRDX, size, hi)
}

func xMul(c *CPU, o *op) *op {
	v, ok := c.loadRM(o)
	if !ok {
		return c.fault(o)
	}
	a := c.getReg(offRAX, o.size)
	hi, lo := bits.Mul64(a, v)
	if o.size < 8 {
		hi, lo = lo>>(8*o.size), lo&sizeMask(o.size)
	}
	c.setWide(lo, hi, o.size)
	c.mulFlags(hi != 0)
	return next(o)
}

func xImulWide(c *CPU, o *op) *op {
	v, ok := c.loadRM(o)
	if !ok {
		return c.fault(o)
	}
	a := c.getReg(offRAX, o.size)
	lo := c.imul(a, v, o.size)
	hi := lo >> (8 * o.size & 63)
	if o.size == 8 {
		hi, _ = bits.Mul64(a, v)
		hi -= b2u(int64(a) < 0)*v + b2u(int64(v) < 0)*a
	}
	c.setWide(lo, hi, o.size)
	return next(o)
}

func xDiv(c *CPU, o *op) *op {
	d, ok := c.loadRM(o)
	if !ok {
		return c.fault(o)
	}
	if d == 0 {
		return c.raise(o, vecDE)
	}
	var q, r uint64
	switch o.size {
	case 1:
		n := uint64(*c.r16(offRAX))
		q, r = n/d, n%d
	case 8:
		hi := c.r[2]
		if hi >= d {
			return c.raise(o, vecDE)
		}
		q, r = bits.Div64(hi, c.r[0], d)
	default:
		n := c.getReg(offRAX, o.size) | c.getReg(offRDX, o.size)<<(8*o.size)
		q, r = n/d, n%d
	}
	if q&^sizeMask(o.size) != 0 {
		return c.raise(o, vecDE)
	}
	c.setWide(q, r, o.size)
	c.divFlags()
	return next(o)
}

// divFlags sets the flags after a division as AMD processors do; the SDM leaves all of them undefined.
func (c *CPU) divFlags() { c.setArith(c.arith()&(flagCF|flagOF) | flagAF) }

func xIdiv(c *CPU, o *op) *op {
	d, ok := c.loadRM(o)
	if !ok {
		return c.fault(o)
	}
	if d == 0 {
		return c.raise(o, vecDE)
	}
	var hi, lo uint64
	switch o.size {
	case 1:
		lo = uint64(int64(int16(*c.r16(offRAX))))
	case 8:
		lo, hi = c.r[0], c.r[2]
	default:
		lo = sext(c.getReg(offRAX, o.size)|c.getReg(offRDX, o.size)<<(8*o.size), 2*o.size)
	}
	if o.size != 8 {
		hi = uint64(int64(lo) >> 63)
	}
	q, r, ok := idiv128(hi, lo, sext(d, o.size))
	if !ok || sext(q, o.size) != q {
		return c.raise(o, vecDE)
	}
	c.setWide(q&sizeMask(o.size), r&sizeMask(o.size), o.size)
	c.divFlags()
	return next(o)
}

// idiv128 divides the signed 128-bit hi:lo by d; it reports false if the quotient does not fit in 64 bits.
func idiv128(hi, lo, d uint64) (q, r uint64, ok bool) {
	negN, negD := int64(hi) < 0, int64(d) < 0
	if negN {
		var borrow uint64
		lo, borrow = bits.Sub64(0, lo, 0)
		hi, _ = bits.Sub64(0, hi, borrow)
	}
	if negD {
		d = -d
	}
	if hi >= d {
		return 0, 0, false
	}
	q, r = bits.Div64(hi, lo, d)
	if negN {
		r = -r
	}
	if negN != negD {
		return -q, r, q <= 1<<63
	}
	return q, r, q < 1<<63
}

func xCbw(c *CPU, o *op) *op {
	c.setReg(offRAX, o.size, sext(c.r[0], o.size/2))
	return next(o)
}

func xCwd(c *CPU, o *op) *op {
	c.setReg(offRDX, o.size, uint64(int64(sext(c.r[0], o.size))>>63))
	return next(o)
}

// setZF replaces ZF only.
func (c *CPU) setZF(zf bool) { c.setArith(c.arith()&^flagZF | b2u(zf)<<6) }

// setCF replaces CF only.
func (c *CPU) setCF(cf bool) { c.setArith(c.arith()&^flagCF | b2u(cf)) }

// scanFlags sets ZF after BSF or BSR. The other flags, which the SDM leaves undefined, are those of AMD processors: PF of the result, the others clear.
func (c *CPU) scanFlags(zero bool, n int) {
	switch {
	case zero:
		c.setArith(flagZF | flagPF)
	case bits.OnesCount8(uint8(n))&1 == 0:
		c.setArith(flagPF)
	default:
		c.setArith(0)
	}
}

func xBsf(c *CPU, o *op) *op {
	v, ok := c.loadRM(o)
	if !ok {
		return c.fault(o)
	}
	n := bits.TrailingZeros64(v)
	c.scanFlags(v == 0, n)
	if v != 0 {
		c.setReg(o.b, o.size, uint64(n))
	}
	return next(o)
}

func xBsr(c *CPU, o *op) *op {
	v, ok := c.loadRM(o)
	if !ok {
		return c.fault(o)
	}
	n := 63 - bits.LeadingZeros64(v)
	c.scanFlags(v == 0, n)
	if v != 0 {
		c.setReg(o.b, o.size, uint64(n))
	}
	return next(o)
}

func xPopcnt(c *CPU, o *op) *op {
	v, ok := c.loadRM(o)
	if !ok {
		return c.fault(o)
	}
	n := uint64(bits.OnesCount64(v))
	c.setReg(o.b, o.size, n)
	c.setArith(b2u(v == 0) << 6)
	return next(o)
}

// bitOp does BT, BTS, BTR and BTC: with a register bit offset, a memory operand is the whole bit string around the address.
func (c *CPU) bitOp(o *op, change func(v, mask uint64) uint64) *op {
	width := uint64(o.size) * 8
	n := o.imm
	va := uint64(0)
	fromReg := o.in.form.Opcode != 0xba
	if fromReg {
		n = c.getReg(o.b, o.size)
	}
	if o.in.mem {
		va = c.ea(o)
	}
	if o.in.mem && fromReg {
		distance := uint64(int64(sext(n, o.size))>>bits.TrailingZeros64(width)) * uint64(o.size)
		if in := o.in; in.asize == 8 {
			va += distance
		} else { // the sum is truncated to the address size, not its first part
			off := *c.r64(in.base) + *c.r64(in.index)<<(in.shift&63) + in.disp + distance
			va = c.stringAddr(o, off&sizeMask(in.asize), in.seg)
		}
	}
	mask := uint64(1) << (n & (width - 1))
	var v uint64
	ok := true
	switch {
	case !o.in.mem:
		v = c.getReg(o.a, o.size)
	case change == nil:
		v, ok = c.loadN(va, o.size)
	default:
		v, ok = c.rmwLoadAt(va, o.size)
	}
	if !ok {
		return c.fault(o)
	}
	if change != nil {
		if o.in.mem {
			c.storeN(va, o.size, change(v, mask))
		} else {
			c.setReg(o.a, o.size, change(v, mask))
		}
	}
	c.setCF(v&mask != 0)
	return next(o)
}

func xBt(c *CPU, o *op) *op  { return c.bitOp(o, nil) }
func xBts(c *CPU, o *op) *op { return c.bitOp(o, func(v, m uint64) uint64 { return v | m }) }
func xBtr(c *CPU, o *op) *op { return c.bitOp(o, func(v, m uint64) uint64 { return v &^ m }) }
func xBtc(c *CPU, o *op) *op { return c.bitOp(o, func(v, m uint64) uint64 { return v ^ m }) }

func xXchg(c *CPU, o *op) *op {
	a, ok := c.rmwLoad(o)
	if !ok {
		return c.fault(o)
	}
	b := c.getReg(o.b, o.size)
	c.storeRM(o, b)
	c.setReg(o.b, o.size, a)
	return next(o)
}

// addFlags and subFlags record the flags of an addition or subtraction of operands of any size.
func (c *CPU) addFlags(a, b uint64, size uint8) uint64 {
	res := a + b
	c.fa, c.fb, c.fk = sext(res, size), sext(a, size), fAdd|size
	return res
}

func (c *CPU) subFlags(a, b uint64, size uint8) uint64 {
	c.fa, c.fb, c.fk = sext(a, size), sext(b, size), fSub|size
	return a - b
}

func xXadd(c *CPU, o *op) *op {
	a, ok := c.rmwLoad(o)
	if !ok {
		return c.fault(o)
	}
	b := c.getReg(o.b, o.size)
	if !o.in.mem {
		c.setReg(o.b, o.size, a)
		c.setReg(o.a, o.size, c.addFlags(a, b, o.size))
		return next(o)
	}
	c.storeRM(o, c.addFlags(a, b, o.size))
	c.setReg(o.b, o.size, a)
	return next(o)
}

func xCmpxchg(c *CPU, o *op) *op {
	a, ok := c.rmwLoad(o)
	if !ok {
		return c.fault(o)
	}
	acc := c.getReg(offRAX, o.size)
	if acc == a {
		c.storeRM(o, c.getReg(o.b, o.size))
	} else {
		c.storeRM(o, a)
		c.setReg(offRAX, o.size, a)
	}
	c.subFlags(acc, a, o.size)
	return next(o)
}

func xCmpxchg8b(c *CPU, o *op) *op {
	if o.in.rex&rexW != 0 {
		return c.cmpxchg16b(o)
	}
	va := c.ea(o)
	v, ok := c.rmwLoadAt(va, 8)
	if !ok {
		return c.fault(o)
	}
	if v == uint64(uint32(c.r[0]))|c.r[2]<<32 {
		c.store64(va, uint64(uint32(c.r[3]))|c.r[1]<<32)
		c.setZF(true)
		return next(o)
	}
	c.store64(va, v)
	c.r[0], c.r[2] = uint64(uint32(v)), v>>32
	c.setZF(false)
	return next(o)
}

func (c *CPU) cmpxchg16b(o *op) *op {
	va := c.ea(o)
	if va&15 != 0 {
		return c.raiseGP(o)
	}
	if !c.probeWrite(va, 16) {
		return c.fault(o)
	}
	lo, hi, ok := c.load128(va)
	if !ok {
		return c.fault(o)
	}
	if lo == c.r[0] && hi == c.r[2] {
		c.store128(va, c.r[3], c.r[1])
		c.setZF(true)
		return next(o)
	}
	c.store128(va, lo, hi)
	c.r[0], c.r[2] = lo, hi
	c.setZF(false)
	return next(o)
}

// xBswap: with a 16-bit operand the result is undefined; processors give zero.
func xBswap(c *CPU, o *op) *op {
	switch off := o.in.reg * 8; o.size {
	case 8:
		*c.r64(off) = bits.ReverseBytes64(*c.r64(off))
	case 4:
		*c.r64(off) = uint64(bits.ReverseBytes32(*c.r32(off)))
	default:
		*c.r16(off) = 0
	}
	return next(o)
}

func xXlat(c *CPU, o *op) *op {
	va := c.stringAddr(o, (c.r[3]+c.r[0]&0xff)&sizeMask(o.in.asize), o.in.seg)
	v, ok := c.load8(va)
	if !ok {
		return c.fault(o)
	}
	*c.r8(offRAX) = v
	return next(o)
}

func xSahf(c *CPU, o *op) *op {
	c.setArith(c.arith()&flagOF | c.r[0]>>8&(flagCF|flagPF|flagAF|flagZF|flagSF))
	return next(o)
}

func xLahf(c *CPU, o *op) *op {
	*c.r8(offRAX + 1) = uint8(c.arith() | flagR1)
	return next(o)
}

func xCmc(c *CPU, o *op) *op { c.setCF(!c.cf()); return next(o) }
func xClc(c *CPU, o *op) *op { c.setCF(false); return next(o) }
func xStc(c *CPU, o *op) *op { c.setCF(true); return next(o) }
func xCld(c *CPU, o *op) *op { c.flags &^= flagDF; return next(o) }
func xStd(c *CPU, o *op) *op { c.flags |= flagDF; return next(o) }

func xMovnti(c *CPU, o *op) *op {
	size := uint8(4)
	if o.in.rex&rexW != 0 {
		size = 8
	}
	if !c.storeN(c.ea(o), size, c.getReg(o.in.reg*8, size)) {
		return c.fault(o)
	}
	return next(o)
}

func xClflush(c *CPU, o *op) *op {
	if _, ok := c.load8(c.ea(o)); !ok {
		return c.fault(o)
	}
	return next(o)
}

// Decimal adjustment and the other instructions that 64-bit mode dropped.

func xDaa(c *CPU, o *op) *op { return c.decimalAdjust(o, 1) }
func xDas(c *CPU, o *op) *op { return c.decimalAdjust(o, -1) }

func (c *CPU) decimalAdjust(o *op, sign int) *op {
	al := int(*c.r8(offRAX))
	cf, af := c.cf(), c.af()
	v := al
	newCF := false
	if al&15 > 9 || af {
		v += 6 * sign
		newCF = cf || v < 0 || v > 0xff
		af = true
	}
	if al > 0x99 || cf {
		v += 0x60 * sign
		newCF = true
	}
	*c.r8(offRAX) = uint8(v)
	c.setRes(uint64(uint8(v)), b2u(newCF)|b2u(af)<<4, 1)
	return next(o)
}

func xAaa(c *CPU, o *op) *op { return c.asciiAdjust(o, 0x106) }
func xAas(c *CPU, o *op) *op { return c.asciiAdjust(o, -0x106) }

func (c *CPU) asciiAdjust(o *op, by int) *op {
	adjust := c.r[0]&15 > 9 || c.af()
	if adjust {
		*c.r16(offRAX) = uint16(int(*c.r16(offRAX)) + by)
	}
	*c.r8(offRAX) &= 15
	c.setRes(uint64(*c.r8(offRAX)), b2u(adjust)|b2u(adjust)<<4, 1)
	return next(o)
}

func xAam(c *CPU, o *op) *op {
	if o.imm == 0 {
		return c.raise(o, vecDE)
	}
	al := c.r[0] & 0xff
	*c.r16(offRAX) = uint16(al/o.imm<<8 | al%o.imm)
	c.setRes(al%o.imm, 0, 1)
	return next(o)
}

func xAad(c *CPU, o *op) *op {
	al := (c.r[0] + c.r[0]>>8&0xff*o.imm) & 0xff
	*c.r16(offRAX) = uint16(al)
	c.setRes(al, 0, 1)
	return next(o)
}

func xBound(c *CPU, o *op) *op {
	va := c.ea(o)
	lo, ok := c.loadN(va, o.size)
	if !ok {
		return c.fault(o)
	}
	hi, ok := c.loadN(va+uint64(o.size), o.size)
	if !ok {
		return c.fault(o)
	}
	if v := int64(sext(c.getReg(o.b, o.size), o.size)); v < int64(sext(lo, o.size)) || v > int64(sext(hi, o.size)) {
		return c.raise(o, vecBR)
	}
	return next(o)
}
