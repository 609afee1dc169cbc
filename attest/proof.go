package attest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/detvm/detvm/trace"
)

// ProofType is the media type of proof files.
const ProofType = "application/vnd.detvm.proof.v1+json"

// Limits of a proof file: bytes, and nodes of its path or on either side of it, more than any tree has levels.
const (
	maxProof = 64 << 20
	maxNodes = 64
)

// proofFile is the JSON form of a proof. []byte fields are base64.
type proofFile struct {
	MediaType    string            `json:"mediaType"`
	Hash         trace.Hash        `json:"hash"`
	HeaderDigest []byte            `json:"headerDigest"`
	MerkleRoot   []byte            `json:"merkleRoot"`
	Events       uint64            `json:"events"`
	Status       trace.Status      `json:"status"`
	Redactable   bool              `json:"redactable"`
	First        uint64            `json:"first"`
	Leaves       []proofLeaf       `json:"leaves"`
	Path         [][]byte          `json:"path,omitempty"`  // RFC 6962 audit path, for one event
	Left         [][]byte          `json:"left,omitempty"`  // for several events: subtrees before
	Right        [][]byte          `json:"right,omitempty"` // and after them
	Bundles      []json.RawMessage `json:"bundles"`
}

type proofLeaf struct {
	Event   []byte `json:"event"`             // canonical encoding
	Salt    []byte `json:"salt,omitempty"`    //
	Payload []byte `json:"payload,omitempty"` //
}

// proofLeafOverhead is what JSON adds to a leaf at most, in bytes.
const proofLeafOverhead = 64

// ProofOptions choose what a proof holds beside the events.
type ProofOptions struct {
	// Payloads includes the events' payloads (and salts). Without it a proof shows only commitments.
	Payloads bool
	// Bundles over the trace, so that the proof can be checked by itself.
	Bundles [][]byte
}

// Prove makes a proof that events [from, to) belong to the trace. The verifier needs the signed root, not the trace.
func Prove(r *trace.Reader, from, to uint64, opts ProofOptions) ([]byte, error) {
	parts, ok := r.RootParts()
	if !ok {
		return nil, errors.New("prove events: the trace has no end, so that it has no root")
	}
	f := proofFile{MediaType: ProofType, Hash: parts.Hash, HeaderDigest: parts.HeaderDigest, MerkleRoot: parts.MerkleRoot, Events: parts.Events,
		Status: parts.Status, Redactable: r.Header().Redactable, First: from, Bundles: []json.RawMessage{}}
	var err error
	if to == from+1 {
		f.Path, err = r.Prove(from)
	} else {
		var rp *trace.RangeProof
		if rp, err = r.ProveRange(from, to); err == nil {
			f.Left, f.Right = rp.Left, rp.Right
		}
	}
	if err != nil {
		return nil, err
	}
	if err := f.addLeaves(r, from, to, opts.Payloads); err != nil {
		return nil, fmt.Errorf("prove events: %w", err)
	}
	for _, b := range opts.Bundles {
		f.Bundles = append(f.Bundles, bytes.TrimSpace(b))
	}
	return marshal(f)
}

func (f *proofFile) addLeaves(r *trace.Reader, from, to uint64, payloads bool) error {
	it := r.Events(from)
	defer it.Close()
	size := 0
	for n := from; n < to && it.Next(); n++ {
		e := it.Event()
		leaf := proofLeaf{Event: r.Header().Leaf(e)}
		if payloads && len(e.Data) > 0 {
			leaf.Payload, leaf.Salt = bytes.Clone(e.Data), bytes.Clone(e.Salt)
		}
		if size += (len(leaf.Event)+len(leaf.Payload)+len(leaf.Salt))*4/3 + proofLeafOverhead; size > maxProof {
			return fmt.Errorf("the proof would have more than %d bytes: prove fewer events, or leave their payloads out", maxProof)
		}
		f.Leaves = append(f.Leaves, leaf)
	}
	return it.Err()
}

// Proven is what a proof shows.
type Proven struct {
	Root     []byte
	First    uint64        // number of the first event
	Events   []trace.Event // without payload: Withheld, with the Commitment
	Vouchers []Voucher
	Parties  int
}

// VerifyProof checks a proof: that its events belong to a trace whose root is signed as the policy asks, in the bundles of the proof or in those given.
func VerifyProof(proof []byte, bundles [][]byte, policy *Policy) (*Proven, error) {
	f, err := parseProof(proof)
	if err != nil {
		return nil, failure(CheckProof, err)
	}
	parts := trace.RootParts{Hash: f.Hash, HeaderDigest: f.HeaderDigest, Events: f.Events, MerkleRoot: f.MerkleRoot, Status: f.Status}
	out := &Proven{Root: parts.Root(), First: f.First}
	if out.Root == nil {
		return nil, failuref(CheckProof, "the parts of the trace root are malformed")
	}
	if out.Events, err = f.check(parts); err != nil {
		return nil, failure(CheckProof, err)
	}
	for _, b := range f.Bundles {
		bundles = append(bundles, b)
	}
	if err := out.vouch(f, bundles, policy); err != nil {
		return nil, err
	}
	return out, nil
}

