package virtio

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"golang.org/x/crypto/chacha20"

	"github.com/detvm/detvm/devices/internal/wire"
)

// RNG is the entropy device (5.4). What it hands out is a ChaCha20 key stream (RFC 8439): key SHA-256("detvm virtio-rng v1" || seed), bytes in
// order from position 0. The 64-bit number of a 64-byte block is split into the block counter (lower half) and the first word of the nonce
// (upper half, little endian); the rest of the nonce is zero. So the stream is that of RFC 8439 with a zero nonce for its first 256 GiB.
//
// Until [RNG.SetSeed] is called the driver's buffers stay pending.
type RNG struct {
	bus      Bus
	chain    Chain
	seeded   bool
	key      [chacha20.KeySize]byte
	position uint64
	cipher   *chacha20.Cipher // stands at position, or is nil
}

const (
	rngDomain    = "detvm virtio-rng v1"
	rngQueueSize = 8
	blockBytes   = 64
	// streamBytes is how much one nonce gives.
	streamBytes = blockBytes << 32
)

// NewRNG returns a device without a seed.
func NewRNG() *RNG { return &RNG{} }

// SetSeed starts the stream of the seed from its beginning and fills the buffers that wait.
func (d *RNG) SetSeed(seed []byte) {
	h := sha256.New()
	h.Write([]byte(rngDomain))
	h.Write(seed)
	h.Sum(d.key[:0])
	d.seeded, d.position, d.cipher = true, 0, nil
	if d.bus.Queue(0) == nil {
		return
	}
	if err := d.Notify(0); err != nil {
		d.bus.Fail(err)
		return
	}
	d.bus.Flush()
}

// Position returns how many bytes were handed out.
func (d *RNG) Position() uint64 { return d.position }

// fill overwrites p with the next bytes of the stream.
func (d *RNG) fill(p []byte) error {
	clear(p)
	for len(p) > 0 {
		if d.cipher == nil || d.position%streamBytes == 0 {
			if err := d.seek(); err != nil {
				return err
			}
		}
		n := min(uint64(len(p)), streamBytes-d.position%streamBytes)
		d.cipher.XORKeyStream(p[:n], p[:n])
		d.position += n
		p = p[n:]
	}
	return nil
}

// seek makes a cipher that stands at position.
func (d *RNG) seek() error {
	var nonce [chacha20.NonceSize]byte
	block := d.position / blockBytes
	binary.LittleEndian.PutUint32(nonce[:], uint32(block>>32))
	c, err := chacha20.NewUnauthenticatedCipher(d.key[:], nonce[:])
	if err != nil {
		return fmt.Errorf("start the entropy stream at %d: %w", d.position, err)
	}
	c.SetCounter(uint32(block))
	var skip [blockBytes]byte
	c.XORKeyStream(skip[:d.position%blockBytes], skip[:d.position%blockBytes])
	d.cipher = c
	return nil
}

// ID implements [Device].
func (d *RNG) ID() uint32 { return 4 }

// Features implements [Device].
func (d *RNG) Features() uint64 { return 0 }

// QueueSizes implements [Device].
func (d *RNG) QueueSizes() []uint16 { return []uint16{rngQueueSize} }

// ReadConfig implements [Device]: there is no configuration.
func (d *RNG) ReadConfig(_ uint64, p []byte) { clear(p) }

// WriteConfig implements [Device].
func (d *RNG) WriteConfig(uint64, []byte) {}

// Attach implements [Device].
func (d *RNG) Attach(bus Bus) { d.bus = bus }

// Reset implements [Device]. The stream goes on.
func (d *RNG) Reset() {}

// Notify implements [Device].
func (d *RNG) Notify(int) error {
	if !d.seeded {
		return nil
	}
	return d.bus.Queue(0).serve(&d.chain, d.answer)
}

// answer fills a request with the next bytes of the stream.
func (d *RNG) answer(c *Chain) error {
	if c.ReadLeft() > 0 || c.WriteLeft() == 0 { // 5.4.6.1
		return queueError("an entropy request that is not write-only")
	}
	for p := c.NextWrite(MaxChainBytes); p != nil; p = c.NextWrite(MaxChainBytes) {
		if err := d.fill(p); err != nil {
			return err
		}
	}
	return nil
}

// AppendBinary implements [Device]: the key and the exact position.
func (d *RNG) AppendBinary(b []byte) ([]byte, error) {
	b = wire.AppendBool(b, d.seeded)
	b = append(b, d.key[:]...)
	return binary.LittleEndian.AppendUint64(b, d.position), nil
}

// DecodeState implements [Device].
func (d *RNG) DecodeState(data []byte) error {
	r := wire.NewReader(data)
	n := RNG{bus: d.bus}
	n.seeded = r.Bool()
	r.Fill(n.key[:])
	n.position = r.Uint64()
	r.Check(n.seeded || n.key == [chacha20.KeySize]byte{} && n.position == 0)
	if err := r.Close(); err != nil {
		return err
	}
	*d = n
	return nil
}
