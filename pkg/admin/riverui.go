package admin

import (
	"encoding/json"
	"net/http"
	"net/url"
	"path"
	"strings"

	"github.com/labstack/echo/v4"

	"postcall/pkg/access"
	"postcall/pkg/call"
)

// RiverPath is where River UI is served; it must be made with it as prefix.
const RiverPath = "/riverui"

// riverPolicy lets River UI's own assets work: its scripts and styles are
// files, its charts set style attributes.
const riverPolicy = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self' data:; " +
	"connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

func (a *API) registerRiverUI(e *echo.Echo) {
	if a.RiverUI == nil {
		return
	}
	g := e.Group(RiverPath, a.audited, limitBodies, toSignIn, a.authenticate, a.limited, nameRiver, a.require(access.Operator), a.requireForQueues)
	g.Any("", a.riverUI)
	g.Any("/*", a.riverUI)
}

// toSignIn shows people with a browser where to sign in.
func toSignIn(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		err := next(c)
		r := c.Request()
		if call.CodeOf(err) != call.Unauthorized || r.Method != http.MethodGet || !strings.Contains(r.Header.Get("Accept"), "text/html") {
			return err
		}
		entry(c).written = true // nobody was refused anything yet
		return c.Redirect(http.StatusSeeOther, sessionPath+"?next="+url.QueryEscape(r.URL.RequestURI()))
	}
}

// nameRiver names what River UI is asked to change, for the audit log.
func nameRiver(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		r := c.Request()
		if safe(r.Method) {
			return next(c)
		}
		what := strings.TrimPrefix(strings.TrimPrefix(path.Clean(r.URL.Path), RiverPath), "/api/")
		e := entry(c)
		e.Action, e.Target = "riverui "+r.Method+" "+clipped(what), clipped(what)
		b, err := body(c)
		if err != nil {
			return err
		}
		var chosen struct {
			IDs []json.RawMessage `json:"ids"`
		}
		if json.Unmarshal(b, &chosen) == nil && len(chosen.IDs) > 0 {
			ids := make([]string, len(chosen.IDs))
			for i, id := range chosen.IDs {
				ids[i] = strings.Trim(string(id), `"`)
			}
			e.Action, e.Target = "riverui "+clipped(what), clipped("jobs "+strings.Join(ids, ","))
		}
		return next(c)
	}
}

// requireForQueues leaves pausing and resuming to admins, as the API does.
func (a *API) requireForQueues(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		if r := c.Request(); !safe(r.Method) && strings.HasPrefix(path.Clean(r.URL.Path), RiverPath+"/api/queues/") {
			return a.require(access.Admin)(next)(c)
		}
		return next(c)
	}
}

func (a *API) riverUI(c echo.Context) error {
	header := c.Response().Header()
	header.Set("Content-Security-Policy", riverPolicy)
	if strings.HasPrefix(c.Request().URL.Path, RiverPath+"/assets/") {
		header.Set("Cache-Control", "private, max-age=86400")
	}
	a.RiverUI.ServeHTTP(c.Response(), c.Request())
	if status := c.Response().Status; !safe(c.Request().Method) {
		e := entry(c)
		e.Outcome, e.written = access.OutcomeDone, true
		if status >= http.StatusBadRequest {
			e.Outcome = access.OutcomeFailed
			e.detail["status"] = status
		}
		a.note(c, e)
	}
	return nil
}
