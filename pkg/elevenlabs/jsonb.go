package elevenlabs

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"unicode/utf8"
)

// The limits of PostgreSQL's jsonb, each with room to spare. All were tried on
// a server (15, default settings); the first two also keep a short body from
// growing into a huge text when it is read back.
const (
	// maxExponent bounds the power of ten of a number, as a float64 does.
	// numeric takes 131,072 digits before the point and 16,383 after it, and
	// writes every one of them out.
	maxExponent = 400
	// maxDigits bounds the length of a number as it is written.
	maxDigits = 4000
	// maxDepth bounds the nesting. The server's parser recurses and gives up
	// between 10,000 and 20,000 levels at its default stack; encoding/json
	// gives up at 10,000.
	maxDepth = 512
	// maxBinary bounds an estimate of the size in binary form: a jsonb array,
	// object or string holds 268,435,455 bytes.
	maxBinary = 1<<28 - 1
	// binaryPerValue is added for each key and value. In binary form they take
	// up to 16 bytes beside their text; while the server reads a container it
	// takes up to 72 bytes for each pair in it, in one piece of memory, which
	// must stay below 1 GB.
	binaryPerValue = 64
	// maxReadable is how much of a body is shown where all of it cannot be.
	maxReadable = 64 << 10
)

// Visible signs for what jsonb text cannot hold: SYMBOL FOR NULL for a NUL,
// REPLACEMENT CHARACTER for half a surrogate pair or a byte that is not UTF-8.
const (
	visibleNUL  = '\u2400'
	replacement = utf8.RuneError
)

// document is a JSON text read once from end to end: checked, made fit for
// jsonb, and with the fields of the envelope found on the way. Bodies come at
// thousands a second and up to hundreds of megabytes, so that nothing is
// decoded, and nothing is copied unless it has to change.
type document struct {
	body []byte

	// out is the changed text so far, nil while nothing had to change. It
	// stands for body[:copied].
	out    []byte
	copied int

	ordinary *[256]bool // the bytes of a string that need no look

	values int // how many keys and values there are, for the estimate of the binary size

	// root and data hold the envelope's fields as literals of body, those of
	// an object or array as its first byte only. Of repeated keys the last
	// one counts, as in jsonb.
	root, data fields
}

// field is a key of the envelope that Parse reads.
type field int

const (
	fieldType field = iota
	fieldEventID
	fieldTimestamp
	fieldAgentID
	fieldConversationID
	fieldStatus
	fieldHasAudio
	fieldHasUserAudio
	fieldHasResponseAudio
	fieldTranscript
	fieldData
	fieldCount
	fieldOther field = -1
)

type fields [fieldCount][]byte

// lookup finds the field that a key's literal names.
func lookup(literal []byte) field {
	const longest = len(`"has_response_audio"`)
	var name []byte
	switch {
	case bytes.IndexByte(literal, '\\') < 0:
		name = literal[1 : len(literal)-1]
	case len(literal) <= longest*len(`\u0000`):
		name = []byte(text(literal))
	}
	switch string(name) {
	case "type":
		return fieldType
	case "event_id":
		return fieldEventID
	case "event_timestamp":
		return fieldTimestamp
	case "agent_id":
		return fieldAgentID
	case "conversation_id":
		return fieldConversationID
	case "status":
		return fieldStatus
	case "has_audio":
		return fieldHasAudio
	case "has_user_audio":
		return fieldHasUserAudio
	case "has_response_audio":
		return fieldHasResponseAudio
	case "transcript":
		return fieldTranscript
	case "data":
		return fieldData
	}
	return fieldOther
}

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

var byteOrderMark = []byte("\xef\xbb\xbf")

