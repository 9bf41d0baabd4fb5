package policy

import (
	"errors"
	"strings"
)

// arnParts is the number of colon-separated parts of an ARN. Colons in the
// last part belong to it.
const arnParts = 6

// splitARN cuts at the first five colons that are not inside a variable.
func splitARN(text string) []string {
	var parts []string
	start, inVariable := 0, false
	for i := 0; i < len(text) && len(parts) < arnParts-1; i++ {
		switch {
		case strings.HasPrefix(text[i:], "${"):
			inVariable = true
		case text[i] == '}':
			inVariable = false
		case text[i] == ':' && !inVariable:
			parts = append(parts, text[start:i])
			start = i + 1
		}
	}
	return append(parts, text[start:])
}

func checkARN(text string) error {
	parts := splitARN(text)
	if len(parts) < arnParts || parts[0] != "arn" {
		return errors.New("it must be * or arn:PARTITION:SERVICE:REGION:ACCOUNT:RESOURCE")
	}
	if !strings.HasPrefix(parts[1], "aws") && parts[1] != "*" {
		return errors.New("the partition must be aws, aws-cn, aws-us-gov or another of AWS's")
	}
	if parts[2] == "" {
		return errors.New("the service is empty")
	}
	if parts[5] == "" {
		return errors.New("the resource part is empty")
	}
	return nil
}

// arnPrefix returns the first five parts with their colons, and shortARN the
// rest, such as topic/a/b. A text that is no ARN is all rest.
func arnPrefix(arn string) string { return strings.TrimSuffix(arn, shortARN(arn)) }

func shortARN(arn string) string {
	if parts := splitARN(arn); len(parts) == arnParts && parts[0] == "arn" {
		return parts[arnParts-1]
	}
	return arn
}
