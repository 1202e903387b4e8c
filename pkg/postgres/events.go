package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"postcall/pkg/call"
)

// Kept says under which id an event stands, and whether it stood there before.
type Kept struct {
	EventID   int64
	Duplicate bool
}

// InsertEvent keeps an event. A second delivery of the same event (by
// DedupKey) adds no row: it raises the first one's deliveries. Deliveries of
// one event that come at once wait for the first one's transaction.
func InsertEvent(ctx context.Context, tx pgx.Tx, e *call.Event) (Kept, error) {
	var k Kept
	err := tx.QueryRow(ctx, `
		insert into webhook_events (
			event_type, event_timestamp, agent_id, conversation_id, status,
			has_audio, has_user_audio, has_response_audio,
			payload, raw_body, event_id, dedup_key, source, request_id,
			analysis_state, processed, processed_at, processor_note,
			received_at, last_delivered_at)
		values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16,
			case when $16 then $18::timestamptz end, $17, $18, $18)
		on conflict (dedup_key) do nothing
		returning id`,
		e.Type, e.Timestamp, null(e.AgentID), null(e.ConversationID), null(e.Status),
		e.HasAudio, e.HasUserAudio, e.HasResponseAudio,
		e.Payload, e.RawBody, null(e.EventID), e.DedupKey, e.Source, null(e.RequestID),
		e.State, e.Processed, null(e.ProcessorNote), e.ReceivedAt,
	).Scan(&k.EventID)
	if err == nil {
		return k, nil
	}
	if !errors.Is(err, pgx.ErrNoRows) {
		return Kept{}, failed("inserting an event", err)
	}
	k.Duplicate = true
	err = tx.QueryRow(ctx, `
		update webhook_events
		set deliveries = deliveries + 1, last_delivered_at = $2
		where dedup_key = $1
		returning id`, e.DedupKey, e.ReceivedAt).Scan(&k.EventID)
	return k, failed("counting a repeated delivery", err)
}

const eventColumns = `
	id, event_type, event_timestamp, coalesce(agent_id, ''), coalesce(conversation_id, ''), coalesce(status, ''),
	has_audio, has_user_audio, has_response_audio, payload,
	coalesce(event_id, ''), dedup_key, source, coalesce(request_id, ''),
	analysis_state, coalesce(processed, false), coalesce(processor_note, ''), received_at`

func scanEvent(row pgx.CollectableRow) (*call.Event, error) {
	var e call.Event
	err := row.Scan(
		&e.ID, &e.Type, &e.Timestamp, &e.AgentID, &e.ConversationID, &e.Status,
		&e.HasAudio, &e.HasUserAudio, &e.HasResponseAudio, &e.Payload,
		&e.EventID, &e.DedupKey, &e.Source, &e.RequestID,
		&e.State, &e.Processed, &e.ProcessorNote, &e.ReceivedAt)
	return &e, err
}

// Event reads one event, without its raw body.
func Event(ctx context.Context, db DB, id int64) (*call.Event, error) {
	rows, err := db.Query(ctx, `select `+eventColumns+` from webhook_events where id = $1`, id)
	if err != nil {
		return nil, failed("reading an event", err)
	}
	e, err := pgx.CollectExactlyOneRow(rows, scanEvent)
	return e, failed(fmt.Sprintf("reading event %d", id), err)
}

// SameCallError is the error of ClaimEvent for an event whose call is analysed
// under another event.
type SameCallError struct{ EventID int64 }

// Error names the other event.
func (s *SameCallError) Error() string {
	return fmt.Sprintf("the same call as event %d, analysed there", s.EventID)
}

// ClaimEvent marks an event as being analysed and reads it.
//
// One call can come as several events (as a transcript and as OpenTelemetry
// spans, by webhook and by import). Unless again is set, only one of them is
// analysed: for the others ClaimEvent returns *SameCallError and changes nothing. A
// lock on the conversation's id makes that hold for workers that claim two of
// them at the same moment.
func ClaimEvent(ctx context.Context, db DB, id int64, again bool) (*call.Event, error) {
	// A batch is one transaction and one round trip; its statements see what
	// was committed before each of them began.
	var b pgx.Batch
	b.Queue(`
		select pg_advisory_xact_lock(hashtextextended('postcall call ' || conversation_id, 0))
		from webhook_events where id = $1 and conversation_id is not null`, id)
	b.Queue(`
		select other.id
		from webhook_events e
		join webhook_events other on other.conversation_id = e.conversation_id
		where e.id = $1 and not $2
			and other.id <> e.id
			and other.agent_id is not distinct from e.agent_id
			and other.analysis_state in ('running', 'done')
		limit 1`, id, again)
	b.Queue(`
		update webhook_events e set analysis_state = 'running'
		where id = $1 and ($2 or not exists (
			select from webhook_events other
			where other.conversation_id = e.conversation_id
				and other.id <> e.id
				and other.agent_id is not distinct from e.agent_id
				and other.analysis_state in ('running', 'done')))
		returning `+eventColumns, id, again)
	results := db.SendBatch(ctx, &b)
	e, err := claimed(results, id)
	if cerr := results.Close(); err == nil {
		err = failed("claiming an event", cerr)
	}
	if err != nil {
		return nil, err
	}
	return e, nil
}

func claimed(results pgx.BatchResults, id int64) (*call.Event, error) {
	if _, err := results.Exec(); err != nil {
		return nil, failed("locking a call", err)
	}
	rows, err := results.Query()
	if err != nil {
		return nil, failed("looking for the same call", err)
	}
	others, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return nil, failed("looking for the same call", err)
	}
	rows, err = results.Query()
	if err != nil {
		return nil, failed("claiming an event", err)
	}
	e, err := pgx.CollectExactlyOneRow(rows, scanEvent)
	if errors.Is(err, pgx.ErrNoRows) && len(others) > 0 {
		return nil, &SameCallError{others[0]}
	}
	return e, failed(fmt.Sprintf("claiming event %d", id), err)
}

// SetState moves an event's analysis to a state, with a note for people (empty
// for none). Done and skipped events are processed: nobody has to look at them
// again.
func SetState(ctx context.Context, db DB, id int64, state call.State, note string) error {
	tag, err := db.Exec(ctx, `
		update webhook_events
		set analysis_state = $2,
			processor_note = $3,
			processed = processed or $4,
			processed_at = case when $4 then coalesce(processed_at, now()) else processed_at end
		where id = $1`,
		id, state, null(note), state == call.StateDone || state == call.StateSkipped)
	if err == nil && tag.RowsAffected() == 0 {
		err = pgx.ErrNoRows
	}
	return failed(fmt.Sprintf("marking event %d as %s", id, state), err)
}
