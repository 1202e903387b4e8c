package markdown

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxMarks bounds the accents on one letter. Scripts that need several stay
// readable; a tower of them that covers the lines around it is cut.
const maxMarks = 4

// clean makes one line of plain text out of s, at most limit characters long:
// whitespace of any kind, line breaks included, becomes a single space;
// characters that nobody sees but that change how others are read (controls,
// direction overrides, zero-width ones) go, except where they join an emoji.
func clean(s string, limit int) string {
	var b strings.Builder
	var last rune // the last one kept
	var n, marks int
	pending := false // a space that is written if anything follows it
	for i, r := range s {
		switch {
		case unicode.IsSpace(r):
			pending = n > 0
			continue
		case r == zeroWidthJoiner:
			next, _ := utf8.DecodeRuneInString(s[i+utf8.RuneLen(r):])
			if pending || !joinsAfter(last) || !unicode.Is(unicode.So, next) {
				continue
			}
		case hidden(r):
			continue
		}
		if unicode.Is(unicode.M, r) {
			if marks++; marks > maxMarks {
				continue
			}
		} else {
			marks = 0
		}
		if pending {
			n++
		}
		if n >= limit {
			return b.String() + "…"
		}
		if pending {
			b.WriteByte(' ')
			pending = false
		}
		b.WriteRune(r) // a broken byte has become U+FFFD
		last = r
		n++
	}
	return b.String()
}

const (
	zeroWidthJoiner = '\u200d'
	textStyle       = '\ufe0e'
	emojiStyle      = '\ufe0f'
)

// joinsAfter reports whether r can stand before the joiner of an emoji.
func joinsAfter(r rune) bool {
	const skinTones, skinTonesEnd = 0x1f3fb, 0x1f3ff
	return r == emojiStyle || unicode.Is(unicode.So, r) || skinTones <= r && r <= skinTonesEnd
}

// hidden reports whether r shows nothing by itself.
func hidden(r rune) bool {
	if r == textStyle || r == emojiStyle {
		return false
	}
	return unicode.In(r,
		unicode.Cc, unicode.Cf, unicode.Co, unicode.Cs, // Cf: direction and zero width
		unicode.Other_Default_Ignorable_Code_Point,
		unicode.Variation_Selector,
		unicode.Noncharacter_Code_Point,
	)
}

// escape writes clean text so that CommonMark, and GitHub's dialect of it,
// shows it literally wherever it stands in a line. Characters that mean
// nothing to either are left alone, for the file is also read as it is.
func escape(s string) string {
	var b strings.Builder
	b.Grow(len(s) + len(s)/8)
	for i, r := range s {
		switch {
		case r == '&':
			b.WriteString("&amp;")
			continue
		case r == '<':
			b.WriteString("&lt;")
			continue
		case r == '>':
			b.WriteString("&gt;")
			continue
		case strings.ContainsRune("\\`*[]{}#~|$@", r),
			r == '_' && !insideWord(s, i),                                            // ids stay as they are, to be searched for
			r == ':' && strings.HasPrefix(s[i:], "://"),                              // bare links
			r == '.' && i >= 3 && strings.EqualFold(s[i-3:i], "www"),                 // the same
			(r == '-' || r == '+') && i == 0 && !digit(s[1:]),                        // a list item or a rule
			(r == '.' || r == ')') && i > 0 && allDigits(s[:i]) && endsWord(s[i+1:]): // a numbered item
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return b.String()
}

// insideWord reports whether the one-byte character at i stands between two
// letters or digits.
func insideWord(s string, i int) bool {
	before, _ := utf8.DecodeLastRuneInString(s[:i])
	after, _ := utf8.DecodeRuneInString(s[i+1:])
	return wordRune(before) && wordRune(after)
}

func wordRune(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) }

// digit reports whether s starts with a digit.
func digit(s string) bool { return s != "" && '0' <= s[0] && s[0] <= '9' }

// endsWord reports whether nothing or a space follows.
func endsWord(rest string) bool { return rest == "" || rest[0] == ' ' }

func allDigits(s string) bool { return strings.Trim(s, "0123456789") == "" }
