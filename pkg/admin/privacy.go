package admin

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/labstack/echo/v4"

	"postcall/pkg/access"
	"postcall/pkg/call"
	"postcall/pkg/privacy"
	"postcall/pkg/queue"
)

// Privacy is what erasing and copying need.
type Privacy struct {
	Jobs  *queue.Client
	Store privacy.Reader
	// Key makes the digests by which the audit log names a subject.
	Key string
	// Region is the country of numbers without a country code.
	Region string
}

const (
	// copyTime bounds a copy: every body of the archive may have to be read.
	copyTime = 15 * time.Minute
	// maxSubjectBody bounds a request that names a subject, in bytes.
	maxSubjectBody = 4 << 10
)

func (a *API) registerPrivacy(g *echo.Group) {
	g.POST("/erase", a.erase, a.require(access.Admin))
	g.GET("/erasures/:id", a.erasure, a.require(access.Admin))
	g.GET("/subject-export", a.subjectExport, a.require(access.Admin))
}

// erase orders an erasure, which the worker does, and answers 202 with where to
// see what came of it. Unless dry_run is false, what would be erased is counted.
func (a *API) erase(c echo.Context) error {
	var body struct {
		Phone        string `json:"phone"`
		Conversation string `json:"conversation_id"`
		DryRun       *bool  `json:"dry_run"`
	}
	c.Request().Body = http.MaxBytesReader(c.Response(), c.Request().Body, maxSubjectBody)
	if err := (&echo.DefaultBinder{}).BindBody(c, &body); err != nil {
		return call.Errorf(call.Invalid, `Send JSON: {"phone": "+7…"} or {"conversation_id": "conv_…"}, and "dry_run": false to erase.`)
	}
	s, err := privacy.NewSubject(body.Phone, body.Conversation, a.Privacy.Region)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Request().Context(), answerTime)
	defer cancel()
	var id int64
	err = pgx.BeginFunc(ctx, a.Pool, func(tx pgx.Tx) (err error) {
		dryRun := body.DryRun == nil || *body.DryRun
		id, err = privacy.Order(ctx, tx, s, privacy.Fingerprint(a.Privacy.Key, s), actor(c), dryRun)
		if err != nil {
			return err
		}
		return queue.OrderErasure(ctx, tx, a.Privacy.Jobs, id)
	})
	if err != nil {
		return fmt.Errorf("ordering an erasure: %w", err)
	}
	status, err := privacy.StatusOf(ctx, a.Pool, id)
	if err != nil {
		return err
	}
	c.Response().Header().Set(echo.HeaderLocation, fmt.Sprintf("/api/erasures/%d", id))
	return c.JSON(http.StatusAccepted, status)
}

func (a *API) erasure(c echo.Context) error {
	id, err := strconv.ParseInt(c.Param("id"), 10, 64)
	if err != nil {
		return call.Errorf(call.Invalid, "The id of an erasure is a number.")
	}
	ctx, cancel := context.WithTimeout(c.Request().Context(), answerTime)
	defer cancel()
	status, err := privacy.StatusOf(ctx, a.Pool, id)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, status)
}

// subjectExport sends a person's copy as a ZIP. The subject is in the headers
// X-Subject-Phone or X-Subject-Conversation: addresses get into logs, of proxies
// above all.
func (a *API) subjectExport(c echo.Context) error {
	header := c.Request().Header
	s, err := privacy.NewSubject(header.Get("X-Subject-Phone"), header.Get("X-Subject-Conversation"), a.Privacy.Region)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Request().Context(), copyTime)
	defer cancel()
	if err := http.NewResponseController(c.Response()).SetWriteDeadline(time.Now().Add(copyTime)); err != nil {
		return fmt.Errorf("giving a copy time: %w", err)
	}
	fingerprint := privacy.Fingerprint(a.Privacy.Key, s)
	// Whoever is given a copy is written down before the first byte leaves.
	if err := privacy.Audit(ctx, a.Pool, actor(c), "privacy.copy", fingerprint, "done", nil); err != nil {
		return err
	}
	answer := c.Response()
	answer.Before(func() {
		answer.Header().Set(echo.HeaderContentType, "application/zip")
		answer.Header().Set(echo.HeaderContentDisposition, `attachment; filename="subject.zip"`)
	})
	_, err = privacy.Copy(ctx, a.Pool, a.Privacy.Store, s, a.Privacy.Region, answer, nil)
	if err != nil && answer.Committed {
		// The ZIP has no end, which every program that opens it tells.
		c.Logger().Error(err)
		panic(http.ErrAbortHandler)
	}
	return err
}

func actor(c echo.Context) privacy.Actor {
	who := identity(c)
	return privacy.Actor{Name: who.Name, Role: string(who.Role), Address: c.RealIP(),
		RequestID: c.Response().Header().Get(echo.HeaderXRequestID)}
}
