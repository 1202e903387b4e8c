// Package archive reads what is kept: lists of calls by filters that combine,
// full-text search, single calls with all that belongs to them, figures, and
// exports. The REST API and the dashboard both read through it.
//
// It reads the table calls, which triggers keep in step (migration 00006), and
// webhook_events for what still waits there. Nothing of it costs more with the
// size of the archive: see List.
package archive

import (
	"encoding/json"
	"time"

	"postcall/pkg/call"
)

// Filter says which events are meant. Conditions combine: an event meets all of
// them; of a list it meets any. The zero value means every event. Copies that
// the Node service stored of an event are never meant.
type Filter struct {
	Types          []call.EventType
	AgentIDs       []string
	ConversationID string
	States         []call.State
	// From and To bound when the event was received: at From or later, before
	// To. Zero is unbounded.
	From, To time.Time
	// HasAudio is the sender's word on the recording of the call; audio comes as
	// an event of its own.
	HasAudio *bool
	// FailureReason is why a dial failed: busy, no-answer, unknown.
	FailureReason string

	// What follows is the newest analysis's, so that events without one are left
	// out. Topic, Intent, Outcome and ClientName are words in any form, all of
	// which the text must have.
	Qualities    []int // 1 to 5
	OutcomeCodes []call.OutcomeCode
	Sentiments   []call.Sentiment
	Topic        string
	Intent       string
	Outcome      string
	ClientName   string

	// Phone is the customer's number, as the analysis or the telephony has it:
	// its last 4, its last 7, or all of its digits.
	Phone string
	// Query is looked for in the transcript and the analysis, in any form of its
	// Russian and English words: all the words, "a phrase", -without, or. Events
	// that wait for their analysis are not found by it.
	Query string
}

// Sort is an order of a list.
type Sort string

// The orders. By quality, calls without one are left out, and among equals the
// newest come first.
const (
	Newest Sort = "-received_at"
	Oldest Sort = "received_at"
	Best   Sort = "-quality"
	Worst  Sort = "quality"
)

// Sorts lists every order.
func Sorts() []Sort { return []Sort{Newest, Oldest, Best, Worst} }

// MaxLimit is the most that a page holds, and MaxOffset how far a page may be
// asked for by its number: further on, cursors lead as fast as to the first.
const (
	MaxLimit     = 100
	DefaultLimit = 50
	MaxOffset    = 5_000
	// DefaultPatience is short, so that programs are answered fast and go on.
	DefaultPatience = 20 * time.Millisecond
)

// Query asks for a page of a list.
type Query struct {
	Filter Filter
	Sort   Sort // empty means Newest
	Limit  int  // 1 to MaxLimit; 0 means DefaultLimit
	// After is where the page before ended, in a list with the same Filter and
	// Sort: Page.Next of it. Rows that arrive meanwhile move nothing.
	After Cursor
	// Patience is how long a page is looked for where every match must be looked
	// at, as for a phrase; 0 means DefaultPatience. Then the page ends early.
	Patience time.Duration
	// Offset is how many to pass over, up to MaxOffset; not together with After.
	Offset int
}

// Page is a part of a list. It may hold fewer rows than were asked for, even
// none, while there is a Next: see LookedTo.
type Page struct {
	Items []Item
	Next  Cursor // empty at the end
	Total Total
	// LookedTo is how far a search has looked that takes long, as one for a
	// phrase does: Next goes on from there. Zero where the page is full or the
	// last one.
	LookedTo time.Time
}

// Total is how many events a filter meets. Exact ones are counted; the others
// are the database's estimate from its statistics, which may be far off where
// conditions depend on one another. It is made for the first page and stays on
// the ones behind it.
type Total struct {
	Count int64 `json:"count"`
	Exact bool  `json:"exact"`
}

// MaxExact is how far events are counted one by one.
const MaxExact = 2_000

// Item is an event as a list shows it. Empty texts and nil stand for what is
// not known.
type Item struct {
	ID             int64          `json:"id"`
	EventType      call.EventType `json:"event_type"`
	EventTimestamp int64          `json:"event_timestamp"` // unix seconds, the sender's
	AgentID        *string        `json:"agent_id"`
	ConversationID *string        `json:"conversation_id"`
	Status         *string        `json:"status"`
	HasAudio       *bool          `json:"has_audio"`
	ReceivedAt     *time.Time     `json:"received_at"` // nil on a few rows of the Node service
	Source         call.Source    `json:"source"`
	Deliveries     int            `json:"deliveries"`
	State          call.State     `json:"analysis_state"`
	ProcessorNote  *string        `json:"processor_note"`
	FailureCode    *string        `json:"failure_code"`   // of the analysis
	FailureReason  *string        `json:"failure_reason"` // of the dial
	DurationS      *float64       `json:"duration_s"`
	Analysis       *Brief         `json:"analysis"` // nil without one
}

// Brief is the newest analysis of an event in short. The texts of the Node
// service's analyses may be of any length.
type Brief struct {
	ID                 int64             `json:"id"`
	Analyzer           *string           `json:"analyzer"`
	Model              *string           `json:"model"`
	CreatedAt          *time.Time        `json:"created_at"`
	Topic              *string           `json:"topic"`
	Intent             *string           `json:"intent"`
	Quality            *int              `json:"quality"`
	Outcome            *string           `json:"outcome"`
	OutcomeCode        *call.OutcomeCode `json:"outcome_code"`
	Sentiment          *call.Sentiment   `json:"sentiment"`
	Summary            *string           `json:"summary_ru"`
	ClientName         *string           `json:"client_name"`
	Phone              *string           `json:"phone"`
	InjectionSuspected bool              `json:"injection_suspected"`
	CostUSD            *float64          `json:"cost_usd"`
}

