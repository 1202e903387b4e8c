// Package spool keeps what cannot be stored elsewhere just now: an append-only
// journal on the local disk, fsynced before an append returns and drained in
// order later.
//
//	events.jsonl              is appended to, one JSON object a line
//	events.jsonl.000001       a segment: closed, waiting to be drained, then removed
//	events.jsonl.000001.done  how far it has been drained
//	events.jsonl.3f….body     a body that is too large for a line, which names it
//	events.jsonl.lock         held by the process that all of these belong to
//	events.jsonl.rejected     entries that the receiver will never take, with the reason
//	events.jsonl.torn         the beginning of a line whose end was never written
//	events.jsonl.corrupt      lines whose checksum does not match
//	events.jsonl.3f….orphan   a body that such a line may have named
//
// No two processes share a journal. A second one at the same path takes
// events-2.jsonl, a third one events-3.jsonl. What a dead process left behind is
// drained by whoever takes its place or drains beside it.
//
// The last four kinds are for people: the spool only adds to them, and they do
// not count as waiting. To have rejected entries tried again, rename
// events.jsonl.rejected to events.jsonl.0 while no process runs.
//
// An entry is delivered at least once. A process that is killed delivers again
// what it had delivered since it last noted its progress, at most a batch; the
// receiver must be idempotent.
package spool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.uber.org/zap"

	"postcall/pkg/call"
)

// The files hold what was said and telephone numbers: nothing for others.
const (
	fileMode   = 0o600
	folderMode = 0o750
)

// Sizes of the spool.
const (
	// maxInline is how large a body may be to stand in its line, in bytes.
	maxInline = 1 << 20
	// maxWaiting is how many bytes of lines may wait for the disk. Beyond it the
	// disk is slower than what arrives, and memory must not pay for that.
	maxWaiting = 32 << 20
	// maxShared is from how many bytes on an fsync takes no further line.
	maxShared = 4 << 20
	// maxJournals is how many processes may spool to one path.
	maxJournals = 999
)

// Options of a Spool.
type Options struct {
	// Path of the journal, such as logs/events.jsonl. Its directory is made.
	Path string
	// MaxBytes is how many bytes may wait; 0 for as many as the disk takes.
	MaxBytes int64
	// SegmentBytes is from which size on a segment is closed and the next one
	// begun; 0 for 16 MiB. The disk is given back segment by segment.
	SegmentBytes int64
	// Concurrency is how many entries are handed over at a time; 0 for 32.
	// They are always taken up in order.
	Concurrency int
	// Adopt is how often Run looks for journals of dead processes; 0 for half a
	// minute.
	Adopt time.Duration
	Log   *zap.Logger

	// create stands for os.OpenFile where tests need a disk that fails.
	create func(path string) (appendFile, error)
}

// Entry is a verified delivery.
type Entry struct {
	ReceivedAt time.Time
	RequestID  string
	Address    string // of the sender
	Secret     int    // position of the secret that matched
	// Body is the raw body, any bytes, unless File is set.
	Body []byte
	// File is the path of a file that holds the body instead. Append takes it
	// over: afterwards it is no longer there, and after an error it may not be
	// either. While an entry is drained it may only be read.
	File string
}

// Stats of a Spool. What other live processes hold is not among them.
type Stats struct {
	Bytes     int64         // that wait, as they lie on the disk, bodies in files of their own included
	Entries   int64         // that wait
	OldestAt  time.Time     // when the oldest of them was received; zero when nothing waits
	OldestAge time.Duration // the same as an age
	// Since the spool was opened:
	Appended int64 // entries
	Syncs    int64 // fsyncs that these shared
	Drained  int64 // entries
	Rejected int64 // entries that were moved aside because their receiver refused them
	Torn     int64 // line ends that a crash cut off
	Corrupt  int64 // lines whose checksum does not match
}

// Spool is a journal on the local disk. Its methods may be called from several
// goroutines.
type Spool struct {
	options Options
	log     *zap.Logger
	now     func() time.Time

	arrived chan struct{} // something waits for the writer
	more    chan struct{} // something waits to be drained
	closing chan struct{}
	written chan struct{} // closed when the writer has ended
	turn    chan struct{} // held by whoever drains

	// disk guards the file that is appended to. It is taken before mu.
	disk sync.Mutex
	file appendFile // nil between two segments, and after a failure

	mu      sync.Mutex // guards what follows, and what the journals know
	closed  bool
	queue   []*pending
	queued  int64    // bytes of lines in the queue
	booked  int64    // bytes on their way to the disk
	active  *segment // what file appends to; nil when there is no such file
	own     *journal
	adopted []*journal
	stats   Stats // the counters
}

