package openaitest

import (
	"bytes"
	"net/http"
	"strconv"
)

// Reset breaks the connection off without an answer, as a firewall or a
// crashed server does: the client is told "connection reset".
func Reset() Reply {
	return func(x Exchange) {
		conn, _, err := http.NewResponseController(x.w).Hijack()
		if err != nil {
			panic(err) // HTTP/1.1 without TLS always can
		}
		if tcp, ok := conn.(interface{ SetLinger(sec int) error }); ok {
			_ = tcp.SetLinger(0) // what is unsent is dropped, and RST goes out for FIN
		}
		_ = conn.Close()
	}
}

// Truncated sends a good status and half of a good answer, then closes the
// connection.
func Truncated() Reply {
	return func(x Exchange) {
		body := []byte(encode(x.completion("stop", encode(AnswerTo(x.Request)), "")))
		conn, _, err := http.NewResponseController(x.w).Hijack()
		if err != nil {
			panic(err) // HTTP/1.1 without TLS always can
		}
		var b bytes.Buffer
		b.WriteString("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n")
		b.Write(body[:len(body)/2])
		_, _ = conn.Write(b.Bytes())
		_ = conn.Close()
	}
}
