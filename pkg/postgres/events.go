package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"postcall/pkg/call"
)

// Kept says under which id an event stands, and whether it stood there before.
// An event of a call that was erased is not kept: it has no id.
type Kept struct {
	EventID   int64
	Duplicate bool
	Erased    bool
}

// InsertEvents keeps events, each once. The answer has one entry for each
// event, in their order. A repeated delivery of an event (by DedupKey), within
// the list too, adds no row: it raises the first one's deliveries, unless it is
// the very delivery that stands there (by RequestID), tried again because
// nobody knew whether it had been kept. Deliveries of one event that come at
// once wait for the first one's transaction. What belongs to an erased call adds
// nothing.
func InsertEvents(ctx context.Context, tx pgx.Tx, events []*call.Event) ([]Kept, error) {
	// All transactions lock keys in one order, so that none can deadlock.
	order := make([]*call.Event, len(events))
	copy(order, events)
	slices.SortStableFunc(order, func(a, b *call.Event) int { return strings.Compare(a.DedupKey, b.DedupKey) })

	ids, err := insertNew(ctx, tx, order)
	if err != nil {
		return nil, err
	}
	var repeated []*call.Event
	erased := map[string]bool{}
	first := make(map[string]*call.Event, len(ids))
	for _, e := range order {
		if _, inserted := ids[e.DedupKey]; inserted && first[e.DedupKey] == nil {
			first[e.DedupKey] = e
			continue
		}
		repeated = append(repeated, e)
	}
	if len(repeated) > 0 {
		if err := countRepeated(ctx, tx, repeated, ids); err != nil {
			return nil, err
		}
		if erased, err = amongErased(ctx, tx, repeated, ids); err != nil {
			return nil, err
		}
	}
	kept := make([]Kept, len(events))
	for i, e := range events {
		kept[i] = Kept{EventID: ids[e.DedupKey], Duplicate: first[e.DedupKey] != e}
		if erased[e.DedupKey] {
			kept[i] = Kept{Erased: true}
			continue
		}
		if kept[i].EventID == 0 {
			return nil, call.Errorf(call.Unavailable, "an event was deleted while its repetition was being counted")
		}
		if len(e.Audio) > 0 && !kept[i].Duplicate {
			if err := insertAudio(ctx, tx, kept[i].EventID, e); err != nil {
				return nil, err
			}
		}
	}
	return kept, nil
}

// insertNew inserts the events whose key is new and returns their ids by key.
func insertNew(ctx context.Context, tx pgx.Tx, events []*call.Event) (map[string]int64, error) {
	n := len(events)
	var (
		types, keys, sources, states    = make([]string, n), make([]string, n), make([]string, n), make([]string, n)
		agents, conversations, statuses = make([]*string, n), make([]*string, n), make([]*string, n)
		eventIDs, requestIDs, notes     = make([]*string, n), make([]*string, n), make([]*string, n)
		audio, userAudio, responseAudio = make([]*bool, n), make([]*bool, n), make([]*bool, n)
		timestamps, secrets             = make([]int64, n), make([]*int16, n)
		payloads                        = make([]string, n)
		raws                            = make([][]byte, n)
		processed                       = make([]bool, n)
		received                        = make([]time.Time, n)
	)
	for i, e := range events {
		types[i], keys[i], sources[i], states[i] = string(e.Type), e.DedupKey, string(e.Source), string(e.State)
		agents[i], conversations[i], statuses[i] = null(e.AgentID), null(e.ConversationID), null(e.Status)
		eventIDs[i], requestIDs[i], notes[i] = null(e.EventID), null(e.RequestID), null(e.ProcessorNote)
		audio[i], userAudio[i], responseAudio[i] = e.HasAudio, e.HasUserAudio, e.HasResponseAudio
		timestamps[i], payloads[i], raws[i] = e.Timestamp, string(e.Payload), e.RawBody
		processed[i], received[i] = e.Processed, e.ReceivedAt
		if e.Secret > 0 {
			secrets[i] = new(int16(e.Secret))
		}
	}
	rows, err := tx.Query(ctx, `
		insert into webhook_events (
			event_type, event_timestamp, agent_id, conversation_id, status,
			has_audio, has_user_audio, has_response_audio,
			payload, raw_body, event_id, dedup_key, source, request_id, secret_position,
			analysis_state, processed, processed_at, processor_note,
			received_at, last_delivered_at)
		select
			type, ts, agent, conversation, status,
			audio, user_audio, response_audio,
			payload::jsonb, raw, event_id, key, source, request_id, secret,
			state, processed, case when processed then received end, note,
			received, received
		from unnest(
			$1::text[], $2::bigint[], $3::text[], $4::text[], $5::text[],
			$6::boolean[], $7::boolean[], $8::boolean[],
			$9::text[], $10::bytea[], $11::text[], $12::text[], $13::text[], $14::text[], $15::smallint[],
			$16::text[], $17::boolean[], $18::text[], $19::timestamptz[])
			as e(type, ts, agent, conversation, status, audio, user_audio, response_audio,
				payload, raw, event_id, key, source, request_id, secret, state, processed, note, received)
		-- Where nothing was ever erased, nothing is hashed.
		where not (select exists (select from erased_calls)) or not `+isErased+`
		on conflict (dedup_key) do nothing
		returning id, dedup_key`,
		types, timestamps, agents, conversations, statuses,
		audio, userAudio, responseAudio,
		payloads, raws, eventIDs, keys, sources, requestIDs, secrets,
		states, processed, notes, received)
	if err != nil {
		return nil, failed("inserting events", err)
	}
	return idsByKey(rows, make(map[string]int64, n))
}

