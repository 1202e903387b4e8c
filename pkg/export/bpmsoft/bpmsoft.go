// Package bpmsoft sends leads to BPMSoft through its landing service, the one
// that also takes the forms of a site.
//
// # What it is to get along with
//
// The service answers HTTP 200 whatever happens; what happened stands in a
// text within the answer, whose form depends on the version (see readCode). It
// skips unknown columns and empty values in silence. It takes what comes with
// the Referer of a domain that is registered on the landing, and knows no other
// authentication.
//
// # Each call once
//
// The field Id, a UUIDv5 of landing and call, becomes the record's key. Sent
// again, the same record is updated. That settles every doubt: whatever may
// have arrived is simply sent again.
package bpmsoft

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"postcall/pkg/call"
	"postcall/pkg/export"
)

// Options set an Exporter up.
type Options struct {
	// URL is the whole address of the service. https, unless AllowHTTP.
	URL       string
	AllowHTTP bool
	LandingID string // a GUID
	// Referer and Origin are sent as headers. Without a Referer, Origin stands
	// for it; without an Origin, the Referer's is sent.
	Referer, Origin string
	// User and Password are for HTTP's basic authentication, if a stand has it.
	User, Password string
	// Timeout bounds one request; 0 means DefaultTimeout.
	Timeout time.Duration
	// Async: what has contact fields is worked later, a yes means accepted.
	Async      bool
	LeadSource string
	// Region is the country of phone numbers without a country code.
	Region  string
	Mapping *Mapping // nil for the built-in one
	// Proxy says through which proxy a request goes; nil means as the
	// environment says (HTTPS_PROXY, NO_PROXY).
	Proxy func(*http.Request) (*url.URL, error)
	Log   *zap.Logger
}

// DefaultTimeout allows for the business processes that run inside a request.
const DefaultTimeout = 25 * time.Second

// maxReply bounds what is read of an answer, in bytes; a true one has a few
// hundred.
const maxReply = 64 << 10

// Exporter sends leads. It may be used by several goroutines.
type Exporter struct {
	o       Options
	url     string
	landing uuid.UUID
	client  *http.Client
}

// New checks the options, the mapping by sample data among them, and makes an
// exporter. Nothing is sent. The error's code is Invalid.
func New(o Options) (*Exporter, error) {
	u, err := url.Parse(o.URL)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return nil, call.Errorf(call.Invalid, "the address of BPMSoft's service is no https:// address")
	case u.Scheme == "http" && !o.AllowHTTP:
		return nil, call.Errorf(call.Invalid, "the address of BPMSoft's service is not encrypted (http://): use https://, or allow it with CRM_ALLOW_HTTP=true")
	case u.User != nil:
		return nil, call.Errorf(call.Invalid, "the address of BPMSoft's service has a user in it: set CRM_BASIC_AUTH_USER and CRM_BASIC_AUTH_PASS instead")
	}
	landing, err := uuid.Parse(o.LandingID)
	if err != nil {
		return nil, call.Errorf(call.Invalid, "the landing's id is no GUID")
	}
	if o.Referer == "" {
		o.Referer = o.Origin
	}
	referer, err := url.Parse(o.Referer)
	if err != nil || referer.Host == "" {
		return nil, call.Errorf(call.Invalid, "the Referer is no address: BPMSoft refuses what does not come from a domain of the landing")
	}
	if o.Origin == "" {
		o.Origin = referer.Scheme + "://" + referer.Host
	}
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	if o.Mapping == nil {
		if o.Mapping, err = Load(""); err != nil {
			return nil, err
		}
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.LeadSource == "" && o.Mapping.uses("LeadSource") {
		o.Log.Warn("CRM_LEAD_SOURCE is not set: leads are sent without their source")
	}
	if o.Proxy == nil {
		o.Proxy = http.ProxyFromEnvironment
	}
	return &Exporter{o: o, url: u.String(), landing: landing, client: client(u, o.Proxy)}, nil
}

