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

// maxDead bounds how many events one run of MarkDead marks.
const maxDead = 1000

// MarkDead marks the events dead that wait for an analysis which no job will
// make any more: a worker that is killed in a job's last attempt cannot say so,
// nor can somebody who cancels or deletes a job by hand. It returns their ids.
//
// All that waits is held against all jobs that are not finished, in one pass
// over the indexes of each: a fraction of a second for a hundred thousand.
func MarkDead(ctx context.Context, pool *pgxpool.Pool) (ids []int64, err error) {
	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `
			with forsaken as materialized (
				select id from webhook_events where analysis_state in ('queued', 'running')
				except
				select (args ->> 'event_id')::bigint from river_job
				where kind = 'analyze' and state in ('available', 'pending', 'retryable', 'running', 'scheduled')
				order by id
				limit $1)
			select e.id, coalesce(j.state::text, ''), coalesce(j.errors[array_upper(j.errors, 1)] ->> 'error', '')
			from forsaken
			join webhook_events e using (id)
			left join lateral (
				select state, errors from river_job
				where kind = 'analyze' and state in ('discarded', 'cancelled') and args @> jsonb_build_object('event_id', e.id)
				order by id desc
				limit 1) j on true
			where e.analysis_state in ('queued', 'running')
			order by e.id
			for update of e`, maxDead)
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
	case state == "":
		return call.NewFailure(call.Cancelled, "the job was deleted by hand before it was done")
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
