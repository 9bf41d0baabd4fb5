package cli

import (
	"fmt"
	"strings"

	"example.com/fleety/device/internal/term"
)

// A Row is a label and its value.
type Row [2]string

// A Table is a result for a person: one line per row, values aligned.
type Table []Row

// Table writes t to Out, without the rows that have no value.
func (c *Console) Table(t Table) error {
	width := 0
	for _, r := range t {
		if r[1] != "" {
			width = max(width, len(r[0]))
		}
	}
	var b strings.Builder
	for _, r := range t {
		if r[1] != "" {
			fmt.Fprintf(&b, "%-*s  %s\n", width, r[0], term.Clean(r[1]))
		}
	}
	if _, err := c.Out.Write([]byte(b.String())); err != nil {
		return fmt.Errorf("writing the result: %w", err)
	}
	return nil
}
