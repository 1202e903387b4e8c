package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/labstack/echo/v4"
	echomiddleware "github.com/labstack/echo/v4/middleware"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/zap"
	"riverqueue.com/riverui"

	"postcall/pkg/access"
	"postcall/pkg/admin"
	"postcall/pkg/audio"
	"postcall/pkg/config"
	"postcall/pkg/elevenlabs"
	"postcall/pkg/gate"
	"postcall/pkg/postgres"
	"postcall/pkg/problem"
	"postcall/pkg/queue"
	"postcall/pkg/receive"
	"postcall/pkg/spool"
	"postcall/pkg/telemetry"
	"postcall/pkg/web"
)

// Limits of the receiving server. How slowly a body may come is gate.Pace's
// matter, which moves the read and write deadlines as bytes arrive.
const (
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 30 * time.Second
	writeTimeout      = time.Minute
	idleTimeout       = 2 * time.Minute
	maxHeaderBytes    = 64 << 10

	// receiveConns is the size of receiving's own pool.
	receiveConns = 8
	// peopleConns is the size of the pool for the API, and peopleStatement the
	// longest that one of its statements may take.
	peopleConns     = 8
	peopleStatement = 10 * time.Second
	// riverConns is the size of River UI's pool: its counts can be slow.
	riverConns = 2
	// guessesPerMinute is how many requests without a valid token an address may
	// make before it is answered 429.
	guessesPerMinute = 30
	// patience is how long a delivery waits for the database before it goes to
	// the spool; audioPatience the same for the audio store.
	patience      = time.Second
	audioPatience = time.Minute
	// startupPatience is how long a starting ingest waits for the database
	// before it receives without it.
	startupPatience = 3 * time.Second
)

// Ingest is the receiving process.
type Ingest struct {
	config   config.Ingest
	log      *zap.Logger
	sampled  *zap.Logger   // for lines that come in floods
	pool     *pgxpool.Pool // nil without DATABASE_URL
	people   *pgxpool.Pool // for what people ask, apart from receiving's; nil like pool
	river    *pgxpool.Pool // for River UI, apart from both; nil like pool
	riverUI  *riverui.Handler
	api      *admin.API
	audio    *audio.Store
	spool    *spool.Spool
	keeper   *receive.Keeper
	refused  *postgres.Rejections
	metrics  *telemetry.Metrics // nil without METRICS_ADDR
	traces   *telemetry.Traces
	listener net.Listener
	server   *http.Server
	live     *web.Live // nil without a database
	stopping atomic.Bool
}

// NewIngest opens what receiving needs and listens; nothing is answered before
// Serve. A database that is away does not stop it: deliveries go to the spool
// until it is back. One whose schema is not this version's does.
func NewIngest(ctx context.Context, c config.Ingest, log *zap.Logger) (_ *Ingest, err error) {
	i := &Ingest{config: c, log: log}
	defer func() { //nolint:contextcheck // closing goes on when the context has ended
		if err != nil {
			i.Close()
		}
	}()
	registry := telemetry.Registry()
	metrics := receive.NewMetrics(registry)
	if i.traces, err = telemetry.NewTraces(ctx, c.OTLPURL, "ingest", log); err != nil {
		return nil, err
	}
	if i.spool, err = openSpool(c.Keeping, log); err != nil {
		return nil, err
	}
	if err := receive.RemoveAbandoned(filepath.Dir(c.SpoolPath)); err != nil {
		return nil, err
	}
	if i.audio, err = openAudio(ctx, c.Keeping); err != nil {
		return nil, err
	}
	i.keeper = newKeeper(c.Keeping, i.audio, i.spool, log)
	i.sampled = telemetry.Sampled(log, registry)
	i.keeper.Tracer, i.keeper.Sampled = i.traces.Own(), i.sampled
	if c.DatabaseURL == "" {
		log.Warn("DATABASE_URL is not set: every delivery is kept in the spool, until an ingest with a database drains it",
			zap.String("spool", c.SpoolPath))
	} else if err := i.database(ctx, registry, metrics); err != nil {
		return nil, err
	}
	i.refused = postgres.NewRejections(i.pool, log)
	handler, err := i.handler(metrics)
	if err != nil {
		return nil, err
	}
	if i.api, err = i.forPeople(handler); err != nil {
		return nil, err
	}
	if i.people != nil {
		i.live = web.NewLive(i.people, log)
	}
	pages, err := web.New(i.api, i.live, receive.Path, log)
	if err != nil {
		return nil, fmt.Errorf("setting up the dashboard: %w", err)
	}
	i.server = &http.Server{
		Handler:           i.traced(i.router(handler, i.api, pages)),
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          zap.NewStdLog(log),
	}
	if i.live != nil {
		// A stream would hold up the shutdown until its bound.
		i.server.RegisterOnShutdown(i.live.Close)
	}
	observe(registry, i.spool, handler, i.refused)
	if c.MetricsAddr != "" {
		if i.metrics, err = telemetry.NewMetrics(ctx, c.MetricsAddr, registry, nil, log); err != nil {
			return nil, err
		}
	}
	var lc net.ListenConfig
	i.listener, err = lc.Listen(ctx, "tcp", net.JoinHostPort(c.BindAddr, strconv.Itoa(c.Port)))
	if err != nil {
		return nil, fmt.Errorf("listening on port %d (set PORT to a free one): %w", c.Port, err)
	}
	return i, nil
}

