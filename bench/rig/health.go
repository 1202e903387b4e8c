package rig

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"time"
)

// Health is what ingest says of itself at /health/ready.
type Health struct {
	Database string `json:"database"`
	Spool    *struct {
		Entries int64 `json:"entries"`
		Bytes   int64 `json:"bytes"`
	} `json:"spool"` // nil when it says nothing of a spool
}

// Drained reports whether nothing waits in the spool.
func (h Health) Drained() bool { return h.Spool == nil || h.Spool.Entries == 0 && h.Spool.Bytes == 0 }

// Health asks ingest; ok is false when it is not ready. One without that page
// has no spool either.
func (i *Ingest) Health(ctx context.Context) (h Health, ok bool) {
	switch status, body := i.get(ctx, "/health/ready"); status {
	case http.StatusOK:
		return h, json.Unmarshal(body, &h) == nil
	case http.StatusNotFound:
		return h, true
	default:
		return h, false
	}
}

// get reads a page of ingest's; the status is 0 when there is no answer.
func (i *Ingest) get(ctx context.Context, path string) (status int, body []byte) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+i.Address+path, nil)
	if err != nil {
		return 0, nil
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil
	}
	defer resp.Body.Close() //nolint:errcheck // it was read
	body, err = io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return 0, nil
	}
	return resp.StatusCode, body
}
