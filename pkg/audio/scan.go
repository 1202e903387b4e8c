package audio

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
)

const (
	// maxNesting bounds the brackets that are open at once, each of which
	// takes a byte of memory.
	maxNesting = 100_000
	// maxKey is the longest key that is looked at, in bytes as it is written.
	maxKey = 256
	// maxCandidates bounds the values that may be audio in one body.
	maxCandidates = 64
)

// candidate is a value whose key says that it may be audio.
type candidate struct {
	key      string
	inData   bool  // it stands in the root's data, not beside it
	from, to int64 // where its literal is, quotes included
	first    byte  // its first byte
	dead     bool  // its key, or data, comes again: the last one counts
}

// scanner reads a JSON text of any size once from end to end: checks it and
// notes where the candidates are. It takes what elevenlabs.Parse takes: RFC
// 8259, and beside that a byte order mark, bytes that are no UTF-8 in strings,
// and Python's NaN, Infinity and -Infinity.
//
// It is written by hand because encoding/json holds every string in memory,
// and an audio is a string.
type scanner struct {
	ctx  context.Context // a scanner lives as long as the call it is made for
	src  io.ReaderAt
	size int64

	memory []byte
	buf    []byte // the window: what is read of the text
	at     int64  // where it begins
	i      int    // the next byte in it
	err    error  // why reading failed

	candidates []candidate
	tooMany    bool   // there were more candidates than maxCandidates
	kind       string // the root's type, if it is a short text
}

// windows are used again, since every delivery needs one.
var windows sync.Pool

// The places in a JSON text where a token may stand.
type place int

const (
	wantValue        place = iota // a value
	wantValueOrClose              // after "[": a value or "]"
	wantKeyOrClose                // after "{": a key or "}"
	wantKey                       // after "," in an object
	wantColon                     // after a key
	afterValue                    // "," or the closing bracket, or the end
)

// scan reports whether the text is JSON. Unless s.err is set, where it is not
// is s.offset.
func (s *scanner) scan() bool {
	memory, ok := windows.Get().(*[window]byte)
	if !ok {
		memory = new([window]byte)
	}
	defer windows.Put(memory)
	s.memory = memory[:]
	if s.fill() && strings.HasPrefix(string(s.buf[:min(3, len(s.buf))]), "\xef\xbb\xbf") {
		s.i = 3
	}
	var (
		open   []byte // the closing brackets that are still to come
		key    string // the key before the value, empty where it does not matter
		inData bool   // the open value at depth 1 is the root's data
		place  = wantValue
	)
	for {
		c, ok := s.peek()
		if !ok {
			return s.err == nil && place == afterValue && len(open) == 0
		}
		if c == ' ' || c == '\n' || c == '\t' || c == '\r' {
			s.i++
			continue
		}
		switch place {
		case wantColon:
			if c != ':' {
				return false
			}
			s.i++
			place = wantValue
			continue

		case wantKey, wantKeyOrClose:
			if c == '"' {
				from := s.offset()
				if !s.str() {
					return false
				}
				key = ""
				switch {
				case len(open) == 1:
					key = s.text(from, s.offset())
					if inData = key == "data"; inData {
						s.bury(func(c *candidate) bool { return c.inData })
					}
				case len(open) == 2 && inData:
					key = s.text(from, s.offset())
				}
				place = wantColon
				continue
			}
			if place == wantKey || c != '}' {
				return false
			}

		case afterValue:
			if len(open) == 0 {
				return false // something follows the value
			}
			closing := open[len(open)-1]
			if c == ',' {
				s.i++
				place = wantValue
				if closing == '}' {
					place = wantKey
				}
				continue
			}
			if c != closing {
				return false
			}

		case wantValue, wantValueOrClose:
			if place == wantValueOrClose && c == ']' {
				break
			}
			from := s.offset()
			switch c {
			case '{', '[':
				if len(open) == maxNesting {
					return false
				}
				s.i++
				place = wantKeyOrClose
				if c == '[' {
					place = wantValueOrClose
				}
			default:
				if c == '"' {
					ok = s.str()
				} else {
					ok = s.scalar(c)
				}
				if !ok {
					return false
				}
				place = afterValue
			}
			if key != "" {
				s.member(key, len(open) == 2, c, from)
				key = ""
			}
			if place != afterValue {
				open = append(open, c+2) // in ASCII "}" is "{" + 2, and so with "]"
				if len(open) == 2 && c == '[' {
					inData = false // an array has no fields
				}
			}
			continue
		}

		// A closing bracket.
		s.i++
		open = open[:len(open)-1]
		place = afterValue
	}
}

// member notes a member of the root or its data.
func (s *scanner) member(key string, inData bool, first byte, from int64) {
	if key == "type" && !inData {
		s.kind = s.text(from, s.offset())
		return
	}
	if !mayBeAudio(key) {
		return
	}
	s.bury(func(c *candidate) bool { return c.key == key && c.inData == inData })
	if len(s.candidates) == maxCandidates {
		s.tooMany = true
		return
	}
	s.candidates = append(s.candidates, candidate{key: key, inData: inData, from: from, to: s.offset(), first: first})
}

