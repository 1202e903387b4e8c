// Package redact takes personal data out of a text before it leaves for a
// language model, and puts it back into what comes from there.
//
//	Позвоните на 8 999 000-00-02   →   Позвоните на [PHONE_1]
//
// Found are, in the forms that people write and that speech recognition hears:
//
//	PHONE     Russian and Belarusian numbers with and without their country code,
//	          others with a plus; in digits however grouped, or in number words
//	EMAIL     written, or spoken with "собака" and, in words or as a sign, "точка"
//	CARD      13 to 19 digits whose check digit (Luhn) holds, in one piece or in
//	          fours; in other parts only behind the word карта or card
//	INN       12 digits whose control digits hold, in parts only behind the word
//	          ИНН; 10 digits (a company's) only behind it, too
//	SNILS     11 digits whose control digits hold, grouped 3-3-3-2 or behind the
//	          word СНИЛС
//	PASSPORT  4 and 6 digits behind the word паспорт, passport or серия, also
//	          with the word номер between them
//
// A word that says what a number is may stand in the text that was masked
// before, since one asks and the other answers. Sums in thousands, such as "7 900
// 000 – 8 500 000", are no phone numbers.
//
// Not found are names and addresses, numbers that are dictated over several
// turns or with other words between their parts, numbers of seven digits
// without a code, and the inflected forms of number words.
package redact

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Kind is what a piece of personal data is.
type Kind string

// The kinds. Text is no personal data: it is what looked like a placeholder
// before anything was masked, and is hidden so that nobody can ask for a
// stranger's data by speaking a placeholder aloud.
const (
	Phone    Kind = "PHONE"
	Email    Kind = "EMAIL"
	Card     Kind = "CARD"
	INN      Kind = "INN"
	SNILS    Kind = "SNILS"
	Passport Kind = "PASSPORT"
	Text     Kind = "TEXT"
)

// Span is where personal data stands in a text, in bytes.
type Span struct {
	Kind       Kind
	Start, End int
	identity   string // equal for two ways to write the same
}

var placeholder = regexp.MustCompile(`\[(?:PHONE|EMAIL|CARD|INN|SNILS|PASSPORT|TEXT)_\d+(?:\.\d+)?\]`)

// Map masks the texts of one call and remembers what stood there. The zero
// value is ready to use. It is not for concurrent use.
type Map struct {
	shown map[string]string // placeholder → what stood there
	made  map[string]string // kind and what stood there → placeholder
	known map[string]int    // kind and identity → number
	count map[Kind]int
	forms map[string]int // kind and identity → ways to write it so far
	ahead string         // the end of what was masked before
}

// Mask puts placeholders in the place of personal data. The texts of a call come
// in the order in which they were said. The same data gets the
// same number within a Map; another way to write it is told apart by a suffix
// ([PHONE_1.2]), so that Restore gives back the very text.
func (m *Map) Mask(s string) string {
	var b strings.Builder
	at := 0
	spans := find(m.ahead, s)
	m.ahead = tail(m.ahead + " " + tail(s))
	for _, span := range spans {
		b.WriteString(s[at:span.Start])
		b.WriteString(m.placeholder(span, s[span.Start:span.End]))
		at = span.End
	}
	if at == 0 {
		return s
	}
	b.WriteString(s[at:])
	return b.String()
}

// Restore puts back what Mask took out. A placeholder that Mask never gave
// stays as it is.
func (m *Map) Restore(s string) string {
	if len(m.shown) == 0 {
		return s
	}
	return placeholder.ReplaceAllStringFunc(s, func(p string) string {
		if text, ok := m.shown[p]; ok {
			return text
		}
		return p
	})
}

func (m *Map) placeholder(span Span, text string) string {
	exact := string(span.Kind) + " " + text
	if p, ok := m.made[exact]; ok {
		return p
	}
	if m.shown == nil {
		m.shown, m.made = map[string]string{}, map[string]string{}
		m.known, m.forms, m.count = map[string]int{}, map[string]int{}, map[Kind]int{}
	}
	same := string(span.Kind) + " " + span.identity
	if m.known[same] == 0 {
		m.count[span.Kind]++
		m.known[same] = m.count[span.Kind]
	}
	m.forms[same]++
	p := fmt.Sprintf("[%s_%d]", span.Kind, m.known[same])
	if form := m.forms[same]; form > 1 {
		p = fmt.Sprintf("[%s_%d.%d]", span.Kind, m.known[same], form)
	}
	m.shown[p], m.made[exact] = text, p
	return p
}

// Find gives the personal data of a text in the order in which it stands, no
// two overlapping. It takes time in proportion to the text's length.
func Find(s string) []Span { return find("", s) }

// find is Find in a text before which something was said.
func find(ahead, s string) []Span {
	spans := matches(s, placeholder, Text)
	spans = append(spans, matches(s, emailWritten, Email)...)
	spans = append(spans, matches(s, emailSpoken, Email)...)
	slices.SortStableFunc(spans, func(a, b Span) int { return a.Start - b.Start })
	end := 0
	spans = slices.DeleteFunc(spans, func(span Span) bool {
		overlaps := span.Start < end
		end = max(end, span.End)
		return overlaps
	})
	// Numbers come last: an address may have one in it.
	spans = append(spans, numbers(ahead, s, spans)...)
	slices.SortFunc(spans, func(a, b Span) int { return a.Start - b.Start })
	return spans
}

var (
	emailWritten = regexp.MustCompile(`[\p{L}\d][\p{L}\d._%+-]*@[\p{L}\d-]+(?:\.[\p{L}\d-]+)*\.\p{L}{2,}`)
	// "ольга точка петрова собака яндекс точка ру", or "собака яндекс.ру"; the word
	// at alone is too common in English to mean the sign without a dot in words
	// behind it.
	emailSpoken = regexp.MustCompile(`(?i)[\p{L}\d_.-]+(?:\s+(?:точка|тире|дефис|подч[её]ркивание|нижнее подч[её]ркивание|dot|underscore)\s+[\p{L}\d_.-]+)*` +
		`\s+(?:(?:собака|собачка)\s+[\p{L}\d_-]+(?:(?:\s+(?:точка|dot)\s+|\.)\p{L}{2,})+|at\s+[\p{L}\d_-]+(?:\s+(?:точка|dot)\s+\p{L}{2,})+)`)
)

func matches(s string, form *regexp.Regexp, kind Kind) []Span {
	var list []Span
	for _, at := range form.FindAllStringIndex(s, -1) {
		list = append(list, Span{kind, at[0], at[1], strings.Join(strings.Fields(strings.ToLower(s[at[0]:at[1]])), " ")})
	}
	return list
}
