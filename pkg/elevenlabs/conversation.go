package elevenlabs

import (
	"bytes"
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"postcall/pkg/call"
)

// maxConversation bounds the payloads that Conversation and Failure read, in
// bytes: decoded they take many times as much memory. A call of two hours has
// one or two megabytes.
const maxConversation = 16 << 20

// longestCall is where a length of time is taken for nonsense.
const longestCall = 365 * 24 * time.Hour

// Conversation reads what was said, and what ElevenLabs says of it, out of a
// payload as it is stored. It takes the two transcript forms, and by their
// content rather than by the type, because a workspace's format can change
// from one day to the next; and the older Node service's form, with the
// transcript but without a type.
//
// Every field is read on its own: one that is missing or of a type that nobody
// expects is left empty. Texts are free of NUL and valid UTF-8, and otherwise
// as they were sent. An entry of the transcript whose role names neither the
// agent nor the user is left out; the others keep their Index.
//
// The error has the code call.Invalid: the type carries no conversation, or
// the payload is not a JSON object or longer than 16 MiB.
func Conversation(eventType call.EventType, payload []byte) (*call.Conversation, error) {
	if !eventType.Analysable() {
		return nil, call.Errorf(call.Invalid, "events of the type %q carry no conversation", eventType)
	}
	root, err := decode(payload)
	if err != nil {
		return nil, err
	}
	data := dataOf(root)
	either := func(key string) any {
		if v, ok := data[key]; ok && v != nil {
			return v
		}
		return root[key]
	}

	c := &call.Conversation{
		ID:        asText(either("conversation_id")),
		AgentID:   asText(either("agent_id")),
		AgentName: asText(either("agent_name")),
		Status:    asText(either("status")),
	}
	describe(c, either("metadata"), either("analysis"))
	client := either("conversation_initiation_client_data")
	if c.Language == "" {
		c.Language = asText(member(client, "conversation_config_override", "agent", "language"))
	}

	transcript, present := data["transcript"]
	if !present {
		transcript, present = root["transcript"]
	}
	traces := either("otlp_traces")
	said, missing := turns(transcript, present)
	if len(said) == 0 && (traces != nil || eventType == call.TypeTranscriptionOTel && !present) {
		readTraces(c, traces)
	} else {
		c.Turns, c.TurnsMissing = said, missing
		list, isList := transcript.([]any)
		c.Incomplete = len(c.Turns) == 0 && (!isList || len(list) > 0)
	}
	identify(c, asObject(member(client, "dynamic_variables")))
	return c, nil
}

// describe reads what a transcription event says of the call beside its turns.
func describe(c *call.Conversation, metadata, analysis any) {
	if start, ok := instant(asText(member(metadata, "start_time_unix_secs"))); ok {
		c.StartedAt = start
	}
	if d := asSeconds(member(metadata, "call_duration_secs")); d != nil {
		c.Duration = *d
	}
	c.CostCredits, _ = asNumber(member(metadata, "cost"))
	if usd, ok := asNumber(member(metadata, "cost_fiat")); ok {
		c.CostUSD = &usd
	}
	c.Language = asText(member(metadata, "main_language"))
	c.Direction = asText(member(metadata, "phone_call", "direction"))
	c.AgentNumber = asText(member(metadata, "phone_call", "agent_number"))
	c.ExternalNumber = asText(member(metadata, "phone_call", "external_number"))
	c.TerminationReason = asText(member(metadata, "termination_reason"))
	c.Error = failureText(member(metadata, "error"))

	c.Title = asText(member(analysis, "call_summary_title"))
	c.Summary = asText(member(analysis, "transcript_summary"))
	c.Successful = verdict(member(analysis, "call_successful"))
	for id, v := range byID(member(analysis, "evaluation_criteria_results"), "criteria_id") {
		criterion := call.Criterion{ID: id, Result: verdict(v)}
		if o := asObject(v); o != nil {
			criterion.Result = verdict(o["result"])
			criterion.Rationale = asText(o["rationale"])
		}
		c.Criteria = append(c.Criteria, criterion)
	}
	slices.SortFunc(c.Criteria, func(a, b call.Criterion) int { return strings.Compare(a.ID, b.ID) })
	for id, v := range byID(member(analysis, "data_collection_results"), "data_collection_id") {
		if o := asObject(v); o != nil {
			v = o["value"]
		}
		c.Collected = append(c.Collected, call.DataPoint{ID: id, Value: collected(v)})
	}
	slices.SortFunc(c.Collected, func(a, b call.DataPoint) int { return strings.Compare(a.ID, b.ID) })
}

