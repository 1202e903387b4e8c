package bpmsoft

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"postcall/pkg/call"
	"postcall/pkg/export"
	"postcall/pkg/export/outbound"
)

// verdict is what an answer means.
type verdict struct {
	outcome export.Outcome
	err     *call.Error // nil for delivered
}

// judge is the one place that says what an answer means. The message in it is
// in the language of the stand and never looked at.
//
//	HTTP 200, code 0             delivered
//	HTTP 200, code -1            refused      a few slow retries
//	HTTP 200, empty              failed       a person must act
//	HTTP 200, a page             failed       a person must act
//	HTTP 200, anything else      unknown      retry
//	redirect, 401, 403, 404, 405 failed       a person must act
//	429                          failed       later
//	408, 5xx                     unknown      retry
//	other 4xx                    refused      a few slow retries
func judge(status int, h http.Header, reply []byte) verdict {
	fault := func(o export.Outcome, c call.Code, format string, args ...any) verdict {
		return verdict{o, call.Errorf(c, format, args...)}
	}
	switch {
	case status == http.StatusOK:
	case status >= 500, status == http.StatusRequestTimeout:
		return fault(export.Unknown, call.Unavailable, "BPMSoft answers HTTP %d", status)
	case status == http.StatusTooManyRequests:
		v := fault(export.Failed, call.RateLimited, "BPMSoft asks to wait (HTTP 429)")
		v.err.RetryAfter = outbound.Reply{Header: h}.RetryAfter()
		return v
	case status == http.StatusUnauthorized, status == http.StatusProxyAuthRequired:
		return fault(export.Failed, call.Credentials, "BPMSoft's stand wants another user or password (HTTP %d): check CRM_BASIC_AUTH_USER and CRM_BASIC_AUTH_PASS", status)
	case status == http.StatusForbidden:
		return fault(export.Failed, call.Credentials, "BPMSoft's stand forbids it (HTTP 403): check CRM_BASIC_AUTH_USER, CRM_REFERER and the stand's allowed addresses")
	case status == http.StatusNotFound, status == http.StatusMethodNotAllowed, status == http.StatusGone:
		return fault(export.Failed, call.Credentials, "there is no landing service at this address (HTTP %d): check CRM_SERVICE_URL, with or without /0", status)
	case status >= 300 && status < 400:
		return fault(export.Failed, call.Credentials, "BPMSoft's stand sends us elsewhere (HTTP %d), which is not followed: check CRM_SERVICE_URL", status)
	case status >= 400:
		return fault(export.Refused, call.Refused, "BPMSoft does not take the lead (HTTP %d)", status)
	default: // 1xx never come here; 2xx but 200
		return fault(export.Unknown, call.Unavailable, "BPMSoft answers HTTP %d", status)
	}
	if len(reply) > maxReply {
		if page(h, reply) {
			return fault(export.Failed, call.Credentials, pageMessage)
		}
		return fault(export.Unknown, call.Unavailable, "BPMSoft's answer is larger than %d bytes", maxReply)
	}
	code, err := readCode(reply)
	switch {
	case err == nil && code == 0:
		return verdict{outcome: export.Delivered}
	case err == nil && code == -1:
		return fault(export.Refused, call.Refused, "BPMSoft refuses the lead (resultCode -1); its answer is kept with the attempt")
	case err == nil:
		return fault(export.Unknown, call.Unavailable, "BPMSoft answers with a resultCode that is neither 0 nor -1")
	case errors.Is(err, errEmpty):
		return fault(export.Failed, call.Credentials, "BPMSoft's answer is empty: check that the landing exists and is enabled")
	case page(h, reply):
		return fault(export.Failed, call.Credentials, pageMessage)
	}
	return fault(export.Unknown, call.Unavailable, "BPMSoft's answer is not understood: %w", err)
}

const pageMessage = "BPMSoft's stand answers with a page instead of an answer: check CRM_SERVICE_URL"

// page reports whether an answer is HTML or XML, which a stand sends in place
// of an answer when the address or the log-in is wrong.
func page(h http.Header, reply []byte) bool {
	return strings.HasPrefix(strings.ToLower(h.Get("Content-Type")), "text/html") ||
		bytes.HasPrefix(bytes.TrimLeft(bytes.TrimPrefix(reply, bom), " \t\r\n"), []byte("<"))
}

