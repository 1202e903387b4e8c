package openai

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Results name the prompt that they were made with: a prompt that was ever used
// must never say something else. Whoever changes one makes a new file.
func TestPromptsDoNotChangeUnderTheirVersion(t *testing.T) {
	t.Parallel()
	known := map[string]string{
		"v1.md": "cedb43427854165b",
		"v2.md": "64615399583da704",
		"v3.md": "25ffcdfa12fc8406",
	}
	files, err := filepath.Glob("prompts/*")
	if err != nil || len(files) != len(known) {
		t.Errorf("the prompts are %v, %v", files, err)
	}
	for name, want := range known {
		text, err := os.ReadFile(filepath.Join("prompts", name))
		if err != nil {
			t.Fatal(err)
		}
		if got := sum(string(text)); got != want {
			t.Errorf("prompts/%s has changed (%s): give what it says now a file and a version of its own", name, got)
		}
		if name == PromptVersion+".md" && string(text) != prompt {
			t.Errorf("%s is not the prompt of version %s", name, PromptVersion)
		}
	}
	// What code adds to the file belongs to the version too.
	var whole strings.Builder
	for _, o := range []Options{{Prompt: prompt}, {Prompt: prompt, Redact: true, ResponseFormat: JSONObject}} {
		f, err := newForm(Options{Prompt: o.Prompt, Redact: o.Redact, ResponseFormat: o.ResponseFormat, ContextTokens: DefaultContextTokens}, Ruleset{})
		if err != nil {
			t.Fatal(err)
		}
		whole.WriteString(f.system + string(f.schemaJSON))
	}
	if got, want := sum(whole.String()), "e8f3f65f4d100933"; got != want {
		t.Errorf("the system message or the schema of %s has changed (%s): that is a new version, like a changed file", PromptVersion, got)
	}
}

func sum(s string) string {
	h := sha256.Sum256([]byte(s))
	return hex.EncodeToString(h[:8])
}
