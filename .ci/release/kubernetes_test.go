package release_test

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/yannh/kubeconform/pkg/validator"
	"sigs.k8s.io/yaml"
)

func fleetJob(t *testing.T) []byte {
	manifest, err := os.ReadFile(filepath.Join("..", "..", "device", "packaging", "kubernetes", "fleet-job.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return manifest
}

// kubeconform finds no fault with the manifest, and does find each of a kind of fault: fields of no
// meaning at any depth, values of another type, what is missing.
func TestKubernetesManifestIsValid(t *testing.T) {
	t.Parallel()
	conform, err := validator.New([]string{batchSchemas(t)}, validator.Opts{Strict: true})
	if err != nil {
		t.Fatal(err)
	}
	status := func(manifest []byte) (validator.Status, error) {
		results := conform.Validate("fleet-job.yaml", io.NopCloser(bytes.NewReader(manifest)))
		if len(results) != 1 {
			t.Fatalf("%d documents", len(results))
		}
		return results[0].Status, results[0].Err
	}
	manifest := fleetJob(t)
	if got, err := status(manifest); got != validator.Valid {
		t.Errorf("status %d: %v", got, err)
	}
	for name, change := range map[string][2]string{
		"misspelt field of the Job":     {"\nspec:", "\nspecs:"},
		"misspelt field of its spec":    {"parallelism:", "paralellism:"},
		"misspelt field of a container": {"readOnlyRootFilesystem:", "readonlyRootFilesystem:"},
		"misspelt field of a volume":    {"defaultMode:", "mode:"},
		"field at the wrong depth":      {"backoffLimit: 0", "restartPolicy: Never"},
		"text instead of a number":      {"completions: 5", "completions: five"},
		"number instead of text":        {"name: iot-fleet\n          image", "name: 5\n          image"},
		"missing name of a container":   {"- name: iot-fleet\n          image", "- image"},
		"missing mount path":            {"name: reports, mountPath: /reports", "name: reports"},
		"value instead of a list":       {"drop: [ALL]", "drop: ALL"},
		"missing claim of the volume":   {"claimName: reports", "readOnly: false"},
		"text instead of a map":         {`requests: {cpu: "1", memory: 512Mi}`, "requests: 512Mi"},
	} {
		broken := strings.Replace(string(manifest), change[0], change[1], 1)
		if broken == string(manifest) {
			t.Errorf("%s: the manifest has no %q", name, change[0])
		} else if got, _ := status([]byte(broken)); got != validator.Invalid {
			t.Errorf("%s: status %d, want invalid", name, got)
		}
	}
}

// batchSchemas writes the strict JSON schema of a Job as kubeconform reads it, and returns the
// pattern of its path. Its source is the OpenAPI document of Kubernetes 1.24 among the test data of
// a module that kubeconform needs, so no network is used; later versions of Kubernetes add fields,
// and remove none.
func batchSchemas(t *testing.T) string {
	t.Helper()
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "k8s.io/kube-openapi").Output()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "pkg", "openapiconv", "testdata_generated_from_k8s", "v3_batch.v1.json"))
	if err != nil {
		t.Fatal(err)
	}
	var document map[string]any
	if err := json.Unmarshal(data, &document); err != nil {
		t.Fatal(err)
	}
	for _, schema := range document["components"].(map[string]any)["schemas"].(map[string]any) {
		if schema := schema.(map[string]any); schema["properties"] != nil {
			schema["additionalProperties"] = false
		} else if schema["format"] == "int-or-string" {
			schema["type"] = []string{"integer", "string"}
		}
	}
	document["allOf"] = []any{map[string]any{"$ref": "#/components/schemas/io.k8s.api.batch.v1.Job"}}
	if data, err = json.Marshal(document); err != nil {
		t.Fatal(err)
	}
	schemas := t.TempDir()
	if err := os.WriteFile(filepath.Join(schemas, "job-batch-v1.json"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(schemas, "{{.ResourceKind}}{{.KindSuffix}}.json")
}

// What no schema says: each pod has a shard, and mounts only volumes that it has, and none runs as
// root.
func TestKubernetesJobRunsEveryShard(t *testing.T) {
	t.Parallel()
	type named struct{ Name string }
	var job struct {
		Spec struct {
			CompletionMode           string
			Completions, Parallelism int
			Template                 struct {
				Spec struct {
					SecurityContext struct{ RunAsNonRoot bool }
					Volumes         []named
					Containers      []struct {
						named
						Args         []string
						VolumeMounts []named
					}
				}
			}
		}
	}
	if err := yaml.Unmarshal(fleetJob(t), &job); err != nil {
		t.Fatal(err)
	}
	if spec := job.Spec; spec.CompletionMode != "Indexed" || spec.Completions != 5 || spec.Parallelism != 5 {
		t.Errorf("not an indexed Job with all five shards at once: %+v", spec)
	}
	pod := job.Spec.Template.Spec
	volumes := map[string]bool{}
	for _, volume := range pod.Volumes {
		volumes[volume.Name] = true
	}
	if len(pod.Containers) != 1 || !strings.Contains(strings.Join(pod.Containers[0].Args, " "), "--shard=$(JOB_COMPLETION_INDEX)/5") {
		t.Errorf("not one container with its shard: %+v", pod.Containers)
	}
	for _, container := range pod.Containers {
		for _, mount := range container.VolumeMounts {
			if !volumes[mount.Name] {
				t.Errorf("%s mounts %s, which is no volume", container.Name, mount.Name)
			}
		}
	}
	if !pod.SecurityContext.RunAsNonRoot {
		t.Error("the pod may run as root")
	}
}
