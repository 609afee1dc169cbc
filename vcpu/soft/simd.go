package soft

import (
	"encoding/binary"

	"github.com/detvm/detvm/vcpu/soft/fp"
	"github.com/detvm/detvm/vcpu/soft/simd"
)

// fpuState is the x87 unit (whose registers are the MMX registers too) and MXCSR. The XMM registers are CPU.xmm.
type fpuState struct {
	x87 fp.X87
	env fp.Env
}

// lowerSIMD lowers a row of package simd. What CR0 and CR4 forbid is known when decoding, since they are part of the mode.
func lowerSIMD(l *lowerer, in *inst) {
	s := in.form.SIMD
	mmxOnly := s.Map == simd.Map0F && s.Prefix == simd.NP && !usesXMM(s)
	switch {
	case s.Name == "CRC32":
	case mmxOnly && l.mode&modeEM != 0, !mmxOnly && l.mode&modeNoSSE != 0:
		l.terminal(in, xUndefined)
		return
	case l.mode&modeTS != 0:
		l.terminal(in, xNM)
		return
	}
	in.vec = s.Fn
	fast := xSIMD
	plain := !s.FP && !s.Flags && !s.NoWrite && !s.XMM0 && !s.Lengths && s.First == simd.None
	switch {
	case plain && s.Dst == simd.XReg && (s.Src == simd.XRM) && !in.mem:
		fast = xVecRR
		if moves16[s.Name] {
			fast = xVecMov
		}
	case plain && s.Dst == simd.XReg && s.Src == simd.XRM && s.MemSize == 16 && moves16[s.Name]:
		fast = xVecLoad
		if s.Aligned {
			fast = xVecLoadAligned
		}
	case plain && s.Dst == simd.XReg && s.Src == simd.XRM && s.MemSize == 16:
		fast = xVecRM
	case plain && s.Dst == simd.XRM && s.Src == simd.XReg && in.mem && s.MemSize == 16 && moves16[s.Name]:
		fast = xVecStore
		if s.Aligned {
			fast = xVecStoreAligned
		}
	case plain && s.Dst == simd.XRM && s.Src == simd.XReg && in.mem && s.MemSize == 8 && (s.Name == "MOVSD" || s.Name == "MOVQ" || s.Name == "MOVLPD" || s.Name == "MOVLPS"):
		fast = xVecStore64
	case plain && s.Dst == simd.XReg && in.mem && s.MemSize == 8 && (s.Name == "MOVSD" || s.Name == "MOVQ"):
		fast = xVecLoad64
	case s.FP && !s.Flags && !s.NoWrite && s.Dst == simd.XReg && s.Src == simd.XRM && s.First == simd.None && !s.XMM0:
		fast = xVecFP
		if in.mem {
			fast = xVecFPMem
		}
	case s.Name == "PMOVMSKB" && s.Src == simd.XRM && !in.mem:
		fast = xPmovmskb
	case s.FP && s.Flags && s.NoWrite && s.Dst == simd.XReg && s.Src == simd.XRM && !in.mem:
		fast = xVecCompare
	case !in.mem && s.Name == "MOVQ" && s.Dst == simd.XReg && s.Src == simd.GRM64:
		fast = xMovGPRToVec
	case !in.mem && s.Name == "MOVQ" && s.Dst == simd.GRM64 && s.Src == simd.XReg:
		fast = xMovVecToGPR
	}
	o := l.full(in, fast)
	o.a, o.b = in.reg, in.rm
	if s.Dst == simd.XRM {
		o.a, o.b = in.rm, in.reg
	}
	if !in.mem && plain && !touchesMMX(s) {
		l.mark(attrPure, nil)
	}
}

// moves16 names the plain 16-byte moves.
var moves16 = map[string]bool{"MOVAPS": true, "MOVAPD": true, "MOVUPS": true, "MOVUPD": true, "MOVDQA": true, "MOVDQU": true, "LDDQU": true,
	"MOVNTPS": true, "MOVNTPD": true, "MOVNTDQ": true, "MOVNTDQA": true}

func isXMM(l simd.Loc) bool { return l == simd.XReg || l == simd.XRM || l == simd.XMM0 }
func isMMX(l simd.Loc) bool { return l == simd.MReg || l == simd.MRM }

