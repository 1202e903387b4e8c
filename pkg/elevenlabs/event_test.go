package elevenlabs_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"postcall/pkg/call"
	"postcall/pkg/elevenlabs"
)

var receivedAt = time.Unix(1800000000, 0).UTC()

func parse(body string) call.Event { return elevenlabs.Parse([]byte(body), receivedAt) }

func sha(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// made reads one of the payloads that were written for this project.
func made(tb testing.TB, name string) []byte {
	tb.Helper()
	body, err := os.ReadFile(filepath.Join("testdata", "made", name))
	if err != nil {
		tb.Fatal(err)
	}
	return body
}

func TestParseMade(t *testing.T) {
	t.Parallel()
	const agent = "agent_6601k9ru0000000000000000ru01"
	const conversation = "conv_6601k9ru0000000000000000rc01"
	tests := map[string]call.Event{
		"19-made-russian-sip-inbound-full.json": {
			Type: call.TypeTranscription, Timestamp: 1795000110, ConversationID: conversation, Status: "done",
			HasAudio: new(true), HasUserAudio: new(true), HasResponseAudio: new(true),
			DedupKey: "call:post_call_transcription:" + conversation + ":1795000110",
		},
		"20-made-russian-utf8-raw.json": {
			Type: call.TypeTranscription, Timestamp: 1795000110, ConversationID: "conv_6601k9ru0000000000000000rc02", Status: "done",
			HasAudio: new(true), HasUserAudio: new(true), HasResponseAudio: new(true),
			DedupKey: "call:post_call_transcription:conv_6601k9ru0000000000000000rc02:1795000110",
		},
		"22-made-failed-null-analysis-empty-transcript.json": {
			Type: call.TypeTranscription, Timestamp: 1795000110, ConversationID: "conv_failed_0001", Status: "failed",
			HasAudio: new(false), HasUserAudio: new(false), HasResponseAudio: new(false),
			DedupKey: "call:post_call_transcription:conv_failed_0001:1795000110",
		},
		"26-made-audio-valid-mp3.json": {
			Type: call.TypeAudio, Timestamp: 1795000115, ConversationID: conversation,
			DedupKey: "call:post_call_audio:" + conversation + ":1795000115",
		},
		"28-made-failure-twilio-no-answer.json": {
			Type: call.TypeInitiationFailure, Timestamp: 1795000200, ConversationID: "conv_na_0001",
			DedupKey: "call:call_initiation_failure:conv_na_0001:1795000200",
		},
		"30-made-otel-spans-ru.json": {
			Type: call.TypeTranscriptionOTel, Timestamp: 1795000110, ConversationID: conversation,
			DedupKey: "call:post_call_transcription_otel:" + conversation + ":1795000110",
		},
		"31-made-hostile-nul-surrogate-unknown-fields.json": {
			Type: call.TypeTranscription, Timestamp: 1795000110, ConversationID: "conv_hostile_0001", Status: "done",
			HasAudio: new(true), HasUserAudio: new(true), HasResponseAudio: new(true),
			DedupKey: "call:post_call_transcription:conv_hostile_0001:1795000110",
		},
		"34-made-minimal-required-only.json": {
			Type: call.TypeTranscription, Timestamp: 1795000110, ConversationID: "conv_min_0001", Status: "done",
			HasAudio: new(false), HasUserAudio: new(false), HasResponseAudio: new(false),
			DedupKey: "call:post_call_transcription:conv_min_0001:1795000110",
		},
	}
	files, err := filepath.Glob("testdata/made/*.json")
	if err != nil || len(files) != len(tests) {
		t.Fatalf("%d files and %d tests (%v)", len(files), len(tests), err)
	}
	for name, want := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			body := made(t, name)
			want.AgentID, want.ReceivedAt = agent, receivedAt
			want.Payload = body
			if strings.HasPrefix(name, "31-") {
				want.Payload = bytes.ReplaceAll(bytes.ReplaceAll(body,
					[]byte(`\u0000`), []byte(`\u2400`)), []byte(`lone:\ud83d`), []byte(`lone:\ufffd`))
				want.RawBody = body
			}
			sameEvent(t, elevenlabs.Parse(body, receivedAt), want)
		})
	}
}

func sameEvent(t *testing.T, got, want call.Event) {
	t.Helper()
	g, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	w, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(g, w) || (got.RawBody == nil) != (want.RawBody == nil) {
		t.Errorf("got  %s\nwant %s", g, w)
	}
}

