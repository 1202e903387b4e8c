// Package workspace asks ElevenLabs' API what a workspace holds: the
// conversations that took place, one of them whole, its recording, and how the
// post-call webhook is set up. It only reads.
//
// Shapes are those of the official OpenAPI description (the Python SDK 2.59.0),
// read leniently: ids have been seen with spaces and slashes, fields missing.
package workspace

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-cleanhttp"
	"github.com/hashicorp/go-retryablehttp"
	"golang.org/x/time/rate"

	"postcall/pkg/call"
)

// Bounds of what is asked.
const (
	// PageSize is how many conversations a page has at most; the API allows 100.
	PageSize = 100
	// maxList and maxConversation bound answers, in bytes: transcripts of hours
	// have been seen with some megabytes.
	maxList         = 8 << 20
	maxConversation = 64 << 20
	// attemptTime bounds one attempt up to the answer's head, and a small answer
	// whole; recordingTime a recording.
	attemptTime   = 30 * time.Second
	recordingTime = 10 * time.Minute
	// The waits between attempts: doubled, with jitter, and as the server says.
	shortestWait, longestWait = 500 * time.Millisecond, time.Minute
)

// Options are what a client is made with.
type Options struct {
	// BaseURL is where the workspace's region is: https://api.elevenlabs.io or
	// api.us, api.eu.residency, api.in.residency, api.sg.residency.
	BaseURL string
	Key     string
	// PerSecond is how many requests a second are made for long.
	PerSecond float64
	// Attempts is how often a request is tried that met a fault of the way or of
	// the server; 0 for 5.
	Attempts int
	// Transport is the way; nil for the default one.
	Transport http.RoundTripper
}

// Client asks the API. It is safe for concurrent use.
type Client struct {
	base *url.URL
	key  string
	pace *rate.Limiter
	http *retryablehttp.Client
}

