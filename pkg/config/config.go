// Package config reads the environment into structs, one a process. The
// structs are the only description of the variables: what is allowed, the
// defaults, the tables in README and .env.example all come from them.
package config

import (
	"log/slog"
	"time"
)

// Secret is a value that never shows when it is printed or logged.
type Secret string

// String hides the value.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "[hidden]"
}

// GoString hides the value from %#v.
func (s Secret) GoString() string { return s.String() }

// LogValue hides the value from structured logs.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText hides the value from encoders.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Reveal gives the value itself, for the one place that needs it.
func (s Secret) Reveal() string { return string(s) }

// Reveal gives the values of a list.
func Reveal(list []Secret) []string {
	plain := make([]string, len(list))
	for i, s := range list {
		plain[i] = s.Reveal()
	}
	return plain
}

// Common is what every process reads.
type Common struct {
	DatabaseURL Secret `env:"DATABASE_URL" check:"postgres_url" required:"worker" desc:"PostgreSQL to keep everything in, as postgres://user:password@host:5432/database; ingest without it keeps to its spool alone"`
	LogLevel    string `env:"LOG_LEVEL, default=info" oneof:"debug,info,warn,error" desc:"The least level that is logged"`
	LogFormat   string `env:"LOG_FORMAT, default=json" oneof:"json,console" desc:"json for machines, console for people"`
	MetricsAddr string `env:"METRICS_ADDR" check:"host_port" desc:"Where Prometheus may fetch /metrics, and an orchestrator a worker's /health/ready, as host:port; empty for nowhere"`
	OTLPURL     string `env:"OTEL_EXPORTER_OTLP_ENDPOINT" check:"http_url" desc:"The OpenTelemetry collector that traces are sent to, by OTLP over HTTP, as http://host:4318; empty for no traces. Beside it OpenTelemetry's own variables hold: OTEL_EXPORTER_OTLP_HEADERS, OTEL_TRACES_SAMPLER, OTEL_RESOURCE_ATTRIBUTES, OTEL_SERVICE_NAME and the others"`
	ShutdownMS  int    `env:"SHUTDOWN_TIMEOUT_MS, default=25000" min:"0" max:"600000" desc:"How long a stopping process may finish what it has begun; keep it below the orchestrator's own limit"`
}

// ShutdownTimeout is how long a stopping process may finish what it has begun.
func (c Common) ShutdownTimeout() time.Duration { return milliseconds(c.ShutdownMS) }

// Keeping is what tells where deliveries are kept and what follows: of ingest,
// and of the command that drains its spool.
type Keeping struct {
	SpoolPath     string `env:"SPOOL_PATH, default=logs/events.jsonl" check:"one_line" desc:"Where deliveries are kept while the database is away; on a disk that stays"`
	SpoolMaxBytes int64  `env:"SPOOL_MAX_BYTES, default=10737418240" min:"1048576" max:"1099511627776" desc:"How large the spool may grow, in bytes; beyond it deliveries are answered 503"`
	AudioURL      string `env:"AUDIO_URL, default=var/audio" check:"one_line" desc:"Where the calls' audio is kept: a directory, or s3://bucket?region=…, or mem:// for nowhere that stays"`
	AnalyzeAuto   bool   `env:"ANALYZE_AUTO, default=true" desc:"Whether each call is queued for analysis as it arrives"`
	MaxAttempts   int    `env:"ANALYZE_MAX_ATTEMPTS, default=8" min:"1" max:"100" desc:"How often an analysis is tried before it is left to a person"`
}

