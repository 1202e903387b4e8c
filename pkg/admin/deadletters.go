package admin

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/labstack/echo/v4"

	"postcall/pkg/archive"
	"postcall/pkg/call"
	"postcall/pkg/queue"
)

// DeadGroup is a group of dead letters that failed alike.
type DeadGroup struct {
	// Target is empty for analyses; otherwise it is what did not take a result.
	Target      call.Target `json:"target,omitempty"`
	Code        call.Code   `json:"failure_code"`
	Fingerprint string      `json:"fingerprint"`
	Count       int64       `json:"count"`
	FirstAt     time.Time   `json:"first_at"`
	LastAt      time.Time   `json:"last_at"`
	// Sample is the message of the newest one, SampleEventID which that is.
	Sample        string `json:"sample"`
	SampleEventID int64  `json:"sample_event_id"`
	Advice        string `json:"advice"`
}

// deadLetters lists what was given up, grouped by why: analyses, and results
// that a target did not take.
func (a *API) deadLetters(c echo.Context) error {
	groups, total, err := a.DeadLetters(c.Request().Context())
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, map[string]any{"groups": groups, "total": total})
}

// DeadLetters are what was given up, grouped by why: analyses, and results that
// a target did not take; and how many the groups hold.
func (a *API) DeadLetters(ctx context.Context) (groups []DeadGroup, total int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	rows, err := a.Pool.Query(ctx, `
		with groups as (
			select coalesce(failure_code, '') as code, coalesce(failure_fingerprint, '') as fingerprint, count(*) as n,
				min(coalesce(failed_at, received_at)) as first_at, max(coalesce(failed_at, received_at)) as last_at, max(id) as sample
			from webhook_events
			where analysis_state = 'dead' and duplicate_of is null
			group by 1, 2
		)
		select '', g.code, g.fingerprint, g.n, g.first_at, g.last_at, coalesce(e.processor_note, ''), g.sample, ''
		from groups g join webhook_events e on e.id = g.sample
		order by g.last_at desc, g.fingerprint
		limit $1`, maxGroups)
	if err != nil {
		return nil, 0, unavailable(fmt.Errorf("grouping the dead letters: %w", err))
	}
	groups, err = pgx.CollectRows(rows, pgx.RowToStructByPos[DeadGroup])
	if err != nil {
		return nil, 0, unavailable(fmt.Errorf("grouping the dead letters: %w", err))
	}
	for i := range groups {
		groups[i].Advice = advice(groups[i].Code)
	}
	exports, err := deadExports(ctx, a.Pool, "")
	if err != nil {
		return nil, 0, unavailable(err)
	}
	groups = append(groups, groupExports(exports)...)
	for _, g := range groups {
		total += g.Count
	}
	return groups, total, nil
}

// maxGroups bounds the list of groups.
const maxGroups = 200

// advice says what a person can do about dead letters of one code.
func advice(code call.Code) string {
	switch code {
	case call.Credentials:
		return "Mend the model server's key, quota or the model's name, then retry the group."
	case call.Unavailable, call.RateLimited:
		return "The other side did not answer for long. Once it does, retry the group."
	case call.Refused:
		return "The model refuses this content. Read the call yourself; retry it only with another model."
	case call.Invalid, call.TooLarge:
		return "The same input fails again. Look at the event; retry it after an update that mends this, or leave it."
	case call.Cancelled:
		return "Somebody cancelled these jobs. Retry them if that was not meant for good."
	case call.Lost:
		return "The worker ended in the middle, often for lack of memory. Look at its log and limits, then retry one first."
	case call.NotFound:
		return "What the job was about is gone. Nothing is to be done."
	default:
		return "A fault of Postcall. Find it in the worker's log by the event's id, report it, and retry one first."
	}
}

// DeadRetry chooses dead letters: one by EventID, a group by its fingerprint,
// or All. With a Target they are results that it did not take, a group of them
// or All.
type DeadRetry struct {
	Target      call.Target `json:"target"`
	EventID     int64       `json:"event_id"`
	Fingerprint *string     `json:"fingerprint"`
	Code        call.Code   `json:"failure_code"`
	All         bool        `json:"all"`
	DryRun      *bool       `json:"dry_run"`
	Expect      *int64      `json:"expect"`
	Limit       int         `json:"limit"`
	Cursor      string      `json:"cursor"`
	Force       bool        `json:"force"`
}

// retryDead enqueues dead letters anew. One that is named is retried at once,
// of many first only a dry run is made.
func (a *API) retryDead(c echo.Context) error {
	var r DeadRetry
	if err := decode(c, &r); err != nil {
		return err
	}
	answer, err := a.RetryDead(c, r)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, answer)
}

// RetryDead is retryDead for pages.
func (a *API) RetryDead(c echo.Context, r DeadRetry) (answer BulkAnswer, err error) {
	if r.Target != "" {
		if r.EventID > 0 || r.Code != "" || r.All == (r.Fingerprint != nil) {
			return answer, call.Errorf(call.Invalid, `Of a target's, say which: a group by "fingerprint", or "all": true.`)
		}
		return a.retryExports(c, r)
	}
	ways := 0
	w := work{target: "dead letters", able: ableToAnalyse, costs: true}
	condition, args := "e.analysis_state = 'dead'", []any(nil)
	add := func(and string, arg any) {
		args = append(args, arg)
		condition += " and " + fmt.Sprintf(and, len(args))
	}
	if r.EventID > 0 {
		ways++
		add("e.id = $%d", r.EventID)
		w.target = fmt.Sprintf("event %d", r.EventID)
		if r.DryRun == nil {
			r.DryRun = new(false)
		}
	}
	if r.Fingerprint != nil || r.Code != "" {
		ways++
		if r.Fingerprint != nil {
			add("coalesce(e.failure_fingerprint, '') = $%d", *r.Fingerprint)
		}
		if r.Code != "" {
			add("e.failure_code = $%d", r.Code)
		}
	}
	if r.All {
		ways++
	}
	if ways != 1 {
		return answer, call.Errorf(call.Invalid, `Say which, in one way: "event_id", a group by "fingerprint" or "failure_code", or "all": true.`)
	}
	if w.none = "There are no such dead letters."; r.EventID > 0 {
		w.none = fmt.Sprintf("Event %d is no dead letter.", r.EventID)
	}
	w.choose, w.count = a.by(condition, args), a.counted(condition, args)
	w.one = func(ctx context.Context, tx pgx.Tx, id int64) (Queued, error) {
		return a.reprocessOne(ctx, tx, id, queue.ReprocessOptions{Force: r.Force, RequestID: requestID(c)})
	}
	detail := entry(c).detail
	detail["event_id"], detail["failure_code"] = r.EventID, clipped(string(r.Code))
	if r.Fingerprint != nil {
		detail["fingerprint"] = clipped(*r.Fingerprint)
	}
	return a.actOnMany(c, Bulk{All: r.All, DryRun: r.DryRun, Expect: r.Expect, Limit: r.Limit, Cursor: r.Cursor, Force: r.Force}, w)
}

// Mask hides telephone numbers as archive.Item.Mask does.
func (g *DeadGroup) Mask() {
	i := archive.Item{ProcessorNote: &g.Sample}
	i.Mask()
	g.Sample = *i.ProcessorNote
}
