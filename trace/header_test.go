package trace

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
)

func TestHeaderRoundTrip(t *testing.T) {
	want := testHeader()
	b, err := want.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	var got Header
	if err := got.UnmarshalBinary(b); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(&got, want) {
		t.Fatalf("got %+v, want %+v", got, want)
	}
}

func TestHeadersThatAreRefused(t *testing.T) {
	for name, change := range map[string]func(*Header){
		"unknown hash algorithm": func(h *Header) { h.Hash = "md5" },
		"denominator 0":          func(h *Header) { h.ScaleDen = 0 },
		"not sorted":             func(h *Header) { h.Config = []Setting{{"b", ""}, {"a", ""}} },
		"stands twice":           func(h *Header) { h.Config = []Setting{{"a", "1"}, {"a", "2"}} },
		"malformed digest":       func(h *Header) { h.Inputs[0].Digest = "sha256:1234" },
		"over the limit":         func(h *Header) { h.Env = []string{strings.Repeat("x", maxHeader)} },
	} {
		h := testHeader()
		change(h)
		if _, err := h.MarshalBinary(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: error is %v", name, err)
		}
	}
}

func TestEndRoundTrip(t *testing.T) {
	want := End{Reason: "exited", State: NewDigest(SHA256, nil), Outputs: []Setting{{"disk:0", "sha256:00"}, {"file:/tmp/x", "sha256:01"}}}
	b, err := want.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	var got End
	if err := got.UnmarshalBinary(b); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v, want %+v", got, want)
	}
}

func FuzzHeader(f *testing.F) {
	b, err := testHeader().MarshalBinary()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		var h Header
		if h.UnmarshalBinary(b) != nil {
			return
		}
		again, err := h.MarshalBinary()
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("a header has two encodings (%v)", err)
		}
	})
}
