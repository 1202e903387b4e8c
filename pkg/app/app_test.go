package app_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"postcall/pkg/elevenlabs"
	"postcall/pkg/openaitest"
	"postcall/pkg/sender"
)

// The whole way of a call: from a signed delivery to a line in crm.md.
func TestWholeWay(t *testing.T) {
	t.Parallel()
	i := install(t, openaitest.New(t), nil)
	i.ingest()
	i.worker()
	a := i.send(callBody("conv_whole_way"))
	if a.Duplicate {
		t.Error("a first delivery is no duplicate")
	}
	i.wait("done", `select analysis_state from webhook_events where id = $1`, a.EventID)
	i.wait("delivered", `select status from crm_dispatches where event_id = $1`, a.EventID)
	for sql, want := range map[string]string{
		`select processed from webhook_events where id = $1`:                                                                 "true",
		`select source from webhook_events where id = $1`:                                                                    "webhook",
		`select request_id from webhook_events where id = $1`:                                                                a.RequestID,
		`select count(*) from analyses where event_id = $1`:                                                                  "1",
		`select analyzer from analyses where event_id = $1`:                                                                  "openai",
		`select tokens_in > 0 and duration_ms >= 0 and request_id is not null from analyses where event_id = $1`:             "true",
		`select count(*) from river_job where kind = 'analyze' and state = 'completed' and (args->>'event_id')::bigint = $1`: "1",
	} {
		if got := i.text(sql, a.EventID); got != want {
			t.Errorf("%s: got %s, want %s", sql, got, want)
		}
	}
	if got := i.text(`select metadata->>'request_id' from river_job where kind = 'crm_markdown'`); got != a.RequestID {
		t.Errorf("the request id does not travel with the jobs: %s", got)
	}
	crm, err := os.ReadFile(i.crm)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(crm), "conv") || i.entries() != 1 {
		t.Errorf("crm.md:\n%s", crm)
	}
}

// The built-in analyser needs no network and says so.
func TestBuiltin(t *testing.T) {
	t.Parallel()
	i := install(t, nil, nil)
	i.ingest()
	i.worker()
	a := i.send(callBody("conv_builtin"))
	i.wait("builtin", `select analyzer from analyses where event_id = $1`, a.EventID)
}

