// Package export hands results to people and other systems. It holds the
// Exporter interface; its sub-packages are the targets.
package export

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"

	"postcall/pkg/call"
)

// Exporter hands a result to one target.
//
// Export must be safe to repeat: a process can be killed after the target took
// the result and before that was recorded. Delivery.Again is set when such an
// earlier attempt may have arrived. Errors are *call.Error.
type Exporter interface {
	Target() call.Target
	Export(ctx context.Context, d Delivery) (Receipt, error)
}

// Delivery is what an exporter hands over.
type Delivery struct {
	Event        call.Event // without payload and raw body
	Conversation call.Conversation
	Analysis     call.Analysis
	Again        bool
}

// Outcome is what is known of one attempt.
type Outcome string

// The outcomes.
const (
	Delivered Outcome = "delivered" // the target has it
	Accepted  Outcome = "accepted"  // taken, and worked on later
	Refused   Outcome = "refused"   // understood and not taken
	Unknown   Outcome = "unknown"   // it may have arrived; a repeat settles it
	Failed    Outcome = "failed"    // it certainly has not arrived
)

// Receipt is the proof of one attempt, kept in crm_dispatches. An Exporter
// returns it together with an error too, so that what was sent and what came
// back is kept either way; without an error the outcome is Delivered or
// Accepted.
type Receipt struct {
	Outcome    Outcome
	Payload    json.RawMessage // what was sent, or where it was put
	Response   string          // the target's answer, hostile text
	HTTPStatus int             // 0 where HTTP is not spoken
}

// Finding is one thing that a check of a target found. Advice says what to do
// about it; it is empty where all is well.
type Finding struct {
	Level  Level  `json:"level"`
	Text   string `json:"text"`
	Advice string `json:"advice,omitempty"`
}

// Level is how bad a finding is.
type Level string

// The levels.
const (
	OK   Level = "ok"
	Warn Level = "warn" // it may work
	Fail Level = "fail" // it cannot work
)

// Unreachable is the finding of an error that came in place of an answer.
// setting is the variable that holds the address.
func Unreachable(err error, setting string) Finding {
	f := Finding{Level: Fail, Text: fmt.Sprintf("nothing answers: %v", err)}
	_, certificate := errors.AsType[*tls.CertificateVerificationError](err)
	_, record := errors.AsType[tls.RecordHeaderError](err)
	name, unresolved := errors.AsType[*net.DNSError](err)
	switch {
	case certificate:
		f.Advice = "Put the authority that signed the certificate into the system's store (or SSL_CERT_FILE), or use the name it was made for in " + setting + "."
	case record || errors.Is(err, http.ErrSchemeMismatch):
		f.Advice = "This port does not speak TLS: correct the port or the scheme in " + setting + "."
	case unresolved && name.IsNotFound:
		f.Advice = "DNS does not know this name: correct the host in " + setting + "."
	case errors.Is(err, context.DeadlineExceeded):
		f.Advice = "Open the way from this machine to the host and port in " + setting + ", or raise the time-out."
	default:
		f.Advice = "Check the host and port in " + setting + ", and the network between here and there."
	}
	return f
}
