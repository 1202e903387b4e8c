package elevenlabs

import (
	"math"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"postcall/pkg/call"
)

// Names in ElevenLabs' traces. The page "OpenTelemetry traces" gives those of
// the conversation, its turns and their texts; it says that a tool's span
// carries arguments and result, but not under which names, so that several are
// tried. Attributes of the telephony other than the external number, and the
// verdict, are not documented either and taken if they are there.
const (
	spanConversation = "elevenlabs.conversation"
	spanTurn         = "elevenlabs.turn."
	spanTool         = "elevenlabs.tool."

	attrTurnIndex = "elevenlabs.turn.index"
	attrUserText  = "elevenlabs.user.text"
	attrAgentText = "elevenlabs.agent.text"
	attrVariable  = "elevenlabs.dynamic_variable."
)

// span is one span of the traces with its attributes unwrapped.
type span struct {
	id, parent, name string
	start, end       int64 // unix nanoseconds, 0 when not told
	attributes       map[string]any
	failed           bool
}

// utterance is a text of a span on its way to becoming a turn.
type utterance struct {
	role        call.Role
	text        string
	interrupted bool
	spanID      string
	index       int   // elevenlabs.turn.index; user and agent share one. -1 when not told
	start       int64 // 0 when not told
	order       int64 // start, or that of the span before it
}

// readTraces fills in what OpenTelemetry traces tell: turns in the order of
// their index and then of time, tools on the turn they belong to, and what the
// conversation's own span says where c does not know it yet. Times in the call
// count from the start of the conversation's span, or else of the first one.
func readTraces(c *call.Conversation, traces any) {
	spans, attributes := collectSpans(traces)
	byID := map[string]*span{}
	for i := range spans {
		if id := spans[i].id; id != "" {
			byID[id] = &spans[i]
		}
	}
	root := rootSpan(spans, byID)
	if root != nil {
		for key, v := range root.attributes {
			attributes[key] = v
		}
	}

	var start, end int64
	for _, s := range spans {
		if s.start > 0 && (start == 0 || s.start < start) {
			start = s.start
		}
		end = max(end, s.end)
	}
	if root != nil && root.start > 0 {
		start = root.start
	}
	summarise(c, attributes)
	if c.StartedAt.IsZero() && start > 0 {
		c.StartedAt = time.Unix(0, start).UTC()
	}
	if whole := since(start, end); c.Duration == 0 && start > 0 && whole != nil {
		c.Duration = *whole
	}

	said := utterances(spans, byID)
	for i, u := range said {
		c.Turns = append(c.Turns, call.Turn{
			Index:       i,
			Role:        u.role,
			Text:        u.text,
			At:          since(start, u.start),
			Interrupted: u.interrupted,
		})
	}
	attachTools(c, said, spans, byID, start)
	if len(c.Turns) == 0 {
		c.TurnsMissing, c.Incomplete = "the traces hold no turns", true
	}
}

// summarise fills in what the attributes say of the call as a whole.
func summarise(c *call.Conversation, attributes map[string]any) {
	for field, key := range map[*string]string{
		&c.ID:                "elevenlabs.conversation_id",
		&c.AgentID:           "elevenlabs.agent_id",
		&c.AgentName:         "elevenlabs.agent_name",
		&c.Status:            "elevenlabs.status",
		&c.Language:          "elevenlabs.main_language",
		&c.Direction:         "elevenlabs.telephony.direction",
		&c.AgentNumber:       "elevenlabs.telephony.agent_number",
		&c.ExternalNumber:    "elevenlabs.telephony.external_number",
		&c.TerminationReason: "elevenlabs.termination_reason",
		&c.Error:             "elevenlabs.error",
		&c.Title:             "elevenlabs.analysis.call_summary_title",
		&c.Summary:           "elevenlabs.analysis.transcript_summary",
	} {
		if *field == "" {
			*field = asText(attributes[key])
		}
	}
	if c.Successful == "" {
		c.Successful = verdict(attributes["elevenlabs.analysis.call_successful"])
	}
	if ms, ok := asNumber(attributes["elevenlabs.session.duration_ms"]); ok && c.Duration == 0 {
		if d := asSeconds(strconv.FormatFloat(ms/1000, 'f', -1, 64)); d != nil {
			c.Duration = *d
		}
	}
	variables := map[string]any{}
	for key, v := range attributes {
		if name, ok := strings.CutPrefix(key, attrVariable); ok {
			variables[name] = v
		}
	}
	identify(c, variables)
}

