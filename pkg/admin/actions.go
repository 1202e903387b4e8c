package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/labstack/echo/v4"

	"postcall/pkg/call"
	"postcall/pkg/elevenlabs"
	"postcall/pkg/postgres"
	"postcall/pkg/queue"
)

// Queued is the answer of what was enqueued.
type Queued struct {
	EventID int64       `json:"event_id"`
	State   call.State  `json:"state,omitempty"`
	Target  call.Target `json:"target,omitempty"`
	JobID   int64       `json:"job_id,omitempty"`
}

func eventID(c echo.Context) (int64, error) {
	id, err := strconv.ParseInt(c.Param("id"), 10, 64)
	if err != nil || id <= 0 {
		return 0, call.Errorf(call.Invalid, "The id of an event is a number above 0.")
	}
	return id, nil
}

func requestID(c echo.Context) string { return c.Response().Header().Get(echo.HeaderXRequestID) }

// reprocess enqueues a new analysis of an event: 202.
func (a *API) reprocess(c echo.Context) error {
	id, err := eventID(c)
	if err != nil {
		return err
	}
	force, err := flag(c, "force")
	if err != nil {
		return err
	}
	answer, err := a.Reprocess(c, id, force)
	if err != nil {
		return err
	}
	return accepted(c, id, answer)
}

// accepted answers 202 and says where to look.
func accepted(c echo.Context, id int64, answer any) error {
	c.Response().Header().Set(echo.HeaderLocation, fmt.Sprintf("/api/events/%d", id))
	return c.JSON(http.StatusAccepted, answer)
}

func (a *API) reprocessOne(ctx context.Context, tx pgx.Tx, id int64, o queue.ReprocessOptions) (Queued, error) {
	o.MaxAttempts = a.MaxAttempts
	if _, err := retype(ctx, tx, id); err != nil {
		return Queued{}, err
	}
	if err := queue.Reprocess(ctx, a.Jobs, tx, id, o); err != nil {
		return Queued{}, err
	}
	return Queued{EventID: id, State: call.StateQueued}, nil
}

// retype derives the type of an event anew that was stored without one, as the
// Node service stored what had a transcript but no type, and says whether it
// holds a conversation.
func retype(ctx context.Context, tx pgx.Tx, id int64) (bool, error) {
	var (
		kind    call.EventType
		payload []byte
	)
	err := tx.QueryRow(ctx, `
		select event_type, case when event_type = $2 then payload end
		from webhook_events where id = $1 for update`, id, call.TypeUnknown).Scan(&kind, &payload)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, call.Errorf(call.NotFound, "there is no event %d", id)
	}
	if err != nil {
		return false, fmt.Errorf("reading event %d: %w", id, err)
	}
	if kind != call.TypeUnknown {
		return kind.Analysable(), nil
	}
	derived := elevenlabs.Parse(payload, time.Now())
	if !derived.Type.Analysable() {
		return false, nil
	}
	_, err = tx.Exec(ctx, `
		update webhook_events
		set event_type = $2, conversation_id = coalesce(conversation_id, nullif($3, '')), agent_id = coalesce(agent_id, nullif($4, ''))
		where id = $1`, id, derived.Type, derived.ConversationID, derived.AgentID)
	if err != nil {
		return false, fmt.Errorf("giving event %d its type: %w", id, err)
	}
	return true, nil
}

// resend enqueues that an event's newest analysis is handed to a target, by
// default to BPMSoft: 202.
func (a *API) resend(c echo.Context) error {
	id, err := eventID(c)
	if err != nil {
		return err
	}
	force, err := flag(c, "force")
	if err != nil {
		return err
	}
	to := call.Target(c.QueryParam("target"))
	answer, err := a.Resend(c, id, to, force)
	if err != nil {
		return err
	}
	return accepted(c, id, answer)
}

func (a *API) resendOne(ctx context.Context, tx pgx.Tx, id int64, to call.Target, force bool) (Queued, error) {
	job, err := queue.ResendCRM(ctx, tx, a.Jobs, id, to, force)
	if err != nil {
		return Queued{}, err
	}
	return Queued{EventID: id, Target: to, JobID: job}, nil
}

func targets() []call.Target {
	return []call.Target{call.TargetBPMSoft, call.TargetMarkdown, call.TargetWebhook}
}

// target checks a target's name; empty stands for BPMSoft.
func target(to call.Target) (call.Target, error) {
	if to == "" {
		return call.TargetBPMSoft, nil
	}
	if !slices.Contains(targets(), to) {
		return "", call.Errorf(call.Invalid, "target is one of bpmsoft, markdown, webhook, not %.40q.", to)
	}
	return to, nil
}

// How long a request waits for its analysis unless it says otherwise, and at
// most: less than the listener's time for an answer.
const (
	defaultWait = 45 * time.Second
	maxWait     = 50 * time.Second
)