// Ingest is what the receiving process reads.
type Ingest struct {
	Common

	Port           int      `env:"PORT, default=3000" min:"0" max:"65535" desc:"The port to listen on; 0 takes a free one"`
	BindAddr       string   `env:"BIND_ADDR, default=0.0.0.0" check:"ip" desc:"The address to listen on"`
	WebhookSecret  []Secret `env:"WEBHOOK_SECRET" check:"secrets" required:"ingest" desc:"The webhook's signing secret as ElevenLabs shows it (wsec_…); several, separated by commas, while one is rotated or for several workspaces"`
	ToleranceSec   int      `env:"WEBHOOK_TOLERANCE_SEC, default=3600" min:"1" max:"86400" desc:"How old a signature may be, in seconds; ElevenLabs' last retry comes up to 44 minutes after the call"`
	MaxBodyBytes   int64    `env:"WEBHOOK_MAX_BODY_BYTES, default=268435456" min:"1024" max:"1073741824" desc:"The largest delivery taken, in bytes; audio of a long call is tens of megabytes"`
	ReadinessMS    int      `env:"READINESS_DELAY_MS, default=0" min:"0" max:"60000" desc:"How long a stopping ingest still takes deliveries while /health/ready already says no, so that a balancer can turn away; in milliseconds"`
	AllowedCIDRs   []string `env:"WEBHOOK_ALLOWED_CIDRS" check:"allowed" desc:"Who may deliver: networks and addresses, and the word elevenlabs for the published addresses; empty for everybody who can sign"`
	TrustedProxies []string `env:"TRUSTED_PROXIES" check:"networks" desc:"The proxies whose X-Forwarded-For is believed"`
	RateRPS        int      `env:"WEBHOOK_RATE_RPS, default=200" min:"1" max:"1000000" desc:"Verified deliveries a second that an address may send for long"`
	RateBurst      int      `env:"WEBHOOK_RATE_BURST, default=1000" min:"1" max:"1000000" desc:"Verified deliveries that an address may send at once"`
	AdminTokens    []string `env:"ADMIN_TOKENS" check:"tokens" desc:"Who may use the API: name:role:sha256 for each, as postcall token new prints it; empty for nobody"`
	SessionKeys    []Secret `env:"SESSION_KEY" check:"session_keys" desc:"What the dashboard's sessions are signed with, 32 characters at least (openssl rand -hex 32); several, separated by commas, while one is replaced: the first signs. The same for all ingest processes; without it sessions end with the process"`
	AdminRPS       int      `env:"ADMIN_RATE_RPS, default=20" min:"1" max:"100000" desc:"Requests a second that a token may make of the API"`
	PrivacyKey     Secret   `env:"PRIVACY_KEY" check:"key" desc:"What the audit log's digests of erased phone numbers are made with; keep it, and the same for all processes. Without it an entry does not tell which number it was"`
	PhoneRegion    string   `env:"PHONE_REGION, default=RU" check:"region" desc:"The country of phone numbers that are said without a country code, as two letters"`
	FailRPM        int      `env:"WEBHOOK_FAIL_RPM, default=30" min:"1" max:"1000000" desc:"Deliveries a minute that may fail verification from an address before it is answered 429"`

	Keeping
}

// Drain is what the command that drains the spool reads.
type Drain struct {
	Common
	Keeping
}

// Tolerance is how old a signature may be.
func (c Ingest) Tolerance() time.Duration { return time.Duration(c.ToleranceSec) * time.Second }

// ReadinessDelay is how long a stopping ingest still takes deliveries.
func (c Ingest) ReadinessDelay() time.Duration { return milliseconds(c.ReadinessMS) }

