package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// A key is one setting: its name in the file, and how to read and store it.
// This table is the only list of settings; the file, the environment, the
// flags and the suggestions for misspelt keys all follow it.
type key struct {
	name string
	kind kind
	set  func(c *Config, value string) error
}

type kind int

const (
	text kind = iota
	path      // relative ones start at the folder of the file, or the current directory
	number
	boolean
	duration
	size
	mapping // of text to text, see mappingOfKey
	list    // of text
	records // a list of mappings, see [file.records]
)

func (k kind) String() string {
	return [...]string{"text", "a path", "a number", "true or false", "a duration, such as 168h", "a number of bytes, such as 64MiB", "a mapping of names to text", "a list of names", "a list of mappings"}[k]
}

var keys = []key{
	{"serialNumber", text, setText(func(c *Config) *string { return &c.SerialNumber })},
	{"serialNumberFrom", text, setText(func(c *Config) *string { return &c.SerialNumberFrom.Firmware })},
	{"serialNumberFrom.file", path, setText(func(c *Config) *string { return &c.SerialNumberFrom.File })},
	{"serialNumberFrom.program", path, setText(func(c *Config) *string { return &c.SerialNumberFrom.Program })},
	{"deviceLocation", text, setText(func(c *Config) *string { return &c.DeviceLocation })},
	{"license", text, setText(func(c *Config) *string { return &c.License })},
	{"thingname", text, setText(func(c *Config) *string { return &c.ThingName })},
	{"author", text, setText(func(c *Config) *string { return &c.Author })},
	{"stateDir", path, setText(func(c *Config) *string { return &c.StateDir })},
	{"server.endpoint", text, setEndpoint},
	{"server.port", number, setPort},
	{"server.credentialsEndpoint", text, setText(func(c *Config) *string { return &c.Server.CredentialsEndpoint })},
	{"server.proxy", text, setText(func(c *Config) *string { return &c.Server.Proxy })},
	{"bootstrap.privatekeypath", path, setText(func(c *Config) *string { return &c.Bootstrap.PrivateKeyPath })},
	{"bootstrap.certificatepath", path, setText(func(c *Config) *string { return &c.Bootstrap.CertificatePath })},
	{claimsKey, records, setClaims},
	{"bootstrap.cacertificatepath", path, setText(func(c *Config) *string { return &c.Bootstrap.CACertificatePath })},
	{"bootstrap.provisioningTemplate", text, setText(func(c *Config) *string { return &c.Bootstrap.ProvisioningTemplate })},
	{"bootstrap.keys", text, setText(func(c *Config) *string { return (*string)(&c.Bootstrap.Keys) })},
	{"bootstrap.afterwards", text, setText(func(c *Config) *string { return (*string)(&c.Bootstrap.Afterwards) })},
	{"bootstrap.eager", boolean, setEager},
	{parametersKey, mapping, setMapping(parametersKey)},
	{"primary.certificatepath", path, setText(func(c *Config) *string { return &c.Primary.CertificatePath })},
	{"primary.privatekeypath", path, setText(func(c *Config) *string { return &c.Primary.PrivateKeyPath })},
	{"agent.socket", path, setText(func(c *Config) *string { return &c.Agent.Socket })},
	{"agent.rotateAfter", duration, setDuration(func(c *Config) *time.Duration { return &c.Agent.RotateAfter }, time.Hour)},
	{"agent.outbox.maxBytes", size, setMaxBytes},
	{"agent.outbox.maxAge", duration, setDuration(func(c *Config) *time.Duration { return &c.Agent.Outbox.MaxAge }, time.Minute)},
	{"agent.jobs.handlers", path, setText(func(c *Config) *string { return &c.Agent.Jobs.Handlers })},
	{"agent.jobs.allow", list, setAllow},
	{"agent.jobs.downloads", path, setText(func(c *Config) *string { return &c.Agent.Jobs.Downloads })},
	{"agent.jobs.publicKey", path, setText(func(c *Config) *string { return &c.Agent.Jobs.PublicKey })},
	{"agent.jobs.stepTimeout", duration, setDuration(func(c *Config) *time.Duration { return &c.Agent.Jobs.StepTimeout }, time.Second)},
	{servicesKey, mapping, setMapping(servicesKey)},
	{shadowsKey, records, setShadows},
	{"agent.defender.interval", duration, setDuration(func(c *Config) *time.Duration { return &c.Agent.Defender.Interval }, 5*time.Minute)},
	{"agent.tunnel.endpoint", text, setText(func(c *Config) *string { return &c.Agent.Tunnel.Endpoint })},
}

