// Package receive is a delivery's way: POST /webhook/elevenlabs from the
// socket to the commit.
//
//	Handler.Deliver     who is sending, the body, the signature
//	Keeper.Keep         parse, audio to its store, commit; else to the spool
//	Committer.Commit    event and job in one transaction, shared under load
//	Keeper.Redeliver    from the spool, once the database is back
//
// Any 4xx loses the event for ever, since ElevenLabs does not send it again:
// it is answered only for what no retry would mend, such as a forged or a too
// large delivery. Every fault of ours is a 503, and that only when neither the
// database nor the spool could take the delivery.
package receive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"time"

	"github.com/labstack/echo/v4"
	"go.uber.org/zap"

	"postcall/pkg/call"
	"postcall/pkg/elevenlabs"
	"postcall/pkg/gate"
	"postcall/pkg/telemetry"
)

// Path is where ElevenLabs posts to.
const Path = "/webhook/elevenlabs"

// notAllowed is the reason of a delivery from outside WEBHOOK_ALLOWED_CIDRS.
const notAllowed = "not_allowed"

// Recorder keeps what was refused, for people to look at. Record never waits.
type Recorder interface {
	Record(reason, address, requestID, userAgent string, bytes int64)
}

// Handler takes deliveries.
type Handler struct {
	Verifier *elevenlabs.Verifier
	Keeper   *Keeper

	Proxies    gate.Proxies
	Allowed    gate.AllowList
	Limits     *gate.Limits
	Bodies     *gate.Bodies
	Pace       gate.Pace
	Rejections Recorder

	MaxBody int64  // bytes
	TempDir string // for bodies that are too large for memory; on the spool's disk
	Metrics *Metrics
	Log     *zap.Logger
	// Sampled takes the lines of deliveries that were not kept, which anybody can
	// cause; nil for Log.
	Sampled *zap.Logger
}

// Answer is the body of a 200.
type Answer struct {
	Status string `json:"status"`
	// EventID is null for a delivery that waits in the spool.
	EventID   *int64 `json:"event_id"`
	Duplicate bool   `json:"duplicate"`
	Spooled   bool   `json:"spooled,omitempty"`
	// Erased: the call was erased, and nothing of the delivery is kept.
	Erased bool `json:"erased,omitempty"`
}

// Deliver takes one delivery: 200 once it is committed, also for one that was
// there already, or fsynced to the spool. Otherwise: 401 for a signature that
// does not hold, 403 for an address that is not allowed, 408 for a sender that
// is too slow, 413 for a body that is too large, 429 beyond a limit, 503 when
// the delivery could not be kept.
func (h *Handler) Deliver(c echo.Context) error {
	d := &delivery{
		began: time.Now(), requestID: c.Response().Header().Get(echo.HeaderXRequestID),
		address: h.Proxies.ClientAddress(c.Request()),
	}
	answer, err := h.deliver(c, d)
	h.line(c.Request().Context(), d, answer, err)
	if err != nil {
		if d.reason != "" && !d.flood {
			h.Rejections.Record(d.reason, d.from(), d.requestID, c.Request().UserAgent(), d.bytes)
		}
		return err
	}
	return c.JSON(http.StatusOK, answer)
}

// delivery is what is known of a delivery so far.
type delivery struct {
	began     time.Time
	requestID string
	address   netip.Addr // zero when it is not known, as on a Unix socket
	bytes     int64
	secret    int    // which of the configured secrets matched, counted from 1
	reason    string // why it was rejected
	flood     bool   // one of so many rejected ones that it is only counted
	event     call.Event
}

// from is the sender's address as text.
func (d *delivery) from() string {
	if !d.address.IsValid() {
		return "unknown"
	}
	return d.address.String()
}

func (h *Handler) deliver(c echo.Context, d *delivery) (_ *Answer, err error) {
	r := c.Request()
	if !h.Allowed.Allows(d.address) {
		d.reason = notAllowed
		_, few := h.Limits.Failed(d.address)
		d.flood = !few
		return nil, call.Errorf(call.Forbidden, "Deliveries are not taken from this address.")
	}
	// Several header lines are one value (RFC 9110, 5.2).
	check, err := h.Verifier.Open(r.Header.Values(elevenlabs.SignatureHeader))
	if err != nil {
		return nil, h.rejected(d, err)
	}
	need := int64(inMemory)
	if r.ContentLength >= 0 {
		need = min(r.ContentLength, inMemory)
	}
	release, err := h.Bodies.Acquire(r.Context(), need, h.Limits.Known(d.address))
	if err != nil {
		return nil, err
	}
	defer release()
	limited := http.MaxBytesReader(c.Response(), r.Body, h.MaxBody)
	paced := h.Pace.Reader(http.NewResponseController(c.Response()), limited)
	b, err := readBody(io.TeeReader(paced, check), r.ContentLength, h.TempDir)
	reusable := true
	defer func() {
		if rerr := b.release(reusable); rerr != nil {
			h.Log.Warn("a large body's file stays", zap.Error(rerr))
		}
	}()
	d.bytes = b.size
	if err != nil {
		return nil, unread(err)
	}
	secret, err := check.Result()
	if err != nil {
		return nil, h.rejected(d, err)
	}
	d.secret = secret + 1
	if wait, ok := h.Limits.Verified(d.address); !ok {
		return nil, &call.Error{Code: call.RateLimited, Message: "More deliveries than this server takes from one address.", RetryAfter: wait}
	}
	answer, err := h.Keeper.Keep(r.Context(), d, b)
	// After a commit that was given up on, somebody may still be reading it.
	reusable = err == nil && !answer.Spooled
	return answer, err
}

