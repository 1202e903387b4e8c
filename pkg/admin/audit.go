package admin

import (
	"net/http"

	"github.com/labstack/echo/v4"

	"postcall/pkg/access"
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
	page, err := a.auditPage(c.Request().Context(), parametersOf(c, auditParameters...))
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, page)
}
