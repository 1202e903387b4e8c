package telemetry

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/zap"
)

// Scope names the spans' maker.
const Scope = "postcall"

// Propagation is how a trace goes from one process to the next: the W3C's
// traceparent.
var Propagation propagation.TextMapPropagator = propagation.TraceContext{}

// Traces makes spans and sends them to a collector. Without one it makes none
// and costs nothing.
type Traces struct {
	trace.TracerProvider
	sdk *sdktrace.TracerProvider // nil without a collector
	log *zap.Logger
}

// NewTraces sets the traces of a process up. Endpoint is the base address of an
// OTLP collector, over HTTP; empty for no traces. The other OTEL_ variables
// (headers, sampler, resource, service name) are read by OpenTelemetry itself.
// Nothing is connected to: a collector that is away loses spans, never a call.
func NewTraces(ctx context.Context, endpoint, process string, log *zap.Logger) (*Traces, error) {
	if endpoint == "" || strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") || os.Getenv("OTEL_TRACES_EXPORTER") == "none" {
		return &Traces{TracerProvider: noop.NewTracerProvider()}, nil
	}
	address, err := url.JoinPath(endpoint, "v1", "traces")
	if err != nil {
		return nil, fmt.Errorf("reading OTEL_EXPORTER_OTLP_ENDPOINT: %w", err)
	}
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(address))
	if err != nil {
		return nil, fmt.Errorf("setting up traces: %w", err)
	}
	// A part of the resource that cannot be found out is left out.
	about, err := resource.New(ctx, resource.WithAttributes(attribute.String("service.name", "postcall-"+process), attribute.String("service.version", Version())),
		resource.WithHost(), resource.WithTelemetrySDK(), resource.WithFromEnv())
	if err != nil && !errors.Is(err, resource.ErrPartialResource) && !errors.Is(err, resource.ErrSchemaURLConflict) {
		return nil, fmt.Errorf("setting up traces (OTEL_RESOURCE_ATTRIBUTES): %w", err)
	}
	sdk := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(about))
	return &Traces{TracerProvider: sdk, sdk: sdk, log: log}, nil
}

// On reports whether spans are sent anywhere.
func (t *Traces) On() bool { return t.sdk != nil }

// Own makes the spans that are ours, not a library's.
func (t *Traces) Own() trace.Tracer { return t.Tracer(Scope) }

// flushing bounds how long a stopping process waits for the collector.
const flushing = 5 * time.Second

// Close sends what has not been sent.
func (t *Traces) Close() {
	if t == nil || t.sdk == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), flushing)
	defer cancel()
	if err := t.sdk.Shutdown(ctx); err != nil {
		t.log.Warn("the last spans could not be sent", zap.Error(err))
	}
}

// TraceID names the trace of a context for log lines; it is left out where
// there is none.
func TraceID(ctx context.Context) zap.Field {
	if s := trace.SpanContextFromContext(ctx); s.IsValid() {
		return zap.String("trace_id", s.TraceID().String())
	}
	return zap.Skip()
}
