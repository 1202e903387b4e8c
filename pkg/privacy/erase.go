package privacy

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"postcall/pkg/call"
	"postcall/pkg/export/markdown"
	"postcall/pkg/postgres"
)

// Actor is who asks, for the audit log.
type Actor struct {
	Name, Role, RequestID, Address string
}

// Notes is the Markdown file of results.
type Notes interface {
	Remove(ctx context.Context, analyses map[int64]bool, match func(line []byte) bool) (markdown.Removed, error)
}

// Eraser removes all that is kept of a person or of a call.
type Eraser struct {
	Pool  *pgxpool.Pool
	Audio Recordings
	Notes Notes
	// Region is the country of numbers without a country code.
	Region string
	Log    *zap.Logger
	// Search is how long one Run looks for a phone number, 0 for as long as it
	// takes.
	Search time.Duration
	// Progress is told how far the search is, by ids of events; nil for nobody.
	Progress func(done, total int64)
}

// Result is what was erased, or would be. It holds no personal data and stays.
type Result struct {
	DryRun     bool  `json:"dry_run"`
	Events     int   `json:"events"`
	Calls      int   `json:"calls"`
	Analyses   int   `json:"analyses"`
	Dispatches int   `json:"dispatches"`
	Recordings int   `json:"recordings"`
	Jobs       int64 `json:"jobs"`
	Entries    int   `json:"markdown_entries"`
	Lines      int   `json:"markdown_lines"`
	// Elsewhere are the targets that hold copies which only their own people can
	// delete.
	Elsewhere []Elsewhere `json:"elsewhere,omitempty"`
	// ByHand is what is left for people to do, in sentences.
	ByHand []string `json:"by_hand,omitempty"`
}

// Elsewhere is a target that was given something.
type Elsewhere struct {
	Target string    `json:"target"`
	Sent   int       `json:"sent"`
	First  time.Time `json:"first"`
	Last   time.Time `json:"last"`
}

// Fingerprint is how the audit log names a subject: a digest with a key that is
// not in the database, since numbers are few enough to be tried one by one.
// Without a key a phone is not named at all.
func Fingerprint(key string, s Subject) string {
	kind, id := "conversation", s.Conversation
	if s.Phone != "" {
		kind, id = "phone", s.Phone
		if key == "" {
			return kind
		}
	}
	mac := hmac.New(sha256.New, []byte("postcall erasure "+key))
	_, _ = mac.Write([]byte(kind + ":" + id))
	return kind + " " + hex.EncodeToString(mac.Sum(nil)[:12])
}

// Order writes an erasure down, to be done by Run, and returns its id. One of
// the same subject that was ordered and is not done yet is that one.
func Order(ctx context.Context, db postgres.DB, s Subject, fingerprint string, by Actor, dryRun bool) (id int64, err error) {
	err = db.QueryRow(ctx, `
		with waiting as (
			select id from erasures
			where state = 'queued' and dry_run = $3
				and phone is not distinct from nullif($1, '') and conversation_id is not distinct from nullif($2, '')
			order by id limit 1
		), added as (
			insert into erasures (phone, conversation_id, dry_run, subject, actor, role, request_id, address)
			select nullif($1, ''), nullif($2, ''), $3, $4, $5, $6, nullif($7, ''), nullif($8, '')
			where not exists (select from waiting)
			returning id
		)
		select id from waiting union all select id from added`,
		s.Phone, s.Conversation, dryRun, fingerprint, by.Name, by.Role, by.RequestID, by.Address).Scan(&id)
	if err != nil {
		return 0, fmt.Errorf("writing an erasure down: %w", err)
	}
	return id, nil
}

// Status is where an erasure stands.
type Status struct {
	ID         int64           `json:"id"`
	Subject    string          `json:"subject"`
	State      string          `json:"state"` // queued, done, refused
	Result     json.RawMessage `json:"result"`
	CreatedAt  time.Time       `json:"created_at"`
	FinishedAt *time.Time      `json:"finished_at"`
}

// StatusOf reads where an erasure stands; NotFound if there is none.
func StatusOf(ctx context.Context, db postgres.DB, id int64) (Status, error) {
	rows, err := db.Query(ctx, `select id, subject, state, result, created_at, finished_at from erasures where id = $1`, id)
	if err != nil {
		return Status{}, fmt.Errorf("reading an erasure: %w", err)
	}
	s, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Status])
	if errors.Is(err, pgx.ErrNoRows) {
		return s, call.Errorf(call.NotFound, "there is no erasure %d", id)
	}
	return s, err
}

