package soft

import "unsafe"

// The stack instructions of 64-bit mode, with the TLB look-up written out.

func xPush64(c *CPU, o *op) *op {
	sp := c.r[4] - 8
	if e := &c.wr[sp>>pageBits&tlbMask]; e.tag == (sp+7)&pageMask {
		*(*uint64)(unsafe.Add(e.page, sp&pageOff)) = *c.r64(o.a)
	} else if !c.storeSlow(sp, *c.r64(o.a), 8) {
		return c.stackFault(o)
	}
	c.r[4] = sp
	return next(o)
}

func xPop64(c *CPU, o *op) *op {
	sp := c.r[4]
	var v uint64
	if e := &c.rd[sp>>pageBits&tlbMask]; e.tag == (sp+7)&pageMask {
		v = *(*uint64)(unsafe.Add(e.page, sp&pageOff))
	} else {
		x, ok := c.loadSlow(sp, 8)
		if !ok {
			return c.stackFault(o)
		}
		v = x
	}
	c.r[4] = sp + 8
	*c.r64(o.a) = v
	return next(o)
}

func xCall(c *CPU, o *op) *op {
	sp := c.r[4] - 8
	if e := &c.wr[sp>>pageBits&tlbMask]; e.tag == (sp+7)&pageMask {
		*(*uint64)(unsafe.Add(e.page, sp&pageOff)) = o.imm
	} else if !c.storeSlow(sp, o.imm, 8) {
		return c.stackFault(o)
	}
	c.r[4] = sp
	if t := o.link; t != nil {
		if n := int64(t.rest); n <= c.left {
			c.left -= n
			return t
		}
	}
	return c.takenSlow(o)
}

func xRet(c *CPU, o *op) *op {
	sp := c.r[4]
	var t uint64
	if e := &c.rd[sp>>pageBits&tlbMask]; e.tag == (sp+7)&pageMask {
		t = *(*uint64)(unsafe.Add(e.page, sp&pageOff))
	} else {
		x, ok := c.loadSlow(sp, 8)
		if !ok {
			return c.stackFault(o)
		}
		t = x
	}
	if !canonical(t) {
		return c.raiseGP(o)
	}
	c.r[4] = sp + 8
	return c.jump(t)
}
