// Package serials keeps the list of serial numbers that may come in, each
// once: a DynamoDB table with one item for each serial number. The hook marks an
// item as used; operators add and release items. Each of these is one
// conditional write, so that of two devices with one serial number only one
// comes in, however close they are.
//
// AWS page: https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Expressions.ConditionExpressions.html
package serials

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"example.com/fleety/hook/admit"
	"example.com/fleety/hook/payload"
)

// Attributes of an item. Key is the table's partition key, a string, and also
// what the column of a CSV file is called.
const (
	Key    = payload.SerialNumber
	usedBy = "usedBy" // a certificate id; an unused item has none
	usedAt = "usedAt" // RFC 3339, UTC
)

// ErrUnlisted tells that the list does not have a serial number.
var ErrUnlisted = errors.New("the serial number is not in the list")

// A Table is the list. It is safe for concurrent use.
type Table struct {
	client *dynamodb.Client
	name   string
	now    func() time.Time
}

// New returns the table of that name, in the account and Region that the
// configuration leads to. Its BaseEndpoint, when set, stands in for AWS.
func New(c aws.Config, name string) *Table {
	return &Table{client: dynamodb.NewFromConfig(c), name: name, now: time.Now}
}

// Use marks a serial number as used by a certificate, unless another one has
// used it, and returns what the list then says. To repeat it changes nothing.
func (t *Table) Use(ctx context.Context, serialNumber, certificateID string) (admit.Listing, error) {
	_, err := t.client.UpdateItem(ctx, &dynamodb.UpdateItemInput{
		TableName:           &t.name,
		Key:                 item(serialNumber),
		ConditionExpression: aws.String("attribute_exists(" + Key + ") AND (attribute_not_exists(" + usedBy + ") OR " + usedBy + " = :certificate)"),
		UpdateExpression:    aws.String("SET " + usedBy + " = :certificate, " + usedAt + " = if_not_exists(" + usedAt + ", :now)"),
		ExpressionAttributeValues: map[string]types.AttributeValue{
			":certificate": text(certificateID),
			":now":         text(t.now().UTC().Format(time.RFC3339)),
		},
		ReturnValuesOnConditionCheckFailure: types.ReturnValuesOnConditionCheckFailureAllOld,
	})
	if failed, ok := errors.AsType[*types.ConditionalCheckFailedException](err); ok {
		return listing(failed.Item), nil
	}
	if err != nil {
		return admit.Listing{}, fmt.Errorf("marking serial number %s as used in table %s: %w", serialNumber, t.name, err)
	}
	return admit.Listing{Listed: true, UsedBy: certificateID}, nil
}

// listing reads an item, nil if there is none.
func listing(item map[string]types.AttributeValue) admit.Listing {
	by, _ := item[usedBy].(*types.AttributeValueMemberS)
	if by == nil {
		return admit.Listing{Listed: item != nil}
	}
	return admit.Listing{Listed: true, UsedBy: by.Value}
}

// Add adds an unused serial number. It leaves one alone that is there already,
// used or not, and then returns false.
func (t *Table) Add(ctx context.Context, serialNumber string) (added bool, err error) {
	_, err = t.client.PutItem(ctx, &dynamodb.PutItemInput{
		TableName:           &t.name,
		Item:                item(serialNumber),
		ConditionExpression: aws.String("attribute_not_exists(" + Key + ")"),
	})
	if _, ok := errors.AsType[*types.ConditionalCheckFailedException](err); ok {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("adding serial number %s to table %s: %w", serialNumber, t.name, err)
	}
	return true, nil
}

// Release makes a used serial number unused, so that its device can come in
// with another certificate. The error is [ErrUnlisted] for one that is not in
// the list.
func (t *Table) Release(ctx context.Context, serialNumber string) error {
	_, err := t.client.UpdateItem(ctx, &dynamodb.UpdateItemInput{
		TableName:           &t.name,
		Key:                 item(serialNumber),
		ConditionExpression: aws.String("attribute_exists(" + Key + ")"),
		UpdateExpression:    aws.String("REMOVE " + usedBy + ", " + usedAt),
	})
	if _, ok := errors.AsType[*types.ConditionalCheckFailedException](err); ok {
		err = ErrUnlisted
	}
	if err != nil {
		return fmt.Errorf("releasing serial number %s in table %s: %w", serialNumber, t.name, err)
	}
	return nil
}

// Releasing is the command by which an operator releases a serial number. It
// is run in the hook's folder of the sources.
func (t *Table) Releasing(serialNumber string) string {
	return "go run ./cmd/serials release --table " + t.name + " " + serialNumber
}

func item(serialNumber string) map[string]types.AttributeValue {
	return map[string]types.AttributeValue{Key: text(serialNumber)}
}

func text(s string) types.AttributeValue { return &types.AttributeValueMemberS{Value: s} }
