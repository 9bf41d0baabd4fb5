package serials_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"example.com/fleety/hook/admit"
	"example.com/fleety/hook/serials"
)

func TestRead(t *testing.T) {
	tests := map[string]struct {
		file string
		want []string
	}{
		"empty":                 {"", nil},
		"one column":            {"2974681\n2974682\n", []string{"2974681", "2974682"}},
		"no newline at the end": {"2974681", []string{"2974681"}},
		"with a heading":        {"model,SerialNumber\r\nA,2974681\r\nB, 2974682 \r\n", []string{"2974681", "2974682"}},
		"byte order mark":       {"\ufeffserialNumber\n2974681\n", []string{"2974681"}},
		"mark and quotes":       {"\ufeff\"model\",\"serialNumber\"\r\n\"A\",\"2974681\"\r\n", []string{"2974681"}},
		"heading in words":      {"Model,Serial Number\nA,2974681\n", []string{"2974681"}},
		"other spaces":          {"Model,Serial\u00a0Number\u00a0:\u200b\n2974680,2974681\n", []string{"2974681"}},
		"heading in snake case": {"model,serial_number\nA,2974681\n", []string{"2974681"}},
		"more columns":          {"2974681,red\n2974682,blue,9\n", []string{"2974681", "2974682"}},
		"quoted":                {"\"2974681\",\"a,b\"\n", []string{"2974681"}},
		"semicolons":            {"model;serialNumber\r\nA, red;2974681\r\n", []string{"2974681"}},
		"tabs, empty columns":   {"model\tserialNumber\n\t2974681\n", []string{"2974681"}},
		"quoted separator":      {"\"a;b\",serialNumber\nx,2974681\n", []string{"2974681"}},
		"rows without text":     {",\nmodel,serialNumber\nA,2974681\n, \n", []string{"2974681"}},
		"blank lines":           {"2974681\n\n\n2974682\n", []string{"2974681", "2974682"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := serials.Read(strings.NewReader(test.file), admit.Rules{})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("serial numbers differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestReadReportsEveryBadLine(t *testing.T) {
	tests := map[string]struct {
		file string
		want []string // one for each line of the error
	}{
		"of another fleet":   {"1234567\n", []string{`line 1: "1234567": serial number does not begin`}},
		"twice":              {"2974681\n2974682\n2974681\n", []string{"line 3: 2974681 is on line 1 already"}},
		"column missing":     {"a,serialNumber\nx\n", []string{"line 2: there is no column 2"}},
		"unknown heading":    {"serial\n2974681\n", []string{`line 1: "serial"`}},
		"everything at once": {"2974681\n2974681\nx\n29746 8\n", []string{"line 2", "line 3", "line 4"}},
		"open quote":         {"\"2974681\n", []string{"line 1"}},
	}
	tests["nothing else"] = struct {
		file string
		want []string
	}{strings.Repeat("x\n", 1000), slices.Repeat([]string{"line "}, 100)}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := serials.Read(strings.NewReader(test.file), admit.Rules{})
			if err == nil {
				t.Fatal("no error")
			}
			lines := strings.Split(err.Error(), "\n")
			if len(lines) != len(test.want) {
				t.Fatalf("%d lines, want %d:\n%v", len(lines), len(test.want), err)
			}
			for i, want := range test.want {
				if !strings.Contains(lines[i], want) {
					t.Errorf("line %q does not have %q", lines[i], want)
				}
			}
		})
	}
}

func FuzzRead(f *testing.F) {
	for _, seed := range []string{"2974681\n", "serialNumber\n2974681", "\ufeff\"2974681\",x\n", "\"", ",", "a,serialNumber\nx"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, file string) {
		numbers, err := serials.Read(strings.NewReader(file), admit.Rules{})
		if err != nil {
			return
		}
		seen := map[string]bool{}
		for _, number := range numbers {
			if !(admit.Rules{}).EvaluateSerial(number).Admitted || seen[number] {
				t.Errorf("serial number %q was read", number)
			}
			seen[number] = true
		}
	})
}
