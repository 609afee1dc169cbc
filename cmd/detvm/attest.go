package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/detvm/detvm/attest"
	"github.com/detvm/detvm/trace"
	"github.com/detvm/detvm/vmm"
)

// passwordVariable holds the password of private keys where nobody can type it.
const passwordVariable = "DETVM_PASSWORD"

// askPassword takes a key's password from the environment or the terminal. It is an attest.PasswordFunc.
func askPassword(confirm bool) ([]byte, error) {
	if p, ok := os.LookupEnv(passwordVariable); ok {
		return []byte(p), nil
	}
	fd := int(os.Stdin.Fd())
	if !term.IsTerminal(fd) {
		return nil, fmt.Errorf("a password is needed: set %s, or run on a terminal", passwordVariable)
	}
	ask := func(prompt string) ([]byte, error) {
		fmt.Fprint(os.Stderr, prompt)
		p, err := term.ReadPassword(fd)
		fmt.Fprintln(os.Stderr)
		return p, err
	}
	p, err := ask("Password of the private key: ")
	if err != nil || !confirm {
		return p, err
	}
	again, err := ask("Again: ")
	if err != nil {
		return nil, err
	}
	if string(p) != string(again) {
		return nil, errors.New("the passwords differ")
	}
	return p, nil
}

func newKeygenCommand() *cobra.Command {
	var kind, output string
	var encrypt bool
	c := &cobra.Command{
		Use:   "keygen",
		Short: "Make a key pair for signing",
		Long: `Make a key pair: PREFIX.key, readable by you only, and PREFIX.pub, which you give to those who verify. With --encrypt the private key is encrypted with a
password from the terminal or ` + passwordVariable + `.`,
		Example: `  detvm keygen -o alice && detvm attest run.dtr --key alice.key
  DETVM_PASSWORD=… detvm keygen --encrypt --type ed25519 -o alice`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			t := attest.KeyType(kind)
			if t != attest.ECDSAP256 && t != attest.Ed25519 {
				return usagef("--type %q: want %s or %s", kind, attest.ECDSAP256, attest.Ed25519)
			}
			var password attest.PasswordFunc
			if encrypt {
				password = askPassword
			}
			pair, err := attest.GenerateKey(t, password)
			if err != nil {
				return err
			}
			if err := pair.WriteFiles(output); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s.key (keep it), %s.pub (give it away)\n", output, output)
			return nil
		},
	}
	c.Flags().StringVar(&kind, "type", string(attest.ECDSAP256), "ecdsa-p256 or ed25519")
	c.Flags().StringVarP(&output, "output", "o", "detvm", "prefix of the two files")
	c.Flags().BoolVar(&encrypt, "encrypt", false, "encrypt the private key with a password")
	return c
}

// signFlags are the flags of every command that signs.
type signFlags struct {
	key, fulcio, rekor, token string
}

func (f *signFlags) register(c *cobra.Command, flag, what string) {
	fs := c.Flags()
	fs.StringVar(&f.key, flag, "", what+": private key file or KMS URI")
	fs.StringVar(&f.fulcio, "fulcio-url", "", "sign for an identity instead: certificate authority")
	fs.StringVar(&f.rekor, "rekor-url", "", "… transparency log")
	fs.StringVar(&f.token, "identity-token-file", "", "… file with the OpenID Connect token")
}

func (f *signFlags) given() bool { return f.key != "" || f.fulcio != "" }

// sign signs a statement with the key, or for the identity.
func (f *signFlags) sign(ctx context.Context, s *attest.Statement) (bundle []byte, keyID string, err error) {
	if f.fulcio != "" {
		token, err := os.ReadFile(f.token)
		if err != nil {
			return nil, "", fmt.Errorf("read the identity token: %w", err)
		}
		k := &attest.Keyless{FulcioURL: f.fulcio, RekorURL: f.rekor, Token: strings.TrimSpace(string(token))}
		bundle, err = k.Sign(ctx, s)
		return bundle, "identity", err
	}
	signer, err := attest.LoadSigner(ctx, f.key, askPassword)
	if err != nil {
		return nil, "", err
	}
	pub, err := signer.PublicKey()
	if err != nil {
		return nil, "", fmt.Errorf("get the public key: %w", err)
	}
	if keyID, err = attest.KeyID(pub); err != nil {
		return nil, "", err
	}
	bundle, err = attest.Sign(ctx, s, signer)
	return bundle, keyID, err
}

// attestRun signs the statement about a recorded run and stores it beside the trace.
func (f *signFlags) attestRun(ctx context.Context, path, output string) (string, error) {
	r, report, closer, err := openWhole(path)
	if err != nil {
		return "", err
	}
	defer closer.Close()
	s, err := attest.NewRun(r, report)
	if err != nil {
		return "", err
	}
	bundle, _, err := f.sign(ctx, s)
	if err != nil {
		return "", err
	}
	if output == "" {
		output = path + attest.BundleSuffix
	}
	return output, attest.WriteBundle(output, bundle)
}

