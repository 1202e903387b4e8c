package admin

import (
	"context"
	"net/http"
	"slices"
	"strconv"

	"github.com/labstack/echo/v4"

	"postcall/pkg/access"
	"postcall/pkg/call"
)

// AuditPage is a page of the audit log, newest first.
type AuditPage struct {
	Entries []access.Entry `json:"entries"`
	// NextCursor is where the next page begins; null on the last one.
	NextCursor *string `json:"next_cursor"`
}

const (
	defaultPage = 50
	maxPage     = 100
)

// audit lists the audit log: ?actor, action, outcome, dateFrom, dateTo, limit,
// cursor. Pages stay as they are while entries are added.
func (a *API) audit(c echo.Context) error {
	f := access.AuditFilter{Limit: defaultPage}
	for name, values := range c.QueryParams() {
		value := values[0]
		switch name {
		case "actor":
			f.Actor = value
		case "action":
			f.Action = value
		case "outcome":
			f.Outcome = access.Outcome(value)
			if known := []access.Outcome{access.OutcomeDone, access.OutcomeReplayed, access.OutcomeRefused, access.OutcomeFailed}; !slices.Contains(known, f.Outcome) {
				return call.Errorf(call.Invalid, "outcome is one of done, replayed, refused, failed.")
			}
		case "dateFrom", "dateTo":
			at, day, err := when(name, value)
			switch {
			case err != nil:
				return err
			case name == "dateFrom":
				f.From = at
			case day:
				f.To = at.AddDate(0, 0, 1)
			default:
				f.To = at
			}
		case "limit":
			n, err := strconv.Atoi(value)
			if err != nil || n < 1 || n > maxPage {
				return call.Errorf(call.Invalid, "limit is 1 to %d.", maxPage)
			}
			f.Limit = n
		case "cursor":
			n, err := strconv.ParseInt(value, 10, 64)
			if err != nil || n < 1 {
				return call.Errorf(call.Invalid, "cursor is the next_cursor of the page before.")
			}
			f.Before = n
		default:
			return call.Errorf(call.Invalid, "There is no parameter %.40q.", name)
		}
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