func TestParseEnvelope(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("ж", 5<<20)
	tests := map[string]struct {
		body string
		want call.Event // Payload, RawBody and ReceivedAt are looked at elsewhere
	}{
		"not JSON": {`hello`, call.Event{Type: "unparseable", DedupKey: "sha256:" + sha("hello")}},
		"empty":    {``, call.Event{Type: "unparseable", DedupKey: "sha256:" + sha("")}},
		"null":     {`null`, call.Event{Type: "unknown", DedupKey: "sha256:" + sha("null")}},
		"array":    {`[]`, call.Event{Type: "unknown", DedupKey: "sha256:" + sha("[]")}},
		"array of what looks like an envelope": {
			`[{"type":"x","event_id":"1","data":{"agent_id":"a"}}]`,
			call.Event{Type: "unknown", DedupKey: "sha256:" + sha(`[{"type":"x","event_id":"1","data":{"agent_id":"a"}}]`)},
		},
		"text":   {`"x"`, call.Event{Type: "unknown", DedupKey: "sha256:" + sha(`"x"`)}},
		"number": {`12`, call.Event{Type: "unknown", DedupKey: "sha256:" + sha(`12`)}},
		"byte order mark": {
			"\ufeff" + `{"type":"x","event_id":"1"}`,
			call.Event{Type: "x", EventID: "1", DedupKey: "id:1"},
		},
		"unknown type": {
			`{"type":"agent_qa","event_timestamp":1,"data":{"conversation_id":"c"}}`,
			call.Event{Type: "agent_qa", Timestamp: 1, ConversationID: "c", DedupKey: "call:agent_qa:c:1"},
		},
		"wrong types everywhere": {
			`{"type":[],"event_timestamp":{},"event_id":null,"data":{"agent_id":[1],"conversation_id":{},"status":[],"has_audio":"yes","has_user_audio":1}}`,
			call.Event{Type: "unknown", DedupKey: "sha256:" + sha(`{"type":[],"event_timestamp":{},"event_id":null,"data":{"agent_id":[1],"conversation_id":{},"status":[],"has_audio":"yes","has_user_audio":1}}`)},
		},
		"scalars as ids": {
			`{"type":7,"event_timestamp":5,"data":{"agent_id":9007199254740993,"conversation_id":1.50,"status":true}}`,
			call.Event{Type: "7", Timestamp: 5, AgentID: "9007199254740993", ConversationID: "1.50", Status: "true", DedupKey: "call:7:1.50:5"},
		},
		"data is a text": {
			`{"type":"x","event_timestamp":5,"agent_id":"a","conversation_id":"c","status":"s","data":"{}"}`,
			call.Event{Type: "x", Timestamp: 5, AgentID: "a", ConversationID: "c", Status: "s", DedupKey: "call:x:c:5"},
		},
		"data before the root": {
			`{"type":"x","has_audio":true,"has_user_audio":true,"agent_id":"root","status":"root","data":{"agent_id":"data","status":null,"has_audio":false}}`,
			call.Event{Type: "x", AgentID: "data", Status: "root", HasAudio: new(false), HasUserAudio: new(true),
				DedupKey: "sha256:" + sha(`{"type":"x","has_audio":true,"has_user_audio":true,"agent_id":"root","status":"root","data":{"agent_id":"data","status":null,"has_audio":false}}`)},
		},
		"fields of nested objects are not the envelope's": {
			`{"x":{"type":"no","agent_id":"no"},"data":{"metadata":{"agent_id":"no"},"list":[{"agent_id":"no"}],"agent_id":"yes"},"y":{"agent_id":"no"},"event_id":"e"}`,
			call.Event{Type: "unknown", AgentID: "yes", EventID: "e", DedupKey: "id:e"},
		},
		"repeated keys: the last one counts": {
			`{"type":"a","type":"b","event_id":"1","data":{"agent_id":"old","conversation_id":"old"},"data":{"agent_id":"x","agent_id":"new"}}`,
			call.Event{Type: "b", EventID: "1", AgentID: "new", DedupKey: "id:1"},
		},
		"data repeated as an array": {
			`{"data":{"agent_id":"old"},"data":[{"agent_id":"no"}],"event_id":"1"}`,
			call.Event{Type: "unknown", EventID: "1", DedupKey: "id:1"},
		},
		"escaped keys and values": {
			`{"\u0074ype":"\u0078\/y","event_id":"\"1\"","d\u0061ta":{"agent\u005fid":"\ud83d\ude00"}}`,
			call.Event{Type: "x/y", EventID: `"1"`, AgentID: "😀", DedupKey: `id:"1"`},
		},
		"legacy form": {
			`{"event_id":"evt","has_audio":true,"data":{"transcript":[]}}`,
			call.Event{Type: "post_call_transcription", EventID: "evt", HasAudio: new(true), DedupKey: "id:evt"},
		},
		"legacy form, flat": {
			`{"transcript":[{"role":"user","message":"да"}],"conversation_id":"c","event_timestamp":"77"}`,
			call.Event{Type: "post_call_transcription", ConversationID: "c", Timestamp: 77, DedupKey: "call:post_call_transcription:c:77"},
		},
		"a transcript that is no list makes no transcription": {
			`{"event_id":"evt","data":{"transcript":"text"}}`,
			call.Event{Type: "unknown", EventID: "evt", DedupKey: "id:evt"},
		},
		"ids with spaces, slashes, colons and umlauts": {
			`{"type":"t","event_timestamp":5,"data":{"agent_id":"Ä / б","conversation_id":"a:b c/ü:6"}}`,
			call.Event{Type: "t", Timestamp: 5, AgentID: "Ä / б", ConversationID: "a:b c/ü:6", DedupKey: "call:t:a:b c/ü:6:5"},
		},
		"a type with a colon": {
			`{"type":"t:a","event_timestamp":5,"data":{"conversation_id":"b"}}`,
			call.Event{Type: "t:a", Timestamp: 5, ConversationID: "b", DedupKey: "call-sha256:" + sha("3:t:a:b:5")},
		},
		"a NUL in an id": {
			`{"type":"t","event_timestamp":5,"data":{"conversation_id":"a\u0000b"}}`,
			call.Event{Type: "t", Timestamp: 5, ConversationID: "a␀b",
				DedupKey: "sha256:" + sha(`{"type":"t","event_timestamp":5,"data":{"conversation_id":"a\u0000b"}}`)},
		},
		"a lone surrogate in an event id": {
			`{"type":"t","event_id":"\ud800"}`,
			call.Event{Type: "t", EventID: "\ufffd", DedupKey: "sha256:" + sha(`{"type":"t","event_id":"\ud800"}`)},
		},
		"the sign for NUL itself is an id like any other": {
			`{"event_id":"a␀b"}`,
			call.Event{Type: "unknown", EventID: "a␀b", DedupKey: "id:a␀b"},
		},
		"a huge id": {
			`{"type":"t","event_timestamp":5,"data":{"conversation_id":"` + long + `","agent_id":"` + long + `x"}}`,
			call.Event{Type: "t", Timestamp: 5,
				ConversationID: strings.Repeat("ж", 91) + "…sha256:" + sha(long),
				AgentID:        strings.Repeat("ж", 91) + "…sha256:" + sha(long+"x"),
				DedupKey:       "call-sha256:" + sha("1:t:"+long+":5")},
		},
		"a huge event id": {
			`{"event_id":"` + long + `"}`,
			call.Event{Type: "unknown", EventID: strings.Repeat("ж", 91) + "…sha256:" + sha(long), DedupKey: "id-sha256:" + sha(long)},
		},
		"an empty event id is none": {
			`{"type":"t","event_id":"","event_timestamp":5,"data":{"conversation_id":"c"}}`,
			call.Event{Type: "t", Timestamp: 5, ConversationID: "c", DedupKey: "call:t:c:5"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := parse(tt.body)
			got.Payload, got.RawBody = nil, nil
			tt.want.ReceivedAt = receivedAt
			if tt.want.Timestamp == 0 {
				tt.want.Timestamp = receivedAt.Unix()
			}
			sameEvent(t, got, tt.want)
		})
	}
}

