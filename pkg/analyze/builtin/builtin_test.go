package builtin_test

import (
	"encoding/json"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"postcall/pkg/analyze"
	"postcall/pkg/analyze/analyzetest"
	"postcall/pkg/analyze/builtin"
	"postcall/pkg/call"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestAnalyzer(t *testing.T) {
	t.Parallel()
	analyzetest.Test(t, builtin.New(builtin.Options{}))
}

func analyse(t *testing.T, c *call.Conversation) call.Result {
	t.Helper()
	a, err := builtin.New(builtin.Options{}).Analyze(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return a.Result
}

func said(texts ...string) *call.Conversation {
	c := &call.Conversation{}
	for i, text := range texts {
		c.Turns = append(c.Turns, call.Turn{Index: i, Role: call.RoleUser, Text: text})
	}
	return c
}

func TestOutcome(t *testing.T) {
	t.Parallel()
	tool := func(name string, failed bool) *call.Conversation {
		c := said("Добрый день")
		c.Turns[0].ToolResults = []call.ToolResult{{Name: name, IsError: failed}}
		return c
	}
	answered := func(name, value string) *call.Conversation {
		c := tool(name, false)
		c.Turns[0].ToolResults[0].Value = value
		return c
	}
	successful := said("Сколько стоит доставка?")
	successful.Successful = "success"
	failed := said("Сколько стоит доставка?")
	failed.Successful = "failure"
	met := func(text, criterion, result string) *call.Conversation {
		c := said(text)
		c.Criteria = []call.Criterion{{ID: criterion, Result: result}}
		return c
	}
	company := func(text string) *call.Conversation {
		c := said(text)
		c.AgentNumber = "+79990000090"
		return c
	}
	collected := said("Хочу квартиру")
	collected.Collected = []call.DataPoint{{ID: "phone", Value: new("8 999 000-00-02")}}
	for name, test := range map[string]struct {
		c    *call.Conversation
		want call.OutcomeCode
	}{
		"criterion of a meeting":            {met("Не интересно", "viewing_booked", "success"), call.OutcomeMeeting},
		"criterion not met":                 {met("Да", "viewing_booked", "failure"), call.OutcomeUnclear},
		"criterion of a contact":            {met("Да", "contact_collected", "success"), call.OutcomeLead},
		"words before a contact":            {met("Перезвоните мне завтра", "contact_collected", "success"), call.OutcomeCallback},
		"an early no is not final":          {said("Мне не интересно", "А сколько стоит?", "И рассрочка есть?", "Хорошо"), call.OutcomeUnclear},
		"somebody else is not to be called": {said("Это номер жены, ей не звоните"), call.OutcomeUnclear},
		"voicemail without a tool":          {said("Оставьте сообщение после сигнала."), call.OutcomeNoContact},
		"wrong number":                      {said("Вы ошиблись номером"), call.OutcomeNoContact},
		"the company's number":              {company("Ваш номер 8 999 000-00-90, верно?"), call.OutcomeUnclear},
		"nothing known":                     {said("Алло, сколько стоит?"), call.OutcomeUnclear},
		"successful":                        {successful, call.OutcomeInformed},
		"failed is no outcome":              {failed, call.OutcomeUnclear},
		"number said":                       {said("Пишите: 8 (029) 123-45-67"), call.OutcomeLead},
		"number collected":                  {collected, call.OutcomeLead},
		"transferred":                       {tool("transfer_to_number", false), call.OutcomeTransfer},
		"transfer failed":                   {tool("transfer_to_number", true), call.OutcomeUnclear},
		"to another machine":                {tool("transfer_to_agent", false), call.OutcomeUnclear},
		"booked":                            {tool("book_viewing", false), call.OutcomeMeeting},
		"booked, it says":                   {answered("book_viewing", `{"success": true, "error": null, "status": "booked"}`), call.OutcomeMeeting},
		"booked, in words":                  {answered("book_viewing", "ok"), call.OutcomeMeeting},
		"not booked: success":               {answered("book_viewing", `{"success": false, "message": "no slot"}`), call.OutcomeUnclear},
		"not booked: ok":                    {answered("book_viewing", `{"ok":false}`), call.OutcomeUnclear},
		"not booked: error":                 {answered("book_viewing", `{"error":"slot is taken"}`), call.OutcomeUnclear},
		"not booked: status":                {answered("book_viewing", `{"status":"Failed"}`), call.OutcomeUnclear},
		"not transferred":                   {answered("transfer_to_number", `{"status":"error"}`), call.OutcomeUnclear},
		"voicemail":                         {tool("voicemail_detection", false), call.OutcomeNoContact},
		"refusal":                           {said("Спасибо, мне не интересно."), call.OutcomeRefused},
		"refusal, English":                  {said("I'm not interested, don't call me again"), call.OutcomeRefused},
		"callback":                          {said("Перезвоните мне завтра утром"), call.OutcomeCallback},
		"callback, English":                 {said("Could you call me back tomorrow?"), call.OutcomeCallback},
		"complaint":                         {said("Я хочу пожаловаться на курьера"), call.OutcomeComplaint},
		"complaint outweighs":               {said("Это безобразие!", "Перезвоните мне"), call.OutcomeComplaint},
		"no complaint":                      {said("Нет, претензий нет, никаких претензий"), call.OutcomeUnclear},
		"agent's words are not":             {&call.Conversation{Turns: []call.Turn{{Role: call.RoleUser, Text: "Да"}, {Index: 1, Role: call.RoleAgent, Text: "Вам не интересно?"}}}, call.OutcomeUnclear},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := analyse(t, test.c)
			if r.OutcomeCode != test.want {
				t.Errorf("outcome is %s, not %s", r.OutcomeCode, test.want)
			}
			if (r.Outcome == nil) != (test.want == call.OutcomeUnclear) {
				t.Errorf("outcome text is %v", r.Outcome)
			}
			for _, e := range r.Evidence {
				if !e.Supported {
					t.Errorf("evidence does not stand: %+v", e)
				}
			}
		})
	}
}

