package conformance

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// A plane is one of the REST APIs, by the word that scripts use: the name that requests are signed
// for, and the address.
type plane struct{ service, url string }

type answer struct {
	status    int
	exception string
	body      string
}

// String is what a transcript has of it.
func (a answer) String() string {
	parts := []string{strconv.Itoa(a.status), a.exception, a.body}
	return strings.Join(slices.DeleteFunc(parts, func(p string) bool { return p == "" }), " ")
}

func (r *run) request(ctx context.Context, p plane, method, path, body string) (a answer, err error) {
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(p.url, "/")+path, strings.NewReader(body))
	if err != nil {
		return a, err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	// A few operations have parameters in a header. A script writes them as the fragment of the
	// path: #principal=ARN.
	_, fragment, _ := strings.Cut(path, "#")
	if name, value, _ := strings.Cut(fragment, "="); name == "target" {
		req.Header.Set("X-Amz-Target", "IoTSecuredTunneling."+value)
		req.Header.Set("Content-Type", "application/x-amz-json-1.1")
	} else if name != "" {
		req.Header.Set(parameterHeaders[name], value)
	}
	sum := sha256.Sum256([]byte(body))
	credentials, err := r.config.Credentials.Retrieve(ctx)
	if err != nil {
		return a, fmt.Errorf("reading AWS credentials: %w", err)
	}
	if err := v4.NewSigner().SignHTTP(ctx, credentials, req, hex.EncodeToString(sum[:]), p.service, r.config.Region, time.Now()); err != nil {
		return a, err
	}
	resp, err := r.http.Do(req)
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	if err != nil {
		return a, err
	}
	// AWS appends the address of a namespace to some names.
	exception, _, _ := strings.Cut(resp.Header.Get("X-Amzn-ErrorType"), ":")
	return answer{resp.StatusCode, exception, string(bytes.TrimSpace(text))}, nil
}

var parameterHeaders = map[string]string{
	"principal": "x-amzn-principal", "oldprincipal": "x-amzn-iot-principal", "policy": "x-amzn-iot-policy",
}

// An undo is how something that a check made is deleted again.
type undo struct {
	what string
	run  func(context.Context) error
}

// A detachment is what must be done for each of the values under key in an answer before something
// can be deleted. % is its path, @ its name or ARN and $ the value.
type detachment struct{ method, path, body, key, thenMethod, then, thenBody string }

// removals are what scripts create, by the path of creation.
var removals = map[string]struct {
	before []detachment
	query  string
}{
	"things": {before: []detachment{
		{"GET", "%/principals", "", "principals", "DELETE", "%/principals#principal=$", ""},
	}},
	"policies": {before: []detachment{
		{"POST", "/policy-targets/@", "", "targets", "POST", "/target-policies/@", `{"target":"$"}`},
		{"GET", "%/version", "", "versionId", "DELETE", "%/version/$", ""}, // not the default one
	}},
	"certificates": {query: "?forceDelete=true", before: []detachment{
		{"GET", "%", "", "certificateId", "PUT", "%?newStatus=INACTIVE", ""},
		{"GET", "/principals/things#principal=@", "", "things", "DELETE", "/things/$/principals#principal=@", ""},
	}},
	"provisioning-templates": {before: []detachment{
		{"GET", "%/versions", "", "versionId", "DELETE", "%/versions/$", ""},
	}},
	"thing-types": {before: []detachment{ // AWS deletes a type five minutes after this at the earliest
		{"GET", "%", "", "thingTypeName", "POST", "%/deprecate", "{}"},
	}},
	"thing-groups": {}, "billing-groups": {}, "rules": {}, "role-aliases": {},
	"cacertificate": {before: []detachment{
		{"GET", "%", "", "certificateId", "PUT", "%?newStatus=INACTIVE", "{}"},
	}},
	"jobs": {query: "?force=true"},
}

