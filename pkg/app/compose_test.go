package app_test

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
)

// compose.yaml is what Docker Compose takes, and holds what is promised of it.
func TestCompose(t *testing.T) {
	t.Parallel()
	load := func(env ...string) (*types.Project, error) {
		o, err := cli.NewProjectOptions([]string{filepath.Join("..", "..", "compose.yaml")}, cli.WithEnv(env), cli.WithProfiles([]string{"sight"}))
		if err != nil {
			t.Fatal(err)
		}
		return o.LoadProject(t.Context())
	}
	if _, err := load(); err == nil {
		t.Error("it starts without a password for the database")
	}
	p, err := load("POSTGRES_PASSWORD=check")
	if err != nil {
		t.Fatal(err)
	}
	names := p.ServiceNames()
	slices.Sort(names)
	if want := []string{"grafana", "ingest", "migrate", "postgres", "prometheus", "worker"}; !slices.Equal(names, want) {
		t.Errorf("services %v, want %v", names, want)
	}
	for name, s := range p.Services {
		for _, port := range s.Ports {
			if port.HostIP != "127.0.0.1" {
				t.Errorf("%s is open to the world on %s: TLS ends elsewhere", name, port.Published)
			}
		}
		for _, v := range s.Volumes {
			if v.Type == types.VolumeTypeBind && !v.ReadOnly {
				t.Errorf("%s may write to %s", name, v.Source)
			}
		}
		if name == "postgres" || name == "grafana" { // their images need both
			continue
		}
		if !s.ReadOnly || !slices.Contains(s.CapDrop, "ALL") || !slices.Contains(s.SecurityOpt, "no-new-privileges:true") {
			t.Errorf("%s has more rights than it needs", name)
		}
	}
	for _, name := range []string{"ingest", "worker"} {
		s := p.Services[name]
		if s.HealthCheck == nil || !slices.Equal(s.HealthCheck.Test, types.HealthCheckTest{"CMD", "/usr/local/bin/" + name, "healthcheck"}) {
			t.Errorf("%s is not asked for its health: %+v", name, s.HealthCheck)
		}
		if s.DependsOn["migrate"].Condition != types.ServiceConditionCompletedSuccessfully {
			t.Errorf("%s does not wait for the migrations", name)
		}
		if s.StopGracePeriod == nil || s.Environment["METRICS_ADDR"] == nil {
			t.Errorf("%s has no time to stop in, or no figures", name)
		}
	}
}
