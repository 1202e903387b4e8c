package admin

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/labstack/echo/v4"
	"github.com/labstack/echo/v4/middleware"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"postcall/pkg/access"
	"postcall/pkg/call"
	"postcall/pkg/postgres"
	"postcall/pkg/queue"
)

// Acting is what the routes need that change something.
type Acting struct {
	// Jobs inserts jobs on Pool's database; nil without one.
	Jobs *queue.Client
	// MaxAttempts is how often an analysis is tried.
	MaxAttempts int
	// RiverUI is served under /riverui; nil for none.
	RiverUI http.Handler
	// Home is where somebody gets to who has signed in; empty for /riverui/.
	Home string
	// SignInPage shows where to sign in: with the path to go on to and, if it was
	// tried before, what was wrong. Nil for a plain page.
	SignInPage func(c echo.Context, status int, next, problem string) error

	strangers *rate.Limiter
	waiting   chan struct{} // for analyses
	acting    chan struct{} // on many events
}

const (
	// maxBody is the largest body of a request to the API.
	maxBody = "1M"
	// actTime bounds what an act may do in the database: longer than answerTime,
	// because one may concern hundreds of events.
	actTime = 30 * time.Second
	// strangersPerSecond is how many refusals of people without a token are
	// recorded for long, strangersAtOnce in a burst.
	strangersPerSecond = 5
	strangersAtOnce    = 200
	// recordTime bounds the recording of what was refused.
	recordTime = 2 * time.Second
	// maxWaiting is how many requests may wait for an analysis.
	maxWaiting = 64
	// maxActing is how many acts on many events run at a time: each takes two
	// connections.
	maxActing = 2
)

func limitBodies(next echo.HandlerFunc) echo.HandlerFunc { return middleware.BodyLimit(maxBody)(next) }

func (a *API) registerActing(e *echo.Echo, g *echo.Group) {
	a.strangers = rate.NewLimiter(strangersPerSecond, strangersAtOnce)
	a.waiting = make(chan struct{}, maxWaiting)
	a.acting = make(chan struct{}, maxActing)
	operator, admin := a.require(access.Operator), a.require(access.Admin)

	g.POST("/events/:id/reprocess", a.reprocess, action("event.reprocess"), operator)
	g.POST("/events/:id/resend-crm", a.resend, action("event.resend"), operator)
	g.POST("/events/:id/corrections", a.correct, action("event.correct"), operator)
	g.POST("/events/reprocess", a.reprocessMany, action("events.reprocess"), operator)
	g.POST("/events/resend-crm", a.resendMany, action("events.resend"), operator)
	g.POST("/analyze", a.analyze, action("event.analyze"), operator)
	g.POST("/analyze/next", a.analyzeNext, action("event.analyze_next"), operator)
	g.GET("/dead-letters", a.deadLetters, a.require(access.Viewer))
	g.POST("/dead-letters/retry", a.retryDead, action("dead_letters.retry"), operator)
	g.GET("/queues", a.queues, a.require(access.Viewer))
	g.POST("/queues/:name/pause", a.pauseQueue, action("queue.pause"), admin)
	g.POST("/queues/:name/resume", a.resumeQueue, action("queue.resume"), admin)
	g.GET("/audit", a.audit, admin)

	a.registerSession(e)
	a.registerRiverUI(e)
}

// action names what a route does, for the audit log. It stands before the
// role's check, so that what is refused is named too.
func action(name string) echo.MiddlewareFunc {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			entry(c).Action = name
			return next(c)
		}
	}
}

const entryKey = "audit"

// record is the audit entry that a request is about to make.
type record struct {
	access.Entry
	// written says that it stands in the log already, with what was done.
	written bool
	detail  map[string]any
}

// entry is the request's audit entry, to be filled in.
func entry(c echo.Context) *record {
	r, ok := c.Get(entryKey).(*record)
	if !ok {
		r = &record{detail: map[string]any{}}
		c.Set(entryKey, r)
	}
	return r
}

// audited records every request that changes something and every one that is
// refused. What was done is recorded in its own transaction (act); what is left
// to here is what was refused or failed.
//
// Failure policy: open. A refusal stays one whether or not it can be recorded;
// one that cannot is logged. Strangers, who show neither token nor session,
// fill the log only at a bounded pace.
func (a *API) audited(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		err := next(c)
		r, code := entry(c), call.CodeOf(err)
		refused := err != nil && (code == call.Unauthorized || code == call.Forbidden)
		if r.written || !refused && (safe(c.Request().Method) || code == call.RateLimited || r.Action == "") {
			return err
		}
		switch {
		case err == nil:
			r.Outcome = access.OutcomeDone
		case refused:
			r.Outcome = access.OutcomeRefused
		default:
			r.Outcome = access.OutcomeFailed
		}
		if err != nil {
			r.detail["code"] = code
			if e, ok := errors.AsType[*call.Error](err); ok {
				r.detail["message"] = clipped(e.Message)
			}
		}
		if identity(c) == (access.Identity{}) && refused && !a.strangers.Allow() {
			return err
		}
		a.note(c, r)
		return err
	}
}