func TestParseTimestamp(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		literal string
		want    int64  // 0: not understood
		key     string // in the dedup key
	}{
		"seconds":                 {`1739537297`, 1739537297, "1739537297"},
		"a float":                 {`1739537297.0`, 1739537297, "1739537297"},
		"a fraction":              {`1739537297.25`, 1739537297, "1739537297.25"},
		"an exponent":             {`1.739537297e9`, 1739537297, "1739537297"},
		"milliseconds":            {`1739537297000`, 1739537297, "1739537297"},
		"milliseconds, uneven":    {`1739537297042`, 1739537297, "1739537297.042"},
		"milliseconds, float":     {`1739537297250.0`, 1739537297, "1739537297.25"},
		"microseconds":            {`1739537297000001`, 1739537297, "1739537297.000001"},
		"nanoseconds":             {`1739537297000000001`, 1739537297, "1739537297.000000001"},
		"a numeric text":          {`" 1739537297 "`, 1739537297, "1739537297"},
		"ISO, UTC":                {`"2025-02-14T12:48:17Z"`, 1739537297, "1739537297"},
		"ISO with a zone":         {`"2025-02-14T15:48:17.5+03:00"`, 1739537297, "1739537297.5"},
		"ISO, zone without colon": {`"2025-02-14T15:48:17+0300"`, 1739537297, "1739537297"},
		"ISO without a zone":      {`"2025-02-14T12:48:17.329415"`, 1739537297, "1739537297.329415"},
		"with a space":            {`"2025-02-14 12:48:17"`, 1739537297, "1739537297"},
		"RFC 1123":                {`"Fri, 14 Feb 2025 12:48:17 +0000"`, 1739537297, "1739537297"},
		"zero":                    {`0`, 0, ""},
		"negative":                {`-5`, 0, ""},
		"null":                    {`null`, 0, ""},
		"a boolean":               {`true`, 0, ""},
		"an object":               {`{"x":1}`, 0, ""},
		"words":                   {`"yesterday"`, 0, ""},
		"NaN":                     {`NaN`, 0, ""},
		"Infinity":                {`Infinity`, 0, ""},
		"beyond a float":          {`1e999`, 0, ""},
		"a text, endless":         {`"` + strings.Repeat("1", 1000) + `"`, 0, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := parse(`{"type":"t","event_timestamp":` + tt.literal + `,"data":{"conversation_id":"c"}}`)
			want, key := tt.want, "call:t:c:"+tt.key
			if want == 0 {
				want = receivedAt.Unix()
				key = "sha256:" + sha(`{"type":"t","event_timestamp":`+tt.literal+`,"data":{"conversation_id":"c"}}`)
			}
			if e.Timestamp != want || e.DedupKey != key {
				t.Errorf("%d, %s; want %d, %s", e.Timestamp, e.DedupKey, want, key)
			}
		})
	}
}

