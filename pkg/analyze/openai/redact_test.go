package openai

import (
	"strings"
	"testing"

	"postcall/pkg/analyze/analyzetest"
	"postcall/pkg/call"
	"postcall/pkg/openaitest"
)

// What is personal never reaches the server; the result has it all the same.
func TestRedacted(t *testing.T) {
	t.Parallel()
	a, server := setup(t, func(o *Options) { o.Redact = true }, openaitest.Answer(func(a map[string]any) {
		a["phone"] = "[PHONE_1]"
		a["summary_ru"] = "Клиент просит позвонить на [PHONE_1] или написать на [EMAIL_1]."
		a["recommendations"] = []any{"Позвонить: [PHONE_1]", "Узнать, чей это номер: [PHONE_7]"}
		a["evidence"] = []any{map[string]any{"claim": "Номер [PHONE_1]", "turn": 4, "quote": "Номер [PHONE_1], почта [EMAIL_1]"}}
		a["criteria"] = []any{}
	}))
	c := analyzetest.Conversation()
	c.ExternalNumber, c.Title = "", "Звонок с +375 29 123-45-67"
	c.Turns[4].Text = "Номер +375 29 123-45-67, почта olga@example.com."
	got, err := a.Analyze(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	for _, request := range server.Requests() {
		for _, personal := range []string{"123-45-67", "olga@"} {
			if strings.Contains(string(request.Body), personal) {
				t.Errorf("%s left for the server", personal)
			}
		}
		if !strings.Contains(string(request.Body), "[PHONE_1]") {
			t.Error("the placeholder is not in the request")
		}
	}
	r := got.Result
	if r.Phone == nil || *r.Phone != "+375291234567" {
		t.Errorf("phone is %v", r.Phone)
	}
	if r.SummaryRU != "Клиент просит позвонить на +375 29 123-45-67 или написать на olga@example.com." ||
		r.Recommendations[0] != "Позвонить: +375 29 123-45-67" || r.Recommendations[1] != "Узнать, чей это номер: [PHONE_7]" {
		t.Errorf("texts are %q, %q", r.SummaryRU, r.Recommendations)
	}
	if len(r.Evidence) != 1 || !r.Evidence[0].Supported || r.Evidence[0].Quote != "Номер +375 29 123-45-67, почта olga@example.com" {
		t.Errorf("evidence is %+v", r.Evidence)
	}
	if got.PromptVersion != PromptVersion+"+redacted" {
		t.Errorf("prompt version %s", got.PromptVersion)
	}
}

// A number that was dictated in words comes back in words, and is a number to
// call all the same.
func TestRedactedInWords(t *testing.T) {
	t.Parallel()
	a, server := setup(t, func(o *Options) { o.Redact = true }, openaitest.Answer(func(a map[string]any) {
		a["phone"] = "[PHONE_1]"
		a["criteria"], a["evidence"] = []any{}, []any{}
	}))
	c := analyzetest.Conversation()
	c.ExternalNumber = ""
	c.Turns[4].Text = "Восемь девятьсот девяносто девять сто двадцать три сорок пять шестьдесят семь."
	got, err := a.Analyze(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if body := string(server.Requests()[0].Body); strings.Contains(body, "девяносто девять") || !strings.Contains(body, "[PHONE_1]") {
		t.Error("the number left for the server")
	}
	if got.Result.Phone == nil || *got.Result.Phone != "+79991234567" {
		t.Errorf("phone is %v", got.Result.Phone)
	}
}

// The agent asks, and the answer is bare: it does not leave either.
func TestRedactedAnswers(t *testing.T) {
	t.Parallel()
	a, server := setup(t, func(o *Options) { o.Redact = true }, openaitest.Success())
	c := analyzetest.Conversation()
	c.Turns[3].Text, c.Turns[4].Text = "Назовите серию и номер паспорта.", "Сорок пять ноль девять, 123 456."
	if _, err := a.Analyze(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if body := string(server.Requests()[0].Body); strings.Contains(body, "123 456") || !strings.Contains(body, "[PASSPORT_1]") {
		t.Error("the passport left for the server")
	}
}

func TestProbe(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		reply openaitest.Reply
		want  call.Code
	}{
		"taken":            {openaitest.Success(), ""},
		"cut off":          {openaitest.Length(), ""},
		"only thoughts":    {openaitest.OutputLimit(), ""},
		"refused to speak": {openaitest.Refusal(), ""},
		"wrong key":        {openaitest.Unauthorized(), call.Credentials},
		"no quota":         {openaitest.InsufficientQuota(), call.Credentials},
		"no such model":    {openaitest.ModelNotFound(), call.Credentials},
		"busy":             {openaitest.RateLimited(0), call.RateLimited},
		"broken":           {openaitest.ServerError(500), call.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, server := setup(t, nil, test.reply)
			err := a.Probe(t.Context())
			if test.want == "" && err != nil || test.want != "" && call.CodeOf(err) != test.want {
				t.Errorf("the probe said %v", err)
			}
			if n := len(server.Requests()); n != 1 {
				t.Errorf("%d requests", n)
			}
		})
	}
}
