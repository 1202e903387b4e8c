package markdown

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"postcall/pkg/durable"
)

// removedLine stands where a line of a person's own was that spoke of somebody
// who had to be forgotten.
const removedLine = "[удалено по требованию]\n"

// Removed says what Remove took out.
type Removed struct {
	Entries int
	Lines   int // that people had written between the entries
}

// Remove takes the entries of analyses out of the file, and every other entry
// in which a line matches; of what people wrote themselves, each line that
// matches is replaced by a note. No file is no error. It holds the lock, writes
// a new file and puts it in the place of the old one, so that a kill leaves one
// of them whole. An editor that saved meanwhile makes it Unavailable.
func (e *Exporter) Remove(ctx context.Context, analyses map[int64]bool, match func(line []byte) bool) (r Removed, err error) {
	if _, err := os.Stat(e.path); errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	guard, err := e.lock(ctx)
	if err != nil {
		return r, err
	}
	defer func() { _ = guard.Close() }() // and with it the lock
	file, err := os.OpenFile(e.path, os.O_RDWR|os.O_APPEND, fileMode)
	if err != nil {
		return r, e.trouble("open it", err)
	}
	defer func() { _ = file.Close() }() // it is only read, or has been synced
	if err := repair(file, guard); err != nil {
		return r, e.trouble("remove a torn entry", err)
	}
	// An intent that was fulfilled still holds its entry.
	if err := errors.Join(guard.Truncate(0), guard.Sync()); err != nil {
		return r, e.trouble("clear its lock file", err)
	}
	if r, err = e.rewrite(ctx, file, analyses, match); err != nil {
		return Removed{}, e.trouble("remove entries", err)
	}
	return r, nil
}

func (e *Exporter) rewrite(ctx context.Context, file *os.File, analyses map[int64]bool, match func([]byte) bool) (r Removed, err error) {
	before, err := file.Stat()
	if err != nil {
		return r, err
	}
	next, err := os.CreateTemp(filepath.Dir(e.path), "."+filepath.Base(e.path)+"-*")
	if err != nil {
		return r, err
	}
	renamed := false
	defer func() {
		err = errors.Join(err, next.Close())
		if !renamed {
			err = errors.Join(err, os.Remove(next.Name()))
		}
	}()
	out := bufio.NewWriter(next)
	if r, err = filter(ctx, file, out, analyses, match); err != nil {
		return r, err
	}
	if r == (Removed{}) {
		return r, nil
	}
	if err := errors.Join(out.Flush(), next.Chmod(before.Mode().Perm()), next.Sync()); err != nil {
		return r, err
	}
	// Whoever edits the file does not know of the lock.
	after, err := file.Stat()
	if err != nil {
		return r, err
	}
	if err := same(file, e.path); err != nil {
		return r, err
	}
	if after.Size() != before.Size() || !after.ModTime().Equal(before.ModTime()) {
		return r, errReplaced
	}
	if err := os.Rename(next.Name(), e.path); err != nil {
		return r, err
	}
	renamed = true
	return r, durable.SyncDir(filepath.Dir(e.path))
}

// filter copies what stays. An entry goes as a whole; one without an end goes as
// far as the next one begins.
func filter(ctx context.Context, in io.Reader, out *bufio.Writer, analyses map[int64]bool, match func([]byte) bool) (r Removed, err error) {
	var (
		lines = bufio.NewReader(in)
		entry bytes.Buffer // the entry that is being read
		id    int64        // of its analysis; 0 between entries
		gone  bool         // whether it goes
	)
	finish := func() error {
		defer entry.Reset()
		if id != 0 && gone {
			r.Entries++
			return nil
		}
		_, err := entry.WriteTo(out)
		return err
	}
	for {
		if ctx.Err() != nil {
			return r, ctx.Err()
		}
		line, err := lines.ReadBytes('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return r, err
		}
		text := bytes.TrimRight(line, " \t\r\n")
		switch begun := analysisOf(text); {
		case begun != 0:
			if err := finish(); err != nil {
				return r, err
			}
			id, gone = begun, analyses[begun]
			entry.Write(line)
		case id != 0:
			gone = gone || match(line)
			entry.Write(line)
			if bytes.Equal(text, endOf(id, entry.Bytes())) {
				if err := finish(); err != nil {
					return r, err
				}
				if gone { // the empty line behind an entry is the entry's
					if next, perr := lines.Peek(1); perr == nil && next[0] == '\n' {
						_, _ = lines.Discard(1) // it is there
					}
				}
				id, gone = 0, false
			}
		case match(line):
			r.Lines++
			if _, err := out.WriteString(removedLine); err != nil {
				return r, err
			}
		default:
			if _, err := out.Write(line); err != nil {
				return r, err
			}
		}
		if errors.Is(err, io.EOF) {
			return r, finish()
		}
	}
}

// analysisOf gives the analysis that a line begins the entry of, 0 for another
// line.
func analysisOf(line []byte) int64 {
	rest, ok := bytes.CutPrefix(line, []byte(markerStart))
	if !ok {
		return 0
	}
	number, _, _ := bytes.Cut(rest, []byte(" "))
	id, err := strconv.ParseInt(string(number), 10, 64)
	if err != nil {
		return 0
	}
	return id
}

// endOf gives the last line of the entry that begins as text does.
func endOf(id int64, text []byte) []byte {
	first, _, _ := bytes.Cut(text, []byte("\n"))
	_, rest, _ := bytes.Cut(bytes.TrimRight(first, " \t\r"), []byte(" call="))
	return fmt.Appendf(nil, "<!-- /postcall:analysis=%d call=%s", id, rest)
}
