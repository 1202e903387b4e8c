package spool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"postcall/pkg/call"
)

// A batch is what is handed over between two notes of the progress, and what
// may be delivered again after a kill.
const (
	batchEntries = 256
	batchBytes   = 4 << 20
)

// Pauses of Run after its receiver was unavailable.
const (
	firstPause   = 100 * time.Millisecond
	longestPause = 5 * time.Second
)

// Receive stores an entry; nil says that it is stored. An error whose code is
// Unavailable, or that says that time ran out, asks to come back later; any
// other moves the entry aside, for good. The context does not end when draining
// is to end: what was begun is finished, so Receive bounds its own time.
type Receive = func(ctx context.Context, e Entry) error

// Run drains whenever something is there, until ctx ends or the spool is
// closed. It returns when what it began is finished.
func (s *Spool) Run(ctx context.Context, f Receive) {
	var pause time.Duration
	for {
		n, err := s.Drain(ctx, f)
		wait := s.options.Adopt
		var more <-chan struct{}
		switch {
		case err == nil:
			if pause > 0 {
				s.log.Info("the spool drains again", zap.String("path", s.own.path))
			}
			pause, more = 0, s.more
		case ctx.Err() != nil || errors.Is(err, errClosed):
			return
		default:
			if pause == 0 {
				s.log.Warn("the spool cannot be drained just now", zap.String("path", s.own.path), zap.Error(err))
			}
			// What arrives meanwhile does not shorten the pause: while the
			// receiver is away that would be a try for each delivery.
			if n > 0 {
				pause = 0
			}
			pause = min(max(2*pause, firstPause), longestPause)
			wait = pause
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-s.closing:
		case <-more:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// Drain hands over what waits, in order, and that of dead processes beside it.
// It returns how many entries were taken. An error is Unavailable if something
// still waits that could not be handed over.
func (s *Spool) Drain(ctx context.Context, f Receive) (n int, err error) {
	if err := s.stopping(ctx); err != nil {
		return 0, err
	}
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return 0, fmt.Errorf("draining the spool: %w", context.Cause(ctx))
	case <-s.closing:
		return 0, fmt.Errorf("draining the spool: %w", errClosed)
	}
	defer func() { <-s.turn }()
	d := &drain{spool: s, f: f}
	defer func() {
		if d.taken > 0 {
			s.log.Info("entries were taken from the spool", zap.String("path", s.own.path), zap.Int("entries", d.taken))
		}
	}()
	s.adopt()
	s.mu.Lock()
	journals := s.journals()
	s.mu.Unlock()
	for _, j := range journals {
		if err := d.journal(ctx, j); err != nil {
			return d.taken, err
		}
	}
	// Nothing older waits: now what is still appended to. Sealing it earlier
	// would make a segment at each try while the receiver is away.
	s.disk.Lock()
	err = s.seal()
	s.disk.Unlock()
	if err != nil {
		d.blocked = errors.Join(d.blocked, err)
	}
	if err := d.journal(ctx, s.own); err != nil {
		return d.taken, err
	}
	s.settleDown()
	if d.blocked != nil {
		return d.taken, trouble(s.own.path, "drain all of it", d.blocked)
	}
	return d.taken, nil
}

func (s *Spool) stopping(ctx context.Context) error {
	select {
	case <-s.closing:
		return fmt.Errorf("draining the spool: %w", errClosed)
	default:
	}
	if ctx.Err() != nil {
		return fmt.Errorf("draining the spool: %w", context.Cause(ctx))
	}
	return nil
}

// adopt takes the journals of dead processes. It is for drains only: a process
// that cannot drain would only keep them from one that can.
func (s *Spool) adopt() {
	paths, err := siblings(s.options.Path)
	if err != nil {
		s.log.Warn("looking for spools of dead processes", zap.String("path", s.options.Path), zap.Error(err))
	}
	for _, path := range paths {
		if slices.ContainsFunc(s.journals(), func(j *journal) bool { return j.path == path }) {
			continue
		}
		j, err := openJournal(path, s.log)
		if errors.Is(err, errHeld) {
			continue
		}
		if err != nil {
			s.log.Warn("taking over the spool of a dead process", zap.String("path", path), zap.Error(err))
			continue
		}
		s.log.Info("took over the spool of a dead process", zap.String("path", path))
		s.mu.Lock()
		s.adopted = append(s.adopted, j)
		s.mu.Unlock()
	}
}

// settleDown removes what belongs to no entry, and gives adopted journals free
// in which nothing waits any more.
func (s *Spool) settleDown() {
	for _, j := range s.journals() {
		s.sweep(j)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.adopted = slices.DeleteFunc(s.adopted, func(j *journal) bool {
		if !j.empty() {
			return false
		}
		if err := j.close(true); err != nil {
			s.log.Warn("giving a spool free", zap.String("path", j.path), zap.Error(err))
		}
		return true
	})
}

// sweep removes the bodies of which it is not known whether a line names them,
// once all lines that could have been drained: their process died between a
// body and its line, or between a line and its body.
//
// Failure policy: a torn or corrupt line may be the one that named a body. As
// long as there is any, such bodies are only given another name, for a person
// to look at.
func (s *Spool) sweep(j *journal) {
	s.mu.Lock()
	early := len(j.segments) > 0 && j.segments[0].number <= j.lastFound
	strays := slices.Collect(maps.Keys(j.strays))
	s.mu.Unlock()
	if early || len(strays) == 0 {
		return
	}
	doubtful := false
	for _, suffix := range []string{tornSuffix, corruptSuffix} {
		if _, err := os.Stat(j.path + suffix); !errors.Is(err, fs.ErrNotExist) {
			doubtful = true
		}
	}
	for _, name := range strays {
		if !doubtful {
			s.removeBody(j, name)
			continue
		}
		s.log.Warn("a large body belongs to no entry; it may be that of a torn or corrupt line", zap.String("file", j.beside(name)))
		if err := os.Rename(j.beside(name), j.beside(name)+orphanSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.log.Warn("a large body stays", zap.String("file", j.beside(name)), zap.Error(err))
		}
		s.forget(j, name)
	}
}

// removeBodies removes the bodies of entries that are done, durably.
func (d *drain) removeBodies(j *journal, g *segment) {
	for _, name := range g.bodies {
		d.spool.removeBody(j, name)
	}
	g.bodies = nil
}

// removeBody removes a body that no entry needs any more. A rejected one has
// another name by now.
func (s *Spool) removeBody(j *journal, name string) {
	if err := os.Remove(j.beside(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("a large body stays", zap.String("file", j.beside(name)), zap.Error(err))
		return
	}
	s.forget(j, name)
}

func (s *Spool) forget(j *journal, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	j.bodyBytes -= j.bodies[name]
	delete(j.bodies, name)
	delete(j.strays, name)
}

// drain is one call of Drain.
type drain struct {
	spool   *Spool
	f       Receive
	taken   int
	blocked error // what could not be handed over although f would take it
}

// journal drains the segments of a journal. An error ends the whole drain.
func (d *drain) journal(ctx context.Context, j *journal) error {
	d.spool.mu.Lock()
	segments := slices.Clone(j.segments)
	d.spool.mu.Unlock()
	for _, g := range segments {
		if err := d.segment(ctx, j, g); err != nil {
			return err
		}
	}
	return nil
}

// segment drains a segment.
//
// Failure policy: if a part of it cannot be read or set aside, the segment
// stays for the next drain, which begins with that part. Everything behind it
// is handed over now: on a full disk only that makes room.
func (d *drain) segment(ctx context.Context, j *journal, g *segment) error {
	file, err := os.Open(g.path)
	if errors.Is(err, fs.ErrNotExist) {
		d.spool.log.Error("a segment of the spool is gone, and with it what waited in it",
			zap.String("path", g.path), zap.Int64("entries", g.entries))
		return d.remove(j, g)
	}
	if err != nil {
		d.blocked = errors.Join(d.blocked, err)
		return nil
	}
	defer func() { _ = file.Close() }() // only read
	if _, err := file.Seek(g.offset, io.SeekStart); err != nil {
		d.blocked = errors.Join(d.blocked, err)
		return nil
	}
	r := newReader(file, g.offset)
	for {
		batch, rerr := readBatch(r)
		if rerr != nil && !errors.Is(rerr, io.EOF) {
			d.blocked = errors.Join(d.blocked, rerr)
		}
		stop := d.batch(ctx, j, g, file, batch)
		advanced := d.advance(g, batch)
		if errors.Is(rerr, io.EOF) && g.offset == r.at {
			if err := d.remove(j, g); err != nil {
				d.blocked = errors.Join(d.blocked, err)
			}
			return stop
		}
		if advanced {
			if err := g.saveNote(true); err != nil {
				// At worst these entries are delivered again. Their bodies stay
				// for that.
				d.blocked = errors.Join(d.blocked, err)
			} else {
				d.removeBodies(j, g)
			}
		}
		if stop != nil || rerr != nil {
			return stop
		}
	}
}

func readBatch(r *reader) (batch []piece, err error) {
	for begin := r.at; len(batch) < batchEntries && r.at-begin < batchBytes; {
		p, err := r.next()
		if err != nil {
			return batch, err
		}
		batch = append(batch, p)
	}
	return batch, nil
}

// batch hands a batch over and marks what is done. An error says why not to go
// on.
func (d *drain) batch(ctx context.Context, j *journal, g *segment, file io.ReaderAt, batch []piece) error {
	var (
		next    atomic.Int64
		wg      sync.WaitGroup
		stop    atomic.Pointer[error]
		results = make([]error, len(batch))
	)
	for i := range results {
		results[i] = errNotTried
	}
	for _, p := range batch {
		if p.record != nil {
			d.spool.mu.Lock()
			g.oldest = p.record.ReceivedAt
			d.spool.mu.Unlock()
			break
		}
	}
	for range min(d.spool.options.Concurrency, len(batch)) {
		wg.Go(func() {
			for stop.Load() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(batch) {
					return
				}
				p := batch[i]
				if _, settled := g.settled[p.start]; settled || p.record == nil {
					continue
				}
				if err := d.spool.stopping(ctx); err != nil {
					stop.CompareAndSwap(nil, &err)
					return
				}
				results[i] = d.hand(context.WithoutCancel(ctx), j, p.record)
				if later(results[i]) {
					var err error = call.Errorf(call.Unavailable, "draining the spool: %w", results[i])
					stop.CompareAndSwap(nil, &err)
				}
			}
		})
	}
	wg.Wait()
	for i, p := range batch {
		d.settle(j, g, file, p, results[i])
	}
	if err := stop.Load(); err != nil {
		return *err
	}
	return nil
}

var errNotTried = errors.New("not tried yet")

// later reports whether an entry is to be tried again.
func later(err error) bool {
	return err != nil && (call.CodeOf(err) == call.Unavailable ||
		errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded))
}

// hand gives an entry to f. Failure policy: an entry on which f panics is moved
// aside like any other that f refuses; else it would bring the process down at
// each start.
func (d *drain) hand(ctx context.Context, j *journal, r *record) (err error) {
	e := Entry{ReceivedAt: r.ReceivedAt, RequestID: r.RequestID, Address: r.Address, Secret: r.Secret}
	if r.File == "" {
		e.Body = r.body()
	} else if e.File, err = j.findBody(r); err != nil {
		return err
	}
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v", v)
			d.spool.log.Error("panic while an entry of the spool was taken", zap.String("request_id", r.RequestID), zap.Stack("stack"))
		}
	}()
	return d.f(ctx, e)
}

