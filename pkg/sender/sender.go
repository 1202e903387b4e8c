// Package sender posts deliveries the way ElevenLabs does: signed, as JSON,
// over HTTP. It is what `postcall send`, the demo and the tests use.
package sender

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"postcall/pkg/elevenlabs"
)

// Sender posts to one address with one secret.
type Sender struct {
	URL    string // the whole address, the path included
	Secret string
	Client *http.Client
}

// Answer is what the receiver said.
type Answer struct {
	Status    int // HTTP
	EventID   int64
	Duplicate bool
	Detail    string // of a refusal
	RequestID string
	Took      time.Duration
}

// Verdict is the answer in a word: kept, duplicate, rejected or failed.
func (a Answer) Verdict() string {
	switch {
	case a.Status == http.StatusOK && a.Duplicate:
		return "duplicate"
	case a.Status == http.StatusOK:
		return "kept"
	case a.Status < http.StatusInternalServerError:
		return "rejected"
	default:
		return "failed"
	}
}

// Send signs a body with the current time and posts it. An answer of any
// status is no error; none at all is one.
func (s *Sender) Send(ctx context.Context, body []byte) (Answer, error) {
	return s.post(ctx, body, elevenlabs.Sign(s.Secret, time.Now(), body))
}

// SendSigned posts a body under a signature that may be anything.
func (s *Sender) SendSigned(ctx context.Context, body []byte, signature string) (Answer, error) {
	return s.post(ctx, body, signature)
}

func (s *Sender) post(ctx context.Context, body []byte, signature string) (Answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL, bytes.NewReader(body))
	if err != nil {
		return Answer{}, fmt.Errorf("making the request: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set(elevenlabs.SignatureHeader, signature)
	began := time.Now()
	resp, err := s.Client.Do(req)
	if err != nil {
		return Answer{}, fmt.Errorf("posting the delivery: %w", err)
	}
	defer resp.Body.Close() //nolint:errcheck // the body has been read
	a := Answer{Status: resp.StatusCode, RequestID: resp.Header.Get("X-Request-ID")}
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return a, fmt.Errorf("reading the answer: %w", err)
	}
	a.Took = time.Since(began)
	var fields struct {
		EventID   int64  `json:"event_id"`
		Duplicate bool   `json:"duplicate"`
		Detail    string `json:"detail"`
	}
	if err := json.Unmarshal(answer, &fields); err != nil {
		a.Detail = "the answer is not JSON; is this Postcall's address?"
		if a.Status == http.StatusOK {
			return a, fmt.Errorf("reading the answer: %w", err)
		}
		return a, nil
	}
	a.EventID, a.Duplicate, a.Detail = fields.EventID, fields.Duplicate, fields.Detail
	return a, nil
}
