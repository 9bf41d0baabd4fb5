package config

import (
	"fmt"

	"example.com/fleety/device/awsiot"
)

const (
	shadowsKey = "agent.shadows"
	shadowForm = `{"name": NAME, "file": PATH, "program": PATH}`
)

// maxShadows leaves filters of a connection, of which AWS IoT allows 50, to others:
// a shadow takes six.
const maxShadows = 6

// A Shadow is one that the agent keeps.
type Shadow struct {
	Name    string `json:"name"`    // empty: the classic one
	File    string `json:"file"`    // holds the desired state
	Program string `json:"program"` // is called with the desired state
}

func (s *Shadow) fields() map[string]*string {
	return map[string]*string{"name": &s.Name, "file": &s.File, "program": &s.Program}
}

func setShadows(c *Config, value string) (err error) {
	c.Agent.Shadows, err = parseRecords[Shadow](value, shadowForm)
	return err
}

func (v *validation) shadows() {
	names := map[string]bool{}
	for _, s := range v.c.Agent.Shadows {
		switch {
		case s.Name != "" && !awsiot.ValidShadowName(s.Name):
			v.bad(shadowsKey, fmt.Sprintf("shadow %q is not a name that AWS IoT allows", s.Name), "use "+awsiot.ShadowNameRule+", or no name for the classic shadow")
		case names[s.Name]:
			v.bad(shadowsKey, fmt.Sprintf("shadow %q is there twice", s.Name), "keep one")
		}
		names[s.Name] = true
	}
	if n := len(v.c.Agent.Shadows); n > maxShadows {
		v.bad(shadowsKey, fmt.Sprintf("%d shadows", n), fmt.Sprintf("use %d at most: AWS IoT bounds the subscriptions of a connection", maxShadows))
	}
}
