package elevenlabs_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"postcall/pkg/call"
	"postcall/pkg/elevenlabs"
)

// converse reads a conversation out of a payload that must hold one.
func converse(t *testing.T, eventType call.EventType, payload string) *call.Conversation {
	t.Helper()
	c, err := elevenlabs.Conversation(eventType, []byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// show writes values for comparison, following pointers.
func show(v any) string {
	text, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return err.Error()
	}
	return string(text)
}

func same(t *testing.T, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%s\nwant\n%s", show(got), show(want))
	}
}

func wholeCall() *call.Conversation {
	return &call.Conversation{
		ID: "conv_6601k9ru0000000000000000rc01", AgentID: "agent_6601k9ru0000000000000000ru01",
		AgentName: "Менеджер «Минск Мир»", Status: "done",
		Turns: []call.Turn{
			{
				Index: 0, Role: call.RoleAgent, At: new(time.Duration(0)),
				Text: "Добрый день! Я специалист по продажам недвижимости. Какую площадь рассматриваете?",
			},
			{
				Index: 1, Role: call.RoleUser, At: new(6 * time.Second),
				Text: "Здравствуйте! Метров пятьдесят пять — пятьдесят восемь, до девяноста двух тысяч евро.",
			},
			{
				Index: 2, Role: call.RoleAgent, At: new(14 * time.Second), Text: "Секунду, проверю наличие…",
				Latency: new(410 * time.Millisecond),
				ToolCalls: []call.ToolCall{{
					Name: "search_flats", Params: `{"area_min": 55, "area_max": 58, "budget": 92000, "район": "Азия"}`,
				}},
			},
			{
				Index: 3, Role: call.RoleAgent, At: new(15 * time.Second),
				ToolResults: []call.ToolResult{{
					Name: "search_flats", Value: `{"items": [{"дом": "Манила", "площадь": 56.1, "цена": 92000}]}`,
					Latency: new(840 * time.Millisecond),
				}},
			},
			{
				Index: 4, Role: call.RoleAgent, At: new(17 * time.Second), Interrupted: true,
				Text: "Есть дом «Манила»: 56 м², 92 000 EUR. Оставите номер телефона?", Latency: new(380 * time.Millisecond),
			},
			{Index: 5, Role: call.RoleUser, At: new(41 * time.Second), Text: "Да. Ольга, +7 999 000-00-02 😊"},
		},
		StartedAt: time.Unix(1795000000, 0).UTC(), Duration: 94 * time.Second,
		CostCredits: 612, CostUSD: new(0.0416), Language: "ru",
		Direction: "inbound", AgentNumber: "+74950000001", ExternalNumber: "+79990000002", KnownName: "Ольга",
		TerminationReason: "end_call tool was called.",
		Title:             "Подбор квартиры", Summary: "Клиент интересовался квартирой 56 м² и оставил телефон.", Successful: "success",
		Criteria: []call.Criterion{{ID: "kontakt_poluchen", Result: "success", Rationale: "Клиент назвал имя и номер телефона."}},
		Collected: []call.DataPoint{
			{ID: "budget_eur", Value: new("92000")}, {ID: "phone", Value: new("+79990000002")}, {ID: "rooms"},
		},
	}
}

func TestConversationMade(t *testing.T) {
	t.Parallel()
	const agent = "agent_6601k9ru0000000000000000ru01"
	tests := map[string]func() *call.Conversation{
		"19-made-russian-sip-inbound-full.json": wholeCall,
		"20-made-russian-utf8-raw.json": func() *call.Conversation {
			c := wholeCall()
			c.ID = "conv_6601k9ru0000000000000000rc02"
			return c
		},
		"22-made-failed-null-analysis-empty-transcript.json": func() *call.Conversation {
			c := wholeCall()
			c.ID, c.Status = "conv_failed_0001", "failed"
			c.Turns, c.TurnsMissing = nil, "the transcript is empty"
			c.Duration, c.CostCredits, c.CostUSD = 0, 0, nil
			c.Language, c.Direction = "", ""
			c.TerminationReason, c.Error = "Internal error", "LLM Cascade Error: all LLMs failed (1011)"
			c.Title, c.Summary, c.Successful, c.Criteria, c.Collected = "", "", "", nil, nil
			return c
		},
		"30-made-otel-spans-ru.json": func() *call.Conversation {
			return &call.Conversation{
				ID: "conv_6601k9ru0000000000000000rc01", AgentID: agent,
				Turns: []call.Turn{
					{
						Index: 0, Role: call.RoleAgent, Text: "Добрый день!", At: new(time.Duration(0)),
						ToolCalls:   []call.ToolCall{{Name: "search_flats", Params: `{"area_min": 55}`}},
						ToolResults: []call.ToolResult{{Name: "search_flats", Value: `{"items": []}`, Latency: new(time.Second)}},
					},
					{Index: 1, Role: call.RoleUser, Text: "Здравствуйте!", At: new(6 * time.Second)},
				},
				StartedAt: time.Unix(1795000000, 0).UTC(), Duration: 94 * time.Second,
				ExternalNumber: "+79990000002", TerminationReason: "end_call tool was called.",
				Title: "Подбор квартиры", Summary: "Клиент оставил телефон.",
			}
		},
		"31-made-hostile-nul-surrogate-unknown-fields.json": func() *call.Conversation {
			c := wholeCall()
			c.ID = "conv_hostile_0001"
			c.CostCredits = 9007199254740993
			c.Turns[1].Text = "NUL:␀ lone:\ufffd zwj:👩\u200d👩\u200d👧 rtl:\u202eabc"
			c.Collected = append([]call.DataPoint{{ID: "__proto__", Value: new("x")}}, c.Collected...)
			return c
		},
		"34-made-minimal-required-only.json": func() *call.Conversation {
			return &call.Conversation{
				ID: "conv_min_0001", AgentID: agent, Status: "done",
				Turns:     []call.Turn{{Role: call.RoleUser, At: new(time.Second)}},
				StartedAt: time.Unix(1795000000, 0).UTC(), Duration: 3 * time.Second,
			}
		},
	}
	for name, want := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := elevenlabs.Parse(made(t, name), receivedAt)
			same(t, converse(t, e.Type, string(e.Payload)), want())
		})
	}
}