// collectSpans flattens the traces, and gives with the spans the attributes of
// their resources.
func collectSpans(traces any) ([]span, map[string]any) {
	var spans []span
	resource := map[string]any{}
	for _, r := range asList(member(traces, "resourceSpans")) {
		for key, v := range unwrapAll(member(r, "resource", "attributes")) {
			resource[key] = v
		}
		for _, scope := range asList(member(r, "scopeSpans")) {
			for _, v := range asList(member(scope, "spans")) {
				o := asObject(v)
				if o == nil {
					continue
				}
				s := span{
					id:         asText(o["spanId"]),
					parent:     asText(o["parentSpanId"]),
					name:       asText(o["name"]),
					start:      nanoseconds(o["startTimeUnixNano"]),
					end:        nanoseconds(o["endTimeUnixNano"]),
					attributes: unwrapAll(o["attributes"]),
				}
				// OTLP's STATUS_CODE_ERROR is 2; its JSON form allows the name too.
				code := asText(member(o["status"], "code"))
				s.failed = code == "2" || code == "STATUS_CODE_ERROR"
				spans = append(spans, s)
			}
		}
	}
	return spans, resource
}

// rootSpan gives the conversation's own span: the one named so, else the first
// without a parent that is neither a tool's nor says anything. It may be nil.
func rootSpan(spans []span, byID map[string]*span) *span {
	var root *span
	for i := range spans {
		s := &spans[i]
		if s.name == spanConversation {
			return s
		}
		if root == nil && byID[s.parent] == nil && !strings.HasPrefix(s.name, spanTool) &&
			s.attributes[attrUserText] == nil && s.attributes[attrAgentText] == nil {
			root = s
		}
	}
	return root
}

// utterances gives the texts of the spans in order.
func utterances(spans []span, byID map[string]*span) []utterance {
	var said []utterance
	previous := int64(0)
	for _, s := range spans {
		if s.start > 0 {
			previous = s.start
		}
		interrupted := asBool(s.attributes["elevenlabs.agent.interrupted"])
		for _, side := range []struct {
			role call.Role
			key  string
		}{{call.RoleUser, attrUserText}, {call.RoleAgent, attrAgentText}} {
			text := asText(s.attributes[side.key])
			if text == "" {
				continue
			}
			if p := byID[s.parent]; p != nil && asText(p.attributes[side.key]) == text {
				continue // the turn's span says it already
			}
			said = append(said, utterance{
				role:        side.role,
				text:        text,
				interrupted: interrupted && side.role == call.RoleAgent,
				spanID:      s.id,
				index:       turnIndex(&s, byID),
				start:       s.start,
				order:       previous,
			})
		}
	}
	slices.SortStableFunc(said, func(a, b utterance) int { return compare(a.order, b.order) })
	// One without an index stays behind the one that was said before it.
	last := -1
	for i := range said {
		if said[i].index < 0 {
			said[i].index = last
		}
		last = said[i].index
	}
	slices.SortStableFunc(said, func(a, b utterance) int { return compare(a.index, b.index) })
	return said
}

func compare[T int | int64](a, b T) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// turnIndex gives the index that a span or the nearest of its ancestors names,
// as an attribute or in its name, -1 if none does.
func turnIndex(s *span, byID map[string]*span) int {
	const highest = 16 // ancestors: deeper than any trace seen, and an end to a circle
	for range highest {
		if f, ok := asNumber(s.attributes[attrTurnIndex]); ok && f >= 0 && f < math.MaxInt32 {
			return int(f)
		}
		if number, ok := strings.CutPrefix(s.name, spanTurn); ok {
			if n, err := strconv.ParseUint(number, 10, 31); err == nil {
				return int(n)
			}
		}
		if s = byID[s.parent]; s == nil {
			break
		}
	}
	return -1
}

