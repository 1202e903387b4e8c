// Package webhook posts each result to one HTTPS address, signed by the
// Standard Webhooks scheme (standardwebhooks.com), so that any of its
// libraries can verify it.
//
// # What arrives
//
// A POST with Content-Type application/json and three headers: webhook-id,
// the same at each attempt for one analysis, by which a receiver tells a
// repetition; webhook-timestamp, unix seconds of the attempt; and
// webhook-signature, one "v1,…" for each configured secret, separated by
// spaces, so that secrets can be rotated. The body is the same at each attempt:
//
//	{
//	  "type": "call.analyzed",
//	  "timestamp": "2026-11-23T12:04:05Z",       when the analysis was made
//	  "data": {
//	    "event_id": 45,                          of this installation
//	    "event_type": "post_call_transcription",
//	    "conversation_id": "conv_…",             of ElevenLabs
//	    "agent_id": "agent_…",
//	    "agent_name": "…",
//	    "call": {"started_at": "…"|null, "duration_s": 94, "direction": "inbound",
//	             "language": "ru", "customer_number": "+375…"},
//	    "analysis_id": 123, "analyzer": "openai", "model": "…", "prompt_version": "…", "trigger": "auto",
//	    "result": {…},                           call.Result, without quotes that nobody said
//	    "metrics": {…}|null                      call.Metrics
//	  }
//	}
//
// Every text is bounded and free of control characters; it may be markup.
//
// # What an answer means
//
//	2xx                          delivered
//	410                          Invalid: the receiver wants nothing more
//	401, 403, 3xx                Credentials: the secret or the address is wrong, a person must act
//	429                          RateLimited, Retry-After as told
//	other 4xx                    Invalid
//	408, 425, 5xx, no answer     Unavailable: the same message is repeated
package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"postcall/pkg/call"
	"postcall/pkg/export"
	"postcall/pkg/export/outbound"
)

// Type is the type of every message.
const Type = "call.analyzed"

// maxResponse is how much of an answer is kept, in characters.
const maxResponse = 4 << 10

// Bounds of a signing key, in bytes, as the scheme recommends at least.
const (
	minKey = 16
	maxKey = 128
)

// Options set up an Exporter.
type Options struct {
	URL string
	// Secrets sign each message, as whsec_… with the key in base64. The first is
	// the newest.
	Secrets []string
	// Timeout bounds one attempt; 0 means 15 seconds, as the scheme recommends.
	Timeout time.Duration
	// Plain allows an http:// address.
	Plain bool
	// Transport carries the requests; nil means one of the Exporter's own.
	Transport http.RoundTripper
}

// Exporter posts results to a webhook. It is safe for concurrent use.
type Exporter struct {
	url    *url.URL
	client *outbound.Client
	keys   []*standardwebhooks.Webhook
	hidden []string
	now    func() time.Time
}

var _ export.Exporter = (*Exporter)(nil)

// New checks the options and makes the exporter; it connects to nothing. Its
// errors are Invalid and hold neither address nor secret.
func New(o Options) (*Exporter, error) {
	u, err := outbound.URL(o.URL, o.Plain)
	if err != nil {
		return nil, err
	}
	if len(o.Secrets) == 0 {
		return nil, call.Errorf(call.Invalid, "the webhook has no secret: without a signature its receiver cannot tell us from a stranger")
	}
	if o.Timeout == 0 {
		o.Timeout = 15 * time.Second
	}
	e := &Exporter{url: u, client: outbound.New(o.Transport, o.Timeout), hidden: o.Secrets, now: time.Now}
	for i, s := range o.Secrets {
		key, err := Key(s)
		if err != nil {
			return nil, call.Errorf(call.Invalid, "the webhook's secret number %d %s", i+1, err.Error())
		}
		signer, err := standardwebhooks.NewWebhookRaw(key)
		if err != nil {
			return nil, call.Errorf(call.Invalid, "the webhook's secret number %d cannot sign", i+1)
		}
		e.keys = append(e.keys, signer)
	}
	return e, nil
}

// Target is call.TargetWebhook.
func (e *Exporter) Target() call.Target { return call.TargetWebhook }

// ID is the message's id: the same at each attempt for one analysis, and never
// that of another analysis, of another database either.
func ID(d export.Delivery) string {
	return outbound.ID(append(outbound.CallKey(d), string(call.TargetWebhook), strconv.FormatInt(d.Analysis.ID, 10),
		strconv.FormatInt(d.Analysis.CreatedAt.UnixMicro(), 10))...)
}

// Export posts one message. A receiver tells a repetition by its id, so that
// nothing is different with d.Again.
func (e *Exporter) Export(ctx context.Context, d export.Delivery) (export.Receipt, error) {
	body, err := Body(d)
	if err != nil {
		return export.Receipt{Outcome: export.Failed}, err
	}
	receipt := export.Receipt{Outcome: export.Failed, Payload: body}
	request, err := e.request(ctx, ID(d), body)
	if err != nil {
		return receipt, err
	}
	reply, err := e.client.Do(ctx, request)
	receipt.HTTPStatus = reply.Status
	receipt.Response = e.withheld(reply.Text(maxResponse))
	switch {
	case err != nil && reply.Status != 0 && reply.OK():
		// The status is the answer; the rest of the body means nothing.
		receipt.Outcome = export.Delivered
		return receipt, nil
	case err != nil:
		if reply.Sent {
			receipt.Outcome = export.Unknown
		}
		return receipt, err
	case reply.OK():
		receipt.Outcome = export.Delivered
		return receipt, nil
	}
	outcome, failure := e.failure(reply)
	receipt.Outcome = outcome
	return receipt, failure
}

func (e *Exporter) failure(r outbound.Reply) (export.Outcome, *call.Error) {
	switch r.Status {
	case http.StatusGone:
		return export.Refused, call.Errorf(call.Invalid, "the webhook's receiver wants nothing more (410): remove the webhook, or ask its owner")
	case http.StatusUnauthorized, http.StatusForbidden:
		return export.Refused, call.Errorf(call.Credentials, "the webhook's receiver does not take our signature (%d): compare the secret on both sides", r.Status)
	}
	return r.Failure("the webhook's receiver")
}

func (e *Exporter) request(ctx context.Context, id string, body []byte) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, e.url.String(), bytes.NewReader(body))
	if err != nil {
		return nil, call.Errorf(call.Internal, "the webhook's request could not be made")
	}
	at := e.now()
	signatures := make([]string, len(e.keys))
	for i, key := range e.keys {
		if signatures[i], err = key.Sign(id, at, body); err != nil {
			return nil, call.Errorf(call.Internal, "the webhook's message could not be signed")
		}
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "Postcall")
	r.Header.Set(standardwebhooks.HeaderWebhookID, id)
	r.Header.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(at.Unix(), 10))
	r.Header.Set(standardwebhooks.HeaderWebhookSignature, strings.Join(signatures, " "))
	return r, nil
}

// withheld takes our secrets out of an answer that repeats them.
func (e *Exporter) withheld(s string) string {
	for _, secret := range e.hidden {
		s = strings.ReplaceAll(s, secret, "[secret]")
	}
	return s
}

// Body is the message of a delivery. It does not depend on when or how often
// it is sent.
func Body(d export.Delivery) (json.RawMessage, error) {
	b, err := json.Marshal(messageOf(d))
	if err != nil {
		return nil, call.Errorf(call.Invalid, "the result of analysis %d cannot be written as JSON", d.Analysis.ID)
	}
	return b, nil
}
