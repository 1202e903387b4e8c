package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"

	"postcall/pkg/call"
)

// Pause is a pause that the workers made of a queue by themselves.
type Pause struct {
	Queue  string
	Code   call.Code
	Reason string
	By     string    // the worker whose job was refused
	Since  time.Time // the first of an unbroken series of pauses
	Probes int
	// ProbedAt is nil before the first probe; ProbeAt is when the next is due.
	ProbedAt *time.Time
	ProbeAt  time.Time
}

// Probing says how often a paused queue is probed: First after the pause, each
// time twice as late, at last every Last.
type Probing struct{ First, Last time.Duration }

const pauseColumns = `p.queue, p.code, p.reason, p.paused_by, p.since, p.probes, p.probed_at, p.probe_at`

// inForce joins a pause with its queue, where it still is the one that stops
// it. Somebody who resumes the queue by hand, or pauses it anew, ends it.
const inForce = `p.queue = q.name and p.paused_at = q.paused_at and p.resumed_at is null`

// PauseQueue pauses a queue because of an error that all its jobs would meet.
// It reports false where the queue is paused already: by another worker, or by
// hand, which then stands as it was made.
//
// One that follows upon another within a while continues its series: probes
// stay as rare as they had become.
func PauseQueue(ctx context.Context, pool *pgxpool.Pool, c *Client, queue, by string, cause error, probing Probing) (paused bool, err error) {
	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		var already bool
		err := tx.QueryRow(ctx, `select paused_at is not null from river_queue where name = $1 for update`, queue).Scan(&already)
		if errors.Is(err, pgx.ErrNoRows) || err == nil && already {
			return nil
		}
		if err != nil {
			return err
		}
		if err := c.QueuePauseTx(ctx, tx, queue, nil); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `
			insert into queue_pauses as p (queue, code, reason, paused_by, since, paused_at, probe_at)
			select name, $2, $3, $4, now(), paused_at, now() + $5 from river_queue where name = $1
			on conflict (queue) do update
			set code = excluded.code, reason = excluded.reason, paused_by = excluded.paused_by,
				paused_at = excluded.paused_at, resumed_at = null,
				since = case when p.resumed_at > now() - 2 * $6::interval then p.since else excluded.since end,
				probes = case when p.resumed_at > now() - 2 * $6::interval then p.probes else 0 end,
				probed_at = case when p.resumed_at > now() - 2 * $6::interval then p.probed_at end,
				probe_at = case when p.resumed_at > now() - 2 * $6::interval
					then now() + least($5::interval * power(2, least(p.probes, 20)), $6::interval)
					else excluded.probe_at end`,
			queue, string(call.CodeOf(cause)), cause.Error(), by, probing.First, probing.Last)
		paused = err == nil
		return err
	})
	if err != nil {
		return false, fmt.Errorf("pausing the queue %s: %w", queue, err)
	}
	return paused, nil
}

// PauseOf is the pause in force of a queue; nil when the workers did not pause
// it.
func PauseOf(ctx context.Context, pool *pgxpool.Pool, queue string) (*Pause, error) {
	rows, err := pool.Query(ctx, `select `+pauseColumns+` from queue_pauses p join river_queue q on `+inForce+` where p.queue = $1`, queue)
	return onePause(rows, err, "reading the pause of the queue "+queue)
}

// ClaimProbe gives the pause in force to one worker to probe, when a probe is
// due; nil otherwise. At once gives it before its time too, to a worker that
// has just started and may have another key, unless another has just probed.
func ClaimProbe(ctx context.Context, pool *pgxpool.Pool, queue string, probing Probing, atOnce bool) (*Pause, error) {
	rows, err := pool.Query(ctx, `
		update queue_pauses p
		set probes = probes + 1, probed_at = now(),
			probe_at = now() + least($2::interval * power(2, least(probes + 1, 20)), $3::interval)
		from river_queue q
		where p.queue = $1 and `+inForce+`
			and (p.probe_at <= now() or $4 and coalesce(p.probed_at, '-infinity') < now() - $2::interval)
		returning `+pauseColumns, queue, probing.First, probing.Last, atOnce)
	return onePause(rows, err, "claiming the probe of the queue "+queue)
}

func onePause(rows pgx.Rows, err error, doing string) (*Pause, error) {
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	p, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Pause])
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil //nolint:nilnil // no pause is an answer
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	return &p, nil
}

// ResumeQueue ends the pause that the workers made. It reports false where it
// is not in force any more: a pause made by hand is never ended here.
func ResumeQueue(ctx context.Context, pool *pgxpool.Pool, c *Client, queue string) (resumed bool, err error) {
	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			update queue_pauses p set resumed_at = now()
			from (select name, paused_at from river_queue where name = $1 for update) q
			where `+inForce, queue)
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		resumed = true
		return c.QueueResumeTx(ctx, tx, queue, nil)
	})
	if err != nil {
		return false, fmt.Errorf("resuming the queue %s: %w", queue, err)
	}
	return resumed, nil
}

// WorksByHand reports whether a queue works although no probe has resumed it
// within a time: somebody has, by hand.
func WorksByHand(ctx context.Context, pool *pgxpool.Pool, queue string, within time.Duration) (is bool, err error) {
	err = pool.QueryRow(ctx, `
		select exists (select from river_queue where name = $1 and paused_at is null)
			and not exists (select from queue_pauses where queue = $1 and resumed_at > now() - $2::interval)`,
		queue, within).Scan(&is)
	if err != nil {
		return false, fmt.Errorf("looking who has resumed the queue %s: %w", queue, err)
	}
	return is, nil
}

// PauseOptions are River's.
type PauseOptions = river.QueuePauseOpts
