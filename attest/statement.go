package attest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"sort"
	"strings"
	"time"

	"github.com/detvm/detvm/trace"
)

// Types of the in-toto layers.
const (
	StatementType   = "https://in-toto.io/Statement/v1"
	PayloadType     = "application/vnd.in-toto+json"
	RunPredicate    = "https://github.com/detvm/detvm/attestation/run/v1"
	ReplayPredicate = "https://github.com/detvm/detvm/attestation/replay/v1"
)

// RootDigest is the name of the trace root in a subject's digest set. It is not the digest of the trace file, which changes when the file is
// recompressed or redacted.
const RootDigest = "detvmTraceRoot"

// TraceSubject is the name of the subject that stands for the trace.
const TraceSubject = "trace"

// maxCheckpoints is how many checkpoints a statement lists. The Merkle root binds all of them.
const maxCheckpoints = 4096

// maxStatement limits an encoded statement, in bytes.
const maxStatement = 8 << 20

// Subject is what a statement is about, by digest.
type Subject struct {
	Name   string            `json:"name"`
	Digest map[string]string `json:"digest"`
}

// Statement is an in-toto Statement v1 with one of our predicates: exactly one of Run and Replay is set.
type Statement struct {
	Subject []Subject
	Run     *Run
	Replay  *Replay
}

// Trace identifies a trace and holds the parts of its root.
type Trace struct {
	Format       int    `json:"formatVersion"`
	Hash         string `json:"hash"`
	Root         string `json:"root"`         // hexadecimal, like the other digests here
	HeaderDigest string `json:"headerDigest"` //
	MerkleRoot   string `json:"merkleRoot"`   //
	Events       uint64 `json:"events"`       //
	Status       string `json:"status"`       // "complete", "size-limit", "aborted"
	Redactable   bool   `json:"redactable"`   //
	HostDigest   string `json:"hostDigest"`   // of the host section, which is outside the root
	BlobDigest   string `json:"blobDigest"`   // of the stored inputs, which are outside the root
}

// Machine is what the guest ran on.
type Machine struct {
	Model         string            `json:"model"`
	CPUModel      string            `json:"cpuModel"`
	Clock         string            `json:"workClock"`
	NSPerCount    uint64            `json:"nsPerCount"`
	TimeScale     string            `json:"timeScale"` // numerator/denominator
	StartTime     string            `json:"startTime"` // RFC 3339 with nanoseconds
	Seed          string            `json:"seed"`      // hexadecimal
	Configuration map[string]string `json:"configuration"`
}

// Input is a file that the run depends on.
type Input struct {
	Role   string            `json:"role"`
	Name   string            `json:"name"`
	Size   uint64            `json:"size"`
	Digest map[string]string `json:"digest"`
}

// Result is how the run ended.
type Result struct {
	ExitCode uint64 `json:"exitCode"`
	Reason   string `json:"reason"`
	State    string `json:"stateDigest"` // "sha256:…", or empty
}

// Checkpoint is the state digest at one position.
type Checkpoint struct {
	Event    uint64 `json:"event"`
	Position uint64 `json:"position"`
	State    string `json:"stateDigest"` // hexadecimal
}

// Run is the predicate of the statement "this run happened": what was run, on what, and what came out.
type Run struct {
	Trace       Trace             `json:"trace"`
	Machine     Machine           `json:"machine"`
	Inputs      []Input           `json:"inputs"`
	Command     []string          `json:"command"`
	Environment []string          `json:"environment"`
	Result      *Result           `json:"result"` // null if the trace has no end event or its payload is withheld
	Checkpoints []Checkpoint      `json:"checkpoints"`
	Version     string            `json:"detvmVersion"`
	Host        map[string]string `json:"host"` // the recorder's word: engine, processor, wall times
}

// Replay is the predicate of the statement "replayed, identical at every event".
type Replay struct {
	Trace    Trace             `json:"trace"`
	Verdict  string            `json:"verdict"` // always "identical"
	Events   uint64            `json:"eventsCompared"`
	Finished string            `json:"finishedAt"` // RFC 3339, the replayer's wall clock
	Version  string            `json:"detvmVersion"`
	Host     map[string]string `json:"host"` // the replayer's word: engine, processor
}

// wire is the JSON form of a statement. Its field order is the canonical one.
type wire struct {
	Type          string          `json:"_type"`
	Subject       []Subject       `json:"subject"`
	PredicateType string          `json:"predicateType"`
	Predicate     json.RawMessage `json:"predicate"`
}

// PredicateType is the type URI of the statement's predicate.
func (s *Statement) PredicateType() string {
	if s.Replay != nil {
		return ReplayPredicate
	}
	return RunPredicate
}

// Trace is the trace that the statement is about.
func (s *Statement) Trace() *Trace {
	if s.Replay != nil {
		return &s.Replay.Trace
	}
	return &s.Run.Trace
}