const (
	// patience bounds the wait for jobs and transactions that are under way.
	patience = 20 * time.Second
	// recheck is how often that is looked at.
	recheck = 50 * time.Millisecond
)

// ErrMore says that the search for a phone number goes on where it is.
var ErrMore = &call.Error{Code: call.Unavailable, Message: "the search for the phone number has not come to its end; it goes on where it is"}

// search looks for the phone number. How far it is stands in the order, so that
// an archive of any size is searched in parts, each as long as Search.
func (e *Eraser) search(ctx context.Context, id int64, s Subject) (events []int64, err error) {
	if s.Phone == "" {
		return nil, nil
	}
	var from int64
	if err := e.Pool.QueryRow(ctx, `select searched, found from erasures where id = $1`, id).Scan(&from, &events); err != nil {
		return nil, fmt.Errorf("reading an erasure: %w", err)
	}
	began := time.Now()
	return events, search(ctx, e.Pool, s, from, func(at, last int64, list []int64) error {
		events = append(events, list...)
		if e.Progress != nil {
			e.Progress(at, last)
		}
		if _, err := e.Pool.Exec(ctx, `update erasures set searched = $2, found = found || $3::bigint[] where id = $1`, id, at, list); err != nil {
			return fmt.Errorf("noting how far the search is: %w", err)
		}
		if e.Search > 0 && time.Since(began) > e.Search && at < last {
			return ErrMore
		}
		return nil
	})
}

// Run does an erasure that was ordered. It may be killed anywhere and run again:
// what is being erased stays findable until the last step, which deletes it from
// the database, clears the order and writes the audit entry, all in one
// transaction. An erasure that is done already gives its result.
//
// Unavailable asks to run it again later. Invalid means that it was refused and
// why.
func (e *Eraser) Run(ctx context.Context, id int64) (r Result, err error) {
	var (
		s      Subject
		dryRun bool
		state  string
		done   []byte
	)
	err = e.Pool.QueryRow(ctx, `
		select coalesce(phone, ''), coalesce(conversation_id, ''), dry_run, state, result from erasures where id = $1`, id).
		Scan(&s.Phone, &s.Conversation, &dryRun, &state, &done)
	if errors.Is(err, pgx.ErrNoRows) {
		return r, call.Errorf(call.NotFound, "there is no erasure %d", id)
	}
	if err != nil {
		return r, fmt.Errorf("reading an erasure: %w", err)
	}
	if state != "queued" {
		err := json.Unmarshal(done, &r)
		return r, err
	}
	events, err := e.search(ctx, id, s)
	if err != nil {
		return r, err
	}
	f, err := find(ctx, e.Pool, events, s.Conversation)
	if err != nil {
		return r, err
	}
	if s.Phone != "" {
		own, err := agents(ctx, e.Pool, s, f.Events, e.Region)
		if err != nil {
			return r, err
		}
		if own {
			return r, e.refuse(ctx, id)
		}
	}
	if dryRun {
		r, err = e.count(ctx, f)
		if err != nil {
			return r, err
		}
		r.DryRun = true
		return r, e.finish(ctx, id, s, f, &r)
	}
	// From here on nothing of these calls is stored any more.
	if f, err = e.close(ctx, s, f); err != nil {
		return r, err
	}
	if r, err = e.count(ctx, f); err != nil {
		return r, err
	}
	if r.Jobs, err = e.stopJobs(ctx, f); err != nil {
		return r, err
	}
	// A job that ran until now may have added something.
	if f, err = e.again(ctx, s, f); err != nil {
		return r, err
	}
	for _, key := range f.AudioKeys {
		if err := e.Audio.Delete(ctx, key); err != nil {
			return r, err
		}
	}
	if e.Notes != nil {
		removed, err := e.Notes.Remove(ctx, set(f.Analyses), matchAny(s, f.Conversations))
		if err != nil {
			return r, err
		}
		r.Entries, r.Lines = removed.Entries, removed.Lines
	}
	if err := e.finish(ctx, id, s, f, &r); err != nil {
		return r, err
	}
	e.Log.Info("erased", zap.Int64("erasure", id), zap.Int("events", r.Events), zap.Int("recordings", r.Recordings))
	return r, nil
}

// refuse ends an erasure by the agents' own number, without the number.
func (e *Eraser) refuse(ctx context.Context, id int64) error {
	const why = "this is the agents' own number: erasing it would erase everybody's calls; erase calls by their conversation"
	err := pgx.BeginFunc(ctx, e.Pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `
			update erasures set phone = null, found = '{}', state = 'refused', finished_at = now(),
				result = jsonb_build_object('dry_run', dry_run, 'by_hand', jsonb_build_array($2::text))
			where id = $1`, id, why); err != nil {
			return err
		}
		return audit(ctx, tx, id, "refused", nil)
	})
	if err != nil {
		return fmt.Errorf("refusing an erasure: %w", err)
	}
	return call.Errorf(call.Invalid, why)
}