// Worker is what the analysing process reads.
type Worker struct {
	Common

	Analyzer        string `env:"ANALYZER, default=openai" oneof:"openai,builtin" desc:"openai for any server that speaks its API; builtin works without network, from what ElevenLabs itself says of a call"`
	OpenAIKey       Secret `env:"OPENAI_API_KEY" check:"one_line" required:"worker, unless ANALYZER=builtin" desc:"The key of the OpenAI API or of a compatible server"`
	OpenAIBaseURL   string `env:"OPENAI_BASE_URL, default=https://api.openai.com/v1" check:"http_url" desc:"Another server that speaks the OpenAI API"`
	OpenAITimeout   int    `env:"OPENAI_TIMEOUT_MS, default=60000" min:"100" max:"900000" desc:"How long one answer of the model may take, in milliseconds"`
	OpenAIFormat    string `env:"OPENAI_RESPONSE_FORMAT, default=json_schema" oneof:"json_schema,json_object,none" desc:"What the server can be asked to answer in: json_schema is the strictest, none leaves it to the prompt"`
	OpenAICompat    string `env:"OPENAI_COMPAT, default=auto" oneof:"auto,true,false" desc:"true leaves out what only OpenAI's own API is sure to take (store, prompt_cache_key) and sends max_tokens for max_completion_tokens; auto does so for every host but openai.com"`
	ContextTokens   int    `env:"ANALYZE_CONTEXT_TOKENS, default=128000" min:"16000" max:"10000000" desc:"The model's window, input and answer together; a call that does not fit is read in parts. Counted as OpenAI's newer models do: for a model that takes more tokens for Russian, say less than its window"`
	MaxInputTokens  int    `env:"ANALYZE_MAX_INPUT_TOKENS, default=0" min:"0" max:"10000000" desc:"The most input tokens of one request, to read long calls in smaller parts than the window allows; 0 leaves it to the window"`
	MaxOutputTokens int    `env:"ANALYZE_MAX_OUTPUT_TOKENS, default=0" min:"0" max:"1000000" desc:"The most tokens of one answer, a reasoning model's thoughts included; one that is cut off is asked for once more with up to four times that. 0 means 8192, or an eighth of a smaller window"`
	Rules           string `env:"ANALYZE_RULES" check:"one_line" desc:"The YAML file with the deployment's own instructions, closed lists of topics, intents and outcomes, and prices, for all calls and by agent; docs/rules.example.yaml explains it"`
	Model           string `env:"ANALYZE_MODEL, default=gpt-5-mini" check:"one_line" desc:"The model that analyses"`
	MaxConcurrency  int    `env:"ANALYZE_MAX_CONCURRENCY, default=4" min:"1" max:"1000" desc:"How many analyses run at once, in all workers together"`
	MinMS           int    `env:"ANALYZE_MIN_MS, default=0" min:"0" max:"60000" desc:"The least time between the starts of two requests to the model, in milliseconds, over all workers together"`
	MaxAttempts     int    `env:"ANALYZE_MAX_ATTEMPTS, default=8" min:"1" max:"100" desc:"How often an analysis is tried before it is left to a person"`
	RedactPII       bool   `env:"PII_REDACT, default=false" desc:"Whether phones, e-mails, cards, INN, SNILS and passports are masked before a conversation leaves for the model; the stored result has them"`
	PhoneRegion     string `env:"PHONE_REGION, default=RU" check:"region" desc:"The country of phone numbers that are said without a country code, as two letters"`

	MarkdownEnabled bool   `env:"CRM_MD_ENABLED, default=true" desc:"Whether each result is appended to the Markdown file"`
	MarkdownPath    string `env:"CRM_MD_PATH, default=memory-bank/crm.md" check:"one_line" desc:"The Markdown file that results are appended to"`
	TimeZone        string `env:"CRM_TIME_ZONE, default=Europe/Moscow" check:"time_zone" desc:"The time zone of the times in that file"`

	CRMEnabled         bool   `env:"EXTERNAL_CRM_ENABLED, default=false" desc:"Whether results are sent to BPMSoft"`
	CRMDryRun          bool   `env:"EXTERNAL_CRM_DRY_RUN, default=false" desc:"Record what would be sent to BPMSoft, and send nothing"`
	CRMMode            string `env:"CRM_MODE, default=landing" oneof:"landing,odata" desc:"landing makes leads by the landing service, odata makes activities of contacts by a user of BPMSoft"`
	CRMServiceURL      string `env:"CRM_SERVICE_URL" check:"http_url" required:"worker, if EXTERNAL_CRM_ENABLED" desc:"BPMSoft's landing service, the whole address: https://crm.example.com/0/ServiceModel/GeneratedObjectWebFormService.svc/SaveWebFormObjectData, on .NET 8 without /0"`
	CRMLandingID       string `env:"CRM_LANDING_ID" check:"guid" required:"worker, if EXTERNAL_CRM_ENABLED" desc:"The landing's id, from the code that BPMSoft shows on the landing's page"`
	CRMReferer         string `env:"CRM_REFERER" check:"http_url" required:"worker, if EXTERNAL_CRM_ENABLED, or CRM_TRUSTED_ORIGIN" desc:"The page that the lead is said to come from; it must begin with a domain that is registered on the landing. Default: CRM_TRUSTED_ORIGIN"`
	CRMTrustedOrigin   string `env:"CRM_TRUSTED_ORIGIN" check:"http_url" desc:"What is sent as Origin, and as Referer if CRM_REFERER is not set"`
	CRMUser            string `env:"CRM_BASIC_AUTH_USER" check:"one_line" desc:"The user of the HTTP authentication that some stands put in front of BPMSoft"`
	CRMPassword        Secret `env:"CRM_BASIC_AUTH_PASS" check:"one_line" desc:"The password to it"`
	CRMODataURL        string `env:"CRM_ODATA_URL" check:"http_url" required:"worker, if CRM_MODE=odata" desc:"BPMSoft's OData, the whole address: https://crm.example.com/0/odata, without /0 on .NET 8; with CRM_MODE=landing only postcall crm check uses it"`
	CRMODataUser       string `env:"CRM_ODATA_USER" check:"one_line" required:"worker, if CRM_MODE=odata" desc:"The user to log in as"`
	CRMODataPassword   Secret `env:"CRM_ODATA_PASS" check:"one_line" required:"worker, if CRM_MODE=odata" desc:"The password to it"`
	CRMAllowHTTP       bool   `env:"CRM_ALLOW_HTTP, default=false" desc:"Allow an http:// address, over which leads and password can be read on the way"`
	CRMAsync           bool   `env:"CRM_ASYNC, default=false" desc:"The stand works later on what has contact fields: its yes then means accepted, not delivered"`
	CRMLeadSource      string `env:"CRM_LEAD_SOURCE" check:"one_line" desc:"The lead source, in BPMSoft mostly the id of a row of the lookup Lead sources"`
	CRMFieldMap        string `env:"CRM_FIELD_MAP" check:"one_line" desc:"The YAML file that says which fields are sent and which calls; empty for the built-in one, which is pkg/export/bpmsoft/fields.yaml"`
	CRMTimeoutMS       int    `env:"CRM_TIMEOUT_MS, default=25000" min:"100" max:"300000" desc:"How long BPMSoft may take for one lead, in milliseconds; its business processes run meanwhile"`
	CRMMaxRetries      int    `env:"CRM_MAX_RETRIES, default=5" min:"0" max:"50" desc:"How often sending is tried again before it is left to a person"`
	CRMConcurrency     int    `env:"CRM_MAX_CONCURRENCY, default=2" min:"1" max:"100" desc:"How many leads a worker sends at once"`
	CRMMinMS           int    `env:"CRM_MIN_MS, default=0" min:"0" max:"60000" desc:"The least time between the starts of two leads, across all workers, in milliseconds"`
	CRMCircuitFailures int    `env:"CRM_CIRCUIT_FAILURES, default=10" min:"0" max:"1000" desc:"After how many failures in a row nothing is sent for a while; 0 for never"`
	CRMCircuitOpenMS   int    `env:"CRM_CIRCUIT_OPEN_MS, default=30000" min:"100" max:"900000" desc:"For how long, in milliseconds; twice as long each time that it fails again, up to 15 minutes"`

	AudioURL string `env:"AUDIO_URL, default=var/audio" check:"one_line" desc:"Where the calls' audio is kept: a directory, or s3://bucket?region=…, or mem:// for nowhere that stays"`
	Retention
	Alerts

	AnalyzeAuto bool `env:"ANALYZE_AUTO, default=true" desc:"Whether each call is queued for analysis as it arrives"`
	Upstream
	Importing

	WebhookOutURL       string   `env:"WEBHOOK_OUT_URL" check:"http_url" desc:"Where each result is posted to, signed by the Standard Webhooks scheme; empty for nowhere"`
	WebhookOutSecrets   []Secret `env:"WEBHOOK_OUT_SECRET" check:"one_line" required:"worker, if WEBHOOK_OUT_URL" desc:"What it is signed with: whsec_ and base64, several separated by commas while one is replaced"`
	WebhookOutTimeoutMS int      `env:"WEBHOOK_OUT_TIMEOUT_MS, default=15000" min:"100" max:"300000" desc:"How long the receiver may take, in milliseconds"`
	WebhookOutAllowHTTP bool     `env:"WEBHOOK_OUT_ALLOW_HTTP, default=false" desc:"Allow an http:// address, over which results can be read on the way"`
}

