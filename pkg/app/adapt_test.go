package app

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"postcall/pkg/analyze/openai"
	"postcall/pkg/call"
	"postcall/pkg/config"
)

func TestAdapt(t *testing.T) {
	t.Parallel()
	for compat, want := range map[string]openai.Dialect{"auto": "", "true": openai.Compatible, "false": openai.OpenAI} {
		var o openai.Options
		c := config.Worker{OpenAICompat: compat, ContextTokens: 32_000, MaxInputTokens: 20_000, MaxOutputTokens: 3000, Rules: filepath.Join("..", "..", "docs", "rules.example.yaml")}
		if err := adapt(c, &o); err != nil {
			t.Fatal(err)
		}
		if o.Dialect != want || o.ContextTokens != 32_000 || o.MaxInputTokens != 20_000 || o.MaxOutputTokens != 3000 || len(o.Rules.Default.Topics) == 0 {
			t.Errorf("%s: options are %+v", compat, o)
		}
	}
	wrong := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(wrong, []byte("default:\n  topcs: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := adapt(config.Worker{Rules: wrong}, &openai.Options{})
	if call.CodeOf(err) != call.Invalid || !strings.Contains(err.Error(), "ANALYZE_RULES") || !strings.Contains(err.Error(), wrong+":2:") {
		t.Errorf("error is %v", err)
	}
}
