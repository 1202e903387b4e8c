package app

import (
	"fmt"

	"postcall/pkg/analyze/openai"
	"postcall/pkg/config"
)

// adapt fits the openai analyser to the server and to the deployment: which
// parameters are sent, how long a call may be, the deployment's own rules. A
// fault in the rules stops the start.
func adapt(c config.Worker, o *openai.Options) error {
	dialects := map[string]openai.Dialect{"true": openai.Compatible, "false": openai.OpenAI}
	o.Dialect = dialects[c.OpenAICompat] // by the host where there is none
	o.ContextTokens, o.MaxInputTokens, o.MaxOutputTokens = c.ContextTokens, c.MaxInputTokens, int64(c.MaxOutputTokens)
	if c.Rules == "" {
		return nil
	}
	rules, err := openai.LoadRules(c.Rules)
	if err != nil {
		return fmt.Errorf("ANALYZE_RULES: %w", err)
	}
	o.Rules = rules
	return nil
}
