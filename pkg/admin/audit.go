package admin

import (
	"context"
	"math"
	"net/http"
	"slices"
	"strconv"

	"github.com/labstack/echo/v4"

	"postcall/pkg/access"
	"postcall/pkg/archive"
)

// AuditPage is a page of the audit log, newest first.
type AuditPage struct {
	Entries []access.Entry `json:"entries"`
	// NextCursor is where the next page begins; null on the last one.
	NextCursor *string `json:"next_cursor"`
}

// audit lists the audit log: ?actor, action, outcome, dateFrom, dateTo, limit,
// cursor. Pages stay as they are while entries are added.
func (a *API) audit(c echo.Context) error {
	p := parametersOf(c, "actor", "action", "outcome", "dateFrom", "dateTo", "limit", "cursor")
	f := access.AuditFilter{
		Actor: p.text("actor"), Action: p.text("action"), Outcome: access.Outcome(p.text("outcome")),
		From: p.moment("dateFrom", false), To: p.moment("dateTo", true),
		Limit: p.number("limit", archive.MaxLimit, archive.DefaultLimit), Before: int64(p.number("cursor", math.MaxInt, 0)),
	}
	if !slices.Contains(append(access.Outcomes(), ""), f.Outcome) {
		p.wrong("outcome must be one of done, replayed, refused, failed")
	}
	if p.err != nil {
		return p.err
	}
	ctx, cancel := context.WithTimeout(c.Request().Context(), answerTime)
	defer cancel()
	page := AuditPage{Entries: []access.Entry{}}
	f.Limit++
	list, err := access.Audit(ctx, a.Pool, f)
	if err != nil {
		return unavailable(err)
	}
	if len(list) == f.Limit {
		list = list[:f.Limit-1]
		cursor := strconv.FormatInt(list[len(list)-1].ID, 10)
		page.NextCursor = &cursor
	}
	page.Entries = append(page.Entries, list...)
	return c.JSON(http.StatusOK, page)
}
