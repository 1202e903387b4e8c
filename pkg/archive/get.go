package archive

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"postcall/pkg/call"
	"postcall/pkg/postgres"
)

// maxParts bounds how many analyses, dispatches, jobs and recordings of an
// event are read, the newest first.
const maxParts = 100

// Get reads one event with all that belongs to it. NotFound without one.
func Get(ctx context.Context, pool *pgxpool.Pool, id int64) (*Record, error) {
	var r Record
	err := reading(ctx, pool, func(tx pgx.Tx) (err error) {
		if r.Event, err = event(ctx, tx, id); err != nil {
			return err
		}
		if r.Analyses, err = analyses(ctx, tx, id); err != nil {
			return err
		}
		if r.Corrections, err = postgres.Corrections(ctx, tx, id); err != nil {
			return err
		}
		if r.Dispatches, err = dispatches(ctx, tx, id); err != nil {
			return err
		}
		if r.Jobs, err = jobs(ctx, tx, id, r.Analyses); err != nil {
			return err
		}
		return sameCall(ctx, tx, id, &r)
	})
	if err != nil {
		return nil, err
	}
	return &r, nil
}

func event(ctx context.Context, tx pgx.Tx, id int64) (EventRow, error) {
	rows, err := tx.Query(ctx, `
		select id, event_type, event_timestamp, agent_id, conversation_id, status,
			has_audio, has_user_audio, has_response_audio, processed, processed_at, processor_note, received_at,
			event_id, deliveries, last_delivered_at, request_id, source, analysis_state, duplicate_of,
			failure_code, failure_fingerprint, failed_at, metrics,
			case when bytes <= $2 then payload end, bytes
		from webhook_events, lateral (select octet_length(payload::text) as bytes) size
		where id = $1`, id, MaxPayload)
	if err != nil {
		return EventRow{}, failed("reading an event", err)
	}
	e, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[EventRow])
	if errors.Is(err, pgx.ErrNoRows) {
		return e, call.Errorf(call.NotFound, "There is no event %d.", id)
	}
	return e, failed(fmt.Sprintf("reading event %d", id), err)
}

func analyses(ctx context.Context, tx pgx.Tx, id int64) ([]Analysis, error) {
	rows, err := tx.Query(ctx, `
		select a.id, a.event_id, a.model, a.analyzer, a.prompt_version, a.trigger, a.result,
			a.tokens_in, a.tokens_cached, a.tokens_out, a.cost_usd::float8, a.duration_ms, a.request_id, a.created_at,
			a.id is not distinct from (select c.analysis_id from calls c where c.event_id = $1)
		from analyses a where a.event_id = $1 order by a.id desc limit $2`, id, maxParts)
	if err != nil {
		return nil, failed("reading analyses", err)
	}
	list, err := pgx.AppendRows([]Analysis{}, rows, pgx.RowToStructByPos[Analysis])
	return list, failed(fmt.Sprintf("reading the analyses of event %d", id), err)
}

func dispatches(ctx context.Context, tx pgx.Tx, id int64) ([]Dispatch, error) {
	rows, err := tx.Query(ctx, `
		select id, event_id, analysis_id, target, status, attempt, http_status, payload, response_text, created_at
		from crm_dispatches where event_id = $1 order by id desc limit $2`, id, maxParts)
	if err != nil {
		return nil, failed("reading dispatches", err)
	}
	list, err := pgx.AppendRows([]Dispatch{}, rows, pgx.RowToStructByPos[Dispatch])
	return list, failed(fmt.Sprintf("reading the dispatches of event %d", id), err)
}

// jobs finds the jobs by their arguments, which River has an index for.
func jobs(ctx context.Context, tx pgx.Tx, id int64, of []Analysis) ([]Job, error) {
	ids := make([]int64, len(of))
	for i, a := range of {
		ids[i] = a.ID
	}
	rows, err := tx.Query(ctx, `
		select id, kind, queue, state::text, attempt, max_attempts, (args ->> 'analysis_id')::bigint,
			created_at, scheduled_at, attempted_at, finalized_at, errors[array_upper(errors, 1)] ->> 'error'
		from (
			select * from river_job where kind = 'analyze' and args @> jsonb_build_object('event_id', $1::bigint)
			union all
			select j.* from unnest($2::bigint[]) analysis
			join river_job j on j.args @> jsonb_build_object('analysis_id', analysis)
		) jobs
		order by id desc limit $3`, id, ids, maxParts)
	if err != nil {
		return nil, failed("reading jobs", err)
	}
	list, err := pgx.AppendRows([]Job{}, rows, pgx.RowToStructByPos[Job])
	return list, failed(fmt.Sprintf("reading the jobs of event %d", id), err)
}

// sameCall reads what else there is of the event's call.
func sameCall(ctx context.Context, tx pgx.Tx, id int64, r *Record) error {
	rows, err := tx.Query(ctx, `
		select event_id, kind, content_type, bytes, created_at
		from call_audio
		where event_id = $1 or conversation_id = $2 and agent_id is not distinct from $3
		order by id desc limit $4`, id, r.Event.ConversationID, r.Event.AgentID, maxParts)
	if err != nil {
		return failed("reading recordings", err)
	}
	if r.Audio, err = pgx.AppendRows([]Audio{}, rows, pgx.RowToStructByPos[Audio]); err != nil {
		return failed(fmt.Sprintf("reading the recordings of event %d", id), err)
	}
	rows, err = tx.Query(ctx, `
		with same as materialized (
			select id, event_type, analysis_state, received_at, agent_id, duplicate_of
			from webhook_events where conversation_id = $2)
		select id, event_type, analysis_state, received_at
		from same where id <> $1 and agent_id is not distinct from $3 and duplicate_of is null
		order by id desc limit $4`, id, r.Event.ConversationID, r.Event.AgentID, maxParts)
	if err != nil {
		return failed("reading the events of a call", err)
	}
	r.Others, err = pgx.AppendRows([]Related{}, rows, pgx.RowToStructByPos[Related])
	return failed(fmt.Sprintf("reading the other events of the call of event %d", id), err)
}
