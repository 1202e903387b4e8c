package postgres

import (
	"context"
	"encoding/json"

	"postcall/pkg/call"
)

// DispatchStatus is what is known of one attempt to hand a result over.
type DispatchStatus string

// The statuses of an attempt. An attempt that was begun and never ended stays
// sending: whether it arrived is then unknown. The middle ones are those of
// export.Outcome.
const (
	DispatchSending DispatchStatus = "sending"

	DispatchDelivered DispatchStatus = "delivered"
	DispatchAccepted  DispatchStatus = "accepted" // taken, and worked on later
	DispatchRefused   DispatchStatus = "refused"
	DispatchUnknown   DispatchStatus = "unknown" // it may have arrived
	DispatchFailed    DispatchStatus = "failed"

	DispatchSkipped DispatchStatus = "skipped" // not to be sent; the response says why
	DispatchDryRun  DispatchStatus = "dry_run" // the payload is what would have been sent
)

// Dispatch is one attempt to hand a result to a target: a row of
// crm_dispatches.
type Dispatch struct {
	ID         int64
	EventID    int64
	AnalysisID int64
	Target     call.Target
	Status     DispatchStatus
	Payload    json.RawMessage
	Response   string // the target's answer or, without one, why there is none
	HTTPStatus int    // 0 for none
}

// Earlier is what is known of the attempts so far to hand an analysis over.
type Earlier struct {
	// Delivered: the target has this analysis.
	Delivered bool
	// CallDelivered is another analysis of the same call that the target has, 0
	// for none. What the Node service sent has no analysis: it is then -1.
	CallDelivered int64
	// Arrived: an attempt may have arrived without our knowing.
	Arrived bool
	// Refused is how often the target refused this analysis.
	Refused int
}

// takenByNode finds the replies by which BPMSoft took what the Node service
// sent. That service itself called every HTTP 200 a success.
const takenByNode = `resultCode[\\"' ]*:\s*0\M`

// EarlierDispatches looks at the attempts so far to hand an analysis to a
// target.
func EarlierDispatches(ctx context.Context, db DB, eventID, analysisID int64, target call.Target) (Earlier, error) {
	var e Earlier
	err := db.QueryRow(ctx, `
		with own as (
			select coalesce(bool_or(status in ('delivered', 'accepted')), false) as delivered,
				coalesce(bool_or(status in ('sending', 'unknown', 'failed')), false) as arrived,
				count(*) filter (where status = 'refused') as refused
			from crm_dispatches
			where analysis_id = $2 and target = $3
		), of_call as materialized ( -- else all there are would be read, the newest first
			select id, analysis_id, status, response_text
			from crm_dispatches
			where target = $3 and event_id = any(array(
				select $1
				union
				select same.id from webhook_events e
				join webhook_events same using (conversation_id)
				where e.id = $1 and e.conversation_id <> ''))
		)
		select delivered, arrived, refused, coalesce((
			select coalesce(analysis_id, -1)
			from of_call
			where (status in ('delivered', 'accepted') or analysis_id is null and response_text ~ $4)
				and analysis_id is distinct from $2
			order by id desc limit 1), 0)
		from own`, eventID, analysisID, target, takenByNode).Scan(&e.Delivered, &e.Arrived, &e.Refused, &e.CallDelivered)
	return e, failed("looking for earlier dispatches", err)
}

// InsertDispatch records an attempt and sets its ID. One that begins
// (DispatchSending) is recorded before anything leaves.
func InsertDispatch(ctx context.Context, db DB, d *Dispatch) error {
	err := db.QueryRow(ctx, `
		insert into crm_dispatches (event_id, analysis_id, target, status, payload, response_text, attempt)
		select $1, $2, $3, $4, $5, $6, coalesce(max(attempt), 0) + 1
		from crm_dispatches where analysis_id = $2 and target = $3
		returning id`,
		d.EventID, d.AnalysisID, d.Target, d.Status, d.Payload, null(d.Response)).Scan(&d.ID)
	return failed("recording a dispatch", err)
}

// EndDispatch records what an attempt came to.
func EndDispatch(ctx context.Context, db DB, d Dispatch) error {
	var status *int
	if d.HTTPStatus != 0 {
		status = &d.HTTPStatus
	}
	_, err := db.Exec(ctx, `
		update crm_dispatches
		set status = $2, payload = $3, response_text = $4, http_status = $5
		where id = $1`, d.ID, d.Status, d.Payload, null(d.Response), status)
	return failed("recording the end of a dispatch", err)
}
