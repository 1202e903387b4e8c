package app_test

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"postcall/pkg/openaitest"
	"postcall/pkg/queue"
	"postcall/pkg/telemetry"
)

// fault is what a fault of the model's server must do.
type fault struct {
	name     string
	reply    openaitest.Reply
	max      string        // ANALYZE_MAX_ATTEMPTS
	job      string        // the job's state
	used     int           // attempts
	soonest  time.Duration // until the next try, and
	latest   time.Duration // at the latest; 0 for no further try
	state    string
	code     string // failure_code; NULL while it is not given up
	requests int    // how often the model was asked
	paused   bool   // the queue, with one line of error
	note     string
}

// What each fault of the model's server does to the job, to the event and to
// what an operator sees. With -v it prints the table.
func TestFaults(t *testing.T) {
	t.Parallel()
	const (
		minute = time.Minute
		// The first wait is 10 s, a fifth more or less; the test takes some time.
		retrySoon, retryLate = 3 * time.Second, 12 * time.Second
	)
	retried := func(name string, requests int, reply openaitest.Reply) fault {
		return fault{name: name, reply: reply, max: "8", job: "retryable", used: 1, soonest: retrySoon, latest: retryLate,
			state: "queued", code: "NULL", requests: requests, note: "attempt 1 of 8 failed: "}
	}
	snoozed := func(name string, reply openaitest.Reply, wait time.Duration) fault {
		return fault{name: name, reply: reply, max: "8", job: "scheduled", soonest: wait - minute/4, latest: wait,
			state: "queued", code: "NULL", requests: 1, note: "waiting: "}
	}
	paused := func(name string, reply openaitest.Reply) fault {
		f := snoozed(name, reply, minute/2)
		f.paused = true
		return f
	}
	cancelled := func(name, code, note string, requests int, reply openaitest.Reply) fault {
		return fault{name: name, reply: reply, max: "8", job: "cancelled", used: 1, state: "dead", code: code, requests: requests, note: note}
	}
	faults := []fault{
		paused("401 wrong key", openaitest.Unauthorized()),
		paused("402 insufficient balance", openaitest.Error(402, "insufficient_balance", "", "", "Insufficient Balance")),
		paused("403 forbidden", openaitest.Error(403, "invalid_request_error", "unsupported_country_region_territory", "", "Country, region, or territory not supported")),
		paused("404 unknown model", openaitest.ModelNotFound()),
		paused("429 insufficient_quota", openaitest.InsufficientQuota()),
		paused("400 about response_format", openaitest.Error(400, "invalid_request_error", "", "response_format", "Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model.")),
		paused("400 response_format, no param", openaitest.Error(400, "invalid_request_error", "invalid_request_error", "", "This response_format type is unavailable now")),
		snoozed("429 Retry-After: 7 min", openaitest.RateLimited(7*minute), 7*minute),
		snoozed("429 Retry-After: 2 h", openaitest.RateLimited(2*time.Hour), 15*minute),
		snoozed("429 without Retry-After", openaitest.RateLimited(-1), minute/2),
		retried("408", 1, openaitest.Error(408, "timeout", "", "", "Request timed out.")),
		retried("409", 1, openaitest.Error(409, "conflict", "", "", "The resource is locked.")),
		retried("500", 1, openaitest.ServerError(500)),
		retried("503", 1, openaitest.ServerError(503)),
		retried("502 page of a proxy", 1, openaitest.Page(502)),
		retried("200 page of a proxy", 1, openaitest.Page(200)),
		retried("no answer (time-out)", 1, openaitest.Hang()),
		retried("stalls in the body", 1, openaitest.HangInBody()),
		retried("connection closed", 1, openaitest.Drop()),
		retried("connection reset", 1, openaitest.Reset()),
		retried("truncated body", 1, openaitest.Truncated()),
		retried("empty choices", 1, openaitest.NoChoices()),
		retried("empty content, repair too", 2, openaitest.Content("")),
		retried("invalid JSON, repair too", 2, openaitest.InvalidJSON()),
		retried("schema violation, repair too", 2, openaitest.SchemaViolation()),
		cancelled("length, twice", "invalid", "does not fit", 2, openaitest.Length()),
		cancelled("refusal", "refused", "refused", 1, openaitest.Refusal()),
		cancelled("content_filter", "refused", "filter", 1, openaitest.ContentFilter()),
		cancelled("400 invalid_prompt", "refused", "400", 1, openaitest.Error(400, "invalid_request_error", "invalid_prompt", "", "Invalid prompt: your prompt was flagged")),
		cancelled("400 content_filter", "refused", "400", 1, openaitest.Error(400, "invalid_request_error", "content_filter", "", "filtered")),
		cancelled("400 about the input", "invalid", "400", 1, openaitest.Error(400, "invalid_request_error", "string_above_max_length", "messages", "too long")),
		{name: "500, the last attempt", reply: openaitest.ServerError(500), max: "1", job: "discarded", used: 1, state: "dead", code: "unavailable", requests: 1, note: "500"},
	}
	var mu sync.Mutex
	rows := make([]string, len(faults))
	for n, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			row := f.happens(t)
			mu.Lock()
			defer mu.Unlock()
			rows[n] = row
		})
	}
	t.Cleanup(func() { // the subtests have ended
		var b strings.Builder
		w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "fault\tjob\tattempts\tnext try\tevent\tqueue\tfailure\twhat the operator sees")
		for _, r := range rows {
			fmt.Fprintln(w, r)
		}
		_ = w.Flush()
		t.Log("\n" + b.String())
	})
}

