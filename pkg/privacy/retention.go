package privacy

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
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
var DefaultPace = Pace{Batch: 5, Share: 0.02, Least: 50 * time.Millisecond}

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

// settled is the condition on an event e that nothing is left to do for it: $5
// are the events that jobs are about, $6 is since when others may have come.
const settled = `
	e.analysis_state in ('done', 'skipped') and e.id <> all($5)
	and not exists (select from analyses a where a.event_id = e.id and a.created_at >= $6)`

// busy lists the settled events whose result is still on its way, or that
// somebody has put back into the queue. It is read once a run: asking for each
// row takes longer than all else that is done to it, as new jobs wait in a list
// before the index on their arguments. A job that was made since then is one of
// an analysis made since then, or somebody sends a result again, who finds what
// he would have found a moment later.
const busy = `
	select coalesce(array_agg(event), '{}'), now() - interval '1 hour'
	from (
		select a.event_id as event
		from river_job j join analyses a on a.id = (j.args ->> 'analysis_id')::bigint
		where j.state in ('available', 'pending', 'retryable', 'running', 'scheduled') and j.kind <> 'analyze'
		union
		select e.id
		from river_job j join webhook_events e on e.id = (j.args ->> 'event_id')::bigint
		where j.state in ('available', 'pending', 'retryable', 'running', 'scheduled') and j.kind = 'analyze'
			and e.analysis_state in ('done', 'skipped')
	) events`

// A batch looks at the next rows behind a place, by the index that has them in
// the order of their age, and takes those of them that it may. What it may not
// take is passed over: rows that must stay do not hold up the younger ones, and
// however many conditions there are, no more rows are looked at than a batch has.
//
// Each statement takes an age in microseconds, how many rows at most, and the
// place, and gives how many rows it saw, the last one's place, and how many it
// took.
const (
	takeEvents = `
		with part as materialized (
			select id, received_at as at from webhook_events
			where body_kept = '%[1]s' and received_at < now() - $1::bigint * interval '1 microsecond' and (received_at, id) > ($3, $4)
			order by received_at, id limit $2
		), old as materialized (
			select e.id from part p join webhook_events e on e.id = p.id
			where ` + settled + `
			for update of e skip locked
		), taken as (
			update webhook_events e set %[2]s, raw_body = null, body_kept = '%[3]s'
			from old where e.id = old.id returning e.id
		)` + seen
	takeAnalyses = `
		with part as materialized (
			select id, event_id, created_at as at from analyses
			where created_at < now() - $1::bigint * interval '1 microsecond' and (created_at, id) > ($3, $4)
			order by created_at, id limit $2
		), old as materialized (
			select a.id from part p join webhook_events e on e.id = p.event_id join analyses a on a.id = p.id
			where ` + settled + `
			for update of a skip locked
		), corrected as (
			delete from corrections c using part p where c.event_id = p.event_id
				and c.at < now() - $1::bigint * interval '1 microsecond'
		), taken as (
			delete from analyses a using old where a.id = old.id returning a.id
		)` + seen
	takeDispatches = `
		with part as materialized (
			select id, event_id, created_at as at from crm_dispatches
			where (payload is not null or response_text is not null)
				and created_at < now() - $1::bigint * interval '1 microsecond' and (created_at, id) > ($3, $4)
			order by created_at, id limit $2
		), old as materialized (
			select d.id from part p join webhook_events e on e.id = p.event_id join crm_dispatches d on d.id = p.id
			where ` + settled + `
			for update of d skip locked
		), taken as (
			update crm_dispatches d set payload = null, response_text = null
			from old where d.id = old.id returning d.id
		)` + seen
	takeRejections = `
		with part as materialized (
			select id, at from rejections
			where at < now() - $1::bigint * interval '1 microsecond' and (at, id) > ($3, $4)
			order by at, id limit $2
			for update skip locked
		), taken as (
			delete from rejections r using part p where r.id = p.id returning r.id
		)` + seen
	seen = `
		select count(*), coalesce(max(at), 'infinity'), coalesce((array_agg(id order by at desc, id desc))[1], 0), (select count(*) from taken) from part`

	// The audit log lets go of entries in no other way. Entries are few: one for
	// each act of a person.
	forgetAudit = `select audit_log_forget($1::bigint * interval '1 microsecond')`

	oldAudio = `
		with part as materialized (
			select id, event_id, conversation_id, object_key, created_at as at from call_audio
			where created_at < now() - $1::bigint * interval '1 microsecond' and (created_at, id) > ($3, $4)
			order by created_at, id limit $2
			for update skip locked
		)
		select p.id, p.object_key, p.at, not exists (
				select from webhook_events e where e.id = p.event_id and e.analysis_state in ('queued', 'running'))
			and not exists (
				select from webhook_events e where e.conversation_id = p.conversation_id and e.analysis_state in ('queued', 'running'))
		from part p order by p.at, p.id`
)

// place is behind a row in the order of age.
type place struct {
	at time.Time
	id int64
}

// batch is what came of one: how many rows were seen and taken, and up to where.
type batch struct {
	seen, taken int64
	last        place
}

// take does one batch.
type take func(ctx context.Context, tx pgx.Tx, age int64, from place) (batch, error)

