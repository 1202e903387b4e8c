package app_test

import (
	"context"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"postcall/pkg/app"
	"postcall/pkg/config"
	"postcall/pkg/openaitest"
)

// A worker that is told to stop in the middle of a job's last attempt gives it
// back: no attempt is used, nothing is given up, and the next worker does it.
func TestStoppedInLastAttempt(t *testing.T) {
	t.Parallel()
	answer := make(chan struct{})
	ai := openaitest.New(t, openaitest.WithReply(func(openaitest.Request) openaitest.Reply {
		return openaitest.When(answer, openaitest.Success())
	}))
	i := install(t, ai, map[string]string{"ANALYZE_MAX_ATTEMPTS": "1", "OPENAI_TIMEOUT_MS": "30000", "SHUTDOWN_TIMEOUT_MS": "100"})
	i.ingest()
	a := i.send(callBody("conv_stopped"))
	c, err := config.LoadWorker(t.Context(), config.Map(i.env, nil))
	if err != nil {
		t.Fatal(err)
	}
	core, logs := observer.New(zapcore.InfoLevel)
	w, err := app.NewWorker(t.Context(), c, zap.New(core))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Serve(ctx) }()
	eventually(t, func() string {
		if len(ai.Requests()) == 0 {
			return "the model has not been asked"
		}
		return ""
	})
	stop()
	if err := <-ended; err != nil {
		t.Errorf("stopping: %v", err)
	}
	if got := i.text(`select state || ' ' || attempt || ' ' || cardinality(coalesce(errors, '{}')) from river_job where kind = 'analyze'`); got != "available 0 0" {
		t.Errorf("the job is %s", got)
	}
	if got := i.text(`select analysis_state || ': ' || processor_note || ' ' || (failure_code is null) from webhook_events where id = $1`, a.EventID); got != "queued: started anew: the worker was stopped true" {
		t.Errorf("the event is %s", got)
	}
	if lines := logs.FilterLevelExact(zapcore.ErrorLevel).All(); len(lines) > 0 {
		t.Errorf("lines of error: %v", lines)
	}
	close(answer)
	i.worker()
	i.wait("done", `select analysis_state from webhook_events where id = $1`, a.EventID)
}

// A database that is killed while the model answers costs no second answer: it
// is stored as soon as the database is back.
func TestDatabaseKilledDuringAnalysis(t *testing.T) {
	t.Parallel()
	answer := make(chan struct{})
	ai := openaitest.New(t, openaitest.WithReply(func(openaitest.Request) openaitest.Reply {
		return openaitest.When(answer, openaitest.Success())
	}))
	i, server := private(t, map[string]string{
		"ANALYZER": "openai", "OPENAI_API_KEY": openaitest.Key, "OPENAI_BASE_URL": ai.URL(), "OPENAI_TIMEOUT_MS": "60000", "ANALYZE_MODEL": "gpt-test",
	})
	i.ingest()
	core, logs := observer.New(zapcore.InfoLevel)
	i.loggingWorker(zap.New(core))
	a := i.send(callBody("conv_database_killed"))
	eventually(t, func() string {
		if len(ai.Requests()) == 0 {
			return "the model has not been asked"
		}
		return ""
	})
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	close(answer)
	eventually(t, func() string {
		for _, l := range logs.All() {
			if err, ok := l.ContextMap()["error"].(string); ok && strings.Contains(err, "committing the result") {
				return ""
			}
		}
		return "it was not tried to store the answer"
	})
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	i.wait("done", `select analysis_state from webhook_events where id = $1`, a.EventID)
	if got := i.text(`select state || ' ' || attempt || ' ' || cardinality(coalesce(errors, '{}')) from river_job where kind = 'analyze'`); got != "completed 1 0" {
		t.Errorf("the job is %s", got)
	}
	if n := len(ai.Requests()); n != 1 {
		t.Errorf("the model was asked %d times", n)
	}
}
