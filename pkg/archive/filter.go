package archive

import (
	"context"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"postcall/pkg/call"
)

// Bounds of what is looked for.
const (
	maxText   = 300 // of a text, in characters
	maxValues = 50  // of a list
)

func (s Sort) byQuality() bool { return s == Best || s == Worst }

// settle checks a query and fills in what it leaves open.
func (q *Query) settle() error {
	if q.Sort == "" {
		q.Sort = Newest
	}
	if !slices.Contains(Sorts(), q.Sort) {
		return call.Errorf(call.Invalid, "sort is none of %s", join(Sorts()))
	}
	if q.Limit == 0 {
		q.Limit = DefaultLimit
	}
	if q.Patience == 0 {
		q.Patience = DefaultPatience
	}
	if q.Limit < 1 || q.Limit > MaxLimit {
		return call.Errorf(call.Invalid, "limit must be 1 to %d", MaxLimit)
	}
	if q.Offset < 0 || q.Offset > MaxOffset {
		return call.Errorf(call.Invalid, "a page may begin with row %d at most: go on with cursor from there", MaxOffset)
	}
	if q.Offset > 0 && q.After != "" {
		return call.Errorf(call.Invalid, "page and cursor are two ways to say where a page begins: give one")
	}
	return q.Filter.check()
}

func (f *Filter) check() error {
	for name, text := range map[string]string{
		"q": f.Query, "topic": f.Topic, "intent": f.Intent, "outcome": f.Outcome, "clientName": f.ClientName,
		"conversationId": f.ConversationID, "failureReason": f.FailureReason, "phone": f.Phone,
	} {
		if err := checkText(name, text); err != nil {
			return err
		}
	}
	for name, n := range map[string]int{
		"type": len(f.Types), "agentId": len(f.AgentIDs), "state": len(f.States), "quality": len(f.Qualities),
		"outcomeCode": len(f.OutcomeCodes), "sentiment": len(f.Sentiments),
	} {
		if n > maxValues {
			return call.Errorf(call.Invalid, "%s has more than %d values", name, maxValues)
		}
	}
	for _, v := range f.AgentIDs {
		if err := checkText("agentId", v); err != nil {
			return err
		}
	}
	for _, v := range f.Types {
		if err := checkText("type", string(v)); err != nil {
			return err
		}
	}
	for _, v := range f.Qualities {
		if v < 1 || v > 5 {
			return call.Errorf(call.Invalid, "quality must be 1 to 5")
		}
	}
	if err := among("outcomeCode", f.OutcomeCodes, call.OutcomeCodes()); err != nil {
		return err
	}
	if err := among("sentiment", f.Sentiments, call.Sentiments()); err != nil {
		return err
	}
	if err := among("state", f.States, states()); err != nil {
		return err
	}
	if f.Phone != "" && phoneKey(f.Phone) == "" {
		return call.Errorf(call.Invalid, "phone must be the last 4 or 7 digits of a number, or all of them")
	}
	for name, at := range map[string]time.Time{"dateFrom": f.From, "dateTo": f.To} {
		if !at.IsZero() && (at.Year() < 1970 || at.Year() > 9999) {
			return call.Errorf(call.Invalid, "%s must lie in the years 1970 to 9999", name)
		}
	}
	if !f.To.IsZero() && !f.From.Before(f.To) {
		return call.Errorf(call.Invalid, "dateFrom must lie before dateTo")
	}
	return nil
}

func checkText(name, text string) error {
	if utf8.RuneCountInString(text) > maxText {
		return call.Errorf(call.Invalid, "%s is longer than %d characters", name, maxText)
	}
	if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
		return call.Errorf(call.Invalid, "%s is no text", name)
	}
	return nil
}

func states() []call.State {
	return []call.State{call.StateNone, call.StateQueued, call.StateRunning, call.StateDone, call.StateSkipped, call.StateDead}
}