// read goes through body once. It reports whether body is JSON, where a byte
// order mark before it, bytes that are not UTF-8 in strings, and the literals
// NaN, Infinity and -Infinity are taken and changed to what JSON knows. The
// literals are what Python's json.dumps, with which ElevenLabs writes bodies,
// makes of such floats. It does not recurse: no nesting can
// exhaust the stack.
func (d *document) read(body []byte) bool {
	d.body = body
	i := 0
	if bytes.HasPrefix(body, byteOrderMark) {
		i = len(byteOrderMark)
		d.replace(0, i, nil)
	}
	d.ordinary = &ordinary[0]
	if !utf8.Valid(body) {
		d.ordinary = &ordinary[1]
	}

	var (
		open     []byte // the closing brackets that are still to come
		deepFrom int    // where the value begins that is nested too deeply
		current  = fieldOther
		inData   bool // the open value at depth 1 is the root's data
		at       = wantValue
	)
	for ; i < len(body); i++ {
		c := body[i]
		if c == ' ' || c == '\n' || c == '\t' || c == '\r' {
			continue
		}
		switch at {
		case wantColon:
			if c != ':' {
				return false
			}
			at = wantValue
			continue

		case wantKey, wantKeyOrClose:
			if c == '"' {
				d.values++
				end, ok := d.str(i, len(open) > maxDepth)
				if !ok {
					return false
				}
				switch {
				case len(open) == 1:
					current = lookup(body[i:end])
					if inData = current == fieldData; inData {
						d.data = fields{}
					}
				case len(open) == 2 && inData:
					current = lookup(body[i:end])
				}
				i = end - 1
				at = wantColon
				continue
			}
			if at == wantKey || c != '}' {
				return false
			}

		case afterValue:
			if len(open) == 0 {
				return false // something follows the value
			}
			closing := open[len(open)-1]
			if c == ',' {
				at = wantValue
				if closing == '}' {
					at = wantKey
				}
				continue
			}
			if c != closing {
				return false
			}

		case wantValue, wantValueOrClose:
			if at == wantValueOrClose && c == ']' {
				break
			}
			d.values++
			end := i + 1
			switch c {
			case '{', '[':
				if len(open) == maxDepth {
					deepFrom = i
				}
				at = wantKeyOrClose
				if c == '[' {
					at = wantValueOrClose
				}
			case '"':
				var ok bool
				if end, ok = d.str(i, len(open) > maxDepth); !ok {
					return false
				}
				at = afterValue
			default:
				var ok bool
				if end, ok = d.scalar(i, len(open) > maxDepth); !ok {
					return false
				}
				at = afterValue
			}
			if current != fieldOther {
				if len(open) == 1 {
					d.root[current] = body[i:end]
				} else if len(open) == 2 && inData {
					d.data[current] = body[i:end]
				}
				current = fieldOther
			}
			if at != afterValue {
				open = append(open, c+2) // in ASCII "}" is "{" + 2, and so with "]"
				if len(open) == 2 && c == '[' {
					inData = false // an array has no fields
				}
			}
			i = end - 1
			continue
		}

		// A closing bracket.
		open = open[:len(open)-1]
		at = afterValue
		if len(open) == maxDepth {
			d.replace(deepFrom, i+1, appendString(nil, body[deepFrom:i+1]))
		}
	}
	return at == afterValue && len(open) == 0
}

// payload gives the text for jsonb and whether it differs from the body. It
// holds after read has reported true.
func (d *document) payload() (text []byte, changed bool) {
	if d.out == nil {
		return d.body, false
	}
	d.out = append(d.out, d.body[d.copied:]...)
	d.copied = len(d.body)
	return d.out, true
}

// replace puts with in the place of body[from:to].
func (d *document) replace(from, to int, with []byte) {
	if d.out == nil {
		d.out = make([]byte, 0, len(d.body)+64)
	}
	d.out = append(d.out, d.body[d.copied:from]...)
	d.out = append(d.out, with...)
	d.copied = to
}

// ordinary marks the bytes that stand for themselves in a string: in the first
// table where the whole text is known to be UTF-8, in the second where it is not.
var ordinary = func() (tables [2][256]bool) {
	for c := range 256 {
		ascii := c >= ' ' && c != '"' && c != '\\' && c < utf8.RuneSelf
		tables[0][c] = ascii || c >= utf8.RuneSelf
		tables[1][c] = ascii
	}
	return tables
}()

// str reads the string at body[i], makes it fit for jsonb unless keep is set,
// and gives the place after it.
func (d *document) str(i int, keep bool) (end int, ok bool) {
	body, table := d.body, d.ordinary
	for i++; i < len(body); {
		c := body[i]
		switch {
		case table[c]:
			i++
		case c == '"':
			return i + 1, true
		case c == '\\':
			size := d.escape(i, keep)
			if size == 0 {
				return 0, false
			}
			i += size
		case c >= utf8.RuneSelf:
			r, size := utf8.DecodeRune(body[i:])
			if r == utf8.RuneError && size == 1 && !keep {
				d.replace(i, i+1, []byte(string(replacement)))
			}
			i += size
		default:
			return 0, false // a control character
		}
	}
	return 0, false
}

// escape reads the escape at body[i] and gives its length, that of both
// halves for a surrogate pair, or 0 if it is none.
func (d *document) escape(i int, keep bool) int {
	body := d.body
	if i+1 >= len(body) {
		return 0
	}
	switch body[i+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 2
	case 'u':
	default:
		return 0
	}
	unit, ok := codeUnit(body, i)
	if !ok {
		return 0
	}
	const size = len(`\u0000`)
	switch {
	case unit == 0:
		if !keep {
			d.replace(i, i+size, []byte(`\u2400`))
		}
	case 0xD800 <= unit && unit <= 0xDFFF:
		if unit < 0xDC00 {
			if low, ok := codeUnit(body, i+size); ok && 0xDC00 <= low && low <= 0xDFFF {
				return 2 * size
			}
		}
		if !keep {
			d.replace(i, i+size, []byte(`\ufffd`))
		}
	}
	return size
}

