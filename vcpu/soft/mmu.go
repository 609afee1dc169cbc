package soft

import "encoding/binary"

// Paging constants (SDM vol. 3A, 4.5).
const (
	pageBits = 12
	pageSize = 1 << pageBits
	pageMask = ^uint64(pageSize - 1)
	pageOff  = uint64(pageSize - 1)

	tlbBits  = 10
	tlbSize  = 1 << tlbBits
	tlbMask  = tlbSize - 1
	tlbEmpty = 1 // never a page-aligned address

	pteP  = 1 << 0
	pteW  = 1 << 1
	pteU  = 1 << 2
	pteA  = 1 << 5
	pteD  = 1 << 6
	ptePS = 1 << 7
	pteNX = 1 << 63

	pteAddr = 0x000ffffffffff000
)

// Flags of a RAM page. A page with any of pfSlowWrite set is never entered in the write TLB, so that writes to it come to storeSlow.
const (
	pfCode    = 1 << iota // decoded blocks derive from it
	pfTable               // TLB entries derive from it: it is a page table in use
	pfClean               // not written since the last collection of dirty pages
	pfWriteTL             // it may have entries in the write TLB

	pfSlowWrite = pfCode | pfTable | pfClean
)

// ramRange is one range of guest RAM with what the engine knows about its pages.
type ramRange struct {
	gpa, size uint64
	host      []byte
	flags     []uint8
	code      []*codePage
	tables    []int32 // for a page with pfTable: its index in CPU.tables plus 1
}

// tableRef describes a page table in use.
type tableRef struct {
	pa uint64
	// base is the linear address that the first entry of a last-level table translates, if leaf is set: then a write to one of its entries
	// concerns one known page.
	base uint64
	leaf bool
}

// execEntry is an entry of the instruction TLB, used only to look blocks up.
type execEntry struct {
	tag uint64
	pa  uint64
	ram *ramRange
}

// tlb is the soft TLB of one privilege (supervisor or user). It is invisible to the guest: a write to a page table from which an
// entry derives empties it, so that the guest always sees its page tables as they are now. (A processor may drop TLB entries at
// any time, so this is a behaviour that the architecture allows. It is the one that makes the accessed and dirty bits, and everything else, independent
// of how a run is sliced and of when a snapshot is taken.)
type tlb struct {
	rd, wr [tlbSize]tlbEntry
	ex     [tlbSize]execEntry
}

func (t *tlb) flush() {
	for i := range t.rd {
		t.rd[i] = tlbEntry{tag: tlbEmpty}
	}
	for i := range t.wr {
		t.wr[i] = tlbEntry{tag: tlbEmpty}
	}
	for i := range t.ex {
		t.ex[i] = execEntry{tag: tlbEmpty}
	}
}

// noTLB is what the data TLBs are while alignment is checked: then every access comes to the slow path. Nobody writes to it.
var noTLB = func() (t [tlbSize]tlbEntry) {
	for i := range t {
		t[i] = tlbEntry{tag: tlbEmpty}
	}
	return t
}()

// selectTLB makes loads and stores use the TLB of the current privilege.
func (c *CPU) selectTLB() {
	switch {
	case c.checksAlignment():
		c.rd, c.wr = &noTLB, &noTLB
	case c.cpl == 3:
		c.rd, c.wr = &c.tlbs[1].rd, &c.tlbs[1].wr
	default:
		c.rd, c.wr = &c.tlbs[0].rd, &c.tlbs[0].wr
	}
}

// checksAlignment reports whether data accesses raise #AC if they are not aligned (SDM vol. 3A, 6.15, interrupt 17).
func (c *CPU) checksAlignment() bool { return c.flags&flagAC != 0 && c.cpl == 3 && c.cr0&cr0AM != 0 }

// aligned checks an access of size bytes, of which only powers of two have an alignment. Otherwise #AC is pending. Addresses that are not canonical come first.
func (c *CPU) aligned(va, size uint64) bool {
	if size&(size-1) != 0 || va&(size-1) == 0 || c.implicit || !c.checksAlignment() || !canonical(va) || !canonical(va+size-1) {
		return true
	}
	c.post(exception{vec: vecAC, hasCode: true})
	return false
}

