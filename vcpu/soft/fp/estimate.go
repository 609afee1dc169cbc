package fp

// Rcp32 approximates 1/a (RCPSS). It raises no exceptions and ignores the rounding mode; denormals count as zeros.
func (e *Env) Rcp32(a uint32) uint32 {
	n := unpack32(a).flushed(true)
	if n.cls.isNaN() {
		return n.quiet().pack32()
	}
	r, _ := div(num{cls: finite, mant: 1 << 63}, n)
	return estimate(r)
}

// Rsqrt32 approximates 1/√a (RSQRTSS), under the same conditions.
func (e *Env) Rsqrt32(a uint32) uint32 {
	n := unpack32(a).flushed(true)
	if n.cls.isNaN() {
		return n.quiet().pack32()
	}
	root, fl := sqrt(n)
	if fl != 0 {
		return indefinite().pack32()
	}
	r, _ := div(num{cls: finite, mant: 1 << 63, neg: n.neg}, root)
	return estimate(r)
}

// estimate rounds to 12 bits of precision; results below the normal range become zeros.
func estimate(r num) uint32 {
	return r.round(format{12, -126, 127}, Nearest, 0, true, 0).pack32()
}
