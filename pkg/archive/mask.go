package archive

import (
	"bytes"
	"encoding/json"
	"strings"

	"postcall/pkg/redact"
)

// Mask hides telephone numbers from those who may not see them: all but their
// last two digits, wherever they stand as a field, and in texts where they are
// written or spoken as numbers are.
func (i *Item) Mask() {
	for _, text := range []**string{&i.ProcessorNote} {
		*text = maskText(*text)
	}
	if b := i.Analysis; b != nil {
		b.Phone = maskPhone(b.Phone)
		for _, text := range []**string{&b.Topic, &b.Intent, &b.Outcome, &b.Summary, &b.ClientName} {
			*text = maskText(*text)
		}
	}
}

// Mask hides telephone numbers as Item.Mask does, in the payload, the
// analyses, and what was sent to and answered by the targets too.
func (r *Record) Mask() {
	r.Event.ProcessorNote = maskText(r.Event.ProcessorNote)
	r.Event.Payload = maskJSON(r.Event.Payload)
	for i := range r.Analyses {
		r.Analyses[i].Result = maskJSON(r.Analyses[i].Result)
	}
	for i := range r.Corrections {
		c := &r.Corrections[i]
		c.Value, c.ModelValue = maskField(c.Field, c.Value), maskField(c.Field, c.ModelValue)
	}
	for i := range r.Dispatches {
		r.Dispatches[i].Payload = maskJSON(r.Dispatches[i].Payload)
		r.Dispatches[i].Response = maskText(r.Dispatches[i].Response)
	}
	for i := range r.Jobs {
		r.Jobs[i].LastError = maskText(r.Jobs[i].LastError)
	}
}

// maskField hides numbers of a result's field as maskJSON does.
func maskField(name string, value json.RawMessage) json.RawMessage {
	whole, err := json.Marshal(map[string]json.RawMessage{name: value})
	if err != nil {
		return json.RawMessage(`null`)
	}
	var masked map[string]json.RawMessage
	if err := json.Unmarshal(maskJSON(whole), &masked); err != nil {
		return json.RawMessage(`null`)
	}
	return masked[name]
}

func maskPhone(s *string) *string {
	if s == nil {
		return nil
	}
	return new(maskDigits(*s))
}

// maskDigits hides all digits but the last two.
func maskDigits(s string) string {
	digits := 0
	for _, c := range s {
		if c >= '0' && c <= '9' {
			digits++
		}
	}
	return strings.Map(func(c rune) rune {
		if c < '0' || c > '9' {
			return c
		}
		if digits--; digits < 2 {
			return c
		}
		return '*'
	}, s)
}

func maskText(s *string) *string {
	if s == nil {
		return nil
	}
	return new(maskNumbers(*s))
}

// maskNumbers hides the telephone numbers of a text. A spoken one has no digits
// to show: all of it goes.
func maskNumbers(s string) string {
	var b strings.Builder
	at := 0
	for _, span := range redact.Find(s) {
		if span.Kind != redact.Phone {
			continue
		}
		b.WriteString(s[at:span.Start])
		if number := s[span.Start:span.End]; strings.ContainsAny(number, "0123456789") {
			b.WriteString(maskDigits(number))
		} else {
			b.WriteString("***")
		}
		at = span.End
	}
	if at == 0 {
		return s
	}
	b.WriteString(s[at:])
	return b.String()
}

// maskJSON hides them in every text of a document, and whole under keys that
// telephone numbers stand under. What is no JSON is left out.
func maskJSON(raw json.RawMessage) json.RawMessage {
	if len(raw) == 0 {
		return raw
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return json.RawMessage(`null`)
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(maskValue("", v)); err != nil {
		return json.RawMessage(`null`)
	}
	return bytes.TrimSpace(b.Bytes())
}

func maskValue(key string, v any) any {
	switch v := v.(type) {
	case map[string]any:
		masked := make(map[string]any, len(v))
		for k, inner := range v {
			masked[maskNumbers(k)] = maskValue(k, inner)
		}
		return masked
	case []any:
		for i := range v {
			v[i] = maskValue(key, v[i])
		}
		return v
	case string:
		if phoneField(key) && len(v) >= 5 {
			return maskDigits(v)
		}
		return maskNumbers(v)
	case json.Number:
		// A number that long under such a key is a telephone's.
		if phoneField(key) && len(v) >= 7 {
			return maskDigits(v.String())
		}
	}
	return v
}

// phoneField reports whether telephone numbers stand under a key: those of
// ElevenLabs' telephony, of Twilio and SIP, of an agent's own variables, and
// of a CRM.
func phoneField(key string) bool {
	key = strings.ToLower(key)
	switch key {
	case "from", "to", "tel", "caller", "called", "contact":
		return true
	}
	for _, part := range []string{"phone", "mobile", "_number", "caller_id", "fromnumber", "tonumber", "called_", "msisdn", "телефон"} {
		if strings.Contains(key, part) {
			return true
		}
	}
	return false
}