func usesXMM(s *simd.Op) bool { return isXMM(s.Dst) || isXMM(s.Src) || isXMM(s.First) }

func touchesMMX(s *simd.Op) bool { return isMMX(s.Dst) || isMMX(s.Src) || isMMX(s.First) }

func xVecRR(c *CPU, o *op) *op {
	o.in.vec(&c.xmm[o.a&15], &c.xmm[o.b&15], uint8(o.imm), &c.fpu.env)
	return next(o)
}

func xVecMov(c *CPU, o *op) *op { c.xmm[o.a&15] = c.xmm[o.b&15]; return next(o) }

func xVecRM(c *CPU, o *op) *op {
	va := c.ea(o)
	if va&15 != 0 && o.in.form.SIMD.Aligned {
		return c.raiseGP(o)
	}
	lo, hi, ok := c.load128(va)
	if !ok {
		return c.fault(o)
	}
	src := &c.vecTmp
	src[0], src[1] = lo, hi
	o.in.vec(&c.xmm[o.a&15], src, uint8(o.imm), &c.fpu.env)
	return next(o)
}

func xVecLoad(c *CPU, o *op) *op {
	lo, hi, ok := c.load128(c.ea(o))
	if !ok {
		return c.fault(o)
	}
	c.xmm[o.a&15] = [2]uint64{lo, hi}
	return next(o)
}

func xVecLoadAligned(c *CPU, o *op) *op {
	if c.ea(o)&15 != 0 {
		return c.raiseGP(o)
	}
	return xVecLoad(c, o)
}

func xVecStore(c *CPU, o *op) *op {
	v := &c.xmm[o.b&15]
	if !c.store128(c.ea(o), v[0], v[1]) {
		return c.fault(o)
	}
	return next(o)
}

func xVecStoreAligned(c *CPU, o *op) *op {
	if c.ea(o)&15 != 0 {
		return c.raiseGP(o)
	}
	return xVecStore(c, o)
}

func xVecLoad64(c *CPU, o *op) *op {
	v, ok := c.load64(c.ea(o))
	if !ok {
		return c.fault(o)
	}
	c.xmm[o.a&15] = [2]uint64{v, 0}
	return next(o)
}

func xVecStore64(c *CPU, o *op) *op {
	if !c.store64(c.ea(o), c.xmm[o.b&15][0]) {
		return c.fault(o)
	}
	return next(o)
}

// xVecFP is a floating-point operation between registers.
func xVecFP(c *CPU, o *op) *op {
	d := &c.vecTmp
	*d = c.xmm[o.a&15]
	o.in.vec(d, &c.xmm[o.b&15], uint8(o.imm), &c.fpu.env)
	if c.fpu.env.Unmasked != 0 {
		return c.simdException(o)
	}
	c.xmm[o.a&15] = *d
	return next(o)
}

// xVecFPMem is a floating-point operation with a memory source.
func xVecFPMem(c *CPU, o *op) *op {
	s := o.in.form.SIMD
	va := c.ea(o)
	src := &c.vecSrc
	var ok bool
	switch s.MemSize {
	case 16:
		if s.Aligned && va&15 != 0 {
			return c.raiseGP(o)
		}
		src[0], src[1], ok = c.load128(va)
	default:
		src[0], ok = c.loadN(va, s.MemSize)
		src[1] = 0
	}
	if !ok {
		return c.fault(o)
	}
	d := &c.vecTmp
	*d = c.xmm[o.a&15]
	o.in.vec(d, src, uint8(o.imm), &c.fpu.env)
	if c.fpu.env.Unmasked != 0 {
		return c.simdException(o)
	}
	c.xmm[o.a&15] = *d
	return next(o)
}

// xVecCompare is UCOMISS and its kin between registers.
func xVecCompare(c *CPU, o *op) *op {
	o.in.vec(&c.xmm[o.a&15], &c.xmm[o.b&15], uint8(o.imm), &c.fpu.env)
	if c.fpu.env.Unmasked != 0 {
		return c.simdException(o)
	}
	c.setArith(uint64(c.fpu.env.EFLAGS))
	return next(o)
}

