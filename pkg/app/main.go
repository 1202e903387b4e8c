package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"text/tabwriter"

	"go.uber.org/zap"

	"postcall/pkg/call"
	"postcall/pkg/config"
	"postcall/pkg/telemetry"
)

// Exit codes of every command.
const (
	ExitOK    = 0
	ExitFault = 1 // something failed; trying again may help
	ExitUsage = 2 // the arguments or the configuration must change first
)

// ExitCode is the exit code of an error.
func ExitCode(err error) int {
	if err == nil {
		return ExitOK
	}
	if _, ok := errors.AsType[*config.Error](err); ok || call.CodeOf(err) == call.Invalid {
		return ExitUsage
	}
	return ExitFault
}

// server is a process that serves until its context ends.
type server interface {
	Serve(ctx context.Context) error
}

// ingestGC is how much ingest's memory may grow between two collections, in
// percent: a fifth less than Go's default saves a tenth of the memory at full
// load for a processor time that cannot be measured. GOGC overrides it.
const ingestGC = 80

// IngestMain is the whole of cmd/ingest.
func IngestMain() int {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(ingestGC)
	}
	return run("ingest", "takes ElevenLabs' post-call webhooks and keeps them in PostgreSQL", ingestHealth,
		func(ctx context.Context) (server, *zap.Logger, error) {
			c, err := config.LoadIngest(ctx, config.Environment())
			if err != nil {
				return nil, nil, err
			}
			log, err := telemetry.Logger(os.Stderr, c.LogLevel, c.LogFormat, "ingest")
			if err != nil {
				return nil, nil, err
			}
			s, err := NewIngest(ctx, c, log)
			return s, log, err
		})
}

// WorkerMain is the whole of cmd/worker.
func WorkerMain() int {
	return run("worker", "analyses the kept calls and hands the results on", workerHealth,
		func(ctx context.Context) (server, *zap.Logger, error) {
			c, err := config.LoadWorker(ctx, config.Environment())
			if err != nil {
				return nil, nil, err
			}
			log, err := telemetry.Logger(os.Stderr, c.LogLevel, c.LogFormat, "worker")
			if err != nil {
				return nil, nil, err
			}
			s, err := NewWorker(ctx, c, log)
			return s, log, err
		})
}

func run(process, purpose string, health func(context.Context) error, start func(context.Context) (server, *zap.Logger, error)) int {
	if len(os.Args) == 2 && os.Args[1] == "healthcheck" {
		err := health(context.Background())
		if err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", process, err)
		}
		return ExitCode(err)
	}
	if len(os.Args) > 1 {
		usage(os.Stdout, process, purpose)
		if arg := os.Args[1]; arg == "-h" || arg == "--help" || arg == "help" {
			return ExitOK
		}
		return ExitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	s, log, err := start(ctx)
	switch {
	case err == nil:
		err = s.Serve(ctx)
	case ctx.Err() != nil: // told to stop before it had begun
		err = nil
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", process, err)
	}
	if log != nil {
		// Standard error cannot always be synced; nothing is lost by that.
		_ = log.Sync()
	}
	return ExitCode(err)
}

// usage prints what the process does and every variable that it reads.
func usage(w io.Writer, process, purpose string) {
	fmt.Fprintf(w, "%s %s.\n\nIt takes no arguments; everything is set by the environment. `%s healthcheck` asks the one that\n"+
		"runs beside it, with the same environment, whether it is ready, and ends with 0 if it is.\n\n", process, purpose, process)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, v := range config.Variables() {
		if !strings.Contains(strings.Join(v.Readers, " "), process) {
			continue
		}
		def := v.Default
		if v.Required != "" {
			def = "required"
		}
		fmt.Fprintf(t, "  %s\t%s\t%s\n", v.Name, def, v.Text)
	}
	_ = t.Flush()
	fmt.Fprintf(w, "\nIt stops on SIGTERM: what it has begun is finished within SHUTDOWN_TIMEOUT_MS, then it exits with 0.\n"+
		"Exit codes: 0 stopped as asked, 1 a fault, 2 the configuration must change.\n")
}