func TestConversationRefuses(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		eventType call.EventType
		payload   string
	}{
		"audio":            {call.TypeAudio, `{}`},
		"a failed dial":    {call.TypeInitiationFailure, `{}`},
		"unknown":          {call.TypeUnknown, `{}`},
		"no type":          {"", `{}`},
		"not JSON":         {call.TypeTranscription, `{`},
		"nothing":          {call.TypeTranscription, ``},
		"null":             {call.TypeTranscription, `null`},
		"a list":           {call.TypeTranscriptionOTel, `[{}]`},
		"a text":           {call.TypeTranscription, `"x"`},
		"too long to read": {call.TypeTranscription, `{"data":"` + strings.Repeat("x", 16<<20) + `"}`},
		"nested too deep":  {call.TypeTranscription, strings.Repeat(`{"data":`, 20_000) + "1" + strings.Repeat("}", 20_000)},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, err := elevenlabs.Conversation(tt.eventType, []byte(tt.payload))
			if c != nil || call.CodeOf(err) != call.Invalid {
				t.Errorf("%v, %v", c, err)
			}
		})
	}
}

func TestTurnsMissing(t *testing.T) {
	t.Parallel()
	for payload, want := range map[string]string{
		`{}`:                                   "the sender left the transcript out",
		`{"data":{}}`:                          "the sender left the transcript out",
		`{"data":{"transcript":null}}`:         "the transcript is null",
		`{"data":{"transcript":[]}}`:           "the transcript is empty",
		`{"data":{"transcript":{"0":{}}}}`:     "the transcript is not a list",
		`{"data":{"transcript":"text"}}`:       "the transcript is not a list",
		`{"data":{"transcript":[1,"x",null]}}`: "no entry of the transcript names a known speaker",
		`{"data":{"transcript":[{"role":"system","message":"x"},{"message":"y"}]}}`: "no entry of the transcript names a known speaker",
		`{"data":{"otlp_traces":{}}}`:                                     "the traces hold no turns",
		`{"data":{"otlp_traces":"x"}}`:                                    "the traces hold no turns",
		`{"data":{"transcript":null,"otlp_traces":{"resourceSpans":[]}}}`: "the traces hold no turns",
	} {
		c := converse(t, call.TypeTranscription, payload)
		// Only an empty transcript is all that there is of a call.
		if c.TurnsMissing != want || c.Turns != nil || c.Spoken() || c.Incomplete != (want != "the transcript is empty") {
			t.Errorf("%s: %q, incomplete %t, want %q", payload, c.TurnsMissing, c.Incomplete, want)
		}
	}
	if c := converse(t, call.TypeTranscriptionOTel, `{"data":{}}`); c.TurnsMissing != "the traces hold no turns" {
		t.Errorf("without traces: %q", c.TurnsMissing)
	}
}

