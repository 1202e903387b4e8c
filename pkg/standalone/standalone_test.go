package standalone_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap"

	"postcall/pkg/config"
	"postcall/pkg/pgtest"
	"postcall/pkg/standalone"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// Ingest and worker in one process each tell Prometheus their own figures.
func TestMetricsOfBoth(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	i, err := standalone.Start(ctx, standalone.Options{
		Env: config.Map(map[string]string{
			"DATABASE_URL": pgtest.URL(t), "WEBHOOK_SECRET": "wsec_standalone", "PORT": "0", "BIND_ADDR": "127.0.0.1", "METRICS_ADDR": address,
			"SPOOL_PATH": filepath.Join(dir, "events.jsonl"), "AUDIO_URL": filepath.Join(dir, "audio"), "CRM_MD_PATH": filepath.Join(dir, "crm.md"),
		}, nil),
		Logger: func(config.Common, string) (*zap.Logger, error) { return zap.NewNop(), nil },
		Say:    func(string, ...any) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	for at, name := range map[string]string{address: "postcall_bodies ", i.Worker.MetricsAddr: "postcall_analyze_attempts_count "} {
		resp, err := http.Get("http://" + at + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		if err = errors.Join(err, resp.Body.Close()); err != nil || !strings.Contains(string(text), "\n"+name) {
			t.Errorf("%s does not tell %s: %v", at, name, err)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	cancel()
	if err := i.Wait(); err != nil {
		t.Error(err)
	}
}
