package openai

import (
	"regexp"

	"postcall/pkg/call"
)

// Price is what a model costs, in US dollars per million tokens.
type Price struct {
	Input  float64 `yaml:"input"`  // input that was not cached
	Cached float64 `yaml:"cached"` // input that was
	Output float64 `yaml:"output"`
}

// prices are OpenAI's list prices of the standard tier, as published in spring
// 2026. They hold for its own
// server only; a model that is not here has no known cost until Options.Prices
// tells it.
var prices = map[string]Price{
	"gpt-4o":       {2.50, 1.25, 10},
	"gpt-4o-mini":  {0.15, 0.075, 0.60},
	"gpt-4.1":      {2, 0.50, 8},
	"gpt-4.1-mini": {0.40, 0.10, 1.60},
	"gpt-4.1-nano": {0.10, 0.025, 0.40},
	"gpt-5":        {1.25, 0.125, 10},
	"gpt-5-mini":   {0.25, 0.025, 2},
	"gpt-5-nano":   {0.05, 0.005, 0.40},
	"gpt-5.1":      {1.25, 0.125, 10},
	"gpt-5.2":      {1.75, 0.175, 14},
	"gpt-5.4":      {2.50, 0.25, 15},
	"gpt-5.4-mini": {0.75, 0.075, 4.50},
	"gpt-5.4-nano": {0.20, 0.02, 1.25},
}

// snapshot is the date at the end of the name of a model's fixed version.
var snapshot = regexp.MustCompile(`-\d{4}-\d{2}-\d{2}$`)

// cost is the price of what was used, nil when the model's is not known or the
// server does not tell what was used: not known is not free.
func (a *Analyzer) cost(model string, u call.Usage) *float64 {
	if u.InputTokens == 0 && u.OutputTokens == 0 {
		return nil
	}
	price, known := a.o.Prices[model]
	for _, name := range []string{a.o.Model, snapshot.ReplaceAllString(model, "")} {
		if !known {
			price, known = a.o.Prices[name]
		}
	}
	if !known && a.official {
		price, known = prices[snapshot.ReplaceAllString(model, "")]
	}
	if !known {
		return nil
	}
	cached := min(u.CachedTokens, u.InputTokens)
	return new((float64(u.InputTokens-cached)*price.Input + float64(cached)*price.Cached + float64(u.OutputTokens)*price.Output) / 1e6)
}
