package main

import (
	"context"
	"errors"
	"fmt"
	"os"
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
	r, report, closer, err := openWhole(ctx, path)
	if err != nil {
		return "", err
	}
	defer closer.Close()
	s, err := attest.NewRun(r, report)
	if err != nil {
		return "", err
	}
	bundle, keyID, err := f.sign(ctx, s)
	if err != nil {
		return "", err
	}
	if output == "" {
		output = attest.RunPath(path, keyID)
	}
	return output, attest.WriteBundle(output, bundle)
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
