// Package builtin is the analyser that needs no network and no language model.
// It repeats what ElevenLabs says of a call, counts what code can count, and
// leaves null what neither tells:
//
//	topic            ElevenLabs' title of the call
//	intent           a value the agent collected under a name like intent; else
//	                 the sentence of ElevenLabs' summary that says what the
//	                 customer wanted
//	outcome_code     a transfer or booking tool that worked, or a criterion of
//	                 that name that was met; else clear words of the customer (see
//	                 phrases); else a criterion that tells of a contact, a call
//	                 back or a complaint; else a contact that was left; else
//	                 informed, if ElevenLabs calls the call successful; else
//	                 unclear
//	quality          ElevenLabs' criteria and its verdict; less one if a tool
//	                 failed; null where nobody was reached
//	sentiment        only where the customer's words leave no doubt: thanks in a
//	                 call that failed may be scorn
//	summary_ru       ElevenLabs' summary if it is in Russian, else the facts
//	criteria         ElevenLabs' own, under its ids, without quotes: it gives none
//	recommendations  what follows from the outcome, and failed tools
//	client_name      the agent's own variables or collected data
//	phone            the telephony, collected data, or the only number that the
//	                 customer said
//
// The same conversation always gives the same result.
package builtin

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"

	"postcall/pkg/analyze"
	"postcall/pkg/call"
)

// Name is the analyser's name in configuration and in stored results.
const Name = "builtin"

// PromptVersion stands in stored results for the rules of this package. It
// changes when they do.
const PromptVersion = "builtin/4"

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
		Topic:              a.optional(c, c.Title, call.MaxTopic),
		Intent:             a.intent(c),
		Sentiment:          sentiment(c),
		ClientName:         analyze.ClientName(c, ""),
		Criteria:           judgements(c),
		InjectionSuspected: analyze.InjectionSuspected(c),
		Evidence:           []call.Evidence{},
		Metrics:            &metrics,
	}
	said := analyze.SaidPhones(c, a.region)
	claimed := ""
	if len(said) == 1 { // of several only a reader can tell which is the one to call
		claimed = said[0].Number
	}
	r.Phone = analyze.Phone(c, a.region, claimed)

	found := outcome(c)
	if found.code == "" && len(said) > 0 {
		found = finding{code: call.OutcomeLead, turn: said[0].Turn, quoted: true}
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
	if found.words.text == "" {
		found.words = outcomes[found.code]
	}
	if found.words.text != "" {
		r.Outcome = &found.words.text
	}
	if found.code != call.OutcomeNoContact {
		r.Quality = quality(c, metrics)
	}
	if found.quoted {
		r.Evidence = analyze.Verify(c, []call.Evidence{{
			Claim: found.words.text, Turn: found.turn, Quote: quote(c, found.turn),
		}})
	}
	r.Recommendations = recommendations(found.words.next, metrics)
	r.SummaryRU = a.summary(c, r, metrics)
	if err := r.Validate(); err != nil {
		return nil, call.Errorf(call.Internal, "the built-in analyser made an invalid result: %w", err)
	}
	return &call.Analysis{
		Analyzer: Name, Model: Name, PromptVersion: PromptVersion,
		Result: r, Duration: time.Since(began),
	}, nil
}

// wording says in Russian what an outcome means and what follows from it.
type wording struct{ text, next string }

// outcomes are the wordings of the codes.
var outcomes = map[call.OutcomeCode]wording{
	call.OutcomeLead:      {"Клиент оставил контакт", "Связаться с клиентом по оставленному контакту."},
	call.OutcomeMeeting:   {"Назначена встреча", "Подтвердить встречу с клиентом."},
	call.OutcomeCallback:  {"Клиент просит перезвонить", "Перезвонить клиенту."},
	call.OutcomeTransfer:  {"Звонок переведён на сотрудника", ""},
	call.OutcomeInformed:  {"Клиент получил ответ", ""},
	call.OutcomeRefused:   {"Клиент отказался", ""},
	call.OutcomeComplaint: {"Клиент жалуется", "Разобрать жалобу и ответить клиенту."},
	call.OutcomeNoContact: {"Ответил автоответчик", "Повторить звонок в другое время."},
}

var wrongNumber = wording{"Ошиблись номером", "Проверить номер телефона."}

// finding is an outcome with the turn that shows it, if one does.
type finding struct {
	code   call.OutcomeCode
	turn   int
	quoted bool
	words  wording // other than the code's own, if not empty
}

// Tools are named by whoever set up the agent; these parts of names are the
// usual ones and ElevenLabs' own (transfer_to_number, transfer_to_agent is a
// machine and does not count, voicemail_detection).
var (
	transferTool  = regexp.MustCompile(`(?i)transfer_?to_?(?:number|human|operator|person|manager)|^transfer_?call$`)
	meetingTool   = regexp.MustCompile(`(?i)^(?:book|schedule|create|make)_?(?:appointment|meeting|viewing|visit|delivery|slot)s?$`)
	voicemailTool = regexp.MustCompile(`(?i)^voicemail_?detection$`)
)

