package virtio

import (
	"encoding/binary"
	"fmt"

	"github.com/detvm/detvm/devices/internal/wire"
)

// Feature bits of the block device (5.2.3).
const (
	blockFeatureSizeMax = 1 << 1
	blockFeatureSegMax  = 1 << 2
	blockFeatureRO      = 1 << 5
	blockFeatureBlkSize = 1 << 6
	blockFeatureFlush   = 1 << 9
)

// Request types and status values (5.2.6).
const (
	blockIn    = 0
	blockOut   = 1
	blockFlush = 4
	blockGetID = 8

	blockOK          = 0
	blockIOError     = 1
	blockUnsupported = 2

	blockHeaderSize = 16
	blockIDSize     = 20
	blockConfigSize = 60
)

const (
	blockQueueSize = 128
	blockSegMax    = blockQueueSize - 2
	// blockSizeMax keeps the largest request, blockSegMax times this, below MaxChainBytes.
	blockSizeMax = 64 << 10
)

// BlockOptions configures a block device. The functions may be nil; they are called from within the guest's notification.
type BlockOptions struct {
	ReadOnly bool
	// ID is the serial number that GET_ID returns, cut to 20 bytes.
	ID string
	// OnRead tells of n bytes, a multiple of SectorSize, about to be read from a sector on; the range is within the disk.
	OnRead func(sector uint64, n int)
	// OnWrite tells of data just written at a sector. It lies within one block of BlockSize; its length is a multiple of
	// SectorSize. The slice is reused.
	OnWrite func(sector uint64, data []byte)
	// OnFlush tells of a flush request.
	OnFlush func()
	// OnError tells that the host failed to read the image, or that the overlay is full. The guest gets an I/O error; since a failing
	// host is not part of a deterministic run, the machine should end it.
	OnError func(error)
}

// Block is the block device (5.2) on a [Disk]. Requests complete in order, within the notification.
type Block struct {
	bus     Bus
	disk    *Disk
	options BlockOptions
	config  [blockConfigSize]byte
	chain   Chain
	buffer  [BlockSize]byte
}

// NewBlock returns a block device on disk.
func NewBlock(disk *Disk, options BlockOptions) *Block {
	d := &Block{disk: disk, options: options}
	binary.LittleEndian.PutUint64(d.config[0:], uint64(disk.Size()/SectorSize)) // capacity
	binary.LittleEndian.PutUint32(d.config[8:], blockSizeMax)
	binary.LittleEndian.PutUint32(d.config[12:], blockSegMax)
	binary.LittleEndian.PutUint32(d.config[20:], SectorSize) // blk_size
	return d
}

// Disk returns the disk.
func (d *Block) Disk() *Disk { return d.disk }

// ID implements [Device].
func (d *Block) ID() uint32 { return 2 }

// Features implements [Device].
func (d *Block) Features() uint64 {
	f := uint64(blockFeatureSizeMax | blockFeatureSegMax | blockFeatureBlkSize | blockFeatureFlush)
	if d.options.ReadOnly {
		f |= blockFeatureRO
	}
	return f
}

// QueueSizes implements [Device].
func (d *Block) QueueSizes() []uint16 { return []uint16{blockQueueSize} }

// ReadConfig implements [Device].
func (d *Block) ReadConfig(offset uint64, p []byte) { readConfig(d.config[:], offset, p) }

// WriteConfig implements [Device]: nothing is writable.
func (d *Block) WriteConfig(uint64, []byte) {}

// Attach implements [Device].
func (d *Block) Attach(bus Bus) { d.bus = bus }

// Reset implements [Device]. The disk keeps its content.
func (d *Block) Reset() {}

// readConfig reads from a configuration space.
func readConfig(config []byte, offset uint64, p []byte) {
	clear(p)
	if offset < uint64(len(config)) {
		copy(p, config[offset:])
	}
}

// Notify implements [Device].
func (d *Block) Notify(int) error {
	return d.bus.Queue(0).serve(&d.chain, d.request)
}

// request carries out one request and writes its status, the last byte of the chain.
func (d *Block) request(c *Chain) error {
	var header [blockHeaderSize]byte
	if c.Read(header[:]) != len(header) || c.WriteLeft() == 0 {
		return queueError("a block request without header or status")
	}
	sector := binary.LittleEndian.Uint64(header[8:])
	status := byte(blockUnsupported)
	switch binary.LittleEndian.Uint32(header[:]) {
	case blockIn:
		status = d.read(c, sector)
	case blockOut:
		status = d.write(c, sector)
	case blockFlush:
		status = blockOK
		if d.options.OnFlush != nil {
			d.options.OnFlush()
		}
	case blockGetID:
		status = d.getID(c)
	}
	c.WriteLast(status)
	return nil
}

// inRange reports whether n bytes from a sector on are whole sectors of the disk.
func (d *Block) inRange(sector, n uint64) bool {
	sectors := uint64(d.disk.Size() / SectorSize)
	return n%SectorSize == 0 && sector <= sectors && n/SectorSize <= sectors-sector
}

func (d *Block) read(c *Chain, sector uint64) byte {
	left := c.WriteLeft() - 1
	if !d.inRange(sector, left) {
		return blockIOError
	}
	if d.options.OnRead != nil && left > 0 {
		d.options.OnRead(sector, int(left))
	}
	for at := int64(sector) * SectorSize; left > 0; {
		p := c.NextWrite(left)
		if _, err := d.disk.ReadAt(p, at); err != nil {
			return d.failed(err)
		}
		at += int64(len(p))
		left -= uint64(len(p))
	}
	return blockOK
}

func (d *Block) write(c *Chain, sector uint64) byte {
	if d.options.ReadOnly || !d.inRange(sector, c.ReadLeft()) {
		return blockIOError // 5.2.6.2
	}
	for at := int64(sector) * SectorSize; c.ReadLeft() > 0; {
		p := d.buffer[:min(c.ReadLeft(), BlockSize-uint64(at%BlockSize))]
		c.Read(p)
		if _, err := d.disk.WriteAt(p, at); err != nil {
			return d.failed(err)
		}
		if d.options.OnWrite != nil {
			d.options.OnWrite(uint64(at)/SectorSize, p)
		}
		at += int64(len(p))
	}
	return blockOK
}

func (d *Block) getID(c *Chain) byte {
	var id [blockIDSize]byte
	copy(id[:], d.options.ID)
	c.Write(id[:min(blockIDSize, c.WriteLeft()-1)])
	return blockOK
}

func (d *Block) failed(err error) byte {
	if d.options.OnError != nil {
		d.options.OnError(err)
	}
	return blockIOError
}

// AppendBinary implements [Device]: the overlay.
func (d *Block) AppendBinary(b []byte) ([]byte, error) {
	return d.disk.append(b), nil
}

// DecodeState implements [Device].
func (d *Block) DecodeState(data []byte) error {
	r := wire.NewReader(data)
	overlay := d.disk.decode(r)
	if err := r.Close(); err != nil {
		return fmt.Errorf("restore disk overlay: %w", err)
	}
	d.disk.overlay = overlay
	return nil
}