// close lets nothing more of the calls in. What receiving had begun to store
// before it could know is waited for and belongs to what is found then.
func (e *Eraser) close(ctx context.Context, s Subject, f Found) (Found, error) {
	var mine string
	err := pgx.BeginFunc(ctx, e.Pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `
			insert into erased_calls (digest)
			select erasure_digest('call', id) from unnest($1::text[]) id
			union select erasure_digest('key', key) from unnest($2::text[]) key
			on conflict do nothing`, f.Conversations, f.keys); err != nil {
			return err
		}
		return tx.QueryRow(ctx, `select pg_current_xact_id()::text`).Scan(&mine)
	})
	if err != nil {
		return f, fmt.Errorf("closing the calls: %w", err)
	}
	if err := e.wait(ctx, "transactions that began before the erasure", func() (bool, error) {
		var over bool
		err := e.Pool.QueryRow(ctx, `select pg_snapshot_xmin(pg_current_snapshot()) > $1::text::xid8`, mine).Scan(&over)
		return over, err
	}); err != nil {
		return f, err
	}
	return e.again(ctx, s, f)
}

// again looks for what belongs to calls that were found before.
func (e *Eraser) again(ctx context.Context, s Subject, f Found) (Found, error) {
	for _, conversation := range f.Conversations {
		more, err := find(ctx, e.Pool, nil, conversation)
		if err != nil {
			return f, err
		}
		f.add(more)
	}
	if len(f.keys) > 0 {
		rows, err := e.Pool.Query(ctx, `select id from analyses where event_id = any($1)`, f.Events)
		if err != nil {
			return f, fmt.Errorf("looking for what was made of events of %s: %w", Fingerprint("", s), err)
		}
		ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
		if err != nil {
			return f, err
		}
		f.Analyses = union(f.Analyses, ids)
	}
	return f, nil
}

func (f *Found) add(g Found) {
	f.Events, f.Analyses, f.Dispatches = union(f.Events, g.Events), union(f.Analyses, g.Analyses), union(f.Dispatches, g.Dispatches)
	f.AudioIDs, f.AudioKeys = union(f.AudioIDs, g.AudioIDs), union(f.AudioKeys, g.AudioKeys)
}

func union[T comparable](a, b []T) []T {
	there := set(a)
	for _, v := range b {
		if !there[v] {
			there[v] = true
			a = append(a, v)
		}
	}
	return a
}

func set[T comparable](list []T) map[T]bool {
	m := make(map[T]bool, len(list))
	for _, v := range list {
		m[v] = true
	}
	return m
}

// theirJobs is the condition on the jobs j of events $1, analyses $2 and
// conversations $3.
const theirJobs = `(
	j.args @> any (select jsonb_build_object('event_id', id) from unnest($1::bigint[]) id)
	or j.args @> any (select jsonb_build_object('analysis_id', id) from unnest($2::bigint[]) id)
	or j.metadata ->> 'conversation_id' = any($3::text[]))`

// stopJobs deletes the jobs of calls and waits for those that run: what one of
// them still writes must not come after what is removed.
func (e *Eraser) stopJobs(ctx context.Context, f Found) (deleted int64, err error) {
	return deleted, e.wait(ctx, "a job of the call that is running", func() (bool, error) {
		// An analysis that has just ended has made jobs that nobody knew of.
		var analyses []int64
		rows, err := e.Pool.Query(ctx, `select id from analyses where event_id = any($1)`, f.Events)
		if err != nil {
			return false, err
		}
		if analyses, err = pgx.CollectRows(rows, pgx.RowTo[int64]); err != nil {
			return false, err
		}
		tag, err := e.Pool.Exec(ctx, `delete from river_job j where j.state <> 'running' and `+theirJobs, f.Events, analyses, f.Conversations)
		if err != nil {
			return false, err
		}
		deleted += tag.RowsAffected()
		var running bool
		err = e.Pool.QueryRow(ctx, `select exists (select from river_job j where `+theirJobs+`)`, f.Events, analyses, f.Conversations).Scan(&running)
		return !running, err
	})
}

