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
