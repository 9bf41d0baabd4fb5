package rules_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"example.com/fleety/device/localcore/rules"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A memory is a store of the test.
type memory map[string][]byte

func (m memory) Each(f func(string, []byte) error) error {
	for key, value := range m {
		if err := f(key, value); err != nil {
			return err
		}
	}
	return nil
}

func (m memory) Save(records map[string][]byte) error {
	maps.Copy(m, records)
	maps.DeleteFunc(m, func(_ string, value []byte) bool { return value == nil })
	return nil
}

const function = "arn:aws:lambda:us-east-1:123456789012:function:f"

// A bench is a rules engine whose outside is the test.
type bench struct {
	*testing.T
	*rules.Service
	store memory
	log   *lockedBuffer
	stop  func() // ends Run

	events    chan string // of the Lambda function
	published chan string // "TOPIC QOS PAYLOAD"
}

type lockedBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{T: t, store: memory{}, log: &lockedBuffer{}, events: make(chan string, 10), published: make(chan string, 100)}
	b.open()
	t.Cleanup(func() { b.stop() })
	return b
}

func (b *bench) open() {
	b.Helper()
	s, err := rules.Open(rules.Config{
		Account: "123456789012",
		Store:   b.store,
		Log:     slog.New(slog.NewTextHandler(b.log, nil)),
		Now:     func() time.Time { return time.UnixMilli(1481825251155) },
		Publish: func(m rules.Message, qos byte) error {
			if m.Topic == "denied" {
				return errors.New("no such luck")
			}
			b.published <- fmt.Sprintf("%s %d %s", m.Topic, qos, m.Payload)
			b.Publish(m)
			return nil
		},
		Thing:       func(principal, _ string) string { return strings.Replace(principal, "ba67", "T", 1) },
		HasFunction: func(arn string) bool { return arn == function },
		Invoke: func(_ context.Context, _ string, event []byte) error {
			b.events <- string(event)
			return errors.New("the function's own error")
		},
		Shadow: func(thing, name string) ([]byte, bool) {
			return []byte(`{"state":{"reported":{"thing":"` + thing + `","name":"` + name + `"}}}`), thing != "none"
		},
	})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { s.Run(ctx) })
	b.Service, b.stop = s, func() { cancel(); running.Wait() }
}

// create creates a rule whose definition is JSON.
func (b *bench) create(name, definition string) error {
	b.Helper()
	var d rules.Definition
	if err := json.Unmarshal([]byte(definition), &d); err != nil {
		return err
	}
	return b.CreateTopicRule(name, d)
}

func (b *bench) mustCreate(name, definition string) {
	b.Helper()
	if err := b.create(name, definition); err != nil {
		b.Fatal(err)
	}
}

// republishing is a definition with this SQL that republishes to out.
func republishing(sql string) string {
	d, _ := json.Marshal(map[string]any{"sql": sql, "awsIotSqlVersion": "2016-03-23",
		"actions": []any{map[string]any{"republish": map[string]any{"topic": "out", "roleArn": "r"}}}})
	return string(d)
}

// results returns what was published until a message after all others has come
// through.
func (b *bench) results() (all []string) {
	b.Helper()
	if _, err := b.TopicRule("sentinel"); err != nil {
		b.mustCreate("sentinel", `{"sql":"SELECT * FROM 'sentinel'","actions":[{"republish":{"topic":"sentinel/out","roleArn":"r"}}]}`)
	}
	b.Publish(rules.Message{Topic: "sentinel"})
	for {
		select {
		case p := <-b.published:
			if strings.HasPrefix(p, "sentinel/out ") {
				return all
			}
			all = append(all, p)
		case <-b.Context().Done():
			b.Fatal("no end of the results")
		}
	}
}

const temperature = `{"color":"red","temperature":50,"rgb":{"red":255,"green":0},"list":[1,2.50,"x"],"nothing":null}`

