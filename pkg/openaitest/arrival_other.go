//go:build !linux

package openaitest

import (
	"context"
	"net"
	"testing"
)

// listen listens on a local port.
func listen(tb testing.TB) net.Listener {
	tb.Helper()
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatalf("listening: %v", err)
	}
	return l
}
