package app

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river/rivertype"
	"go.uber.org/zap"

	"postcall/pkg/audio"
	"postcall/pkg/config"
	"postcall/pkg/postgres"
	"postcall/pkg/queue"
	"postcall/pkg/receive"
	"postcall/pkg/spool"
	"postcall/pkg/telemetry"
)

// connect opens a pool for a command, once the database answers and its schema
// is as this program wants it.
func connect(ctx context.Context, address config.Secret, name string, conns int32, statement time.Duration) (*pgxpool.Pool, error) {
	pool, err := postgres.Pool(ctx, address.Reveal(), name, conns, statement)
	if err != nil {
		return nil, err
	}
	starting, cancel := context.WithTimeout(ctx, startup)
	defer cancel()
	if err := postgres.Wait(starting, pool); err != nil {
		pool.Close()
		return nil, err
	}
	if err := migrated(starting, pool); err != nil {
		pool.Close()
		return nil, err
	}
	return pool, nil
}

// What follows sets up where deliveries are kept, for ingest and for draining
// its spool by hand.

func openSpool(c config.Keeping, log *zap.Logger) (*spool.Spool, error) {
	s, err := spool.Open(spool.Options{Path: c.SpoolPath, MaxBytes: c.SpoolMaxBytes, Log: log})
	if err != nil {
		return nil, fmt.Errorf("opening the spool (SPOOL_PATH): %w", err)
	}
	return s, nil
}

func openAudio(ctx context.Context, c config.Keeping) (*audio.Store, error) {
	s, err := audio.Open(ctx, c.AudioURL)
	if err != nil {
		return nil, fmt.Errorf("opening the audio store (AUDIO_URL): %w", err)
	}
	return s, nil
}

// newKeeper makes a keeper that has no database yet.
func newKeeper(c config.Keeping, recordings *audio.Store, journal *spool.Spool, log *zap.Logger) *receive.Keeper {
	return &receive.Keeper{
		Audio: recordings, Spool: journal, Auto: c.AnalyzeAuto,
		Patience: patience, AudioPatience: audioPatience, Large: make(chan struct{}, 1), Log: log,
	}
}

// newCommitter makes the keeper's way to the database; it must be run.
func newCommitter(c config.Keeping, pool *pgxpool.Pool, metrics *receive.Metrics, log *zap.Logger, seen ...rivertype.Middleware) (*receive.Committer, error) {
	jobs, err := queue.NewInserter(pool, telemetry.Slog(log), seen...)
	if err != nil {
		return nil, err
	}
	return receive.NewCommitter(receive.CommitterOptions{
		Pool: pool, Queue: jobs, MaxAttempts: c.MaxAttempts, Timeout: patience, Metrics: metrics, Log: log,
	}), nil
}
