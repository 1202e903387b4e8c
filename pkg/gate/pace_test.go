package gate_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/labstack/echo/v4"

	"postcall/pkg/gate"
)

// server is a real one with time-outs that are too short for a large body;
// take is what it does with each body.
func server(pace gate.Pace, take func(r *http.Request, body io.Reader) error) *http.Server {
	return &http.Server{
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 20 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: time.Hour,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			err := take(r, pace.Reader(http.NewResponseController(w), r.Body))
			if slow, ok := errors.AsType[*gate.SlowError](err); ok {
				http.Error(w, slow.Error(), http.StatusRequestTimeout)
			} else if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
			}
		}),
	}
}

func discard(_ *http.Request, body io.Reader) error {
	_, err := io.Copy(io.Discard, body)
	return err
}

// pipes is a listener without a network, so that a test's clock moves by
// itself.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func (p pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p pipes) Close() error   { close(p.done); return nil }
func (p pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "pipe"} }

// dial serves s on a pipe for as long as the test runs.
func dial(t *testing.T, s *http.Server) (net.Conn, *bufio.Reader) {
	t.Helper()
	p := pipes{make(chan net.Conn), make(chan struct{})}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(p) }()
	client, conn := net.Pipe()
	p.conns <- conn
	t.Cleanup(func() {
		_ = client.Close()
		if err := errors.Join(s.Close(), <-ended); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
		time.Sleep(time.Minute) // on the test's clock: a connection that was cut off lingers
	})
	return client, bufio.NewReader(client)
}

func begin(t *testing.T, w io.Writer, length int) {
	t.Helper()
	if _, err := fmt.Fprintf(w, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", length); err != nil {
		t.Fatal(err)
	}
}

func status(t *testing.T, r *bufio.Reader) int {
	t.Helper()
	answer, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode
}

// A sender writes pieces of some bytes with pauses between them, until it is
// answered.
func TestPace(t *testing.T) {
	t.Parallel()
	const kib, mib = 1 << 10, 1 << 20
	tests := []struct {
		name   string
		length int
		piece  int
		pause  time.Duration
		status int
		from   time.Duration // the answer comes between these
		to     time.Duration
	}{
		{"at once", 14 * kib, 14 * kib, 0, 200, 0, 0},
		{"150 MB on a fair line", 150_000_000, 200_000, time.Second, 200, 749 * time.Second, 750 * time.Second},
		{"slow, yet above the rate", 90 * kib, 9 * kib, time.Second, 200, 9 * time.Second, 9 * time.Second},
		{"small and slow within the grace", 9, 1, time.Second, 200, 8 * time.Second, 8 * time.Second},
		{"a trickle", mib, 1, time.Second, 408, 10 * time.Second, 10 * time.Second},
		{"nothing at all", mib, 0, time.Hour, 408, 10 * time.Second, 10 * time.Second},
		{"a stall in the middle", 2 * mib, mib, time.Hour, 408, 8750 * time.Millisecond, 10 * time.Second},
		{"pauses just short of a stall", 4 * mib, mib, 8 * time.Second, 200, 24 * time.Second, 24 * time.Second},
		{"fallen behind the rate", 4 * mib, 30 * kib, 4 * time.Second, 408, 11250 * time.Millisecond, 11250 * time.Millisecond},
		{"for ever, at the least rate", 256 * mib, 9 * kib, time.Second, 408, 15 * time.Minute, 15 * time.Minute},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				conn, answer := dial(t, server(gate.DefaultPace, discard))
				begin(t, conn, tt.length)
				began := time.Now()
				stop := make(chan struct{})
				gone := make(chan struct{})
				go func() {
					defer close(gone)
					piece := make([]byte, tt.piece)
					for sent := 0; sent < tt.length; sent += len(piece) {
						if _, err := conn.Write(piece[:min(len(piece), tt.length-sent)]); err != nil {
							return // cut off
						}
						select {
						case <-stop:
							return
						case <-time.After(tt.pause):
						}
					}
				}()
				got := status(t, answer)
				took := time.Since(began)
				close(stop)
				_ = conn.Close()
				<-gone
				if got != tt.status || took < tt.from || took > tt.to {
					t.Errorf("%d after %v, want %d after %v to %v", got, took, tt.status, tt.from, tt.to)
				}
			})
		})
	}
}

