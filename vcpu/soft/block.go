package soft

// The cache of decoded blocks. A block belongs to the physical page its first byte is in; its key is (physical address, linear
// address, mode, privilege), because RIP-relative addresses and branch targets are folded into the ops, and links into other pages
// hold for one privilege. Writes to a page that holds code come to physWrite, which drops exactly the blocks whose bytes change.
//
// Blocks find their successors in three ways:
//   - a direct branch is linked: the op points at the target's first op. Within a page that is valid as long as both blocks exist,
//     since whoever executes in a page has the page mapped there; dropping a block removes the links to it. A far link, into another
//     page, is valid for one generation, which ends whenever a translation might change: all far links are then removed.
//   - everything else looks in the jump cache of the current privilege, by linear address. Its tags contain the generation.
//   - failing that, the run loop translates the address and searches the page's blocks.

const (
	jcBits = 12
	jcSize = 1 << jcBits
	jcMask = jcSize - 1

	codeBuckets = 256

	chunkOps   = 8192
	slabBlocks = 512
	maxOps     = 2 << 20 // size of the cache, in ops, before it is emptied: 128 MiB
	pageOps    = 36      // what a code page adds to that size: its buckets weigh as much as so many ops
)

// jumpEntry is an entry of a jump cache: tag is the linear address xored with CPU.genTag.
type jumpEntry struct {
	tag uint64
	op  *op
}

// jumpCache finds first ops by linear address; blocks, beside it, is only read when a branch is to be linked.
type jumpCache struct {
	entries [jcSize]jumpEntry
	blocks  [jcSize]*block
}

func jumpSlot(va uint64) uint64 { return (va ^ va>>jcBits) & jcMask }

// block describes a cached block; executing it needs only its ops.
type block struct {
	first    *op
	va, pa   uint64
	size     uint64 // bytes
	key      uint16 // mode and privilege
	crossing bool   // one instruction whose bytes are in two pages
	far      bool   // far links may point here
	pages    [2]*codePage
	incoming []link // from the same page
	next     *block // next in the bucket of pages[0]
}

// link is a place that points at a block's first op.
type link struct {
	from *op
	fall bool
}

// codePage lists the blocks that have bytes in one physical page.
type codePage struct {
	ram     *ramRange
	index   uint64 // page index in ram
	lines   uint64 // bit n: bytes [64n, 64n+64) may hold code
	count   int
	buckets [codeBuckets]*block
	tails   []*block // crossing blocks that began in the page before
}

func bucketOf(pa uint64) uint64 { return (pa ^ pa>>8) % codeBuckets }

// blockStore owns the memory of ops.
type blockStore struct {
	chunk    []op
	used     int
	slab     []block
	pages    []*codePage
	far      []link // the far links of this generation
	low      lowerer
	scratch  [maxInsns*3 + 4]op
	attrs    [maxInsns*3 + 4]attr
	quiet    [maxInsns*3 + 4]execFn
	tags     [maxInsns*3 + 4]uint8
	scratchI [maxInsns + 1]inst
	insts    []inst
}

// init forgets everything but the scratch space.
func (s *blockStore) init() {
	s.chunk = nil
	s.used = 0
	s.slab = nil
	s.pages = nil
	s.far = nil
	s.insts = nil
}

// room returns space in the arena where the ops of one block can be built; keepOps then makes them stay.
func (s *blockStore) room() []op {
	if len(s.chunk) < len(s.scratch) {
		s.chunk = make([]op, chunkOps)
	}
	return s.chunk[:0]
}

// keepOps keeps the first n ops in the room.
func (s *blockStore) keepOps(n int) {
	s.chunk = s.chunk[n:]
	s.used += n
}

// newBlock returns an empty block.
func (s *blockStore) newBlock() *block {
	if len(s.slab) == 0 {
		s.slab = make([]block, slabBlocks)
	}
	b := &s.slab[0]
	s.slab = s.slab[1:]
	return b
}

// keepInst copies a decoded instruction into the arena.
func (s *blockStore) keepInst(in *inst) *inst {
	if len(s.insts) == 0 {
		s.insts = make([]inst, 1024)
	}
	p := &s.insts[0]
	s.insts = s.insts[1:]
	*p = *in
	return p
}

// newGeneration makes the jump caches forget everything, and removes the far links.
func (c *CPU) newGeneration() {
	c.blocks.unlinkFar()
	c.genTag += 1 << 48
	if c.genTag == 0 {
		c.jcs = [2]jumpCache{}
	}
}

