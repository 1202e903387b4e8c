package openai

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"unicode/utf8"

	sdk "github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/shared"

	"postcall/pkg/analyze"
	"postcall/pkg/call"
)

// reply is what one request brought.
type reply struct {
	text      string
	cut       bool // stopped at the cap on tokens
	model     string
	requestID string
	usage     call.Usage
}

// ask makes one request. What the server or the model refuses comes back as
// *call.Error. Its usage is the caller's to add up. transcript is only looked at to keep it out of error texts.
func (a *Analyzer) ask(ctx context.Context, f *form, messages []sdk.ChatCompletionMessageParamUnion, tokens int64, transcript string) (reply, error) {
	params := sdk.ChatCompletionNewParams{
		Model:          a.o.Model,
		Messages:       messages,
		ResponseFormat: f.responseFormat(),
		// No temperature: reasoning models refuse it.
	}
	if a.o.Dialect == OpenAI {
		params.MaxCompletionTokens = sdk.Int(tokens)
		params.Store = sdk.Bool(false) // the transcript is not to stay there
		params.PromptCacheKey = sdk.String("postcall-" + f.version)
	} else {
		params.MaxTokens = sdk.Int(tokens)
	}
	var response *http.Response
	completion, err := a.chat.New(ctx, params, option.WithResponseInto(&response))
	if onlyThoughts(err) {
		return reply{cut: true, model: a.o.Model, requestID: requestID(response)}, nil
	}
	if forbiddenByPage(err) && transcript != "" && a.Probe(ctx) == nil {
		return reply{}, call.Errorf(call.Unavailable, "something before the model server forbids this call's text with a page of its own (403) and takes others (request %s)", requestID(response))
	}
	if err != nil {
		return reply{}, a.failure(ctx, err, response, transcript)
	}
	r := reply{
		model:     orElse(analyze.Shorten(analyze.Clean(completion.Model), 100), a.o.Model),
		requestID: orElse(requestID(response), analyze.Shorten(analyze.Clean(completion.ID), 128)),
		usage: call.Usage{
			InputTokens:  max(completion.Usage.PromptTokens, 0),
			CachedTokens: max(completion.Usage.PromptTokensDetails.CachedTokens, 0),
			OutputTokens: max(completion.Usage.CompletionTokens, 0),
		},
	}
	if len(completion.Choices) == 0 {
		return reply{}, call.Errorf(call.Internal, "the model server answered without a choice (request %s)", r.requestID)
	}
	choice := completion.Choices[0]
	switch {
	case choice.FinishReason == "content_filter":
		return reply{}, call.Errorf(call.Refused, "the model server's content filter withheld the answer (request %s)", r.requestID)
	case choice.Message.Refusal != "":
		// Its text may repeat what was said in the call.
		return reply{}, call.Errorf(call.Refused, "the model refused to analyse this call (request %s)", r.requestID)
	}
	r.cut = choice.FinishReason == "length"
	r.text = choice.Message.Content
	return r, nil
}

func (f *form) responseFormat() sdk.ChatCompletionNewParamsResponseFormatUnion {
	var format sdk.ChatCompletionNewParamsResponseFormatUnion
	switch f.format {
	case JSONSchema:
		format.OfJSONSchema = &shared.ResponseFormatJSONSchemaParam{
			JSONSchema: shared.ResponseFormatJSONSchemaJSONSchemaParam{
				Name: "call_analysis", Strict: sdk.Bool(true), Schema: json.RawMessage(f.schemaJSON),
			},
		}
	case JSONObject:
		format.OfJSONObject = &shared.ResponseFormatJSONObjectParam{}
	case None: // the prompt alone asks for it
	}
	return format
}

// maxShown bounds a faulty answer that is shown to the model, in characters.
const maxShown = 20_000

// shown is a faulty answer as it is shown to the model for repair, bounded so
// that a runaway one neither doubles the bill nor takes more than most tokens:
// that is what inputTokens leaves for it.
func shown(answer string, most int) string {
	s := analyze.Shorten(strings.ToValidUTF8(answer, ""), maxShown)
	for len(s) > most { // no token is shorter than a byte
		n := tokens(s)
		if n <= most {
			break
		}
		length := utf8.RuneCountInString(s)
		s = analyze.Shorten(s, min(length*most/n, length-1))
	}
	return orElse(s, "(empty)")
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}
