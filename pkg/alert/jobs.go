package alert

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"go.uber.org/zap"

	"postcall/pkg/call"
	"postcall/pkg/queue"
)

// CheckWorker works the checks.
type CheckWorker struct {
	river.WorkerDefaults[queue.CheckAlerts]

	Checker *Checker
	Log     *zap.Logger
}

// Work looks at the rules. The next check comes in a minute: one that failed is
// no dead letter.
func (w *CheckWorker) Work(ctx context.Context, _ *river.Job[queue.CheckAlerts]) error {
	if err := w.Checker.Check(ctx, river.ClientFromContext[pgx.Tx](ctx)); err != nil {
		w.Log.Error("checking the alerts", zap.Error(err))
		return river.JobCancel(err)
	}
	return nil
}

// SendWorker works the messages.
type SendWorker struct {
	river.WorkerDefaults[queue.SendAlert]

	Pool     *pgxpool.Pool
	Channels map[string]Channel
	Language Language
	Location *time.Location
	Log      *zap.Logger
}

// inOrder is how long a message waits for an earlier one of its incident.
const inOrder = 10 * time.Second

// Work sends one message to one channel. A message that it is over waits for the
// one that it had begun, as long as that is still tried; where it has begun again
// by then, it is not told any more: it would be the last that people hear.
func (w *SendWorker) Work(ctx context.Context, job *river.Job[queue.SendAlert]) error {
	channel, ok := w.Channels[job.Args.Channel]
	if !ok {
		return river.JobCancel(call.Errorf(call.NotFound, "the channel %s is not configured any more", job.Args.Channel))
	}
	if job.Args.Event != Fired {
		var again, before bool
		err := w.Pool.QueryRow(ctx, `
			select exists (select from alerts where rule = $3 and incident > $4), exists (
				select from river_job
				where kind = 'send_alert' and id < $1 and state in ('available', 'pending', 'retryable', 'running', 'scheduled')
					and args @> jsonb_build_object('channel', $2::text, 'rule', $3::text, 'incident', $4::bigint))`,
			job.ID, job.Args.Channel, job.Args.Rule, job.Args.Incident).Scan(&again, &before)
		if err != nil {
			return err
		}
		switch {
		case again:
			w.Log.Info("an alert is not told: the rule fires again", zap.String("channel", job.Args.Channel),
				zap.String("rule", job.Args.Rule), zap.String("event", job.Args.Event))
			return nil
		case before:
			return river.JobSnooze(inOrder)
		}
	}
	err := channel.Send(ctx, message(job.Args, w.Language, w.Location))
	fields := []zap.Field{zap.String("channel", job.Args.Channel), zap.String("rule", job.Args.Rule), zap.String("event", job.Args.Event), zap.Int("attempt", job.Attempt)}
	if err == nil {
		w.Log.Info("alert", fields...)
		return nil
	}
	w.Log.Warn("an alert could not be sent", append(fields, zap.Error(err))...)
	if e := asLimited(err); e != nil {
		return river.JobSnooze(e.RetryAfter)
	}
	return err
}

// asLimited gives the error that says when to come back, nil for any other.
func asLimited(err error) *call.Error {
	if e, ok := errors.AsType[*call.Error](err); ok && e.Code == call.RateLimited && e.RetryAfter > 0 {
		return e
	}
	return nil
}
