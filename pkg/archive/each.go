package archive

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// batch is how many events are read at once while all of them are.
const batch = 500

// Each gives every event that a filter meets to f, in the order of a list, and
// stops at f's first error, which it returns. At no time are more than a batch
// of them in memory, and no transaction stays open between two batches, so
// that whoever reads slowly holds nothing up. Of events that arrive or change
// meanwhile, it gives those that it has not come to yet.
//
// Each batch may take so long in the database.
func Each(ctx context.Context, pool *pgxpool.Pool, filter Filter, sort Sort, each time.Duration, f func(Item) error) error {
	q := Query{Filter: filter, Sort: sort}
	if err := q.settle(); err != nil {
		return err
	}
	var after *position
	for {
		list, next, err := nextBatch(ctx, pool, q, after, each)
		if err != nil {
			return err
		}
		for _, item := range list {
			if err := f(item); err != nil {
				return err
			}
		}
		if next == nil {
			return nil
		}
		after = next
	}
}

func nextBatch(ctx context.Context, pool *pgxpool.Pool, q Query, after *position, limit time.Duration) (list []Item, next *position, err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err = reading(ctx, pool, func(tx pgx.Tx) error {
		r, err := newReader(ctx, tx, q, after)
		if err != nil {
			return err
		}
		keys, err := r.read(ctx, q, after, batch)
		if err != nil {
			return err
		}
		if len(keys) == batch {
			next = new(r.position(keys[batch-1]))
		}
		list, err = items(ctx, tx, keys)
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("reading a batch: %w", err)
	}
	return list, next, nil
}
