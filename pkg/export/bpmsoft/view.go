package bpmsoft

import (
	"net/mail"
	"strconv"
	"strings"
	"unicode"

	"postcall/pkg/call"
	"postcall/pkg/export"
)

// view is what the templates of a mapping see. All texts are one line without
// control characters, and empty where nothing is known.
type view struct {
	// The event.
	EventID        string
	EventType      string
	ConversationID string
	AgentID        string
	ReceivedAt     string // 2026-11-23T15:04:05Z, as are the other times

	// The call.
	AgentName   string
	Direction   string // inbound, outbound
	AgentNumber string
	StartedAt   string
	Duration    string // seconds
	Language    string

	// The analysis.
	AnalysisID      string
	Topic           string
	Intent          string
	Quality         string // 1 to 5
	Outcome         string
	OutcomeCode     string
	Sentiment       string
	Summary         string
	Recommendations []string
	Suspicious      bool // somebody may have tried to steer the analysis
	Analyzer        string

	// The customer.
	ClientName string
	Email      string
	Phone      phone   // the first number
	Phones     []phone // all of them

	LeadSource string // CRM_LEAD_SOURCE

	quality int // 0 when not known
}

func newView(d export.Delivery, leadSource, region string) view {
	e, c, a, r := d.Event, d.Conversation, d.Analysis, d.Analysis.Result
	v := view{
		EventID: strconv.FormatInt(e.ID, 10), EventType: clean(string(e.Type)),
		ConversationID: clean(e.ConversationID), AgentID: clean(e.AgentID),
		AgentName: clean(c.AgentName), Direction: clean(c.Direction), AgentNumber: clean(c.AgentNumber), Language: clean(c.Language),
		AnalysisID: strconv.FormatInt(a.ID, 10), Topic: text(r.Topic), Intent: text(r.Intent), Outcome: text(r.Outcome),
		OutcomeCode: clean(string(r.OutcomeCode)), Summary: clean(r.SummaryRU), Suspicious: r.InjectionSuspected, Analyzer: clean(a.Analyzer),
		ClientName: text(r.ClientName), Email: email(c.Collected), LeadSource: clean(leadSource),
	}
	if v.ConversationID == "" {
		v.ConversationID = clean(c.ID)
	}
	if v.AgentID == "" {
		v.AgentID = clean(c.AgentID)
	}
	if !e.ReceivedAt.IsZero() {
		v.ReceivedAt = e.ReceivedAt.UTC().Format(timeForm)
	}
	if !c.StartedAt.IsZero() {
		v.StartedAt = c.StartedAt.UTC().Format(timeForm)
	}
	if c.Duration > 0 {
		v.Duration = strconv.Itoa(int(c.Duration.Seconds()))
	}
	if r.Quality != nil {
		v.quality = *r.Quality
		v.Quality = strconv.Itoa(*r.Quality)
	}
	if r.Sentiment != nil {
		v.Sentiment = clean(string(*r.Sentiment))
	}
	for _, s := range r.Recommendations[:min(len(r.Recommendations), call.MaxRecommendations)] {
		if s = clean(s); s != "" {
			v.Recommendations = append(v.Recommendations, s)
		}
	}
	for _, s := range []string{text(r.Phone), clean(c.ExternalNumber)} {
		if v.Phones = phones(s, region); len(v.Phones) > 0 {
			v.Phone = v.Phones[0]
			break
		}
	}
	return v
}

const timeForm = "2006-01-02T15:04:05Z"

func text(s *string) string {
	if s == nil {
		return ""
	}
	return clean(*s)
}

// maxText is how much of a text from outside is looked at, in bytes: more than
// any column of a CRM holds.
const maxText = 32 << 10

// clean makes one line of a text from outside: control and format characters
// go, white space becomes single spaces.
func clean(s string) string {
	s = s[:min(len(s), maxText)]
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case unicode.Is(unicode.C, r):
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	return strings.Join(strings.Fields(s), " ")
}

// email is an address that ElevenLabs collected under a name like email.
func email(points []call.DataPoint) string {
	for _, p := range points {
		switch strings.ToLower(strings.NewReplacer("-", "", "_", "", " ", "").Replace(p.ID)) {
		case "email", "clientemail", "customeremail", "useremail", "mail", "почта", "электроннаяпочта":
		default:
			continue
		}
		if p.Value == nil || len(*p.Value) > 254 {
			continue
		}
		s := clean(*p.Value)
		if a, err := mail.ParseAddress(s); err == nil && a.Address == s {
			return s
		}
	}
	return ""
}
