package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const thing, arnHead = "fleety_2974685", "arn:aws:iot:us-east-1:123456789012:cert/"

var oldID, newID = strings.Repeat("a", 64), strings.Repeat("b", 64)

// An account answers as AWS IoT does for one thing, and notes what is changed.
type account struct {
	mu       sync.Mutex
	statuses map[string]string // by certificate id, the older first by name
	attached []string
	changes  []string
	broken   string // an error code for every change
	lacking  string // the member of each description that is left out
	lookups  []string
	detached []string // by DetachThingPrincipal, which takes seconds: attached until a deletion was rejected
}

func (a *account) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	fail := func(code string) {
		w.Header().Set("X-Amzn-ErrorType", code)
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, `{"message":"no"}`)
	}
	id := strings.TrimPrefix(r.URL.Path, "/certificates/")
	if r.Method == http.MethodGet {
		a.lookups = append(a.lookups, r.URL.Path+" "+r.Header.Get("X-Amzn-Principal"))
	}
	switch status, known := a.statuses[id]; {
	case r.Method == http.MethodGet && r.URL.Path == "/things/"+thing+"/principals":
		_ = json.NewEncoder(w).Encode(map[string]any{"principals": a.attached})
	case r.Method == http.MethodGet && r.URL.Path == "/principals/things":
		_ = json.NewEncoder(w).Encode(map[string]any{"things": []string{thing}})
	case r.Method == http.MethodGet && known:
		created := time.Date(2026, time.November, 1, int(id[0]-'a'), 0, 0, 0, time.UTC).Unix()
		description := map[string]any{"certificateId": id, "status": status, "creationDate": created, "lastModifiedDate": created}
		delete(description, a.lacking)
		_ = json.NewEncoder(w).Encode(map[string]any{"certificateDescription": description})
	case r.Method == http.MethodGet:
		fail("ResourceNotFoundException")
	case a.broken != "":
		fail(a.broken)
	case r.Method == http.MethodDelete && known && slices.Contains(a.attached, arnHead+id):
		a.attached = slices.DeleteFunc(a.attached, func(arn string) bool { return slices.Contains(a.detached, arn) })
		fail("DeleteConflictException")
	default:
		a.changes = append(a.changes, r.Method+" "+r.URL.RequestURI()+" "+r.Header.Get("X-Amzn-Principal"))
		switch {
		case r.Method == http.MethodPut:
			a.statuses[id] = r.URL.Query().Get("newStatus")
		case known:
			delete(a.statuses, id)
		default:
			a.detached = append(a.detached, r.Header.Get("X-Amzn-Principal"))
		}
		_, _ = io.WriteString(w, "{}")
	}
}

