package app_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"postcall/pkg/elevenlabs"
	"postcall/pkg/openaitest"
)

// free is an address that nobody listens on.
func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// scraped is what a process tells Prometheus: each sample by its name and
// labels, as `name{a="b"}`.
type scraped map[string]float64

// sum adds up the samples whose names and labels match.
func (s scraped) sum(pattern string) (sum float64) {
	re := regexp.MustCompile("^" + pattern + "$")
	for name, v := range s {
		if re.MatchString(name) {
			sum += v
		}
	}
	return sum
}

func scrape(t *testing.T, address string) scraped {
	t.Helper()
	resp, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%d %v", resp.StatusCode, err)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation) // what any Prometheus can read
	families, err := parser.TextToMetricFamilies(strings.NewReader(string(text)))
	if err != nil {
		t.Fatalf("Prometheus could not read it: %v", err)
	}
	all := scraped{}
	for name, f := range families {
		if f.GetHelp() == "" {
			t.Errorf("%s has no help", name)
		}
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			slices.Sort(labels)
			key := name + "{" + strings.Join(labels, ",") + "}"
			switch {
			case m.GetCounter() != nil:
				all[key] = m.GetCounter().GetValue()
			case m.GetGauge() != nil:
				all[key] = m.GetGauge().GetValue()
			case m.GetSummary() != nil:
				all[key] = float64(m.GetSummary().GetSampleCount())
			case m.GetHistogram() != nil:
				all[key] = float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return all
}

// What both processes tell Prometheus is what has happened, under bounded
// labels, whatever a stranger sends.
func TestMetrics(t *testing.T) {
	t.Parallel()
	ai := openaitest.New(t, openaitest.WithReply(func(r openaitest.Request) openaitest.Reply {
		if strings.Contains(string(r.Body), "сломанная") {
			return openaitest.Error(http.StatusBadRequest, "invalid_request_error", "", "", "no")
		}
		return openaitest.Success()
	}))
	i := install(t, ai, nil)
	ingest, worker := free(t), free(t)
	i.env["METRICS_ADDR"] = ingest
	i.start("ingest")
	i.env["METRICS_ADDR"] = worker
	_, out := i.process("worker")
	eventually(t, func() string {
		resp, err := http.Get("http://" + worker + "/health/ready")
		if err != nil {
			return err.Error() + out.String()
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return resp.Status
		}
		return ""
	})
	for n := range 3 {
		i.send(callBody(fmt.Sprintf("conv_metrics_%d", n)))
	}
	i.send(callBody("conv_metrics_0"))
	for n := range 50 { // types that a sender makes up must not make labels
		i.send(fmt.Appendf(nil, `{"type":"made_up_%d","event_timestamp":1,"data":{}}`, n))
	}
	i.send([]byte(strings.ReplaceAll(string(callBody("conv_metrics_bad")), "Двухкомнатную", "сломанная")))
	forged := callBody("conv_forged")
	if status := i.forge(elevenlabs.Sign("wsec_other", time.Now(), forged), forged); status != http.StatusUnauthorized {
		t.Fatalf("a forged delivery was answered %d", status)
	}
	i.wait("3", `select count(*) from crm_dispatches where status = 'delivered'`)
	i.wait("dead", `select analysis_state from webhook_events where conversation_id = 'conv_metrics_bad'`)

	got := scrape(t, ingest)
	for pattern, want := range map[string]float64{
		`postcall_deliveries_total\{type="post_call_transcription",verdict="kept"\}`:      4,
		`postcall_deliveries_total\{type="post_call_transcription",verdict="duplicate"\}`: 1,
		`postcall_deliveries_total\{type="other",verdict="kept"\}`:                        50,
		`postcall_deliveries_total\{.*verdict="rejected"\}`:                               1,
		`postcall_verification_failures_total\{reason="mismatch"\}`:                       1,
		`postcall_delivery_duration_seconds\{verdict="kept"\}`:                            54,
		`postcall_spool_bytes\{\}`:                                                        0,
		`postcall_build_info\{.*\}`:                                                       1,
		`postcall_queue_readable\{\}`:                                                     1,
		`pgxpool_max_conns\{pool="ingest"\}`:                                              8,
		`river_insert_count_total\{status="ok"\}`:                                         4,
	} {
		if v := got.sum(pattern); v != want {
			t.Errorf("ingest: %s is %v, want %v", pattern, v, want)
		}
	}
	for _, name := range []string{`go_goroutines\{\}`, `process_resident_memory_bytes\{\}`, `postcall_database_duration_seconds\{operation="query",pool="ingest",result="ok"\}`} {
		if got.sum(name) == 0 {
			t.Errorf("ingest: no %s", name)
		}
	}

	// Depths are remembered for a few seconds.
	eventually(t, func() string {
		if v := scrape(t, worker).sum(`postcall_dead_letters\{kind="analyze"\}`); v != 1 {
			return fmt.Sprintf("%v dead letters", v)
		}
		return ""
	})
	got = scrape(t, worker)
	for pattern, want := range map[string]float64{
		`postcall_analyze_jobs_total\{code="",outcome="done"\}`:                          3,
		`postcall_analyze_jobs_total\{code="invalid",outcome="cancel"\}`:                 1,
		`postcall_analyze_duration_seconds\{outcome="done"\}`:                            3,
		`postcall_analyze_attempts\{\}`:                                                  4,
		`postcall_analyze_unpriced_total\{\}`:                                            3, // gpt-test has no price
		`postcall_export_jobs_total\{code="",outcome="done",target="markdown"\}`:         3,
		`postcall_dispatches_total\{status="delivered",target="markdown"\}`:              3,
		`postcall_queue_wait_seconds\{kind="analyze"\}`:                                  4,
		`postcall_queue_jobs\{queue="analyze",state="available"\}`:                       0,
		`postcall_queue_paused\{queue="analyze"\}`:                                       0,
		`postcall_queue_oldest_age_seconds\{queue="analyze"\}`:                           0,
		`river_work_count_total\{kind="crm_markdown",queue="crm_markdown",status="ok"\}`: 3,
	} {
		if v := got.sum(pattern); v != want {
			t.Errorf("worker: %s is %v, want %v", pattern, v, want)
		}
	}
	if got.sum(`postcall_analyze_tokens_total\{kind="input"\}`) == 0 {
		t.Error("no tokens were counted")
	}
	for name := range got {
		if strings.Contains(name, "conv_") || strings.Contains(name, "attempt=") {
			t.Errorf("a label that has no bound: %s", name)
		}
	}
}

// forge posts a body under any signature.
func (i *installation) forge(signature string, body []byte) int {
	i.t.Helper()
	req, err := http.NewRequestWithContext(i.t.Context(), http.MethodPost, i.post.URL, strings.NewReader(string(body)))
	if err != nil {
		i.t.Fatal(err)
	}
	req.Header.Set(elevenlabs.SignatureHeader, signature)
	resp, err := i.post.Client.Do(req)
	if err != nil {
		i.t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}
