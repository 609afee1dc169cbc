package trace

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"
)

// maxProofEvents is how many events a range proof may cover.
const maxProofEvents = 1 << 20

// Prove returns the RFC 6962 inclusion proof (audit path) of one event in the trace's Merkle tree. It reads the whole trace and fails if the events
// are not those of the footer's Merkle root.
func (r *Reader) Prove(event uint64) ([][]byte, error) {
	f, ok := r.Footer()
	if !ok {
		return nil, fmt.Errorf("prove event: the trace has no end: %w", r.cut)
	}
	nodes, err := proof.Inclusion(event, f.Events)
	if err != nil {
		return nil, fmt.Errorf("prove event %d: %w", event, err)
	}
	hashes, err := r.nodes(nodes.IDs, f.MerkleRoot)
	if err != nil {
		return nil, fmt.Errorf("prove event %d: %w", event, err)
	}
	path, err := nodes.Rehash(hashes, logHasher{r.header.Hash}.HashChildren)
	if err != nil {
		return nil, fmt.Errorf("prove event %d: %w", event, err)
	}
	return path, nil
}

// VerifyInclusion checks an audit path: that the event with this canonical encoding is number event of a tree of p.Events events with
// the root p.MerkleRoot. The caller must know from elsewhere that p.Root() is the trace root it trusts.
func (p RootParts) VerifyInclusion(event uint64, leaf []byte, path [][]byte) error {
	if p.Root() == nil {
		return errors.New("the parts of the trace root are malformed")
	}
	if event >= p.Events {
		return fmt.Errorf("event %d lies outside the trace's %d events", event, p.Events)
	}
	h := logHasher{p.Hash}
	if err := proof.VerifyInclusion(h, event, p.Events, h.HashLeaf(leaf), path, p.MerkleRoot); err != nil {
		return fmt.Errorf("the inclusion proof of event %d does not lead to the Merkle root: %w", event, err)
	}
	return nil
}

// RangeProof proves that consecutive events belong to a trace: the hashes of the largest complete subtrees to the left and to the right of them.
type RangeProof struct {
	Left, Right [][]byte
}

// ProveRange returns the proof of events [from, to).
func (r *Reader) ProveRange(from, to uint64) (*RangeProof, error) {
	f, ok := r.Footer()
	switch {
	case !ok:
		return nil, fmt.Errorf("prove events: the trace has no end: %w", r.cut)
	case from >= to || to > f.Events:
		return nil, fmt.Errorf("prove events %d to %d: the trace has %d", from, to, f.Events)
	case to-from > maxProofEvents:
		return nil, fmt.Errorf("prove events %d to %d: a proof covers at most %d events", from, to, maxProofEvents)
	}
	left := compact.RangeNodes(0, from, nil)
	ids := compact.RangeNodes(to, f.Events, append([]compact.NodeID{}, left...))
	hashes, err := r.nodes(ids, f.MerkleRoot)
	if err != nil {
		return nil, fmt.Errorf("prove events %d to %d: %w", from, to, err)
	}
	return &RangeProof{hashes[:len(left):len(left)], hashes[len(left):]}, nil
}

// VerifyRange checks a range proof: that leaves are the canonical encodings of the events from number from.
func (p RootParts) VerifyRange(from uint64, leaves [][]byte, rp *RangeProof) error {
	n := uint64(len(leaves))
	switch {
	case p.Root() == nil:
		return errors.New("the parts of the trace root are malformed")
	case n == 0 || n > maxProofEvents || from >= p.Events || n > p.Events-from:
		return fmt.Errorf("%d events from number %d lie outside the trace's %d events", n, from, p.Events)
	}
	for _, h := range append(append([][]byte{}, rp.Left...), rp.Right...) {
		if len(h) != p.Hash.size() {
			return errors.New("the range proof holds a hash of the wrong length")
		}
	}
	root, err := p.rangeRoot(from, leaves, rp)
	if err != nil {
		return fmt.Errorf("malformed range proof: %w", err)
	}
	if !bytes.Equal(root, p.MerkleRoot) {
		return fmt.Errorf("the proof of events %d to %d does not lead to the Merkle root", from, from+n)
	}
	return nil
}

func (p RootParts) rangeRoot(from uint64, leaves [][]byte, rp *RangeProof) ([]byte, error) {
	h := logHasher{p.Hash}
	factory := &compact.RangeFactory{Hash: h.HashChildren}
	all, err := factory.NewRange(0, from, append([][]byte{}, rp.Left...))
	if err != nil {
		return nil, err
	}
	for _, leaf := range leaves {
		if err := all.Append(h.HashLeaf(leaf), nil); err != nil {
			return nil, err
		}
	}
	right, err := factory.NewRange(from+uint64(len(leaves)), p.Events, append([][]byte{}, rp.Right...))
	if err != nil {
		return nil, err
	}
	if err := all.AppendRange(right, nil); err != nil {
		return nil, err
	}
	return all.GetRootHash(nil)
}

// nodes computes the hashes of complete subtrees by reading all events once.
func (r *Reader) nodes(ids []compact.NodeID, root []byte) ([][]byte, error) {
	want := make(map[compact.NodeID]int, len(ids))
	for i, id := range ids {
		want[id] = i
	}
	hashes := make([][]byte, len(ids))
	hs := newHasher(r.header.Hash)
	t := tree{h: hs, visit: func(level uint, index uint64, hash []byte) {
		if i, ok := want[compact.NewNodeID(level, index)]; ok {
			hashes[i] = cloneBytes(hash)
		}
	}}
	leaf := make([]byte, hs.size)
	it := r.Events(0)
	defer it.Close()
	for it.Next() {
		hs.leaf(leaf, it.Event())
		t.append(leaf)
	}
	if it.Err() != nil {
		return nil, it.Err()
	}
	if !bytes.Equal(t.root(), root) {
		return nil, errors.New("the events are not those that the footer's Merkle root was computed from: run verify")
	}
	return hashes, nil
}
