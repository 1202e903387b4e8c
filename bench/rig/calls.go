package rig

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"strconv"
	"time"
	"unicode/utf8"

	"postcall/pkg/elevenlabs"
)

// Secret is what deliveries are signed with.
const Secret = "wsec_bench_0000000000000000000000000000000000000000" //nolint:gosec // of a server that lives for minutes on this machine

// Path is where deliveries are posted to. The address is published: were it
// changed, these programs should fail.
const Path = "/webhook/elevenlabs"

// BodySize is the size of a transcript's delivery, in bytes.
const BodySize = 14 << 10

// turns is how many messages a transcript has; most of a body is what they say.
const turns = 12

// arenaSize is how much random text bodies are cut from. It is much more than a
// body, and databases compress each value by itself: no body can be written
// shorter with the help of another.
const arenaSize = 1 << 20

// alphabet has 64 symbols, six bits each: no compressor without an entropy
// coder, such as pglz and lz4, makes random text of them any shorter.
const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 ."

// Calls makes deliveries. The n-th is always the same one, so that it need not
// be kept, and costs little more than its signature. It is safe for concurrent
// use.
type Calls struct {
	seed  uint64
	arena []byte
	fixed int // bytes of a transcript's body that are not what was said
}

// NewCalls makes the calls of a seed; those of another are others.
func NewCalls(seed uint64) *Calls {
	c := &Calls{seed: seed, arena: make([]byte, arenaSize)}
	random := rand.NewChaCha8(sha256.Sum256(strconv.AppendUint(nil, seed, 10)))
	_, _ = random.Read(c.arena) // it never fails
	for i, b := range c.arena {
		c.arena[i] = alphabet[b%byte(len(alphabet))]
	}
	c.fixed = len(c.transcript(0, 0))
	return c
}

// NewSpoken makes the calls of a seed in which words are said, Russian ones in
// their form and about as often as in speech: for what looks at words. They are
// of the same size, and databases can compress them.
func NewSpoken(seed uint64) *Calls {
	c := NewCalls(seed)
	random := rand.New(rand.NewChaCha8(sha256.Sum256(strconv.AppendUint(nil, seed+1, 10)))) //nolint:gosec // the same calls each time
	const vocabulary = 30_000
	letters := []rune("оеаинтсрвлкмдпуяыьгзбчйхжшюцщэф") // by how often they are
	words := make([]string, vocabulary)
	for i := range words {
		word := make([]rune, 2+random.IntN(9))
		for k := range word {
			word[k] = letters[int(float64(len(letters))*math.Pow(random.Float64(), 1.5))]
		}
		words[i] = string(word)
	}
	text := make([]byte, 0, arenaSize+64)
	for len(text) < arenaSize {
		// Zipf: the word of rank r is said as often as 1/r tells.
		rank := int(math.Exp(random.Float64() * math.Log(vocabulary)))
		text = append(append(text, words[rank-1]...), ' ')
	}
	c.arena = text[:arenaSize]
	return c
}

// whole makes a piece of spoken text one of whole words: what was cut at its
// ends becomes spaces, so that it keeps its length. Text of one byte a character
// comes back as it is.
func whole(text []byte) []byte {
	if len(text) == 0 || text[0] < utf8.RuneSelf && text[len(text)-1] < utf8.RuneSelf {
		return text
	}
	text = bytes.Clone(text)
	for i := 0; i < len(text) && text[i] >= utf8.RuneSelf; i++ {
		text[i] = ' '
	}
	for i := len(text) - 1; i >= 0 && text[i] >= utf8.RuneSelf; i-- {
		text[i] = ' '
	}
	return text
}

// ID is the conversation of the n-th call. Like ElevenLabs' own ids, and
// unlike a counter, consecutive ones are nowhere near each other in an index.
func (c *Calls) ID(n uint64) string {
	return fmt.Sprintf("conv_%016x%010d", mix(c.seed^mix(n)), n)
}

// Transcript is the delivery of the n-th call: post_call_transcription,
// BodySize bytes.
func (c *Calls) Transcript(n uint64) []byte { return c.transcript(n, BodySize-c.fixed) }

