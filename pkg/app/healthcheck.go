package app

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	"postcall/pkg/call"
	"postcall/pkg/config"
)

// healthTimeout bounds a health check; what runs it has a bound of its own.
const healthTimeout = 4 * time.Second

// ingestHealth asks the ingest of the same environment whether it takes
// deliveries. A container without a shell has nothing else to ask with.
func ingestHealth(ctx context.Context) error {
	c, err := config.LoadIngest(ctx, config.Environment())
	if err != nil {
		return err
	}
	return healthy(ctx, net.JoinHostPort(c.BindAddr, strconv.Itoa(c.Port)))
}

// workerHealth asks the worker of the same environment whether it reaches its
// database. It answers on METRICS_ADDR, the only place that it listens on.
func workerHealth(ctx context.Context) error {
	c, err := config.LoadWorker(ctx, config.Environment())
	if err != nil {
		return err
	}
	if c.MetricsAddr == "" {
		return call.Errorf(call.Invalid, "METRICS_ADDR is not set: a worker is asked there")
	}
	return healthy(ctx, c.MetricsAddr)
}

func healthy(ctx context.Context, address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("asking the process: %w", err)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, port)+"/health/ready", nil)
	if err != nil {
		return fmt.Errorf("asking the process: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("it does not answer: %w", err)
	}
	defer resp.Body.Close() //nolint:errcheck // nothing of it is read
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("it is not ready: it answers %d", resp.StatusCode)
	}
	return nil
}