// client makes the client for one address. It follows no redirect: a lead goes
// where the operator said and nowhere else.
func client(u *url.URL, proxy func(*http.Request) (*url.URL, error)) *http.Client {
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	// With a proxy the only connections are to it, wherever the operator has put
	// it, and the stand's name is the proxy's to resolve.
	if via, err := proxy(&http.Request{URL: u}); err != nil || via == nil {
		dialer.Control = guard(u.Hostname())
	}
	return &http.Client{
		Transport: &http.Transport{
			Proxy:                  proxy,
			DialContext:            dialer.DialContext,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:    10 * time.Second,
			IdleConnTimeout:        90 * time.Second,
			MaxIdleConnsPerHost:    4,
			MaxResponseHeaderBytes: 64 << 10,
			ForceAttemptHTTP2:      true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// guard lets connections go to private addresses, where most stands are, only
// because the configured address leads there: nothing in a lead or an answer
// chooses where to connect. What no name of a CRM may lead to (this machine,
// link-local addresses, where clouds keep their keys) must stand in the
// address itself.
func guard(host string) func(network, address string, _ syscall.RawConn) error {
	literal := host == "localhost"
	if _, err := netip.ParseAddr(host); err == nil {
		literal = true
	}
	return func(_, address string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(address)
		if err != nil {
			return fmt.Errorf("connecting to %q: %w", address, err)
		}
		ip := ap.Addr().Unmap()
		if !literal && (ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsUnspecified()) {
			return errors.New("the name of BPMSoft's stand leads to an address of this machine or its link, which must stand in CRM_SERVICE_URL itself")
		}
		return nil
	}
}

// Target is call.TargetBPMSoft.
func (e *Exporter) Target() call.Target { return call.TargetBPMSoft }

// ID is the key of the record that a call has: the same at each attempt, and
// for each analysis of the call.
func (e *Exporter) ID(d export.Delivery) uuid.UUID {
	return uuid.NewSHA1(e.landing, []byte(callID(d)))
}

// callID names the call; an event without a conversation is its own call.
func callID(d export.Delivery) string {
	switch {
	case d.Event.ConversationID != "":
		return d.Event.ConversationID
	case d.Conversation.ID != "":
		return d.Conversation.ID
	}
	return "event:" + strconv.FormatInt(d.Event.ID, 10)
}

type request struct {
	FormData formData `json:"formData"`
}

type formData struct {
	FormID        string  `json:"formId"`
	Fields        []field `json:"formFieldsData"`
	ContactFields []field `json:"contactFieldsData,omitempty"`
	Options       struct {
		Extend bool `json:"extendResponseWithExceptionType"`
	} `json:"options"`
}

type field struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Choose says why a result is not to be sent, by the rules of the mapping, and
// nothing if it is.
func (e *Exporter) Choose(d export.Delivery) string { return e.o.Mapping.choose(e.view(d)) }

// Preview gives what would be sent. The receipt's outcome says that nothing
// was.
func (e *Exporter) Preview(d export.Delivery) (export.Receipt, error) {
	body, _, err := e.body(d)
	return export.Receipt{Outcome: export.Failed, Payload: body}, err
}

func (e *Exporter) view(d export.Delivery) view { return newView(d, e.o.LeadSource, e.o.Region) }

// body renders the request and reports whether it has contact fields.
func (e *Exporter) body(d export.Delivery) (body json.RawMessage, contact bool, err error) {
	v := e.view(d)
	log := e.o.Log.With(zap.Int64("event_id", d.Event.ID), zap.Int64("analysis_id", d.Analysis.ID))
	r := request{formData{FormID: e.o.LandingID, Fields: []field{{"Id", e.ID(d).String()}}}}
	r.FormData.Options.Extend = true
	fields, err := e.o.Mapping.render(v, e.o.Mapping.fields, log)
	if err != nil {
		return nil, false, err
	}
	r.FormData.Fields = append(r.FormData.Fields, fields...)
	if r.FormData.ContactFields, err = e.o.Mapping.render(v, e.o.Mapping.contact, log); err != nil {
		return nil, false, err
	}
	body, err = json.Marshal(r)
	if err != nil {
		return nil, false, call.Errorf(call.Internal, "encoding a lead: %w", err)
	}
	return body, len(r.FormData.ContactFields) > 0, nil
}

// Export sends one lead and waits for the answer.
func (e *Exporter) Export(ctx context.Context, d export.Delivery) (export.Receipt, error) {
	body, contact, err := e.body(d)
	if err != nil {
		return export.Receipt{Outcome: export.Failed}, err
	}
	ctx, cancel := context.WithTimeout(ctx, e.o.Timeout)
	defer cancel()
	receipt := export.Receipt{Outcome: export.Failed, Payload: body}
	// Once the first byte has left, a lead may have arrived.
	var sent atomic.Bool
	trace := &httptrace.ClientTrace{WroteHeaders: func() { sent.Store(true) }}
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, trace), http.MethodPost, e.url, bytes.NewReader(body))
	if err != nil {
		return receipt, call.Errorf(call.Invalid, "making the request to BPMSoft: %w", err)
	}
	req.Header.Set("Content-Type", "application/json; charset=utf-8")
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Referer", e.o.Referer)
	req.Header.Set("Origin", e.o.Origin)
	req.Header.Set("User-Agent", "postcall")
	if e.o.User != "" || e.o.Password != "" {
		req.SetBasicAuth(e.o.User, e.o.Password)
	}
	resp, err := e.client.Do(req)
	if err != nil {
		if sent.Load() {
			receipt.Outcome = export.Unknown
		}
		return receipt, call.Errorf(call.Unavailable, "BPMSoft does not answer: %w", bare(err))
	}
	defer resp.Body.Close() //nolint:errcheck // it has been read
	receipt.HTTPStatus = resp.StatusCode
	reply, err := io.ReadAll(io.LimitReader(resp.Body, maxReply+1))
	receipt.Response = string(reply)
	if err != nil {
		receipt.Outcome = export.Unknown
		return receipt, call.Errorf(call.Unavailable, "BPMSoft's answer broke off: %w", bare(err))
	}
	v := judge(resp.StatusCode, resp.Header, reply)
	receipt.Outcome = v.outcome
	if v.outcome == export.Delivered && contact && e.o.Async {
		receipt.Outcome = export.Accepted
	}
	if v.err != nil {
		return receipt, v.err
	}
	return receipt, nil
}

// bare takes the address out of an error: a query could hold a key.
func bare(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err
	}
	return err
}
