package admin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/labstack/echo/v4"
	"github.com/riverqueue/river/rivertype"

	"postcall/pkg/call"
	"postcall/pkg/postgres"
	"postcall/pkg/queue"
)

// QueueState is how a queue stands. Finished jobs are not counted.
type QueueState struct {
	Name     string     `json:"name"`
	PausedAt *time.Time `json:"paused_at"`
	// PausedBecause is why the workers paused it by themselves; empty where
	// somebody did it by hand.
	PausedBecause string `json:"paused_because,omitempty"`
	Waiting       int64  `json:"waiting"` // may run now
	Later         int64  `json:"later"`   // wait for a later attempt
	Running       int64  `json:"running"`
	Dead          int64  `json:"dead"`
	// OldestSeconds is for how long the oldest job waits that may run now.
	OldestSeconds float64 `json:"oldest_seconds"`
	// LaterSeconds is how long ago the oldest job was enqueued that waits for a
	// later attempt.
	LaterSeconds float64 `json:"-"`
}

func queueStates(ctx context.Context, db postgres.DB) ([]QueueState, error) {
	rows, err := db.Query(ctx, `
		with jobs as (
			select queue,
				count(*) filter (where state = 'available') as waiting,
				count(*) filter (where state in ('retryable', 'scheduled', 'pending')) as later,
				count(*) filter (where state = 'running') as running,
				count(*) filter (where state = 'discarded') as dead,
				min(scheduled_at) filter (where state = 'available') as oldest,
				min(created_at) filter (where state in ('retryable', 'scheduled')) as put_off
			from river_job
			where state in ('available', 'retryable', 'scheduled', 'pending', 'running', 'discarded')
			group by queue
		)
		select coalesce(q.name, j.queue), q.paused_at,
			coalesce((
				select p.reason from queue_pauses p
				where p.queue = q.name and p.paused_at = q.paused_at and p.resumed_at is null), ''),
			coalesce(j.waiting, 0), coalesce(j.later, 0), coalesce(j.running, 0), coalesce(j.dead, 0),
			coalesce(greatest(extract(epoch from now() - j.oldest), 0), 0)::float8,
			coalesce(greatest(extract(epoch from now() - j.put_off), 0), 0)::float8
		from river_queue q full join jobs j on j.queue = q.name
		order by 1`)
	if err != nil {
		return nil, fmt.Errorf("reading the queues: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[QueueState])
	if err != nil {
		return nil, fmt.Errorf("reading the queues: %w", err)
	}
	return list, nil
}

func (a *API) queues(c echo.Context) error {
	ctx, cancel := context.WithTimeout(c.Request().Context(), answerTime)
	defer cancel()
	list, err := queueStates(ctx, a.Pool)
	if err != nil {
		return unavailable(err)
	}
	return c.JSON(http.StatusOK, map[string]any{"queues": list})
}

// pauseQueue keeps the workers from beginning jobs of a queue, until somebody
// resumes it: what runs is finished, what comes waits.
func (a *API) pauseQueue(c echo.Context) error { return a.turn(c, a.Jobs.QueuePauseTx) }

// resumeQueue ends a pause, the workers' own too.
func (a *API) resumeQueue(c echo.Context) error { return a.turn(c, a.Jobs.QueueResumeTx) }

func (a *API) turn(c echo.Context, do func(context.Context, pgx.Tx, string, *queue.PauseOptions) error) error {
	name := c.Param("name")
	answer, err := act(a, c, "queue "+clipped(name), func(ctx context.Context, tx pgx.Tx) (answer QueueState, err error) {
		err = do(ctx, tx, name, nil)
		if errors.Is(err, rivertype.ErrNotFound) || name == "*" {
			return answer, call.Errorf(call.NotFound, "There is no queue %.60q; GET /api/queues lists them.", name)
		}
		if err != nil {
			return answer, fmt.Errorf("pausing or resuming the queue: %w", err)
		}
		list, err := queueStates(ctx, tx)
		for _, q := range list {
			if q.Name == name {
				answer = q
			}
		}
		return answer, err
	})
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, answer)
}