// Retention is how long things are kept. Each has its own age; empty is for
// ever.
type Retention struct {
	Payloads    string `env:"RETENTION_PAYLOADS" check:"age" desc:"How long the bodies of events are kept, of which a stub stays; empty for ever"`
	Transcripts string `env:"RETENTION_TRANSCRIPTS" check:"age" desc:"How long what was said is kept in the bodies of events; the rest of them, figures and analyses stay; empty for ever"`
	Audio       string `env:"RETENTION_AUDIO" check:"age" desc:"How long recordings are kept; empty for ever"`
	Analyses    string `env:"RETENTION_ANALYSES" check:"age" desc:"How long analyses are kept, and with each what was sent of it; empty for ever"`
	Dispatches  string `env:"RETENTION_DISPATCHES" check:"age" desc:"How long it is kept what was sent to a target and what it answered; empty for ever"`
	Rejections  string `env:"RETENTION_REJECTIONS" check:"age" desc:"How long refused deliveries are listed; 30 days at most in any case"`
	Audit       string `env:"RETENTION_AUDIT" check:"audit_age" desc:"How long the audit log is kept; empty for ever"`
}

// Alerts are what is told to whom when something goes wrong. Without a channel
// nobody is told; a rule with 0 is off.
type Alerts struct {
	FailurePercent int    `env:"ALERT_FAILURE_PERCENT, default=0" min:"0" max:"100" desc:"Alert when so many percent of the last hour's analyses were given up; 0 for never"`
	DeadLetters    int    `env:"ALERT_DEAD_LETTERS, default=0" min:"0" max:"1000000" desc:"Alert when so many dead letters wait; 0 for never"`
	SilenceHours   int    `env:"ALERT_SILENCE_HOURS, default=0" min:"0" max:"500" desc:"Alert when no call came for so many hours of working time; 0 for never"`
	CostUSD        int    `env:"ALERT_COST_USD, default=0" min:"0" max:"1000000" desc:"Alert when the analyses of a day cost so many US dollars; 0 for never"`
	WorkTime       string `env:"ALERT_WORK_TIME, default=Mon-Fri 09:00-18:00" check:"work_time" desc:"Working time, for the silence"`
	AlertZone      string `env:"ALERT_TIME_ZONE, default=Europe/Moscow" check:"time_zone" desc:"The time zone of working time, of the day that costs are summed up for, and of times in alerts"`
	AlertLanguage  string `env:"ALERT_LANGUAGE, default=ru" oneof:"en,ru" desc:"The language of alerts"`

	AlertWebhookURL    string   `env:"ALERT_WEBHOOK_URL" check:"http_url" desc:"Where alerts are posted to as JSON, signed by the Standard Webhooks scheme; empty for nowhere"`
	AlertWebhookSecret Secret   `env:"ALERT_WEBHOOK_SECRET" check:"one_line" required:"worker, if ALERT_WEBHOOK_URL" desc:"What they are signed with: whsec_ and base64"`
	AlertAllowHTTP     bool     `env:"ALERT_ALLOW_HTTP, default=false" desc:"Allow http:// addresses for alerts"`
	TelegramURL        string   `env:"ALERT_TELEGRAM_URL, default=https://api.telegram.org" check:"http_url" desc:"The Bot API server"`
	TelegramToken      Secret   `env:"ALERT_TELEGRAM_TOKEN" check:"one_line" desc:"The token of the bot that sends alerts, from BotFather; empty for no Telegram"`
	TelegramChat       string   `env:"ALERT_TELEGRAM_CHAT" check:"one_line" required:"worker, if ALERT_TELEGRAM_TOKEN" desc:"The chat that it writes to: a number, or @name of a channel"`
	SMTPHost           string   `env:"ALERT_SMTP_HOST" check:"one_line" desc:"The mail server for alerts; empty for no mail"`
	SMTPPort           int      `env:"ALERT_SMTP_PORT, default=587" min:"1" max:"65535" desc:"Its port"`
	SMTPSecurity       string   `env:"ALERT_SMTP_SECURITY, default=starttls" oneof:"starttls,tls,none" desc:"starttls never goes on without TLS; none can be read on the way"`
	SMTPUser           string   `env:"ALERT_SMTP_USER" check:"one_line" desc:"The user to log in as; empty for none"`
	SMTPPassword       Secret   `env:"ALERT_SMTP_PASS" check:"one_line" desc:"The password to it"`
	SMTPFrom           string   `env:"ALERT_SMTP_FROM" check:"one_line" required:"worker, if ALERT_SMTP_HOST" desc:"Who alerts come from, as an address"`
	SMTPTo             []string `env:"ALERT_SMTP_TO" check:"one_line" required:"worker, if ALERT_SMTP_HOST" desc:"Whom they go to, as addresses separated by commas"`
}

