// Package web is the dashboard: pages made on the server, in English and
// Russian, which read and act by the API's own queries and rules. Texts of
// calls are hostile: html/template escapes them, and the policy of the pages
// lets no script or style run that is not a file of ours.
package web

import (
	"context"
	"embed"
	"errors"
	"html/template"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/labstack/echo/v4/middleware"
	"go.uber.org/zap"

	"postcall/pkg/access"
	"postcall/pkg/admin"
	"postcall/pkg/call"
	"postcall/pkg/problem"
)

//go:embed templates/*.html
var templateFiles embed.FS

// policy lets pages use files of ours and nothing else.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// answerTime bounds what a page may do in the database.
const answerTime = 10 * time.Second

// Dashboard serves the pages.
type Dashboard struct {
	API  *admin.API
	Live *Live
	// WebhookPath is where ElevenLabs' deliveries go.
	WebhookPath string
	Log         *zap.Logger

	languages map[string]*template.Template
	files     *assets
	agents    agents
}

// New reads the templates, catalogues and files, which are part of the program.
func New(api *admin.API, live *Live, webhookPath string, log *zap.Logger) (*Dashboard, error) {
	d := &Dashboard{API: api, Live: live, WebhookPath: webhookPath, Log: log, languages: map[string]*template.Template{}}
	var err error
	if d.files, err = newAssets(); err != nil {
		return nil, err
	}
	for _, lang := range Languages() {
		t, err := catalogue(lang)
		if err != nil {
			return nil, err
		}
		if d.languages[lang], err = template.New(lang).Funcs(d.functions(t)).ParseFS(templateFiles, "templates/*.html"); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// Register adds the routes, and makes the API's sign-in page one of ours.
func (d *Dashboard) Register(e *echo.Echo) {
	d.API.Home, d.API.SignInPage = "/", d.signIn
	e.GET(assetsPath+":hash/:name", d.files.serve)
	e.GET("/favicon.ico", d.files.icon)
	e.POST("/preferences", d.prefer, middleware.BodyLimit("16K"))
	get := func(path string, least access.Role, h echo.HandlerFunc) {
		chain := []echo.MiddlewareFunc{d.failing, middleware.GzipWithConfig(middleware.GzipConfig{MinLength: 1024})}
		e.GET(path, h, append(chain, d.API.Page(least, "")...)...)
	}
	post := func(path, action string, h echo.HandlerFunc) {
		e.POST(path, h, append([]echo.MiddlewareFunc{d.failing}, d.API.Page(access.Operator, action)...)...)
	}
	get("/", access.Viewer, d.overview)
	get("/calls", access.Viewer, d.calls)
	get("/calls/new", access.Viewer, d.arrived)
	e.GET("/calls/live", d.live, d.API.Page(access.Viewer, "")...)
	get("/calls/:id", access.Viewer, d.call)
	get("/dead-letters", access.Viewer, d.deadLetters)
	get("/rejections", access.Viewer, d.rejections)
	get("/system", access.Viewer, d.system)
	get("/audit", access.Admin, d.audit)
	post("/calls/:id/reprocess", "event.reprocess", d.reprocess)
	post("/calls/:id/resend", "event.resend", d.resend)
	post("/calls/:id/correct", "event.correct", d.correct)
	post("/calls/:id/handled", "event.handled", d.handled)
	post("/dead-letters/retry", "dead_letters.retry", d.retryDead)
}

// page is what every template is given.
type page struct {
	Lang, Theme string
	Title       string // a key of the catalogue
	Nav         string // the entry of the menu that is lit
	Path        string // of this page with its query, to come back to
	Who         access.Identity
	SignedIn    bool
	Operator    bool
	Admin       bool
	Notice      string // a key of the catalogue
	Data        any
}

func (d *Dashboard) page(c echo.Context, title, nav string, data any) page {
	who := d.API.Visitor(c)
	p := page{
		Lang: language(c.Request()), Theme: theme(c.Request()), Title: title, Nav: nav, Path: c.Request().URL.RequestURI(),
		Who: who.Identity, SignedIn: who.Role != "", Operator: who.Role.May(access.Operator), Admin: who.Role.May(access.Admin), Data: data,
	}
	switch done := c.QueryParam("done"); done {
	case "reprocess", "resend", "correct", "handled", "retry":
		p.Notice = "done." + done
	}
	return p
}

// render answers with a page. It is made whole before anything is sent, so that
// a fault in the middle is told as one.
func (d *Dashboard) render(c echo.Context, status int, name string, p page) error {
	var b strings.Builder
	if err := d.languages[p.Lang].ExecuteTemplate(&b, name, p); err != nil {
		return err
	}
	h := c.Response().Header()
	h.Set("Content-Security-Policy", policy)
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Language", p.Lang)
	h.Add(echo.HeaderVary, "Accept-Language, Cookie")
	return c.HTML(status, b.String())
}

// failure is what an error's page shows.
type failure struct {
	Status          int
	Detail, Request string
}

// failing shows errors as pages. What went wrong inside is logged, not shown.
func (d *Dashboard) failing(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		err := next(c)
		if err == nil || c.Response().Committed {
			return err
		}
		f := failure{Status: problem.Status(err), Request: c.Response().Header().Get(echo.HeaderXRequestID)}
		if e, ok := errors.AsType[*call.Error](err); ok && f.Status != http.StatusInternalServerError {
			f.Detail = e.Message
		}
		if f.Status >= http.StatusInternalServerError {
			d.Log.Error("a page failed", zap.String("request_id", f.Request), zap.String("route", c.Path()), zap.Int("status", f.Status), zap.Error(err))
		}
		return d.render(c, f.Status, "error.html", d.page(c, "error.title", "", f))
	}
}

// bounded is the context of what a page does in the database.
func bounded(c echo.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(c.Request().Context(), answerTime)
}

// signIn is the API's sign-in page.
func (d *Dashboard) signIn(c echo.Context, status int, next, problem string) error {
	return d.render(c, status, "signin.html", d.page(c, "signin.title", "", struct{ Next, Problem string }{next, problem}))
}

// prefer keeps the language or the theme that somebody chose, and goes back.
func (d *Dashboard) prefer(c echo.Context) error {
	if err := d.API.Door.SameSite(c.Request()); err != nil {
		return err
	}
	set := func(name, value string) {
		c.SetCookie(&http.Cookie{ //nolint:gosec // Secure wherever the connection is
			Name: name, Value: value, Path: "/", MaxAge: 365 * 24 * 3600, HttpOnly: true,
			SameSite: http.SameSiteLaxMode, Secure: d.API.Door.Secure(c.Request()),
		})
	}
	if v := c.FormValue("lang"); v != "" && known(v) {
		set(langCookie, v)
	}
	if v := c.FormValue("theme"); v == "light" || v == "dark" || v == "auto" {
		set(themeCookie, v)
	}
	return c.Redirect(http.StatusSeeOther, local(c.FormValue("next"), "/"))
}

// local is a path of ours, or another one instead.
func local(path, otherwise string) string {
	u, err := url.Parse(path)
	if err != nil || u.IsAbs() || u.Host != "" || !strings.HasPrefix(path, "/") || strings.HasPrefix(path, "//") || strings.ContainsAny(path, "\\\t\r\n") {
		return otherwise
	}
	return path
}

const themeCookie = "postcall_theme"

// theme is the one that was chosen; auto follows the system.
func theme(r *http.Request) string {
	if c, err := r.Cookie(themeCookie); err == nil && (c.Value == "light" || c.Value == "dark") {
		return c.Value
	}
	return "auto"
}

func eventID(c echo.Context) (int64, error) {
	id, err := strconv.ParseInt(c.Param("id"), 10, 64)
	if err != nil || id < 1 {
		return 0, call.Errorf(call.NotFound, "There is no such call.")
	}
	return id, nil
}
