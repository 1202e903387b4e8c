package audio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"gocloud.dev/blob"
)

// Serve answers a request for an object, or for ranges of it, as a player
// makes them: RFC 9110 with ranges, If-Range, If-None-Match and HEAD. Whether
// who is asking may listen is the caller's.
//
// The ETag is the content's hash. A browser asks again each time before it
// uses what it kept, since the right to listen may have ended. The type is
// always one of audio, whatever the bytes are: nothing that a caller said can
// become a page.
//
// With an error nothing has been answered yet: NotFound for a key that is not
// there, is none of a recording or is of one that could not be decoded;
// Unavailable for a store that does not answer.
func (s *Store) Serve(w http.ResponseWriter, r *http.Request, key string) error {
	sum, ending, ok := parseKey(key)
	if !ok || !strings.HasPrefix(contentType(ending), "audio/") {
		return errNotFound
	}
	ctx := r.Context()
	attributes, err := s.bucket.Attributes(ctx, key)
	if err != nil {
		return readError(err)
	}
	content := &content{ctx: ctx, bucket: s.bucket, key: key, size: attributes.Size}
	defer content.close()
	header := w.Header()
	header.Set("Content-Type", contentType(ending))
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Cache-Control", "private, no-cache")
	header.Set("ETag", `"`+sum+`"`)
	http.ServeContent(w, r, "", attributes.ModTime, content)
	return nil
}

// content reads an object from any place, by a request to the store for each.
type content struct {
	ctx    context.Context // it lives as long as the request
	bucket *blob.Bucket
	key    string
	size   int64
	at     int64
	open   *blob.Reader // reads at at; nil if it must be opened first
}

func (c *content) Read(p []byte) (int, error) {
	if c.at >= c.size {
		return 0, io.EOF
	}
	if c.open == nil {
		r, err := c.bucket.NewRangeReader(c.ctx, c.key, c.at, -1, nil)
		if err != nil {
			return 0, fmt.Errorf("reading an audio: %w", err)
		}
		c.open = r
	}
	n, err := c.open.Read(p)
	c.at += int64(n)
	return n, err
}

func (c *content) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += c.at
	case io.SeekEnd:
		offset += c.size
	}
	if offset < 0 {
		return 0, errors.New("seeking before the beginning of an audio")
	}
	if offset != c.at {
		c.close()
		c.at = offset
	}
	return offset, nil
}

// close ends the request to the store.
func (c *content) close() {
	if c.open != nil {
		_ = c.open.Close() // nothing was written, and what was read has been given away
		c.open = nil
	}
}
