package spool

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.uber.org/zap"

	"postcall/pkg/durable"
)

// journal is a file that is appended to and all that lies beside it under its
// name. Whoever has one holds its lock.
type journal struct {
	path string
	lock *os.File
	log  *zap.Logger

	last      int              // highest number that a segment has or had
	segments  []*segment       // that wait, oldest first
	bodies    map[string]int64 // names of the files that hold large bodies, and their bytes
	bodyBytes int64            // the sum of these

	// strays are bodies that may belong to no entry: those that were there when
	// the journal was opened. If a line names one, it is in a segment up to
	// lastFound.
	strays    map[string]struct{}
	lastFound int
}

// segment is a file of lines.
type segment struct {
	number  int
	path    string
	size    int64     // bytes
	entries int64     // that wait in it
	oldest  time.Time // when the first of them was received
	offset  int64     // everything before it is done, durably
	// settled are the lines beyond offset that are done but for a durable note,
	// by where they start: one before them is not.
	settled map[int64]struct{}
	bodies  []string // of entries that are done; to be removed once that is durable
}

// body is a file that holds what is too large for a line.
type body struct {
	name  string // empty for none
	bytes int64
}

var (
	errHeld     = errors.New("another process holds it")
	errReplaced = errors.New("it was moved or removed")
	errDisk     = errors.New("the disk does not answer")
)

// nth is the name of the n-th journal: events.jsonl, events-2.jsonl, …
func nth(path string, n int) string {
	if n == 1 {
		return path
	}
	ext := filepath.Ext(path)
	return strings.TrimSuffix(path, ext) + "-" + strconv.Itoa(n) + ext
}

// belongings tells the files of a journal by what follows its name.
var belongings = regexp.MustCompile(`^(?:|\.(\d{1,9})|\.(\d{1,9})\.done|\.([0-9a-f]{16}\.body))$`)

// siblings are the journals beside path, itself included, in which something
// waits, live or dead.
func siblings(path string) ([]string, error) {
	files, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	ext := filepath.Ext(path)
	name := regexp.MustCompile(`^` + regexp.QuoteMeta(strings.TrimSuffix(filepath.Base(path), ext)) + `(?:-(?:[2-9]|[1-9]\d{1,2}))?` + regexp.QuoteMeta(ext))
	var found []string
	for _, file := range files {
		m := name.FindStringSubmatch(file.Name())
		if m == nil || !belongings.MatchString(file.Name()[len(m[0]):]) {
			continue
		}
		found = append(found, filepath.Join(filepath.Dir(path), m[0]))
	}
	slices.Sort(found)
	return slices.Compact(found), nil
}

// openJournal locks the journal at path and lists what waits in it. The error
// is errHeld if another process has it.
func openJournal(path string, log *zap.Logger) (_ *journal, err error) {
	j := &journal{path: path, log: log, bodies: map[string]int64{}, strays: map[string]struct{}{}}
	if j.lock, err = lock(path + ".lock"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, j.lock.Close())
		}
	}()
	files, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	var left bool
	var notes []string
	for _, file := range files {
		rest, ok := strings.CutPrefix(file.Name(), filepath.Base(path))
		m := belongings.FindStringSubmatch(rest)
		if !ok || m == nil {
			continue
		}
		switch {
		case rest == "":
			if !file.Type().IsRegular() {
				return nil, fmt.Errorf("%w: it is no file", fs.ErrInvalid)
			}
			left = true
		case m[1] != "":
			n, _ := strconv.Atoi(m[1]) // at most nine digits
			j.segments = append(j.segments, &segment{number: n, path: j.beside(file.Name())})
			j.last = max(j.last, n)
		case m[2] != "":
			n, _ := strconv.Atoi(m[2])
			notes = append(notes, j.beside(file.Name()))
			j.last = max(j.last, n)
		default:
			info, err := file.Info()
			if err != nil {
				return nil, err
			}
			j.keep(body{file.Name(), info.Size()})
			j.strays[file.Name()] = struct{}{}
		}
	}
	slices.SortFunc(j.segments, func(a, b *segment) int { return a.number - b.number })
	// A note whose segment is gone must never be taken for that of a later one
	// of the same number: what it covers would be lost.
	for _, path := range notes {
		if !slices.ContainsFunc(j.segments, func(g *segment) bool { return g.path+noteSuffix == path }) {
			if err := os.Remove(path); err != nil {
				return nil, err
			}
		}
	}
	if left {
		g, err := j.seal()
		if err != nil {
			return nil, err
		}
		j.segments = append(j.segments, g)
	}
	j.lastFound = j.last
	for _, g := range j.segments {
		if err := g.measure(); err != nil {
			return nil, err
		}
	}
	return j, syncFolder(path)
}

