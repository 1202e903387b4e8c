// Package eval measures an analyser against calls that people have labelled.
//
// A folder of calls (Load) is analysed (Run), what came of it is held against
// the labels (Score), and two configurations can be held against each other
// (Compare). Thirty made calls are part of the program (Calls).
//
// How agreement is counted, so that its figures can be read:
//
//   - A field counts on the calls whose label names it. A label of null means
//     that the call does not tell: an analyser that gives a value then has
//     invented it, one that gives null where there is a value has missed it.
//   - An answer that was refused or is not of the asked form disagrees in every
//     labelled field. A call that could not be asked about (server away, limit
//     reached, bad key, stopped) counts nowhere but among the failures.
//   - topic and intent are free texts. A label lists the accepted ones; an
//     answer agrees with one if it has each of its words, endings aside:
//     "покупка квартиры" accepts "Покупка двухкомнатной квартиры в рассрочку".
//   - client_name agrees if it has the same words as an accepted name, phone if
//     it is the same number in E.164, the others if they are equal.
package eval

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"postcall/pkg/analyze"
	"postcall/pkg/call"
)

// Options say how a run is done.
type Options struct {
	Concurrency int           // analyses at once; 0 means 1
	Limit       time.Duration // of one attempt; 0 means 5 minutes
	Tries       int           // attempts a call where trying again may help; 0 means 3
	Backoff     time.Duration // before another attempt, doubled each time, unless the server says; 0 means 1 second
	Progress    func()        // called after each call, by one goroutine at a time; may be nil
}

// maxWait bounds how long a server can make a call wait for its next attempt.
const maxWait = time.Minute

// Outcome is what came of one call: an analysis or an error. Both are nil if
// the run ended before.
type Outcome struct {
	Call     *Call
	Analysis *call.Analysis
	Err      error
}

// judged reports whether the analyser has shown what it makes of the call: an
// answer, or one that is none.
func (o Outcome) judged() bool {
	if o.Err == nil {
		return o.Analysis != nil
	}
	switch call.CodeOf(o.Err) {
	case call.Internal, call.Invalid, call.Refused:
		return true
	default:
		return false
	}
}

// Run analyses the calls and gives an outcome for each, in their order. It
// ends early, with the outcomes so far and an error, when ctx ends or when the
// server does not take the credentials, since every other call would fail
// alike.
func Run(ctx context.Context, a analyze.Analyzer, calls []Call, o Options) ([]Outcome, error) {
	o.Concurrency = max(o.Concurrency, 1)
	if o.Limit <= 0 {
		o.Limit = 5 * time.Minute
	}
	if o.Tries <= 0 {
		o.Tries = 3
	}
	if o.Backoff <= 0 {
		o.Backoff = time.Second
	}
	outcomes := make([]Outcome, len(calls))
	for i := range calls {
		outcomes[i].Call = &calls[i]
	}
	var mu sync.Mutex
	g, running := errgroup.WithContext(ctx)
	g.SetLimit(o.Concurrency)
	for i := range outcomes {
		if running.Err() != nil {
			break // the group or ctx says why
		}
		g.Go(func() error {
			if err := running.Err(); err != nil {
				return err // it ended while this one waited for its place
			}
			analysis, err := attempt(running, a, outcomes[i].Call, o)
			if running.Err() != nil && err != nil {
				return err // stopped in the middle: nothing is known of this call
			}
			outcomes[i].Analysis, outcomes[i].Err = analysis, err
			if o.Progress != nil {
				mu.Lock()
				defer mu.Unlock()
				o.Progress()
			}
			if call.CodeOf(err) == call.Credentials {
				return err
			}
			return nil
		})
	}
	err := g.Wait()
	if cause := context.Cause(ctx); cause != nil {
		return outcomes, call.Errorf(call.Unavailable, "the evaluation was stopped: %w", cause)
	}
	return outcomes, err
}

func attempt(ctx context.Context, a analyze.Analyzer, c *Call, o Options) (*call.Analysis, error) {
	wait := o.Backoff
	for try := 1; ; try++ {
		analysis, err := once(ctx, a, c, o.Limit)
		code := call.CodeOf(err)
		if err == nil || code != call.RateLimited && code != call.Unavailable || try == o.Tries || ctx.Err() != nil {
			return analysis, err
		}
		if told := retryAfter(err); told > 0 {
			wait = told
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(min(wait, maxWait)):
		}
		wait *= 2
	}
}

func once(ctx context.Context, a analyze.Analyzer, c *Call, limit time.Duration) (*call.Analysis, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	conversation := c.Conversation
	analysis, err := a.Analyze(ctx, &conversation)
	if err != nil {
		return nil, err
	}
	if err := analysis.Result.Validate(); err != nil {
		return nil, call.Errorf(call.Internal, "the analyser gave an invalid result: %w", err)
	}
	return analysis, nil
}

func retryAfter(err error) time.Duration {
	if e, ok := errors.AsType[*call.Error](err); ok {
		return e.RetryAfter
	}
	return 0
}