// alignedBlock is aligned for an operand of many bytes, by what it is made of (SDM vol. 3A, table 6-7): the 16-bit and 32-bit environments of the x87, 80-bit numbers.
// FXSAVE images are checked by their instructions.
func (c *CPU) alignedBlock(va, n uint64) bool {
	unit := n
	switch n {
	case 14, 94:
		unit = 2
	case 28, 108:
		unit = 4
	case 10:
		unit = 8
	}
	return unit > 16 || c.aligned(va, unit)
}

// access is what a translation is for.
type access uint8

const (
	accRead access = iota
	accWrite
	accExec
)

// Page-fault error code bits (SDM vol. 3A, 4.7).
const (
	pfErrP    = 1 << 0
	pfErrW    = 1 << 1
	pfErrU    = 1 << 2
	pfErrRsvd = 1 << 3
	pfErrI    = 1 << 4
)

// findRAM returns the RAM range that holds the page of pa, or nil.
func (c *CPU) findRAM(pa uint64) *ramRange {
	if r := c.lastRAM; r != nil && pa-r.gpa < r.size {
		return r
	}
	for i := range c.ram {
		if r := &c.ram[i]; pa-r.gpa < r.size {
			c.lastRAM = r
			return r
		}
	}
	return nil
}

// canonical reports whether va is a canonical 48-bit address.
func canonical(va uint64) bool { return uint64(int64(va<<16)>>16) == va }

// endsCanonical checks the last byte of an operand that may cross pages, before any of them is translated: an address that is not canonical comes
// before page faults.
func (c *CPU) endsCanonical(va, size uint64) bool {
	if canonical(va + size - 1) {
		return true
	}
	c.raiseNonCanonical()
	return false
}

// readPTE reads a page-table entry; outside RAM it reads as all ones, which is a reserved-bit fault.
func (c *CPU) readPTE(pa uint64) (uint64, *ramRange) {
	r := c.findRAM(pa)
	if r == nil {
		return ^uint64(0), nil
	}
	return binary.LittleEndian.Uint64(r.host[pa-r.gpa:]), r
}

// writePTE sets accessed and dirty bits.
func (c *CPU) writePTE(r *ramRange, pa, v uint64) {
	c.dropCode(r, pa, 8)
	binary.LittleEndian.PutUint64(r.host[pa-r.gpa:], v)
	c.markDirty(r, pa)
}

// markDirty records a write to the page of pa in the dirty log.
func (c *CPU) markDirty(r *ramRange, pa uint64) {
	r.flags[(pa-r.gpa)>>pageBits] &^= pfClean
}

// walkResult is a successful translation.
type walkResult struct {
	pa       uint64
	ram      *ramRange // nil outside RAM
	noCache  bool      // must not be entered in the TLB
	writable bool
}

// translate walks the page tables for an access of the given kind by user or supervisor, sets accessed and dirty bits, and raises #PF. It
// raises #GP or #SS for a non-canonical address.
func (c *CPU) translate(va uint64, acc access, user bool) (walkResult, bool) {
	if c.cr0&cr0PG == 0 {
		pa := va & 0xffffffff
		return walkResult{pa: pa, ram: c.findRAM(pa), writable: true}, true
	}
	if !canonical(va) {
		c.raiseNonCanonical()
		return walkResult{}, false
	}
	code := uint32(0)
	if acc == accWrite {
		code |= pfErrW
	}
	if user {
		code |= pfErrU
	}
	if acc == accExec && (c.efer&eferNXE != 0 || c.cr4&cr4SMEP != 0) {
		code |= pfErrI
	}
	var entries [4]uint64
	var addrs [4]uint64
	var rams [4]*ramRange
	table := c.cr3 & pteAddr
	allow := uint64(pteW | pteU)
	nx := uint64(0)
	level := 0
	var pa uint64
	for ; ; level++ {
		shift := 39 - 9*level
		addrs[level] = table + va>>shift&511*8
		e, r := c.readPTE(addrs[level])
		if e&pteP == 0 {
			c.raisePF(va, code)
			return walkResult{}, false
		}
		if c.reservedBits(e, level) {
			c.raisePF(va, code|pfErrP|pfErrRsvd)
			return walkResult{}, false
		}
		entries[level], rams[level] = e, r
		allow &= e
		nx |= e & pteNX
		if level == 3 || e&ptePS != 0 && level > 0 {
			size := uint64(1) << shift
			pa = e&pteAddr&^(size-1) | va&(size-1)
			break
		}
		table = e & pteAddr
	}
	if !c.permitted(allow, nx, acc, user) {
		c.raisePF(va, code|pfErrP)
		return walkResult{}, false
	}
	for i := 0; i <= level; i++ {
		e := entries[i] | pteA
		if i == level && acc == accWrite {
			e |= pteD
		}
		if e != entries[i] {
			c.writePTE(rams[i], addrs[i], e)
		}
		c.trackTable(rams[i], addrs[i], tableRef{pa: addrs[i] & pageMask, base: va &^ (1<<21 - 1), leaf: i == 3})
	}
	w := walkResult{pa: pa, ram: c.findRAM(pa)}
	w.noCache = c.cr4&cr4SMAP != 0 && !user && allow&pteU != 0
	return w, true
}

