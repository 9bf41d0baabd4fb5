package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"example.com/fleety/device/awsiot"
)

const shadowsKey = "agent.shadows"

// maxShadows leaves filters of a connection, of which AWS IoT allows 50, to others:
// a shadow takes five.
const maxShadows = 6

// A Shadow is one that the agent keeps.
type Shadow struct {
	Name    string `json:"name"`    // empty: the classic one
	File    string `json:"file"`    // holds the desired state
	Program string `json:"program"` // is called with the desired state
}

// setShadows reads the form of the environment and of flags: a JSON array.
func setShadows(c *Config, value string) error {
	d := json.NewDecoder(bytes.NewReader([]byte(value)))
	d.DisallowUnknownFields()
	var shadows []Shadow
	if err := d.Decode(&shadows); err != nil {
		return fmt.Errorf(`%q is not a JSON array of {"name": …, "file": …, "program": …}`, value)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) || notUTF8(value) {
		return fmt.Errorf("%q is not one JSON array in UTF-8", value)
	}
	c.Agent.Shadows = shadows
	return nil
}

// shadows reads the list in the file.
func (f *file) shadows(k key, n ast.Node) {
	sequence, ok := n.(*ast.SequenceNode)
	if !ok {
		f.report(n, k.name, fmt.Sprintf("%s must be %s, not %s", k.name, k.kind, describe(n)), "write it as [{name: NAME, file: PATH, program: PATH}]")
		return
	}
	f.config.Agent.Shadows = nil
	for _, item := range sequence.Values {
		entries, ok := mappingOf(item)
		if !ok {
			f.report(item, k.name, fmt.Sprintf("a shadow is a mapping, not %s", describe(item)), "write it as {name: NAME, file: PATH, program: PATH}")
		}
		var s Shadow
		for _, e := range entries {
			name, _ := scalarOf(e.Key, text)
			value, isText := scalarOf(e.Value, text)
			field := map[string]*string{"name": &s.Name, "file": &s.File, "program": &s.Program}[strings.ToLower(name)]
			switch {
			case field == nil:
				f.report(e.Key, k.name, fmt.Sprintf("a shadow has no %q", name), "use name, file and program")
				continue
			case !isText || notUTF8(value):
				f.report(e.Value, k.name, fmt.Sprintf("%s must be text in UTF-8, not %s", name, describe(e.Value)), "put its value in quotes")
			case *field != "":
				f.report(e.Key, k.name, fmt.Sprintf("%s is there twice", name), "keep one")
			}
			if *field = strings.TrimSpace(value); field != &s.Name && *field != "" && !filepath.IsAbs(*field) {
				*field = filepath.Join(f.dir, *field)
			}
		}
		f.config.Agent.Shadows = append(f.config.Agent.Shadows, s)
	}
}

func (v *validation) shadows() {
	names := map[string]bool{}
	for _, s := range v.c.Agent.Shadows {
		switch {
		case s.Name != "" && !awsiot.ValidShadowName(s.Name):
			v.bad(shadowsKey, fmt.Sprintf("shadow %q is not a name that AWS IoT allows", s.Name), "use "+awsiot.ShadowNameRule+", or no name for the classic shadow")
		case names[s.Name]:
			v.bad(shadowsKey, fmt.Sprintf("shadow %q is there twice", s.Name), "keep one")
		}
		names[s.Name] = true
	}
	if n := len(v.c.Agent.Shadows); n > maxShadows {
		v.bad(shadowsKey, fmt.Sprintf("%d shadows", n), fmt.Sprintf("use %d at most: AWS IoT bounds the subscriptions of a connection", maxShadows))
	}
}
