package admin

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/labstack/echo/v4"
	"go.uber.org/zap"

	"postcall/pkg/access"
	"postcall/pkg/call"
	"postcall/pkg/privacy"
	"postcall/pkg/queue"
)

// Privacy is what erasing and copying need.
type Privacy struct {
	// Store has the recordings.
	Store privacy.Reader
	// Key makes the digests by which the audit log names a subject.
	Key string
	// Region is the country of numbers without a country code.
	Region string
}

// copyTime bounds a copy: every body of the archive may have to be read.
const copyTime = 15 * time.Minute

func (a *API) registerPrivacy(g *echo.Group) {
	admin := a.require(access.Admin)
	g.POST("/erase", a.erase, action("erasure.order"), admin)
	g.GET("/erasures/:id", a.erasure, admin)
	g.GET("/subject-export", a.subjectExport, action("privacy.copy"), admin)
}

// erase orders an erasure, which the worker does, and answers 202 with where to
// see what came of it. Unless dry_run is false, what would be erased is counted.
// The worker records that it was done.
func (a *API) erase(c echo.Context) error {
	var body struct {
		Phone        string `json:"phone"`
		Conversation string `json:"conversation_id"`
		DryRun       *bool  `json:"dry_run"`
	}
	if err := decode(c, &body); err != nil {
		return err
	}
	s, err := privacy.NewSubject(body.Phone, body.Conversation, a.Privacy.Region)
	if err != nil {
		return err
	}
	dryRun, subject := body.DryRun == nil || *body.DryRun, privacy.Fingerprint(a.Privacy.Key, s)
	entry(c).detail["dry_run"] = dryRun
	status, err := act(a, c, subject, func(ctx context.Context, tx pgx.Tx) (privacy.Status, error) {
		id, err := privacy.Order(ctx, tx, s, subject, a.actor(c), dryRun)
		if err != nil {
			return privacy.Status{}, err
		}
		if err := queue.OrderErasure(ctx, tx, a.Jobs, id); err != nil {
			return privacy.Status{}, err
		}
		return privacy.StatusOf(ctx, tx, id)
	})
	if err != nil {
		return err
	}
	c.Response().Header().Set(echo.HeaderLocation, fmt.Sprintf("/api/erasures/%d", status.ID))
	return c.JSON(http.StatusAccepted, status)
}

func (a *API) erasure(c echo.Context) error {
	id, err := strconv.ParseInt(c.Param("id"), 10, 64)
	if err != nil || id <= 0 {
		return call.Errorf(call.Invalid, "The id of an erasure is a number above 0.")
	}
	ctx, cancel := context.WithTimeout(c.Request().Context(), answerTime)
	defer cancel()
	status, err := privacy.StatusOf(ctx, a.Pool, id)
	if err != nil {
		return unavailable(err)
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
	answer := c.Response()
	// Whoever is given a copy is written down before the first byte leaves.
	handing := &onFirst{to: answer, do: func() error {
		if err := privacy.Audit(ctx, a.Pool, a.actor(c), "privacy.copy", privacy.Fingerprint(a.Privacy.Key, s), "done", nil); err != nil {
			return err
		}
		entry(c).written = true
		answer.Header().Set(echo.HeaderContentType, "application/zip")
		answer.Header().Set(echo.HeaderContentDisposition, `attachment; filename="subject.zip"`)
		return nil
	}}
	_, err = privacy.Copy(ctx, a.Pool, a.Privacy.Store, s, a.Privacy.Region, handing, nil)
	if err != nil && answer.Committed {
		// The ZIP has no end, which every program that opens it tells.
		a.Log.Error("a copy of a person's data broke off", zap.String("request_id", requestID(c)), zap.Error(err))
		panic(http.ErrAbortHandler)
	}
	return unavailable(err)
}

func (a *API) actor(c echo.Context) privacy.Actor {
	who := identity(c)
	return privacy.Actor{Name: who.Name, Role: string(who.Role), Address: a.Address(c.Request()).String(), RequestID: requestID(c)}
}

// onFirst does something before the first byte is written, which its error
// prevents.
type onFirst struct {
	to   io.Writer
	do   func() error
	done bool
}

func (w *onFirst) Write(b []byte) (int, error) {
	if !w.done {
		if err := w.do(); err != nil {
			return 0, err
		}
		w.done = true
	}
	return w.to.Write(b)
}
