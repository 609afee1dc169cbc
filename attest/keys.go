package attest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/secure-systems-lab/go-securesystemslib/encrypted"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/kms"
)

// KeyType names an algorithm for new keys.
type KeyType string

// The key types. Nothing else signs or verifies.
const (
	ECDSAP256 KeyType = "ecdsa-p256" // with SHA-256
	Ed25519   KeyType = "ed25519"
)

// PasswordFunc asks for the password of a private key; confirm is set when a key is made, so that a person should type it twice.
// A nil result without error means that the key is to be stored unencrypted.
type PasswordFunc func(confirm bool) ([]byte, error)

// ErrPasswordRequired says that a private key is encrypted and no way to ask for the password was given.
var ErrPasswordRequired = errors.New("the private key is encrypted: a password is needed")

// maxKeyFile limits key files, in bytes.
const maxKeyFile = 64 << 10

// KeyPair is a new key in PEM form.
type KeyPair struct {
	Private []byte // PKCS #8, or encrypted as sigstore's tools do it when there is a password
	Public  []byte // SubjectPublicKeyInfo
}

// GenerateKey makes a key pair. With a nil password function, or one that returns nil, the private key is not encrypted.
func GenerateKey(kind KeyType, password PasswordFunc) (*KeyPair, error) {
	private, err := newPrivateKey(kind)
	if err != nil {
		return nil, err
	}
	public, err := cryptoutils.MarshalPublicKeyToPEM(private.Public())
	if err != nil {
		return nil, fmt.Errorf("encode public key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, fmt.Errorf("encode private key: %w", err)
	}
	var secret []byte
	if password != nil {
		if secret, err = password(true); err != nil {
			return nil, fmt.Errorf("get the new key's password: %w", err)
		}
	}
	if secret == nil {
		return &KeyPair{cryptoutils.PEMEncode(cryptoutils.PrivateKeyPEMType, der), public}, nil
	}
	sealed, err := encrypted.Encrypt(der, secret)
	if err != nil {
		return nil, fmt.Errorf("encrypt private key: %w", err)
	}
	return &KeyPair{cryptoutils.PEMEncode(cryptoutils.EncryptedSigstorePrivateKeyPEMType, sealed), public}, nil
}

func newPrivateKey(kind KeyType) (crypto.Signer, error) {
	switch kind {
	case ECDSAP256:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case Ed25519:
		_, k, err := ed25519.GenerateKey(rand.Reader)
		return k, err
	}
	return nil, fmt.Errorf("unknown key type %q (known: %s, %s)", kind, ECDSAP256, Ed25519)
}

// WriteFiles stores the pair as prefix.key, readable by its owner only, and prefix.pub. It overwrites nothing.
func (k *KeyPair) WriteFiles(prefix string) error {
	if err := writeNew(prefix+".key", k.Private, 0o600); err != nil {
		return fmt.Errorf("store private key: %w", err)
	}
	if err := writeNew(prefix+".pub", k.Public, 0o644); err != nil {
		return fmt.Errorf("store public key: %w", err)
	}
	return nil
}

func writeNew(name string, content []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Close())
}

