package openai

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	sdk "github.com/openai/openai-go/v3"

	"postcall/pkg/analyze"
	"postcall/pkg/call"
)

// maxRetryAfter bounds how long a server can make an analysis wait.
const maxRetryAfter = 15 * time.Minute

// failure maps what went wrong with a request to a *call.Error; the package
// documentation has the table. response is nil when none came.
func (a *Analyzer) failure(ctx context.Context, err error, response *http.Response, transcript string) error {
	if ctx.Err() != nil {
		return call.Errorf(call.Unavailable, "the analysis was stopped: %w", context.Cause(ctx))
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return call.Errorf(call.Unavailable, "the model server did not answer within %s", a.o.Timeout)
	}
	if response == nil || response.StatusCode < 400 {
		return brokenAnswer(err, response)
	}
	var kind, code, param, message string
	if e, ok := errors.AsType[*sdk.Error](err); ok {
		kind, code, param, message = e.Type, e.Code, e.Param, e.Message
	}
	text := "the model server answered " + strconv.Itoa(response.StatusCode)
	for _, part := range []struct{ name, value string }{
		{"code", code}, {"type", kind}, {"param", param},
	} {
		if v := a.withheld(part.value, transcript); v != "" {
			text = fmt.Sprintf("%s, %s %s", text, part.name, v)
		}
	}
	if id := requestID(response); id != "" {
		// As it stands: half a number is no use to the server's support.
		text += ", request " + strings.ReplaceAll(id, a.o.APIKey, "[key]")
	}
	if message = a.withheld(message, transcript); message != "" {
		text += ": " + message
	}
	e := &call.Error{Code: classify(response.StatusCode, kind, code, param, message), Message: text}
	if e.Code == call.RateLimited {
		e.RetryAfter = retryAfter(response.Header)
	}
	return e
}

// onlyThoughts reports whether a request failed since a reasoning model used up
// the cap on tokens before it had written anything. OpenAI's server says that in
// words alone; other servers answer with what there is and finish_reason length.
func onlyThoughts(err error) bool {
	e, ok := errors.AsType[*sdk.Error](err)
	return ok && e.StatusCode == http.StatusBadRequest && strings.Contains(e.Message, "model output limit was reached")
}

// forbiddenByPage reports whether a request was forbidden in another way than the
// API's: by a firewall that may have read it. What one caller says must not
// pause the analyses of all others, each time it is tried again.
func forbiddenByPage(err error) bool {
	e, ok := errors.AsType[*sdk.Error](err)
	return ok && e.StatusCode == http.StatusForbidden && e.Code == "" && e.Type == "" && e.Message == ""
}

func classify(status int, kind, code, param, message string) call.Code {
	quota := []string{"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"}
	switch {
	case slices.Contains(quota, code) || slices.Contains(quota, kind):
		return call.Credentials
	case code == "content_filter" || code == "invalid_prompt" || code == "content_policy_violation":
		return call.Refused
	case code == "invalid_api_key" || code == "model_not_found":
		return call.Credentials
	}
	switch status {
	case http.StatusUnauthorized, http.StatusPaymentRequired, http.StatusForbidden, http.StatusNotFound:
		return call.Credentials
	case http.StatusTooManyRequests:
		return call.RateLimited
	case http.StatusRequestTimeout, http.StatusConflict:
		return call.Unavailable
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
		// A setting that the server does not take breaks every call alike.
		// Cancelling them one by one would lose them; a person must act.
		for _, setting := range []string{"model", "response_format", "max_tokens", "max_completion_tokens", "store", "prompt_cache_key"} {
			if param == setting || strings.HasPrefix(param, setting+".") {
				return call.Credentials
			}
		}
		// Compatible servers name no parameter. Of the settings only the form of
		// the answer has a name that errors about one call's length do not mention.
		if strings.Contains(message, "response_format") || strings.Contains(message, "json_schema") {
			return call.Credentials
		}
	}
	if status >= 500 {
		return call.Unavailable
	}
	return call.Invalid
}

// brokenAnswer is a request that ended without an answer that can be read.
// The cause's own text is kept only where it is the network's: the others may
// repeat the body.
func brokenAnswer(err error, response *http.Response) error {
	if response != nil {
		if _, ok := errors.AsType[net.Error](err); ok || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
			return call.Errorf(call.Unavailable, "the model server's answer broke off%s", ofRequest(response))
		}
		return call.Errorf(call.Internal, "the model server's answer is not that of its API%s", ofRequest(response))
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		return call.Errorf(call.Unavailable, "the model server cannot be reached: %w", e.Err)
	}
	return call.Errorf(call.Unavailable, "the model server cannot be reached: %w", err)
}

var keyLike = regexp.MustCompile(`\b(?:sk|pk|sess|Bearer)[-_ ][\w*.…-]{6,}`)
var numberLike = regexp.MustCompile(`\d[\d\s().-]{5,}\d`)

// withheld gives a text of the server as it may be shown and logged: one
// bounded line without keys and long numbers, and not at all where it repeats
// a passage of the transcript.
func (a *Analyzer) withheld(s, transcript string) string {
	const passage = 16
	s = analyze.Shorten(analyze.Clean(s), 300)
	runes := []rune(s)
	for i := 0; i+passage <= len(runes); i++ {
		if strings.Contains(transcript, string(runes[i:i+passage])) {
			return "[withheld: it repeats the transcript]"
		}
	}
	s = strings.ReplaceAll(s, a.o.APIKey, "[key]")
	s = keyLike.ReplaceAllString(s, "[key]")
	return numberLike.ReplaceAllString(s, "[number]")
}

// ofRequest names the request behind an error's text, where the server has told.
func ofRequest(r *http.Response) string {
	if id := requestID(r); id != "" {
		return " (request " + id + ")"
	}
	return ""
}

func requestID(r *http.Response) string {
	if r == nil {
		return ""
	}
	return analyze.Shorten(analyze.Clean(r.Header.Get("X-Request-Id")), 128)
}

// retryAfter reads Retry-After-Ms or Retry-After (seconds or a date), 0 when
// neither tells. A date is read against the server's own clock.
func retryAfter(h http.Header) time.Duration {
	for _, form := range []struct {
		header string
		unit   time.Duration
	}{{"Retry-After-Ms", time.Millisecond}, {"Retry-After", time.Second}} {
		if f, err := strconv.ParseFloat(h.Get(form.header), 64); err == nil && !math.IsNaN(f) {
			wait := f * float64(form.unit)
			return time.Duration(max(0, min(wait, float64(maxRetryAfter))))
		}
	}
	at, err := http.ParseTime(h.Get("Retry-After"))
	if err != nil {
		return 0
	}
	now, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		now = time.Now()
	}
	return max(0, min(at.Sub(now), maxRetryAfter))
}