func TestConversationTurns(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		transcript string
		want       []call.Turn
	}{
		"one bad field does not lose the others": {
			`[{"role":"user","message":["x"],"time_in_call_secs":"soon","interrupted":"maybe","tool_calls":{},"tool_results":"x","conversation_turn_metrics":[1]},
			  {"role":"agent","message":"да","time_in_call_secs":1.25}]`,
			[]call.Turn{{Role: call.RoleUser}, {Index: 1, Role: call.RoleAgent, Text: "да", At: new(1250 * time.Millisecond)}},
		},
		"entries that are left out keep the others' places": {
			`[null,{"role":"system","message":"x"},{"role":" User ","message":"a"},5,{"role":"ASSISTANT","message":"b"}]`,
			[]call.Turn{{Index: 2, Role: call.RoleUser, Text: "a"}, {Index: 4, Role: call.RoleAgent, Text: "b"}},
		},
		"messages of other types": {
			`[{"role":"user","message":12},{"role":"user","message":true},{"role":"user","message":null},{"role":"user"}]`,
			[]call.Turn{
				{Role: call.RoleUser, Text: "12"}, {Index: 1, Role: call.RoleUser, Text: "true"},
				{Index: 2, Role: call.RoleUser}, {Index: 3, Role: call.RoleUser},
			},
		},
		"text is not touched": {
			`[{"role":"user","message":"  <b>\u200b\n\u202e &amp; \u0007\u2028 \ufeff "}]`,
			[]call.Turn{{Role: call.RoleUser, Text: "  <b>\u200b\n\u202e &amp; \u0007\u2028 \ufeff "}},
		},
		"NUL and half pairs, should they come": {
			`[{"role":"user","message":"a\u0000b\ud800c"}]`,
			[]call.Turn{{Role: call.RoleUser, Text: "a␀b\ufffdc"}},
		},
		"times that cannot be": {
			`[{"role":"user","time_in_call_secs":-1},{"role":"user","time_in_call_secs":1e300},{"role":"user","time_in_call_secs":"NaN"},{"role":"user","time_in_call_secs":"7"},{"role":"user","time_in_call_secs":1e999}]`,
			[]call.Turn{
				{Role: call.RoleUser}, {Index: 1, Role: call.RoleUser}, {Index: 2, Role: call.RoleUser},
				{Index: 3, Role: call.RoleUser, At: new(7 * time.Second)}, {Index: 4, Role: call.RoleUser},
			},
		},
		"metrics in both shapes": {
			`[{"role":"agent","conversation_turn_metrics":{"metrics":{"convai_llm_service_ttfb":{"elapsed_time":0.5}}}},
			  {"role":"agent","conversation_turn_metrics":{"convai_llm_service_ttfb":{"elapsed_time":0.25}}},
			  {"role":"agent","conversation_turn_metrics":{"metrics":{"convai_llm_service_ttfb":0.75}}},
			  {"role":"agent","conversation_turn_metrics":{"metrics":null}}]`,
			[]call.Turn{
				{Role: call.RoleAgent, Latency: new(500 * time.Millisecond)},
				{Index: 1, Role: call.RoleAgent, Latency: new(250 * time.Millisecond)},
				{Index: 2, Role: call.RoleAgent, Latency: new(750 * time.Millisecond)},
				{Index: 3, Role: call.RoleAgent},
			},
		},
		"tools": {
			`[{"role":"agent","message":null,"interrupted":true,
			   "tool_calls":[null,{"tool_name":"a","params_as_json":"{\"x\": 1}"},{"tool_name":5,"params_as_json":{"y":[1,"<>"]}},{}],
			   "tool_results":[{"tool_name":"a","result_value":{"ok":9007199254740993},"is_error":"True","tool_latency_secs":"0.5"},{"result_value":null,"is_error":false}]}]`,
			[]call.Turn{{
				Role: call.RoleAgent, Interrupted: true,
				ToolCalls: []call.ToolCall{{Name: "a", Params: `{"x": 1}`}, {Name: "5", Params: `{"y":[1,"<>"]}`}, {}},
				ToolResults: []call.ToolResult{
					{Name: "a", Value: `{"ok":9007199254740993}`, IsError: true, Latency: new(500 * time.Millisecond)}, {},
				},
			}},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			same(t, converse(t, call.TypeTranscription, `{"data":{"transcript":`+tt.transcript+`}}`).Turns, tt.want)
			same(t, converse(t, call.TypeTranscription, `{"event_id":"e","transcript":`+tt.transcript+`}`).Turns, tt.want)
		})
	}
}

