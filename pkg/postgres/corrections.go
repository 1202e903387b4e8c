package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"postcall/pkg/call"
)

// Correction is what a person says that an analysis got wrong: a row of
// corrections. Value and ModelValue are JSON; null means that the conversation
// does not tell.
type Correction struct {
	ID         int64           `json:"id"`
	EventID    int64           `json:"event_id"`
	Field      string          `json:"field"` // a key of call.Result
	Value      json.RawMessage `json:"value"`
	ModelValue json.RawMessage `json:"model_value"`
	Withdrawn  bool            `json:"withdrawn"` // the model's value counts again
	Who        string          `json:"who"`
	Role       string          `json:"role"`
	At         time.Time       `json:"at"`
}

// InsertCorrection keeps a correction of an event's newest analysis beside what
// that says. NotFound if there is none.
func InsertCorrection(ctx context.Context, tx pgx.Tx, c Correction) error {
	var id int64
	err := tx.QueryRow(ctx, `
		insert into corrections (event_id, analysis_id, field, value, model_value, withdrawn, who, role)
		select a.event_id, a.id, $2, $3, coalesce(a.result -> $2, 'null'), $4, $5, $6
		from analyses a where a.event_id = $1 and jsonb_typeof(a.result) = 'object'
		order by a.id desc limit 1
		returning id`, c.EventID, c.Field, c.Value, c.Withdrawn, c.Who, c.Role).Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		return call.Errorf(call.NotFound, "Event %d has no analysis that could be corrected.", c.EventID)
	}
	return failed(fmt.Sprintf("correcting event %d", c.EventID), err)
}

// maxCorrections bounds how many of an event are read.
const maxCorrections = 200

// Corrections are those of an event, the newest first.
func Corrections(ctx context.Context, db DB, eventID int64) ([]Correction, error) {
	rows, err := db.Query(ctx, `
		select id, event_id, field, value, model_value, withdrawn, who, role, at
		from corrections where event_id = $1 order by id desc limit $2`, eventID, maxCorrections)
	if err != nil {
		return nil, failed("reading corrections", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Correction])
	return list, failed("reading corrections", err)
}

// Handle notes who has taken up what a call asks for. NotFound without the event.
func Handle(ctx context.Context, tx pgx.Tx, eventID int64, who string) error {
	tag, err := tx.Exec(ctx, `
		insert into handled (event_id, who) select id, $2 from webhook_events where id = $1
		on conflict (event_id) do update set who = excluded.who, at = now()`, eventID, who)
	if err != nil {
		return failed("marking a call as handled", err)
	}
	if tag.RowsAffected() == 0 {
		return call.Errorf(call.NotFound, "There is no event %d.", eventID)
	}
	return nil
}

// Open are those of some events that nobody has handled and no CRM has taken.
func Open(ctx context.Context, db DB, ids []int64) ([]int64, error) {
	rows, err := db.Query(ctx, `
		select id from unnest($1::bigint[]) id
		where not exists (select from handled h where h.event_id = id)
			and not exists (select from crm_dispatches d where d.event_id = id and d.target = 'bpmsoft' and d.status in ('delivered', 'accepted'))`, ids)
	if err != nil {
		return nil, failed("looking for open calls", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	return list, failed("looking for open calls", err)
}