// Events that are different, though their keys put together naively are not.
func TestDedupKeysDiffer(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 300)
	bodies := []string{
		`{"type":"a","event_timestamp":5,"data":{"conversation_id":"b:c"}}`,
		`{"type":"a:b","event_timestamp":5,"data":{"conversation_id":"c"}}`,
		`{"type":"a","event_timestamp":5,"data":{"conversation_id":"b"}}`,
		`{"type":"a","event_timestamp":5.5,"data":{"conversation_id":"b"}}`,
		`{"type":"a","event_timestamp":5,"data":{"conversation_id":"b:5"}}`,
		`{"type":"a:b:c","event_timestamp":5,"data":{"conversation_id":"d"}}`,
		`{"type":"a:b","event_timestamp":5,"data":{"conversation_id":"c:d"}}`,
		`{"type":["a"],"event_timestamp":5,"data":{"conversation_id":"b"}}`,
		`{"type":{"a":1},"event_timestamp":5,"data":{"conversation_id":"b"}}`,
		`{"event_id":"call:a:b:5"}`,
		`{"event_id":"sha256:` + long + `"}`,
		`{"event_id":"id-sha256:` + sha(long) + `"}`,
		`{"event_id":"` + long + `"}`,
		`{"event_id":"` + strings.Repeat("x", 181) + "…sha256:" + sha(long) + `"}`,
		`{"event_id":"` + long + `y"}`,
		`{"event_id":"a\u0000"}`,
		`{"event_id":"a␀"}`,
		`{"event_id":"\ud800"}`,
		`{"event_id":"\udc00"}`,
		`{"event_id":"�"}`,
		"{\"event_id\":\"\xff\"}",
		"{\"event_id\":\"\xfe\"}",
		`{"event_id":"` + long + `\u0000"}`,
		`{"event_id":"` + long + `␀"}`,
		`null`, ` null`, ``, `x`,
	}
	seen := map[string]string{}
	for _, body := range bodies {
		key := parse(body).DedupKey
		if other, ok := seen[key]; ok {
			t.Errorf("%.80q and %.80q have the same key %s", other, body, key)
		}
		seen[key] = body
		if again := parse(body).DedupKey; again != key {
			t.Errorf("the key changes from %s to %s", key, again)
		}
	}
}