func TestConversationAnalysis(t *testing.T) {
	t.Parallel()
	c := converse(t, call.TypeTranscription, `{"data":{"conversation_id":12,"agent_id":null,"analysis":{
		"call_successful":true,"transcript_summary":7,"call_summary_title":["x"],
		"evaluation_criteria_results":{"b":{"result":false,"rationale":null},"a":"unknown","c":null,"d":{"result":"failure","rationale":"r"}},
		"data_collection_results":{"none":{"value":"None"},"null":{"value":null},"empty":{"value":" "},"absent":{},"bool":{"value":false},
			"list":{"value":["a",1.50]},"object":{"value":{"b":1,"a":"<"}},"big":{"value":12345678901234567890},"bare":"x","gone":null,"text":{"value":" None of it "}}}}}`)
	if c.ID != "12" || c.AgentID != "" || c.Successful != "success" || c.Summary != "7" || c.Title != "" {
		t.Errorf("%+v", c)
	}
	same(t, c.Criteria, []call.Criterion{
		{ID: "a", Result: "unknown"}, {ID: "b", Result: "failure"}, {ID: "c"}, {ID: "d", Result: "failure", Rationale: "r"},
	})
	same(t, c.Collected, []call.DataPoint{
		{ID: "absent"}, {ID: "bare", Value: new("x")}, {ID: "big", Value: new("12345678901234567890")}, {ID: "bool", Value: new("false")},
		{ID: "empty"}, {ID: "gone"}, {ID: "list", Value: new(`["a",1.50]`)}, {ID: "none"}, {ID: "null"},
		{ID: "object", Value: new(`{"a":"<","b":1}`)}, {ID: "text", Value: new(" None of it ")},
	})

	c = converse(t, call.TypeTranscription, `{"data":{"analysis":{"call_successful":false,
		"evaluation_criteria_results":[{"criteria_id":"x","result":"success"},{"result":"nobody's"}],
		"data_collection_results":[{"data_collection_id":"y","value":1}]}}}`)
	if c.Successful != "failure" {
		t.Errorf("successful: %q", c.Successful)
	}
	same(t, c.Criteria, []call.Criterion{{ID: "x", Result: "success"}})
	same(t, c.Collected, []call.DataPoint{{ID: "y", Value: new("1")}})
}

func TestConversationCustomer(t *testing.T) {
	t.Parallel()
	const variables = `"conversation_initiation_client_data":{"dynamic_variables":`
	tests := map[string]struct {
		data                  string
		name, external, agent string
	}{
		"nothing":               {`{}`, "", "", ""},
		"the best name":         {`{` + variables + `{"name":"d","user_name":"c","customer_name":"b","client_name":"a"}}}`, "a", "", ""},
		"None is no name":       {`{` + variables + `{"client_name":"None","user_name":" ","name":"Ольга"}}}`, "Ольга", "", ""},
		"a name is a text":      {`{` + variables + `{"client_name":5,"user_name":true}}}`, "", "", ""},
		"the telephony first":   {`{"metadata":{"phone_call":{"direction":"inbound","external_number":"+1","agent_number":"+2"}},` + variables + `{"system__caller_id":"+3","system__called_number":"+4"}}}`, "", "+1", "+2"},
		"inbound":               {`{"metadata":{"phone_call":{"direction":"inbound"}},` + variables + `{"system__caller_id":"+3","system__called_number":"+4"}}}`, "", "+3", "+4"},
		"outbound":              {`{"metadata":{"phone_call":{"direction":"outbound"}},` + variables + `{"system__caller_id":"+3","system__called_number":"+4"}}}`, "", "+4", "+3"},
		"no direction":          {`{` + variables + `{"system__caller_id":"+3","system__called_number":"+4"}}}`, "", "+3", "+4"},
		"the agent is calling":  {`{"metadata":{"phone_call":{"agent_number":"+3"}},` + variables + `{"system__caller_id":"+3","system__called_number":"+4"}}}`, "", "+4", "+3"},
		"numbers that are None": {`{` + variables + `{"system__caller_id":"None","system__called_number":null}}}`, "", "", ""},
		"a number as a number":  {`{` + variables + `{"system__caller_id":79990000002}}}`, "", "79990000002", ""},
		"not an object":         {`{` + variables + `[1]},"metadata":[],"analysis":"x"}`, "", "", ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := converse(t, call.TypeTranscription, `{"data":`+tt.data+`}`)
			if c.KnownName != tt.name || c.ExternalNumber != tt.external || c.AgentNumber != tt.agent {
				t.Errorf("name %q, external %q, agent %q; want %q, %q, %q", c.KnownName, c.ExternalNumber, c.AgentNumber, tt.name, tt.external, tt.agent)
			}
		})
	}
}

func TestConversationMetadata(t *testing.T) {
	t.Parallel()
	c := converse(t, call.TypeTranscription, `{"data":{"metadata":{"start_time_unix_secs":"2025-02-14T12:48:17Z","call_duration_secs":"94.5",
		"cost":"1.5","cost_fiat":0,"main_language":null,"error":"boom"},
		"conversation_initiation_client_data":{"conversation_config_override":{"agent":{"language":"ru"}}}}}`)
	if c.StartedAt.Unix() != 1739537297 || c.Duration != 94500*time.Millisecond || c.CostCredits != 1.5 ||
		c.CostUSD == nil || *c.CostUSD != 0 || c.Language != "ru" || c.Error != "boom" {
		t.Errorf("%+v", c)
	}
	for text, want := range map[string]string{
		`null`: "", `{}`: "{}", `{"code":5}`: `{"code":5}`, `{"reason":"r"}`: "r", `{"code":"x","reason":"r"}`: "r (x)", `[1]`: "",
	} {
		if c := converse(t, call.TypeTranscription, `{"data":{"metadata":{"error":`+text+`}}}`); c.Error != want {
			t.Errorf("%s: %q, want %q", text, c.Error, want)
		}
	}
}

