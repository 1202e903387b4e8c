package analyze

import (
	"regexp"
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
	if n, ok := dictatedPhone(claimed, region); ok && hear(c, call.RoleUser).number(n) {
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
		if name = Clean(name); isName(name) && !dictates(c, name) {
			name = Shorten(name, call.MaxName)
			return &name
		}
	}
	return nil
}

func saidName(c *call.Conversation, name string) string {
	if name == "" {
		return ""
	}
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

// dictates reports whether a text holds a stranger's number, which letters can
// say too.
func dictates(c *call.Conversation, s string) bool {
	_, foreign := Confine(c, "", s)
	return foreign
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

var phoneLike = regexp.MustCompile(`\+?\d(?:[\s().–-]{0,3}\d){8,14}`)
