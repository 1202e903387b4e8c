package odata

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"postcall/pkg/call"
	"postcall/pkg/export"
	"postcall/pkg/export/outbound"
)

// typeCall is BPMSoft's ActivityType «Call».
const typeCall = "e1831dec-cfc0-df11-b00f-001d60e938c6"

// Bounds of an Activity's columns, in characters. Title holds 450; the others
// have none in the database, but people read them.
const (
	maxTitle  = 400
	maxResult = 4000
	maxNotes  = 12000
	maxLine   = 2000
	maxID     = 200
)

// activity is a row of BPMSoft's Activity.
type activity struct {
	ID             string    `json:"Id,omitempty"`
	Title          string    `json:"Title"`
	DetailedResult string    `json:"DetailedResult"`
	Notes          string    `json:"Notes"`
	StartDate      time.Time `json:"StartDate"`
	DueDate        time.Time `json:"DueDate"`
	TypeID         string    `json:"TypeId"`
	ContactID      string    `json:"ContactId,omitempty"`

	mark string // the line of the notes that names the analysis
}

// ActivityID is the Id of a call's Activity, the same for all its analyses.
func ActivityID(d export.Delivery) string {
	return outbound.ID(append(outbound.CallKey(d), "bpmsoft activity")...)
}

func (a activity) encode() json.RawMessage {
	b, err := json.Marshal(a)
	if err != nil { // texts and times of this century always can
		panic("odata: an activity cannot be encoded: " + err.Error())
	}
	return b
}

func (e *Exporter) activity(d export.Delivery) activity {
	r := d.Analysis.Result
	start := startOf(d)
	a := activity{
		ID:        ActivityID(d),
		StartDate: start,
		DueDate:   start.Add(min(max(d.Conversation.Duration, 0), 24*time.Hour)),
		TypeID:    typeCall,
		mark:      fmt.Sprintf("Postcall: анализ %d, событие %d", d.Analysis.ID, d.Event.ID),
	}
	a.Title = outbound.Plain("Звонок: "+cmp.Or(line(r.Topic), "без темы"), maxTitle)
	a.DetailedResult = outbound.Plain(join(" ", sentence(line(r.Outcome)), one(r.SummaryRU)), maxResult)

	var notes []string
	add := func(label, value string) {
		if value = outbound.Plain(value, maxLine); value != "" {
			notes = append(notes, label+": "+value)
		}
	}
	if r.InjectionSuspected {
		add("Внимание", "в разговоре пытались повлиять на разбор, проверьте выводы")
	}
	add("Намерение", line(r.Intent))
	if r.Quality != nil {
		add("Качество", fmt.Sprintf("%d/5", *r.Quality))
	}
	add("Итог", join(" ", line(r.Outcome), "("+one(string(r.OutcomeCode))+")"))
	add("Клиент", line(r.ClientName))
	add("Телефон", cmp.Or(line(r.Phone), one(d.Conversation.ExternalNumber)))
	for i, s := range r.Recommendations[:min(len(r.Recommendations), call.MaxRecommendations)] {
		add(fmt.Sprintf("Рекомендация %d", i+1), outbound.Plain(one(s), call.MaxRecommendation))
	}
	add("Агент", outbound.Plain(cmp.Or(one(d.Conversation.AgentName), one(d.Event.AgentID)), maxID))
	add("Разговор", outbound.Plain(one(d.Event.ConversationID), maxID))
	// The mark comes last and on a line of its own. No value can hold it as a
	// line, for each value is one line behind its label.
	a.Notes = outbound.Plain(strings.Join(notes, "\n"), maxNotes) + "\n" + a.mark
	a.Notes = strings.TrimPrefix(a.Notes, "\n")
	return a
}

// startOf is when the call began, as well as that is known.
func startOf(d export.Delivery) time.Time {
	at := d.Conversation.StartedAt
	if at.IsZero() && d.Event.Timestamp > 0 {
		at = time.Unix(d.Event.Timestamp, 0)
	}
	// BPMSoft's database takes no year before 1753, JSON none above 9999.
	if at.Year() < 1970 || at.Year() > 9000 {
		at = d.Event.ReceivedAt
	}
	if at.Year() < 1970 || at.Year() > 9000 {
		at = d.Analysis.CreatedAt
	}
	return at.UTC().Truncate(time.Second)
}

// one makes a text a single plain line of bounded length.
func one(s string) string {
	return strings.Join(strings.Fields(outbound.Plain(s, maxLine)), " ")
}

func line(s *string) string {
	if s == nil {
		return ""
	}
	return one(*s)
}

func join(between string, parts ...string) string {
	var list []string
	for _, p := range parts {
		if p != "" && p != "()" {
			list = append(list, p)
		}
	}
	return strings.Join(list, between)
}

// sentence ends a text with a full stop if nothing ends it.
func sentence(s string) string {
	if s == "" || strings.ContainsAny(s[len(s)-1:], ".!?") || strings.HasSuffix(s, "…") {
		return s
	}
	return s + "."
}
