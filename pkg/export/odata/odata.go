// Package odata hands results to BPMSoft through its OData service, version 4:
// each call becomes an Activity, linked to the contact that has the number.
//
// # Once
//
// The Activity's Id is ours, a UUIDv5 of the call, so that the same call never
// becomes two. After any failure the Activity is looked for by its Id before
// anything is said about it. One that is there is done if its notes name the
// analysis; otherwise it is of an earlier analysis of the same call and is
// brought up to date. What people changed in a delivered one is not touched by
// a repetition.
//
// # The session
//
// One login serves all jobs. An answer of 401, 403 or a redirect means that the
// session is over: one login, one repetition, never a loop. A refused login is
// remembered for a while, since BPMSoft locks an account after a few of them.
//
// # What an answer means
//
//	2xx                              delivered
//	login refused, 401 and 403 after Credentials: a person must mend the account
//	  a fresh login, 404, 3xx, HTML    or the address
//	429                              RateLimited, Retry-After as told
//	other 4xx                        Invalid: a column is not as we think
//	408, 5xx, no answer              Unavailable: repeated with the same Id
//
// Neither errors nor receipts hold user name, password or a cookie.
package odata

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"postcall/pkg/call"
	"postcall/pkg/export"
	"postcall/pkg/export/outbound"
)

// maxResponse is how much of an answer is kept, in characters.
const maxResponse = 4 << 10

// who is how errors call the other side.
const who = "BPMSoft"