// settle marks a piece as done, setting it aside if it is not to be delivered.
func (d *drain) settle(j *journal, g *segment, file io.ReaderAt, p piece, result error) {
	if _, settled := g.settled[p.start]; settled {
		return
	}
	count := &d.spool.stats.Drained
	var err error
	switch {
	case p.record == nil:
		suffix := corruptSuffix
		count = &d.spool.stats.Corrupt
		if p.torn {
			suffix = tornSuffix
			count = &d.spool.stats.Torn
		}
		d.spool.log.Error("a line of the spool is damaged; it is set aside", zap.String("path", g.path),
			zap.Int64("offset", p.start), zap.Int64("bytes", p.end-p.start), zap.String("to", j.path+suffix))
		err = j.setAside(suffix, io.NewSectionReader(file, p.start, p.end-p.start))
	case result == nil:
		d.taken++
	case errors.Is(result, errNotTried), later(result):
		return
	case errors.Is(result, errDisk):
		d.blocked = errors.Join(d.blocked, result)
		return
	default:
		count = &d.spool.stats.Rejected
		d.spool.log.Error("an entry of the spool was refused; it is set aside",
			zap.String("request_id", p.record.RequestID), zap.String("to", j.path+rejectedSuffix), zap.Error(result))
		err = d.reject(j, p.record, result)
	}
	if err != nil {
		d.blocked = errors.Join(d.blocked, fmt.Errorf("setting a line aside: %w", err))
		return
	}
	d.spool.mu.Lock()
	defer d.spool.mu.Unlock()
	*count++
	g.entries = max(0, g.entries-1)
	if g.settled == nil {
		g.settled = map[int64]struct{}{}
	}
	g.settled[p.start] = struct{}{}
}

