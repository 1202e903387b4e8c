// Package builtin is the analyser that needs no network and no language model.
// It repeats what ElevenLabs says of a call, counts what code can count, and
// leaves null what neither tells:
//
//	topic            ElevenLabs' title of the call
//	intent           a value the agent collected under a name like intent
//	outcome_code     a transfer or booking tool that worked; else clear words of
//	                 the customer (see phrases); else a contact that was left;
//	                 else informed, if ElevenLabs calls the call successful;
//	                 else unclear
//	quality          ElevenLabs' criteria and its verdict; less one if a tool failed
//	sentiment        only where the customer's words leave no doubt
//	summary_ru       ElevenLabs' summary if it is in Russian, else the facts
//	recommendations  what follows from the outcome, and failed tools
//	client_name      the agent's own variables or collected data
//	phone            the telephony, collected data, or said in digits
//
// The same conversation always gives the same result.
package builtin

import (
	"context"
	"fmt"
	"math"
	"regexp"
	"strings"
	"time"

	"postcall/pkg/analyze"
	"postcall/pkg/call"
)

// Name is the analyser's name in configuration and in stored results.
const Name = "builtin"

// PromptVersion stands in stored results for the rules of this package. It
// changes when they do.
const PromptVersion = "builtin/1"

// Options are what can be set.
type Options struct {
	// DefaultRegion is the country (ISO 3166, two letters) of phone numbers
	// without a country code; empty means analyze.DefaultRegion.
	DefaultRegion string
}

// Analyzer implements analyze.Analyzer.
type Analyzer struct{ region string }

var _ analyze.Analyzer = (*Analyzer)(nil)

// New makes the analyser.
func New(o Options) *Analyzer { return &Analyzer{region: o.DefaultRegion} }

// Name is "builtin".
func (a *Analyzer) Name() string { return Name }

// Analyze makes the analysis. It fails only when ctx is done or nobody spoke
// (Invalid).
func (a *Analyzer) Analyze(ctx context.Context, c *call.Conversation) (*call.Analysis, error) {
	began := time.Now()
	if err := ctx.Err(); err != nil {
		return nil, call.Errorf(call.Unavailable, "the analysis was stopped: %w", err)
	}
	if !c.Spoken() {
		return nil, call.Errorf(call.Invalid, "nobody spoke in this call")
	}
	metrics := analyze.Metrics(c)
	r := call.Result{
		Topic:              optional(c.Title, call.MaxTopic),
		Intent:             optional(analyze.Collected(c, "intent", "intention", "purpose", "call_reason", "reason", "намерение", "цель", "цель_звонка"), call.MaxIntent),
		Quality:            quality(c, metrics),
		Sentiment:          sentiment(c),
		ClientName:         analyze.ClientName(c, ""),
		InjectionSuspected: analyze.InjectionSuspected(c),
		Evidence:           []call.Evidence{},
		Metrics:            &metrics,
	}
	said, saidAt, left := analyze.SaidPhone(c, a.region)
	r.Phone = analyze.Phone(c, a.region, said)

	found := outcome(c)
	if found.code == "" && left {
		found = finding{code: call.OutcomeLead, turn: saidAt, quoted: true}
	}
	if found.code == "" && analyze.Phone(&call.Conversation{Collected: c.Collected}, a.region, "") != nil {
		found.code = call.OutcomeLead
	}
	if found.code == "" && c.Successful == "success" {
		found.code = call.OutcomeInformed
	}
	if found.code == "" {
		found.code = call.OutcomeUnclear
	}
	r.OutcomeCode = found.code
	if text := outcomes[found.code].text; text != "" {
		r.Outcome = &text
	}
	if found.quoted {
		r.Evidence = analyze.Verify(c, []call.Evidence{{
			Claim: outcomes[found.code].text, Turn: found.turn, Quote: quote(c, found.turn),
		}})
	}
	r.Recommendations = recommendations(found.code, metrics)
	r.SummaryRU = summary(c, r, metrics)
	if err := r.Validate(); err != nil {
		return nil, call.Errorf(call.Internal, "the built-in analyser made an invalid result: %w", err)
	}
	return &call.Analysis{
		Analyzer: Name, Model: Name, PromptVersion: PromptVersion,
		Result: r, Duration: time.Since(began),
	}, nil
}