// bury marks the candidates that do not count any more.
func (s *scanner) bury(which func(*candidate) bool) {
	for i := range s.candidates {
		if which(&s.candidates[i]) {
			s.candidates[i].dead = true
		}
	}
}

// mayBeAudio tells keys such as full_audio, user_audio and audio_base64. It
// takes nothing but letters, digits, "_" and "-", since the key goes into the
// database, and to people.
func mayBeAudio(key string) bool {
	if !strings.HasSuffix(strings.TrimSuffix(key, "_base64"), "audio") || len(key) > 64 {
		return false
	}
	return !slices.ContainsFunc([]byte(key), func(c byte) bool {
		return (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && c != '_' && c != '-'
	})
}

// text decodes the string literal between two places, empty if it is long or
// no string.
func (s *scanner) text(from, to int64) string {
	if to-from > maxKey {
		return ""
	}
	var literal []byte
	if from >= s.at {
		literal = s.buf[from-s.at : to-s.at]
	} else {
		literal = make([]byte, to-from)
		if n, err := s.src.ReadAt(literal, from); n < len(literal) {
			s.err = fmt.Errorf("reading the body again: %w", err)
			return ""
		}
	}
	if len(literal) < 2 || literal[0] != '"' {
		return ""
	}
	if bytes.IndexByte(literal, '\\') < 0 {
		return string(literal[1 : len(literal)-1])
	}
	var text string
	if json.Unmarshal(literal, &text) != nil {
		return ""
	}
	return text
}

// offset is where the next byte stands.
func (s *scanner) offset() int64 { return s.at + int64(s.i) }

// fill reads the next window. It reports whether there is anything in it.
func (s *scanner) fill() bool {
	s.at, s.i, s.buf = s.offset(), 0, nil
	if s.err != nil || s.at >= s.size {
		return false
	}
	if s.err = s.ctx.Err(); s.err != nil {
		return false
	}
	part := s.memory[:min(int64(len(s.memory)), s.size-s.at)]
	if n, err := s.src.ReadAt(part, s.at); n < len(part) {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF // it is shorter than was said
		}
		s.err = fmt.Errorf("reading the body: %w", err)
		return false
	}
	s.buf = part
	return true
}

// peek gives the next byte, if there is one.
func (s *scanner) peek() (byte, bool) {
	if s.i == len(s.buf) && !s.fill() {
		return 0, false
	}
	return s.buf[s.i], true
}

// take moves behind the next byte if it is one of those given.
func (s *scanner) take(among string) bool {
	c, ok := s.peek()
	if !ok || strings.IndexByte(among, c) < 0 {
		return false
	}
	s.i++
	return true
}

// ordinary marks the bytes that stand for themselves in a string.
var ordinary = func() (table [256]bool) {
	for c := range table {
		table[c] = c >= ' ' && c != '"' && c != '\\'
	}
	return table
}()

// eightOrdinary tells whether all of eight bytes are ordinary, in the time of
// one: audio is hundreds of megabytes of them. The ways to find a byte that is
// zero, or less than n, in a word stand in "Bit Twiddling Hacks" (S. E. Anderson).
func eightOrdinary(word uint64) bool {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	quote, backslash := word^ones*'"', word^ones*'\\'
	found := (word - ones*' ') & ^word
	found |= (quote - ones) & ^quote
	found |= (backslash - ones) & ^backslash
	return found&tops == 0
}

// str moves behind the string that begins here, if it is well-formed.
func (s *scanner) str() bool {
	s.i++
	for {
		c, ok := s.peek()
		if !ok {
			return false
		}
		if ordinary[c] {
			i, buf := s.i, s.buf
			for len(buf)-i >= 8 && eightOrdinary(binary.LittleEndian.Uint64(buf[i:])) {
				i += 8
			}
			for i < len(buf) && ordinary[buf[i]] {
				i++
			}
			s.i = i
			continue
		}
		if c != '"' && c != '\\' {
			return false // a control character
		}
		s.i++
		if c == '"' {
			return true
		}
		if s.take("u") {
			for range 4 {
				if !s.take("0123456789abcdefABCDEF") {
					return false
				}
			}
		} else if !s.take(`"\/bfnrt`) {
			return false
		}
	}
}

// scalar moves behind the number or the word that begins with first, if it is
// well-formed.
func (s *scanner) scalar(first byte) bool {
	switch first {
	case 't':
		return s.word("true")
	case 'f':
		return s.word("false")
	case 'n':
		return s.word("null")
	case 'N':
		return s.word("NaN")
	case 'I':
		return s.word("Infinity")
	}
	if s.take("-") {
		if c, ok := s.peek(); ok && c == 'I' {
			return s.word("Infinity")
		}
	}
	if !s.take("0") && !s.digits() {
		return false
	}
	if s.take(".") && !s.digits() {
		return false
	}
	if s.take("eE") {
		s.take("+-")
		return s.digits()
	}
	return true
}

func (s *scanner) word(w string) bool {
	for i := range len(w) {
		if !s.take(w[i : i+1]) {
			return false
		}
	}
	return true
}

// digits moves behind a row of digits, if there is one.
func (s *scanner) digits() bool {
	const all = "0123456789"
	if !s.take(all) {
		return false
	}
	for s.take(all) {
	}
	return true
}