// database sets receiving up to commit.
func (i *Ingest) database(ctx context.Context, registry *prometheus.Registry, metrics *receive.Metrics) (err error) {
	observed := telemetry.NewDatabase(registry, i.traces)
	i.pool, err = postgres.Pool(ctx, i.config.DatabaseURL.Reveal(), "postcall ingest", receiveConns, 2*patience, observed.Tracer("ingest"))
	if err != nil {
		return err
	}
	i.people, err = postgres.Pool(ctx, i.config.DatabaseURL.Reveal(), "postcall ingest api", peopleConns, peopleStatement, observed.Tracer("api"))
	if err != nil {
		return err
	}
	observed.Watch("ingest", i.pool)
	observed.Watch("api", i.people)
	registry.MustRegister(&queue.Collector{Pool: i.people, Log: i.log})
	i.river, err = postgres.Pool(ctx, i.config.DatabaseURL.Reveal(), "postcall ingest riverui", riverConns, peopleStatement)
	if err != nil {
		return err
	}
	starting, cancel := context.WithTimeout(ctx, startupPatience)
	defer cancel()
	if err := postgres.Wait(starting, i.pool); err != nil {
		if ctx.Err() != nil {
			return err
		}
		i.log.Warn("the database does not answer: deliveries are kept in the spool until it does", zap.Error(err))
	} else if err := migrated(ctx, i.pool); err != nil {
		return err
	}
	// A shared transaction belongs to many deliveries, each of which has a span of
	// its own for it.
	seen, err := middleware(registry, i.traces, noop.NewTracerProvider())
	if err != nil {
		return err
	}
	i.keeper.Committer, err = newCommitter(i.config.Keeping, i.pool, metrics, i.log, seen...)
	return err
}

func (i *Ingest) handler(metrics *receive.Metrics) (*receive.Handler, error) {
	c := i.config
	proxies, err := gate.ParseProxies(c.TrustedProxies)
	if err != nil {
		return nil, fmt.Errorf("TRUSTED_PROXIES: %w", err)
	}
	allowed, err := gate.ParseAllowList(c.AllowedCIDRs)
	if err != nil {
		return nil, fmt.Errorf("WEBHOOK_ALLOWED_CIDRS: %w", err)
	}
	return &receive.Handler{
		Verifier: elevenlabs.NewVerifier(config.Reveal(c.WebhookSecret), c.Tolerance()),
		Keeper:   i.keeper,
		Proxies:  proxies, Allowed: allowed,
		Limits:     gate.NewLimits(gate.Rates{FailuresPerMinute: c.FailRPM, PerSecond: c.RateRPS, Burst: c.RateBurst}),
		Bodies:     gate.NewBodies(gate.DefaultCapacity),
		Pace:       gate.DefaultPace,
		Rejections: i.refused,
		MaxBody:    c.MaxBodyBytes,
		TempDir:    filepath.Dir(c.SpoolPath),
		Metrics:    metrics,
		Log:        i.log,
		Sampled:    i.sampled,
	}, nil
}

