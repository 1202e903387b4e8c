package work

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"postcall/pkg/call"
	"postcall/pkg/elevenlabs"
	"postcall/pkg/export"
	"postcall/pkg/postgres"
	"postcall/pkg/queue"
	"postcall/pkg/telemetry"
)

// Target is a place that results are handed to, and how its jobs run.
type Target struct {
	Exporter export.Exporter
	// Enabled: each new result is handed over.
	Enabled bool
	// Concurrency is how many attempts run at once in this process; 0 leaves the
	// target's jobs where they are.
	Concurrency int
	// MinInterval is the least time between the starts of two attempts, across
	// all workers together.
	MinInterval time.Duration
	// Attempt is the longest that one attempt may take.
	Attempt time.Duration
	// MaxAttempts is how often a result is sent; 0 leaves it to River.
	MaxAttempts int
	// Circuit stops attempts for a while after repeated failures.
	Circuit postgres.Circuit
	// OncePerCall: a call that the target has is not sent again for a further
	// analysis of it, unless by force.
	OncePerCall bool
	// Choose says why a result is not to be sent, and nothing if it is; nil
	// sends everything.
	Choose func(export.Delivery) string
	// Preview, if not nil, gives what would be sent, and nothing is sent.
	Preview func(export.Delivery) (export.Receipt, error)
}

// paced is how long a job may wait for its turn and for the database beside its
// attempt.
const paced = 30 * time.Second

// Limit is the longest that one of the target's jobs may take.
func (t Target) Limit() time.Duration { return t.Attempt + paced }

// Job makes the job that hands an analysis over.
func (t Target) Job(analysisID int64, m queue.Metadata) river.InsertManyParams {
	return river.InsertManyParams{
		Args:       queue.Export{To: t.Exporter.Target(), AnalysisID: analysisID},
		InsertOpts: &river.InsertOpts{MaxAttempts: t.MaxAttempts, Metadata: m.Encode()},
	}
}

// Export works the jobs of one target.
type Export struct {
	river.WorkerDefaults[queue.Export]
	Target

	Pool    *pgxpool.Pool
	Metrics *Metrics
	Log     *zap.Logger
}

// AddExport registers the worker of a target's jobs.
func AddExport(workers *river.Workers, e *Export) {
	// The kind depends on the target, which a zero value does not know.
	river.AddWorkerArgs(workers, queue.Export{To: e.Exporter.Target()}, e)
}

// Timeout is the longest that one job may take.
func (w *Export) Timeout(*river.Job[queue.Export]) time.Duration { return w.Limit() }

// Work hands one analysis over. That an attempt begins is committed before
// anything leaves, so that after a kill the next attempt knows that this one
// may have arrived.
func (w *Export) Work(ctx context.Context, job *river.Job[queue.Export]) error {
	began := time.Now()
	w.Metrics.begun(job.JobRow, began)
	fields := []zap.Field{
		telemetry.TraceID(ctx),
		zap.Int64("analysis_id", job.Args.AnalysisID), zap.String("target", string(w.Exporter.Target())),
		zap.Bool("force", job.Args.Force),
	}
	s, err := step(""), w.bound(ctx, job.JobRow)
	if err == nil {
		s, err = w.export(ctx, job)
	}
	var result error
	switch blocked, ok := errors.AsType[*blockedError](err); {
	case ok:
		s, result = stepSnooze, river.JobSnooze(blocked.wait)
	case err != nil:
		s, result = w.next(ctx, job, err)
	}
	w.Metrics.exported(w.Exporter.Target(), s, err, time.Since(began))
	tell(ctx, job.JobRow, s, err, attribute.Int64("postcall.analysis_id", job.Args.AnalysisID))
	line(w.Log, job.JobRow, s, began, err, fields...)
	return result
}

// bound holds a job to as many attempts as this process's configuration says:
// whoever enqueued it may not know that. River goes by what the row says here
// and, for a job that was lost with its worker, in the database.
func (w *Export) bound(ctx context.Context, job *rivertype.JobRow) error {
	if w.MaxAttempts == 0 || job.MaxAttempts == w.MaxAttempts {
		return nil
	}
	// A job that somebody has tried again by hand has one attempt more.
	most := max(w.MaxAttempts, job.Attempt)
	if _, err := w.Pool.Exec(ctx, `update river_job set max_attempts = $2 where id = $1`, job.ID, most); err != nil {
		return fmt.Errorf("bounding the attempts of job %d: %w", job.ID, err)
	}
	job.MaxAttempts = most
	return nil
}

// blockedError means that no attempt is made for now: the circuit is open or
// too many wait for their turn. No attempt is used up.
type blockedError struct {
	target call.Target
	wait   time.Duration
}

func (e *blockedError) Error() string {
	return fmt.Sprintf("nothing is sent to %s for now: its last attempts failed, or too many wait for their turn", e.target)
}

