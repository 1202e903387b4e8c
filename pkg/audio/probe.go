package audio

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"io"

	"postcall/pkg/call"
)

// Probe writes an object, reads it and deletes it, under a name that no event
// has. Any error is Unavailable and says which of the three failed.
func (s *Store) Probe(ctx context.Context) error {
	content := []byte("postcall probe " + rand.Text())
	name := key(string(content), 1, Audio{SHA256: sha256.Sum256(content), ending: raw})
	if err := s.Put(ctx, name, bytes.NewReader(content)); err != nil {
		return call.Errorf(call.Unavailable, "writing a probe: %w", err)
	}
	read, err := s.readAll(ctx, name)
	if derr := s.Delete(ctx, name); derr != nil && err == nil {
		return call.Errorf(call.Unavailable, "deleting a probe: %w", derr)
	}
	if err != nil {
		return call.Errorf(call.Unavailable, "reading a probe: %w", err)
	}
	if !bytes.Equal(read, content) {
		return call.Errorf(call.Unavailable, "a probe came back as something else")
	}
	return nil
}

func (s *Store) readAll(ctx context.Context, name string) (_ []byte, err error) {
	r, err := s.NewRangeReader(ctx, name, 0, -1)
	if err != nil {
		return nil, err
	}
	defer func() {
		if cerr := r.Close(); err == nil {
			err = cerr
		}
	}()
	return io.ReadAll(io.LimitReader(r, 1<<10))
}
