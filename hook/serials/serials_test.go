package serials_test

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"example.com/fleety/hook/admit"
	"example.com/fleety/hook/internal/dynamotest"
	"example.com/fleety/hook/serials"
)

// tables returns the list and what lies under it.
func tables(t *testing.T) (*serials.Table, *dynamotest.Table) {
	under := dynamotest.Serve(t, "serials", serials.Key)
	return serials.New(under.Config(), "serials"), under
}

func add(t *testing.T, table *serials.Table, number string, want bool) {
	t.Helper()
	if added, err := table.Add(t.Context(), number); added != want || err != nil {
		t.Fatalf("adding %s: %t, %v, want %t", number, added, err, want)
	}
}

func use(t *testing.T, table *serials.Table, number, certificate string) admit.Listing {
	t.Helper()
	listing, err := table.Use(t.Context(), number, certificate)
	if err != nil {
		t.Fatal(err)
	}
	return listing
}

func TestASerialNumberIsUsedOnce(t *testing.T) {
	table, under := tables(t)
	add(t, table, "2974685", true)
	for _, step := range []struct {
		number, certificate string
		want                admit.Listing
	}{
		{"2974686", "a", admit.Listing{}},
		{"2974685", "a", admit.Listing{Listed: true, UsedBy: "a"}},
		{"2974685", "a", admit.Listing{Listed: true, UsedBy: "a"}}, // again
		{"2974685", "b", admit.Listing{Listed: true, UsedBy: "a"}},
	} {
		if got := use(t, table, step.number, step.certificate); got != step.want {
			t.Errorf("%s used by %s: %+v, want %+v", step.number, step.certificate, got, step.want)
		}
	}
	items := under.Items()
	if _, err := time.Parse(time.RFC3339, items["2974685"]["usedAt"]); err != nil || len(items) != 1 {
		t.Errorf("items %v: %v", items, err)
	}
}

func TestAddLeavesWhatIsThere(t *testing.T) {
	table, _ := tables(t)
	add(t, table, "2974685", true)
	use(t, table, "2974685", "a")
	add(t, table, "2974685", false)
	if got := use(t, table, "2974685", "b"); got.UsedBy != "a" {
		t.Errorf("adding it again released it: %+v", got)
	}
}

func TestReleaseLetsInAgain(t *testing.T) {
	table, under := tables(t)
	add(t, table, "2974685", true)
	use(t, table, "2974685", "a")
	if err := table.Release(t.Context(), "2974685"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]map[string]string{"2974685": {serials.Key: "2974685"}}, under.Items()); diff != "" {
		t.Errorf("items differ (-want +got):\n%s", diff)
	}
	if got := use(t, table, "2974685", "b"); got.UsedBy != "b" {
		t.Errorf("listing %+v", got)
	}
	if err := table.Release(t.Context(), "2974686"); !errors.Is(err, serials.ErrUnlisted) {
		t.Errorf("releasing what is not listed: %v", err)
	}
}

func TestOfManyAtOnceOneComesIn(t *testing.T) {
	table, _ := tables(t)
	add(t, table, "2974685", true)
	certificates := []string{"a", "b", "c", "d", "e", "f", "g", "h"}
	usedBy := make([]string, len(certificates))
	var group sync.WaitGroup
	for i, certificate := range certificates {
		group.Go(func() {
			listing, err := table.Use(t.Context(), "2974685", certificate)
			if err != nil {
				t.Error(err)
			}
			usedBy[i] = listing.UsedBy
		})
	}
	group.Wait()
	if slices.Sort(usedBy); usedBy[0] == "" || usedBy[0] != usedBy[len(usedBy)-1] {
		t.Errorf("the serial number was used by %v", usedBy)
	}
}

func TestFailuresNameSerialAndTable(t *testing.T) {
	table, under := tables(t)
	under.Break("AccessDeniedException")
	_, useErr := table.Use(t.Context(), "2974685", "a")
	_, addErr := table.Add(t.Context(), "2974685")
	for _, err := range []error{useErr, addErr, table.Release(t.Context(), "2974685")} {
		if err == nil || !strings.Contains(err.Error(), "2974685") || !strings.Contains(err.Error(), "table serials") {
			t.Errorf("error %v", err)
		}
	}
}

func TestReleasingIsTheCommand(t *testing.T) {
	table, _ := tables(t)
	if got, want := table.Releasing("2974685"), "go run ./cmd/serials release --table serials 2974685"; got != want {
		t.Errorf("command %q, want %q", got, want)
	}
}