// safe methods change nothing.
func safe(method string) bool {
	return method == http.MethodGet || method == http.MethodHead || method == http.MethodOptions
}

// note records what cannot stand in an act's own transaction.
func (a *API) note(c echo.Context, r *record) {
	a.complete(c, r)
	err := call.Errorf(call.Unavailable, "there is no database")
	if a.Pool != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(c.Request().Context()), recordTime)
		defer cancel()
		if rerr := access.Record(ctx, a.Pool, r.Entry); rerr == nil {
			return
		} else {
			err.Err = rerr
		}
	}
	a.Log.Error("an entry of the audit log is only here", zap.String("actor", r.Actor), zap.String("role", string(r.Role)),
		zap.String("action", r.Action), zap.String("target", r.Target), zap.String("outcome", string(r.Outcome)),
		zap.String("request_id", r.RequestID), zap.String("address", r.Address), zap.Error(err))
}

// complete fills in what is known of every request.
func (a *API) complete(c echo.Context, r *record) {
	who := identity(c)
	r.Actor, r.Role = who.Name, who.Role
	r.RequestID = c.Response().Header().Get(echo.HeaderXRequestID)
	r.Address = a.Address(c.Request()).String()
	if r.Action == "" {
		r.Action = c.Request().Method + " " + c.Path()
	}
	if r.Target == "" {
		r.Target = clipped(c.Request().URL.Path)
	}
	if len(r.detail) > 0 {
		// It is made of texts and numbers only.
		r.Detail, _ = json.Marshal(r.detail)
	}
}

// clipped bounds what anybody can have written into the log, and leaves out
// what a database's text cannot hold.
func clipped(s string) string {
	const most = 200
	tail := ""
	if len(s) > most {
		s, tail = strings.ToValidUTF8(s[:most], ""), "…"
	}
	return strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", "�"), "�") + tail
}

// act runs what changes something: in one transaction with its audit entry and,
// where the request has an Idempotency-Key, with its answer. A repetition of
// that request within a day gets the answer again and changes nothing.
//
// The error is Conflict while a request with the same key is still being
// worked on, and Refused (422) where the key belongs to another request. What
// fails leaves nothing behind, so that it may be sent again under its key.
//
// It goes on when the client hangs up.
func act[T any](a *API, c echo.Context, target string, f func(context.Context, pgx.Tx) (T, error)) (answer T, err error) {
	r := entry(c)
	r.Target = target
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.Request().Context()), actTime)
	defer cancel()
	key, err := idempotencyKey(c)
	if err != nil {
		return answer, err
	}
	err = pgx.BeginFunc(ctx, a.Pool, func(tx pgx.Tx) (err error) {
		r.Outcome = access.OutcomeDone
		var replayed bool
		if key != nil {
			if replayed, err = key.replay(ctx, tx, &answer); err != nil {
				return err
			}
		}
		if replayed {
			r.Outcome = access.OutcomeReplayed
		} else {
			if answer, err = f(ctx, tx); err != nil {
				return err
			}
			if key != nil {
				if err := key.keep(ctx, tx, answer); err != nil {
					return err
				}
			}
		}
		a.complete(c, r)
		return access.Record(ctx, tx, r.Entry)
	})
	if err != nil {
		return answer, unavailable(err)
	}
	r.written = true
	if r.Outcome == access.OutcomeReplayed {
		c.Response().Header().Set("Idempotency-Replayed", "true")
	}
	return answer, nil
}

// refusedData is the class of the database's errors about the data it was
// given: what was asked for cannot be, such as a text with a NUL in it.
const refusedData = "22"

// unavailable makes of the database's not answering, and of its not taking a
// value, errors that say so.
func unavailable(err error) error {
	if _, ok := errors.AsType[*call.Error](err); ok || err == nil {
		return err
	}
	pgErr, answered := errors.AsType[*pgconn.PgError](err)
	_, away := errors.AsType[*pgconn.ConnectError](err)
	switch {
	case answered && strings.HasPrefix(pgErr.Code, refusedData):
		return call.Errorf(call.Invalid, "A value is none that the database takes: %w", err)
	case away, answered && postgres.Transient(err), pgconn.Timeout(err), pgconn.SafeToRetry(err):
		return call.Errorf(call.Unavailable, "The database does not answer in time. Send it again, under an Idempotency-Key to have it done once: %w", err)
	}
	return err
}

