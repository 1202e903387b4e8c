package openai

import (
	"crypto/rand"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"strings"

	"postcall/pkg/analyze"
	"postcall/pkg/call"
)

// PromptVersion names the prompt in stored results. A changed prompt is a new
// file with a new version.
const PromptVersion = "v3"

//go:embed prompts/v3.md
var prompt string

// redacted follows the prompt where personal data is masked.
const redacted = `
# Placeholders

Personal data in the conversation was replaced by placeholders such as [PHONE_1] or [EMAIL_2]. Treat each as the data that it stands for, and copy it letter by letter wherever your answer needs it, in quotes and in ` + "`phone`" + ` too.
`

// systemMessage begins every request. It holds nothing that varies with the
// call, and what is the same for all rules stands first, so that the server can
// reuse its work on it.
func systemMessage(o Options, rules Ruleset, schema []byte) string {
	text := o.Prompt
	if o.Redact {
		text += redacted
	}
	text += rules.text()
	if o.ResponseFormat != JSONSchema {
		text += "\n# The JSON object, as a JSON Schema\n\n" + string(schema) + "\n"
	}
	return text
}

// promptVersion names what systemMessage gives.
func promptVersion(o Options, rules Ruleset) string {
	version := PromptVersion
	if o.Prompt != prompt {
		version = versionOf(o.Prompt)
	}
	version += rules.version()
	if o.Redact {
		version += "+redacted"
	}
	return version
}

// versionOf names a prompt that is not the built-in one by what it says, so
// that results of two of them are never taken for one another's.
func versionOf(prompt string) string {
	sum := sha256.Sum256([]byte(prompt))
	return "custom-" + hex.EncodeToString(sum[:4])
}

// line is a turn as the model sees it.
type line struct {
	Turn        int       `json:"turn"`
	Role        call.Role `json:"role"`
	Text        string    `json:"text"`
	Interrupted bool      `json:"interrupted,omitempty"`
	Tools       []tool    `json:"tools,omitempty"`
}

type tool struct {
	Name   string `json:"name"`
	Failed bool   `json:"failed,omitempty"`
}

// facts are what the model is told of a call beside its turns. No numbers, ids
// or names: it needs none, and what it does not get it cannot leak.
type facts struct {
	Direction string `json:"direction,omitempty"`
	Language  string `json:"language,omitempty"`
	Seconds   int    `json:"duration_s,omitempty"`
	Reason    string `json:"termination_reason,omitempty"`
	Title     string `json:"title_by_voice_platform,omitempty"`
}

// Bounds of what is said beside the turns' texts, in characters, and of the
// tools that a turn names.
const (
	maxFact     = 200
	maxCode     = 20
	maxTools    = 20
	maxToolName = 60
)

// factsOf and linesOf are a conversation as the model sees it; hide is applied
// to each text.
func factsOf(c *call.Conversation, hide func(string) string) facts {
	short := func(s string, limit int) string { return analyze.Shorten(hide(analyze.Clean(s)), limit) }
	return facts{
		Direction: short(c.Direction, maxCode), Language: short(c.Language, maxCode), Seconds: int(c.Duration.Seconds()),
		Reason: short(c.TerminationReason, maxFact), Title: short(c.Title, maxFact),
	}
}

func linesOf(c *call.Conversation, hide func(string) string) []line {
	var lines []line
	for _, t := range c.Turns {
		l := line{Turn: t.Index, Role: t.Role, Text: hide(t.Text), Interrupted: t.Interrupted}
		for _, r := range t.ToolResults[:min(len(t.ToolResults), maxTools)] {
			l.Tools = append(l.Tools, tool{Name: analyze.Shorten(hide(analyze.Clean(r.Name)), maxToolName), Failed: r.IsError})
		}
		if l.Text != "" || len(l.Tools) > 0 {
			lines = append(lines, l)
		}
	}
	return lines
}

// userMessage puts JSON objects, one a line, between two lines with a random
// id. JSON keeps a turn within its line, and nobody on the phone can guess the
// id: so nothing that was said can pass for the end of the transcript or for a
// turn of its own. before is said ahead of them; it is never from the call.
func userMessage(before string, objects []string) string {
	var b strings.Builder
	id := rand.Text()
	b.WriteString(before + "BEGIN " + id + "\n")
	for _, o := range objects {
		b.WriteString(o + "\n")
	}
	b.WriteString("END " + id + "\n")
	return b.String()
}

// object encodes what a line of a user message holds.
func object(v any) string {
	var b strings.Builder
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		panic(err) // strings, numbers and flags always encode
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func repairMessage(fault error) string {
	return "Your answer was not accepted: " + fault.Error() +
		". Answer again: the whole JSON object of the described form, corrected, and nothing else."
}
