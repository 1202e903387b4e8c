package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"time"
)

// pgbenchBodies is how many different bodies pgbench has. It takes them as
// variables on its command line, and a system bounds that; since PostgreSQL
// compresses and stores each row by itself, a repeated body costs it exactly
// what a new one would.
const pgbenchBodies = 64

//go:embed pgbench.sql
var script []byte

// findPgbench looks where systems put it, the newest version first.
func findPgbench() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/pgbench")
	if err != nil {
		return "", err
	}
	major := func(path string) int {
		n, err := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
		if err != nil {
			return 0
		}
		return n
	}
	if len(found) > 0 {
		return slices.MaxFunc(found, func(a, b string) int { return major(a) - major(b) }), nil
	}
	path, err := exec.LookPath("pgbench")
	if err != nil {
		return "", errors.New("pgbench is not installed: it comes with PostgreSQL's server or its contrib package; --only b,c,d does without")
	}
	return path, nil
}

// pgbench measures what pgbench reaches on a fresh database.
func (b *bench) pgbench(ctx context.Context, program string) (t Throughput, err error) {
	const database = "pgbench"
	if _, err := b.postgres.Create(ctx, database); err != nil {
		return t, err
	}
	args, err := b.pgbenchArguments(database)
	if err != nil {
		return t, err
	}
	if _, _, err := b.runPgbench(ctx, program, warmUp, args); err != nil {
		return t, err
	}
	before, err := b.look(ctx, 0)
	if err != nil {
		return t, err
	}
	out, used, err := b.runPgbench(ctx, program, b.duration, args)
	if err != nil {
		return t, err
	}
	after, err := b.look(ctx, 0)
	if err != nil {
		return t, err
	}
	if t, err = parsePgbench(out); err != nil {
		return t, err
	}
	after.sender = before.sender + used
	t.Usage = usage(before, after, float64(t.Deliveries)/after.at.Sub(before.at).Seconds())
	stored, err := b.count(ctx, database)
	if err != nil {
		return t, err
	}
	if stored < t.Deliveries {
		return t, fmt.Errorf("pgbench counted %d transactions and %d events are there", t.Deliveries, stored)
	}
	return t, b.postgres.Drop(ctx, database)
}

// pgbenchArguments names a script for each body, all of them alike but for it.
func (b *bench) pgbenchArguments(database string) ([]string, error) {
	u, err := url.Parse(b.postgres.URL(database))
	if err != nil {
		return nil, err
	}
	args := []string{
		"-M", "extended", "-n", "-c", strconv.Itoa(pgbenchConnections), "-j", strconv.Itoa(pgbenchThreads),
		"-h", u.Hostname(), "-p", u.Port(), "-U", u.User.Username(),
		"-D", "type=post_call_transcription", "-D", "agent=agent_7101k9bench0000000000000ru01",
		"-D", "key=call:post_call_transcription:conv_", "-D", "request=00000000-0000-0000-",
	}
	for n := range pgbenchBodies {
		number := strconv.Itoa(n)
		path := filepath.Join(b.dir, "pgbench-"+number+".sql")
		if err := os.WriteFile(path, bytes.ReplaceAll(script, []byte("{{N}}"), []byte(number)), 0o600); err != nil {
			return nil, fmt.Errorf("writing pgbench's script: %w", err)
		}
		b.next++
		args = append(args, "-D", "body"+number+"="+string(b.calls.Transcript(b.next)), "-f", path)
	}
	return append(args, database), nil
}

// runPgbench returns what it printed and what it used of the processors.
func (b *bench) runPgbench(ctx context.Context, program string, d time.Duration, args []string) (string, time.Duration, error) {
	u, err := url.Parse(b.postgres.URL(""))
	if err != nil {
		return "", 0, err
	}
	password, _ := u.User.Password()
	//nolint:gosec // A program that was found by its name.
	cmd := exec.CommandContext(ctx, program, append([]string{"-T", strconv.Itoa(int(d.Seconds()))}, args...)...)
	cmd.Env = append(os.Environ(), "PGPASSWORD="+password, "PGSSLMODE=disable", "LC_ALL=C")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", 0, fmt.Errorf("pgbench: %w: %s", err, bytes.TrimSpace(stderr.Bytes()[:min(stderr.Len(), 2000)]))
	}
	return stdout.String(), cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), nil
}

// What pgbench prints at its end, first of the whole run and then of each
// script.
var (
	transactionsLine = regexp.MustCompile(`(?m)^number of transactions actually processed: (\d+)`)
	failedLine       = regexp.MustCompile(`(?m)^number of failed transactions: (\d+)`)
	rateLine         = regexp.MustCompile(`(?m)^tps = ([\d.]+) \(without initial connection time\)`)
	latencyLine      = regexp.MustCompile(`(?m)^latency average = ([\d.]+) ms`)
)

func parsePgbench(out string) (t Throughput, err error) {
	number := func(line *regexp.Regexp) float64 {
		m := line.FindStringSubmatch(out)
		if m == nil {
			err = fmt.Errorf("pgbench printed nothing like %q:\n%s", line, out)
			return 0
		}
		n, perr := strconv.ParseFloat(m[1], 64)
		if perr != nil {
			err = perr
		}
		return n
	}
	t.Deliveries, t.PerSecond, t.P50MS = int(number(transactionsLine)), number(rateLine), number(latencyLine)
	if failedLine.MatchString(out) { // since version 15
		t.Failed = int(number(failedLine))
	}
	if err == nil && t.Deliveries == 0 {
		err = fmt.Errorf("pgbench did nothing:\n%s", out)
	}
	return t, err
}
