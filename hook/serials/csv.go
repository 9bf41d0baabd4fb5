package serials

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"strings"

	"example.com/fleety/hook/admit"
)

// Read reads the serial numbers of a CSV file: its first column, or the one
// that its first line calls serialNumber. Other columns do not matter. The error
// names every line whose serial number the rules would deny or that repeats
// an earlier one.
func Read(r io.Reader, rules admit.Rules) ([]string, error) {
	records := csv.NewReader(r)
	records.FieldsPerRecord = -1
	records.TrimLeadingSpace = true
	var numbers []string
	var problems []error
	column, lines := 0, map[string]int{}
	for first := true; ; first = false {
		record, err := records.Read()
		if errors.Is(err, io.EOF) {
			return numbers, errors.Join(problems...)
		}
		if err != nil {
			return nil, err // names the line
		}
		if first {
			record[0] = strings.TrimPrefix(record[0], "\ufeff") // as spreadsheets write it
			if found := indexFold(record, Key); found >= 0 {
				column = found
				continue
			}
		}
		line, _ := records.FieldPos(0)
		number, err := numberIn(record, column, rules, lines)
		if err != nil {
			problems = append(problems, fmt.Errorf("line %d: %w", line, err))
			continue
		}
		lines[number] = line
		numbers = append(numbers, number)
	}
}

func numberIn(record []string, column int, rules admit.Rules, seen map[string]int) (string, error) {
	if column >= len(record) {
		return "", fmt.Errorf("there is no column %d", column+1)
	}
	number := strings.TrimSpace(record[column])
	if verdict := rules.EvaluateSerial(number); !verdict.Admitted {
		return "", fmt.Errorf("%.100q: %s", number, verdict.Reason)
	}
	if line, ok := seen[number]; ok {
		return "", fmt.Errorf("%s is on line %d already", number, line)
	}
	return number, nil
}

func indexFold(record []string, name string) int {
	for i, field := range record {
		if strings.EqualFold(strings.TrimSpace(field), name) {
			return i
		}
	}
	return -1
}
