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
		return "", registry.Reject(registry.CodeNotFound, "Resource %s cannot be found.", clip(resource))
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
