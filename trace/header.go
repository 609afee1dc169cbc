package trace

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"sort"
	"strings"
)

// FormatVersion is the version of the file format that this package reads and writes.
const FormatVersion = 1

// Limits of a header. A writer refuses more, a reader too.
const (
	maxHeader   = 8 << 20
	maxSettings = 4 << 20
)

// Digest is a named digest of something outside the trace: "sha256:" and lower-case hexadecimal.
type Digest string

// NewDigest makes the digest of p with the algorithm alg.
func NewDigest(alg Hash, p []byte) Digest { return DigestOf(alg, alg.Sum(p)) }

// DigestOf names a digest that is already computed.
func DigestOf(alg Hash, sum []byte) Digest {
	return Digest(string(alg) + ":" + hex.EncodeToString(sum))
}

// Algorithm is the part before the colon.
func (d Digest) Algorithm() Hash {
	a, _, _ := strings.Cut(string(d), ":")
	return Hash(a)
}

// Hex is the part after the colon.
func (d Digest) Hex() string {
	_, x, _ := strings.Cut(string(d), ":")
	return x
}

// Valid reports whether the digest is well formed.
func (d Digest) Valid() bool {
	sum, err := hex.DecodeString(d.Hex())
	return err == nil && d.Algorithm().Valid() && len(sum) == d.Algorithm().size() && strings.ToLower(d.Hex()) == d.Hex()
}

// Input is a file that the run depends on.
type Input struct {
	Role   string `json:"role"`   // "kernel", "initramfs", "image", "disk"
	Name   string `json:"name"`   // as the user or the image store calls it; no directory of the recording host belongs here
	Size   uint64 `json:"size"`   // bytes
	Digest Digest `json:"digest"` // of the whole file
}

// Setting is one named value of the configuration, the host section or an [End].
type Setting struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// Header is what a trace says about the run before the first event. All of it is bound by the trace root, so it holds nothing that may differ
// between two recordings of the same run: no wall time, no host, no engine.
type Header struct {
	Hash         Hash   `json:"hash"`       // of this trace
	Redactable   bool   `json:"redactable"` // payload commitments are salted
	MachineModel string `json:"machine_model"`
	CPUModel     string `json:"cpu_model"`
	Clock        string `json:"clock"` // work clock
	// Virtual nanoseconds = position × NSPerCount × ScaleNum / ScaleDen + idle skips. ScaleDen is not 0.
	NSPerCount uint64    `json:"ns_per_count"`
	ScaleNum   uint64    `json:"scale_num"`
	ScaleDen   uint64    `json:"scale_den"`
	StartTime  int64     `json:"start_time_ns"` // the guest's wall clock at virtual time 0 of the run, Unix nanoseconds
	Seed       []byte    `json:"seed"`
	Version    string    `json:"version"` // of detvm
	Config     []Setting `json:"config"`  // sorted by key, keys are unique
	Inputs     []Input   `json:"inputs"`
	Command    []string  `json:"command"`
	Env        []string  `json:"env"`
	Devices    []string  `json:"devices"` // names of the bus devices; Event.Device is an index into it
}

// Setting returns the value of a configuration key.
func (h *Header) Setting(key string) (string, bool) { return lookup(h.Config, key) }

// Device is the name of a bus device, or its number if the header does not name it.
func (h *Header) Device(n uint16) string {
	if int(n) < len(h.Devices) {
		return h.Devices[n]
	}
	return fmt.Sprintf("device%d", n)
}

// Digest is the digest of the header's canonical encoding, the part of the header that the trace root hashes.
func (h *Header) Digest() ([]byte, error) {
	b, err := h.MarshalBinary()
	if err != nil {
		return nil, err
	}
	d := make([]byte, h.Hash.size())
	newHasher(h.Hash).tagged(d, tagHeader, b)
	return d, nil
}

func lookup(settings []Setting, key string) (string, bool) {
	for _, s := range settings {
		if s.Key == key {
			return s.Value, true
		}
	}
	return "", false
}

