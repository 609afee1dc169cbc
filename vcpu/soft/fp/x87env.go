package fp

import "encoding/binary"

// Tags of the full tag word (SDM vol. 1, 8.1.7).
const (
	tagValid = iota
	tagZero
	tagSpecial
	tagEmpty
)

// tagWord computes the full tag word that FSTENV stores.
func (x *X87) tagWord() (tw uint16) {
	for i, f := range x.R {
		tag := uint16(tagValid)
		switch e := f.SE & 0x7fff; {
		case x.Used>>i&1 == 0:
			tag = tagEmpty
		case e == 0 && f.Mant == 0:
			tag = tagZero
		case e == 0 || e == 0x7fff || f.Mant>>63 == 0:
			tag = tagSpecial
		}
		tw |= tag << (2 * i)
	}
	return tw
}

// setTagWord takes over which registers are empty; the other tags follow from the contents.
func (x *X87) setTagWord(tw uint16) {
	x.Used = 0
	for i := range x.R {
		if tw>>(2*i)&3 != tagEmpty {
			x.Used |= 1 << i
		}
	}
}

// storeEnv writes the environment in one of its four layouts (SDM vol. 1, figures 8-9 to 8-12) and returns its length.
func (x *X87) storeEnv(o *Operands) int {
	words := [7]uint16{x.CW, x.SW, x.tagWord(), uint16(x.FIP), 0, uint16(x.FDP), 0} // no selectors, see SetPointers
	if o.RealMode {
		words[4] = uint16(x.FIP>>16)<<12 | x.FOP&0x7ff
		words[6] = uint16(x.FDP>>16) << 12
	}
	if o.Size16 {
		for i, w := range words {
			binary.LittleEndian.PutUint16(o.Mem[2*i:], w)
		}
		return 14
	}
	const unused = 0xffff0000 // the reserved halves are stored as ones
	put := func(i int, v uint32) { binary.LittleEndian.PutUint32(o.Mem[4*i:], v) }
	for i, w := range words[:3] {
		put(i, unused|uint32(w))
	}
	if o.RealMode {
		put(3, unused|uint32(uint16(x.FIP)))
		put(4, uint32(x.FIP)>>16<<12|uint32(x.FOP&0x7ff))
		put(5, unused|uint32(uint16(x.FDP)))
		put(6, uint32(x.FDP)>>16<<12)
		return 28
	}
	put(3, uint32(x.FIP))
	put(4, uint32(x.FOP&0x7ff)<<16)
	put(5, uint32(x.FDP))
	put(6, unused)
	return 28
}

// loadEnv is the inverse.
func (x *X87) loadEnv(o *Operands) int {
	get16 := func(i int) uint16 { return binary.LittleEndian.Uint16(o.Mem[2*i:]) }
	get32 := func(i int) uint32 { return binary.LittleEndian.Uint32(o.Mem[4*i:]) }
	n := 28
	if o.Size16 {
		n = 14
		x.CW, x.SW = fixCW(get16(0)), get16(1)
		x.setTagWord(get16(2))
		x.FIP, x.FDP, x.FOP = uint64(get16(3)), uint64(get16(5)), 0
		if o.RealMode {
			x.FIP, x.FOP, x.FDP = x.FIP|uint64(get16(4)>>12)<<16, get16(4)&0x7ff, x.FDP|uint64(get16(6)>>12)<<16
		}
	} else {
		x.CW, x.SW = fixCW(get16(0)), get16(2)
		x.setTagWord(get16(4))
		x.FIP, x.FDP, x.FOP = uint64(get32(3)), uint64(get32(5)), get16(9)&0x7ff
		if o.RealMode {
			x.FIP, x.FOP = uint64(get16(6))|uint64(get32(4)>>12&0xffff)<<16, get16(8)&0x7ff
			x.FDP = uint64(get16(10)) | uint64(get32(6)>>12&0xffff)<<16
		}
	}
	x.updateSummary()
	return n
}

// fnstenv stores the environment and then masks all exceptions.
func fnstenv(x *X87, _ uint8, o *Operands) {
	x.storeEnv(o)
	x.CW |= allFlags
	x.updateSummary()
}

func fldenv(x *X87, _ uint8, o *Operands) { x.loadEnv(o) }

// fnsave stores environment and registers in stack order, and initialises the unit.
func fnsave(x *X87, _ uint8, o *Operands) {
	n := x.storeEnv(o)
	for i := uint8(0); i < 8; i++ {
		r, _ := x.ST(i)
		p := o.Mem[n+10*int(i):][:10]
		binary.LittleEndian.PutUint64(p, r.Mant)
		binary.LittleEndian.PutUint16(p[8:], r.SE)
	}
	x.Init()
}

func frstor(x *X87, _ uint8, o *Operands) {
	n := x.loadEnv(o)
	for i := uint8(0); i < 8; i++ {
		p := o.Mem[n+10*int(i):][:10]
		x.R[x.phys(i)] = Float80{binary.LittleEndian.Uint64(p), binary.LittleEndian.Uint16(p[8:])}
	}
}
