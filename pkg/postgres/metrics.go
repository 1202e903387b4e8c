package postgres

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"

	"postcall/pkg/call"
)

// Unmeasured gives the ids of the newest calls without metrics that no analysis
// is about to measure, at most so many.
func Unmeasured(ctx context.Context, db DB, most int) ([]int64, error) {
	rows, err := db.Query(ctx, `
		select id from webhook_events
		where metrics is null and duplicate_of is null
			and analysis_state in ('none', 'done', 'skipped', 'dead')
			and event_type in ('post_call_transcription', 'post_call_transcription_otel')
		order by id desc limit $1`, most)
	if err != nil {
		return nil, failed("looking for calls to be measured", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	return ids, failed("looking for calls to be measured", err)
}

// SetMetrics stores the metrics of an event that has none. Nil ones stand there
// as JSON's null: there was nothing to be measured.
func SetMetrics(ctx context.Context, db DB, id int64, m *call.Metrics) error {
	metrics, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encoding the metrics of event %d: %w", id, err)
	}
	_, err = db.Exec(ctx, `update webhook_events set metrics = $2 where id = $1 and metrics is null`, id, metrics)
	return failed(fmt.Sprintf("storing the metrics of event %d", id), err)
}
