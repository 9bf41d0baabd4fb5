package awsiot_test

import (
	"testing"

	"example.com/fleety/device/awsiot"
)

func TestShadowTopicsAreThoseOfThePage(t *testing.T) {
	const classic, named = "$aws/things/T/shadow", "$aws/things/T/shadow/name/S"
	for topic, want := range map[string]bool{
		classic + "/get": true, named + "/update": true, classic + "/delete": true, "$aws/things/T/shadow/name/name/get": true,
		classic + "/get/accepted": false, classic + "/update/delta": false, "$aws/things//shadow/get": false,
		"$aws/things/T/shadow/name//get": false, "$aws/things/T/shadow/name/get": false, "$aws/things/T/jobs/get": false, classic + "/list": false,
		"$aws/things/T/shadow/Name/S/get": false, "things/T/shadow/get": false,
	} {
		got, ok := awsiot.ParseShadowTopic(topic)
		if ok != want || ok && got.String() != topic {
			t.Errorf("%s: %v %v", topic, got, ok)
		}
	}
	topic := awsiot.ShadowTopic{Thing: "T", Shadow: "S", Operation: awsiot.GetShadow}
	for got, want := range map[string]string{
		topic.Accepted(): named + "/get/accepted", topic.Rejected(): named + "/get/rejected",
		topic.Delta(): named + "/update/delta", topic.Documents(): named + "/update/documents",
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestJobsTopicsAreThoseOfThePage(t *testing.T) {
	const prefix = "$aws/things/T/jobs/"
	for topic, want := range map[string]awsiot.JobsTopic{
		"get":         {Thing: "T", Operation: awsiot.GetPendingJobExecutions},
		"start-next":  {Thing: "T", Operation: awsiot.StartNextPendingJobExecution},
		"j/get":       {Thing: "T", Operation: awsiot.DescribeJobExecution, Job: "j"},
		"$next/get":   {Thing: "T", Operation: awsiot.DescribeJobExecution, Job: awsiot.NextJob},
		"j/update":    {Thing: "T", Operation: awsiot.UpdateJobExecution, Job: "j"},
		"notify/x":    {Thing: "T", Other: "notify/x"},
		"j/cancel":    {Thing: "T", Other: "j/cancel"},
		"a/b/update":  {Thing: "T", Other: "a/b/update"},
		"get-next":    {Thing: "T", Other: "get-next"},
		"":            {Thing: "T"},
		"/update":     {Thing: "T", Other: "/update"},
		"update/get":  {Thing: "T", Operation: awsiot.DescribeJobExecution, Job: "update"},
		"start-next/": {Thing: "T", Other: "start-next/"},
	} {
		got, ok := awsiot.ParseJobsTopic(prefix + topic)
		if !ok || got != want || got.String() != prefix+topic {
			t.Errorf("%s: %+v %v", topic, got, ok)
		}
	}
	for _, topic := range []string{"", prefix + "notify", prefix + "notify-next", prefix + "j/get/accepted", prefix + "get/rejected", "$aws/things//jobs/get", "$aws/things/a/b/jobs/get", "things/T/jobs/get"} {
		if got, ok := awsiot.ParseJobsTopic(topic); ok {
			t.Errorf("%s: %+v", topic, got)
		}
	}
	if got := []string{awsiot.JobsNotify("T"), awsiot.JobsNotifyNext("T")}; got[0] != prefix+"notify" || got[1] != prefix+"notify-next" {
		t.Error(got)
	}
}

func FuzzServiceTopics(f *testing.F) {
	f.Add("$aws/things/T/shadow/name/S/get")
	f.Add("$aws/things/T/jobs/$next/get")
	f.Add("/name/S/get")
	f.Add("$aws/things//shadow/name/S/get")
	f.Add("things/T/shadow/name/S/get")
	f.Fuzz(func(t *testing.T, topic string) {
		if parsed, ok := awsiot.ParseShadowTopic(topic); ok && parsed.String() != topic {
			t.Errorf("%q parsed and printed is %q", topic, parsed)
		}
		if parsed, ok := awsiot.ParseJobsTopic(topic); ok && parsed.String() != topic {
			t.Errorf("%q parsed and printed is %q", topic, parsed)
		}
	})
}
