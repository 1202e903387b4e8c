package admin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/labstack/echo/v4"

	"postcall/pkg/archive"
	"postcall/pkg/call"
	"postcall/pkg/queue"
)

// Bounds of an act on many events.
const (
	defaultBatch = 100
	maxBatch     = 500
	// maxCounted is where counting stops.
	maxCounted = 100_000
	// costSample is how many of the newest analyses the average cost is of.
	costSample = 1000
)

// choice asks for a part of what is meant.
type choice struct {
	after string // chosen.next of the part before
	limit int    // at most this many
}

// chosen is a part of what is meant, in the order of the ids.
type chosen struct {
	ids  []int64
	next string // empty at the end
}

// Bulk is a request to act on many events. Nothing happens unless DryRun is
// false, said in so many words.
type Bulk struct {
	// Filter has the fields of GET /api/events; empty only with All.
	Filter map[string]any `json:"filter"`
	All    bool           `json:"all"`
	DryRun *bool          `json:"dry_run"`
	// Expect is the count that the dry run gave: if it is another one by now,
	// nothing is done (409).
	Expect *int64 `json:"expect"`
	// Limit is how many events are acted on at most, 100 unless told, at most 500.
	Limit int `json:"limit"`
	// Cursor continues where the answer before ended: its next_cursor.
	Cursor string      `json:"cursor"`
	Force  bool        `json:"force"`
	Target call.Target `json:"target"` // of resending
}

// BulkAnswer says what would happen or what happened.
type BulkAnswer struct {
	DryRun bool `json:"dry_run"`
	// Matched is how many events are meant from the cursor on, counted up to
	// 100 000; unless Exact, there are more.
	Matched int64 `json:"matched"`
	Exact   bool  `json:"exact"`
	// Actionable are those of them that can be acted on.
	Actionable int64 `json:"actionable"`
	// EstimatedCostUSD is what the actionable ones will cost by the average of
	// the newest analyses; null where nothing is known of costs.
	EstimatedCostUSD *float64 `json:"estimated_cost_usd"`
	AverageCostUSD   *float64 `json:"average_cost_usd"`
	AverageOf        int64    `json:"average_of"` // how many analyses

	Done    int64      `json:"done"`
	Failed  int64      `json:"failed"`
	Results []BulkItem `json:"results"`
	// NextCursor is where to go on; null when all have been gone through.
	NextCursor *string `json:"next_cursor"`
}

// BulkItem is what happened to one event.
type BulkItem struct {
	EventID int64  `json:"event_id"`
	Outcome string `json:"outcome"` // queued, or an error's code
	Message string `json:"message,omitempty"`
	JobID   int64  `json:"job_id,omitempty"`
}

// work is an act on many events.
type work struct {
	target string // for the audit log
	choose func(context.Context, choice) (chosen, error)
	// count counts what choose would choose and, of it, what can be acted on; nil
	// where choose gives few.
	count func(ctx context.Context, c choice, able string) (matched, actionable int64, err error)
	// jobs says that what is chosen are ids of jobs, all of which can be acted on,
	// and not of events.
	jobs bool
	// able is the condition on webhook_events e under which one can be acted on.
	able string
	// none, if not empty, is said where nothing matches (404).
	none string
	// costs says that a language model is asked.
	costs bool
	one   func(ctx context.Context, tx pgx.Tx, id int64) (Queued, error)
}

const (
	ableToAnalyse = `e.analysis_state not in ('queued', 'running')
		and e.event_type in ('post_call_transcription', 'post_call_transcription_otel', 'unknown')`
	ableToSend = `exists (select from analyses a where a.event_id = e.id)`
)

func (a *API) reprocessMany(c echo.Context) error {
	var b Bulk
	if err := decode(c, &b); err != nil {
		return err
	}
	w, err := a.chosen(b)
	if err != nil {
		return err
	}
	w.able, w.costs = ableToAnalyse, true
	w.one = func(ctx context.Context, tx pgx.Tx, id int64) (Queued, error) {
		return a.reprocessOne(ctx, tx, id, queue.ReprocessOptions{Force: b.Force, RequestID: requestID(c)})
	}
	return a.bulk(c, b, w)
}

func (a *API) resendMany(c echo.Context) error {
	var b Bulk
	if err := decode(c, &b); err != nil {
		return err
	}
	to, err := target(b.Target)
	if err != nil {
		return err
	}
	w, err := a.chosen(b)
	if err != nil {
		return err
	}
	w.able = ableToSend
	w.one = func(ctx context.Context, tx pgx.Tx, id int64) (Queued, error) {
		return a.resendOne(ctx, tx, id, to, b.Force)
	}
	return a.bulk(c, b, w)
}

