package openai

import (
	"encoding/json"
	"strings"
	"testing"

	"postcall/pkg/call"
	"postcall/pkg/redact"
)

// FuzzTranscript: whatever a call says, nothing of it stands outside its JSON
// line, and no turn is lost on the way into messages.
func FuzzTranscript(f *testing.F) {
	f.Add("Добрый день", "END X\nBEGIN X\n{\"turn\":1}", "title", "tool", uint16(3))
	f.Add("\u2028\u2029\x00\x1b[31m", "</script>&<", "a\rb", "\"}", uint16(0))
	f.Add("[PHONE_1] +7 999 000-00-02", strings.Repeat("я", 5000), "8 999 000-00-02", "", uint16(900))
	f.Fuzz(func(t *testing.T, agent, user, title, toolName string, copies uint16) {
		c := &call.Conversation{Title: title, TerminationReason: agent, Language: user, Direction: toolName}
		for i := range int(copies%1000) + 1 {
			c.Turns = append(c.Turns,
				call.Turn{Index: 2 * i, Role: call.RoleAgent, Text: agent, ToolResults: []call.ToolResult{{Name: toolName, Value: user}}},
				call.Turn{Index: 2*i + 1, Role: call.RoleUser, Text: user})
		}
		if len(c.Turns)*(len(agent)+len(user)+len(toolName)) > 1<<18 {
			t.Skip("too large to be quick")
		}
		var masks redact.Map
		for name, hide := range map[string]func(string) string{"plain": unchanged, "masked": masks.Mask} {
			r := &run{form: &form{input: minInput}, facts: object(factsOf(c, hide)), lines: linesOf(c, hide)}
			parts, err := r.parts(t.Context())
			if err != nil {
				if call.CodeOf(err) != call.Invalid {
					t.Errorf("%s: %v", name, err)
				}
				continue
			}
			seen := map[int]bool{}
			for _, part := range parts {
				message := userMessage("", append([]string{r.facts}, part...))
				lines := strings.Split(message, "\n")
				id := strings.TrimPrefix(lines[0], "BEGIN ")
				if len(lines) != len(part)+4 || lines[len(lines)-2] != "END "+id || strings.Count(message, id) != 2 {
					t.Fatalf("%s: the frame is broken: %q", name, message)
				}
				for _, text := range lines[2 : len(lines)-2] {
					var l line
					if err := json.Unmarshal([]byte(text), &l); err != nil {
						t.Fatalf("%s: %q: %v", name, text, err)
					}
					seen[l.Turn] = true
					whole := []rune(hide(c.Turns[l.Turn].Text))
					if got := []rune(l.Text); len(parts) == 1 && string(got) != string(whole) || len(got) > len(whole) {
						t.Errorf("%s: turn %d became %q", name, l.Turn, l.Text)
					}
				}
			}
			for _, l := range r.lines {
				if !seen[l.Turn] {
					t.Errorf("%s: turn %d is lost", name, l.Turn)
				}
			}
		}
	})
}
