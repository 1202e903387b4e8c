package rig

import (
	"context"
	"fmt"
	"os"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"postcall/db"
	"postcall/pkg/localpg"
)

// Postgres is a server of our own on a temporary directory (of TMPDIR), with
// fsync on and otherwise as PostgreSQL comes.
type Postgres struct {
	*localpg.Server
}

// StartPostgres starts one. Stop ends it and removes its data.
func StartPostgres(ctx context.Context) (*Postgres, error) {
	d, err := localpg.Provide(ctx, localpg.ProvideOptions{Server: localpg.Options{Durable: true}})
	if err != nil {
		return nil, err
	}
	return &Postgres{d.Server}, nil
}

// OldEventsSQL makes $1 events of a second each up to now, of which the last $2
// wait for their analysis and the others have it behind them. Their payloads
// are small: what is met of old events are the indexes, and those hold no
// payloads. Keys are as random as real ones.
const OldEventsSQL = `
	insert into webhook_events (
		event_type, event_timestamp, agent_id, conversation_id, status, has_audio, payload, dedup_key, request_id,
		analysis_state, processed, processed_at, received_at, last_delivered_at)
	select 'post_call_transcription', 1700000000 + n, 'agent_' || n % 10, 'conv_' || md5(n::text), 'done', true,
		jsonb_build_object('type', 'post_call_transcription', 'data', jsonb_build_object('conversation_id', 'conv_' || md5(n::text))),
		'call:post_call_transcription:conv_' || md5(n::text) || ':' || 1700000000 + n, md5('request' || n),
		case when n > $1 - $2 then 'queued' else 'done' end, n <= $1 - $2, case when n <= $1 - $2 then at end, at, at
	from (select n, now() - interval '1 second' * ($1 - n) as at from generate_series(1, $1::int) n) made`

// Room makes a directory for the files of a run beside the server's data. It
// goes with the server; what a killed run leaves goes at the next start of one.
func (p *Postgres) Room() (string, error) {
	dir, err := os.MkdirTemp(p.Dir(), "run-*")
	if err != nil {
		return "", fmt.Errorf("making a place for files: %w", err)
	}
	return dir, nil
}

// Create makes an empty database with Postcall's schema and returns its
// address.
func (p *Postgres) Create(ctx context.Context, name string) (string, error) {
	if err := p.CreateDatabase(ctx, name); err != nil {
		return "", err
	}
	pool, err := pgxpool.New(ctx, p.URL(name))
	if err != nil {
		return "", fmt.Errorf("connecting to migrate %s: %w", name, err)
	}
	defer pool.Close()
	if err := db.Up(ctx, pool); err != nil {
		return "", err
	}
	return p.URL(name), p.Checkpoint(ctx)
}

// Drop removes a database, whoever is still connected.
func (p *Postgres) Drop(ctx context.Context, name string) error {
	return p.exec(ctx, "drop database "+pgx.Identifier{name}.Sanitize()+" with (force)")
}

// Checkpoint writes everything out, so that what is measured next does not pay
// for what was done before.
func (p *Postgres) Checkpoint(ctx context.Context) error { return p.exec(ctx, "checkpoint") }

func (p *Postgres) exec(ctx context.Context, sql string) error {
	conn, err := pgx.Connect(ctx, p.URL("postgres"))
	if err != nil {
		return fmt.Errorf("connecting to PostgreSQL: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if _, err := conn.Exec(ctx, sql); err != nil {
		return fmt.Errorf("%s: %w", sql, err)
	}
	return nil
}

// Written is how many bytes the server has written to its log (WAL) since it
// was made.
func (p *Postgres) Written(ctx context.Context) (n int64, err error) {
	conn, err := pgx.Connect(ctx, p.URL("postgres"))
	if err != nil {
		return 0, fmt.Errorf("connecting to PostgreSQL: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	err = conn.QueryRow(ctx, `select pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint`).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("asking what was written: %w", err)
	}
	return n, nil
}
