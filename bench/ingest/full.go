package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"postcall/bench/rig"
)

// Full compares a database in which much has happened with an empty one.
type Full struct {
	Events int `json:"events"`
	Jobs   int `json:"jobs"`
	// MiB is the size of that database, its indexes included.
	MiB          float64      `json:"mib"`
	Empty        []Throughput `json:"empty"`
	Full         []Throughput `json:"full"`
	Ratio        float64      `json:"ratio"` // of the medians, full to empty
	EmptyLatency []Latency    `json:"empty_latency"`
	FullLatency  []Latency    `json:"full_latency"`
}

// full is part c.
func (b *bench) full(ctx context.Context) (err error) {
	const database = "full"
	f := &Full{Events: b.events, Jobs: b.jobs}
	b.report.Full = f
	b.step(fmt.Sprintf("filling a database with %d events", b.events))
	if _, err := b.postgres.Create(ctx, database); err != nil {
		return err
	}
	defer func() {
		if err == nil {
			err = b.postgres.Drop(ctx, database)
		}
	}()
	if f.MiB, err = b.fill(ctx, database); err != nil {
		return err
	}
	r, err := b.start(ctx, database)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.stop(r)) }()
	for range b.rounds {
		b.step("empty")
		empty, err := b.fresh(ctx, "empty", false)
		if err != nil {
			return err
		}
		b.step("full")
		if err := b.postgres.Checkpoint(ctx); err != nil {
			return err
		}
		full, err := b.hammer(ctx, r)
		if err != nil {
			return err
		}
		f.Empty, f.Full = append(f.Empty, empty), append(f.Full, full)
	}
	f.Ratio = medianRate(f.Full) / medianRate(f.Empty)
	return b.fullLatency(ctx, f, r)
}

// fullLatency measures both at each rate, one right after the other.
func (b *bench) fullLatency(ctx context.Context, f *Full, full *receiver) (err error) {
	empty, err := b.start(ctx, "empty")
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, b.stop(empty))
		if err == nil {
			err = b.postgres.Drop(ctx, empty.database)
		}
	}()
	for _, rate := range b.rates {
		l, err := b.atRate(ctx, empty, rate, ", empty")
		if err != nil {
			return err
		}
		f.EmptyLatency = append(f.EmptyLatency, l)
		if l, err = b.atRate(ctx, full, rate, ", full"); err != nil {
			return err
		}
		f.FullLatency = append(f.FullLatency, l)
	}
	return nil
}

// fill makes events that have been processed and, as the last of them, some
// that wait, with their jobs.
func (b *bench) fill(ctx context.Context, database string) (mib float64, err error) {
	conn, err := pgx.Connect(ctx, b.postgres.URL(database))
	if err != nil {
		return 0, fmt.Errorf("connecting to fill a database: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	for _, statement := range []struct {
		sql  string
		args []any
	}{
		// The log of filling is nobody's to wait for.
		{`set synchronous_commit = off`, nil},
		{rig.OldEventsSQL, []any{b.events, b.jobs}},
		{`insert into river_job (args, kind, max_attempts, metadata, priority, queue, state, unique_key, unique_states)
			select jsonb_build_object('event_id', id, 'trigger', 'auto'), 'analyze', 8,
				jsonb_build_object('request_id', request_id, 'conversation_id', conversation_id), 1, 'analyze', 'available',
				sha256(('made' || id)::bytea), b'11110001'
			from webhook_events where analysis_state = 'queued'`, nil},
		{`vacuum (analyze) webhook_events`, nil},
		{`vacuum (analyze) river_job`, nil},
		{`checkpoint`, nil},
	} {
		if _, err := conn.Exec(ctx, statement.sql, statement.args...); err != nil {
			return 0, fmt.Errorf("filling a database: %w", err)
		}
	}
	err = conn.QueryRow(ctx, `select pg_database_size(current_database()) / 1048576.0`).Scan(&mib)
	return mib, err
}