var (
	created      = regexp.MustCompile(`^(?:POST|PUT) /([a-z-]+)/([^/?#]+)(?:\?[^#]*)?$`)
	documentName = regexp.MustCompile(`^[0-9A-F]{40}$`) // of a policy that is given as a document
	makers       = []struct {                           // of what has its id in the answer
		request   *regexp.Regexp
		kind, key string
	}{
		{regexp.MustCompile(`^POST /(certificates|keys-and-certificate|certificate/register)`), "certificates", "certificateId"},
		{regexp.MustCompile(`^POST /cacertificate(\?|$)`), "cacertificate", "certificateId"},
		{regexp.MustCompile(`^POST /provisioning-templates$`), "provisioning-templates", "templateName"},
		{regexp.MustCompile(`^POST /#target=OpenTunnel$`), "tunnels", "tunnelId"},
	}
)

// undosOf returns how to delete what a request created.
func (r *run) undosOf(method, path string, a answer) (all []undo) {
	if a.status >= 300 {
		return nil
	}
	request := method + " " + path
	for _, m := range makers {
		if m.request.MatchString(request) {
			for _, id := range valuesOf(a.body, m.key) {
				all = append(all, r.undoOf(m.kind, id))
			}
		}
	}
	if request == "POST /things" { // RegisterThing
		for _, arn := range valuesOf(a.body, "resourceArns") {
			kind, name, _ := strings.Cut(arn[strings.LastIndex(arn, ":")+1:], "/")
			if kind == "policy" && !documentName.MatchString(name) {
				continue // it was there before
			}
			if kind, ok := map[string]string{"thing": "things", "cert": "certificates", "policy": "policies"}[kind]; ok {
				all = append(all, r.undoOf(kind, name))
			}
		}
	}
	if m := created.FindStringSubmatch(request); m != nil && m[1] != "certificates" {
		if _, ok := removals[m[1]]; ok {
			all = append(all, r.undoOf(m[1], m[2]))
		}
	}
	return all
}

func (r *run) undoOf(kind, name string) undo {
	removal, path, self := removals[kind], "/"+kind+"/"+name, name
	if kind == "certificates" {
		self = r.arn + ":cert/" + name
	}
	return undo{kind + "/" + name, func(ctx context.Context) error {
		if kind == "tunnels" {
			_, err := r.request(ctx, r.planes["tunnels"], "POST", "/#target=CloseTunnel", `{"tunnelId":"`+name+`","delete":true}`)
			return err
		}
		for _, d := range removal.before {
			fill := strings.NewReplacer("%", path, "@", self)
			a, err := r.request(ctx, r.planes["api"], d.method, fill.Replace(d.path), d.body)
			if err != nil {
				return err
			}
			for _, value := range valuesOf(a.body, d.key) {
				fill := strings.NewReplacer("%", path, "@", self, "$", value)
				// What cannot be detached shows in the deletion.
				if _, err := r.request(ctx, r.planes["api"], d.thenMethod, fill.Replace(d.then), fill.Replace(d.thenBody)); err != nil {
					return err
				}
			}
		}
		a, err := r.request(ctx, r.planes["api"], "DELETE", path+removal.query, "")
		absent := a.status == http.StatusNotFound || kind == "rules" && a.status == http.StatusUnauthorized // which hides whether it exists
		if err == nil && a.status >= 300 && !absent {
			err = fmt.Errorf("%d %s %s", a.status, a.exception, a.body)
		}
		return err
	}}
}

// valuesOf returns the text under a key, or in the list or object under it, anywhere in JSON.
func valuesOf(text, key string) (values []string) {
	root, err := decode(text)
	if err != nil {
		return nil
	}
	var walk func(v any, under bool)
	walk = func(v any, under bool) {
		switch v := v.(type) {
		case map[string]any:
			for _, k := range slices.Sorted(maps.Keys(v)) {
				walk(v[k], under || k == key)
			}
		case []any:
			for _, element := range v {
				walk(element, under)
			}
		case string, json.Number:
			if under {
				values = append(values, fmt.Sprint(v))
			}
		}
	}
	walk(root, false)
	return values
}

// anonymous signs for an endpoint that checks no signature.
var anonymous = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
	return aws.Credentials{AccessKeyID: "any", SecretAccessKey: "any"}, nil
})
