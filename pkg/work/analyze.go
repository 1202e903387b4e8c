package work

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"go.opentelemetry.io/otel/attribute"
	"go.uber.org/zap"

	"postcall/pkg/analyze"
	"postcall/pkg/call"
	"postcall/pkg/elevenlabs"
	"postcall/pkg/postgres"
	"postcall/pkg/queue"
	"postcall/pkg/telemetry"
	"postcall/pkg/throttle"
)

// Analyze works the analyze jobs.
type Analyze struct {
	river.WorkerDefaults[queue.Analyze]

	Pool     *pgxpool.Pool
	Analyzer analyze.Analyzer
	// Throttle holds the places that all workers share.
	Throttle *throttle.Throttle
	// Breaker stops the analyses when the model server refuses them all.
	Breaker *Breaker
	// Exports are the targets that a stored analysis is handed to.
	Exports []Target
	Metrics *Metrics
	Log     *zap.Logger
	// Limit is the longest that one analysis may take, once it has its place.
	Limit time.Duration
}

// Timeout is the longest that one job may take: the wait for a place does not
// count against the analysis.
func (w *Analyze) Timeout(*river.Job[queue.Analyze]) time.Duration {
	return AnalyzeTimeout(w.Limit, w.Throttle)
}

// AnalyzeTimeout is how long an analyze job may take, of which limit is the
// analysis. Twice it may wait: for a server that takes this worker's key, and
// for a place.
func AnalyzeTimeout(limit time.Duration, t *throttle.Throttle) time.Duration {
	return 2*t.Patience() + limit + recording
}

// Work analyses one event. The result, the event's state, the jobs that hand
// the result on and the end of this job are one transaction: a process that is
// killed leaves all of them or none.
func (w *Analyze) Work(ctx context.Context, job *river.Job[queue.Analyze]) error {
	began := time.Now()
	w.Metrics.begun(job.JobRow, began)
	o, err := w.attempt(ctx, job)
	analysis, s := o.analysis, o.step
	var result error
	if err != nil {
		s, result = next(ctx, job.JobRow, err)
		if call.CodeOf(err) == call.Credentials && !errors.Is(err, errRefused) {
			w.Breaker.refused(ctx, river.ClientFromContext[pgx.Tx](ctx), err)
		}
		w.note(ctx, job, s, o.metrics, err)
	}
	w.Metrics.ended(job.JobRow, s, err, time.Since(began), analysis)
	fields := []zap.Field{telemetry.TraceID(ctx), zap.Int64("event_id", job.Args.EventID), zap.String("analyzer", w.Analyzer.Name())}
	if analysis != nil {
		fields = append(fields, zap.Int64("analysis_id", analysis.ID), zap.String("model", analysis.Model),
			zap.Int64("tokens_in", analysis.Usage.InputTokens), zap.Int64("tokens_out", analysis.Usage.OutputTokens))
	}
	tell(ctx, job.JobRow, s, err, attribute.Int64("postcall.event_id", job.Args.EventID))
	line(w.Log, job.JobRow, s, began, err, fields...)
	return result
}

// outcome is what an attempt came to. Metrics are there as soon as the call has
// been read, whatever becomes of its analysis.
type outcome struct {
	step     step
	analysis *call.Analysis
	metrics  *call.Metrics
}

// errRefused ends attempts of a worker that knows itself to be refused.
var errRefused = call.Errorf(call.Credentials, "the model server refuses this worker; the log and the health page say why")

func (w *Analyze) attempt(ctx context.Context, job *river.Job[queue.Analyze]) (outcome, error) {
	if open := w.Breaker.closed(); open != nil {
		// Held for a while, so that this worker does not turn the whole backlog
		// over while others work at it.
		held := time.NewTimer(w.Throttle.Patience())
		defer held.Stop()
		select {
		case <-open:
		case <-held.C:
			return outcome{}, errRefused
		case <-ctx.Done():
			return outcome{}, context.Cause(ctx)
		}
	}
	began := time.Now()
	held, leave, err := w.Throttle.Enter(ctx)
	w.Metrics.waited.Observe(time.Since(began).Seconds())
	if err != nil {
		return outcome{}, err
	}
	// Only the analysis itself needs the place; storing it does not.
	leave = sync.OnceFunc(leave)
	defer leave()
	held, cancel := context.WithTimeout(held, w.Limit)
	defer cancel()
	o, err := w.analyse(ctx, held, leave, job)
	if lost := context.Cause(held); err != nil && errors.Is(lost, throttle.ErrLost) {
		err = fmt.Errorf("the analysis was stopped: %w", lost)
	}
	return o, err
}

