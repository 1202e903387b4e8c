package privacy

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"postcall/pkg/postgres"
)

// Ages are how long things are kept; 0 is for ever.
type Ages struct {
	Payloads    time.Duration // bodies of events, of which a stub stays
	Transcripts time.Duration // what was said, out of the bodies
	Audio       time.Duration
	Analyses    time.Duration
	Dispatches  time.Duration // what was sent to a target and what it answered
	Rejections  time.Duration
	Audit       time.Duration // at least 30 days
}

// Any reports whether anything has an age.
func (a Ages) Any() bool { return a != Ages{} }

// Recordings is the audio store.
type Recordings interface {
	Delete(ctx context.Context, key string) error
}

// Pace is how retention goes about it.
type Pace struct {
	Batch int // rows a transaction takes
	// Share is how much of the time statements may run, the rest being pauses:
	// 0.25 pauses three times as long as the batch before took.
	Share float64
	Least time.Duration // the shortest pause
}

// DefaultPace takes a small part of what a database can do.
var DefaultPace = Pace{Batch: 20, Share: 0.1, Least: 50 * time.Millisecond}

// Retention removes what is older than its age, in small transactions.
//
// Failure policy: receiving always comes first. A batch passes over rows that
// somebody holds, waits for a table's lock for an instant only, and pauses much
// longer than it works. What it could not take it takes another time. An event
// that is not analysed, dead ones included, and one whose result is still on its
// way to a target, is never touched, however old.
type Retention struct {
	Pool  *pgxpool.Pool
	Audio Recordings
	Ages  Ages
	Pace  Pace
	Log   *zap.Logger
}

// settled is the condition on an event e that nothing is left to do for it.
const settled = `
	e.analysis_state in ('done', 'skipped')
	and not exists (
		select from analyses a
		join river_job j on j.args @> jsonb_build_object('analysis_id', a.id)
		where a.event_id = e.id and j.state in ('available', 'pending', 'retryable', 'running', 'scheduled'))
	and not exists (
		select from river_job j
		where j.args @> jsonb_build_object('event_id', e.id) and j.kind = 'analyze'
			and j.state in ('available', 'pending', 'retryable', 'running', 'scheduled'))`

// Each takes an age in microseconds and how many rows at most, and gives how
// many it took.
const (
	stripTranscripts = `
		with old as (
			select e.id from webhook_events e
			where e.body_kept = 'all' and e.received_at < now() - $1::bigint * interval '1 microsecond' and ` + settled + `
			order by e.received_at, e.id limit $2
			for update of e skip locked)
		update webhook_events e
		set payload = without_said(payload), raw_body = null, body_kept = 'unsaid'
		from old where e.id = old.id`
	emptyPayloads = `
		with old as (
			select e.id from webhook_events e
			where e.body_kept = '%s' and e.received_at < now() - $1::bigint * interval '1 microsecond' and ` + settled + `
			order by e.received_at, e.id limit $2
			for update of e skip locked)
		update webhook_events e
		set payload = '{"removed": "retention"}', raw_body = null, body_kept = 'none'
		from old where e.id = old.id`
	deleteAnalyses = `
		with old as (
			select a.id from analyses a join webhook_events e on e.id = a.event_id
			where a.created_at < now() - $1::bigint * interval '1 microsecond' and ` + settled + `
			order by a.created_at, a.id limit $2
			for update of a skip locked)
		delete from analyses a using old where a.id = old.id`
	emptyDispatches = `
		with old as (
			select d.id from crm_dispatches d join webhook_events e on e.id = d.event_id
			where (d.payload is not null or d.response_text is not null)
				and d.created_at < now() - $1::bigint * interval '1 microsecond' and ` + settled + `
			order by d.created_at, d.id limit $2
			for update of d skip locked)
		update crm_dispatches d set payload = null, response_text = null
		from old where d.id = old.id`
	deleteRejections = `
		with old as (
			select id from rejections where at < now() - $1::bigint * interval '1 microsecond'
			order by at, id limit $2
			for update skip locked)
		delete from rejections r using old where r.id = old.id`
	// The audit log lets go of entries in no other way. Entries are few: one for
	// each act of a person.
	forgetAudit = `select audit_log_forget($1::bigint * interval '1 microsecond') limit $2`
	oldAudio    = `
		select a.id, a.object_key from call_audio a
		where a.created_at < now() - $1::bigint * interval '1 microsecond'
			and not exists (
				select from webhook_events e
				where (e.id = a.event_id or e.conversation_id = a.conversation_id) and e.analysis_state in ('queued', 'running'))
		order by a.created_at, a.id limit $2
		for update of a skip locked`
)

