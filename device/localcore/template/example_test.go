package template_test

import (
	"fmt"

	"example.com/fleety/device/localcore/template"
)

func Example() {
	t, err := template.Parse([]byte(`{
		"Parameters": {"serial": {"Type": "String"}},
		"Mappings": {"Sites": {"USA": {"url": "https://ameri.ca"}}},
		"Resources": {
			"thing": {"Type": "AWS::IoT::Thing", "Properties": {"ThingName": {"Fn::Sub": "fleety_${serial}"}}}
		},
		"DeviceConfiguration": {"url": {"Fn::FindInMap": ["Sites", {"Ref": "site"}, "url"]}}
	}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, site := range []string{"USA", "Mars"} {
		plan, err := t.Resolve(template.Input{Parameters: map[string]string{"serial": "2974685", "site": site}})
		if err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Println(plan.Thing.Name, plan.DeviceConfiguration["url"], plan.Undeclared)
	}
	// Output:
	// fleety_2974685 https://ameri.ca [site]
	// InvalidParameters (400): Fn::FindInMap: map "Sites" has no key "Mars"; it has "USA"
}
