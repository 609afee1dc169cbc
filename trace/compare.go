package trace

import (
	"cmp"
	"encoding/hex"
	"fmt"
)

// FieldDifference is a field in which two headers differ. A and B are for people: quoted, so that different values look different; empty for
// what one of them does not have.
type FieldDifference struct {
	Field string `json:"field"`
	A     string `json:"a"`
	B     string `json:"b"`
}

// Short is the difference with long values cut, for messages; a value that there is not reads "nothing".
func (d FieldDifference) Short() FieldDifference {
	const most = 200
	d.A, d.B = cmp.Or(short(d.A, most), "nothing"), cmp.Or(short(d.B, most), "nothing")
	return d
}

// short is the beginning of a string from a trace, for messages.
func short(s string, most int) string {
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}

// Differences lists the fields in which two headers differ. It is empty exactly when their canonical encodings are equal.
func (h *Header) Differences(o *Header) []FieldDifference {
	var list []FieldDifference
	compare := func(field, a, b string) {
		if a != b {
			list = append(list, FieldDifference{field, a, b})
		}
	}
	field := func(name string, get func(*Header) any) {
		compare(name, fmt.Sprintf("%q", get(h)), fmt.Sprintf("%q", get(o)))
	}
	number := func(name string, get func(*Header) any) { compare(name, fmt.Sprint(get(h)), fmt.Sprint(get(o))) }
	field("hash", func(h *Header) any { return h.Hash })
	number("redactable", func(h *Header) any { return h.Redactable })
	field("machine model", func(h *Header) any { return h.MachineModel })
	field("CPU model", func(h *Header) any { return h.CPUModel })
	field("work clock", func(h *Header) any { return h.Clock })
	number("ns per count", func(h *Header) any { return h.NSPerCount })
	number("time scale", func(h *Header) any { return fmt.Sprintf("%d/%d", h.ScaleNum, h.ScaleDen) })
	number("start time", func(h *Header) any { return h.StartTime })
	number("seed", func(h *Header) any { return hex.EncodeToString(h.Seed) })
	field("detvm version", func(h *Header) any { return h.Version })
	compareNamed("setting ", settingValues(h.Config), settingValues(o.Config), compare)
	compareNamed("input ", inputValues(h.Inputs), inputValues(o.Inputs), compare)
	field("command", func(h *Header) any { return h.Command })
	field("environment", func(h *Header) any { return h.Env })
	field("devices", func(h *Header) any { return h.Devices })
	return list
}

// named is a value with a name, of a list in a header.
type named struct{ name, value string }

func settingValues(list []Setting) []named {
	var out []named
	for _, s := range list {
		out = append(out, named{fmt.Sprintf("%q", s.Key), fmt.Sprintf("%q", s.Value)})
	}
	return out
}

func inputValues(list []Input) []named {
	var out []named
	for i, in := range list {
		out = append(out, named{fmt.Sprint(i), fmt.Sprintf("%q %q, %d bytes, %s", in.Role, in.Name, in.Size, in.Digest)})
	}
	return out
}

// compareNamed compares two lists by name. The names of each list are unique.
func compareNamed(prefix string, a, b []named, compare func(field, a, b string)) {
	other := make(map[string]string, len(b))
	for _, v := range b {
		other[v.name] = v.value
	}
	for _, v := range a {
		compare(prefix+v.name, v.value, other[v.name])
		delete(other, v.name)
	}
	for _, v := range b {
		if _, left := other[v.name]; left {
			compare(prefix+v.name, "", v.value)
		}
	}
}
