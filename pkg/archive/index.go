package archive

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"
)

const (
	// indexed is how many calls are indexed at once: enough to share the work on
	// common words, few enough that nobody waits long for a row of them.
	indexed = 50
	// indexEvery is how often an indexer looks for calls that are due: how long a
	// new analysis may not be found yet by what it says.
	indexEvery = 250 * time.Millisecond
	// indexRest is how long it leaves the database alone after an error.
	indexRest = 5 * time.Second
)

// Index makes the calls that are due findable by their facets and words, until
// none is due or another process is at it. It tells how many it indexed.
func Index(ctx context.Context, pool *pgxpool.Pool) (calls int, err error) {
	for {
		var n *int
		if err := pool.QueryRow(ctx, `select index_calls($1)`, indexed).Scan(&n); err != nil {
			return calls, failed("indexing calls", err)
		}
		if n == nil || *n == 0 {
			return calls, nil
		}
		calls += *n
	}
}

// Indexer keeps the index of calls up to date. Any number of them may run; one
// at a time works.
type Indexer struct {
	Pool *pgxpool.Pool
	Log  *zap.Logger
}

// Run indexes until the context ends.
func (i *Indexer) Run(ctx context.Context) {
	for {
		rest := indexEvery
		if _, err := Index(ctx, i.Pool); err != nil && ctx.Err() == nil {
			i.Log.Error("calls cannot be indexed: lists and searches miss what is new; it is tried again", zap.Error(err))
			rest = indexRest
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(rest):
		}
	}
}

// Due tells how many calls wait to be indexed, counted up to a bound, and since
// when the first of them has.
func Due(ctx context.Context, pool *pgxpool.Pool) (calls int, since time.Time, err error) {
	var first *time.Time
	err = pool.QueryRow(ctx, `
		select (select count(*) from (select from calls_due limit $1) bounded), (select since from calls_due order by id limit 1)`,
		MaxExact).Scan(&calls, &first)
	if err != nil {
		return 0, time.Time{}, fmt.Errorf("looking for calls to be indexed: %w", err)
	}
	if first != nil {
		since = *first
	}
	return calls, since, nil
}