// forPeople sets up what people and programs with a token ask.
func (i *Ingest) forPeople(deliveries *receive.Handler) (_ *admin.API, err error) {
	c := i.config
	tokens, err := access.ParseTokens(c.AdminTokens)
	if err != nil {
		return nil, fmt.Errorf("ADMIN_TOKENS: %w", err)
	}
	sessions, err := access.NewSessions(config.Reveal(c.SessionKeys), tokens, access.SpentTable{Pool: i.people})
	if err != nil {
		return nil, fmt.Errorf("SESSION_KEY: %w", err)
	}
	api := &admin.API{
		Door: &access.Door{Tokens: tokens, Sessions: sessions, Secure: deliveries.Proxies.HTTPS},
		Pool: i.people, Recordings: i.audio, Backlog: backlog{i.spool, c.SpoolMaxBytes}, Address: deliveries.Proxies.ClientAddress,
		Guesses:   gate.NewLimits(gate.Rates{FailuresPerMinute: guessesPerMinute, PerSecond: c.AdminRPS, Burst: c.AdminRPS}),
		PerSecond: c.AdminRPS,
		Log:       i.log,
		Acting:    admin.Acting{MaxAttempts: c.MaxAttempts},
		Privacy:   admin.Privacy{Store: i.audio, Key: c.PrivacyKey.Reveal(), Region: c.PhoneRegion},
		Parts: admin.Parts{
			ProbeAudio: i.audio.Probe, Deliveries: deliveries.Limits, Version: telemetry.Version(),
			Disk:    func() (free, total uint64, err error) { return diskSpace(filepath.Dir(c.SpoolPath)) },
			Secrets: len(c.WebhookSecret), AdminTokens: len(c.AdminTokens), StableSessions: len(c.SessionKeys) > 0,
		},
	}
	if i.pool == nil {
		return api, nil
	}
	if api.Jobs, err = queue.NewInserter(i.people, telemetry.Slog(i.log)); err != nil {
		return nil, err
	}
	jobs, err := queue.NewInserter(i.river, telemetry.Slog(i.log))
	if err != nil {
		return nil, err
	}
	i.riverUI, err = riverui.NewHandler(&riverui.HandlerOpts{
		Endpoints: riverui.NewEndpoints(jobs, nil), Logger: telemetry.Slog(i.log), Prefix: admin.RiverPath,
		JobListHideArgsByDefault: true,
	})
	if err != nil {
		return nil, fmt.Errorf("setting up River UI: %w", err)
	}
	api.RiverUI = i.riverUI
	return api, nil
}

// SignInURL is a link that signs the holder of a token in, once.
func (i *Ingest) SignInURL(token string) (string, error) { return i.api.SignInURL(i.URL(), token) }

// router is the list of routes.
func (i *Ingest) router(deliveries *receive.Handler, api *admin.API, pages *web.Dashboard) *echo.Echo {
	e := echo.New()
	e.HideBanner, e.HidePort = true, true
	e.HTTPErrorHandler = problem.Handler(i.sampled)
	e.IPExtractor = func(r *http.Request) string { return deliveries.Proxies.ClientAddress(r).String() }
	e.Use(requestID, named, admin.SecurityHeaders(deliveries.Proxies.HTTPS), echomiddleware.RecoverWithConfig(echomiddleware.RecoverConfig{
		LogErrorFunc: func(c echo.Context, err error, stack []byte) error {
			i.log.Error("panic", zap.String("route", c.Path()), zap.Error(err), zap.ByteString("stack", stack))
			return err
		},
	}))
	e.POST(receive.Path, deliveries.Deliver)
	e.GET("/health", func(c echo.Context) error {
		return c.JSON(http.StatusOK, map[string]string{"status": "ok"})
	})
	e.GET("/health/ready", i.ready)
	api.Register(e)
	pages.Register(e)
	return e
}

// backlog is the spool as the API looks at it.
type backlog struct {
	*spool.Spool
	most int64
}

// Waiting is what waits there.
func (b backlog) Waiting() admin.Waiting {
	s := b.Stats()
	return admin.Waiting{Entries: s.Entries, Bytes: s.Bytes, MaxBytes: b.most, Oldest: s.OldestAge}
}

// readiness is what a balancer is told. It holds figures, no names.
type readiness struct {
	Status   string `json:"status"`   // ready, stopping, unable
	Database string `json:"database"` // ok, away, none
	Spool    struct {
		Bytes     int64   `json:"bytes"`
		Entries   int64   `json:"entries"`
		OldestAge float64 `json:"oldest_age_s"`
	} `json:"spool"`
}