// transcript makes a body in which so many bytes are said.
func (c *Calls) transcript(n uint64, said int) []byte {
	b := make([]byte, 0, BodySize)
	b = fmt.Appendf(b, `{"type": "post_call_transcription", "event_timestamp": %d, "data": {"agent_id": "agent_7101k9bench0000000000000ru01", `+
		`"conversation_id": "%s", "status": "done", "user_id": null, "transcript": [`, timestamp(n), c.ID(n))
	from := mix(c.seed+n) % uint64(arenaSize-BodySize)
	text := c.arena[from : from+uint64(max(said, 0))]
	for turn := range turns {
		role, separator := "agent", ", "
		if turn%2 == 1 {
			role = "user"
		}
		if turn == 0 {
			separator = ""
		}
		size := len(text) / (turns - turn)
		b = fmt.Appendf(b, `%s{"role": "%s", "message": "Заявка %010d, %s", "tool_calls": [], "tool_results": [], "feedback": null, "time_in_call_secs": %d, "interrupted": false}`,
			separator, role, n, whole(text[:size]), 10+7*turn)
		text = text[size:]
	}
	return append(b, `], "metadata": {"start_time_unix_secs": 1795000000, "call_duration_secs": 89, "cost": 578, "main_language": "ru", `+
		`"phone_call": {"direction": "inbound", "agent_number": "+74950000101", "external_number": "+79990000011", "type": "sip_trunking"}, `+
		`"termination_reason": "end_call tool was called."}, "analysis": {"call_successful": "success", "transcript_summary": "Разговор о квартире.", `+
		`"evaluation_criteria_results": {}, "data_collection_results": {}}, "conversation_initiation_client_data": {"dynamic_variables": {}}, `+
		`"has_audio": true, "has_user_audio": true, "has_response_audio": true}}`...)
}

// Said is the digest of all that is said in the n-th transcript, in the order
// of the call: SaidSQL computes the same in the database.
func (c *Calls) Said(n uint64) [sha256.Size]byte {
	digest := sha256.New()
	body := c.Transcript(n)
	for {
		const before, after = `"message": "`, `", "tool_calls"`
		from := bytes.Index(body, []byte(before))
		if from < 0 {
			return [sha256.Size]byte(digest.Sum(nil))
		}
		body = body[from+len(before):]
		to := bytes.Index(body, []byte(after))
		_, _ = digest.Write(body[:to])
		body = body[to:]
	}
}

// SaidSQL is Said in SQL, of a row of webhook_events.
const SaidSQL = `sha256(convert_to((
	select string_agg(turn ->> 'message', '' order by place)
	from jsonb_array_elements(payload -> 'data' -> 'transcript') with ordinality as t (turn, place)), 'UTF8'))`

// Audio is a post_call_audio delivery whose audio is of so many bytes once it
// is decoded. Its parts are read one after the other; none is large, so that
// many such bodies at once do not fill the sender's memory.
func (c *Calls) Audio(n uint64, size int) (parts [][]byte) {
	const chunk = 3 << 18 // a multiple of 3: encoded by itself it can be put together
	block := make([]byte, chunk)
	random := rand.NewChaCha8(sha256.Sum256(strconv.AppendUint(nil, c.seed+n, 10)))
	_, _ = random.Read(block)
	encoded := base64.StdEncoding.AppendEncode(nil, block)
	copy(block, "ID3\x04") // it begins as an MP3 file does
	first := base64.StdEncoding.AppendEncode(nil, block)
	parts = append(parts, fmt.Appendf(nil, `{"type": "post_call_audio", "event_timestamp": %d, "data": {"agent_id": "agent_7101k9bench0000000000000ru01", `+
		`"conversation_id": "%s", "full_audio": "`, timestamp(n), c.ID(n)))
	for left := size; left > 0; left -= chunk {
		part := encoded
		if left == size {
			part = first
		}
		if left < chunk {
			part = base64.StdEncoding.AppendEncode(nil, block[:left])
		}
		parts = append(parts, part)
	}
	return append(parts, []byte(`"}}`))
}

// SignParts makes the signature of a body that is in parts.
func SignParts(secret string, t time.Time, parts [][]byte) string {
	signed := strconv.FormatInt(t.Unix(), 10)
	mac := hmac.New(sha256.New, []byte(secret))
	_, _ = io.WriteString(mac, signed+".")
	for _, part := range parts {
		_, _ = mac.Write(part)
	}
	return "t=" + signed + ",v0=" + hex.EncodeToString(mac.Sum(nil))
}

// Sign makes the signature that a delivery is sent with now.
func Sign(body []byte) string { return elevenlabs.Sign(Secret, time.Now(), body) }

func timestamp(n uint64) uint64 { return 1795000000 + n%86400 }

// mix spreads a number over all 64 bits (splitmix64).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
