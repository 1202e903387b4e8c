package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

// debugAddress is a free one for METRICS_ADDR.
func debugAddress(ctx context.Context) (string, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("looking for a free port: %w", err)
	}
	return l.Addr().String(), l.Close()
}

// profile has ingest profile itself, where Go's own handler would be, and says
// what came of it. A profile that is not offered stops nothing.
func profile(ctx context.Context, address string, d time.Duration, path string) string {
	b, err := fetchProfile(ctx, fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", address, int(d.Seconds())))
	if err == nil {
		err = os.WriteFile(path, b, 0o600)
	}
	if err != nil {
		return "no profile: " + err.Error()
	}
	return "the last round of a was profiled, which slows it: go tool pprof -top " + path
}

func fetchProfile(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // it was read
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("ingest offers none at /debug/pprof of METRICS_ADDR (%s)", resp.Status)
	}
	return io.ReadAll(resp.Body)
}
