package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/detvm/detvm/attest"
	"github.com/detvm/detvm/trace"
	"github.com/spf13/cobra"
)

// verifyFlags say whom to trust.
type verifyFlags struct {
	keys, bundles                []string
	identities, issuers          []string
	certificates, logKeys, proof string
	trustedRoot                  string
	threshold                    int
}

func (f *verifyFlags) register(c *cobra.Command) {
	fs := c.Flags()
	fs.StringArrayVar(&f.keys, "key", nil, "trust this public key: file or KMS URI (repeatable)")
	fs.StringArrayVar(&f.bundles, "bundle", nil, "bundle to check (repeatable; default: those beside the trace)")
	fs.StringArrayVar(&f.identities, "certificate-identity", nil, "trust certificates for this identity (repeatable, with --certificate-oidc-issuer)")
	fs.StringArrayVar(&f.issuers, "certificate-oidc-issuer", nil, "identity provider of the identity, one for each")
	fs.StringVar(&f.trustedRoot, "trusted-root", "", "authorities for identities: a Sigstore trusted_root.json")
	fs.StringVar(&f.certificates, "ca-certificates", "", "… or PEM file of the certificate authority")
	fs.StringVar(&f.logKeys, "rekor-key", "", "… and PEM file of the transparency log's public keys")
	fs.IntVar(&f.threshold, "threshold", 1, "how many different trusted parties must vouch")
}

// given reports whether any flag asks for signatures to be checked.
func (f *verifyFlags) given(c *cobra.Command) bool {
	return changed(c.Flags(), "key", "bundle", "certificate-identity", "certificate-oidc-issuer", "trusted-root", "ca-certificates", "rekor-key", "threshold") != ""
}

func (f *verifyFlags) policy(ctx context.Context) (*attest.Policy, error) {
	p := &attest.Policy{Threshold: f.threshold}
	if f.threshold < 1 {
		return nil, usagef("--threshold %d: want 1 or more", f.threshold)
	}
	if len(f.keys)+len(f.identities) == 0 {
		return nil, usagef("whom to trust? give --key, or --certificate-identity with --certificate-oidc-issuer")
	}
	if len(f.identities) == 0 && (len(f.issuers) > 0 || f.trustedRoot != "" || f.certificates != "" || f.logKeys != "") {
		return nil, usagef("which identity is to be trusted? give --certificate-identity")
	}
	for _, ref := range f.keys {
		key, err := attest.LoadPublicKey(ctx, ref)
		if err != nil {
			return nil, err
		}
		p.Keys = append(p.Keys, key)
	}
	if len(f.identities) != len(f.issuers) {
		return nil, usagef("give one --certificate-oidc-issuer for each --certificate-identity")
	}
	for i := range f.identities {
		p.Identities = append(p.Identities, attest.Identity{Issuer: f.issuers[i], Subject: f.identities[i]})
	}
	if len(p.Identities) == 0 {
		return p, nil
	}
	if f.trustedRoot != "" {
		root, err := os.ReadFile(f.trustedRoot)
		if err != nil {
			return nil, fmt.Errorf("read --trusted-root: %w", err)
		}
		p.Trust, err = attest.ParseTrustedRoot(root)
		return p, err
	}
	certificates, err := os.ReadFile(f.certificates)
	if err != nil {
		return nil, fmt.Errorf("read --ca-certificates: %w", err)
	}
	logKeys, err := os.ReadFile(f.logKeys)
	if err != nil {
		return nil, fmt.Errorf("read --rekor-key: %w", err)
	}
	p.Trust, err = attest.LoadTrustRoot(certificates, logKeys)
	return p, err
}

func readBundles(paths []string) ([][]byte, error) {
	var bundles [][]byte
	for _, path := range paths {
		b, err := attest.ReadBundle(path)
		if err != nil {
			return nil, err
		}
		bundles = append(bundles, b)
	}
	return bundles, nil
}

// verifyReport is verify's JSON form.
type verifyReport struct {
	OK       bool            `json:"ok"`
	Status   string          `json:"status,omitempty"` // how the recording ended: complete, size-limit, aborted
	Root     string          `json:"trace_root,omitempty"`
	Events   uint64          `json:"events"`
	Withheld uint64          `json:"withheld"`
	Findings []trace.Finding `json:"findings"`
	Vouchers []string        `json:"vouchers"`
	Notes    []string        `json:"notes,omitempty"`
	Replayed *bool           `json:"replayed_identical,omitempty"`
	Error    string          `json:"error,omitempty"`
}

func newVerifyCommand() *cobra.Command {
	var f verifyFlags
	var rf replayFlags
	var asJSON, replay bool
	c := &cobra.Command{
		Use:   "verify [flags] [TRACE]",
		Short: "Check that a trace is whole, who vouches for it, and by --replay that it is true",
		Long: `Check a trace: structure, checksums, hash chain, Merkle tree, root. With --key or --certificate-identity also the signatures beside it, and that what they
state is what the trace shows. With --replay run it again and compare every event. With --proof check a proof of single events instead, without the trace.
Whatever fails: one message that says which check and what that means, and exit code 1.`,
		Example: `  detvm verify run.dtr
  detvm verify run.dtr --key alice.pub --key bob.pub --threshold 2
  detvm verify run.dtr --key alice.pub --replay
  detvm verify --proof event-17.proof --key alice.pub`,
		Args: cobra.MaximumNArgs(1),
		RunE: interruptible(func(cmd *cobra.Command, args []string) error {
			out := cmd.OutOrStdout()
			if f.proof != "" {
				if len(args) > 0 || replay {
					return usagef("--proof is about events without their trace: it takes neither a trace nor --replay")
				}
				return f.verifyProof(cmd.Context(), out, asJSON)
			}
			if len(args) == 0 {
				return usagef("give a trace, or --proof")
			}
			report, err := f.verifyTrace(cmd, args[0], replay, &rf)
			if report != nil {
				if err != nil {
					report.Error = err.Error()
				}
				report.OK = err == nil
				if perr := printJSONOr(out, asJSON, report, func() { printVerify(out, report) }); perr != nil {
					return perr
				}
			}
			return err
		}),
	}
	f.register(c)
	fs := c.Flags()
	fs.StringVar(&f.proof, "proof", "", "check this proof file (from 'detvm prove') instead of a trace")
	fs.BoolVar(&replay, "replay", false, "replay the trace too")
	fs.BoolVar(&asJSON, "json", false, "print JSON")
	rf.registerFiles(c)
	return c
}

