package call

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// OutcomeCode is what a call came to, as a closed list that people filter and
// count by. The free text beside it (Result.Outcome) is for reading.
type OutcomeCode string

// The outcome codes.
const (
	OutcomeLead      OutcomeCode = "lead"      // interested, left a contact
	OutcomeMeeting   OutcomeCode = "meeting"   // a meeting, viewing or delivery was agreed
	OutcomeCallback  OutcomeCode = "callback"  // asked to be called back
	OutcomeTransfer  OutcomeCode = "transfer"  // handed to a person
	OutcomeInformed  OutcomeCode = "informed"  // got an answer, nothing further agreed
	OutcomeRefused   OutcomeCode = "refused"   // declined
	OutcomeComplaint OutcomeCode = "complaint" // complained
	OutcomeNoContact OutcomeCode = "no_contact"
	OutcomeUnclear   OutcomeCode = "unclear" // the conversation does not tell
)

// OutcomeCodes lists every outcome code.
func OutcomeCodes() []OutcomeCode {
	return []OutcomeCode{
		OutcomeLead, OutcomeMeeting, OutcomeCallback, OutcomeTransfer, OutcomeInformed,
		OutcomeRefused, OutcomeComplaint, OutcomeNoContact, OutcomeUnclear,
	}
}

// Sentiment is the customer's mood over the call.
type Sentiment string

// The sentiments.
const (
	SentimentPositive Sentiment = "positive"
	SentimentNeutral  Sentiment = "neutral"
	SentimentNegative Sentiment = "negative"
	SentimentMixed    Sentiment = "mixed"
)

// Sentiments lists every sentiment.
func Sentiments() []Sentiment {
	return []Sentiment{SentimentPositive, SentimentNeutral, SentimentNegative, SentimentMixed}
}

// Bounds of a Result's texts, in characters. They keep one hostile answer from
// filling a table, a page or a CRM field.
const (
	MaxTopic           = 120
	MaxIntent          = 200
	MaxOutcome         = 300
	MaxSummary         = 2000
	MaxRecommendation  = 500
	MaxRecommendations = 8
	MaxName            = 120
	MaxPhone           = 32
	MaxQuote           = 500
	MaxEvidence        = 20
	MaxCriteria        = 20
	MaxCriterionID     = 64
)

// Result is what an analyser made of a conversation: the column
// analyses.result. Its first keys are the Node service's; nil means that the
// conversation does not tell, which is not the same as an empty text.
type Result struct {
	Topic           *string         `json:"topic"`
	Intent          *string         `json:"intent"`
	Quality         *int            `json:"quality"` // 1 (bad) to 5 (excellent)
	Outcome         *string         `json:"outcome"`
	OutcomeCode     OutcomeCode     `json:"outcome_code"`
	Sentiment       *Sentiment      `json:"sentiment"`
	SummaryRU       string          `json:"summary_ru"`
	Recommendations Recommendations `json:"recommendations"`
	ClientName      *string         `json:"client_name"`
	Phone           *string         `json:"phone"` // E.164 where it could be normalised

	// Criteria are the verdicts that quality stands on; nil on rows that were
	// stored before there were any.
	Criteria           []Judgement `json:"criteria"`
	Evidence           []Evidence  `json:"evidence"`
	InjectionSuspected bool        `json:"injection_suspected"`
	Metrics            *Metrics    `json:"metrics,omitempty"`
}

// Recommendations are what to do next, in order of weight. The Node service
// stored them as one text; both forms are read, a list is written.
type Recommendations []string

// UnmarshalJSON reads a list of texts, a single text, or null.
func (r *Recommendations) UnmarshalJSON(b []byte) error {
	var list []string
	if err := json.Unmarshal(b, &list); err == nil {
		*r = list
		return nil
	}
	var one string
	if err := json.Unmarshal(b, &one); err != nil {
		return fmt.Errorf("recommendations are neither a list of texts nor a text: %w", err)
	}
	*r = nil
	if one != "" {
		*r = Recommendations{one}
	}
	return nil
}

// Evidence is a quote that bears a statement of the result. Supported is set
// by code, never by the model: the quote stands in the turn it names.
type Evidence struct {
	Claim     string `json:"claim"`
	Turn      int    `json:"turn"`
	Quote     string `json:"quote"`
	Supported bool   `json:"supported"`
}

// Judgement is a criterion with the verdict on it. Turn and Quote are what the
// analyser gave as proof, nil when it gave none. Supported is set by code, as
// in Evidence; a quote without it proves nothing and is not to be shown.
type Judgement struct {
	ID        string  `json:"id"`
	Verdict   Verdict `json:"verdict"`
	Turn      *int    `json:"turn"`
	Quote     *string `json:"quote"`
	Supported bool    `json:"supported"`
}

// Verdict is whether a criterion holds for a call.
type Verdict string

// The verdicts. Unknown is also that of a criterion which does not apply.
const (
	VerdictMet     Verdict = "met"
	VerdictNotMet  Verdict = "not_met"
	VerdictUnknown Verdict = "unknown"
)

// Verdicts lists every verdict.
func Verdicts() []Verdict { return []Verdict{VerdictMet, VerdictNotMet, VerdictUnknown} }

