package audio_test

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// fakeS3 is as much of S3 as the store speaks: objects whole and by range,
// uploads in parts, a listing that is always empty. It takes any signature.
type fakeS3 struct {
	mu      sync.Mutex
	objects map[string][]byte         // by the request's path
	parts   map[string]map[int][]byte // of unfinished uploads, by their id
	calls   []string
	fail    bool // answers everything with 503
	url     string
}

func startS3(t *testing.T) *fakeS3 {
	t.Helper()
	s := &fakeS3{objects: map[string][]byte{}, parts: map[string]map[int][]byte{}}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	s.url = server.URL
	return s
}

func (s *fakeS3) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	if strings.Contains(r.Header.Get("Content-Encoding"), "aws-chunked") {
		body = unchunk(body)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	q := r.URL.Query()
	s.calls = append(s.calls, r.Method+" "+r.URL.Path)
	if s.fail {
		s.refuse(w, http.StatusForbidden, "AccessDenied")
		return
	}
	key, upload := r.URL.Path, q.Get("uploadId")
	_, known := s.parts[upload]
	switch {
	case upload != "" && !known:
		s.refuse(w, http.StatusNotFound, "NoSuchUpload")

	case r.Method == http.MethodPost && q.Has("uploads"):
		id := fmt.Sprint("upload-", len(s.calls))
		s.parts[id] = map[int][]byte{}
		reply(w, struct {
			XMLName  xml.Name `xml:"InitiateMultipartUploadResult"`
			Bucket   string
			Key      string
			UploadId string //nolint:revive // S3's spelling
		}{Bucket: "audio", Key: key, UploadId: id})

	case r.Method == http.MethodPut && upload != "":
		n, _ := strconv.Atoi(q.Get("partNumber"))
		s.parts[upload][n] = body
		w.Header().Set("ETag", fmt.Sprintf(`"part-%d"`, n))

	case r.Method == http.MethodPost && upload != "":
		var whole []byte
		for n := 1; n <= len(s.parts[upload]); n++ {
			whole = append(whole, s.parts[upload][n]...)
		}
		delete(s.parts, upload)
		s.objects[key] = whole
		reply(w, struct {
			XMLName xml.Name `xml:"CompleteMultipartUploadResult"`
			Key     string
			ETag    string
		}{Key: key, ETag: `"whole"`})

	case r.Method == http.MethodDelete && upload != "":
		delete(s.parts, upload)
		w.WriteHeader(http.StatusNoContent)

	case r.Method == http.MethodPut:
		s.objects[key] = body
		w.Header().Set("ETag", `"whole"`)

	case r.Method == http.MethodDelete:
		delete(s.objects, key)
		w.WriteHeader(http.StatusNoContent)

	case q.Get("list-type") == "2":
		reply(w, struct {
			XMLName     xml.Name `xml:"ListBucketResult"`
			Name        string
			IsTruncated bool
		}{Name: "audio"})

	case r.Method == http.MethodGet || r.Method == http.MethodHead:
		object, ok := s.objects[key]
		if !ok {
			s.refuse(w, http.StatusNotFound, "NoSuchKey")
			return
		}
		w.Header().Set("Content-Type", "audio/mpeg")
		http.ServeContent(w, r, "", time.Unix(1_795_000_000, 0), bytes.NewReader(object))

	default:
		s.refuse(w, http.StatusNotImplemented, "NotImplemented")
	}
}

func (s *fakeS3) refuse(w http.ResponseWriter, status int, code string) {
	w.WriteHeader(status)
	fmt.Fprintf(w, "<Error><Code>%s</Code><Message>no</Message></Error>", code)
}

func reply(w http.ResponseWriter, body any) {
	w.Header().Set("Content-Type", "application/xml")
	_ = xml.NewEncoder(w).Encode(body)
}

// unchunk takes the data out of a body in chunks "size in hex;…\r\ndata\r\n".
func unchunk(body []byte) (data []byte) {
	for len(body) > 0 {
		line, rest, _ := bytes.Cut(body, []byte("\r\n"))
		size, _, _ := bytes.Cut(line, []byte(";"))
		n, err := strconv.ParseInt(string(size), 16, 64)
		if err != nil || n == 0 {
			break
		}
		data = append(data, rest[:n]...)
		body = rest[n+2:]
	}
	return data
}

// left is what is in the bucket, unfinished uploads included.
func (s *fakeS3) left() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for name := range s.objects {
		names = append(names, name)
	}
	for id := range s.parts {
		names = append(names, id)
	}
	slices.Sort(names)
	return names
}

func (s *fakeS3) setFail(fail bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = fail
}