// New makes a client. A base URL that is none is Invalid.
func New(o Options) (*Client, error) {
	base, err := url.Parse(strings.TrimSuffix(o.BaseURL, "/"))
	if err != nil || base.Host == "" {
		return nil, call.Errorf(call.Invalid, "%q is no address of an API", o.BaseURL)
	}
	if o.Transport == nil {
		t := cleanhttp.DefaultPooledTransport()
		t.ResponseHeaderTimeout = attemptTime
		o.Transport = t
	}
	attempts := o.Attempts
	if attempts == 0 {
		attempts = 5
	}
	c := &Client{base: base, key: o.Key, pace: rate.NewLimiter(rate.Limit(o.PerSecond), max(1, int(o.PerSecond)))}
	c.http = &retryablehttp.Client{
		HTTPClient: &http.Client{
			Transport: o.Transport,
			// The key goes to nobody else.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		RetryMax: attempts - 1, RetryWaitMin: shortestWait, RetryWaitMax: longestWait,
		CheckRetry: retryablehttp.ErrorPropagatedRetryPolicy, Backoff: wait,
		// What came of the last attempt is told as an answer, not as a number of attempts.
		ErrorHandler: retryablehttp.PassthroughErrorHandler,
		PrepareRetry: func(r *http.Request) error { return c.pace.Wait(r.Context()) },
	}
	return c, nil
}

// wait is the library's, which goes by Retry-After, bounded and with jitter.
func wait(least, most time.Duration, attempt int, answer *http.Response) time.Duration {
	d := min(retryablehttp.DefaultBackoff(least, most, attempt, answer), most)
	return d + rand.N(d/4+1) //nolint:gosec // chance spreads the load, it keeps no secret
}

// Conversation is one as lists have it.
type Conversation struct {
	AgentID   string  `json:"agent_id"`
	ID        string  `json:"conversation_id"`
	StartUnix float64 `json:"start_time_unix_secs"`
	Duration  float64 `json:"call_duration_secs"`
	Messages  int     `json:"message_count"`
	Status    string  `json:"status"` // initiated, in-progress, processing, done, failed
}

// The bounds of times and durations that are believed: a call of this century,
// of a week at most.
const (
	latest  = 4102444800 // 2100-01-01
	longest = 7 * 24 * 3600
)

// Started is when the call began.
func (c Conversation) Started() time.Time {
	return time.Unix(int64(min(max(c.StartUnix, 0), latest)), 0).UTC()
}

// Ended is when it was over.
func (c Conversation) Ended() time.Time {
	return c.Started().Add(time.Duration(min(max(c.Duration, 0), longest) * float64(time.Second)))
}

// Over reports whether nothing is added to it any more.
func (c Conversation) Over() bool { return c.Status == "done" || c.Status == "failed" }

// Query chooses conversations by when they began.
type Query struct {
	Since, Until time.Time
	AgentID      string // empty for all
	Cursor       string // empty for the first page
}

// Page is a part of a list.
type Page struct {
	Conversations []Conversation `json:"conversations"`
	Next          string         `json:"next_cursor"`
	More          bool           `json:"has_more"`
}

// Conversations lists a page, the oldest first.
func (c *Client) Conversations(ctx context.Context, q Query) (Page, error) {
	values := url.Values{
		"page_size":             {strconv.Itoa(PageSize)},
		"call_start_after_unix": {strconv.FormatInt(q.Since.Unix(), 10)}, "call_start_before_unix": {strconv.FormatInt(q.Until.Unix(), 10)},
		"sort_direction": {"asc"},
	}
	if q.AgentID != "" {
		values.Set("agent_id", q.AgentID)
	}
	if q.Cursor != "" {
		values.Set("cursor", q.Cursor)
	}
	var p Page
	if err := c.get(ctx, &p, values, "v1", "convai", "conversations"); err != nil {
		return p, fmt.Errorf("listing conversations: %w", err)
	}
	return p, nil
}

// Conversation gives one whole: the `data` of its webhook.
func (c *Client) Conversation(ctx context.Context, id string) (json.RawMessage, error) {
	body, err := c.body(ctx, maxConversation, nil, "v1", "convai", "conversations", id)
	if err == nil && !json.Valid(body) {
		err = call.Errorf(call.Invalid, "the answer is no JSON")
	}
	if err != nil {
		return nil, fmt.Errorf("fetching a conversation: %w", err)
	}
	return body, nil
}

// Recording is a call's audio, to be read and closed. NotFound if there is none.
func (c *Client) Recording(ctx context.Context, id string) (io.ReadCloser, error) {
	ctx, cancel := context.WithTimeout(ctx, recordingTime)
	answer, err := c.do(ctx, nil, "v1", "convai", "conversations", id, "audio") //nolint:bodyclose // by ended
	if err != nil {
		cancel()
		return nil, fmt.Errorf("fetching a recording: %w", err)
	}
	return &ended{answer.Body, cancel}, nil
}

// ended ends a request's context with its body.
type ended struct {
	io.ReadCloser
	end context.CancelFunc
}

func (e *ended) Close() error {
	defer e.end()
	return e.ReadCloser.Close()
}

// Webhook is one of the workspace's.
type Webhook struct {
	ID           string `json:"webhook_id"`
	Name         string `json:"name"`
	URL          string `json:"webhook_url"`
	Auth         string `json:"auth_type"`
	Disabled     bool   `json:"is_disabled"`
	AutoDisabled bool   `json:"is_auto_disabled"` // for its failures
	// Retries is nil where the API does not tell.
	Retries     *bool  `json:"retry_enabled"`
	FailureCode *int   `json:"most_recent_failure_error_code"`
	FailureUnix *int64 `json:"most_recent_failure_timestamp"`
}

// Webhooks lists the workspace's.
func (c *Client) Webhooks(ctx context.Context) ([]Webhook, error) {
	var list struct {
		Webhooks []Webhook `json:"webhooks"`
	}
	if err := c.get(ctx, &list, url.Values{"include_usages": {"true"}}, "v1", "workspace", "webhooks"); err != nil {
		return nil, fmt.Errorf("listing webhooks: %w", err)
	}
	return list.Webhooks, nil
}

// PostCall says which webhook is told of calls by default; empty for none.
func (c *Client) PostCall(ctx context.Context) (webhookID string, err error) {
	var settings struct {
		Webhooks struct {
			PostCall *string `json:"post_call_webhook_id"`
		} `json:"webhooks"`
	}
	if err := c.get(ctx, &settings, nil, "v1", "convai", "settings"); err != nil {
		return "", fmt.Errorf("reading the agents' settings: %w", err)
	}
	if settings.Webhooks.PostCall == nil {
		return "", nil
	}
	return *settings.Webhooks.PostCall, nil
}

// Clock is the server's time, to the second, and how long the question took.
func (c *Client) Clock(ctx context.Context) (at time.Time, took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	began := time.Now()
	answer, err := c.do(ctx, url.Values{"page_size": {"1"}}, "v1", "convai", "conversations")
	if err != nil {
		return at, 0, fmt.Errorf("asking for the time: %w", err)
	}
	took = time.Since(began)
	_ = answer.Body.Close() // the head is all that was wanted
	if at, err = http.ParseTime(answer.Header.Get("Date")); err != nil {
		return at, took, call.Errorf(call.Unavailable, "the answer names no time: %w", err)
	}
	return at, took, nil
}

func (c *Client) get(ctx context.Context, into any, values url.Values, path ...string) error {
	body, err := c.body(ctx, maxList, values, path...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, into); err != nil {
		return call.Errorf(call.Unavailable, "the answer is not what it should be: %w", err)
	}
	return nil
}

// body reads an answer of a bounded size.
func (c *Client) body(ctx context.Context, most int64, values url.Values, path ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(c.http.RetryMax+1)*(attemptTime+longestWait))
	defer cancel()
	answer, err := c.do(ctx, values, path...)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close() //nolint:errcheck // it was only read
	body, err := io.ReadAll(io.LimitReader(answer.Body, most+1))
	if err != nil {
		return nil, call.Errorf(call.Unavailable, "reading the answer: %w", err)
	}
	if int64(len(body)) > most {
		return nil, call.Errorf(call.TooLarge, "the answer is larger than %d bytes", most)
	}
	return body, nil
}

