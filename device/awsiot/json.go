package awsiot

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
)

// EncodeJSON writes JSON in one line, with <, > and & as they are: what a device
// sent is returned as it was. It panics at a value that JSON does not have.
func EncodeJSON(v any) []byte {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err)
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n"))
}

// DecodeJSON reads exactly one JSON value, and numbers as [json.Number], so that
// they stay as they are written.
func DecodeJSON(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("reading JSON: more than one value")
	}
	return nil
}
