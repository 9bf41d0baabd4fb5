package release_test

import (
	"path/filepath"
	"testing"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
)

// The compose file is valid by the schema of the Compose specification, and the fleet reaches the
// emulator and its credentials.
func TestComposeFileIsValid(t *testing.T) {
	path := filepath.Join("..", "..", "device", "packaging", "compose.yaml")
	project, err := loader.LoadWithContext(t.Context(), types.ConfigDetails{
		ConfigFiles: []types.ConfigFile{{Filename: path}},
		Environment: types.Mapping{"REGISTRY": "registry.example.com/fleety", "IMAGE_VERSION": "v1.2.3"},
	}, func(o *loader.Options) { o.SetProjectName("fleety", true) })
	if err != nil {
		t.Fatal(err)
	}
	emulator, fleet := project.Services["emulator"], project.Services["fleet"]
	for name, want := range map[string]string{"emulator": "iot_core_local", "fleet": "iot_fleet"} {
		service := project.Services[name]
		if got := service.Image; got != "registry.example.com/fleety/"+want+":v1.2.3" {
			t.Errorf("%s runs %s", name, got)
		}
		if !service.ReadOnly || service.Privileged || len(service.CapDrop) != 1 || service.CapDrop[0] != "ALL" {
			t.Errorf("%s may do more than it needs: %+v", name, service)
		}
	}
	for _, port := range emulator.Ports {
		if port.HostIP != "127.0.0.1" {
			t.Errorf("port %d is open to others", port.Target)
		}
	}
	if fleet.NetworkMode != "service:emulator" || fleet.DependsOn["emulator"].Condition == "" {
		t.Errorf("the fleet does not reach the emulator: %s %+v", fleet.NetworkMode, fleet.DependsOn)
	}
	credentials := map[string]string{}
	for name, service := range project.Services {
		for _, volume := range service.Volumes {
			if volume.Source == "credentials" {
				credentials[name] = volume.Target
			}
		}
	}
	if credentials["emulator"] == "" || credentials["fleet"] == "" {
		t.Errorf("the credentials are mounted at %v", credentials)
	}
}
