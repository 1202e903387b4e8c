package audio_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"postcall/pkg/audio"
	"postcall/pkg/call"
)

func TestMain(m *testing.M) {
	// Static credentials for the fake S3; nothing else may be looked for.
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "made", "AWS_SECRET_ACCESS_KEY": "made", "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull,
	} {
		if err := os.Setenv(name, value); err != nil {
			panic(err)
		}
	}
	goleak.VerifyTestMain(m,
		// Idle connections of the SDK's own client end by themselves.
		goleak.IgnoreTopFunction("net/http.(*persistConn).readLoop"),
		goleak.IgnoreTopFunction("net/http.(*persistConn).writeLoop"),
		goleak.IgnoreTopFunction("internal/poll.runtime_pollWait"))
}

// setup is one kind of store.
type setup struct {
	*testing.T
	store *audio.Store
	// left gives what is in the store, by names that differ from kind to kind;
	// nil where nobody can look.
	left func() []string
}

// stores runs a test with every kind of store.
func stores(t *testing.T, test func(s setup)) {
	t.Helper()
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "new", "audio")
	s3 := startS3(t)
	for name, c := range map[string]struct {
		address string
		left    func() []string
	}{
		"directory": {(&url.URL{Scheme: "file", Path: filepath.ToSlash(dir)}).String(), func() []string { return files(t, dir) }},
		"memory":    {"mem://", nil},
		"S3":        {"s3://audio?region=eu-central-1&use_path_style=true&endpoint=" + url.QueryEscape(s3.url), s3.left},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store, err := audio.Open(t.Context(), c.address)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := store.Close(); err != nil {
					t.Error(err)
				}
			})
			test(setup{t, store, c.left})
		})
	}
}