// reservedBits reports whether an entry sets bits that are reserved at its level (SDM vol. 3A, table 4-15 ff.).
func (c *CPU) reservedBits(e uint64, level int) bool {
	rsvd := c.physRsvd
	if c.efer&eferNXE == 0 {
		rsvd |= pteNX
	}
	switch {
	case level == 0:
		rsvd |= ptePS
	case level == 1 && e&ptePS != 0:
		rsvd |= 0x3fffe000
	case level == 2 && e&ptePS != 0:
		rsvd |= 0x1fe000
	}
	if level == 1 && e&ptePS != 0 && !c.has1G {
		return true
	}
	return e&rsvd != 0
}

// permitted checks the combined rights of a translation (SDM vol. 3A, 4.6).
func (c *CPU) permitted(allow, nx uint64, acc access, user bool) bool {
	userPage := allow&pteU != 0
	if user && !userPage {
		return false
	}
	switch acc {
	case accExec:
		return nx == 0 && (user || !userPage || c.cr4&cr4SMEP == 0)
	case accWrite:
		if allow&pteW == 0 && (user || c.cr0&cr0WP != 0) {
			return false
		}
	}
	if !user && userPage && c.cr4&cr4SMAP != 0 {
		return c.flags&flagAC != 0 && !c.implicit
	}
	return true
}

// trackTable notes that TLB entries derive from the page table that holds address pa, so that writes to it are seen.
func (c *CPU) trackTable(r *ramRange, pa uint64, ref tableRef) {
	i := (pa - r.gpa) >> pageBits
	if r.flags[i]&pfTable != 0 {
		if t := &c.tables[r.tables[i]-1]; t.leaf != ref.leaf || t.base != ref.base {
			t.leaf = false // used in several places
		}
		return
	}
	r.flags[i] |= pfTable
	c.tables = append(c.tables, ref)
	r.tables[i] = int32(len(c.tables))
	c.protect(r, i)
}

// tableWritten drops what derives from the page-table entries in [pa, pa+n), which are about to change. A last-level entry that forbids
// execution concerns the data TLBs of one page only; anything else empties everything.
func (c *CPU) tableWritten(r *ramRange, pa, n uint64) {
	t := &c.tables[r.tables[(pa-r.gpa)>>pageBits]-1]
	at := pa &^ 7
	if !t.leaf || at != (pa+n-1)&^7 || binary.LittleEndian.Uint64(r.host[at-r.gpa:])&pteNX == 0 || c.efer&eferNXE == 0 {
		c.flushTLB()
		return
	}
	va := t.base | at&pageOff<<(pageBits-3)
	slot := va >> pageBits & tlbMask
	for i := range c.tlbs {
		if e := &c.tlbs[i].rd[slot]; e.tag == va {
			*e = tlbEntry{tag: tlbEmpty}
		}
		if e := &c.tlbs[i].wr[slot]; e.tag == va {
			*e = tlbEntry{tag: tlbEmpty}
		}
	}
}

// protect removes the page with index i of r from the write TLB.
func (c *CPU) protect(r *ramRange, i uint64) {
	if r.flags[i]&pfWriteTL == 0 {
		return
	}
	r.flags[i] &^= pfWriteTL
	host := hostPage(r.host, i<<pageBits)
	for t := range c.tlbs {
		wr := &c.tlbs[t].wr
		for j := range wr {
			if wr[j].page == host {
				wr[j] = tlbEntry{tag: tlbEmpty}
			}
		}
	}
}

