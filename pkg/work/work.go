// Package work runs the jobs: an event's way from the queue through an
// analyser to the stored result, and from there to each target.
package work

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertype"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"postcall/pkg/analyze"
	"postcall/pkg/call"
	"postcall/pkg/queue"
	"postcall/pkg/throttle"
)

// Bounds of how long the other side may make a job wait. Waiting uses up no
// attempt.
const (
	minSnooze         = time.Second
	maxSnooze         = 15 * time.Minute
	rateLimitedSnooze = 30 * time.Second // where the other side does not say
	// Jobs that were caught when the installation was refused wait in the paused
	// queue, whatever this says.
	credentialsSnooze = 30 * time.Second
	// How long an event waits for what comes of another copy of its call.
	sameCallSnooze = 2 * time.Second
	// A job that found no place goes back to those that wait, and makes room for
	// others; by chance, so that they do not come back in step.
	busySnooze = 2 * time.Second
)

// recording bounds the statements that write down what became of a job. They
// run even when the job's own time is over.
const recording = 15 * time.Second

// step is what happens to a job next.
type step string

const (
	stepDone    step = "done"
	stepSkipped step = "skipped"
	stepRetry   step = "retry"
	stepSnooze  step = "snooze"
	stepBusy    step = "busy"    // every place is taken; nothing was begun
	stepResume  step = "resume"  // a long call; the next attempt goes on where this one ended
	stepStopped step = "stopped" // the process stops; the job starts anew elsewhere
	stepCancel  step = "cancel"
	stepDead    step = "dead"
)

// next is the one place that decides what an error means for its job, and the
// error that tells River so:
//
//	the process stops            stopped  no attempt used
//	somebody cancelled the job   cancel
//	no place in time, or lost    busy     no attempt used
//	its time is used up          resume   no attempt used, something was answered
//	rate_limited, credentials    snooze   no attempt used
//	invalid, not_found, refused  cancel   the same input fails again
//	anything else                retry    until the attempts are used up: dead
func next(ctx context.Context, job *rivertype.JobRow, err error) (step, error) {
	if err == nil {
		return stepDone, nil
	}
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, river.ErrJobCancelledRemotely):
		return stepCancel, river.JobCancel(err)
	case errors.Is(ctx.Err(), context.Canceled):
		// River knows by its own cause that this was no failure.
		return stepStopped, fmt.Errorf("%w: %w", cause, err)
	}
	if errors.Is(err, throttle.ErrBusy) || errors.Is(err, throttle.ErrLost) {
		return stepBusy, river.JobSnooze(busySnooze/2 + rand.N(busySnooze)) //nolint:gosec // chance spreads the load, it keeps no secret
	}
	if errors.Is(err, analyze.ErrUnfinished) {
		return stepResume, river.JobSnooze(0)
	}
	switch call.CodeOf(err) {
	case call.RateLimited:
		wait := rateLimitedSnooze
		if e, ok := errors.AsType[*call.Error](err); ok && e.RetryAfter > 0 {
			wait = min(max(e.RetryAfter, minSnooze), maxSnooze)
		}
		return stepSnooze, river.JobSnooze(wait)
	case call.Credentials:
		return stepSnooze, river.JobSnooze(credentialsSnooze)
	case call.Invalid, call.NotFound, call.Refused:
		return stepCancel, river.JobCancel(err)
	default:
	}
	if job.Attempt >= job.MaxAttempts {
		return stepDead, err
	}
	return stepRetry, err
}

// finally gives a context for writing down what became of a job.
func finally(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), recording)
}

// complete commits what f writes together with the end of the job, if the
// attempt is still the job's own; queue.ErrNotOwned otherwise.
func complete[T river.JobArgs](ctx context.Context, pool *pgxpool.Pool, job *river.Job[T], f func(context.Context, pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if err := queue.Own(ctx, tx, job.JobRow); err != nil {
			return err
		}
		if err := f(ctx, tx); err != nil {
			return err
		}
		_, err := river.JobCompleteTx[*riverpgxv5.Driver](ctx, tx, job)
		return err
	})
}

// tell gives a job's span what its log line says of it. There are ids in it and
// nothing that was said.
func tell(ctx context.Context, job *rivertype.JobRow, s step, err error, more ...attribute.KeyValue) {
	span := trace.SpanFromContext(ctx)
	if !span.IsRecording() {
		return
	}
	m := queue.MetadataOf(job)
	span.SetAttributes(append(more, attribute.String("postcall.outcome", string(s)),
		attribute.String("postcall.request_id", m.RequestID), attribute.String("postcall.call", call.Digest(m.ConversationID)))...)
	if err != nil {
		span.SetAttributes(attribute.String("postcall.code", string(call.CodeOf(err))))
	}
}

// line logs the one line of a job.
func line(log *zap.Logger, job *rivertype.JobRow, s step, began time.Time, err error, fields ...zap.Field) {
	m := queue.MetadataOf(job)
	fields = append([]zap.Field{
		zap.String("kind", job.Kind), zap.Int64("job_id", job.ID),
		zap.Int("attempt", job.Attempt), zap.Int("max_attempts", job.MaxAttempts),
		zap.String("request_id", m.RequestID), zap.String("call", call.Digest(m.ConversationID)),
		zap.String("outcome", string(s)),
		zap.Duration("waited_ms", began.Sub(job.ScheduledAt)), zap.Duration("duration_ms", time.Since(began)),
	}, fields...)
	if err != nil {
		fields = append(fields, zap.String("code", string(call.CodeOf(err))), zap.Error(err))
	}
	switch s {
	case stepBusy:
		log.Debug("job", fields...)
	case stepDone, stepSkipped, stepResume, stepStopped:
		log.Info("job", fields...)
	case stepRetry, stepSnooze:
		log.Warn("job", fields...)
	case stepCancel, stepDead:
		log.Error("job", fields...)
	}
}