// spanText writes a span; attributes are given as key and AnyValue by turns.
func spanText(id, parent, name, start, end string, attributes ...string) string {
	var list []string
	for i := 0; i < len(attributes); i += 2 {
		list = append(list, fmt.Sprintf(`{"key":%q,"value":%s}`, attributes[i], attributes[i+1]))
	}
	return fmt.Sprintf(`{"spanId":%q,"parentSpanId":%q,"name":%q,"startTimeUnixNano":%s,"endTimeUnixNano":%s,"attributes":[%s]}`,
		id, parent, name, start, end, strings.Join(list, ","))
}

func traces(spans ...string) string {
	return `{"data":{"otlp_traces":{"resourceSpans":[{"scopeSpans":[{"spans":[` + strings.Join(spans, ",") + `]}]}]}}}`
}

func TestOTel(t *testing.T) {
	t.Parallel()
	const user, agent, index = "elevenlabs.user.text", "elevenlabs.agent.text", "elevenlabs.turn.index"
	text := func(s string) string { return fmt.Sprintf(`{"stringValue":%q}`, s) }
	at := func(d time.Duration) *time.Duration { return &d }
	const s0, s1, s2, s3, s9 = `"1000000000"`, `"2000000000"`, `"3000000000"`, `"4000000000"`, `"10000000000"`

	tests := map[string]struct {
		payload string
		want    []call.Turn
	}{
		"user and agent share an index": {
			traces(
				spanText("d", "a", "x", s3, s3, agent, text("4"), index, `{"intValue":"2"}`),
				spanText("c", "a", "x", s2, s2, user, text("3"), index, `{"intValue":2}`),
				spanText("b", "a", "x", s1, s1, agent, text("2"), index, `{"doubleValue":1}`),
				spanText("a", "", "elevenlabs.conversation", s0, s9),
				spanText("e", "a", "x", s9, s9, user, text("1"), index, text("0")),
			),
			[]call.Turn{
				{Index: 0, Role: call.RoleUser, Text: "1", At: at(9 * time.Second)},
				{Index: 1, Role: call.RoleAgent, Text: "2", At: at(time.Second)},
				{Index: 2, Role: call.RoleUser, Text: "3", At: at(2 * time.Second)},
				{Index: 3, Role: call.RoleAgent, Text: "4", At: at(3 * time.Second)},
			},
		},
		"without an index, by time": {
			traces(spanText("a", "", "x", s2, s2, user, text("b")), spanText("b", "", "x", s1, s1, agent, text("a")), spanText("c", "", "x", s3, s3, agent, text("c"))),
			[]call.Turn{
				{Role: call.RoleAgent, Text: "a", At: at(0)},
				{Index: 1, Role: call.RoleUser, Text: "b", At: at(time.Second)},
				{Index: 2, Role: call.RoleAgent, Text: "c", At: at(2 * time.Second)},
			},
		},
		"some without an index stay behind the one before": {
			traces(
				spanText("a", "", "x", s0, s0, user, text("a"), index, `{"intValue":"5"}`),
				spanText("b", "", "x", s1, s1, agent, text("b")),
				spanText("c", "", "x", s2, s2, user, text("c"), index, `{"intValue":"6"}`),
			),
			[]call.Turn{
				{Role: call.RoleUser, Text: "a", At: at(0)},
				{Index: 1, Role: call.RoleAgent, Text: "b", At: at(time.Second)},
				{Index: 2, Role: call.RoleUser, Text: "c", At: at(2 * time.Second)},
			},
		},
		"without times, as they come": {
			traces(spanText("a", "", "x", `null`, `null`, user, text("a")), spanText("b", "", "x", `"x"`, `-5`, agent, text("b"))),
			[]call.Turn{{Role: call.RoleUser, Text: "a"}, {Index: 1, Role: call.RoleAgent, Text: "b"}},
		},
		"one span with both sides, and its children saying the same": {
			traces(
				spanText("a", "", "elevenlabs.turn.0", s0, s9, user, text("q"), agent, text("r")),
				spanText("b", "a", "elevenlabs.recv.user_transcript", s1, s1, user, text("q")),
				spanText("c", "a", "elevenlabs.recv.agent_response", s2, s2, agent, text("r")),
			),
			[]call.Turn{{Role: call.RoleUser, Text: "q", At: at(0)}, {Index: 1, Role: call.RoleAgent, Text: "r", At: at(0)}},
		},
		"the index of the turn's span, and tools under it": {
			traces(
				spanText("root", "", "elevenlabs.conversation", s0, s9),
				spanText("t1", "root", "elevenlabs.turn.1", s2, s9),
				spanText("u1", "t1", "x", s3, s3, user, text("second")),
				spanText("tool1", "t1", "elevenlabs.tool.late", s9, s9, "elevenlabs.tool.input", text("in")),
				spanText("g1", "t1", "x", s9, s9, agent, text("third")),
				spanText("t0", "root", "elevenlabs.turn.0", s0, s1),
				spanText("g0", "t0", "x", s0, s0, agent, text("first")),
				spanText("tool0", "t0", "elevenlabs.tool.early", s2, s3, "elevenlabs.tool.name", text("named"), "elevenlabs.tool.output", `{"boolValue":true}`),
			),
			[]call.Turn{
				{
					Role: call.RoleAgent, Text: "first", At: at(0), ToolCalls: []call.ToolCall{{Name: "named"}},
					ToolResults: []call.ToolResult{{Name: "named", Value: "true", Latency: at(time.Second)}},
				},
				{Index: 1, Role: call.RoleUser, Text: "second", At: at(3 * time.Second)},
				{Index: 2, Role: call.RoleAgent, Text: "third", At: at(9 * time.Second), ToolCalls: []call.ToolCall{{Name: "late", Params: "in"}}},
			},
		},
		"tools without a parent go by time": {
			traces(
				spanText("a", "", "x", s1, s1, agent, text("a")), spanText("b", "", "x", s3, s3, agent, text("b")),
				spanText("c", "gone", "elevenlabs.tool.two", s2, s2), spanText("d", "", "elevenlabs.tool.three", s9, s9), spanText("e", "e", "elevenlabs.tool.one", s0, s0),
			),
			[]call.Turn{
				{Role: call.RoleAgent, Text: "a", At: at(time.Second), ToolCalls: []call.ToolCall{{Name: "one"}, {Name: "two"}}},
				{Index: 1, Role: call.RoleAgent, Text: "b", At: at(3 * time.Second), ToolCalls: []call.ToolCall{{Name: "three"}}},
			},
		},
		"tools where the agent said nothing": {
			traces(spanText("a", "", "x", s0, s0, user, text("a")), spanText("b", "", "elevenlabs.tool.x", s1, s1), spanText("c", "", "elevenlabs.tool.y", s2, s2)),
			[]call.Turn{
				{Role: call.RoleUser, Text: "a", At: at(0)},
				{Index: 1, Role: call.RoleAgent, At: at(time.Second), ToolCalls: []call.ToolCall{{Name: "x"}, {Name: "y"}}},
			},
		},
		"a tool that failed": {
			traces(spanText("a", "", "x", s0, s0, agent, text("a")),
				strings.Replace(spanText("b", "a", "elevenlabs.tool.x", s1, s2), `"name"`, `"status":{"code":2},"name"`, 1),
				spanText("c", "a", "elevenlabs.tool.y", s2, s2, "elevenlabs.tool.is_error", `{"boolValue":true}`, "elevenlabs.tool.result", `{"kvlistValue":{"values":[{"key":"k","value":{"arrayValue":{"values":[{"intValue":"9007199254740993"},{"doubleValue":0.5}]}}}]}}`)),
			[]call.Turn{{
				Role: call.RoleAgent, Text: "a", At: at(0), ToolCalls: []call.ToolCall{{Name: "x"}, {Name: "y"}},
				ToolResults: []call.ToolResult{
					{Name: "x", IsError: true, Latency: at(time.Second)},
					{Name: "y", Value: `{"k":["9007199254740993",0.5]}`, IsError: true, Latency: at(0)},
				},
			}},
		},
		"several resources and scopes, and nonsense among them": {
			`{"data":{"otlp_traces":{"resourceSpans":[5,null,{"scopeSpans":[{"spans":[` + spanText("a", "", "x", s1, s1, agent, text("b")) + `]},{"spans":{}},{}]},
				{"resource":7,"scopeSpans":[{"spans":[null,"x",{"attributes":{"key":"x"}},` + spanText("b", "", "x", s0, s0, user, text("a")) + `]}]}]}}}`,
			[]call.Turn{{Role: call.RoleUser, Text: "a", At: at(0)}, {Index: 1, Role: call.RoleAgent, Text: "b", At: at(time.Second)}},
		},
		"spans in a circle": {
			traces(spanText("a", "b", "x", s0, s0, user, text("a")), spanText("b", "a", "x", s1, s1, agent, text("b")), spanText("c", "a", "elevenlabs.tool.x", s1, s1)),
			[]call.Turn{
				{Role: call.RoleUser, Text: "a", At: at(0)},
				{Index: 1, Role: call.RoleAgent, Text: "b", At: at(time.Second), ToolCalls: []call.ToolCall{{Name: "x"}}},
			},
		},
		"hostile numbers": {
			traces(
				spanText("a", "", "x", `"9223372036854775807"`, `"9223372036854775807"`, user, text("a"), index, `{"intValue":"99999999999999999999"}`),
				spanText("b", "", "x", `"99999999999999999999"`, `1e30`, user, text("b"), index, `{"intValue":"-1"}`),
				spanText("c", "", "x", `1`, `1`, user, text("c"), index, `{"doubleValue":"NaN"}`),
			),
			[]call.Turn{
				{Role: call.RoleUser, Text: "c", At: at(0)}, {Index: 1, Role: call.RoleUser, Text: "a"}, {Index: 2, Role: call.RoleUser, Text: "b"},
			},
		},
		"interrupted, and a text that is not one": {
			traces(spanText("a", "", "x", s0, s0, agent, text("a"), user, `{"arrayValue":{}}`, "elevenlabs.agent.interrupted", `{"boolValue":true}`)),
			[]call.Turn{{Role: call.RoleAgent, Text: "a", At: at(0), Interrupted: true}},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			same(t, converse(t, call.TypeTranscriptionOTel, tt.payload).Turns, tt.want)
			same(t, converse(t, call.TypeTranscription, tt.payload).Turns, tt.want) // the content decides
		})
	}
}