// idempotent is a request that has an Idempotency-Key.
type idempotent struct {
	actor, key string
	request    []byte // its hash
}

// keyTime is how long an answer is kept under its key, as the database writes
// an interval.
const keyTime = "24 hours"

func idempotencyKey(c echo.Context) (*idempotent, error) {
	key := c.Request().Header.Get("Idempotency-Key")
	if key == "" {
		return nil, nil //nolint:nilnil // none is an answer
	}
	if len(key) > 255 || strings.ContainsFunc(key, func(r rune) bool { return r < ' ' || r > '~' }) {
		return nil, call.Errorf(call.Invalid, "The Idempotency-Key is 1 to 255 printable ASCII characters, such as a UUID.")
	}
	body, err := body(c)
	if err != nil {
		return nil, err
	}
	h := sha256.New()
	fmt.Fprintf(h, "%s %s\n", c.Request().Method, c.Request().URL.RequestURI())
	h.Write(body)
	return &idempotent{actor: identity(c).Name, key: key, request: h.Sum(nil)}, nil
}

// replay locks the key until tx ends and reads the answer that is kept under it.
func (i *idempotent) replay(ctx context.Context, tx pgx.Tx, answer any) (bool, error) {
	var free bool
	err := tx.QueryRow(ctx, `select pg_try_advisory_xact_lock(hashtextextended('postcall idempotency ' || $1 || ' ' || $2, 0))`, i.actor, i.key).Scan(&free)
	if err != nil {
		return false, fmt.Errorf("locking an idempotency key: %w", err)
	}
	if !free {
		return false, &call.Error{Code: call.Conflict, Message: "A request with this Idempotency-Key is still being worked on.", RetryAfter: time.Second}
	}
	// Those that others are at are left to them.
	_, err = tx.Exec(ctx, `
		delete from idempotency_keys where (actor, key) in (
			select actor, key from idempotency_keys where created_at < now() - $1::interval
			limit 100 for update skip locked)`, keyTime)
	if err != nil {
		return false, fmt.Errorf("forgetting old idempotency keys: %w", err)
	}
	var request, kept []byte
	err = tx.QueryRow(ctx, `
		select request, answer from idempotency_keys
		where actor = $1 and key = $2 and created_at >= now() - $3::interval`, i.actor, i.key, keyTime).Scan(&request, &kept)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("looking an idempotency key up: %w", err)
	case !bytes.Equal(request, i.request):
		return false, call.Errorf(call.Refused, "This Idempotency-Key was used for another request.")
	}
	if err := json.Unmarshal(kept, answer); err != nil {
		return false, fmt.Errorf("reading the answer of before: %w", err)
	}
	return true, nil
}

func (i *idempotent) keep(ctx context.Context, tx pgx.Tx, answer any) error {
	b, err := json.Marshal(answer)
	if err != nil {
		return fmt.Errorf("encoding an answer: %w", err)
	}
	_, err = tx.Exec(ctx, `
		insert into idempotency_keys (actor, key, request, answer) values ($1, $2, $3, $4)
		on conflict (actor, key) do update
		set request = excluded.request, answer = excluded.answer, created_at = now()`, i.actor, i.key, i.request, b)
	if err != nil {
		return fmt.Errorf("keeping an answer: %w", err)
	}
	return nil
}

// body reads the request's body, which can be read again afterwards. The limit
// is limitBodies'.
func body(c echo.Context) ([]byte, error) {
	b, err := io.ReadAll(c.Request().Body)
	if err != nil {
		if he, ok := errors.AsType[*echo.HTTPError](err); ok {
			return nil, he
		}
		return nil, call.Errorf(call.Invalid, "The body did not arrive whole: %w", err)
	}
	c.Request().Body = io.NopCloser(bytes.NewReader(b))
	return b, nil
}

// decode reads the body as JSON; an empty one leaves v as it is. What is not
// known is Invalid, so that a misspelt field does not act on everything.
func decode(c echo.Context, v any) error {
	b, err := body(c)
	if err != nil || len(bytes.TrimSpace(b)) == 0 {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return call.Errorf(call.Invalid, "The body is not what this address takes: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return call.Errorf(call.Invalid, "The body has something behind its JSON.")
	}
	return nil
}

// flag reads a boolean of the query; absent it is false.
func flag(c echo.Context, name string) (bool, error) {
	switch value := c.QueryParam(name); value {
	case "", "false", "0":
		return false, nil
	case "true", "1":
		return true, nil
	default:
		return false, call.Errorf(call.Invalid, "%s is true or false, not %.40q.", name, value)
	}
}