// Open takes the journal at o.Path, or the next free one beside it, with what a
// dead process left in it. An error is a call.Error whose message says what to
// do about it.
func Open(o Options) (*Spool, error) {
	o.SegmentBytes = cmp.Or(o.SegmentBytes, 16<<20)
	o.Concurrency = cmp.Or(o.Concurrency, 32)
	o.Adopt = cmp.Or(o.Adopt, 30*time.Second)
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.create == nil {
		o.create = createFile
	}
	s := &Spool{
		options: o, log: o.Log, now: time.Now,
		arrived: make(chan struct{}, 1), more: make(chan struct{}, 1),
		closing: make(chan struct{}), written: make(chan struct{}), turn: make(chan struct{}, 1),
	}
	if err := os.MkdirAll(filepath.Dir(o.Path), folderMode); err != nil {
		return nil, trouble(o.Path, "make its directory", err)
	}
	var err error
	for n := 1; s.own == nil; n++ {
		if n > maxJournals {
			return nil, trouble(o.Path, "find a free name", errHeld)
		}
		path := nth(o.Path, n)
		if s.own, err = openJournal(path, s.log); err != nil && !errors.Is(err, errHeld) {
			return nil, trouble(path, "open it", err)
		}
	}
	if s.own.path != o.Path {
		s.log.Info("another process holds the spool; this one has its own", zap.String("path", s.own.path))
	}
	go s.write()
	return s, nil
}

// Append keeps an entry. It returns nil once the entry is fsynced, and shares
// that fsync with other appends. Any error is Unavailable, with a message that
// says what to do: the entry may be kept all the same only if ctx ended.
func (s *Spool) Append(ctx context.Context, e Entry) error {
	if err := ctx.Err(); err != nil {
		return trouble(s.own.path, "append an entry", context.Cause(ctx))
	}
	p, err := s.prepare(e)
	if err != nil {
		return trouble(s.own.path, "append an entry", err)
	}
	select {
	case err := <-p.done:
		if err != nil {
			return trouble(s.own.path, "append an entry", err)
		}
		return nil
	case <-ctx.Done():
		return trouble(s.own.path, "append an entry", context.Cause(ctx))
	}
}

// prepare brings an entry before the writer. All that can be done beside other
// appends is done here, the fsync of a large body above all. Nothing of e is
// used after it returned: its owner may go away before the writer is done.
func (s *Spool) prepare(e Entry) (*pending, error) {
	p := &pending{receivedAt: e.ReceivedAt, done: make(chan error, 1)}
	r := record{ReceivedAt: e.ReceivedAt, RequestID: e.RequestID, Address: e.Address, Secret: e.Secret, Bytes: int64(len(e.Body))}
	if e.File != "" {
		info, err := os.Stat(e.File)
		if err != nil {
			return nil, fmt.Errorf("find the body: %w", err)
		}
		r.Bytes = info.Size()
	}
	if e.File != "" || r.Bytes > maxInline {
		r.File = s.own.bodyName()
		p.body = body{name: r.File, bytes: r.Bytes}
	} else {
		r.setBody(e.Body)
	}
	var err error
	if p.line, err = encode(r); err != nil {
		return nil, err
	}
	if len(p.line) > maxLine-6*maxReason-64 { // there must be room for why it is rejected
		return nil, fmt.Errorf("%w: a line of %d bytes", errLong, len(p.line))
	}
	if err := s.book(p); err != nil {
		return nil, err
	}
	if p.body.name != "" {
		if err := s.own.place(p.body.name, e); err != nil {
			s.unbook(p)
			return nil, fmt.Errorf("keep a large body: %w", err)
		}
	}
	if err := s.enqueue(p); err != nil {
		s.unbook(p)
		if p.body.name != "" {
			err = errors.Join(err, os.Remove(s.own.beside(p.body.name)))
		}
		return nil, err
	}
	return p, nil
}

var (
	errClosed = errors.New("the spool is closed")
	errSlow   = errors.New("too much waits for the disk")
	errFull   = errors.New("it has reached its limit")
	errLong   = errors.New("the request id or the address is too long")
)

