package app_test

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"postcall/pkg/elevenlabs"
	"postcall/pkg/openaitest"
	"postcall/pkg/promtest"
	"postcall/pkg/queue"
	"postcall/pkg/telemetry"
)

const (
	alertsPath    = "../../docs/alerts.yaml"
	dashboardPath = "../../docs/grafana/postcall.json"
)

// A real Prometheus scrapes both processes under load: every query of the
// dashboard returns data; no rule fires while all is well, and the right one
// when something is not.
func TestPrometheus(t *testing.T) {
	t.Parallel()
	broken := func(r openaitest.Request) bool { return strings.Contains(string(r.Body), "сломанная") }
	requests := make(chan struct{}, 1)
	requests <- struct{}{}
	ai := openaitest.New(t, openaitest.WithReply(func(r openaitest.Request) openaitest.Reply {
		select {
		case <-requests: // one is ill, once
			return openaitest.ServerError(http.StatusBadGateway)
		default:
		}
		if broken(r) {
			return openaitest.Error(http.StatusBadRequest, "invalid_request_error", "", "", "no")
		}
		return openaitest.Success()
	}))
	i := install(t, ai, map[string]string{"ANALYZE_MODEL": "gpt-5-mini", "LOG_LEVEL": "warn"})
	ingest, worker := free(t), free(t)
	i.env["METRICS_ADDR"] = ingest
	i.start("ingest")
	i.env["METRICS_ADDR"] = worker
	first, _ := i.process("worker")
	p, err := promtest.Start(t.Context(), promtest.Options{
		Dir: t.TempDir(), Rules: alertsPath, Interval: 500 * time.Millisecond,
		Jobs: map[string][]string{"postcall-ingest": {ingest}, "postcall-worker": {worker}},
	})
	if errors.Is(err, promtest.ErrMissing) {
		t.Skip("SKIPPED: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}()
	panels, err := promtest.Panels(dashboardPath)
	if err != nil || len(panels) < 40 {
		t.Fatalf("%d queries, %v", len(panels), err)
	}

	forged := callBody("conv_prometheus_forged")
	i.forge(elevenlabs.Sign("wsec_other", time.Now(), forged), forged)
	sent := 0
	load := func() {
		body := callBody(fmt.Sprintf("conv_prometheus_%d", sent))
		i.send(body)
		if sent%10 == 0 {
			i.send(body)
		}
		sent++
	}
	eventually(t, func() string {
		load()
		empty, err := p.Empty(t.Context(), panels)
		if err != nil {
			t.Fatal(err)
		}
		if len(empty) > 0 {
			return fmt.Sprintf("%d of %d queries return nothing: %+v", len(empty), len(panels), empty)
		}
		return ""
	})
	t.Logf("all %d queries of the dashboard return data", len(panels))

	firing := func(want ...string) {
		t.Helper()
		slices.Sort(want)
		eventually(t, func() string {
			load()
			got, err := p.Firing(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got, want) {
				return fmt.Sprintf("%v fire, want %v", got, want)
			}
			return ""
		})
		t.Logf("firing: %v", want)
	}
	if fired, err := p.Fired(t.Context()); err != nil || slices.Contains(fired, "PostcallDeliveriesFailed") || slices.Contains(fired, "PostcallDeadLetters") {
		t.Errorf("fired while all was well: %v, %v", fired, err)
	}
	firing()

	i.send([]byte(strings.ReplaceAll(string(callBody("conv_prometheus_bad")), "Двухкомнатную", "сломанная")))
	firing("PostcallDeadLetters")
	if _, err := i.pool.Exec(t.Context(), `update webhook_events set analysis_state = 'skipped' where analysis_state = 'dead'`); err != nil {
		t.Fatal(err)
	}
	firing()

	client, err := queue.NewInserter(i.pool, telemetry.Slog(zap.NewNop()))
	if err != nil {
		t.Fatal(err)
	}
	if err := client.QueuePause(t.Context(), queue.QueueAnalyze, nil); err != nil {
		t.Fatal(err)
	}
	firing("PostcallQueuePaused")
	if err := client.QueueResume(t.Context(), queue.QueueAnalyze, nil); err != nil {
		t.Fatal(err)
	}
	firing()

	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = first.Wait()
	firing("PostcallDown", "PostcallNoWorker")
	i.process("worker")
	firing()
}

// Each rule is tested by docs/alerts_test.yaml, for firing too, and every figure
// that the rules and the dashboard ask for is one that there is.
func TestSightDocuments(t *testing.T) {
	t.Parallel()
	read := func(path string) string {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	rules, tests, dashboard := read(alertsPath), read("../../docs/alerts_test.yaml"), read(dashboardPath)
	named := regexp.MustCompile(`- alert: (\w+)`).FindAllStringSubmatch(rules, -1)
	if len(named) < 15 {
		t.Fatalf("%d rules", len(named))
	}
	operations := read("../../docs/operations.md")
	for _, alert := range named {
		if !regexp.MustCompile(`exp_samples: \[\{ labels: 'ALERTS\{alertname="` + alert[1] + `"`).MatchString(tests) {
			t.Errorf("%s is not tested for firing", alert[1])
		}
		if !strings.Contains(operations, alert[1]) {
			t.Errorf("docs/operations.md does not say what to do about %s", alert[1])
		}
	}

	i := install(t, openaitest.New(t), nil)
	ingest, worker := free(t), free(t)
	i.env["METRICS_ADDR"] = ingest
	i.ingest()
	i.env["METRICS_ADDR"] = worker
	i.worker()
	i.send(callBody("conv_sight"))
	i.wait("delivered", `select status from crm_dispatches`)
	known := map[string]bool{}
	for _, address := range []string{ingest, worker} {
		for name := range scrape(t, address) {
			name, _, _ = strings.Cut(name, "{")
			known[name] = true
		}
	}
	suffix := regexp.MustCompile(`_(bucket|sum|count)$`)
	for _, name := range regexp.MustCompile(`\b(postcall|pgxpool|river|go|process)_\w+`).FindAllString(rules+dashboard, -1) {
		if !known[name] && !known[suffix.ReplaceAllString(name, "")] {
			t.Errorf("nobody measures %s", name)
		}
	}
}