func TestOTelSummary(t *testing.T) {
	t.Parallel()
	c := converse(t, call.TypeTranscriptionOTel, `{"data":{"otlp_traces":{"resourceSpans":[{"resource":{"attributes":[
		{"key":"elevenlabs.conversation_id","value":{"stringValue":"c"}},{"key":"elevenlabs.agent_id","value":{"stringValue":"a"}}]},
		"scopeSpans":[{"spans":[{"name":"elevenlabs.conversation","startTimeUnixNano":1795000000500000000,"endTimeUnixNano":"1795000060500000000","attributes":[
		{"key":"elevenlabs.session.duration_ms","value":{"doubleValue":1500.5}},
		{"key":"elevenlabs.analysis.call_successful","value":{"boolValue":false}},
		{"key":"elevenlabs.dynamic_variable.user_name","value":{"stringValue":"Ольга"}},
		{"key":"elevenlabs.dynamic_variable.system__caller_id","value":{"stringValue":"+1"}},
		{"key":"elevenlabs.dynamic_variable.system__called_number","value":{"stringValue":"+2"}},
		{"key":"elevenlabs.telephony.direction","value":{"stringValue":"outbound"}}]}]}]}]}}}`)
	same(t, c, &call.Conversation{
		ID: "c", AgentID: "a", StartedAt: time.Unix(1795000000, 5e8).UTC(), Duration: 1500500 * time.Microsecond,
		Successful: "failure", KnownName: "Ольга", Direction: "outbound", ExternalNumber: "+2", AgentNumber: "+1",
		TurnsMissing: "the traces hold no turns", Incomplete: true,
	})
	c = converse(t, call.TypeTranscriptionOTel, traces(spanText("a", "", "elevenlabs.conversation", `"1000000000"`, `"61000000000"`)))
	if c.Duration != time.Minute {
		t.Errorf("the duration by the spans is %s", c.Duration)
	}
}