// happens lets a fault happen to one call and returns its row of the table.
func (f fault) happens(t *testing.T) string {
	t.Helper()
	ai := openaitest.New(t, openaitest.WithReply(func(openaitest.Request) openaitest.Reply { return f.reply }))
	i := install(t, ai, map[string]string{"ANALYZE_MAX_ATTEMPTS": f.max, "OPENAI_TIMEOUT_MS": "400"})
	i.ingest()
	core, logs := observer.New(zapcore.InfoLevel)
	i.loggingWorker(zap.New(core))
	a := i.send(callBody("conv_fault"))
	const job = ` from river_job where kind = 'analyze'`
	i.wait(f.job, `select state`+job)
	i.wait(f.state, `select analysis_state from webhook_events where id = $1`, a.EventID)
	one := func(column string) string {
		return i.text(`select `+column+` from webhook_events where id = $1`, a.EventID)
	}
	if used := i.text(`select attempt` + job); used != strconv.Itoa(f.used) {
		t.Errorf("%s attempts used, want %d", used, f.used)
	}
	var left time.Duration
	if err := i.pool.QueryRow(t.Context(), `select case when finalized_at is null then scheduled_at - clock_timestamp() else '0' end`+job).Scan(&left); err != nil {
		t.Fatal(err)
	}
	if left < f.soonest || left > f.latest {
		t.Errorf("the next try is in %s, want %s to %s", left, f.soonest, f.latest)
	}
	note := one("processor_note")
	if !strings.Contains(note, f.note) {
		t.Errorf("note %q, want it to contain %q", note, f.note)
	}
	if strings.Contains(note, "request )") {
		t.Errorf("the note names a request that nobody knows: %q", note)
	}
	if strings.Contains(note, "Ольга") || strings.Contains(note, openaitest.Key) {
		t.Errorf("the note holds what it should not: %q", note)
	}
	if code := one("failure_code"); code != f.code {
		t.Errorf("failure_code %s, want %s", code, f.code)
	}
	if complete := one("(failure_code is null) = (failure_fingerprint is null) and (failure_code is null) = (failed_at is null)"); complete != "true" {
		t.Error("a failure is written down in part")
	}
	if n := i.text(`select count(*) from analyses`); n != "0" {
		t.Errorf("%s analyses", n)
	}
	asked := 0 // about the call; a probe is a single message
	for _, r := range ai.Requests() {
		if len(r.Chat.Messages) > 1 {
			asked++
		}
	}
	if n := asked; n != f.requests {
		t.Errorf("the model was asked %d times, want %d", n, f.requests)
	}
	if turns := one("metrics ->> 'turns'"); turns != "2" {
		t.Errorf("the call was measured without its analysis: %s turns, want 2", turns)
	}
	isPaused := i.text(`select paused_at is not null from river_queue where name = 'analyze'`) == "true"
	errorLines := logs.FilterLevelExact(zapcore.ErrorLevel).All()
	lines := 0 // of error: one where a person must act, none else
	if f.paused || f.state == "dead" {
		lines = 1
	}
	eventually(t, func() string { // it is logged after it was written down
		if errorLines = logs.FilterLevelExact(zapcore.ErrorLevel).All(); len(errorLines) < lines {
			return "no line of error"
		}
		return ""
	})
	if isPaused != f.paused || len(errorLines) != lines {
		t.Errorf("paused %v, %d lines of error, want %v and %d: %v", isPaused, len(errorLines), f.paused, lines, errorLines)
	}
	if f.paused && !strings.Contains(errorLines[0].Message, "Mend OPENAI_API_KEY") {
		t.Errorf("the log does not say what to do: %s", errorLines[0].Message)
	}
	if kept := i.text(`select count(*) from queue_pauses where resumed_at is null`); (kept == "1") != f.paused {
		t.Errorf("%s pauses are kept", kept)
	}
	next, q, seen := "none", "works", note
	if f.latest > 0 {
		next = left.Round(time.Second).String()
	}
	if isPaused {
		q, next = "paused", "after a probe"
		seen += " | ERROR " + strings.SplitAfter(errorLines[0].Message, ".")[0]
	}
	return strings.Join([]string{f.name, f.job, fmt.Sprintf("%d of %s", f.used, f.max), next, f.state, q,
		strings.TrimSuffix(one("failure_code || ' ' || failure_fingerprint"), "NULL"), seen}, "\t")
}

