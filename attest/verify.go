package attest

import (
	"crypto"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	ssldsse "github.com/secure-systems-lab/go-securesystemslib/dsse"

	"github.com/detvm/detvm/trace"
)

// Check names a step of verification.
type Check string

// The checks, in the order in which they are made.
const (
	CheckTrace       Check = "trace"       // the file is whole and consistent
	CheckBundle      Check = "bundle"      // the bundle has the one form that is allowed
	CheckSigner      Check = "signer"      // the bundle names a key or identity that the verifier trusts
	CheckCertificate Check = "certificate" // the certificate is the trusted authority's and was valid
	CheckLog         Check = "log"         // the transparency log has the signature
	CheckSignature   Check = "signature"   // the signature is that key's over that statement
	CheckStatement   Check = "statement"   // the statement is well formed
	CheckMatch       Check = "match"       // the statement is about this trace and says the truth about it
	CheckProof       Check = "proof"       // the events belong to the signed trace
	CheckThreshold   Check = "threshold"   // enough independent parties vouch
)

// Failure is the error of a verification that found something wrong.
type Failure struct {
	Check   Check
	Meaning string // what it means that this check failed
	Err     error
}

func (f *Failure) Error() string {
	return fmt.Sprintf("%s check failed: %v. This means: %s", f.Check, f.Err, f.Meaning)
}

// Unwrap returns the cause.
func (f *Failure) Unwrap() error { return f.Err }

var meanings = map[Check]string{
	CheckTrace:       "the trace is damaged or was tampered with; nothing in it can be relied on",
	CheckBundle:      "the bundle is damaged, was tampered with, or is not one of detvm's; nobody's signature has been seen",
	CheckSigner:      "nobody whom you trust vouches for this; somebody else may",
	CheckCertificate: "whoever signed cannot be identified by an authority that you trust",
	CheckLog:         "it cannot be shown that the signature was made, publicly, while the certificate was valid",
	CheckSignature:   "the statement was changed after it was signed, or the key's owner never signed it",
	CheckStatement:   "the signature is right, but what was signed is not a statement about a detvm run that can be read in just one way",
	CheckMatch:       "the signed statement is about another trace, or says of this one what is not so; the trace is not vouched for",
	CheckProof:       "it is not shown that these events belong to the signed trace",
	CheckThreshold:   "fewer independent parties than you ask for vouch for this trace",
}

func failure(c Check, err error) error { return &Failure{c, meanings[c], err} }

func failuref(c Check, format string, args ...any) error {
	return failure(c, fmt.Errorf(format, args...))
}

// Identity is whom a certificate names: the subject (a mail address or URI) and the identity provider that vouches for it. Both must match exactly.
type Identity struct {
	Issuer  string
	Subject string
}

func (id Identity) String() string { return fmt.Sprintf("%s (according to %s)", id.Subject, id.Issuer) }

// Policy says whom a verifier trusts. The zero value trusts nobody.
type Policy struct {
	Keys       []crypto.PublicKey
	Identities []Identity
	Trust      *TrustRoot // authorities for Identities
	// Threshold is the number of different trusted keys and identities that must vouch; 0 means 1. One party counts once, however
	// much it signs.
	Threshold int
}

// Voucher is a trusted party's statement.
type Voucher struct {
	KeyID     string    // of the key, empty for identities
	Identity  *Identity // nil for keys
	LoggedAt  time.Time // when the transparency log took the signature; zero for keys
	Statement *Statement
}

// Who names the party.
func (v *Voucher) Who() string {
	if v.Identity != nil {
		return v.Identity.String()
	}
	return "key " + v.KeyID
}

// Verification is the result of [Verify].
type Verification struct {
	Root     []byte
	Vouchers []Voucher // the trusted statements about the trace
	Parties  int       // number of different parties among them
	// Foreign lists the bundles that name no trusted party: they were not counted, nor checked any further.
	Foreign []error
	// Notes say what could not be compared, such as the digest of an output that is withheld.
	Notes []string
}

