package app_test

import (
	"strings"
	"testing"
	"time"

	"postcall/pkg/openaitest"
)

// What each fault of the model's server does to the job and to the event.
func TestFaults(t *testing.T) {
	t.Parallel()
	const waiting, retried, dead = "queued", "queued", "dead"
	tests := []struct {
		name     string
		reply    openaitest.Reply
		attempts string // allowed: ANALYZE_MAX_ATTEMPTS
		job      string // states that the job may be in, and its attempt
		state    string
		note     string
	}{
		{"429 with Retry-After", openaitest.RateLimited(7 * time.Minute), "8", "scheduled 0", waiting, "waiting: "},
		{"no quota left", openaitest.InsufficientQuota(), "8", "scheduled 0", waiting, "waiting: "},
		{"wrong key", openaitest.Unauthorized(), "8", "scheduled 0", waiting, "waiting: "},
		{"unknown model", openaitest.ModelNotFound(), "8", "scheduled 0", waiting, "waiting: "},
		{"refusal", openaitest.Refusal(), "8", "cancelled 1", dead, "refus"},
		{"content filter", openaitest.ContentFilter(), "8", "cancelled 1", dead, "filter"},
		{"server error", openaitest.ServerError(500), "8", "retryable 1", retried, "attempt 1 of 8 failed"},
		{"overloaded", openaitest.ServerError(503), "8", "retryable 1", retried, "attempt 1 of 8 failed"},
		{"a page of a proxy", openaitest.Page(502), "8", "retryable 1", retried, "attempt 1 of 8 failed"},
		{"dropped connection", openaitest.Drop(), "8", "retryable 1", retried, "attempt 1 of 8 failed"},
		{"no answer", openaitest.Hang(), "8", "retryable 1", retried, "attempt 1 of 8 failed"},
		{"invalid JSON, also when asked again", openaitest.InvalidJSON(), "8", "retryable 1", retried, "attempt 1 of 8 failed"},
		{"schema violation, also when asked again", openaitest.SchemaViolation(), "8", "retryable 1", retried, "attempt 1 of 8 failed"},
		{"no choices", openaitest.NoChoices(), "8", "retryable 1", retried, "attempt 1 of 8 failed"},
		{"out of attempts", openaitest.ServerError(500), "1", "discarded 1", dead, "500"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ai := openaitest.New(t, openaitest.WithReply(func(openaitest.Request) openaitest.Reply { return tt.reply }))
			i := install(t, ai, map[string]string{"ANALYZE_MAX_ATTEMPTS": tt.attempts, "OPENAI_TIMEOUT_MS": "400"})
			i.ingest()
			i.worker()
			a := i.send(callBody("conv_fault"))
			i.wait(tt.job, `select state || ' ' || attempt from river_job where kind = 'analyze'`)
			i.wait(tt.state, `select analysis_state from webhook_events where id = $1`, a.EventID)
			note := i.text(`select processor_note from webhook_events where id = $1`, a.EventID)
			if !strings.Contains(note, tt.note) {
				t.Errorf("note %q, want it to contain %q", note, tt.note)
			}
			if strings.Contains(note, "Ольга") || strings.Contains(note, openaitest.Key) {
				t.Errorf("the note holds what it should not: %q", note)
			}
			if n := i.text(`select count(*) from analyses`); n != "0" {
				t.Errorf("%s analyses", n)
			}
		})
	}
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

// An analysis that was given up without its worker's doing is seen.
func TestReconcile(t *testing.T) {
	t.Parallel()
	i := install(t, nil, nil)
	i.ingest()
	a := i.send(callBody("conv_given_up"))
	if _, err := i.pool.Exec(t.Context(), `update river_job set state = 'discarded', attempt = 8, finalized_at = now()`); err != nil {
		t.Fatal(err)
	}
	i.worker() // runs the reconcile job at its start
	i.wait("dead", `select analysis_state from webhook_events where id = $1`, a.EventID)
	if note := i.text(`select processor_note from webhook_events`); note == "NULL" {
		t.Error("dead without a reason")
	}
}
