package db

import (
	"context"
	"fmt"
	"io/fs"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/pressly/goose/v3"
)

// Newest is the version of the newest migration of this program.
func Newest() int64 {
	newest := int64(1) // River's own
	names, err := fs.Glob(files, "migrations/*.sql")
	if err != nil {
		panic("db: embedded migrations cannot be listed: " + err.Error())
	}
	for _, name := range names {
		version, err := goose.NumericComponent(name)
		if err != nil {
			panic("db: an embedded migration has no number: " + err.Error())
		}
		newest = max(newest, version)
	}
	return newest
}

// Version is the newest migration that a database has, without waiting for
// those who migrate.
func Version(ctx context.Context, pool *pgxpool.Pool) (version int64, err error) {
	err = pool.QueryRow(ctx, `select coalesce(max(version_id), 0) from goose_db_version where is_applied`).Scan(&version)
	if err != nil {
		return 0, fmt.Errorf("reading the schema's version: %w", err)
	}
	return version, nil
}
