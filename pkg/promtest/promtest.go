// Package promtest runs a real Prometheus on what a test or a program scrapes,
// with the project's own rules, and asks it what it has seen.
package promtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.yaml.in/yaml/v3"
)

// ErrMissing means that there is no Prometheus on this machine.
var ErrMissing = errors.New("there is no prometheus in PATH (Debian: apt-get install prometheus)")

// Options are what a Prometheus is set up with.
type Options struct {
	// Dir is where its data and its log go.
	Dir string
	// Jobs are the addresses to scrape, by job.
	Jobs map[string][]string
	// Rules is the rules' file; empty for none. They are evaluated as Quick says.
	Rules string
	// Interval is how often it scrapes and evaluates.
	Interval time.Duration
}

// Server is a running Prometheus.
type Server struct {
	address string
	log     string
	cmd     *exec.Cmd
	done    chan struct{}
}

// starting bounds how long it may take until it answers.
const starting = 30 * time.Second

// Start runs a Prometheus on a free port of 127.0.0.1 until Close. The error is
// ErrMissing where there is none.
func Start(ctx context.Context, o Options) (*Server, error) {
	binary, err := exec.LookPath("prometheus")
	if err != nil {
		return nil, ErrMissing
	}
	address, err := free(ctx)
	if err != nil {
		return nil, err
	}
	config, err := o.write()
	if err != nil {
		return nil, err
	}
	s := &Server{address: address, log: filepath.Join(o.Dir, "prometheus.log"), done: make(chan struct{})}
	log, err := os.Create(s.log)
	if err != nil {
		return nil, fmt.Errorf("opening Prometheus's log: %w", err)
	}
	defer log.Close() //nolint:errcheck // the process has its own
	//nolint:gosec,noctx // found in PATH; its end is Close, not a context's
	s.cmd = exec.Command(binary, "--config.file="+config, "--storage.tsdb.path="+filepath.Join(o.Dir, "data"),
		"--web.listen-address="+address, "--log.level=warn")
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting Prometheus: %w", err)
	}
	go func() {
		defer close(s.done)
		_ = s.cmd.Wait() // how it ended stands in its log
	}()
	ctx, cancel := context.WithTimeout(ctx, starting)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := s.get(ctx, "/-/ready"); err == nil {
			return s, nil
		}
		select {
		case <-tick.C:
		case <-s.done:
			return nil, fmt.Errorf("prometheus ended at once: %s", s.Log())
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("prometheus does not answer: %s", s.Log()), s.Close())
		}
	}
}

func free(ctx context.Context) (string, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("looking for a free port: %w", err)
	}
	return l.Addr().String(), l.Close()
}

// write makes its configuration.
func (o Options) write() (path string, err error) {
	type static struct {
		Targets []string `yaml:"targets"`
	}
	type job struct {
		Name   string   `yaml:"job_name"`
		Static []static `yaml:"static_configs"`
	}
	interval := strconv.FormatInt(o.Interval.Milliseconds(), 10) + "ms"
	config := map[string]any{"global": map[string]string{
		"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval,
	}}
	var jobs []job
	for name, targets := range o.Jobs {
		jobs = append(jobs, job{name, []static{{targets}}})
	}
	config["scrape_configs"] = jobs
	if o.Rules != "" {
		rules, err := os.ReadFile(o.Rules)
		if err != nil {
			return "", fmt.Errorf("reading the rules: %w", err)
		}
		copied := filepath.Join(o.Dir, "rules.yaml")
		if err := os.WriteFile(copied, Quick(rules), 0o600); err != nil { //nolint:gosec // the caller names both
			return "", fmt.Errorf("writing the rules: %w", err)
		}
		config["rule_files"] = []string{copied}
	}
	text, err := yaml.Marshal(config)
	if err != nil {
		return "", fmt.Errorf("writing Prometheus's configuration: %w", err)
	}
	path = filepath.Join(o.Dir, "prometheus.yaml")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return "", fmt.Errorf("writing Prometheus's configuration: %w", err)
	}
	return path, nil
}

