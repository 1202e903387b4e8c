package queue

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"postcall/pkg/call"
	"postcall/pkg/postgres"
)

// ReprocessOptions say how an event is analysed again.
type ReprocessOptions struct {
	Trigger call.Trigger // empty means TriggerReprocess
	// Force hands the result on even where it is the same as the one before.
	Force       bool
	MaxAttempts int
	// RequestID is that of whoever asked.
	RequestID string
}

// Reprocess enqueues a new analysis of an event, in tx: of one that is done
// (the result is stored beside the old ones, and the newest counts), dead
// (its given-up job makes room for the new one), skipped, or never was queued.
//
// It is Conflict while one is queued or running, NotFound without such an
// event, and Invalid for an event that holds no conversation.
func Reprocess(ctx context.Context, c *Client, tx pgx.Tx, eventID int64, o ReprocessOptions) error {
	if o.Trigger == "" {
		o.Trigger = call.TriggerReprocess
	}
	var (
		state          call.State
		kind           call.EventType
		conversationID string
		duplicateOf    *int64
	)
	err := tx.QueryRow(ctx, `
		select analysis_state, event_type, coalesce(conversation_id, ''), duplicate_of
		from webhook_events where id = $1 for update`, eventID).Scan(&state, &kind, &conversationID, &duplicateOf)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return call.Errorf(call.NotFound, "there is no event %d", eventID)
	case err != nil:
		return fmt.Errorf("reading event %d to analyse it again: %w", eventID, err)
	case state == call.StateQueued || state == call.StateRunning:
		return call.Errorf(call.Conflict, "event %d is %s already", eventID, state)
	case !kind.Analysable():
		return call.Errorf(call.Invalid, "event %d is a %s, which holds no conversation", eventID, kind)
	case duplicateOf != nil:
		return call.Errorf(call.Invalid, "event %d is a copy of event %d", eventID, *duplicateOf)
	}
	// What was given up would otherwise stand beside the new job, to be retried
	// by itself from River UI.
	_, err = tx.Exec(ctx, `
		delete from river_job
		where kind = 'analyze' and state in ('discarded', 'cancelled') and args @> jsonb_build_object('event_id', $1::bigint)`, eventID)
	if err != nil {
		return fmt.Errorf("taking the given-up job of event %d away: %w", eventID, err)
	}
	added, err := insertAnalyses(ctx, c, tx, []AnalyzeJob{{
		Args:     Analyze{EventID: eventID, Trigger: o.Trigger, Force: o.Force},
		Metadata: Metadata{RequestID: o.RequestID, ConversationID: conversationID},
	}}, o.MaxAttempts)
	if err != nil {
		return err
	}
	if added == 0 {
		// A job of before is being retried by hand.
		return call.Errorf(call.Conflict, "event %d is queued already", eventID)
	}
	return postgres.SetState(ctx, tx, eventID, postgres.Status{State: call.StateQueued})
}