// retirerOf is configured as the stack does it, at this time of November 2026.
func retirerOf(t *testing.T, a *account, day int) retirer {
	t.Helper()
	server := httptest.NewServer(a)
	t.Cleanup(server.Close)
	r, err := configured(func(name string) string {
		return map[string]string{"AWS_ENDPOINT_URL": server.URL, "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b",
			"RETIRE_AFTER": "240h", "CLAIM_CERTIFICATES": strings.Repeat("c", 64)}[name]
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	r.now = func() time.Time { return time.Date(2026, time.November, day, 12, 0, 0, 0, time.UTC) }
	return r
}

func rotated() *account {
	return &account{statuses: map[string]string{oldID: "ACTIVE", newID: "ACTIVE"}, attached: []string{arnHead + newID, arnHead + oldID}}
}

func TestBirthMessageOfTheNewCertificateRetiresTheOldOne(t *testing.T) {
	a := rotated()
	for _, step := range []struct {
		day  int
		want []string // beyond the changes before
	}{
		{2, []string{"PUT /certificates/" + oldID + "?newStatus=INACTIVE "}},
		{2, nil}, // again
		{20, []string{"DELETE /things/" + thing + "/principals " + arnHead + oldID, "DELETE /certificates/" + oldID + "?forceDelete=true "}},
		{20, nil},
	} {
		before := len(a.changes)
		if err := retirerOf(t, a, step.day).retire(t.Context(), birth{newID, thing}); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(step.want, append([]string(nil), a.changes[before:]...)); diff != "" {
			t.Errorf("day %d: changes differ (-want +got):\n%s", step.day, diff)
		}
	}
}

func TestNothingElseRetiresAnything(t *testing.T) {
	for name, b := range map[string]birth{
		"the old certificate, late":      {oldID, thing},
		"another thing's certificate":    {strings.Repeat("d", 64), thing},
		"the claim":                      {strings.Repeat("c", 64), thing},
		"AWS credentials":                {"AROAEXAMPLE:session", thing},
		"a certificate id with a path":   {newID + "/x", thing},
		"no certificate":                 {"", thing},
		"a thing that does not exist":    {newID, "fleety_1"},
		"an id in capitals, as of a log": {strings.ToUpper(newID), thing},
	} {
		t.Run(name, func(t *testing.T) {
			a := rotated()
			if err := retirerOf(t, a, 2).retire(t.Context(), b); err != nil {
				t.Fatal(err)
			}
			if len(a.changes) != 0 {
				t.Errorf("changes: %q", a.changes)
			}
		})
	}
}

// Of a thing with many certificates, each look-up counts against a quota that the hook needs too.
func TestManyCertificatesAreLookedUpOneByOne(t *testing.T) {
	a := rotated()
	for i := range 12 {
		id := fmt.Sprintf("a%063d", i)
		a.statuses[id], a.attached = "ACTIVE", append(a.attached, arnHead+id)
	}
	if err := retirerOf(t, a, 2).retire(t.Context(), birth{newID, thing}); err != nil {
		t.Fatal(err)
	}
	want := []string{"/things/" + thing + "/principals "}
	for _, arn := range a.attached {
		want = append(want, "/certificates/"+strings.TrimPrefix(arn, arnHead)+" ", "/principals/things "+arn)
	}
	if diff := cmp.Diff(want, a.lookups); diff != "" {
		t.Errorf("look-ups differ (-want +got):\n%s", diff)
	}
	if len(a.changes) != 13 || a.statuses[newID] != "ACTIVE" {
		t.Errorf("changes %q", a.changes)
	}
}

func TestFailureIsAnErrorSoThatLambdaTriesAgain(t *testing.T) {
	a := rotated()
	a.broken = "ThrottlingException"
	if err := retirerOf(t, a, 2).retire(t.Context(), birth{newID, thing}); err == nil {
		t.Error("no error")
	}
	a.broken = ""
	if err := retirerOf(t, a, 2).retire(t.Context(), birth{newID, thing}); err != nil || a.statuses[oldID] != "INACTIVE" {
		t.Errorf("error %v, statuses %v", err, a.statuses)
	}
}

// A date that is missing is not that of an old certificate.
func TestDescriptionWithoutItsContentRetiresNothing(t *testing.T) {
	for _, lacking := range []string{"status", "creationDate", "lastModifiedDate"} {
		for _, status := range []string{"ACTIVE", "INACTIVE"} {
			a := rotated()
			a.lacking, a.statuses[oldID] = lacking, status
			if err := retirerOf(t, a, 30).retire(t.Context(), birth{newID, thing}); err == nil || len(a.changes) != 0 {
				t.Errorf("without %s of one that is %s: error %v, changes %q", lacking, status, err, a.changes)
			}
		}
	}
}

func TestManyBirthMessagesAtOnceRetireOnce(t *testing.T) {
	a := rotated()
	r := retirerOf(t, a, 2)
	var group sync.WaitGroup
	for i := range 20 {
		group.Go(func() {
			id := newID
			if i%2 == 1 {
				id = oldID
			}
			if err := r.retire(t.Context(), birth{id, thing}); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if got := fmt.Sprint(a.statuses[oldID], " ", a.statuses[newID]); got != "INACTIVE ACTIVE" {
		t.Errorf("the old and the new certificate are %s", got)
	}
}

func TestMisconfigurationStopsTheStart(t *testing.T) {
	for _, grace := range []string{"30", "-1h", "soon"} {
		if _, err := configured(func(name string) string { return map[string]string{"RETIRE_AFTER": grace}[name] }, nil); err == nil {
			t.Errorf("RETIRE_AFTER=%s: no error", grace)
		}
	}
}