// flushTLB drops all translations and what depends on them.
func (c *CPU) flushTLB() {
	c.tlbs[0].flush()
	c.tlbs[1].flush()
	for _, t := range c.tables {
		if r := c.findRAM(t.pa); r != nil {
			r.flags[(t.pa-r.gpa)>>pageBits] &^= pfTable
		}
	}
	c.tables = c.tables[:0]
	c.newGeneration()
}

// user reports whether data accesses of the running code are user accesses.
func (c *CPU) user() bool { return c.cpl == 3 && !c.implicit }

// fill translates va for a data access by the current privilege, enters it in the TLB where that is allowed, and returns where it is.
func (c *CPU) fill(va uint64, acc access) (walkResult, bool) {
	user := c.user()
	w, ok := c.translate(va, acc, user)
	if !ok || w.ram == nil || w.noCache || c.implicit || c.checksAlignment() || c.breakpointsNear(va) {
		return w, ok
	}
	i := (w.pa - w.ram.gpa) >> pageBits
	e := tlbEntry{tag: va & pageMask, page: hostPage(w.ram.host, i<<pageBits)}
	slot := va >> pageBits & tlbMask
	if acc == accRead {
		c.rd[slot] = e
		return w, true
	}
	if w.ram.flags[i]&pfSlowWrite == 0 {
		w.ram.flags[i] |= pfWriteTL
		c.wr[slot] = e
		c.rd[slot] = e
	}
	return w, true
}

// loadSlow reads size bytes (1 to 8) at va.
func (c *CPU) loadSlow(va, size uint64) (uint64, bool) {
	if !c.aligned(va, size) {
		return 0, false
	}
	return c.loadAny(va, size)
}

// loadAny is loadSlow without the check of alignment.
func (c *CPU) loadAny(va, size uint64) (uint64, bool) {
	c.checkDataBreak(va, size, false)
	n := pageSize - va&pageOff
	if n >= size {
		w, ok := c.fill(va, accRead)
		if !ok {
			return 0, false
		}
		return c.physLoad(w, size)
	}
	if !c.endsCanonical(va, size) {
		return 0, false
	}
	w1, ok := c.fill(va, accRead)
	if !ok {
		return 0, false
	}
	w2, ok := c.fill(va+n, accRead)
	if !ok {
		return 0, false
	}
	lo, ok := c.physLoad(w1, n)
	if !ok {
		return 0, false
	}
	hi, ok := c.physLoad(w2, size-n)
	return lo | hi<<(8*n), ok
}

// physLoad reads size bytes that lie in one page.
func (c *CPU) physLoad(w walkResult, size uint64) (uint64, bool) {
	if w.ram == nil {
		return c.mmioLoad(w.pa, size)
	}
	var b [8]byte
	copy(b[:size], w.ram.host[w.pa-w.ram.gpa:])
	return binary.LittleEndian.Uint64(b[:]), true
}

// probeWrite checks that size bytes at va (at most 16) can be written, and asks for the instruction to be executed alone if the write
// is one that must not happen mid-block: outside RAM, to a page table in use, or to decoded code.
func (c *CPU) probeWrite(va, size uint64) bool {
	if !c.aligned(va, size) {
		return false
	}
	n := pageSize - va&pageOff
	if n >= size {
		w, ok := c.fill(va, accWrite)
		return ok && c.mayStore(w, size)
	}
	if !c.endsCanonical(va, size) {
		return false
	}
	w1, ok := c.fill(va, accWrite)
	if !ok {
		return false
	}
	w2, ok := c.fill(va+n, accWrite)
	return ok && c.mayStore(w1, n) && c.mayStore(w2, size-n)
}

// mayStore reports whether the store can be done now; if not, it asks for the instruction to be executed alone.
func (c *CPU) mayStore(w walkResult, size uint64) bool {
	if c.single {
		return true
	}
	if w.ram != nil {
		f := w.ram.flags[(w.pa-w.ram.gpa)>>pageBits]
		if f&pfCode != 0 && c.codeAt(w.ram, w.pa, size) {
			c.ev = evSingle
			return false
		}
		if f&pfTable == 0 || !c.tableLive(w.ram, w.pa, size) {
			return true
		}
	}
	c.ev = evSingle
	return false
}