// AlertLocation is the time zone of alerts.
func (c Alerts) AlertLocation() *time.Location {
	loc, err := time.LoadLocation(c.AlertZone)
	if err != nil { // load has checked it
		return time.UTC
	}
	return loc
}

// Age reads one of the ages; 0 is for ever.
func Age(s string) time.Duration {
	d, err := ParseAge(s)
	if err != nil { // load has checked it
		return 0
	}
	return d
}

// Upstream is where calls are fetched from whose webhook never came.
type Upstream struct {
	ElevenLabsKey Secret `env:"ELEVENLABS_API_KEY" desc:"A key that may read conversations (and webhooks, for postcall doctor); without it nothing is imported"`
	ElevenLabsURL string `env:"ELEVENLABS_BASE_URL, default=https://api.elevenlabs.io" check:"http_url" desc:"ElevenLabs' API in the workspace's region: api.elevenlabs.io, api.us.elevenlabs.io, api.eu.residency.elevenlabs.io, api.in.residency.elevenlabs.io, api.sg.residency.elevenlabs.io"`
	ElevenLabsRPS int    `env:"ELEVENLABS_RPS, default=5" min:"1" max:"1000" desc:"Requests a second that are made of it at most"`
}

// Importing is how the worker imports by itself.
type Importing struct {
	ImportMinutes int    `env:"IMPORT_EVERY_MINUTES, default=15" min:"1" max:"1440" desc:"How often calls are looked for whose webhook never came; with ELEVENLABS_API_KEY only"`
	ImportWindow  string `env:"IMPORT_WINDOW, default=3d" check:"span" desc:"How far back is looked each time, from the midnight (UTC) before: longer than ElevenLabs retries and than an outage lasts"`
	ImportAudio   bool   `env:"IMPORT_AUDIO, default=false" desc:"Whether missing recordings are fetched too"`
}

