package postgres

import (
	"context"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"
)

// How much is written down of deliveries that were refused.
const (
	// flushEvery is how often rejections are written, in one statement.
	flushEvery = 5 * time.Second
	// maxPending is how many wait for that, so how many rows a flush writes.
	maxPending = 200
	// maxAlike is how many of them may have the same reason and address, so that
	// one sender's flood leaves room for what others did meanwhile.
	maxAlike = 5

	// The table keeps the newest rows, and none for longer than this.
	maxRejections = 10_000
	maxAge        = 30 * 24 * time.Hour
	// trimEvery is how often older rows are deleted, at most trimBatch in a
	// transaction; between two times a process adds at most 2 400.
	trimEvery = time.Minute
	trimBatch = 1_000

	// rejectionTimeout bounds each of these writes, the wait for a connection
	// included.
	rejectionTimeout = 3 * time.Second

	// How long the texts of a row may be, in bytes.
	maxReason, maxAddress, maxRequestID, maxUserAgent = 64, 64, 128, 256
)

// Rejection is a delivery that was refused.
type Rejection struct {
	ID        int64
	At        time.Time
	Reason    string
	Address   string
	RequestID string
	UserAgent string
	Bytes     int64 // read of its body
}

// Rejections writes rejections down. It is safe for concurrent use.
//
// Failure policy: no rejection has a statement of its own, waits for one, or
// is refused. What is written is a sample for people, not a ledger: while more
// come than that, the newest displace the oldest, a few of each sender, and
// the others are counted and logged. With the database away the newest wait in
// memory. A flush whose answer got lost is repeated, so that a row may stand
// twice.
type Rejections struct {
	// Now is the clock, time.Now unless a test replaces it before the first use.
	Now func() time.Time

	db  DB
	log *zap.Logger

	mu      sync.Mutex
	pending []Rejection // the oldest first
	alike   map[likeness]int
	counts  RejectionCounts
}

type likeness struct{ reason, address string }

// RejectionCounts is what metrics and health show of rejections, since the
// start.
type RejectionCounts struct {
	Recorded  uint64 // all that were refused
	Written   uint64 // of these, the ones in the table
	Unwritten uint64 // and the ones left out; the rest is waiting
}

// NewRejections makes a recorder; run its Run.
func NewRejections(db DB, log *zap.Logger) *Rejections {
	return &Rejections{Now: time.Now, db: db, log: log, alike: map[likeness]int{}}
}

// Record takes a rejection down, to be written soon. It never waits and never
// fails. The texts may be a sender's own, of any length and content; bytes is
// how many were read of the body.
func (r *Rejections) Record(reason, address, requestID, userAgent string, bytes int64) {
	now := r.Now()
	reason, address = printable(reason, maxReason), printable(address, maxAddress)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts.Recorded++
	if r.alike[likeness{reason, address}] >= maxAlike {
		r.counts.Unwritten++
		return
	}
	r.add(Rejection{
		At: now, Bytes: bytes,
		// Copies, since a short piece would keep all of a long header in memory.
		Reason: strings.Clone(reason), Address: strings.Clone(address),
		RequestID: strings.Clone(printable(requestID, maxRequestID)),
		UserAgent: strings.Clone(printable(userAgent, maxUserAgent)),
	})
}

// add puts a rejection last, in place of the oldest if there is no room.
func (r *Rejections) add(one Rejection) {
	if len(r.pending) == maxPending {
		oldest := likeness{r.pending[0].Reason, r.pending[0].Address}
		if r.alike[oldest]--; r.alike[oldest] == 0 {
			delete(r.alike, oldest)
		}
		copy(r.pending, r.pending[1:])
		r.pending = r.pending[:maxPending-1]
		r.counts.Unwritten++
	}
	r.pending = append(r.pending, one)
	r.alike[likeness{one.Reason, one.Address}]++
}

// Counts tells how many there were.
func (r *Rejections) Counts() RejectionCounts {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.counts
}

// Run writes what is recorded and trims the table until the context ends, then
// writes once more what is left. It uses one connection, for moments. Trouble
// is logged when it begins and when it ends.
func (r *Rejections) Run(ctx context.Context) {
	flush, trim := time.NewTicker(flushEvery), time.NewTicker(trimEvery)
	defer flush.Stop()
	defer trim.Stop()
	var unwritten uint64
	away := false
	try := func(ctx context.Context, do func(context.Context) (rows int64, err error)) {
		rows, err := do(ctx)
		switch {
		case ctx.Err() != nil: // it is tried once more below
		case err != nil && !away:
			away = true
			r.log.Warn("rejections cannot be written; the newest are held in memory", zap.Error(err))
		case err == nil && rows > 0 && away:
			away = false
			r.log.Info("rejections are written again")
		}
		if all := r.Counts().Unwritten; all > unwritten {
			r.log.Warn("more deliveries were rejected than are written down", zap.Uint64("left_out", all-unwritten))
			unwritten = all
		}
	}
	for {
		select {
		case <-ctx.Done():
			try(context.WithoutCancel(ctx), r.Flush)
			return
		case <-flush.C:
			try(ctx, r.Flush)
		case <-trim.C:
			try(ctx, r.Trim)
		}
	}
}

