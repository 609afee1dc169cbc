package attest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// maxDepth is how deep JSON documents may nest.
const maxDepth = 32

// decodeStrictly decodes one JSON value and refuses fields that v does not have. Callers also compare the re-encoded value with the input, since
// encoding/json matches names without regard to case.
func decodeStrictly(p []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(p))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("decode JSON: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("decode JSON: more follows after the value")
	}
	return nil
}

// checkJSON refuses documents in which a key stands twice in one object or that nest too deeply. What one reader takes from the first of two
// keys and another from the second is a classic way around signatures.
func checkJSON(p []byte) error {
	d := json.NewDecoder(bytes.NewReader(p))
	d.UseNumber()
	if err := checkValue(d, 0); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more follows after the JSON document")
	}
	return nil
}

func checkValue(d *json.Decoder, depth int) error {
	t, err := d.Token()
	if err != nil {
		return fmt.Errorf("malformed JSON: %w", err)
	}
	delim, ok := t.(json.Delim)
	if !ok {
		return nil
	}
	if depth == maxDepth {
		return fmt.Errorf("the JSON nests deeper than %d levels", maxDepth)
	}
	seen := map[string]bool{}
	for d.More() {
		if delim == '{' {
			key, err := d.Token()
			if err != nil {
				return fmt.Errorf("malformed JSON: %w", err)
			}
			name, _ := key.(string)
			if seen[name] {
				return fmt.Errorf("the key %q stands twice in one JSON object", name)
			}
			seen[name] = true
		}
		if err := checkValue(d, depth+1); err != nil {
			return err
		}
	}
	_, err = d.Token()
	if err != nil {
		return fmt.Errorf("malformed JSON: %w", err)
	}
	return nil
}
