package controlapi

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/registry"
)

// ref returns the two members of an answer that name a resource: member, which ends with
// Name or Id, and the ARN.
func (a *api) ref(kind, member, name string) object {
	stem := strings.TrimSuffix(strings.TrimSuffix(member, "Name"), "Id")
	return object{member: name, stem + "Arn": a.ARN(kind + "/" + name)}
}

// targetARN returns how AWS names a target: by its ARN, a Cognito identity by its id.
func (a *api) targetARN(t registry.Target) string {
	if t.Cognito() {
		return string(t)
	}
	return a.ARN(string(t))
}

// resource returns the part of an ARN after the account.
func (a *api) resource(arn string) (string, error) {
	rest, ok := strings.CutPrefix(arn, a.ARN(""))
	if !ok {
		return "", invalid("%q is not an ARN of this account and Region, which begin with %s", awsiot.Clip(arn), a.ARN(""))
	}
	return rest, nil
}

// target reads what a policy is attached to, or shall be, as a [registry.Target].
func (a *api) target(arn string) (string, error) {
	if registry.Target(arn).Cognito() {
		return arn, nil
	}
	return a.resource(arn)
}

// principal reads a principal: the ARN of a certificate, or a Cognito identity.
func (a *api) principal(arn string) (string, error) {
	if arn == "" {
		return "", invalid("a principal is required")
	}
	target, err := a.target(arn)
	id, ok := registry.Target(target).Certificate()
	switch {
	case err != nil || registry.Target(target).Cognito():
		return target, err
	case !ok:
		return "", invalid("%q is not the ARN of a certificate", awsiot.Clip(arn))
	case !awsiot.ValidCertificateID(id):
		return "", invalid("certificate id %q must be 64 lower-case hexadecimal digits", awsiot.Clip(id))
	}
	return target, nil
}

// certificate returns the id of the certificate that is the principal. Things have no Cognito
// identities here.
func (a *api) certificate(arn string) (id string, err error) {
	target, err := a.principal(arn)
	id, ok := registry.Target(target).Certificate()
	if err == nil && !ok {
		err = invalid("an Amazon Cognito identity as the principal of a thing is not emulated")
	}
	return id, err
}

// resolvers read the parameters that are ARNs.
var resolvers = map[string]func(a *api, arn string) (string, error){
	"target": (*api).target, "principal": (*api).principal, "resourceArn": (*api).taggable,
	"X-Amzn-Principal": (*api).certificate, "X-Amzn-Iot-Principal": (*api).principal,
}

// resolve replaces the ARNs among the parameters by what the registry knows the resources by.
func (a *api) resolve(q *request) error {
	for _, name := range q.op.members {
		if stem, ok := q.op.named(name); ok {
			if err := a.resolveName(q, stem); err != nil {
				return err
			}
		}
	}
	for _, name := range q.op.parameters() {
		resolve, ok := resolvers[name]
		if !ok {
			continue
		}
		var arn string
		err := q.read(name, &arn)
		if err == nil && (arn != "" || name != "principal") { // which is optional
			arn, err = resolve(a, arn)
		}
		if ofTunneling := q.op.service == tunnelTarget; err == nil && name == "resourceArn" && strings.HasPrefix(arn, "tunnel/") != ofTunneling {
			err = registry.Reject(registry.CodeNotFound, "Resource %s is of another service.", awsiot.Clip(arn))
		}
		if err != nil {
			return err
		}
		q.members[name], _ = json.Marshal(arn) // a string always encodes
	}
	return nil
}

// resolveName sets the name of a resource that a request gives by its name or by its ARN.
func (a *api) resolveName(q *request, stem string) error {
	var name, arn string
	if err := cmp.Or(q.read(stem+"Name", &name), q.read(stem+"Arn", &arn)); err != nil {
		return err
	}
	if arn != "" {
		resource, err := a.resource(arn)
		if err != nil {
			return err
		}
		named, ok := strings.CutPrefix(resource, strings.ToLower(stem)+"/")
		if !ok || name != "" && name != named {
			return invalid("%q is not the ARN of %s %s", awsiot.Clip(arn), stem, cmp.Or(name, "NAME"))
		}
		name = named
	}
	if name == "" {
		return invalid("a %s is required, by name or ARN", stem)
	}
	q.members[stem+"Name"], _ = json.Marshal(name) // a string always encodes
	return nil
}

type tag struct{ Key, Value string }

// tags are the tags of a request. A key that comes twice is an error.
type tags []tag

func (t tags) asMap() (map[string]string, error) {
	all := map[string]string{}
	for _, tag := range t {
		if _, twice := all[tag.Key]; twice {
			return nil, invalid("tag key %q is given twice", awsiot.Clip(tag.Key))
		}
		all[tag.Key] = tag.Value
	}
	return all, registry.CheckTags(all)
}

// taggable returns the resource that an ARN names. That a policy, a type, a group
// or a template exists is for the registry to check.
func (a *api) taggable(arn string) (resource string, err error) {
	if resource, err = a.resource(arn); err != nil {
		return "", err
	}
	kind, name, _ := strings.Cut(resource, "/")
	switch kind {
	case "rule":
		_, err = a.Rules.TopicRule(name)
	case "job":
		_, err = a.Jobs.DescribeJob(name)
	case "tunnel":
		_, err = a.Tunnels.DescribeTunnel(name)
	}
	if err != nil {
		return "", registry.Reject(registry.CodeNotFound, "Resource %s cannot be found.", awsiot.Clip(resource))
	}
	return resource, nil
}

func tagsAsMap(resource string, t tags) (string, map[string]string, error) {
	all, err := t.asMap()
	return resource, all, err
}

func (a *api) tagsOf(resource string) ([]tag, error) {
	all, err := a.Registry.TagsOf(resource)
	return convert(slices.Sorted(maps.Keys(all)), func(key string) tag { return tag{key, all[key]} }), err
}

// deleteTags returns what deletes the tags of the rule or job that a parameter names.
func (a *api) deleteTags(kind, parameter string) func(*request) error {
	return func(q *request) error { return a.Registry.DeleteTags(kind + "/" + value[string](q, parameter)) }
}
