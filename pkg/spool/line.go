package spool

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"time"
	"unicode/utf8"
)

// maxLine is above the longest line that is ever written, in bytes: JSON makes
// six bytes of a control character.
const maxLine = 6*maxInline + 64<<10

// maxReason is how much is kept of why an entry was rejected, in bytes.
const maxReason = 4 << 10

// record is an entry as it stands in a line. A checksum of the bytes before it
// follows as the last member:
//
//	{"received_at":"…","request_id":"…",…,"body":"{\"type\":…}","crc32c":"8a9136aa"}
type record struct {
	ReceivedAt time.Time `json:"received_at"`
	RequestID  string    `json:"request_id"`
	Address    string    `json:"address"`
	Secret     int       `json:"secret"`
	Rejected   string    `json:"rejected,omitempty"` // why, in a file of rejected entries
	Bytes      int64     `json:"bytes"`              // of the body
	// One of them holds the body, none if it is empty.
	File   string `json:"file,omitempty"` // name of a file beside the journal
	Body   string `json:"body,omitempty"` // readable with jq -r .body
	Base64 []byte `json:"body_base64,omitempty"`
}

// setBody keeps a body exactly. JSON strings cannot hold what is not UTF-8.
func (r *record) setBody(b []byte) {
	if utf8.Valid(b) {
		r.Body = string(b)
	} else {
		r.Base64 = b
	}
}

func (r *record) body() []byte {
	if r.Base64 != nil {
		return r.Base64
	}
	return []byte(r.Body)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const sumBytes = len(`,"crc32c":"8a9136aa"}`)

// sum is how a line ends that begins with head.
func sum(head []byte) []byte {
	return fmt.Appendf(nil, `,"crc32c":"%08x"}`, crc32.Checksum(head, castagnoli))
}

// encode gives the line of a record, its newline included.
func encode(r record) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // for people
	if err := e.Encode(r); err != nil {
		return nil, fmt.Errorf("encode an entry: %w", err)
	}
	head := bytes.TrimSuffix(b.Bytes(), []byte("}\n"))
	return append(append(head, sum(head)...), '\n'), nil
}

var errChecksum = errors.New("the checksum does not match")

// decode reads a line, with or without its newline.
func decode(line []byte) (*record, error) {
	line = bytes.TrimSuffix(line, []byte("\n"))
	at := len(line) - sumBytes
	if at < 0 || !bytes.Equal(line[at:], sum(line[:at])) {
		return nil, errChecksum
	}
	r := new(record)
	if err := json.Unmarshal(line, r); err != nil {
		return nil, fmt.Errorf("decode an entry: %w", err)
	}
	return r, nil
}

// piece is what stands between two newlines of a segment.
type piece struct {
	start, end int64   // its place in the file, the newline included
	record     *record // nil when it is not a line that was ever written whole
	torn       bool    // the file ends within it
}

// reader reads a segment piece by piece. It takes whatever it finds: a power
// cut leaves holes of zeros, a disk flips bits.
type reader struct {
	r    *bufio.Reader
	at   int64
	line []byte
}

func newReader(r io.Reader, at int64) *reader {
	return &reader{r: bufio.NewReaderSize(r, 64<<10), at: at}
}

// next gives the next piece, io.EOF after the last.
func (l *reader) next() (piece, error) {
	p := piece{start: l.at, end: l.at}
	l.line = l.line[:0]
	for {
		part, err := l.r.ReadSlice('\n')
		p.end += int64(len(part))
		if p.end-p.start <= maxLine { // else it is none of ours, and memory is spared
			l.line = append(l.line, part...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF) && p.end == p.start:
			return p, io.EOF
		case err != nil && !errors.Is(err, io.EOF):
			return p, err
		}
		l.at = p.end
		if p.end-p.start <= maxLine {
			// Without its newline a line is whole as well, if its checksum holds.
			if r, broken := decode(l.line); broken == nil {
				p.record = r
			}
		}
		p.torn = p.record == nil && err != nil
		return p, nil
	}
}