// Metrics are computed from the transcript by code, whatever the analyser.
// Shares are of characters spoken, 0 to 1; times are in seconds; nil means
// that the transcript does not tell.
type Metrics struct {
	Turns              int      `json:"turns"`
	UserTurns          int      `json:"user_turns"`
	AgentTurns         int      `json:"agent_turns"`
	UserTalkShare      *float64 `json:"user_talk_share"`
	AgentTalkShare     *float64 `json:"agent_talk_share"`
	ResponseLatencyP50 *float64 `json:"response_latency_p50_s"`
	ResponseLatencyP95 *float64 `json:"response_latency_p95_s"`
	Interruptions      int      `json:"interruptions"`
	ToolCalls          int      `json:"tool_calls"`
	ToolErrors         int      `json:"tool_errors"`
	LongestSilence     *float64 `json:"longest_silence_s"`
	Duration           *float64 `json:"duration_s"`
	CostUSD            *float64 `json:"cost_usd"`
}

// Validate checks every field against its bounds and closed lists and names
// the first that breaks them (code Invalid).
func (r *Result) Validate() error {
	texts := []struct {
		name  string
		value *string
		limit int
	}{
		{"topic", r.Topic, MaxTopic},
		{"intent", r.Intent, MaxIntent},
		{"outcome", r.Outcome, MaxOutcome},
		{"summary_ru", &r.SummaryRU, MaxSummary},
		{"client_name", r.ClientName, MaxName},
		{"phone", r.Phone, MaxPhone},
	}
	for _, t := range texts {
		if t.value != nil && runes(*t.value) > t.limit {
			return Errorf(Invalid, "%s is longer than %d characters", t.name, t.limit)
		}
	}
	if r.Quality != nil && (*r.Quality < 1 || *r.Quality > 5) {
		return Errorf(Invalid, "quality is %d, not 1 to 5", *r.Quality)
	}
	if !slices.Contains(OutcomeCodes(), r.OutcomeCode) {
		return Errorf(Invalid, "outcome_code is none of the known codes")
	}
	if r.Sentiment != nil && !slices.Contains(Sentiments(), *r.Sentiment) {
		return Errorf(Invalid, "sentiment is none of the known ones")
	}
	if r.SummaryRU == "" {
		return Errorf(Invalid, "summary_ru is empty")
	}
	if len(r.Recommendations) > MaxRecommendations {
		return Errorf(Invalid, "there are more than %d recommendations", MaxRecommendations)
	}
	for _, s := range r.Recommendations {
		if runes(s) > MaxRecommendation {
			return Errorf(Invalid, "a recommendation is longer than %d characters", MaxRecommendation)
		}
	}
	if len(r.Evidence) > MaxEvidence {
		return Errorf(Invalid, "there are more than %d pieces of evidence", MaxEvidence)
	}
	for _, e := range r.Evidence {
		if runes(e.Quote) > MaxQuote || runes(e.Claim) > MaxQuote {
			return Errorf(Invalid, "a piece of evidence is longer than %d characters", MaxQuote)
		}
	}
	if len(r.Criteria) > MaxCriteria {
		return Errorf(Invalid, "there are more than %d criteria", MaxCriteria)
	}
	for _, j := range r.Criteria {
		if err := j.validate(); err != nil {
			return err
		}
	}
	return nil
}

func (j Judgement) validate() error {
	switch {
	case j.ID == "" || runes(j.ID) > MaxCriterionID:
		return Errorf(Invalid, "a criterion's id is empty or longer than %d characters", MaxCriterionID)
	case !slices.Contains(Verdicts(), j.Verdict):
		return Errorf(Invalid, "a verdict is none of met, not_met, unknown")
	case j.Quote != nil && runes(*j.Quote) > MaxQuote:
		return Errorf(Invalid, "a criterion's quote is longer than %d characters", MaxQuote)
	case j.Supported && (j.Turn == nil || j.Quote == nil || *j.Quote == ""):
		return Errorf(Invalid, "a criterion is called supported without a quote and its turn")
	}
	return nil
}

func runes(s string) int { return len([]rune(s)) }

// Analysis is a stored result with where it came from: a row of analyses.
type Analysis struct {
	ID            int64
	EventID       int64
	JobID         int64  // the job that made it; 0 on rows from before jobs were noted
	Analyzer      string // openai, builtin; empty on rows of the Node service
	Model         string
	PromptVersion string
	Trigger       Trigger
	Result        Result
	Usage         Usage
	Duration      time.Duration
	RequestID     string // the model server's own id of its answer
	CreatedAt     time.Time
}

// Trigger says why an analysis was made.
type Trigger string

// The triggers.
const (
	TriggerAuto      Trigger = "auto"
	TriggerManual    Trigger = "manual"
	TriggerReprocess Trigger = "reprocess"
)

// Usage is what an analysis took of a language model. Cached tokens are part
// of the input ones.
type Usage struct {
	InputTokens  int64
	CachedTokens int64
	OutputTokens int64
	CostUSD      *float64 // nil when the model's price is not known
}

// Target is a place that results are handed to.
type Target string

// The targets.
const (
	TargetMarkdown Target = "markdown"
	TargetBPMSoft  Target = "bpmsoft"
	TargetWebhook  Target = "webhook"
)
