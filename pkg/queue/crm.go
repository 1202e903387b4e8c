package queue

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"postcall/pkg/call"
)

// ExportAttempts is how often a result is sent to another system before it is
// left to a person, where the configuration does not say otherwise.
const ExportAttempts = 6

// Export is the job that hands an analysis to a target. Each target has a kind
// and a queue of its own, both named crm_<target>, so that a slow one holds up
// neither an analysis nor another target.
type Export struct {
	To         call.Target `json:"-"`
	AnalysisID int64       `json:"analysis_id" river:"unique"`
	// Force sends what was delivered before, and what the rules would leave out.
	Force bool `json:"force,omitempty" river:"unique"`
}

// Kind is the job's name in the database.
func (e Export) Kind() string { return TargetQueue(e.To) }

// InsertOpts are the job's defaults.
func (e Export) InsertOpts() river.InsertOpts {
	return river.InsertOpts{Queue: TargetQueue(e.To), UniqueOpts: unfinished}
}

// TargetQueue is the name of a target's jobs and of their queue.
func TargetQueue(to call.Target) string { return "crm_" + string(to) }

// ResendCRM enqueues in tx that the newest analysis of an event is handed to a
// target, and returns the job's id. A job that is waiting for a later attempt
// already is made to run now instead. Without force nothing is sent that was
// delivered before or that the rules leave out; with it both are.
//
// The error's code is NotFound if the event has no analysis. Whether it may be
// done, and that it was, is for the caller to check and to record.
func ResendCRM(ctx context.Context, tx pgx.Tx, c *Client, eventID int64, to call.Target, force bool) (int64, error) {
	var (
		analysis int64
		m        Metadata
	)
	err := tx.QueryRow(ctx, `
		select a.id, coalesce(e.request_id, ''), coalesce(e.conversation_id, '')
		from analyses a
		join webhook_events e on e.id = a.event_id
		where a.event_id = $1
		order by a.id desc limit 1`, eventID).Scan(&analysis, &m.RequestID, &m.ConversationID)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, call.Errorf(call.NotFound, "event %d has no analysis that could be sent", eventID)
	}
	if err != nil {
		return 0, fmt.Errorf("looking for the analysis to send: %w", err)
	}
	inserted, err := c.InsertTx(ctx, tx, Export{To: to, AnalysisID: analysis, Force: force},
		&river.InsertOpts{MaxAttempts: ExportAttempts, Metadata: m.Encode()})
	if err != nil {
		return 0, fmt.Errorf("enqueueing the export: %w", err)
	}
	job := inserted.Job
	if inserted.UniqueSkippedAsDuplicate && job.State != rivertype.JobStateRunning {
		if _, err := c.JobRetryTx(ctx, tx, job.ID); err != nil {
			return 0, fmt.Errorf("making the waiting export run now: %w", err)
		}
	}
	return job.ID, nil
}
