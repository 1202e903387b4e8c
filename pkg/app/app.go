// Package app wires the processes together from their configuration: what
// cmd/ingest and cmd/worker run, and `postcall demo` and `up` run in one.
package app

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"postcall/db"
	"postcall/pkg/call"
)

// startup bounds how long a starting process waits for its database.
const startup = 30 * time.Second

// migrated refuses a database whose schema is not this version's.
func migrated(ctx context.Context, pool *pgxpool.Pool) error {
	current, err := db.Current(ctx, pool)
	if err != nil {
		return call.Errorf(call.Unavailable, "%w", err)
	}
	if !current {
		return call.Errorf(call.Unavailable, "the database's schema is older than this version of Postcall: run `postcall migrate up` first")
	}
	return nil
}

// stopped logs how a process ended, with what it was still doing.
func stopped(log *zap.Logger, err error) error {
	if err != nil {
		log.Error("stopped before everything was finished", zap.Error(err))
		return err
	}
	log.Info("stopped")
	return nil
}