// LoadSigner returns the signer for ref: the file of a private key in PEM form, or the URI of a key in a key management service
// ("awskms://…", "hashivault://…"), for which the program must have been built with the provider or have sigstore's plugin for it on
// its PATH. Key files that others than their owner can read are refused.
func LoadSigner(ctx context.Context, ref string, password PasswordFunc) (signature.Signer, error) {
	if strings.Contains(ref, "://") {
		s, err := kms.Get(ctx, ref, crypto.SHA256)
		if err != nil {
			return nil, fmt.Errorf("reach key %s: %w", ref, err)
		}
		return s, checkSigner(s)
	}
	info, err := os.Stat(ref)
	if err != nil {
		return nil, fmt.Errorf("read private key: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("private key %s can be read by others (mode %04o): take that right away with chmod 600", ref, mode)
	}
	b, err := readKeyFile(ref)
	if err != nil {
		return nil, fmt.Errorf("read private key: %w", err)
	}
	s, err := ParseSigner(b, password)
	if err != nil {
		return nil, fmt.Errorf("private key %s: %w", ref, err)
	}
	return s, nil
}

func readKeyFile(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxKeyFile {
		return nil, fmt.Errorf("%s has %d bytes and is no key", name, info.Size())
	}
	return os.ReadFile(name)
}

// onePEM makes sure that p is one PEM block and nothing else.
func onePEM(p []byte) (*pem.Block, error) {
	block, rest := pem.Decode(p)
	switch {
	case len(p) > maxKeyFile:
		return nil, errors.New("too large for a key")
	case block == nil:
		return nil, errors.New("not in PEM form")
	case len(bytes.TrimSpace(rest)) > 0:
		return nil, errors.New("more follows after the key")
	}
	return block, nil
}

// ParseSigner decodes a private key in PEM form.
func ParseSigner(p []byte, password PasswordFunc) (signature.Signer, error) {
	block, err := onePEM(p)
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(block.Type, "ENCRYPTED ") && password == nil {
		return nil, ErrPasswordRequired
	}
	key, err := cryptoutils.UnmarshalPEMToPrivateKey(p, cryptoutils.PassFunc(password))
	if err != nil {
		return nil, fmt.Errorf("decode: %w", err)
	}
	private, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a %T cannot sign", key)
	}
	if err := checkKey(private.Public()); err != nil {
		return nil, err
	}
	s, err := signature.LoadSigner(key, crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("make signer: %w", err)
	}
	return s, nil
}

func checkSigner(s signature.Signer) error {
	pub, err := s.PublicKey()
	if err != nil {
		return fmt.Errorf("get the signer's public key: %w", err)
	}
	return checkKey(pub)
}

// checkKey refuses every kind of key but the two that this package signs and verifies with.
func checkKey(pub crypto.PublicKey) error {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() {
			return fmt.Errorf("ECDSA keys must be on P-256, this one is on %s", k.Curve.Params().Name)
		}
		return nil
	case ed25519.PublicKey:
		if len(k) != ed25519.PublicKeySize {
			return errors.New("malformed Ed25519 key")
		}
		return nil
	}
	return fmt.Errorf("keys of type %T are not supported: use ECDSA P-256 or Ed25519", pub)
}

// LoadPublicKey reads a public key in PEM form, or asks a key management service (see [LoadSigner]).
func LoadPublicKey(ctx context.Context, ref string) (crypto.PublicKey, error) {
	if strings.Contains(ref, "://") {
		s, err := kms.Get(ctx, ref, crypto.SHA256)
		if err != nil {
			return nil, fmt.Errorf("reach key %s: %w", ref, err)
		}
		pub, err := s.PublicKey()
		if err != nil {
			return nil, fmt.Errorf("get public key of %s: %w", ref, err)
		}
		return pub, checkKey(pub)
	}
	b, err := readKeyFile(ref)
	if err != nil {
		return nil, fmt.Errorf("read public key: %w", err)
	}
	pub, err := ParsePublicKey(b)
	if err != nil {
		return nil, fmt.Errorf("public key %s: %w", ref, err)
	}
	return pub, nil
}

// ParsePublicKey decodes a public key in PEM form.
func ParsePublicKey(p []byte) (crypto.PublicKey, error) {
	block, err := onePEM(p)
	if err != nil {
		return nil, err
	}
	if strings.Contains(block.Type, "PRIVATE KEY") {
		return nil, errors.New("this is a private key; verification takes the public one (.pub)")
	}
	if block.Type != "PUBLIC KEY" {
		return nil, fmt.Errorf("a PEM block of type %q is not a public key", block.Type)
	}
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("decode: %w", err)
	}
	return pub, checkKey(pub)
}

// KeyID identifies a public key in bundles and messages: the base64 of the SHA-256 of its SubjectPublicKeyInfo, like cosign's hint.
func KeyID(pub crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return "", fmt.Errorf("encode public key: %w", err)
	}
	sum := sha256.Sum256(der)
	return base64.StdEncoding.EncodeToString(sum[:]), nil
}

// checkSignature verifies sig over message with the one algorithm that belongs to the key. The signature has no say in what that is.
func checkSignature(pub crypto.PublicKey, message, sig []byte) error {
	if err := checkKey(pub); err != nil {
		return err
	}
	v, err := signature.LoadVerifier(pub, crypto.SHA256)
	if err != nil {
		return fmt.Errorf("make verifier: %w", err)
	}
	return v.VerifySignature(bytes.NewReader(sig), bytes.NewReader(message))
}