// Golden payloads for what jsonb refuses.
func TestParsePayload(t *testing.T) {
	t.Parallel()
	deep := func(open, closing string, n int) string {
		return strings.Repeat(open, n) + "1" + strings.Repeat(closing, n)
	}
	digits := strings.Repeat("7", 4000)
	tests := map[string]struct{ body, want string }{
		"ordinary":                    {`{"a": [1, -2.50e+10, "x\n\u00e9\ud83d\ude00", true, null]}`, ``},
		"digits are kept":             {`{"a":123456789012345678901234567890.10,"b":9007199254740993,"c":-0}`, ``},
		"repeated keys":               {`{"type":"a","type":"b"}`, ``},
		"space around":                {" \r\n\t{ } \n", ``},
		"noncharacters":               {`"\uffff\ufffe"`, ``},
		"an escaped backslash":        {`"\\u0000 \\ud800"`, ``},
		"NUL":                         {`{"a\u0000b":"x\u0000\u0000y"}`, `{"a\u2400b":"x\u2400\u2400y"}`},
		"high surrogate":              {`"\ud83d"`, `"\ufffd"`},
		"low surrogate":               {`"\uDE00x"`, `"\ufffdx"`},
		"high, high, low":             {`"\ud83d\ud83d\ude00"`, `"\ufffd\ud83d\ude00"`},
		"high, text, low":             {`"\ud83dx\ude00"`, `"\ufffdx\ufffd"`},
		"high, other escape":          {`"\ud83d\n"`, `"\ufffd\n"`},
		"high, NUL":                   {`"\ud83d\u0000"`, `"\ufffd\u2400"`},
		"a byte that is not UTF-8":    {"{\"a\":\"\xff\xfeж\"}", `{"a":"��ж"}`},
		"a surrogate in UTF-8":        {"\"\xed\xa0\x80\"", `"���"`},
		"byte order mark":             {"\xef\xbb\xbf{}", `{}`},
		"Python's NaN":                {`[NaN, Infinity,-Infinity]`, `["NaN", "Infinity","-Infinity"]`},
		"a huge exponent":             {`[1e400,1e401,1E+131072]`, `[1e400,"1e401","1E+131072"]`},
		"a tiny number":               {`[1e-400,-1.5e-401]`, `[1e-400,"-1.5e-401"]`},
		"an endless exponent":         {`[1e` + digits + `]`, `["1e` + digits + `"]`},
		"an exponent of zeros":        {`[1e` + strings.Repeat("0", 100) + `1]`, ``},
		"as many digits as allowed":   {`[` + digits + `]`, ``},
		"more digits":                 {`[` + digits + `7]`, `["` + digits + `7"]`},
		"more digits after the point": {`[0.` + digits + `]`, `["0.` + digits + `"]`},
		"as deep as allowed":          {deep("[", "]", 512), ``},
		"deeper":                      {deep("[", "]", 514), strings.Repeat("[", 512) + `"[[1]]"` + strings.Repeat("]", 512)},
		"deeper, with objects": {
			deep(`{"a":`, "}", 513), strings.Repeat(`{"a":`, 512) + `"{\"a\":1}"` + strings.Repeat("}", 512),
		},
		"deeper, with what jsonb refuses inside": {
			strings.Repeat("[", 513) + `"\u0000",1e999` + strings.Repeat("]", 513) + " ",
			strings.Repeat("[", 512) + `"[\"\\u0000\",1e999]"` + strings.Repeat("]", 512) + " ",
		},
		"deep and again": {
			"[" + deep("[", "]", 512) + "," + deep("[", "]", 512) + ",\"\\u0000\"]",
			"[" + strings.Repeat("[", 511) + `"[1]"` + strings.Repeat("]", 511) + "," +
				strings.Repeat("[", 511) + `"[1]"` + strings.Repeat("]", 511) + `,"\u2400"]`,
		},
		"too deep for any recursion": {
			strings.Repeat("[", 1<<20) + strings.Repeat("]", 1<<20),
			strings.Repeat("[", 512) + `"` + strings.Repeat("[", 1<<20-512) + strings.Repeat("]", 1<<20-512) + `"` + strings.Repeat("]", 512),
		},

		"not JSON":                {`hello "you"`, `{"unparseable": "hello \"you\"", "bytes": 11}`},
		"empty":                   {``, `{"unparseable": "", "bytes": 0}`},
		"binary":                  {"\x00\x1f\xff\n\\", `{"unparseable": "␀\u001f�\n\\", "bytes": 5}`},
		"two values":              {`{} {}`, `{"unparseable": "{} {}", "bytes": 5}`},
		"cut off":                 {`{"a":"b`, `{"unparseable": "{\"a\":\"b", "bytes": 7}`},
		"a tab in a string":       {"\"\t\"", `{"unparseable": "\"\u0009\"", "bytes": 3}`},
		"only a byte order mark":  {"\xef\xbb\xbf", "{\"unparseable\": \"\ufeff\", \"bytes\": 3}"},
		"long and not JSON":       {strings.Repeat("ж", 32769), `{"unparseable": "` + strings.Repeat("ж", 32768) + `", "bytes": 65538}`},
		"cut between two letters": {"x" + strings.Repeat("ж", 32768), `{"unparseable": "x` + strings.Repeat("ж", 32767) + `", "bytes": 65537}`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := parse(tt.body)
			if tt.want == "" {
				if string(e.Payload) != tt.body || e.RawBody != nil {
					t.Errorf("the payload was changed to %.200q", e.Payload)
				}
				return
			}
			if string(e.Payload) != tt.want {
				t.Errorf("the payload is\n%.300s, want\n%.300s", e.Payload, tt.want)
			}
			if e.RawBody == nil || string(e.RawBody) != tt.body {
				t.Errorf("the raw body is %.200q", e.RawBody)
			}
		})
	}
}

