package privacy

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"postcall/pkg/analyze"
	"postcall/pkg/call"
	"postcall/pkg/elevenlabs"
	"postcall/pkg/postgres"
)

// searched is how many events a statement looks through: each stays short.
const searched = 500

// Found is what there is of a subject.
type Found struct {
	Events        []int64
	Conversations []string
	Analyses      []int64
	Dispatches    []int64
	AudioIDs      []int64
	AudioKeys     []string

	// keys are the identities of events without a conversation.
	keys []string
}

// find gives all that is kept of the calls of some events and of a conversation,
// either of which may be none: the other events of these calls count too.
func find(ctx context.Context, db postgres.DB, events []int64, conversationID string) (Found, error) {
	var f Found
	if events == nil {
		events = []int64{}
	}
	rows, err := db.Query(ctx, `
		with mine as (
			select id, conversation_id from webhook_events
			where id = any($1) or conversation_id = nullif($2, ''))
		select e.id, coalesce(e.conversation_id, ''), e.dedup_key from webhook_events e
		where e.id in (select id from mine)
			or e.conversation_id in (select conversation_id from mine where conversation_id <> '')
			or e.duplicate_of in (select id from mine)
		order by e.id`, events, conversationID)
	if err != nil {
		return f, fmt.Errorf("looking for the events of calls: %w", err)
	}
	var (
		id                int64
		conversation, key string
	)
	if _, err := pgx.ForEachRow(rows, []any{&id, &conversation, &key}, func() error {
		f.Events = append(f.Events, id)
		if conversation == "" {
			f.keys = append(f.keys, key)
		} else if !slices.Contains(f.Conversations, conversation) {
			f.Conversations = append(f.Conversations, conversation)
		}
		return nil
	}); err != nil {
		return f, fmt.Errorf("looking for the events of calls: %w", err)
	}
	if conversationID != "" && !slices.Contains(f.Conversations, conversationID) {
		f.Conversations = append(f.Conversations, conversationID) // it may come yet
	}
	for sql, into := range map[string]*[]int64{
		`select id from analyses where event_id = any($1) order by id`:       &f.Analyses,
		`select id from crm_dispatches where event_id = any($1) order by id`: &f.Dispatches,
	} {
		rows, err := db.Query(ctx, sql, f.Events)
		if err != nil {
			return f, fmt.Errorf("looking for what was made of calls: %w", err)
		}
		if *into, err = pgx.CollectRows(rows, pgx.RowTo[int64]); err != nil {
			return f, fmt.Errorf("looking for what was made of calls: %w", err)
		}
	}
	f.AudioIDs, f.AudioKeys, err = recordings(ctx, db, `
		select id, object_key from call_audio where event_id = any($1) or conversation_id = any($2) order by id`, f.Events, f.Conversations)
	if err != nil {
		return f, fmt.Errorf("looking for audio: %w", err)
	}
	return f, nil
}

// search looks for the events that hold a phone number wherever it stands: in
// the body, in what an analysis says, in what was sent of it. A number is in no
// index of its own: every body is read once, a few at a time, from event from
// on. After each part it calls found with where it is, what is there in all, and
// the events of the part; an error of found ends the search.
func search(ctx context.Context, db postgres.DB, s Subject, from int64, found func(at, last int64, events []int64) error) error {
	var last int64
	if err := db.QueryRow(ctx, `select coalesce(max(id), 0) from webhook_events`).Scan(&last); err != nil {
		return fmt.Errorf("looking for a phone number: %w", err)
	}
	pattern, match := s.pattern(), s.matcher()
	for from < last {
		rows, err := db.Query(ctx, `
			with part as (
				select * from webhook_events where id > $1 order by id limit $2
			)
			select p.id, p.payload::text ~ $3 or coalesce(p.processor_note ~ $3, false)
				or exists (select from analyses a where a.event_id = p.id and a.result::text ~ $3)
				or exists (select from corrections c where c.event_id = p.id and (c.value::text ~ $3 or c.model_value::text ~ $3))
				or exists (select from crm_dispatches d where d.event_id = p.id and (d.payload::text ~ $3 or d.response_text ~ $3)),
				p.raw_body
			from part p order by p.id`, from, searched, pattern)
		if err != nil {
			return fmt.Errorf("looking for a phone number: %w", err)
		}
		var (
			list  []int64
			id    int64
			holds bool
			raw   []byte
		)
		before := from
		if _, err := pgx.ForEachRow(rows, []any{&id, &holds, &raw}, func() error {
			if holds || match(raw) {
				list = append(list, id)
			}
			from = id
			return nil
		}); err != nil {
			return fmt.Errorf("looking for a phone number: %w", err)
		}
		if from == before {
			return nil
		}
		if err := found(from, last, list); err != nil {
			return err
		}
	}
	return nil
}

// agents reports whether a number is the agents' own: what would be erased by
// it are all the calls of everybody.
func agents(ctx context.Context, db postgres.DB, s Subject, events []int64, region string) (bool, error) {
	for _, id := range events[:min(len(events), 50)] {
		e, err := postgres.Event(ctx, db, id)
		if call.CodeOf(err) == call.NotFound {
			continue
		}
		if err != nil {
			return false, err
		}
		c, err := elevenlabs.Conversation(e.Type, e.Payload)
		if err != nil {
			continue // a body that tells nothing tells no agent's number
		}
		if own, ok := analyze.NormalPhone(c.AgentNumber, region); ok && own == s.Phone {
			return true, nil
		}
	}
	return false, nil
}