// attachTools puts the tools' spans, in order of time, on the turns of the
// agent: by the parent, else by the index of the turn, else by time. Where the
// agent said nothing, a turn without text takes them.
func attachTools(c *call.Conversation, said []utterance, spans []span, byID map[string]*span, start int64) {
	turnOf := map[string]int{} // the turn of a span
	var byTime []int           // turns of the agent
	for i, u := range said {
		if u.role != call.RoleAgent {
			continue
		}
		byTime = append(byTime, i)
		if u.spanID != "" {
			turnOf[u.spanID] = i
		}
	}
	byIndex := map[int][]int{} // within one index they are in order of time
	for _, i := range byTime {
		byIndex[said[i].index] = append(byIndex[said[i].index], i)
	}
	slices.SortStableFunc(byTime, func(a, b int) int { return compare(said[a].order, said[b].order) })

	// latest gives the last of the turns that had begun by then, else the first.
	latest := func(turns []int, then int64) int {
		n := sort.Search(len(turns), func(i int) bool { return said[turns[i]].order > then })
		return turns[max(n-1, 0)]
	}

	var tools []*span
	for i := range spans {
		if strings.HasPrefix(spans[i].name, spanTool) {
			tools = append(tools, &spans[i])
		}
	}
	slices.SortStableFunc(tools, func(a, b *span) int { return compare(a.start, b.start) })
	for _, s := range tools {
		i, ok := turnOf[s.parent]
		if !ok {
			if turns := byIndex[turnIndex(s, byID)]; len(turns) > 0 {
				i = latest(turns, s.start)
			} else if len(byTime) > 0 {
				i = latest(byTime, s.start)
			} else {
				byTime = []int{len(c.Turns)}
				said = append(said, utterance{role: call.RoleAgent, index: -1})
				c.Turns = append(c.Turns, call.Turn{Index: len(c.Turns), Role: call.RoleAgent, At: since(start, s.start)})
				i = byTime[0]
			}
		}
		readTool(&c.Turns[i], s)
	}
}

// readTool puts a tool's span on a turn.
func readTool(t *call.Turn, s *span) {
	first := func(keys ...string) any {
		for _, key := range keys {
			if v, ok := s.attributes[spanTool+key]; ok {
				return v
			}
		}
		return nil
	}
	name := asText(first("name"))
	if name == "" {
		name = strings.TrimPrefix(s.name, spanTool)
	}
	t.ToolCalls = append(t.ToolCalls, call.ToolCall{
		Name:   name,
		Params: compact(first("arguments", "parameters", "input")),
	})
	result := first("result", "output", "response")
	failed := s.failed || asBool(first("is_error")) || strings.EqualFold(asText(first("status")), "error")
	if result == nil && !failed {
		return
	}
	r := call.ToolResult{Name: name, Value: compact(result), IsError: failed}
	if s.start > 0 {
		r.Latency = since(s.start, s.end)
	}
	t.ToolResults = append(t.ToolResults, r)
}

// unwrapAll gives OTLP attributes as a map of plain values.
func unwrapAll(attributes any) map[string]any {
	all := map[string]any{}
	for _, a := range asList(attributes) {
		if key := asText(member(a, "key")); key != "" {
			all[key] = unwrap(member(a, "value"))
		}
	}
	return all
}

// unwrap gives the plain value of an OTLP AnyValue, whose JSON form is an
// object with one key for its type (opentelemetry-proto, common.proto; int64
// is a text there).
func unwrap(v any) any {
	o := asObject(v)
	if o == nil {
		return v
	}
	for _, key := range []string{"stringValue", "intValue", "doubleValue", "boolValue", "bytesValue"} {
		if plain, ok := o[key]; ok {
			return plain
		}
	}
	if a := asObject(o["arrayValue"]); a != nil {
		list := []any{}
		for _, entry := range asList(a["values"]) {
			list = append(list, unwrap(entry))
		}
		return list
	}
	if a := asObject(o["kvlistValue"]); a != nil {
		return unwrapAll(a["values"])
	}
	return nil
}

// nanoseconds reads a point in time in unix nanoseconds, 0 where there is none.
func nanoseconds(v any) int64 {
	n, err := strconv.ParseInt(asText(v), 10, 64)
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// since gives the time from start to then, nil where then is not told, earlier,
// or later than a call could last.
func since(start, then int64) *time.Duration {
	if then <= 0 || then < start || time.Duration(then-start) > longestCall {
		return nil
	}
	return new(time.Duration(then - start))
}