func TestParseNotJSON(t *testing.T) {
	t.Parallel()
	for _, body := range []string{
		`{`, `}`, `[`, `]`, `[}`, `{]`, `{}]`, `[1,]`, `{"a":1,}`, `{,}`, `[,]`, `{"a"}`, `{"a":}`, `{"a" 1}`, `{1:1}`,
		`"`, `"\`, `"\u`, `"\u12`, `"\u12g4"`, `"\x"`, `"\ud83d\u"`, `'a'`, `tru`, `nul`, `True`, `nan`, `Inf`, `-`, `+1`, `01`, `-01`,
		`1.`, `.5`, `1e`, `1e+`, `1e5.5`, `0x10`, `1 2`, `[1 2]`, `{"a":1 "b":2}`, `-Inf`, `N`, `//`, "\x00", `{}` + "\x00", "\v{}",
		"\u00a0{}", "\xff\xfe{\x00}\x00",
	} {
		if e := parse(body); e.Type != call.TypeUnparseable {
			t.Errorf("%q was taken for JSON: type %s, payload %s", body, e.Type, e.Payload)
		}
	}
}

// More values than jsonb can hold.
func TestParseOversized(t *testing.T) {
	t.Parallel()
	body := []byte(`{"event_id":"big","data":[` + strings.Repeat("1,", 5<<20) + `1]}`)
	e := elevenlabs.Parse(body, receivedAt)
	if e.EventID != "big" || e.DedupKey != "id:big" || &e.RawBody[0] != &body[0] {
		t.Errorf("the event is %s, %s", e.EventID, e.DedupKey)
	}
	want := fmt.Sprintf(`, "bytes": %d}`, len(body))
	if !bytes.HasPrefix(e.Payload, []byte(`{"oversized": "{\"event_id\":\"big\"`)) || !bytes.HasSuffix(e.Payload, []byte(want)) || len(e.Payload) > 70_000 {
		t.Errorf("the payload is %.80s", e.Payload)
	}
}

func TestParseNil(t *testing.T) {
	t.Parallel()
	if e := elevenlabs.Parse(nil, receivedAt); e.RawBody == nil {
		t.Error("the raw body of an empty delivery would be NULL")
	}
}

