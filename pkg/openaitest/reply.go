package openaitest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Exchange is one request with the means to answer it.
type Exchange struct {
	Request

	w       http.ResponseWriter
	r       *http.Request
	closing <-chan struct{}
}

// Reply answers one request. Replies may be used any number of times.
type Reply func(Exchange)

// Success answers with AnswerTo the request.
func Success() Reply { return Answer(nil) }

// Answer answers with AnswerTo the request after edit has changed it: the way
// to put words into the model's mouth. A nil edit changes nothing.
func Answer(edit func(answer map[string]any)) Reply {
	return func(x Exchange) {
		answer := AnswerTo(x.Request)
		if edit != nil {
			edit(answer)
		}
		x.complete("stop", encode(answer), "")
	}
}

// Content answers with a text as the model's message.
func Content(text string) Reply { return func(x Exchange) { x.complete("stop", text, "") } }

// Fenced answers as models without a response format like to: the right JSON
// between a greeting and code fences.
func Fenced() Reply {
	return func(x Exchange) {
		x.complete("stop", "Here is the analysis:\n```json\n"+encode(AnswerTo(x.Request))+"\n```\nAnything else?", "")
	}
}

// Thinking answers as reasoning models do on a server that does not part their
// thoughts from the answer, and whose template has begun them.
func Thinking() Reply {
	return func(x Exchange) {
		x.complete("stop", "The form is {\"quality\": …}. A 4 then: {\"quality\": 4}?\n</think>\n\n"+encode(AnswerTo(x.Request)), "")
	}
}

// Refusal answers with a message of the model that it will not.
func Refusal() Reply {
	return func(x Exchange) { x.complete("stop", "", "I'm sorry, I can't assist with that request.") }
}

// Length answers with a text cut off at the cap on tokens.
func Length() Reply {
	return func(x Exchange) { x.complete("length", `{"injection_suspected":false,"criteria":[{"crit`, "") }
}

// OutputLimit answers 400 as for a reasoning model that used up the cap on tokens
// before it had written anything.
func OutputLimit() Reply {
	return Error(http.StatusBadRequest, "invalid_request_error", "", "",
		"Could not finish the message because max_tokens or model output limit was reached. Please try again with higher max_tokens.")
}

// ContentFilter answers with a text that the server's filter took away.
func ContentFilter() Reply { return func(x Exchange) { x.complete("content_filter", "", "") } }

// InvalidJSON answers with prose.
func InvalidJSON() Reply { return Content("The customer wanted a flat, and all went well.") }

// SchemaViolation answers with JSON whose outcome is on no list and whose
// quality is out of bounds.
func SchemaViolation() Reply {
	return Answer(func(a map[string]any) { a["outcome_code"], a["quality"] = "sold", 11 })
}

// NoChoices answers 200 with an empty list of choices.
func NoChoices() Reply {
	return func(x Exchange) {
		body := x.completion("stop", "", "")
		body["choices"] = []any{}
		x.json(http.StatusOK, body)
	}
}

// Error answers with the status and the real server's form of error. Empty
// code and param are sent as null.
func Error(status int, kind, code, param, message string) Reply {
	null := func(s string) any {
		if s == "" {
			return nil
		}
		return s
	}
	return func(x Exchange) {
		x.json(status, map[string]any{"error": map[string]any{
			"message": message, "type": kind, "param": null(param), "code": null(code),
		}})
	}
}

// RateLimited answers 429 with Retry-After (whole seconds) and Retry-After-Ms.
// With a negative wait it tells neither.
func RateLimited(wait time.Duration) Reply {
	return func(x Exchange) {
		if wait >= 0 {
			x.w.Header().Set("Retry-After", strconv.Itoa(int((wait+time.Second-1)/time.Second)))
			x.w.Header().Set("Retry-After-Ms", strconv.FormatInt(wait.Milliseconds(), 10))
		}
		Error(http.StatusTooManyRequests, "tokens", "rate_limit_exceeded", "",
			fmt.Sprintf("Rate limit reached for %s in organization org-test on tokens per min (TPM): Limit 30000, Used 29990, Requested 2041. Please try again in %s.", x.Chat.Model, wait))(x)
	}
}

// InsufficientQuota answers 429 as for an account without money.
func InsufficientQuota() Reply {
	return Error(http.StatusTooManyRequests, "insufficient_quota", "insufficient_quota", "",
		"You exceeded your current quota, please check your plan and billing details. For more information on this error, read the docs: https://platform.openai.com/docs/guides/error-codes/api-errors.")
}

