package analyze

import (
	"html"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/nyaruka/phonenumbers"

	"postcall/pkg/call"
	"postcall/pkg/redact"
)

// What stands in the place of what was taken out.
const (
	noNumber = "[номер убран]"
	noLink   = "[ссылка убрана]"
	noText   = "[текст убран]"
)

var (
	linkLike = regexp.MustCompile(`(?i)(?:[a-z][a-z0-9+.-]*://|www\.|(?:javascript|data|mailto):)\S+`)
	tagLike  = regexp.MustCompile(`<[/!?a-zA-Z][^<>]*>`)
	tagBegin = regexp.MustCompile(`<+([/!?a-zA-Z])`) // it has no end, but a page may have one
)

// maxConfined bounds what Confine looks at, in characters: more than any text
// of a result has.
const maxConfined = 4 * call.MaxSummary

// Confine takes out of a model's texts what could lead their reader astray:
// phone numbers that do not come from the conversation, in whatever digits or
// words they are written, links, and markup tags. A model that obeys its caller
// must not send the staff to a stranger's number. The texts are given in the
// order in which they are read, since a number may go on in the next one; they
// come back as Clean makes them, cut where they are endless.
//
// foreign reports whether there was a number, a tag, or a link that the agent
// had not named: a model that writes one was told to, or must be read with care.
func Confine(c *call.Conversation, region string, texts ...string) (confined []string, foreign bool) {
	r := &confiner{c: c, region: region}
	for _, s := range texts {
		confined = append(confined, r.confine(s))
	}
	r.joined(confined)
	return confined, r.foreign
}

// confiner is Confine under way.
type confiner struct {
	c       *call.Conversation
	region  string
	heard   *heard // what was said, once it is asked for
	foreign bool
}

func (r *confiner) confine(s string) string {
	// Signs that do not show go first: they would hide a number or a link.
	s = Shorten(Clean(s), maxConfined)
	// What is taken out may leave something else of the kind.
	for range 4 {
		confined := r.once(s)
		if confined == s {
			return s
		}
		s = confined
	}
	r.foreign = true
	return noText // it was made to be like that
}

func (r *confiner) once(s string) string {
	s = Clean(html.UnescapeString(s)) // a page would read entities too
	for tagLike.MatchString(s) {      // what is left of <<b>script> is a tag again
		s, r.foreign = tagLike.ReplaceAllString(s, ""), true
	}
	if tagBegin.MatchString(s) {
		s, r.foreign = tagBegin.ReplaceAllString(s, "$1"), true
	}
	s = linkLike.ReplaceAllStringFunc(s, func(link string) string {
		r.foreign = r.foreign || !r.named(link)
		return noLink
	})
	strangers := r.strangers(s)
	for _, span := range slices.Backward(strangers) {
		s, r.foreign = s[:span[0]]+noNumber+s[span[1]:], true
	}
	return Clean(s)
}

// joined takes out the numbers that begin in one text and end in another.
func (r *confiner) joined(texts []string) {
	const border = "\n" // Clean leaves none within a text
	all := strings.Join(texts, border)
	type place struct{ from, to int }
	places, from := make([]place, len(texts)), 0
	for i, s := range texts {
		places[i] = place{from, from + len(s)}
		from += len(s) + len(border)
	}
	for _, span := range slices.Backward(r.strangers(all)) {
		if !strings.Contains(all[span[0]:span[1]], border) {
			continue // it was looked at already
		}
		r.foreign = true
		for i, p := range places {
			if from, to := max(span[0], p.from), min(span[1], p.to); from < to {
				texts[i] = texts[i][:from-p.from] + noNumber + texts[i][to-p.from:]
			}
		}
	}
}

// named reports whether the agent itself named the place that a link leads to.
func (r *confiner) named(link string) bool {
	if _, after, scheme := strings.Cut(link, "://"); scheme {
		link = after
	}
	host, _, _ := strings.Cut(strings.TrimPrefix(strings.ToLower(link), "www."), "/")
	host = words(host)
	return host != "" && slices.ContainsFunc(r.c.Turns, func(t call.Turn) bool {
		return t.Role == call.RoleAgent && strings.Contains(words(t.Text), host)
	})
}