// do asks until there is an answer that is one. Errors say by their code what
// stood in the way; they hold nothing of the answer's body.
func (c *Client) do(ctx context.Context, values url.Values, path ...string) (*http.Response, error) {
	at := c.base.JoinPath()
	escaped := make([]string, len(path))
	for i, part := range path {
		escaped[i] = url.PathEscape(part)
	}
	at.RawPath = strings.TrimSuffix(at.EscapedPath(), "/") + "/" + strings.Join(escaped, "/")
	at.Path = strings.TrimSuffix(at.Path, "/") + "/" + strings.Join(path, "/")
	at.RawQuery = values.Encode()
	r, err := retryablehttp.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return nil, call.Errorf(call.Invalid, "making a request: %w", err)
	}
	r.Header.Set("xi-api-key", c.key)
	r.Header.Set("Accept", "*/*")
	if err := c.pace.Wait(ctx); err != nil {
		return nil, call.Errorf(call.Unavailable, "waiting for a turn: %w", err)
	}
	answer, err := c.http.Do(r)
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err // the address may hold an id
		}
		return nil, call.Errorf(call.Unavailable, "%s does not answer: %w", c.base.Host, err)
	}
	if answer.StatusCode == http.StatusOK {
		return answer, nil
	}
	_ = answer.Body.Close() // nothing in it is of use
	switch code := answer.StatusCode; {
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		return nil, call.Errorf(call.Credentials, "%s answered %d: ELEVENLABS_API_KEY is wrong, or lacks the right to read conversations", c.base.Host, code)
	case code == http.StatusNotFound:
		return nil, call.Errorf(call.NotFound, "%s answered 404", c.base.Host)
	case code == http.StatusTooManyRequests:
		return nil, call.Errorf(call.RateLimited, "%s answered 429, also after waiting", c.base.Host)
	case code >= http.StatusInternalServerError, code == http.StatusRequestTimeout:
		return nil, call.Errorf(call.Unavailable, "%s answered %d", c.base.Host, code)
	default:
		return nil, call.Errorf(call.Invalid, "%s answered %d", c.base.Host, code)
	}
}