// reject moves an entry aside, its body under a name that no sweep removes.
func (d *drain) reject(j *journal, r *record, reason error) error {
	refused := *r
	text := reason.Error()
	refused.Rejected = strings.ToValidUTF8(text[:min(len(text), maxReason)], "")
	line, err := encode(refused)
	if err != nil {
		return err
	}
	if r.File != "" {
		if err := os.Rename(j.beside(r.File), j.beside(r.File)+rejectedSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return j.setAside(rejectedSuffix, bytes.NewReader(line))
}

// advance moves a segment's offset over what is done and reports whether there
// was any.
func (d *drain) advance(g *segment, batch []piece) bool {
	d.spool.mu.Lock()
	defer d.spool.mu.Unlock()
	before := g.offset
	for _, p := range batch {
		if _, settled := g.settled[p.start]; !settled || p.start != g.offset {
			continue
		}
		delete(g.settled, p.start)
		g.offset = p.end
		if p.record != nil && p.record.File != "" {
			g.bodies = append(g.bodies, p.record.File)
		}
	}
	return g.offset > before
}

// remove ends a segment and then what belonged to it.
func (d *drain) remove(j *journal, g *segment) error {
	if err := os.Remove(g.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing what is drained: %w", err)
	}
	// Were the segment to come back after a power cut, its bodies must be there.
	if err := syncFolder(g.path); err != nil {
		return fmt.Errorf("removing what is drained: %w", err)
	}
	d.spool.mu.Lock()
	j.segments = slices.DeleteFunc(j.segments, func(other *segment) bool { return other == g })
	d.spool.mu.Unlock()
	d.removeBodies(j, g)
	if err := os.Remove(g.path + noteSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.spool.log.Warn("the note of a drained segment stays", zap.String("path", g.path), zap.Error(err))
	}
	return nil
}
