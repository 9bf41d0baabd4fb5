package e2e

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The page has each metric of an agent with all services, with its type, labels and help.
func TestMetricsOfTheAgentAreOnItsPage(t *testing.T) {
	t.Parallel()
	s := newSite(t, shipped)
	a := s.device(t, "device").agent(t)
	a.start(t, "--set", `agent.shadows=[{}]`, "--set", "agent.jobs.allow=rotate", "--set", `agent.tunnel.services={"SSH": 22}`, "--set", "agent.defender.interval=5m")
	a.await(t, sent)
	_, text := a.request(t, "GET", "/metrics", nil)
	page, err := os.ReadFile("../../docs/agent.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented, served []string
	labels := map[string]string{} // of the page, by metric
	for _, row := range regexp.MustCompile("(?m)^\\| `(iot_device_\\w+)` \\| (gauge|counter)(.*?) \\| (.+) \\|$").FindAllStringSubmatch(string(page), -1) {
		documented = append(documented, row[1]+" "+row[2]+" "+row[4])
		labels[row[1]] = row[3]
	}
	for _, family := range regexp.MustCompile(`(?m)^# HELP (\S+) (.*)\n# TYPE (\S+) (\S+)\n((?:[^#].*\n)*)`).FindAllStringSubmatch(text, -1) {
		name := family[1]
		served = append(served, name+" "+family[4]+" "+family[2])
		if family[3] != name {
			t.Errorf("TYPE of %s follows HELP of %s", family[3], name)
		}
		for line := range strings.Lines(family[5]) {
			if !regexp.MustCompile(`^` + name + `(\{.*\})? \S+\n$`).MatchString(line) {
				t.Errorf("a line of %s: %s", name, line)
			}
			for _, label := range regexp.MustCompile(`(\w+)="`).FindAllStringSubmatch(line, -1) {
				if !strings.Contains(labels[name], "`"+label[1]+"`") {
					t.Errorf("the page has no label %s of %s", label[1], name)
				}
			}
		}
		text = strings.Replace(text, family[0], "", 1)
	}
	slices.Sort(documented)
	slices.Sort(served)
	if diff := cmp.Diff(documented, served); diff != "" || text != "" {
		t.Errorf("documented (-) and served (+):\n%s\nand %q", diff, text)
	}
}