// xPmovmskb gathers the top bits of the sixteen bytes: a multiplication moves those of eight bytes next to each other.
func xPmovmskb(c *CPU, o *op) *op {
	v := &c.xmm[o.in.rm&15]
	const top, gather = 0x8080808080808080, 0x0002040810204081
	lo := (v[0] & top) * gather >> 56
	hi := (v[1] & top) * gather >> 56
	c.r[o.in.reg&15] = lo | hi<<8
	return next(o)
}

func xMovGPRToVec(c *CPU, o *op) *op {
	c.xmm[o.in.reg&15] = [2]uint64{c.r[o.in.rm&15], 0}
	return next(o)
}

func xMovVecToGPR(c *CPU, o *op) *op {
	c.r[o.in.rm&15] = c.xmm[o.in.reg&15][0]
	return next(o)
}

// simdException raises #XM, or #UD if the operating system does not want it.
func (c *CPU) simdException(o *op) *op {
	c.fpu.env.Unmasked = 0
	if c.cr4&cr4OSXMMEXCPT == 0 {
		return c.raise(o, vecUD)
	}
	return c.raise(o, vecXM)
}

// xSIMD executes any row of package simd.
func xSIMD(c *CPU, o *op) *op {
	s := o.in.form.SIMD
	env := &c.fpu.env
	va := uint64(0)
	if o.in.mem {
		va = c.ea(o)
		if s.Aligned && va&15 != 0 {
			return c.raiseGP(o)
		}
	}
	mmx := touchesMMX(s) && !(s.MMXRegOnly && o.in.mem)
	if mmx && c.fpu.x87.Pending() {
		return c.raise(o, vecMF)
	}
	var dst simd.Vec
	src, ok := c.vecOperand(o, s.Src, va)
	if !ok {
		return c.fault(o)
	}
	switch {
	case s.First != simd.None:
		dst, ok = c.vecOperand(o, s.First, va)
	case !s.WriteOnly:
		dst, ok = c.vecOperand(o, s.Dst, va)
	}
	if !ok {
		return c.fault(o)
	}
	first := dst
	if s.XMM0 {
		env.XMM0 = c.xmm[0]
	}
	if s.Lengths {
		env.Len1, env.Len2 = int64(int32(c.r[0])), int64(int32(c.r[2]))
		if o.in.rex&rexW != 0 {
			env.Len1, env.Len2 = int64(c.r[0]), int64(c.r[2])
		}
	}
	if s.Dst != simd.MaskDI && o.in.mem && isRM(s.Dst) && !s.NoWrite && !c.probeWrite(va, uint64(s.MemSize)) {
		return c.fault(o)
	}
	s.Fn(&dst, &src, uint8(o.imm), env)
	if env.Unmasked != 0 {
		return c.simdException(o)
	}
	if s.Dst == simd.MaskDI {
		if !c.maskedStore(o, first, dst) {
			return c.fault(o)
		}
	}
	if mmx {
		c.fpu.x87.EnterMMX()
	}
	if !s.NoWrite {
		c.setVecOperand(o, s.Dst, va, dst)
	}
	if s.Flags {
		c.setArith(uint64(env.EFLAGS))
	}
	return next(o)
}

// isRM reports whether a location is the r/m operand.
func isRM(l simd.Loc) bool {
	switch l {
	case simd.XRM, simd.MRM, simd.GRM8, simd.GRM16, simd.GRM32, simd.GRM64:
		return true
	}
	return false
}

// vecOperand reads an operand.
func (c *CPU) vecOperand(o *op, l simd.Loc, va uint64) (v simd.Vec, ok bool) {
	in := o.in
	if in.mem && isRM(l) {
		switch n := in.form.SIMD.MemSize; n {
		case 16:
			v[0], v[1], ok = c.load128(va)
		default:
			v[0], ok = c.loadN(va, n)
		}
		return v, ok
	}
	switch l {
	case simd.XReg:
		v = c.xmm[in.reg&15]
	case simd.XRM:
		v = c.xmm[in.rm&15]
	case simd.XMM0:
		v = c.xmm[0]
	case simd.MReg:
		v[0] = c.fpu.x87.MMX(in.reg & 7)
	case simd.MRM:
		v[0] = c.fpu.x87.MMX(in.rm & 7)
	case simd.GReg16, simd.GReg32, simd.GReg64:
		v[0] = c.getReg(in.reg*8, locSize(l))
	case simd.GRM8:
		v[0] = uint64(*c.r8(in.byteReg(in.rm)))
	case simd.GRM16, simd.GRM32, simd.GRM64:
		v[0] = c.getReg(in.rm*8, locSize(l))
	case simd.ECX:
		v[0] = uint64(uint32(c.r[1]))
	}
	return v, true
}

