package openai

import (
	"sync"
	"unicode/utf8"

	"github.com/tiktoken-go/tokenizer"

	"postcall/pkg/call"
)

// vocabulary is that of OpenAI's newer models. It is embedded, and large once
// it is unpacked: only a call that may not fit brings it in.
var vocabulary = sync.OnceValues(func() (tokenizer.Codec, error) { return tokenizer.Get(tokenizer.O200kBase) })

// stretch bounds what is counted at once, in bytes: merging takes time in
// proportion to the square of a word's length, and a word may be as long as
// somebody likes.
const stretch = 1024

// tokens counts a text's tokens, at most a few too many. Each has at least one
// byte: where the vocabulary fails, the bytes are the bound.
func tokens(s string) int {
	codec, err := vocabulary()
	if err != nil {
		return len(s)
	}
	sum := 0
	for len(s) > 0 {
		end := min(stretch, len(s))
		for end < len(s) && end > 0 && !utf8.RuneStart(s[end]) {
			end--
		}
		if end == 0 { // no text at all
			end = min(stretch, len(s))
		}
		n, err := codec.Count(s[:end])
		if err != nil {
			n = end
		}
		sum += n
		s = s[end:]
	}
	return sum
}

// minInput is the least that a user message needs to be worth a request: some
// turns, and the answers of two parts.
const minInput = 4000

// framing is what the delimiters of messages, the line that tells a part and the
// request for a repair take, in tokens.
const framing = 300

// shownTokens is the most that a faulty answer takes of the request for its
// repair: an answer in plain words is not longer.
func shownTokens(o Options) int { return min(int(wider(o)), maxShown/3) }

// wider is the cap on a second answer after the first was cut off.
func wider(o Options) int64 {
	return max(o.MaxOutputTokens, min(4*o.MaxOutputTokens, int64(o.ContextTokens/4)))
}

// inputTokens is how long a user message may be: what the window leaves beside
// the system message, the schema, the widest answer and a repair.
func inputTokens(o Options, f *form) (int, error) {
	input := o.ContextTokens - int(wider(o)) - shownTokens(o)
	if o.MaxInputTokens > 0 {
		input = min(input, o.MaxInputTokens)
	}
	constant := f.system
	if f.format == JSONSchema {
		constant += string(f.schemaJSON)
	}
	// The bytes are a bound that costs nothing; counted is only where it matters.
	left := input - framing - len(constant)
	if left < o.ContextTokens/2 {
		left = input - framing - tokens(constant)
	}
	if left < minInput {
		return 0, call.Errorf(call.Invalid, "a window of %d tokens with %d of input leaves %d for the conversation, less than %d", o.ContextTokens, input, max(left, 0), minInput)
	}
	return left, nil
}