// Criteria are named by whoever set up the agent, too. Those that were met and
// tell of something that happened stand for a tool; the others, which tell of
// what was said, come after the customer's own words.
var criteria = []struct {
	code call.OutcomeCode
	id   *regexp.Regexp
	fact bool
}{
	{call.OutcomeTransfer, regexp.MustCompile(`(?i)^(?:call_?)?(?:transferred|handed_?over)(?:_?to_?(?:human|operator|person|manager))?$`), true},
	{call.OutcomeMeeting, regexp.MustCompile(`(?i)^(?:appointment|meeting|viewing|visit|delivery|window|slot)_?(?:was_?)?(?:booked|scheduled|agreed|arranged|confirmed|set)$`), true},
	{call.OutcomeComplaint, regexp.MustCompile(`(?i)^complaint_?(?:registered|filed|taken|recorded|made)$`), false},
	{call.OutcomeCallback, regexp.MustCompile(`(?i)^call_?back_?(?:requested|agreed|scheduled|promised)$`), false},
	{call.OutcomeLead, regexp.MustCompile(`(?i)^(?:contact|phone|lead|number)s?_?(?:was_?)?(?:collected|captured|left|received|obtained)$`), false},
}

func metCriterion(c *call.Conversation, fact bool) call.OutcomeCode {
	for _, rule := range criteria {
		for _, k := range c.Criteria {
			if rule.fact == fact && k.Result == "success" && rule.id.MatchString(k.ID) {
				return rule.code
			}
		}
	}
	return ""
}

// phrases are the words of customers that leave little doubt, in the order of
// their weight: who complains and asks to be called back has complained.
var phrases = []struct {
	code  call.OutcomeCode
	words *regexp.Regexp
	not   *regexp.Regexp // makes the match void in the same turn
	// within is how many turns the customer may have after it, 0 for any
	// number: who says no and talks on may come to yes.
	within  int
	wording wording
}{
	{code: call.OutcomeNoContact,
		words: regexp.MustCompile(`(?i)после (?:звукового |длинного )?(?:сигнала|гудка)|(?:at|after|following) the (?:tone|beep)`),
		not:   never, within: 1},
	{code: call.OutcomeNoContact,
		words: regexp.MustCompile(`(?i)ошиблись (?:номером|телефоном)|не туда (?:попали|звоните|дозвонились)|(?:have|got) the wrong number`),
		not:   never, within: 2, wording: wrongNumber},
	{code: call.OutcomeComplaint,
		words: regexp.MustCompile(`(?i)пожаловаться|жалуюсь|(?:моя|мою|подать|оставить|написать|есть) жалоб|претензи|безобрази|верните (?:мне )?(?:мои )?деньги|(?:make|file|have) a complaint|want (?:to complain|a refund|my money back)`),
		not:   regexp.MustCompile(`(?i)(?:нет|не имею|никаких|без) (?:\S+ )?(?:претензи|жалоб)|не (?:хочу|буду) жаловаться|no complaint`)},
	{code: call.OutcomeRefused,
		words:  regexp.MustCompile(`(?i)не\s?интересно|не интересует|не звоните|отказываюсь|мне (?:это |ничего )?не нужно|not interested|(?:don'?t|do not|stop) call(?:ing)? (?:me|us|here|this)`),
		not:    regexp.MustCompile(`(?i)не интересует ли|не интересно ли|(?:ей|ему|им|туда|рано|поздно|утром|днём|днем|вечером|раньше|после \S+|до \S+) не звоните|не звоните (?:ей|ему|им|туда|на него|рано|поздно|утром|днём|днем|вечером|раньше|до |после )`),
		within: 2},
	{code: call.OutcomeCallback,
		words: regexp.MustCompile(`(?i)(?:пере|на)звоните (?:мне|нам|пожалуйста|позже|попозже|завтра|потом|через|в |после )|(?:^|[.!?,…] )(?:тогда |лучше )?перезвоните(?:[ ,.!]|$)|пусть (?:\S+ ){0,4}перезвон|позвоните (?:мне )?(?:позже|попозже|завтра|потом|через)|наберите (?:меня|мне|позже|попозже|завтра|через)|(?:мне|нам) (?:пожалуйста )?перезвон|можете перезвонить|call me (?:back|later|tomorrow)|call back (?:later|tomorrow)`),
		not:   regexp.MustCompile(`(?i)не (?:надо |нужно )?(?:мне )?перезванива`)},
}

// never matches nothing.
var never = regexp.MustCompile(`[^\s\S]`)

