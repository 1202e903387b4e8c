package odata

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"time"

	"postcall/pkg/call"
	"postcall/pkg/export/outbound"
)

// refusalHolds is how long a refused login answers for the next ones. BPMSoft
// locks an account after a few wrong passwords in a row; a hundred waiting jobs
// must not use them up while a person is still typing the new one.
const refusalHolds = 5 * time.Minute

// door lets all jobs in by one login.
type door struct {
	turn chan struct{} // held by who logs in; a channel, so that waiting ends with a context

	mu      sync.Mutex
	current *session // nil before the first login
	logins  int
	refusal error
	until   time.Time // of the refusal
}

func newDoor() door { return door{turn: make(chan struct{}, 1)} }

// session is what a login gave: every cookie, later ones included. They go to
// the one configured host only, so their domain and path are not looked at: a
// stand behind a proxy often has them wrong.
type session struct {
	number int // counted from 1

	mu      sync.Mutex
	cookies map[string]string
}

func (s *session) keep(h http.Header) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range (&http.Response{Header: h}).Cookies() {
		if c.MaxAge < 0 || c.Value == "" {
			delete(s.cookies, c.Name)
			continue
		}
		s.cookies[c.Name] = c.Value
	}
}

// dress puts the cookies on a request, and the header that proves that we can
// read them.
func (s *session) dress(r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, value := range s.cookies {
		r.AddCookie(&http.Cookie{Name: name, Value: value}) //nolint:gosec // sent, not set
	}
	if token := s.cookies["BPMCSRF"]; token != "" {
		r.Header.Set("BPMCSRF", token)
	}
}

// session gives a session newer than stale, logging in if there is none.
func (e *Exporter) session(ctx context.Context, stale int) (*session, error) {
	if s := e.door.newer(stale); s != nil {
		return s, nil
	}
	select {
	case e.door.turn <- struct{}{}:
		defer func() { <-e.door.turn }()
	case <-ctx.Done():
		return nil, call.Errorf(call.Unavailable, "the export was stopped: %w", context.Cause(ctx))
	}
	if s := e.door.newer(stale); s != nil { // somebody has logged in meanwhile
		return s, nil
	}
	if err := e.door.refused(e.o.Now()); err != nil {
		return nil, err
	}
	cookies, err := e.logIn(ctx)
	e.door.mu.Lock()
	defer e.door.mu.Unlock()
	if err != nil {
		if call.CodeOf(err) == call.Credentials {
			e.door.refusal, e.door.until = err, e.o.Now().Add(refusalHolds)
		}
		return nil, err
	}
	e.door.logins++
	e.door.refusal = nil
	e.door.current = &session{number: e.door.logins, cookies: map[string]string{}}
	e.door.current.keep(cookies)
	return e.door.current, nil
}

func (d *door) newer(stale int) *session {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.current == nil || d.current.number <= stale {
		return nil
	}
	return d.current
}

func (d *door) refused(now time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.refusal != nil && now.Before(d.until) {
		return d.refusal
	}
	return nil
}

// logIn makes one login and returns the header with its cookies.
func (e *Exporter) logIn(ctx context.Context) (http.Header, error) {
	body, err := json.Marshal(map[string]string{"UserName": e.o.User, "UserPassword": e.o.Password})
	if err != nil {
		return nil, call.Errorf(call.Invalid, "the user and password cannot be written as JSON")
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, e.login.String(), bytes.NewReader(body))
	if err != nil {
		return nil, call.Errorf(call.Internal, "the login's request could not be made")
	}
	r.Header.Set("Content-Type", "application/json; charset=utf-8")
	r.Header.Set("Accept", "application/json")
	r.Header.Set("ForceUseSession", "true")
	reply, err := e.client.Do(ctx, r)
	if err != nil {
		return nil, err
	}
	var answer struct {
		Code    *int
		Message string
	}
	switch {
	case reply.Status == http.StatusNotFound:
		return nil, call.Errorf(call.Credentials, "BPMSoft has no login at this address (404): the OData address is wrong before its /odata")
	case reply.Status == http.StatusUnauthorized, reply.Status == http.StatusForbidden:
		return nil, call.Errorf(call.Credentials, "the login itself is answered %d: something before BPMSoft asks for a password, or our address is not allowed", reply.Status)
	case !reply.OK():
		_, err := reply.Failure("BPMSoft's login")
		if err.Code == call.Invalid { // nothing about this one call
			err.Code = call.Credentials
		}
		return nil, err
	case json.Unmarshal(reply.Body, &answer) != nil || answer.Code == nil:
		return nil, call.Errorf(call.Credentials, "the login's answer is not BPMSoft's: the address is wrong, or something stands before it")
	case *answer.Code != 0:
		return nil, call.Errorf(call.Credentials, "BPMSoft refuses the login (code %d): %s", *answer.Code, e.said(answer.Message))
	case reply.Header.Get("Set-Cookie") == "":
		return nil, call.Errorf(call.Credentials, "BPMSoft took the login and gave no cookie: something on the way removes them")
	}
	return reply.Header, nil
}

// said is a message of the other side as one bounded line without our
// password or user.
func (e *Exporter) said(s string) string {
	s = e.withheld(strings.Join(strings.Fields(outbound.Plain(s, 200)), " "))
	return strings.ReplaceAll(s, e.o.User, "[user]")
}
