package virtio

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// image returns n bytes that differ from sector to sector.
func image(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i/SectorSize*7 + i)
	}
	return p
}

func newDisk(t testing.TB, content []byte, limit int) *Disk {
	t.Helper()
	d, err := NewDisk(bytes.NewReader(content), int64(len(content)), limit)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func header(kind uint32, sector uint64) part {
	p := le.AppendUint32(nil, kind)
	p = le.AppendUint32(p, 0)
	return send(le.AppendUint64(p, sector))
}

func (d *driver) readSectors(sector uint64, n int) ([]byte, byte) {
	u := d.call(0, header(blockIn, sector), receive(n), receive(1))
	return u.data[:n], u.data[n]
}

func (d *driver) writeSectors(sector uint64, data []byte) byte {
	return d.call(0, header(blockOut, sector), send(data), receive(1)).data[0]
}

func TestBlockConfiguration(t *testing.T) {
	d := newDriver(t, NewBlock(newDisk(t, image(10*SectorSize), 0), BlockOptions{ReadOnly: true}))
	if d.get(regDeviceID) != 2 || d.get(regConfig) != 10 || d.get(regConfig+8) != blockSizeMax || d.get(regConfig+12) != blockSegMax || d.get(regConfig+20) != 512 {
		t.Error("wrong configuration space")
	}
	if f := d.offered(); f&blockFeatureRO == 0 || f&blockFeatureFlush == 0 {
		t.Errorf("features %#x", f)
	}
	if blockSegMax*blockSizeMax+blockHeaderSize+1 > MaxChainBytes {
		t.Error("the largest legal request does not fit a chain")
	}
}

func TestBlockReadsAndWrites(t *testing.T) {
	content := image(9*BlockSize + 3*SectorSize)
	disk := newDisk(t, content, 0)
	type access struct {
		sector uint64
		n      int
	}
	var reads, writes []access
	block := NewBlock(disk, BlockOptions{
		OnRead:  func(s uint64, n int) { reads = append(reads, access{s, n}) },
		OnWrite: func(s uint64, p []byte) { writes = append(writes, access{s, len(p)}) },
	})
	d := newDriver(t, block).start(0)
	if got, status := d.readSectors(3, 5*SectorSize); status != blockOK || !bytes.Equal(got, content[3*SectorSize:8*SectorSize]) {
		t.Fatalf("status %d, data differs: %v", status, !bytes.Equal(got, content[3*SectorSize:8*SectorSize]))
	}
	want := bytes.Clone(content)
	data := bytes.Repeat([]byte("0123456789abcdef"), 10*SectorSize/16)
	copy(want[5*SectorSize:], data)
	if status := d.writeSectors(5, data); status != blockOK {
		t.Fatalf("write: status %d", status)
	}
	if got, status := d.readSectors(0, len(content)); status != blockOK || !bytes.Equal(got, want) {
		t.Error("the disk does not read as it was written")
	}
	if !slices.Equal(reads, []access{{3, 5 * SectorSize}, {0, len(content)}}) {
		t.Errorf("reads told: %v", reads)
	}
	if !slices.Equal(writes, []access{{5, 3 * SectorSize}, {8, 7 * SectorSize}}) {
		t.Errorf("writes told: %v", writes)
	}
	var merged bytes.Buffer
	if n, err := disk.WriteTo(&merged); err != nil || n != int64(len(want)) || !bytes.Equal(merged.Bytes(), want) {
		t.Errorf("%d bytes merged, %v", n, err)
	}
	if sum, err := disk.Digest(); err != nil || sum != sha256.Sum256(want) {
		t.Errorf("digest %x, %v", sum, err)
	}
	if disk.DirtyBlocks() != 2 {
		t.Errorf("%d dirty blocks", disk.DirtyBlocks())
	}
	n := d.checkRestore(NewBlock(newDisk(t, content, 0), BlockOptions{}))
	if got, _ := n.readSectors(0, len(content)); !bytes.Equal(got, want) {
		t.Error("the restored disk reads otherwise")
	}
}

func TestBlockWriteInTheLastPartialBlock(t *testing.T) {
	content := image(BlockSize + SectorSize)
	disk := newDisk(t, content, 0)
	d := newDriver(t, NewBlock(disk, BlockOptions{})).start(0)
	if s := d.writeSectors(8, make([]byte, SectorSize)); s != blockOK {
		t.Fatalf("status %d", s)
	}
	for at, p := range disk.Dirty() {
		if at != BlockSize || len(p) != SectorSize {
			t.Errorf("dirty: %d bytes at %d", len(p), at)
		}
	}
	d.checkRestore(NewBlock(newDisk(t, content, 0), BlockOptions{}))
}

func TestBlockRefusesBadRequests(t *testing.T) {
	content := image(16 * SectorSize)
	d := newDriver(t, NewBlock(newDisk(t, content, 0), BlockOptions{ID: "a serial number that is too long"})).start(0)
	for name, c := range map[string]struct {
		status byte
		parts  []part
	}{
		"read beyond the end":    {blockIOError, []part{header(blockIn, 16), receive(512), receive(1)}},
		"read across the end":    {blockIOError, []part{header(blockIn, 15), receive(1024), receive(1)}},
		"read far beyond":        {blockIOError, []part{header(blockIn, 1<<63), receive(512), receive(1)}},
		"read half a sector":     {blockIOError, []part{header(blockIn, 0), receive(256), receive(1)}},
		"write beyond the end":   {blockIOError, []part{header(blockOut, ^uint64(0)), send(make([]byte, 512)), receive(1)}},
		"write half a sector":    {blockIOError, []part{header(blockOut, 0), send(make([]byte, 700)), receive(1)}},
		"unknown request":        {blockUnsupported, []part{header(999, 0), receive(20), receive(1)}},
		"discard, not offered":   {blockUnsupported, []part{header(11, 0), send(make([]byte, 16)), receive(1)}},
		"flush":                  {blockOK, []part{header(blockFlush, 0), receive(1)}},
		"nothing to read":        {blockOK, []part{header(blockIn, 0), receive(1)}},
		"identity":               {blockOK, []part{header(blockGetID, 0), receive(20), receive(1)}},
		"identity, little room":  {blockOK, []part{header(blockGetID, 0), receive(3), receive(1)}},
		"header and data joined": {blockOK, []part{send(append(header(blockOut, 0).out, make([]byte, 512)...)), receive(1)}},
		"header in pieces":       {blockOK, []part{send(header(blockIn, 1).out[:5]), send(header(blockIn, 1).out[5:]), receive(100), receive(413)}},
	} {
		u := d.call(0, c.parts...)
		if got := u.data[len(u.data)-1]; got != c.status {
			t.Errorf("%s: status %d, want %d", name, got, c.status)
		}
		if name == "identity" && string(u.data[:20]) != "a serial number that" {
			t.Errorf("identity %q", u.data[:20])
		}
		if c.status != blockOK && u.length > 1 {
			t.Errorf("%s: %d bytes written", name, u.length)
		}
	}
}

func TestBlockBreaksOnRequestsWithoutStatus(t *testing.T) {
	for name, parts := range map[string][]part{
		"no status":    {header(blockFlush, 0)},
		"short header": {send([]byte{1, 2, 3}), receive(1)},
		"no header":    {receive(512)},
	} {
		d := newDriver(t, NewBlock(newDisk(t, image(4096), 0), BlockOptions{})).start(0)
		d.add(0, parts...)
		d.kick(0)
		if !d.broken() {
			t.Errorf("%s: status %#x", name, d.get(regStatus))
		}
	}
}

func TestBlockReadOnly(t *testing.T) {
	disk := newDisk(t, image(BlockSize), 0)
	d := newDriver(t, NewBlock(disk, BlockOptions{ReadOnly: true})).start(0)
	if s := d.writeSectors(0, make([]byte, 512)); s != blockIOError || disk.DirtyBlocks() != 0 {
		t.Errorf("status %d, %d blocks written", s, disk.DirtyBlocks())
	}
}

func TestBlockOverlayIsBounded(t *testing.T) {
	var failure error
	disk := newDisk(t, image(4*BlockSize), 2)
	d := newDriver(t, NewBlock(disk, BlockOptions{OnError: func(err error) { failure = err }})).start(0)
	if s := d.writeSectors(0, make([]byte, 3*BlockSize)); s != blockIOError || !errors.Is(failure, ErrOverlayFull) {
		t.Errorf("status %d, error %v", s, failure)
	}
	if s := d.writeSectors(8, make([]byte, SectorSize)); s != blockOK {
		t.Error("a block in the overlay cannot be written again")
	}
}

// brokenImage fails to read.
type brokenImage struct{}

func (brokenImage) ReadAt([]byte, int64) (int, error) { return 0, io.ErrClosedPipe }

func TestBlockReportsHostErrors(t *testing.T) {
	for name, base := range map[string]io.ReaderAt{"read error": brokenImage{}, "short image": bytes.NewReader(nil)} {
		var failure error
		disk, err := NewDisk(base, BlockSize, 0)
		if err != nil {
			t.Fatal(err)
		}
		d := newDriver(t, NewBlock(disk, BlockOptions{OnError: func(err error) { failure = err }})).start(0)
		if _, s := d.readSectors(0, 512); s != blockIOError || failure == nil {
			t.Errorf("%s: status %d, error %v", name, s, failure)
		}
		if _, err := disk.Digest(); err == nil {
			t.Errorf("%s: a digest all the same", name)
		}
	}
}

func TestDiskRefusesOddSizes(t *testing.T) {
	for _, size := range []int64{-512, 1, 511, 513} {
		if _, err := NewDisk(zeros{}, size, 0); err == nil {
			t.Errorf("a disk of %d bytes", size)
		}
	}
}

func TestDiskDigestOfAnUnchangedBaseIsKept(t *testing.T) {
	disk, _ := NewDisk(brokenImage{}, BlockSize, 0)
	disk.SetBaseDigest([32]byte{42})
	if sum, err := disk.Digest(); err != nil || sum != [32]byte{42} {
		t.Errorf("digest %x, %v", sum, err)
	}
}

// TestBlockAgreesWithABuffer drives random requests against a plain buffer.
func TestBlockAgreesWithABuffer(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		sectors := rapid.IntRange(1, 40).Draw(rt, "sectors")
		want := image(sectors * SectorSize)
		base := bytes.Clone(want)
		disk := newDisk(t, base, 0)
		d := newDriver(t, NewBlock(disk, BlockOptions{})).start(0)
		for range rapid.IntRange(1, 20).Draw(rt, "requests") {
			at := rapid.IntRange(0, sectors-1).Draw(rt, "sector")
			n := rapid.IntRange(1, sectors-at).Draw(rt, "count") * SectorSize
			if rapid.Bool().Draw(rt, "write") {
				data := bytes.Repeat([]byte{rapid.Byte().Draw(rt, "fill")}, n)
				copy(want[at*SectorSize:], data)
				cut := rapid.IntRange(0, n-1).Draw(rt, "cut")
				if u := d.call(0, header(blockOut, uint64(at)), send(data[:cut]), send(data[cut:]), receive(1)); u.data[0] != blockOK {
					rt.Fatalf("write status %d", u.data[0])
				}
			} else if got, s := d.readSectors(uint64(at), n); s != blockOK || !bytes.Equal(got, want[at*SectorSize:][:n]) {
				rt.Fatalf("read of %d at %d: status %d, or other data", n, at, s)
			}
		}
		if sum, err := disk.Digest(); err != nil || sum != sha256.Sum256(want) {
			rt.Fatal("wrong digest")
		}
		if !bytes.Equal(base, image(len(base))) {
			rt.Fatal("the base has changed")
		}
	})
}

