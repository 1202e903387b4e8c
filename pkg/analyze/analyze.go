// Package analyze turns a conversation into a result. It holds the Analyzer
// interface and what every analyser shares; its sub-packages are the analysers.
package analyze

import (
	"context"

	"postcall/pkg/call"
)

// Analyzer makes an analysis of a conversation in which somebody spoke.
//
// The analysis comes back validated, with Analyzer, Model, PromptVersion,
// Result, Usage, Duration and RequestID filled in. Errors are *call.Error:
// RateLimited, Unavailable and Internal may pass, Credentials wants a person,
// Refused and Invalid fail again for the same conversation.
type Analyzer interface {
	Name() string
	Analyze(ctx context.Context, c *call.Conversation) (*call.Analysis, error)
}