func (r *confiner) told(e164 string) bool {
	if own, known := NormalPhone(r.c.ExternalNumber, r.region); known && own == e164 {
		return true
	}
	if r.heard == nil {
		r.heard = hear(r.c, call.RoleUser, call.RoleAgent)
	}
	return r.heard.number(e164)
}

var (
	// momentLike are dates and times as they are written in digits. Days and months
	// of one digit are left out: a phone number can be written like that.
	momentLike = regexp.MustCompile(`(?:0[1-9]|[12]\d|3[01])\.(?:0[1-9]|1[0-2])\.(?:19|20)\d\d|(?:19|20)\d\d-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])|(?:[01]?\d|2[0-3]):[0-5]\d`)
	// shortDate is enough to doubt that digits without any sign of a number are one.
	shortDate = regexp.MustCompile(`\b\d{1,2}\.\d{1,2}\.(?:\d{4}|\d\d)\b`)
	// wordComma is a comma behind a word.
	wordComma = regexp.MustCompile(`(\p{L}),`)
	// announcing says that a number to dial follows.
	announcing = regexp.MustCompile(`(?i)телефон|тел\.|номер|звон|набер|набра|связ|контакт|смс|напис|пиш|в[оа]тсап|телеграм|вайбер|phone|number|call|dial|sms|whatsapp|telegram|viber`)
)

// announcingReach is how far before a number the word may end, in bytes.
const announcingReach = 80

// maxDialled bounds a number, an international prefix included.
const maxDialled = 18

// strangers gives where phone numbers stand in a text that do not come from the
// conversation, in bytes.
func (r *confiner) strangers(s string) [][2]int {
	n, at := numbersOf(s, r.region)
	if !n.enough() {
		return nil
	}
	var found [][2]int
	for i := 0; i < len(n.groups); i++ {
		last, stranger := -1, false
		digits := ""
		for j := i; j < len(n.groups) && (j == i || !n.groups[j].Apart && !n.groups[j].Plus); j++ {
			if digits += n.groups[j].Digits; len(digits) > maxDialled {
				break
			}
			if e164, ok := n.dialled(i, j, digits); ok {
				last = j
				if stranger = !r.told(e164); !stranger {
					break
				}
			}
		}
		if last < 0 {
			continue
		}
		if stranger {
			found = append(found, [2]int{at[n.groups[i].Start], at[n.groups[last].End]})
		}
		i = last
	}
	return found
}

// minDialled is how many digits a number has at least.
const minDialled = 8

// numbers are a text's numbers and what is needed to tell which are dialled.
type numbers struct {
	region string
	plain  string
	groups []redact.Group
	// announced gives where the words end that announce a number. Most texts have
	// no number to ask that for.
	announced func() []int
}

// enough reports whether there may be a number among the digits at all.
func (n *numbers) enough() bool {
	digits := 0
	for _, g := range n.groups {
		digits += len(g.Digits)
	}
	return digits >= minDialled
}

// numbersOf reads a text. at says where the bytes of plain stand in it.
func numbersOf(s, region string) (n numbers, at []int) {
	plain, at := legible(s)
	plain = strings.ReplaceAll(withoutMoments(plain), ":", "-")
	plain = wordComma.ReplaceAllString(plain, "$1 ") // "девятьсот, пять" may be 905
	announced := sync.OnceValue(func() (ends []int) {
		for _, word := range announcing.FindAllStringIndex(plain, -1) {
			ends = append(ends, word[1])
		}
		return ends
	})
	return numbers{region: region, plain: plain, groups: redact.Groups(plain), announced: announced}, at
}

// dialled reads the groups from i to j as a phone number.
func (n *numbers) dialled(i, j int, digits string) (e164 string, ok bool) {
	first, size := n.groups[i], len(digits)
	if size < minDialled || size == minDialled && !first.Plus || n.cutsSum(i) || n.cutsSum(j+1) {
		return "", false
	}
	text := n.plain[first.Start:n.groups[j].End]
	list := strings.ContainsAny(text, ",\n")
	abroad := func(digits string) (string, bool) { return NormalPhone("+"+digits, n.region) }
	switch {
	case first.Plus:
		return abroad(digits)
	case strings.HasPrefix(digits, "00"):
		return abroad(digits[2:])
	case strings.HasPrefix(digits, "810"):
		return abroad(digits[3:])
	case size == 11 && (digits[0] == '7' || digits[0] == '8'), size == 12 && strings.HasPrefix(digits, "375"),
		size == 10 && digits[0] == '9' && !list:
		e164, ok = NormalPhone(digits, n.region)
	}
	// Others are numbers where a word says so, or where they stand by themselves.
	if !ok && size <= 15 && (n.said(first.Start) || !list && n.listed(i) && n.listed(j+1)) && !shortDate.MatchString(text) {
		if e164, ok = NormalPhone(digits, n.region); !ok && size >= 11 {
			e164, ok = abroad(digits)
		}
	}
	return e164, ok
}

