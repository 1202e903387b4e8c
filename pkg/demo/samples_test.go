package demo

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"postcall/pkg/elevenlabs"
)

var now = time.Unix(1800000000, 0)

// delivered is what the tests read of a body.
type delivered struct {
	Type      string `json:"type"`
	Timestamp int64  `json:"event_timestamp"`
	Data      struct {
		AgentID        string `json:"agent_id"`
		ConversationID string `json:"conversation_id"`
		FullAudio      string `json:"full_audio"`
		Metadata       struct {
			Start    int64 `json:"start_time_unix_secs"`
			Accepted int64 `json:"accepted_time_unix_secs"`
			Duration int64 `json:"call_duration_secs"`
		} `json:"metadata"`
		Analysis struct {
			Summary    string `json:"transcript_summary"`
			Successful string `json:"call_successful"`
		} `json:"analysis"`
		Transcript []struct {
			Role        string  `json:"role"`
			Message     *string `json:"message"`
			Time        int64   `json:"time_in_call_secs"`
			ToolCalls   []any   `json:"tool_calls"`
			ToolResults []struct {
				IsError bool `json:"is_error"`
			} `json:"tool_results"`
		} `json:"transcript"`
	} `json:"data"`
}

func samples(t *testing.T, run string) ([]Sample, []delivered) {
	t.Helper()
	all, err := Samples(now, run)
	if err != nil {
		t.Fatal(err)
	}
	parsed := make([]delivered, len(all))
	for i, s := range all {
		if err := json.Unmarshal(s.Body, &parsed[i]); err != nil {
			t.Fatalf("%s: %v", s.Name, err)
		}
	}
	return all, parsed
}

func TestSamplesAreDistinct(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	conversations := map[string]int{}
	for _, run := range []string{"a1", "b2"} {
		all, parsed := samples(t, run)
		for i, d := range parsed {
			if !strings.HasSuffix(d.Data.ConversationID, "_"+run) || d.Data.AgentID == "" {
				t.Errorf("%s: conversation %q of agent %q", all[i].Name, d.Data.ConversationID, d.Data.AgentID)
			}
			key := fmt.Sprint(d.Type, d.Data.ConversationID, d.Timestamp)
			if before, ok := seen[key]; ok {
				t.Errorf("%s is the same event as %s", all[i].Name, before)
			}
			seen[key] = all[i].Name
			conversations[d.Data.ConversationID]++
		}
	}
	for id, n := range conversations {
		if want := 1 + strings.Count(id, "_flat_lead_"); n != want { // it has audio as well
			t.Errorf("conversation %s has %d events, want %d", id, n, want)
		}
	}
}

func TestSamplesAreRecent(t *testing.T) {
	t.Parallel()
	all, parsed := samples(t, "r")
	var last int64
	for i, d := range parsed {
		if age := now.Unix() - d.Timestamp; age < 1 || age > 3600 {
			t.Errorf("%s is %d s old", all[i].Name, age)
		}
		last = max(last, d.Timestamp)
		if m := d.Data.Metadata; d.Type == "post_call_transcription" &&
			(m.Start+m.Duration > d.Timestamp || d.Timestamp-m.Start > 300 || m.Accepted != m.Start+1) {
			t.Errorf("%s: started %d, took %d, told of at %d", all[i].Name, m.Start, m.Duration, d.Timestamp)
		}
		if old := regexp.MustCompile(`\b17950\d{5}`).Find(all[i].Body); old != nil {
			t.Errorf("%s still has the time %s", all[i].Name, old)
		}
	}
	if last != now.Unix()-1 {
		t.Errorf("the last event is of %d, want just before %d", last, now.Unix())
	}
}

