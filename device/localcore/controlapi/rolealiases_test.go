package controlapi_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"

	"example.com/fleety/device/localcore/registry"
)

const role = "arn:aws:iam::123456789012:role/device"

// https://docs.aws.amazon.com/iot/latest/apireference/API_CreateRoleAlias.html:
// role aliases are created with tags, described, updated, listed and deleted.
func TestRoleAliases(t *testing.T) {
	t.Parallel()
	e, ctx := start(t), t.Context()
	name := aws.String("a=b,c@d-e")
	created := must(e.iot.CreateRoleAlias(ctx, &iot.CreateRoleAliasInput{
		RoleAlias: name, RoleArn: aws.String(role), Tags: []types.Tag{{Key: aws.String("k"), Value: aws.String("v")}},
	}))(t)
	if *created.RoleAliasArn != arnPrefix+"rolealias/"+*name || *created.RoleAlias != *name {
		t.Errorf("created %s", *created.RoleAliasArn)
	}
	describe := func() *types.RoleAliasDescription {
		return must(e.iot.DescribeRoleAlias(ctx, &iot.DescribeRoleAliasInput{RoleAlias: name}))(t).RoleAliasDescription
	}
	first := describe()
	if *first.RoleArn != role || *first.Owner != account || *first.CredentialDurationSeconds != 3600 || !first.CreationDate.Equal(*first.LastModifiedDate) {
		t.Errorf("description %+v", first)
	}
	must(e.iot.UpdateRoleAlias(ctx, &iot.UpdateRoleAliasInput{RoleAlias: name, CredentialDurationSeconds: aws.Int32(900)}))(t)
	if d := describe(); *d.RoleArn != role || *d.CredentialDurationSeconds != 900 || !d.LastModifiedDate.After(*d.CreationDate) {
		t.Errorf("updated to %+v", d)
	}
	if tags := must(e.iot.ListTagsForResource(ctx, &iot.ListTagsForResourceInput{ResourceArn: created.RoleAliasArn}))(t).Tags; len(tags) != 1 {
		t.Errorf("tags %+v", tags)
	}
	must(e.iot.CreateRoleAlias(ctx, &iot.CreateRoleAliasInput{RoleAlias: aws.String("=second"), RoleArn: aws.String(role), CredentialDurationSeconds: aws.Int32(43200)}))(t)
	page := must(e.iot.ListRoleAliases(ctx, &iot.ListRoleAliasesInput{PageSize: aws.Int32(1), AscendingOrder: true}))(t)
	rest := must(e.iot.ListRoleAliases(ctx, &iot.ListRoleAliasesInput{Marker: page.NextMarker, AscendingOrder: true}))(t)
	if all := append(page.RoleAliases, rest.RoleAliases...); len(all) != 2 || all[0] != "=second" || all[1] != *name {
		t.Errorf("listed %q", all)
	}
	must(e.iot.DeleteRoleAlias(ctx, &iot.DeleteRoleAliasInput{RoleAlias: name}))(t)
	if _, err := e.iot.DescribeRoleAlias(ctx, &iot.DescribeRoleAliasInput{RoleAlias: name}); codeOf(err) != registry.CodeNotFound {
		t.Errorf("described after deletion: %v", err)
	}
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_CreateRoleAlias.html:
// a role alias has a name of 128 characters at most, the ARN of a role, and 900
// to 43200 seconds.
func TestRoleAliasIsChecked(t *testing.T) {
	t.Parallel()
	e, ctx := start(t), t.Context()
	must(e.registry.CreateRoleAlias(registry.RoleAlias{Name: "there", RoleARN: role}))(t)
	for what, test := range map[string]struct {
		name, role string
		seconds    *int32
		code       string
	}{
		"longest name":     {strings.Repeat("a", 128), role, nil, ""},
		"name too long":    {strings.Repeat("a", 129), role, nil, registry.CodeInvalidRequest},
		"dot in the name":  {"a.b", role, nil, registry.CodeInvalidRequest},
		"no ARN":           {"a", "role/device-of-the-account", nil, registry.CodeInvalidRequest},
		"ARN of a user":    {"a", "arn:aws:iam::123456789012:user/u", nil, registry.CodeInvalidRequest},
		"too short":        {"a", role, aws.Int32(899), registry.CodeInvalidRequest},
		"no time":          {"a", role, aws.Int32(0), registry.CodeInvalidRequest},
		"too long":         {"a", role, aws.Int32(43201), registry.CodeInvalidRequest},
		"there already":    {"there", role, nil, registry.CodeAlreadyExists},
		"longest duration": {"long", role, aws.Int32(43200), ""},
	} {
		_, err := e.iot.CreateRoleAlias(ctx, &iot.CreateRoleAliasInput{RoleAlias: &test.name, RoleArn: &test.role, CredentialDurationSeconds: test.seconds})
		if codeOf(err) != test.code {
			t.Errorf("%s: got %v, want %q", what, err, test.code)
		}
	}
	for name, code := range map[string]string{"none": registry.CodeNotFound, "there": registry.CodeInvalidRequest} {
		if _, err := e.iot.UpdateRoleAlias(ctx, &iot.UpdateRoleAliasInput{RoleAlias: &name, RoleArn: aws.String("arn:aws:iam::1:user/other-user")}); codeOf(err) != code {
			t.Errorf("updating %s: got %v, want %s", name, err, code)
		}
	}
	if _, err := e.iot.DeleteRoleAlias(ctx, &iot.DeleteRoleAliasInput{RoleAlias: aws.String("none")}); codeOf(err) != registry.CodeNotFound {
		t.Errorf("deleting none: %v", err)
	}
}

// https://docs.aws.amazon.com/general/latest/gr/iot-core.html: an account has
// 100 role aliases at most.
func TestAccountHas100RoleAliasesAtMost(t *testing.T) {
	t.Parallel()
	e := start(t)
	for i := range registry.MaxRoleAliases {
		must(e.registry.CreateRoleAlias(registry.RoleAlias{Name: fmt.Sprint("a", i), RoleARN: role}))(t)
	}
	_, err := e.registry.CreateRoleAlias(registry.RoleAlias{Name: "b", RoleARN: role})
	if rejection, ok := errors.AsType[*registry.Error](err); !ok || rejection.Code != registry.CodeLimitExceeded {
		t.Errorf("one more: %v", err)
	}
}
