package analyze

import (
	"regexp"

	"postcall/pkg/call"
)

// Signs of a caller who speaks to the analysing model instead of the agent.
// They are matched against the bare words of a turn, and raw against its text.
// A false alarm costs a flag, a miss costs nothing that is not bounded
// elsewhere, so the list stays short and plain.
var (
	injectionWords = regexp.MustCompile(
		` (?:ignore|disregard|forget|override)(?: \S+){0,4} (?:above|previous|prior|preceding|earlier|instructions?|rules|prompts?) ` +
			`| (?:system|developer) (?:prompt|message|instructions?) ` +
			`| you are now | from now on you ` +
			`| (?:give|set|rate|score)(?: \S+){0,5} (?:quality|score|rating) (?:to |of |as )?(?:\d+|five|ten|maximum) ` +
			`| (?:give|rate|score)(?: \S+){0,4} (?:5|five|10|ten) (?:out of |stars? |points? )` +
			`| (?:игнорируй|игнорируйте|проигнорируй|проигнорируйте|забудь|забудьте|отмени|отмените)(?: \S+){0,4} (?:инструкци\S*|указани\S*|правил\S*|промпт\S*|выше|ранее) ` +
			`| не обращай\S* внимани\S*(?: \S+){0,3} (?:инструкци\S*|указани\S*|правил\S*) ` +
			`| системн\S* (?:промпт\S*|сообщени\S*|инструкци\S*|команд\S*) ` +
			`| ты теперь (?:\S+ ){0,2}(?:ассистент|бот|модель|помощник|аналитик|система) ` +
			`| (?:поставь|поставьте|выстави|выставите|ставь)(?: \S+){0,4} (?:оценк\S*|качеств\S*|балл\S*|пятерк\S*) ` +
			`| (?:оценка|качество|quality) (?:равно |равна |двоеточие |colon |equals )(?:5|пять|five|максимальн\S*) ` +
			`| (?:открывающая |открой )?фигурная скобка | open(?:ing)? (?:curly )?brace `)
	injectionText = regexp.MustCompile(
		`(?i)<\|?/?(?:im_start|im_end|system|assistant|endoftext)|\[/?INST\]|(?:^|\n)\s*(?:#+\s*)?(?:system|assistant|developer|система)\s*:` +
			`|["'«]?(?:quality|outcome_code|summary_ru|injection_suspected|client_name)["'»]?\s*[:=]` +
			`|</?script|javascript:|onerror\s*=|(?:begin|end) (?:transcript|of transcript)`)
)

// InjectionSuspected reports whether somebody on the caller's side seems to
// give orders to a machine that reads the transcript.
func InjectionSuspected(c *call.Conversation) bool {
	for _, t := range c.Turns {
		if t.Role == call.RoleAgent {
			continue
		}
		if injectionText.MatchString(t.Text) || injectionWords.MatchString(words(t.Text)) {
			return true
		}
	}
	return false
}