// Options set up an Exporter.
type Options struct {
	// URL is the service's whole address: https://crm.example.by/0/odata on .NET
	// Framework, https://crm.example.by/odata on .NET 8.
	URL            string
	User, Password string
	// Timeout bounds one request; 0 means 25 seconds. An export makes at most
	// MaxRequests of them.
	Timeout time.Duration
	// Region is the country (two letters) of numbers without a country code.
	Region string
	// Plain allows an http:// address.
	Plain bool
	// Transport carries the requests; nil means one of the Exporter's own.
	Transport http.RoundTripper
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// MaxRequests is the most that one export makes: look, search, create, look
// again and update, each with a login and a repetition.
const MaxRequests = 5 * 3

// Exporter makes Activities. It is safe for concurrent use.
type Exporter struct {
	o      Options
	odata  *url.URL // without a slash at its end
	login  *url.URL
	client *outbound.Client
	door   door
}

var _ export.Exporter = (*Exporter)(nil)

// New checks the options and makes the exporter; it connects to nothing. Its
// errors are Invalid and hold none of the options.
func New(o Options) (*Exporter, error) {
	u, err := outbound.URL(o.URL, o.Plain)
	if err != nil {
		return nil, err
	}
	u.Path = strings.TrimRight(u.Path, "/")
	base, ends := strings.CutSuffix(u.Path, "/odata")
	if !ends || u.RawQuery != "" || u.Fragment != "" {
		return nil, call.Errorf(call.Invalid, "the OData address does not end in /odata: it is https://…/0/odata on .NET Framework and https://…/odata on .NET 8")
	}
	if o.User == "" || o.Password == "" {
		return nil, call.Errorf(call.Invalid, "OData needs a user and a password")
	}
	if o.Timeout == 0 {
		o.Timeout = 25 * time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	login := *u
	login.Path = strings.TrimSuffix(base, "/0") + "/ServiceModel/AuthService.svc/Login"
	return &Exporter{o: o, odata: u, login: &login, client: outbound.New(o.Transport, o.Timeout), door: newDoor()}, nil
}

// Target is call.TargetBPMSoft.
func (e *Exporter) Target() call.Target { return call.TargetBPMSoft }

// Export makes or updates the call's Activity.
func (e *Exporter) Export(ctx context.Context, d export.Delivery) (export.Receipt, error) {
	a := e.activity(d)
	receipt := export.Receipt{Outcome: export.Failed, Payload: a.encode()}
	if d.Again {
		receipt.Outcome = export.Unknown // until somebody has looked
		switch there, reply, err := e.look(ctx, a); {
		case err != nil:
			return e.filled(receipt, reply), err
		case there == done:
			receipt.Outcome = export.Delivered
			return e.filled(receipt, reply), nil
		case there == older:
			return e.update(ctx, a, receipt, d)
		}
		receipt.Outcome = export.Failed
	}
	if reply, err := e.link(ctx, &a, d); err != nil {
		return e.filled(receipt, reply), err
	}
	receipt.Payload = a.encode()
	reply, err := e.do(ctx, http.MethodPost, "/Activity", nil, receipt.Payload)
	receipt = e.filled(receipt, reply)
	if err == nil && reply.OK() && !reply.HTML() {
		receipt.Outcome = export.Delivered
		return receipt, nil
	}
	return e.settle(ctx, a, receipt, d, reply, err)
}

// settle says what became of a creation that did not answer well.
func (e *Exporter) settle(ctx context.Context, a activity, receipt export.Receipt, d export.Delivery, reply outbound.Reply, err error) (export.Receipt, error) {
	if err != nil && !reply.Sent {
		return receipt, err // nothing has left
	}
	outcome := export.Unknown
	if err == nil {
		outcome, err = failure(reply)
	}
	receipt.Outcome = outcome
	if ctx.Err() != nil {
		return receipt, err
	}
	switch there, looked, lookErr := e.look(ctx, a); {
	case lookErr != nil:
		return receipt, err // what the creation itself said is all that is known
	case there == done:
		receipt.Outcome = export.Delivered
		return e.filled(receipt, looked), nil
	case there == older:
		return e.update(ctx, a, receipt, d)
	case reply.Status >= 500:
		receipt.Outcome = export.Failed // it answered, and nothing is there
	}
	return receipt, err
}

// update brings an Activity of an earlier analysis up to date. Repeating it
// does no harm.
func (e *Exporter) update(ctx context.Context, a activity, receipt export.Receipt, d export.Delivery) (export.Receipt, error) {
	receipt.Outcome = export.Failed
	if reply, err := e.link(ctx, &a, d); err != nil {
		return e.filled(receipt, reply), err
	}
	id := a.ID
	a.ID = ""
	receipt.Payload = a.encode()
	reply, err := e.do(ctx, http.MethodPatch, "/Activity("+id+")", nil, receipt.Payload)
	receipt = e.filled(receipt, reply)
	switch {
	case err != nil && reply.Sent:
		receipt.Outcome = export.Unknown
		return receipt, err
	case err != nil:
		return receipt, err
	case reply.OK() && !reply.HTML():
		receipt.Outcome = export.Delivered
		return receipt, nil
	case reply.Status == http.StatusNotFound:
		return receipt, call.Errorf(call.Unavailable, "the call's Activity was deleted while it was being updated")
	}
	receipt.Outcome, err = failure(reply)
	return receipt, err
}

// presence is what is known of a call's Activity in BPMSoft.
type presence int

const (
	absent presence = iota
	older           // there, of an earlier analysis
	done            // there, of this analysis
)

// look asks for the Activity by its Id.
func (e *Exporter) look(ctx context.Context, a activity) (presence, outbound.Reply, error) {
	reply, err := e.do(ctx, http.MethodGet, "/Activity("+a.ID+")", url.Values{"$select": {"Id,Notes"}}, nil)
	if err != nil {
		return absent, reply, err
	}
	var row struct {
		ID    string `json:"Id"`
		Notes string
	}
	switch {
	case reply.Status == http.StatusNotFound && !reply.HTML():
		return absent, reply, nil
	case !reply.OK() || reply.HTML():
		_, err := failure(reply)
		return absent, reply, err
	case json.Unmarshal(reply.Body, &row) != nil || !strings.EqualFold(row.ID, a.ID):
		return absent, reply, call.Errorf(call.Unavailable, "BPMSoft's answer about the call's Activity is not understood")
	case slices.Contains(strings.Split(strings.ReplaceAll(row.Notes, "\r\n", "\n"), "\n"), a.mark):
		return done, reply, nil
	}
	return older, reply, nil
}

// do sends a request under the shared session, logging in where it takes that.
func (e *Exporter) do(ctx context.Context, method, path string, query url.Values, body []byte) (outbound.Reply, error) {
	var (
		reply outbound.Reply
		stale int // the session that has turned out to be over
	)
	for range 2 {
		s, err := e.session(ctx, stale)
		if err != nil {
			return outbound.Reply{}, err
		}
		r, err := e.request(ctx, method, path, query, body)
		if err != nil {
			return outbound.Reply{}, err
		}
		s.dress(r)
		if reply, err = e.client.Do(ctx, r); err != nil {
			return reply, err
		}
		s.keep(reply.Header)
		if !over(reply) {
			return reply, nil
		}
		stale = s.number
	}
	reply.Sent = false // it was turned away at the door, twice
	if reply.Redirects() {
		_, err := reply.Failure(who)
		return reply, err
	}
	return reply, call.Errorf(call.Credentials, "BPMSoft takes the login and answers %d all the same: the user may not use OData, or may not use this object", reply.Status)
}

// over reports whether an answer means that the session has ended.
func over(r outbound.Reply) bool {
	return r.Status == http.StatusUnauthorized || r.Status == http.StatusForbidden || r.Redirects()
}

func (e *Exporter) request(ctx context.Context, method, path string, query url.Values, body []byte) (*http.Request, error) {
	u := *e.odata
	u.Path += path
	u.RawQuery = strings.ReplaceAll(query.Encode(), "+", "%20") // OData reads a plus as a plus
	r, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, call.Errorf(call.Internal, "a request to BPMSoft could not be made")
	}
	r.Header.Set("Accept", "application/json")
	r.Header.Set("ForceUseSession", "true")
	if body != nil {
		r.Header.Set("Content-Type", "application/json; charset=utf-8")
	}
	return r, nil
}

// failure is the error of an answer that is no 2xx in JSON.
func failure(r outbound.Reply) (export.Outcome, *call.Error) {
	switch {
	case r.Status == http.StatusNotFound:
		return export.Failed, call.Errorf(call.Credentials, "BPMSoft has no OData at this address (404): it is …/0/odata on .NET Framework and …/odata on .NET 8")
	case r.OK():
		return export.Failed, call.Errorf(call.Credentials, "BPMSoft answered with a page for people in place of OData: the address is wrong, or something stands before it")
	}
	return r.Failure(who)
}

// filled puts what was answered into a receipt.
func (e *Exporter) filled(receipt export.Receipt, r outbound.Reply) export.Receipt {
	if r.Status != 0 {
		receipt.HTTPStatus, receipt.Response = r.Status, e.withheld(r.Text(maxResponse))
	}
	return receipt
}

// withheld takes the password out of a text that repeats it.
func (e *Exporter) withheld(s string) string {
	return strings.ReplaceAll(s, e.o.Password, "[password]")
}