func among[T ~string](name string, values, allowed []T) error {
	for _, v := range values {
		if !slices.Contains(allowed, v) {
			return call.Errorf(call.Invalid, "%s must be of %s", name, join(allowed))
		}
	}
	return nil
}

func join[T ~string](list []T) string {
	texts := make([]string, len(list))
	for i, v := range list {
		texts[i] = string(v)
	}
	return strings.Join(texts, ", ")
}

// phoneKey is the facet that a number is looked for by, as call_number makes
// them; empty for what is no number.
func phoneKey(number string) string {
	digits := strings.Map(func(c rune) rune {
		if c < '0' || c > '9' {
			return -1
		}
		return c
	}, number)
	if len(digits) < 4 {
		return ""
	}
	return "phone=" + digits[max(0, len(digits)-10):]
}

// WholePhone reports whether a filter's number is a whole one, by which nobody
// learns digits that they do not know.
func (f *Filter) WholePhone() bool { return len(phoneKey(f.Phone)) == len("phone=")+10 }

// plan is a filter as the tables are asked.
type plan struct {
	Filter
	all []string   // facets that a call must have
	any [][]string // of each list, one
	// ofEvent is how many of these are of the event itself.
	ofEvent int
	// settled: no event meets the filter that waits for its first analysis.
	settled bool
	// narrow: it asks for more than when an event was received.
	narrow bool
	// costly: what the index finds must be looked at one by one, as it does not
	// know the places of words nor which ones are missing.
	costly bool
}

// compile translates a filter. Words are stemmed by the database, as those
// were that they are compared with.
func compile(ctx context.Context, tx pgx.Tx, f Filter, byQuality bool) (*plan, error) {
	p := &plan{Filter: f}
	p.choose(byQuality)
	if err := p.stem(ctx, tx); err != nil {
		return nil, err
	}
	p.settled = f.Query != "" || len(p.all)+len(p.any) > p.ofEvent
	p.narrow = p.settled || p.ofEvent > 0 || len(f.States) > 0
	return p, nil
}

// choose names the facets that the filter asks for, but for words.
func (p *plan) choose(byQuality bool) {
	f := p.Filter
	anyOf(p, "type=", f.Types)
	anyOf(p, "agent=", f.AgentIDs)
	if f.ConversationID != "" {
		p.all = append(p.all, "conversation="+cut(f.ConversationID))
	}
	if f.HasAudio != nil {
		p.all = append(p.all, map[bool]string{true: "audio=yes", false: "audio=no"}[*f.HasAudio])
	}
	p.ofEvent = len(p.all) + len(p.any)
	if f.FailureReason != "" {
		p.all = append(p.all, "reason="+f.FailureReason)
	}
	if byQuality && len(f.Qualities) == 0 {
		f.Qualities = []int{1, 2, 3, 4, 5}
	}
	qualities := make([]string, len(f.Qualities))
	for i, v := range f.Qualities {
		qualities[i] = strconv.Itoa(v)
	}
	anyOf(p, "quality=", qualities)
	anyOf(p, "code=", f.OutcomeCodes)
	anyOf(p, "sentiment=", f.Sentiments)
	if f.Phone != "" {
		p.all = append(p.all, phoneKey(f.Phone))
	}
}

// cut shortens a value as the facets were: to 200 characters.
func cut(value string) string {
	if runes := []rune(value); len(runes) > 200 {
		return string(runes[:200])
	}
	return value
}

func anyOf[T ~string](p *plan, prefix string, values []T) {
	switch len(values) {
	case 0:
		return
	case 1: // among all, where the rarest of them leads
		p.all = append(p.all, prefix+cut(string(values[0])))
		return
	}
	facets := make([]string, len(values))
	for i, v := range values {
		facets[i] = prefix + cut(string(v))
	}
	p.any = append(p.any, facets)
}