// unread says why a body could not be read. Nothing was acknowledged.
func unread(err error) error {
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return call.Errorf(call.TooLarge, "The delivery is larger than the %d bytes that this server takes.", tooLarge.Limit)
	}
	if _, ours := errors.AsType[*fileError](err); ours {
		return &call.Error{Code: call.Unavailable, Message: "There is no room for this delivery just now; please send it again.", RetryAfter: 5 * time.Second, Err: err}
	}
	// The sender went away, or is too slow: ElevenLabs sends again after 408.
	return echo.NewHTTPError(http.StatusRequestTimeout, "The body did not arrive in time.").SetInternal(fmt.Errorf("reading the body: %w", err))
}

// rejected charges the address and tells the sender what is wrong with the
// signature, and nothing of what would be right.
func (h *Handler) rejected(d *delivery, err error) error {
	rejection, ok := errors.AsType[*elevenlabs.Rejection](err)
	if !ok {
		return err
	}
	d.reason = string(rejection.Reason)
	if wait, ok := h.Limits.Failed(d.address); !ok {
		d.flood = true
		return &call.Error{Code: call.RateLimited, Message: "Too many deliveries from this address failed verification.", RetryAfter: wait}
	}
	return call.Errorf(call.Unauthorized, "%s", map[elevenlabs.Reason]string{
		elevenlabs.ReasonMissing:   "The ElevenLabs-Signature header is missing.",
		elevenlabs.ReasonMalformed: "The ElevenLabs-Signature header is malformed.",
		elevenlabs.ReasonExpired:   "The signature is too old.",
		elevenlabs.ReasonFuture:    "The signature is dated in the future.",
		elevenlabs.ReasonMismatch:  "The signature does not match the body.",
		elevenlabs.ReasonNoSecret:  "This server has no secret to check signatures with.",
	}[rejection.Reason])
}

// line logs the one line of a delivery and counts it. It holds ids and sizes,
// nothing that was said and no phone number.
func (h *Handler) line(ctx context.Context, d *delivery, a *Answer, err error) {
	took := time.Since(d.began)
	fields := []zap.Field{
		zap.String("request_id", d.requestID), telemetry.TraceID(ctx), zap.String("address", d.from()),
		zap.Int64("bytes", d.bytes), zap.Duration("duration_ms", took),
	}
	if d.event.DedupKey != "" {
		fields = append(fields, zap.String("type", string(d.event.Type)), zap.String("agent_id", d.event.AgentID),
			zap.String("call", call.Digest(d.event.ConversationID)), zap.Int("secret", d.secret))
	}
	verdict, level := "failed", zap.ErrorLevel
	switch {
	case err == nil && a.Spooled:
		verdict, level = "spooled", zap.WarnLevel
	case err == nil && a.Erased:
		verdict, level = "erased", zap.InfoLevel
	case err == nil && a.Duplicate:
		verdict, level = "duplicate", zap.InfoLevel
	case err == nil:
		verdict, level = "kept", zap.InfoLevel
	case d.reason != "":
		verdict, level = "rejected", zap.WarnLevel
		fields = append(fields, zap.String("reason", d.reason))
		h.Metrics.failures.WithLabelValues(d.reason).Inc()
		if d.flood {
			level = zap.DebugLevel
		}
	case call.CodeOf(err) == call.TooLarge:
		verdict, level = "too_large", zap.WarnLevel
	case call.CodeOf(err) == call.RateLimited:
		verdict, level = "refused", zap.WarnLevel
	case aborted(err):
		verdict, level = "aborted", zap.WarnLevel
	}
	if err == nil && a.EventID != nil {
		fields = append(fields, zap.Int64("event_id", *a.EventID))
	}
	if err != nil && d.reason == "" {
		fields = append(fields, zap.Error(err))
	}
	h.Metrics.delivered(verdict, d.event.Type, took)
	log := h.Log
	if err != nil && h.Sampled != nil {
		log = h.Sampled
	}
	if entry := log.Check(level, "delivery"); entry != nil {
		entry.Write(append(fields, zap.String("verdict", verdict))...)
	}
}

func aborted(err error) bool {
	e, ok := errors.AsType[*echo.HTTPError](err)
	return ok && e.Code == http.StatusRequestTimeout || errors.Is(err, context.Canceled)
}
