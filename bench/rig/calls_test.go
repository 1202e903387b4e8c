package rig

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"postcall/pkg/elevenlabs"
)

func TestTranscript(t *testing.T) {
	t.Parallel()
	calls := NewCalls(1)
	verifier := elevenlabs.NewVerifier([]string{Secret}, time.Minute)
	seen, digests := map[string]bool{}, map[[32]byte]bool{}
	for n := range uint64(2000) {
		body := calls.Transcript(n)
		if len(body) != BodySize {
			t.Fatalf("call %d has %d bytes", n, len(body))
		}
		if n%500 != 0 {
			seen[calls.ID(n)], digests[calls.Said(n)] = true, true
			continue
		}
		if !bytes.Equal(body, calls.Transcript(n)) {
			t.Error("the same call twice is not the same")
		}
		e := elevenlabs.Parse(body, time.Now())
		if e.ConversationID != calls.ID(n) || !e.Type.Analysable() || e.RawBody != nil {
			t.Errorf("%+v", e)
		}
		if _, err := verifier.Verify(Sign(body), body); err != nil {
			t.Error(err)
		}
		seen[e.ConversationID], digests[calls.Said(n)] = true, true
	}
	if len(seen) != 2000 || len(digests) != 2000 {
		t.Errorf("%d ids and %d texts of 2000 calls", len(seen), len(digests))
	}
	if NewCalls(2).ID(7) == calls.ID(7) {
		t.Error("two seeds make the same calls")
	}
}

// What is said is random: what gzip wins is the six bits of eight that a
// symbol carries and the JSON around it.
func TestIncompressible(t *testing.T) {
	t.Parallel()
	calls := NewCalls(1)
	ratio := func(b []byte) float64 {
		var out bytes.Buffer
		w := gzip.NewWriter(&out)
		_, _ = w.Write(b)
		_ = w.Close()
		return float64(out.Len()) / float64(len(b))
	}
	if r := ratio(calls.Transcript(3)); r < 0.65 {
		t.Errorf("gzip makes a body %.0f %% of its size", 100*r)
	}
	// Two neighbours, both within gzip's window, do not help each other.
	if r := ratio(append(calls.Transcript(3), calls.Transcript(4)...)); r < 0.60 {
		t.Errorf("gzip makes two bodies %.0f %% of their size", 100*r)
	}
}

// Spoken calls are whole words of valid text, of the same size, each another.
func TestSpoken(t *testing.T) {
	t.Parallel()
	calls := NewSpoken(1)
	seen := map[[32]byte]bool{}
	for n := range uint64(500) {
		body := calls.Transcript(n)
		if len(body) != BodySize || !utf8.Valid(body) || !json.Valid(body) {
			t.Fatalf("call %d: %d bytes, valid text: %t", n, len(body), utf8.Valid(body))
		}
		if e := elevenlabs.Parse(body, time.Now()); e.RawBody != nil || !e.Type.Analysable() {
			t.Fatalf("call %d: %+v", n, e)
		}
		seen[calls.Said(n)] = true
	}
	if len(seen) != 500 {
		t.Errorf("%d texts of 500 calls", len(seen))
	}
}

func TestSaid(t *testing.T) {
	t.Parallel()
	calls := NewCalls(1)
	said := func(body []byte) string {
		var e struct {
			Data struct {
				Transcript []struct{ Message string }
			}
		}
		if err := json.Unmarshal(body, &e); err != nil {
			t.Fatal(err)
		}
		var all strings.Builder
		for _, turn := range e.Data.Transcript {
			all.WriteString(turn.Message)
		}
		return all.String()
	}
	if calls.Said(5) != digest(said(calls.Transcript(5))) {
		t.Error("the digest is of something else")
	}
}

func TestAudio(t *testing.T) {
	t.Parallel()
	calls := NewCalls(1)
	const size = 5_000_000
	parts := calls.Audio(9, size)
	body := bytes.Join(parts, nil)
	var e struct {
		Data struct {
			ConversationID string `json:"conversation_id"`
			Audio          string `json:"full_audio"`
		}
	}
	if err := json.Unmarshal(body, &e); err != nil {
		t.Fatal(err)
	}
	audio, err := base64.StdEncoding.DecodeString(e.Data.Audio)
	if err != nil || len(audio) != size || !bytes.HasPrefix(audio, []byte("ID3")) || e.Data.ConversationID != calls.ID(9) {
		t.Errorf("%d bytes of audio, %v", len(audio), err)
	}
	now := time.Now()
	if got, want := SignParts(Secret, now, parts), elevenlabs.Sign(Secret, now, body); got != want {
		t.Errorf("signed %s, want %s", got, want)
	}
}

func BenchmarkSignedTranscript(b *testing.B) {
	calls := NewCalls(1)
	for n := uint64(0); b.Loop(); n++ {
		Sign(calls.Transcript(n))
	}
}
