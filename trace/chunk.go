package trace

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
)

// Limits of one chunk.
const (
	maxChunkEvents = 16384
	maxChunkRaw    = 32 << 20 // bytes, uncompressed
)

// clockModel predicts virtual time from the position, so that times cost nothing where nothing was skipped.
type clockModel struct{ num, den uint64 }

func (h *Header) clockModel() clockModel {
	hi, num := bits.Mul64(h.NSPerCount, h.ScaleNum)
	if hi != 0 || h.ScaleDen == 0 {
		return clockModel{0, 1}
	}
	return clockModel{num, h.ScaleDen}
}

func (m clockModel) at(position uint64) uint64 {
	hi, lo := bits.Mul64(position, m.num)
	if hi == 0 && m.den == 1 {
		return lo
	}
	if hi >= m.den {
		return 0
	}
	q, _ := bits.Div64(hi, lo, m.den)
	return q
}

// layout is what a chunk's encoding depends on beside the events.
type layout struct {
	clock    clockModel
	salted   bool
	hashSize int
}

func (h *Header) layout() layout {
	return layout{clock: h.clockModel(), salted: h.Redactable, hashSize: h.Hash.size()}
}

// How a site's values are coded.
const (
	valueRaw   = iota // as they are
	valueTime         // difference from the event's time
	valueDelta        // difference from the value before at this site
	valueModes
)

// siteKey is what events from one place in the guest have in common.
type siteKey struct {
	kind, flags, size byte
	device            uint16
	addr, pc          uint64
}

type taskKey struct {
	name string
	pid  uint32
}

// column numbers, in file order.
const (
	colSites = iota
	colTasks
	colSiteIDs
	colTaskRuns
	colPositions
	colTimes
	colValues
	colLengths
	colPayloads
	columns
)

// chunkEncoder turns events into the uncompressed content of a chunk (docs/trace-format.md, "Chunk content"). It reuses its buffers.
type chunkEncoder struct {
	layout
	sites map[siteKey]uint32
	order []siteState
	tasks map[taskKey]uint32
	ids   []uint32 // site of each event
	cols  [columns][]byte
}

type siteState struct {
	key    siteKey
	prev   uint64
	cost   [valueModes]int
	mode   byte
	values []byte
}

func newChunkEncoder(l layout) *chunkEncoder {
	return &chunkEncoder{layout: l, sites: map[siteKey]uint32{}, tasks: map[taskKey]uint32{}}
}

// encode appends the content of a chunk to dst. prevPos and prevTime are those of the event before the chunk's first as far as
// the decoder knows them: always 0, so that a chunk can be read alone.
func (c *chunkEncoder) encode(dst []byte, events []Event) []byte {
	c.reset()
	c.assignSites(events)
	c.encodeTables()
	c.encodeTasks(events)
	var pos, time, model uint64
	for i := range events {
		e := &events[i]
		c.cols[colSiteIDs] = binary.AppendUvarint(c.cols[colSiteIDs], uint64(c.ids[i]))
		c.cols[colPositions] = binary.AppendUvarint(c.cols[colPositions], e.Position-pos)
		m := c.clock.at(e.Position)
		c.cols[colTimes] = binary.AppendUvarint(c.cols[colTimes], zigzag(int64(e.Time-time-(m-model))))
		pos, time, model = e.Position, e.Time, m
		s := &c.order[c.ids[i]]
		s.values = binary.AppendUvarint(s.values, s.code(s.mode, e))
		s.prev = e.Value
		c.encodePayload(e)
	}
	for i := range c.order {
		c.cols[colValues] = append(c.cols[colValues], c.order[i].values...)
	}
	dst = binary.AppendUvarint(dst, uint64(len(events)))
	dst = binary.AppendUvarint(dst, uint64(len(c.order)))
	dst = binary.AppendUvarint(dst, uint64(len(c.tasks)))
	for _, col := range c.cols {
		dst = binary.AppendUvarint(dst, uint64(len(col)))
	}
	for _, col := range c.cols {
		dst = append(dst, col...)
	}
	return dst
}

func (c *chunkEncoder) reset() {
	clear(c.sites)
	clear(c.tasks)
	c.order, c.ids = c.order[:0], c.ids[:0]
	for i := range c.cols {
		c.cols[i] = c.cols[i][:0]
	}
}

func (s *siteState) code(mode byte, e *Event) uint64 {
	switch mode {
	case valueTime:
		return zigzag(int64(e.Value - e.Time))
	case valueDelta:
		return zigzag(int64(e.Value - s.prev))
	}
	return e.Value
}

