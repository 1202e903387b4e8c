package elevenlabs

import (
	"crypto/sha256"
	"encoding/hex"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"postcall/pkg/call"
)

// MaxID bounds, in bytes, the texts of an event that have columns of their
// own: type, event, agent and conversation id, status. PostgreSQL's btree
// refuses entries above about 2,700 bytes. A longer text is cut, with the hash
// of the whole behind it; the payload has it in full.
const MaxID = 256

// Parse reads a verified delivery. It never fails, since a delivery that is
// refused is usually lost for ever: what it cannot make sense of is kept all
// the same.
//
// Type, Timestamp, AgentID, ConversationID, Status, the audio flags, EventID,
// DedupKey, Payload, RawBody and ReceivedAt are filled in; the rest is the
// receiver's. Payload and RawBody may be body itself, which must not change
// any more.
//
// # Fields
//
// A body that is not JSON has the type unparseable; one that names no type has
// the type unknown, except that a list "transcript" makes it a
// post_call_transcription, the form of the older Node service. Ids, type and
// status may be any scalar. Agent, conversation, status and the audio flags
// are looked for in "data" first and then beside it. The timestamp may be
// unix seconds, milli-, micro- or nanoseconds, as a number or a text, or an
// ISO 8601 text; if there is none that can be read, receivedAt stands for it.
//
// # Payload
//
// Payload is what jsonb can hold, RawBody the exact body where that differs:
//
//   - NUL becomes U+2400, half a surrogate pair or a byte that is not UTF-8
//     becomes U+FFFD, a byte order mark goes;
//   - a number beyond a float64's range or of more than 4,000 digits becomes a
//     string of what was sent, and so do NaN, Infinity and -Infinity;
//   - a value nested deeper than 512 levels becomes a string of its JSON text;
//   - a body that is not JSON becomes {"unparseable": text, "bytes": length},
//     one too large for jsonb {"oversized": text, "bytes": length}, with the
//     first 64 KiB of the text.
//
// In every other case it is the body as it came, each digit of its numbers
// included. Of repeated keys jsonb keeps the last, and so do the fields here.
//
// # Identity
//
// DedupKey is what makes two deliveries the same event, at most 300 bytes:
//
//   - id:<event_id> if the body has an event_id;
//   - else call:<type>:<conversation_id>:<event_timestamp> if it has all
//     three, the timestamp in unix seconds, with a fraction if it has one;
//   - else sha256:<hex of the body>.
//
// No two events share a key by the way it is put together. In the second form
// the type ends at the first colon and the timestamp begins at the last; a
// type that has a colon in it, or a part that is longer than MaxID, is hashed
// into call-sha256:<hex> or id-sha256:<hex>. A part in which something had to
// be replaced could be that of another event, so that the third form is taken.
func Parse(body []byte, receivedAt time.Time) call.Event {
	e := call.Event{Timestamp: receivedAt.Unix(), ReceivedAt: receivedAt}
	if body == nil {
		body = []byte{} // so that RawBody is not NULL
	}
	var d document
	if !d.read(body) {
		e.Type = call.TypeUnparseable
		e.Payload, e.RawBody = appendExcerpt(nil, "unparseable", body), body
		e.DedupKey = bodyKey(body)
		return e
	}

	payload, changed := d.payload()
	if len(payload)+d.values*binaryPerValue > maxBinary {
		payload, changed = appendExcerpt(nil, "oversized", body), true
	}
	e.Payload = payload
	if changed {
		e.RawBody = body
	}

	name := scalar(d.root[fieldType])
	if name == "" && (isList(d.data[fieldTranscript]) || isList(d.root[fieldTranscript])) {
		name = string(call.TypeTranscription)
	}
	e.Type = call.TypeUnknown
	if name != "" {
		e.Type = call.EventType(shorten(name))
	}
	at, hasTime := instant(scalar(d.root[fieldTimestamp]))
	if hasTime {
		e.Timestamp = at.Unix()
	}
	eventID := scalar(d.root[fieldEventID])
	conversationID := d.either(fieldConversationID)
	e.EventID = shorten(eventID)
	e.ConversationID = shorten(conversationID)
	e.AgentID = shorten(d.either(fieldAgentID))
	e.Status = shorten(d.either(fieldStatus))
	e.HasAudio = d.flag(fieldHasAudio)
	e.HasUserAudio = d.flag(fieldHasUserAudio)
	e.HasResponseAudio = d.flag(fieldHasResponseAudio)

	ambiguous := func(s string) bool {
		return changed && strings.ContainsAny(s, string(visibleNUL)+string(replacement))
	}
	switch {
	case eventID != "" && !ambiguous(eventID):
		e.DedupKey = idKey(eventID)
	case eventID == "" && name != "" && conversationID != "" && hasTime &&
		!ambiguous(name) && !ambiguous(conversationID):
		e.DedupKey = callKey(name, conversationID, seconds(at))
	default:
		e.DedupKey = bodyKey(body)
	}
	return e
}

