package access

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"postcall/pkg/call"
)

// SpentTable is Spent in the database, the same for all processes. Failure
// policy: closed, nobody is let in by a session while it cannot be asked.
type SpentTable struct {
	Pool *pgxpool.Pool // nil without a database
}

// spentPatience bounds a look at the table.
const spentPatience = 2 * time.Second

var errNoDatabase = call.Errorf(call.Unavailable, "There is no database to look the session up in; a token works without it.")

// Spend marks an id.
func (s SpentTable) Spend(ctx context.Context, id []byte, until time.Time) (first bool, err error) {
	if s.Pool == nil {
		return false, errNoDatabase
	}
	ctx, cancel := context.WithTimeout(ctx, spentPatience)
	defer cancel()
	if _, err := s.Pool.Exec(ctx, `delete from spent where expires_at < now() - interval '1 hour'`); err != nil {
		return false, call.Errorf(call.Unavailable, "The database does not answer: %w", err)
	}
	tag, err := s.Pool.Exec(ctx, `insert into spent (id, expires_at) values ($1, $2) on conflict do nothing`, id, until)
	if err != nil {
		return false, call.Errorf(call.Unavailable, "The database does not answer: %w", err)
	}
	return tag.RowsAffected() == 1, nil
}

// IsSpent looks an id up.
func (s SpentTable) IsSpent(ctx context.Context, id []byte) (spent bool, err error) {
	if s.Pool == nil {
		return false, errNoDatabase
	}
	ctx, cancel := context.WithTimeout(ctx, spentPatience)
	defer cancel()
	err = s.Pool.QueryRow(ctx, `select exists (select from spent where id = $1)`, id).Scan(&spent)
	if err != nil {
		return false, call.Errorf(call.Unavailable, "The database does not answer: %w", err)
	}
	return spent, nil
}