// refusals are the waits after a refusal: a person may have mended the other
// side meanwhile. After the last one the job is a dead letter.
var refusals = []time.Duration{10 * time.Minute, time.Hour}

// refusedError carries how often the target has refused the analysis.
type refusedError struct {
	times int
	err   error
}

func (e *refusedError) Error() string { return e.err.Error() }
func (e *refusedError) Unwrap() error { return e.err }

// next is like the function next, but what was refused is tried again a few
// times, slowly, and what cannot be sent is left as a dead letter, which stays
// until somebody acts.
func (w *Export) next(ctx context.Context, job *river.Job[queue.Export], err error) (step, error) {
	s, result := next(ctx, job.JobRow, err)
	if s != stepCancel || context.Cause(ctx) != nil {
		return s, result
	}
	if r, ok := errors.AsType[*refusedError](err); ok && r.times <= len(refusals) {
		return stepSnooze, river.JobSnooze(jittered(refusals[r.times-1]))
	}
	if call.CodeOf(err) == call.NotFound { // deleted meanwhile
		return s, result
	}
	// River discards a job that has no attempt left by what its row says here.
	job.MaxAttempts = job.Attempt
	return stepDead, err
}

func (w *Export) export(ctx context.Context, job *river.Job[queue.Export]) (step, error) {
	id, target := job.Args.AnalysisID, w.Exporter.Target()
	delivery, err := Delivery(ctx, w.Pool, id)
	if err != nil {
		return "", err
	}
	dispatch := postgres.Dispatch{EventID: delivery.Event.ID, AnalysisID: id, Target: target}
	earlier, err := postgres.EarlierDispatches(ctx, w.Pool, delivery.Event.ID, id, target)
	if err != nil {
		return "", err
	}
	delivery.Again = earlier.Arrived || earlier.Delivered
	if !job.Args.Force {
		if earlier.Delivered {
			return stepDone, nil
		}
		if reason := w.leaveOut(delivery, earlier); reason != "" {
			dispatch.Status, dispatch.Response = postgres.DispatchSkipped, reason
			return stepSkipped, w.instead(ctx, job, &dispatch)
		}
	}
	if w.Preview != nil {
		receipt, err := w.Preview(delivery)
		if err != nil {
			return "", err
		}
		dispatch.Status, dispatch.Payload, dispatch.Response = postgres.DispatchDryRun, receipt.Payload, "not sent: this is a dry run"
		return stepSkipped, w.instead(ctx, job, &dispatch)
	}
	entry, err := w.enter(ctx)
	if err != nil {
		return "", err
	}
	dispatch.Status = postgres.DispatchSending
	if err := postgres.InsertDispatch(ctx, w.Pool, &dispatch); err != nil {
		return "", err
	}
	receipt, err := w.attempt(ctx, delivery)
	dispatch.Payload, dispatch.Response, dispatch.HTTPStatus = receipt.Payload, text(receipt.Response), receipt.HTTPStatus
	dispatch.Status = status(receipt.Outcome, err)
	w.Metrics.dispatched(dispatch)
	stopped := context.Cause(ctx) != nil
	ctx, cancel := finally(ctx)
	defer cancel()
	if !stopped {
		w.report(ctx, entry, receipt, err)
	}
	if err == nil {
		return stepDone, complete(ctx, w.Pool, job, func(ctx context.Context, tx pgx.Tx) error {
			return postgres.EndDispatch(ctx, tx, dispatch)
		})
	}
	if dispatch.Response == "" {
		dispatch.Response = text(err.Error())
	}
	if rerr := postgres.EndDispatch(ctx, w.Pool, dispatch); rerr != nil {
		w.Log.Error("a failed dispatch could not be recorded", zap.Int64("dispatch_id", dispatch.ID), zap.Error(rerr))
	}
	if call.CodeOf(err) == call.Refused {
		err = &refusedError{earlier.Refused + 1, err}
	}
	return "", err
}

// Delivery reads what is handed over of an analysis.
func Delivery(ctx context.Context, pool *pgxpool.Pool, analysisID int64) (export.Delivery, error) {
	analysis, err := postgres.Analysis(ctx, pool, analysisID)
	if err != nil {
		return export.Delivery{}, err
	}
	event, err := postgres.Event(ctx, pool, analysis.EventID)
	if err != nil {
		return export.Delivery{}, err
	}
	conversation, err := elevenlabs.Conversation(event.Type, event.Payload)
	if err != nil {
		return export.Delivery{}, err
	}
	event.Payload, event.RawBody = nil, nil
	return export.Delivery{Event: *event, Conversation: *conversation, Analysis: *analysis}, nil
}