// Traces that stand beside a transcript without turns are what was said.
func TestOTelBesideAnEmptyTranscript(t *testing.T) {
	t.Parallel()
	for _, transcript := range []string{`null`, `[]`, `{}`, `[{"role":"system","message":"x"}]`} {
		payload := strings.Replace(traces(spanText("a", "", "x", `"1"`, `"2"`, "elevenlabs.user.text", `{"stringValue":"Алло"}`)), `"otlp_traces"`, `"transcript":`+transcript+`,"otlp_traces"`, 1)
		for _, eventType := range []call.EventType{call.TypeTranscription, call.TypeTranscriptionOTel} {
			if c := converse(t, eventType, payload); !c.Spoken() || c.TurnsMissing != "" {
				t.Errorf("%s: %+v", transcript, c)
			}
		}
	}
}

// Many spans of one index, tools among them, must not take quadratic time.
func TestOTelMany(t *testing.T) {
	t.Parallel()
	var spans []string
	for i := range 20_000 {
		spans = append(spans,
			spanText("s"+strconv.Itoa(i), "", "x", strconv.Itoa(i+1), "0", "elevenlabs.agent.text", `{"stringValue":"a"}`, "elevenlabs.turn.index", `{"intValue":0}`),
			spanText("t"+strconv.Itoa(i), "t"+strconv.Itoa(i-1), "elevenlabs.tool.x", strconv.Itoa(i+1), "0"))
	}
	c := converse(t, call.TypeTranscriptionOTel, traces(spans...))
	if len(c.Turns) != 20_000 || len(c.Turns[19_999].ToolCalls) != 1 {
		t.Errorf("%d turns", len(c.Turns))
	}
}