// tableLive reports whether a translation may derive from the page-table entries in [pa, pa+size).
func (c *CPU) tableLive(r *ramRange, pa, size uint64) bool {
	for a := pa &^ 7; a < pa+size; a += 8 {
		if binary.LittleEndian.Uint64(r.host[a-r.gpa:])&(pteP|pteA) == pteP|pteA {
			return true
		}
	}
	return false
}

// storeSlow writes the low size bytes (1 to 8) of v at va. Nothing is written unless all of it can be.
func (c *CPU) storeSlow(va, v, size uint64) bool {
	if !c.aligned(va, size) {
		return false
	}
	return c.storeAny(va, v, size)
}

// storeAny is storeSlow without the check of alignment.
func (c *CPU) storeAny(va, v, size uint64) bool {
	c.checkDataBreak(va, size, true)
	n := pageSize - va&pageOff
	if n >= size {
		w, ok := c.fill(va, accWrite)
		if !ok || !c.mayStore(w, size) {
			return false
		}
		c.physStore(w, v, size)
		return true
	}
	if !c.endsCanonical(va, size) {
		return false
	}
	w1, ok := c.fill(va, accWrite)
	if !ok {
		return false
	}
	w2, ok := c.fill(va+n, accWrite)
	if !ok || !c.mayStore(w1, n) || !c.mayStore(w2, size-n) {
		return false
	}
	c.physStore(w1, v, n)
	c.physStore(w2, v>>(8*n), size-n)
	return true
}

// physStore writes size bytes that lie in one page, after mayStore.
func (c *CPU) physStore(w walkResult, v, size uint64) {
	if w.ram == nil {
		c.mmioStore(w.pa, v, size)
		return
	}
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], v)
	c.physWrite(w.ram, w.pa, b[:size])
}

// physWrite copies p into RAM at pa, within one page, and drops what derived from the old contents.
func (c *CPU) physWrite(r *ramRange, pa uint64, p []byte) {
	f := &r.flags[(pa-r.gpa)>>pageBits]
	n := uint64(len(p))
	if *f&pfSlowWrite != 0 {
		if *f&pfTable != 0 && c.tableLive(r, pa, n) {
			c.tableWritten(r, pa, n)
		}
		c.dropCode(r, pa, n)
	}
	copy(r.host[pa-r.gpa:], p)
	*f &^= pfClean
}

// commit writes the bounce buffer back. probeWrite has made sure that it can.
func (c *CPU) commit() {
	size := c.bounceSize
	c.bounceSize = 0
	c.storeSlow(c.bounceVA, c.bounce, size)
}

// readMem and writeMem move any number of bytes up to a page, all or nothing, for the instructions with large operands.

func (c *CPU) readMem(va uint64, p []byte) bool {
	if !c.alignedBlock(va, uint64(len(p))) {
		return false
	}
	for i := 0; i < len(p); {
		n := min(8, len(p)-i)
		v, ok := c.loadAny(va+uint64(i), uint64(n))
		if !ok {
			return false
		}
		var b [8]byte
		binary.LittleEndian.PutUint64(b[:], v)
		copy(p[i:i+n], b[:])
		i += n
	}
	return true
}

func (c *CPU) writeMem(va uint64, p []byte) bool {
	n := uint64(len(p))
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
	for i := 0; i < len(p); i += 8 {
		k := min(8, len(p)-i)
		var b [8]byte
		copy(b[:], p[i:i+k])
		if !c.storeAny(va+uint64(i), binary.LittleEndian.Uint64(b[:]), uint64(k)) {
			return false
		}
	}
	return true
}

// fetchPage translates the page of va for instruction fetch.
func (c *CPU) fetchPage(va uint64) (pa uint64, r *ramRange, ok bool) {
	t := &c.tlbs[0]
	if c.cpl == 3 {
		t = &c.tlbs[1]
	}
	e := &t.ex[va>>pageBits&tlbMask]
	if e.tag == va&pageMask {
		return e.pa, e.ram, true
	}
	w, ok := c.translate(va, accExec, c.cpl == 3)
	if !ok {
		return 0, nil, false
	}
	*e = execEntry{tag: va & pageMask, pa: w.pa & pageMask, ram: w.ram}
	return e.pa, e.ram, true
}