// Run removes what is too old until nothing is left or the context ends, and
// says how many rows it took of each kind. more is true when the time ran out
// first. An error in one kind does not keep the others from being done.
func (r *Retention) Run(ctx context.Context) (removed map[string]int64, more bool, err error) {
	removed = map[string]int64{}
	var errs []error
	for _, kind := range []struct {
		name string
		age  time.Duration
		take func(ctx context.Context, tx pgx.Tx, age int64) (int64, error)
	}{
		{"transcripts", r.Ages.Transcripts, r.statement(stripTranscripts)},
		{"payloads", r.Ages.Payloads, r.statement(fmt.Sprintf(emptyPayloads, "all"))},
		{"payloads", r.Ages.Payloads, r.statement(fmt.Sprintf(emptyPayloads, "unsaid"))},
		{"dispatches", r.Ages.Dispatches, r.statement(emptyDispatches)},
		{"analyses", r.Ages.Analyses, r.statement(deleteAnalyses)},
		{"audio", r.Ages.Audio, r.audio},
		{"rejections", r.Ages.Rejections, r.statement(deleteRejections)},
		{"audit", r.Ages.Audit, r.audit},
	} {
		if kind.age == 0 {
			continue
		}
		n, err := r.drain(ctx, kind.age, kind.take)
		removed[kind.name] += n
		if ctx.Err() != nil {
			return removed, true, errors.Join(errs...)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("retention of %s: %w", kind.name, err))
		}
	}
	return removed, false, errors.Join(errs...)
}

// drain takes batches of a kind until there is none left.
func (r *Retention) drain(ctx context.Context, age time.Duration, take func(context.Context, pgx.Tx, int64) (int64, error)) (total int64, err error) {
	for {
		began := time.Now()
		var n int64
		err := pgx.BeginFunc(ctx, r.Pool, func(tx pgx.Tx) (err error) {
			// What a crash takes back is taken again: nobody waits for the disk.
			if _, err = tx.Exec(ctx, `
				set local lock_timeout = '100ms'; set local statement_timeout = '10s'; set local synchronous_commit = off`); err != nil {
				return err
			}
			n, err = take(ctx, tx, age.Microseconds())
			return err
		})
		if err != nil {
			if busy(err) {
				return total, nil // the next run comes soon enough
			}
			return total, err
		}
		total += n
		if n == 0 {
			return total, nil
		}
		pause := max(r.Pace.Least, time.Duration(float64(time.Since(began))*(1/r.Pace.Share-1)))
		select {
		case <-ctx.Done():
			return total, ctx.Err()
		case <-time.After(pause):
		}
	}
}

// busy reports whether a lock was not to be had in time.
func busy(err error) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && e.Code == "55P03"
}

func (r *Retention) statement(sql string) func(context.Context, pgx.Tx, int64) (int64, error) {
	return func(ctx context.Context, tx pgx.Tx, age int64) (int64, error) {
		tag, err := tx.Exec(ctx, sql, age, r.Pace.Batch)
		return tag.RowsAffected(), err
	}
}

// audit is one statement, after which there is nothing left.
func (r *Retention) audit(ctx context.Context, tx pgx.Tx, age int64) (n int64, err error) {
	return 0, tx.QueryRow(ctx, forgetAudit, age, 1).Scan(&n)
}

// audio deletes objects before the rows that know of them: after a kill between
// the two the row is still there to try again, and that the object is gone is
// no error.
func (r *Retention) audio(ctx context.Context, tx pgx.Tx, age int64) (int64, error) {
	ids, keys, err := recordings(ctx, tx, oldAudio, age, r.Pace.Batch)
	if err != nil {
		return 0, err
	}
	for _, key := range keys {
		if err := r.Audio.Delete(ctx, key); err != nil {
			return 0, err
		}
	}
	tag, err := tx.Exec(ctx, `delete from call_audio where id = any($1)`, ids)
	return tag.RowsAffected(), err
}

// recordings reads ids and object keys.
func recordings(ctx context.Context, db postgres.DB, sql string, args ...any) (ids []int64, keys []string, err error) {
	rows, err := db.Query(ctx, sql, args...)
	if err != nil {
		return nil, nil, err
	}
	var (
		id  int64
		key string
	)
	_, err = pgx.ForEachRow(rows, []any{&id, &key}, func() error {
		ids, keys = append(ids, id), append(keys, key)
		return nil
	})
	return ids, keys, err
}
