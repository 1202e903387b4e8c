package standalone_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
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
	dir, database := t.TempDir(), pgtest.URL(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	start := func(address string) (*standalone.Installation, error) {
		return standalone.Start(ctx, standalone.Options{
			Env: config.Map(map[string]string{
				"DATABASE_URL": database, "WEBHOOK_SECRET": "wsec_standalone", "PORT": "0", "BIND_ADDR": "127.0.0.1", "METRICS_ADDR": address,
				"SPOOL_PATH": filepath.Join(dir, "events.jsonl"), "AUDIO_URL": filepath.Join(dir, "audio"), "CRM_MD_PATH": filepath.Join(dir, "crm.md"),
			}, nil),
			Logger: func(config.Common, string) (*zap.Logger, error) { return zap.NewNop(), nil },
			Say:    func(string, ...any) {},
		})
	}
	// Both the port and the next one must be free; others take ports meanwhile.
	var (
		i       *standalone.Installation
		address string
		err     error
	)
	for range 10 {
		address = freeAddress(t)
		if i, err = start(address); !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
	}
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

// freeAddress is one that nobody listened on just now.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
