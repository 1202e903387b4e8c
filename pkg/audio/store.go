package audio

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"gocloud.dev/blob"
	"gocloud.dev/blob/fileblob"
	_ "gocloud.dev/blob/memblob" // mem://
	"gocloud.dev/gcerrors"

	"postcall/pkg/call"
	"postcall/pkg/durable"
)

// Store keeps recordings. It is safe for concurrent use, and any number of
// processes may share one directory or bucket.
type Store struct {
	bucket *blob.Bucket
	dir    string // where the objects are files, else empty
}

// Object is a recording in the store: a row of call_audio.
type Object struct {
	Audio
	Key string
}

// Open opens the store at an address:
//
//   - a path, or file:///path (file://./path for a relative one): a directory,
//     which is made, with files that only this user can read;
//   - s3://bucket?region=…, with the credentials that the AWS SDK finds; more
//     parameters, for other makers' S3 above all (endpoint, use_path_style),
//     stand in https://pkg.go.dev/gocloud.dev/blob/s3blob#URLOpener and
//     https://pkg.go.dev/gocloud.dev/aws#V2ConfigFromURLParams;
//   - mem://: memory, which nobody else sees and which ends with the process.
//
// Nothing is asked of S3 yet: see Check. An address that cannot be is Invalid,
// a directory that cannot be made Unavailable.
func Open(ctx context.Context, address string) (*Store, error) {
	scheme, rest, isURL := strings.Cut(address, "://")
	if !isURL {
		return openDir(address)
	}
	u, err := url.Parse(address)
	if err != nil || u.User != nil {
		// The cause would show the address, which may hold a password.
		return nil, call.Errorf(call.Invalid, "the address of the audio store is not a path or a URL without user and password")
	}
	switch scheme {
	case fileblob.Scheme:
		if strings.ContainsAny(rest, "?#") {
			return nil, call.Errorf(call.Invalid, "a directory for audio takes no parameters")
		}
		dir := u.Path
		switch {
		case u.Host == "." || os.PathSeparator != '/':
			dir = strings.TrimPrefix(dir, "/")
		case u.Host != "" && u.Host != "localhost":
			return nil, call.Errorf(call.Invalid, "a directory for audio is written file:///path")
		}
		return openDir(filepath.FromSlash(dir))
	case "s3", "mem":
		if scheme == "s3" {
			address = s3Address(u)
		}
		bucket, err := blob.OpenBucket(ctx, address)
		if err != nil {
			return nil, call.Errorf(call.Invalid, "opening the audio store: %w", err)
		}
		return &Store{bucket: bucket}, nil
	}
	return nil, call.Errorf(call.Invalid, "audio can be kept under a path, file://, s3:// or mem://, not %s://", scheme)
}

func openDir(dir string) (*Store, error) {
	if dir == "" {
		return nil, call.Errorf(call.Invalid, "the audio store has no address")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, unavailable("finding the directory for audio", err)
	}
	if err := makeDir(filepath.Join(dir, incoming)); err != nil {
		return nil, unavailable("making a directory for audio", err)
	}
	if err := sweep(filepath.Join(dir, incoming)); err != nil {
		return nil, unavailable("clearing the directory for audio", err)
	}
	bucket, err := fileblob.OpenBucket(dir, &fileblob.Options{Metadata: fileblob.MetadataDontWrite})
	if err != nil {
		return nil, unavailable("opening the directory for audio", err)
	}
	return &Store{bucket: bucket, dir: dir}, nil
}

// Close ends the use of the store.
func (s *Store) Close() error {
	if err := s.bucket.Close(); err != nil {
		return fmt.Errorf("closing the audio store: %w", err)
	}
	return nil
}

// Check tells whether the store answers: a directory by taking a file.
// Any error is Unavailable.
func (s *Store) Check(ctx context.Context) error {
	var err error
	if s.dir != "" {
		err = probe(filepath.Join(s.dir, incoming)) // fileblob would walk through all there is
	} else if ok, aerr := s.bucket.IsAccessible(ctx); aerr != nil {
		err = aerr
	} else if !ok {
		err = errors.New("there is no such bucket")
	}
	if err != nil {
		return unavailable("asking the audio store", err)
	}
	return nil
}

// keys are all that ever are used, so that no key can lead out of the store:
// the owner's hash, the position, the content's hash, the format.
var keys = regexp.MustCompile(`^[0-9a-f]{2}/[0-9a-f]{32}-[0-9]{1,2}-([0-9a-f]{64})\.([a-z0-9]{3,4})$`)

// key gives the place of an owner's n-th audio, counted from 1.
func key(owner string, n int, a Audio) string {
	sum := sha256.Sum256([]byte(owner))
	of := hex.EncodeToString(sum[:16])
	return fmt.Sprintf("%s/%s-%d-%x.%s", of[:2], of, n, a.SHA256, a.ending)
}

// parseKey gives what a key tells: the content's hash in hex and the ending.
func parseKey(key string) (sum, ending string, ok bool) {
	m := keys.FindStringSubmatch(key)
	if m == nil || contentType(m[2]) == "" {
		return "", "", false
	}
	return m[1], m[2], true
}

// Save keeps the audio of a delivery. Owner is what identifies its event, the
// DedupKey: a repeat comes to the same keys and replaces like with like, and
// no two events share an object, so that each can be deleted with its own. On
// an error, objects that were saved before it stay, for the next attempt.
//
// Once there is no error, a directory has everything on disk. An error of the
// store is Unavailable.
func (s *Store) Save(ctx context.Context, owner string, x *Extraction) ([]Object, error) {
	objects := make([]Object, 0, len(x.Audio))
	for i, a := range x.Audio {
		o := Object{Audio: a, Key: key(owner, i+1, a)}
		if err := s.Put(ctx, o.Key, x.open(a)); err != nil {
			return nil, err
		}
		objects = append(objects, o)
	}
	return objects, nil
}

