package gate

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

// Pace is how slowly a body may come. A fixed time for the whole body would
// cut a large one off on a fair line or let a trickle last as long; this asks
// for progress.
type Pace struct {
	Stall time.Duration // the longest time without a byte; it may be cut up to an eighth short
	Grace time.Duration // the time before Rate is asked for
	Rate  int64         // bytes a second, on average since the beginning
	Total time.Duration // the longest time for a whole body; ours to write it away does not count
	// Answer is how long the answer may take once the body has ended. The
	// server's own WriteTimeout counts from the request's header and may have
	// passed by then.
	Answer time.Duration
}

// DefaultPace fits a sender in a data centre with room to spare: 150 MB of
// audio need 1.4 Mbit/s, and a connection cannot be held for the price of a
// byte now and then.
var DefaultPace = Pace{
	Stall: 10 * time.Second, Grace: 10 * time.Second, Rate: 8 << 10, Total: 15 * time.Minute, Answer: 30 * time.Second,
}

// SlowError is the error of a body that came too slowly; answer 408, which
// ElevenLabs takes as a reason to send again.
type SlowError struct {
	Bytes int64         // read until then
	After time.Duration // waited for them
}

// Error tells how far it came.
func (e *SlowError) Error() string {
	return fmt.Sprintf("the body came too slowly: %d bytes in %v", e.Bytes, e.After.Round(time.Millisecond))
}

// Timeout tells net.Error's users what kind of an error it is.
func (e *SlowError) Timeout() bool { return true }

// Deadlines moves a connection's time-outs; an *http.ResponseController does.
type Deadlines interface {
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

var _ Deadlines = (*http.ResponseController)(nil)

// Reader reads a request's body and cuts a slow or stalled sender off: Read
// then fails with *SlowError, and so does every later one. Other errors pass
// as they are. It is for one goroutine.
//
// The connection's read deadline is moved as bytes arrive, in place of the
// server's ReadTimeout, and taken away at the end of the body, so that a slow
// commit is not mistaken for a slow sender.
//
// Failure policy: where deadlines cannot be set (a test's recorder), the body
// is read without them, since a delivery is worth more than the guard.
func (p Pace) Reader(conn Deadlines, body io.Reader) io.Reader {
	return &pacedReader{pace: p, conn: conn, body: body}
}

type pacedReader struct {
	pace     Pace
	conn     Deadlines
	body     io.Reader
	deadline time.Time
	bytes    int64
	waited   time.Duration // for the sender alone: that our disk is slow is not its fault
	err      error
}

func (r *pacedReader) Read(b []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	began := time.Now()
	r.extend(began)
	n, err := r.body.Read(b)
	now := time.Now()
	r.bytes += int64(n)
	r.waited += now.Sub(began)
	if err != nil {
		r.end(now, err)
	}
	return n, r.err
}

// extend moves the deadline to when the next byte is due. Moving it costs more
// than a small read, so it stays while nearly all of Stall is left.
func (r *pacedReader) extend(now time.Time) {
	if r.deadline.Sub(now) > r.pace.Stall-r.pace.Stall/8 {
		return
	}
	// So many bytes keep up the rate for so long.
	credit := time.Duration(float64(r.bytes) / float64(r.pace.Rate) * float64(time.Second))
	left := min(max(credit, r.pace.Grace), r.pace.Total) - r.waited
	r.deadline = now.Add(min(left, r.pace.Stall))
	_ = r.conn.SetReadDeadline(r.deadline) // the failure policy above
}

func (r *pacedReader) end(now time.Time, err error) {
	switch {
	case errors.Is(err, io.EOF):
		// The server reads on to notice that the sender left; a deadline met
		// there would cancel the request.
		_ = r.conn.SetReadDeadline(time.Time{})
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = &SlowError{Bytes: r.bytes, After: r.waited}
	}
	r.err = err
	_ = r.conn.SetWriteDeadline(now.Add(r.pace.Answer))
}
