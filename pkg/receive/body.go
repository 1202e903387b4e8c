package receive

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"postcall/pkg/spool"
)

// inMemory is how much of a body is held in memory, in bytes. What is larger,
// audio mostly, goes through a temporary file, so that memory stays flat.
const inMemory = 1 << 20

// reuse bounds the buffers that are kept for the next body, in bytes: large
// ones go back to the system.
const reuse = 128 << 10

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// body is a delivery's body, in memory or in a file of its own.
type body struct {
	memory *bytes.Buffer // nil when it is in the file
	file   *os.File
	size   int64
}

// readBody takes a body from the network. Length is what the sender announced,
// -1 for nothing; dir is where large ones go. What it returns must be released,
// also beside an error.
func readBody(r io.Reader, length int64, dir string) (*body, error) {
	buf, ok := buffers.Get().(*bytes.Buffer)
	if !ok {
		buf = new(bytes.Buffer)
	}
	buf.Reset()
	b := &body{memory: buf}
	if length > 0 {
		// One more than announced, so that the end is seen without growing.
		buf.Grow(int(min(length, inMemory)) + bytes.MinRead)
	}
	n, err := buf.ReadFrom(io.LimitReader(r, inMemory))
	b.size = n
	if err != nil || n < inMemory {
		return b, err
	}
	var rest [1]byte
	if _, err := io.ReadFull(r, rest[:]); errors.Is(err, io.EOF) {
		return b, nil
	} else if err != nil {
		return b, err
	}
	file, err := os.CreateTemp(dir, "body-*")
	if err != nil {
		return b, &fileError{err}
	}
	// Large bodies are rarely in memory again: the buffer is not kept either.
	b.memory, b.file = nil, file
	b.size, err = io.Copy(fileWriter{file}, io.MultiReader(buf, bytes.NewReader(rest[:]), r))
	return b, err
}

// fileError is a fault of our disk, not of the sender.
type fileError struct{ err error }

func (e *fileError) Error() string { return "keeping a large body in a file: " + e.err.Error() }

func (e *fileError) Unwrap() error { return e.err }

// fileWriter marks the errors of writing, so that a copy's two sides can be
// told apart.
type fileWriter struct{ file *os.File }

func (w fileWriter) Write(p []byte) (int, error) {
	n, err := w.file.Write(p)
	if err != nil {
		err = &fileError{err}
	}
	return n, err
}

// at reads the body from any place.
func (b *body) at() io.ReaderAt {
	if b.file != nil {
		return b.file
	}
	return bytes.NewReader(b.memory.Bytes())
}

// bytes is the whole body. A large one is read into memory: see Keeper.Large.
func (b *body) bytes() ([]byte, error) {
	if b.file == nil {
		return b.memory.Bytes(), nil
	}
	all := make([]byte, b.size)
	if _, err := b.file.ReadAt(all, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("reading a large body back: %w", err)
	}
	return all, nil
}

// path is the body's file, empty for one in memory.
func (b *body) path() string {
	if b.file == nil {
		return ""
	}
	return b.file.Name()
}

// release gives up what the body holds. Its memory may be used for the next
// one only if nobody can be reading it any more: after a commit that was given
// up on, a committer still might.
func (b *body) release(reusable bool) error {
	if b.memory != nil {
		if reusable && b.memory.Cap() <= reuse {
			buffers.Put(b.memory)
		}
		b.memory = nil
	}
	if b.file == nil {
		return nil
	}
	err := b.file.Close()
	// The spool takes the file over by renaming it.
	if rerr := os.Remove(b.file.Name()); rerr != nil && !errors.Is(rerr, os.ErrNotExist) {
		err = errors.Join(err, rerr)
	}
	b.file = nil
	if err != nil {
		return fmt.Errorf("removing a large body's file: %w", err)
	}
	return nil
}

// openSpooled is the body of a spooled delivery. The spool owns its file.
func openSpooled(entry spool.Entry) (*body, error) {
	if entry.File == "" {
		return &body{memory: bytes.NewBuffer(entry.Body), size: int64(len(entry.Body))}, nil
	}
	file, err := os.Open(entry.File)
	if err != nil {
		return nil, fmt.Errorf("opening a spooled body: %w", err)
	}
	info, err := file.Stat()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening a spooled body: %w", err), file.Close())
	}
	return &body{file: file, size: info.Size()}, nil
}

// closeSpooled closes the file and leaves it to the spool.
func (b *body) closeSpooled() error {
	if b.file == nil {
		return nil
	}
	if err := b.file.Close(); err != nil {
		return fmt.Errorf("closing a spooled body: %w", err)
	}
	return nil
}

// abandoned is from which age on a body's file belongs to nobody: no body may
// take as long to arrive.
const abandoned = time.Hour

// RemoveAbandoned removes the files of bodies that a killed process left.
func RemoveAbandoned(dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, "body-*"))
	if err != nil {
		return err
	}
	for _, name := range files {
		info, err := os.Stat(name)
		if err != nil || time.Since(info.ModTime()) < abandoned {
			continue
		}
		if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("removing what a killed process left: %w", err)
		}
	}
	return nil
}
