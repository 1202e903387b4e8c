package spool

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"time"

	"go.uber.org/zap"
)

// appendFile is what is appended to.
type appendFile interface {
	io.WriteCloser
	Sync() error
	Truncate(size int64) error
	Stat() (fs.FileInfo, error)
}

func createFile(path string) (appendFile, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, fileMode)
}

// pending is an entry that waits for the disk.
type pending struct {
	line       []byte
	receivedAt time.Time
	body       body
	done       chan error // buffered: nobody may be waiting any more
}

func (p *pending) size() int64 { return int64(len(p.line)) + p.body.bytes }

// write brings entries to the disk until the spool is closed. Those that arrive
// while an fsync is under way share the next one; one that arrives alone does
// not wait for others.
func (s *Spool) write() {
	defer close(s.written)
	for {
		batch, closed := s.take()
		switch {
		case len(batch) > 0:
			err := s.commit(batch)
			for _, p := range batch {
				p.done <- err
			}
		case closed:
			return
		default:
			select {
			case <-s.arrived:
			case <-s.closing:
			}
		}
	}
}

// take gives what waits, up to maxShared.
func (s *Spool) take() (batch []*pending, closed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var bytes int64
	n := 0
	for n < len(s.queue) && bytes < maxShared {
		bytes += int64(len(s.queue[n].line))
		n++
	}
	batch = s.queue[:n:n]
	s.queue = s.queue[n:]
	if len(s.queue) == 0 {
		s.queue = nil // else what was taken stays in memory
	}
	s.queued -= bytes
	return batch, s.closed
}

// commit appends a batch: all of it or nothing.
//
// Failure policy: after a failed write it is not known what is in the file, and
// after a failed fsync not what is on the disk; the next fsync may succeed
// although pages were dropped. So either fails the whole batch, the file is cut
// back to what is durable and never written again. The next append begins a new
// one.
func (s *Spool) commit(batch []*pending) error {
	s.disk.Lock()
	defer s.disk.Unlock()
	err := s.begin()
	if err == nil {
		if err = s.put(batch); err != nil {
			s.cut(batch, err)
		}
	} else {
		s.drop(batch)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range batch {
		s.booked -= p.size()
		if err != nil {
			continue
		}
		s.stats.Appended++
		s.active.size += int64(len(p.line))
		if s.active.entries == 0 || p.receivedAt.Before(s.active.oldest) {
			s.active.oldest = p.receivedAt
		}
		s.active.entries++
		if p.body.name != "" {
			s.own.keep(p.body)
		}
	}
	signal(s.more)
	return err
}

// begin makes sure that there is a file to append to.
func (s *Spool) begin() error {
	if s.active != nil && (s.file == nil || s.active.size >= s.options.SegmentBytes) {
		if err := s.seal(); err != nil {
			return err
		}
	}
	if s.active != nil {
		return nil
	}
	file, err := s.options.create(s.own.path)
	if err != nil {
		return err
	}
	s.file = file
	s.setActive(new(segment))
	if err := syncFolder(s.own.path); err != nil {
		s.cut(nil, err) // its name may not last
		return err
	}
	return nil
}

func (s *Spool) setActive(g *segment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active = g
}

// put writes a batch and makes it last.
func (s *Spool) put(batch []*pending) error {
	for _, p := range batch {
		if p.body.name == "" {
			continue
		}
		// A line that names a body must not last longer than the body's name.
		if err := syncFolder(s.own.path); err != nil {
			return err
		}
		break
	}
	for _, p := range batch {
		if _, err := s.file.Write(p.line); err != nil {
			return err
		}
	}
	s.mu.Lock()
	s.stats.Syncs++
	s.mu.Unlock()
	if err := s.file.Sync(); err != nil {
		return err
	}
	// A file that somebody removed or rotated away lasts, but will not be found.
	return same(s.file, s.own.path)
}

// cut takes a failed batch back and is done with the file. If that fails as
// well, what the file holds beyond is recognised when it is drained.
func (s *Spool) cut(batch []*pending, cause error) {
	err := s.file.Truncate(s.active.size)
	if err == nil {
		err = s.file.Sync()
	}
	if cerr := s.file.Close(); err == nil {
		err = cerr
	}
	s.file = nil
	removed := s.active.size == 0
	serr := s.seal()
	if serr != nil {
		s.log.Warn("the spool's file could not be closed yet", zap.String("path", s.own.path), zap.Error(serr))
	}
	if err == nil || serr == nil && removed {
		s.drop(batch)
		return
	}
	s.log.Error("the spool's file could not be cut back; a new one is begun",
		zap.String("path", s.own.path), zap.NamedError("cause", cause), zap.Error(err))
	if serr == nil {
		s.doubt(batch)
	}
}

// doubt keeps the bodies of entries whose lines may have stayed, until the
// segment that would hold these is drained.
func (s *Spool) doubt(batch []*pending) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range batch {
		if p.body.name != "" {
			s.own.keep(p.body)
			s.own.strays[p.body.name] = struct{}{}
			s.own.lastFound = s.own.last
		}
	}
}

// drop removes the bodies of entries that were not kept.
func (s *Spool) drop(batch []*pending) {
	for _, p := range batch {
		if p.body.name == "" {
			continue
		}
		if err := os.Remove(s.own.beside(p.body.name)); err != nil {
			s.log.Warn("a large body that was not kept stays", zap.String("file", p.body.name), zap.Error(err))
		}
	}
}

// seal closes the file that is appended to, so that it can be drained. The
// caller holds disk.
func (s *Spool) seal() error {
	if s.active == nil {
		return nil
	}
	if s.file != nil {
		// Everything in it has been synced.
		if err := s.file.Close(); err != nil {
			s.log.Warn("closing the spool's file", zap.String("path", s.own.path), zap.Error(err))
		}
		s.file = nil
	}
	if s.active.size == 0 {
		if err := os.Remove(s.own.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		s.setActive(nil)
		return nil
	}
	g, err := s.own.seal()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		s.log.Error("the spool's file is gone, and with it what waited in it",
			zap.String("path", s.own.path), zap.Int64("entries", s.active.entries))
		s.setActive(nil)
		return nil
	case err != nil:
		return err
	}
	g.size, g.entries, g.oldest = s.active.size, s.active.entries, s.active.oldest
	if err := g.saveNote(false); err != nil {
		s.log.Debug("the segment's entries will be counted", zap.String("path", g.path), zap.Error(err))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.own.segments = append(s.own.segments, g)
	s.active = nil
	return nil
}