// analyse makes and stores an analysis. Held is the context of the place, ctx
// that of the job.
func (w *Analyze) analyse(ctx, held context.Context, leave func(), job *river.Job[queue.Analyze]) (outcome, error) {
	if job.Attempt > 1 {
		// Whatever brought the job back, an answer that is stored is not paid for
		// again.
		stored, err := postgres.Analysed(held, w.Pool, job.ID)
		if err != nil {
			return outcome{}, err
		}
		if stored {
			return outcome{step: stepDone}, nil
		}
	}
	again := job.Args.Trigger != call.TriggerAuto
	event, err := postgres.ClaimEvent(held, w.Pool, job.Args.EventID, again)
	if same, ok := errors.AsType[*postgres.SameCallError](err); ok {
		if same.Running {
			return outcome{}, &call.Error{Code: call.RateLimited, Message: same.Error(), RetryAfter: sameCallSnooze}
		}
		return outcome{step: stepSkipped}, w.skip(ctx, job, postgres.Status{Note: same.Error()}, func(ctx context.Context, tx pgx.Tx) error {
			return postgres.StandsFor(ctx, tx, same.EventID, job.Args.EventID)
		})
	}
	if err != nil {
		return outcome{}, err
	}
	conversation, err := elevenlabs.Conversation(event.Type, event.Payload)
	if err != nil {
		return outcome{}, err
	}
	o := outcome{metrics: new(analyze.Metrics(conversation))}
	if !conversation.Spoken() {
		reason := "nobody spoke in this call"
		if conversation.TurnsMissing != "" {
			reason = conversation.TurnsMissing
		}
		if conversation.Incomplete {
			reason += call.WaitsForImport
		}
		o.step = stepSkipped
		return o, w.skip(ctx, job, postgres.Status{Note: reason, Metrics: o.metrics})
	}
	parts := &postgres.Parts{DB: w.Pool, EventID: event.ID}
	if r, ok := w.Analyzer.(analyze.Resumer); ok {
		o.analysis, err = r.Resume(held, conversation, parts)
	} else {
		o.analysis, err = w.Analyzer.Analyze(held, conversation)
	}
	leave()
	if err != nil {
		return o, err
	}
	o.analysis.EventID = event.ID
	o.analysis.JobID = job.ID
	o.analysis.Trigger = job.Args.Trigger
	if err := w.store(ctx, job, o.analysis, o.metrics, parts); err != nil {
		return outcome{metrics: o.metrics}, err
	}
	o.step = stepDone
	return o, nil
}