// jump continues at the linear address va, which is where the code goes on in the current mode.
func (c *CPU) jump(va uint64) *op {
	e := &c.jc.entries[jumpSlot(va)]
	if e.tag == va^c.genTag && e.op != nil {
		t := e.op
		if n := int64(t.rest); n <= c.left {
			c.left -= n
			return t
		}
	}
	c.rip = va - c.codeBase()
	return nil
}

// enter finds the block at rip and charges its instructions. It returns nil if the slice is used up or rip cannot be executed.
func (c *CPU) enter() *op {
	from := c.from
	c.from = nil
	if c.left <= 0 {
		return nil
	}
	if c.stepping() {
		c.ev = evSingle
		return nil
	}
	va := c.rip + c.codeBase()
	slot := jumpSlot(va)
	e := &c.jc.entries[slot]
	var b *block
	if e.tag == va^c.genTag && e.op != nil {
		b = c.jc.blocks[slot]
	} else {
		if b = c.findBlock(va); b == nil {
			return nil
		}
		if !b.crossing {
			*e = jumpEntry{tag: va ^ c.genTag, op: b.first}
			c.jc.blocks[slot] = b
		}
	}
	if from != nil && !b.crossing {
		c.linkTo(from, b)
	}
	if n := int64(b.first.rest); n <= c.left {
		c.left -= n
		return b.first
	}
	return c.limited(int(c.left))
}

// linkTo makes a terminal point at the block it was found to continue with.
func (c *CPU) linkTo(from *op, b *block) {
	near := from.in.near
	if c.fromFall {
		from.fall = b.first
		near = from.in.nearNx
	} else {
		from.link = b.first
	}
	if near {
		b.incoming = append(b.incoming, link{from, c.fromFall})
		return
	}
	b.far = true
	c.blocks.far = append(c.blocks.far, link{from, c.fromFall})
}

// unlinkFar removes all far links.
func (s *blockStore) unlinkFar() {
	for _, l := range s.far {
		if l.fall {
			l.from.fall = nil
		} else {
			l.from.link = nil
		}
	}
	s.far = s.far[:0]
}

// blockKey is what the meaning and the links of a block depend on besides its bytes and address.
func (c *CPU) blockKey() uint16 {
	if c.cpl == 3 {
		return c.mode | modeUser
	}
	return c.mode
}

// findBlock returns the cached block at va, decoding it if need be; nil after raising an exception.
func (c *CPU) findBlock(va uint64) *block {
	pa, ram, ok := c.fetchPage(va)
	if !ok {
		return nil
	}
	if ram == nil {
		c.fail("execution outside RAM")
		return nil
	}
	pa |= va & pageOff
	page := ram.code[(pa-ram.gpa)>>pageBits]
	if page != nil {
		key := c.blockKey()
		for b := page.buckets[bucketOf(pa)]; b != nil; b = b.next {
			if b.va == va && b.pa == pa && b.key == key {
				if b.crossing && !c.secondPageHolds(b) {
					continue
				}
				return b
			}
		}
	}
	return c.makeBlock(va, pa, ram)
}

// secondPageHolds reports whether the second page of a crossing block is still mapped to where its bytes came from. A fault is
// not raised here: decoding anew raises it.
func (c *CPU) secondPageHolds(b *block) bool {
	pa, ram, ok := c.fetchPage((b.va + pageSize) & pageMask)
	if !ok {
		c.ev = evNone
		return false
	}
	p := b.pages[1]
	return ram == p.ram && pa == p.ram.gpa+p.index<<pageBits
}

// makeBlock decodes the block at va and enters it in the cache.
func (c *CPU) makeBlock(va, pa uint64, ram *ramRange) *block {
	if c.blocks.used > maxOps {
		c.dropAllCode()
	}
	l := c.decodeBlock(va, pa, ram, maxInsns, false)
	if l == nil {
		return nil
	}
	c.blocks.keepOps(len(l.ops))
	b := c.blocks.newBlock()
	*b = block{first: &l.ops[0], va: va, pa: pa, size: l.size, key: c.blockKey(), crossing: l.second != nil}
	b.pages[0] = c.codePageOf(ram, pa)
	b.pages[0].add(b, pa, min(l.size, pageSize-pa&pageOff))
	i := bucketOf(pa)
	b.next = b.pages[0].buckets[i]
	b.pages[0].buckets[i] = b
	if l.second != nil {
		p := c.codePageOf(l.second, l.secondPA)
		b.pages[1] = p
		p.add(b, 0, l.size-(pageSize-pa&pageOff))
		p.tails = append(p.tails, b)
	}
	return b
}

