package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"postcall/bench/rig"
	"postcall/pkg/elevenlabs"
)

// Audio is the measurement of large bodies.
type Audio struct {
	Bodies    int     `json:"bodies"`
	Failed    int     `json:"failed"` // of them
	BodyMiB   float64 `json:"body_mib"`
	Seconds   float64 `json:"seconds"` // until the last one was answered
	PerSecond float64 `json:"mib_per_second"`
	PeakMiB   float64 `json:"peak_mib"`
}

// audio is part d: large bodies at once to a process that has done nothing
// else.
func (b *bench) audio(ctx context.Context) (err error) {
	b.step(fmt.Sprintf("%d bodies of audio", b.bodies))
	r, err := b.start(ctx, "audio")
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, r.Stop())
		if err == nil {
			err = b.postgres.Drop(ctx, r.database)
		}
	}()
	client := &http.Client{Timeout: 2 * time.Minute}
	defer client.CloseIdleConnections()
	began := time.Now()
	failures := make(chan error, b.bodies)
	for range b.bodies {
		b.next++
		n := b.next
		go func() { failures <- b.sendAudio(ctx, client, r, n) }()
	}
	a := &Audio{Bodies: b.bodies, BodyMiB: mib(audioBytes)}
	for range b.bodies {
		if err := <-failures; err != nil {
			if a.Failed++; a.Failed == 1 {
				b.report.Notes = append(b.report.Notes, "the first failure of audio: "+err.Error())
			}
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	a.Seconds, a.PeakMiB = time.Since(began).Seconds(), mib(rig.PeakMemory(r.Pid()))
	a.PerSecond = float64(a.Bodies) * a.BodyMiB / a.Seconds
	b.report.Audio = a
	return nil
}

func (b *bench) sendAudio(ctx context.Context, client *http.Client, r *receiver, n uint64) error {
	parts := b.calls.Audio(n, base64.StdEncoding.DecodedLen(audioBytes))
	readers, size := make([]io.Reader, len(parts)), 0
	for i, part := range parts {
		readers[i] = bytes.NewReader(part)
		size += len(part)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.URL(), io.MultiReader(readers...))
	if err != nil {
		return err
	}
	req.ContentLength = int64(size)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set(elevenlabs.SignatureHeader, rig.SignParts(rig.Secret, time.Now(), parts))
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("sending audio: %w", err)
	}
	defer resp.Body.Close() //nolint:errcheck // it was read
	text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return fmt.Errorf("sending audio: %w", err)
	}
	if resp.StatusCode != http.StatusOK || bytes.Contains(text, []byte(`"spooled":true`)) {
		return fmt.Errorf("audio was answered %s: %s", resp.Status, bytes.TrimSpace(text))
	}
	return nil
}