// After a passing fault the analysis is made, once.
func TestRecovers(t *testing.T) {
	t.Parallel()
	ai := openaitest.New(t, openaitest.WithReplies(
		openaitest.ServerError(500), openaitest.Drop(), openaitest.RateLimited(20*time.Minute)))
	i := install(t, ai, nil)
	i.ingest()
	i.worker()
	a := i.send(callBody("conv_recovers"))
	for _, job := range []string{"retryable 1", "retryable 2", "scheduled 2"} {
		i.wait(job, `select state || ' ' || attempt from river_job where kind = 'analyze'`)
		// Its time has come: nobody wants to wait for it here.
		if _, err := i.pool.Exec(t.Context(), `update river_job set scheduled_at = now() where kind = 'analyze'`); err != nil {
			t.Fatal(err)
		}
	}
	i.wait("done", `select analysis_state from webhook_events where id = $1`, a.EventID)
	if got := i.text(`select count(*) || ' ' || coalesce((select processor_note from webhook_events), '-') from analyses`); got != "1 -" {
		t.Errorf("analyses and note: %s", got)
	}
}

// An analysis whose job ended without its worker's doing is seen, however it
// ended and however long nobody looked.
func TestReconcile(t *testing.T) {
	t.Parallel()
	i := install(t, nil, nil)
	i.ingest()
	ended := map[string]struct{ job, code string }{
		"conv_discarded": {`update river_job set state = 'discarded', attempt = 8, finalized_at = now() where id = $1`, "internal"},
		"conv_cancelled": {`update river_job set state = 'cancelled', finalized_at = now() - interval '6 days' where id = $1`, "cancelled"},
		"conv_deleted":   {`delete from river_job where id = $1`, "cancelled"},
	}
	const events = `select count(*) from webhook_events where analysis_state = `
	for conversation, e := range ended {
		id := i.send(callBody(conversation)).EventID
		var job int64
		if err := i.pool.QueryRow(t.Context(), `select id from river_job where (args ->> 'event_id')::bigint = $1`, id).Scan(&job); err != nil {
			t.Fatal(err)
		}
		if _, err := i.pool.Exec(t.Context(), e.job, job); err != nil {
			t.Fatal(err)
		}
	}
	// What has a job that may still do it is left alone.
	i.send(callBody("conv_waits"))
	if _, err := i.pool.Exec(t.Context(), `update river_job set state = 'retryable', scheduled_at = now() + interval '1 hour' where state = 'available'`); err != nil {
		t.Fatal(err)
	}
	i.worker() // runs the reconcile job at its start
	i.wait("3", events+`'dead'`)
	if n := i.text(events + `'queued'`); n != "1" {
		t.Errorf("%s are left queued", n)
	}
	for conversation, e := range ended {
		if got := i.text(`select failure_code || ' ' || (processor_note <> '') from webhook_events where conversation_id = $1`, conversation); got != e.code+" true" {
			t.Errorf("%s: %s", conversation, got)
		}
	}
}

// River runs a lost worker's job again within minutes, and not one that may
// still be under way; it keeps dead letters for ever, and what it does not keep
// can be retried all the same.
func TestRiverKeepsTo(t *testing.T) {
	t.Parallel()
	ai := openaitest.New(t)
	i := install(t, ai, map[string]string{"OPENAI_TIMEOUT_MS": ""}) // the default
	i.ingest()
	kinds := []struct{ job, event string }{
		{`state = 'running', attempt = 1, attempted_at = now() - interval '10 minutes'`, "running"},
		{`state = 'running', attempt = 1, attempted_at = now() - interval '5 minutes'`, "running"},
		{`state = 'discarded', attempt = 8, finalized_at = now() - interval '3 years'`, "dead"},
		{`state = 'cancelled', attempt = 1, finalized_at = now() - interval '8 days'`, "dead"},
	}
	events := make([]int64, len(kinds))
	for n, k := range kinds {
		events[n] = i.send(callBody("conv_kept_" + strconv.Itoa(n))).EventID
		for _, sql := range []string{
			`update river_job set ` + k.job + ` where kind = 'analyze' and (args ->> 'event_id')::bigint = $1`,
			`update webhook_events set analysis_state = '` + k.event + `' where id = $1`,
		} {
			if _, err := i.pool.Exec(t.Context(), sql, events[n]); err != nil {
				t.Fatal(err)
			}
		}
	}
	const job = `select state || '' from river_job where kind = 'analyze' and (args ->> 'event_id')::bigint = $1`
	i.worker()
	i.wait("NULL", job, events[3])
	if got := i.text(job, events[2]); got != "discarded" {
		t.Errorf("the dead letter is %s", got)
	}
	i.wait("retryable", job, events[0])
	if got := i.text(job, events[1]); got != "running" {
		t.Errorf("what may be under way is %s", got)
	}
	client, err := queue.NewInserter(i.pool, telemetry.Slog(zap.NewNop()))
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range events[2:] {
		if err := pgx.BeginFunc(t.Context(), i.pool, func(tx pgx.Tx) error {
			return queue.Reprocess(t.Context(), client, tx, id, queue.ReprocessOptions{MaxAttempts: 8})
		}); err != nil {
			t.Errorf("retrying the dead letter of event %d: %v", id, err)
			continue
		}
		i.wait("done", `select analysis_state from webhook_events where id = $1`, id)
	}
}
