package work

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"go.uber.org/zap"

	"postcall/pkg/call"
	"postcall/pkg/postgres"
	"postcall/pkg/queue"
)

// Reconcile works the reconcile jobs: an event whose analysis was given up
// without its worker's doing (killed in its last attempt, cancelled or
// discarded by hand) is marked dead, so that it is seen. What is kept of long
// calls that nobody went on with is dropped, and calls that nobody analyses are
// measured.
type Reconcile struct {
	river.WorkerDefaults[queue.Reconcile]

	Pool *pgxpool.Pool
	Log  *zap.Logger
}

// keptParts is how long answers to the parts of a call wait for the next attempt:
// longer than all retries take, and a dead letter looked at the next morning
// still has them.
const keptParts = 3 * 24 * time.Hour

// Work brings the events in line.
func (w *Reconcile) Work(ctx context.Context, _ *river.Job[queue.Reconcile]) error {
	ids, err := queue.MarkDead(ctx, w.Pool)
	if err != nil {
		return err
	}
	for _, id := range ids {
		w.Log.Error("analysis given up without its worker", zap.Int64("event_id", id), zap.String("state", string(call.StateDead)))
	}
	if err := postgres.ForgetPartsBefore(ctx, w.Pool, keptParts); err != nil {
		return err
	}
	return measure(ctx, w.Pool)
}