// assignSites finds the site of each event and which coding is cheapest for its values.
func (c *chunkEncoder) assignSites(events []Event) {
	for i := range events {
		e := &events[i]
		key := siteKey{byte(e.Kind), e.flags(), e.Size, e.Device, e.Addr, e.PC}
		if e.Withheld {
			key.flags |= flagWithheld
		}
		id, ok := c.sites[key]
		if !ok {
			id = uint32(len(c.order))
			c.sites[key] = id
			if len(c.order) < cap(c.order) {
				c.order = c.order[:id+1]
				c.order[id] = siteState{key: key, values: c.order[id].values[:0]}
			} else {
				c.order = append(c.order, siteState{key: key})
			}
		}
		c.ids = append(c.ids, id)
		s := &c.order[id]
		for m := range byte(valueModes) {
			s.cost[m] += uvarintLen(s.code(m, e))
		}
		s.prev = e.Value
	}
	for i := range c.order {
		s := &c.order[i]
		s.prev = 0
		for m := range byte(valueModes) {
			if s.cost[m] < s.cost[s.mode] {
				s.mode = m
			}
		}
	}
}

func (c *chunkEncoder) encodeTables() {
	b := c.cols[colSites]
	var pc uint64
	for i := range c.order {
		s := &c.order[i]
		b = append(b, s.key.kind, s.key.flags, s.key.size)
		b = binary.AppendUvarint(b, uint64(s.key.device))
		b = binary.AppendUvarint(b, s.key.addr)
		b = binary.AppendUvarint(b, zigzag(int64(s.key.pc-pc)))
		b = append(b, s.mode)
		b = binary.AppendUvarint(b, uint64(s.cost[s.mode]))
		pc = s.key.pc
	}
	c.cols[colSites] = b
}

func (c *chunkEncoder) encodeTasks(events []Event) {
	var run, current uint64
	flush := func() {
		if run > 0 {
			c.cols[colTaskRuns] = binary.AppendUvarint(binary.AppendUvarint(c.cols[colTaskRuns], current), run)
		}
	}
	for i := range events {
		e := &events[i]
		if i > 0 && e.PID == events[i-1].PID && e.Task == events[i-1].Task {
			run++
			continue
		}
		key := taskKey{e.Task, e.PID}
		id, ok := c.tasks[key]
		if !ok {
			id = uint32(len(c.tasks))
			c.tasks[key] = id
			b := binary.AppendUvarint(c.cols[colTasks], uint64(e.PID))
			c.cols[colTasks] = append(append(b, byte(len(e.Task))), e.Task...)
		}
		flush()
		current, run = uint64(id), 1
	}
	flush()
}

func (c *chunkEncoder) encodePayload(e *Event) {
	if e.Withheld {
		c.cols[colPayloads] = append(c.cols[colPayloads], e.Commitment...)
		return
	}
	if len(e.Data) == 0 {
		return
	}
	c.cols[colLengths] = binary.AppendUvarint(c.cols[colLengths], uint64(len(e.Data)))
	if c.salted {
		c.cols[colPayloads] = append(c.cols[colPayloads], e.Salt...)
	}
	c.cols[colPayloads] = append(c.cols[colPayloads], e.Data...)
}

// chunkDecoder reads the events of one chunk in order. Nothing it allocates is larger than the content.
type chunkDecoder struct {
	layout
	count, left      int
	sites            []decodedSite
	tasks            []taskKey
	cols             [columns]decoder
	pos, time, model uint64
	task             taskKey
	run              uint64
}

type decodedSite struct {
	proto Event
	mode  byte
	prev  uint64
	vals  decoder
}

// open starts on a chunk's content, which must stay unchanged until the last event is read.
func (c *chunkDecoder) open(raw []byte) error {
	d := decoder{b: raw}
	count, sites, tasks := d.uvarint(), d.uvarint(), d.uvarint()
	var lens [columns]uint64
	for i := range lens {
		lens[i] = d.uvarint()
	}
	for i := range lens {
		if lens[i] > uint64(len(d.b)) {
			d.fail(errShort)
			break
		}
		c.cols[i] = decoder{b: d.bytes(int(lens[i]))}
	}
	if err := d.end(); err != nil {
		return fmt.Errorf("decode chunk: %w", err)
	}
	if count == 0 || count > maxChunkEvents || sites > count || tasks > count {
		return fmt.Errorf("decode chunk: %d events from %d sites and %d tasks are out of range", count, sites, tasks)
	}
	c.count, c.left = int(count), int(count)
	c.pos, c.time, c.model, c.run = 0, 0, 0, 0
	if err := c.readSites(int(sites)); err != nil {
		return fmt.Errorf("decode chunk's sites: %w", err)
	}
	return c.readTasks(int(tasks))
}

