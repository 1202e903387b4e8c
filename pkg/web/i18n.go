package web

import (
	"embed"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"postcall/pkg/call"
)

//go:embed locales/*.json
var localeFiles embed.FS

// Languages are those that there is a catalogue for; the first one is spoken
// where nothing else is asked for.
func Languages() []string { return []string{"en", "ru"} }

func known(lang string) bool { return slices.Contains(Languages(), lang) }

const langCookie = "postcall_lang"

// language is the one that was chosen, else the browser's first that we speak.
func language(r *http.Request) string {
	if c, err := r.Cookie(langCookie); err == nil && known(c.Value) {
		return c.Value
	}
	best, weight := Languages()[0], 0.0
	for part := range strings.SplitSeq(r.Header.Get("Accept-Language"), ",") {
		tag, q, _ := strings.Cut(strings.TrimSpace(part), ";")
		w := 1.0
		if value, ok := strings.CutPrefix(strings.TrimSpace(q), "q="); ok {
			var err error
			if w, err = strconv.ParseFloat(value, 64); err != nil {
				continue
			}
		}
		primary, _, _ := strings.Cut(strings.ToLower(tag), "-")
		if known(primary) && w > weight {
			best, weight = primary, w
		}
	}
	return best
}

// texts are a language's, by their keys.
type texts map[string]string

func catalogue(lang string) (texts, error) {
	b, err := localeFiles.ReadFile("locales/" + lang + ".json")
	if err != nil {
		return nil, fmt.Errorf("reading the catalogue %s: %w", lang, err)
	}
	t := texts{}
	if err := json.Unmarshal(b, &t); err != nil {
		return nil, fmt.Errorf("reading the catalogue %s: %w", lang, err)
	}
	return t, nil
}

// say gives a text with its arguments filled in; a key that is not there stands
// for itself.
func (t texts) say(key string, args ...any) string {
	text, ok := t[key]
	if !ok {
		return key
	}
	if len(args) == 0 {
		return text
	}
	return fmt.Sprintf(text, args...)
}

// name gives the word for a value of a closed list, and an unknown value as it
// is.
func (t texts) name(list string, value any) string {
	// Templates hand over pointers as they stand in the rows.
	if p := reflect.ValueOf(value); p.Kind() == reflect.Pointer {
		if p.IsNil() {
			return ""
		}
		value = p.Elem().Interface()
	}
	v := fmt.Sprint(value)
	if text, ok := t[list+"."+v]; ok {
		return text
	}
	return v
}

// note words why there is no analysis. What is not known here, a failure for
// one, stands as it is.
func (t texts) note(eventType call.EventType, note *string) string {
	switch text := deref(note); text {
	case "nobody spoke in this call":
		return t["note.silent"]
	case "no conversation in an event of this type":
		if eventType == call.TypeAudio {
			return t["note.audio"]
		}
		return t["note.none"]
	default:
		return text
	}
}

// check names a part of the installation; of queues and targets there are many.
func (t texts) check(part string) string {
	for _, kind := range []string{"queue", "target"} {
		if name, ok := strings.CutPrefix(part, kind+" "); ok {
			return t.say("check."+kind, name)
		}
	}
	return t.name("check", part)
}