// locSize is the width of a general-register operand.
func locSize(l simd.Loc) uint8 {
	switch l {
	case simd.GReg16, simd.GRM16:
		return 2
	case simd.GReg64, simd.GRM64:
		return 8
	}
	return 4
}

// setVecOperand writes a result; memory has been probed.
func (c *CPU) setVecOperand(o *op, l simd.Loc, va uint64, v simd.Vec) {
	in := o.in
	if in.mem && isRM(l) {
		switch n := in.form.SIMD.MemSize; n {
		case 16:
			c.store128(va, v[0], v[1])
		default:
			c.storeN(va, n, v[0])
		}
		return
	}
	switch l {
	case simd.XReg:
		c.xmm[in.reg&15] = v
	case simd.XRM:
		c.xmm[in.rm&15] = v
	case simd.XMM0:
		c.xmm[0] = v
	case simd.MReg:
		c.fpu.x87.SetMMX(in.reg&7, v[0])
	case simd.MRM:
		c.fpu.x87.SetMMX(in.rm&7, v[0])
	case simd.GReg16, simd.GReg32, simd.GReg64:
		c.setReg(in.reg*8, locSize(l), v[0])
	case simd.GRM8:
		*c.r8(in.byteReg(in.rm)) = uint8(v[0])
	case simd.GRM16, simd.GRM32, simd.GRM64:
		c.setReg(in.rm*8, locSize(l), v[0])
	case simd.ECX:
		c.r[1] = uint64(uint32(v[0]))
	}
}

// maskedStore is the memory write of MASKMOVQ and MASKMOVDQU: all bytes are probed before the first is written.
func (c *CPU) maskedStore(o *op, data, mask simd.Vec) bool {
	n := uint64(16)
	if isMMX(o.in.form.SIMD.First) {
		n = 8
	}
	base := c.stringAddr(o, c.r[7]&sizeMask(o.in.asize), o.in.maskSeg())
	if !c.aligned(base, 8) { // the manual gives no alignment for 16 bytes here; processors store them by halves
		return false
	}
	at := func(v simd.Vec, i uint64) uint8 { return uint8(v[i/8] >> (i % 8 * 8)) }
	for i := range n {
		if at(mask, i) != 0 && !c.probeWrite(base+i, 1) {
			return false
		}
	}
	for i := range n {
		if at(mask, i) != 0 && !c.store8(base+i, at(data, i)) {
			return false
		}
	}
	return true
}

// maskSeg is the segment of the implicit DS:rDI operand.
func (in *inst) maskSeg() uint8 {
	if in.segOvr {
		return in.seg
	}
	return segDS
}

// lowerX87 lowers a row of package fp.
func lowerX87(l *lowerer, in *inst) {
	if l.mode&modeNM != 0 {
		l.terminal(in, xNM)
		return
	}
	l.full(in, xX87)
}

func xX87(c *CPU, o *op) *op {
	x := &c.fpu.x87
	row := o.in.form.X87
	if !row.NoWait && x.Pending() {
		return c.raise(o, vecMF)
	}
	ops := &c.x87Operands
	ops.Size16 = o.in.osize == 2
	va, n := uint64(0), 0
	if o.in.mem {
		va, n = c.ea(o), row.MemSize(ops.Size16)
		if row.Load && !c.readMem(va, ops.Mem[:n]) {
			return c.fault(o)
		}
		if row.Store && !c.probeRange(va, uint64(n)) {
			return c.fault(o)
		}
	}
	if row.FlagsIn || row.EFLAGS {
		ops.EFLAGS = uint32(c.rflags())
	}
	if !row.Control {
		seg := min(o.in.seg, segGS)
		x.SetPointers(o.in.opcode, o.in.modrm, c.seg[segCS].Selector, o.ip-c.codeBase(), o.in.mem, c.seg[seg].Selector, va-c.segBase(seg))
	}
	x.Exec(row, o.in.modrm, ops)
	if row.AX {
		*c.r16(offRAX) = ops.AX
	}
	if row.EFLAGS {
		c.setArith(uint64(ops.EFLAGS))
	}
	if row.Store && !ops.NoStore {
		c.writeMem(va, ops.Mem[:n])
	}
	return next(o)
}

