package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/labstack/echo/v4"

	"postcall/pkg/access"
	"postcall/pkg/archive"
	"postcall/pkg/call"
	"postcall/pkg/postgres"
	"postcall/pkg/queue"
)

// What follows is for the dashboard, which reads and acts by the API's own
// doors, rules and audit entries.

// Page are the middlewares of a page for roles from the least one on; people
// without a session are shown where to sign in. name, if not empty, is what the
// audit log calls what the page does.
func (a *API) Page(least access.Role, name string) []echo.MiddlewareFunc {
	chain := []echo.MiddlewareFunc{a.audited, limitBodies, toSignIn, a.authenticate, a.limited}
	if name != "" {
		chain = append(chain, action(name))
	}
	return append(chain, a.require(least))
}

// Visitor is who asks for a page.
func (a *API) Visitor(c echo.Context) access.Visitor { return visitor(c) }

// FilterNames are the names of the parameters that Filter reads.
func FilterNames() []string { return slices.Clone(filterParameters) }

// Filter reads the filter of GET /api/events from a query, and nothing else.
func (a *API) Filter(c echo.Context, values url.Values) (archive.Filter, error) {
	p := readParameters(values, filterParameters...)
	f := p.filter(identity(c))
	return f, p.err
}

// Masked reports whether who asks sees no telephone numbers.
func (a *API) Masked(c echo.Context) bool { return masked(c) }

// Reprocess enqueues a new analysis of an event.
func (a *API) Reprocess(c echo.Context, id int64, force bool) (Queued, error) {
	return act(a, c, fmt.Sprintf("event %d", id), func(ctx context.Context, tx pgx.Tx) (Queued, error) {
		return a.reprocessOne(ctx, tx, id, queue.ReprocessOptions{Force: force, RequestID: requestID(c)})
	})
}

// Resend enqueues that an event's newest analysis is handed to a target; empty
// for BPMSoft.
func (a *API) Resend(c echo.Context, id int64, to call.Target, force bool) (Queued, error) {
	to, err := target(to)
	if err != nil {
		return Queued{}, err
	}
	return act(a, c, fmt.Sprintf("event %d", id), func(ctx context.Context, tx pgx.Tx) (Queued, error) {
		return a.resendOne(ctx, tx, id, to, force)
	})
}

// CorrectedFields are the keys of a result that people may correct.
func CorrectedFields() []string {
	return []string{"topic", "intent", "quality", "outcome", "outcome_code", "sentiment", "summary_ru", "client_name", "phone"}
}

// Correct keeps a person's value of a field beside the model's. An empty text
// means that the conversation does not tell; withdraw gives the model's value
// its place back. The audit log names the field, never the value.
func (a *API) Correct(c echo.Context, id int64, field, text string, withdraw bool) (Corrected, error) {
	value, err := correctedValue(field, strings.TrimSpace(text), withdraw)
	if err != nil {
		return Corrected{}, err
	}
	entry(c).detail["field"], entry(c).detail["withdrawn"] = clipped(field), withdraw
	return act(a, c, fmt.Sprintf("event %d", id), func(ctx context.Context, tx pgx.Tx) (Corrected, error) {
		who := identity(c)
		return Corrected{id, field, withdraw}, postgres.InsertCorrection(ctx, tx, postgres.Correction{
			EventID: id, Field: field, Value: value, Withdrawn: withdraw, Who: who.Name, Role: string(who.Role),
		})
	})
}

// Corrected is the answer of a correction. The value, which may be a person's,
// is not in it: answers are kept with their Idempotency-Key.
type Corrected struct {
	EventID   int64  `json:"event_id"`
	Field     string `json:"field"`
	Withdrawn bool   `json:"withdrawn"`
}

