// Package db brings a database to the schema that this version of Postcall
// works with: its own tables and River's, as one ordered list of migrations.
package db

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

//go:embed migrations/*.sql
var files embed.FS

// riverVersion pins River's schema: a newer one comes as a migration of its
// own, so that the order of all changes is the same on every database.
const riverVersion = 8

// MinConns is how many connections a pool needs to migrate with: one holds the
// lock, one is goose's, and River's migrator takes two.
const MinConns = 4

// Migration is one step of the schema.
type Migration struct {
	Version   int64
	Name      string
	AppliedAt time.Time     // zero when it is not applied
	Duration  time.Duration // of the run that has just applied or reverted it
}

// Up applies every migration that is missing. Processes that start at the same
// time wait for one another: one of them migrates.
func Up(ctx context.Context, pool *pgxpool.Pool) error {
	_, err := UpTo(ctx, pool, 0)
	return err
}

// UpTo applies the missing migrations up to a version, all of them for 0, and
// returns those it applied, also beside an error.
func UpTo(ctx context.Context, pool *pgxpool.Pool, version int64) ([]Migration, error) {
	var results []*goose.MigrationResult
	err := with(pool, func(p *goose.Provider) (err error) {
		if version == 0 {
			results, err = p.Up(ctx)
		} else {
			results, err = p.UpTo(ctx, version)
		}
		return err
	})
	if err != nil {
		return applied(results), fmt.Errorf("migrating the database: %w", err)
	}
	return applied(results), nil
}

// Down reverts the newest applied migration; with none applied it does nothing.
func Down(ctx context.Context, pool *pgxpool.Pool) ([]Migration, error) {
	var result *goose.MigrationResult
	err := with(pool, func(p *goose.Provider) (err error) {
		version, err := p.GetDBVersion(ctx)
		if err != nil || version == 0 {
			return err
		}
		result, err = p.Down(ctx)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reverting a migration: %w", err)
	}
	if result == nil {
		return nil, nil
	}
	return applied([]*goose.MigrationResult{result}), nil
}

// Status lists every migration, applied or not, oldest first.
func Status(ctx context.Context, pool *pgxpool.Pool) ([]Migration, error) {
	var list []Migration
	err := with(pool, func(p *goose.Provider) error {
		statuses, err := p.Status(ctx)
		for _, s := range statuses {
			list = append(list, Migration{Version: s.Source.Version, Name: name(s.Source), AppliedAt: s.AppliedAt})
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading the migrations' status: %w", err)
	}
	return list, nil
}

// Current reports whether every migration is applied.
func Current(ctx context.Context, pool *pgxpool.Pool) (bool, error) {
	var pending bool
	err := with(pool, func(p *goose.Provider) (err error) {
		pending, err = p.HasPending(ctx)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("looking for pending migrations: %w", err)
	}
	return !pending, nil
}

// Fingerprint changes whenever a migration does: templates of databases are
// named by it.
func Fingerprint() string {
	h := sha256.New()
	fmt.Fprintf(h, "river %d\n", riverVersion)
	err := fs.WalkDir(files, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		body, err := files.ReadFile(path)
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "%s %d\n", path, len(body))
		_, err = h.Write(body)
		return err
	})
	if err != nil {
		panic("db: embedded migrations cannot be read: " + err.Error())
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}

// with runs f on a provider over the pool, under a lock that other processes
// respect.
func with(pool *pgxpool.Pool, f func(*goose.Provider) error) (err error) {
	migrations, err := fs.Sub(files, "migrations")
	if err != nil {
		return err
	}
	// Two minutes for another process's migrations to end, then an error.
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 120))
	if err != nil {
		return err
	}
	sqldb := stdlib.OpenDBFromPool(pool)
	defer func() {
		if cerr := sqldb.Close(); err == nil {
			err = cerr
		}
	}()
	p, err := goose.NewProvider(goose.DialectPostgres, sqldb, migrations,
		goose.WithSessionLocker(locker),
		goose.WithGoMigrations(river(pool)),
		goose.WithDisableGlobalRegistry(true),
	)
	if err != nil {
		return err
	}
	return f(p)
}

// river is River's own schema as one migration. It runs through River's
// migrator, which keeps its own table of versions.
func river(pool *pgxpool.Pool) *goose.Migration {
	migrate := func(direction rivermigrate.Direction, target int) *goose.GoFunc {
		return &goose.GoFunc{RunDB: func(ctx context.Context, _ *sql.DB) error {
			m, err := rivermigrate.New(riverpgxv5.New(pool), nil)
			if err != nil {
				return err
			}
			_, err = m.Migrate(ctx, direction, &rivermigrate.MigrateOpts{TargetVersion: target})
			return err
		}}
	}
	return goose.NewGoMigration(1,
		migrate(rivermigrate.DirectionUp, riverVersion),
		migrate(rivermigrate.DirectionDown, -1))
}

func applied(results []*goose.MigrationResult) []Migration {
	var list []Migration
	for _, r := range results {
		if r.Error == nil {
			list = append(list, Migration{Version: r.Source.Version, Name: name(r.Source), Duration: r.Duration})
		}
	}
	return list
}

func name(s *goose.Source) string {
	if s.Path == "" {
		return "river schema"
	}
	return s.Path
}