// VerifyBundle checks the form of a bundle, its signature against the policy, and the form of its statement. It does not look at a trace.
func VerifyBundle(bundle []byte, policy *Policy) (*Voucher, error) {
	p, err := parseBundle(bundle)
	if err != nil {
		return nil, failure(CheckBundle, err)
	}
	v := &Voucher{}
	message := ssldsse.PAE(PayloadType, p.payload)
	if p.cert != nil {
		err = v.checkIdentity(p, message, policy)
	} else {
		err = v.checkKey(p, message, policy)
	}
	if err != nil {
		return nil, err
	}
	if v.Statement, err = ParseStatement(p.payload); err != nil {
		return nil, failure(CheckStatement, err)
	}
	return v, nil
}

func (v *Voucher) checkKey(p *parsed, message []byte, policy *Policy) error {
	for _, key := range policy.Keys {
		id, err := KeyID(key)
		if err != nil {
			return failure(CheckSigner, err)
		}
		if id != p.keyHint {
			continue
		}
		if err := checkSignature(key, message, p.sig); err != nil {
			return failuref(CheckSignature, "the signature is not that of key %s: %w", id, err)
		}
		v.KeyID = id
		return nil
	}
	return failuref(CheckSigner, "the bundle is signed with key %q, which is none of the %d that you trust", p.keyHint, len(policy.Keys))
}

// Verify checks that a trace is vouched for: that it is whole (report is that of [trace.Verify]), and that at least policy.Threshold parties
// whom the policy trusts signed statements about it that are true as far as the trace shows. A bundle of a trusted party that is wrong in any way
// fails the whole; bundles of others are listed and not counted.
func Verify(r *trace.Reader, report *trace.Report, bundles [][]byte, policy *Policy) (*Verification, error) {
	if err := report.Err(); err != nil {
		return nil, failure(CheckTrace, err)
	}
	expected, sum, err := newRun(r, report)
	if errors.Is(err, errLarge) {
		return nil, err
	}
	if err != nil {
		return nil, failure(CheckTrace, err)
	}
	result := &Verification{Root: report.Root}
	m := &matcher{expected: expected, checkpoints: sum.checkpoints, report: report}
	parties := map[string]bool{}
	for i, b := range bundles {
		v, err := VerifyBundle(b, policy)
		if err != nil {
			if f := (*Failure)(nil); errors.As(err, &f) && f.Check == CheckSigner {
				result.Foreign = append(result.Foreign, fmt.Errorf("bundle %d: %w", i+1, f.Err))
				continue
			}
			return nil, err
		}
		if err := m.match(v.Statement); err != nil {
			return nil, failuref(CheckMatch, "statement by %s: %w", v.Who(), err)
		}
		result.Vouchers = append(result.Vouchers, *v)
		parties[v.Who()] = true
	}
	result.Parties, result.Notes = len(parties), m.notes
	if want := max(policy.Threshold, 1); result.Parties < want {
		err := fmt.Errorf("%d of the parties that you trust vouch for the trace, you ask for %d", result.Parties, want)
		if result.Parties == 0 && len(result.Foreign) > 0 {
			return nil, failure(CheckSigner, errors.Join(result.Foreign...))
		}
		return nil, failure(CheckThreshold, errors.Join(append([]error{err}, result.Foreign...)...))
	}
	return result, nil
}

// matcher compares statements with what the trace itself shows.
type matcher struct {
	expected    *Statement
	checkpoints []Checkpoint // as in summary
	report      *trace.Report
	notes       []string
}

func (m *matcher) note(format string, args ...any) {
	if n := fmt.Sprintf(format, args...); !slices.Contains(m.notes, n) {
		m.notes = append(m.notes, n)
	}
}

