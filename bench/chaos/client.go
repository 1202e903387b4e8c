package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"postcall/pkg/elevenlabs"
)

// client posts deliveries as a sender without retries does. What it does not
// see answered with 200 is not acknowledged, whatever became of it.
type client struct {
	http *http.Client
	url  string

	mu      sync.Mutex
	answers map[string]int // how deliveries were answered, in words
}

func newClient(url string) *client {
	return &client{
		url: url, answers: map[string]int{},
		http: &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 256}},
	}
}

// answer is what came back for a delivery.
type answer struct {
	status    int // 0 for nothing
	spooled   bool
	duplicate bool
	took      time.Duration
}

func (a answer) acknowledged() bool { return a.status == http.StatusOK }

// post sends a body once. From is the sender's address if it shall be another.
func (c *client) post(ctx context.Context, body []byte, signature, from string) answer {
	began := time.Now()
	a, word := c.exchange(ctx, body, signature, from)
	a.took = time.Since(began)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answers[word]++
	return a
}

func (c *client) exchange(ctx context.Context, body []byte, signature, from string) (a answer, word string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(body))
	if err != nil {
		return a, err.Error()
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set(elevenlabs.SignatureHeader, signature)
	if from != "" {
		req.Header.Set("X-Forwarded-For", from)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return a, failure(err)
	}
	defer resp.Body.Close() //nolint:errcheck // it was read
	text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return a, failure(err)
	}
	var fields struct {
		Status    string `json:"status"`
		Spooled   bool   `json:"spooled"`
		Duplicate bool   `json:"duplicate"`
	}
	err = json.Unmarshal(text, &fields)
	if resp.StatusCode == http.StatusOK && (err != nil || fields.Status != "ok") {
		return a, "200 that is no answer of ingest's"
	}
	return answer{status: resp.StatusCode, spooled: fields.Spooled, duplicate: fields.Duplicate}, strconv.Itoa(resp.StatusCode)
}

// failure names the ways in which there was no answer.
func failure(err error) string {
	var timeout net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "connection reset"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed),
		strings.Contains(err.Error(), "server closed idle connection"): // net/http does not export it
		return "connection closed"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "no answer in time"
	default:
		return "another failure: " + err.Error()
	}
}