// said reports whether a word before a place announces a number there.
func (n *numbers) said(at int) bool {
	ends := n.announced()
	next, _ := slices.BinarySearch(ends, at+1)
	return next > 0 && at-ends[next-1] <= announcingReach
}

// listed reports whether a list or the text's end parts the group from the one
// before it.
func (n *numbers) listed(i int) bool {
	return i == 0 || i == len(n.groups) || n.groups[i].Apart || n.groups[i].Plus ||
		strings.ContainsAny(n.plain[n.groups[i-1].End:n.groups[i].Start], ",\n")
}

// cutsSum reports whether a number that begins at the group, or ends before it,
// would have a part of a sum: of groups of three digits with spaces between.
func (n *numbers) cutsSum(i int) bool {
	spaced := func(i int) bool {
		return i > 0 && i < len(n.groups) && n.plain[n.groups[i-1].End:n.groups[i].Start] == " "
	}
	if !spaced(i) {
		return false
	}
	first, last := i-1, i
	for spaced(first) && i-first < maxDialled {
		first--
	}
	for spaced(last+1) && last-i < maxDialled {
		last++
	}
	if n.groups[first].Plus || len(n.groups[first].Digits) > 3 {
		return false
	}
	return !slices.ContainsFunc(n.groups[first+1:last+1], func(g redact.Group) bool { return len(g.Digits) != 3 })
}

// withoutMoments blanks the dates and times of a text, but not what stands right
// between other digits: that may be a part of a number.
func withoutMoments(s string) string {
	b := []byte(s)
	digit := func(i int) bool { return i >= 0 && i < len(b) && b[i] >= '0' && b[i] <= '9' }
	free := func(i, step int) bool {
		if i >= 0 && i < len(b) && b[i] == ':' {
			return false
		}
		for range 4 {
			if i < 0 || i >= len(b) || !strings.ContainsRune(" -.()", rune(b[i])) {
				break
			}
			i += step
		}
		return !digit(i)
	}
	moments := momentLike.FindAllStringIndex(s, -1)
	slices.Reverse(moments)
	for range 2 { // from both ends, since a row of them frees one another
		slices.Reverse(moments)
		for _, at := range moments {
			if !digit(at[0]-1) && !digit(at[1]) && (free(at[0]-1, -1) || free(at[1], 1)) {
				copy(b[at[0]:], strings.Repeat("%", at[1]-at[0]))
			}
		}
	}
	return string(b)
}

// heard are the digits that were said, one turn after another.
type heard struct {
	// In digits alone as well: a word such as "один" may stand between two parts
	// of a number without belonging to it.
	written, spoken string
	collected       []string
}

func hear(c *call.Conversation, roles ...call.Role) *heard {
	var written, spoken strings.Builder
	for _, t := range c.Turns {
		if slices.Contains(roles, t.Role) {
			plain, _ := legible(t.Text)
			written.WriteString(digits(plain))
			spoken.WriteString(digits(redact.InDigits(plain)))
		}
	}
	h := &heard{written: written.String(), spoken: spoken.String()}
	for _, d := range c.Collected {
		if d.Value != nil {
			h.collected = append(h.collected, *d.Value)
		}
	}
	return h
}

// number reports whether the national part of an E.164 number occurs among the
// digits, or is a collected value. One that only stands somewhere in a collected
// text is not: a model wrote that text, and may have been told to.
func (h *heard) number(e164 string) bool {
	n, err := phonenumbers.Parse(e164, "")
	if err != nil {
		return false
	}
	national := phonenumbers.GetNationalSignificantNumber(n)
	if strings.Contains(h.written, national) || strings.Contains(h.spoken, national) {
		return true
	}
	return slices.ContainsFunc(h.collected, func(v string) bool {
		return !lettered(v) && strings.HasSuffix(digits(v), national)
	})
}