// MarshalJSON encodes the statement in its one canonical form.
func (s *Statement) MarshalJSON() ([]byte, error) {
	var predicate any = s.Run
	if s.Replay != nil {
		predicate = s.Replay
	}
	if (s.Run == nil) == (s.Replay == nil) {
		return nil, errors.New("a statement has exactly one predicate")
	}
	p, err := marshal(predicate)
	if err != nil {
		return nil, err
	}
	return marshal(wire{StatementType, s.Subject, s.PredicateType(), p})
}

// marshal is json.Marshal without HTML escapes.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("encode JSON: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// ParseStatement decodes a statement. It accepts only the canonical form: no duplicate, unknown or misspelt fields, no other spacing.
func ParseStatement(p []byte) (*Statement, error) {
	if len(p) > maxStatement {
		return nil, fmt.Errorf("the statement has %d bytes, the limit is %d", len(p), maxStatement)
	}
	if err := checkJSON(p); err != nil {
		return nil, fmt.Errorf("statement: %w", err)
	}
	var w wire
	if err := decodeStrictly(p, &w); err != nil {
		return nil, fmt.Errorf("statement: %w", err)
	}
	if w.Type != StatementType {
		return nil, fmt.Errorf("the signed content is of type %q, not an in-toto Statement v1", w.Type)
	}
	s := &Statement{Subject: w.Subject}
	var err error
	switch w.PredicateType {
	case RunPredicate:
		err = decodeStrictly(w.Predicate, &s.Run)
	case ReplayPredicate:
		err = decodeStrictly(w.Predicate, &s.Replay)
	default:
		return nil, fmt.Errorf("the statement says %q, which is neither a run nor a replay of detvm", w.PredicateType)
	}
	if err != nil {
		return nil, fmt.Errorf("predicate: %w", err)
	}
	again, err := s.MarshalJSON()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(again, p) {
		return nil, errors.New("the statement is not in canonical form: it could be read in two ways")
	}
	return s, nil
}

// identify builds the part of a statement that names a trace, from a trace that was verified.
func identify(r *trace.Reader, report *trace.Report) (Trace, error) {
	f, ok := r.Footer()
	if !ok {
		return Trace{}, errors.New("the trace has no end, so that it has no root to vouch for")
	}
	if err := report.Err(); err != nil {
		return Trace{}, err
	}
	if !bytes.Equal(report.Root, f.Root) {
		return Trace{}, errors.New("the report is about another trace")
	}
	return Trace{
		Format: trace.FormatVersion, Hash: string(r.Header().Hash), Root: hex.EncodeToString(f.Root),
		HeaderDigest: hex.EncodeToString(r.HeaderDigest()), MerkleRoot: hex.EncodeToString(f.MerkleRoot), Events: f.Events,
		Status: f.Status.String(), Redactable: r.Header().Redactable,
		HostDigest: hex.EncodeToString(f.HostDigest), BlobDigest: hex.EncodeToString(f.BlobDigest),
	}, nil
}

// NewRun builds the statement about a recorded run from its trace alone. report is that of [trace.Verify]; a trace with findings gets no statement.
func NewRun(r *trace.Reader, report *trace.Report) (*Statement, error) {
	s, _, err := newRun(r, report)
	if err != nil {
		return nil, fmt.Errorf("make statement: %w", err)
	}
	return s, nil
}

func newRun(r *trace.Reader, report *trace.Report) (*Statement, *summary, error) {
	id, err := identify(r, report)
	if err != nil {
		return nil, nil, err
	}
	sum, err := summarize(r)
	if err != nil {
		return nil, nil, err
	}
	host, err := r.Host()
	if err != nil {
		return nil, nil, err
	}
	h := r.Header()
	run := &Run{
		Trace: id,
		Machine: Machine{
			Model: h.MachineModel, CPUModel: h.CPUModel, Clock: h.Clock, NSPerCount: h.NSPerCount,
			TimeScale: fmt.Sprintf("%d/%d", h.ScaleNum, h.ScaleDen),
			StartTime: time.Unix(0, h.StartTime).UTC().Format(time.RFC3339Nano), Seed: hex.EncodeToString(h.Seed),
			Configuration: settingsMap(h.Config),
		},
		Inputs: []Input{}, Command: list(h.Command), Environment: list(h.Env), Result: sum.result, Checkpoints: sum.shown(),
		Version: valid(h.Version), Host: settingsMap(host),
	}
	for _, in := range h.Inputs {
		run.Inputs = append(run.Inputs, Input{valid(in.Role), valid(in.Name), in.Size, digestSet(string(in.Digest))})
	}
	return &Statement{Subject: sum.subjects(id), Run: run}, sum, nil
}

// NewReplay builds the statement of somebody who replayed a trace and found every event identical. host describes the replaying host and engine. Of a trace
// with withheld payloads nobody can say that: it gets no statement.
func NewReplay(r *trace.Reader, report *trace.Report, version string, host []trace.Setting, finished time.Time) (*Statement, error) {
	id, err := identify(r, report)
	if err != nil {
		return nil, fmt.Errorf("make statement: %w", err)
	}
	if report.Withheld > 0 {
		return nil, fmt.Errorf("make statement: the payloads of %d events are withheld, so that they cannot have been compared", report.Withheld)
	}
	sum, err := summarize(r)
	if err != nil {
		return nil, fmt.Errorf("make statement: %w", err)
	}
	return &Statement{Subject: sum.subjects(id), Replay: &Replay{
		Trace: id, Verdict: identical, Events: id.Events, Finished: finished.UTC().Format(time.RFC3339),
		Version: valid(version), Host: settingsMap(host),
	}}, nil
}