// wait asks again and again, within a bound.
func (e *Eraser) wait(ctx context.Context, what string, over func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(recheck)
	defer tick.Stop()
	for {
		yes, err := over()
		if err != nil {
			return fmt.Errorf("waiting for %s: %w", what, err)
		}
		if yes {
			return nil
		}
		select {
		case <-ctx.Done():
			return call.Errorf(call.Unavailable, "waited for %s; run the erasure again: %w", what, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// count says what there is, and what others have of it.
func (e *Eraser) count(ctx context.Context, f Found) (r Result, err error) {
	r = Result{Events: len(f.Events), Calls: len(f.Conversations), Analyses: len(f.Analyses),
		Dispatches: len(f.Dispatches), Recordings: len(f.AudioIDs)}
	rows, err := e.Pool.Query(ctx, `
		select target, count(*)::int, min(created_at), max(created_at) from crm_dispatches
		where event_id = any($1) and target <> 'markdown'
			and coalesce(status, '') not in ('skipped', 'dry_run', 'failed', 'refused')
		group by target order by target`, f.Events)
	if err != nil {
		return r, fmt.Errorf("counting what was sent: %w", err)
	}
	if r.Elsewhere, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Elsewhere]); err != nil {
		return r, fmt.Errorf("counting what was sent: %w", err)
	}
	for _, at := range r.Elsewhere {
		r.ByHand = append(r.ByHand, fmt.Sprintf("delete what %s was sent between %s and %s (%d times): Postcall cannot",
			at.Target, at.First.UTC().Format(time.DateTime), at.Last.UTC().Format(time.DateTime), at.Sent))
	}
	r.ByHand = append(r.ByHand, "delete the conversation at ElevenLabs, unless its own retention does: Postcall never deletes there")
	return r, nil
}

// finish deletes from the database, clears the order and writes the audit entry.
func (e *Eraser) finish(ctx context.Context, id int64, s Subject, f Found, r *Result) error {
	err := pgx.BeginFunc(ctx, e.Pool, func(tx pgx.Tx) error {
		if !r.DryRun {
			if err := remove(ctx, tx, s, f); err != nil {
				return err
			}
		}
		result, err := json.Marshal(r)
		if err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `
			update erasures set phone = null, conversation_id = null, found = '{}', state = 'done', finished_at = now(), result = $2
			where id = $1 and state = 'queued'`, id, result)
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 {
			return call.Errorf(call.Conflict, "erasure %d was done by another process meanwhile", id)
		}
		return audit(ctx, tx, id, "done", result)
	})
	if err != nil {
		return fmt.Errorf("erasing from the database: %w", err)
	}
	return nil
}

// remove deletes all rows. Analyses, dispatches and references to audio go with
// their event.
func remove(ctx context.Context, tx pgx.Tx, s Subject, f Found) error {
	var b pgx.Batch
	b.Queue(`delete from river_job j where `+theirJobs, f.Events, f.Analyses, f.Conversations)
	b.Queue(`delete from call_audio where id = any($1) or event_id = any($2) or conversation_id = any($3)`, f.AudioIDs, f.Events, f.Conversations)
	b.Queue(`delete from webhook_events where id = any($1)`, f.Events)
	// What was answered to requests, and what other rows say of a failure.
	const holds = `($1 <> '' and %[1]s ~ $1 or exists (select from unnest($2::text[]) id where strpos(%[1]s, id) > 0))`
	pattern := ""
	if s.Phone != "" {
		pattern = s.pattern()
	}
	for _, other := range []struct{ statement, column string }{
		{`delete from idempotency_keys where `, "answer::text"},
		{`update crm_targets set last_error = null where `, "last_error"},
		{`update queue_pauses set reason = '' where `, "reason"},
	} {
		b.Queue(other.statement+fmt.Sprintf(holds, other.column), pattern, f.Conversations)
	}
	if err := tx.SendBatch(ctx, &b).Close(); err != nil {
		return fmt.Errorf("deleting rows: %w", err)
	}
	return nil
}

// audit writes down who had what done, with the digest for the person.
func audit(ctx context.Context, tx pgx.Tx, id int64, outcome string, detail []byte) error {
	_, err := tx.Exec(ctx, `
		insert into audit_log (actor, role, action, target, outcome, request_id, address, detail)
		select actor, role, case when dry_run then 'privacy.look' else 'privacy.erase' end, subject, $2, request_id, address, $3
		from erasures where id = $1`, id, outcome, detail)
	if err != nil {
		return fmt.Errorf("writing the audit entry: %w", err)
	}
	return nil
}

// matchAny reports whether a text holds the subject or one of the conversations.
func matchAny(s Subject, conversations []string) func([]byte) bool {
	matches := []func([]byte) bool{s.matcher()}
	for _, id := range conversations {
		matches = append(matches, Subject{Conversation: id}.matcher())
	}
	return func(text []byte) bool {
		for _, match := range matches {
			if match(text) {
				return true
			}
		}
		return false
	}
}
