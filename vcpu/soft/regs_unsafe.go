package soft

import "unsafe"

// The register file is the first field of CPU, so that an op's operand bytes are offsets from the CPU's own address. Offsets come from
// the decoder and are below numRegs*8.
var _ [0]struct{} = [unsafe.Offsetof(CPU{}.r)]struct{}{}

func (c *CPU) r64(off uint8) *uint64 { return (*uint64)(unsafe.Add(unsafe.Pointer(c), uintptr(off))) }
func (c *CPU) r32(off uint8) *uint32 { return (*uint32)(unsafe.Add(unsafe.Pointer(c), uintptr(off))) }
func (c *CPU) r16(off uint8) *uint16 { return (*uint16)(unsafe.Add(unsafe.Pointer(c), uintptr(off))) }
func (c *CPU) r8(off uint8) *uint8   { return (*uint8)(unsafe.Add(unsafe.Pointer(c), uintptr(off))) }

// next is the op that follows o in its block. o must not be the last one.
func next(o *op) *op { return (*op)(unsafe.Add(unsafe.Pointer(o), unsafe.Sizeof(*o))) }

// ea is the linear address of the op's memory operand.
func (c *CPU) ea(o *op) uint64 {
	return *c.r64(o.base) + *c.r64(o.index)<<(o.shift&63) + o.disp
}

// hostPage returns the host address of byte off of a RAM range. The caller has checked that the page is inside.
func hostPage(host []byte, off uint64) unsafe.Pointer { return unsafe.Pointer(&host[off]) }

// tlbEntry maps one guest page to host memory. tag is the page's linear address, or tlbEmpty.
type tlbEntry struct {
	tag  uint64
	page unsafe.Pointer
}

// The load and store functions try the soft TLB and fall back to the page walker. (va+size-1) is compared with the tag, so an
// access that crosses into the next page never hits: the index is that of the first page. They report false when the access
// faulted or must be repeated alone; CPU.ev and CPU.exc say what.

func (c *CPU) load8(va uint64) (uint8, bool) {
	e := &c.rd[va>>pageBits&tlbMask]
	if e.tag == va&pageMask {
		return *(*uint8)(unsafe.Add(e.page, va&pageOff)), true
	}
	v, ok := c.loadSlow(va, 1)
	return uint8(v), ok
}

func (c *CPU) load16(va uint64) (uint16, bool) {
	e := &c.rd[va>>pageBits&tlbMask]
	if e.tag == (va+1)&pageMask {
		return *(*uint16)(unsafe.Add(e.page, va&pageOff)), true
	}
	v, ok := c.loadSlow(va, 2)
	return uint16(v), ok
}

func (c *CPU) load32(va uint64) (uint32, bool) {
	e := &c.rd[va>>pageBits&tlbMask]
	if e.tag == (va+3)&pageMask {
		return *(*uint32)(unsafe.Add(e.page, va&pageOff)), true
	}
	v, ok := c.loadSlow(va, 4)
	return uint32(v), ok
}

func (c *CPU) load64(va uint64) (uint64, bool) {
	e := &c.rd[va>>pageBits&tlbMask]
	if e.tag == (va+7)&pageMask {
		return *(*uint64)(unsafe.Add(e.page, va&pageOff)), true
	}
	return c.loadSlow(va, 8)
}

func (c *CPU) store8(va uint64, v uint8) bool {
	e := &c.wr[va>>pageBits&tlbMask]
	if e.tag == va&pageMask {
		*(*uint8)(unsafe.Add(e.page, va&pageOff)) = v
		return true
	}
	return c.storeSlow(va, uint64(v), 1)
}

func (c *CPU) store16(va uint64, v uint16) bool {
	e := &c.wr[va>>pageBits&tlbMask]
	if e.tag == (va+1)&pageMask {
		*(*uint16)(unsafe.Add(e.page, va&pageOff)) = v
		return true
	}
	return c.storeSlow(va, uint64(v), 2)
}

func (c *CPU) store32(va uint64, v uint32) bool {
	e := &c.wr[va>>pageBits&tlbMask]
	if e.tag == (va+3)&pageMask {
		*(*uint32)(unsafe.Add(e.page, va&pageOff)) = v
		return true
	}
	return c.storeSlow(va, uint64(v), 4)
}

func (c *CPU) store64(va uint64, v uint64) bool {
	e := &c.wr[va>>pageBits&tlbMask]
	if e.tag == (va+7)&pageMask {
		*(*uint64)(unsafe.Add(e.page, va&pageOff)) = v
		return true
	}
	return c.storeSlow(va, v, 8)
}

// load128 reads 16 bytes.
func (c *CPU) load128(va uint64) (lo, hi uint64, ok bool) {
	e := &c.rd[va>>pageBits&tlbMask]
	if e.tag == (va+15)&pageMask {
		p := (*[2]uint64)(unsafe.Add(e.page, va&pageOff))
		return p[0], p[1], true
	}
	if !c.aligned(va, 16) || !c.endsCanonical(va, 16) {
		return 0, 0, false
	}
	if lo, ok = c.loadSlow(va, 8); !ok {
		return 0, 0, false
	}
	hi, ok = c.loadSlow(va+8, 8)
	return lo, hi, ok
}

// store128 writes 16 bytes, all or nothing.
func (c *CPU) store128(va, lo, hi uint64) bool {
	e := &c.wr[va>>pageBits&tlbMask]
	if e.tag == (va+15)&pageMask {
		p := (*[2]uint64)(unsafe.Add(e.page, va&pageOff))
		p[0], p[1] = lo, hi
		return true
	}
	return c.probeWrite(va, 16) && c.storeSlow(va, lo, 8) && c.storeSlow(va+8, hi, 8)
}

// rmwSlow gives a pointer to a memory operand that will be read and written and is not in the write TLB: the bounce buffer. It is nil after a
// fault. The caller must call commit after writing; that cannot fail.
func (c *CPU) rmwSlow(va, size uint64) unsafe.Pointer {
	if !c.probeWrite(va, size) {
		return nil
	}
	v, ok := c.loadSlow(va, size)
	if !ok {
		return nil
	}
	c.bounce, c.bounceVA, c.bounceSize = v, va, size
	return unsafe.Pointer(&c.bounce)
}

// readable and writable return host memory for n bytes at va inside one page if the soft TLB has it, else nil.

func (c *CPU) readable(va uint64, n int) []byte {
	e := &c.rd[va>>pageBits&tlbMask]
	if e.tag == va&pageMask && va&pageOff+uint64(n) <= pageSize {
		return unsafe.Slice((*byte)(unsafe.Add(e.page, va&pageOff)), n)
	}
	return nil
}

func (c *CPU) writable(va uint64, n int) []byte {
	e := &c.wr[va>>pageBits&tlbMask]
	if e.tag == va&pageMask && va&pageOff+uint64(n) <= pageSize {
		return unsafe.Slice((*byte)(unsafe.Add(e.page, va&pageOff)), n)
	}
	return nil
}

// overlapForward reports whether copying from to to in ascending order would read bytes it has written.
func overlapForward(from, to []byte) bool {
	f, t := uintptr(unsafe.Pointer(&from[0])), uintptr(unsafe.Pointer(&to[0]))
	return t > f && t < f+uintptr(len(from))
}
