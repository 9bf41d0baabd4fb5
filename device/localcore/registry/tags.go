package registry

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"example.com/fleety/device/awsiot"
)

// Limits of tags.
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/tagging-iot.html
const (
	MaxTags     = 50
	MaxTagKey   = 128 // characters
	MaxTagValue = 256 // characters
)

// CheckTags returns an error for tags that no resource may have.
func CheckTags(tags map[string]string) error {
	if len(tags) > MaxTags {
		return invalid("%d tags, at most %d are allowed", len(tags), MaxTags)
	}
	for _, key := range slices.Sorted(maps.Keys(tags)) {
		value := tags[key]
		switch {
		case key == "" || utf8.RuneCountInString(key) > MaxTagKey:
			return invalid("a tag key has %d characters, it must have 1 to %d", utf8.RuneCountInString(key), MaxTagKey)
		case utf8.RuneCountInString(value) > MaxTagValue:
			return invalid("the value of tag %q has %d characters, at most %d are allowed", key, utf8.RuneCountInString(value), MaxTagValue)
		case strings.HasPrefix(strings.ToLower(key), "aws:"):
			return invalid("tag key %q begins with aws:, which AWS keeps for itself", key)
		}
		for _, c := range key + value {
			if !unicode.In(c, unicode.L, unicode.Z, unicode.N) && !strings.ContainsRune("_.:/=+-@", c) {
				return invalid("tag %q has the character %q; letters, spaces, digits and _.:/=+-@ are allowed", key, c)
			}
		}
	}
	return nil
}

// TagResource adds tags to a policy, thing type, thing group, billing group,
// provisioning template, role alias, CA certificate, certificate provider, topic rule
// or job, given as the part of its ARN after the account. A key that is there already
// gets the new value. Whether a rule or a job exists, the registry cannot say.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/apireference/API_TagResource.html
func (r *Registry) TagResource(resource string, tags map[string]string) error {
	return r.update(func(tx *transaction) error {
		old, err := tx.tagsOf(resource)
		if err := cmp.Or(err, CheckTags(tags)); err != nil || len(tags) == 0 {
			return err
		}
		all := maps.Collect(maps.All(old))
		maps.Copy(all, tags)
		if len(all) > MaxTags {
			return Reject(CodeLimitExceeded, "%s would have %d tags, at most %d are allowed.", awsiot.Clip(resource), len(all), MaxTags)
		}
		tx.tags.put(resource, all)
		return nil
	})
}

// UntagResource removes the tags with these keys. A key that is not there is no error.
func (r *Registry) UntagResource(resource string, keys []string) error {
	return r.update(func(tx *transaction) error {
		tags, err := tx.tagsOf(resource)
		maps.DeleteFunc(tags, func(key, _ string) bool { return slices.Contains(keys, key) })
		if len(tags) == 0 {
			tx.tags.remove(resource)
		} else {
			tx.tags.put(resource, tags)
		}
		return err
	})
}

// DeleteTags removes all tags of a topic rule, job or tunnel that was deleted.
func (r *Registry) DeleteTags(resource string) error {
	return r.update(func(tx *transaction) error {
		tx.tags.remove(resource)
		return nil
	})
}

// TagsOf returns the tags of a resource.
func (r *Registry) TagsOf(resource string) (map[string]string, error) {
	return r.state().tagsOf(resource)
}

// tagsOf returns the tags of a resource that exists and can have some.
func (s *state) tagsOf(resource string) (map[string]string, error) {
	kind, name, _ := strings.Cut(resource, "/")
	exists, ok := map[string]func(string) bool{
		"policy": s.policies.has, "thingtype": s.types.has, "thinggroup": s.groups.has, "billinggroup": s.billingGroups.has,
		"provisioningtemplate": s.templates.has, "rolealias": s.roleAliases.has, "cacert": s.authorities.has,
		"certificateprovider": s.providers.has, "rule": nil, "job": nil, "tunnel": nil, // kept elsewhere
	}[kind]
	if !ok {
		return nil, invalid("%s cannot be tagged; policies, thing types, thing groups, billing groups, provisioning templates, role aliases, CA certificates, certificate providers, topic rules, jobs and tunnels can", awsiot.Clip(resource))
	}
	if exists != nil && !exists(name) {
		return nil, rejectFor(resource, CodeNotFound, "Resource %s cannot be found.", awsiot.Clip(resource))
	}
	tags, _ := s.tags.get(resource)
	return tags, nil
}
