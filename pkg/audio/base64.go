package audio

import (
	"errors"
	"fmt"
	"io"
)

// window is how much of a body is in memory at a time, in bytes.
const window = 64 << 10

// brokenError says why a text is not base64.
type brokenError struct{ reason string }

func (e *brokenError) Error() string { return e.reason }

// What a byte means in base64, beside the values 0 to 63.
const (
	blank   = 0xFD
	padding = 0xFE
	foreign = 0xFF
)

// meanings knows both alphabets of RFC 4648. A text that mixes them is taken:
// no byte has two meanings.
var meanings = func() (table [256]byte) {
	for i := range table {
		table[i] = foreign
	}
	const common = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	for i := range len(common) {
		table[common[i]] = byte(i)
	}
	table['+'], table['/'] = 62, 63
	table['-'], table['_'] = 62, 63
	for _, c := range " \t\r\n" {
		table[c] = blank
	}
	table['='] = padding
	return table
}()

// decoder reads the bytes that a JSON string stands for in base64. Blanks are
// skipped, padding may be missing. A text that is no base64 ends with a
// brokenError.
//
// It is no encoding/base64 behind another reader, since one pass takes what
// would be four: JSON escapes, both alphabets, blanks, missing padding.
type decoder struct {
	src   io.Reader // the literal without its quotes, known to be well-formed
	input []byte    // memory for in
	in    []byte    // read and not decoded yet
	read  int64     // how many bytes came before in

	output []byte // memory for out
	out    []byte // decoded and not given away yet

	bits uint32 // the characters of an unfinished group of four
	have int    // how many
	pads int    // how many padding characters came
	err  error
}

func newDecoder(src io.Reader, length int64) *decoder {
	n := max(min(length, window), 1)
	return &decoder{src: src, input: make([]byte, n), output: make([]byte, 0, n/4*3+3)}
}

// Read implements io.Reader.
func (d *decoder) Read(p []byte) (int, error) {
	for len(d.out) == 0 {
		if d.err != nil {
			return 0, d.err
		}
		d.out = d.output[:0]
		d.err = d.fill()
	}
	n := copy(p, d.out)
	d.out = d.out[n:]
	return n, nil
}

// fill decodes what is next of the source. At its end it gives io.EOF.
func (d *decoder) fill() error {
	if err := d.more(); errors.Is(err, io.EOF) {
		return d.finish()
	} else if err != nil {
		return err
	}
	// Never more than output holds: an escape may take a second piece of
	// input, but only in the place of characters.
	for len(d.in) > 0 && cap(d.out)-len(d.out) >= 3 {
		if d.have == 0 && d.pads == 0 {
			d.groups()
			if len(d.in) == 0 {
				break
			}
		}
		c, err := d.character()
		if err != nil {
			return err
		}
		switch m := meanings[c]; {
		case m == blank:
		case m == padding:
			d.pads++
		case m == foreign:
			return d.broken("is no base64")
		case d.pads > 0:
			return d.broken("goes on after its padding")
		default:
			d.bits = d.bits<<6 | uint32(m)
			if d.have++; d.have == 4 {
				d.out = append(d.out, byte(d.bits>>16), byte(d.bits>>8), byte(d.bits))
				d.bits, d.have = 0, 0
			}
		}
	}
	return nil
}

// groups decodes whole groups of four as long as there is nothing else.
func (d *decoder) groups() {
	in, out := d.in, d.out
	for len(in) >= 4 && cap(out)-len(out) >= 3 {
		a, b, c, e := meanings[in[0]], meanings[in[1]], meanings[in[2]], meanings[in[3]]
		if (a|b|c|e)&0xC0 != 0 {
			break
		}
		bits := uint32(a)<<18 | uint32(b)<<12 | uint32(c)<<6 | uint32(e)
		out = append(out, byte(bits>>16), byte(bits>>8), byte(bits))
		in = in[4:]
	}
	d.read += int64(len(d.in) - len(in))
	d.in, d.out = in, out
}

// finish decodes the last, unfinished group.
func (d *decoder) finish() error {
	if d.have == 1 || d.pads > (4-d.have)%4 {
		return d.broken("ends in the middle of a group")
	}
	switch d.have {
	case 2:
		d.out = append(d.out, byte(d.bits>>4))
	case 3:
		d.out = append(d.out, byte(d.bits>>10), byte(d.bits>>2))
	}
	return io.EOF
}

func (d *decoder) broken(what string) error {
	return &brokenError{fmt.Sprintf("%s at byte %d", what, d.read)}
}

// character reads one character of the string: a byte or an escape. What is no
// ASCII comes out as a NUL, which is as foreign to base64.
func (d *decoder) character() (byte, error) {
	c, err := d.byte()
	if err != nil || c != '\\' {
		return c, err
	}
	if c, err = d.byte(); err != nil {
		return 0, err
	}
	switch c {
	case 'n', 'r', 't':
		return ' ', nil // a blank is a blank
	case 'u':
	case '/':
		return c, nil
	default:
		return 0, nil
	}
	var unit int
	for range 4 {
		if c, err = d.byte(); err != nil {
			return 0, err
		}
		switch {
		case c >= 'a':
			c -= 'a' - 10
		case c >= 'A':
			c -= 'A' - 10
		default:
			c -= '0'
		}
		unit = unit<<4 | int(c)
	}
	if unit > 0x7F {
		return 0, nil
	}
	return byte(unit), nil
}

// byte gives the next byte of the source, at whose end stands no escape.
func (d *decoder) byte() (byte, error) {
	if err := d.more(); errors.Is(err, io.EOF) {
		return 0, io.ErrUnexpectedEOF
	} else if err != nil {
		return 0, err
	}
	c := d.in[0]
	d.in = d.in[1:]
	d.read++
	return c, nil
}

// more sees to it that there is something in d.in.
func (d *decoder) more() error {
	for len(d.in) == 0 {
		n, err := d.src.Read(d.input)
		if d.in = d.input[:n]; n == 0 && err != nil {
			return err
		}
	}
	return nil
}