// verifyTrace checks one trace as far as the flags ask.
func (f *verifyFlags) verifyTrace(cmd *cobra.Command, path string, replay bool, rf *replayFlags) (*verifyReport, error) {
	file, err := openTraceFile(cmd.Context(), path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	bar := newProgress(cmd.ErrOrStderr(), "verify", uint64(file.size))
	whole, err := trace.Verify(file, file.size, func(done, _ int64) { bar.set(uint64(done)) })
	bar.clear()
	if err != nil {
		return nil, err
	}
	v := &verifyReport{Root: hex.EncodeToString(whole.Root), Events: whole.Events, Withheld: whole.Withheld, Findings: append([]trace.Finding{}, whole.Findings...), Vouchers: []string{}}
	if err := whole.Err(); err != nil {
		return v, fmt.Errorf("check trace failed: %w", err)
	}
	v.Status = whole.Parts.Status.String()
	if f.given(cmd) {
		if err := f.verifySignatures(cmd.Context(), v, file, file.size, whole, path); err != nil {
			return v, err
		}
	}
	if !replay {
		return v, nil
	}
	r, err := trace.Open(file, file.size)
	if err != nil {
		return v, err
	}
	result, err := rf.replay(cmd, r, "", false)
	if err != nil {
		return v, err
	}
	for _, role := range result.Partial {
		v.Notes = append(v.Notes, "the trace stores only what the run read of its "+role+": that this belongs to the file with the digest in the header is the recorder's word")
	}
	same := result.Identical && result.Complete
	v.Replayed = &same
	if !same {
		_ = reportReplay(cmd.ErrOrStderr(), r, result, "")
		return v, errors.New("check replay failed: the run does not repeat as the trace says")
	}
	return v, nil
}

func (f *verifyFlags) verifySignatures(ctx context.Context, v *verifyReport, file io.ReaderAt, size int64, whole *trace.Report, path string) error {
	policy, err := f.policy(ctx)
	if err != nil {
		return err
	}
	paths := f.bundles
	if len(paths) == 0 {
		if paths, err = attest.FindBundles(path); err != nil {
			return err
		}
	}
	bundles, err := readBundles(paths)
	if err != nil {
		return err
	}
	r, err := trace.Open(file, size)
	if err != nil {
		return err
	}
	checked, err := attest.Verify(r, whole, bundles, policy)
	if err != nil {
		return err
	}
	for _, voucher := range checked.Vouchers {
		v.Vouchers = append(v.Vouchers, voucherLine(&voucher))
	}
	v.Notes = checked.Notes
	for _, foreign := range checked.Foreign {
		v.Notes = append(v.Notes, "not counted: "+foreign.Error())
	}
	return nil
}

func voucherLine(v *attest.Voucher) string {
	what := "vouches for the run"
	if v.Statement.Replay != nil {
		what = "replayed it, identical at every event"
	}
	return v.Who() + " " + what
}

func (f *verifyFlags) verifyProof(ctx context.Context, out io.Writer, asJSON bool) error {
	policy, err := f.policy(ctx)
	if err != nil {
		return err
	}
	proof, err := attest.ReadProof(f.proof)
	if err != nil {
		return err
	}
	bundles, err := readBundles(f.bundles)
	if err != nil {
		return err
	}
	p, err := attest.VerifyProof(proof, bundles, policy)
	if err != nil {
		return err
	}
	h := &trace.Header{}
	events := []eventJSON{}
	for i := range p.Events {
		events = append(events, toJSON(h, p.First+uint64(i), &p.Events[i]))
	}
	return printJSONOr(out, asJSON, events, func() {
		fmt.Fprintf(out, "proved: %d events from #%d on belong to trace root %x\n", len(p.Events), p.First, p.Root)
		for _, v := range p.Vouchers {
			fmt.Fprintln(out, " ", voucherLine(&v))
		}
		for i := range p.Events {
			printEventLine(out, h, "event", p.First+uint64(i), &p.Events[i])
		}
	})
}

func printVerify(out io.Writer, v *verifyReport) {
	for _, finding := range v.Findings {
		fmt.Fprintln(out, finding)
	}
	if !v.OK {
		return
	}
	fmt.Fprintf(out, "whole: %d events, %s, trace root %s\n", v.Events, v.Status, v.Root)
	if v.Status != trace.StatusComplete.String() {
		fmt.Fprintln(out, "the recording ended before the run did")
	}
	if v.Withheld > 0 {
		fmt.Fprintf(out, "redacted: %d payloads are withheld\n", v.Withheld)
	}
	for _, line := range v.Vouchers {
		fmt.Fprintln(out, "signed:", line)
	}
	if len(v.Vouchers) == 0 {
		fmt.Fprintln(out, "no signature was asked for: give --key to check who vouches for it")
	}
	if v.Replayed != nil {
		fmt.Fprintln(out, "replayed: identical at every event")
	}
	for _, note := range v.Notes {
		fmt.Fprintln(out, "note:", note)
	}
}