// Run removes what is too old until nothing is left or the context ends, and
// says how many rows it took of each kind. more is true when the time ran out
// first. An error in one kind does not keep the others from being done. How each
// kind stands is written down for Kept.
func (r *Retention) Run(ctx context.Context) (removed map[string]int64, more bool, err error) {
	removed = map[string]int64{}
	var errs []error
	kinds, err := r.kinds(ctx)
	switch {
	case ctx.Err() != nil:
		return removed, true, nil //nolint:nilerr // that the time ran out is no error
	case locked(err):
		return removed, false, nil // the next run comes soon enough
	case err != nil:
		return removed, false, err
	}
	if err := r.begin(ctx, kinds); err != nil {
		return removed, false, err
	}
	for _, k := range kinds {
		var failure error
		for _, next := range k.takes {
			var n int64
			n, failure = r.drain(ctx, k.age, next)
			removed[k.name] += n
			if failure != nil {
				break
			}
		}
		if ctx.Err() != nil {
			return removed, true, errors.Join(errs...)
		}
		if locked(failure) {
			continue
		}
		if failure != nil {
			errs = append(errs, fmt.Errorf("retention of %s: %w", k.name, failure))
		}
		if err := r.note(ctx, k.name, failure == nil); err != nil {
			errs = append(errs, err)
		}
	}
	return removed, false, errors.Join(errs...)
}

// kind is one of the things that have an age.
type kind struct {
	name  string
	age   time.Duration
	takes []take
}

// kinds are those with an age, in the order in which they are done.
func (r *Retention) kinds(ctx context.Context) ([]kind, error) {
	var (
		events []int64
		since  time.Time
	)
	if a := r.Ages; a.Transcripts > 0 || a.Payloads > 0 || a.Dispatches > 0 || a.Analyses > 0 {
		if err := pgx.BeginFunc(ctx, r.Pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, gently); err != nil {
				return err
			}
			return tx.QueryRow(ctx, busy).Scan(&events, &since)
		}); err != nil {
			return nil, fmt.Errorf("looking for events that something is still done for: %w", err)
		}
	}
	of := func(sql string) take { return r.statement(sql, events, since) }
	var list []kind
	for _, k := range []kind{
		{"transcripts", r.Ages.Transcripts, []take{of(fmt.Sprintf(takeEvents, "all", "payload = without_said(payload)", "unsaid"))}},
		{"payloads", r.Ages.Payloads, []take{of(fmt.Sprintf(takeEvents, "all", stub, "none")), of(fmt.Sprintf(takeEvents, "unsaid", stub, "none"))}},
		{"dispatches", r.Ages.Dispatches, []take{of(takeDispatches)}},
		{"analyses", r.Ages.Analyses, []take{of(takeAnalyses)}},
		{"audio", r.Ages.Audio, []take{r.audio}},
		{"rejections", r.Ages.Rejections, []take{r.statement(takeRejections)}},
		{"audit", r.Ages.Audit, []take{r.audit}},
	} {
		if k.age > 0 {
			list = append(list, k)
		}
	}
	return list, nil
}

// stub is what an emptied body becomes.
const stub = `payload = '{"removed": "retention"}'`

// gently begins a transaction of retention: it waits for locks only for an
// instant and never for the disk, as what a crash takes back is taken again.
const gently = `set local lock_timeout = '100ms'; set local statement_timeout = '10s'; set local synchronous_commit = off`

// drain takes batches of a kind until there is none left.
func (r *Retention) drain(ctx context.Context, age time.Duration, next take) (total int64, err error) {
	var from place // the zero time is before all
	for {
		began := time.Now()
		var b batch
		err := pgx.BeginFunc(ctx, r.Pool, func(tx pgx.Tx) (err error) {
			if _, err = tx.Exec(ctx, gently); err != nil {
				return err
			}
			b, err = next(ctx, tx, age.Microseconds(), from)
			return err
		})
		if err != nil {
			return total, err
		}
		total += b.taken
		if b.seen == 0 {
			return total, nil
		}
		from = b.last
		pause := max(r.Pace.Least, time.Duration(float64(time.Since(began))*(1/r.Pace.Share-1)))
		select {
		case <-ctx.Done():
			return total, ctx.Err()
		case <-time.After(pause):
		}
	}
}

// locked reports whether a table or row was not to be had in time.
func locked(err error) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && e.Code == "55P03"
}

func (r *Retention) statement(sql string, more ...any) take {
	return func(ctx context.Context, tx pgx.Tx, age int64, from place) (b batch, err error) {
		var last pgtype.Timestamptz
		err = tx.QueryRow(ctx, sql, append([]any{age, r.Pace.Batch, from.at, from.id}, more...)...).Scan(&b.seen, &last, &b.last.id, &b.taken)
		b.last.at = last.Time
		return b, err
	}
}

// audit is one statement, after which there is nothing left.
func (r *Retention) audit(ctx context.Context, tx pgx.Tx, age int64, _ place) (b batch, err error) {
	return b, tx.QueryRow(ctx, forgetAudit, age).Scan(&b.taken)
}

// audio deletes objects before the rows that know of them: after a kill between
// the two the row is still there to try again, and that the object is gone is
// no error.
func (r *Retention) audio(ctx context.Context, tx pgx.Tx, age int64, from place) (b batch, err error) {
	rows, err := tx.Query(ctx, oldAudio, age, r.Pace.Batch, from.at, from.id)
	if err != nil {
		return b, err
	}
	var (
		key string
		may bool

		ids  []int64
		keys []string
	)
	if _, err := pgx.ForEachRow(rows, []any{&b.last.id, &key, &b.last.at, &may}, func() error {
		b.seen++
		if may {
			ids, keys = append(ids, b.last.id), append(keys, key)
		}
		return nil
	}); err != nil {
		return b, err
	}
	for _, key := range keys {
		if err := r.Audio.Delete(ctx, key); err != nil {
			return b, err
		}
	}
	tag, err := tx.Exec(ctx, `delete from call_audio where id = any($1)`, ids)
	b.taken = tag.RowsAffected()
	return b, err
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
