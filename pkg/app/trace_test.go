package app_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"

	"postcall/pkg/elevenlabs"
)

// span is one that a collector was sent.
type span struct {
	service, name, id, parent, trace string
	start, end                       time.Time
	attributes                       map[string]string
}

// spanCollector takes spans as any OpenTelemetry collector does: OTLP over HTTP.
type spanCollector struct {
	url string

	mu    sync.Mutex
	spans []span
	raw   strings.Builder
}

func collect(t *testing.T) *spanCollector {
	t.Helper()
	c := &spanCollector{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var sent collector.ExportTraceServiceRequest
		if err == nil {
			err = proto.Unmarshal(body, &sent)
		}
		if err != nil || r.URL.Path != "/v1/traces" {
			t.Errorf("%s: %v", r.URL.Path, err)
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.raw.Write(body)
		for _, resource := range sent.GetResourceSpans() {
			service := ""
			for _, a := range resource.GetResource().GetAttributes() {
				if a.GetKey() == "service.name" {
					service = a.GetValue().GetStringValue()
				}
			}
			for _, scope := range resource.GetScopeSpans() {
				for _, s := range scope.GetSpans() {
					found := span{
						service: service, name: s.GetName(), id: hex.EncodeToString(s.GetSpanId()), parent: hex.EncodeToString(s.GetParentSpanId()),
						trace: hex.EncodeToString(s.GetTraceId()), attributes: map[string]string{},
						start: time.Unix(0, int64(s.GetStartTimeUnixNano())), end: time.Unix(0, int64(s.GetEndTimeUnixNano())),
					}
					for _, a := range s.GetAttributes() {
						found.attributes[a.GetKey()] = a.GetValue().String()
					}
					c.spans = append(c.spans, found)
				}
			}
		}
	}))
	t.Cleanup(server.Close)
	c.url = server.URL
	return c
}

// named gives the spans of a name.
func (c *spanCollector) named(name string) (list []span) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.spans {
		if s.name == name {
			list = append(list, s)
		}
	}
	return list
}

// within leaves the spans of a trace: River inserts jobs of its own too.
func within(trace string, list []span) []span {
	return slices.DeleteFunc(list, func(s span) bool { return s.trace != trace })
}

// tree prints a trace as people read it: each span under its parent.
func (c *spanCollector) tree(id string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []span
	for _, s := range c.spans {
		if s.trace == id {
			list = append(list, s)
		}
	}
	slices.SortFunc(list, func(a, b span) int { return a.start.Compare(b.start) })
	var (
		b    strings.Builder
		show func(parent string, depth int)
	)
	show = func(parent string, depth int) {
		for _, s := range list {
			if s.parent != parent {
				continue
			}
			fmt.Fprintf(&b, "%8.1f ms %8.1f ms  %s%s  [%s]\n", float64(s.start.Sub(list[0].start).Microseconds())/1000,
				float64(s.end.Sub(s.start).Microseconds())/1000, strings.Repeat("  ", depth), s.name, s.service)
			show(s.id, depth+1)
		}
	}
	show("", 0)
	return b.String()
}

// One trace leads from the delivery over both waits in the queue to the CRM,
// through two processes; nothing that was said stands in it.
func TestTrace(t *testing.T) {
	t.Parallel()
	spans := collect(t)
	i, _ := crm(t, map[string]string{
		"OTEL_EXPORTER_OTLP_ENDPOINT": spans.url, "OTEL_BSP_SCHEDULE_DELAY": "100", "LOG_LEVEL": "info",
	})
	ingest, received := i.start("ingest")
	body := bytes.ReplaceAll(callBody("conv_traced"), []byte("Меня зовут Ольга."), []byte("Меня зовут Ольга, телефон +7 999 000-00-02."))
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, i.post.URL, strings.NewReader(string(body)))
	if err != nil {
		t.Fatal(err)
	}
	// A stranger's trace is not gone on with.
	const foreign = "0af7651916cd43dd8448eb211c80319c"
	req.Header.Set("Traceparent", "00-"+foreign+"-b7ad6b7169203331-01")
	req.Header.Set("X-Request-Id", "request-that-is-traced")
	req.Header.Set(elevenlabs.SignatureHeader, elevenlabs.Sign(secret, time.Now(), body))
	resp, err := i.post.Client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	worker, worked := i.process("worker")
	i.wait("delivered", `select status from crm_dispatches`)
	for _, cmd := range []*exec.Cmd{ingest, worker} { // what has not been sent is sent now
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v: %s %s", err, received, worked)
		}
	}

	root := spans.named("POST /webhook/elevenlabs")
	if len(root) != 1 {
		t.Fatalf("%d spans of the delivery; ingest: %s", len(root), received)
	}
	id := root[0].trace
	if id == foreign || root[0].parent != "" {
		t.Errorf("the trace is the sender's: %+v", root[0])
	}
	t.Logf("the trace %s: start, duration\n%s", id, spans.tree(id))
	// Each with the span that it must stand under.
	for name, under := range map[string]string{
		"commit":                 "POST /webhook/elevenlabs",
		"queue wait analyze":     "commit",
		"river.work/analyze":     "commit",
		"river.insert_many":      "river.work/analyze",
		"queue wait crm_bpmsoft": "river.work/analyze",
		"river.work/crm_bpmsoft": "river.work/analyze",
		"export bpmsoft":         "river.work/crm_bpmsoft",
	} {
		found, parents := within(id, spans.named(name)), within(id, spans.named(under))
		if len(found) != 1 || len(parents) != 1 {
			t.Errorf("%d spans %q, %d %q", len(found), name, len(parents), under)
			continue
		}
		if s := found[0]; s.parent != parents[0].id || s.end.Before(s.start) {
			t.Errorf("%q does not stand under %q in the trace: %+v", name, under, s)
		}
	}
	if wait := spans.named("queue wait analyze"); len(wait) == 1 {
		if w := wait[0]; w.service != "postcall-worker" || w.attributes["postcall.queue_wait_seconds"] == "" || !w.end.After(w.start) {
			t.Errorf("the wait in the queue: %+v", w)
		}
	}
	people := []string{"Двухкомнатную", "Ольга", "999 000", "+7999", "9990000002", secret}
	for _, out := range []output{received, worked} { // and the logs lead to it
		if !strings.Contains(out.String(), `"trace_id":"`+id+`"`) {
			t.Errorf("no line names the trace: %s", out)
		}
		if !strings.Contains(out.String(), `"request_id":"request-that-is-traced"`) {
			t.Errorf("no line names the request: %s", out)
		}
		for _, private := range people {
			if strings.Contains(out.String(), private) {
				t.Errorf("the log holds %q: %s", private, out)
			}
		}
	}
	for _, private := range people {
		if strings.Contains(spans.raw.String(), private) {
			t.Errorf("a span holds %q", private)
		}
	}
}
