// Package template reads fleet provisioning templates and resolves them: from
// a template, a device's parameters and a certificate it makes a [Plan] of what
// to register. It touches no registry: whether a named policy, group or type
// exists is for the one who carries out the plan.
//
// What AWS does not document is decided in choices.go and nowhere else.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/provision-template.html
package template

import (
	"errors"
)

// A Template is a parsed provisioning template. It does not change and is safe
// for concurrent use.
type Template struct {
}

// Parse reads a template and finds what is wrong with it whatever the
// parameters will be. The error is [SyntaxErrors], of which [errors.As] also
// finds the first *[SyntaxError].
func Parse(body []byte) (*Template, error) { return nil, errors.New("not ready") }

// Input is what one registration gives to a template.
type Input struct {
	// Parameters are the device's, with those of the hook's answer laid over them.
	Parameters map[string]string
	// CertificateID is the certificate to be registered. It is the value of
	// AWS::IoT::Certificate::Id and wins over a parameter of that name.
	CertificateID string
}

// Resolve replaces every function and reference by its value. The error is an
// *[Error], what AWS answers the device. It changes neither t nor in.
func (t *Template) Resolve(in Input) (*Plan, error) { return nil, errors.New("not ready") }
