package fp

import "encoding/binary"

// FXSave writes the image of FXSAVE (wide false) or FXSAVE64 (wide true: REX.W) to img: x87 unit, MXCSR and xmm (SDM vol. 1, 10.5.1). Only
// bytes 0–415 are written (0–287 outside 64-bit mode, when n is 8: the number of XMM registers); the core writes 416 bytes to memory
// whatever n is and leaves the rest as it is, so it must read the old image first if n is 8.
func (x *X87) FXSave(img *[512]byte, xmm *[16][2]uint64, mxcsr uint32, wide bool, n int) {
	le := binary.LittleEndian
	le.PutUint16(img[0:], x.CW)
	le.PutUint16(img[2:], x.SW)
	img[4], img[5] = x.Used, 0
	le.PutUint16(img[6:], x.FOP&0x7ff)
	if wide {
		le.PutUint64(img[8:], x.FIP)
		le.PutUint64(img[16:], x.FDP)
	} else {
		le.PutUint64(img[8:], uint64(uint32(x.FIP)))
		le.PutUint64(img[16:], uint64(uint32(x.FDP)))
	}
	le.PutUint32(img[24:], mxcsr)
	le.PutUint32(img[28:], MXCSRMask)
	for i := uint8(0); i < 8; i++ {
		r, _ := x.ST(i)
		p := img[32+16*int(i):][:16]
		le.PutUint64(p, r.Mant)
		le.PutUint64(p[8:], uint64(r.SE))
	}
	for i := range xmm[:min(max(n, 0), 16)] {
		le.PutUint64(img[160+16*i:], xmm[i][0])
		le.PutUint64(img[168+16*i:], xmm[i][1])
	}
}

// FXRestore is the inverse of FXSave. It returns false, and changes nothing, if the image's MXCSR has reserved bits set (#GP).
func (x *X87) FXRestore(img *[512]byte, xmm *[16][2]uint64, mxcsr *uint32, wide bool, n int) bool {
	le := binary.LittleEndian
	mx := le.Uint32(img[24:])
	if mx&^MXCSRMask != 0 {
		return false
	}
	*mxcsr = mx
	x.CW = fixCW(le.Uint16(img[0:]))
	x.SW = le.Uint16(img[2:])
	x.Used = img[4]
	x.FOP = le.Uint16(img[6:]) & 0x7ff
	if wide {
		x.FIP, x.FDP = le.Uint64(img[8:]), le.Uint64(img[16:])
	} else {
		x.FIP, x.FDP = uint64(le.Uint32(img[8:])), uint64(le.Uint32(img[16:]))
	}
	for i := uint8(0); i < 8; i++ {
		p := img[32+16*int(i):][:16]
		x.R[x.phys(i)] = Float80{Mant: le.Uint64(p), SE: le.Uint16(p[8:])}
	}
	for i := range xmm[:min(max(n, 0), 16)] {
		xmm[i] = [2]uint64{le.Uint64(img[160+16*i:]), le.Uint64(img[168+16*i:])}
	}
	x.updateSummary()
	return true
}

// fixCW sets the control word's reserved bit 6 and clears the others that do not exist (bit 12, infinity control, is kept).
func fixCW(cw uint16) uint16 { return cw&0x1f7f&^0xc0 | 0x40 }