func TestOneDeliveryTwentyTimesAtOnce(t *testing.T) {
	t.Parallel()
	i := install(t, nil, nil)
	i.ingest()
	i.worker()
	answers := make([]sender.Answer, 20)
	var g errgroup.Group
	for n := range answers {
		g.Go(func() (err error) {
			answers[n], err = i.post.Send(t.Context(), callBody("conv_20"))
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	first := 0
	for _, a := range answers {
		if a.Status != http.StatusOK || a.EventID != answers[0].EventID {
			t.Errorf("answer %+v", a)
		}
		if !a.Duplicate {
			first++
		}
	}
	if first != 1 {
		t.Errorf("%d answers say duplicate:false, want 1", first)
	}
	i.wait("delivered", `select status from crm_dispatches`)
	for sql, want := range map[string]string{
		`select count(*) from webhook_events`:                   "1",
		`select deliveries from webhook_events`:                 "20",
		`select count(*) from river_job where kind = 'analyze'`: "1",
		`select count(*) from analyses`:                         "1",
		`select count(*) from crm_dispatches`:                   "1",
	} {
		if got := i.text(sql); got != want {
			t.Errorf("%s: got %s, want %s", sql, got, want)
		}
	}
	if n := i.entries(); n != 1 {
		t.Errorf("%d entries in crm.md", n)
	}
}

// What is refused: 4xx with a problem that says what is wrong, and nothing in
// webhook_events.
func TestRefused(t *testing.T) {
	t.Parallel()
	i := install(t, nil, map[string]string{"WEBHOOK_MAX_BODY_BYTES": "4096"})
	i.ingest()
	body := callBody("conv_refused")
	now := time.Now()
	tests := []struct {
		name      string
		method    string
		body      []byte
		signature string // "-" for no header
		status    int
		detail    string
	}{
		{"no signature", http.MethodPost, body, "-", 401, "missing"},
		{"malformed", http.MethodPost, body, "t=now,v0=yes", 401, "malformed"},
		{"expired", http.MethodPost, body, elevenlabs.Sign(secret, now.Add(-2*time.Hour), body), 401, "too old"},
		{"future", http.MethodPost, body, elevenlabs.Sign(secret, now.Add(2*time.Hour), body), 401, "future"},
		{"another secret", http.MethodPost, body, elevenlabs.Sign("wsec_other", now, body), 401, "does not match"},
		{"another body", http.MethodPost, append([]byte(" "), body...), elevenlabs.Sign(secret, now, body), 401, "does not match"},
		{"too large", http.MethodPost, make([]byte, 5000), elevenlabs.Sign(secret, now, make([]byte, 5000)), 413, "larger than"},
		{"wrong method", http.MethodGet, nil, "-", 405, "method"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			req, err := http.NewRequestWithContext(t.Context(), tt.method, i.post.URL, strings.NewReader(string(tt.body)))
			if err != nil {
				t.Fatal(err)
			}
			if tt.signature != "-" {
				req.Header.Set(elevenlabs.SignatureHeader, tt.signature)
			}
			req.Header.Set("X-Request-Id", "sane-request-id-1")
			resp, err := i.post.Client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			text, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			var p struct {
				Title, Detail string
				Status        int
				RequestID     string `json:"request_id"`
			}
			if err := json.Unmarshal(text, &p); err != nil {
				t.Fatalf("%s: %v", text, err)
			}
			if resp.StatusCode != tt.status || p.Status != tt.status || !strings.Contains(p.Detail, tt.detail) {
				t.Errorf("answered %d %s, want %d with %q", resp.StatusCode, text, tt.status, tt.detail)
			}
			if ct := resp.Header.Get("Content-Type"); ct != "application/problem+json" {
				t.Errorf("content type %q", ct)
			}
			if p.RequestID != "sane-request-id-1" || resp.Header.Get("X-Request-Id") != p.RequestID {
				t.Errorf("request id %q", p.RequestID)
			}
			if good := elevenlabs.Sign(secret, now, body); strings.Contains(string(text), good[len(good)-64:]) {
				t.Error("the answer holds the expected signature")
			}
		})
	}
	t.Cleanup(func() { // the subtests have ended
		var n int
		if err := i.pool.QueryRow(context.Background(), `select count(*) from webhook_events`).Scan(&n); err != nil || n != 0 {
			t.Errorf("%d events were kept, %v", n, err)
		}
	})
}

// What is odd but signed is kept and answered with 200.
func TestKept(t *testing.T) {
	t.Parallel()
	i := install(t, nil, nil)
	i.ingest()
	i.worker()
	tests := []struct {
		name  string
		body  string
		typ   string
		state string
	}{
		{"not JSON", "hello", "unparseable", "skipped"},
		{"nothing at all", "", "unparseable", "skipped"},
		{"JSON null", "null", "unknown", "skipped"},
		{"a list", "[1,2]", "unknown", "skipped"},
		{"a type of tomorrow", `{"type":"agent_qa","event_timestamp":1795000110,"data":{"conversation_id":"c9"}}`, "agent_qa", "skipped"},
		{"an empty transcript", `{"type":"post_call_transcription","event_timestamp":1795000110,"data":{"conversation_id":"c10","transcript":[]}}`, "post_call_transcription", "skipped"},
		{"no transcript", `{"type":"post_call_transcription","event_timestamp":1795000110,"data":{"conversation_id":"c11"}}`, "post_call_transcription", "skipped"},
		{"data is no object", `{"type":"post_call_transcription","event_timestamp":1795000110,"data":"x"}`, "post_call_transcription", "skipped"},
		{"NUL and half a surrogate pair", `{"type":"post_call_transcription","event_timestamp":1795000110,"data":{"conversation_id":"c12","transcript":[{"role":"user","message":"a\u0000b \ud83d"}]}}`, "post_call_transcription", "done"},
		{"bytes that are not UTF-8", "{\"type\":\"post_call_transcription\",\"event_timestamp\":1795000110,\"data\":{\"conversation_id\":\"c\xff13\",\"transcript\":[{\"role\":\"user\",\"message\":\"a\xfe\"}]}}", "post_call_transcription", "done"},
		{"a number that numeric refuses", `{"type":"x","n":1e999999}`, "x", "skipped"},
		{"very deep", strings.Repeat(`{"a":`, 9000) + "1" + strings.Repeat("}", 9000), "unknown", "skipped"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a, err := i.post.Send(t.Context(), []byte(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			if a.Status != http.StatusOK || a.Duplicate {
				t.Fatalf("answered %+v", a)
			}
			if again, err := i.post.Send(t.Context(), []byte(tt.body)); err != nil || !again.Duplicate || again.EventID != a.EventID {
				t.Errorf("sent again: %+v, %v", again, err)
			}
			if typ := i.text(`select event_type from webhook_events where id = $1`, a.EventID); typ != tt.typ {
				t.Errorf("kept as %s, want %s", typ, tt.typ)
			}
			i.wait(tt.state, `select analysis_state from webhook_events where id = $1`, a.EventID)
			if tt.state == "skipped" {
				if note := i.text(`select processor_note from webhook_events where id = $1`, a.EventID); note == "NULL" {
					t.Error("skipped without a reason")
				}
			}
			// Whatever payload can hold, the exact body can be had back.
			exact := i.text(`select encode(coalesce(raw_body, ''), 'escape') from webhook_events where id = $1`, a.EventID)
			if raw := i.text(`select raw_body is not null from webhook_events where id = $1`, a.EventID); raw == "true" && len(tt.body) > 0 && exact == "" {
				t.Error("the raw body is lost")
			}
		})
	}
}

// Every payload that is at hand is taken and stored.
func TestPayloads(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../elevenlabs/testdata/made/*.json")
	if err != nil || len(files) < 8 {
		t.Fatalf("made payloads: %v, %v", files, err)
	}
	if dir := os.Getenv("POSTCALL_CAPTURED_DIR"); dir != "" {
		captured, err := filepath.Glob(filepath.Join(dir, "*.json"))
		if err != nil || len(captured) == 0 {
			t.Fatalf("captured payloads: %v, %v", captured, err)
		}
		files = append(files, captured...)
	} else {
		t.Log("POSTCALL_CAPTURED_DIR is not set: captured payloads are left out")
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			body, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			// A database for each: published examples share their ids.
			i := install(t, nil, nil)
			i.ingest()
			i.worker()
			a := i.send(body)
			var envelope struct {
				Type string `json:"type"`
				Data struct {
					ConversationID string `json:"conversation_id"`
				} `json:"data"`
			}
			if err := json.Unmarshal(body, &envelope); err != nil {
				t.Fatal(err)
			}
			if envelope.Type == "" {
				envelope.Type = "post_call_transcription" // the Node service's older form
			}
			if envelope.Data.ConversationID == "" {
				envelope.Data.ConversationID = "NULL"
			}
			got := i.text(`select event_type || ' ' || coalesce(conversation_id, 'NULL') from webhook_events where id = $1`, a.EventID)
			if want := envelope.Type + " " + envelope.Data.ConversationID; got != want {
				t.Errorf("kept as %s, want %s", got, want)
			}
			if got := i.text(`select raw_body is not null or payload = $2::jsonb or exists (select from call_audio a where a.event_id = e.id) from webhook_events e where id = $1`, a.EventID, safeJSON(body)); got != "true" {
				t.Error("the payload is not what was sent")
			}
			i.wait("false", `select analysis_state in ('queued', 'running') from webhook_events where id = $1`, a.EventID)
			if got := i.text(`select analysis_state || ': ' || coalesce(processor_note, '') from webhook_events where id = $1`, a.EventID); strings.HasPrefix(got, "dead") {
				t.Error(got)
			}
		})
	}
}

// safeJSON is the body where jsonb takes it, else an object that equals none.
func safeJSON(body []byte) string {
	if strings.Contains(string(body), `\u0000`) || strings.Contains(string(body), `\ud83d"`) {
		return `{"not": "comparable"}`
	}
	return string(body)
}

// With ANALYZE_AUTO off calls are kept and measured, and nothing is queued.
func TestWithoutAuto(t *testing.T) {
	t.Parallel()
	i := install(t, nil, map[string]string{"ANALYZE_AUTO": "false"})
	i.ingest()
	a := i.send(callBody("conv_manual"))
	if got := i.text(`select analysis_state || ' ' || processed from webhook_events where id = $1`, a.EventID); got != "none false" {
		t.Errorf("state %s", got)
	}
	if got := i.text(`select count(*) from river_job where kind = 'analyze'`); got != "0" {
		t.Errorf("%s jobs", got)
	}
	// One whose body was taken away with age has nothing to be measured.
	if _, err := i.pool.Exec(t.Context(), `
		insert into webhook_events (event_type, event_timestamp, payload, dedup_key)
		values ('post_call_transcription', 1, '{"removed": "retention"}', 'emptied')`); err != nil {
		t.Fatal(err)
	}
	i.worker()
	i.wait("0", `select count(*) from webhook_events where metrics is null`)
	if got := i.text(`select string_agg(analysis_state || ' ' || coalesce(metrics ->> 'turns', 'nothing'), ',' order by id) from webhook_events`); got != "none 2,none nothing" {
		t.Errorf("measured: %s", got)
	}
}

// A call that comes both as a transcript and as OpenTelemetry spans is
// analysed once.
func TestOneCallInTwoForms(t *testing.T) {
	t.Parallel()
	i := install(t, nil, nil)
	i.ingest()
	for _, file := range []string{"19-made-russian-sip-inbound-full.json", "30-made-otel-spans-ru.json"} {
		body, err := os.ReadFile(filepath.Join("../elevenlabs/testdata/made", file))
		if err != nil {
			t.Fatal(err)
		}
		i.send(body)
	}
	i.worker()
	i.wait("0", `select count(*) from webhook_events where analysis_state in ('queued', 'running')`)
	if got := i.text(`select string_agg(analysis_state, ',' order by analysis_state) from webhook_events`); got != "done,skipped" {
		t.Errorf("states %s", got)
	}
	if got := i.text(`select count(*) from analyses`); got != "1" {
		t.Errorf("%s analyses", got)
	}
	if note := i.text(`select processor_note from webhook_events where analysis_state = 'skipped'`); !strings.Contains(note, "same call as event") {
		t.Errorf("note %q", note)
	}
}

func TestRequestIDs(t *testing.T) {
	t.Parallel()
	i := install(t, nil, nil)
	i.ingest()
	for id, kept := range map[string]bool{
		"0123456789abcdef": true, "short": false, "with space in it": false,
		"line\tbreak-12345": false, strings.Repeat("x", 200): false, "": false,
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, i.url+"/health", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Request-Id", id)
		resp, err := i.post.Client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		got := resp.Header.Get("X-Request-Id")
		if (got == id) != kept || got == "" {
			t.Errorf("id %q came back as %q", id, got)
		}
	}
}

// No phone, name or word of a call stands in a log line at info level.
func TestLogsAreSilentAboutPeople(t *testing.T) {
	t.Parallel()
	i := install(t, nil, nil)
	i.ingest()
	body, err := os.ReadFile("../elevenlabs/testdata/made/20-made-russian-utf8-raw.json")
	if err != nil {
		t.Fatal(err)
	}
	i.send(body)
	lines := i.logs.FilterMessage("delivery").All()
	if len(lines) != 1 {
		t.Fatalf("%d lines for one delivery", len(lines))
	}
	text := fmt.Sprint(lines[0].ContextMap())
	for _, private := range []string{"9990000002", "Ольга", "квартир", secret} {
		if strings.Contains(text, private) {
			t.Errorf("the log line holds %q: %s", private, text)
		}
	}
	for _, key := range []string{"request_id", "event_id", "call", "verdict", "bytes", "duration_ms"} {
		if _, ok := lines[0].ContextMap()[key]; !ok {
			t.Errorf("the log line lacks %s: %s", key, text)
		}
	}
}

// A flood of what is refused does not flood the log: lines are left out and
// counted, those of kept deliveries never.
func TestFloodedLog(t *testing.T) {
	t.Parallel()
	const flood, kept = 1000, 100
	i := install(t, nil, map[string]string{"WEBHOOK_MAX_BODY_BYTES": "4096", "LOG_LEVEL": "info", "METRICS_ADDR": free(t)})
	_, out := i.start("ingest")
	var g errgroup.Group
	g.SetLimit(16)
	large := make([]byte, 5000)
	signature := elevenlabs.Sign(secret, time.Now(), large)
	for n := range flood {
		g.Go(func() error {
			if status := i.forge(signature, large); status != http.StatusRequestEntityTooLarge {
				return fmt.Errorf("answered %d", status)
			}
			if n%(flood/kept) == 0 {
				_, err := i.post.Send(t.Context(), callBody(fmt.Sprintf("conv_flood_%d", n)))
				return err
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	text := out.String()
	lines, dropped := strings.Count(text, `"verdict":"too_large"`), int(scrape(t, i.env["METRICS_ADDR"]).sum(`postcall_log_lines_dropped_total\{\}`))
	if lines+dropped != flood || lines == 0 || dropped < flood/2 {
		t.Errorf("%d lines of %d refused deliveries, %d were left out", lines, flood, dropped)
	}
	if n := strings.Count(text, `"verdict":"kept"`); n != kept {
		t.Errorf("%d lines of %d kept deliveries", n, kept)
	}
}