// lock takes the lock at path without waiting for it.
func lock(path string) (*os.File, error) {
	for {
		file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, fileMode)
		if err != nil {
			return nil, err
		}
		err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			// Its last owner may have removed it just before.
			if err = same(file, path); err == nil {
				return file, nil
			}
		}
		_ = file.Close()
		switch {
		case errors.Is(err, syscall.EWOULDBLOCK):
			return nil, errHeld
		case !errors.Is(err, errReplaced) && !errors.Is(err, syscall.EINTR):
			return nil, err
		}
	}
}

// close gives the journal free; if it is empty, without a trace.
func (j *journal) close(empty bool) error {
	if j.lock == nil {
		return nil
	}
	var err error
	if empty {
		err = os.Remove(j.lock.Name())
	}
	err = errors.Join(err, j.lock.Close())
	j.lock = nil
	return err
}

func (j *journal) empty() bool { return len(j.segments) == 0 && len(j.bodies) == 0 }

// keep notes a body that waits.
func (j *journal) keep(b body) {
	j.bodies[b.name] = b.bytes
	j.bodyBytes += b.bytes
}

// beside is the path of a file whose name stands in a line.
func (j *journal) beside(name string) string { return filepath.Join(filepath.Dir(j.path), name) }

func (j *journal) bodyName() string {
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails
	return filepath.Base(j.path) + "." + hex.EncodeToString(id[:]) + bodySuffix
}

const (
	bodySuffix     = ".body"
	noteSuffix     = ".done"
	rejectedSuffix = ".rejected"
	tornSuffix     = ".torn"
	corruptSuffix  = ".corrupt"
	orphanSuffix   = ".orphan"
)

// seal makes a segment of the file that was appended to; the caller lists it. Numbers only rise,
// so that a note never meets a segment it was not written for.
func (j *journal) seal() (*segment, error) {
	g := &segment{number: j.last + 1, path: fmt.Sprintf("%s.%06d", j.path, j.last+1)}
	if err := os.Rename(j.path, g.path); err != nil {
		return nil, err
	}
	j.last++
	return g, nil
}

// measure finds out what waits in a segment. Only one that was not closed in an
// orderly way is read for that.
func (g *segment) measure() error {
	file, err := os.Open(g.path)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }() // only read
	info, err := file.Stat()
	if err != nil {
		return err
	}
	g.size, g.oldest = info.Size(), info.ModTime()
	var noted bool
	if g.offset, g.entries, noted = readNote(g.path + noteSuffix); !noted || g.offset > g.size {
		g.offset = 0
		if g.entries, err = countLines(file); err != nil {
			return err
		}
	}
	first, err := newReader(io.NewSectionReader(file, g.offset, g.size-g.offset), g.offset).next()
	if err == nil && first.record != nil {
		g.oldest = first.record.ReceivedAt
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// countLines counts what measure has no note of, a torn line included.
func countLines(r io.Reader) (n int64, err error) {
	buf := make([]byte, 256<<10)
	whole := true
	for {
		k, err := r.Read(buf)
		n += int64(bytes.Count(buf[:k], []byte("\n")))
		whole = k == 0 && whole || bytes.HasSuffix(buf[:k], []byte("\n"))
		if errors.Is(err, io.EOF) {
			if !whole {
				n++
			}
			return n, nil
		}
		if err != nil {
			return 0, err
		}
	}
}

// A note says how far a segment has been drained: offset, entries that wait
// after it, checksum. It is overwritten in place. If that is torn, the segment
// is drained from its beginning: delivered twice, not lost.
const noteFormat = "%020d %012d"

func note(g *segment) []byte {
	text := fmt.Appendf(nil, noteFormat, g.offset, g.entries)
	return fmt.Appendf(text, " %08x\n", crc32.Checksum(text, castagnoli))
}

func readNote(path string) (offset, entries int64, ok bool) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, 0, false
	}
	g := new(segment)
	if _, err := fmt.Sscanf(string(b), "%d %d", &g.offset, &g.entries); err != nil || g.offset < 0 || !bytes.Equal(b, note(g)) {
		return 0, 0, false
	}
	return g.offset, g.entries, true
}

