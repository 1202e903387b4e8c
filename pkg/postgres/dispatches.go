package postgres

import (
	"context"
	"encoding/json"

	"postcall/pkg/call"
)

// DispatchStatus is what is known of one attempt to hand a result over.
type DispatchStatus string

// The statuses of an attempt. An attempt that was begun and never ended stays
// sending: whether it arrived is then unknown.
const (
	DispatchSending   DispatchStatus = "sending"
	DispatchDelivered DispatchStatus = "delivered"
	DispatchFailed    DispatchStatus = "failed"
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
	Response   string
	HTTPStatus int
}

// BeginDispatch records that an attempt begins, before anything leaves, and
// says what earlier attempts of the same analysis came to: delivered already,
// or begun without a known end. If it was delivered, no attempt is begun and
// the id is 0.
func BeginDispatch(ctx context.Context, db DB, eventID, analysisID int64, target call.Target) (id int64, delivered, unknown bool, err error) {
	err = db.QueryRow(ctx, `
		with earlier as (
			select count(*) as attempts,
				coalesce(bool_or(status = 'delivered'), false) as delivered,
				coalesce(bool_or(status <> 'delivered'), false) as unknown
			from crm_dispatches
			where analysis_id = $2 and target = $3
		), begun as (
			insert into crm_dispatches (event_id, analysis_id, target, status, attempt)
			select $1, $2, $3, 'sending', attempts + 1 from earlier where not delivered
			returning id
		)
		select coalesce((select id from begun), 0), delivered, unknown from earlier`,
		eventID, analysisID, target).Scan(&id, &delivered, &unknown)
	return id, delivered, unknown, failed("recording the begin of a dispatch", err)
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