// Put keeps what r gives under a key that Save made, all of it or nothing: on
// an error, the end of ctx or a kill nothing can be seen there, or what was
// there before.
//
// An error of r is wrapped, one of the store is Unavailable, another key is
// Invalid.
func (s *Store) Put(ctx context.Context, key string, r io.Reader) error {
	_, ending, ok := parseKey(key)
	if !ok {
		return call.Errorf(call.Invalid, "%q is no key of an audio", key)
	}
	src := &source{r: reader{ctx, r}}
	var err error
	if s.dir != "" {
		err = putFile(s.dir, key, src)
	} else {
		err = s.putBlob(ctx, key, contentType(ending), src)
	}
	switch {
	case src.err != nil && ctx.Err() == nil:
		return fmt.Errorf("reading an audio: %w", src.err)
	case err != nil:
		return unavailable("keeping an audio", err)
	}
	return nil
}

func (s *Store) putBlob(ctx context.Context, key, contentType string, r io.Reader) error {
	var u upload
	s.bucket.As(&u.client)
	writing, cancel := context.WithCancel(ctx)
	defer cancel()
	// One part in flight: many deliveries come at a time, and each is in memory
	// by its parts.
	w, err := s.bucket.NewWriter(writing, key, &blob.WriterOptions{
		ContentType: contentType, BufferSize: 5 << 20, MaxConcurrency: 1, BeforeWrite: u.note,
	})
	if err != nil {
		return err
	}
	if _, err = io.Copy(w, r); err != nil {
		// Closing publishes what was written, even half of it, unless the
		// context has ended before.
		cancel()
	}
	if err = errors.Join(err, w.Close()); err != nil {
		err = errors.Join(err, u.clear(ctx, err))
	}
	return err
}

// NewRangeReader reads length bytes of an object from offset on, all of the
// rest if length is negative. The caller closes it. There being no such object
// is NotFound, another error Unavailable.
func (s *Store) NewRangeReader(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if _, _, ok := parseKey(key); !ok {
		return nil, errNotFound
	}
	r, err := s.bucket.NewRangeReader(ctx, key, offset, length, nil)
	if err != nil {
		return nil, readError(err)
	}
	return r, nil
}

// Delete removes an object. That it is not there is no error; another one is
// Unavailable.
func (s *Store) Delete(ctx context.Context, key string) error {
	if _, _, ok := parseKey(key); !ok {
		return nil
	}
	if err := s.bucket.Delete(ctx, key); err != nil && gcerrors.Code(err) != gcerrors.NotFound {
		return unavailable("deleting an audio", err)
	}
	return nil
}

var errNotFound = &call.Error{Code: call.NotFound, Message: "There is no such audio."}

func readError(err error) error {
	if gcerrors.Code(err) == gcerrors.NotFound {
		return errNotFound
	}
	return unavailable("reading an audio", err)
}

func unavailable(what string, err error) error {
	return &call.Error{Code: call.Unavailable, Message: what, Err: err}
}

// reader ends with its context.
type reader struct {
	ctx context.Context // it lives as long as the call it is made for
	r   io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// source remembers why reading failed, so that a copy's two sides can be told
// apart.
type source struct {
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// incoming is the directory of files that are being written. fileblob would
// write them either among the objects or in the system's directory for
// temporary files, from where they cannot always be renamed; here those that a
// kill left can be found again.
const incoming = ".incoming"

// abandoned is how long nothing has to be written to a file in incoming before
// it is taken for a killed process'.
const abandoned = time.Hour

// putFile writes an object's file. A delivery is acknowledged on the strength
// of it, so that file and directories are synced, which fileblob does not do.
func putFile(dir, key string, r io.Reader) (err error) {
	file, err := os.CreateTemp(filepath.Join(dir, incoming), "*") // mode 0600
	if err != nil {
		return err
	}
	renamed := false
	defer func() {
		if !renamed {
			err = errors.Join(err, os.Remove(file.Name()))
		}
	}()
	_, err = io.Copy(file, r)
	if err == nil {
		err = file.Sync()
	}
	if cerr := file.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	shard := filepath.Join(dir, path.Dir(key))
	if err = os.Mkdir(shard, 0o750); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if err = os.Rename(file.Name(), filepath.Join(dir, filepath.FromSlash(key))); err != nil {
		return err
	}
	renamed = true
	if err = durable.SyncDir(shard); err != nil {
		return err
	}
	// Always, since whoever made the shard may not be as far yet.
	return durable.SyncDir(dir)
}

// makeDir makes a directory and those above it, each synced into its parent.
func makeDir(dir string) error {
	if info, err := os.Stat(dir); err == nil && info.IsDir() {
		return nil
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := makeDir(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o750); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return durable.SyncDir(parent)
}

// sweep removes files that were being written when their process was killed.
func sweep(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		info, err := e.Info()
		if errors.Is(err, os.ErrNotExist) {
			continue // it is done, or another process swept it
		}
		if err != nil {
			return err
		}
		if time.Since(info.ModTime()) < abandoned {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// probe tells whether a directory takes files.
func probe(dir string) error {
	file, err := os.CreateTemp(dir, "check-*")
	if err != nil {
		return err
	}
	_, err = file.WriteString("check")
	return errors.Join(err, file.Close(), os.Remove(file.Name()))
}