func TestFailure(t *testing.T) {
	t.Parallel()
	got, ok := elevenlabs.Failure(made(t, "28-made-failure-twilio-no-answer.json"))
	want := elevenlabs.FailedDial{
		AgentID: "agent_6601k9ru0000000000000000ru01", ConversationID: "conv_na_0001", Reason: "no-answer",
		Provider: "twilio", From: "+74950000001", To: "+79990000004", SIPStatus: 480,
	}
	if !ok || got != want {
		t.Errorf("%+v, %t", got, ok)
	}
	got, ok = elevenlabs.Failure([]byte(`{"type":"call_initiation_failure","data":{"conversation_id":5,"failure_reason":"busy","metadata":{"type":"sip","body":{
		"from_number":"+1","to_number":"+2","sip_status_code":486,"error_reason":"Busy here","sip_status":"Busy"}}}}`))
	want = elevenlabs.FailedDial{ConversationID: "5", Reason: "busy", Provider: "sip", From: "+1", To: "+2", SIPStatus: 486, Detail: "Busy here"}
	if !ok || got != want {
		t.Errorf("%+v, %t", got, ok)
	}
	got, ok = elevenlabs.Failure([]byte(`{"type":"call_initiation_failure","data":{"metadata":[],"failure_reason":null}}`))
	if !ok || got != (elevenlabs.FailedDial{}) {
		t.Errorf("%+v, %t", got, ok)
	}
	for _, payload := range []string{``, `null`, `{}`, `{"type":"post_call_audio","data":{}}`} {
		if got, ok := elevenlabs.Failure([]byte(payload)); ok {
			t.Errorf("%s: %+v", payload, got)
		}
	}
}

// checkConversation asserts what holds for every conversation.
func checkConversation(t *testing.T, c *call.Conversation) {
	t.Helper()
	if (len(c.Turns) == 0) != (c.TurnsMissing != "") {
		t.Fatalf("%d turns, missing because %q", len(c.Turns), c.TurnsMissing)
	}
	last := -1
	for _, turn := range c.Turns {
		if turn.Index <= last || turn.Role != call.RoleUser && turn.Role != call.RoleAgent || turn.At != nil && *turn.At < 0 || turn.Latency != nil && *turn.Latency < 0 {
			t.Fatalf("%+v after %d", turn, last)
		}
		last = turn.Index
	}
	if c.Duration < 0 {
		t.Fatalf("the duration is %s", c.Duration)
	}
	checkTexts(t, reflect.ValueOf(c))
	if _, err := json.Marshal(c); err != nil {
		t.Fatal(err)
	}
}

// checkTexts asserts that no text within v holds what a text column refuses.
func checkTexts(t *testing.T, v reflect.Value) {
	t.Helper()
	switch v.Kind() {
	case reflect.String:
		if s := v.String(); !utf8.ValidString(s) || strings.Contains(s, "\x00") {
			t.Fatalf("a text cannot be stored: %q", s)
		}
	case reflect.Pointer:
		if !v.IsNil() {
			checkTexts(t, v.Elem())
		}
	case reflect.Slice:
		for i := range v.Len() {
			checkTexts(t, v.Index(i))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				checkTexts(t, v.Field(i))
			}
		}
	default: // holds no text
	}
}

func fuzzConversation(t *testing.T, eventType call.EventType, payload []byte) {
	t.Helper()
	c, err := elevenlabs.Conversation(eventType, payload)
	if err != nil {
		if call.CodeOf(err) != call.Invalid {
			t.Fatalf("the code is %s", call.CodeOf(err))
		}
		return
	}
	checkConversation(t, c)
	again, err := elevenlabs.Conversation(eventType, payload)
	if err != nil || !reflect.DeepEqual(c, again) {
		t.Fatalf("a second reading differs: %v\n%s\n%s", err, show(c), show(again))
	}
	if f, ok := elevenlabs.Failure(payload); ok {
		checkTexts(t, reflect.ValueOf(f))
	}
}

func FuzzConversation(f *testing.F) {
	seed(f, func(body []byte) { f.Add(body) })
	f.Add([]byte(`{"data":{"analysis":{"data_collection_results":{"a":{"value":"None"}}},"metadata":{"error":{"code":1}}}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		fuzzConversation(t, call.TypeTranscription, body) // unsanitised, as an operator may post it
		fuzzConversation(t, call.TypeTranscription, elevenlabs.Parse(body, receivedAt).Payload)
	})
}

func FuzzOTel(f *testing.F) {
	f.Add(made(f, "30-made-otel-spans-ru.json"))
	f.Add([]byte(traces(
		spanText("a", "b", "elevenlabs.turn.0", `"1"`, `2`, "elevenlabs.agent.text", `{"stringValue":"x"}`),
		spanText("b", "a", "elevenlabs.tool.x", `"1"`, `2`, "elevenlabs.tool.result", `{"arrayValue":{"values":[{"kvlistValue":{"values":[]}}]}}`))))
	f.Fuzz(func(t *testing.T, body []byte) {
		fuzzConversation(t, call.TypeTranscriptionOTel, body)
	})
}