var bom = []byte("\ufeff")

// errEmpty means that the service answered, and has nothing to say.
var errEmpty = errors.New("the answer is empty")

// readCode reads the result code out of an answer:
//
//	{"SaveWebFormObjectDataResult":"{resultMessage:\"…\",resultCode:0}"}
//
// The inner object is a text whose keys may be quoted or not; some versions
// send it as an object. Anything else is an error: errEmpty if there is
// nothing, or one that says what is not understood.
func readCode(reply []byte) (code int, err error) {
	reply = bytes.TrimSpace(bytes.TrimPrefix(reply, bom))
	if len(reply) == 0 {
		return 0, errEmpty
	}
	var outer struct {
		Result json.RawMessage `json:"SaveWebFormObjectDataResult"`
	}
	inner := reply
	if reply[0] == '{' {
		if err := json.Unmarshal(reply, &outer); err != nil {
			// A stand may leave the outer object away.
			return resultCode(string(reply))
		}
		if outer.Result != nil {
			inner = outer.Result
		}
	}
	if string(inner) == "null" {
		return 0, errEmpty
	}
	text := string(inner)
	if inner[0] == '"' {
		if err := json.Unmarshal(inner, &text); err != nil {
			return 0, fmt.Errorf("it is no JSON: %w", err)
		}
		if text = strings.TrimSpace(text); text == "" {
			return 0, errEmpty
		}
	}
	return resultCode(text)
}

// resultCode reads the inner object. Its values are texts, numbers and words;
// its keys may lack their quotes. It must hold one resultCode, and nothing may
// follow it.
func resultCode(s string) (int, error) {
	p := scanner{rest: s}
	if !p.take('{') {
		return 0, errors.New("it is no object")
	}
	code, found := 0, false
	for first := true; !p.take('}'); first = false {
		if !first && !p.take(',') {
			return 0, errors.New("a comma is missing")
		}
		key, ok := p.key()
		if !ok || !p.take(':') {
			return 0, errors.New("a key is not understood")
		}
		value, ok := p.value()
		if !ok {
			return 0, errors.New("a value is not understood")
		}
		if key != "resultCode" {
			continue
		}
		n, err := strconv.Atoi(strings.Trim(value, `"`))
		if err != nil || found {
			return 0, errors.New("its resultCode is no number, or there are several")
		}
		code, found = n, true
	}
	if p.space(); p.rest != "" {
		return 0, errors.New("something follows the object")
	}
	if !found {
		return 0, errors.New("it has no resultCode")
	}
	return code, nil
}

// scanner reads an object whose keys may lack their quotes.
type scanner struct{ rest string }

func (p *scanner) space() { p.rest = strings.TrimLeft(p.rest, " \t\r\n") }

func (p *scanner) take(c byte) bool {
	p.space()
	if p.rest == "" || p.rest[0] != c {
		return false
	}
	p.rest = p.rest[1:]
	return true
}

func (p *scanner) key() (string, bool) {
	p.space()
	if raw, ok := p.quoted(); ok {
		var key string
		err := json.Unmarshal([]byte(raw), &key)
		return key, err == nil
	}
	return p.word("")
}

// value gives the text of a value as it stands. Of nested ones only null-like
// words, numbers and texts are known.
func (p *scanner) value() (string, bool) {
	p.space()
	if raw, ok := p.quoted(); ok {
		return raw, true
	}
	return p.word("+-.")
}

// word takes letters, digits, underscores and what else is allowed.
func (p *scanner) word(also string) (string, bool) {
	n := strings.IndexFunc(p.rest, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' && !strings.ContainsRune(also, r)
	})
	if n < 0 {
		n = len(p.rest)
	}
	w := p.rest[:n]
	p.rest = p.rest[n:]
	return w, n > 0
}

// quoted takes a text in double quotes, with them.
func (p *scanner) quoted() (string, bool) {
	if p.rest == "" || p.rest[0] != '"' {
		return "", false
	}
	for i := 1; i < len(p.rest); i++ {
		switch p.rest[i] {
		case '\\':
			i++
		case '"':
			raw := p.rest[:i+1]
			p.rest = p.rest[i+1:]
			return raw, true
		}
	}
	return "", false
}