// Analyzed is an analysis as POST /api/analyze answers with it.
type Analyzed struct {
	EventID  int64      `json:"event_id"`
	State    call.State `json:"state"`
	Analysis *Analysis  `json:"analysis,omitempty"`
	// Look is where to look later, while there is no analysis yet.
	Look string `json:"look,omitempty"`
}

// Analysis is one as the API shows it.
type Analysis struct {
	ID            int64           `json:"id"`
	Model         string          `json:"model"`
	Analyzer      string          `json:"analyzer"`
	PromptVersion string          `json:"prompt_version"`
	Trigger       string          `json:"trigger"`
	Result        json.RawMessage `json:"result"`
	TokensIn      int64           `json:"tokens_in"`
	TokensCached  int64           `json:"tokens_cached"`
	TokensOut     int64           `json:"tokens_out"`
	CostUSD       *float64        `json:"cost_usd"`
	DurationMS    int64           `json:"duration_ms"`
	CreatedAt     time.Time       `json:"created_at"`
}

// begun is an analysis that somebody waits for.
type begun struct {
	EventID int64 `json:"event_id"`
	// After is the newest analysis of before, 0 for none.
	After int64 `json:"after"`
}

// analyze takes {event_id}, or {event} with a row of webhook_events as the Node
// service's route did, has that event analysed and answers with the stored
// analysis. The worker does it, so that a client which hangs up loses nothing;
// one that has waited long enough is told where to look (202).
func (a *API) analyze(c echo.Context) error {
	var request struct {
		EventID int64           `json:"event_id"`
		Event   json.RawMessage `json:"event"`
	}
	if err := decode(c, &request); err != nil {
		return err
	}
	// Whatever else an old client's row holds is of no interest: the stored row
	// counts.
	var row struct {
		ID      json.Number     `json:"id"`
		Payload json.RawMessage `json:"payload"`
	}
	if len(request.Event) > 0 {
		if err := json.Unmarshal(request.Event, &row); err != nil {
			return call.Errorf(call.Invalid, "event is a row of webhook_events with its id, or with a payload.")
		}
		if row.ID != "" {
			var err error
			if request.EventID, err = row.ID.Int64(); err != nil {
				return call.Errorf(call.Invalid, "The id of an event is a number.")
			}
		}
	}
	if request.EventID <= 0 && len(row.Payload) == 0 {
		return call.Errorf(call.Invalid, `Say which event: {"event_id": 17}, or {"event": row} with the row's id or payload.`)
	}
	target := "a new event"
	if request.EventID > 0 {
		target = fmt.Sprintf("event %d", request.EventID)
	}
	wait, err := patience(c)
	if err != nil {
		return err
	}
	b, err := act(a, c, target, func(ctx context.Context, tx pgx.Tx) (b begun, err error) {
		id := request.EventID
		if id <= 0 {
			if id, err = a.take(ctx, tx, row.Payload, requestID(c)); err != nil {
				return b, err
			}
			entry(c).Target = fmt.Sprintf("event %d", id)
		}
		return a.begin(ctx, tx, id, call.TriggerManual, requestID(c))
	})
	if err != nil {
		return err
	}
	return a.await(c, b, wait)
}

// take keeps a payload that came with the request itself, once.
func (a *API) take(ctx context.Context, tx pgx.Tx, payload []byte, requestID string) (int64, error) {
	e := elevenlabs.Parse(payload, time.Now())
	if !e.Type.Analysable() {
		return 0, call.Errorf(call.Invalid, "The payload is a %.60s, which holds no conversation.", e.Type)
	}
	e.Source, e.RequestID, e.State = call.SourceManual, requestID, call.StateNone
	kept, err := postgres.InsertEvents(ctx, tx, []*call.Event{&e})
	if err != nil {
		return 0, err
	}
	return kept[0].EventID, nil
}

// begin enqueues the analysis of an event, unless it is on its way already.
func (a *API) begin(ctx context.Context, tx pgx.Tx, id int64, trigger call.Trigger, requestID string) (b begun, err error) {
	var state call.State
	// The Node service's copies of an event stand for the event.
	err = tx.QueryRow(ctx, `
		select e.id, e.analysis_state, coalesce((select max(a.id) from analyses a where a.event_id = e.id), 0)
		from webhook_events e
		where e.id = (select coalesce(duplicate_of, id) from webhook_events where id = $1)
		for update of e`, id).Scan(&b.EventID, &state, &b.After)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return b, call.Errorf(call.NotFound, "There is no event %d.", id)
	case err != nil:
		return b, fmt.Errorf("reading event %d: %w", id, err)
	case state == call.StateQueued || state == call.StateRunning:
		return b, nil
	}
	_, err = a.reprocessOne(ctx, tx, b.EventID, queue.ReprocessOptions{Trigger: trigger, RequestID: requestID})
	return b, err
}

// maxPassed is how many events without a conversation analyzeNext passes over
// in one request.
const maxPassed = 100

