package admin

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"postcall/pkg/access"
	"postcall/pkg/archive"
	"postcall/pkg/call"
)

// parameters reads a query string strictly: what is not known, or given twice,
// is refused, so that a filter with a slip in its name does not mean everything.
type parameters struct {
	values url.Values
	err    error // the first thing wrong
}

func parametersOf(c echo.Context, allowed ...string) *parameters {
	p := &parameters{}
	var err error
	if p.values, err = url.ParseQuery(c.Request().URL.RawQuery); err != nil {
		p.wrong("the query string cannot be read: a %% must stand before two hexadecimal digits, & between parameters")
		return p
	}
	p.check(allowed)
	return p
}

// readParameters holds values to the names that are allowed.
func readParameters(values url.Values, allowed ...string) *parameters {
	p := &parameters{values: values}
	p.check(allowed)
	return p
}

// check refuses what is not allowed or given twice.
func (p *parameters) check(allowed []string) {
	for name, values := range p.values {
		switch {
		case !slices.Contains(allowed, name) && len(allowed) == 0:
			p.wrong("this takes no parameters")
		case !slices.Contains(allowed, name):
			p.wrong("there is no parameter %s; there are %s", shorten(name), strings.Join(allowed, ", "))
		case len(values) > 1:
			p.wrong("%s is given %d times; of several values, give a list with commas", name, len(values))
		}
	}
}

func (p *parameters) wrong(format string, args ...any) {
	if p.err == nil {
		p.err = call.Errorf(call.Invalid, format, args...)
	}
}

func shorten(s string) string {
	return strconv.Quote(s[:min(len(s), 40)])
}

func (p *parameters) text(name string) string {
	v := p.values.Get(name)
	if v == "" && p.values.Has(name) {
		p.wrong("%s is empty: give a value or leave it out", name)
	}
	return v
}

// list reads values with commas between them.
func list[T ~string](p *parameters, name string) []T {
	text := p.text(name)
	if text == "" {
		return nil
	}
	var values []T
	for v := range strings.SplitSeq(text, ",") {
		if v = strings.TrimSpace(v); v == "" {
			p.wrong("%s has an empty value in its list", name)
		}
		values = append(values, T(v))
	}
	return values
}

// number reads a whole number from 1 to most; otherwise if it is not given.
func (p *parameters) number(name string, most, otherwise int) int {
	text := p.text(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > most {
		p.wrong("%s must be a whole number from 1 to %d", name, most)
	}
	return n
}

// flag reads true or false, nil if it is not given.
func (p *parameters) flag(name string) *bool {
	switch p.text(name) {
	case "":
		return nil
	case "true", "1":
		return new(true)
	case "false", "0":
		return new(false)
	}
	p.wrong("%s must be true or false", name)
	return nil
}

// moment reads a time as RFC 3339 has it, or a day, which is one in UTC: its
// beginning or, where end is set, its end.
func (p *parameters) moment(name string, end bool) time.Time {
	text := p.text(name)
	if text == "" {
		return time.Time{}
	}
	if day, err := time.Parse(time.DateOnly, text); err == nil {
		if end {
			day = day.AddDate(0, 0, 1)
		}
		return day
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		p.wrong("%s must be a day such as 2026-11-23, or a time such as 2026-11-23T09:30:00Z", name)
	}
	return at.UTC()
}

// filterParameters are those of archive.Filter.
var filterParameters = []string{
	"type", "agentId", "conversationId", "state", "dateFrom", "dateTo", "hasAudio", "failureReason",
	"quality", "outcome", "outcomeCode", "sentiment", "topic", "intent", "clientName", "phone", "q",
}

// filter reads a filter.
func (p *parameters) filter(who access.Identity) archive.Filter {
	f := archive.Filter{
		Types:          list[call.EventType](p, "type"),
		AgentIDs:       list[string](p, "agentId"),
		ConversationID: p.text("conversationId"),
		States:         list[call.State](p, "state"),
		From:           p.moment("dateFrom", false),
		To:             p.moment("dateTo", true),
		HasAudio:       p.flag("hasAudio"),
		FailureReason:  p.text("failureReason"),
		OutcomeCodes:   list[call.OutcomeCode](p, "outcomeCode"),
		Outcome:        p.text("outcome"),
		Sentiments:     list[call.Sentiment](p, "sentiment"),
		Topic:          p.text("topic"),
		Intent:         p.text("intent"),
		ClientName:     p.text("clientName"),
		Phone:          p.text("phone"),
		Query:          p.text("q"),
	}
	for _, v := range list[string](p, "quality") {
		n, err := strconv.Atoi(v)
		if err != nil {
			p.wrong("quality must be numbers from 1 to 5")
		}
		f.Qualities = append(f.Qualities, n)
	}
	// An outcome that is a code means the code; any other, words of the text.
	if code := call.OutcomeCode(f.Outcome); slices.Contains(call.OutcomeCodes(), code) && len(f.OutcomeCodes) == 0 {
		f.Outcome, f.OutcomeCodes = "", []call.OutcomeCode{code}
	}
	// Digit by digit, a part of a number would give the whole away.
	if f.Phone != "" && !who.Role.May(access.Operator) && !f.WholePhone() && p.err == nil {
		p.err = call.Errorf(call.Forbidden, "Looking for a part of a number takes the role %s or a higher one; a whole number may be looked for.", access.Operator)
	}
	return f
}

// MatchEvents turns the fields of a filter, named and written as in the query
// of GET /api/events, into a condition on webhook_events e with its arguments
// from $1 on.
func MatchEvents(fields url.Values) (condition string, args []any, err error) {
	p := readParameters(fields, filterParameters...)
	f := p.filter(access.Identity{Role: access.Operator})
	if p.err != nil {
		return "", nil, p.err
	}
	return f.Condition()
}