// openWhole opens a trace and checks all of it.
func openWhole(path string) (*trace.Reader, *trace.Report, io.Closer, error) {
	r, closer, err := openTrace(path)
	if err != nil {
		return nil, nil, nil, err
	}
	report, err := r.Verify(nil)
	if err == nil {
		err = report.Err()
	}
	if err != nil {
		_ = closer.Close()
		return nil, nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return r, report, closer, nil
}

func newAttestCommand() *cobra.Command {
	var f signFlags
	var output string
	c := &cobra.Command{
		Use:   "attest [flags] TRACE",
		Short: "Sign a statement about a recorded run",
		Long: `Sign an in-toto statement about a trace: its root, inputs, configuration, command, result and checkpoints. The signature is a Sigstore bundle beside the
trace. docs/attestation.md says what that proves and what not.`,
		Example: `  detvm attest run.dtr --key alice.key`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !f.given() {
				return usagef("give --key, or --fulcio-url with --rekor-url and --identity-token-file")
			}
			path, err := f.attestRun(cmd.Context(), args[0], output)
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), path)
			return nil
		},
	}
	f.register(c, "key", "sign with this key")
	c.Flags().StringVarP(&output, "output", "o", "", "where to write the bundle (default: TRACE"+attest.BundleSuffix+")")
	return c
}

// countersign signs "replayed, identical at every event" and stores it beside the trace.
func (f *signFlags) countersign(ctx context.Context, path string, r *trace.Reader, result *vmm.ReplayResult) (string, error) {
	if !result.Identical || !result.Complete {
		return "", errors.New("only a complete replay that was identical at every event is attested")
	}
	report, err := r.Verify(nil)
	if err != nil {
		return "", err
	}
	host := []trace.Setting{{Key: "engine", Value: result.Engine}}
	s, err := attest.NewReplay(r, report, vmm.Version, host, time.Now())
	if err != nil {
		return "", err
	}
	bundle, keyID, err := f.sign(ctx, s)
	if err != nil {
		return "", err
	}
	out := attest.CountersignPath(path, keyID)
	return out, attest.WriteBundle(out, bundle)
}

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

func (f *verifyFlags) given() bool {
	return len(f.keys) > 0 || len(f.identities) > 0 || len(f.bundles) > 0
}

