package markdown

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"postcall/pkg/call"
	"postcall/pkg/durable"
)

// The entries hold names and telephone numbers: nothing for others.
const (
	fileMode   = 0o640
	folderMode = 0o750
)

// writeFunc is how a file is written, so that tests can break it off.
type writeFunc func(f *os.File, b []byte) (int, error)

func writeFile(f *os.File, b []byte) (int, error) { return f.Write(b) }

// put brings an entry into the file, unless again is set and it stands there
// already, and says where it is.
func (e *Exporter) put(ctx context.Context, m marker, entry string, again bool) (place, string, error) {
	if err := os.MkdirAll(filepath.Dir(e.path), folderMode); err != nil {
		return place{}, "", e.trouble("make its folder", err)
	}
	guard, err := e.lock(ctx)
	if err != nil {
		return place{}, "", err
	}
	defer func() { _ = guard.Close() }() // and with it the lock

	file, err := os.OpenFile(e.path, os.O_RDWR|os.O_CREATE|os.O_APPEND, fileMode)
	if err != nil {
		return place{}, "", e.trouble("open it", err)
	}
	defer func() { _ = file.Close() }() // what matters has been synced
	if err := repair(file, guard); err != nil {
		return place{}, "", e.trouble("remove a torn entry", err)
	}
	if again {
		where, found, err := find(ctx, file, m)
		if err == nil && found {
			err = file.Sync() // the earlier attempt may have been killed before it got to that
		}
		if err != nil {
			return place{}, "", e.trouble("look for an earlier entry", err)
		}
		if found {
			where.Path = e.path
			return where, answerThere, nil
		}
	}

	// A process that was stopped for long can come to itself after its turn
	// was given to another. Its timers are late then, so the clock is asked.
	if deadline, ok := ctx.Deadline(); ctx.Err() != nil || ok && !time.Now().Before(deadline) {
		return place{}, "", e.trouble("append an entry", cmp.Or(ctx.Err(), context.DeadlineExceeded))
	}
	where, err := e.append(file, guard, entry)
	if err != nil {
		return place{}, answerBegun, e.trouble("append an entry", err)
	}
	return where, answerWritten, nil
}

// intent is what the owner of the lock is about to append. It stands in the
// lock file as JSON, of which a part is never valid: an intent that was itself
// cut off counts as none.
type intent struct {
	Offset int64  `json:"offset"`
	Text   string `json:"text"`
}

// append adds an entry at the end of the file, all of it or nothing.
func (e *Exporter) append(file, guard *os.File, entry string) (place, error) {
	info, err := file.Stat()
	if err != nil {
		return place{}, err
	}
	lead, err := leadIn(file, info.Size())
	if err != nil {
		return place{}, err
	}
	in := intent{Offset: info.Size(), Text: lead + entry}
	if err := in.announce(guard); err != nil {
		return place{}, fmt.Errorf("note what is to be written: %w", err)
	}
	_, err = e.write(file, []byte(in.Text))
	if err == nil {
		err = file.Sync()
	}
	if err == nil && in.Offset == 0 {
		err = durable.SyncDir(filepath.Dir(e.path)) // the file may be new
	}
	if err != nil {
		// If this fails as well, the intent stays for the next writer.
		return place{}, errors.Join(err, in.undo(file, guard))
	}
	// The entry is safe. An intent that stays does no harm: it is fulfilled.
	_ = guard.Truncate(0)

	// An editor that saved meanwhile has put another file in place of ours, in
	// which the entry is missing. The next attempt looks for it there.
	if err := same(file, e.path); err != nil {
		return place{}, err
	}
	end, err := file.Seek(0, io.SeekCurrent) // where the write ended, even if somebody else appended before it
	if err != nil {
		return place{}, err
	}
	return place{Path: e.path, Offset: end - int64(len(entry)), Bytes: int64(len(entry))}, nil
}

// leadIn is what must stand between the end of the file and an entry.
func leadIn(file *os.File, size int64) (string, error) {
	if size == 0 {
		return header, nil
	}
	end := make([]byte, min(size, 2))
	if _, err := file.ReadAt(end, size-int64(len(end))); err != nil {
		return "", fmt.Errorf("read its end: %w", err)
	}
	switch {
	case bytes.HasSuffix(end, []byte("\n\n")):
		return "", nil
	case bytes.HasSuffix(end, []byte("\n")):
		return "\n", nil
	default:
		return "\n\n", nil
	}
}

// announce puts the intent into the lock file, durably: after a power cut the
// part of the entry that reached the disk must not stand without it.
func (in intent) announce(guard *os.File) error {
	b, err := json.Marshal(in)
	if err != nil {
		return err
	}
	if err := guard.Truncate(0); err != nil {
		return err
	}
	if _, err := guard.WriteAt(b, 0); err != nil {
		return err
	}
	return guard.Sync()
}

// undo takes back whatever of the intent has got into the file.
func (in intent) undo(file, guard *os.File) error {
	if ours, _, err := in.remains(file); err != nil || !ours {
		return err
	}
	return in.cut(file, guard)
}

func (in intent) cut(file, guard *os.File) error {
	if err := file.Truncate(in.Offset); err != nil {
		return fmt.Errorf("cut off a torn entry: %w", err)
	}
	if err := file.Sync(); err != nil {
		return fmt.Errorf("cut off a torn entry: %w", err)
	}
	_ = guard.Truncate(0) // what has been cut is not cut again: then there are no remains
	return nil
}

