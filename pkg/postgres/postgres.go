// Package postgres is the store: events, analyses and dispatches in plain SQL
// beside the functions that run it.
//
// Functions that must be part of a larger transaction take a pgx.Tx; the
// others take a DB, which a pool is too.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/multitracer"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"postcall/pkg/call"
)

// DB runs statements: a pool, a connection or a transaction.
type DB interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

// Pool opens a pool of at most max connections, named for pg_stat_activity.
// Nothing is connected yet: use Wait for that.
//
// A statement that takes longer than timeout is ended by the server, so that a
// lock held elsewhere cannot hold a process for ever. Tracers see what is asked.
func Pool(ctx context.Context, url, name string, maxConns int32, timeout time.Duration, tracers ...pgx.QueryTracer) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		// pgx hides the password in its error, yet the address itself is not ours to print.
		return nil, call.Errorf(call.Invalid, "DATABASE_URL is not usable; it should look like postgres://user:password@host:5432/database")
	}
	config.MaxConns = maxConns
	config.ConnConfig.ConnectTimeout = 5 * time.Second
	if len(tracers) > 0 {
		config.ConnConfig.Tracer = multitracer.New(tracers...)
	}
	config.ConnConfig.RuntimeParams["application_name"] = name
	if _, set := config.ConnConfig.RuntimeParams["statement_timeout"]; !set && timeout > 0 {
		config.ConnConfig.RuntimeParams["statement_timeout"] = strconv.FormatInt(timeout.Milliseconds(), 10)
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("opening the database pool: %w", err)
	}
	return pool, nil
}

// Wait pings until the database answers or the context ends.
func Wait(ctx context.Context, pool *pgxpool.Pool) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		err := pool.Ping(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return call.Errorf(call.Unavailable, "the database does not answer: %w", err)
		case <-tick.C:
		}
	}
}

// failed classifies an error of the database: a missing row is NotFound, what
// may pass is Unavailable, the rest keeps its cause only.
func failed(doing string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return call.Errorf(call.NotFound, "%s: %w", doing, err)
	}
	if Transient(err) {
		return call.Errorf(call.Unavailable, "%s: %w", doing, err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// Transient reports whether the same statement may succeed later: the database
// was not reached, was shutting down, recovering, out of room or busy, as
// opposed to refusing the data (SQLSTATE classes of the PostgreSQL manual,
// appendix A).
func Transient(err error) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		// No answer of the server at all: network, pool or context.
		return err != nil && !errors.Is(err, pgx.ErrNoRows)
	}
	switch pgErr.Code[:2] {
	case "08", // connection exception
		"25", // read-only transaction, after a failover
		"40", // serialization failure, deadlock
		"53", // insufficient resources: disk full, too many connections
		"55", // object in use, lock not available
		"57", // operator intervention: shutdown, statement timeout, recovery
		"58": // system error: I/O
		return true
	}
	return false
}

func null(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