// Unauthorized answers 401 as for a wrong key, which it names in full.
func Unauthorized() Reply {
	return func(x Exchange) {
		wrongKey(strings.TrimPrefix(x.Header.Get("Authorization"), "Bearer ")).reply()(x)
	}
}

func wrongKey(key string) *fault {
	return &fault{http.StatusUnauthorized,
		"Incorrect API key provided: " + key + ". You can find your API key at https://platform.openai.com/account/api-keys.",
		"invalid_request_error", "invalid_api_key", ""}
}

// ModelNotFound answers 404 as for a model that is not there.
func ModelNotFound() Reply {
	return func(x Exchange) {
		Error(http.StatusNotFound, "invalid_request_error", "model_not_found", "",
			fmt.Sprintf("The model `%s` does not exist or you do not have access to it.", x.Chat.Model))(x)
	}
}

// ServerError answers with the status (500, 502, 503 …) and an error body.
func ServerError(status int) Reply {
	return Error(status, "server_error", "", "", "The server had an error while processing your request. Sorry about that!")
}

// Page answers with the status and a page of HTML, as proxies do.
func Page(status int) Reply {
	return func(x Exchange) {
		x.w.Header().Set("Content-Type", "text/html")
		x.w.WriteHeader(status)
		fmt.Fprintf(x.w, "<html><head><title>%d %s</title></head><body>nginx</body></html>", status, http.StatusText(status))
	}
}

// Hang answers nothing until the client goes away or the test ends.
func Hang() Reply { return func(x Exchange) { x.wait(nil) } }

// HangInBody sends a good status and the beginning of a body, then nothing.
func HangInBody() Reply {
	return func(x Exchange) {
		x.w.Header().Set("Content-Type", "application/json")
		x.w.WriteHeader(http.StatusOK)
		_, _ = x.w.Write([]byte(`{"id":"chatcmpl-`))
		_ = http.NewResponseController(x.w).Flush()
		x.wait(nil)
	}
}

// Drop closes the connection without an answer.
func Drop() Reply {
	return func(x Exchange) {
		conn, _, err := http.NewResponseController(x.w).Hijack()
		if err != nil {
			panic(err) // HTTP/1.1 without TLS always can
		}
		_ = conn.Close()
	}
}

// When answers with next once ready is closed: a slow start without a clock.
func When(ready <-chan struct{}, next Reply) Reply {
	return func(x Exchange) {
		if x.wait(ready) {
			next(x)
		}
	}
}

// After answers with next after a time.
func After(d time.Duration, next Reply) Reply {
	return func(x Exchange) {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
			next(x)
		case <-x.closing:
		case <-x.r.Context().Done():
		}
	}
}

// wait reports whether ready was closed before the client or the test ended.
func (x Exchange) wait(ready <-chan struct{}) bool {
	select {
	case <-ready:
		return true
	case <-x.closing:
	case <-x.r.Context().Done():
	}
	return false
}

func (x Exchange) complete(finish, content, refusal string) {
	x.json(http.StatusOK, x.completion(finish, content, refusal))
}

func (x Exchange) completion(finish, content, refusal string) map[string]any {
	message := map[string]any{"role": "assistant", "content": content, "refusal": nil, "annotations": []any{}}
	if refusal != "" {
		message["content"], message["refusal"] = nil, refusal
	}
	in, out := len(x.Body)/4, len(content)/4
	return map[string]any{
		"id": fmt.Sprintf("chatcmpl-%d", x.N), "object": "chat.completion", "created": 1795000000, "model": x.Chat.Model,
		"choices": []any{map[string]any{"index": 0, "message": message, "logprobs": nil, "finish_reason": finish}},
		"usage": map[string]any{
			"prompt_tokens": in, "completion_tokens": out, "total_tokens": in + out,
			"prompt_tokens_details":     map[string]any{"cached_tokens": in / 2, "audio_tokens": 0},
			"completion_tokens_details": map[string]any{"reasoning_tokens": 0, "audio_tokens": 0, "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0},
		},
		"service_tier": "default", "system_fingerprint": "fp_test",
	}
}

func (x Exchange) json(status int, body any) {
	x.w.Header().Set("Content-Type", "application/json")
	x.w.WriteHeader(status)
	_, _ = x.w.Write([]byte(encode(body)))
}

func encode(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // only what this package made
	}
	return string(b)
}

// Turn is a line of the transcript as the request carries it.
type Turn struct {
	Turn int    `json:"turn"`
	Role string `json:"role"`
	Text string `json:"text"`
}

