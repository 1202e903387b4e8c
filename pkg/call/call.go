// Package call is Postcall's domain: a delivery that was kept (Event), what
// was said in it (Conversation), and what an analyser made of that (Analysis).
//
// It imports nothing but the standard library; every adapter (the ElevenLabs
// wire, PostgreSQL, the analysers, the exporters) speaks in its terms.
package call

import (
	"encoding/json"
	"time"
)

// EventType is ElevenLabs' name of what happened. The list is open: a type
// that nobody has documented yet is kept like the others.
type EventType string

// The event types that Postcall itself tells apart.
const (
	TypeTranscription     EventType = "post_call_transcription"
	TypeTranscriptionOTel EventType = "post_call_transcription_otel"
	TypeAudio             EventType = "post_call_audio"
	TypeInitiationFailure EventType = "call_initiation_failure"

	// TypeUnknown is stored for a JSON body that names no type.
	TypeUnknown EventType = "unknown"
	// TypeUnparseable is stored for a signed body that is not JSON.
	TypeUnparseable EventType = "unparseable"
)

// Analysable reports whether events of this type carry a conversation that an
// analyser can read.
func (t EventType) Analysable() bool {
	return t == TypeTranscription || t == TypeTranscriptionOTel
}

// Source says by which way an event came in.
type Source string

// The ways an event comes in.
const (
	SourceWebhook Source = "webhook"
	SourceSpool   Source = "spool"
	SourceImport  Source = "import"
	SourceManual  Source = "manual"
)

// State is where an event's analysis stands.
type State string

// The states of an analysis. A dead one has run out of attempts and waits for
// a person.
const (
	StateNone    State = "none"
	StateQueued  State = "queued"
	StateRunning State = "running"
	StateDone    State = "done"
	StateSkipped State = "skipped"
	StateDead    State = "dead"
)

// Event is one delivery as it is kept: a row of webhook_events. Empty strings
// and nil pointers stand for NULL.
type Event struct {
	ID             int64
	Type           EventType
	Timestamp      int64 // unix seconds, the sender's
	AgentID        string
	ConversationID string
	Status         string

	// The audio flags are nil when the body does not carry them, which is not
	// the same as false.
	HasAudio         *bool
	HasUserAudio     *bool
	HasResponseAudio *bool

	// Payload is the body as PostgreSQL's jsonb can hold it; RawBody is the
	// exact body where the two differ, otherwise nil.
	Payload json.RawMessage
	RawBody []byte

	// Audio is what was taken out of the payload into the audio store.
	Audio []Audio

	// EventID is the sender's own id of the event (older integrations only).
	EventID string
	// DedupKey is the identity of the event: see elevenlabs.Parse.
	DedupKey string

	Source    Source
	RequestID string
	// Secret is the position of the secret that the delivery was signed with,
	// counted from 1; 0 for what came without a signature.
	Secret int

	State         State
	Processed     bool
	ProcessorNote string
	ReceivedAt    time.Time
}

// Audio is a recording in the audio store: a row of call_audio.
type Audio struct {
	Kind        string // the payload's key that it came under, such as full_audio
	Key         string // of the object in the store
	ContentType string
	Bytes       int64
	SHA256      [32]byte
}

// Role is who speaks in a turn.
type Role string

// The two roles of ElevenLabs' transcripts.
const (
	RoleUser  Role = "user"
	RoleAgent Role = "agent"
)

// WaitsForImport ends the note of a skipped event whose call may have a
// transcript that the event does not carry.
const WaitsForImport = "; waiting for the import of the call"

// Conversation is what was said in a call and what ElevenLabs says of it, read
// from an event's payload. Everything in it came from outside and is hostile
// until shown otherwise.
type Conversation struct {
	ID        string
	AgentID   string
	AgentName string
	Status    string // initiated, in-progress, processing, done, failed

	Turns []Turn
	// TurnsMissing says why Turns is empty where the reason is known, for
	// example because the sender left the transcript out.
	TurnsMissing string
	// Incomplete says that the call may have a transcript which this event does
	// not carry: importing the call brings it.
	Incomplete bool

	StartedAt   time.Time     // zero when unknown
	Duration    time.Duration // 0 when unknown
	CostCredits float64       // ElevenLabs' credits
	CostUSD     *float64      // nil when not told
	Language    string        // ISO 639-1, ElevenLabs' main_language

	Direction      string // inbound, outbound
	AgentNumber    string
	ExternalNumber string // the customer's number, from the telephony
	// KnownName is the customer's name as the agent's own variables give it.
	KnownName string

	TerminationReason string
	Error             string // ElevenLabs' own error text, if the call broke

	// ElevenLabs' own analysis of the call.
	Title      string
	Summary    string
	Successful string // success, failure, unknown; empty when absent
	Criteria   []Criterion
	Collected  []DataPoint
}

// Spoken reports whether a person said anything: only then is there something
// to analyse.
func (c *Conversation) Spoken() bool {
	for _, t := range c.Turns {
		if t.Role == RoleUser && t.Text != "" {
			return true
		}
	}
	return false
}

// Turn is one entry of a transcript. Index is its place in the sender's list,
// counted from 0; quotes refer to it.
type Turn struct {
	Index       int
	Role        Role
	Text        string // empty on turns that only carry tool traffic
	At          *time.Duration
	Interrupted bool
	ToolCalls   []ToolCall
	ToolResults []ToolResult
	// Latency is the time to the first byte of the language model's answer
	// (conversation_turn_metrics.convai_llm_service_ttfb), nil when not told.
	Latency *time.Duration
}

// ToolCall is a call that the voice agent made during the conversation.
type ToolCall struct {
	Name   string
	Params string // JSON text as sent
}

// ToolResult is what a tool answered.
type ToolResult struct {
	Name    string
	Value   string
	IsError bool
	Latency *time.Duration
}

// Criterion is one of ElevenLabs' evaluation criteria with its verdict.
type Criterion struct {
	ID        string
	Result    string // success, failure, unknown
	Rationale string
}

// DataPoint is one value that ElevenLabs collected from the conversation.
// Value is the JSON value as text without quotes; nil when it is null or was
// not mentioned.
type DataPoint struct {
	ID    string
	Value *string
}
