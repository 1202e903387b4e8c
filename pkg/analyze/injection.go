package analyze

import (
	"regexp"
	"slices"
	"strings"

	"postcall/pkg/call"
)

// order is a sign of a caller who speaks to the analysing model instead of the
// agent, in the bare words of a turn. A false alarm costs a flag, a miss costs
// nothing that is not bounded elsewhere, so the list stays short and plain.
type order struct {
	// begins are the words that it begins with; one that ends in * stands for
	// all with this beginning. Only where one of them stands is the rest looked
	// for: expressions are slow on long turns.
	begins string
	rest   string // an expression for what follows
}

// orderedAbroad are instructions in other languages.
const orderedAbroad = `instru\S*|istruzion\S*|anweisung\S*|consign\S*|polece\S*|talimat\S*|інструкц\S*|вказівк\S*`

var orders = []order{
	{"ignore disregard forget override", `(?: \S+){0,4} (?:above|previous|prior|preceding|earlier|instructions?|rules|prompts?) `},
	// The same in French, Spanish, Portuguese, Italian, German, Polish, Turkish,
	// Ukrainian and Belarusian.
	{"ignor* zignoruj* ігнор* ігнар* проігнор*", `(?: \S+){0,4} (?:` + orderedAbroad + `|pr[eé]c[eé]dent\S*|anterior\S*|vorherig\S*|poprzedni\S*|попередн\S*|папярэдн\S*) `},
	{"oubli* olvida* esquece* esqueça* dimentica* vergiss* vergessen* zapomnij* unut* забудь* забудзь*", `(?: \S+){0,4} (?:` + orderedAbroad + `) `},
	{"system developer", ` (?:prompt|message|instructions?) `},
	{"you", ` are now `},
	{"from", ` now on you `},
	{"give set rate score", `(?: \S+){0,5} (?:quality|score|rating) (?:to |of |as )?(?:\d+|five|ten|maximum) `},
	{"give rate score", `(?: \S+){0,4} (?:5|five|10|ten) (?:out of |stars? |points? )`},
	{"игнорируй игнорируйте проигнорируй проигнорируйте забудь забудьте отмени отмените", `(?: \S+){0,4} (?:инструкци\S*|указани\S*|правил\S*|промпт\S*|выше|ранее) `},
	{"не", ` обращай\S* внимани\S*(?: \S+){0,3} (?:инструкци\S*|указани\S*|правил\S*) `},
	{"системн*", ` (?:промпт\S*|сообщени\S*|инструкци\S*|команд\S*) `},
	{"ты", ` теперь (?:\S+ ){0,2}(?:ассистент|бот|модель|помощник|аналитик|система) `},
	{"поставь поставьте выстави выставите ставь", `(?: \S+){0,4} (?:оценк\S*|качеств\S*|балл\S*|пятерк\S*) `},
	{"оценка качество quality", ` (?:равно |равна |двоеточие |colon |equals )(?:5|пять|five|максимальн\S*) `},
	{"фигурная", ` скобка `},
	{"open opening", ` (?:curly )?brace `},
}

// orderReach is how far the rest of an order may reach, in bytes.
const orderReach = 512

// The expressions for what follows a word, and for what follows one with a
// beginning.
var orderWords, orderStems = func() (byWord, byStem map[string][]*regexp.Regexp) {
	byWord, byStem = map[string][]*regexp.Regexp{}, map[string][]*regexp.Regexp{}
	for _, o := range orders {
		rest := regexp.MustCompile("^" + o.rest)
		for begin := range strings.FieldsSeq(o.begins) {
			if stem, open := strings.CutSuffix(begin, "*"); open {
				byStem[stem] = append(byStem[stem], rest)
			} else {
				byWord[begin] = append(byWord[begin], rest)
			}
		}
	}
	return byWord, byStem
}()

// ordered reports whether bare words hold an order.
func ordered(words string) bool {
	for from := 0; from+1 < len(words); {
		to := from + 1 + strings.IndexByte(words[from+1:], ' ') // there is one at the end
		word, rest := words[from+1:to], words[to:min(to+orderReach, len(words))]
		follows := func(e *regexp.Regexp) bool { return e.MatchString(rest) }
		if slices.ContainsFunc(orderWords[word], follows) {
			return true
		}
		for stem, expressions := range orderStems {
			if strings.HasPrefix(word, stem) && slices.ContainsFunc(expressions, follows) {
				return true
			}
		}
		from = to
	}
	return false
}

// injectionText are the signs in a turn as it stands. Each alternative holds one
// of injectionSigns or the word transcript.
var injectionText = regexp.MustCompile(
	`(?i)<\|?/?(?:im_start|im_end|system|assistant|endoftext)|\[/?INST\]|(?:^|\n)\s*(?:#+\s*)?(?:system|assistant|developer|система)\s*:` +
		`|["'«]?(?:quality|outcome_code|summary_ru|injection_suspected|client_name)["'»]?\s*[:=]` +
		`|</?script|javascript:|onerror\s*=|(?:begin|end) (?:transcript|of transcript)`)

const injectionSigns = "<[:="

// InjectionSuspected reports whether somebody on the caller's side seems to
// give orders to a machine that reads the transcript.
func InjectionSuspected(c *call.Conversation) bool { return slices.ContainsFunc(c.Turns, Orders) }

// Orders reports whether a turn seems to hold such an order.
func Orders(t call.Turn) bool {
	if t.Role == call.RoleAgent {
		return false
	}
	bare := words(t.Text)
	return ordered(bare) || (strings.ContainsAny(t.Text, injectionSigns) || strings.Contains(bare, "transcript")) && injectionText.MatchString(t.Text)
}
