package trace

import (
	"bytes"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// headerEdits change one field of a header each. They do not write into lists that the header shares.
var headerEdits = map[string]func(h *Header){
	"hash":            func(h *Header) { h.Hash = BLAKE3 },
	"redactable":      func(h *Header) { h.Redactable = true },
	"machine model":   func(h *Header) { h.MachineModel = "v2" },
	"CPU model":       func(h *Header) { h.CPUModel += " " },
	"work clock":      func(h *Header) { h.Clock = "exits" },
	"ns per count":    func(h *Header) { h.NSPerCount++ },
	"time scale":      func(h *Header) { h.ScaleNum, h.ScaleDen = 2*h.ScaleNum, 2*h.ScaleDen },
	"start time":      func(h *Header) { h.StartTime-- },
	"seed":            func(h *Header) { h.Seed = append(bytes.Clone(h.Seed), 0) },
	"detvm version":   func(h *Header) { h.Version = "" },
	"setting":         func(h *Header) { h.Config = append(h.Config[:1:1], Setting{"memory", "1"}) },
	"settings fewer":  func(h *Header) { h.Config = h.Config[:1] },
	"settings joined": func(h *Header) { h.Config = []Setting{{"cmdline", `console=ttyS0} {memory 268435456`}} },
	"input name":      func(h *Header) { h.Inputs = append([]Input{{"image", "x", 1, h.Inputs[0].Digest}}, h.Inputs[1:]...) },
	"inputs more":     func(h *Header) { h.Inputs = append(h.Inputs[:2:2], h.Inputs[0]) },
	"inputs swapped":  func(h *Header) { h.Inputs = []Input{h.Inputs[1], h.Inputs[0]} },
	"command":         func(h *Header) { h.Command = []string{strings.Join(h.Command, `" "`)} },
	"environment":     func(h *Header) { h.Env = nil },
	"devices":         func(h *Header) { h.Devices = h.Devices[:2] },
}

func TestHeadersDifferInTheFieldThatWasChanged(t *testing.T) {
	if d := testHeader().Differences(testHeader()); len(d) != 0 {
		t.Errorf("a header differs from itself: %v", d)
	}
	for name, edit := range headerEdits {
		h := testHeader()
		edit(h)
		there, back := testHeader().Differences(h), h.Differences(testHeader())
		if len(there) == 0 || len(there) != len(back) {
			t.Errorf("%s: differences %v and, the other way round, %v", name, there, back)
			continue
		}
		if first, _, _ := strings.Cut(name, "s "); !strings.HasPrefix(there[0].Field, strings.TrimSuffix(strings.TrimSuffix(first, " name"), "s")) {
			t.Errorf("%s: reported as %q", name, there[0].Field)
		}
	}
}

func TestHeadersWithoutDifferencesHaveOneEncoding(t *testing.T) {
	small := rapid.StringOfN(rapid.SampledFrom([]rune(`a"} `)), 0, 3, -1)
	list := rapid.SliceOfN(small, 0, 3)
	header := func(t *rapid.T, name string) *Header {
		h := testHeader()
		h.Command, h.Env, h.Devices = list.Draw(t, name+" command"), list.Draw(t, name+" env"), list.Draw(t, name+" devices")
		h.Config = nil
		for k, v := range rapid.MapOfN(small, small, 0, 2).Draw(t, name+" settings") {
			h.Config = append(h.Config, Setting{k, v})
		}
		h.Config = sortedSettings(h.Config)
		h.Inputs = nil
		for range rapid.IntRange(0, 2).Draw(t, name+" inputs") {
			h.Inputs = append(h.Inputs, Input{Role: small.Draw(t, "role"), Name: small.Draw(t, "name"), Digest: NewDigest(SHA256, nil)})
		}
		return h
	}
	rapid.Check(t, func(t *rapid.T) {
		a, b := header(t, "a"), header(t, "b")
		x, errA := a.MarshalBinary()
		y, errB := b.MarshalBinary()
		if errA != nil || errB != nil {
			t.Fatal(errA, errB)
		}
		if d := a.Differences(b); (len(d) == 0) != bytes.Equal(x, y) {
			t.Errorf("%+v and %+v: equal encodings %v, differences %v", a, b, bytes.Equal(x, y), d)
		}
	})
}