func TestNotifyDoesNotAllocate(t *testing.T) {
	d := newDriver(t, NewBlock(newDisk(t, image(16*SectorSize), 0), BlockOptions{})).start(0)
	d.call(0, header(blockIn, 0), receive(8*SectorSize), receive(1))
	reg := le.AppendUint32(nil, 0)
	head := d.rings[0].free[len(d.rings[0].free)-1]
	if n := testing.AllocsPerRun(100, func() {
		d.offer(0, head) // the same chain again
		d.tr.Write(regQueueNotify, reg)
	}); n != 0 {
		t.Errorf("%v allocations for a request", n)
	}
	if d.broken() {
		t.Error(d.tr.Err())
	}
}

func BenchmarkBlockRead4K(b *testing.B) {
	d := newDriver(b, NewBlock(newDisk(b, image(64<<10), 0), BlockOptions{})).start(0)
	d.call(0, header(blockIn, 0), receive(BlockSize), receive(1))
	reg := le.AppendUint32(nil, 0)
	head := d.rings[0].free[len(d.rings[0].free)-1]
	b.SetBytes(BlockSize)
	b.ReportAllocs()
	for b.Loop() {
		d.offer(0, head)
		d.tr.Write(regQueueNotify, reg)
	}
}

// selfFeeding is an image whose sector n, read over rings and request header, makes the driver offer one more request: for sector n+1.
type selfFeeding struct{ at, header int }

