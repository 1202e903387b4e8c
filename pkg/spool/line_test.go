package spool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"
)

// FuzzReader: whatever stands before and after a line, the line is read, and
// the pieces cover all that there is.
func FuzzReader(f *testing.F) {
	good := line(f, "good")
	f.Add([]byte{}, []byte{})
	f.Add([]byte("{\"torn"), good[:20])
	f.Add(good, good)
	f.Add(bytes.Repeat([]byte{0}, 100), []byte("\n\n\n"))
	f.Add([]byte(`,"crc32c":"00000000"}`), []byte(`{"received_at":5,"crc32c":"8a9136aa"}`))
	f.Fuzz(func(t *testing.T, before, after []byte) {
		var all []byte
		if all = append(all, before...); len(before) > 0 {
			all = append(all, '\n')
		}
		at := int64(len(all))
		all = append(append(all, good...), after...)
		r := newReader(bytes.NewReader(all), 0)
		var end int64
		found := false
		for {
			p, err := r.next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil || p.start != end || p.end <= p.start {
				t.Fatalf("%+v, %v", p, err)
			}
			end = p.end
			if p.torn && (p.record != nil || end != int64(len(all))) {
				t.Errorf("%+v", p)
			}
			if p.start == at {
				found = p.record != nil && p.record.RequestID == "good" && string(p.record.body()) == `{"id":"good"}`
			}
			if p.record != nil {
				if _, err := encode(*p.record); err != nil {
					t.Error(err)
				}
			}
		}
		if end != int64(len(all)) || !found {
			t.Errorf("read %d of %d bytes, found: %v", end, len(all), found)
		}
	})
}

// FuzzBody: any body comes back as it was.
func FuzzBody(f *testing.F) {
	f.Add([]byte(`{"a":"b"}`))
	f.Add([]byte("\xff\x00\n\u2028"))
	f.Fuzz(func(t *testing.T, body []byte) {
		r := record{Bytes: int64(len(body))}
		r.setBody(body)
		b, err := encode(r)
		if err != nil || bytes.IndexByte(b, '\n') != len(b)-1 {
			t.Fatal(err)
		}
		got, err := decode(b)
		if err != nil || !bytes.Equal(got.body(), body) {
			t.Errorf("%q, %v", got.body(), err)
		}
	})
}

// A person reads the journal with jq.
func TestJQ(t *testing.T) {
	t.Parallel()
	jq, err := exec.LookPath("jq")
	if err != nil {
		t.Skip(err)
	}
	cmd := exec.Command(jq, "-r", ".body | fromjson | .id")
	cmd.Stdin = bytes.NewReader(line(t, "привет"))
	if out, err := cmd.Output(); err != nil || string(out) != "привет\n" {
		t.Errorf("%s, %v", out, err)
	}
}

var text = fmt.Appendf(nil, `{"type":"post_call_transcription","text":"%s"}`, bytes.Repeat([]byte("Добрый \\\"день\\\", "), 600))

func BenchmarkAppend(b *testing.B) {
	s := open(b, Options{})
	e := entry("b")
	e.Body = text
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if err := s.Append(b.Context(), e); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppend64(b *testing.B) {
	s := open(b, Options{})
	b.SetBytes(int64(len(text)))
	var wg sync.WaitGroup
	var left atomic.Int64
	left.Store(int64(b.N))
	b.ResetTimer()
	for range 64 {
		wg.Go(func() {
			e := entry("b")
			e.Body = text
			for left.Add(-1) >= 0 {
				if err := s.Append(b.Context(), e); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
	st := s.Stats()
	b.ReportMetric(float64(st.Appended)/float64(st.Syncs), "entries/fsync")
}

func BenchmarkDrain(b *testing.B) {
	s := open(b, Options{})
	var wg sync.WaitGroup
	var left atomic.Int64
	left.Store(int64(b.N))
	for range 64 {
		wg.Go(func() {
			e := entry("b")
			e.Body = text
			for left.Add(-1) >= 0 {
				if err := s.Append(b.Context(), e); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
	b.SetBytes(int64(len(text)))
	b.ResetTimer()
	if n, err := s.Drain(b.Context(), func(context.Context, Entry) error { return nil }); n != b.N || err != nil {
		b.Fatal(n, err)
	}
}
