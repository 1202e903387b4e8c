package bpmsoft

import (
	"net/http"
	"strings"
	"testing"

	"postcall/pkg/export"
)

// A stand's answer is hostile: whatever it is, it is delivered only if it says
// so in exactly one place.
func FuzzAnswer(f *testing.F) {
	for _, s := range []string{
		`{"SaveWebFormObjectDataResult":"{resultMessage:\"\",resultCode:0}"}`,
		`{"SaveWebFormObjectDataResult":"{\"resultMessage\":\"x\",\"resultCode\":-1}"}`,
		`{"SaveWebFormObjectDataResult":{"resultCode":0}}`, `{"SaveWebFormObjectDataResult":""}`, `{resultCode:0}`, `"{resultCode:0}"`,
		"", "null", "<html>", "\ufeff{}", `{"SaveWebFormObjectDataResult":"{resultCode:0,resultCode:-1}"}`, `{resultCode:"0"}`,
	} {
		f.Add(200, []byte(s))
	}
	f.Fuzz(func(t *testing.T, status int, reply []byte) {
		v := judge(status, http.Header{}, reply)
		if (v.err == nil) != (v.outcome == export.Delivered) {
			t.Fatalf("outcome %s with %v", v.outcome, v.err)
		}
		if v.outcome == export.Delivered && (status != http.StatusOK || strings.Count(string(reply), "resultCode") == 0 && !strings.Contains(string(reply), `\u`)) {
			t.Fatalf("taken for delivered: %d %q", status, reply)
		}
		if v.outcome == "" {
			t.Fatal("no outcome")
		}
	})
}