// What takes long on our side is not the sender's fault: neither between two
// reads nor behind the last one.
func TestPaceOfAPatientSender(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		conn, answer := dial(t, server(gate.DefaultPace, func(r *http.Request, body io.Reader) error {
			if _, err := io.CopyN(io.Discard, body, 100); err != nil {
				return err
			}
			time.Sleep(time.Minute) // a disk that hangs
			if err := discard(r, body); err != nil {
				return err
			}
			time.Sleep(29 * time.Second) // a commit that hangs
			return r.Context().Err()
		}))
		for range 2 { // the connection stays good for the next one
			sent := make(chan error, 1)
			begin(t, conn, 200_000)
			go func() {
				_, err := conn.Write(make([]byte, 200_000))
				sent <- err
			}()
			if got := status(t, answer); got != http.StatusOK {
				t.Errorf("answered %d", got)
			}
			if err := <-sent; err != nil {
				t.Error(err)
			}
		}
	})
}

func TestPaceErrors(t *testing.T) {
	t.Parallel()
	// A recorder has no deadlines: the body is read all the same.
	conn := http.NewResponseController(httptest.NewRecorder())
	all, err := io.ReadAll(gate.DefaultPace.Reader(conn, strings.NewReader("body")))
	if string(all) != "body" || err != nil {
		t.Errorf("%q, %v", all, err)
	}
	// Errors of others pass, and stay.
	limited := http.MaxBytesReader(httptest.NewRecorder(), io.NopCloser(strings.NewReader("body")), 2)
	r := gate.DefaultPace.Reader(conn, limited)
	for range 2 {
		if _, err := io.Copy(io.Discard, r); err == nil {
			t.Error("no error")
		} else if _, ok := errors.AsType[*http.MaxBytesError](err); !ok {
			t.Errorf("%T: %v", err, err)
		}
	}
}

// socket is a real server behind the router, with bounds of milliseconds, and
// what it found of each body.
func socket(t *testing.T) (address string, found <-chan error) {
	t.Helper()
	tiny := gate.Pace{Stall: 40 * time.Millisecond, Grace: 80 * time.Millisecond, Rate: 1 << 20, Total: time.Minute, Answer: 10 * time.Second}
	e := echo.New()
	reports := make(chan error, 1)
	e.POST("/", func(c echo.Context) error {
		err := discard(nil, tiny.Reader(http.NewResponseController(c.Response()), c.Request().Body))
		reports <- err
		if err != nil {
			return c.NoContent(http.StatusRequestTimeout)
		}
		return c.NoContent(http.StatusOK)
	})
	s := httptest.NewServer(e)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String(), reports
}

func TestPaceOnASocket(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name          string
		length, first int
		rest          time.Duration // between the bytes behind the first ones; 0 for none at all
		status        int
	}{
		{"at once", 8 << 20, 8 << 20, 0, http.StatusOK},
		{"stalled", 1000, 300, 0, http.StatusRequestTimeout},
		{"a trickle", 1 << 20, 1, 5 * time.Millisecond, http.StatusRequestTimeout},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			address, found := socket(t)
			conn, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			answer := bufio.NewReader(conn)
			begin(t, conn, tt.length)
			if _, err := conn.Write(make([]byte, tt.first)); err != nil {
				t.Fatal(err)
			}
			gone := make(chan struct{})
			go func() {
				defer close(gone)
				if tt.rest == 0 {
					return
				}
				tick := time.NewTicker(tt.rest)
				defer tick.Stop()
				for range tick.C {
					if _, err := conn.Write([]byte{'.'}); err != nil {
						return
					}
				}
			}()
			if got := status(t, answer); got != tt.status {
				t.Errorf("answered %d, want %d", got, tt.status)
			}
			err = <-found
			if slow, ok := errors.AsType[*gate.SlowError](err); tt.status == http.StatusOK {
				if err != nil {
					t.Error(err)
				}
			} else if !ok || slow.Bytes < int64(tt.first) || slow.Bytes >= int64(tt.length) || slow.After < 35*time.Millisecond {
				t.Errorf("%v", err)
			} else if _, err := answer.ReadByte(); err == nil {
				t.Error("the connection goes on")
			}
			_ = conn.Close()
			<-gone
		})
	}
}

type noDeadlines struct{}

func (noDeadlines) SetReadDeadline(time.Time) error  { return nil }
func (noDeadlines) SetWriteDeadline(time.Time) error { return nil }

func BenchmarkPace(b *testing.B) {
	body := make([]byte, 14<<10)
	buf := make([]byte, 4<<10)
	b.ReportAllocs()
	for b.Loop() {
		r := gate.DefaultPace.Reader(noDeadlines{}, bytes.NewReader(body))
		for {
			if _, err := r.Read(buf); err != nil {
				break
			}
		}
	}
}