func TestQuality(t *testing.T) {
	t.Parallel()
	verdicts := func(successful string, results ...string) *call.Conversation {
		c := said("Да")
		c.Successful = successful
		for _, r := range results {
			c.Criteria = append(c.Criteria, call.Criterion{Result: r})
		}
		return c
	}
	broken := verdicts("success", "success")
	broken.Turns[0].ToolResults = []call.ToolResult{{Name: "x", IsError: true}}
	for name, test := range map[string]struct {
		c    *call.Conversation
		want int // 0 for null
	}{
		"nothing":         {verdicts(""), 0},
		"unknown":         {verdicts("unknown", "unknown"), 0},
		"successful":      {verdicts("success"), 4},
		"failed":          {verdicts("failure"), 2},
		"all met":         {verdicts("success", "success", "success"), 5},
		"half met":        {verdicts("success", "success", "failure", "unknown"), 3},
		"none met":        {verdicts("failure", "failure"), 1},
		"met, but failed": {verdicts("failure", "success"), 3},
		"a tool failed":   {broken, 4},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := 0
			if q := analyse(t, test.c).Quality; q != nil {
				got = *q
			}
			if got != test.want {
				t.Errorf("quality is %d, not %d", got, test.want)
			}
		})
	}
}

func TestNothingIsInvented(t *testing.T) {
	t.Parallel()
	r := analyse(t, said("Hello?"))
	if r.Topic != nil || r.Intent != nil || r.Quality != nil || r.Sentiment != nil || r.ClientName != nil || r.Phone != nil || r.Outcome != nil {
		t.Errorf("something was made of nothing: %+v", r)
	}
	if !strings.HasPrefix(r.SummaryRU, "Встроенный анализатор") {
		t.Errorf("a composed summary must say whose it is: %q", r.SummaryRU)
	}
}

