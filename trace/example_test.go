package trace_test

import (
	"bytes"
	"fmt"
	"log"

	"github.com/detvm/detvm/trace"
)

func exampleTrace() []byte {
	header := &trace.Header{
		Hash: trace.SHA256, Redactable: true, MachineModel: "v1", CPUModel: "detvm-v1", Clock: "instructions",
		NSPerCount: 1, ScaleNum: 1, ScaleDen: 1, Version: "example",
		Command: []string{"cat"}, Devices: []string{"uart", "console"},
	}
	var file bytes.Buffer
	w, err := trace.NewWriter(&file, header, trace.Options{Host: []trace.Setting{{Key: "cpu", Value: "example"}}})
	if err != nil {
		log.Fatal(err)
	}
	defer w.Abandon() // if anything goes wrong before Close
	for _, e := range []trace.Event{
		{Kind: trace.KindStart, Position: 1000, Time: 1000},
		{Kind: trace.KindStdin, Position: 1500, Time: 1500, Device: 1, Data: []byte("my password\n")},
		{Kind: trace.KindStdout, Position: 2000, Time: 2000, Device: 1, Data: []byte("welcome\n"), Task: "cat", PID: 42},
		{Kind: trace.KindEnd, Position: 2100, Time: 2100, Value: 0},
	} {
		if err := w.Append(&e); err != nil {
			log.Fatal(err)
		}
	}
	if _, err := w.Close(trace.StatusComplete, nil); err != nil {
		log.Fatal(err)
	}
	return file.Bytes()
}

func Example() {
	file := exampleTrace()
	r, err := trace.Open(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		log.Fatal(err)
	}
	it := r.Events(0)
	defer it.Close()
	for it.Next() {
		e := it.Event()
		fmt.Printf("%d %s at %d by %q: %q\n", it.Index(), e.Kind, e.Position, e.Task, e.Data)
	}
	if it.Err() != nil {
		log.Fatal(it.Err())
	}
	// Output:
	// 0 start at 1000 by "": ""
	// 1 stdin at 1500 by "": "my password\n"
	// 2 stdout at 2000 by "cat": "welcome\n"
	// 3 end at 2100 by "": ""
}

func ExampleVerify() {
	file := exampleTrace()
	file[len(file)/2] ^= 1
	report, err := trace.Verify(bytes.NewReader(file), int64(len(file)), nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("intact:", report.OK())
	fmt.Println("damage:", report.Findings[0].Code)
	// Output:
	// intact: false
	// damage: damaged
}

func ExampleRedact() {
	file := exampleTrace()
	r, err := trace.Open(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		log.Fatal(err)
	}
	var redacted bytes.Buffer
	sum, err := trace.Redact(&redacted, r, trace.RedactOptions{
		Withhold: func(_ uint64, e *trace.Event) bool { return e.Kind == trace.KindStdin },
	})
	if err != nil {
		log.Fatal(err)
	}
	before, _ := r.Footer()
	fmt.Println("payloads withheld:", sum.Withheld)
	fmt.Println("same root:", bytes.Equal(sum.Root, before.Root))
	fmt.Println("password inside:", bytes.Contains(redacted.Bytes(), []byte("password")))
	// Output:
	// payloads withheld: 1
	// same root: true
	// password inside: false
}

func ExampleReader_Prove() {
	file := exampleTrace()
	r, err := trace.Open(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		log.Fatal(err)
	}
	parts, _ := r.RootParts() // a verifier takes these from whom it trusts, and compares parts.Root() with the signed root
	event, err := r.Event(2)
	if err != nil {
		log.Fatal(err)
	}
	path, err := r.Prove(2)
	if err != nil {
		log.Fatal(err)
	}
	leaf := r.Header().Leaf(&event)
	fmt.Println("event 2:", parts.VerifyInclusion(2, leaf, path))
	fmt.Println("as event 1:", parts.VerifyInclusion(1, leaf, path) == nil)
	// Output:
	// event 2: <nil>
	// as event 1: false
}