// outcomes says in Russian what each code means and what follows from it.
var outcomes = map[call.OutcomeCode]struct{ text, next string }{
	call.OutcomeLead:      {"Клиент оставил контакт", "Связаться с клиентом по оставленному контакту."},
	call.OutcomeMeeting:   {"Назначена встреча", "Подтвердить встречу с клиентом."},
	call.OutcomeCallback:  {"Клиент просит перезвонить", "Перезвонить клиенту."},
	call.OutcomeTransfer:  {"Звонок переведён на сотрудника", ""},
	call.OutcomeInformed:  {"Клиент получил ответ", ""},
	call.OutcomeRefused:   {"Клиент отказался", ""},
	call.OutcomeComplaint: {"Клиент жалуется", "Разобрать жалобу и ответить клиенту."},
	call.OutcomeNoContact: {"Ответил автоответчик", "Повторить звонок в другое время."},
}

// finding is an outcome with the turn that shows it, if one does.
type finding struct {
	code   call.OutcomeCode
	turn   int
	quoted bool
}

// Tools are named by whoever set up the agent; these parts of names are the
// usual ones and ElevenLabs' own (transfer_to_number, transfer_to_agent is a
// machine and does not count, voicemail_detection).
var (
	transferTool  = regexp.MustCompile(`(?i)transfer_?to_?(?:number|human|operator|person|manager)|^transfer_?call$`)
	meetingTool   = regexp.MustCompile(`(?i)^(?:book|schedule|create|make)_?(?:appointment|meeting|viewing|visit|delivery|slot)s?$`)
	voicemailTool = regexp.MustCompile(`(?i)^voicemail_?detection$`)
)

// phrases are the words of customers that leave little doubt, in the order of
// their weight: who complains and asks to be called back has complained.
var phrases = []struct {
	code  call.OutcomeCode
	words *regexp.Regexp
	not   *regexp.Regexp // makes the match void in the same turn
}{
	{call.OutcomeComplaint,
		regexp.MustCompile(`(?i)пожаловаться|жалуюсь|(?:моя|мою|подать|оставить|написать|есть) жалоб|претензи|безобрази|верните (?:мне )?(?:мои )?деньги|(?:make|file|have) a complaint|want (?:to complain|a refund|my money back)`),
		regexp.MustCompile(`(?i)(?:нет|не имею|никаких|без) (?:\S+ )?(?:претензи|жалоб)|не (?:хочу|буду) жаловаться|no complaint`)},
	{call.OutcomeRefused,
		regexp.MustCompile(`(?i)не\s?интересно|не интересует|не звоните|отказываюсь|мне (?:это |ничего )?не нужно|not interested|(?:don'?t|do not|stop) call(?:ing)? (?:me|us|here|this)`),
		regexp.MustCompile(`(?i)не интересует ли|не интересно ли`)},
	{call.OutcomeCallback,
		regexp.MustCompile(`(?i)(?:пере|на)звоните (?:мне|нам|пожалуйста|позже|попозже|завтра|потом|через|в |после )|позвоните (?:мне )?(?:позже|попозже|завтра|потом|через)|наберите (?:меня|мне|позже|попозже|завтра|через)|(?:мне|нам) (?:пожалуйста )?перезвон|можете перезвонить|call me (?:back|later|tomorrow)|call back (?:later|tomorrow)`),
		regexp.MustCompile(`(?i)не (?:надо |нужно )?(?:мне )?перезванива`)},
}

func outcome(c *call.Conversation) finding {
	for _, t := range c.Turns {
		for _, result := range t.ToolResults {
			switch {
			case result.IsError:
			case transferTool.MatchString(result.Name):
				return finding{code: call.OutcomeTransfer}
			case meetingTool.MatchString(result.Name):
				return finding{code: call.OutcomeMeeting}
			case voicemailTool.MatchString(result.Name):
				return finding{code: call.OutcomeNoContact}
			}
		}
	}
	for _, p := range phrases {
		for _, t := range c.Turns {
			if t.Role == call.RoleUser && p.words.MatchString(t.Text) && !p.not.MatchString(t.Text) {
				return finding{code: p.code, turn: t.Index, quoted: true}
			}
		}
	}
	return finding{}
}

