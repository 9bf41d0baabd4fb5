package identity

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"strings"

	"example.com/fleety/device/awsiot"
)

// load returns the identity that is installed.
func (d *directory) load() (*Identity, error) {
	base, record, err := d.find()
	if err != nil {
		return nil, err
	}
	return d.loadFiles(d.files(base), record)
}

// find returns what the names of the identity's files begin with, empty for those that
// are configured, and its record.
func (d *directory) find() (base string, _ *Record, err error) {
	if d.Certificate != "" {
		record, err := d.findConfigured()
		return "", record, err
	}
	names, err := d.disk.ReadDir(d.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", nil, err
	}
	var found []*Record
	bases := map[*Record]string{}
	unusable := ErrNone // or why the first record that is this device's cannot be used
	for _, name := range names {
		base, ok := strings.CutSuffix(name, recordSuffix)
		thing, _, _ := strings.Cut(base, "~")
		if !ok || !d.isFileBase(base, thing) {
			continue
		}
		path := filepath.Join(d.Dir, name)
		record, data, err := d.readRecord(path)
		ours := err == nil && record.SerialNumber == d.SerialNumber
		switch {
		case ours && record.ThingName == thing:
			found, bases[record] = append(found, record), base
			continue
		case ours:
			err = &BrokenError{Path: path, Reason: "is the record of another thing, " + record.ThingName}
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			ours = d.isOurs(base, data)
		}
		if ours && errors.Is(unusable, ErrNone) {
			unusable = err
		}
	}
	if record := newest(found); record != nil {
		return bases[record], record, nil
	}
	return "", nil, unusable
}

func (d *directory) findConfigured() (*Record, error) {
	files := d.files("")
	record, _, err := d.readRecord(files.Record)
	if err == nil && record.SerialNumber != d.SerialNumber {
		return nil, d.conflictWith(files.Record, record)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return record, err
	}
	for _, path := range []string{files.PrivateKey, files.Certificate} {
		if _, err := d.disk.ReadFile(path); !errors.Is(err, fs.ErrNotExist) {
			return nil, &BrokenError{Path: path, Reason: "is there without its record " + files.Record}
		}
	}
	return nil, ErrNone
}

// newest returns the record that no other one replaces; of several, which only
// files that were copied by hand can be, the one that was registered last.
func newest(records []*Record) *Record {
	replaced := map[string]bool{}
	for _, r := range records {
		replaced[r.Replaces] = true
	}
	var last *Record
	for _, r := range records {
		if last == nil || replaced[last.CertificateID] || !replaced[r.CertificateID] && r.RegisteredAt.After(last.RegisteredAt) {
			last = r
		}
	}
	return last
}

var serialInRecord = regexp.MustCompile(`"serialNumber"\s*:\s*("(?:[^"\\]|\\.)*")`)

// isOurs reports whether a record that cannot be read is this device's: by the
// serial number in what there is of it, by its name, or by the certificate beside
// it. Another device's damage is no reason to stop.
func (d *directory) isOurs(base string, data []byte) bool {
	var serial string
	if m := serialInRecord.FindSubmatch(data); m != nil && json.Unmarshal(m[1], &serial) == nil {
		return serial == d.SerialNumber
	}
	if base == d.ThingName || strings.Contains(base, "~") {
		return true
	}
	text, err := d.disk.ReadFile(d.files(base).Certificate)
	if err == nil {
		// AWS IoT takes the name from the device's own request, and gives this one
		// to a certificate whose key it has made.
		if chain, err := parseChain(text); err == nil && chain[0].Subject.CommonName != "AWS IoT Certificate" {
			return chain[0].Subject.CommonName == d.SerialNumber
		}
	}
	prefix, ok := strings.CutSuffix(base, d.SerialNumber)
	return ok && (prefix == "" || strings.HasSuffix(prefix, "_") || strings.HasSuffix(prefix, "-") || strings.HasSuffix(prefix, ":"))
}

// readRecord reads a record, and returns as data what it could read.
func (d *directory) readRecord(path string) (*Record, []byte, error) {
	data, err := d.readPart(path)
	if err != nil {
		return nil, data, err
	}
	record, err := ParseRecord(data)
	if err != nil {
		return nil, data, &BrokenError{Path: path, Reason: err.Error()}
	}
	return record, data, nil
}

// loadFiles reads the certificate and the key that belong to a record.
func (d *directory) loadFiles(files Files, record *Record) (*Identity, error) {
	text, err := d.readPart(files.Certificate)
	if err != nil {
		return nil, missing(files.Certificate, err)
	}
	chain, err := parseChain(text)
	if err != nil {
		return nil, &BrokenError{Path: files.Certificate, Reason: err.Error()}
	}
	if awsiot.CertificateID(chain[0]) != record.CertificateID {
		return nil, &BrokenError{Path: files.Certificate, Reason: "is not the certificate that " + files.Record + " names"}
	}
	if text, err = d.readPart(files.PrivateKey); err != nil {
		return nil, missing(files.PrivateKey, err)
	}
	key, err := d.Keys.Open(text)
	switch {
	case errors.Is(err, ErrUnavailable):
		return nil, fmt.Errorf("device identity: %s: %w", files.PrivateKey, err)
	case err != nil:
		return nil, &BrokenError{Path: files.PrivateKey, Reason: err.Error()}
	case !awsiot.Matches(key, chain[0]):
		return nil, &BrokenError{Path: files.PrivateKey, Reason: "is not the key of " + files.Certificate}
	}
	return &Identity{Record: *record, Files: files, Certificate: chain[0], Issuers: chain[1:], Key: key}, nil
}

// readPart reads one of an identity's files.
func (d *directory) readPart(path string) ([]byte, error) {
	data, err := d.disk.ReadFile(path)
	if errors.Is(err, errNotRegular) {
		return nil, &BrokenError{Path: path, Reason: errNotRegular.Error()}
	}
	if err != nil {
		return nil, err
	}
	return data, d.disk.MayRead(path)
}

// missing makes a damage of a file that is not there although the record is.
func missing(path string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return &BrokenError{Path: path, Reason: "is missing"}
	}
	return err
}
