package registry

import (
	"slices"
	"time"
)

// A Version is one document of a policy, or one body of a provisioning template.
type Version struct {
	ID       int    // counts from 1 and is never reused
	Document string `json:",omitempty"` // of a policy
	Body     string `json:",omitempty"` // of a template
	Created  time.Time
}

// Versioned is what policies and provisioning templates have of their versions.
type Versioned struct {
	Versions       []Version // oldest first
	DefaultVersion int       // the one in effect
	NextVersion    int
}

// firstVersion returns the versions of what is created with one.
func firstVersion(v Version, now time.Time) Versioned {
	v.ID, v.Created = 1, now
	return Versioned{[]Version{v}, 1, 2}
}

// Version returns the version with this id.
func (v Versioned) Version(id int) (Version, bool) {
	i := slices.IndexFunc(v.Versions, func(version Version) bool { return version.ID == id })
	if i < 0 {
		return Version{}, false
	}
	return v.Versions[i], true
}

// Default returns the version in effect.
func (v Versioned) Default() Version {
	version, _ := v.Version(v.DefaultVersion)
	return version
}

// add adds the next version, of at most that many.
func (v *Versioned) add(what string, version Version, setDefault bool, most int, now time.Time) (Version, error) {
	if len(v.Versions) >= most {
		return version, Reject(CodeVersionsLimitExceeded, "%s already has the maximum number of versions (%d).", what, most)
	}
	version.ID, version.Created = v.NextVersion, now
	v.Versions = append(v.Versions, version)
	v.NextVersion++
	if setDefault {
		v.DefaultVersion = version.ID
	}
	return version, nil
}

// checkID rejects a version that is not there.
func (v *Versioned) checkID(what string, id int) error {
	if _, ok := v.Version(id); !ok {
		return Reject(CodeNotFound, "%s has no version %d.", what, id)
	}
	return nil
}

func (v *Versioned) delete(id int) {
	v.Versions = slices.DeleteFunc(v.Versions, func(version Version) bool { return version.ID == id })
}
