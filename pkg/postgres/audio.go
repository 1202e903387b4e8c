package postgres

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"postcall/pkg/call"
)

// AudioOf gives the object key of the recording of an event's call: of the
// event itself if it has one of that kind, else the newest one of the same
// conversation, since audio comes as an event of its own. NotFound if there is
// none.
func AudioOf(ctx context.Context, db DB, eventID int64, kind string) (key string, err error) {
	err = db.QueryRow(ctx, `
		select object_key from (
			select object_key, true as own, id from call_audio where event_id = $1 and kind = $2
			union all
			select a.object_key, false, a.id
			from webhook_events e
			join call_audio a on a.conversation_id = e.conversation_id and a.agent_id is not distinct from e.agent_id
			where e.id = $1 and a.kind = $2
		) recordings
		order by own desc, id desc
		limit 1`, eventID, kind).Scan(&key)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", call.Errorf(call.NotFound, "There is no recording of this call.")
	}
	return key, failed("looking for a recording", err)
}