// Import is what the command reads that imports calls.
type Import struct {
	Common
	Keeping
	Upstream
}

// Privacy is what the commands read that erase and copy what is kept of a
// person.
type Privacy struct {
	Common

	AudioURL     string `env:"AUDIO_URL, default=var/audio" check:"one_line"`
	SpoolPath    string `env:"SPOOL_PATH, default=logs/events.jsonl" check:"one_line"`
	MarkdownPath string `env:"CRM_MD_PATH, default=memory-bank/crm.md" check:"one_line"`
	PhoneRegion  string `env:"PHONE_REGION, default=RU" check:"region"`
	Key          Secret `env:"PRIVACY_KEY" check:"key"`
}

// CRMTimeout is how long BPMSoft may take for one lead.
func (c Worker) CRMTimeout() time.Duration { return milliseconds(c.CRMTimeoutMS) }

// WebhookOutTimeout is how long the webhook's receiver may take.
func (c Worker) WebhookOutTimeout() time.Duration { return milliseconds(c.WebhookOutTimeoutMS) }

// CRMInterval is the least time between the starts of two leads.
func (c Worker) CRMInterval() time.Duration { return milliseconds(c.CRMMinMS) }

// CRMCircuitOpen is how long nothing is sent after repeated failures.
func (c Worker) CRMCircuitOpen() time.Duration { return milliseconds(c.CRMCircuitOpenMS) }

// OpenAIAttempt is how long one answer of the model may take.
func (c Worker) OpenAIAttempt() time.Duration { return milliseconds(c.OpenAITimeout) }

// MinGap is the least time between the starts of two requests to the model.
func (c Worker) MinGap() time.Duration { return milliseconds(c.MinMS) }

// Location is the time zone of the times that people read.
func (c Worker) Location() *time.Location {
	loc, err := time.LoadLocation(c.TimeZone)
	if err != nil { // load has checked it
		return time.UTC
	}
	return loc
}

func milliseconds(n int) time.Duration { return time.Duration(n) * time.Millisecond }
