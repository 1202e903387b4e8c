package admin

import (
	"context"
	_ "embed"
	"net/http"
	"slices"
	"time"

	"github.com/labstack/echo/v4"

	"postcall/pkg/access"
	"postcall/pkg/archive"
	"postcall/pkg/call"
	"postcall/pkg/postgres"
)

// defaultSpan is what stats tell of unless a span is given.
const defaultSpan = 30 * 24 * time.Hour

//go:embed openapi.yaml
var description []byte

// Description is the API as OpenAPI 3.1 describes it, in YAML.
func Description() []byte { return slices.Clone(description) }

// describe serves the description, to whoever has a token: it is a map of what
// there is to attack.
func (a *API) describe(c echo.Context) error {
	if err := parametersOf(c).err; err != nil {
		return err
	}
	return c.Blob(http.StatusOK, "application/yaml", description)
}

// eventList is a page as it is answered. Page stands there for those who asked
// by number.
type eventList struct {
	Items []archive.Item `json:"items"`
	Next  *string        `json:"next_cursor"`
	Total archive.Total  `json:"total"`
	Limit int            `json:"limit"`
	// LookedTo is how far a search has come that takes long: next_cursor goes on.
	LookedTo *time.Time `json:"looked_to,omitempty"`
	Page     *int       `json:"page,omitempty"`
}

// events lists events. With page and limit it answers as the Node service's
// callers expect, next_cursor leads on from any page.
func (a *API) events(c echo.Context) error {
	p := parametersOf(c, append([]string{"sort", "limit", "cursor", "page"}, filterParameters...)...)
	q := archive.Query{
		Filter: p.filter(identity(c)),
		Sort:   archive.Sort(p.text("sort")),
		Limit:  p.number("limit", archive.MaxLimit, archive.DefaultLimit),
		After:  archive.Cursor(p.text("cursor")),
	}
	var number *int
	if p.values.Has("page") {
		number = new(p.number("page", archive.MaxOffset+1, 1))
		q.Offset = (*number - 1) * q.Limit
		if q.After != "" {
			p.wrong("page and cursor are two ways to say where a page begins: give one")
		}
	}
	if p.err != nil {
		return p.err
	}
	ctx, cancel := context.WithTimeout(c.Request().Context(), answerTime)
	defer cancel()
	page, err := archive.List(ctx, a.Pool, q)
	if err != nil {
		return err
	}
	answer := eventList{Items: page.Items, Total: page.Total, Limit: q.Limit, Page: number}
	if page.Next != "" {
		answer.Next = new(string(page.Next))
	}
	if !page.LookedTo.IsZero() {
		answer.LookedTo = new(page.LookedTo.UTC())
	}
	if masked(c) {
		for i := range answer.Items {
			answer.Items[i].Mask()
		}
	}
	return c.JSON(http.StatusOK, answer)
}

// masked reports whether who asks sees no telephone numbers.
func masked(c echo.Context) bool { return !identity(c).Role.May(access.Operator) }

// event gives one event with all that belongs to it.
func (a *API) event(c echo.Context) error {
	if err := parametersOf(c).err; err != nil {
		return err
	}
	id, err := eventID(c)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Request().Context(), answerTime)
	defer cancel()
	record, err := archive.Get(ctx, a.Pool, id)
	if err != nil {
		return err
	}
	if masked(c) {
		record.Mask()
	}
	return c.JSON(http.StatusOK, record)
}

// stats gives figures, of the last thirty days unless a span is given.
func (a *API) stats(c echo.Context) error {
	p := parametersOf(c, "dateFrom", "dateTo", "agentId")
	from, to, agent := p.moment("dateFrom", false), p.moment("dateTo", true), p.text("agentId")
	if p.err != nil {
		return p.err
	}
	if to.IsZero() {
		to = time.Now().UTC().Truncate(time.Second).Add(time.Second)
	}
	if from.IsZero() {
		from = to.Add(-defaultSpan)
	}
	ctx, cancel := context.WithTimeout(c.Request().Context(), answerTime)
	defer cancel()
	s, err := archive.Summarize(ctx, a.Pool, from, to, agent)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, s)
}

// refusal is a delivery that was refused, as it is answered.
type refusal struct {
	ID        int64     `json:"id"`
	At        time.Time `json:"at"`
	Reason    string    `json:"reason"`
	Address   string    `json:"address"`
	RequestID string    `json:"request_id"`
	UserAgent string    `json:"user_agent"`
	Bytes     int64     `json:"bytes"`
}

// rejections lists the newest deliveries that were refused.
func (a *API) rejections(c echo.Context) error {
	p := parametersOf(c, "limit")
	limit := p.number("limit", archive.MaxLimit, archive.DefaultLimit)
	if p.err != nil {
		return p.err
	}
	ctx, cancel := context.WithTimeout(c.Request().Context(), answerTime)
	defer cancel()
	list, err := postgres.RecentRejections(ctx, a.Pool, limit)
	if err != nil {
		return err
	}
	items := make([]refusal, len(list))
	for i, r := range list {
		items[i] = refusal(r)
	}
	return c.JSON(http.StatusOK, map[string]any{"items": items})
}

var errBusy = &call.Error{
	Code: call.RateLimited, Message: "Two exports are running already; try again when one has ended.", RetryAfter: 30 * time.Second,
}
