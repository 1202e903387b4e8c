package backfill

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"postcall/pkg/call"
	"postcall/pkg/postgres"
)

// Trigger says what began a run.
type Trigger string

// The triggers.
const (
	BySchedule Trigger = "schedule"
	ByCommand  Trigger = "command"
)

// Run is a look at a window, as it is recorded.
type Run struct {
	ID      int64      `json:"id"`
	Trigger Trigger    `json:"trigger"`
	AgentID string     `json:"agent_id,omitempty"`
	Since   time.Time  `json:"since"`
	Until   time.Time  `json:"until"`
	Error   string     `json:"error,omitempty"` // why it ended early
	BeganAt time.Time  `json:"began_at"`
	EndedAt *time.Time `json:"ended_at"` // nil while it goes on
	Tally
}

const runColumns = `id, trigger, coalesce(agent_id, '') as agent_id, since, until, coalesce(error, '') as error, began_at, ended_at,
	upstream, present, imported, completed, recordings, erased, failed`

// Begin records a run, or takes up the scheduled one that is not finished, and
// gives the cursor that it goes on from.
func Begin(ctx context.Context, db postgres.DB, t Trigger, w Window) (r Run, cursor string, err error) {
	if t == BySchedule {
		rows, err := db.Query(ctx, `
			select `+runColumns+`, coalesce(cursor, '') as cursor from import_runs
			where trigger = $1 and ended_at is null and began_at > now() - interval '1 day'
			order by id desc limit 1`, t)
		if err != nil {
			return r, "", fmt.Errorf("looking for an import to go on with: %w", err)
		}
		type unfinished struct {
			Run
			Cursor string
		}
		u, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[unfinished])
		if err == nil || !errors.Is(err, pgx.ErrNoRows) {
			return u.Run, u.Cursor, wrap(err, "looking for an import to go on with")
		}
	}
	rows, err := db.Query(ctx, `
		insert into import_runs (trigger, agent_id, since, until) values ($1, nullif($2, ''), $3, $4) returning `+runColumns,
		t, w.AgentID, w.Since, w.Until)
	if err != nil {
		return r, "", fmt.Errorf("recording an import: %w", err)
	}
	r, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Run])
	return r, "", wrap(err, "recording an import")
}

func wrap(err error, doing string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// RequestID is how what a run fetched is named in the log and with each event.
func (r Run) RequestID() string { return fmt.Sprintf("import-%d", r.ID) }

// Advance records a page: where the run goes on, and what the page's days look
// like. The day in the middle of which a window begins or a page ends is added
// up over pages, of one run.
func (r *Run) Advance(ctx context.Context, db postgres.DB, cursor string, days map[string]Tally) error {
	var all Tally
	for _, t := range days {
		all.add(t)
	}
	r.add(all)
	var b pgx.Batch
	b.Queue(`
		update import_runs set cursor = nullif($2, ''), upstream = upstream + $3, present = present + $4, imported = imported + $5,
			completed = completed + $6, recordings = recordings + $7, erased = erased + $8, failed = failed + $9
		where id = $1`, r.ID, cursor, all.Upstream, all.Present, all.Imported, all.Completed, all.Recordings, all.Erased, all.Failed)
	if r.AgentID == "" {
		for _, day := range slices.Sorted(maps.Keys(days)) {
			if at, err := time.Parse(time.DateOnly, day); err != nil || at.Before(r.Since) {
				continue // not seen whole
			}
			t := days[day]
			b.Queue(`
				insert into import_days as d (day, upstream, present, imported, failed, seen_at)
				values ($1, $2, $3, $4, $5, now())
				on conflict (day) do update set
					upstream = excluded.upstream + case when d.seen_at >= $6 then d.upstream else 0 end,
					present = excluded.present + case when d.seen_at >= $6 then d.present else 0 end,
					failed = excluded.failed + case when d.seen_at >= $6 then d.failed else 0 end,
					imported = excluded.imported + d.imported,
					seen_at = now()`, day, t.Upstream, t.Present, t.Imported+t.Completed, t.Failed, r.BeganAt)
		}
	}
	return wrap(db.SendBatch(ctx, &b).Close(), "recording what was imported")
}

// End records that a run is over; why is nil or what ended it early.
func (r *Run) End(ctx context.Context, db postgres.DB, why error) error {
	text := ""
	if why != nil {
		text = call.NewFailure(call.CodeOf(why), why.Error()).Message
	}
	_, err := db.Exec(ctx, `update import_runs set ended_at = now(), cursor = null, error = nullif($2, '') where id = $1`, r.ID, text)
	return wrap(err, "recording the end of an import")
}

// Day is what the newest look found of the calls that began on a day (UTC).
type Day struct {
	Day      string    `json:"day"`
	Upstream int       `json:"upstream"`
	Here     int       `json:"here"`
	Imported int       `json:"imported"` // of those here, ever
	Missing  int       `json:"missing"`  // that could not be fetched
	SeenAt   time.Time `json:"seen_at"`
}

// Status is how the import stands.
type Status struct {
	Days []Day `json:"days"` // in order, the newest last
	Runs []Run `json:"runs"` // the newest first
}

// maxDays and maxRuns bound a Status.
const maxDays, maxRuns = 31, 20

// StatusOf reads the days and runs of late.
func StatusOf(ctx context.Context, db postgres.DB) (s Status, err error) {
	rows, err := db.Query(ctx, `
		select day::text, upstream, least(present + imported, upstream), imported, failed, seen_at from (
			select *, row_number() over () from (select * from import_days order by day desc limit $1) newest) n
		order by day`, maxDays)
	if err != nil {
		return s, fmt.Errorf("reading what was imported: %w", err)
	}
	if s.Days, err = pgx.AppendRows([]Day{}, rows, pgx.RowToStructByPos[Day]); err != nil {
		return s, fmt.Errorf("reading what was imported: %w", err)
	}
	rows, err = db.Query(ctx, `select `+runColumns+` from import_runs order by began_at desc limit $1`, maxRuns)
	if err != nil {
		return s, fmt.Errorf("reading the imports: %w", err)
	}
	if s.Runs, err = pgx.AppendRows([]Run{}, rows, pgx.RowToStructByName[Run]); err != nil {
		return s, fmt.Errorf("reading the imports: %w", err)
	}
	return s, nil
}
