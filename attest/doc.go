// Package attest makes and checks signed statements about recorded runs.
//
// A trace's root commits to everything that was run and to every event of it. A [Statement] says in in-toto's form what that root stands for: the
// inputs, the configuration, the command and what came out ([NewRun]), or that somebody replayed it and found every event identical ([NewReplay]).
// [Sign] puts it into a DSSE envelope, signs that and returns a Sigstore bundle, which lies beside the trace and which other tools can check too.
//
// [Verify] is the other side. It believes nothing that it can compute: it builds the statement anew from the trace and compares it with the signed
// one, field by field. A [Policy] says whose keys and identities count and how many different ones are needed. Verification fails closed, with a
// [Failure] that names the check and what its failing means. Bundles, statements and proofs have one canonical form; others are refused, so that nothing
// can be read in two ways.
//
// [Prove] and [VerifyProof] do the same for single events: a proof shows that events belong to a signed trace without handing it over. Redacted traces
// (trace.Redact) keep their root, so that signatures over them stay valid.
//
// What a signature does and does not prove is the subject of docs/attestation.md.
//
// Keys are ECDSA P-256 or Ed25519, in PEM files ([GenerateKey], [LoadSigner]), in a key management service, or short-lived and certified for
// an identity ([Keyless]). The key alone determines the signature algorithm.
package attest