func (s selfFeeding) ReadAt(p []byte, at int64) (int, error) {
	clear(p)
	n := int(at / SectorSize)
	le.PutUint16(p[s.at+2:], uint16(n+2))            // avail.idx; the ring entries are all 0
	le.PutUint32(p[s.header:], blockIn)              // type
	le.PutUint64(p[s.header+8:], uint64(n+1)&0xffff) // sector
	return len(p), nil
}

// A guest whose disk requests make further disk requests ends within its notification.
func TestANotificationEnds(t *testing.T) {
	const page = 0x2000
	disk, err := NewDisk(selfFeeding{0, 256}, 65536*SectorSize, 0)
	if err != nil {
		t.Fatal(err)
	}
	requests := 0
	d := newSmallDriver(t, NewBlock(disk, BlockOptions{OnRead: func(uint64, int) {
		if requests++; requests > 1000 {
			panic("the notification does not end")
		}
	}}))
	if !d.negotiate(d.offered() &^ FeatureEventIdx) {
		t.Fatal("features refused")
	}
	d.set(regQueueSel, 0)
	d.set(regQueueNum, 8)
	d.set(regQueueDescLow, 0x1000)
	d.set(regQueueAvailLow, page)
	d.set(regQueueUsedLow, 0x1200)
	d.set(regQueueReady, 1)
	d.set(regStatus, StatusAcknowledge|StatusDriver|StatusFeaturesOK|StatusDriverOK)
	d.writeDesc(0x1000, 0, page+256, 16, descNext, 1)
	d.writeDesc(0x1000, 1, page, 512, descNext|descWrite, 2)
	d.writeDesc(0x1000, 2, 0x1300, 1, descWrite, 0)
	le.PutUint16(d.mem.bytes[page+2:], 1)
	d.kick(0)
	if requests != 8 {
		t.Errorf("%d requests in one notification of a queue of 8", requests)
	}
}
