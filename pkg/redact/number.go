package redact

import (
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/nyaruka/phonenumbers"
)

// group is a stretch of digits, or of words that say one number ("сто двадцать
// три"), at a place of the text.
type group struct {
	digits     string
	start, end int
	plus       bool // a plus stands before it
	glued      bool // a letter stands right beside it: a code, not a number
	pause      bool // a sign stands between it and the group before
	gap        gap
}

// gap is what stands between two groups.
type gap int

const (
	together gap = iota // separators, or nothing
	numbered            // the word номер or its sign as well, as between a passport's series and number
	apart               // anything else
)

// A window of groups that is one piece of data has at most so many digits.
const maxDigits = 19

// numbers finds what consists of digits, outside the spans that are taken.
// before is what was said ahead of the text.
func numbers(before, s string, taken []Span) []Span {
	groups := groupsOf(s, taken)
	var found []Span
	for i := 0; i < len(groups); i++ {
		best, last := longest(before, s, groups, i)
		// "квартира 79, 8 999 000-00-02": what begins behind a sign and reaches
		// further is a number, and what stands before the sign no part of it.
		for k := i + 1; k <= last; k++ {
			if !groups[k].pause {
				continue
			}
			if other, end := longest(before, s, groups, k); other.Kind != "" && end > last {
				best, last = other, end
				break
			}
		}
		if best.Kind != "" {
			found = append(found, best)
			i = last
		}
	}
	return found
}

// longest gives the longest window of groups from the first one that is
// something personal, and its last group; the zero Span if none is.
func longest(before, s string, groups []group, first int) (best Span, last int) {
	var near *hints
	digits, last := "", first
	for j := first; j < len(groups); j++ {
		g := groups[j]
		if j > first && (g.plus || g.gap == apart || g.gap == numbered && len(digits) != passportSeries) || g.glued {
			break // a plus begins another number
		}
		if len(digits)+len(g.digits) > maxDigits {
			break
		}
		if digits += g.digits; len(digits) < minDigits {
			continue
		}
		if near == nil {
			near = new(hintsBefore(before, s[:groups[first].start]))
		}
		if kind, identity := classify(groups[first:j+1], digits, *near); kind != "" {
			best, last = Span{kind, groups[first].start, g.end, identity}, j
		}
	}
	return best, last
}

// What is shorter is nothing personal.
const minDigits = 8

// passportSeries is how many digits the series of a passport has.
const passportSeries = 4

// classify says what a window of groups is, "" if it is nothing personal.
func classify(window []group, digits string, near hints) (kind Kind, identity string) {
	if slices.ContainsFunc(window[1:], func(g group) bool { return g.gap == numbered }) {
		if len(digits) == 10 && passportShaped(window) && near.say(Passport) {
			return Passport, digits
		}
		return "", ""
	}
	e164, dialled := "", false
	if !sums(window) {
		e164, dialled = phone(window, digits, near)
	}
	switch n := len(digits); {
	case n >= 13 && strings.ContainsRune("23456", rune(digits[0])) && (cardShaped(window) || near.say(Card) && !sums(window)) && luhn(digits):
		return Card, digits
	case n == 10 && dialled && near.last() == Phone: // "паспорт пришлю, телефон …"
	case n == 10 && passportShaped(window) && near.say(Passport):
		return Passport, digits
	case n == 11 && snils(digits) && (shaped(window, 3, 3, 3, 2) || near.say(SNILS)):
		return SNILS, digits
	case n == 12 && inn12(digits) && (len(window) == 1 || near.say(INN)), n == 10 && inn10(digits) && near.say(INN):
		return INN, digits
	}
	if dialled {
		return Phone, e164
	}
	return "", ""
}

// phone reads digits as a phone number. Without a plus only the forms of Russia
// and Belarus count; without a country code a mobile one of Russia, and others
// only behind a word that announces a number.
func phone(window []group, digits string, near hints) (e164 string, ok bool) {
	n := len(digits)
	var text, region string
	switch {
	case window[0].plus && n >= 8 && n <= 15:
		text = "+" + digits
	case n == 11 && (digits[0] == '7' || digits[0] == '8'):
		text, region = digits, "RU"
		if strings.HasPrefix(digits, "80") {
			region = "BY"
		}
	case n == 12 && strings.HasPrefix(digits, "375"):
		text = "+" + digits
	case n == 10 && digits[0] == '9':
		text, region = digits, "RU"
	case n == 10 && near.say(Phone, anyNumber):
		text, region = digits, "RU"
	case n == 9 && near.say(Phone, anyNumber):
		text, region = digits, "BY"
	default:
		return "", false
	}
	number, err := phonenumbers.Parse(text, region)
	if err != nil || !phonenumbers.IsValidNumber(number) {
		return "", false
	}
	return phonenumbers.Format(number, phonenumbers.E164), true
}