// The keys that are mappings.
const (
	parametersKey = "bootstrap.parameters"
	servicesKey   = "agent.tunnel.services"
)

// mappingOfKey returns where a mapping is stored, and what each of its entries is.
func mappingOfKey(c *Config, key string) (stored *map[string]string, entry string) {
	if key == servicesKey {
		return &c.Agent.Tunnel.Services, "service"
	}
	return &c.Bootstrap.Parameters, "template parameter"
}

func setText(field func(*Config) *string) func(*Config, string) error {
	return func(c *Config, value string) error {
		if notUTF8(value) {
			return errNotUTF8
		}
		*field(c) = strings.TrimSpace(value)
		return nil
	}
}

var errNotUTF8 = errors.New("its value is not UTF-8 text")

// notUTF8 also finds what the YAML parser has put in the place of such bytes.
func notUTF8(value string) bool { return strings.ContainsRune(value, utf8.RuneError) }

// setEndpoint drops the final dot of a fully qualified name, as TLS does.
func setEndpoint(c *Config, value string) error {
	return setText(func(c *Config) *string { return &c.Server.Endpoint })(c, strings.TrimSuffix(strings.TrimSpace(value), "."))
}

func setPort(c *Config, value string) error {
	port, err := strconv.Atoi(strings.TrimSpace(value))
	if err != nil {
		return fmt.Errorf("%q is not a number", value)
	}
	c.Server.Port = port
	return nil
}

// setDuration reads a duration of at least that.
func setDuration(field func(*Config) *time.Duration, least time.Duration) func(*Config, string) error {
	return func(c *Config, value string) error {
		d, err := time.ParseDuration(strings.TrimSpace(value))
		switch {
		case err != nil:
			return fmt.Errorf("%q is not a duration", value)
		case d < least:
			return fmt.Errorf("%s is less than %s", d, least)
		}
		*field(c) = d
		return nil
	}
}

