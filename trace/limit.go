package trace

// A size limit has to end two recordings of one run at the same event, or they would have two roots. So what counts towards it is not the file, whose
// chunks are cut by the host's clock, but a sum over the events that depends on nothing else: the size of each in the coding of a chunk before
// compression (docs/trace-format.md, "Size limit"). The file stays below that sum.
const (
	closeReserve = 64 << 10 // of a limited file: kept for the host sections, the end event, the index and the footer
	endReserve   = 8 << 10  // of that, for events after the limit: checkpoint and end
	flushReserve = 8 << 10  // of that, what flushes before their time may cost more than is counted
	chunkCost    = 320      // of a chunk but for its events: record, head, column lengths, first position and time, zstd frame, index entry
	siteCost     = 40       // of an entry in a chunk's table of sites, upper bound
	blobCost     = 160      // of a stored input but for its bytes
)

// budget counts what a limited trace has used. The zero value is one without limit.
type budget struct {
	max  int64 // 0 is no limit
	used int64 // by all that was appended
	full bool  // an event was refused
	win  window
	// unwritten is what the events of the batch that is being filled count, without tables.
	unwritten int64
}

// window is a stretch of events that ends where a chunk has to. A flush may end a chunk earlier, but the count goes on.
type window struct {
	events  int
	payload int
	tables  int64
	sites   map[siteKey]struct{}
	tasks   map[taskKey]struct{}
	last    Event // its scalars only
}

func newBudget(limit, header int64) budget {
	return budget{max: limit, used: header, win: window{sites: map[siteKey]struct{}{}, tasks: map[taskKey]struct{}{}}}
}

// room is how much may still be appended.
func (b *budget) room() int64 { return b.max - closeReserve - b.used }

// take counts an event, or reports that it does not fit.
func (b *budget) take(e *Event, m clockModel) bool {
	if b.max == 0 {
		return true
	}
	w := &b.win
	site := siteKey{byte(e.Kind), e.flags(), e.Size, e.Device, e.Addr, e.PC}
	task := taskKey{e.Task, e.PID}
	var tables int64
	if _, ok := w.sites[site]; !ok {
		tables += siteCost
	}
	if _, ok := w.tasks[task]; !ok {
		tables += int64(6 + len(e.Task))
	}
	cost := eventCost(&w.last, e, m)
	total := cost + tables
	if w.events == 0 {
		total += chunkCost
	}
	if !b.admits(total, e.Kind) {
		b.full = true
		return false
	}
	w.sites[site], w.tasks[task] = struct{}{}, struct{}{}
	w.last = Event{Position: e.Position, Time: e.Time, Task: e.Task, PID: e.PID}
	w.events++
	w.payload += len(e.Data)
	w.tables += tables
	b.used += total
	b.unwritten += cost
	return true
}

func (b *budget) admits(cost int64, kind Kind) bool {
	if b.full {
		return (kind == KindCheckpoint || kind == KindEnd) && cost <= b.room()+endReserve
	}
	return cost <= b.room()
}

// admitsBlob reports whether a stored input fits. It counts with its size in the file.
func (b *budget) admitsBlob(n int) bool {
	return b.max == 0 || !b.full && int64(n+n>>10+2*blobCost) <= b.room()
}

// eventCost is an upper bound of an event's size in a chunk, after last, but for the tables.
func eventCost(last, e *Event, m clockModel) int64 {
	n := 2 // its site
	if last.Task != e.Task || last.PID != e.PID {
		n += 5 // a run of its task
	}
	n += uvarintLen(e.Position - last.Position)
	n += uvarintLen(zigzag(int64(e.Time - last.Time - (m.at(e.Position) - m.at(last.Position)))))
	n += uvarintLen(e.Value)
	if len(e.Data) > 0 {
		n += uvarintLen(uint64(len(e.Data))) + len(e.Data) + len(e.Data)>>10 + SaltSize // zstd adds three bytes to 128 KiB that it cannot compress
	}
	return int64(n + len(e.Commitment))
}

// windowEnds reports whether a chunk has to end after the events that were counted.
func (b *budget) windowEnds(chunkEvents int) bool {
	return b.win.events >= chunkEvents || b.win.payload >= chunkArena
}

func (b *budget) nextWindow() {
	clear(b.win.sites)
	clear(b.win.tasks)
	b.win = window{sites: b.win.sites, tasks: b.win.tasks}
}

// chunk is an upper bound of the size of the batch as a chunk. The next batch counts from here.
func (b *budget) chunk() int64 {
	n := b.unwritten + b.win.tables + chunkCost
	b.unwritten = 0
	return n
}

// mayFlush reports whether a chunk before its time keeps the file below what is counted, however the window goes on: its tables are then written twice.
// written is the size of the file with all that is on its way.
func (b *budget) mayFlush(written int64) bool {
	return b.max == 0 || written+b.unwritten+2*(b.win.tables+chunkCost) <= b.used+flushReserve
}