// hints say what a number behind them is: for each kind the place of its last
// word, counted from 1.
type hints map[Kind]int

// anyNumber is what the words номер and number tell, no kind of data.
const anyNumber Kind = ""

var announcing = []struct {
	kind Kind
	word string
}{
	{Phone, "телефон"}, {Phone, "звон"}, {Phone, "набер"}, {Phone, "phone"}, {Phone, "call"}, {Phone, "whatsapp"}, {Phone, "ватсап"},
	{Phone, "вотсап"}, {Phone, "телеграм"}, {Phone, "viber"}, {Phone, "вайбер"},
	{Passport, "паспорт"}, {Passport, "passport"}, {Passport, "серия"}, {Passport, "серии"}, {Passport, "серию"},
	{SNILS, "снилс"}, {Card, "карт"}, {Card, "card"},
	{INN, " инн "}, // a word of its own: Инна and длинный are others
	{anyNumber, "номер"}, {anyNumber, "number"},
}

// context is how far before a number the word may stand that says what it is,
// in bytes.
const context = 80

// hintsBefore looks for them in the text before a number and, where that is
// short, in what was said ahead of it: the agent asks, and the answer is bare.
func hintsBefore(ahead, before string) hints {
	text := tail(before)
	if len(text) < context {
		text = tail(ahead + " " + text)
	}
	text = " " + strings.Map(func(r rune) rune {
		if word(r) {
			return unicode.ToLower(r)
		}
		return ' '
	}, text) + " "
	found := hints{}
	for _, a := range announcing {
		if at := strings.LastIndex(text, a.word) + 1; at > found[a.kind] {
			found[a.kind] = at
		}
	}
	return found
}

// tail is the end of a text that counts as context.
func tail(s string) string {
	at := max(0, len(s)-context)
	for at < len(s) && !utf8.RuneStart(s[at]) {
		at++
	}
	return s[at:]
}

func (h hints) say(kinds ...Kind) bool {
	return slices.ContainsFunc(kinds, func(k Kind) bool { return h[k] > 0 })
}

// last is the kind that the nearest word tells.
func (h hints) last() (kind Kind) {
	at := 0
	for k, place := range h {
		if k != anyNumber && place > at {
			kind, at = k, place
		}
	}
	return kind
}

func shaped(window []group, sizes ...int) bool {
	if len(window) != len(sizes) {
		return false
	}
	for i, g := range window {
		if len(g.digits) != sizes[i] {
			return false
		}
	}
	return true
}

// passportShaped is 4 and 6 digits, in whatever parts they are said.
func passportShaped(window []group) bool {
	n := 0
	for _, g := range window {
		if n += len(g.digits); n >= passportSeries {
			break
		}
	}
	return n == passportSeries || len(window) == 1
}

// cardShaped keeps a row of prices or dates from being a card: cards are
// written in one piece, in fours, or as American Express does.
func cardShaped(window []group) bool {
	if len(window) == 1 || shaped(window, 4, 6, 5) {
		return true
	}
	for i, g := range window {
		if len(g.digits) != 4 && (i < len(window)-1 || len(g.digits) > 4) {
			return false
		}
	}
	return true
}

// sums tells sums of money from a phone number: "7 900 000 – 8 500 000" and
// "9 500 000 000" are in thousands, on both sides of the sign between them.
func sums(window []group) bool {
	if window[0].plus {
		return false
	}
	count, length := 1, 0 // sums, groups of the last one
	for i, g := range window {
		if i > 0 && g.pause {
			if length < 2 {
				return false
			}
			count, length = count+1, 0
		}
		if length++; length == 1 && (len(g.digits) > 3 || g.digits[0] == '0') || length > 1 && len(g.digits) != 3 {
			return false
		}
	}
	return length > 1 && (count > 1 || window[len(window)-1].digits == "000")
}

