// Package problem answers HTTP requests that failed: RFC 9457 problem JSON
// with the request's id. It is the one place where an error's code becomes a
// status.
package problem

import (
	"errors"
	"math"
	"net/http"
	"strconv"

	"github.com/labstack/echo/v4"
	"go.uber.org/zap"

	"postcall/pkg/call"
)

// Problem is the body of every failed answer.
type Problem struct {
	Type      string `json:"type"`
	Title     string `json:"title"`
	Status    int    `json:"status"`
	Detail    string `json:"detail,omitempty"`
	RequestID string `json:"request_id,omitempty"`
}

// Status is the HTTP status of an error. An error that nobody classified is a
// fault of ours, never the sender's: a refused delivery is not sent again.
func Status(err error) int {
	if he, ok := errors.AsType[*echo.HTTPError](err); ok {
		return he.Code
	}
	switch call.CodeOf(err) {
	case call.Invalid:
		return http.StatusBadRequest
	case call.Unauthorized:
		return http.StatusUnauthorized
	case call.Forbidden:
		return http.StatusForbidden
	case call.NotFound:
		return http.StatusNotFound
	case call.Conflict:
		return http.StatusConflict
	case call.TooLarge:
		return http.StatusRequestEntityTooLarge
	case call.RateLimited:
		return http.StatusTooManyRequests
	case call.Unavailable, call.Credentials:
		return http.StatusServiceUnavailable
	case call.Refused:
		return http.StatusUnprocessableEntity
	default:
		return http.StatusInternalServerError
	}
}

// Handler is echo's error handler. What went wrong inside is logged, never
// sent; the request id joins the two.
func Handler(log *zap.Logger) echo.HTTPErrorHandler {
	return func(err error, c echo.Context) {
		if c.Response().Committed {
			return
		}
		status := Status(err)
		p := Problem{
			Type:      "about:blank",
			Title:     http.StatusText(status),
			Status:    status,
			Detail:    detail(err, status),
			RequestID: c.Response().Header().Get(echo.HeaderXRequestID),
		}
		if status >= http.StatusInternalServerError {
			log.Error("request failed",
				zap.String("request_id", p.RequestID), zap.String("method", c.Request().Method),
				zap.String("route", c.Path()), zap.Int("status", status), zap.Error(err))
		}
		if e, ok := errors.AsType[*call.Error](err); ok && e.RetryAfter > 0 {
			c.Response().Header().Set(echo.HeaderRetryAfter, strconv.Itoa(int(math.Ceil(e.RetryAfter.Seconds()))))
		}
		c.Response().Header().Set(echo.HeaderContentType, "application/problem+json")
		if c.Request().Method == http.MethodHead {
			err = c.NoContent(status)
		} else {
			err = c.JSON(status, p)
		}
		if err != nil {
			log.Debug("the client went before its answer", zap.String("request_id", p.RequestID), zap.Error(err))
		}
	}
}

// detail is what the sender may read.
func detail(err error, status int) string {
	if status >= http.StatusInternalServerError && status != http.StatusServiceUnavailable {
		return "Something failed on our side. The request id finds it in our log."
	}
	if e, ok := errors.AsType[*call.Error](err); ok {
		return e.Message
	}
	switch status {
	case http.StatusNotFound:
		return "There is nothing at this address."
	case http.StatusMethodNotAllowed:
		return "This address does not take this method; the Allow header lists those it takes."
	}
	return ""
}
