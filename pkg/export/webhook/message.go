package webhook

import (
	"time"

	"postcall/pkg/call"
	"postcall/pkg/export"
	"postcall/pkg/export/outbound"
)

// Bounds of the texts that call.Result does not bound, in characters.
const (
	maxID   = 200
	maxName = 200
	maxCode = 40
)

type message struct {
	Type      string    `json:"type"`
	Timestamp time.Time `json:"timestamp"`
	Data      data      `json:"data"`
}

type data struct {
	EventID        int64         `json:"event_id"`
	EventType      string        `json:"event_type"`
	ConversationID string        `json:"conversation_id"`
	AgentID        string        `json:"agent_id"`
	AgentName      string        `json:"agent_name"`
	Call           about         `json:"call"`
	AnalysisID     int64         `json:"analysis_id"`
	Analyzer       string        `json:"analyzer"`
	Model          string        `json:"model"`
	PromptVersion  string        `json:"prompt_version"`
	Trigger        string        `json:"trigger"`
	Result         call.Result   `json:"result"`
	Metrics        *call.Metrics `json:"metrics"`
}

type about struct {
	StartedAt      *time.Time `json:"started_at"`
	Duration       float64    `json:"duration_s"`
	Direction      string     `json:"direction"`
	Language       string     `json:"language"`
	CustomerNumber string     `json:"customer_number"`
}

func messageOf(d export.Delivery) message {
	c, a := d.Conversation, d.Analysis
	m := message{Type: Type, Timestamp: a.CreatedAt.UTC(), Data: data{
		EventID:        d.Event.ID,
		EventType:      outbound.Plain(string(d.Event.Type), maxID),
		ConversationID: outbound.Plain(d.Event.ConversationID, maxID),
		AgentID:        outbound.Plain(d.Event.AgentID, maxID),
		AgentName:      outbound.Plain(c.AgentName, maxName),
		Call: about{
			Duration:       c.Duration.Seconds(),
			Direction:      outbound.Plain(c.Direction, maxID),
			Language:       outbound.Plain(c.Language, maxID),
			CustomerNumber: outbound.Plain(c.ExternalNumber, maxID),
		},
		AnalysisID:    a.ID,
		Analyzer:      outbound.Plain(a.Analyzer, maxName),
		Model:         outbound.Plain(a.Model, maxName),
		PromptVersion: outbound.Plain(a.PromptVersion, maxName),
		Trigger:       outbound.Plain(string(a.Trigger), maxCode),
		Result:        bounded(a.Result),
		Metrics:       a.Result.Metrics,
	}}
	if !c.StartedAt.IsZero() {
		m.Data.Call.StartedAt = new(c.StartedAt.UTC())
	}
	return m
}

// bounded holds a result to its own bounds, which rows of the Node service
// never passed, and leaves the metrics to their own place.
func bounded(r call.Result) call.Result {
	r.Topic = plain(r.Topic, call.MaxTopic)
	r.Intent = plain(r.Intent, call.MaxIntent)
	r.Outcome = plain(r.Outcome, call.MaxOutcome)
	r.SummaryRU = outbound.Plain(r.SummaryRU, call.MaxSummary)
	r.ClientName = plain(r.ClientName, call.MaxName)
	r.Phone = plain(r.Phone, call.MaxPhone)
	r.OutcomeCode = call.OutcomeCode(outbound.Plain(string(r.OutcomeCode), maxCode))
	if r.Sentiment != nil {
		r.Sentiment = new(call.Sentiment(outbound.Plain(string(*r.Sentiment), maxCode)))
	}
	recommendations := call.Recommendations{}
	for _, s := range r.Recommendations[:min(len(r.Recommendations), call.MaxRecommendations)] {
		recommendations = append(recommendations, outbound.Plain(s, call.MaxRecommendation))
	}
	r.Recommendations = recommendations
	evidence := []call.Evidence{}
	for _, e := range r.Evidence[:min(len(r.Evidence), call.MaxEvidence)] {
		if !e.Supported {
			continue // nobody said it: no evidence
		}
		e.Claim = outbound.Plain(e.Claim, call.MaxQuote)
		e.Quote = outbound.Plain(e.Quote, call.MaxQuote)
		evidence = append(evidence, e)
	}
	r.Evidence = evidence
	criteria := []call.Judgement{}
	for _, j := range r.Criteria[:min(len(r.Criteria), call.MaxCriteria)] {
		j.ID = outbound.Plain(j.ID, call.MaxCriterionID)
		j.Verdict = call.Verdict(outbound.Plain(string(j.Verdict), maxCode))
		if j.Quote = plain(j.Quote, call.MaxQuote); !j.Supported {
			j.Turn, j.Quote = nil, nil
		}
		criteria = append(criteria, j)
	}
	r.Criteria = criteria
	r.Metrics = nil
	return r
}

func plain(s *string, characters int) *string {
	if s == nil {
		return nil
	}
	return new(outbound.Plain(*s, characters))
}