// Bodies of real deliveries by others, which are not ours to publish: read in
// place, where POSTCALL_CAPTURED_DIR says.
func TestCaptured(t *testing.T) {
	t.Parallel()
	dir := os.Getenv("POSTCALL_CAPTURED_DIR")
	if dir == "" {
		t.Skip("POSTCALL_CAPTURED_DIR is not set: bodies of real deliveries are not read")
	}
	tests := map[string]struct {
		eventType call.EventType
		key       string
		turns     int
		spoken    bool
		check     func(t *testing.T, c *call.Conversation)
	}{
		"01-docs-transcription-2025.json": {call.TypeTranscription, "call:post_call_transcription:abc:1739537297", 3, true, func(t *testing.T, c *call.Conversation) {
			t.Helper()
			if c.KnownName != "angelo" || c.Language != "en" || c.Turns[2].Latency == nil || c.Turns[2].Latency.Milliseconds() != 370 {
				t.Errorf("%+v", c)
			}
		}},
		"02-docs-transcription-2026.json": {call.TypeTranscription, "call:post_call_transcription:abc:1739537297", 3, true, nil},
		"04-docs-failure-twilio.json":     {call.TypeInitiationFailure, "call:call_initiation_failure:abc:1759931652", 0, false, nil},
		"05-docs-failure-sip.json":        {call.TypeInitiationFailure, "call:call_initiation_failure:abc:1759931652", 0, false, nil},
		"07-captured-twilio-inbound-en-2025-11.json": {call.TypeTranscription, "call:post_call_transcription:conv_6601k9mywx20fxcbpyv2wtff3zph:1762713911", 9, true, func(t *testing.T, c *call.Conversation) {
			t.Helper()
			if c.ExternalNumber != "+16125550102" || c.Direction != "inbound" || c.Duration != 79*time.Second || c.CostCredits != 531 || c.Successful != "" {
				t.Errorf("%+v", c)
			}
		}},
		"10-captured-swedish-2025-04.json": {call.TypeTranscription, "call:post_call_transcription:D5pFFULGf0y6CEYzeyO4:1745410598", 3, true, nil},
		"13-legacy-nodeapp-russian.json":   {call.TypeTranscription, "id:evt_llm_test_2", 15, true, nil},
		"14-legacy-nodeapp-minimal.json":   {call.TypeTranscription, "id:evt_secret_rotate", 2, true, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			body, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			e := elevenlabs.Parse(body, receivedAt)
			if e.Type != tt.eventType || e.DedupKey != tt.key || e.RawBody != nil || (e.HasAudio != nil) != strings.Contains(name, "legacy") {
				t.Errorf("type %s, key %s, raw body %t, audio %v", e.Type, e.DedupKey, e.RawBody != nil, e.HasAudio)
			}
			c, err := elevenlabs.Conversation(e.Type, e.Payload)
			if !tt.eventType.Analysable() {
				f, ok := elevenlabs.Failure(e.Payload)
				if !ok || f.Reason != "busy" || f.SIPStatus < 486 || f.From == "" || f.To == "" {
					t.Errorf("%+v, %t", f, ok)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(c.Turns) != tt.turns || c.Spoken() != tt.spoken || c.TurnsMissing != "" {
				t.Errorf("%d turns, spoken %t, %q", len(c.Turns), c.Spoken(), c.TurnsMissing)
			}
			if tt.check != nil {
				tt.check(t, c)
			}
		})
	}
}

// bodies are seeds beside the made payloads.
var bodies = []string{
	``, `null`, `[]`, `{"a":"x\u0000y"}`, `{"type":"a","type":"b"}`, "{\"a\":\"\xff\xfe\"}", "\ufeff{}", `[NaN,-Infinity,1e999,1e-999]`,
	`{"event_id":"evt","has_audio":true,"data":{"transcript":[{"role":"user","message":"да"}]}}`,
	`"\ud83d\ud83d\ude00"`, `{"event_timestamp":"2025-04-23T12:16:37.329415+00:00","data":{"conversation_id":"a:b"},"type":"x:y"}`,
	strings.Repeat("[", 520) + `"\u0000"` + strings.Repeat("]", 520),
}

func seed(f *testing.F, add func(body []byte)) {
	f.Helper()
	files, err := filepath.Glob("testdata/made/*.json")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		body, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		add(body)
	}
	for _, body := range bodies {
		add([]byte(body))
	}
}