func (c *chunkDecoder) readSites(n int) error {
	d, vals := &c.cols[colSites], &c.cols[colValues]
	c.sites = c.sites[:0]
	var pc uint64
	for range n {
		var s decodedSite
		s.proto.Kind = Kind(d.byte())
		flags := d.byte()
		s.proto.Size = d.byte()
		device := d.uvarint()
		s.proto.Addr = d.uvarint()
		pc += uint64(d.svarint())
		s.proto.PC = pc
		s.mode = d.byte()
		length := d.uvarint()
		if length > uint64(len(vals.b)) {
			return errShort
		}
		s.vals.b = vals.bytes(int(length))
		withheld, payload := flags&flagWithheld != 0, flags&flagPayload != 0
		if flags&^(leafFlags|flagWithheld) != 0 || device > 0xffff || s.mode >= valueModes || withheld && !payload {
			return errors.New("a field is out of range")
		}
		s.proto.Device = uint16(device)
		s.proto.Write, s.proto.Fault, s.proto.Withheld = flags&flagWrite != 0, flags&flagFault != 0, withheld
		if payload && !withheld {
			s.proto.Data = payloadFollows
		}
		if err := s.proto.check(); err != nil {
			return err
		}
		c.sites = append(c.sites, s)
	}
	if err := d.end(); err != nil {
		return err
	}
	return vals.end()
}

// payloadFollows marks a site whose events have a payload.
var payloadFollows = []byte{0}

func (c *chunkDecoder) readTasks(n int) error {
	d := &c.cols[colTasks]
	c.tasks = c.tasks[:0]
	for range n {
		pid := d.uvarint()
		if pid > 0xffffffff {
			d.fail(errors.New("process number is out of range"))
		}
		name := d.bytes(int(d.byte()))
		c.tasks = append(c.tasks, taskKey{string(name), uint32(pid)})
	}
	if err := d.end(); err != nil {
		return fmt.Errorf("decode chunk's tasks: %w", err)
	}
	return nil
}

// next decodes the next event into e. The payload aliases the content. At the end it returns false, with an error if the content is malformed.
func (c *chunkDecoder) next(e *Event) (bool, error) {
	if c.left == 0 {
		for i := range c.cols {
			if err := c.cols[i].end(); err != nil {
				return false, fmt.Errorf("decode chunk: column %d: %w", i, err)
			}
		}
		for i := range c.sites {
			if err := c.sites[i].vals.end(); err != nil {
				return false, fmt.Errorf("decode chunk: values of site %d: %w", i, err)
			}
		}
		return false, nil
	}
	c.left--
	id := c.cols[colSiteIDs].uvarint()
	if id >= uint64(len(c.sites)) {
		return false, errors.New("decode chunk: an event names a site that does not exist")
	}
	s := &c.sites[id]
	*e = s.proto
	if err := c.nextTask(); err != nil {
		return false, err
	}
	e.Task, e.PID = c.task.name, c.task.pid
	delta := c.cols[colPositions].uvarint()
	if delta > ^uint64(0)-c.pos {
		return false, errors.New("decode chunk: a position overflows")
	}
	e.Position = c.pos + delta
	m := c.clock.at(e.Position)
	e.Time = c.time + (m - c.model) + uint64(unzigzag(c.cols[colTimes].uvarint()))
	if e.Time < c.time {
		return false, errors.New("decode chunk: time goes backwards")
	}
	c.pos, c.time, c.model = e.Position, e.Time, m
	e.Value = s.value(e.Time)
	if e.Withheld || e.Data != nil {
		c.nextPayload(e)
	}
	return true, c.failed(s)
}

func (c *chunkDecoder) failed(s *decodedSite) error {
	if s.vals.err != nil {
		return fmt.Errorf("decode chunk: values: %w", s.vals.err)
	}
	for _, i := range [...]int{colSiteIDs, colPositions, colTimes, colLengths, colPayloads} {
		if err := c.cols[i].err; err != nil {
			return fmt.Errorf("decode chunk: column %d: %w", i, err)
		}
	}
	return nil
}

func (s *decodedSite) value(time uint64) uint64 {
	v := s.vals.uvarint()
	switch s.mode {
	case valueTime:
		v = uint64(unzigzag(v)) + time
	case valueDelta:
		v = uint64(unzigzag(v)) + s.prev
	}
	s.prev = v
	return v
}

func (c *chunkDecoder) nextTask() error {
	if c.run == 0 {
		d := &c.cols[colTaskRuns]
		id := d.uvarint()
		c.run = d.uvarint()
		if d.err != nil || id >= uint64(len(c.tasks)) || c.run == 0 || c.run > uint64(c.left)+1 {
			return errors.New("decode chunk: malformed run of tasks")
		}
		c.task = c.tasks[id]
	}
	c.run--
	return nil
}

func (c *chunkDecoder) nextPayload(e *Event) {
	p := &c.cols[colPayloads]
	if e.Withheld {
		e.Commitment = p.bytes(c.hashSize)
		return
	}
	n := c.cols[colLengths].uvarint()
	if n == 0 || n > MaxData {
		p.fail(errors.New("payload's length is out of range"))
		return
	}
	if c.salted {
		e.Salt = p.bytes(SaltSize)
	}
	e.Data = p.bytes(int(n))
}
