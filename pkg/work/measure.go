package work

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"postcall/pkg/analyze"
	"postcall/pkg/call"
	"postcall/pkg/elevenlabs"
	"postcall/pkg/postgres"
)

// Bounds of one run of measuring: a job of a minute has others to do, and the
// archive of the Node service has time.
const (
	measureBatch = 100
	measureTime  = 20 * time.Second
)

// measure computes the metrics of calls that no analysis has measured, the
// newest first, one after another: a payload may be large.
func measure(ctx context.Context, pool *pgxpool.Pool) error {
	for ends := time.Now().Add(measureTime); ; {
		ids, err := postgres.Unmeasured(ctx, pool, measureBatch)
		if err != nil {
			return err
		}
		for _, id := range ids {
			event, err := postgres.Event(ctx, pool, id)
			if call.CodeOf(err) == call.NotFound { // erased meanwhile
				continue
			}
			if err != nil {
				return err
			}
			if err := postgres.SetMetrics(ctx, pool, id, measured(event)); err != nil {
				return err
			}
			if time.Now().After(ends) {
				return nil
			}
		}
		if len(ids) < measureBatch {
			return nil
		}
	}
}

// measured are the metrics of an event; nil where there is nothing to measure: it
// cannot be read, or its body was taken away with age.
func measured(event *call.Event) *call.Metrics {
	c, err := elevenlabs.Conversation(event.Type, event.Payload)
	if err != nil || len(c.Turns) == 0 && c.Duration == 0 {
		return nil
	}
	return new(analyze.Metrics(c))
}
