package privacy

import (
	"bytes"
	"regexp"
	"strings"

	"github.com/nyaruka/phonenumbers"

	"postcall/pkg/analyze"
	"postcall/pkg/call"
)

// Subject is whom or what an erasure or a copy is about: a person by the phone
// number, or one call by its conversation. One of them is set.
type Subject struct {
	Phone        string // E.164
	Conversation string
}

// NewSubject checks and normalises. region is the country of a number without a
// country code. The error is Invalid and does not hold what was given.
func NewSubject(phone, conversation, region string) (Subject, error) {
	switch {
	case (phone == "") == (conversation == ""):
		return Subject{}, call.Errorf(call.Invalid, "give either a phone number or a conversation's id")
	case conversation != "":
		if len(conversation) < 8 || len(conversation) > 256 || strings.ContainsFunc(conversation, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
			return Subject{}, call.Errorf(call.Invalid, "that is no conversation's id, such as conv_01k9…")
		}
		return Subject{Conversation: conversation}, nil
	}
	e164, ok := analyze.NormalPhone(phone, region)
	if !ok {
		return Subject{}, call.Errorf(call.Invalid, "that is no valid phone number; write it with its country code: +7 999 …")
	}
	return Subject{Phone: e164}, nil
}

// pattern is the regular expression, of Go as of PostgreSQL, of a text that
// holds the subject: a number in any of the forms it is written in, with up to
// four signs that are neither digits nor letters between two digits. It errs on
// the side of finding.
func (s Subject) pattern() string {
	if s.Phone == "" {
		return regexp.QuoteMeta(s.Conversation)
	}
	const gap = `[^0-9[:alpha:]]{0,4}`
	spaced := func(digits string) string { return strings.Join(strings.Split(digits, ""), gap) }
	n, err := phonenumbers.Parse(s.Phone, "")
	if err != nil { // NewSubject has parsed it
		return `(^|[^0-9])` + spaced(strings.TrimPrefix(s.Phone, "+")) + `($|[^0-9])`
	}
	code, national := strings.TrimPrefix(phonenumbers.Format(n, phonenumbers.E164), "+"), phonenumbers.GetNationalSignificantNumber(n)
	code = strings.TrimSuffix(code, national)
	// Behind an international prefix and the country's code, a trunk prefix
	// (8 in Russia, 8 0 in Belarus, 0 elsewhere), or nothing.
	before := `((00|011|8` + gap + `10)?` + gap + spaced(code) + gap + `|8` + gap + `0?` + gap + `|0` + gap + `)?`
	return `(^|[^0-9])` + before + spaced(national) + `($|[^0-9])`
}

// matcher reports whether a text holds the subject.
func (s Subject) matcher() func([]byte) bool {
	if s.Phone == "" {
		id := []byte(s.Conversation)
		return func(text []byte) bool { return bytes.Contains(text, id) }
	}
	re := regexp.MustCompile(s.pattern())
	return re.Match
}
