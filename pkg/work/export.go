package work

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"go.uber.org/zap"

	"postcall/pkg/call"
	"postcall/pkg/elevenlabs"
	"postcall/pkg/export"
	"postcall/pkg/postgres"
	"postcall/pkg/queue"
)

// ExportArgs are the arguments of a job that hands an analysis to a target.
type ExportArgs interface {
	river.JobArgs
	Analysis() int64
}

// Export works the jobs of one target.
type Export[T ExportArgs] struct {
	river.WorkerDefaults[T]

	Pool     *pgxpool.Pool
	Exporter export.Exporter
	Log      *zap.Logger
}

// Work hands one analysis over. That an attempt begins is committed before
// anything leaves, so that after a kill the next attempt knows that this one
// may have arrived.
func (w *Export[T]) Work(ctx context.Context, job *river.Job[T]) error {
	began := time.Now()
	id := job.Args.Analysis()
	err := w.export(ctx, job, id)
	s, result := next(ctx, job.JobRow, err)
	line(w.Log, job.JobRow, s, began, err,
		zap.Int64("analysis_id", id), zap.String("target", string(w.Exporter.Target())))
	return result
}

func (w *Export[T]) export(ctx context.Context, job *river.Job[T], id int64) error {
	analysis, err := postgres.Analysis(ctx, w.Pool, id)
	if err != nil {
		return err
	}
	event, err := postgres.Event(ctx, w.Pool, analysis.EventID)
	if err != nil {
		return err
	}
	conversation, err := elevenlabs.Conversation(event.Type, event.Payload)
	if err != nil {
		return err
	}
	event.Payload = nil
	target := w.Exporter.Target()
	dispatch, delivered, unknown, err := postgres.BeginDispatch(ctx, w.Pool, event.ID, id, target)
	if err != nil || delivered {
		return err
	}
	receipt, err := w.Exporter.Export(ctx, export.Delivery{
		Event: *event, Conversation: *conversation, Analysis: *analysis, Again: unknown,
	})
	end := postgres.Dispatch{
		ID: dispatch, Status: postgres.DispatchDelivered,
		Payload: receipt.Payload, Response: receipt.Response, HTTPStatus: receipt.HTTPStatus,
	}
	ctx, cancel := finally(ctx)
	defer cancel()
	if err != nil {
		end.Status = postgres.DispatchFailed
		end.Response = err.Error()
		if rerr := postgres.EndDispatch(ctx, w.Pool, end); rerr != nil {
			w.Log.Error("a failed dispatch could not be recorded", zap.Int64("dispatch_id", dispatch), zap.Error(rerr))
		}
		return err
	}
	return pgx.BeginFunc(ctx, w.Pool, func(tx pgx.Tx) error {
		if err := queue.Own(ctx, tx, job.JobRow); err != nil {
			return err
		}
		if err := postgres.EndDispatch(ctx, tx, end); err != nil {
			return err
		}
		_, err := river.JobCompleteTx[*riverpgxv5.Driver](ctx, tx, job)
		return err
	})
}

// Reconcile works the reconcile jobs: an event whose analysis was given up
// without its worker's doing (killed in its last attempt, cancelled or
// discarded by hand) is marked dead, so that it is seen.
type Reconcile struct {
	river.WorkerDefaults[queue.Reconcile]

	Pool *pgxpool.Pool
	Log  *zap.Logger
}

// Work brings the events in line.
func (w *Reconcile) Work(ctx context.Context, _ *river.Job[queue.Reconcile]) error {
	ids, err := queue.MarkDead(ctx, w.Pool)
	if err != nil {
		return err
	}
	for _, id := range ids {
		w.Log.Error("analysis given up without its worker", zap.Int64("event_id", id), zap.String("state", string(call.StateDead)))
	}
	return nil
}