// turns reads a transcript; present is false where the body has none.
func turns(transcript any, present bool) (said []call.Turn, missing string) {
	list, ok := transcript.([]any)
	switch {
	case !present:
		return nil, "the sender left the transcript out"
	case transcript == nil:
		return nil, "the transcript is null"
	case !ok:
		return nil, "the transcript is not a list"
	case len(list) == 0:
		return nil, "the transcript is empty"
	}
	for i, entry := range list {
		o := asObject(entry)
		role, ok := speaker(asText(o["role"]))
		if !ok {
			continue
		}
		t := call.Turn{
			Index:   i,
			Role:    role,
			Text:    asText(o["message"]),
			At:      asSeconds(o["time_in_call_secs"]),
			Latency: latency(o["conversation_turn_metrics"]),
		}
		t.Interrupted = asBool(o["interrupted"])
		for _, v := range asList(o["tool_calls"]) {
			if v := asObject(v); v != nil {
				t.ToolCalls = append(t.ToolCalls, call.ToolCall{
					Name:   asText(v["tool_name"]),
					Params: compact(v["params_as_json"]),
				})
			}
		}
		for _, v := range asList(o["tool_results"]) {
			if v := asObject(v); v != nil {
				t.ToolResults = append(t.ToolResults, call.ToolResult{
					Name:    asText(v["tool_name"]),
					Value:   compact(v["result_value"]),
					IsError: asBool(v["is_error"]),
					Latency: asSeconds(v["tool_latency_secs"]),
				})
			}
		}
		said = append(said, t)
	}
	if len(said) == 0 {
		return nil, "no entry of the transcript names a known speaker"
	}
	return said, ""
}

// speaker reads a role. ElevenLabs knows two; the names that language models
// use for the same are taken too, since third parties send them.
func speaker(role string) (call.Role, bool) {
	switch strings.ToLower(strings.TrimSpace(role)) {
	case "user", "human", "customer":
		return call.RoleUser, true
	case "agent", "assistant", "ai":
		return call.RoleAgent, true
	}
	return "", false
}

// latency reads the time to the model's first byte out of a turn's metrics.
// Older bodies have them without the "metrics" level.
func latency(metrics any) *time.Duration {
	const ttfb = "convai_llm_service_ttfb"
	v := member(metrics, "metrics", ttfb)
	if v == nil {
		v = member(metrics, ttfb)
	}
	if o := asObject(v); o != nil {
		v = o["elapsed_time"]
	}
	return asSeconds(v)
}

// nameVariables are the dynamic variables that give the customer's name, best
// first. They are chosen by whoever sets an agent up; user_name is the one of
// ElevenLabs' own examples.
var nameVariables = []string{
	"client_name", "customer_name", "user_name", "caller_name", "contact_name",
	"full_name", "first_name", "name",
}

// identify fills in who the customer is from the agent's dynamic variables,
// where the telephony does not tell: on an inbound call the caller, on an
// outbound one the called number.
func identify(c *call.Conversation, variables map[string]any) {
	for _, key := range nameVariables {
		if v, ok := variables[key].(string); ok && told(v) {
			c.KnownName = clean(v)
			break
		}
	}
	number := func(key string) string {
		if s := asText(variables[key]); told(s) {
			return s
		}
		return ""
	}
	caller, called := number("system__caller_id"), number("system__called_number")
	customer, agent := caller, called
	if strings.EqualFold(c.Direction, "outbound") || c.Direction == "" && caller != "" && caller == c.AgentNumber {
		customer, agent = called, caller
	}
	if c.ExternalNumber == "" {
		c.ExternalNumber = customer
	}
	if c.AgentNumber == "" {
		c.AgentNumber = agent
	}
}

// told reports whether a text says anything: Python senders write "None" for
// what they do not know.
func told(s string) bool {
	s = strings.TrimSpace(s)
	return s != "" && s != "None"
}

// collected gives a collected value as text, nil where there is none.
func collected(v any) *string {
	if v == nil {
		return nil
	}
	s := compact(v)
	if !told(s) {
		return nil
	}
	return &s
}

// verdict reads success, failure or unknown, also where it came as a boolean.
func verdict(v any) string {
	if success, ok := v.(bool); ok {
		if success {
			return "success"
		}
		return "failure"
	}
	return asText(v)
}

// failureText reads ElevenLabs' error, which is a text or {code, reason}.
func failureText(v any) string {
	o := asObject(v)
	if o == nil {
		return asText(v)
	}
	code, reason := asText(o["code"]), asText(o["reason"])
	switch {
	case reason == "":
		return compact(v)
	case code == "":
		return reason
	}
	return reason + " (" + code + ")"
}

