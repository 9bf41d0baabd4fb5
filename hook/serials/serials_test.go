package serials_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/google/go-cmp/cmp"

	"example.com/fleety/hook/admit"
	"example.com/fleety/hook/internal/dynamotest"
	"example.com/fleety/hook/serials"
)

// table is an empty registry.
func table(t *testing.T) (*serials.Table, aws.Config) {
	t.Helper()
	c := dynamotest.Serve(t)
	return serials.New(c, dynamotest.Table), c
}

func add(t *testing.T, table *serials.Table, number string, want bool) {
	t.Helper()
	if added, err := table.Add(t.Context(), number); added != want || err != nil {
		t.Fatalf("adding %s: %t, %v, want %t", number, added, err, want)
	}
}

func mark(t *testing.T, table *serials.Table, number string) admit.Mark {
	t.Helper()
	m, err := table.Mark(t.Context(), number)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func take(t *testing.T, table *serials.Table, number, certificate string, read admit.Mark, now time.Time, want bool) {
	t.Helper()
	if taken, err := table.Take(t.Context(), number, certificate, read, now); taken != want || err != nil {
		t.Errorf("taking %s for %s: %t, %v, want %t", number, certificate, taken, err, want)
	}
}

var began = time.Date(2026, time.November, 26, 12, 0, 0, 5, time.UTC)

func TestTakeMarksWhatIsStillAsItWasRead(t *testing.T) {
	for name, listed := range map[string]bool{"listed": true, "not listed": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			table, _ := table(t)
			if listed {
				add(t, table, "2974685", true)
			}
			free := mark(t, table, "2974685")
			if want := (admit.Mark{Listed: listed}); free != want {
				t.Errorf("a serial number that nobody used: %+v, want %+v", free, want)
			}
			take(t, table, "2974685", "a", free, began, true)
			take(t, table, "2974685", "b", free, began, false)                 // a was faster
			take(t, table, "2974685", "a", free, began.Add(time.Second), true) // asks again
			held := mark(t, table, "2974685")
			if want := (admit.Mark{Listed: true, HeldBy: "a", Since: began.Add(time.Second).Format(time.RFC3339Nano)}); held != want {
				t.Errorf("%+v, want %+v: an attempt renews the lease", held, want)
			}
			stale := held
			stale.Since = began.Format(time.RFC3339Nano)
			take(t, table, "2974685", "b", stale, began, false) // a renewed it meanwhile
			take(t, table, "2974685", "b", held, began, true)
			if got := mark(t, table, "2974685"); got.HeldBy != "b" {
				t.Errorf("%+v, want held by b", got)
			}
		})
	}
}

// TestTakeOfAnEntryThatAPersonWrote has the attributes in other forms than the hook writes, as of a
// table that was filled from another registry. What marks no certificate is left alone.
func TestTakeOfAnEntryThatAPersonWrote(t *testing.T) {
	t.Parallel()
	table, c := table(t)
	s := func(v string) types.AttributeValue { return &types.AttributeValueMemberS{Value: v} }
	for name, test := range map[string]struct {
		usedBy, usedAt types.AttributeValue
		want           bool
	}{
		"without a time": {s("old"), nil, true},
		"another zone":   {s("old"), s("2026-11-26T13:00:00.120+01:00"), true},
		"of Python":      {s("old"), s("2026-11-26T12:00:00.000001+00:00"), true},
		"a day":          {s("old"), s("2026-11-26"), true},
		"an empty time":  {s("old"), s(""), true},
		"seconds":        {s("old"), &types.AttributeValueMemberN{Value: "1795694400"}, true},
		"null":           {s("old"), &types.AttributeValueMemberNULL{Value: true}, true},
		"a time alone":   {nil, s("2026-11-26"), true},
		"a flag":         {&types.AttributeValueMemberBOOL{Value: true}, nil, false},
		"a number":       {&types.AttributeValueMemberN{Value: "1"}, s("2026-11-26"), false},
		"several":        {&types.AttributeValueMemberSS{Value: []string{"a", "b"}}, nil, false},
		"nobody":         {s(""), nil, false},
	} {
		item := map[string]types.AttributeValue{serials.Key: s("297468")}
		for attribute, value := range map[string]types.AttributeValue{"usedBy": test.usedBy, "usedAt": test.usedAt} {
			if value != nil {
				item[attribute] = value
			}
		}
		if _, err := dynamodb.NewFromConfig(c).PutItem(t.Context(), &dynamodb.PutItemInput{TableName: aws.String(dynamotest.Table), Item: item}); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		read := mark(t, table, "297468")
		for i, want := range []bool{test.want, false} { // the second comes too late
			if taken, err := table.Take(t.Context(), "297468", fmt.Sprint("new", i), read, began); taken != want || err != nil {
				t.Errorf("%s: taken %t, %v, want %t", name, taken, err, want)
			}
		}
	}
}