// Flush writes what waits, in one statement. What could not be written waits
// on.
func (r *Rejections) Flush(ctx context.Context) (written int64, err error) {
	r.mu.Lock()
	batch := r.pending
	r.pending, r.alike = nil, map[likeness]int{}
	r.mu.Unlock()
	if len(batch) == 0 {
		return 0, nil
	}
	err = r.insert(ctx, batch)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		r.counts.Written += uint64(len(batch))
		return int64(len(batch)), nil
	}
	// Back in front of those that came meanwhile.
	newer := r.pending
	r.pending, r.alike = nil, map[likeness]int{}
	for _, one := range append(batch, newer...) {
		r.add(one)
	}
	return 0, err
}

func (r *Rejections) insert(ctx context.Context, batch []Rejection) error {
	ctx, cancel := context.WithTimeout(ctx, rejectionTimeout)
	defer cancel()
	n := len(batch)
	at, bytes := make([]time.Time, n), make([]int64, n)
	reason, address, agent, request := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	for i, one := range batch {
		at[i], bytes[i] = one.At, one.Bytes
		reason[i], address[i], agent[i], request[i] = one.Reason, one.Address, one.UserAgent, one.RequestID
	}
	_, err := r.db.Exec(ctx, `
		insert into rejections (at, reason, address, user_agent, request_id, bytes)
		select at, reason, address, nullif(user_agent, ''), nullif(request_id, ''), bytes
		from unnest($1::timestamptz[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[])
			with ordinality as row (at, reason, address, user_agent, request_id, bytes, place)
		order by place`, at, reason, address, agent, request, bytes)
	return failed("writing rejections", err)
}

// Trim deletes what is too many or too old, in small transactions. Several
// processes may do so at once.
func (r *Rejections) Trim(ctx context.Context) (deleted int64, err error) {
	// Ids leave gaps, so that these are at most the newest maxRejections. Both
	// statements read nothing but what they delete, by an index.
	many, err := r.trim(ctx, `
		delete from rejections where id in (
			select id from rejections where id <= (select max(id) from rejections) - $1::bigint
			order by id limit $2 for update skip locked)`, maxRejections)
	if err != nil {
		return many, err
	}
	old, err := r.trim(ctx, `
		delete from rejections where id in (
			select id from rejections where at < $1::timestamptz
			order by at, id limit $2 for update skip locked)`, r.Now().Add(-maxAge))
	return many + old, err
}

func (r *Rejections) trim(ctx context.Context, statement string, until any) (deleted int64, err error) {
	for {
		n, err := r.trimOnce(ctx, statement, until)
		deleted += n
		if err != nil || n < trimBatch {
			return deleted, err
		}
	}
}

func (r *Rejections) trimOnce(ctx context.Context, statement string, until any) (deleted int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, rejectionTimeout)
	defer cancel()
	tag, err := r.db.Exec(ctx, statement, until, trimBatch)
	return tag.RowsAffected(), failed("trimming rejections", err)
}

// RecentRejections reads the newest rejections, at most limit of them, the
// newest first.
func RecentRejections(ctx context.Context, db DB, limit int) ([]Rejection, error) {
	rows, err := db.Query(ctx, `
		select id, at, reason, address, coalesce(request_id, ''), coalesce(user_agent, ''), coalesce(bytes, 0)
		from rejections order by at desc, id desc limit $1`, limit)
	if err != nil {
		return nil, failed("reading rejections", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Rejection])
	return list, failed("reading rejections", err)
}

// printable makes a stranger's text fit to be stored and shown: at most limit
// bytes, valid UTF-8, and a question mark for each character that does not
// print (controls, NUL, and those that turn the direction of writing).
func printable(s string, limit int) string {
	if len(s) > limit {
		s = s[:limit]
		for range utf8.UTFMax - 1 { // not through the middle of a character
			if last, size := utf8.DecodeLastRuneInString(s); last != utf8.RuneError || size != 1 {
				break
			}
			s = s[:len(s)-1]
		}
	}
	return strings.Map(func(c rune) rune {
		if c == utf8.RuneError || !unicode.IsPrint(c) {
			return '?'
		}
		return c
	}, s)
}