// leaveOut says why a result is not sent, and nothing if it is.
func (w *Export) leaveOut(d export.Delivery, e postgres.Earlier) string {
	switch {
	case w.OncePerCall && e.CallDelivered > 0:
		return fmt.Sprintf("the call is there already, with analysis %d; resend it by force to bring it up to date", e.CallDelivered)
	case w.OncePerCall && e.CallDelivered < 0:
		return "the earlier service has sent this call; by force it is sent once more, as a record of its own"
	case w.Choose != nil:
		return w.Choose(d)
	}
	return ""
}

// enter waits for the attempt's turn.
func (w *Export) enter(ctx context.Context) (postgres.Entry, error) {
	if w.MinInterval == 0 && w.Circuit.Failures == 0 {
		return postgres.Entry{}, nil
	}
	entry, err := postgres.EnterTarget(ctx, w.Pool, w.Exporter.Target(), w.MinInterval, w.Circuit)
	if err != nil {
		return entry, err
	}
	if entry.Blocked > 0 {
		// A circuit may close earlier than it says.
		return entry, &blockedError{w.Exporter.Target(), jittered(min(entry.Blocked, 5*time.Minute))}
	}
	turn := time.NewTimer(entry.Wait)
	defer turn.Stop()
	select {
	case <-turn.C:
		return entry, nil
	case <-ctx.Done():
		return entry, fmt.Errorf("waiting for a turn at %s: %w", w.Exporter.Target(), ctx.Err())
	}
}

func (w *Export) attempt(ctx context.Context, d export.Delivery) (export.Receipt, error) {
	ctx, cancel := context.WithTimeout(ctx, w.Attempt)
	defer cancel()
	// Of the same provider as the job's span: without traces it makes none.
	ctx, span := trace.SpanFromContext(ctx).TracerProvider().Tracer(telemetry.Scope).Start(ctx,
		"export "+string(w.Exporter.Target()), trace.WithSpanKind(trace.SpanKindClient))
	defer span.End()
	receipt, err := w.Exporter.Export(ctx, d)
	span.SetAttributes(attribute.String("postcall.dispatch", string(status(receipt.Outcome, err))))
	if receipt.HTTPStatus != 0 {
		span.SetAttributes(attribute.Int("http.response.status_code", receipt.HTTPStatus))
	}
	if err != nil {
		span.SetStatus(codes.Error, string(call.CodeOf(err)))
	}
	return receipt, err
}

// report tells the circuit how an attempt went. A target that takes or refuses
// an entry works. One that asks to wait says nothing of the kind, and what could
// not be sent at all has never asked it.
func (w *Export) report(ctx context.Context, e postgres.Entry, receipt export.Receipt, err error) {
	if w.Circuit.Failures == 0 {
		return
	}
	var rerr error
	target := w.Exporter.Target()
	switch code := call.CodeOf(err); {
	case code == call.RateLimited, code == call.Invalid && receipt.HTTPStatus == 0:
		return
	case err == nil, code == call.Refused, code == call.Invalid:
		rerr = postgres.TargetAnswered(ctx, w.Pool, target)
	default:
		var opened bool
		opened, rerr = postgres.TargetFailed(ctx, w.Pool, target, e, w.Circuit, code == call.Credentials, text(err.Error()))
		if opened {
			w.Log.Error("nothing is sent for a while", zap.String("target", string(target)), zap.String("code", string(code)), zap.Error(err))
		}
	}
	if rerr != nil {
		// The circuit misses one attempt; the next one tells it again.
		w.Log.Warn("how the target stands could not be recorded", zap.String("target", string(target)), zap.Error(rerr))
	}
}

// instead records why nothing is sent, together with the end of the job.
func (w *Export) instead(ctx context.Context, job *river.Job[queue.Export], d *postgres.Dispatch) error {
	err := complete(ctx, w.Pool, job, func(ctx context.Context, tx pgx.Tx) error {
		return postgres.InsertDispatch(ctx, tx, d)
	})
	if err == nil {
		w.Metrics.dispatched(*d)
	}
	return err
}

// status is what is recorded of an attempt. An exporter that does not say what
// came of a failed one has failed.
func status(o export.Outcome, err error) postgres.DispatchStatus {
	switch {
	case err == nil && o == export.Accepted:
		return postgres.DispatchAccepted
	case err == nil:
		return postgres.DispatchDelivered
	case o == export.Unknown || o == export.Refused:
		return postgres.DispatchStatus(o)
	}
	return postgres.DispatchFailed
}

// maxResponse bounds what is kept of a target's answer, in bytes.
const maxResponse = 16 << 10

// text makes a target's answer fit for a text column.
func text(s string) string {
	s = s[:min(len(s), maxResponse)]
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "")
}

// jittered is d, up to a fifth longer by chance, so that what waits together
// does not come back together.
func jittered(d time.Duration) time.Duration {
	return d + rand.N(d/5+time.Millisecond) //nolint:gosec // chance spreads the load, it keeps no secret
}
