package privacy

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"postcall/pkg/postgres"
)

// Kept is how the retention of one kind stands.
type Kept struct {
	Kind         string // transcripts, payloads, dispatches, analyses, audio, rejections, audit
	Age          time.Duration
	Since        time.Time  // when it first had an age
	BegunAt      time.Time  // the last run that was begun
	FinishedAt   *time.Time // when nothing too old was left the last time
	FailingSince *time.Time // nil while it works
}

// KeptOf reads how retention stands, for each kind that has an age.
func KeptOf(ctx context.Context, db postgres.DB) ([]Kept, error) {
	rows, err := db.Query(ctx, `select kind, age, since, begun_at, finished_at, failing_since from retention_kinds order by kind`)
	if err != nil {
		return nil, fmt.Errorf("reading how retention stands: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Kept])
	if err != nil {
		return nil, fmt.Errorf("reading how retention stands: %w", err)
	}
	return list, nil
}

// begin writes down that a run has begun, and forgets kinds without an age.
func (r *Retention) begin(ctx context.Context, kinds []kind) error {
	names, ages := make([]string, len(kinds)), make([]time.Duration, len(kinds))
	for i, k := range kinds {
		names[i], ages[i] = k.name, k.age
	}
	_, err := r.Pool.Exec(ctx, `
		with gone as (delete from retention_kinds where kind <> all($1))
		insert into retention_kinds (kind, age) select * from unnest($1::text[], $2::interval[])
		on conflict (kind) do update set age = excluded.age, begun_at = now()`, names, ages)
	if err != nil {
		return fmt.Errorf("writing down that retention has begun: %w", err)
	}
	return nil
}

// note writes down that a kind was done, or that it failed.
func (r *Retention) note(ctx context.Context, name string, done bool) error {
	_, err := r.Pool.Exec(ctx, `
		update retention_kinds set
			finished_at = case when $2 then now() else finished_at end,
			failing_since = case when $2 then null else coalesce(failing_since, now()) end
		where kind = $1`, name, done)
	if err != nil {
		return fmt.Errorf("writing down how retention of %s stands: %w", name, err)
	}
	return nil
}