func luhn(digits string) bool {
	sum := 0
	for i := range len(digits) {
		d := int(digits[len(digits)-1-i] - '0')
		if i%2 == 1 {
			if d *= 2; d > 9 {
				d -= 9
			}
		}
		sum += d
	}
	return sum%10 == 0
}

// weighted is the sum of the digits, each times its weight.
func weighted(digits string, weights ...int) (sum int) {
	for i, w := range weights {
		sum += int(digits[i]-'0') * w
	}
	return sum
}

// Control digits by the Federal Tax Service's order of 2012 (INN) and the
// Pension Fund's rules (SNILS).
func inn10(d string) bool {
	return weighted(d, 2, 4, 10, 3, 5, 9, 4, 6, 8)%11%10 == int(d[9]-'0')
}

func inn12(d string) bool {
	return weighted(d, 7, 2, 4, 10, 3, 5, 9, 4, 6, 8)%11%10 == int(d[10]-'0') &&
		weighted(d, 3, 7, 2, 4, 10, 3, 5, 9, 4, 6, 8)%11%10 == int(d[11]-'0')
}

func snils(d string) bool {
	control := weighted(d, 9, 8, 7, 6, 5, 4, 3, 2, 1) % 101 % 100
	return d[:9] > "001001998" && control == int(d[9]-'0')*10+int(d[10]-'0')
}

// InDigits gives a text with the numbers that are said in words in digits:
// "восемь девятьсот девяносто девять, ноль два" is "8 999, 0 2", "плюс семь" is "+7".
func InDigits(s string) string {
	var b strings.Builder
	at := 0
	for _, g := range groupsOf(s, nil) {
		b.WriteString(s[at:g.start])
		if g.plus {
			b.WriteByte('+')
		}
		b.WriteString(g.digits)
		at = g.end
	}
	b.WriteString(s[at:])
	return b.String()
}

// Group is a stretch of digits in a text, or of words that say one number, with
// its place in bytes.
type Group struct {
	Digits     string
	Start, End int
	Plus       bool // a plus stands before it, and belongs to its place
	Apart      bool // more than a separator stands between it and the group before
}

// Groups gives the numbers of a text, in digits and in words, in their order.
func Groups(s string) []Group {
	var list []Group
	for _, g := range groupsOf(s, nil) {
		list = append(list, Group{g.digits, g.start, g.end, g.plus, g.gap != together})
	}
	return list
}

// groupsOf reads a text as groups: runs of digits, and number words put
// together.
func groupsOf(s string, taken []Span) []group {
	var groups []group
	plus, plusAt := false, 0
	between, pause := apart, false
	masked := 0 // the end of the span that was left out last
	add := func(digits string, start, end int, glued bool) {
		g := group{digits: digits, start: start, end: end, plus: plus, glued: glued, pause: pause, gap: between}
		if plus {
			g.start = plusAt
		}
		groups = append(groups, g)
		plus, pause, between = false, false, together
	}
	var words said
	flush := func() {
		if words.digits != "" {
			add(words.digits, words.start, words.end, false)
		}
		words = said{}
	}
	for i := 0; i < len(s); {
		if len(taken) > 0 && i >= taken[0].Start {
			flush()
			i, taken, between, plus = max(i, taken[0].End), taken[1:], apart, false
			masked = i
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r >= '0' && r <= '9':
			flush()
			end := i
			for end < len(s) && s[end] >= '0' && s[end] <= '9' {
				end++
			}
			next, _ := utf8.DecodeRuneInString(s[end:])
			previous, _ := utf8.DecodeLastRuneInString(s[:i])
			// What is masked is no neighbour: it will be a placeholder.
			glued := i > masked && word(previous) || word(next) && (len(taken) == 0 || end < taken[0].Start)
			add(s[i:end], i, end, glued)
			i = end
		case word(r):
			end := i
			for end < len(s) {
				c, n := utf8.DecodeRuneInString(s[end:])
				if !word(c) {
					break
				}
				end += n
			}
			switch text := strings.ToLower(s[i:min(end, i+maxWord)]); {
			case text == "плюс" || text == "plus":
				flush()
				plus, plusAt = true, i
			case text == "номер" || text == "number" || text == "no":
				flush()
				between, plus = max(between, numbered), false
			case words.take(text, i, end):
			default:
				flush()
				var parts []string
				if end-i <= maxGlued {
					parts = glued(strings.ToLower(s[i:end]))
				}
				if len(parts) == 0 {
					between, plus = apart, false
				}
				at := i
				for _, part := range parts {
					if !words.take(part, at, at+len(part)) {
						flush()
						words.take(part, at, at+len(part))
					}
					at += len(part)
				}
			}
			i = end
		case r == '+':
			flush()
			plus, plusAt = true, i
			i += size
		case r == '№':
			flush()
			between, plus = max(between, numbered), false
			i += size
		case unicode.IsSpace(r):
			i += size
		case unicode.Is(unicode.Pd, r) || strings.ContainsRune("().,…−", r):
			if r != '-' { // twenty-five
				flush()
			}
			pause = true
			i += size
		default:
			flush()
			if plus = false; r != ':' || between != numbered {
				between = apart
			}
			i += size
		}
	}
	flush()
	return groups
}