func TestEnglishSummaryIsNotPassedOff(t *testing.T) {
	t.Parallel()
	c := analyzetest.Conversation()
	c.Summary, c.Title = "The customer asked about a flat.", strings.Repeat("Flat ", 100)
	r := analyse(t, c)
	if bare := analyse(t, &call.Conversation{Turns: c.Turns, Title: c.Title}); !analyze.Russian(r.SummaryRU) || !analyze.Russian(bare.SummaryRU) {
		t.Errorf("summaries are not Russian: %q, %q", r.SummaryRU, bare.SummaryRU)
	}
	if strings.Contains(r.SummaryRU, "customer") || !strings.Contains(r.SummaryRU, "1 мин 34 с") {
		t.Errorf("summary is %q", r.SummaryRU)
	}
}

func TestLongTurnIsEvidence(t *testing.T) {
	t.Parallel()
	r := analyse(t, said("Мне не интересно. "+strings.Repeat("Очень долгая речь. ", 200)))
	if len(r.Evidence) != 1 || !r.Evidence[0].Supported {
		t.Errorf("evidence is %+v", r.Evidence)
	}
}

func TestDeterministic(t *testing.T) {
	t.Parallel()
	first, _ := json.Marshal(analyse(t, analyzetest.Conversation()))
	for range 20 {
		again, _ := json.Marshal(analyse(t, analyzetest.Conversation()))
		if string(again) != string(first) {
			t.Fatalf("%s\nis not\n%s", again, first)
		}
	}
}

func TestPhone(t *testing.T) {
	t.Parallel()
	agentFirst := said("Так, 8 999 000-00-90")
	agentFirst.Turns = append([]call.Turn{{Role: call.RoleAgent, Text: "Наш номер 8 999 000-00-90"}}, agentFirst.Turns...)
	for name, test := range map[string]struct {
		c    *call.Conversation
		want string
	}{
		"one":                        {said("Мой номер 8 999 000-00-02", "да, 8 999 000-00-02"), "+79990000002"},
		"two cannot be told apart":   {said("8 999 000-00-01, нет, это жены", "мой 8 999 000-00-02"), ""},
		"the agent's own, read back": {agentFirst, ""},
	} {
		got := ""
		if p := analyse(t, test.c).Phone; p != nil {
			got = *p
		}
		if got != test.want {
			t.Errorf("%s: %q, not %q", name, got, test.want)
		}
	}
}

func TestIntentIsTheSummarysWish(t *testing.T) {
	t.Parallel()
	c := said("Да")
	c.Summary = "Разговор о доме. Клиент хотел узнать цену. Обещали прислать."
	if got := analyse(t, c).Intent; got == nil || *got != "Клиент хотел узнать цену" {
		t.Errorf("intent is %v", got)
	}
	for summary, want := range map[string]string{
		"Агент спросил бюджет и предложил встречу.":                     "",
		"Голосовой агент Анна уточнила бюджет. Клиент ищет студию.":     "Клиент ищет студию",
		"The agent asked for the order number and promised an answer.":  "",
		"The AI assistant wanted the number. The customer asked of it.": "The customer asked of it",
		"Менеджер хотел узнать адрес. Разговор прервался.":              "",
		"Клиент спросил агента о цене.":                                 "Клиент спросил агента о цене",
		"Агентство недвижимости интересуется клиентка.":                 "Агентство недвижимости интересуется клиентка",
	} {
		c.Summary = summary
		got := ""
		if intent := analyse(t, c).Intent; intent != nil {
			got = *intent
		}
		if got != want {
			t.Errorf("intent of %q is %q, not %q", summary, got, want)
		}
	}
	c.Summary = "Клиент хотел <b>скидку</b>, звонить +7 999 000-00-79, http://skidka.example."
	r := analyse(t, c)
	for _, s := range []string{*r.Intent, r.SummaryRU} {
		if strings.Contains(s, "<b>") || strings.Contains(s, "000-00-79") || strings.Contains(s, "skidka") {
			t.Errorf("a foreign number, a link or markup came through: %q", s)
		}
	}
}

func TestScornIsNotJoy(t *testing.T) {
	t.Parallel()
	c := said("Прекрасно вы работаете, спасибо огромное")
	if got := analyse(t, c).Sentiment; got == nil || *got != call.SentimentPositive {
		t.Errorf("sentiment is %v", got)
	}
	c.Successful = "failure"
	if got := analyse(t, c).Sentiment; got != nil {
		t.Errorf("sentiment is %v", *got)
	}
}