// codeUnit reads the escape \uXXXX at body[i].
func codeUnit(body []byte, i int) (unit rune, ok bool) {
	if i+6 > len(body) || body[i] != '\\' || body[i+1] != 'u' {
		return 0, false
	}
	for _, c := range body[i+2 : i+6] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		unit = unit<<4 | rune(c)
	}
	return unit, true
}

// scalar reads the number or the word at body[i], makes it fit for jsonb
// unless keep is set, and gives the place after it.
func (d *document) scalar(i int, keep bool) (end int, ok bool) {
	rest := d.body[i:]
	fit := true
	switch rest[0] {
	case 't':
		end, ok = word(rest, "true")
	case 'f':
		end, ok = word(rest, "false")
	case 'n':
		end, ok = word(rest, "null")
	case 'N':
		fit = false
		end, ok = word(rest, "NaN")
	case 'I':
		fit = false
		end, ok = word(rest, "Infinity")
	default:
		if end, ok = word(rest, "-Infinity"); ok {
			fit = false
			break
		}
		end, fit = number(rest)
		ok = end > 0
	}
	if ok && !fit && !keep {
		d.replace(i, i+end, appendString(nil, rest[:end]))
	}
	return i + end, ok
}

// word gives the length of w if text begins with it.
func word(text []byte, w string) (length int, ok bool) {
	if len(text) < len(w) || string(text[:len(w)]) != w {
		return 0, false
	}
	return len(w), true
}

// number gives the length of the number that text begins with, 0 if there is
// none, and whether it is within the bounds for jsonb.
func number(text []byte) (length int, fit bool) {
	i := 0
	digits := func() []byte {
		from := i
		for i < len(text) && '0' <= text[i] && text[i] <= '9' {
			i++
		}
		return text[from:i]
	}
	if text[i] == '-' {
		i++
	}
	if whole := digits(); len(whole) == 0 || len(whole) > 1 && whole[0] == '0' {
		return 0, false
	}
	if i < len(text) && text[i] == '.' {
		i++
		if len(digits()) == 0 {
			return 0, false
		}
	}
	power := 0
	if i < len(text) && (text[i] == 'e' || text[i] == 'E') {
		i++
		if i < len(text) && (text[i] == '+' || text[i] == '-') {
			i++
		}
		exponent := digits()
		if len(exponent) == 0 {
			return 0, false
		}
		for _, c := range exponent {
			power = min(10*power+int(c-'0'), maxExponent+1)
		}
	}
	return i, i <= maxDigits && power <= maxExponent
}

// appendString appends text as a JSON string that jsonb takes, whatever bytes
// it is made of.
func appendString(dst, text []byte) []byte {
	const hexDigits = "0123456789abcdef"
	dst = append(dst, '"')
	for len(text) > 0 {
		r, size := utf8.DecodeRune(text)
		switch {
		case r == 0:
			dst = utf8.AppendRune(dst, visibleNUL)
		case r == '"' || r == '\\':
			dst = append(dst, '\\', byte(r))
		case r == '\n':
			dst = append(dst, `\n`...)
		case r < ' ':
			dst = append(dst, `\u00`...)
			dst = append(dst, hexDigits[r>>4], hexDigits[r&0xF])
		default:
			dst = utf8.AppendRune(dst, r) // a byte that is not UTF-8 came out as the replacement
		}
		text = text[size:]
	}
	return append(dst, '"')
}

// appendExcerpt appends an object that shows the beginning of a body under the
// given key, and how long all of it is.
func appendExcerpt(dst []byte, key string, body []byte) []byte {
	shown := body
	if len(shown) > maxReadable {
		shown = shown[:maxReadable]
		for n := 1; n < utf8.UTFMax; n++ { // a character that was cut in two is left out
			if tail := shown[len(shown)-n:]; utf8.RuneStart(tail[0]) {
				if !utf8.FullRune(tail) {
					shown = shown[:len(shown)-n]
				}
				break
			}
		}
	}
	dst = append(dst, '{')
	dst = appendString(dst, []byte(key))
	dst = append(dst, ": "...)
	dst = appendString(dst, shown)
	dst = append(dst, `, "bytes": `...)
	dst = strconv.AppendInt(dst, int64(len(body)), 10)
	return append(dst, '}')
}

// text decodes a string literal, with the visible signs in the place of what
// jsonb cannot hold.
func text(literal []byte) string {
	if bytes.IndexByte(literal, '\\') < 0 && utf8.Valid(literal) {
		return string(literal[1 : len(literal)-1])
	}
	var s string
	if json.Unmarshal(literal, &s) != nil {
		return "" // never for a literal that read has taken
	}
	return clean(s)
}

// clean gives s without NUL and without bytes that are not UTF-8, in the place
// of which stand the visible signs, and otherwise unaltered.
func clean(s string) string {
	if strings.IndexByte(s, 0) >= 0 {
		s = strings.ReplaceAll(s, "\x00", string(visibleNUL))
	}
	if utf8.ValidString(s) {
		return s
	}
	return string([]rune(s)) // one replacement for each byte
}
