package analyze

import (
	"strings"

	"postcall/pkg/call"
)

// Verify checks each piece of evidence against the transcript and gives it
// back with Supported set. A quote stands when its words, in order and whole,
// occur in the turn it names; white space, case, punctuation and ё/е do not
// count. Models often miscount turns: a quote that stands in exactly one other
// turn is moved there. An empty quote never stands.
func Verify(c *call.Conversation, evidence []call.Evidence) []call.Evidence {
	turns := make(map[int]string, len(c.Turns))
	for _, t := range c.Turns {
		turns[t.Index] = words(t.Text)
	}
	verified := make([]call.Evidence, len(evidence))
	for i, e := range evidence {
		e.Turn, e.Supported = place(turns, e.Turn, words(e.Quote))
		verified[i] = e
	}
	return verified
}

func place(turns map[int]string, named int, quote string) (turn int, found bool) {
	if quote == "" {
		return named, false
	}
	if strings.Contains(turns[named], quote) {
		return named, true
	}
	hits := 0
	for index, text := range turns {
		if strings.Contains(text, quote) {
			turn = index
			hits++
		}
	}
	if hits != 1 {
		return named, false
	}
	return turn, true
}
