package controlapi

import (
	"maps"
	"slices"
	"strings"

	"example.com/fleety/device/localcore/registry"
)

type tag struct{ Key, Value string }

// tags are the tags of a request. A key that comes twice is an error.
type tags []tag

func (t tags) asMap() (map[string]string, error) {
	all := map[string]string{}
	for _, tag := range t {
		if _, twice := all[tag.Key]; twice {
			return nil, invalid("tag key %q is given twice", clip(tag.Key))
		}
		all[tag.Key] = tag.Value
	}
	return all, registry.CheckTags(all)
}

// tagged runs create, which makes the resource, and gives it the tags of the
// request, which are checked first.
func tagged[T any](a *api, t tags, resource string, create func() (T, error)) (made T, err error) {
	all, err := t.asMap()
	if err != nil {
		return made, err
	}
	if made, err = create(); err != nil {
		return made, err
	}
	return made, a.Registry.TagResource(resource, all)
}

// taggable returns the resource that an ARN names. That a policy, a type, a group
// or a template exists is for the registry to check.
func (a *api) taggable(arn string) (resource string, err error) {
	if resource, err = a.resource(arn); err != nil {
		return "", err
	}
	kind, name, _ := strings.Cut(resource, "/")
	switch {
	case kind == "rule" && a.Rules != nil:
		_, err = a.Rules.TopicRule(name)
	case kind == "job" && a.Jobs != nil:
		_, _, err = a.Jobs.DescribeJob(name)
	case kind == "tunnel" && a.Tunnels != nil:
		_, err = a.Tunnels.DescribeTunnel(name)
	}
	if err != nil {
		return "", registry.Reject(registry.CodeNotFound, "Resource %s cannot be found.", clip(resource))
	}
	return resource, nil
}

func (a *api) tagResource(_ *request, in struct {
	ARN  string `json:"resourceArn"`
	Tags tags   `json:"tags"`
}) (any, error) {
	resource, err := a.taggable(in.ARN)
	if err != nil {
		return nil, err
	}
	all, err := in.Tags.asMap()
	if err != nil {
		return nil, err
	}
	return object{}, a.Registry.TagResource(resource, all)
}

func (a *api) untagResource(_ *request, in struct {
	ARN  string   `json:"resourceArn"`
	Keys []string `json:"tagKeys"`
}) (any, error) {
	resource, err := a.taggable(in.ARN)
	if err != nil {
		return nil, err
	}
	return object{}, a.Registry.UntagResource(resource, in.Keys)
}

func (a *api) listTagsForResource(q *request) (any, error) {
	resource, err := a.taggable(q.query("resourceArn"))
	if err != nil {
		return nil, err
	}
	all, err := a.Registry.TagsOf(resource)
	if err != nil {
		return nil, err
	}
	return list(q, "tags", slices.Collect(maps.Keys(all)), self, func(key string) tag { return tag{key, all[key]} })
}
