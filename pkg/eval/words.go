package eval

import (
	"slices"
	"strings"
	"unicode"
)

// wordsOf brings a text to its bare words, lower case, ё as е.
func wordsOf(s string) []string {
	return strings.FieldsFunc(strings.ReplaceAll(strings.ToLower(s), "ё", "е"), func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !unicode.IsMark(r)
	})
}

// covers reports whether a text has each word of an accepted one, endings
// aside. The order does not count: Russian has none to hold on to.
func covers(text, accepted string) bool {
	said := wordsOf(text)
	for _, word := range wordsOf(accepted) {
		stem := stemOf(word)
		if !slices.ContainsFunc(said, func(w string) bool { return strings.HasPrefix(w, stem) }) {
			return false
		}
	}
	return true
}

// stemOf cuts what declension changes off a word: up to two letters, as long
// as four stay (three of a word of four).
func stemOf(word string) string {
	r := []rune(word)
	switch {
	case len(r) <= 3:
		return word
	case len(r) == 4:
		return string(r[:3])
	}
	return string(r[:max(4, len(r)-2)])
}

// sameName reports whether two names have the same words, in any order.
func sameName(a, b string) bool {
	x, y := wordsOf(a), wordsOf(b)
	slices.Sort(x)
	slices.Sort(y)
	return slices.Equal(x, y)
}