// book takes room for an entry. Failure policy: a full spool refuses what is
// new and keeps what it has acknowledged.
func (s *Spool) book(p *pending) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errClosed
	}
	if limit := s.options.MaxBytes; limit > 0 && s.bytes()+s.booked+p.size() > limit {
		return fmt.Errorf("%w of %d bytes", errFull, limit)
	}
	s.booked += p.size()
	return nil
}

func (s *Spool) unbook(p *pending) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.booked -= p.size()
}

func (s *Spool) enqueue(p *pending) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return errClosed
	case s.queued+int64(len(p.line)) > maxWaiting:
		return errSlow
	}
	s.queue = append(s.queue, p)
	s.queued += int64(len(p.line))
	signal(s.arrived)
	return nil
}

// signal sets a flag that somebody waits for.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Path is the file that this process appends to.
func (s *Spool) Path() string { return s.own.path }

// Depth is how many entries wait.
func (s *Spool) Depth() int64 { return s.Stats().Entries }

// Stats says what waits and what was done. It does not touch the disk.
func (s *Spool) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.stats
	st.Bytes = s.bytes()
	oldest := func(g *segment) {
		if g != nil && (st.OldestAt.IsZero() || g.oldest.Before(st.OldestAt)) {
			st.OldestAt = g.oldest
		}
	}
	for _, j := range s.journals() {
		for i, g := range j.segments {
			st.Entries += g.entries
			if i == 0 {
				oldest(g)
			}
		}
	}
	if s.active != nil && s.active.entries > 0 {
		st.Entries += s.active.entries
		oldest(s.active)
	}
	if !st.OldestAt.IsZero() {
		st.OldestAge = max(0, s.now().Sub(st.OldestAt))
	}
	return st
}

// journals are all that this process holds, its own first.
func (s *Spool) journals() []*journal {
	return append([]*journal{s.own}, s.adopted...)
}

// bytes is how much waits.
func (s *Spool) bytes() int64 {
	var sum int64
	for _, j := range s.journals() {
		for _, g := range j.segments {
			sum += g.size
		}
		sum += j.bodyBytes
	}
	if s.active != nil {
		sum += s.active.size
	}
	return sum
}

// Close ends appending and draining, waits for what was begun, and gives the
// journal free for others. When ctx ends first it returns an error and may be
// called again. A spool that is closed already is left alone.
func (s *Spool) Close(ctx context.Context) error {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.closing)
	}
	s.mu.Unlock()
	select {
	case <-s.written:
	case <-ctx.Done():
		return fmt.Errorf("closing the spool: the disk has not taken what was appended: %w", context.Cause(ctx))
	}
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("closing the spool: an entry is still being handed over: %w", context.Cause(ctx))
	}
	defer func() { <-s.turn }()
	return s.release()
}

// release gives up all locks, and removes those that guard nothing any more.
func (s *Spool) release() error {
	s.disk.Lock()
	defer s.disk.Unlock()
	var err error
	if s.file != nil {
		err = s.file.Close()
		s.file = nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, j := range s.journals() {
		// The lock of the first journal stays: with it there, a start on a full
		// disk needs no new file.
		empty := j.empty() && (j != s.own || s.active == nil)
		err = errors.Join(err, j.close(empty && j.path != s.options.Path))
	}
	s.adopted = nil
	if err != nil {
		return fmt.Errorf("closing the spool: %w", err)
	}
	return nil
}

// trouble tells an operator what could not be done and what helps. All of it
// may pass by itself or be put right.
func trouble(path, doing string, err error) error {
	help := "see what the system says"
	switch {
	case errors.Is(err, errFull):
		help = "drain it by bringing the database back, or raise SPOOL_MAX_BYTES"
	case errors.Is(err, errClosed):
		help = "the process is stopping"
	case errors.Is(err, errSlow):
		help = "the disk is slower than what arrives"
	case errors.Is(err, errHeld):
		help = "too many processes use this path: set SPOOL_PATH to another one"
	case errors.Is(err, errReplaced):
		help = "leave the file alone while the process runs; the next append begins a new one"
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		help = "there was no time left"
	case full(err):
		help = "the disk or a limit is full: make room"
	case errors.Is(err, fs.ErrPermission), readOnly(err):
		help = "let the process write the file's directory, or set SPOOL_PATH to another place"
	case errors.Is(err, fs.ErrNotExist):
		help = "its directory is gone: make it again, or start the process anew"
	}
	return call.Errorf(call.Unavailable, "spool %s: cannot %s (%s): %w", path, doing, help, err)
}
