package markdown

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func remove(t *testing.T, e *Exporter, match string, analyses ...int64) Removed {
	t.Helper()
	ids := map[int64]bool{}
	for _, id := range analyses {
		ids[id] = true
	}
	r, err := e.Remove(t.Context(), ids, func(line []byte) bool { return match != "" && bytes.Contains(line, []byte(match)) })
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRemove(t *testing.T) {
	t.Parallel()
	first, second, third := render(delivery(1), moscow), render(delivery(2), moscow), render(delivery(3), moscow)
	note := "моя заметка\n\n"
	for name, test := range map[string]struct {
		before  string
		match   string
		ids     []int64
		want    string
		removed Removed
	}{
		"by analysis":         {header + first + second + third, "", []int64{2}, header + first + third, Removed{Entries: 1}},
		"the first":           {header + first + second, "", []int64{1}, header + second, Removed{Entries: 1}},
		"the last":            {header + first + second, "", []int64{2}, header + first, Removed{Entries: 1}},
		"all":                 {header + first + second, "", []int64{1, 2}, header, Removed{Entries: 2}},
		"by what it says":     {header + first + strings.Replace(second, "Намерение", "намерена", 1), "намерена", nil, header + first, Removed{Entries: 1}},
		"a person's line":     {header + first + note + second, "заметка", nil, header + first + removedLine + "\n" + second, Removed{Lines: 1}},
		"a line in an entry":  {header + strings.Replace(first, "\n- **Тема", "\nзаметка\n- **Тема", 1) + second, "заметка", nil, header + second, Removed{Entries: 1}},
		"an entry cut off":    {header + first[:len(first)/2] + "\n" + second, "", []int64{1}, header + second, Removed{Entries: 1}},
		"without a last line": {header + strings.TrimRight(first, "\n"), "", []int64{1}, header, Removed{Entries: 1}},
		"Windows' line ends":  {strings.ReplaceAll(header+first, "\n", "\r\n"), "", []int64{1}, strings.ReplaceAll(header, "\n", "\r\n") + "\r\n", Removed{Entries: 1}},
		"nothing":             {header + first + note, "другое", []int64{7}, header + first + note, Removed{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := setup(t)
			if err := os.MkdirAll(filepath.Dir(e.path), 0o750); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(e.path, []byte(test.before), 0o600); err != nil {
				t.Fatal(err)
			}
			if r := remove(t, e, test.match, test.ids...); r != test.removed {
				t.Errorf("removed %+v, want %+v", r, test.removed)
			}
			if got := read(t, e.path); got != test.want {
				t.Errorf("file is\n%q\nwant\n%q", got, test.want)
			}
			if info, err := os.Stat(e.path); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("the file's mode: %v, %v", info, err)
			}
			// It is written to as before.
			export1(t, e, delivery(9))
			if !strings.Contains(read(t, e.path), markerOf(delivery(9)).end()) {
				t.Error("nothing can be appended any more")
			}
		})
	}
	t.Run("no file", func(t *testing.T) {
		t.Parallel()
		if r := remove(t, setup(t), "x", 1); r != (Removed{}) {
			t.Errorf("removed %+v", r)
		}
	})
}

// The lock file holds what was appended last until the next append.
func TestRemoveClearsTheIntent(t *testing.T) {
	t.Parallel()
	e := setup(t)
	export1(t, e, delivery(1))
	in := intent{Offset: 0, Text: read(t, e.path)}
	guard, err := e.lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := in.announce(guard); err != nil {
		t.Fatal(err)
	}
	guard.Close()
	remove(t, e, "", 1)
	if got := read(t, e.path+".lock"); got != "" {
		t.Errorf("the lock file still holds %q", got)
	}
}
