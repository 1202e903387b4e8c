package work

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"go.uber.org/zap"

	"postcall/pkg/analyze"
	"postcall/pkg/call"
	"postcall/pkg/elevenlabs"
	"postcall/pkg/postgres"
	"postcall/pkg/queue"
)

// Analyze works the analyze jobs.
type Analyze struct {
	river.WorkerDefaults[queue.Analyze]

	Pool     *pgxpool.Pool
	Analyzer analyze.Analyzer
	// Exports are the targets that a stored analysis is handed to.
	Exports []Target
	Log     *zap.Logger
	// Limit is the longest that one job may take.
	Limit time.Duration
}

// Timeout is the longest that one job may take.
func (w *Analyze) Timeout(*river.Job[queue.Analyze]) time.Duration { return w.Limit }

// Work analyses one event. The result, the event's state, the jobs that hand
// the result on and the end of this job are one transaction: a process that is
// killed leaves all of them or none.
func (w *Analyze) Work(ctx context.Context, job *river.Job[queue.Analyze]) error {
	began := time.Now()
	analysis, s, err := w.analyse(ctx, job)
	var result error
	if err != nil {
		s, result = next(ctx, job.JobRow, err)
		w.note(ctx, job, s, err)
	}
	fields := []zap.Field{zap.Int64("event_id", job.Args.EventID), zap.String("analyzer", w.Analyzer.Name())}
	if analysis != nil {
		fields = append(fields, zap.Int64("analysis_id", analysis.ID), zap.String("model", analysis.Model),
			zap.Int64("tokens_in", analysis.Usage.InputTokens), zap.Int64("tokens_out", analysis.Usage.OutputTokens))
	}
	line(w.Log, job.JobRow, s, began, err, fields...)
	return result
}

func (w *Analyze) analyse(ctx context.Context, job *river.Job[queue.Analyze]) (*call.Analysis, step, error) {
	again := job.Args.Trigger != call.TriggerAuto
	event, err := postgres.ClaimEvent(ctx, w.Pool, job.Args.EventID, again)
	if same, ok := errors.AsType[*postgres.SameCallError](err); ok {
		return nil, stepSkipped, w.skip(ctx, job, same.Error())
	}
	if err != nil {
		return nil, "", err
	}
	conversation, err := elevenlabs.Conversation(event.Type, event.Payload)
	if err != nil {
		return nil, "", err
	}
	if !conversation.Spoken() {
		reason := "nobody spoke in this call"
		if conversation.TurnsMissing != "" {
			reason = conversation.TurnsMissing
		}
		return nil, stepSkipped, w.skip(ctx, job, reason)
	}
	analysis, err := w.Analyzer.Analyze(ctx, conversation)
	if err != nil {
		return nil, "", err
	}
	analysis.EventID = event.ID
	analysis.Trigger = job.Args.Trigger
	if err := w.store(ctx, job, analysis); err != nil {
		return nil, "", err
	}
	return analysis, stepDone, nil
}

// store keeps an analysis that may have been paid for: it is not given up
// because the process begins to stop.
func (w *Analyze) store(ctx context.Context, job *river.Job[queue.Analyze], a *call.Analysis) error {
	return w.finish(ctx, job, func(ctx context.Context, tx pgx.Tx) error {
		if err := postgres.InsertAnalysis(ctx, tx, a); err != nil {
			return err
		}
		if err := postgres.SetState(ctx, tx, a.EventID, call.StateDone, ""); err != nil {
			return err
		}
		if len(w.Exports) == 0 {
			return nil
		}
		jobs := make([]river.InsertManyParams, len(w.Exports))
		for i, target := range w.Exports {
			jobs[i] = target.Job(a.ID, queue.MetadataOf(job.JobRow))
		}
		if _, err := river.ClientFromContext[pgx.Tx](ctx).InsertManyTx(ctx, tx, jobs); err != nil {
			return fmt.Errorf("enqueueing the exports: %w", err)
		}
		return nil
	})
}

func (w *Analyze) skip(ctx context.Context, job *river.Job[queue.Analyze], reason string) error {
	return w.finish(ctx, job, func(ctx context.Context, tx pgx.Tx) error {
		return postgres.SetState(ctx, tx, job.Args.EventID, call.StateSkipped, reason)
	})
}

// finish commits what f writes together with the end of the job.
func (w *Analyze) finish(ctx context.Context, job *river.Job[queue.Analyze], f func(context.Context, pgx.Tx) error) error {
	ctx, cancel := finally(ctx)
	defer cancel()
	err := pgx.BeginFunc(ctx, w.Pool, func(tx pgx.Tx) error {
		if err := queue.Own(ctx, tx, job.JobRow); err != nil {
			return err
		}
		if err := f(ctx, tx); err != nil {
			return err
		}
		_, err := river.JobCompleteTx[*riverpgxv5.Driver](ctx, tx, job)
		return err
	})
	if err != nil {
		return fmt.Errorf("committing the result: %w", err)
	}
	return nil
}

// note writes down on the event why it has no analysis. If that fails too,
// the reconcile job does it later.
func (w *Analyze) note(ctx context.Context, job *river.Job[queue.Analyze], s step, cause error) {
	state := call.StateQueued
	text := cause.Error()
	switch s {
	case stepCancel, stepDead:
		state = call.StateDead
	case stepRetry:
		text = fmt.Sprintf("attempt %d of %d failed: %s", job.Attempt, job.MaxAttempts, text)
	case stepSnooze:
		text = "waiting: " + text
	case stepStopped:
		text = "started anew: the worker was stopped"
	case stepDone, stepSkipped: // no reason to be noted
		return
	}
	ctx, cancel := finally(ctx)
	defer cancel()
	// An attempt that is no longer this job's must not overwrite what the newer
	// one has written.
	err := pgx.BeginFunc(ctx, w.Pool, func(tx pgx.Tx) error {
		if err := queue.Own(ctx, tx, job.JobRow); err != nil {
			return err
		}
		return postgres.SetState(ctx, tx, job.Args.EventID, state, text)
	})
	if err != nil && call.CodeOf(err) != call.NotFound {
		w.Log.Error("the event could not be marked", zap.Int64("event_id", job.Args.EventID),
			zap.Int64("job_id", job.ID), zap.Error(err))
	}
}