// Record is all that is kept of one event.
type Record struct {
	Event      EventRow   `json:"event"`
	Analyses   []Analysis `json:"analyses"`   // the newest first
	Dispatches []Dispatch `json:"dispatches"` // the newest first
	Jobs       []Job      `json:"jobs"`       // the newest first
	Audio      []Audio    `json:"audio"`      // of the whole call, whichever event it came with
	// Others are the other events of the same call.
	Others []Related `json:"same_call"`
}

// EventRow is a row of webhook_events, without its raw body.
type EventRow struct {
	ID                 int64           `json:"id"`
	EventType          call.EventType  `json:"event_type"`
	EventTimestamp     int64           `json:"event_timestamp"`
	AgentID            *string         `json:"agent_id"`
	ConversationID     *string         `json:"conversation_id"`
	Status             *string         `json:"status"`
	HasAudio           *bool           `json:"has_audio"`
	HasUserAudio       *bool           `json:"has_user_audio"`
	HasResponseAudio   *bool           `json:"has_response_audio"`
	Processed          *bool           `json:"processed"`
	ProcessedAt        *time.Time      `json:"processed_at"`
	ProcessorNote      *string         `json:"processor_note"`
	ReceivedAt         *time.Time      `json:"received_at"`
	EventID            *string         `json:"event_id"` // the sender's own
	Deliveries         int             `json:"deliveries"`
	LastDeliveredAt    *time.Time      `json:"last_delivered_at"`
	RequestID          *string         `json:"request_id"`
	Source             call.Source     `json:"source"`
	State              call.State      `json:"analysis_state"`
	DuplicateOf        *int64          `json:"duplicate_of"`
	FailureCode        *string         `json:"failure_code"`
	FailureFingerprint *string         `json:"failure_fingerprint"`
	FailedAt           *time.Time      `json:"failed_at"`
	Metrics            json.RawMessage `json:"metrics"` // call.Metrics
	// Payload is nil where it is longer than MaxPayload; PayloadBytes tells its
	// length as text.
	Payload      json.RawMessage `json:"payload"`
	PayloadBytes int64           `json:"payload_bytes"`
}

// MaxPayload is the longest payload that is read with its event, in bytes.
const MaxPayload = 4 << 20

// Analysis is a row of analyses. Result is as it is stored: call.Result, or
// whatever the Node service's model said, or null.
type Analysis struct {
	ID            int64           `json:"id"`
	EventID       int64           `json:"event_id"`
	Model         *string         `json:"model"`
	Analyzer      *string         `json:"analyzer"`
	PromptVersion *string         `json:"prompt_version"`
	Trigger       *string         `json:"trigger"`
	Result        json.RawMessage `json:"result"`
	TokensIn      *int64          `json:"tokens_in"`
	TokensCached  *int64          `json:"tokens_cached"`
	TokensOut     *int64          `json:"tokens_out"`
	CostUSD       *float64        `json:"cost_usd"`
	DurationMS    *int64          `json:"duration_ms"`
	RequestID     *string         `json:"request_id"`
	CreatedAt     *time.Time      `json:"created_at"`
	// Counts: this is the one that lists, searches and figures go by.
	Counts bool `json:"counts"`
}

// Dispatch is a row of crm_dispatches.
type Dispatch struct {
	ID         int64           `json:"id"`
	EventID    int64           `json:"event_id"`
	AnalysisID *int64          `json:"analysis_id"`
	Target     call.Target     `json:"target"`
	Status     *string         `json:"status"`
	Attempt    *int            `json:"attempt"`
	HTTPStatus *int            `json:"http_status"`
	Payload    json.RawMessage `json:"payload"`
	Response   *string         `json:"response_text"`
	CreatedAt  *time.Time      `json:"created_at"`
}

// Job is what River has of an event's analysis or of handing its results over.
// Finished jobs are there for an hour, given-up ones until somebody acts.
type Job struct {
	ID          int64      `json:"id"`
	Kind        string     `json:"kind"`
	Queue       string     `json:"queue"`
	State       string     `json:"state"`
	Attempt     int        `json:"attempt"`
	MaxAttempts int        `json:"max_attempts"`
	AnalysisID  *int64     `json:"analysis_id"`
	CreatedAt   time.Time  `json:"created_at"`
	ScheduledAt time.Time  `json:"scheduled_at"`
	AttemptedAt *time.Time `json:"attempted_at"`
	FinalizedAt *time.Time `json:"finalized_at"`
	LastError   *string    `json:"last_error"`
}

// Audio is a recording in the audio store, played at events/:id/audio?kind=.
type Audio struct {
	EventID     int64     `json:"event_id"`
	Kind        string    `json:"kind"`
	ContentType string    `json:"content_type"`
	Bytes       int64     `json:"bytes"`
	CreatedAt   time.Time `json:"created_at"`
}

// Related is another event of the same call.
type Related struct {
	ID         int64          `json:"id"`
	EventType  call.EventType `json:"event_type"`
	State      call.State     `json:"analysis_state"`
	ReceivedAt *time.Time     `json:"received_at"`
}
