package analyze

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// legible gives a text as its reader takes its numbers, for looking for them: in
// plain digits and plain letters, without signs that do not show, a dash for
// whatever parts one digit from the next. at says where each of its bytes, and
// its end, stands in the text.
func legible(s string) (plain string, at []int) {
	var b strings.Builder
	b.Grow(len(s))
	at = make([]int, 0, len(s)+1)
	put := func(from int, runes ...rune) {
		for _, r := range runes {
			b.WriteRune(r)
		}
		for len(at) < b.Len() {
			at = append(at, from)
		}
	}
	var token []rune // a word, or digits with what is taken for digits
	var places []int
	flush := func() {
		if parting[strings.ToLower(string(token))] {
			put(places[0], '-')
		} else {
			for i, r := range plainly(token) {
				put(places[i], r)
			}
		}
		token, places = token[:0], places[:0]
	}
	for i, r := range s {
		d := digit(r)
		switch {
		case unicode.In(r, unicode.M, unicode.Cf):
			continue
		case unicode.Is(unicode.Other_Default_Ignorable_Code_Point, r), r == '\u2800': // they show as a space
			flush()
			put(i, ' ')
		case d != 0:
			token, places = append(token, d), append(places, i)
		case unicode.IsLetter(r):
			token, places = append(token, r), append(places, i)
		default:
			flush()
			put(i, sign(r))
		}
	}
	flush()
	return b.String(), append(at, len(s))
}

// sign is how a sign counts beside digits.
func sign(r rune) rune {
	switch {
	case r == '\n' || r == '.' || r == ',' || r == ':' || r == '(' || r == ')':
		return r
	case strings.ContainsRune("+＋﹢⁺➕", r):
		return '+'
	case unicode.IsSpace(r):
		return ' '
	case strings.ContainsRune(";،、，；", r):
		return ','
	case strings.ContainsRune("%№‰°", r), unicode.Is(unicode.Sc, r): // what is measured is not dialled
		return '%'
	}
	return '-'
}

// ones are the first of nine signs each for the digits from 1, which Unicode
// does not count among the digits.
var ones = []rune{'①', '⑴', '⒈', '⓵', '❶', '➀', '➊', '₁'}

var otherDigits = map[rune]rune{
	'⓪': '0', '⓿': '0', '₀': '0', '⁰': '0', '¹': '1', '²': '2', '³': '3', '⁴': '4', '⁵': '5', '⁶': '6', '⁷': '7', '⁸': '8', '⁹': '9',
}

// digit is the digit that a character stands for in any script, 0 for none.
func digit(r rune) rune {
	if r < utf8.RuneSelf {
		if r >= '0' && r <= '9' {
			return r
		}
		return 0
	}
	if d := otherDigits[r]; d != 0 {
		return d
	}
	for _, one := range ones {
		if r >= one && r < one+9 {
			return '1' + r - one
		}
	}
	if !unicode.IsDigit(r) {
		return 0
	}
	// Decimal digits stand in tens.
	for _, t := range unicode.Nd.R16 {
		if rune(t.Lo) <= r && r <= rune(t.Hi) {
			return '0' + (r-rune(t.Lo))%10
		}
	}
	for _, t := range unicode.Nd.R32 {
		if rune(t.Lo) <= r && r <= rune(t.Hi) {
			return '0' + (r-rune(t.Lo))%10
		}
	}
	return 0
}

// parting are words that stand for a sign between digits.
var parting = map[string]bool{
	"тире": true, "дефис": true, "пробел": true, "точка": true, "скобка": true, "потом": true, "затем": true, "далее": true,
	"dash": true, "hyphen": true, "space": true, "dot": true, "then": true,
}

// Letters that look like digits, and Latin ones that look like Cyrillic ones.
var (
	digitLike    = pairs("O0o0О0о0Ο0ο0l1I1І1і1Ӏ1З3з3б6")
	cyrillicLike = pairs("aаcсeеoоpрxхyуiіAАBВCСEЕHНKКMМOОPРTТXХYУkкmмtт")
)

func pairs(s string) map[rune]rune {
	m := map[rune]rune{}
	r := []rune(s)
	for i := 0; i < len(r); i += 2 {
		m[r[i]] = r[i+1]
	}
	return m
}

// plainly brings letters among digits to the digits that they look like, if all
// do, and Latin letters in a Cyrillic word to Cyrillic ones. It changes token.
func plainly(token []rune) []rune {
	digits, latin, cyrillic, alike := false, false, false, true
	for _, r := range token {
		switch {
		case r >= '0' && r <= '9':
			digits = true
			continue
		case r < utf8.RuneSelf:
			latin = true
		case unicode.Is(unicode.Cyrillic, r):
			cyrillic = true
		}
		alike = alike && digitLike[r] != 0
	}
	var change map[rune]rune
	switch {
	case digits && alike:
		change = digitLike
	case latin && cyrillic:
		change = cyrillicLike
	}
	for i, r := range token {
		if to := change[r]; to != 0 {
			token[i] = to
		}
	}
	return token
}

func lettered(s string) bool { return strings.ContainsFunc(s, unicode.IsLetter) }