// files gives all files below a directory.
func files(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			names = append(names, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func save(t *testing.T, store *audio.Store, owner string, content []byte) audio.Object {
	t.Helper()
	body := []byte(`{"full_audio": "` + std(content) + `"}`)
	x, err := audio.Extract(t.Context(), bytes.NewReader(body), int64(len(body)))
	if err != nil {
		t.Fatal(err)
	}
	objects, err := store.Save(t.Context(), owner, x)
	if err != nil || len(objects) != 1 {
		t.Fatalf("%d objects, %v", len(objects), err)
	}
	return objects[0]
}

func TestStore(t *testing.T) {
	stores(t, func(s setup) {
		t, store, left := s.T, s.store, s.left
		if err := store.Check(t.Context()); err != nil {
			t.Fatal(err)
		}
		content := mp3(100_000)
		o := save(t, store, "call:post_call_audio:../../etc/passwd\x00:1", content)
		if again := save(t, store, "call:post_call_audio:../../etc/passwd\x00:1", content); again.Key != o.Key {
			t.Fatalf("a repeat goes to %s, not %s", again.Key, o.Key)
		}
		other := save(t, store, "another", content)
		if other.Key == o.Key {
			t.Fatal("two events share an object")
		}
		if len(o.Key) > 128 || strings.Contains(o.Key, "..") {
			t.Fatalf("the key is %s", o.Key)
		}
		for _, c := range []struct{ offset, length, from, to int }{
			{0, -1, 0, 100_000}, {10, 20, 10, 30}, {99_990, 100, 99_990, 100_000}, {50, -1, 50, 100_000}, {0, 0, 0, 0},
		} {
			if got := read(t, store, o.Key, int64(c.offset), int64(c.length)); !bytes.Equal(got, content[c.from:c.to]) {
				t.Errorf("%d bytes from %d on are %d", c.length, c.offset, len(got))
			}
		}
		if left != nil && len(left()) != 2 {
			t.Errorf("there are %v", left())
		}
		for range 2 { // what is not there can be deleted
			if err := store.Delete(t.Context(), o.Key); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := store.NewRangeReader(t.Context(), o.Key, 0, -1); call.CodeOf(err) != call.NotFound {
			t.Errorf("reading what was deleted: %v", err)
		}
		read(t, store, other.Key, 0, 1)
		for _, check := range []func(context.Context) error{store.Check, store.Probe} {
			if err := check(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if left != nil && len(left()) != 1 {
			t.Errorf("there are %v", left())
		}
	})
}

func TestManyAtOnce(t *testing.T) {
	stores(t, func(s setup) {
		t, store, left := s.T, s.store, s.left
		var wg sync.WaitGroup
		for i := range 32 {
			wg.Go(func() {
				content := mp3(1000 + i/2)
				body := []byte(`{"full_audio": "` + std(content) + `"}`)
				x, err := audio.Extract(t.Context(), bytes.NewReader(body), int64(len(body)))
				if err != nil {
					t.Error(err)
					return
				}
				objects, err := store.Save(t.Context(), fmt.Sprint("owner ", i/2), x) // two save the same
				if err != nil {
					t.Error(err)
					return
				}
				if !bytes.Equal(read(t, store, objects[0].Key, 0, -1), content) {
					t.Error("another's content")
				}
			})
		}
		wg.Wait()
		if left != nil && len(left()) != 16 {
			t.Errorf("there are %d", len(left()))
		}
	})
}

// breaking gives n bytes and then an error, or what happens to its context.
type breaking struct {
	n   int
	end func() error
}

func (b *breaking) Read(p []byte) (int, error) {
	if b.n <= 0 {
		return 0, b.end()
	}
	p = p[:min(len(p), b.n)]
	b.n -= len(p)
	return len(p), nil
}

// All of it or nothing: whatever ends a Put, at whatever place, nothing is left
// behind, and what was there before stays.
func TestPutBreaks(t *testing.T) {
	stores(t, func(s setup) {
		t, store, left := s.T, s.store, s.left
		content := mp3(1000)
		kept := save(t, store, "kept", content)
		fresh := strings.Replace(kept.Key, "-1-", "-2-", 1)
		broken := errors.New("the body is gone")
		for _, n := range []int{0, 1, 600, 5 << 20, 20 << 20} {
			for _, key := range []string{kept.Key, fresh} {
				err := store.Put(t.Context(), key, &breaking{n, func() error { return broken }})
				if !errors.Is(err, broken) || call.CodeOf(err) != call.Internal {
					t.Errorf("broken after %d bytes: %v", n, err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				err = store.Put(ctx, key, &breaking{n, func() error { cancel(); return nil }})
				if !errors.Is(err, context.Canceled) || call.CodeOf(err) != call.Unavailable {
					t.Errorf("cancelled after %d bytes: %v", n, err)
				}
				cancel()
			}
			if _, err := store.NewRangeReader(t.Context(), fresh, 0, -1); call.CodeOf(err) != call.NotFound {
				t.Errorf("something is left of %d bytes: %v", n, err)
			}
			if !bytes.Equal(read(t, store, kept.Key, 0, -1), content) {
				t.Errorf("%d bytes took the place of what was there", n)
			}
			if left != nil && len(left()) != 1 {
				t.Errorf("after %d bytes there are %v", n, left())
			}
		}
		// Large ones come whole all the same.
		large := mp3(21 << 20)
		if err := store.Put(t.Context(), fresh, bytes.NewReader(large)); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(read(t, store, fresh, 0, -1), large) {
			t.Error("21 MiB came back as something else")
		}
	})
}

// No key leads out of the store or to what is none of its objects.
func TestHostileKeys(t *testing.T) {
	stores(t, func(s setup) {
		t, store, left := s.T, s.store, s.left
		good := save(t, store, "owner", mp3(100)).Key
		for _, key := range []string{
			"", ".", "..", "../x", "/etc/passwd", `..\..\x`, "C:/x", ".incoming/x", good + "/..", "/" + good, "./" + good,
			good + "\x00", good + "\n", strings.Replace(good, ".mp3", ".exe", 1), strings.Replace(good, "/", "/../", 1),
			strings.ToUpper(good), strings.TrimSuffix(good, ".mp3"), good + ".attrs", strings.Repeat("a", 10_000),
		} {
			if _, err := store.NewRangeReader(t.Context(), key, 0, -1); call.CodeOf(err) != call.NotFound {
				t.Errorf("reading %.80q: %v", key, err)
			}
			if err := store.Serve(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil), key); call.CodeOf(err) != call.NotFound {
				t.Errorf("serving %.80q: %v", key, err)
			}
			if err := store.Put(t.Context(), key, strings.NewReader("x")); call.CodeOf(err) != call.Invalid {
				t.Errorf("keeping %.80q: %v", key, err)
			}
			if err := store.Delete(t.Context(), key); err != nil {
				t.Errorf("deleting %.80q: %v", key, err)
			}
		}
		if left != nil && len(left()) != 1 {
			t.Errorf("there are %v", left())
		}
	})
}

func TestServe(t *testing.T) {
	stores(t, func(s setup) {
		t, store := s.T, s.store
		content := mp3(100_000)
		o := save(t, store, "owner", content)
		etag := fmt.Sprintf(`"%x"`, o.SHA256)
		for name, c := range map[string]struct {
			method string
			header map[string]string
			status int
			body   []byte
			extent string // Content-Range
		}{
			"all":                {status: 200, body: content},
			"head":               {method: "HEAD", status: 200},
			"a range":            {header: map[string]string{"Range": "bytes=10-19"}, status: 206, body: content[10:20], extent: "bytes 10-19/100000"},
			"an open range":      {header: map[string]string{"Range": "bytes=99000-"}, status: 206, body: content[99_000:], extent: "bytes 99000-99999/100000"},
			"from the beginning": {header: map[string]string{"Range": "bytes=0-"}, status: 206, body: content, extent: "bytes 0-99999/100000"},
			"the end":            {header: map[string]string{"Range": "bytes=-5"}, status: 206, body: content[99_995:], extent: "bytes 99995-99999/100000"},
			"beyond the end":     {header: map[string]string{"Range": "bytes=100000-"}, status: 416, extent: "bytes */100000"},
			"no range":           {header: map[string]string{"Range": "bytes=x"}, status: 416},
			"the same yet":       {header: map[string]string{"Range": "bytes=0-1", "If-Range": etag}, status: 206, body: content[:2], extent: "bytes 0-1/100000"},
			"another now":        {header: map[string]string{"Range": "bytes=0-1", "If-Range": `"x"`}, status: 200, body: content},
			"known":              {header: map[string]string{"If-None-Match": etag}, status: 304},
		} {
			method := c.method
			if method == "" {
				method = http.MethodGet
			}
			r := httptest.NewRequest(method, "/audio", nil)
			for k, v := range c.header {
				r.Header.Set(k, v)
			}
			w := httptest.NewRecorder()
			if err := store.Serve(w, r, o.Key); err != nil {
				t.Fatal(err)
			}
			h := w.Header()
			if w.Code != c.status || c.body != nil && !bytes.Equal(w.Body.Bytes(), c.body) || h.Get("Content-Range") != c.extent {
				t.Errorf("%s: %d %s, %d bytes", name, w.Code, h.Get("Content-Range"), w.Body.Len())
			}
			if h.Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("%s: may be sniffed", name)
			}
			if w.Code < 300 && (h.Get("Content-Type") != "audio/mpeg" || h.Get("ETag") != etag || h.Get("Accept-Ranges") != "bytes" ||
				h.Get("Cache-Control") != "private, no-cache" || w.Code == 200 && h.Get("Content-Length") != "100000") {
				t.Errorf("%s: %v", name, h)
			}
		}
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("Range", "bytes=0-1,50-59")
		w := httptest.NewRecorder()
		if err := store.Serve(w, r, o.Key); err != nil || w.Code != 206 ||
			!strings.HasPrefix(w.Header().Get("Content-Type"), "multipart/byteranges") || !bytes.Contains(w.Body.Bytes(), content[50:60]) {
			t.Errorf("two ranges: %d %v", w.Code, err)
		}

		for format, begin := range map[string]string{
			"audio/wav": "RIFF....WAVE", "audio/ogg": "OggS", "audio/flac": "fLaC", "audio/mp4": "....ftypM4A ", "audio/webm": "\x1aE\xdf\xa3",
			"audio/aac": "\xff\xf1", "audio/mpeg": "\xff\xfb",
		} {
			o := save(t, store, format, []byte(begin+"<script>"))
			w := httptest.NewRecorder()
			if err := store.Serve(w, httptest.NewRequest(http.MethodGet, "/", nil), o.Key); err != nil || w.Header().Get("Content-Type") != format {
				t.Errorf("%s is served as %s: %v", format, w.Header().Get("Content-Type"), err)
			}
		}
		w = httptest.NewRecorder()
		page := save(t, store, "page", []byte("<!doctype html><script>alert(1)</script>"))
		if err := store.Serve(w, httptest.NewRequest(http.MethodGet, "/", nil), page.Key); err != nil || w.Header().Get("Content-Type") != "audio/mpeg" {
			t.Errorf("a page is served as %s: %v", w.Header().Get("Content-Type"), err)
		}

		raw := strings.Replace(o.Key, ".mp3", ".raw", 1)
		if err := store.Put(t.Context(), raw, strings.NewReader("x")); err != nil {
			t.Fatal(err)
		}
		if err := store.Serve(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil), raw); call.CodeOf(err) != call.NotFound {
			t.Errorf("what is no recording is served: %v", err)
		}
		if got := read(t, store, raw, 0, -1); string(got) != "x" {
			t.Errorf("what is no recording cannot be read")
		}
	})
}

func TestDirectory(t *testing.T) {
	t.Parallel()
	if os.PathSeparator != '/' {
		t.Skip("modes are Unix'")
	}
	dir := filepath.Join(t.TempDir(), "a", "b")
	store, err := audio.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	o := save(t, store, "owner", mp3(10))
	for path, want := range map[string]fs.FileMode{
		dir: 0o750 | fs.ModeDir, filepath.Dir(filepath.Join(dir, o.Key)): 0o750 | fs.ModeDir, filepath.Join(dir, o.Key): 0o600,
	} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode()&^0o077 != want&^0o077 || info.Mode()&0o007 != 0 {
			t.Errorf("%s has the mode %v", path, info.Mode())
		}
	}

	// What a kill left is removed once nobody can be writing it any more.
	old, young := filepath.Join(dir, ".incoming", "old"), filepath.Join(dir, ".incoming", "young")
	for _, name := range []string{old, young} {
		if err := os.WriteFile(name, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	yesterday := time.Now().Add(-24 * time.Hour)
	if err := os.Chtimes(old, yesterday, yesterday); err != nil {
		t.Fatal(err)
	}
	again, err := audio.Open(t.Context(), "file://"+dir)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if got, want := files(t, dir), []string{young, filepath.Join(dir, o.Key)}; !slices.Equal(got, want) {
		t.Errorf("there are %v, want %v", got, want)
	}
	if !bytes.Equal(read(t, again, o.Key, 0, -1), mp3(10)) {
		t.Error("another content after a restart")
	}
}

// A store that is away is Unavailable, so that a delivery waits for it.
func TestAway(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s3 := startS3(t)
	for name, c := range map[string]struct {
		address string
		end     func()
	}{
		"directory": {dir, func() { // a file in its place: even root cannot write there
			if err := os.RemoveAll(dir); err != nil {
				t.Error(err)
			}
			if err := os.WriteFile(dir, nil, 0o600); err != nil {
				t.Error(err)
			}
		}},
		"S3": {"s3://audio?region=eu-central-1&use_path_style=true&endpoint=" + url.QueryEscape(s3.url), func() { s3.setFail(true) }},
	} {
		store, err := audio.Open(t.Context(), c.address)
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		o := save(t, store, "owner", mp3(100))
		c.end()
		_, readErr := store.NewRangeReader(t.Context(), o.Key, 0, -1)
		for what, err := range map[string]error{
			"check": store.Check(t.Context()), "probe": store.Probe(t.Context()), "put": store.Put(t.Context(), o.Key, strings.NewReader("x")), "read": readErr,
			"delete": store.Delete(t.Context(), o.Key),
			"serve":  store.Serve(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil), o.Key),
		} {
			if call.CodeOf(err) != call.Unavailable {
				t.Errorf("%s, %s: %v", name, what, err)
			}
		}
	}
}

// An S3 that takes a request and never answers does not outlast the context.
func TestSilentS3(t *testing.T) {
	t.Parallel()
	ended := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-ended:
		case <-r.Context().Done():
		}
	}))
	defer server.Close()
	defer close(ended)
	store, err := audio.Open(t.Context(), "s3://audio?region=eu-central-1&use_path_style=true&endpoint="+url.QueryEscape(server.URL))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	key := "00/" + strings.Repeat("0", 32) + "-1-" + strings.Repeat("0", 64) + ".mp3"
	if err := store.Put(ctx, key, strings.NewReader("x")); !errors.Is(err, context.DeadlineExceeded) || call.CodeOf(err) != call.Unavailable {
		t.Error(err)
	}
	if err := store.Check(ctx); call.CodeOf(err) != call.Unavailable {
		t.Error(err)
	}
}

func TestOpen(t *testing.T) {
	t.Parallel()
	for _, address := range []string{
		"", "ftp://x", "gs://x", "http://x", "file://host/x", "file:///x?create_dir=1", "s3://", "s3://audio?nonsense=1",
		"s3://user:hidden@audio", "s3://%zz:hidden@audio",
	} {
		_, err := audio.Open(t.Context(), address)
		if call.CodeOf(err) != call.Invalid {
			t.Errorf("%q: %v", address, err)
		}
		if err != nil && strings.Contains(err.Error(), "hidden") {
			t.Errorf("the error shows the password: %v", err)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := audio.Open(t.Context(), file); call.CodeOf(err) != call.Unavailable {
		t.Errorf("a file for a directory: %v", err)
	}
}

func TestRelativePath(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, address := range []string{"var/audio", "file://./var/audio"} {
		store, err := audio.Open(t.Context(), address)
		if err != nil {
			t.Fatal(err)
		}
		o := save(t, store, "owner", mp3(10))
		if _, err := os.Stat(filepath.Join("var", "audio", o.Key)); err != nil {
			t.Error(err)
		}
		if err := errors.Join(store.Delete(t.Context(), o.Key), store.Close()); err != nil {
			t.Error(err)
		}
	}
}
