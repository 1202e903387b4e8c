package receive

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"postcall/pkg/call"
	"postcall/pkg/postgres"
	"postcall/pkg/queue"
)

// Kept is what came of keeping an event.
type Kept = postgres.Kept

// Keeper commits events together with their jobs.
type Keeper struct {
	Pool  *pgxpool.Pool
	Queue *queue.Client
	// Auto queues the analysis of every conversation as it arrives.
	Auto bool
	// MaxAttempts is how often an analysis is tried.
	MaxAttempts int
	// Timeout bounds the whole transaction, the wait for a connection included.
	Timeout time.Duration
	Log     *zap.Logger
}

// Keep stores an event and, if it carries a conversation, queues its analysis,
// in one transaction. The error is always Unavailable: a delivery that was
// verified is worth another try, whatever stood in its way.
//
// Should the database refuse the data itself, the event is kept all the same,
// with nothing but its exact body.
func (k *Keeper) Keep(ctx context.Context, e *call.Event, body []byte) (Kept, error) {
	k.decide(e)
	// A sender that hangs up does not take a delivery back.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), k.Timeout)
	defer cancel()
	kept, err := k.commit(ctx, e)
	if _, refused := errors.AsType[*pgconn.PgError](err); refused && !postgres.Transient(err) {
		k.Log.Error("the database refuses the event's data; it is kept as raw bytes",
			zap.String("request_id", e.RequestID), zap.Error(err))
		e.Type = call.TypeUnparseable
		e.AgentID, e.ConversationID, e.Status, e.EventID = "", "", "", ""
		e.Payload = json.RawMessage(`{"unparseable": "the body is in raw_body"}`)
		e.RawBody = body
		k.decide(e)
		kept, err = k.commit(ctx, e)
	}
	if err != nil {
		return Kept{}, &call.Error{Code: call.Unavailable, Message: "The delivery could not be kept just now; please send it again.", RetryAfter: 5 * time.Second, Err: err}
	}
	return kept, nil
}

// decide says what is to be done with an event.
func (k *Keeper) decide(e *call.Event) {
	switch {
	case !e.Type.Analysable():
		e.State, e.Processed = call.StateSkipped, true
		e.ProcessorNote = "no conversation in an event of this type"
	case k.Auto:
		e.State = call.StateQueued
	default:
		e.State = call.StateNone
	}
}

func (k *Keeper) commit(ctx context.Context, e *call.Event) (kept Kept, err error) {
	err = pgx.BeginFunc(ctx, k.Pool, func(tx pgx.Tx) error {
		if kept, err = postgres.InsertEvent(ctx, tx, e); err != nil || kept.Duplicate || e.State != call.StateQueued {
			return err
		}
		return queue.InsertAnalyze(ctx, k.Queue, tx,
			queue.Analyze{EventID: kept.EventID, Trigger: call.TriggerAuto}, k.MaxAttempts,
			queue.Metadata{RequestID: e.RequestID, ConversationID: e.ConversationID})
	})
	return kept, err
}