// ready says whether this process takes deliveries: while it is not stopping
// and there is a place to keep them.
func (i *Ingest) ready(c echo.Context) error {
	r := readiness{Status: "ready", Database: "none"}
	if i.pool != nil {
		ctx, cancel := context.WithTimeout(c.Request().Context(), patience)
		defer cancel()
		r.Database = "ok"
		if err := i.pool.Ping(ctx); err != nil {
			r.Database = "away"
		}
	}
	stats := i.spool.Stats()
	r.Spool.Bytes, r.Spool.Entries, r.Spool.OldestAge = stats.Bytes, stats.Entries, stats.OldestAge.Seconds()
	status := http.StatusOK
	switch {
	case i.stopping.Load():
		r.Status, status = "stopping", http.StatusServiceUnavailable
	case r.Database != "ok" && stats.Bytes >= i.config.SpoolMaxBytes:
		r.Status, status = "unable", http.StatusServiceUnavailable
	}
	return c.JSON(status, r)
}

// requestID gives each request an id, its sender's own if that is a sane one,
// and answers with it.
func requestID(next echo.HandlerFunc) echo.HandlerFunc {
	taken := echomiddleware.RequestIDWithConfig(echomiddleware.RequestIDConfig{Generator: uuid.NewString})(next)
	return func(c echo.Context) error {
		if header := c.Request().Header; !sane(header.Get(echo.HeaderXRequestID)) {
			header.Del(echo.HeaderXRequestID)
		}
		return taken(c)
	}
}

// sane ids are short and printable: they go into logs and answers.
func sane(id string) bool {
	const alphabet = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:"
	return len(id) >= 8 && len(id) <= 128 && strings.Trim(id, alphabet) == ""
}

// URL is the address the process listens on, as somebody on this machine
// reaches it.
func (i *Ingest) URL() string {
	host, port, err := net.SplitHostPort(i.listener.Addr().String())
	if err != nil {
		return i.listener.Addr().String()
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port)
}

// Serve answers until the context ends. Then it says so to the balancer, takes
// deliveries for as long as that may take to be heard, finishes those that it
// has begun, and only then stops committing and draining.
func (i *Ingest) Serve(ctx context.Context) error {
	defer i.Close() //nolint:contextcheck // closing goes on when the context has ended
	i.log.Info("receiving", zap.String("url", i.URL()+receive.Path),
		zap.Int("secrets", len(i.config.WebhookSecret)), zap.Bool("analyze_auto", i.config.AnalyzeAuto),
		zap.Bool("database", i.pool != nil), zap.String("spool", i.config.SpoolPath))

	background, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	if i.riverUI != nil {
		// Its background queries end with the context; it offers nothing to wait for.
		if err := i.riverUI.Start(background); err != nil {
			return fmt.Errorf("starting River UI: %w", err)
		}
	}
	var wg sync.WaitGroup
	if i.pool != nil {
		wg.Go(func() { i.refused.Run(background) })
		wg.Go(func() { i.keeper.Committer.Run(background) })
		wg.Go(func() { i.live.Run(background) })
		wg.Go(func() { i.spool.Run(background, i.keeper.Redeliver) })
	}
	if i.metrics != nil {
		wg.Go(func() { i.metrics.Serve(background) })
	}
	ended := make(chan error, 1)
	go func() { ended <- i.server.Serve(i.listener) }()
	select {
	case err := <-ended:
		end()
		wg.Wait()
		return fmt.Errorf("serving: %w", err)
	case <-ctx.Done():
	}
	i.stopping.Store(true)
	i.log.Info("stopping")
	delay := time.NewTimer(i.config.ReadinessDelay())
	<-delay.C
	bounded, cancel := context.WithTimeout(background, i.config.ShutdownTimeout())
	defer cancel()
	err := i.server.Shutdown(bounded)
	if serveErr := <-ended; !errors.Is(serveErr, http.ErrServerClosed) {
		err = errors.Join(err, serveErr)
	}
	end()
	wg.Wait()
	return stopped(i.log, err)
}

// Close releases what NewIngest took. Serve does it by itself.
func (i *Ingest) Close() {
	if i.listener != nil {
		// Shutdown has closed it already, except where Serve was never reached.
		_ = i.listener.Close()
	}
	if i.spool != nil {
		ctx, cancel := context.WithTimeout(context.Background(), i.config.ShutdownTimeout())
		defer cancel()
		if err := i.spool.Close(ctx); err != nil {
			i.log.Error("closing the spool", zap.Error(err))
		}
	}
	if i.audio != nil {
		if err := i.audio.Close(); err != nil {
			i.log.Error("closing the audio store", zap.Error(err))
		}
	}
	for _, pool := range []*pgxpool.Pool{i.pool, i.people, i.river} {
		if pool != nil {
			pool.Close()
		}
	}
	i.traces.Close()
}