// Window is how far back rules and dashboards look under Quick and Panels.
const Window = "20s"

var (
	waits   = regexp.MustCompile(`(?m)^\s+for: .*\n`)
	windows = regexp.MustCompile(`\[\d+[smhd]\]`)
)

// Quick makes rules that nobody has to wait for: they fire as soon as they
// hold, and look back by Window. How long they wait is promtool's to test.
func Quick(rules []byte) []byte {
	return windows.ReplaceAll(waits.ReplaceAll(rules, nil), []byte("["+Window+"]"))
}

// Close ends it.
func (s *Server) Close() error {
	select {
	case <-s.done:
		return nil
	default:
	}
	_ = s.cmd.Process.Signal(syscall.SIGTERM) // it may have ended this moment
	bound := time.NewTimer(starting)
	defer bound.Stop()
	select {
	case <-s.done:
		return nil
	case <-bound.C:
		_ = s.cmd.Process.Kill()
		<-s.done
		return errors.New("prometheus did not end when it was asked to")
	}
}

// Log is what it has logged.
func (s *Server) Log() string {
	b, err := os.ReadFile(s.log)
	if err != nil {
		return err.Error()
	}
	return string(bytes.TrimSpace(b))
}

// URL is its address.
func (s *Server) URL() string { return "http://" + s.address }

func (s *Server) get(ctx context.Context, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL()+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // it was read
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("prometheus answered %d: %s", resp.StatusCode, body)
	}
	return body, err
}

// Sample is a value with its labels.
type Sample struct {
	Labels map[string]string
	Value  float64
}

// Query asks for the values of an expression now.
func (s *Server) Query(ctx context.Context, expr string) ([]Sample, error) {
	body, err := s.get(ctx, "/api/v1/query?query="+url.QueryEscape(expr))
	if err != nil {
		return nil, fmt.Errorf("asking %s: %w", expr, err)
	}
	var answer struct {
		Data struct {
			Result []struct {
				Metric map[string]string
				Value  [2]any
			}
		}
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, fmt.Errorf("asking %s: %w", expr, err)
	}
	var list []Sample
	for _, r := range answer.Data.Result {
		text, _ := r.Value[1].(string)
		v, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return nil, fmt.Errorf("asking %s: %w", expr, err)
		}
		list = append(list, Sample{r.Metric, v})
	}
	return list, nil
}

// Firing names the alerts that fire now, in order.
func (s *Server) Firing(ctx context.Context) ([]string, error) {
	return s.alerts(ctx, `ALERTS{alertstate="firing"}`)
}

// Fired names the alerts that have fired at some time of the last hour.
func (s *Server) Fired(ctx context.Context) ([]string, error) {
	return s.alerts(ctx, `max_over_time(ALERTS{alertstate="firing"}[1h])`)
}

func (s *Server) alerts(ctx context.Context, expr string) (names []string, err error) {
	list, err := s.Query(ctx, expr)
	for _, sample := range list {
		names = append(names, sample.Labels["alertname"])
	}
	slices.Sort(names)
	return slices.Compact(names), err
}

// Panel is one query of a dashboard.
type Panel struct{ Title, Expr string }

// Panels reads the queries of a Grafana dashboard, with Grafana's interval
// filled in.
func Panels(path string) (list []Panel, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the dashboard: %w", err)
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		return nil, fmt.Errorf("reading the dashboard: %w", err)
	}
	for _, p := range dashboard.Panels {
		for _, t := range p.Targets {
			list = append(list, Panel{p.Title, strings.ReplaceAll(t.Expr, "$__rate_interval", Window)})
		}
	}
	return list, nil
}

// Empty gives the queries of a dashboard that return nothing, or nothing but
// what is no number.
func (s *Server) Empty(ctx context.Context, panels []Panel) (empty []Panel, err error) {
	for _, p := range panels {
		list, err := s.Query(ctx, p.Expr)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(list, func(s Sample) bool { return !math.IsNaN(s.Value) }) {
			empty = append(empty, p)
		}
	}
	return empty, nil
}
