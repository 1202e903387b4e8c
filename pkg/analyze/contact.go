package analyze

import (
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/nyaruka/phonenumbers"

	"postcall/pkg/call"
	"postcall/pkg/redact"
)

// DefaultRegion is the country of a phone number that is said without its
// country code.
const DefaultRegion = "RU"

// regions are tried after the default one: numbers of both countries are said
// in one call, in their national forms.
var regions = []string{"RU", "BY"}

// NormalPhone gives a phone number in E.164. region is the country (ISO 3166,
// two letters) of a number without a country code; empty means DefaultRegion.
// It reports false for what is no valid number in it, in Russia or in Belarus.
func NormalPhone(raw, region string) (string, bool) {
	raw = Clean(raw)
	if user, _, sip := strings.Cut(strings.TrimPrefix(raw, "sip:"), "@"); sip {
		raw = user
	}
	if raw == "" || len(raw) > 64 {
		return "", false
	}
	if region == "" {
		region = DefaultRegion
	}
	for _, r := range append([]string{region}, regions...) {
		n, err := phonenumbers.Parse(raw, r)
		if err == nil && phonenumbers.IsValidNumber(n) {
			return phonenumbers.Format(n, phonenumbers.E164), true
		}
	}
	return "", false
}

// Phone gives the customer's number in E.164, nil when it is not known:
//
//  1. the number that the telephony told (Conversation.ExternalNumber);
//  2. else claimed, what a model read, but only if its digits occur in what a
//     user said, in digits or in words, or in what ElevenLabs collected, and not
//     the agent's own: a number for joining records must not be one that a model,
//     or somebody who talked to it, made up;
//  3. else a value that ElevenLabs collected under a name like phone.
func Phone(c *call.Conversation, region, claimed string) *string {
	if n, ok := NormalPhone(c.ExternalNumber, region); ok {
		return &n
	}
	if n, ok := dictatedPhone(claimed, region); ok && numberTold(c, n, call.RoleUser) {
		if own, known := NormalPhone(c.AgentNumber, region); !known || own != n {
			return &n
		}
	}
	if v := Collected(c, "phone", "phone_number", "client_phone", "customer_phone", "contact_phone", "mobile", "telephone", "телефон", "номер_телефона"); v != "" {
		if n, ok := NormalPhone(v, region); ok {
			return &n
		}
	}
	return nil
}

// dictatedPhone is NormalPhone of a number as it was said: in words, with commas
// between its parts. So it comes back where personal data was masked.
func dictatedPhone(raw, region string) (string, bool) {
	raw = redact.InDigits(raw)
	if n, ok := NormalPhone(raw, region); ok {
		return n, true
	}
	return NormalPhone(strings.ReplaceAll(raw, ",", " "), region)
}

// Said is a phone number that a user said, with the turn it was first said in.
type Said struct {
	Number string // E.164
	Turn   int
}

// SaidPhones finds the phone numbers that users said, in digits or in words,
// each within one turn, each once, in their order. The agent's own number is
// none, nor is one that an agent said first: who reads a number back only
// repeats the company's.
func SaidPhones(c *call.Conversation, region string) []Said {
	var list []Said
	heard := map[string]bool{}
	if own, ok := NormalPhone(c.AgentNumber, region); ok {
		heard[own] = true
	}
	for _, t := range c.Turns {
		found := phoneLike.FindAllString(redact.InDigits(t.Text), -1)
		for _, span := range redact.Find(t.Text) {
			if span.Kind == redact.Phone {
				found = append(found, t.Text[span.Start:span.End])
			}
		}
		for _, raw := range found {
			n, ok := dictatedPhone(raw, region)
			if !ok || heard[n] {
				continue
			}
			heard[n] = true
			if t.Role == call.RoleUser {
				list = append(list, Said{n, t.Index})
			}
		}
	}
	return list
}

// numberTold reports whether the national part of an E.164 number occurs among
// the digits that the roles said, one turn after another, or is a collected
// value. One that only stands somewhere in a collected text is not: a model
// wrote that text, and may have been told to.
func numberTold(c *call.Conversation, e164 string, roles ...call.Role) bool {
	n, err := phonenumbers.Parse(e164, "")
	if err != nil {
		return false
	}
	national := phonenumbers.GetNationalSignificantNumber(n)
	// In digits alone as well: a word such as "один" may stand between two parts
	// of a number without belonging to it.
	var written, spoken strings.Builder
	for _, t := range c.Turns {
		if slices.Contains(roles, t.Role) {
			written.WriteString(digits(t.Text))
			spoken.WriteString(digits(redact.InDigits(t.Text)))
		}
	}
	if strings.Contains(written.String(), national) || strings.Contains(spoken.String(), national) {
		return true
	}
	for _, d := range c.Collected {
		if d.Value != nil && !strings.ContainsFunc(*d.Value, unicode.IsLetter) && strings.HasSuffix(digits(*d.Value), national) {
			return true
		}
	}
	return false
}

