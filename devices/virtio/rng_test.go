package virtio

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"testing"

	"golang.org/x/crypto/chacha20"
)

// TestRNGStreamIsRFC8439 checks the key stream against test vectors 1 and 2 of appendix A.1 (key zero, nonce zero, blocks 0 and 1).
func TestRNGStreamIsRFC8439(t *testing.T) {
	want, err := hex.DecodeString("" +
		"76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586" +
		"9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f")
	if err != nil {
		t.Fatal(err)
	}
	d := NewRNG()
	got := make([]byte, 128)
	if err := d.fill(got); err != nil || !bytes.Equal(got, want) {
		t.Errorf("stream %x (%v), want %x", got, err, want)
	}
}

// reference is the stream of a seed, made in one go.
func reference(seed []byte, n int) []byte {
	key := sha256.Sum256(append([]byte("detvm virtio-rng v1"), seed...))
	c, err := chacha20.NewUnauthenticatedCipher(key[:], make([]byte, chacha20.NonceSize))
	if err != nil {
		panic(err)
	}
	p := make([]byte, n)
	c.XORKeyStream(p, p)
	return p
}

func TestRNGWaitsForTheSeed(t *testing.T) {
	rng := NewRNG()
	d := newDriver(t, rng).start(0)
	d.add(0, receive(16))
	d.kick(0)
	d.add(0, receive(10), receive(30))
	if len(d.collect(0)) != 0 || d.level {
		t.Fatal("random bytes before there is a seed")
	}
	d = d.checkRestore(NewRNG())
	d.tr.dev.(*RNG).SetSeed([]byte("seed"))
	got := d.collect(0)
	if len(got) != 2 || !d.level {
		t.Fatalf("%d buffers came back, interrupt %v", len(got), d.level)
	}
	want := reference([]byte("seed"), 56)
	if got[0].length != 16 || got[1].length != 40 || !bytes.Equal(append(got[0].data, got[1].data...), want) {
		t.Errorf("got %x %x, want %x", got[0].data, got[1].data, want)
	}
	if d.tr.dev.(*RNG).Position() != 56 {
		t.Error("wrong position")
	}
}

func TestRNGSnapshotKeepsThePosition(t *testing.T) {
	rng := NewRNG()
	d := newDriver(t, rng)
	rng.SetSeed([]byte{1, 2, 3})
	d.start(0)
	want := reference([]byte{1, 2, 3}, 4200)
	var got []byte
	for n := 1; len(got) < 3900; n = n*7%199 + 1 {
		got = append(got, d.call(0, receive(n)).data...)
		d = d.checkRestore(NewRNG())
	}
	if !bytes.Equal(got, want[:len(got)]) {
		t.Error("the stream changes with snapshots")
	}
}

func TestRNGAnotherSeedAnotherStream(t *testing.T) {
	stream := func(seed string) string {
		rng := NewRNG()
		d := newDriver(t, rng).start(0)
		rng.SetSeed([]byte(seed))
		return string(d.call(0, receive(32)).data)
	}
	if stream("a") == stream("b") {
		t.Error("two seeds give one stream")
	}
	if first, again := stream("a"), stream("a"); first != again {
		t.Error("one seed gives two streams")
	}
}

// TestRNGBeyondOneNonce crosses the point where the 32-bit block counter of RFC 8439 ends.
func TestRNGBeyondOneNonce(t *testing.T) {
	for _, before := range []uint64{1, 63, 64, 200, 1000} {
		whole := RNG{key: [32]byte{9}, seeded: true, position: streamBytes - before}
		parts := RNG{key: [32]byte{9}, seeded: true, position: streamBytes - before}
		want := make([]byte, 2000)
		if err := whole.fill(want); err != nil {
			t.Fatal(err)
		}
		var got []byte
		for len(got) < len(want) {
			p := make([]byte, min(37, len(want)-len(got)))
			if err := parts.fill(p); err != nil {
				t.Fatal(err)
			}
			got = append(got, p...)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%d bytes before the end, the stream depends on how it is read", before)
		}
		nonce := make([]byte, chacha20.NonceSize)
		nonce[0] = 1
		c, _ := chacha20.NewUnauthenticatedCipher(whole.key[:], nonce)
		next := make([]byte, len(want)-int(before))
		c.XORKeyStream(next, next)
		if !bytes.Equal(want[before:], next) {
			t.Error("the stream does not go on with the next nonce")
		}
	}
}

func TestRNGRefusesReadableBuffers(t *testing.T) {
	rng := NewRNG()
	d := newDriver(t, rng).start(0)
	d.add(0, send([]byte("x")), receive(4))
	rng.SetSeed(nil)
	if !d.broken() {
		t.Error("a request with a readable buffer is served")
	}
}
