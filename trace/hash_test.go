package trace

import (
	"bytes"
	"crypto"
	_ "crypto/sha512"
	"encoding/hex"
	"fmt"
	"testing"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"
	"pgregory.net/rapid"
)

// The inputs and roots of the test vectors that Certificate Transparency's implementations share.
func TestTreeAgreesWithKnownVectors(t *testing.T) {
	leaves := []string{"", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"}
	roots := []string{
		"6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
		"fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
		"aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
		"d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
		"4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
		"76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
		"ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
		"5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
	}
	hs := newHasher(SHA256)
	tr := tree{h: hs}
	for i, x := range leaves {
		leaf, err := hex.DecodeString(x)
		if err != nil {
			t.Fatal(err)
		}
		tr.append(logHasher{SHA256}.HashLeaf(leaf))
		if got := hex.EncodeToString(tr.root()); got != roots[i] {
			t.Errorf("root of %d leaves is %s, want %s", i+1, got, roots[i])
		}
	}
}

func TestTreeAgreesWithReferenceImplementation(t *testing.T) {
	for alg, ref := range map[Hash]crypto.Hash{SHA256: crypto.SHA256, SHA512: crypto.SHA512} {
		h := rfc6962.New(ref)
		factory := &compact.RangeFactory{Hash: h.HashChildren}
		r := factory.NewEmptyRange(0)
		tr := tree{h: newHasher(alg)}
		if !bytes.Equal(tr.root(), h.EmptyRoot()) {
			t.Errorf("%s: empty root differs", alg)
		}
		for i := range 300 {
			leaf := h.HashLeaf([]byte(fmt.Sprint(i)))
			if !bytes.Equal(leaf, logHasher{alg}.HashLeaf([]byte(fmt.Sprint(i)))) {
				t.Fatalf("%s: leaf %d differs", alg, i)
			}
			tr.append(leaf)
			if err := r.Append(leaf, nil); err != nil {
				t.Fatal(err)
			}
			want, err := r.GetRootHash(nil)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(tr.root(), want) {
				t.Fatalf("%s: root of %d leaves differs", alg, i+1)
			}
		}
	}
}

func genEvent(t *rapid.T) Event {
	e := Event{
		Kind: Kind(rapid.IntRange(1, int(kindMax)).Draw(t, "kind")), Size: rapid.Byte().Draw(t, "size"),
		Write: rapid.Bool().Draw(t, "write"), Fault: rapid.Bool().Draw(t, "fault"),
		Device: rapid.Uint16().Draw(t, "device"), PID: rapid.Uint32().Draw(t, "pid"),
		Position: rapid.Uint64().Draw(t, "position"), Time: rapid.Uint64().Draw(t, "time"),
		PC: rapid.Uint64().Draw(t, "pc"), Addr: rapid.Uint64().Draw(t, "addr"), Value: rapid.Uint64().Draw(t, "value"),
		Task: rapid.StringN(-1, -1, MaxTask).Draw(t, "task"),
	}
	if rapid.Bool().Draw(t, "has data") {
		e.Data = rapid.SliceOfN(rapid.Byte(), 1, 100).Draw(t, "data")
	}
	return e
}

func TestLeafRoundTrip(t *testing.T) {
	for _, alg := range []Hash{SHA256, SHA512, BLAKE3} {
		h := &Header{Hash: alg}
		rapid.Check(t, func(t *rapid.T) {
			e := genEvent(t)
			leaf := h.Leaf(&e)
			d, err := h.DecodeLeaf(leaf)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(h.Leaf(&d), leaf) {
				t.Fatal("decoding and encoding a leaf changes it")
			}
			if len(e.Data) > 0 {
				e.Withheld, e.Commitment, e.Data = true, h.Commit(nil, e.Data), nil
			}
			if !d.Equal(&e) {
				t.Fatalf("decoded %+v, encoded %+v", d, e)
			}
		})
	}
}

func FuzzDecodeLeaf(f *testing.F) {
	h := testHeader()
	for _, e := range smallEvents() {
		f.Add(h.Leaf(&e))
	}
	f.Fuzz(func(t *testing.T, leaf []byte) {
		e, err := h.DecodeLeaf(leaf)
		if err == nil && !bytes.Equal(h.Leaf(&e), leaf) {
			t.Fatal("a leaf has two encodings")
		}
	})
}
