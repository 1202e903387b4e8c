package queue

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// Trace leads a trace through the queue: what inserts a job within one leaves
// its place in the job's metadata, and the job goes on from there, after a span
// for the time that it waited.
type Trace struct {
	river.MiddlewareDefaults

	Tracer trace.Tracer
}

// Traceparent is the place in its trace that a context stands at, as W3C's
// traceparent; empty where there is no trace.
func Traceparent(ctx context.Context) string {
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	return carrier["traceparent"]
}

// InsertMany notes the inserter's place in the trace.
func (*Trace) InsertMany(ctx context.Context, jobs []*rivertype.JobInsertParams, inner func(context.Context) ([]*rivertype.JobInsertResult, error)) ([]*rivertype.JobInsertResult, error) {
	if parent := Traceparent(ctx); parent != "" {
		for _, job := range jobs {
			if err := annotate(job, parent); err != nil {
				return nil, err
			}
		}
	}
	return inner(ctx)
}

func annotate(job *rivertype.JobInsertParams, parent string) error {
	all := map[string]json.RawMessage{}
	if len(job.Metadata) > 0 {
		if err := json.Unmarshal(job.Metadata, &all); err != nil {
			return fmt.Errorf("reading a job's metadata: %w", err)
		}
	}
	text, err := json.Marshal(parent)
	if err == nil {
		all["traceparent"] = text
		job.Metadata, err = json.Marshal(all)
	}
	if err != nil {
		return fmt.Errorf("noting a job's trace: %w", err)
	}
	return nil
}

// Work goes on with the trace that the job was inserted in. A job of none, such
// as those that River makes by itself, has no wait to show.
func (t *Trace) Work(ctx context.Context, job *rivertype.JobRow, inner func(context.Context) error) error {
	parent := MetadataOf(job).Trace
	if parent == "" {
		return inner(ctx)
	}
	ctx = propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": parent})
	// Since when the job could have run: a retry's or a snooze's wait counts from
	// when it was due.
	due := job.ScheduledAt
	begun := due
	if job.AttemptedAt != nil && job.AttemptedAt.After(due) {
		begun = *job.AttemptedAt
	}
	_, waited := t.Tracer.Start(ctx, "queue wait "+job.Kind, trace.WithTimestamp(due), trace.WithAttributes(
		attribute.Int64("postcall.job_id", job.ID), attribute.Int("postcall.attempt", job.Attempt),
		attribute.Float64("postcall.queue_wait_seconds", begun.Sub(due).Seconds())))
	waited.End(trace.WithTimestamp(begun))
	return inner(ctx)
}