// Condition is the filter as a condition on webhook_events e, with its
// arguments from $1 on: for acting on all that meets it. Words without a stem
// and searches for what is missing only are met by nothing.
func (f Filter) Condition() (condition string, args []any, err error) {
	if err := f.check(); err != nil {
		return "", nil, err
	}
	p := &plan{Filter: f}
	c := p.events()
	p.received(c)
	of := f // what calls alone can tell
	of.Types, of.AgentIDs, of.ConversationID, of.HasAudio, of.States, of.From, of.To = nil, nil, "", nil, nil, time.Time{}, time.Time{}
	p = &plan{Filter: of}
	p.choose(false)
	inner := p.calls()
	for _, t := range p.texts() {
		if t.text != "" {
			inner.and("cardinality(call_words(?, ?)) > 0", t.prefix, t.text)
			inner.and("facets @> call_words(?, ?)", t.prefix, t.text)
		}
	}
	if f.Query != "" {
		inner.and("querytree("+tsquery("?")+") not in ('', 'T')", f.Query)
	}
	if len(inner.args) == 0 {
		return c.String(), c.args, nil
	}
	c.and("e.id in (select event_id from calls where " + c.nested(inner) + ")")
	return c.String(), c.args, nil
}

// nested is another clause as a part of this one, with its arguments behind
// those of this one.
func (c *clause) nested(inner *clause) string {
	before := len(c.args)
	c.args = append(c.args, inner.args...)
	return placeholder.ReplaceAllStringFunc(inner.String(), func(s string) string {
		n, err := strconv.Atoi(s[1:])
		if err != nil {
			panic("archive: a placeholder without a number: " + s)
		}
		return "$" + strconv.Itoa(n+before)
	})
}

var placeholder = regexp.MustCompile(`\$\d+`)

// text is a text of which the words are looked for.
type text struct{ name, prefix, text string }

func (p *plan) texts() []text {
	return []text{
		{"topic", "topic=", p.Topic}, {"intent", "intent=", p.Intent}, {"outcome", "outcome=", p.Outcome}, {"clientName", "name=", p.ClientName},
	}
}

// stem adds the words that texts must have.
func (p *plan) stem(ctx context.Context, tx pgx.Tx) error {
	texts := p.texts()
	if p.Topic+p.Intent+p.Outcome+p.ClientName+p.Query == "" {
		return nil
	}
	words := make([][]string, len(texts))
	var tree string
	err := tx.QueryRow(ctx, `
		select call_words($1, $2), call_words($3, $4), call_words($5, $6), call_words($7, $8), querytree(`+tsquery("$9")+`), (`+tsquery("$9")+`)::text ~ '<|!'`,
		texts[0].prefix, p.Topic, texts[1].prefix, p.Intent, texts[2].prefix, p.Outcome, texts[3].prefix, p.ClientName, p.Query,
	).Scan(&words[0], &words[1], &words[2], &words[3], &tree, &p.costly)
	if err != nil {
		return failed("reading the words of a filter", err)
	}
	for i, t := range texts {
		if t.text != "" && len(words[i]) == 0 {
			return call.Errorf(call.Invalid, "%s has no word that could be looked for", t.name)
		}
		p.all = append(p.all, words[i]...)
	}
	if p.Query != "" && (tree == "" || tree == "T") {
		return call.Errorf(call.Invalid, "q must have a word that is to be found: no mere endings, particles or exclusions")
	}
	return nil
}

func tsquery(text string) string {
	return `websearch_to_tsquery('pg_catalog.russian', translate(` + text + `::text, 'ёЁ', 'ее'))`
}

// clause is a condition with its arguments, numbered as it grows.
type clause struct {
	sql  strings.Builder
	args []any
}

// and adds a condition; each ? in it stands for the next argument.
func (c *clause) and(condition string, args ...any) {
	if c.sql.Len() > 0 {
		c.sql.WriteString(" and ")
	}
	for _, arg := range args {
		before, after, found := strings.Cut(condition, "?")
		if !found {
			panic("archive: a condition with too many arguments")
		}
		c.sql.WriteString(before + c.arg(arg))
		condition = after
	}
	c.sql.WriteString(condition)
}