func (m *matcher) match(s *Statement) error {
	want, got := m.expected.Run.Trace, *s.Trace()
	if subtle.ConstantTimeCompare([]byte(got.Root), []byte(want.Root)) != 1 {
		return fmt.Errorf("it is about the trace with root %s, this one has %s", got.Root, want.Root)
	}
	if got.BlobDigest != want.BlobDigest {
		if len(m.report.PartialInputs) > 0 {
			return errors.New("the stored inputs are not those that were signed")
		}
		m.note("inputs that the signed trace stored are left out here; the complete ones were checked against the header")
		got.BlobDigest = want.BlobDigest
	}
	if got != want {
		return fmt.Errorf("it describes the trace as %+v, which is %+v", got, want)
	}
	if s.Replay != nil {
		if err := s.Replay.vouches(want.Events); err != nil {
			return err
		}
		return m.matchSubjects(s.Subject)
	}
	if err := m.matchRun(s.Run); err != nil {
		return err
	}
	return m.matchSubjects(s.Subject)
}

// matchRun compares field by field, to be able to say which differs.
func (m *matcher) matchRun(run *Run) error {
	want := m.expected.Run
	for _, f := range []struct {
		name      string
		got, want any
	}{
		{"machine", run.Machine, want.Machine},
		{"inputs", run.Inputs, want.Inputs},
		{"command", run.Command, want.Command},
		{"environment", run.Environment, want.Environment},
		{"version of detvm", run.Version, want.Version},
		{"host", run.Host, want.Host},
	} {
		if !reflect.DeepEqual(f.got, f.want) {
			return fmt.Errorf("its %s is %v, the trace's is %v", f.name, f.got, f.want)
		}
	}
	if want.Result == nil && m.report.Withheld > 0 {
		m.note("how the run ended is withheld and could not be compared")
	} else if !reflect.DeepEqual(run.Result, want.Result) {
		return fmt.Errorf("its result is %+v, the trace's is %+v", run.Result, want.Result)
	}
	return m.matchCheckpoints(run.Checkpoints)
}

// matchCheckpoints compares those that the trace shows. One that it withholds may be in the statement or not: that was made of a copy that withheld it, too.
func (m *matcher) matchCheckpoints(got []Checkpoint) error {
	for _, want := range m.checkpoints {
		switch {
		case len(got) > 0 && got[0] == want:
			got = got[1:]
		case want.State != "":
			return fmt.Errorf("its checkpoints lack that of event %d as the trace has it", want.Event)
		case len(got) > 0 && got[0].Event == want.Event && got[0].Position == want.Position:
			m.note("checkpoints are withheld and could not be compared")
			got = got[1:]
		}
	}
	if len(got) > 0 {
		return fmt.Errorf("its checkpoint of event %d is not in the trace", got[0].Event)
	}
	return nil
}

func (m *matcher) matchSubjects(got []Subject) error {
	left := map[string]int{} // the statement's subjects that the trace has not been seen to have
	for _, g := range got {
		left[subjectKey(g)]++
	}
	names := map[string]bool{}
	for _, w := range m.expected.Subject {
		names[w.Name] = true
		k := subjectKey(w)
		if left[k] == 0 {
			return fmt.Errorf("its subjects lack %q as the trace has it (%v)", w.Name, w.Digest)
		}
		left[k]--
	}
	var extra []string
	for _, g := range got {
		k := subjectKey(g)
		if left[k] == 0 {
			continue
		}
		left[k]--
		if m.report.Withheld == 0 || names[g.Name] {
			return fmt.Errorf("its subject %q is not in the trace", g.Name)
		}
		extra = append(extra, g.Name)
	}
	if len(extra) > 0 {
		m.note("payloads of %s are withheld: the signed digests could not be compared", strings.Join(extra, ", "))
	}
	return nil
}

func subjectKey(s Subject) string {
	k, _ := json.Marshal(s) // strings and a map of strings: it cannot fail; keys are sorted
	return string(k)
}

// rootOf returns the signed trace root.
func rootOf(s *Statement) ([]byte, error) {
	root, err := hex.DecodeString(s.Trace().Root)
	if err != nil {
		return nil, fmt.Errorf("the statement's trace root: %w", err)
	}
	return root, nil
}
