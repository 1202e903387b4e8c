// Package analyze turns a conversation into a result. It holds the Analyzer
// interface and what every analyser shares; its sub-packages are the analysers.
package analyze

import (
	"context"
	"errors"

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

// Resumer is an Analyzer whose work on a long call goes on where an earlier
// attempt ended.
type Resumer interface {
	Analyzer
	// Resume is Analyze in bounded attempts. Where the call takes longer than one,
	// the error is ErrUnfinished: each attempt answers one question at least, so
	// that Resume with the same memory comes to an end.
	Resume(ctx context.Context, c *call.Conversation, m Memory) (*call.Analysis, error)
}

// Memory keeps the answers to the questions about one call, under a digest of
// all that was asked.
type Memory interface {
	// Recall gives a kept answer, nil when there is none.
	Recall(ctx context.Context, question []byte) ([]byte, error)
	Keep(ctx context.Context, question, answer []byte) error
}

// ErrUnfinished means that the time of an attempt is used up; what was answered
// is kept.
var ErrUnfinished = errors.New("the call takes longer than one attempt; what was answered is kept")