func TestTakeDoesNotBringBackWhatWasUnlisted(t *testing.T) {
	t.Parallel()
	table, c := table(t)
	take(t, table, "2974685", "a", admit.Mark{Listed: true}, began, false)
	if items := dynamotest.Items(t, c); len(items) != 0 {
		t.Errorf("items %v", items)
	}
}

// TestConcurrentTakesAdmitOne: of many certificates that read the same entry, one gets it, whether
// it was free or held by a certificate that is gone.
func TestConcurrentTakesAdmitOne(t *testing.T) {
	t.Parallel()
	table, _ := table(t)
	for round := range 20 {
		number := fmt.Sprint("297468", round)
		if round%2 == 1 {
			take(t, table, number, "gone", admit.Mark{}, began, true)
		}
		read := mark(t, table, number)
		var taken atomic.Int64
		var group sync.WaitGroup
		for i := range 40 {
			group.Go(func() {
				ok, err := table.Take(t.Context(), number, fmt.Sprint("certificate-", i), read, began)
				if err != nil {
					t.Error(err)
				}
				if ok {
					taken.Add(1)
				}
			})
		}
		if group.Wait(); taken.Load() != 1 {
			t.Fatalf("round %d: %d certificates got the serial number", round, taken.Load())
		}
	}
}

func TestAddLeavesAnEntryAlone(t *testing.T) {
	t.Parallel()
	table, _ := table(t)
	add(t, table, "2974685", true)
	take(t, table, "2974685", "a", mark(t, table, "2974685"), began, true)
	add(t, table, "2974685", false)
	if got := mark(t, table, "2974685"); got.HeldBy != "a" {
		t.Errorf("adding it again released it: %+v", got)
	}
}

func TestReleaseMakesASerialNumberUnused(t *testing.T) {
	t.Parallel()
	table, c := table(t)
	take(t, table, "2974685", "a", admit.Mark{}, began, true)
	if err := table.Release(t.Context(), "2974685"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]map[string]string{"2974685": {serials.Key: "2974685"}}, dynamotest.Items(t, c)); diff != "" {
		t.Errorf("items differ (-want +got):\n%s", diff)
	}
	if err := table.Release(t.Context(), "2974686"); !errors.Is(err, serials.ErrUnlisted) {
		t.Errorf("releasing what is not listed: %v", err)
	}
}

func TestFailuresAreErrors(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/x-amz-json-1.0")
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprint(w, `{"__type":"com.amazonaws.dynamodb.v20120810#AccessDeniedException","message":"no"}`)
	}))
	t.Cleanup(server.Close)
	table := serials.New(aws.Config{
		Region: "us-east-1", BaseEndpoint: &server.URL, Credentials: aws.AnonymousCredentials{},
		Retryer: func() aws.Retryer { return aws.NopRetryer{} },
	}, dynamotest.Table)
	_, markErr := table.Mark(t.Context(), "2974685")
	_, takeErr := table.Take(t.Context(), "2974685", "a", admit.Mark{}, began)
	_, addErr := table.Add(t.Context(), "2974685")
	for _, err := range []error{markErr, takeErr, addErr, table.Release(t.Context(), "2974685")} {
		if err == nil {
			t.Error("no error")
		}
	}
}