// quality is 1 to 5 from the share of ElevenLabs' criteria that were met; with
// none decided 4 for a successful call and 2 for a failed one; nil when
// ElevenLabs does not tell. A call that it calls failed gets no more than 3,
// and a failed tool costs one.
func quality(c *call.Conversation, m call.Metrics) *int {
	var met, missed int
	for _, k := range c.Criteria {
		switch k.Result {
		case "success":
			met++
		case "failure":
			missed++
		}
	}
	var q int
	switch {
	case met+missed > 0:
		q = 1 + int(math.Round(4*float64(met)/float64(met+missed)))
	case c.Successful == "success":
		q = 4
	case c.Successful == "failure":
		q = 2
	default:
		return nil
	}
	if c.Successful == "failure" {
		q = min(q, 3)
	}
	if m.ToolErrors > 0 {
		q--
	}
	return new(max(q, 1))
}

var (
	gladWords  = regexp.MustCompile(`(?i)большое спасибо|спасибо (?:вам )?(?:большое|огромное)|огромное спасибо|замечательно|прекрасно|очень (?:помогли|доволен|довольна|рад|рада)|thank you (?:so|very) much|that'?s (?:great|perfect|wonderful)`)
	angryWords = regexp.MustCompile(`(?i)безобрази|возмут|возмущ|ужасн|отвратительн|хамств|надоели|outrageous|terrible|ridiculous|unacceptable`)
)

func sentiment(c *call.Conversation) *call.Sentiment {
	var glad, angry bool
	for _, t := range c.Turns {
		if t.Role == call.RoleUser {
			glad = glad || gladWords.MatchString(t.Text)
			angry = angry || angryWords.MatchString(t.Text)
		}
	}
	switch {
	case glad && angry:
		return new(call.SentimentMixed)
	case glad:
		return new(call.SentimentPositive)
	case angry:
		return new(call.SentimentNegative)
	}
	return nil
}

func recommendations(code call.OutcomeCode, m call.Metrics) call.Recommendations {
	list := call.Recommendations{}
	if next := outcomes[code].next; next != "" {
		list = append(list, next)
	}
	if m.ToolErrors > 0 {
		list = append(list, fmt.Sprintf("Проверить инструменты голосового агента: ошибок за звонок — %d.", m.ToolErrors))
	}
	return list
}

func summary(c *call.Conversation, r call.Result, m call.Metrics) string {
	if s := analyze.Clean(c.Summary); analyze.Russian(s) {
		return analyze.Shorten(s, call.MaxSummary)
	}
	var b strings.Builder
	b.WriteString("Встроенный анализатор, без языковой модели: разговор")
	if c.Duration > 0 {
		b.WriteString(" длительностью " + duration(c.Duration))
	}
	fmt.Fprintf(&b, ", реплик клиента — %d, агента — %d.", m.UserTurns, m.AgentTurns)
	if r.Topic != nil {
		fmt.Fprintf(&b, " Тема по данным ElevenLabs: «%s».", *r.Topic)
	}
	if r.Outcome != nil {
		fmt.Fprintf(&b, " Итог: %s.", *r.Outcome)
	}
	return b.String()
}

func duration(d time.Duration) string {
	d = d.Round(time.Second)
	h, m, s := d/time.Hour, d%time.Hour/time.Minute, d%time.Minute/time.Second
	switch {
	case h > 0:
		return fmt.Sprintf("%d ч %d мин", h, m)
	case m > 0:
		return fmt.Sprintf("%d мин %d с", m, s)
	}
	return fmt.Sprintf("%d с", s)
}

// optional cleans a text of ElevenLabs and bounds it; nil when it says nothing.
func optional(s string, limit int) *string {
	if s = analyze.Clean(s); analyze.Absent(s) {
		return nil
	}
	return new(analyze.Shorten(s, limit))
}

// quote is what was said in a turn, cut at a word's end without a mark, so
// that it still stands in the turn.
func quote(c *call.Conversation, turn int) string {
	for _, t := range c.Turns {
		if t.Index == turn {
			return strings.TrimSuffix(analyze.Shorten(analyze.Clean(t.Text), call.MaxQuote), "…")
		}
	}
	return ""
}