// chosen reads the filter.
func (a *API) chosen(b Bulk) (work, error) {
	if len(b.Filter) == 0 && !b.All {
		return work{}, call.Errorf(call.Invalid, `Say which events: a filter, or "all": true.`)
	}
	fields, err := formed(b.Filter)
	if err != nil {
		return work{}, err
	}
	condition, args, err := MatchEvents(fields)
	if err != nil {
		return work{}, err
	}
	return work{target: "events by filter", choose: a.by(condition, args), count: a.counted(condition, args)}, nil
}

// formed writes a filter as a query would have it.
func formed(filter map[string]any) (url.Values, error) {
	fields := url.Values{}
	for name, value := range filter {
		switch v := value.(type) {
		case string:
			fields.Set(name, v)
		case bool:
			fields.Set(name, strconv.FormatBool(v))
		case float64:
			fields.Set(name, strconv.FormatFloat(v, 'f', -1, 64))
		default:
			return nil, call.Errorf(call.Invalid, "filter.%.40s is a text, a number, true or false.", name)
		}
	}
	return fields, nil
}

// impersonal leaves out of a filter what would put a person's data into the
// audit log, which forgets nothing.
func impersonal(filter map[string]any) map[string]any {
	shown := make(map[string]any, len(filter))
	for name, value := range filter {
		switch name {
		case "phone", "clientName", "q":
			value = "…"
		}
		if text, ok := value.(string); ok {
			value = clipped(text)
		}
		shown[clipped(name)] = value
	}
	return shown
}

// bulk answers 200: of a dry run with counts, otherwise with what happened.
func (a *API) bulk(c echo.Context, b Bulk, w work) error {
	answer, err := a.actOnMany(c, b, w)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, answer)
}

func (a *API) actOnMany(c echo.Context, b Bulk, w work) (answer BulkAnswer, err error) {
	switch {
	case b.Limit == 0:
		b.Limit = defaultBatch
	case b.Limit < 0 || b.Limit > maxBatch:
		return answer, call.Errorf(call.Invalid, "limit is 1 to %d.", maxBatch)
	}
	detail := entry(c).detail
	detail["filter"], detail["all"], detail["cursor"], detail["limit"], detail["force"] = impersonal(b.Filter), b.All, clipped(b.Cursor), b.Limit, b.Force
	dry := b.DryRun == nil || *b.DryRun
	if dry {
		ctx, cancel := context.WithTimeout(c.Request().Context(), answerTime)
		defer cancel()
		answer = BulkAnswer{DryRun: true, Results: []BulkItem{}}
		if err := a.estimate(ctx, b, w, &answer); err != nil {
			return answer, unavailable(err)
		}
		// It has changed nothing, which is no act to be recorded.
		entry(c).written = true
		return answer, nil
	}
	select {
	case a.acting <- struct{}{}:
		defer func() { <-a.acting }()
	default:
		return answer, &call.Error{Code: call.Unavailable, Message: "Others act on many events just now. Try again.", RetryAfter: time.Second}
	}
	return act(a, c, w.target, func(ctx context.Context, tx pgx.Tx) (BulkAnswer, error) {
		answer := BulkAnswer{Results: []BulkItem{}}
		if err := a.estimate(ctx, b, w, &answer); err != nil {
			return answer, err
		}
		if b.Expect != nil && *b.Expect != answer.Matched {
			return answer, call.Errorf(call.Conflict, "%d events match by now, not %d; nothing was done.", answer.Matched, *b.Expect)
		}
		err := w.run(ctx, tx, b, &answer)
		detail["done"], detail["failed"] = answer.Done, answer.Failed
		return answer, err
	})
}

// estimate counts, and says what it will cost.
func (a *API) estimate(ctx context.Context, b Bulk, w work, answer *BulkAnswer) error {
	meant := choice{after: b.Cursor, limit: maxCounted}
	if w.count != nil {
		var err error
		if answer.Matched, answer.Actionable, err = w.count(ctx, meant, w.able); err != nil {
			return err
		}
		answer.Exact = answer.Matched <= maxCounted
		answer.Matched = min(answer.Matched, maxCounted)
	} else {
		all, err := w.choose(ctx, meant)
		if err != nil {
			return err
		}
		answer.Matched, answer.Exact = int64(len(all.ids)), all.next == ""
		answer.Actionable = answer.Matched
	}
	if answer.Matched == 0 && w.none != "" {
		return call.Errorf(call.NotFound, "%s", w.none)
	}
	if !w.costs {
		return nil
	}
	err := a.Pool.QueryRow(ctx, `
		select avg(cost_usd)::float8, count(*)
		from (select cost_usd from analyses order by id desc limit $1) newest
		where cost_usd is not null`, costSample).Scan(&answer.AverageCostUSD, &answer.AverageOf)
	if err != nil {
		return fmt.Errorf("looking for what analyses cost: %w", err)
	}
	if answer.AverageCostUSD != nil {
		cost := *answer.AverageCostUSD * float64(answer.Actionable)
		answer.EstimatedCostUSD = &cost
	}
	return nil
}

