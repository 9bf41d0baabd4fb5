package config

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"example.com/fleety/device/awsiot"
)

// A key is one setting, or one field of a record in a list.
type key struct {
	name  string // as "server.endpoint"
	kind  kind
	tag   reflect.StructTag
	index []int // of its field
}

// keys are those of the tags of [Config]. The file, the environment, the flags and the suggestions
// for misspelt keys all follow them.
var keys = keysOf(reflect.TypeFor[Config](), "", nil)

// Keys that others depend on.
const (
	endpointKey         = "server.endpoint"
	credentialsKey      = "server.credentialsEndpoint"
	proxyKey            = "server.proxy"
	claimCertificateKey = "bootstrap.certificatepath"
	claimPrivateKey     = "bootstrap.privatekeypath"
	claimsKey           = "bootstrap.claims"
	rootsKey            = "bootstrap.cacertificatepath"
	parametersKey       = "bootstrap.parameters"
	servicesKey         = "agent.tunnel.services"
	shadowsKey          = "agent.shadows"
	downloadsKey        = "agent.jobs.downloads"
)

type kind string // of values, as problems name it

const (
	text     kind = "text"
	path     kind = "a path" // relative ones start at the folder of the file, or the current directory
	number   kind = "a number"
	boolean  kind = "true or false"
	duration kind = "a duration, such as 168h"
	size     kind = "a number of bytes, such as 64MiB"
	mapping  kind = "a mapping of names to text"
	list     kind = "a list of names"
	records  kind = "a list of mappings"
)

var kinds = map[reflect.Type]kind{
	reflect.TypeFor[int](): number, reflect.TypeFor[bool](): boolean, reflect.TypeFor[time.Duration](): duration,
	reflect.TypeFor[int64](): size, reflect.TypeFor[map[string]string](): mapping, reflect.TypeFor[[]string](): list,
}

// keysOf returns the keys of a struct's fields, whose names begin with a section.
func keysOf(t reflect.Type, section string, index []int) (keys []key) {
	for i := range t.NumField() {
		field := t.Field(i)
		name, option, _ := strings.Cut(field.Tag.Get("key"), ",")
		k := key{name: strings.Trim(section+"."+name, "."), kind: cmp.Or(kinds[field.Type], text), tag: field.Tag, index: append(slices.Clone(index), i)}
		switch {
		case name == "":
			continue
		case field.Type.Kind() == reflect.Struct:
			keys = append(keys, keysOf(field.Type, k.name, k.index)...)
			continue
		case option != "":
			k.kind = path
		case k.kind == text && field.Type.Kind() == reflect.Slice:
			k.kind = records
		}
		keys = append(keys, k)
	}
	return keys
}

var errNotUTF8 = errors.New("its value is not UTF-8 text")

// notUTF8 also finds what the YAML parser has put in the place of such bytes.
func notUTF8(value string) bool { return strings.ContainsRune(value, utf8.RuneError) }

// set stores a value in the form of the environment and of flags in the key's field of a struct. A
// relative path starts at dir.
func (k key) set(of reflect.Value, dir, value string) error {
	field := of.FieldByIndex(k.index)
	if value = strings.TrimSpace(value); notUTF8(value) {
		return errNotUTF8
	}
	if k.kind == records {
		return setRecords(field, value)
	}
	switch to := field.Addr().Interface().(type) {
	case *int:
		n, err := strconv.Atoi(value)
		if err != nil {
			return fmt.Errorf("%q is not a number", value)
		}
		*to = n
	case *bool:
		b, err := strconv.ParseBool(strings.ToLower(value))
		if err != nil {
			return fmt.Errorf("%q is neither true nor false", value)
		}
		*to = b
	case *time.Duration:
		d, err := time.ParseDuration(value)
		least, _ := time.ParseDuration(k.tag.Get("min"))
		switch {
		case err != nil:
			return fmt.Errorf("%q is not a duration", value)
		case d < least:
			return fmt.Errorf("%s is less than %s", d, least)
		}
		*to = d
	case *int64:
		return setSize(to, value)
	case *map[string]string:
		return setMapping(to, k.tag.Get("entry"), value)
	case *[]string:
		*to = nil
		for _, name := range splitEscaped(value) {
			if name = strings.TrimSpace(name); name != "" {
				*to = append(*to, name)
			}
		}
	default:
		if k.kind == path && value != "" && !filepath.IsAbs(value) {
			value = filepath.Join(dir, value)
		}
		field.SetString(value)
	}
	return nil
}