// maxWord is more than the longest number word has, in bytes.
const maxWord = 40

// maxGlued bounds a word that is read as several number words, in bytes.
const maxGlued = 200

// glued gives the number words that a word consists of, none where it has
// anything else in it: "стодвадцатьтри" is as easily read as written.
func glued(text string) []string {
	length := len(text)
	begins := func(at, size int) bool { _, ok := spoken[text[at:at+size]]; return ok }
	some := false
	for size := 2; size <= min(maxWord, length) && !some; size++ {
		some = begins(0, size)
	}
	if !some {
		return nil // as most words
	}
	// From the end: the fewest words that are left to read from each place on.
	first := make([]int, length+1) // how long the word at a place is, 0 for no way on
	left := make([]int, length+1)
	for at := length - 1; at >= 0; at-- {
		for size := 2; size <= min(maxWord, length-at); size++ {
			if begins(at, size) && (at+size == length || first[at+size] > 0) &&
				(first[at] == 0 || left[at+size]+1 < left[at]) {
				first[at], left[at] = size, left[at+size]+1
			}
		}
	}
	var parts []string
	for at := 0; at < length && first[at] > 0; at += first[at] {
		parts = append(parts, text[at:at+first[at]])
	}
	return parts
}

func word(r rune) bool { return r == '_' || unicode.IsLetter(r) || unicode.IsMark(r) }

// said puts number words together: hundreds, then tens, then units, as one
// number; anything else begins the next.
type said struct {
	digits     string
	value      int
	room       int // the next word must be below this
	start, end int
}

// take adds a word if it belongs to the number that is being said.
func (n *said) take(text string, start, end int) bool {
	if zeros(text) && n.value >= 2 && n.value <= 6 && n.digits != "" && len(n.digits) == 1 { // "три ноля"
		n.digits, n.room, n.end = strings.Repeat("0", n.value), 0, end
		return true
	}
	value, ok := spoken[text]
	switch {
	case !ok:
		return false
	case n.digits == "":
		n.start = start
	case value == 0 || value >= n.room:
		return false
	}
	n.value += value
	n.end = end
	n.digits = strconv.Itoa(n.value)
	switch {
	case value >= 100:
		n.room = 100
	case value >= 20:
		n.room = 10
	default:
		n.room = 0
	}
	return true
}

func zeros(text string) bool {
	return text == "ноля" || text == "нуля" || text == "нолей" || text == "нулей"
}

// spoken are the number words as they are said in numbers.
var spoken = map[string]int{
	"ноль": 0, "нуль": 0, "один": 1, "одна": 1, "два": 2, "две": 2, "три": 3, "четыре": 4, "пять": 5, "шесть": 6, "семь": 7,
	"восемь": 8, "девять": 9, "десять": 10, "одиннадцать": 11, "двенадцать": 12, "тринадцать": 13, "четырнадцать": 14,
	"пятнадцать": 15, "шестнадцать": 16, "семнадцать": 17, "восемнадцать": 18, "девятнадцать": 19,
	"двадцать": 20, "тридцать": 30, "сорок": 40, "пятьдесят": 50, "шестьдесят": 60, "семьдесят": 70, "восемьдесят": 80, "девяносто": 90,
	"сто": 100, "двести": 200, "триста": 300, "четыреста": 400, "пятьсот": 500, "шестьсот": 600, "семьсот": 700, "восемьсот": 800, "девятьсот": 900,
	"zero": 0, "oh": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
	"eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16, "seventeen": 17, "eighteen": 18, "nineteen": 19,
	"twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90,
}
