package queue

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river/rivertype"

	"postcall/pkg/call"
	"postcall/pkg/postgres"
)

// MarkDead marks the events dead whose analyze job ended within the last day
// without an analysis and without the event saying so: a worker that is killed
// in a job's last attempt cannot say it, nor can somebody who cancels a job by
// hand. It returns their ids. The jobs are found by River's index on state and
// finalized_at, so that the cost is that of a day's dead letters.
func MarkDead(ctx context.Context, pool *pgxpool.Pool) (ids []int64, err error) {
	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `
			select e.id, j.state, coalesce(j.errors[array_upper(j.errors, 1)] ->> 'error', '')
			from river_job j
			join webhook_events e on e.id = (j.args ->> 'event_id')::bigint
			where j.kind = 'analyze'
				and j.state in ('discarded', 'cancelled')
				and j.finalized_at > now() - interval '1 day'
				and e.analysis_state in ('queued', 'running')
				and not exists (
					select from river_job newer
					where newer.kind = 'analyze' and newer.id > j.id and newer.args @> jsonb_build_object('event_id', e.id))
			order by e.id
			for update of e`)
		if err != nil {
			return err
		}
		type ended struct {
			ID    int64
			State rivertype.JobState
			Error string
		}
		list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[ended])
		if err != nil {
			return err
		}
		for _, j := range list {
			f := givenUp(j.State, j.Error)
			if err := postgres.SetState(ctx, tx, j.ID, postgres.Status{State: call.StateDead, Note: f.Message, Failure: &f}); err != nil {
				return err
			}
			ids = append(ids, j.ID)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("marking dead analyses: %w", err)
	}
	return ids, nil
}

// rescued is what River writes down about a job whose worker is gone.
const rescued = "Stuck job rescued by JobRescuer"

// givenUp is why a job has ended without its worker's saying so.
func givenUp(state rivertype.JobState, last string) call.Failure {
	switch {
	case state == rivertype.JobStateCancelled && last == "":
		return call.NewFailure(call.Cancelled, "the job was cancelled by hand before it ran")
	case state == rivertype.JobStateCancelled:
		return call.NewFailure(call.Cancelled, "the job was cancelled by hand; its last error: "+last)
	case last == rescued:
		return call.NewFailure(call.Lost, "the worker ended in the job's last attempt without a word")
	case last == "":
		return call.NewFailure(call.Internal, "the job was discarded before it ran")
	}
	return call.NewFailure(call.Internal, last)
}