// analyzeNext has the oldest event analysed that nobody has looked at yet, each
// once, however many ask at the same moment. There being none is NotFound.
func (a *API) analyzeNext(c echo.Context) error {
	wait, err := patience(c)
	if err != nil {
		return err
	}
	b, err := act(a, c, "the oldest event", func(ctx context.Context, tx pgx.Tx) (begun, error) {
		for range maxPassed {
			id, err := oldest(ctx, tx)
			if err != nil {
				return begun{}, err
			}
			holds, err := retype(ctx, tx, id)
			if err != nil {
				return begun{}, err
			}
			if !holds {
				err := postgres.SetState(ctx, tx, id, postgres.Status{State: call.StateSkipped, Note: "no conversation in this event"})
				if err != nil {
					return begun{}, err
				}
				continue
			}
			entry(c).Target = fmt.Sprintf("event %d", id)
			return a.begin(ctx, tx, id, call.TriggerAuto, requestID(c))
		}
		return begun{}, nil
	})
	if err != nil {
		return err
	}
	if b.EventID == 0 {
		return &call.Error{Code: call.Unavailable, Message: "Many old events hold no conversation; they are marked now. Ask again.", RetryAfter: time.Second}
	}
	return a.await(c, b, wait)
}

// oldest locks the oldest event that is not analysed, passing over those that
// others hold.
func oldest(ctx context.Context, tx pgx.Tx) (id int64, err error) {
	err = tx.QueryRow(ctx, `
		select id from webhook_events
		where analysis_state = 'none' and duplicate_of is null
			and event_type in ('post_call_transcription', 'post_call_transcription_otel', 'unknown')
		order by id
		limit 1
		for update skip locked`).Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, call.Errorf(call.NotFound, "No event waits to be analysed.")
	}
	if err != nil {
		return 0, fmt.Errorf("looking for the oldest event: %w", err)
	}
	return id, nil
}

// patience is how long the client wants to wait: ?wait=SECONDS.
func patience(c echo.Context) (time.Duration, error) {
	text := c.QueryParam("wait")
	if text == "" {
		return defaultWait, nil
	}
	seconds, err := strconv.Atoi(text)
	if err != nil || seconds < 0 || seconds > int(maxWait.Seconds()) {
		return 0, call.Errorf(call.Invalid, "wait is a number of seconds from 0 to %d.", int(maxWait.Seconds()))
	}
	return time.Duration(seconds) * time.Second, nil
}

// await answers with an analysis once it is stored; 202 if that takes longer
// than the client waits, or if too many wait already. An event that turns out
// to have nothing to analyse, or whose analysis is given up, is Refused.
func (a *API) await(c echo.Context, b begun, wait time.Duration) error {
	select {
	case a.waiting <- struct{}{}:
		defer func() { <-a.waiting }()
	default:
		wait = 0
	}
	ctx, cancel := context.WithTimeout(c.Request().Context(), wait)
	defer cancel()
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
		answer, err := a.analysed(c.Request().Context(), b)
		if err != nil || answer.Analysis != nil {
			if err == nil {
				return c.JSON(http.StatusOK, answer)
			}
			return err
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			answer.Look = fmt.Sprintf("/api/events/%d", b.EventID)
			return accepted(c, b.EventID, answer)
		case <-timer.C:
		}
	}
}

// analysed looks for the analysis that was begun.
func (a *API) analysed(ctx context.Context, b begun) (Analyzed, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	answer := Analyzed{EventID: b.EventID}
	var (
		note  string
		found int64
	)
	err := a.Pool.QueryRow(ctx, `
		select e.analysis_state, coalesce(e.processor_note, ''),
			coalesce((select min(a.id) from analyses a where a.event_id = e.id and a.id > $2), 0)
		from webhook_events e where e.id = $1`, b.EventID, b.After).Scan(&answer.State, &note, &found)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return answer, call.Errorf(call.NotFound, "Event %d was deleted meanwhile.", b.EventID)
	case err != nil:
		return answer, call.Errorf(call.Unavailable, "The database does not answer; the analysis goes on, look at /api/events/%d: %w", b.EventID, err)
	case found == 0 && (answer.State == call.StateSkipped || answer.State == call.StateDead):
		return answer, call.Errorf(call.Refused, "Event %d has no new analysis, it is %s: %s", b.EventID, answer.State, note)
	case found == 0:
		return answer, nil
	}
	answer.Analysis, err = analysisOf(ctx, a.Pool, found)
	return answer, err
}

func analysisOf(ctx context.Context, db postgres.DB, id int64) (*Analysis, error) {
	rows, err := db.Query(ctx, `
		select id, coalesce(model, ''), coalesce(analyzer, ''), coalesce(prompt_version, ''), coalesce(trigger, ''), result,
			coalesce(tokens_in, 0), coalesce(tokens_cached, 0), coalesce(tokens_out, 0), cost_usd::float8,
			coalesce(duration_ms, 0), created_at
		from analyses where id = $1`, id)
	if err != nil {
		return nil, fmt.Errorf("reading analysis %d: %w", id, err)
	}
	one, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Analysis])
	if err != nil {
		return nil, fmt.Errorf("reading analysis %d: %w", id, err)
	}
	return &one, nil
}