// ClientName gives the customer's name, nil when it is not known: the one that
// the agent's own variables gave (Conversation.KnownName); else claimed, what a
// model read, but only if each of its words was said, in whatever case of the
// declension; else a value that ElevenLabs collected under a name like name.
func ClientName(c *call.Conversation, claimed string) *string {
	for _, name := range []string{
		c.KnownName,
		saidName(c, claimed),
		Collected(c, "client_name", "customer_name", "user_name", "caller_name", "full_name", "first_name", "name", "fio", "имя", "имя_клиента", "фио"),
	} {
		if name = Clean(name); isName(name) {
			name = Shorten(name, call.MaxName)
			return &name
		}
	}
	return nil
}

func saidName(c *call.Conversation, name string) string {
	var said strings.Builder
	for _, t := range c.Turns {
		said.WriteString(words(t.Text))
	}
	for _, word := range strings.Fields(words(name)) {
		// An ending of up to two letters may differ: Ольга, Ольге, Ольгой.
		stem := []rune(word)
		stem = stem[:max(min(3, len(stem)), len(stem)-2)]
		if !strings.Contains(said.String(), " "+string(stem)) {
			return ""
		}
	}
	return name
}

// isName keeps markup and sentences out of the field that people are addressed
// by: letters, spaces, and the signs that names have.
func isName(s string) bool {
	if Absent(s) {
		return false
	}
	letters := false
	for _, r := range s {
		switch {
		case unicode.IsLetter(r), unicode.IsMark(r):
			letters = true
		case !strings.ContainsRune(" -'’.", r):
			return false
		}
	}
	return letters
}

// Absent reports whether a text only says that there is nothing to say. Models
// and voice agents write such words where null was meant.
func Absent(s string) bool {
	switch strings.TrimSpace(words(s)) {
	case "", "null", "none", "nil", "n a", "na", "unknown", "not specified", "not mentioned", "not provided",
		"нет", "неизвестно", "не известно", "неизвестен", "не указано", "не указан", "не указана",
		"не назвал", "не назвала", "не названо", "не упоминалось", "нет данных":
		return true
	}
	return false
}

// Collected gives the first value that ElevenLabs collected under one of the
// names, cleaned, empty when there is none. Case and the signs between a name's
// words do not count.
func Collected(c *call.Conversation, names ...string) string {
	for _, name := range names {
		for _, d := range c.Collected {
			if d.Value == nil || words(d.ID) != words(name) {
				continue
			}
			if v := Clean(*d.Value); !Absent(v) && utf8.RuneCountInString(v) <= call.MaxSummary {
				return v
			}
		}
	}
	return ""
}

var (
	phoneLike = regexp.MustCompile(`\+?\d(?:[\s().–-]{0,3}\d){8,14}`)
	linkLike  = regexp.MustCompile(`(?i)(?:[a-z][a-z0-9+.-]*://|www\.|(?:javascript|data|mailto):)\S+`)
	tagLike   = regexp.MustCompile(`<[/!a-zA-Z][^<>]*>`)
)

// maxConfined bounds what Confine looks at, in characters: more than any text
// of a result has.
const maxConfined = 4 * call.MaxSummary

// Confine takes out of a model's text what could lead its reader astray: phone
// numbers and links that do not come from the conversation, and markup tags. A
// model that obeys its caller must not send the staff to a stranger's number.
// The text comes back as Clean makes it, cut where it is endless.
func Confine(c *call.Conversation, region, s string) string {
	// Signs that do not show go first: they would hide a number or a link.
	s = Shorten(Clean(s), maxConfined)
	// What is taken out may leave something else of the kind.
	for range 4 {
		confined := confineOnce(c, region, s)
		if confined == s {
			return s
		}
		s = confined
	}
	return "[текст убран]" // it was made to be like that
}

func confineOnce(c *call.Conversation, region, s string) string {
	for tagLike.MatchString(s) { // what is left of <<b>script> is a tag again
		s = tagLike.ReplaceAllString(s, "")
	}
	s = linkLike.ReplaceAllString(s, "[ссылка убрана]")
	s = phoneLike.ReplaceAllStringFunc(s, func(raw string) string {
		n, ok := NormalPhone(raw, region)
		if !ok {
			// Digits that are no number to dial: an account, a sum, a date.
			return raw
		}
		if own, known := NormalPhone(c.ExternalNumber, region); known && own == n || numberTold(c, n, call.RoleUser, call.RoleAgent) {
			return raw
		}
		return "[номер убран]"
	})
	return Clean(s)
}
