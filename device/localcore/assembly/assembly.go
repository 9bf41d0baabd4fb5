// Package assembly reads a cloud assembly, the folder that `cdk synth` writes, and resolves the
// references of one of its stacks to plain values, as CloudFormation would: what AWS IoT Core and
// the pre-provisioning hook would get, without an account. It deploys nothing and reads only the
// resources that provisioning consists of.
//
// AWS page: https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/intrinsic-function-reference.html
package assembly

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"example.com/fleety/device/awsiot"
)

// A Stack is one synthesized stack, still with its references.
type Stack struct {
	Name string // what CloudFormation would call the stack
	// Account and Region are those that it was synthesized for; empty for any.
	Account, Region string

	dir      string
	file     string // path of the template
	template document
	assets   map[string]asset // by object key
}

// An artifact is an entry of manifest.json.
type artifact struct {
	Type         string
	Environment  string // aws://ACCOUNT/REGION
	Dependencies []string
	Properties   struct{ StackName, TemplateFile, File string }
}

// A document is a CloudFormation template, as far as it is used.
type document struct {
	Transform  any // macros, which AWS runs
	Parameters map[string]struct {
		Type    string
		Default any
	}
	Resources map[string]resource
}

type resource struct {
	Type       string
	Condition  string
	Properties map[string]any
}

// An asset is a file or folder that the CDK would upload.
type asset struct {
	Path      string
	Packaging string // zip for a folder
}

// Open reads the stack of this name in the assembly dir. An empty name means the only stack that is
// there. A missing folder is [fs.ErrNotExist].
func Open(dir, name string) (*Stack, error) {
	if _, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("reading the assembly: %w; cdk synth writes it", err)
	}
	s, err := open(os.DirFS(dir), dir, name)
	if err != nil {
		return nil, fmt.Errorf("reading the assembly: %w", err)
	}
	return s, nil
}

// open reads the stack from fsys, whose path is dir.
func open(fsys fs.FS, dir, name string) (*Stack, error) {
	const manifestFile = "manifest.json"
	var m struct{ Artifacts map[string]artifact }
	if err := readJSON(fsys, dir, manifestFile, &m); err != nil {
		return nil, err
	}
	id, err := choose(m.Artifacts, name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, manifestFile), err)
	}
	a := m.Artifacts[id]
	s := &Stack{Name: a.stackName(id), dir: dir, file: filepath.Join(dir, a.Properties.TemplateFile), assets: map[string]asset{}}
	account, region, _ := strings.Cut(strings.TrimPrefix(a.Environment, "aws://"), "/")
	if !strings.HasPrefix(account, "unknown-") { // the app left it open
		s.Account = account
	}
	if !strings.HasPrefix(region, "unknown-") {
		s.Region = region
	}
	if err := readJSON(fsys, dir, a.Properties.TemplateFile, &s.template); err != nil {
		return nil, err
	}
	for _, dependency := range a.Dependencies {
		d := m.Artifacts[dependency]
		if d.Type != "cdk:asset-manifest" {
			continue
		}
		var assets struct {
			Files map[string]struct {
				Source       asset
				Destinations map[string]struct{ ObjectKey string }
			}
		}
		if err := readJSON(fsys, dir, d.Properties.File, &assets); err != nil {
			return nil, err
		}
		for _, file := range assets.Files {
			for _, to := range file.Destinations {
				s.assets[to.ObjectKey] = file.Source
			}
		}
	}
	return s, nil
}

// choose returns the id of the stack's artifact, which name may be too: stacks of several Regions
// have one name.
func choose(artifacts map[string]artifact, name string) (string, error) {
	var chosen, all []string
	for _, id := range slices.Sorted(maps.Keys(artifacts)) {
		a := artifacts[id]
		if a.Type != "aws:cloudformation:stack" {
			continue
		}
		if a.stackName(id) == name || id == name || name == "" {
			chosen = append(chosen, id)
		}
		if all = append(all, a.stackName(id)); a.stackName(id) != id {
			all[len(all)-1] += " (" + id + ")"
		}
	}
	switch {
	case len(chosen) == 1:
		return chosen[0], nil
	case len(all) == 0:
		return "", errors.New("the assembly holds no stack")
	case len(chosen) == 0:
		return "", fmt.Errorf("the assembly holds no stack %s; it holds %s", name, strings.Join(all, ", "))
	}
	return "", fmt.Errorf("the assembly holds several stacks, name one of them: %s", strings.Join(all, ", "))
}

func (a artifact) stackName(id string) string { return cmp.Or(a.Properties.StackName, id) }

// readJSON reads a file of the assembly. Numbers keep their digits.
func readJSON(fsys fs.FS, dir, name string, into any) error {
	var data []byte
	info, err := fs.Stat(fsys, filepath.ToSlash(name))
	if err == nil && !info.Mode().IsRegular() { // a FIFO would be waited for
		err = errors.New(filepath.Join(dir, name) + " is not a regular file")
	} else if err == nil {
		data, err = fs.ReadFile(fsys, filepath.ToSlash(name))
	}
	if pathError, ok := errors.AsType[*fs.PathError](err); ok {
		return fmt.Errorf("%s: %w", filepath.Join(dir, name), pathError.Err)
	}
	if err != nil {
		return err
	}
	if err := awsiot.DecodeJSON(data, into); err != nil {
		return fmt.Errorf("%s: %w", filepath.Join(dir, name), err)
	}
	return nil
}