// correct takes a correction: 200.
func (a *API) correct(c echo.Context) error {
	id, err := eventID(c)
	if err != nil {
		return err
	}
	var r struct {
		Field    string          `json:"field"`
		Value    json.RawMessage `json:"value"`
		Withdraw bool            `json:"withdraw"`
	}
	if err := decode(c, &r); err != nil {
		return err
	}
	if r.Withdraw == (r.Value != nil) {
		return call.Errorf(call.Invalid, `Give either "value" or "withdraw": true.`)
	}
	var text string
	switch {
	case r.Withdraw || string(r.Value) == "null":
	case r.Field == "quality":
		text = string(r.Value) // a number; what else there may be is refused with its text
	default:
		if json.Unmarshal(r.Value, &text) != nil || strings.TrimSpace(text) == "" {
			return call.Errorf(call.Invalid, `value of %s is a text that is not empty, or null.`, clipped(r.Field))
		}
	}
	answer, err := a.Correct(c, id, r.Field, text, r.Withdraw)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, answer)
}

// correctedValue holds a value to what an analysis may say in its field.
func correctedValue(field, text string, withdraw bool) (json.RawMessage, error) {
	if !slices.Contains(CorrectedFields(), field) {
		return nil, call.Errorf(call.Invalid, "field is one of %s.", strings.Join(CorrectedFields(), ", "))
	}
	if withdraw {
		return json.RawMessage("null"), nil
	}
	var value any = text
	switch {
	case text == "":
		value = nil
		if field == "summary_ru" || field == "outcome_code" {
			return nil, call.Errorf(call.Invalid, "%s cannot be empty.", field)
		}
	case field == "quality":
		n, err := strconv.Atoi(text)
		if err != nil {
			return nil, call.Errorf(call.Invalid, "quality is a number from 1 to 5.")
		}
		value = n
	}
	result := map[string]any{"summary_ru": "-", "outcome_code": call.OutcomeUnclear}
	result[field] = value
	b, err := json.Marshal(result)
	if err != nil {
		return nil, fmt.Errorf("encoding a correction: %w", err)
	}
	var whole call.Result
	if err := json.Unmarshal(b, &whole); err != nil {
		return nil, call.Errorf(call.Invalid, "This is no value of %s.", field)
	}
	if err := whole.Validate(); err != nil {
		return nil, err
	}
	if strings.ContainsRune(text, 0) {
		return nil, call.Errorf(call.Invalid, "%s is no text.", field)
	}
	return json.Marshal(value)
}

// Handle notes that who asks has taken up what a call asks for.
func (a *API) Handle(c echo.Context, id int64) error {
	_, err := act(a, c, fmt.Sprintf("event %d", id), func(ctx context.Context, tx pgx.Tx) (struct{}, error) {
		return struct{}{}, postgres.Handle(ctx, tx, id, identity(c).Name)
	})
	return err
}

// Queues are how the queues stand.
func (a *API) Queues(ctx context.Context) ([]QueueState, error) {
	list, err := queueStates(ctx, a.Pool)
	return list, unavailable(err)
}

// AuditEntries are a page of the audit log and where the next one begins, empty
// on the last. The values are those of GET /api/audit.
func (a *API) AuditEntries(ctx context.Context, values url.Values) (AuditPage, error) {
	return a.auditPage(ctx, readParameters(values, auditParameters...))
}

var auditParameters = []string{"actor", "action", "outcome", "dateFrom", "dateTo", "limit", "cursor"}

func (a *API) auditPage(ctx context.Context, p *parameters) (AuditPage, error) {
	f := access.AuditFilter{
		Actor: p.text("actor"), Action: p.text("action"), Outcome: access.Outcome(p.text("outcome")),
		From: p.moment("dateFrom", false), To: p.moment("dateTo", true),
		Limit: p.number("limit", archive.MaxLimit, archive.DefaultLimit), Before: int64(p.number("cursor", math.MaxInt, 0)),
	}
	if !slices.Contains(append(access.Outcomes(), ""), f.Outcome) {
		p.wrong("outcome must be one of done, replayed, refused, failed")
	}
	if p.err != nil {
		return AuditPage{}, p.err
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	page := AuditPage{Entries: []access.Entry{}}
	f.Limit++
	list, err := access.Audit(ctx, a.Pool, f)
	if err != nil {
		return page, unavailable(err)
	}
	if len(list) == f.Limit {
		list = list[:f.Limit-1]
		cursor := strconv.FormatInt(list[len(list)-1].ID, 10)
		page.NextCursor = &cursor
	}
	page.Entries = append(page.Entries, list...)
	return page, nil
}