// Each case is of https://docs.aws.amazon.com/iot/latest/developerguide/iot-sql-select.html.
func TestSQL(t *testing.T) {
	t.Parallel()
	const readings = `{"e":[{"n":"temperature","v":22.5},{"n":"light","v":135},{"n":"acidity","v":7}],"k":"v"}`
	for name, test := range map[string]struct {
		page    string
		sql     string
		topic   string // topic/subtopic by default
		payload string
		want    string // no message when it is empty
	}{
		"SELECT * is the payload, byte for byte":                  {"", `SELECT * FROM 'topic/subtopic'`, "", `{ "a" : 1.0 }`, `{ "a" : 1.0 }`},
		"an attribute is selected by its name":                    {"", `SELECT color FROM 'topic/subtopic'`, "", temperature, `{"color":"red"}`},
		"AS renames what is selected":                             {"", `select color as my_color, temperature AS fahrenheit from 'topic/subtopic'`, "", temperature, `{"my_color":"red","fahrenheit":50}`},
		"items beside * are added to the payload":                 {"", `SELECT *, 15 as speed FROM 'topic/subtopic'`, "", `{"color":"red"}`, `{"color":"red","speed":15}`},
		"* with an alias is the payload as a member":              {"", `SELECT * AS message, topic(1) AS t FROM 'topic/subtopic'`, "", `{"a":1}`, `{"message":{"a":1},"t":"topic"}`},
		"SELECT VALUE makes a payload that is no object":          {"", `SELECT VALUE color FROM 'topic/subtopic'`, "", temperature, `"red"`},
		"the dot selects a member of an object":                   {"", `SELECT rgb.red as red_value FROM 'topic/subtopic'`, "", temperature, `{"red_value":255}`},
		"the last name of a path is its name in the result":       {"", `SELECT rgb.red FROM 'topic/subtopic'`, "", temperature, `{"red":255}`},
		"functions and parentheses transform the payload":         {"", `SELECT (temperature - 32) * 5 / 9 AS celsius, upper(color) as my_color FROM 'topic/subtopic'`, "", temperature, `{"celsius":10,"my_color":"RED"}`},
		"an alias can be a path":                                  {"iot-sql-json", `SELECT rgb.red AS bar.baz, rgb.green AS bar.g FROM 'topic/subtopic'`, "", temperature, `{"bar":{"baz":255,"g":0}}`},
		"an attribute that is missing is left out":                {"iot-sql-data-types", `SELECT color, missing, nothing FROM 'topic/subtopic'`, "", temperature, `{"color":"red","nothing":null}`},
		"an array can be the whole payload":                       {"iot-rule-sql-version", `SELECT VALUE list FROM 'topic/subtopic'`, "", temperature, `[1,2.5,"x"]`},
		"literals make objects and arrays":                        {"iot-sql-literals", `SELECT {'latitude': get(list, 0), 'all': [color, temperature]} AS o FROM 'topic/subtopic'`, "", temperature, `{"o":{"latitude":1,"all":["red",50]}}`},
		"WHERE decides whether the actions are performed":         {"iot-sql-where", `SELECT color FROM 'topic/subtopic' WHERE temperature > 50 AND color <> 'red'`, "", temperature, ``},
		"WHERE cannot use an alias of SELECT":                     {"iot-sql-where", `SELECT color AS c FROM 'topic/subtopic' WHERE c = 'red'`, "", temperature, ``},
		"a payload that is no JSON can be decoded":                {"iot-sql-where", `SELECT decode(encode(*, 'base64'), 'base64') AS value FROM 'topic/subtopic' WHERE decode(encode(*, 'base64'), 'base64') > 50`, "", `80`, `{"value":80}`},
		"an attribute can be named value":                         {"", `SELECT value, value.x AS a, value > 5 AS b, value - 1 AS c, value IN [7] AS d FROM 'topic/subtopic' WHERE value = 7`, "", `{"value":7}`, `{"value":7,"b":true,"c":6,"d":true}`},
		"FROM can be left out of a rule for Basic Ingest":         {"iot-basic-ingest", `SELECT color`, "topic/subtopic", temperature, ``},
		"FROM matches the exact topic":                            {"iot-sql-from", `SELECT color FROM 'topic/subtopic'`, "topic/subtopic-2", temperature, ``},
		"the wildcard # matches one or more levels":               {"iot-sql-from", `SELECT color FROM 'topic/#'`, "topic/subtopic-3/details", temperature, `{"color":"red"}`},
		"the wildcard + matches one level":                        {"iot-sql-from", `SELECT color FROM 'topic/+'`, "topic/subtopic-3/details", temperature, ``},
		"a filter that begins with a wildcard is of no $ topic":   {"iot-sql-from", `SELECT color FROM '+/things/#'`, "$aws/things/T/shadow/update/accepted", temperature, ``},
		"a rule can follow reserved topics":                       {"iot-sql-from", `SELECT color FROM '$aws/things/+/shadow/update/accepted'`, "$aws/things/T/shadow/update/accepted", temperature, `{"color":"red"}`},
		"CASE takes the first equal WHEN":                         {"iot-sql-case", `SELECT CASE color WHEN 'green' THEN 'go' WHEN 'red' THEN 'stop' WHEN 'red' THEN 'no' ELSE 'off' END AS i FROM 'topic/subtopic'`, "", temperature, `{"i":"stop"}`},
		"CASE without a match takes ELSE":                         {"iot-sql-case", `SELECT CASE color WHEN 'green' THEN 'go' ELSE 'off' END AS i FROM 'topic/subtopic'`, "", temperature, `{"i":"off"}`},
		"CASE of what is undefined is undefined":                  {"iot-sql-case", `SELECT color, CASE missing WHEN 'green' THEN 'go' ELSE 'off' END AS i FROM 'topic/subtopic'`, "", temperature, `{"color":"red"}`},
		"a nested SELECT runs over the elements of an array":      {"iot-sql-nested-queries", `SELECT (SELECT VALUE n FROM e) AS sensors FROM 'topic/subtopic'`, "", readings, `{"sensors":["temperature","light","acidity"]}`},
		"a nested SELECT has a WHERE of its own":                  {"iot-sql-nested-queries", `SELECT (SELECT v FROM e WHERE n = 'temperature') AS t FROM 'topic/subtopic'`, "", readings, `{"t":[{"v":22.5}]}`},
		"a nested SELECT can be read with get":                    {"iot-sql-nested-queries", `SELECT get((SELECT v FROM e WHERE n = 'temperature'), 0).v AS t FROM 'topic/subtopic'`, "", readings, `{"t":22.5}`},
		"the function transform enriches the objects of an array": {"iot-sql-functions", `SELECT VALUE transform('enrichArray', (SELECT k FROM {"k":k}), (SELECT VALUE {'n':n} FROM e WHERE v < 10)) FROM 'topic/subtopic'`, "", readings, `[{"n":"acidity","k":"v"}]`},
		"an empty payload can be added to":                        {"binary-payloads", `SELECT *, clientid() AS client FROM 'topic/subtopic'`, "", ``, `{"client":"C"}`},
		"attributes of a payload that is no object are undefined": {"binary-payloads", `SELECT * FROM 'topic/subtopic' WHERE isUndefined(device_type)`, "", "\x00\xff", "\x00\xff"},
		"strings can be in either quotes, a quote is doubled":     {"iot-sql-literals", `SELECT 'it''s' AS a, "b""c" AS b FROM 'topic/subtopic'`, "", `{}`, `{"a":"it's","b":"b\"c"}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.mustCreate("r", republishing(test.sql))
			topic := test.topic
			if topic == "" {
				topic = "topic/subtopic"
			}
			b.Publish(rules.Message{Topic: topic, Payload: []byte(test.payload), ClientID: "C"})
			got := b.results()
			if test.want == "" {
				if got != nil {
					t.Errorf("got %q, want nothing", got)
				}
				return
			}
			if len(got) != 1 || !strings.HasPrefix(got[0], "out 0 ") {
				t.Fatalf("got %q\n%s", got, b.log.String())
			}
			if result := strings.TrimPrefix(got[0], "out 0 "); result != test.want {
				var g, w any
				if json.Unmarshal([]byte(result), &g) != nil || json.Unmarshal([]byte(test.want), &w) != nil || !cmp.Equal(g, w) {
					t.Errorf("got %s, want %s", result, test.want)
				}
			}
		})
	}
}

// Each case is of https://docs.aws.amazon.com/iot/latest/developerguide/iot-sql-functions.html.
func TestFunctionsAndOperators(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for name, test := range map[string]struct {
		page  string
		pairs [][2]string // expression and its value as JSON; - is undefined
	}{
		"numbers are decimal, with 34 digits": {"iot-sql-data-types", [][2]string{
			{`0.1 + 0.2`, `0.3`}, {`1 / 3.0`, `0`}, {`1 / 3.5`, `0.2857142857142857142857142857142857`}, {`10.0`, `10`}, {`1e-3`, `0.001`}, {`1e1001`, `-`},
		}},
		"+ concatenates when one side is a string": {"iot-sql-operators", [][2]string{
			{`1 + 2`, `3`}, {`'a' + 1`, `"a1"`}, {`1.5 + 'a'`, `"1.5a"`}, {`'a' + [1,'b']`, `"a[1,\"b\"]"`}, {`'a' + missing`, `-`}, {`true + 1`, `-`},
		}},
		"arithmetic converts strings of numbers": {"iot-sql-operators", [][2]string{
			{`7 - 2`, `5`}, {`'7' - 2.5`, `4.5`}, {`'x' - 1`, `-`}, {`6 * '1.5'`, `9`}, {`7 / 2`, `3`}, {`7 / 2.5`, `2.8`}, {`'7' / 2`, `3.5`}, {`-7 / 2`, `-3`},
			{`7 % 4`, `3`}, {`7.5 % '2'`, `1.5`}, {`7 / 0`, `-`}, {`2 + 3 * 4`, `14`}, {`(2 + 3) * 4`, `20`}, {`- temperature`, `-50`}, {`null * 2`, `-`},
		}},
		"dividing integers gives an integer, other numbers a decimal": {"iot-sql-operators", [][2]string{
			{`9 / 2`, `4`}, {`-9 / 2`, `-4`}, {`9 / 2.5`, `3.6`}, {`9 % 2`, `1`}, {`9 % 2.5`, `1.5`},
		}},
		"functions of invalid arguments are undefined": {"iot-sql-data-types", [][2]string{
			{`floor([1,2,3])`, `-`}, {`sqrt(true)`, `-`}, {`upper(null)`, `-`}, {`lpad('a', 'b')`, `-`}, {`substring('a', {})`, `-`}, {`mod(1, 'x')`, `-`},
		}},
		"conversions to strings are those of JSON": {"iot-sql-data-types", [][2]string{
			{`concat('', 1.50)`, `"1.5"`}, {`concat('', true)`, `"true"`}, {`concat('', {'a':[1,null]})`, `"{\"a\":[1,null]}"`}, {`length(123)`, `3`},
		}},
		"comparisons are of numbers": {"iot-sql-operators", [][2]string{
			{`2 > 1`, `true`}, {`'2' >= 2`, `true`}, {`1 < '0.5'`, `false`}, {`2 <= 2`, `true`}, {`'a' < 'b'`, `-`}, {`missing > 1`, `-`},
		}},
		"equality is of values of one type": {"iot-sql-operators", [][2]string{
			{`1 = 1.0`, `true`}, {`'1' = 1`, `false`}, {`'1' <> 1`, `true`}, {`[1,{'a':2}] = [1,{'a':2}]`, `true`}, {`[1,2] = [2,1]`, `false`},
			{`missing = 1`, `-`}, {`missing <> 1`, `-`}, {`nothing = null`, `true`}, {`nothing <> 1`, `true`},
		}},
		"AND, OR and NOT take booleans and their names": {"iot-sql-operators", [][2]string{
			{`true AND 'TRUE'`, `true`}, {`true AND false OR true`, `true`}, {`NOT 'false'`, `true`}, {`NOT true OR true`, `true`}, {`true OR 1`, `-`}, {`NOT 'x'`, `-`}, {`NOT 1 = 2`, `true`},
		}},
		"the function cast converts as its tables say": {"", [][2]string{
			{`cast(true as Int)`, `1`}, {`cast('5E-1' as decimal)`, `0.5`}, {`cast(-1.5 as int)`, `-2`}, {`cast(0 as Boolean)`, `false`}, {`cast('TRUE' as bool)`, `true`},
			{`cast('x' as bool)`, `-`}, {`cast([1,'a'] as String)`, `"[1,\"a\"]"`}, {`cast(null as string)`, `-`}, {`cast('1.5x' as int)`, `-`},
		}},
		"functions of numbers follow their examples": {"", [][2]string{
			{`abs(-5)`, `5`}, {`abs("-5.123")`, `5.123`}, {`abs(true)`, `-`}, {`acos(0)`, `1.5707963267948966`}, {`acos(2)`, `-`}, {`atan2(1, 0)`, `1.5707963267948966`},
			{`bitand(13, 5)`, `5`}, {`bitor(8, 5)`, `13`}, {`bitxor(13, 5)`, `8`}, {`bitnot(13)`, `-14`}, {`ceil(1.2)`, `2`}, {`ceil(-1.2)`, `-1`}, {`floor(1.2)`, `1`}, {`floor(-1.2)`, `-2`},
			{`cos(0)`, `1`}, {`cosh(2.3)`, `5.037220649268761`}, {`exp(0)`, `1`}, {`ln(1)`, `0`}, {`ln(-1)`, `-`}, {`log(100)`, `2`}, {`mod(8, 3)`, `2`}, {`remainder(8, 3)`, `2`},
			{`nanvl(8, 3)`, `8`}, {`nanvl(null, 3)`, `3`}, {`nanvl(missing, 3)`, `3`}, {`power(2, 5)`, `32`},
			{`round(1.2)`, `1`}, {`round(1.5)`, `2`}, {`round(-1.1)`, `-1`}, {`round(-1.5)`, `-2`}, {`sign(-7)`, `-1`}, {`sign(0)`, `0`}, {`sign("13")`, `1`},
			{`sqrt(9)`, `3`}, {`sqrt(-1)`, `-`}, {`trunc(2.3123, 2)`, `2.31`}, {`trunc(-2.888, 2)`, `-2.88`}, {`trunc(2.3, 0)`, `2`}, {`trunc(2.00, 5)`, `2`},
			{`rand() < 1 AND rand() >= 0`, `true`},
		}},
		"functions of strings follow their examples": {"", [][2]string{
			{`chr(65)`, `"A"`}, {`chr(300)`, `-`}, {`concat()`, `-`}, {`concat(1)`, `1`}, {`concat([1, 2], 4, "x")`, `[1,2,4,"x"]`}, {`concat("con", "cat")`, `"concat"`}, {`concat(1, "hello")`, `"1hello"`},
			{`endswith("cat","at")`, `true`}, {`startswith("ranger","ran")`, `true`}, {`startswith(null,"ran")`, `-`}, {`indexof("abcd", "bc")`, `1`}, {`length("hié")`, `3`}, {`length(false)`, `5`},
			{`lower(["HELLO"])`, `"[\"hello\"]"`}, {`upper("hello")`, `"HELLO"`}, {`lpad("hello", 2)`, `"  hello"`}, {`rpad(1, '3')`, `"1   "`}, {`ltrim(" h i ")`, `"h i "`}, {`rtrim(" h i ")`, `" h i"`}, {`trim(" hi ")`, `"hi"`},
			{`numbytes("€")`, `3`}, {`regexp_matches("aaaa", "a{2,}")`, `true`}, {`regexp_matches("aaaa", "b")`, `false`}, {`regexp_matches("a", "(")`, `-`},
			{`regexp_replace("abcd", "b(.*)d", "$1")`, `"ac"`}, {`regexp_substr("hihihello", "(hi)*")`, `"hihi"`}, {`replace("abcdabcd", "b", "x")`, `"axcdaxcd"`},
			{`substring("012345", 2.745)`, `"2345"`}, {`substring(123, 2)`, `"3"`}, {`substring("012345", -1)`, `"012345"`}, {`substring(true, 1.2)`, `"rue"`}, {`substring("012345", 1, 3)`, `"12"`},
			{`substring("012345", -50, 50)`, `"012345"`}, {`substring("012345", 3, 1)`, `""`},
			{`md5("hello")`, `"5d41402abc4b2a76b9719d911017c592"`}, {`sha1("hello")`, `"aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d"`},
		}},
		"the function get reads arrays, strings and objects": {"", [][2]string{
			{`get(["a", "b", "c"], 1)`, `"b"`}, {`get({"a":"b"}, "a")`, `"b"`}, {`get("abc", 1)`, `"b"`}, {`get([1], 1)`, `-`}, {`get([1], -1)`, `-`}, {`get({"a":"b"}, "x")`, `-`}, {`get(7, 0)`, `-`}, {`get(*, "color")`, `"red"`},
		}},
		"isNull and isUndefined distinguish null from what is missing": {"", [][2]string{
			{`isNull(5)`, `false`}, {`isNull(Null)`, `true`}, {`isNull(missing)`, `false`}, {`isUndefined(missing)`, `true`}, {`isUndefined(floor([1,2,3]))`, `true`}, {`isUndefined(null)`, `false`},
		}},
		"the functions encode and decode are of Base64": {"", [][2]string{
			{`encode('a', 'base64')`, `"YQ=="`}, {`decode('eyAidGVtcGVyYXR1cmUiOiAzMyB9Cg==', "base64").temperature`, `33`}, {`decode('YQ==', 'base64')`, `"a"`}, {`decode('?', 'base64')`, `null`},
		}},
		"functions return topic, client, principal and time of the message": {"", [][2]string{
			{`topic()`, `"a/b"`}, {`topic(1)`, `"a"`}, {`topic(3)`, `-`}, {`clientid()`, `"C"`}, {`principal()`, `"ba67"`}, {`thingname()`, `"T"`}, {`accountid()`, `"123456789012"`},
			{`sql_version()`, `"2016-03-23"`}, {`timestamp()`, `1481825251155`}, {`length(traceid())`, `36`}, {`length(newuuid())`, `36`}, {`newuuid() = newuuid()`, `false`}, {`traceid() = traceid()`, `true`},
		}},
		"the function get_thing_shadow reads the classic and the named shadows": {"", [][2]string{
			{`get_thing_shadow("T","arn:r").state.reported.name`, `""`}, {`get_thing_shadow("T","S","arn:r").state.reported`, `{"thing":"T","name":"S"}`}, {`get_thing_shadow("none","arn:r")`, `-`},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, pair := range test.pairs {
				if err := b.create("r", republishing(`SELECT `+pair[0]+` AS v FROM 'a/b'`)); err != nil {
					t.Errorf("%s: %v", pair[0], err)
					continue
				}
				b.Publish(rules.Message{Topic: "a/b", Payload: []byte(temperature), ClientID: "C", Principal: "ba67"})
				want := `out 0 {"v":` + pair[1] + `}`
				if pair[1] == "-" {
					want = `out 0 {}`
				}
				if got := b.results(); len(got) != 1 || !sameResult(got[0], want) {
					t.Errorf("%s is %q, want %s", pair[0], got, want)
				}
				if err := b.DeleteTopicRule("r"); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func sameResult(got, want string) bool {
	var g, w any
	json.Unmarshal([]byte(strings.TrimPrefix(got, "out 0 ")), &g)
	json.Unmarshal([]byte(strings.TrimPrefix(want, "out 0 ")), &w)
	return got == want || g != nil && cmp.Equal(g, w)
}

// The values of a message can multiply each other. What becomes longer than a message can be ends
// the evaluation, as a failure of the rule, before it takes memory.
func TestResultsAreBounded(t *testing.T) {
	b := newBench(t)
	long, list := strings.Repeat("x", 15_000), strings.Repeat(`{},`, 15_000)
	payload := fmt.Appendf(nil, `{"long":%q,"by":%q,"list":[%s{}],"some":[1,2]}`, long, strings.Repeat("$0", 10_000), list)
	for expression, allowed := range map[string]string{
		`replace(long, 'x', long)`:                                  `replace(long, 'x', 'yyyyyyyy')`,
		`replace(long, '', long)`:                                   `replace(long, '', 'yyyyyyy')`,
		`regexp_replace(long, 'x', long)`:                           `regexp_replace(long, 'x', '$0$0$0')`,
		`regexp_replace(long, '.*', by)`:                            `regexp_replace(long, '(x).*', '$0$0$1')`,
		`transform('enrichArray', {'a': long}, list)`:               `transform('enrichArray', {'a': long}, [{}, {}])`,
		`concat(long` + strings.Repeat(`, long`, 8) + `)`:           `concat(long, long)`,
		`concat([long], [long` + strings.Repeat(`, long`, 7) + `])`: `concat([long], [long, long])`,
		`long` + strings.Repeat(` + long`, 8):                       `long + long`,
		`(SELECT VALUE encode(*, 'base64') FROM list)`:              `(SELECT VALUE topic() FROM some)`,
	} {
		for _, e := range []string{expression, allowed} {
			var before, after runtime.MemStats
			b.mustCreate("r", `{"sql":"SELECT length('a') AS l, `+e+` AS v FROM 'a'","awsIotSqlVersion":"2016-03-23",
				"actions":[{"republish":{"topic":"out","roleArn":"r"}}],"errorAction":{"republish":{"topic":"error","roleArn":"r"}}}`)
			runtime.ReadMemStats(&before)
			b.Publish(rules.Message{Topic: "a", Payload: payload})
			got := b.results()
			runtime.ReadMemStats(&after)
			if made := after.TotalAlloc - before.TotalAlloc; made > 200<<20 {
				t.Errorf("%s took %d bytes", e, made)
			}
			wrong := len(got) != 1
			if e == allowed {
				wrong = wrong || !strings.HasPrefix(got[0], "out ") || len(got[0]) > 140_000
			} else {
				wrong = wrong || !strings.HasPrefix(got[0], "error ") || !strings.Contains(got[0], `"failedAction":"RuleEvaluation"`) || !strings.Contains(got[0], "131072 are allowed")
			}
			if wrong {
				t.Errorf("%s: %d results, %.400q", e, len(got), got)
			}
			if err := b.DeleteTopicRule("r"); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestLikeAndIn(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for expression, want := range map[string]string{
		`'abc' LIKE 'a%'`: "true", `'abc' LIKE 'a_'`: "false", `'a.c' LIKE 'a.c'`: "true", `'abc' LIKE 'a.c'`: "false", `color NOT LIKE '%x%'`: "true",
		`color IN ['red','blue']`: "true", `color IN ('green', 'blue')`: "false", `3 IN list`: "false", `2.5 IN list`: "true", `color NOT IN ['red']`: "false",
	} {
		b.mustCreate("r", republishing(`SELECT `+expression+` AS v FROM 'a/b'`))
		b.Publish(rules.Message{Topic: "a/b", Payload: []byte(temperature)})
		if got := b.results(); len(got) != 1 || got[0] != `out 0 {"v":`+want+`}` {
			t.Errorf("%s is %q, want %s", expression, got, want)
		}
		if err := b.DeleteTopicRule("r"); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWhatIsNotEmulatedIsRejectedWhenTheRuleIsCreated(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, sql := range []string{
		``, `SELECT`, `SELECT * FROM`, `SELECT * FROM topic`, `SELECT * FROM 'a/#/b'`, `SELECT * FROM 'a+'`, `SELECT * FROM 'a' WHERE`, `SELECT * FROM 'a' LIMIT 1`,
		`SET @x = 1 SELECT * FROM 'a'`, `SELECT * FROM 'a' -- comment`, `SELECT 1 + 1 FROM 'a'`, `SELECT topic(2) FROM 'a'`, `SELECT a.0 AS x FROM 'a'`, `SELECT a[0] AS x FROM 'a'`,
		`SELECT VALUE a, b FROM 'a'`, `SELECT aws_lambda('x', *) AS x FROM 'a'`, `SELECT parse_time('yyyy', 1) AS x FROM 'a'`, `SELECT abs() AS x FROM 'a'`, `SELECT abs(1, 2) AS x FROM 'a'`,
		`SELECT CASE WHEN a THEN b END AS x FROM 'a'`, `SELECT CASE a END AS x FROM 'a'`, `SELECT cast(a AS date) AS x FROM 'a'`, `SELECT 'open FROM 'a'`, `SELECT (a FROM 'a'`, `SELECT {a:1} AS x FROM 'a'`,
		`SELECT a AS FROM 'a'`, `SELECT regexp_matches(a, '(?=b)c') AS x FROM 'a'`, `SELECT regexp_matches(a, '(?<=b)c') AS x FROM 'a'`, `SELECT regexp_matches(a, '\p{Alpha}') AS x FROM 'a'`, `SELECT regexp_substr(a, concat('(b)', '\1')) AS x FROM 'a'`,
		`SELECT regexp_replace(a, 'b*+', 'c') AS x FROM 'a'`, `SELECT a != 1 AS x FROM 'a'`, `SELECT * FROM '$aws/rules/r/a'`,
		`SELECT ` + strings.Repeat("(", 100) + `1` + strings.Repeat(")", 100) + ` AS x FROM 'a'`,
	} {
		err := b.create("r", republishing(sql))
		if e, ok := errors.AsType[*rules.Error](err); !ok || e.Code != rules.SQLParse {
			t.Errorf("%s: %v", sql, err)
		}
	}
	for _, definition := range []string{
		`{"sql":"SELECT * FROM 'a'","actions":[{"dynamoDBv2":{"roleArn":"r"}}]}`,
		`{"sql":"SELECT * FROM 'a'","actions":[{}]}`,
		`{"sql":"SELECT * FROM 'a'","actions":[{"republish":{"topic":"b","roleArn":"r"},"lambda":{"functionArn":"` + function + `"}}]}`,
		`{"sql":"SELECT * FROM 'a'","actions":[{"republish":{"topic":"b","roleArn":"r","headers":{"contentType":"x"}}}]}`,
		`{"sql":"SELECT * FROM 'a'","actions":[{"republish":{"topic":"b","roleArn":"r","qos":2}}]}`,
		`{"sql":"SELECT * FROM 'a'","actions":[{"lambda":{"functionArn":"arn:aws:lambda:us-east-1:123456789012:function:other"}}]}`,
		`{"sql":"SELECT * FROM 'a'","actions":[{"http":{"url":"https://example.com/"}}]}`,
		`{"sql":"SELECT * FROM 'a'","actions":[{"http":{"url":"http://127.0.0.1.example.com/"}}]}`,
		`{"sql":"SELECT * FROM 'a'","actions":[{"http":{"url":"http://127.0.0.1/","auth":{}}}]}`,
		`{"sql":"SELECT * FROM 'a'","actions":[{"http":{"url":"http://127.0.0.1/${topic()}"}}]}`,
		`{"sql":"SELECT * FROM 'a'","actions":[{"http":{"url":"http://127.0.0.1/a","confirmationUrl":"http://127.0.0.1/b"}}]}`,
		`{"sql":"SELECT * FROM 'a'","actions":[],"errorAction":{"sqs":{}}}`,
		`{"sql":"SELECT * FROM 'a'","actions":[],"awsIotSqlVersion":"beta"}`,
	} {
		err := b.create("r", definition)
		if e, ok := errors.AsType[*rules.Error](err); !ok || e.Code != rules.InvalidRequest {
			t.Errorf("%s: %v", definition, err)
		}
	}
	for _, sql := range []string{"SELECT VALUE a FROM 'a'", "SELECT (SELECT b FROM c) AS x FROM 'a'", "SELECT encode(*, 'base64') AS x FROM 'a'", "SELECT a FROM 'a' WHERE Encode(a, 'base64') = ''"} {
		for _, version := range []string{"", `,"awsIotSqlVersion":"2015-10-08"`} {
			err := b.create("r", `{"sql":"`+sql+`","actions":[]`+version+`}`)
			if e, ok := errors.AsType[*rules.Error](err); !ok || e.Code != rules.SQLParse || !strings.Contains(e.Message, "2016-03-23") {
				t.Errorf("%s%s: %v", sql, version, err)
			}
		}
	}
	for name, topic := range map[string]string{"q": "${encode(a, 'base64')}", "r": "${", "s": "${topic(}", "t": "${a b}"} {
		err := b.create(name, `{"sql":"SELECT * FROM 'a'","actions":[{"republish":{"topic":"`+topic+`","roleArn":"r"}}]}`)
		if e, ok := errors.AsType[*rules.Error](err); !ok || e.Code != rules.SQLParse {
			t.Errorf("%s: %v", topic, err)
		}
	}
	if err := b.create("a-b", republishing("SELECT * FROM 'a'")); err == nil {
		t.Error("a rule name with a hyphen was accepted")
	}
}

// A function or server that is slow costs messages, not memory without bound.
func TestActionsUnderWayAreBounded(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.mustCreate("r", `{"sql":"SELECT * FROM 'a'","actions":[{"lambda":{"functionArn":"`+function+`"}}],"errorAction":{"republish":{"topic":"failed","roleArn":"r"}}}`)
	var failed []string
	for range 11 {
		for range 100 {
			b.Publish(rules.Message{Topic: "a", Payload: []byte("{}")})
		}
		failed = append(failed, b.results()...)
	}
	if len(failed) < 90 || len(failed) > 100 { // 1,000 wait for the test, which may have got ten already
		t.Errorf("%d of 1,100 actions failed", len(failed))
	}
	for range 1100 - len(failed) {
		<-b.events
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/republish-rule-action.html:
// the topic of a republish action takes substitution templates, $$ stands for
// the $ of a reserved topic, and other rules see what is republished.
func TestRepublish(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.mustCreate("one", `{"sql":"SELECT color FROM 'in/+'","actions":[
		{"republish":{"topic":"${topic(2)}/${rgb.red + 1}/${missing}x","roleArn":"r","qos":1}},
		{"republish":{"topic":"$$aws/things/${clientid()}/shadow/update","roleArn":"r"}}]}`)
	b.mustCreate("two", `{"sql":"SELECT upper(color) AS c FROM 'level/#'","actions":[{"republish":{"topic":"second","roleArn":"r"}}]}`)
	b.Publish(rules.Message{Topic: "in/level", Payload: []byte(temperature), ClientID: "C"})
	b.results()
	b.Publish(rules.Message{Topic: "in/level", Payload: []byte(temperature), ClientID: "C"})
	want := []string{`level/256/x 1 {"color":"red"}`, `$aws/things/C/shadow/update 0 {"color":"red"}`, `second 0 {"c":"RED"}`}
	got := append(b.results(), b.results()...)
	for _, w := range want {
		if !slices.Contains(got, w) {
			t.Errorf("got %q, want %s", got, w)
		}
	}
}

func TestRuleThatRepublishesToItselfEnds(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.mustCreate("loop", `{"sql":"SELECT * FROM 'loop'","actions":[{"republish":{"topic":"loop","roleArn":"r"}}]}`)
	b.Publish(rules.Message{Topic: "loop", Payload: []byte("{}")})
	n := 0
	for more := true; more; {
		got := b.results()
		n, more = n+len(got), len(got) > 0
	}
	if n != 10 {
		t.Errorf("republished %d times, want 10", n)
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/iot-basic-ingest.html:
// a message to $aws/rules/NAME/ goes to that rule alone, which sees the topic
// without the prefix.
func TestBasicIngest(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.mustCreate("one", republishing(`SELECT topic() AS t, topic(3) AS floor`))
	b.mustCreate("two", republishing(`SELECT * FROM 'Buildings/#'`))
	b.mustCreate("reserved", republishing(`SELECT * FROM '$aws/#'`))
	b.Ingest(rules.Message{Topic: "$aws/rules/one/Buildings/Building5/Floor2", Payload: []byte(`{}`)})
	b.Ingest(rules.Message{Topic: "$aws/rules/three/a", Payload: []byte(`{}`)})
	if diff := cmp.Diff([]string{`out 0 {"floor":"Floor2","t":"Buildings/Building5/Floor2"}`}, b.results()); diff != "" {
		t.Error(diff)
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/lambda-rule-action.html:
// a Lambda action invokes the function asynchronously with the result of the
// SQL.
func TestLambdaAction(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.mustCreate("r", `{"sql":"SELECT color FROM 'a'","actions":[{"lambda":{"functionArn":"`+function+`"}}],"errorAction":{"republish":{"topic":"error","roleArn":"r"}}}`)
	b.Publish(rules.Message{Topic: "a", Payload: []byte(temperature)})
	if got := <-b.events; got != `{"color":"red"}` {
		t.Error(got)
	}
	if got := b.results(); got != nil {
		t.Errorf("an error of the function is no failure of the action: %q", got)
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/https-rule-action.html:
// an HTTP action posts the result with its headers, and tries three times when
// the server fails.
func TestHTTPAction(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	got := make(chan string, 10)
	var tries atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if tries.Add(1) < 3 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		got <- fmt.Sprint(r.Method, " ", r.URL.Path, " ", r.Header.Get("Content-Type"), " ", r.Header.Get("X-Color"), " ", string(body))
	}))
	defer server.Close()
	b.mustCreate("r", `{"sql":"SELECT color FROM 'a'","actions":[{"http":{"url":"`+server.URL+`/${topic()}","confirmationUrl":"`+server.URL+`","headers":[{"key":"X-Color","value":"very ${color}"}]}}]}`)
	b.Publish(rules.Message{Topic: "a", Payload: []byte(temperature)})
	if got := <-got; got != `POST /a application/json very red {"color":"red"}` {
		t.Error(got)
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/rule-error-handling.html:
// the error action gets one message for all actions of a rule that failed.
func TestErrorAction(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.mustCreate("r", `{"sql":"SELECT * FROM 'a'","actions":[
		{"republish":{"topic":"denied","roleArn":"r"}},{"republish":{"topic":"fine","roleArn":"r"}},{"republish":{"topic":"${topic()}/x","roleArn":"r"}},{"lambda":{"functionArn":"${topic()}"}},
		{"http":{"url":"http://127.0.0.1${host}/","confirmationUrl":"http://127.0.0.1"}}],
		"errorAction":{"republish":{"topic":"errors/${clientid()}","roleArn":"r"}}}`)
	b.Publish(rules.Message{Topic: "a", Payload: []byte(`{"host":".example.com"}`), ClientID: "C"})
	var report string
	for report == "" {
		if p := <-b.published; strings.HasPrefix(p, "errors/C 0 ") {
			report = strings.TrimPrefix(p, "errors/C 0 ")
		}
	}
	var got struct {
		RuleName, Topic, CloudwatchTraceID, ClientID string
		Base64OriginalPayload                        []byte
		Failures                                     []struct{ FailedAction, FailedResource, ErrorMessage string }
	}
	if err := json.Unmarshal([]byte(report), &got); err != nil {
		t.Fatal(err)
	}
	var actions []string
	for _, f := range got.Failures {
		actions = append(actions, f.FailedAction+" "+f.FailedResource)
		if f.ErrorMessage == "" {
			t.Error("a failure without a message")
		}
	}
	if diff := cmp.Diff([]string{"RepublishAction denied", "LambdaAction ${topic()}", "HttpAction http://127.0.0.1${host}/"}, actions); diff != "" {
		t.Error(diff)
	}
	if got.RuleName != "r" || got.Topic != "a" || got.ClientID != "C" || got.CloudwatchTraceID == "" || string(got.Base64OriginalPayload) != `{"host":".example.com"}` {
		t.Errorf("%+v", got)
	}
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_CreateTopicRule.html:
// rules are created, read, replaced, disabled, enabled, listed and deleted, and
// outlive a restart.
func TestRulesAreManaged(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	code := func(err error, want string) {
		t.Helper()
		if e, ok := errors.AsType[*rules.Error](err); !ok || e.Code != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	b.mustCreate("r", republishing("SELECT * FROM 'a'"))
	code(b.create("r", republishing("SELECT * FROM 'a'")), rules.AlreadyExists)
	code(b.DeleteTopicRule("none"), rules.Unauthorized)
	code(b.SetDisabled("none", true), rules.Unauthorized)
	code(b.ReplaceTopicRule("r", rules.Definition{SQL: "SELECT"}), rules.SQLParse)
	if err := b.ReplaceTopicRule("r", rules.Definition{SQL: "SELECT * FROM 'b'", Actions: []rules.Action{{Republish: &rules.Republish{Topic: "out", RoleARN: "r"}}}}); err != nil {
		t.Fatal(err)
	}
	if err := b.SetDisabled("r", true); err != nil {
		t.Fatal(err)
	}
	b.Publish(rules.Message{Topic: "b", Payload: []byte("{}")})
	if got := b.results(); got != nil {
		t.Errorf("a disabled rule ran: %q", got)
	}
	b.stop()
	b.open()
	if err := b.SetDisabled("r", false); err != nil {
		t.Fatal(err)
	}
	b.Publish(rules.Message{Topic: "b", Payload: []byte("{}")})
	if got := b.results(); len(got) != 1 {
		t.Errorf("got %q", got)
	}
	if r, err := b.TopicRule("r"); err != nil || len(b.TopicRules()) != 2 || r.Filter != "b" || r.Version != "2015-10-08" {
		t.Errorf("%+v %v", r, err)
	}
	if err := b.DeleteTopicRule("r"); err != nil {
		t.Fatal(err)
	}
	_, err := b.TopicRule("r")
	code(err, rules.Unauthorized)
}

func FuzzSQL(f *testing.F) {
	f.Add(`SELECT *, (a - 1) * 5 / 9.5 % 2 AS x.y, {'k':[1,null,true]} AS o FROM 'a/+/#' WHERE NOT a IN ['x'] AND b LIKE 'c%' OR missing <> 1`, `{"a":50,"b":[1,2]}`)
	f.Add(`SELECT VALUE (SELECT VALUE cast(n AS int) FROM e WHERE n > 1) FROM 'a'`, `{"e":[{"n":1},{"n":"2e3"}]}`)
	f.Add(`SELECT CASE color WHEN 'a' THEN get(b, 0).c ELSE substring(topic(1), 1, 2) END AS v, trunc(1e-999, 9e99) AS t`, `"x"`)
	f.Add(`SELECT power(a, a) AS p, concat(a, [b]) AS c, regexp_replace(b, '(', '$1') AS r`, "\xff")
	f.Fuzz(func(t *testing.T, sql, payload string) {
		b := newBench(t)
		defer b.stop()
		if err := b.create("r", republishing(sql)); err != nil {
			if _, ok := errors.AsType[*rules.Error](err); !ok {
				t.Fatal(err)
			}
			return
		}
		b.Ingest(rules.Message{Topic: "$aws/rules/r/a", Payload: []byte(payload)})
		for _, got := range b.results() {
			result := strings.TrimPrefix(got, "out 0 ")
			if result != payload && result != "" && !json.Valid([]byte(result)) {
				t.Errorf("%q of %q gives %q", sql, payload, result)
			}
		}
	})
}

func FuzzTemplate(f *testing.F) {
	f.Add(`a/${topic()}/${{"x":"}"}.x}/$`)
	f.Fuzz(func(t *testing.T, text string) {
		b := newBench(t)
		defer b.stop()
		quoted, _ := json.Marshal(text)
		if err := b.create("r", `{"sql":"SELECT * FROM 'from'","actions":[{"republish":{"topic":`+string(quoted)+`,"roleArn":"r"}}]}`); err != nil {
			return
		}
		b.Publish(rules.Message{Topic: "from"})
		got := b.results()
		if !strings.Contains(text, "$") && text != "from" && len(got) != 1 { // its own source is a loop
			t.Errorf("%q: %q", text, got)
		}
	})
}
