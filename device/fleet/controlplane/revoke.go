package controlplane

import (
	"bufio"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/fleet"
)

// Revoke sets the certificates of the targets to a status: REVOKED, or INACTIVE, from which a
// certificate can be activated again. Certificates that have it are left alone, and so are revoked
// ones. AWS IoT disconnects the devices within a few minutes, and rejects their connections from
// then on.
func (r *Run) Revoke(ctx context.Context, targets []Target, status types.CertificateStatus) (Counts, error) {
	return r.change(ctx, targets, func(_ context.Context, d *Device) error {
		if len(d.Certificates) == 0 && d.Kept == "" { // a list may have a misspelt name
			r.report(Device{Target: d.Target, Kept: "no certificate of it is found"})
		}
		d.Certificates = slices.DeleteFunc(d.Certificates, func(c Certificate) bool {
			return c.Status == status || c.Status == types.CertificateStatusRevoked
		})
		return nil
	}, func(ctx context.Context, d Device, _ *Counts) error {
		for _, c := range d.Certificates {
			if _, err := r.Client.UpdateCertificate(ctx, &iot.UpdateCertificateInput{CertificateId: &c.ID, NewStatus: status}); err != nil && !isNotFound(err) {
				return fmt.Errorf("setting certificate %s to %s: %w", c.ID, status, err)
			}
		}
		return nil
	})
}

// ThingsInGroup returns the things of a thing group and of the groups in it.
func (r *Run) ThingsInGroup(ctx context.Context, group string) ([]Target, error) {
	names, err := list(ctx, iot.NewListThingsInThingGroupPaginator(r.Client, &iot.ListThingsInThingGroupInput{ThingGroupName: &group, Recursive: true, MaxResults: aws.Int32(pageSize)}),
		func(page *iot.ListThingsInThingGroupOutput) ([]string, *string) { return page.Things, page.NextToken })
	return targets("group "+group, names, err)
}

// ReadTargets reads targets from CSV, separated by commas, semicolons or tabs: the column thingName,
// certificateId or certificateArn of a file whose first line names its columns, else the first
// column, in which what has the form of a certificate's id or ARN is one. All lines are read before
// the first target is returned, so that a bad line changes nothing.
func ReadTargets(in io.Reader) ([]Target, error) {
	text := bufio.NewReader(in)
	if mark, _ := text.Peek(3); string(mark) == "\ufeff" { // byte order mark, which quotes may follow
		_, _ = text.Discard(len(mark))
	}
	c := csv.NewReader(text)
	c.FieldsPerRecord, c.TrimLeadingSpace, c.Comment = -1, true, '#'
	start, _ := text.Peek(text.Size())
	if separator := firstSeparator.FindSubmatch(start); separator != nil {
		c.Comma = rune(separator[1][0])
		c.TrimLeadingSpace = c.Comma != '\t' // which is space: empty columns would be lost
	}
	var targets []Target
	column, name := -1, "" // without a name both forms are read
	for {
		fields, err := c.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if strings.TrimSpace(strings.Join(fields, "")) == "" { // as spreadsheets end a table
			continue
		}
		line, _ := c.FieldPos(0)
		if column < 0 {
			column = slices.IndexFunc(fields, func(f string) bool {
				name = strings.ToLower(punctuation.ReplaceAllString(f, ""))
				return name == "thingname" || name == "certificateid" || name == "certificatearn"
			})
			if column >= 0 {
				continue
			}
			column, name = 0, ""
		}
		if column >= len(fields) {
			return nil, fmt.Errorf("line %d has %s", line, fleet.FormatCount(len(fields), "column", "columns"))
		}
		value := strings.TrimSpace(fields[column])
		id := strings.ToLower(arnOfCertificate.ReplaceAllString(value, "")) // some tools write hexadecimal digits in capitals
		switch {
		case name != "thingname" && awsiot.ValidCertificateID(id):
			targets = append(targets, Target{CertificateID: id})
		case !strings.HasPrefix(name, "certificate") && awsiot.ThingNames.Valid(value):
			targets = append(targets, Target{ThingName: value})
		default:
			return nil, fmt.Errorf("line %d: %.100q is neither a thing name nor a certificate id", line, value)
		}
	}
	if len(targets) == 0 {
		return nil, errors.New("names no thing and no certificate")
	}
	return targets, nil
}

var (
	punctuation      = regexp.MustCompile(`[^\pL\pN]+`) // of headings; spaces of all kinds, too
	arnOfCertificate = regexp.MustCompile(`^arn:.*:cert/`)
	// firstSeparator finds the separator in the first line that has text and is no comment.
	firstSeparator = regexp.MustCompile(`^(?:\s*\n|#.*\n)*(?:"[^"]*"|[^#",;\t\n])*([,;\t])`)
)