// setMaxBytes reads a number of bytes, with one of the units KiB, MiB and GiB or
// none.
func setMaxBytes(c *Config, value string) error {
	number, unit := strings.TrimSpace(value), int64(1)
	for i, suffix := range []string{"KiB", "MiB", "GiB"} {
		if before, ok := strings.CutSuffix(number, suffix); ok {
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
	c.Agent.Outbox.MaxBytes = n * unit
	return nil
}

func setEager(c *Config, value string) (err error) {
	if c.Bootstrap.Eager, err = strconv.ParseBool(strings.ToLower(strings.TrimSpace(value))); err != nil {
		return fmt.Errorf("%q is neither true nor false", value)
	}
	return nil
}

// setMapping reads the form of the environment and of flags: a JSON object, or
// NAME=VALUE,NAME=VALUE where \, stands for a comma and \\ for a backslash. It
// replaces the whole mapping.
func setMapping(key string) func(*Config, string) error {
	return func(c *Config, value string) error {
		if notUTF8(value) {
			return errNotUTF8
		}
		stored, entry := mappingOfKey(c, key)
		values := map[string]string{}
		if strings.HasPrefix(strings.TrimSpace(value), "{") {
			var object map[string]any
			d := json.NewDecoder(bytes.NewReader([]byte(value)))
			d.UseNumber() // a number keeps its digits
			if err := d.Decode(&object); err != nil || d.More() {
				return fmt.Errorf("%q is not one JSON object", value)
			}
			for name, v := range object {
				switch v.(type) {
				case string, json.Number, bool:
					values[name] = fmt.Sprint(v)
				default:
					return fmt.Errorf("%s %q is not text", entry, name)
				}
			}
			*stored = values
			return nil
		}
		for _, pair := range splitEscaped(value) {
			if strings.TrimSpace(pair) == "" {
				continue
			}
			name, val, ok := strings.Cut(pair, "=")
			if !ok || strings.TrimSpace(name) == "" {
				return fmt.Errorf(`%q has the form neither of NAME=VALUE,NAME=VALUE (with \, for a comma in a value) nor of a JSON object`, value)
			}
			values[strings.TrimSpace(name)] = strings.TrimSpace(val)
		}
		*stored = values
		return nil
	}
}

// setAllow reads names with commas between them.
func setAllow(c *Config, value string) error {
	c.Agent.Jobs.Allow = nil
	for _, name := range splitEscaped(value) {
		if notUTF8(name) {
			return errNotUTF8
		}
		if name = strings.TrimSpace(name); name != "" {
			c.Agent.Jobs.Allow = append(c.Agent.Jobs.Allow, name)
		}
	}
	return nil
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

// in returns the value of a key as it is to be stored: a relative path starts at
// dir.
func (k key) in(dir, value string) string {
	if value = strings.TrimSpace(value); k.kind == path && value != "" && !filepath.IsAbs(value) {
		return filepath.Join(dir, value)
	}
	return value
}

// lookup finds a key by its dotted name, in any case.
func lookup(name string) (key, bool) {
	for _, k := range keys {
		if strings.EqualFold(k.name, name) {
			return k, true
		}
	}
	return key{}, false
}

// isSection reports whether keys of that section exist: "server" for
// "server.port".
func isSection(name string) bool {
	for _, k := range keys {
		for section, _ := split(k.name); section != ""; section, _ = split(section) {
			if strings.EqualFold(section, name) {
				return true
			}
		}
	}
	return false
}

// nearest returns the known key that looks most like name, with its section
// when that differs from name's; empty when none is near enough to suggest.
func nearest(name string) string {
	section, last := split(name)
	best, bestDistance := "", 3
	consider := func(candidate, shown string, distance int) {
		if distance < bestDistance && distance < len(candidate)/2+1 {
			best, bestDistance = shown, distance
		}
	}
	for _, k := range keys {
		s, l := split(k.name)
		if strings.EqualFold(s, section) {
			consider(l, l, distance(last, l))
		} else {
			// Right key, wrong section: a worse guess than a typo.
			consider(l, k.name, distance(last, l)+1)
		}
		if section == "" && s != "" {
			consider(s, s, distance(last, s))
		}
	}
	return best
}

// nearestVariable returns the environment variable of a key that looks most like
// name; empty when none is near enough to suggest.
func nearestVariable(name string) string {
	best, bestDistance := "", 3
	for _, k := range keys {
		if d := distance(name, Environment(k.name)); d < bestDistance {
			best, bestDistance = Environment(k.name), d
		}
	}
	return best
}

func split(name string) (section, last string) {
	if i := strings.LastIndexByte(name, '.'); i >= 0 {
		return name[:i], name[i+1:]
	}
	return "", name
}

// distance is the Levenshtein distance of a and b, letter case aside.
func distance(a, b string) int {
	s, t := []rune(strings.ToLower(a)), []rune(strings.ToLower(b))
	row := make([]int, len(t)+1)
	for j := range row {
		row[j] = j
	}
	for i := range s {
		diagonal := row[0]
		row[0] = i + 1
		for j := range t {
			substitution := diagonal
			if s[i] != t[j] {
				substitution++
			}
			diagonal = row[j+1]
			row[j+1] = min(substitution, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(t)]
}