// setSize reads a number of bytes, with one of the units KiB, MiB and GiB or none.
func setSize(to *int64, value string) error {
	number, unit := value, int64(1)
	for i, suffix := range []string{"KiB", "MiB", "GiB"} {
		if before, ok := strings.CutSuffix(value, suffix); ok {
			number, unit = strings.TrimSpace(before), 1<<(10*(i+1))
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	switch {
	case err != nil:
		return fmt.Errorf("%q is not a number of bytes", value)
	case n < 1<<20/unit || n > 1<<40/unit:
		return fmt.Errorf("%s is not between 1MiB and 1024GiB", value)
	}
	*to = n * unit
	return nil
}

// setMapping reads a JSON object, or NAME=VALUE,NAME=VALUE where \, stands for a comma and \\ for a
// backslash. It replaces the whole mapping.
func setMapping(to *map[string]string, entry, value string) error {
	values := map[string]string{}
	if strings.HasPrefix(value, "{") {
		var object map[string]any
		if err := awsiot.DecodeJSON([]byte(value), &object); err != nil {
			return fmt.Errorf("%q is not one JSON object", value)
		}
		for name, v := range object {
			switch v.(type) {
			case string, json.Number, bool: // a number keeps its digits
				values[name] = fmt.Sprint(v)
			default:
				return fmt.Errorf("%s %q is not text", entry, name)
			}
		}
		*to = values
		return nil
	}
	for _, pair := range splitEscaped(value) {
		name, val, ok := strings.Cut(pair, "=")
		if name = strings.TrimSpace(name); ok && name != "" {
			values[name] = strings.TrimSpace(val)
		} else if ok || name != "" {
			return fmt.Errorf(`%q has the form neither of NAME=VALUE,NAME=VALUE (with \, for a comma in a value) nor of a JSON object`, value)
		}
	}
	*to = values
	return nil
}

// setRecords reads a list of mappings: a JSON array.
func setRecords(to reflect.Value, value string) error {
	read := reflect.New(to.Type())
	d := json.NewDecoder(strings.NewReader(value))
	d.DisallowUnknownFields()
	err := d.Decode(read.Interface())
	if _, end := d.Token(); err != nil || end != io.EOF {
		return fmt.Errorf("%q is not one JSON array of %s", value, formOf(to.Type().Elem()))
	}
	to.Set(read.Elem())
	return nil
}

// formOf shows how a record is written: {"certificatepath": PATH, …}.
func formOf(record reflect.Type) string {
	var parts []string
	for _, k := range keysOf(record, "", nil) {
		value := "PATH"
		if k.kind == text {
			value = strings.ToUpper(k.name)
		}
		parts = append(parts, fmt.Sprintf("%q: %s", k.name, value))
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

// splitEscaped splits text at its commas, but for those behind a backslash.
func splitEscaped(text string) []string {
	parts := []string{""}
	for i := 0; i < len(text); i++ {
		last := &parts[len(parts)-1]
		switch {
		case text[i] == '\\' && i+1 < len(text) && (text[i+1] == ',' || text[i+1] == '\\'):
			i++
			*last += text[i : i+1]
		case text[i] == ',':
			parts = append(parts, "")
		default:
			*last += text[i : i+1]
		}
	}
	return parts
}

// lookup finds a key by its dotted name, in any case.
func lookup(keys []key, name string) (key, bool) {
	i := slices.IndexFunc(keys, func(k key) bool { return strings.EqualFold(k.name, name) })
	if i < 0 {
		return key{}, false
	}
	return keys[i], true
}

// isSection reports whether keys of that section exist: "server" for "server.port".
func isSection(keys []key, name string) bool {
	prefix := strings.ToLower(name) + "."
	return slices.ContainsFunc(keys, func(k key) bool { return strings.HasPrefix(strings.ToLower(k.name), prefix) })
}

// nearest returns the known key that looks most like name, with its section when that differs from
// name's; empty when none is near enough to suggest.
func nearest(keys []key, name string) string {
	section, last := split(name)
	best, least := "", 3
	consider := func(candidate, shown string, distance int) {
		if distance < least && distance < len(candidate)/2+1 {
			best, least = shown, distance
		}
	}
	for _, k := range keys {
		s, l := split(k.name)
		if strings.EqualFold(s, section) {
			consider(l, l, distance(last, l))
		} else {
			consider(l, k.name, distance(last, l)+1) // right key, wrong section: a worse guess than a typo
		}
		if section == "" && s != "" {
			consider(s, s, distance(last, s))
		}
	}
	return best
}

func split(name string) (section, last string) {
	i := strings.LastIndexByte(name, '.')
	return name[:max(i, 0)], name[i+1:]
}

// distance is the Levenshtein distance of a and b, letter case aside, but 1 where a is a word of b:
// serial of serialNumber.
func distance(a, b string) int {
	a, b = strings.ToLower(a), strings.ToLower(b)
	if len(a) > 4 && len(a) < len(b) && strings.Contains(b, a) {
		return 1
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			substitution := diagonal
			if a[i] != b[j] {
				substitution++
			}
			diagonal = row[j+1]
			row[j+1] = min(substitution, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