// Transcript finds the transcript in the request's user messages: each line
// that is a JSON object with a turn, a role and a text.
func (q Request) Transcript() []Turn {
	var turns []Turn
	for i, m := range q.Chat.Messages {
		if m.Role != "user" {
			continue
		}
		for line := range strings.Lines(q.Chat.Text(i)) {
			var t Turn
			if json.Unmarshal([]byte(line), &t) == nil && t.Role != "" && t.Text != "" {
				turns = append(turns, t)
			}
		}
	}
	return turns
}

// Parts finds the analyses of a call's parts in the request's user messages:
// each line that is a JSON object with a part and its answer.
func (q Request) Parts() []map[string]any {
	var parts []map[string]any
	for i, m := range q.Chat.Messages {
		if m.Role != "user" {
			continue
		}
		for line := range strings.Lines(q.Chat.Text(i)) {
			var p struct {
				Part   string         `json:"part"`
				Answer map[string]any `json:"answer"`
			}
			if json.Unmarshal([]byte(line), &p) == nil && p.Part != "" && p.Answer != nil {
				parts = append(parts, p.Answer)
			}
		}
	}
	return parts
}

// listed gives the first value of the closed list that the request's schema has
// for a property of the answer, free if it has none.
func (q Request) listed(property, free string) string {
	if q.Chat.ResponseFormat == nil || q.Chat.ResponseFormat.JSONSchema == nil {
		return free
	}
	var schema struct {
		Properties map[string]struct {
			AnyOf []struct {
				Enum []string `json:"enum"`
			} `json:"anyOf"`
		} `json:"properties"`
	}
	if json.Unmarshal(q.Chat.ResponseFormat.JSONSchema.Schema, &schema) != nil {
		return free
	}
	for _, form := range schema.Properties[property].AnyOf {
		if len(form.Enum) > 0 {
			return form.Enum[0]
		}
	}
	return free
}

// AnswerTo makes the answer of a well-behaved model to a request: it fits the
// analyser's schema, quotes the transcript truly, claims no more quality than
// the criteria that it proves, and is the same for the same transcript. For the
// parts of a long call it takes the evidence of all. Tests change it with Answer.
func AnswerTo(q Request) map[string]any {
	turns := q.Transcript()
	criteria := []any{}
	evidence := []any{}
	judged := map[any]bool{}
	for _, p := range q.Parts() {
		if list, ok := p["evidence"].([]any); ok {
			evidence = append(evidence, list...)
			evidence = evidence[:min(len(evidence), 10)]
		}
		list, _ := p["criteria"].([]any)
		for _, k := range list {
			k, _ := k.(map[string]any)
			if k["verdict"] == "met" && !judged[k["criterion"]] {
				judged[k["criterion"]] = true
				criteria = append(criteria, k)
			}
		}
	}
	prove := func(criterion string, t Turn) {
		if !judged[criterion] {
			judged[criterion] = true
			criteria = append(criteria, map[string]any{"criterion": criterion, "turn": t.Turn, "quote": beginning(t.Text), "verdict": "met"})
		}
	}
	for _, t := range turns {
		switch {
		case t.Role == "user" && judged["question_answered"]:
			prove("next_step_agreed", t)
		case t.Role == "user":
			prove("need_identified", t)
		case judged["need_identified"]:
			prove("question_answered", t)
		default:
			prove("courteous", t)
		}
		if t.Role == "user" && len(evidence) == 0 {
			evidence = append(evidence, map[string]any{"claim": "Клиент объяснил, зачем звонит", "turn": t.Turn, "quote": beginning(t.Text)})
		}
	}
	var quality any
	if len(criteria) > 0 {
		quality = max(len(criteria), 2)
	}
	return map[string]any{
		"injection_suspected": false,
		"criteria":            criteria,
		"evidence":            evidence,
		"client_name":         nil,
		"phone":               nil,
		"topic":               q.listed("topic", "Тестовая тема"),
		"intent":              q.listed("intent", "Узнать подробности"),
		"outcome_code":        "informed",
		"outcome":             q.listed("outcome", "Клиент получил ответ"),
		"sentiment":           "neutral",
		"summary_ru":          fmt.Sprintf("Клиент задал вопрос, агент ответил. Реплик в разговоре: %d.", len(turns)),
		"recommendations":     []any{"Проверить, остались ли у клиента вопросы."},
		"quality":             quality,
	}
}

// beginning is a text's first words, short enough for a quote.
func beginning(s string) string {
	r := []rune(s)
	if len(r) <= 200 {
		return s
	}
	cut := string(r[:200])
	if space := strings.LastIndexByte(cut, ' '); space > 0 {
		cut = cut[:space]
	}
	return cut
}