func TestSamplesTellWhatTheyAre(t *testing.T) {
	t.Parallel()
	all, parsed := samples(t, "r")
	kinds := map[string]int{}
	toolErrors, failures := 0, 0
	for i, d := range parsed {
		name := all[i].Name
		kinds[d.Type]++
		if d.Data.Analysis.Successful == "failure" {
			failures++
		}
		switch d.Type {
		case "post_call_transcription":
			if n := len(d.Data.Transcript); n < 6 || n > 14 {
				t.Errorf("%s has %d turns", name, n)
			}
			if d.Data.Analysis.Summary == "" {
				t.Errorf("%s has no summary", name)
			}
			spoken, at := false, int64(0)
			for _, turn := range d.Data.Transcript {
				spoken = spoken || turn.Role == "user" && turn.Message != nil
				if turn.Time < at || turn.Time > d.Data.Metadata.Duration {
					t.Errorf("%s has a turn at %d s after one at %d s", name, turn.Time, at)
				}
				at = turn.Time
				for _, r := range turn.ToolResults {
					if r.IsError {
						toolErrors++
					}
				}
			}
			if spoken != all[i].Analysed {
				t.Errorf("%s: analysed is %v, spoken %v", name, all[i].Analysed, spoken)
			}
		case "post_call_transcription_otel":
			if !all[i].Analysed || bytes.Count(all[i].Body, []byte("elevenlabs.turn.index")) < 6 {
				t.Errorf("%s has too few turns", name)
			}
		case "post_call_audio":
			audio, err := base64.StdEncoding.DecodeString(d.Data.FullAudio)
			if err != nil || !bytes.HasPrefix(audio, []byte("ID3")) {
				t.Errorf("%s: no MP3 (%v)", name, err)
			}
		}
	}
	if kinds["post_call_audio"] != 1 || kinds["call_initiation_failure"] != 1 || kinds["post_call_transcription_otel"] != 1 || toolErrors == 0 || failures == 0 {
		t.Errorf("kinds %v, %d tool errors, %d failures", kinds, toolErrors, failures)
	}
}

// TestSamplesAreRead has the receiver's own parser read them.
func TestSamplesAreRead(t *testing.T) {
	t.Parallel()
	all, _ := samples(t, "r")
	keys := map[string]string{}
	for _, s := range all {
		e := elevenlabs.Parse(s.Body, now)
		if before, ok := keys[e.DedupKey]; ok {
			t.Errorf("%s has the key of %s", s.Name, before)
		}
		keys[e.DedupKey] = s.Name
		if !e.Type.Analysable() {
			if s.Analysed {
				t.Errorf("%s is a %s, which nobody analyses", s.Name, e.Type)
			}
			continue
		}
		c, err := elevenlabs.Conversation(e.Type, e.Payload)
		if err != nil {
			t.Fatalf("%s: %v", s.Name, err)
		}
		if c.Spoken() != s.Analysed || c.StartedAt.IsZero() || c.ExternalNumber == "" || c.Summary == "" || c.Title == "" {
			t.Errorf("%s is read as %+v", s.Name, c)
		}
	}
}

// TestPhonesBelongToNobody keeps real numbers out of the samples.
func TestPhonesBelongToNobody(t *testing.T) {
	t.Parallel()
	made := regexp.MustCompile(`^\+(7999000|37529000|7495000|37517000)0\d{3}$`)
	all, _ := samples(t, "r")
	for _, s := range all {
		for _, phone := range regexp.MustCompile(`\+\d{10,}`).FindAllString(string(s.Body), -1) {
			if !made.MatchString(phone) {
				t.Errorf("%s has the number %s", s.Name, phone)
			}
		}
	}
}

func TestSamplesForm(t *testing.T) {
	t.Parallel()
	all, _ := samples(t, "r")
	raw := 0
	for _, s := range all {
		ascii := !slices.ContainsFunc(s.Body, func(b byte) bool { return b >= utf8.RuneSelf })
		if !ascii {
			raw++
		}
		if !utf8.Valid(s.Body) || bytes.ContainsAny(s.Body, "\n\t") || !bytes.HasPrefix(s.Body, []byte(`{"type": "`)) {
			t.Errorf("%s does not look like ElevenLabs' own", s.Name)
		}
	}
	if raw != 1 {
		t.Errorf("%d samples are raw UTF-8, want 1", raw)
	}
}

func TestPythonJSON(t *testing.T) {
	t.Parallel()
	in := []byte("{ \"b\" : [1.50,\"a,b:c\\\"\\\\\", {}],\n \"a\":\"дом 😊\", \"n\":9007199254740993 }")
	for raw, want := range map[bool]string{
		false: `{"b": [1.50, "a,b:c\"\\", {}], "a": "\u0434\u043e\u043c \ud83d\ude0a", "n": 9007199254740993}`,
		true:  `{"b": [1.50, "a,b:c\"\\", {}], "a": "дом 😊", "n": 9007199254740993}`,
	} {
		got, err := pythonJSON(in, raw)
		if err != nil || string(got) != want {
			t.Errorf("raw %v: %s (%v), want %s", raw, got, err, want)
		}
	}
	if _, err := pythonJSON([]byte(`{"a":`), true); err == nil {
		t.Error("broken JSON is taken")
	}
}

func TestSamplesRefuseARunThatIsNoName(t *testing.T) {
	t.Parallel()
	for _, run := range []string{"", `a"b`, "a b", strings.Repeat("x", 41)} {
		if _, err := Samples(now, run); err == nil {
			t.Errorf("run %q is taken", run)
		}
	}
}
