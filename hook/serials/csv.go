package serials

import (
	"bufio"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"example.com/fleety/hook/admit"
)

// maxProblems are enough to see what is wrong with a file.
const maxProblems = 100

// punctuation is what headings may have, spaces of all kinds too.
var punctuation = regexp.MustCompile(`[^\pL\pN]+`)

// firstSeparator finds the separator in the first line that has text.
var firstSeparator = regexp.MustCompile(`^(?:\s*\n)*(?:"[^"]*"|[^",;\t\n])*([,;\t])`)

// Read reads the serial numbers of a CSV file, separated by commas, semicolons or tabs: its first
// column, or the one that its first line calls serialNumber. Rows without text and other columns do
// not matter. The error names the lines, a hundred at most, whose serial number the rules would deny
// or that repeats an earlier one.
func Read(r io.Reader, rules admit.Rules) ([]string, error) {
	text := bufio.NewReader(r)
	if mark, _ := text.Peek(3); string(mark) == "\ufeff" { // as spreadsheets write it, also before quotes
		_, _ = text.Discard(len(mark))
	}
	records := csv.NewReader(text)
	records.FieldsPerRecord = -1
	start, _ := text.Peek(text.Size())
	if separator := firstSeparator.FindSubmatch(start); separator != nil {
		records.Comma = rune(separator[1][0])
	}
	records.TrimLeadingSpace = records.Comma != '\t' // which is space: empty columns would be lost
	var numbers []string
	var problems []error
	column, lines := -1, map[string]int{}
	for {
		record, err := records.Read()
		if errors.Is(err, io.EOF) || len(problems) == maxProblems {
			return numbers, errors.Join(problems...)
		}
		if err != nil {
			return nil, err // names the line
		}
		if strings.TrimSpace(strings.Join(record, "")) == "" { // as spreadsheets end a table
			continue
		}
		if column < 0 {
			column = slices.IndexFunc(record, func(field string) bool {
				return strings.EqualFold(punctuation.ReplaceAllString(field, ""), Key)
			})
			if column >= 0 {
				continue
			}
			column = 0
		}
		line, _ := records.FieldPos(0)
		if column >= len(record) {
			problems = append(problems, fmt.Errorf("line %d: there is no column %d", line, column+1))
			continue
		}
		number := strings.TrimSpace(record[column])
		if verdict := rules.EvaluateSerial(number); !verdict.Admitted {
			problems = append(problems, fmt.Errorf("line %d: %.100q: %s", line, number, verdict.Reason))
		} else if before, twice := lines[number]; twice {
			problems = append(problems, fmt.Errorf("line %d: %s is on line %d already", line, number, before))
		} else {
			lines[number] = line
			numbers = append(numbers, number)
		}
	}
}
