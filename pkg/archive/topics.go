package archive

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// topicSample is how many calls topics are counted of, so that a long span
// costs no more than a short one.
const topicSample = 2000

// Topics counts the topics of the newest calls of a span that have one, of one
// agent or, for "", of all.
func Topics(ctx context.Context, pool *pgxpool.Pool, from, to time.Time, agent string) (map[string]int64, error) {
	counts := map[string]int64{}
	err := reading(ctx, pool, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `
			select topic, count(*) from (
				select topic, agent_id from calls where at >= $1 and at < $2 order by at desc, event_id desc limit $3) newest
			where topic <> '' and ($4 = '' or coalesce(nullif(agent_id, ''), 'unknown') = $4)
			group by topic order by count(*) desc limit 20`, pgx.QueryExecModeCacheDescribe, from, to, topicSample, agent)
		if err != nil {
			return failed("counting topics", err)
		}
		var (
			topic string
			n     int64
		)
		_, err = pgx.ForEachRow(rows, []any{&topic, &n}, func() error {
			counts[topic] = n
			return nil
		})
		return failed("counting topics", err)
	})
	return counts, err
}
