package openai

import (
	"crypto/rand"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"strings"

	"postcall/pkg/call"
)

// PromptVersion names the prompt in stored results. A changed prompt is a new
// file with a new version.
const PromptVersion = "v1"

//go:embed prompts/v1.md
var prompt string

// redacted follows the prompt where personal data is masked.
const redacted = `
# Placeholders

Personal data in the conversation was replaced by placeholders such as [PHONE_1] or [EMAIL_2]. Treat each as the data that it stands for, and copy it letter by letter wherever your answer needs it, in quotes and in ` + "`phone`" + ` too.
`

// systemMessage is the constant part of every request. It comes first and
// holds nothing that varies, so that the server can reuse its work on it.
func systemMessage(o Options) string {
	text := o.Prompt
	if o.Redact {
		text += redacted
	}
	if o.ResponseFormat != JSONSchema {
		text += "\n# The JSON object, as a JSON Schema\n\n" + string(schemaJSON) + "\n"
	}
	return text
}

// promptVersion names what systemMessage gives.
func promptVersion(o Options) string {
	version := PromptVersion
	if o.Prompt != prompt {
		version = versionOf(o.Prompt)
	}
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

// userMessage encodes a conversation, one JSON object a line, between two lines
// with a random id. JSON keeps a turn within its line, and nobody on the phone
// can guess the id: so nothing that was said can pass for the end of the
// transcript or for a turn of its own. hide is applied to each text.
func userMessage(c *call.Conversation, hide func(string) string) string {
	var b strings.Builder
	id := rand.Text()
	b.WriteString("BEGIN " + id + "\n")
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	encode := func(v any) {
		if err := encoder.Encode(v); err != nil {
			panic(err) // strings, numbers and flags always encode
		}
	}
	encode(facts{
		Direction: c.Direction, Language: c.Language, Seconds: int(c.Duration.Seconds()),
		Reason: hide(c.TerminationReason), Title: hide(c.Title),
	})
	for _, t := range c.Turns {
		l := line{Turn: t.Index, Role: t.Role, Text: hide(t.Text), Interrupted: t.Interrupted}
		for _, r := range t.ToolResults {
			l.Tools = append(l.Tools, tool{Name: r.Name, Failed: r.IsError})
		}
		if l.Text != "" || len(l.Tools) > 0 {
			encode(l)
		}
	}
	b.WriteString("END " + id + "\n")
	return b.String()
}

func repairMessage(fault error) string {
	return "Your answer was not accepted: " + fault.Error() +
		". Answer again: the whole JSON object of the described form, corrected, and nothing else."
}
