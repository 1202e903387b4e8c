package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// Worker is a working process as it says of itself.
type Worker struct {
	Name      string
	StartedAt time.Time
	SeenAt    time.Time
	Version   string
	Analyzer  string
	Model     string
	// Keys names the keys that it has, never the keys themselves.
	Keys []string
}

// workerMemory is for how long a worker is remembered that is not seen any
// more, as the database writes an interval.
const workerMemory = "1 day"

// SeeWorker records that a worker is there; SeenAt is the database's.
func SeeWorker(ctx context.Context, db DB, w Worker) error {
	var b pgx.Batch
	b.Queue(`delete from workers where seen_at < now() - $1::interval`, workerMemory)
	b.Queue(`
		insert into workers (name, started_at, version, analyzer, model, keys)
		values ($1, $2, $3, $4, $5, $6)
		on conflict (name) do update
		set started_at = excluded.started_at, seen_at = now(), version = excluded.version,
			analyzer = excluded.analyzer, model = excluded.model, keys = excluded.keys`,
		w.Name, w.StartedAt, w.Version, w.Analyzer, w.Model, append([]string{}, w.Keys...))
	return failed("saying that this worker is there", db.SendBatch(ctx, &b).Close())
}

// ForgetWorker records that a worker has ended.
func ForgetWorker(ctx context.Context, db DB, name string) error {
	_, err := db.Exec(ctx, `delete from workers where name = $1`, name)
	return failed("saying that this worker has ended", err)
}

// Workers lists those that were seen within a time.
func Workers(ctx context.Context, db DB, within time.Duration) ([]Worker, error) {
	rows, err := db.Query(ctx, `
		select name, started_at, seen_at, version, analyzer, model, keys
		from workers where seen_at > now() - $1::interval order by name`, within)
	if err != nil {
		return nil, failed("reading the workers", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Worker])
	return list, failed("reading the workers", err)
}
