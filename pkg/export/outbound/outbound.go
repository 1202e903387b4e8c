// Package outbound sends one HTTP request to a target and says what is known
// of it: whether it can have arrived, what was answered, and what a job can do
// about it.
//
// No redirect is followed: it would carry a customer's data, and perhaps a
// password, to an address that nobody configured. A reply is read up to
// MaxReply and is hostile text.
package outbound

import (
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"postcall/pkg/call"
	"postcall/pkg/export"
)

// MaxReply is how much of a reply is read, in bytes.
const MaxReply = 64 << 10

// MaxRetryAfter bounds how long a target can make a job wait.
const MaxRetryAfter = 15 * time.Minute

// URL reads the address of a target. It must be https, or http where plain
// allows that, and hold no password: addresses are shown, passwords are not.
// The error never holds the address. Its code is Invalid.
func URL(s string, plain bool) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return nil, call.Errorf(call.Invalid, "the target's address is not an http:// or https:// one")
	case u.User != nil:
		return nil, call.Errorf(call.Invalid, "the target's address holds a user name: user and password have settings of their own")
	case u.Scheme == "http" && !plain:
		return nil, call.Errorf(call.Invalid, "the target's address is http://, where anybody on the way can read what is sent: use https://")
	}
	return u, nil
}

// Client is an HTTP client for one target. Its Timeout bounds one request with
// its reply. Safe for concurrent use.
type Client struct {
	http    *http.Client
	timeout time.Duration
}

// New makes a client on a transport, or on one of its own where that is nil.
func New(transport http.RoundTripper, timeout time.Duration) *Client {
	if transport == nil {
		transport = http.DefaultTransport.(*http.Transport).Clone() //nolint:forcetypeassert // it is one
	}
	return &Client{timeout: timeout, http: &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Reply is a target's answer. The zero Status means that none came.
type Reply struct {
	Status int
	Header http.Header
	Body   []byte // the first MaxReply bytes
	// Sent reports whether the request may have reached the target. It is
	// false only where no connection came about.
	Sent bool
}

// Do sends a request. An error means that no whole reply came; it is
// Unavailable, finds the context's own error, and names neither the address
// nor anything that was sent.
func (c *Client) Do(ctx context.Context, r *http.Request) (Reply, error) {
	bounded, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	var connected atomic.Bool
	traced := httptrace.WithClientTrace(bounded, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { connected.Store(true) },
	})
	response, err := c.http.Do(r.WithContext(traced)) //nolint:gosec // the address is the operator's, see URL
	if err != nil {
		return Reply{Sent: connected.Load()}, c.failure(ctx, err)
	}
	defer func() { _ = response.Body.Close() }() // what matters has been read
	reply := Reply{Status: response.StatusCode, Header: response.Header, Sent: true}
	reply.Body, err = io.ReadAll(io.LimitReader(response.Body, MaxReply))
	if err != nil {
		return reply, c.failure(ctx, err)
	}
	return reply, nil
}

func (c *Client) failure(ctx context.Context, err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err // without the address, which can hold a token
	}
	switch {
	case ctx.Err() != nil:
		return call.Errorf(call.Unavailable, "the export was stopped: %w", context.Cause(ctx))
	case errors.Is(err, context.DeadlineExceeded):
		return call.Errorf(call.Unavailable, "the target did not answer within %s", c.timeout)
	}
	return call.Errorf(call.Unavailable, "the target cannot be reached: %w", err)
}

// OK reports whether the status is a 2xx.
func (r Reply) OK() bool { return r.Status >= 200 && r.Status < 300 }

// Redirects reports whether the target points elsewhere.
func (r Reply) Redirects() bool { return r.Status >= 300 && r.Status < 400 }

// HTML reports whether the reply is a page for people: a login form, or a
// proxy's error.
func (r Reply) HTML() bool {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	return err == nil && (kind == "text/html" || kind == "application/xhtml+xml") ||
		strings.HasPrefix(strings.TrimLeft(string(r.Body[:min(len(r.Body), 64)]), " \t\r\n\ufeff"), "<!")
}

// Text is the reply's body as it may be stored: valid UTF-8 of at most limit
// characters, without what jsonb and text columns cannot hold or a terminal obeys.
func (r Reply) Text(limit int) string { return Plain(string(r.Body), limit) }

// RetryAfter reads Retry-After (seconds or a date), 0 where it does not tell.
func (r Reply) RetryAfter() time.Duration {
	value := strings.TrimSpace(r.Header.Get("Retry-After"))
	if n, err := strconv.ParseInt(value, 10, 32); err == nil {
		return min(max(0, time.Duration(n)*time.Second), MaxRetryAfter)
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	now, err := http.ParseTime(r.Header.Get("Date")) // a date is read against the server's own clock
	if err != nil {
		now = time.Now()
	}
	return min(max(0, at.Sub(now)), MaxRetryAfter)
}

// Failure gives the error of a status that means the same with every target,
// and the attempt's outcome with it:
//
//	408, 425, 5xx  Unavailable
//	429            RateLimited, RetryAfter as told
//	3xx            Credentials: the address is wrong, a person must mend it
//	other          Invalid
//
// who names the target in the message.
func (r Reply) Failure(who string) (export.Outcome, *call.Error) {
	status := strconv.Itoa(r.Status)
	switch {
	case r.Status == http.StatusTooManyRequests:
		return export.Failed, &call.Error{Code: call.RateLimited, Message: who + " asks to wait (429)", RetryAfter: r.RetryAfter()}
	case r.Status == http.StatusRequestTimeout, r.Status == http.StatusTooEarly:
		return export.Failed, call.Errorf(call.Unavailable, "%s answered %s", who, status)
	case r.Status >= 500:
		// A gateway answers these too, while the server behind it works on.
		return export.Unknown, call.Errorf(call.Unavailable, "%s answered %s", who, status)
	case r.Redirects():
		return export.Failed, call.Errorf(call.Credentials, "%s answered %s, a redirect, which is not followed: the address must be the final one", who, status)
	}
	return export.Refused, call.Errorf(call.Invalid, "%s answered %s", who, status)
}

// Plain makes text from outside storable and inert: valid UTF-8 of at most
// limit characters (a cut is marked), line breaks as \n, without other control
// characters and without the invisible ones that turn or hide text. What is
// left may still be markup: whoever shows it escapes it.
func Plain(s string, limit int) string {
	var b strings.Builder
	n, end := 0, 0 // characters written, and where the last that fits with a mark behind it ends
	for i, r := range s {
		switch {
		case r == '\r' && strings.HasPrefix(s[i+1:], "\n"):
			continue
		case r == '\r' || r == '\u2028' || r == '\u2029' || r == '\u0085':
			r = '\n'
		case r == '\n' || r == '\t':
		case r == utf8.RuneError, unicode.In(r, unicode.Cc, unicode.Cf, unicode.Co, unicode.Cs, unicode.Noncharacter_Code_Point):
			continue
		}
		if n == limit {
			return b.String()[:end] + "…"
		}
		b.WriteRune(r)
		if n++; n < limit {
			end = b.Len()
		}
	}
	return b.String()
}
