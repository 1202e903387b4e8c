package analyze

import (
	"strings"
	"unicode"
)

// Clean makes a text from outside one plain line: control and format
// characters (line breaks, escapes, direction marks, zero-width signs) go, white
// space becomes single spaces, the ends are trimmed. What is left may still be
// markup: whoever shows it escapes it.
func Clean(s string) string {
	s = strings.ToValidUTF8(s, "")
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case unicode.Is(unicode.C, r): // control, format, surrogate, private use
			return -1
		}
		return r
	}, s)
	return strings.Join(strings.Fields(s), " ")
}

// Russian reports whether most letters of a text are Cyrillic and those that
// Russian does not have are no more than a name or two brings along: customers
// speak Belarusian, Ukrainian and Kazakh too, and a model may answer in kind.
func Russian(s string) bool {
	var letters, cyrillic, other int
	for _, r := range s {
		if !unicode.IsLetter(r) {
			continue
		}
		letters++
		if unicode.Is(unicode.Cyrillic, r) {
			cyrillic++
			if l := unicode.ToLower(r); (l < 'а' || l > 'я') && l != 'ё' {
				other++
			}
		}
	}
	const few, often = 2, 25 // one letter in fifteen is і in Ukrainian and Belarusian
	return cyrillic > 0 && cyrillic*2 >= letters && (other <= few || other*often <= cyrillic)
}

// Shorten cuts a text to at most limit characters, at a word's end where one
// is near, and marks the cut.
func Shorten(s string, limit int) string {
	r := []rune(s)
	if len(r) <= limit {
		return s
	}
	cut := string(r[:limit-1])
	if space := strings.LastIndexByte(cut, ' '); space > len(cut)*3/4 {
		cut = cut[:space]
	}
	return strings.TrimRight(cut, " ,;:") + "…"
}

// words brings a text to its bare words, lower case, ё as е, one space between
// them and one at each end: punctuation, quotes and case are how two
// transcriptions of one sentence differ.
func words(s string) string {
	var b strings.Builder
	b.Grow(len(s) + 2)
	within := false
	for _, r := range s {
		switch {
		case 'а' <= r && r <= 'я' || 'a' <= r && r <= 'z': // most are
		case unicode.IsLetter(r), unicode.IsDigit(r), unicode.IsMark(r):
			if r = unicode.ToLower(r); r == 'ё' {
				r = 'е'
			}
		default:
			within = false
			continue
		}
		if !within {
			b.WriteByte(' ')
			within = true
		}
		b.WriteRune(r)
	}
	if b.Len() == 0 {
		return ""
	}
	b.WriteByte(' ')
	return b.String()
}

// digits are the digits of a text, of whatever script, in plain ones.
func digits(s string) string {
	return strings.Map(func(r rune) rune {
		if d := digit(r); d != 0 {
			return d
		}
		return -1
	}, s)
}
