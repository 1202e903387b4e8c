package rig

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"postcall/pkg/elevenlabs"
)

// answerTimeout bounds an exchange on a Conn.
const answerTimeout = 30 * time.Second

// Conn is one keep-alive connection to ingest. It does the least that HTTP
// asks for: the sender shares the machine's cores with what it measures, and
// net/http's client takes several times as much of them.
type Conn struct {
	conn   net.Conn
	answer *bufio.Reader
	out    []byte
}

// Dial connects to host:port.
func Dial(ctx context.Context, address string) (*Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("connecting to ingest: %w", err)
	}
	return &Conn{conn: conn, answer: bufio.NewReaderSize(conn, 4<<10)}, nil
}

// Close ends the connection.
func (c *Conn) Close() error { return c.conn.Close() }

// Deliver posts a body and returns the answer. After an error the connection
// is of no more use.
func (c *Conn) Deliver(body []byte, signature string) (status int, answer []byte, err error) {
	c.out = fmt.Appendf(c.out[:0], "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\n%s: %s\r\nContent-Length: %d\r\n\r\n",
		Path, c.conn.RemoteAddr(), elevenlabs.SignatureHeader, signature, len(body))
	c.out = append(c.out, body...)
	if err := c.conn.SetDeadline(time.Now().Add(answerTimeout)); err != nil {
		return 0, nil, err
	}
	if _, err := c.conn.Write(c.out); err != nil {
		return 0, nil, fmt.Errorf("sending a delivery: %w", err)
	}
	resp, err := http.ReadResponse(c.answer, nil)
	if err != nil {
		return 0, nil, fmt.Errorf("reading an answer: %w", err)
	}
	defer resp.Body.Close() //nolint:errcheck // it has been read
	answer, err = io.ReadAll(resp.Body)
	if err == nil && resp.Close {
		err = io.EOF
	}
	return resp.StatusCode, answer, err
}