func outcome(c *call.Conversation) finding {
	for _, t := range c.Turns {
		for _, result := range t.ToolResults {
			switch {
			case failed(result):
			case transferTool.MatchString(result.Name):
				return finding{code: call.OutcomeTransfer}
			case meetingTool.MatchString(result.Name):
				return finding{code: call.OutcomeMeeting}
			case voicemailTool.MatchString(result.Name):
				return finding{code: call.OutcomeNoContact}
			}
		}
	}
	if code := metCriterion(c, true); code != "" {
		return finding{code: code}
	}
	var said []call.Turn
	for _, t := range c.Turns {
		if t.Role == call.RoleUser && t.Text != "" {
			said = append(said, t)
		}
	}
	for _, p := range phrases {
		for i, t := range said {
			late := p.within == 0 || len(said)-1-i <= p.within
			if late && p.words.MatchString(t.Text) && !p.not.MatchString(t.Text) {
				return finding{code: p.code, turn: t.Index, quoted: true, words: p.wording}
			}
		}
	}
	return finding{code: metCriterion(c, false)}
}

// failed reports whether a tool did not do its work. Many answer without an error
// and say so in what they answer.
func failed(r call.ToolResult) bool {
	if r.IsError {
		return true
	}
	var answer map[string]any
	if json.Unmarshal([]byte(r.Value), &answer) != nil {
		return false // a text, or nothing
	}
	for _, key := range []string{"success", "ok", "booked"} {
		if done, told := answer[key].(bool); told && !done {
			return true
		}
	}
	if fault := answer["error"]; fault != nil && fault != false && fault != "" {
		return true
	}
	status, _ := answer["status"].(string)
	return slices.Contains([]string{"error", "failed", "failure"}, strings.ToLower(status))
}

// agents begin the sentences that say what the agent wanted, not the customer.
var agents = regexp.MustCompile(`(?i)^(?:(?:the|an?|ai|voice|virtual|голосовой|виртуальный) )*(?:агент|ассистент|помощник|бот|робот|оператор|менеджер|специалист|agent|assistant|bot|operator)(?:[ ,]|$)`)

// wishes are the words by which ElevenLabs' summaries say what somebody wanted.
var wishes = regexp.MustCompile(`(?i)(?:^|[ (])(?:хочет|хотел[аи]?|желает|ищет|искал[аи]?|просит|просил[аи]?|попросил[аи]?|интересу(?:ется|ются)|интересовал(?:ся|ась|ись)|спрашива(?:ет|ют|л[аи]?)|спросил[аи]?|уточня(?:ет|л[аи]?)|узнал[аи]?|жалу(?:ется|ются)|жаловал(?:ся|ась)|требует|wants?|wanted|asks?|asked|inquire[sd]|enquire[sd]|requests?|requested|(?:is|was) looking for|would like)(?:[ ,.;:]|$)`)

// intent is what the agent collected as such, else ElevenLabs' own sentence
// that says what the customer wanted.
func (a *Analyzer) intent(c *call.Conversation) *string {
	if s := analyze.Collected(c, "intent", "intention", "purpose", "call_reason", "reason", "намерение", "цель", "цель_звонка"); s != "" {
		return a.optional(c, s, call.MaxIntent)
	}
	for sentence := range strings.SplitSeq(analyze.Clean(c.Summary), ". ") {
		if wishes.MatchString(sentence) && !agents.MatchString(sentence) {
			return a.optional(c, strings.TrimSuffix(sentence, "."), call.MaxIntent)
		}
	}
	return nil
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
	// Keywords do not hear scorn ("прекрасно вы работаете"): where ElevenLabs
	// sees no success they are no proof of a good mood.
	if glad && c.Successful == "failure" {
		glad = false
		if !angry {
			return nil
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

func recommendations(next string, m call.Metrics) call.Recommendations {
	list := call.Recommendations{}
	if next != "" {
		list = append(list, next)
	}
	if m.ToolErrors > 0 {
		list = append(list, fmt.Sprintf("Проверить инструменты голосового агента: ошибок за звонок — %d.", m.ToolErrors))
	}
	return list
}

func (a *Analyzer) summary(c *call.Conversation, r call.Result, m call.Metrics) string {
	if s, _ := analyze.Confine(c, a.region, c.Summary); analyze.Russian(s[0]) {
		return analyze.Shorten(s[0], call.MaxSummary)
	}
	var b strings.Builder
	b.WriteString("Встроенный анализатор, без языковой модели: разговор")
	if c.Duration > 0 {
		b.WriteString(" длительностью " + duration(c.Duration))
	}
	fmt.Fprintf(&b, ", реплик клиента — %d, агента — %d.", m.UserTurns, m.AgentTurns)
	if r.Topic != nil && analyze.Russian(*r.Topic) {
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

// optional is a text of ElevenLabs, bounded; nil when it says nothing. A model
// wrote it from what a caller said, so it is confined like any other model's.
func (a *Analyzer) optional(c *call.Conversation, s string, limit int) *string {
	confined, _ := analyze.Confine(c, a.region, s)
	if analyze.Absent(confined[0]) {
		return nil
	}
	return new(analyze.Shorten(confined[0], limit))
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
