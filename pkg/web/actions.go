package web

import (
	"fmt"
	"net/http"

	"github.com/labstack/echo/v4"

	"postcall/pkg/admin"
	"postcall/pkg/call"
)

// Each action goes back to the page that it was asked for on, which says that
// it was done; what it may do is for the API to decide.

func (d *Dashboard) done(c echo.Context, what string) error {
	return c.Redirect(http.StatusSeeOther, fmt.Sprintf("/calls/%s?done=%s", c.Param("id"), what))
}

func (d *Dashboard) reprocess(c echo.Context) error {
	id, err := eventID(c)
	if err != nil {
		return err
	}
	if _, err := d.API.Reprocess(c, id, false); err != nil {
		return err
	}
	return d.done(c, "reprocess")
}

func (d *Dashboard) resend(c echo.Context) error {
	id, err := eventID(c)
	if err != nil {
		return err
	}
	if _, err := d.API.Resend(c, id, call.Target(c.FormValue("target")), c.FormValue("force") == "true"); err != nil {
		return err
	}
	return d.done(c, "resend")
}

func (d *Dashboard) correct(c echo.Context) error {
	id, err := eventID(c)
	if err != nil {
		return err
	}
	if _, err := d.API.Correct(c, id, c.FormValue("field"), c.FormValue("value"), c.FormValue("withdraw") == "true"); err != nil {
		return err
	}
	return d.done(c, "correct")
}

func (d *Dashboard) handled(c echo.Context) error {
	id, err := eventID(c)
	if err != nil {
		return err
	}
	if err := d.API.Handle(c, id); err != nil {
		return err
	}
	return c.Redirect(http.StatusSeeOther, local(c.FormValue("next"), "/?done=handled"))
}

func (d *Dashboard) retryDead(c echo.Context) error {
	r := admin.DeadRetry{DryRun: new(false), Limit: 500}
	switch {
	case c.FormValue("all") == "true":
		r.All = true
	case c.FormValue("fingerprint") != "" || c.FormValue("group") == "true":
		fingerprint := c.FormValue("fingerprint")
		r.Target, r.Fingerprint, r.Code = call.Target(c.FormValue("target")), &fingerprint, call.Code(c.FormValue("code"))
	default:
		if _, err := fmt.Sscanf(c.FormValue("event"), "%d", &r.EventID); err != nil {
			return call.Errorf(call.Invalid, "Say which dead letters.")
		}
	}
	if _, err := d.API.RetryDead(c, r); err != nil {
		return err
	}
	return c.Redirect(http.StatusSeeOther, "/dead-letters?done=retry")
}