// FailedDial is a call that never came about: a call_initiation_failure.
type FailedDial struct {
	AgentID        string
	ConversationID string
	Reason         string // busy, no-answer, unknown
	Provider       string // twilio, sip
	From, To       string // as the provider writes them, usually E.164
	SIPStatus      int    // such as 486; 0 when not told
	Detail         string // the provider's own error text
}

// Failure reads a failed dial out of a payload as it is stored. It reports
// false if the payload tells of none.
func Failure(payload []byte) (FailedDial, bool) {
	root, err := decode(payload)
	if err != nil {
		return FailedDial{}, false
	}
	data := dataOf(root)
	reason := asText(data["failure_reason"])
	if reason == "" && asText(root["type"]) != string(call.TypeInitiationFailure) {
		return FailedDial{}, false
	}
	body := asObject(member(data["metadata"], "body"))
	first := func(keys ...string) string {
		for _, key := range keys {
			if s := asText(body[key]); s != "" {
				return s
			}
		}
		return ""
	}
	f := FailedDial{
		AgentID:        asText(data["agent_id"]),
		ConversationID: asText(data["conversation_id"]),
		Reason:         reason,
		Provider:       asText(member(data["metadata"], "type")),
		From:           first("from_number", "From", "Caller"),
		To:             first("to_number", "To", "Called"),
		Detail:         first("error_reason", "sip_status", "ErrorMessage"),
	}
	if status, err := strconv.Atoi(first("sip_status_code", "SipResponseCode")); err == nil {
		f.SIPStatus = status
	}
	return f, true
}

// decode reads a payload as a tree. Of repeated keys it takes the last one, as
// jsonb does, and numbers keep their digits.
func decode(payload []byte) (map[string]any, error) {
	if len(payload) > maxConversation {
		return nil, call.Errorf(call.Invalid, "the payload is longer than %d MiB", maxConversation>>20)
	}
	d := json.NewDecoder(bytes.NewReader(payload))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, call.Errorf(call.Invalid, "the payload is not JSON: %w", err)
	}
	root, ok := v.(map[string]any)
	if !ok {
		return nil, call.Errorf(call.Invalid, "the payload is not a JSON object")
	}
	return root, nil
}

// dataOf gives the envelope's data, or the payload itself where it has none.
func dataOf(root map[string]any) map[string]any {
	if data := asObject(root["data"]); data != nil {
		return data
	}
	return root
}

// member follows keys into nested objects; nil where one of them is not there.
func member(v any, keys ...string) any {
	for _, key := range keys {
		v = asObject(v)[key]
	}
	return v
}

// byID gives the entries of an object by key, or those of a list by the field
// that identifies them.
func byID(v any, idField string) map[string]any {
	entries := map[string]any{}
	for id, entry := range asObject(v) {
		entries[clean(id)] = entry
	}
	for _, entry := range asList(v) {
		if id := asText(asObject(entry)[idField]); id != "" {
			entries[id] = entry
		}
	}
	return entries
}

func asObject(v any) map[string]any {
	o, _ := v.(map[string]any)
	return o
}

func asList(v any) []any {
	l, _ := v.([]any)
	return l
}

// asText gives a scalar as text, empty for anything else.
func asText(v any) string {
	switch v := v.(type) {
	case string:
		return clean(v)
	case json.Number:
		return v.String()
	case bool:
		return strconv.FormatBool(v)
	}
	return ""
}

// compact gives a text as it is and anything else as JSON; empty for null.
func compact(v any) string {
	if v == nil {
		return ""
	}
	if s, ok := v.(string); ok {
		return clean(s)
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if e.Encode(v) != nil {
		return ""
	}
	return clean(strings.TrimSuffix(b.String(), "\n"))
}

// asNumber reads a number, or a text that is one. It is finite.
func asNumber(v any) (float64, bool) {
	f, err := strconv.ParseFloat(strings.TrimSpace(asText(v)), 64)
	if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
		return 0, false
	}
	return f, true
}

// asSeconds reads a length of time in seconds, nil where it is none that a call
// could have.
func asSeconds(v any) *time.Duration {
	f, ok := asNumber(v)
	if !ok || f < 0 || f > longestCall.Seconds() {
		return nil
	}
	return new(time.Duration(math.Round(f * float64(time.Second))))
}

// asBool reads true, also where it came as a text or a number; anything else
// is false.
func asBool(v any) bool {
	switch strings.ToLower(asText(v)) {
	case "true", "1":
		return true
	}
	return false
}