// saveNote writes the note of a segment. Durable is not needed where only its
// absence would cost another delivery.
func (g *segment) saveNote(durable bool) error {
	file, err := os.OpenFile(g.path+noteSuffix, os.O_WRONLY|os.O_CREATE, fileMode)
	if err != nil {
		return err
	}
	_, err = file.WriteAt(note(g), 0)
	if err == nil && durable {
		if err = file.Sync(); err == nil {
			err = syncFolder(g.path) // it may be new
		}
	}
	return errors.Join(err, file.Close())
}

// place puts a large body beside the journal, fsynced but for its name.
func (j *journal) place(name string, e Entry) (err error) {
	target := j.beside(name)
	defer func() {
		if err != nil {
			if rerr := os.Remove(target); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
				err = errors.Join(err, rerr)
			}
		}
	}()
	if e.File == "" {
		return create(target, bytes.NewReader(e.Body))
	}
	file, err := os.OpenFile(e.File, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }() // synced before
	if err := file.Chmod(fileMode); err != nil {
		return err
	}
	if err := file.Sync(); err != nil {
		return err
	}
	if err := os.Rename(e.File, target); !errors.Is(err, syscall.EXDEV) {
		return err
	}
	if err := create(target, file); err != nil {
		return err
	}
	return os.Remove(e.File)
}

// create writes a new file and makes it last.
func create(path string, from io.Reader) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return err
	}
	if _, err = io.Copy(file, from); err == nil {
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}

// setAside adds to one of the files for people, durably.
func (j *journal) setAside(suffix string, from io.Reader) error {
	path := j.path + suffix
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, fileMode)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }() // synced before
	info, err := file.Stat()
	if err != nil {
		return err
	}
	// What stands there may be without a newline, as a torn line is.
	last := []byte("\n")
	if size := info.Size(); size > 0 {
		if _, err := file.ReadAt(last, size-1); err != nil {
			return err
		}
	}
	if last[0] != '\n' {
		from = io.MultiReader(strings.NewReader("\n"), from)
	}
	if _, err = io.Copy(file, from); err == nil {
		err = file.Sync()
	}
	if err == nil {
		err = syncFolder(path)
	}
	if err != nil {
		// It is tried again: a part of it would only be in the way.
		err = errors.Join(err, file.Truncate(info.Size()))
	}
	return err
}

// findBody is the path of a line's body. It was moved aside already if the
// process was killed while it rejected the entry.
func (j *journal) findBody(r *record) (string, error) {
	// A checksum is no proof of who wrote the line.
	if filepath.Base(r.File) != r.File {
		return "", fmt.Errorf("%q is no name of a file", r.File)
	}
	path := j.beside(r.File)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) && os.Rename(path+rejectedSuffix, path) == nil {
		info, err = os.Stat(path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("finding a large body: %w", err)
	}
	if err != nil {
		return "", fmt.Errorf("%w: finding a large body: %w", errDisk, err)
	}
	if info.Size() != r.Bytes {
		return "", fmt.Errorf("a large body has %d bytes instead of %d", info.Size(), r.Bytes)
	}
	return path, nil
}

// same checks that path still leads to the open file.
func same(file interface{ Stat() (fs.FileInfo, error) }, path string) error {
	mine, err := file.Stat()
	if err != nil {
		return err
	}
	there, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(mine, there) {
		return errReplaced
	}
	return err
}

// syncFolder makes the names beside path last.
func syncFolder(path string) error { return durable.SyncDir(filepath.Dir(path)) }

// full reports whether there was no room on the disk.
func full(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG)
}

func readOnly(err error) bool { return errors.Is(err, syscall.EROFS) }