// isErased is the condition that an event e(key, conversation) belongs to a call
// that was erased: by the conversation's id, or by its own key where it has none.
const isErased = `exists (
	select from erased_calls x
	where x.digest in (erasure_digest('call', e.conversation), erasure_digest('key', e.key)))`

// amongErased tells which of the events that have got no id belong to erased
// calls, by key.
func amongErased(ctx context.Context, tx pgx.Tx, events []*call.Event, ids map[string]int64) (map[string]bool, error) {
	var keys []string
	var conversations []*string
	for _, e := range events {
		if _, there := ids[e.DedupKey]; !there {
			keys, conversations = append(keys, e.DedupKey), append(conversations, null(e.ConversationID))
		}
	}
	if len(keys) == 0 {
		return nil, nil
	}
	rows, err := tx.Query(ctx, `
		select key from unnest($1::text[], $2::text[]) as e(key, conversation) where `+isErased, keys, conversations)
	if err != nil {
		return nil, failed("looking for erased calls", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, failed("looking for erased calls", err)
	}
	erased := make(map[string]bool, len(list))
	for _, key := range list {
		erased[key] = true
	}
	return erased, nil
}

// countRepeated counts deliveries of events that are there, and adds their ids.
func countRepeated(ctx context.Context, tx pgx.Tx, events []*call.Event, ids map[string]int64) error {
	n := len(events)
	keys, requestIDs, received := make([]string, n), make([]*string, n), make([]time.Time, n)
	for i, e := range events {
		keys[i], requestIDs[i], received[i] = e.DedupKey, null(e.RequestID), e.ReceivedAt
	}
	rows, err := tx.Query(ctx, `
		with repeated as (
			select key, array_agg(request_id) as request_ids, max(received) as received
			from unnest($1::text[], $2::text[], $3::timestamptz[]) as r(key, request_id, received)
			group by key
		), there as (
			select e.id, r.request_ids, r.received
			from repeated r join webhook_events e on e.dedup_key = r.key
			order by e.dedup_key
			for update of e
		)
		update webhook_events e
		set deliveries = deliveries + (
				select count(*) from unnest(t.request_ids) as u(request_id)
				where u.request_id is null or u.request_id is distinct from e.request_id),
			last_delivered_at = greatest(e.last_delivered_at, t.received)
		from there t
		where e.id = t.id
		returning e.id, e.dedup_key`, keys, requestIDs, received)
	if err != nil {
		return failed("counting repeated deliveries", err)
	}
	_, err = idsByKey(rows, ids)
	return err
}

// insertAudio refers to an event's audio. An object that is referred to already
// is that of an event which was there before and has been deleted since.
func insertAudio(ctx context.Context, tx pgx.Tx, id int64, e *call.Event) error {
	var b pgx.Batch
	for _, a := range e.Audio {
		b.Queue(`
			insert into call_audio (event_id, agent_id, conversation_id, kind, object_key, content_type, bytes, sha256)
			values ($1, $2, $3, $4, $5, $6, $7, $8)
			on conflict (object_key) do update set event_id = excluded.event_id`,
			id, null(e.AgentID), null(e.ConversationID), a.Kind, a.Key, a.ContentType, a.Bytes, a.SHA256[:])
	}
	return failed("referring to an event's audio", tx.SendBatch(ctx, &b).Close())
}

func idsByKey(rows pgx.Rows, ids map[string]int64) (map[string]int64, error) {
	var (
		id  int64
		key string
	)
	_, err := pgx.ForEachRow(rows, []any{&id, &key}, func() error {
		ids[key] = id
		return nil
	})
	return ids, failed("reading the events' ids", err)
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
type SameCallError struct {
	EventID int64
	// Running: it is being analysed there, and nothing may come of that.
	Running bool
}

// Error names the other event.
func (s *SameCallError) Error() string {
	if s.Running {
		return fmt.Sprintf("the same call is being analysed as event %d", s.EventID)
	}
	return fmt.Sprintf("the same call as event %d, analysed there", s.EventID)
}

// StandsFor says that an event is another copy of a call: lists and figures go
// by the one that stands for it.
func StandsFor(ctx context.Context, db DB, event, other int64) error {
	_, err := db.Exec(ctx, `
		update webhook_events set duplicate_of = $1
		where id = $2 and id <> $1 and duplicate_of is null
			and exists (select from webhook_events where id = $1 and duplicate_of is null)`, event, other)
	return failed("marking a copy of a call", err)
}

// sameCall is the condition that an event other of the conversation of e is the
// same call and stands for it: it is being analysed or has an analysis, whatever
// became of a further one.
const sameCall = `other.id <> e.id
	and other.agent_id is not distinct from e.agent_id
	and (other.analysis_state in ('running', 'done') or exists (select from analyses a where a.event_id = other.id))`

// reanalysed is the condition that e is analysed whatever stands for its call.
const reanalysed = `($2 and exists (select from analyses a where a.event_id = e.id))`

// ClaimEvent marks an event as being analysed and reads it.
//
// One call can come as several events (as a transcript and as OpenTelemetry
// spans, by webhook and by import). Only one of them is analysed: for the others
// ClaimEvent returns *SameCallError and claims nothing, unless again is set and
// the event has an analysis of its own, of before. A lock on the conversation's
// id makes that hold for workers that claim two of them at the same moment.
func ClaimEvent(ctx context.Context, db DB, id int64, again bool) (*call.Event, error) {
	// A batch is one transaction and one round trip; its statements see what
	// was committed before each of them began.
	var b pgx.Batch
	b.Queue(`
		select pg_advisory_xact_lock(hashtextextended('postcall call ' || conversation_id, 0))
		from webhook_events where id = $1 and conversation_id is not null`, id)
	b.Queue(`
		select other.id, other.analysis_state = 'running'
		from webhook_events e
		join webhook_events other on other.conversation_id = e.conversation_id
		where e.id = $1 and not `+reanalysed+` and `+sameCall+`
		order by other.analysis_state = 'running', other.id
		limit 1`, id, again)
	b.Queue(`
		update webhook_events e set analysis_state = 'running'
		where id = $1 and (`+reanalysed+` or not exists (
			select from webhook_events other
			where other.conversation_id = e.conversation_id and `+sameCall+`))
		returning `+eventColumns, id, again)
	// What came without its transcript is the same call, and is listed no more.
	b.Queue(`
		update webhook_events waiting set duplicate_of = e.id
		from webhook_events e
		where e.id = $1 and e.analysis_state = 'running' and e.duplicate_of is null
			and waiting.conversation_id = e.conversation_id
			and waiting.id <> e.id
			and waiting.agent_id is not distinct from e.agent_id
			and waiting.analysis_state = 'skipped' and waiting.duplicate_of is null
			and waiting.processor_note like '%' || $2`, id, call.WaitsForImport)
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
	others, err := pgx.CollectRows(rows, pgx.RowToStructByPos[SameCallError])
	if err != nil {
		return nil, failed("looking for the same call", err)
	}
	rows, err = results.Query()
	if err != nil {
		return nil, failed("claiming an event", err)
	}
	e, err := pgx.CollectExactlyOneRow(rows, scanEvent)
	if errors.Is(err, pgx.ErrNoRows) && len(others) > 0 {
		return nil, &others[0]
	}
	return e, failed(fmt.Sprintf("claiming event %d", id), err)
}

// Status is where an event's analysis stands, as SetState writes it.
type Status struct {
	State call.State
	Note  string // for people; empty for none
	// Failure is why it was given up; nil leaves what stands there, except that
	// a done or skipped event has none.
	Failure *call.Failure
	// Metrics are the call's; nil leaves what stands there.
	Metrics *call.Metrics
}

// SetState moves an event's analysis to a state. Done and skipped events are
// processed: nobody has to look at them again.
func SetState(ctx context.Context, db DB, id int64, s Status) error {
	finished := s.State == call.StateDone || s.State == call.StateSkipped
	var code, fingerprint *string
	if s.Failure != nil {
		code, fingerprint = null(string(s.Failure.Code)), null(s.Failure.Fingerprint)
	}
	var metrics []byte
	if s.Metrics != nil {
		var err error
		if metrics, err = json.Marshal(s.Metrics); err != nil {
			return fmt.Errorf("encoding the metrics of event %d: %w", id, err)
		}
	}
	tag, err := db.Exec(ctx, `
		update webhook_events
		set analysis_state = $2,
			processor_note = $3,
			processed = processed or $4,
			processed_at = case when $4 then coalesce(processed_at, now()) else processed_at end,
			failure_code = case when not $4 then coalesce($5, failure_code) end,
			failure_fingerprint = case when not $4 then coalesce($6, failure_fingerprint) end,
			failed_at = case when $4 then null when $5::text is null then failed_at else now() end,
			metrics = coalesce($7, metrics)
		where id = $1`,
		id, s.State, null(s.Note), finished, code, fingerprint, metrics)
	if err == nil && tag.RowsAffected() == 0 {
		err = pgx.ErrNoRows
	}
	return failed(fmt.Sprintf("marking event %d as %s", id, s.State), err)
}

// NewestEvent is the highest id of an event, 0 without any.
func NewestEvent(ctx context.Context, db DB, patience time.Duration) (id int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err = db.QueryRow(ctx, `select coalesce(max(id), 0) from webhook_events`).Scan(&id)
	return id, failed("looking for the newest event", err)
}
