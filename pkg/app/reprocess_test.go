package app_test

import (
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"postcall/pkg/call"
	"postcall/pkg/openaitest"
	"postcall/pkg/queue"
	"postcall/pkg/telemetry"
)

// A call is analysed again beside its older analyses; it is handed on only if
// the result has changed or by force, and never while one is under way.
func TestReprocess(t *testing.T) {
	t.Parallel()
	var topic atomic.Value
	topic.Store("Тема")
	var broken atomic.Bool
	ai := openaitest.New(t, openaitest.WithReply(func(openaitest.Request) openaitest.Reply {
		if broken.Load() {
			return openaitest.Refusal()
		}
		return openaitest.Answer(func(a map[string]any) { a["topic"] = topic.Load() })
	}))
	i := install(t, ai, nil)
	i.ingest()
	i.worker()
	client, err := queue.NewInserter(i.pool, telemetry.Slog(zap.NewNop()))
	if err != nil {
		t.Fatal(err)
	}
	again := func(id int64, o queue.ReprocessOptions) error {
		o.MaxAttempts = 8
		return pgx.BeginFunc(t.Context(), i.pool, func(tx pgx.Tx) error { return queue.Reprocess(t.Context(), client, tx, id, o) })
	}
	const analyses, exports = `select count(*) from analyses`, `select count(*) from river_job where kind = 'crm_markdown'`
	id := i.send(callBody("conv_again")).EventID
	i.wait("done", `select analysis_state from webhook_events`)
	for _, step := range []struct {
		topic             string
		force             bool
		analyses, exports string
	}{
		{"Тема", false, "2", "1"},
		{"Тема", true, "3", "2"},
		{"Другая тема", false, "4", "3"},
	} {
		topic.Store(step.topic)
		if err := again(id, queue.ReprocessOptions{Force: step.force}); err != nil {
			t.Fatal(err)
		}
		i.wait(step.analyses, analyses)
		i.wait("done", `select analysis_state from webhook_events`)
		i.wait(step.exports, exports)
	}
	if got := i.text(`select trigger || ' ' || (metrics is not null) from analyses, webhook_events order by analyses.id desc limit 1`); got != "reprocess true" {
		t.Errorf("the newest: %s", got)
	}
	broken.Store(true)
	if err := again(id, queue.ReprocessOptions{}); err != nil {
		t.Fatal(err)
	}
	i.wait("dead refused", `select analysis_state || ' ' || failure_code from webhook_events`)
	i.wait("1", `select count(*) from river_job where kind = 'analyze' and state = 'cancelled'`)
	broken.Store(false)
	if err := again(id, queue.ReprocessOptions{}); err != nil {
		t.Fatal(err)
	}
	i.wait("done true", `select analysis_state || ' ' || (failure_code is null and failed_at is null and failure_fingerprint is null) from webhook_events`)
	if got := i.text(`select count(*) from river_job where kind = 'analyze' and state = 'cancelled'`); got != "0" {
		t.Errorf("%s given-up jobs stand beside the new one", got)
	}
	for state, code := range map[string]call.Code{"queued": call.Conflict, "running": call.Conflict} {
		if _, err := i.pool.Exec(t.Context(), `update webhook_events set analysis_state = $1`, state); err != nil {
			t.Fatal(err)
		}
		if err := again(id, queue.ReprocessOptions{}); call.CodeOf(err) != code {
			t.Errorf("while %s: %v", state, err)
		}
	}
	if err := again(id+1000, queue.ReprocessOptions{}); call.CodeOf(err) != call.NotFound {
		t.Errorf("no such event: %v", err)
	}
}

// A job that comes back although its answer is stored does not ask for another.
func TestPaidOnce(t *testing.T) {
	t.Parallel()
	ai := openaitest.New(t)
	i := install(t, ai, nil)
	i.ingest()
	a := i.send(callBody("conv_paid_once"))
	i.worker()
	i.wait("completed", `select state from river_job where kind = 'analyze'`)
	if _, err := i.pool.Exec(t.Context(), `
		update river_job set state = 'retryable', finalized_at = null, scheduled_at = now() where kind = 'analyze'`); err != nil {
		t.Fatal(err)
	}
	i.wait("completed 2", `select state || ' ' || attempt from river_job where kind = 'analyze'`)
	if n := len(ai.Requests()); n != 1 {
		t.Errorf("the model was asked %d times", n)
	}
	if got := i.text(`select count(*) from analyses where event_id = $1`, a.EventID); got != "1" {
		t.Errorf("%s analyses", got)
	}
}

// An attempt whose job has been given to another meanwhile writes nothing: not
// its result, not the event's state, not the job's end.
func TestStaleAttempt(t *testing.T) {
	t.Parallel()
	answer := make(chan struct{})
	ai := openaitest.New(t, openaitest.WithReply(func(openaitest.Request) openaitest.Reply {
		return openaitest.When(answer, openaitest.Success())
	}))
	i := install(t, ai, map[string]string{"OPENAI_TIMEOUT_MS": "30000"})
	i.ingest()
	a := i.send(callBody("conv_stale"))
	i.worker()
	eventually(t, func() string {
		if len(ai.Requests()) == 0 {
			return "the model has not been asked"
		}
		return ""
	})
	// As if it had been rescued and a second attempt were at it.
	if _, err := i.pool.Exec(t.Context(), `update river_job set attempt = attempt + 1 where kind = 'analyze'`); err != nil {
		t.Fatal(err)
	}
	close(answer)
	i.wait("true", `select cardinality(errors) > 0 or state <> 'running' from river_job where kind = 'analyze'`)
	if got := i.text(`select count(*) from analyses`); got != "0" {
		t.Errorf("%s analyses by an attempt that was no longer the job's", got)
	}
	if got := i.text(`select analysis_state from webhook_events where id = $1`, a.EventID); got != "running" {
		t.Errorf("it left the event %s", got)
	}
	if got := i.text(`select state = 'completed' from river_job where kind = 'analyze'`); got != "false" {
		t.Error("it ended the job")
	}
}