func (c *clause) arg(v any) string {
	c.args = append(c.args, v)
	return "$" + strconv.Itoa(len(c.args))
}

func (c *clause) String() string {
	if c.sql.Len() == 0 {
		return "true"
	}
	return c.sql.String()
}

// calls is the filter on calls, or on the part of them that has any of some
// facets. Of states, only settled ones are found by the index, so that waiting
// ones are looked for in webhook_events.
//
// The index goes from one condition's matches to the next one's in the order in
// which they stand, so that the part comes first; of the facets that are all
// needed, it begins with the rarest.
func (p *plan) calls(part ...string) *clause {
	c := &clause{}
	all := p.all
	switch len(part) {
	case 0:
	case 1:
		all = append(slices.Clone(all), part...)
	default:
		c.and("facets && ?::text[]", part)
	}
	settled, waiting := p.byState()
	byState := len(p.States) > 0 && (len(waiting) == 0 || !p.settled)
	if byState && len(settled) == 1 {
		all = append(slices.Clone(all), "state="+string(settled[0]))
	}
	if len(all) > 0 {
		c.and("facets @> ?::text[]", all)
	}
	for _, list := range p.any {
		c.and("facets && ?::text[]", list)
	}
	if p.Query != "" {
		c.and("said @@ "+tsquery("?"), p.Query)
	}
	if len(p.States) > 0 {
		of := p.States
		if !p.settled {
			of = settled
		}
		c.and("state = any(?::text[])", of)
		if byState && len(settled) > 1 {
			facets := make([]string, len(settled))
			for i, s := range settled {
				facets[i] = "state=" + string(s)
			}
			c.and("facets && ?::text[]", facets)
		}
	}
	if !p.From.IsZero() {
		c.and("at >= ?", p.From)
	}
	if !p.To.IsZero() {
		c.and("at < ?", p.To)
	}
	return c
}

// byState parts the states that are asked for into those that stand in facets
// and those of events that wait. Without any asked for, both are all.
func (p *plan) byState() (settled, waiting []call.State) {
	for _, s := range states() {
		if len(p.States) > 0 && !slices.Contains(p.States, s) {
			continue
		}
		if s == call.StateQueued || s == call.StateRunning {
			waiting = append(waiting, s)
		} else {
			settled = append(settled, s)
		}
	}
	return settled, waiting
}

// events is the filter on the columns of webhook_events, as far as it stands
// there, but for when they were received; e is that table, or a part of it. Its
// arguments come behind those given.
func (p *plan) events(args ...any) *clause {
	c := &clause{args: args}
	c.and("e.duplicate_of is null")
	if len(p.Types) > 0 {
		c.and("e.event_type = any(?::text[])", p.Types)
	}
	if len(p.AgentIDs) > 0 {
		c.and("e.agent_id = any(?::text[])", p.AgentIDs)
	}
	if p.ConversationID != "" {
		c.and("e.conversation_id = ?", p.ConversationID)
	}
	if p.HasAudio != nil {
		c.and("coalesce(e.has_audio, false) = ?", *p.HasAudio)
	}
	if len(p.States) > 0 {
		c.and("e.analysis_state = any(?::text[])", p.States)
	}
	return c
}

// received bounds when events were received.
func (p *plan) received(c *clause) {
	if !p.From.IsZero() {
		c.and("e.received_at >= ?", p.From)
	}
	if !p.To.IsZero() {
		c.and("e.received_at < ?", p.To)
	}
}

// listedAt is when lists say that an event e was received: those that the Node
// service left without a time are the oldest.
const listedAt = "coalesce(e.received_at, 'epoch')"

// listed bounds when events were received, as lists say.
func (p *plan) listed(c *clause) {
	if !p.From.IsZero() {
		c.and(listedAt+" >= ?", p.From)
	}
	if !p.To.IsZero() {
		c.and(listedAt+" < ?", p.To)
	}
}
