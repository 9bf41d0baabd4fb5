package controlapi

import (
	"bytes"
	"encoding/json"
	"flag"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

var updateConstraints = flag.Bool("update-constraints", false, "write aws_constraints.json from the service models of the installed AWS SDK for Python")

// breaches returns values of a shape, each of which breaks one of its constraints.
func breaches(t *testing.T, s shape) (broken []any) {
	t.Helper()
	inside := func(name string, wrap func(any) any) {
		for _, value := range breaches(t, model().Shapes[name]) {
			broken = append(broken, wrap(value))
		}
	}
	switch s.Type {
	case "boolean":
		broken = []any{"yes"}
	case "integer":
		broken = []any{1.5, float64(1 << 31)} // of 32 bits: https://smithy.io/2.0/spec/simple-types.html#integer
	case "long":
		broken = []any{1.5}
	case "list", "map", "structure":
		broken = []any{true}
	}
	switch s.Type {
	case "string":
		if s.Enum != nil || s.Pattern != nil && !s.Pattern.MatchString("\a") {
			broken = append(broken, "\a")
		}
		if s.Max != nil && *s.Max < maxBody/2 {
			broken = append(broken, strings.Repeat("a", int(*s.Max)+1))
		}
		if s.Min != nil && *s.Min > 0 {
			broken = append(broken, strings.Repeat("a", int(*s.Min)-1))
		}
	case "integer", "long", "double":
		if s.Max != nil {
			broken = append(broken, *s.Max+1)
		}
		if s.Min != nil {
			broken = append(broken, *s.Min-1)
		}
	case "list":
		inside(s.Element, func(v any) any { return []any{v} })
		broken = append(broken, []any{nil}) // https://smithy.io/2.0/spec/type-refinement-traits.html#sparse-trait
		if s.Min != nil && *s.Min > 0 {
			broken = append(broken, []any{})
		}
	case "map":
		inside(s.Value, func(v any) any { return map[string]any{"key": v} })
		broken = append(broken, map[string]any{"key": nil}) // as of a list
		inside(s.Key, func(v any) any { return map[string]any{v.(string): nil} })
	case "structure":
		if len(s.Required) > 0 {
			broken = append(broken, map[string]any{})
		}
		for name, member := range s.Members {
			inside(member, func(v any) any { return map[string]any{name: v} })
		}
	}
	return broken
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_Operations.html: a member that breaks a
// constraint of the service model is InvalidRequestException, whether or not its resource exists.
func TestConstraintsOfTheServiceModelsHold(t *testing.T) {
	t.Parallel()
	h, checked := New(Config{ARN: func(resource string) string { return resource }}), 0
	send := func(o operation, name string, r *http.Request) {
		t.Helper()
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		var rejection struct{ Message string }
		err := json.Unmarshal(w.Body.Bytes(), &rejection)
		code := w.Header().Get("X-Amzn-ErrorType")
		if err != nil || code != "InvalidRequestException" && code != "ValidationException" || !strings.Contains(rejection.Message, name) {
			t.Errorf("%s, %s of %s: %d %s", o.name, name, r.URL, w.Code, w.Body)
		}
		checked++
	}
	for _, o := range new(api).operations() {
		method, path, _ := strings.Cut(o.pattern, " ")
		input := o.input()
		for name, member := range input.Members {
			for _, value := range breaches(t, model().Shapes[member]) {
				query, body, target := url.Values{}, any(nil), path
				text, isText := value.(string)
				if number, ok := value.(float64); ok {
					text = strings.TrimSuffix(must(json.Marshal(number)), ".0")
				}
				header := ""
				switch {
				case slices.Contains(o.path, name) && (!isText || text == ""), name == input.Payload && value == true: // no path, no members
					continue
				case slices.Contains(o.path, name):
					target = strings.Replace(target, "{"+name+"}", url.PathEscape(text), 1)
				case o.takes(name):
					query.Set(name, text)
				case name == input.Payload:
					body = value
				case slices.Contains(o.members, name) && strings.HasPrefix(name, "X-"):
					header = text
				case slices.Contains(o.members, name) || slices.Contains(o.members, "*") || name == "tags" && o.tagged():
					body = map[string]any{name: value}
				default: // not emulated
					continue
				}
				target = pathParameter.ReplaceAllString(strings.TrimSuffix(target, "{$}"), "1")
				r := httptest.NewRequestWithContext(t.Context(), method, target+"?"+query.Encode(), strings.NewReader(must(json.Marshal(body))))
				if body == nil {
					r.Body = http.NoBody
				}
				if header != "" {
					r.Header.Set(name, header)
				}
				send(o, name, r)
			}
		}
	}
	for _, o := range []string{"OpenTunnel", "ListTunnels", "RotateTunnelAccessToken", "TagResource", "UntagResource"} {
		o := operation{service: tunnelTarget, name: o}
		for _, value := range breaches(t, o.input()) {
			members, _ := value.(map[string]any)
			for name := range members {
				r := httptest.NewRequestWithContext(t.Context(), "POST", "/", strings.NewReader(must(json.Marshal(value))))
				r.Header.Set("X-Amz-Target", o.service+o.name)
				send(o, name, r)
			}
		}
	}
	if checked < 700 {
		t.Errorf("only %d constraints", checked)
	}
}

func must(data []byte, err error) string {
	if err != nil {
		panic(err)
	}
	return string(data)
}

// The constraints are those of the installed service models, if these are of the version that they
// were made from.
func TestConstraintsAreThoseOfTheServiceModels(t *testing.T) {
	t.Parallel()
	version := exec.CommandContext(t.Context(), "python3", "-c", "import botocore; print(botocore.__version__)")
	installed, err := version.Output()
	var file struct{ Botocore string }
	if parsed := json.Unmarshal(constraintsText, &file); parsed != nil {
		t.Fatal(parsed)
	}
	if v := strings.TrimSpace(string(installed)); err != nil || v != file.Botocore && !*updateConstraints {
		t.Skipf("the service models %s that the constraints are of are not installed (pip install botocore==%[1]s)", file.Botocore)
	}
	names := map[string]bool{}
	for _, o := range new(api).operations() {
		names[o.name] = true
	}
	script := exec.CommandContext(t.Context(), "python3", "testdata/aws_constraints.py")
	script.Stdin = strings.NewReader(strings.Join(slices.Sorted(maps.Keys(names)), "\n"))
	script.Stderr = t.Output()
	got, err := script.Output()
	if err != nil {
		t.Fatal(err)
	}
	if *updateConstraints {
		if err := os.WriteFile("aws_constraints.json", got, 0o644); err != nil {
			t.Fatal(err)
		}
	} else if !bytes.Equal(got, constraintsText) {
		t.Error("aws_constraints.json is not what testdata/aws_constraints.py prints; write it with -update-constraints")
	}
}
