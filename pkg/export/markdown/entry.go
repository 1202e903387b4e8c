package markdown

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"postcall/pkg/call"
	"postcall/pkg/export"
)

// header is the start of a new file.
const header = `# Звонки

Сюда Postcall дописывает итог каждого разобранного звонка: одна запись на анализ, новые внизу. Записи можно править и дополнять; комментарии с пометкой postcall не трогайте, по ним видно, что запись уже есть.

`

// Bounds of the texts that call.Result does not bound itself, in characters.
const (
	maxAgentName = 120
	maxID        = 120
	maxModel     = 120
)

// unknown stands for what the conversation does not tell.
const unknown = "—"

// Labels for people of the closed lists. They are part of the form.
var (
	outcomeLabels = map[call.OutcomeCode]string{
		call.OutcomeLead:      "оставил контакт",
		call.OutcomeMeeting:   "договорились о встрече",
		call.OutcomeCallback:  "просил перезвонить",
		call.OutcomeTransfer:  "передан сотруднику",
		call.OutcomeInformed:  "получил ответ",
		call.OutcomeRefused:   "отказ",
		call.OutcomeComplaint: "жалоба",
		call.OutcomeNoContact: "разговор не состоялся",
		call.OutcomeUnclear:   "неясно",
	}
	sentimentLabels = map[call.Sentiment]string{
		call.SentimentPositive: "положительное",
		call.SentimentNeutral:  "нейтральное",
		call.SentimentNegative: "отрицательное",
		call.SentimentMixed:    "смешанное",
	}
)

// marker names an entry: its first and its last line.
type marker struct {
	analysis int64
	call     string // a digest, since the ids of a call are hostile text
}

// markerStart is how the first line of every entry starts.
const markerStart = "<!-- postcall:analysis="

func markerOf(d export.Delivery) marker {
	sum := sha256.Sum256([]byte(d.Event.DedupKey + "\x00" + d.Event.ConversationID))
	return marker{analysis: d.Analysis.ID, call: hex.EncodeToString(sum[:6])}
}

func (m marker) begin() string {
	return fmt.Sprintf("%s%d call=%s -->", markerStart, m.analysis, m.call)
}

func (m marker) end() string {
	return fmt.Sprintf("<!-- /postcall:analysis=%d call=%s -->", m.analysis, m.call)
}

// render writes the entry of d in the form that the package comment describes.
// Whatever d holds, its size is bounded: see TestEntryIsBounded.
func render(d export.Delivery, loc *time.Location) string {
	var b strings.Builder
	line := func(label, value string) { fmt.Fprintf(&b, "- **%s:** %s\n", label, cmp.Or(value, unknown)) }
	known := func(label, value string) {
		if value != "" {
			line(label, value)
		}
	}

	r := d.Analysis.Result
	m := markerOf(d)
	topic := optional(r.Topic, call.MaxTopic)
	fmt.Fprintf(&b, "%s\n## %s — %s\n\n", m.begin(), when(d, loc), cmp.Or(topic, "без темы"))
	if r.InjectionSuspected {
		line("Внимание", "похоже, в разговоре пытались повлиять на анализ; проверьте запись")
	}
	line("Агент", agent(d))
	line("Разговор", text(cmp.Or(d.Event.ConversationID, d.Conversation.ID), maxID))
	line("Событие", fmt.Sprintf("№%d", d.Event.ID))
	line("Тема", topic)
	line("Намерение", optional(r.Intent, call.MaxIntent))
	line("Качество", quality(r.Quality))
	line("Итог", outcome(r))
	line("Настроение", sentiment(r.Sentiment))
	known("Клиент", cmp.Or(optional(r.ClientName, call.MaxName), text(d.Conversation.KnownName, call.MaxName)))
	known("Телефон", phone(d))
	line("Краткое содержание", text(r.SummaryRU, call.MaxSummary))
	if list := recommendations(r.Recommendations); len(list) > 0 {
		b.WriteString("- **Рекомендации:**\n")
		for i, s := range list {
			fmt.Fprintf(&b, "  %d. %s\n", i+1, s)
		}
	}
	line("Анализ", analyser(d.Analysis))
	fmt.Fprintf(&b, "\n%s\n\n", m.end())
	return b.String()
}

func text(s string, limit int) string { return escape(clean(s, limit)) }

func optional(s *string, limit int) string {
	if s == nil {
		return ""
	}
	return text(*s, limit)
}

func when(d export.Delivery, loc *time.Location) string {
	at := d.Conversation.StartedAt
	if at.IsZero() {
		at = d.Event.ReceivedAt
	}
	return at.In(loc).Format("2006-01-02 15:04:05 -07:00")
}

func agent(d export.Delivery) string {
	name := text(d.Conversation.AgentName, maxAgentName)
	id := text(cmp.Or(d.Event.AgentID, d.Conversation.AgentID), maxID)
	if name != "" && id != "" {
		return name + " (" + id + ")"
	}
	return name + id
}

func quality(q *int) string {
	if q == nil {
		return ""
	}
	return fmt.Sprintf("%d/5", *q)
}

func outcome(r call.Result) string {
	label := outcomeLabels[r.OutcomeCode]
	said := optional(r.Outcome, call.MaxOutcome)
	if label != "" && said != "" {
		return label + " — " + said
	}
	return label + said
}

func sentiment(s *call.Sentiment) string {
	if s == nil {
		return ""
	}
	return sentimentLabels[*s]
}

// phone is the number that the conversation gave, otherwise the one that the
// telephony did, and says so: a person may call from another's telephone.
func phone(d export.Delivery) string {
	if p := optional(d.Analysis.Result.Phone, call.MaxPhone); p != "" {
		return p
	}
	if p := text(d.Conversation.ExternalNumber, call.MaxPhone); p != "" {
		return p + " (номер линии)"
	}
	return ""
}

func recommendations(all call.Recommendations) []string {
	var list []string
	for _, s := range all[:min(len(all), call.MaxRecommendations)] {
		if s = text(s, call.MaxRecommendation); s != "" {
			list = append(list, s)
		}
	}
	return list
}

func analyser(a call.Analysis) string {
	made := []string{fmt.Sprintf("№%d", a.ID)}
	if a.Analyzer == "builtin" {
		made = append(made, "встроенный анализатор (без языковой модели)")
	} else {
		for _, s := range []string{a.Analyzer, a.Model} { // rows of the Node service name no analyser
			if s = text(s, maxModel); s != "" {
				made = append(made, s)
			}
		}
	}
	return strings.Join(made, ", ")
}