func idKey(id string) string {
	if len(id) > MaxID {
		return "id-sha256:" + digest(id)
	}
	return "id:" + id
}

func callKey(name, conversationID, at string) string {
	if len(name)+len(conversationID) > MaxID || strings.Contains(name, ":") {
		return "call-sha256:" + digest(strconv.Itoa(len(name))+":"+name+":"+conversationID+":"+at)
	}
	return "call:" + name + ":" + conversationID + ":" + at
}

func bodyKey(body []byte) string {
	sum := sha256.Sum256(body)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// shorten cuts a text that is longer than MaxID, so that two different ones
// stay different.
func shorten(s string) string {
	if len(s) <= MaxID {
		return s
	}
	tail := "…sha256:" + digest(s)
	end := MaxID - len(tail)
	for !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + tail
}

// either gives a field's scalar from data, else from the root.
func (d *document) either(f field) string {
	if s := scalar(d.data[f]); s != "" {
		return s
	}
	return scalar(d.root[f])
}

// flag gives a field's boolean from data, else from the root, nil if neither
// has one.
func (d *document) flag(f field) *bool {
	for _, literal := range [][]byte{d.data[f], d.root[f]} {
		switch string(literal) {
		case "true":
			return new(true)
		case "false":
			return new(false)
		}
	}
	return nil
}

func isList(literal []byte) bool { return len(literal) > 0 && literal[0] == '[' }

// scalar gives the text of a scalar's literal, empty for null, an object, an
// array and for what is not there.
func scalar(literal []byte) string {
	if len(literal) == 0 {
		return ""
	}
	switch literal[0] {
	case '"':
		return text(literal)
	case '{', '[':
		return ""
	}
	if s := string(literal); s != "null" {
		return s
	}
	return ""
}

// maxInstant is where a number is no longer taken for a time in seconds: the
// year 5138. As milliseconds the same number lies in 1973.
const maxInstant = 100_000_000_000

// layouts are the forms of time texts, tried in turn. Those without a zone are
// taken as UTC.
var layouts = []string{
	time.RFC3339Nano,
	"2006-01-02T15:04:05.999999999Z0700",
	"2006-01-02T15:04:05.999999999",
	"2006-01-02 15:04:05.999999999Z07:00",
	"2006-01-02 15:04:05.999999999",
	time.RFC1123Z,
	time.RFC1123,
	time.DateOnly,
}

// instant reads a point in time after 1970: a number of unix seconds, milli-,
// micro- or nanoseconds, or a text in one of the layouts.
func instant(s string) (time.Time, bool) {
	s = strings.TrimSpace(s)
	if s == "" || len(s) > 64 {
		return time.Time{}, false
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		var t time.Time
		switch {
		case n < maxInstant:
			t = time.Unix(n, 0)
		case n < maxInstant*1e3:
			t = time.UnixMilli(n)
		case n < maxInstant*1e6:
			t = time.UnixMicro(n)
		default:
			t = time.Unix(0, n)
		}
		return t.UTC(), n > 0
	}
	if f, err := strconv.ParseFloat(s, 64); err == nil && f > 0 && !math.IsInf(f, 0) {
		for f >= maxInstant {
			f /= 1000
		}
		whole, fraction := math.Modf(f)
		return time.Unix(int64(whole), int64(math.Round(fraction*1e9))).UTC(), whole > 0
	}
	for _, layout := range layouts {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC(), t.Unix() > 0
		}
	}
	return time.Time{}, false
}

// seconds writes a time as unix seconds, with a fraction if there is one.
func seconds(t time.Time) string {
	s := strconv.FormatInt(t.Unix(), 10)
	if t.Nanosecond() == 0 {
		return s
	}
	nanos := strconv.Itoa(1e9 + t.Nanosecond())[1:]
	return s + "." + strings.TrimRight(nanos, "0")
}
