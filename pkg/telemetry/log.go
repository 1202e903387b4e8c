// Package telemetry sets up what people see of a running process: its log.
package telemetry

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/exp/zapslog"
	"go.uber.org/zap/zapcore"
)

// Logger makes the log of a process. Format is json or console; console is
// coloured on a terminal only.
func Logger(w io.Writer, level, format, process string) (*zap.Logger, error) {
	l, err := zapcore.ParseLevel(level)
	if err != nil {
		return nil, fmt.Errorf("setting up the log: %w", err)
	}
	config := zap.NewProductionEncoderConfig()
	config.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	config.EncodeDuration = zapcore.MillisDurationEncoder
	config.TimeKey = "time"
	encoder := zapcore.NewJSONEncoder(config)
	if format == "console" {
		config.EncodeTime = zapcore.TimeEncoderOfLayout("15:04:05.000")
		config.EncodeLevel = zapcore.CapitalLevelEncoder
		if f, ok := w.(*os.File); ok && isatty.IsTerminal(f.Fd()) && os.Getenv("NO_COLOR") == "" {
			config.EncodeLevel = zapcore.CapitalColorLevelEncoder
		}
		encoder = zapcore.NewConsoleEncoder(config)
	}
	core := zapcore.NewCore(encoder, zapcore.Lock(zapcore.AddSync(w)), l)
	return zap.New(core).With(zap.String("process", process)), nil
}

// Of the lines that a stranger, or a database that is away, can cause without
// end, so many of a kind are written in a second; beyond that, one in a hundred.
const (
	sampledFirst      = 50
	sampledThereafter = 100
)

// Sampled is the log for lines that can come in floods. What it leaves out is
// counted. Lines of what was kept never go this way.
func Sampled(log *zap.Logger, r prometheus.Registerer) *zap.Logger {
	dropped := prometheus.NewCounter(prometheus.CounterOpts{
		Name: "postcall_log_lines_dropped_total",
		Help: "Lines of refused deliveries and of faults that were not written, since too many came in one second.",
	})
	r.MustRegister(dropped)
	return log.WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(core, time.Second, sampledFirst, sampledThereafter,
			zapcore.SamplerHook(func(_ zapcore.Entry, d zapcore.SamplingDecision) {
				if d&zapcore.LogDropped != 0 {
					dropped.Inc()
				}
			}))
	}))
}

// Slog is the same log for libraries that write to slog.
func Slog(log *zap.Logger) *slog.Logger {
	return slog.New(zapslog.NewHandler(log.Core()))
}
