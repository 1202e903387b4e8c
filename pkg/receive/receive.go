// Package receive is a delivery's way: POST /webhook/elevenlabs from the
// socket to the commit.
//
//	Handler.Deliver   reads the body, checks the signature, parses it
//	Keeper.Keep       event and job in one transaction
//
// Any 4xx loses the event for ever, since ElevenLabs does not send it again:
// it is answered only for what no retry would mend, a forged or a too large
// delivery. Every fault of ours is a 503.
package receive

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"
	"go.uber.org/zap"

	"postcall/pkg/call"
	"postcall/pkg/elevenlabs"
)

// Path is where ElevenLabs posts to.
const Path = "/webhook/elevenlabs"

// Handler takes deliveries.
type Handler struct {
	Verifier *elevenlabs.Verifier
	Keeper   *Keeper
	MaxBody  int64 // bytes
	Log      *zap.Logger
}

// Answer is the body of a 200.
type Answer struct {
	Status    string `json:"status"`
	EventID   int64  `json:"event_id"`
	Duplicate bool   `json:"duplicate"`
}

// Deliver takes one delivery: 200 once it is committed, also for one that was
// there already; 401 when its signature does not verify; 413 when it is too
// large; 503 when it could not be kept.
func (h *Handler) Deliver(c echo.Context) error {
	began := time.Now()
	d := delivery{began: began, requestID: c.Response().Header().Get(echo.HeaderXRequestID), address: c.RealIP()}
	kept, err := h.deliver(c, &d)
	h.line(&d, kept, err)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, Answer{Status: "ok", EventID: kept.EventID, Duplicate: kept.Duplicate})
}

// delivery is what is known of a delivery so far, for its log line.
type delivery struct {
	began     time.Time
	requestID string
	address   string
	bytes     int
	reason    elevenlabs.Reason
	secret    int // which of the configured secrets matched, counted from 1
	event     call.Event
}

func (h *Handler) deliver(c echo.Context, d *delivery) (Kept, error) {
	check, err := h.Verifier.Open(c.Request().Header.Values(elevenlabs.SignatureHeader))
	if err != nil {
		return Kept{}, d.rejected(err)
	}
	body, err := h.read(c, check)
	d.bytes = len(body)
	if err != nil {
		return Kept{}, err
	}
	secret, err := check.Result()
	if err != nil {
		return Kept{}, d.rejected(err)
	}
	d.secret = secret + 1
	d.event = elevenlabs.Parse(body, d.began)
	d.event.Source = call.SourceWebhook
	d.event.RequestID = d.requestID
	return h.Keeper.Keep(c.Request().Context(), &d.event, body)
}

// read takes the whole body, up to the limit, and hashes it as it arrives.
func (h *Handler) read(c echo.Context, hash io.Writer) ([]byte, error) {
	limited := http.MaxBytesReader(c.Response(), c.Request().Body, h.MaxBody)
	body, err := io.ReadAll(io.TeeReader(limited, hash))
	if err == nil {
		return body, nil
	}
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return body, call.Errorf(call.TooLarge, "The delivery is larger than the %d bytes that this server takes.", tooLarge.Limit)
	}
	// The sender went away or stalled: nothing was acknowledged.
	return body, echo.NewHTTPError(http.StatusRequestTimeout).SetInternal(fmt.Errorf("reading the body: %w", err))
}

// rejected tells the sender what is wrong with the signature, and nothing of
// what would be right.
func (d *delivery) rejected(err error) error {
	rejection, ok := errors.AsType[*elevenlabs.Rejection](err)
	if !ok {
		return err
	}
	d.reason = rejection.Reason
	text := map[elevenlabs.Reason]string{
		elevenlabs.ReasonMissing:   "The ElevenLabs-Signature header is missing.",
		elevenlabs.ReasonMalformed: "The ElevenLabs-Signature header is malformed.",
		elevenlabs.ReasonExpired:   "The signature is too old.",
		elevenlabs.ReasonFuture:    "The signature is dated in the future.",
		elevenlabs.ReasonMismatch:  "The signature does not match the body.",
		elevenlabs.ReasonNoSecret:  "This server has no secret to check signatures with.",
	}[rejection.Reason]
	return call.Errorf(call.Unauthorized, "%s", text)
}

// line logs the one line of a delivery. It holds ids and sizes, nothing that
// was said and no phone number.
func (h *Handler) line(d *delivery, kept Kept, err error) {
	fields := []zap.Field{
		zap.String("request_id", d.requestID), zap.String("address", d.address),
		zap.Int("bytes", d.bytes), zap.Duration("duration_ms", time.Since(d.began)),
	}
	if d.event.DedupKey != "" {
		fields = append(fields, zap.String("type", string(d.event.Type)), zap.String("agent_id", d.event.AgentID),
			zap.String("conversation_id", d.event.ConversationID), zap.Int("secret", d.secret))
	}
	switch {
	case err == nil:
		verdict := "kept"
		if kept.Duplicate {
			verdict = "duplicate"
		}
		h.Log.Info("delivery", append(fields, zap.String("verdict", verdict), zap.Int64("event_id", kept.EventID))...)
	case d.reason != "":
		h.Log.Warn("delivery", append(fields, zap.String("verdict", "rejected"), zap.String("reason", string(d.reason)))...)
	case call.CodeOf(err) == call.TooLarge:
		h.Log.Warn("delivery", append(fields, zap.String("verdict", "too_large"))...)
	default:
		h.Log.Error("delivery", append(fields, zap.String("verdict", "failed"), zap.Error(err))...)
	}
}
