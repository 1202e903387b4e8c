package privacy

import (
	"context"
	"errors"
	"time"

	"github.com/riverqueue/river"
	"go.uber.org/zap"

	"postcall/pkg/call"
	"postcall/pkg/queue"
)

// RetentionWorker works the retention jobs.
type RetentionWorker struct {
	river.WorkerDefaults[queue.Retention]

	Retention *Retention
}

// Timeout bounds a job; what is left is the next one's.
func (w *RetentionWorker) Timeout(*river.Job[queue.Retention]) time.Duration { return time.Minute }

// retentionShare is how long a job goes on before it lets others have its place.
const retentionShare = 45 * time.Second

// Work removes what is too old. What does not fit into one job is done by the
// same one a moment later: a snooze takes no attempt. A failure is written down
// and logged; the next job tries again, and this one is no dead letter.
func (w *RetentionWorker) Work(ctx context.Context, _ *river.Job[queue.Retention]) error {
	bounded, cancel := context.WithTimeout(ctx, retentionShare)
	defer cancel()
	began := time.Now()
	removed, more, err := w.Retention.Run(bounded)
	fields := []zap.Field{zap.Bool("more", more), zap.Duration("duration_ms", time.Since(began))}
	var total int64
	for kind, n := range removed {
		total += n
		fields = append(fields, zap.Int64(kind, n))
	}
	if err != nil {
		w.Retention.Log.Error("retention", append(fields, zap.Error(err))...)
		return river.JobCancel(err)
	}
	if total > 0 {
		w.Retention.Log.Info("retention", fields...)
	}
	if more && ctx.Err() == nil {
		return river.JobSnooze(time.Second)
	}
	return nil
}

// EraseWorker works the erasures that were ordered by the API.
type EraseWorker struct {
	river.WorkerDefaults[queue.Erase]

	Eraser *Eraser
}

// Work erases.
func (w *EraseWorker) Work(ctx context.Context, job *river.Job[queue.Erase]) error {
	_, err := w.Eraser.Run(ctx, job.Args.ErasureID)
	switch {
	case err == nil:
		return nil
	case call.CodeOf(err) == call.Invalid, call.CodeOf(err) == call.NotFound, call.CodeOf(err) == call.Conflict:
		return river.JobCancel(err)
	case errors.Is(err, ErrMore):
		return river.JobSnooze(time.Second)
	case errors.Is(err, context.Canceled):
		return err
	}
	w.Eraser.Log.Warn("erasing goes on later", zap.Int64("erasure", job.Args.ErasureID), zap.Error(err))
	return err
}
