package trace

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"fmt"
	"hash"
	"math/bits"

	"github.com/zeebo/blake3"
)

// Hash names the hash algorithm of a trace: of its leaves, tree, chain and root.
type Hash string

// The hash algorithms. The empty Hash in an options struct means SHA256.
const (
	SHA256 Hash = "sha256"
	SHA512 Hash = "sha512"
	BLAKE3 Hash = "blake3" // 256 bits
)

const maxHashSize = sha512.Size

// Valid reports whether the algorithm is one of those above.
func (h Hash) Valid() bool { return h.size() != 0 }

func (h Hash) size() int {
	switch h {
	case SHA256, BLAKE3:
		return 32
	case SHA512:
		return 64
	}
	return 0
}

// New returns a running hash; nil if the algorithm is unknown.
func (h Hash) New() hash.Hash {
	switch h {
	case SHA256:
		return sha256.New()
	case SHA512:
		return sha512.New()
	case BLAKE3:
		return blake3.New()
	}
	return nil
}

// Sum returns the digest of p.
func (h Hash) Sum(p []byte) []byte {
	d := make([]byte, h.size())
	h.sum(d, p)
	return d
}

// sum writes the digest of p to dst, which may overlap p.
func (h Hash) sum(dst, p []byte) {
	switch h {
	case SHA256:
		s := sha256.Sum256(p)
		copy(dst, s[:])
	case SHA512:
		s := sha512.Sum512(p)
		copy(dst, s[:])
	case BLAKE3:
		s := blake3.Sum256(p)
		copy(dst, s[:])
	default:
		panic("trace: hash algorithm was not checked") // unreachable: headers are validated before anything is hashed
	}
}

// Domain separation: the first byte of everything that is hashed. 0 and 1 are those of RFC 6962, section 2.1.
const (
	tagLeaf      = 0x00
	tagNode      = 0x01
	tagPayload   = 0x02 // unsalted payload
	tagSalted    = 0x03 // salted payload
	tagChainSeed = 0x04
	tagChain     = 0x05
	tagRoot      = 0x06
	tagHeader    = 0x07
	tagHost      = 0x08
	tagBlobs     = 0x09
	tagBlob      = 0x0a
)

// hasher computes the digests of a trace without allocating. It is not safe for concurrent use.
type hasher struct {
	alg  Hash
	size int
	buf  []byte
}

func newHasher(alg Hash) *hasher {
	return &hasher{alg: alg, size: alg.size(), buf: make([]byte, 0, 256)}
}

// tagged writes H(tag || parts...) to dst.
func (h *hasher) tagged(dst []byte, tag byte, parts ...[]byte) {
	h.buf = append(h.buf[:0], tag)
	for _, p := range parts {
		h.buf = append(h.buf, p...)
	}
	h.alg.sum(dst, h.buf)
	if cap(h.buf) > 1<<20 {
		h.buf = make([]byte, 0, 256)
	}
}

// commitment writes the commitment of a payload to dst: H(0x02 || payload) or H(0x03 || salt || payload).
func (h *hasher) commitment(dst, salt, payload []byte) {
	if salt == nil {
		h.tagged(dst, tagPayload, payload)
	} else {
		h.tagged(dst, tagSalted, salt, payload)
	}
}

// leaf writes the leaf hash of e to dst and returns the canonical encoding, which is valid until the next call.
func (h *hasher) leaf(dst []byte, e *Event) []byte {
	var c [maxHashSize]byte
	commitment := e.Commitment
	if len(e.Data) > 0 {
		commitment = c[:h.size]
		h.commitment(commitment, e.Salt, e.Data)
	}
	if !e.HasPayload() {
		commitment = nil
	}
	h.buf = append(h.buf[:0], tagLeaf)
	h.buf = e.appendLeaf(h.buf, commitment)
	h.alg.sum(dst, h.buf)
	return h.buf[1:]
}

func (h *hasher) node(dst, left, right []byte) {
	h.buf = append(h.buf[:0], tagNode)
	h.buf = append(h.buf, left...)
	h.buf = append(h.buf, right...)
	h.alg.sum(dst, h.buf)
}

// Leaf returns the canonical encoding of an event: what its leaf of the Merkle tree hashes. e.Salt must be set if the trace is redactable and the
// event has a payload. Safe for concurrent use.
func (h *Header) Leaf(e *Event) []byte {
	hs := newHasher(h.Hash)
	var d [maxHashSize]byte
	return cloneBytes(hs.leaf(d[:hs.size], e))
}