// ReadProof reads a proof from a regular file, without checking anything but its size.
func ReadProof(name string) ([]byte, error) {
	p, err := readBounded(name, maxProof)
	if err != nil {
		return nil, fmt.Errorf("read proof: %w", err)
	}
	return p, nil
}

func parseProof(p []byte) (*proofFile, error) {
	if len(p) > maxProof {
		return nil, fmt.Errorf("the proof has %d bytes, the limit is %d", len(p), maxProof)
	}
	p = bytes.TrimSpace(p)
	if err := checkJSON(p); err != nil {
		return nil, err
	}
	var f proofFile
	if err := decodeStrictly(p, &f); err != nil {
		return nil, err
	}
	if f.MediaType != ProofType {
		return nil, fmt.Errorf("this is of type %q, not a detvm proof", f.MediaType)
	}
	if max(len(f.Path), len(f.Left), len(f.Right)) > maxNodes {
		return nil, errors.New("the proof has more nodes than any tree has levels")
	}
	again, err := marshal(f)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(again, p) {
		return nil, errors.New("the proof is not in canonical form: it could be read in two ways")
	}
	return &f, nil
}

// check verifies the Merkle proof and decodes the events.
func (f *proofFile) check(parts trace.RootParts) ([]trace.Event, error) {
	var leaves [][]byte
	for _, l := range f.Leaves {
		leaves = append(leaves, l.Event)
	}
	var err error
	switch {
	case len(leaves) != 1:
		if len(f.Path) > 0 {
			return nil, errors.New("an audit path belongs to one event")
		}
		err = parts.VerifyRange(f.First, leaves, &trace.RangeProof{Left: f.Left, Right: f.Right})
	case len(f.Left)+len(f.Right) > 0:
		return nil, errors.New("a proof of one event is an audit path")
	default:
		err = parts.VerifyInclusion(f.First, leaves[0], f.Path)
	}
	if err != nil {
		return nil, err
	}
	header := &trace.Header{Hash: f.Hash, Redactable: f.Redactable}
	var events []trace.Event
	for i, l := range f.Leaves {
		e, err := header.DecodeLeaf(l.Event)
		if err == nil {
			err = reveal(header, &e, l)
		}
		if err != nil {
			return nil, fmt.Errorf("event %d: %w", f.First+uint64(i), err)
		}
		events = append(events, e)
	}
	return events, nil
}

// reveal puts a payload that the proof holds into its event, if it is the one that the leaf commits to.
func reveal(h *trace.Header, e *trace.Event, l proofLeaf) error {
	if len(l.Payload) == 0 && len(l.Salt) == 0 {
		return nil
	}
	if len(l.Payload) == 0 || h.Redactable != (len(l.Salt) == trace.SaltSize) {
		return errors.New("payload and salt do not fit together")
	}
	if !bytes.Equal(h.Commit(l.Salt, l.Payload), e.Commitment) {
		return errors.New("the payload is not the one that the event commits to")
	}
	e.Data, e.Salt, e.Withheld, e.Commitment = l.Payload, l.Salt, false, nil
	return nil
}

func (out *Proven) vouch(f *proofFile, bundles [][]byte, policy *Policy) error {
	parties := map[string]bool{}
	var foreign []error
	for _, b := range bundles {
		v, err := VerifyBundle(b, policy)
		if err != nil {
			if fail := (*Failure)(nil); errors.As(err, &fail) && fail.Check == CheckSigner {
				foreign = append(foreign, fail.Err)
				continue
			}
			return err
		}
		root, err := rootOf(v.Statement)
		if err != nil {
			return failure(CheckStatement, err)
		}
		if !bytes.Equal(root, out.Root) || v.Statement.Trace().Redactable != f.Redactable {
			return failuref(CheckMatch, "the statement by %s is about the trace with root %x, the proof about %x", v.Who(), root, out.Root)
		}
		if rp := v.Statement.Replay; rp != nil {
			if err := rp.vouches(f.Events); err != nil {
				return failuref(CheckMatch, "statement by %s: %w", v.Who(), err)
			}
		}
		out.Vouchers = append(out.Vouchers, *v)
		parties[v.Who()] = true
	}
	out.Parties = len(parties)
	if want := max(policy.Threshold, 1); out.Parties < want {
		err := fmt.Errorf("%d of the parties that you trust vouch for the proof's root, you ask for %d", out.Parties, want)
		return failure(CheckThreshold, errors.Join(append([]error{err}, foreign...)...))
	}
	return nil
}