// remains reports whether the end of the file is made of the intended text
// alone, a part of it or the whole. A zero byte counts as the text's: it is
// what a power cut leaves where a block was not written yet.
func (in intent) remains(file *os.File) (ours, whole bool, err error) {
	tail := make([]byte, len(in.Text)+1)
	n, err := file.ReadAt(tail, in.Offset)
	if err != nil && !errors.Is(err, io.EOF) {
		return false, false, fmt.Errorf("read its end: %w", err)
	}
	if n == 0 || n > len(in.Text) {
		return false, false, nil
	}
	for i, b := range tail[:n] {
		if b != in.Text[i] && b != 0 {
			return false, false, nil
		}
	}
	return true, string(tail[:n]) == in.Text, nil
}

// repair removes the torn entry that an earlier owner of the lock left at the
// end of the file. Anything that is not surely such an entry stays.
func repair(file, guard *os.File) error {
	b, err := io.ReadAll(io.NewSectionReader(guard, 0, maxIntent))
	if err != nil {
		return fmt.Errorf("read the lock file: %w", err)
	}
	var in intent
	if broken := json.Unmarshal(b, &in); broken != nil || in.Offset < 0 {
		return nil //nolint:nilerr // none was announced, or its owner died before writing
	}
	if ours, whole, err := in.remains(file); err != nil || !ours || whole {
		return err
	}
	return in.cut(file, guard)
}

// maxIntent is above the largest intent: see TestEntryIsBounded.
const maxIntent = 1 << 20

// find looks for the complete entry of m: both its markers with no other entry
// starting between them. It reads the file as a stream.
func find(ctx context.Context, file *os.File, m marker) (place, bool, error) {
	info, err := file.Stat()
	if err != nil {
		return place{}, false, err
	}
	r := bufio.NewReaderSize(io.NewSectionReader(file, 0, info.Size()), 64<<10)
	begin, end := []byte(m.begin()), []byte(m.end())
	var at int64
	start := int64(-1) // of the entry, while inside it
	whole := true      // whether the piece starts a line
	for {
		piece, err := r.ReadSlice('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) && !errors.Is(err, io.EOF) {
			return place{}, false, err
		}
		if ctx.Err() != nil {
			return place{}, false, ctx.Err()
		}
		text := bytes.TrimRight(piece, " \t\r\n")
		switch {
		case whole && bytes.Equal(text, begin):
			start = at
		case whole && bytes.HasPrefix(text, []byte(markerStart)),
			bytes.IndexByte(piece, 0) >= 0: // a power cut left a hole
			start = -1
		case whole && start >= 0 && bytes.Equal(text, end):
			return place{Offset: start, Bytes: at + int64(len(piece)) - start}, true, nil
		}
		at += int64(len(piece))
		whole = err == nil
		if errors.Is(err, io.EOF) {
			return place{}, false, nil
		}
	}
}

// lock waits for the lock and returns the file that holds it until closed.
func (e *Exporter) lock(ctx context.Context) (*os.File, error) {
	ctx, cancel := context.WithTimeout(ctx, e.patience)
	defer cancel()
	path := e.path + ".lock"
	for {
		guard, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, fileMode)
		if err != nil {
			return nil, e.trouble("open "+path, err)
		}
		if err := acquire(ctx, guard); err != nil {
			_ = guard.Close()
			return nil, e.trouble("lock "+path, err)
		}
		if same(guard, path) == nil {
			return guard, nil
		}
		_ = guard.Close() // somebody removed the file: others lock a new one
	}
}

// errLocked says that the lock did not become free in time.
var errLocked = errors.New("it is held by another process")

// acquire takes the lock, asking again and again: a blocking flock could not
// be given up when ctx ends.
func acquire(ctx context.Context, guard *os.File) error {
	const longest = 50 * time.Millisecond
	for pause := time.Millisecond; ; pause = min(2*pause, longest) {
		err := syscall.Flock(int(guard.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil || !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(errLocked, ctx.Err())
		case <-time.After(pause):
		}
	}
}

// errReplaced says that the open file is no longer the one at its path.
var errReplaced = errors.New("it was replaced by another file meanwhile")

// same checks that path still leads to the open file f.
func same(f *os.File, path string) error {
	mine, err := f.Stat()
	if err != nil {
		return err
	}
	there, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(mine, there) {
		return errReplaced
	}
	return err
}

// trouble tells an operator what could not be done and what helps. All of it
// may pass by itself or be put right, so the entry is tried again.
func (e *Exporter) trouble(doing string, err error) error {
	help := "see what the system says"
	switch {
	case errors.Is(err, errLocked):
		help = "see which process hangs with " + e.path + ".lock open"
	case errors.Is(err, errReplaced):
		help = "an editor saved it just then; the next attempt writes into the new file"
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		help = "there was no time left; the next attempt goes on"
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EFBIG):
		help = "the disk or a limit is full: make room"
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		help = "let the worker's user write the file and its folder, or set CRM_MD_PATH to another place"
	case errors.Is(err, syscall.EISDIR), errors.Is(err, syscall.ENOTDIR):
		help = "set CRM_MD_PATH to a file, not a folder"
	}
	return call.Errorf(call.Unavailable, "Markdown file %s: cannot %s (%s): %w", e.path, doing, help, err)
}