// Commit returns the commitment to a payload. salt is nil in traces that are not redactable.
func (h *Header) Commit(salt, payload []byte) []byte {
	d := make([]byte, h.Hash.size())
	newHasher(h.Hash).commitment(d, salt, payload)
	return d
}

// LeafHash is the Merkle leaf hash of a canonical encoding (RFC 6962, section 2.1).
func (h *Header) LeafHash(leaf []byte) []byte { return logHasher{h.Hash}.HashLeaf(leaf) }

// tree is an append-only RFC 6962 Merkle tree that remembers only the roots of its complete subtrees.
type tree struct {
	h     *hasher
	count uint64
	stack []byte // those roots, the largest first
	// visit, if set, sees each complete subtree once: its height, its index among those of that height, its root.
	visit func(level uint, index uint64, hash []byte)
}

func (t *tree) append(leaf []byte) {
	t.stack = append(t.stack, leaf...)
	if t.visit != nil {
		t.visit(0, t.count, leaf)
	}
	t.count++
	size := t.h.size
	for level := 1; level <= bits.TrailingZeros64(t.count); level++ {
		n := len(t.stack)
		dst := t.stack[n-2*size : n-size]
		t.h.node(dst, dst, t.stack[n-size:])
		t.stack = t.stack[:n-size]
		if t.visit != nil {
			t.visit(uint(level), t.count>>level-1, dst)
		}
	}
}

func (t *tree) root() []byte {
	size := t.h.size
	if t.count == 0 {
		return t.h.alg.Sum(nil)
	}
	n := len(t.stack)
	r := append([]byte{}, t.stack[n-size:]...)
	for n -= size; n > 0; n -= size {
		t.h.node(r, t.stack[n-size:n], r)
	}
	return r
}

// logHasher is the RFC 6962 hasher that github.com/transparency-dev/merkle asks for, for any of our algorithms.
type logHasher struct{ alg Hash }

func (l logHasher) EmptyRoot() []byte           { return l.alg.Sum(nil) }
func (l logHasher) HashLeaf(leaf []byte) []byte { return l.alg.Sum(append([]byte{tagLeaf}, leaf...)) }
func (l logHasher) Size() int                   { return l.alg.size() }
func (l logHasher) HashChildren(a, b []byte) []byte {
	return l.alg.Sum(append(append([]byte{tagNode}, a...), b...))
}

// chain is the running hash over the chunks: each link hashes the one before and the chunk's leaf hashes.
type chain struct {
	h    *hasher
	link []byte
}

func newChain(h *hasher, headerDigest []byte) *chain {
	c := &chain{h: h, link: make([]byte, h.size)}
	h.tagged(c.link, tagChainSeed, headerDigest)
	return c
}

func (c *chain) add(first uint64, leaves []byte) {
	var n [8]byte
	binary.LittleEndian.PutUint64(n[:], first)
	c.h.tagged(c.link, tagChain, c.link, n[:], leaves)
}

// Status says how a trace ended. It is part of the trace root.
type Status uint8

// The ways for a trace to end.
const (
	StatusComplete  Status = 1 + iota // the run ended
	StatusSizeLimit                   // the run was ended because the trace reached its size limit
	StatusAborted                     // recording was stopped while the run could have gone on
)

func (s Status) String() string {
	switch s {
	case StatusComplete:
		return "complete"
	case StatusSizeLimit:
		return "size-limit"
	case StatusAborted:
		return "aborted"
	}
	return fmt.Sprintf("status(%d)", uint8(s))
}

func (s Status) valid() bool { return s >= StatusComplete && s <= StatusAborted }

// RootParts are the things that a trace root commits to. Whoever has them can check a root without having the trace.
type RootParts struct {
	Hash         Hash
	HeaderDigest []byte // [Header.Digest]
	Events       uint64 // number of events
	MerkleRoot   []byte
	Status       Status
}

// Root computes the trace root: H(0x06 || header digest || events (8 bytes, little endian) || Merkle root || status). It is nil if the parts cannot be those of a trace.
func (p RootParts) Root() []byte {
	if !p.Hash.Valid() || len(p.HeaderDigest) != p.Hash.size() || len(p.MerkleRoot) != p.Hash.size() || !p.Status.valid() {
		return nil
	}
	h := newHasher(p.Hash)
	var n [8]byte
	binary.LittleEndian.PutUint64(n[:], p.Events)
	d := make([]byte, h.size)
	h.tagged(d, tagRoot, p.HeaderDigest, n[:], p.MerkleRoot, []byte{byte(p.Status)})
	return d
}