func (h *Header) check() error {
	switch {
	case !h.Hash.Valid():
		return fmt.Errorf("header names the unknown hash algorithm %q", h.Hash)
	case h.ScaleDen == 0:
		return errors.New("header's time scale has the denominator 0")
	case len(h.Devices) > 1<<16:
		return errors.New("header names more than 65536 devices")
	}
	for _, in := range h.Inputs {
		if !in.Digest.Valid() {
			return fmt.Errorf("header's input %s %q has the malformed digest %q", in.Role, in.Name, in.Digest)
		}
	}
	return nil
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendStrings(b []byte, list []string) []byte {
	b = binary.AppendUvarint(b, uint64(len(list)))
	for _, s := range list {
		b = appendString(b, s)
	}
	return b
}

func appendSettings(b []byte, list []Setting) ([]byte, error) {
	b = binary.AppendUvarint(b, uint64(len(list)))
	for i, s := range list {
		if i > 0 && list[i-1].Key >= s.Key {
			return nil, fmt.Errorf("settings are not sorted, or %q stands twice", s.Key)
		}
		b = appendString(appendString(b, s.Key), s.Value)
	}
	return b, nil
}

func (d *decoder) string() string { return string(d.bytes(d.length())) }

func (d *decoder) strings() []string {
	n := d.length()
	var list []string
	for range n {
		if d.err != nil {
			break
		}
		list = append(list, d.string())
	}
	return list
}

func (d *decoder) settings() []Setting {
	n := d.length()
	var list []Setting
	for i := range n {
		s := Setting{d.string(), d.string()}
		if d.err != nil {
			break
		}
		if i > 0 && list[i-1].Key >= s.Key {
			d.fail(errors.New("settings are not sorted"))
		}
		list = append(list, s)
	}
	return list
}

func (d *decoder) end() error {
	if d.err == nil && len(d.b) > 0 {
		return fmt.Errorf("%d bytes too many", len(d.b))
	}
	return d.err
}

// EncodeSettings encodes settings canonically, sorted by key. Two equal sets have one encoding. Keys must be unique.
func EncodeSettings(settings []Setting) ([]byte, error) {
	list := append([]Setting{}, settings...)
	sort.Slice(list, func(i, j int) bool { return list[i].Key < list[j].Key })
	return appendSettings(nil, list)
}

// DecodeSettings is the inverse of [EncodeSettings]. It refuses encodings that are not canonical.
func DecodeSettings(p []byte) ([]Setting, error) {
	if len(p) > maxSettings {
		return nil, fmt.Errorf("settings of %d bytes are over the limit of %d", len(p), maxSettings)
	}
	d := decoder{b: p}
	list := d.settings()
	if err := d.end(); err != nil {
		return nil, fmt.Errorf("decode settings: %w", err)
	}
	return list, nil
}

// MarshalBinary encodes the header canonically (docs/trace-format.md, "Header").
func (h *Header) MarshalBinary() ([]byte, error) {
	if err := h.check(); err != nil {
		return nil, err
	}
	b := binary.LittleEndian.AppendUint16(nil, FormatVersion)
	b = appendString(b, string(h.Hash))
	var flags byte
	if h.Redactable {
		flags = 1
	}
	b = append(b, flags)
	b = appendString(b, h.MachineModel)
	b = appendString(b, h.CPUModel)
	b = appendString(b, h.Clock)
	b = binary.LittleEndian.AppendUint64(b, h.NSPerCount)
	b = binary.LittleEndian.AppendUint64(b, h.ScaleNum)
	b = binary.LittleEndian.AppendUint64(b, h.ScaleDen)
	b = binary.LittleEndian.AppendUint64(b, uint64(h.StartTime))
	b = appendString(b, string(h.Seed))
	b = appendString(b, h.Version)
	b, err := appendSettings(b, h.Config)
	if err != nil {
		return nil, fmt.Errorf("encode header: %w", err)
	}
	b = binary.AppendUvarint(b, uint64(len(h.Inputs)))
	for _, in := range h.Inputs {
		b = appendString(appendString(b, in.Role), in.Name)
		b = appendString(binary.LittleEndian.AppendUint64(b, in.Size), string(in.Digest))
	}
	b = appendStrings(appendStrings(appendStrings(b, h.Command), h.Env), h.Devices)
	if len(b) > maxHeader {
		return nil, fmt.Errorf("header of %d bytes is over the limit of %d", len(b), maxHeader)
	}
	return b, nil
}

// UnmarshalBinary is the inverse of [Header.MarshalBinary]. It refuses encodings that are not canonical.
func (h *Header) UnmarshalBinary(p []byte) error {
	if len(p) > maxHeader {
		return fmt.Errorf("header of %d bytes is over the limit of %d", len(p), maxHeader)
	}
	d := decoder{b: p}
	if v := d.bytes(2); v == nil || binary.LittleEndian.Uint16(v) != FormatVersion {
		return fmt.Errorf("trace format version %x is not the one that this detvm reads (%d)", v, FormatVersion)
	}
	*h = Header{Hash: Hash(d.string())}
	flags := d.byte()
	h.Redactable = flags&1 != 0
	h.MachineModel, h.CPUModel, h.Clock = d.string(), d.string(), d.string()
	h.NSPerCount, h.ScaleNum, h.ScaleDen = d.uint64(), d.uint64(), d.uint64()
	h.StartTime = int64(d.uint64())
	h.Seed = cloneBytes(d.bytes(d.length()))
	h.Version = d.string()
	h.Config = d.settings()
	for range d.length() {
		if d.err != nil {
			break
		}
		h.Inputs = append(h.Inputs, Input{Role: d.string(), Name: d.string(), Size: d.uint64(), Digest: Digest(d.string())})
	}
	h.Command, h.Env, h.Devices = d.strings(), d.strings(), d.strings()
	if err := d.end(); err != nil {
		return fmt.Errorf("decode header: %w", err)
	}
	if flags > 1 {
		return fmt.Errorf("decode header: unknown flags %#x", flags)
	}
	return h.check()
}

// End is the payload of the last event.
type End struct {
	Reason string // why the run ended: "exited", "killed", "reset", "shutdown", "size-limit", …
	State  Digest // state digest at the end; empty if none was taken
	// Outputs names what the run left behind ("disk:0", "file:/tmp/out") by digest, sorted by key. Standard output and
	// error need no entry: the events hold them.
	Outputs []Setting
}

// MarshalBinary encodes it canonically: settings with the keys "reason", "state" and "output:" + name.
func (e *End) MarshalBinary() ([]byte, error) {
	list := []Setting{{"reason", e.Reason}, {"state", string(e.State)}}
	for _, o := range e.Outputs {
		list = append(list, Setting{"output:" + o.Key, o.Value})
	}
	return EncodeSettings(list)
}

// UnmarshalBinary is the inverse of MarshalBinary. It ignores settings that it does not know.
func (e *End) UnmarshalBinary(p []byte) error {
	list, err := DecodeSettings(p)
	if err != nil {
		return fmt.Errorf("decode end of trace: %w", err)
	}
	*e = End{}
	for _, s := range list {
		name, isOutput := strings.CutPrefix(s.Key, "output:")
		switch {
		case s.Key == "reason":
			e.Reason = s.Value
		case s.Key == "state":
			e.State = Digest(s.Value)
		case isOutput:
			e.Outputs = append(e.Outputs, Setting{name, s.Value})
		}
	}
	return nil
}