func FuzzParse(f *testing.F) {
	seed(f, func(body []byte) { f.Add(body) })
	f.Fuzz(func(t *testing.T, body []byte) {
		sent := bytes.Clone(body)
		e := elevenlabs.Parse(body, receivedAt)
		if !bytes.Equal(sent, body) {
			t.Fatal("the body was changed in place")
		}
		checkPayload(t, e.Payload)
		switch {
		case e.RawBody == nil && !bytes.Equal(e.Payload, sent):
			t.Fatal("the payload differs from the body, which is not kept")
		case e.RawBody != nil && !bytes.Equal(e.RawBody, sent):
			t.Fatal("the raw body is not the body")
		}
		const excerpt = `{"unparseable": "`
		if json.Valid(sent) && bytes.HasPrefix(e.Payload, []byte(excerpt)) && !bytes.HasPrefix(sent, []byte(excerpt)) {
			t.Fatal("JSON was taken for unparseable")
		}
		if again := elevenlabs.Parse(sent, receivedAt.Add(time.Hour)); again.DedupKey != e.DedupKey {
			t.Fatalf("the key depends on the time of receipt: %q, %q", e.DedupKey, again.DedupKey)
		}
		for name, s := range map[string]string{
			"type": string(e.Type), "event id": e.EventID, "agent": e.AgentID,
			"conversation": e.ConversationID, "status": e.Status,
		} {
			if len(s) > elevenlabs.MaxID || !utf8.ValidString(s) || strings.Contains(s, "\x00") {
				t.Fatalf("the %s cannot be a column: %q", name, s)
			}
		}
		if e.Type == "" || e.Timestamp <= 0 || len(e.DedupKey) > 300 || !utf8.ValidString(e.DedupKey) || strings.Contains(e.DedupKey, "\x00") {
			t.Fatalf("type %q, timestamp %d, key %q", e.Type, e.Timestamp, e.DedupKey)
		}
		stored := elevenlabs.Parse(e.Payload, receivedAt)
		if stored.RawBody != nil || !bytes.Equal(stored.Payload, e.Payload) {
			t.Fatalf("the payload changes when it is parsed again:\n%s\n%s", e.Payload, stored.Payload)
		}
		if e.Type != call.TypeUnparseable && (stored.Type != e.Type || stored.AgentID != e.AgentID || stored.Timestamp != e.Timestamp ||
			stored.ConversationID != e.ConversationID || stored.EventID != e.EventID || stored.Status != e.Status) {
			t.Fatalf("the fields change when the payload is parsed again:\n%+v\n%+v", e, stored)
		}
	})
}

var (
	pair      = regexp.MustCompile(`(?i)\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}`)
	surrogate = regexp.MustCompile(`(?i)\\ud[89a-f]`)
)

// checkPayload asserts what jsonb asks of a text.
func checkPayload(t *testing.T, payload []byte) {
	t.Helper()
	if !json.Valid(payload) || !utf8.Valid(payload) {
		t.Fatalf("the payload is not JSON in UTF-8: %q", payload)
	}
	unescaped := bytes.ReplaceAll(payload, []byte(`\\`), []byte("__"))
	if bytes.Contains(unescaped, []byte(`\u0000`)) {
		t.Fatalf("the payload has a NUL: %q", payload)
	}
	// Whole pairs go first; what is left of surrogates is alone.
	if surrogate.Match(pair.ReplaceAll(unescaped, []byte("__"))) {
		t.Fatalf("the payload has half a surrogate pair: %q", payload)
	}
}

// BenchmarkReceive is what a delivery of the usual size costs before it is
// stored: its signature and its parsing.
func BenchmarkReceive(b *testing.B) {
	escaped := made(b, "19-made-russian-sip-inbound-full.json")
	raw := made(b, "20-made-russian-utf8-raw.json")
	pad := func(body []byte) []byte { // to 14 KB, with a further message
		return bytes.Replace(body, []byte(`"tag_ids": []`), []byte(`"tag_ids": ["`+strings.Repeat("tag ", (14_000-len(body))/4)+`"]`), 1)
	}
	for name, body := range map[string][]byte{
		"escaped": pad(escaped),
		"utf8":    pad(raw),
		"audio":   []byte(`{"type":"post_call_audio","event_timestamp":1,"data":{"conversation_id":"c","full_audio":"` + strings.Repeat("QUJD", 8<<20) + `"}}`),
	} {
		now := time.Unix(1795000110, 0)
		v := elevenlabs.NewVerifier([]string{"wsec_0123456789abcdef0123456789abcdef"}, time.Hour)
		v.Now = func() time.Time { return now }
		header := elevenlabs.Sign("wsec_0123456789abcdef0123456789abcdef", now, body)
		b.Run(name+"/verify+parse", func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := v.Verify(header, body); err != nil {
					b.Fatal(err)
				}
				if e := elevenlabs.Parse(body, now); e.RawBody != nil || e.ConversationID == "" {
					b.Fatal("the body was changed")
				}
			}
		})
		b.Run(name+"/parse", func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				elevenlabs.Parse(body, now)
			}
		})
	}
}
