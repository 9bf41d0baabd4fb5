// Package serials is the registry of serial numbers: a DynamoDB table with one item for each serial
// number that was admitted or listed. The hook marks an item with the certificate that it admits;
// operators list and release serial numbers. Each of these is one conditional write, so that of two
// devices with one serial number only one is provisioned, however close they are.
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

// Attributes of an item. Key is the table's partition key, a string, and also what the column of a
// CSV file is called.
const (
	Key    = payload.SerialNumber
	usedBy = "usedBy" // a certificate id; an unused item has none
	usedAt = "usedAt" // RFC 3339 with nanoseconds, UTC
)

// ErrUnlisted says that the registry does not have a serial number.
var ErrUnlisted = errors.New("the serial number is not in the list")

// A Table is the registry. It is safe for concurrent use.
type Table struct {
	client *dynamodb.Client
	name   string
}

// New returns the table of that name, in the account and Region that the configuration leads to.
// Its BaseEndpoint, when set, stands in for AWS.
func New(c aws.Config, name string) *Table {
	return &Table{client: dynamodb.NewFromConfig(c), name: name}
}

// Mark returns the entry of a serial number, without the state of its holder.
func (t *Table) Mark(ctx context.Context, serialNumber string) (admit.Mark, error) {
	answer, err := t.client.GetItem(ctx, &dynamodb.GetItemInput{TableName: &t.name, Key: item(serialNumber), ConsistentRead: aws.Bool(true)})
	if err != nil {
		return admit.Mark{}, fmt.Errorf("reading serial number %s from table %s: %w", serialNumber, t.name, err)
	}
	m := admit.Mark{Listed: answer.Item != nil}
	if by, ok := answer.Item[usedBy].(*types.AttributeValueMemberS); ok {
		m.HeldBy = by.Value
	}
	if at, ok := answer.Item[usedAt].(*types.AttributeValueMemberS); ok {
		m.Since = at.Value
	}
	return m, nil
}

// Take marks a serial number as used by a certificate since now, if its entry is still as it was
// read, or is the certificate's own. It returns false when another certificate was faster.
func (t *Table) Take(ctx context.Context, serialNumber, certificateID string, read admit.Mark, now time.Time) (taken bool, err error) {
	condition := "attribute_not_exists(" + usedBy + ")"
	values := map[string]types.AttributeValue{
		":certificate": text(certificateID),
		":now":         text(now.UTC().Format(time.RFC3339Nano)),
	}
	if read.HeldBy != "" {
		condition = usedBy + " = :holder AND " + usedAt + " = :since"
		values[":holder"], values[":since"] = text(read.HeldBy), text(read.Since)
		if read.Since == "" { // a person wrote the certificate alone, or a time that is no text
			condition = usedBy + " = :holder AND NOT " + usedAt + " > :since"
			values[":since"] = text("0") // what the hook writes is more
		}
	}
	condition = usedBy + " = :certificate OR (" + condition + ")"
	if read.Listed {
		condition = "attribute_exists(" + Key + ") AND (" + condition + ")" // it may have been removed from the list
	}
	_, err = t.client.UpdateItem(ctx, &dynamodb.UpdateItemInput{
		TableName:                 &t.name,
		Key:                       item(serialNumber),
		ConditionExpression:       &condition,
		UpdateExpression:          aws.String("SET " + usedBy + " = :certificate, " + usedAt + " = :now"),
		ExpressionAttributeValues: values,
	})
	if taken, err = held(err); err != nil {
		return false, fmt.Errorf("marking serial number %s as used in table %s: %w", serialNumber, t.name, err)
	}
	return taken, nil
}

// Add lists a serial number. It leaves one alone that is there already, used or not, and then
// returns false.
func (t *Table) Add(ctx context.Context, serialNumber string) (added bool, err error) {
	_, err = t.client.PutItem(ctx, &dynamodb.PutItemInput{
		TableName:           &t.name,
		Item:                item(serialNumber),
		ConditionExpression: aws.String("attribute_not_exists(" + Key + ")"),
	})
	if added, err = held(err); err != nil {
		return false, fmt.Errorf("adding serial number %s to table %s: %w", serialNumber, t.name, err)
	}
	return added, nil
}

// Release makes a used serial number unused, so that its device can be provisioned with another
// certificate. The error is [ErrUnlisted] for one that is not in the registry.
func (t *Table) Release(ctx context.Context, serialNumber string) error {
	_, err := t.client.UpdateItem(ctx, &dynamodb.UpdateItemInput{
		TableName:           &t.name,
		Key:                 item(serialNumber),
		ConditionExpression: aws.String("attribute_exists(" + Key + ")"),
		UpdateExpression:    aws.String("REMOVE " + usedBy + ", " + usedAt),
	})
	ok, err := held(err)
	if err == nil && !ok {
		err = ErrUnlisted
	}
	if err != nil {
		return fmt.Errorf("releasing serial number %s in table %s: %w", serialNumber, t.name, err)
	}
	return nil
}

// held reports whether the condition of a write held.
func held(err error) (bool, error) {
	if _, failed := errors.AsType[*types.ConditionalCheckFailedException](err); failed {
		return false, nil
	}
	return err == nil, err
}

func item(serialNumber string) map[string]types.AttributeValue {
	return map[string]types.AttributeValue{Key: text(serialNumber)}
}

func text(s string) types.AttributeValue { return &types.AttributeValueMemberS{Value: s} }