func (f *verifyFlags) policy(ctx context.Context) (*attest.Policy, error) {
	p := &attest.Policy{Threshold: f.threshold}
	if f.threshold < 1 {
		return nil, usagef("--threshold %d: want 1 or more", f.threshold)
	}
	if len(f.keys)+len(f.identities) == 0 {
		return nil, usagef("whom to trust? give --key, or --certificate-identity with --certificate-oidc-issuer")
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
		RunE: func(cmd *cobra.Command, args []string) error {
			out := cmd.OutOrStdout()
			if f.proof != "" {
				if len(args) > 0 {
					return usagef("--proof needs no trace")
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
		},
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
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open the trace: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("open the trace: %w", err)
	}
	bar := newProgress(cmd.ErrOrStderr(), "verify", uint64(info.Size()))
	whole, err := trace.Verify(file, info.Size(), func(done, _ int64) { bar.set(uint64(done)) })
	bar.clear()
	if err != nil {
		return nil, err
	}
	v := &verifyReport{Root: hex.EncodeToString(whole.Root), Events: whole.Events, Withheld: whole.Withheld, Findings: whole.Findings, Vouchers: []string{}}
	if err := whole.Err(); err != nil {
		return v, fmt.Errorf("check trace failed: %w", err)
	}
	if f.given() {
		if err := f.verifySignatures(cmd.Context(), v, file, info.Size(), whole, path); err != nil {
			return v, err
		}
	}
	if !replay {
		return v, nil
	}
	r, err := trace.Open(file, info.Size())
	if err != nil {
		return v, err
	}
	result, err := rf.replay(cmd, r, "", false)
	if err != nil {
		return v, err
	}
	same := result.Identical && result.Complete
	v.Replayed = &same
	if !same {
		_ = reportReplay(cmd.ErrOrStderr(), r, result)
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
	proof, err := os.ReadFile(f.proof)
	if err != nil {
		return fmt.Errorf("read the proof: %w", err)
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
	fmt.Fprintf(out, "whole: %d events, trace root %s\n", v.Events, v.Root)
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

func newProveCommand() *cobra.Command {
	var event, output string
	var payloads bool
	c := &cobra.Command{
		Use:   "prove [flags] TRACE",
		Short: "Prove that an event belongs to a signed trace without handing over the trace",
		Example: `  detvm prove run.dtr --event 17 -o event-17.proof
  detvm verify --proof event-17.proof --key alice.pub`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			first, last, err := parseRange(event)
			if err != nil {
				return err
			}
			r, _, closer, err := openWhole(args[0])
			if err != nil {
				return err
			}
			defer closer.Close()
			if last >= r.NumEvents() {
				return usagef("--event %s: the trace has events 0 to %d", event, r.NumEvents()-1)
			}
			paths, err := attest.FindBundles(args[0])
			if err != nil {
				return err
			}
			bundles, err := readBundles(paths)
			if err != nil {
				return err
			}
			proof, err := attest.Prove(r, first, last+1, attest.ProofOptions{Payloads: payloads, Bundles: bundles})
			if err != nil {
				return err
			}
			if output == "" {
				_, err := cmd.OutOrStdout().Write(proof)
				return err
			}
			return writeFile(output, func(w io.Writer) error {
				_, err := w.Write(proof)
				return err
			})
		},
	}
	c.Flags().StringVar(&event, "event", "", "number of the event, or FIRST-LAST")
	c.Flags().BoolVar(&payloads, "payloads", true, "include what the events carried; without it only commitments")
	c.Flags().StringVarP(&output, "output", "o", "", "where to write the proof (default: standard output)")
	_ = c.MarkFlagRequired("event")
	return c
}

// parseRange parses N or FIRST-LAST.
func parseRange(s string) (first, last uint64, err error) {
	a, b, ranged := strings.Cut(s, "-")
	if !ranged {
		b = a
	}
	first, errA := strconv.ParseUint(a, 10, 64)
	last, errB := strconv.ParseUint(b, 10, 64)
	if errA != nil || errB != nil || first > last {
		return 0, 0, usagef("--event %q: want N or FIRST-LAST", s)
	}
	return first, last, nil
}

func newRedactCommand() *cobra.Command {
	var kinds []string
	var events, inputs []string
	var output string
	c := &cobra.Command{
		Use:   "redact [flags] TRACE",
		Short: "Copy a trace with chosen payloads withheld; signatures over it stay valid",
		Long: `Copy a trace without the payloads of chosen events. The copy has the same trace root. Record with --redactable, or short payloads can be guessed from
their digests.`,
		Example: `  detvm redact run.dtr --kind stdin -o public.dtr && detvm verify public.dtr --key alice.pub --bundle run.dtr.sigstore.json`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output == "" {
				return usagef("give --output")
			}
			opts, err := redactOptions(kinds, events, inputs)
			if err != nil {
				return err
			}
			r, _, closer, err := openWhole(args[0])
			if err != nil {
				return err
			}
			defer closer.Close()
			var sum *trace.RedactSummary
			if err := writeFile(output, func(w io.Writer) (err error) {
				sum, err = trace.Redact(w, r, opts)
				return err
			}); err != nil {
				return err
			}
			if !r.Header().Redactable {
				fmt.Fprintln(cmd.ErrOrStderr(), "detvm: this trace was recorded without --redactable: short payloads can be guessed from their digests")
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %d payloads withheld, same trace root\n", output, sum.Withheld)
			return nil
		},
	}
	c.Flags().StringSliceVar(&kinds, "kind", nil, "withhold the payloads of these kinds: stdin, stdout, stderr, diskread, diskwrite, start, …")
	c.Flags().StringSliceVar(&events, "event", nil, "withhold the payloads of these events: N or FIRST-LAST")
	c.Flags().StringSliceVar(&inputs, "input", nil, "drop these stored inputs: kernel, initramfs, image, disk")
	c.Flags().StringVarP(&output, "output", "o", "", "the copy")
	return c
}

// redactOptions turns the flags of redact into what to withhold.
func redactOptions(kinds, events, inputs []string) (trace.RedactOptions, error) {
	if len(kinds)+len(events)+len(inputs) == 0 {
		return trace.RedactOptions{}, usagef("say what to withhold: --kind, --event or --input")
	}
	withheld := map[trace.Kind]bool{}
	for _, name := range kinds {
		k, err := trace.ParseKind(name)
		if err != nil {
			return trace.RedactOptions{}, usagef("--kind: %w", err)
		}
		withheld[k] = true
	}
	type span struct{ first, last uint64 }
	var spans []span
	for _, e := range events {
		first, last, err := parseRange(e)
		if err != nil {
			return trace.RedactOptions{}, err
		}
		spans = append(spans, span{first, last})
	}
	dropped := map[string]bool{}
	for _, role := range inputs {
		dropped[role] = true
	}
	return trace.RedactOptions{
		AllowUnsalted: true, // the command warns
		Withhold: func(i uint64, e *trace.Event) bool {
			for _, s := range spans {
				if i >= s.first && i <= s.last {
					return true
				}
			}
			return withheld[e.Kind]
		},
		DropInput: func(_ int, in trace.Input) bool { return dropped[in.Role] },
	}, nil
}
