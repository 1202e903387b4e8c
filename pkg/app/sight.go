package app

import (
	"net/http"
	"strings"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/riverqueue/river/rivertype"
	"github.com/riverqueue/rivercontrib/otelriver"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/attribute"
	noopmetric "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"postcall/pkg/queue"
	"postcall/pkg/telemetry"
)

// middleware is what sees the jobs of a process: one that leads the trace
// through the queue, inside it River's own figures and spans.
func middleware(r *prometheus.Registry, traces *telemetry.Traces, spans trace.TracerProvider) ([]rivertype.Middleware, error) {
	meter, err := telemetry.Meter(r)
	if err != nil {
		return nil, err
	}
	return []rivertype.Middleware{
		&queue.Trace{Tracer: traces.Own()},
		otelriver.NewMiddleware(&otelriver.MiddlewareConfig{
			MeterProvider: meter, TracerProvider: spans, EnableWorkSpanJobKindSuffix: true,
		}),
	}, nil
}

// traced makes a span of each request but those of whoever looks whether the
// process lives. A caller's own trace is linked to, never gone on with: what
// strangers send must not decide what is traced.
func (i *Ingest) traced(next http.Handler) http.Handler {
	if !i.traces.On() {
		return next
	}
	return otelhttp.NewHandler(next, "request",
		otelhttp.WithTracerProvider(i.traces), otelhttp.WithMeterProvider(noopmetric.NewMeterProvider()),
		otelhttp.WithPropagators(telemetry.Propagation),
		otelhttp.WithPublicEndpointFn(func(*http.Request) bool { return true }),
		otelhttp.WithFilter(func(r *http.Request) bool { return !strings.HasPrefix(r.URL.Path, "/health") }))
}

// named gives a request's span its route and its id.
func named(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		if span := trace.SpanFromContext(c.Request().Context()); span.IsRecording() {
			span.SetName(c.Request().Method + " " + c.Path())
			span.SetAttributes(attribute.String("http.route", c.Path()),
				attribute.String("postcall.request_id", c.Response().Header().Get(echo.HeaderXRequestID)))
		}
		return next(c)
	}
}

// traced makes a span of each request to another service. The trace ends
// there: it is nobody else's to go on with.
func traced(t *telemetry.Traces, next http.RoundTripper) http.RoundTripper {
	if !t.On() {
		return next
	}
	return otelhttp.NewTransport(next, otelhttp.WithTracerProvider(t), otelhttp.WithMeterProvider(noopmetric.NewMeterProvider()),
		otelhttp.WithPropagators(propagation.NewCompositeTextMapPropagator()))
}