// store keeps an analysis that may have been paid for: it is not given up
// because the process begins to stop.
func (w *Analyze) store(ctx context.Context, job *river.Job[queue.Analyze], a *call.Analysis, metrics *call.Metrics, parts *postgres.Parts) error {
	return w.finish(ctx, job, func(ctx context.Context, tx pgx.Tx) error {
		if err := postgres.InsertAnalysis(ctx, tx, a); err != nil {
			return err
		}
		if err := parts.Forget(ctx, tx); err != nil {
			return err
		}
		if err := postgres.SetState(ctx, tx, a.EventID, postgres.Status{State: call.StateDone, Metrics: metrics}); err != nil {
			return err
		}
		if len(w.Exports) == 0 {
			return nil
		}
		if a.Trigger != call.TriggerAuto && !job.Args.Force {
			same, err := unchanged(ctx, tx, a)
			if err != nil || same {
				return err
			}
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

// unchanged reports whether an analysis says the same as the one before it, so
// that nobody has to be told again. Metrics are the call's, not the
// analysis's.
func unchanged(ctx context.Context, tx pgx.Tx, a *call.Analysis) (bool, error) {
	before, err := postgres.LatestResult(ctx, tx, a.EventID, a.ID)
	if err != nil || before == nil {
		return false, err
	}
	now := a.Result
	now.Metrics, before.Metrics = nil, nil
	old, err := json.Marshal(before)
	if err != nil {
		return false, fmt.Errorf("comparing two results: %w", err)
	}
	// The stored one went through JSON and lost what that does not tell apart.
	fresh, err := json.Marshal(now)
	if err == nil {
		var again call.Result
		if err = json.Unmarshal(fresh, &again); err == nil {
			fresh, err = json.Marshal(again)
		}
	}
	if err != nil {
		return false, fmt.Errorf("comparing two results: %w", err)
	}
	return bytes.Equal(old, fresh), nil
}

// skip ends a job that has nothing to analyse, and does what else is to be done.
func (w *Analyze) skip(ctx context.Context, job *river.Job[queue.Analyze], s postgres.Status, also ...func(context.Context, pgx.Tx) error) error {
	s.State = call.StateSkipped
	return w.finish(ctx, job, func(ctx context.Context, tx pgx.Tx) error {
		for _, do := range also {
			if err := do(ctx, tx); err != nil {
				return err
			}
		}
		return postgres.SetState(ctx, tx, job.Args.EventID, s)
	})
}

// storing is how long it is until the next try to commit a result while the
// database is away.
const storing = 250 * time.Millisecond

// finish commits what f writes together with the end of the job. A result may
// have been paid for, so that a database which restarts is waited for.
func (w *Analyze) finish(ctx context.Context, job *river.Job[queue.Analyze], f func(context.Context, pgx.Tx) error) error {
	ctx, cancel := finally(ctx)
	defer cancel()
	for tries := 1; ; tries++ {
		err := complete(ctx, w.Pool, job, f)
		if err == nil {
			return nil
		}
		notOwned := errors.Is(err, queue.ErrNotOwned)
		if notOwned && tries > 1 {
			// The commit whose answer was lost may have been one.
			if stored, serr := postgres.Analysed(ctx, w.Pool, job.ID); serr == nil && stored {
				return nil
			}
		}
		err = fmt.Errorf("committing the result: %w", err)
		if notOwned || !postgres.Transient(err) {
			return err
		}
		if tries == 1 {
			w.Log.Warn("the database did not take a result; it is tried again", zap.Int64("event_id", job.Args.EventID),
				zap.Int64("job_id", job.ID), zap.Error(err))
		}
		again := time.NewTimer(storing)
		select {
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
			return err
		}
	}
}

// note writes down on the event why it has no analysis. If that fails too,
// the reconcile job does it later.
func (w *Analyze) note(ctx context.Context, job *river.Job[queue.Analyze], s step, metrics *call.Metrics, cause error) {
	status := postgres.Status{State: call.StateQueued, Note: cause.Error(), Metrics: metrics}
	switch s {
	case stepCancel, stepDead:
		f := call.FailureOf(cause)
		if errors.Is(context.Cause(ctx), river.ErrJobCancelledRemotely) {
			f = call.NewFailure(call.Cancelled, "the job was cancelled by hand while it ran")
		}
		status.State, status.Note, status.Failure = call.StateDead, f.Message, &f
	case stepRetry:
		status.Note = fmt.Sprintf("attempt %d of %d failed: %s", job.Attempt, job.MaxAttempts, cause)
	case stepSnooze:
		status.Note = "waiting: " + status.Note
	case stepResume:
		status.Note = "under way: " + status.Note
	case stepStopped:
		status.Note = "started anew: the worker was stopped"
	case stepBusy:
		if errors.Is(cause, throttle.ErrBusy) { // nothing was begun, nothing has changed
			return
		}
		status.Note = "started anew: " + status.Note
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
		return postgres.SetState(ctx, tx, job.Args.EventID, status)
	})
	if err != nil && call.CodeOf(err) != call.NotFound {
		w.Log.Error("the event could not be marked", zap.Int64("event_id", job.Args.EventID),
			zap.Int64("job_id", job.ID), zap.Error(err))
	}
}
