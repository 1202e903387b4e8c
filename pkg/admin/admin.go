// Package admin is the REST API for people and programs with a token.
package admin

import (
	"context"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/labstack/echo/v4"
	"github.com/labstack/echo/v4/middleware"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"postcall/pkg/access"
	"postcall/pkg/call"
	"postcall/pkg/gate"
	"postcall/pkg/postgres"
)

// answerTime bounds what a request may do in the database. How long its answer
// takes to be read is the listener's business.
const answerTime = 10 * time.Second

// Recordings is where the calls' audio is.
type Recordings interface {
	Serve(w http.ResponseWriter, r *http.Request, key string) error
}

// API answers under /api. Nothing of it is open: without tokens everybody is
// refused.
type API struct {
	// Door tells who is asking, by token or by session.
	Door *access.Door
	// Pool is not receiving's: nothing that is asked here takes a connection
	// from it. Nil without a database.
	Pool       *pgxpool.Pool
	Recordings Recordings
	Backlog    Backlog
	Address    func(r *http.Request) netip.Addr
	// Guesses limits what an address may try that is no token: Limits.Failed.
	Guesses *gate.Limits
	// PerSecond is how many requests a token may make for long.
	PerSecond int
	Privacy   Privacy
	Log       *zap.Logger

	exporting atomic.Int32 // exports that run
	limited   echo.MiddlewareFunc

	Acting
	Parts
}

// Register adds the routes.
func (a *API) Register(e *echo.Echo) {
	a.limited = a.limitTokens()
	g := e.Group("/api", a.audited, limitBodies, a.authenticate, a.limited)
	a.registerActing(e, g)
	g.GET("/health/full", a.health, may(access.Viewer))
	g.GET("/events/:id/audio", a.audio, a.require(access.Viewer))
	g.GET("/openapi.yaml", a.describe)
	g.GET("/events", a.events, a.require(access.Viewer))
	g.GET("/events/:id", a.event, a.require(access.Viewer))
	g.GET("/events.csv", a.eventsCSV, a.require(access.Admin))
	g.GET("/events.jsonl", a.eventsJSONL, a.require(access.Admin))
	g.GET("/stats", a.stats, a.require(access.Viewer))
	g.GET("/rejections", a.rejections, a.require(access.Viewer))
	g.GET("/import", a.imports, a.require(access.Viewer))
	a.registerPrivacy(g)
}

const visitorKey = "visitor"

// authenticate lets in who shows a token or a session. Failure policy: an
// address that has guessed too often is answered 429 for what is neither; one
// that is a token is always looked at, so that nobody can lock others out.
func (a *API) authenticate(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		c.Response().Header().Set("Cache-Control", "no-store")
		who, err := a.Door.Identify(c.Request())
		c.Set(visitorKey, who)
		if err == nil {
			return next(c)
		}
		if call.CodeOf(err) != call.Unauthorized {
			return err
		}
		if access.Guessed(err) {
			if err := a.guessed(c); err != nil {
				return err
			}
		}
		c.Response().Header().Set(echo.HeaderWWWAuthenticate, `Bearer realm="postcall"`)
		return err
	}
}

// guessed charges an address with a try that was none of ours.
func (a *API) guessed(c echo.Context) error {
	if retryAfter, ok := a.Guesses.Failed(a.Address(c.Request())); !ok {
		return &call.Error{Code: call.RateLimited, Message: "Too many requests without a valid token from this address.", RetryAfter: retryAfter}
	}
	return nil
}

func (a *API) limitTokens() echo.MiddlewareFunc {
	return middleware.RateLimiterWithConfig(middleware.RateLimiterConfig{
		Store: middleware.NewRateLimiterMemoryStoreWithConfig(middleware.RateLimiterMemoryStoreConfig{
			Rate: rate.Limit(a.PerSecond), Burst: 2 * a.PerSecond, ExpiresIn: 10 * time.Minute,
		}),
		IdentifierExtractor: func(c echo.Context) (string, error) { return identity(c).Name, nil },
		DenyHandler: func(echo.Context, string, error) error {
			return &call.Error{Code: call.RateLimited, Message: "Too many requests with this token; ADMIN_RATE_RPS allows them.", RetryAfter: time.Second}
		},
	})
}

// require lets roles in from the least one on, where there is a database.
func (a *API) require(least access.Role) echo.MiddlewareFunc {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return may(least)(func(c echo.Context) error {
			if a.Pool == nil {
				return call.Errorf(call.Unavailable, "There is no database: DATABASE_URL is not set.")
			}
			return next(c)
		})
	}
}

// may lets roles in from the least one on.
func may(least access.Role) echo.MiddlewareFunc {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			if !identity(c).Role.May(least) {
				return call.Errorf(call.Forbidden, "This takes the role %s or a higher one.", least)
			}
			return next(c)
		}
	}
}

func identity(c echo.Context) access.Identity { return visitor(c).Identity }

func visitor(c echo.Context) access.Visitor {
	who, _ := c.Get(visitorKey).(access.Visitor)
	return who
}

// audio plays the recording of an event's call, whole or by range: that of the
// event itself, else the newest that came for the same conversation. ?kind=
// chooses another than full_audio.
func (a *API) audio(c echo.Context) error {
	id, err := eventID(c)
	if err != nil {
		return err
	}
	kind := c.QueryParam("kind")
	if kind == "" {
		kind = "full_audio"
	}
	ctx, cancel := context.WithTimeout(c.Request().Context(), answerTime)
	defer cancel()
	key, err := postgres.AudioOf(ctx, a.Pool, id, kind)
	if err != nil {
		return err
	}
	return a.Recordings.Serve(c.Response(), c.Request(), key)
}
