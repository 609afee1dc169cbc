package attest_test

import (
	"bytes"
	"context"
	"crypto"
	"fmt"
	"log"

	"github.com/detvm/detvm/attest"
	"github.com/detvm/detvm/trace"
)

// exampleTrace records the run of "cat" on one line of input.
func exampleTrace() *bytes.Reader {
	var file bytes.Buffer
	w, err := trace.NewWriter(&file, &trace.Header{Redactable: true, MachineModel: "v1", Clock: "instructions", NSPerCount: 1, ScaleNum: 1, ScaleDen: 1,
		Command: []string{"cat"}}, trace.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer w.Abandon()
	for _, e := range []trace.Event{
		{Kind: trace.KindStdin, Position: 10, Time: 10, Data: []byte("hello\n")},
		{Kind: trace.KindStdout, Position: 20, Time: 20, Data: []byte("hello\n"), Task: "cat"},
		{Kind: trace.KindEnd, Position: 30, Time: 30},
	} {
		if err := w.Append(&e); err != nil {
			log.Fatal(err)
		}
	}
	if _, err := w.Close(trace.StatusComplete, nil); err != nil {
		log.Fatal(err)
	}
	return bytes.NewReader(file.Bytes())
}

// open opens and checks a trace.
func open(file *bytes.Reader) (*trace.Reader, *trace.Report) {
	r, err := trace.Open(file, file.Size())
	if err != nil {
		log.Fatal(err)
	}
	report, err := r.Verify(nil)
	if err != nil {
		log.Fatal(err)
	}
	return r, report
}

// sign makes a key and signs a statement about the trace with it.
func sign(file *bytes.Reader) (bundle []byte, pub crypto.PublicKey) {
	pair, err := attest.GenerateKey(attest.Ed25519, nil)
	if err != nil {
		log.Fatal(err)
	}
	signer, err := attest.ParseSigner(pair.Private, nil)
	if err != nil {
		log.Fatal(err)
	}
	statement, err := attest.NewRun(open(file))
	if err != nil {
		log.Fatal(err)
	}
	if bundle, err = attest.Sign(context.Background(), statement, signer); err != nil {
		log.Fatal(err)
	}
	if pub, err = attest.ParsePublicKey(pair.Public); err != nil {
		log.Fatal(err)
	}
	return bundle, pub
}

func Example() {
	file := exampleTrace()
	bundle, pub := sign(file)

	r, report := open(file)
	v, err := attest.Verify(r, report, [][]byte{bundle}, &attest.Policy{Keys: []crypto.PublicKey{pub}})
	if err != nil {
		log.Fatal(err)
	}
	run := v.Vouchers[0].Statement.Run
	fmt.Println(v.Parties, "party vouches for", run.Command, "with", run.Trace.Events, "events")

	stranger, err := attest.GenerateKey(attest.Ed25519, nil)
	if err != nil {
		log.Fatal(err)
	}
	other, err := attest.ParsePublicKey(stranger.Public)
	if err != nil {
		log.Fatal(err)
	}
	_, err = attest.Verify(r, report, [][]byte{bundle}, &attest.Policy{Keys: []crypto.PublicKey{other}})
	fmt.Println("for somebody who trusts another key:", err != nil)
	// Output:
	// 1 party vouches for [cat] with 3 events
	// for somebody who trusts another key: true
}

func ExampleVerifyProof() {
	file := exampleTrace()
	bundle, pub := sign(file)
	r, _ := open(file)
	proof, err := attest.Prove(r, 1, 2, attest.ProofOptions{Payloads: true, Bundles: [][]byte{bundle}})
	if err != nil {
		log.Fatal(err)
	}

	// Elsewhere, without the trace:
	v, err := attest.VerifyProof(proof, nil, &attest.Policy{Keys: []crypto.PublicKey{pub}})
	if err != nil {
		log.Fatal(err)
	}
	e := v.Events[0]
	fmt.Printf("event %d: %s by %s: %q\n", v.First, e.Kind, e.Task, e.Data)
	// Output:
	// event 1: stdout by cat: "hello\n"
}
