package admin

import (
	"html/template"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"postcall/pkg/access"
	"postcall/pkg/call"
)

// sessionPath is where people with a browser sign in and out.
const sessionPath = "/session"

func (a *API) registerSession(e *echo.Echo) {
	g := e.Group(sessionPath, a.audited, limitBodies, noStore)
	g.GET("", a.signInPage)
	g.POST("", a.signIn, action("session.begin"))
	g.GET("/link", a.signInByLink, action("session.begin_by_link"))
	g.POST("/end", a.signOut, action("session.end"))
	g.DELETE("", a.signOut, action("session.end"))
}

func noStore(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		c.Response().Header().Set("Cache-Control", "no-store")
		return next(c)
	}
}

// SignedIn is the answer of who has signed in.
type SignedIn struct {
	Name      string      `json:"name"`
	Role      access.Role `json:"role"`
	ExpiresAt time.Time   `json:"expires_at"`
}

// page is all there is to see before signing in.
var page = template.Must(template.New("sign-in").Parse(`<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Postcall: sign in</title></head>
<body>
<h1>Postcall</h1>
{{with .Problem}}<p role="alert"><strong>{{.}}</strong></p>{{end}}
<form method="post" action="/session">
<input type="hidden" name="next" value="{{.Next}}">
<p><label>Token <input type="password" name="token" autocomplete="current-password" required autofocus></label></p>
<p><button>Sign in</button></p>
</form>
</body>
</html>
`))

type pageData struct{ Next, Problem string }

func (a *API) show(c echo.Context, status int, data pageData) error {
	if a.SignInPage != nil {
		return a.SignInPage(c, status, data.Next, data.Problem)
	}
	c.Response().Header().Set(echo.HeaderContentType, echo.MIMETextHTMLCharsetUTF8)
	c.Response().Header().Set("Content-Security-Policy", "default-src 'none'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
	c.Response().WriteHeader(status)
	return page.Execute(c.Response(), data)
}

func (a *API) signInPage(c echo.Context) error {
	return a.show(c, http.StatusOK, pageData{Next: a.next(c.QueryParam("next"))})
}

// next is where somebody goes who has signed in: a path of ours and nowhere
// else.
func (a *API) next(wanted string) string {
	home := a.Home
	if home == "" {
		home = RiverPath + "/"
	}
	u, err := url.Parse(wanted)
	// A browser takes \ for / and drops tabs and line ends.
	if wanted == "" || err != nil || u.IsAbs() || u.Host != "" || !strings.HasPrefix(wanted, "/") ||
		strings.HasPrefix(wanted, "//") || strings.ContainsFunc(wanted, func(r rune) bool { return r < ' ' || r == '\\' }) {
		return home
	}
	return wanted
}

// signIn begins a session for who shows a token, as JSON or by the form.
func (a *API) signIn(c echo.Context) error {
	byForm := strings.HasPrefix(c.Request().Header.Get(echo.HeaderContentType), echo.MIMEApplicationForm)
	var request struct {
		Token string `json:"token"`
	}
	if byForm {
		request.Token = c.FormValue("token")
	} else if err := decode(c, &request); err != nil {
		return err
	}
	entry(c).Target = "session"
	if err := a.Door.SameSite(c.Request()); err != nil {
		return err
	}
	value, session, err := a.Door.Sessions.Start(strings.TrimSpace(request.Token))
	if err != nil {
		if limited := a.guessed(c); limited != nil {
			return limited
		}
		if !byForm {
			return err
		}
		// The page says it; the log has it as what it is.
		r := entry(c)
		r.Outcome, r.written = access.OutcomeRefused, true
		if a.strangers.Allow() {
			a.note(c, r)
		}
		return a.show(c, http.StatusUnauthorized, pageData{Next: a.next(c.FormValue("next")), Problem: message(err)})
	}
	return a.signedIn(c, value, session, byForm, c.FormValue("next"))
}

func (a *API) signedIn(c echo.Context, value string, session access.Session, redirect bool, next string) error {
	c.Set(visitorKey, access.Visitor{Identity: session.Identity, Session: &session})
	a.Door.SetCookie(c.Response(), c.Request(), value, session)
	// A safe method too begins a session here, so that it is recorded by hand.
	r := entry(c)
	r.Target, r.Outcome, r.written = "session", access.OutcomeDone, true
	a.note(c, r)
	if redirect {
		return c.Redirect(http.StatusSeeOther, a.next(next))
	}
	return c.JSON(http.StatusOK, SignedIn{Name: session.Name, Role: session.Role, ExpiresAt: session.Expires.UTC()})
}

// signInByLink begins a session by a one-time link: ?code=…&next=….
func (a *API) signInByLink(c echo.Context) error {
	value, session, err := a.Door.Sessions.Redeem(c.Request().Context(), c.QueryParam("code"))
	if err != nil {
		if call.CodeOf(err) != call.Unauthorized {
			return err
		}
		if access.Guessed(err) {
			if limited := a.guessed(c); limited != nil {
				return limited
			}
		}
		r := entry(c)
		r.Target, r.Outcome, r.written = "session", access.OutcomeRefused, true
		if a.strangers.Allow() {
			a.note(c, r)
		}
		return a.show(c, http.StatusUnauthorized, pageData{Next: a.next(c.QueryParam("next")), Problem: message(err)})
	}
	return a.signedIn(c, value, session, true, c.QueryParam("next"))
}

func message(err error) string {
	if e, ok := err.(*call.Error); ok { //nolint:errorlint // of access, never wrapped
		return e.Message
	}
	return "That did not work."
}

// signOut ends the session, in every process: 204, or back to the sign-in page
// for a form. Whoever has none is signed out already.
func (a *API) signOut(c echo.Context) error {
	entry(c).Target = "session"
	who, err := a.Door.Identify(c.Request())
	switch {
	case err == nil:
		c.Set(visitorKey, who)
		if who.Session != nil {
			if err := a.Door.Sessions.End(c.Request().Context(), *who.Session); err != nil {
				return err
			}
		}
	case call.CodeOf(err) != call.Unauthorized:
		return err
	}
	a.Door.ClearCookie(c.Response(), c.Request())
	if err != nil {
		entry(c).written = true // nothing was changed, by nobody
	}
	if c.Request().Method == http.MethodDelete {
		return c.NoContent(http.StatusNoContent)
	}
	return c.Redirect(http.StatusSeeOther, sessionPath)
}

// SignInURL is the address of a one-time sign-in link for the holder of a
// token, on a base such as http://127.0.0.1:3000.
func (a *API) SignInURL(base, token string) (string, error) {
	code, err := a.Door.Sessions.Link(token)
	if err != nil {
		return "", err
	}
	return base + sessionPath + "/link?code=" + code, nil
}