// add accounts for n bytes of code at page offset pa&pageOff.
func (p *codePage) add(b *block, pa, n uint64) {
	first, last := pa&pageOff>>6, (pa&pageOff+n-1)>>6
	for i := first; i <= last; i++ {
		p.lines |= 1 << i
	}
	p.count++
}

// codePageOf returns the code page of pa, made if need be, with the page protected against unseen writes.
func (c *CPU) codePageOf(ram *ramRange, pa uint64) *codePage {
	i := (pa - ram.gpa) >> pageBits
	if ram.code[i] == nil {
		p := &codePage{ram: ram, index: i}
		ram.code[i] = p
		c.blocks.pages = append(c.blocks.pages, p)
		c.blocks.used += pageOps
		ram.flags[i] |= pfCode
		c.protect(ram, i)
	}
	return ram.code[i]
}

// limited decodes the first n instructions at rip into a scratch block, for a stop that falls inside a block.
func (c *CPU) limited(n int) *op {
	va := c.rip + c.codeBase()
	pa, ram, ok := c.fetchPage(va)
	if !ok {
		return nil
	}
	if ram == nil {
		c.fail("execution outside RAM")
		return nil
	}
	l := c.decodeBlock(va, pa|va&pageOff, ram, min(n, maxInsns), true)
	if l == nil {
		return nil
	}
	c.left -= int64(l.ops[0].rest)
	return &l.ops[0]
}

// singleOp decodes the instruction at rip into a scratch block of its own.
func (c *CPU) singleOp() *op { return c.limited(1) }

// codeAt reports whether bytes [pa, pa+n) of a page belong to a cached block.
func (c *CPU) codeAt(r *ramRange, pa, n uint64) bool {
	p := r.code[(pa-r.gpa)>>pageBits]
	if p == nil || !p.touches(pa&pageOff, n) {
		return false
	}
	found := false
	p.overlapping(r.gpa, pa, n, func(*block) { found = true })
	return found
}

// touches is a quick test whether page bytes [off, off+n) may hold code.
func (p *codePage) touches(off, n uint64) bool {
	first, last := off>>6, (off+n-1)>>6
	return p.lines>>first<<(63-last+first) != 0
}

// overlapping visits the blocks of the page with bytes in [pa, pa+n). visit may drop the block it is given.
func (p *codePage) overlapping(gpa, pa, n uint64, visit func(*block)) {
	for i := range p.buckets {
		for b := p.buckets[i]; b != nil; {
			nextBlock := b.next
			if b.pa < pa+n && pa < b.pa+b.size {
				visit(b)
			}
			b = nextBlock
		}
	}
	start := gpa + p.index<<pageBits
	for i := len(p.tails) - 1; i >= 0; i-- {
		b := p.tails[i]
		if pa < start+b.size-(pageSize-b.pa&pageOff) {
			visit(b)
		}
	}
}

// dropCode drops the blocks that derive from RAM bytes [pa, pa+n), which lie in one page, before these change.
func (c *CPU) dropCode(r *ramRange, pa, n uint64) {
	p := r.code[(pa-r.gpa)>>pageBits]
	if p == nil || !p.touches(pa&pageOff, n) {
		return
	}
	p.overlapping(r.gpa, pa, n, c.dropBlock)
	if p.count == 0 {
		r.code[p.index] = nil
		r.flags[p.index] &^= pfCode
	}
}

// dropBlock removes a block from the cache and everything that leads to it.
func (c *CPU) dropBlock(b *block) {
	for _, l := range b.incoming {
		if l.fall && l.from.fall == b.first {
			l.from.fall = nil
		}
		if !l.fall && l.from.link == b.first {
			l.from.link = nil
		}
	}
	b.incoming = nil
	if b.far {
		c.blocks.unlinkFar()
	}
	for i := range c.jcs {
		if e := &c.jcs[i].entries[jumpSlot(b.va)]; e.op == b.first {
			*e = jumpEntry{}
		}
	}
	c.from = nil
	p := b.pages[0]
	for at := &p.buckets[bucketOf(b.pa)]; *at != nil; at = &(*at).next {
		if *at == b {
			*at = b.next
			break
		}
	}
	p.count--
	if p := b.pages[1]; p != nil {
		for i, t := range p.tails {
			if t == b {
				p.tails = append(p.tails[:i], p.tails[i+1:]...)
				break
			}
		}
		p.count--
	}
}

// dropAllCode empties the cache.
func (c *CPU) dropAllCode() {
	for _, p := range c.blocks.pages {
		if p.ram.code[p.index] == p {
			p.ram.code[p.index] = nil
			p.ram.flags[p.index] &^= pfCode
		}
	}
	c.blocks.init()
	c.jcs = [2]jumpCache{}
	c.from = nil
}