// segBase is the base that segment seg adds in the current mode.
func (c *CPU) segBase(seg uint8) uint64 {
	if seg >= segFS {
		return c.r[regFS/8+int(seg-segFS)]
	}
	return c.r[regES/8+int(seg)]
}

// probeRange checks that n bytes can be written.
func (c *CPU) probeRange(va, n uint64) bool {
	if !c.alignedBlock(va, n) {
		return false
	}
	for off := uint64(0); off < n; {
		k := min(n-off, pageSize-(va+off)&pageOff)
		if !c.probeWrite(va+off, k) {
			return false
		}
		off += k
	}
	return true
}

func xFwait(c *CPU, o *op) *op {
	if c.mode&modeMP != 0 {
		return c.raise(o, vecNM)
	}
	if c.fpu.x87.Pending() {
		return c.raise(o, vecMF)
	}
	return next(o)
}

func xEmms(c *CPU, o *op) *op {
	switch {
	case c.mode&modeEM != 0:
		return c.raise(o, vecUD)
	case c.mode&modeTS != 0:
		return c.raise(o, vecNM)
	case c.fpu.x87.Pending():
		return c.raise(o, vecMF)
	}
	c.fpu.x87.EMMS()
	return next(o)
}

// xmmCount is how many XMM registers the mode has.
func (c *CPU) xmmCount() int {
	if c.mode&mode64 != 0 {
		return 16
	}
	return 8
}

func xFxsave(c *CPU, o *op) *op {
	if c.mode&modeNM != 0 {
		return c.raise(o, vecNM)
	}
	va := c.ea(o)
	if va&15 != 0 {
		return c.raiseGP(o)
	}
	var img [512]byte
	c.fpu.x87.FXSave(&img, &c.xmm, c.fpu.env.MXCSR, o.in.rex&rexW != 0, c.xmmCount())
	binary.LittleEndian.PutUint32(img[28:], c.mxcsrMask)
	n := 160 + 16*c.xmmCount()
	if !c.writeMem(va, img[:n]) {
		return c.fault(o)
	}
	return next(o)
}

func xFxrstor(c *CPU, o *op) *op {
	if c.mode&modeNM != 0 {
		return c.raise(o, vecNM)
	}
	va := c.ea(o)
	if va&15 != 0 {
		return c.raiseGP(o)
	}
	var img [512]byte
	if !c.readMem(va, img[:]) {
		return c.fault(o)
	}
	if !c.fpu.x87.FXRestore(&img, &c.xmm, &c.fpu.env.MXCSR, o.in.rex&rexW != 0, c.xmmCount()) {
		return c.raiseGP(o)
	}
	return next(o)
}

// sseForbidden is the exception that keeps LDMXCSR and STMXCSR from executing, or -1.
func (c *CPU) sseForbidden() int {
	switch {
	case c.mode&modeNoSSE != 0:
		return vecUD
	case c.mode&modeTS != 0:
		return vecNM
	}
	return -1
}

func xLdmxcsr(c *CPU, o *op) *op {
	if v := c.sseForbidden(); v >= 0 {
		return c.raise(o, uint8(v))
	}
	v, ok := c.load32(c.ea(o))
	if !ok {
		return c.fault(o)
	}
	if v&^fp.MXCSRMask != 0 {
		return c.raiseGP(o)
	}
	c.fpu.env.MXCSR = v
	return next(o)
}

func xStmxcsr(c *CPU, o *op) *op {
	if v := c.sseForbidden(); v >= 0 {
		return c.raise(o, uint8(v))
	}
	if !c.store32(c.ea(o), c.fpu.env.MXCSR) {
		return c.fault(o)
	}
	return next(o)
}