// identical is the verdict of a replay in which every event was.
const identical = "identical"

// vouches is nil if the replay was identical at all events of a trace with so many.
func (r *Replay) vouches(events uint64) error {
	if r.Verdict != identical || r.Events != events {
		return fmt.Errorf("it says %q after %d of %d events", r.Verdict, r.Events, events)
	}
	return nil
}

// valid replaces bytes that are not UTF-8, which JSON cannot carry. The header digest binds the bytes themselves.
func valid(s string) string { return strings.ToValidUTF8(s, "\ufffd") }

func list(items []string) []string {
	out := make([]string, 0, len(items))
	for _, s := range items {
		out = append(out, valid(s))
	}
	return out
}

func settingsMap(settings []trace.Setting) map[string]string {
	m := make(map[string]string, len(settings))
	for _, s := range settings {
		m[valid(s.Key)] = valid(s.Value)
	}
	return m
}

// digestSet turns "sha256:…" into in-toto's form.
func digestSet(d string) map[string]string {
	alg, sum, ok := strings.Cut(d, ":")
	if !ok {
		return map[string]string{}
	}
	return map[string]string{valid(alg): valid(sum)}
}

// summary is what a statement says of the events.
type summary struct {
	outputs     map[string]hash.Hash // nil if a payload is withheld
	end         []Subject
	result      *Result
	checkpoints []Checkpoint // the first of them; State is empty where it is withheld
	withheld    uint64
	size        int // lower bound of what the statement needs for this
}

// errLarge says that a trace has more outputs and checkpoints than a statement may list.
var errLarge = fmt.Errorf("a statement about this trace would be over the limit of %d bytes", maxStatement)

func (s *summary) grow(n int) error {
	if s.size += n; s.size > maxStatement {
		return errLarge
	}
	return nil
}

func summarize(r *trace.Reader) (*summary, error) {
	s := &summary{outputs: map[string]hash.Hash{"stdout": sha256.New(), "stderr": sha256.New()}, checkpoints: []Checkpoint{}}
	it := r.Events(0)
	defer it.Close()
	for it.Next() {
		if err := s.add(it.Index(), it.Event()); err != nil {
			return nil, fmt.Errorf("event %d: %w", it.Index(), err)
		}
	}
	return s, it.Err()
}

func (s *summary) add(index uint64, e *trace.Event) error {
	if e.Withheld {
		s.withheld++
	}
	switch e.Kind {
	case trace.KindStdout, trace.KindStderr:
		name := e.Kind.String()
		if e.Withheld {
			s.outputs[name] = nil
		}
		if h := s.outputs[name]; h != nil {
			h.Write(e.Data)
		}
	case trace.KindFile:
		path, digest, ok := strings.Cut(string(e.Data), "\x00")
		if ok && !e.Withheld {
			if err := s.grow(len(e.Data)); err != nil {
				return err
			}
			s.end = append(s.end, Subject{valid("file:" + path), digestSet(digest)})
		}
	case trace.KindCheckpoint:
		if len(s.checkpoints) < maxCheckpoints {
			if err := s.grow(2 * len(e.Data)); err != nil {
				return err
			}
			s.checkpoints = append(s.checkpoints, Checkpoint{index, e.Position, hex.EncodeToString(e.Data)})
		}
	case trace.KindEnd:
		return s.addEnd(e)
	}
	return nil
}

// shown lists the checkpoints that are not withheld.
func (s *summary) shown() []Checkpoint {
	list := []Checkpoint{}
	for _, c := range s.checkpoints {
		if c.State != "" {
			list = append(list, c)
		}
	}
	return list
}

func (s *summary) addEnd(e *trace.Event) error {
	if e.Withheld {
		return nil
	}
	var end trace.End
	if len(e.Data) > 0 {
		if err := end.UnmarshalBinary(e.Data); err != nil {
			return err
		}
	}
	if err := s.grow(len(e.Data)); err != nil {
		return err
	}
	s.result = &Result{e.Value, valid(end.Reason), valid(string(end.State))}
	for _, o := range end.Outputs {
		s.end = append(s.end, Subject{valid(o.Key), digestSet(o.Value)})
	}
	return nil
}

// subjects lists the trace root first, then the outputs by name.
func (s *summary) subjects(id Trace) []Subject {
	subjects := []Subject{{TraceSubject, map[string]string{RootDigest: id.Root}}}
	outputs := s.end
	for name, h := range s.outputs {
		if h != nil {
			outputs = append(outputs, Subject{name, map[string]string{"sha256": hex.EncodeToString(h.Sum(nil))}})
		}
	}
	sort.SliceStable(outputs, func(i, j int) bool { return outputs[i].Name < outputs[j].Name })
	return append(subjects, outputs...)
}