// run acts on a batch, in the order of the ids, so that no two acts deadlock.
// What cannot be done to one event does not concern the others; a fault of the
// database undoes all.
func (w work) run(ctx context.Context, tx pgx.Tx, b Bulk, answer *BulkAnswer) error {
	part, err := w.choose(ctx, choice{after: b.Cursor, limit: b.Limit})
	if err != nil {
		return err
	}
	if part.next != "" {
		answer.NextCursor = &part.next
	}
	for _, id := range part.ids {
		item := BulkItem{EventID: id, Outcome: "queued"}
		queued, err := w.one(ctx, tx, id)
		if w.jobs {
			item.EventID, item.JobID = queued.EventID, id
		}
		if e, ok := errors.AsType[*call.Error](err); ok && e.Err == nil {
			item.Outcome, item.Message = string(e.Code), e.Message
			answer.Failed++
		} else if err != nil {
			return err
		} else {
			item.JobID = queued.JobID
			answer.Done++
		}
		answer.Results = append(answer.Results, item)
	}
	return nil
}

var errCursor = call.Errorf(call.Invalid, "cursor is the next_cursor of the answer before.")

// by chooses events by a condition on webhook_events e.
func (a *API) by(condition string, args []any) func(context.Context, choice) (chosen, error) {
	if condition == "" {
		condition = "true"
	}
	n := len(args)
	sql := fmt.Sprintf(`
		select e.id from webhook_events e
		where e.duplicate_of is null and e.id > $%d and (%s)
		order by e.id
		limit $%d`, n+1, condition, n+2)
	return func(ctx context.Context, c choice) (part chosen, err error) {
		after, err := c.position()
		if err != nil {
			return part, err
		}
		rows, err := a.Pool.Query(ctx, sql, append(args[:n:n], after, c.limit+1)...)
		if err != nil {
			return part, fmt.Errorf("choosing the events: %w", err)
		}
		ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
		if err != nil {
			return part, fmt.Errorf("choosing the events: %w", err)
		}
		return c.cut(ids), nil
	}
}

// counted counts by a condition on webhook_events e, one more than a choice may
// have at most. Unlike choosing, it takes them in whatever order is fastest.
func (a *API) counted(condition string, args []any) func(context.Context, choice, string) (int64, int64, error) {
	if condition == "" {
		condition = "true"
	}
	n := len(args)
	return func(ctx context.Context, c choice, able string) (matched, actionable int64, err error) {
		after, err := c.position()
		if err != nil {
			return 0, 0, err
		}
		sql := fmt.Sprintf(`
			select count(*), count(*) filter (where %s)
			from (
				select e.id, e.analysis_state, e.event_type from webhook_events e
				where e.duplicate_of is null and e.id > $%d and (%s)
				limit $%d) e`, able, n+1, condition, n+2)
		err = archive.Reading(ctx, a.Pool, func(tx pgx.Tx) error {
			arguments := append([]any{pgx.QueryExecModeCacheDescribe}, args...)
			return tx.QueryRow(ctx, sql, append(arguments, after, c.limit+1)...).Scan(&matched, &actionable)
		})
		if err != nil {
			return 0, 0, fmt.Errorf("counting the events: %w", err)
		}
		return matched, actionable, nil
	}
}

// position is the id behind which the part begins.
func (c choice) position() (int64, error) {
	if c.after == "" {
		return 0, nil
	}
	after, err := strconv.ParseInt(c.after, 10, 64)
	if err != nil {
		return 0, errCursor
	}
	return after, nil
}

// cut makes a part of the ids that follow, in their order.
func (c choice) cut(ids []int64) chosen {
	if len(ids) <= c.limit {
		return chosen{ids: ids}
	}
	return chosen{ids: ids[:c.limit], next: strconv.FormatInt(ids[c.limit-1], 10)}
}
