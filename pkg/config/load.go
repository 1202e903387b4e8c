package config

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // a container without zone files still knows the zones

	"github.com/google/uuid"
	"github.com/nyaruka/phonenumbers"
	"github.com/sethvargo/go-envconfig"

	"postcall/pkg/access"
	"postcall/pkg/alert"
	"postcall/pkg/gate"
)

// Lookuper finds a variable's value: the process's environment, or a map in
// tests and in the demo.
type Lookuper = envconfig.Lookuper

// Environment looks in the environment of the process.
func Environment() Lookuper { return envconfig.OsLookuper() }

// Map looks in a map, then in another Lookuper if that is not nil.
func Map(values map[string]string, then Lookuper) Lookuper {
	if then == nil {
		return envconfig.MapLookuper(values)
	}
	return envconfig.MultiLookuper(envconfig.MapLookuper(values), then)
}

// Error lists everything that is wrong with the environment.
type Error struct{ Problems []Problem }

// Problem is one variable that is wrong or missing. It never holds the value.
type Problem struct {
	Variable string
	Text     string
}

// Error prints a line for each problem.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("the configuration is not usable:")
	for _, p := range e.Problems {
		fmt.Fprintf(&b, "\n  %s %s", p.Variable, p.Text)
	}
	return b.String()
}

// LoadIngest reads the configuration of the receiving process. The error is an
// *Error with all problems at once.
func LoadIngest(ctx context.Context, from Lookuper) (Ingest, error) {
	c, problems := load[Ingest](ctx, from)
	problems = missing(problems, "WEBHOOK_SECRET", len(c.WebhookSecret) == 0, "is not set: without it no delivery can be verified, and none would be taken. "+
		"Copy it from ElevenLabs: Agents → Settings → Post-call webhook (wsec_…)")
	return c, joined(problems)
}

// LoadWorker reads the configuration of the analysing process. The error is an
// *Error with all problems at once.
func LoadWorker(ctx context.Context, from Lookuper) (Worker, error) {
	c, problems := load[Worker](ctx, from)
	problems = missing(problems, "DATABASE_URL", c.DatabaseURL == "", "is not set: the worker takes its jobs from PostgreSQL. "+databaseHelp)
	problems = keyless(problems, c)
	return c, joined(channelless(targetless(problems, c), c.Alerts))
}

// channelless adds what the channels of alerts that are switched on lack.
func channelless(problems []Problem, c Alerts) []Problem {
	problems = missing(problems, "ALERT_WEBHOOK_SECRET", c.AlertWebhookURL != "" && c.AlertWebhookSecret == "", "is not set: ALERT_WEBHOOK_URL needs it. `openssl rand -base64 32` makes what follows whsec_")
	problems = missing(problems, "ALERT_TELEGRAM_CHAT", c.TelegramToken != "" && c.TelegramChat == "", "is not set: ALERT_TELEGRAM_TOKEN needs it")
	problems = missing(problems, "ALERT_SMTP_FROM", c.SMTPHost != "" && c.SMTPFrom == "", "is not set: ALERT_SMTP_HOST needs it")
	return missing(problems, "ALERT_SMTP_TO", c.SMTPHost != "" && len(c.SMTPTo) == 0, "is not set: ALERT_SMTP_HOST needs it")
}

// LoadCRM reads the worker's configuration for commands that only look at the
// CRM: neither a key nor a database is asked for, and the CRM's settings are
// wanted even where it is not switched on yet.
func LoadCRM(ctx context.Context, from Lookuper) (Worker, error) {
	c, problems := load[Worker](ctx, from)
	wanted := c
	wanted.CRMEnabled = true
	return c, joined(targetless(problems, wanted))
}

// targetless adds what the targets that are switched on lack.
func targetless(problems []Problem, c Worker) []Problem {
	const crmHelp = "is not set: EXTERNAL_CRM_ENABLED needs it. "
	landing, odata := c.CRMEnabled && c.CRMMode == "landing", c.CRMEnabled && c.CRMMode == "odata"
	problems = missing(problems, "CRM_SERVICE_URL", landing && c.CRMServiceURL == "", crmHelp+
		"It is the whole address that ends in SaveWebFormObjectData")
	problems = missing(problems, "CRM_LANDING_ID", landing && c.CRMLandingID == "", crmHelp+
		"It is the formId in the code that BPMSoft shows on the landing's page")
	problems = missing(problems, "CRM_REFERER", landing && c.CRMReferer == "" && c.CRMTrustedOrigin == "", crmHelp+
		"BPMSoft refuses what does not come from a domain that is registered on the landing")
	problems = missing(problems, "CRM_ODATA_URL", odata && c.CRMODataURL == "", crmHelp+"It ends in /0/odata, or in /odata on .NET 8")
	problems = missing(problems, "CRM_ODATA_USER", odata && c.CRMODataUser == "", crmHelp+"It is a user of BPMSoft who may use OData")
	problems = missing(problems, "CRM_ODATA_PASS", odata && c.CRMODataPassword == "", crmHelp+"It is that user's password")
	return missing(problems, "WEBHOOK_OUT_SECRET", c.WebhookOutURL != "" && len(c.WebhookOutSecrets) == 0,
		"is not set: without a signature the receiver cannot tell us from a stranger. `openssl rand -base64 32` makes what follows whsec_")
}

// LoadDrain reads what draining a spool needs. The error is an *Error with all
// problems at once.
func LoadDrain(ctx context.Context, from Lookuper) (Drain, error) {
	c, problems := load[Drain](ctx, from)
	problems = missing(problems, "DATABASE_URL", c.DatabaseURL == "", "is not set: it says where the spooled deliveries go. "+databaseHelp)
	return c, joined(problems)
}

// LoadPrivacy reads what erasing and copying need. The error is an *Error with
// all problems at once.
func LoadPrivacy(ctx context.Context, from Lookuper) (Privacy, error) {
	c, problems := load[Privacy](ctx, from)
	problems = missing(problems, "DATABASE_URL", c.DatabaseURL == "", "is not set: it says where calls are kept. "+databaseHelp)
	return c, joined(problems)
}

// LoadAlerts reads the channels and rules of the alerts for a command that only
// tries them. The error is an *Error with all problems at once.
func LoadAlerts(ctx context.Context, from Lookuper) (Alerts, error) {
	c, problems := load[Alerts](ctx, from)
	return c, joined(channelless(problems, c))
}

// LoadImport reads what importing calls needs. The error is an *Error with all
// problems at once.
func LoadImport(ctx context.Context, from Lookuper) (Import, error) {
	c, problems := load[Import](ctx, from)
	problems = missing(problems, "DATABASE_URL", c.DatabaseURL == "", "is not set: it says where calls are kept. "+databaseHelp)
	problems = missing(problems, "ELEVENLABS_API_KEY", c.ElevenLabsKey == "", "is not set: calls are fetched with it. Make one at elevenlabs.io/app/settings/api-keys that may read conversations")
	return c, joined(problems)
}

// LoadEval reads the worker's configuration for a command that analyses and
// keeps nothing: it needs no database.
func LoadEval(ctx context.Context, from Lookuper) (Worker, error) {
	c, problems := load[Worker](ctx, from)
	return c, joined(keyless(problems, c))
}

func keyless(problems []Problem, c Worker) []Problem {
	return missing(problems, "OPENAI_API_KEY", c.Analyzer == "openai" && c.OpenAIKey == "",
		"is not set: set it, or set ANALYZER=builtin to analyse without a language model (from what ElevenLabs itself says of a call)")
}

// LoadCommon reads what a command needs that only talks to the database; it
// may be without one.
func LoadCommon(ctx context.Context, from Lookuper) (Common, error) {
	c, problems := load[Common](ctx, from)
	return c, joined(problems)
}

//nolint:gosec // the password in it is the word password
const databaseHelp = "Set it to postgres://user:password@host:5432/database, or run `postcall up`, which brings a PostgreSQL of its own"

func missing(problems []Problem, variable string, absent bool, text string) []Problem {
	if !absent || slices.ContainsFunc(problems, func(p Problem) bool { return p.Variable == variable }) {
		return problems
	}
	return append(problems, Problem{variable, text})
}

func joined(problems []Problem) error {
	if len(problems) == 0 {
		return nil
	}
	return &Error{problems}
}

// load fills a configuration struct. The library stops at the first value that
// it cannot decode; each time it does, the value last looked up is noted and
// taken for unset, so that all of them are found.
func load[T any](ctx context.Context, from Lookuper) (T, []Problem) {
	var (
		c        T
		problems []Problem
		last     string
		bad      = map[string]bool{}
	)
	lookup := envconfig.LookuperFunc(func(key string) (string, bool) {
		last = key
		value, ok := from.Lookup(key)
		// NAME= in an .env file means that it is not set.
		value = strings.TrimSpace(value)
		return value, ok && value != "" && !bad[key]
	})
	for {
		c = *new(T)
		err := envconfig.ProcessWith(ctx, &envconfig.Config{Target: &c, Lookuper: lookup})
		if err == nil {
			break
		}
		if bad[last] {
			return c, []Problem{{last, err.Error()}} // a mistake in a struct tag
		}
		bad[last] = true
	}
	for _, v := range variables(reflect.ValueOf(&c).Elem()) {
		if bad[v.Name] {
			problems = append(problems, Problem{v.Name, "is not understood: allowed is " + v.Allowed})
			continue
		}
		if err := v.check(); err != nil {
			problems = append(problems, Problem{v.Name, err.Error() + ": allowed is " + v.Allowed})
		}
	}
	return c, problems
}

// Variable describes one environment variable.
type Variable struct {
	Name     string
	Default  string
	Allowed  string
	Text     string
	Required string // the process that cannot start without it; empty for the others
	Secret   bool
	Readers  []string // the processes that read it

	field reflect.StructField
	value reflect.Value
}

// Variables lists every variable once, in the order of the structs.
func Variables() []Variable {
	var list []Variable
	for _, process := range []struct {
		name   string
		config any
	}{{"ingest", &Ingest{}}, {"worker", &Worker{}}} {
		for _, v := range variables(reflect.ValueOf(process.config).Elem()) {
			i := slices.IndexFunc(list, func(o Variable) bool { return o.Name == v.Name })
			if i < 0 {
				list = append(list, v)
				i = len(list) - 1
			}
			list[i].Readers = append(list[i].Readers, process.name)
		}
	}
	return list
}

func variables(v reflect.Value) []Variable {
	var list []Variable
	for i := range v.NumField() {
		field := v.Type().Field(i)
		if field.Anonymous {
			list = append(list, variables(v.Field(i))...)
			continue
		}
		name, options, _ := strings.Cut(field.Tag.Get("env"), ",")
		_, def, _ := strings.Cut(options, "default=")
		list = append(list, Variable{
			Name:     name,
			Default:  def,
			Allowed:  allowed(field),
			Text:     field.Tag.Get("desc"),
			Required: field.Tag.Get("required"),
			Secret:   field.Type == reflect.TypeFor[Secret]() || field.Type == reflect.TypeFor[[]Secret](),
			field:    field,
			value:    v.Field(i),
		})
	}
	return list
}

func allowed(f reflect.StructField) string {
	if list := f.Tag.Get("oneof"); list != "" {
		return strings.ReplaceAll(list, ",", ", ")
	}
	if lo := f.Tag.Get("min"); lo != "" {
		return "a whole number from " + lo + " to " + f.Tag.Get("max")
	}
	if f.Type.Kind() == reflect.Bool {
		return "true or false"
	}
	return rules[f.Tag.Get("check")].allowed
}

// rules are the checks that a range or a list cannot say.
var rules = map[string]struct {
	allowed string
	check   func(string) error
}{
	"postgres_url": {"a postgres:// address", func(s string) error {
		u, err := url.Parse(s)
		if err != nil || u.Host == "" && u.Query().Get("host") == "" {
			return errors.New("is not an address")
		}
		if u.Scheme != "postgres" && u.Scheme != "postgresql" {
			return errors.New("is not a PostgreSQL address")
		}
		return nil
	}},
	"http_url": {"an http:// or https:// address", func(s string) error {
		u, err := url.Parse(s)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return errors.New("is not such an address")
		}
		return nil
	}},
	"ip": {"an IP address of this machine, 0.0.0.0 for all", func(s string) error {
		if net.ParseIP(s) == nil {
			return errors.New("is not an IP address")
		}
		return nil
	}},
	"secrets": {"one or more texts separated by commas", func(s string) error {
		if strings.TrimSpace(s) == "" {
			return errors.New("has an empty secret in its list")
		}
		return oneLine(s)
	}},
	"one_line": {"a text on one line", oneLine},
	"guid": {"a GUID, such as 5f0c1d1e-7d3a-4b0f-9b0a-0d6f6a1f2c3b", func(s string) error {
		if _, err := uuid.Parse(s); err != nil {
			return errors.New("is not a GUID")
		}
		return nil
	}},
	"host_port": {"host:port, such as 127.0.0.1:9090", func(s string) error {
		if _, port, err := net.SplitHostPort(s); err != nil || port == "" {
			return errors.New("is not an address with a port")
		}
		return nil
	}},
	"networks": {"networks and addresses separated by commas, such as 10.0.0.0/8, 192.0.2.1", func(s string) error {
		if _, err := gate.ParseProxies([]string{s}); err != nil {
			return errors.New("has an element that is no network of proxies")
		}
		return nil
	}},
	"allowed": {"networks and addresses separated by commas, such as 10.0.0.0/8, 192.0.2.1, and the word elevenlabs", func(s string) error {
		if _, err := gate.ParseAllowList([]string{s}); err != nil {
			return errors.New("has an element that is neither a network nor an address")
		}
		return nil
	}},
	"tokens": {"entries name:role:sha256 separated by commas, as postcall token new prints them", func(s string) error {
		if _, err := access.ParseTokens([]string{s}); err != nil {
			return errors.New("has an element that is no such entry")
		}
		return nil
	}},
	"session_keys": {"one or more texts of at least 32 characters, separated by commas", func(s string) error {
		if len(strings.TrimSpace(s)) < access.MinSessionKey {
			return errors.New("has a key that is shorter than 32 characters")
		}
		return oneLine(s)
	}},
	"region": {"a country's two letters, such as RU or BY", func(s string) error {
		if !phonenumbers.GetSupportedRegions()[s] {
			return errors.New("is not a country")
		}
		return nil
	}},
	"age": {"a number of days, hours or years, such as 90d, 36h or 3y; empty for ever", func(s string) error {
		_, err := ParseAge(s)
		return err
	}},
	"span": {"a number of days or hours, such as 3d or 36h", func(s string) error {
		if d, err := ParseAge(s); err != nil || d <= 0 {
			return errors.New("is no such span")
		}
		return nil
	}},
	"audit_age": {"a number of days or years, at least 30d, such as 3y; empty for ever", func(s string) error {
		if d, err := ParseAge(s); err != nil || d < 30*24*time.Hour {
			return errors.New("is no such age")
		}
		return nil
	}},
	"key": {"a text of 32 characters or more on one line, such as openssl rand -base64 32 prints", func(s string) error {
		if len(s) < 32 {
			return errors.New("is too short")
		}
		return oneLine(s)
	}},
	"work_time": {"days and hours, such as Mon-Fri 09:00-18:00 or Mon,Wed,Sat 10:00-24:00", func(s string) error {
		if _, err := alert.ParseWorkTime(s, time.UTC); err != nil {
			return errors.New("is no such time")
		}
		return nil
	}},
	"time_zone": {"a time zone's name, such as Europe/Moscow or UTC", func(s string) error {
		if _, err := time.LoadLocation(s); err != nil {
			return errors.New("is not a time zone")
		}
		return nil
	}},
}

// ParseAge reads a duration such as 90d, at least an hour and at most a hundred
// years. Empty is 0.
func ParseAge(s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	units := map[byte]time.Duration{'h': time.Hour, 'd': 24 * time.Hour, 'y': 365 * 24 * time.Hour}
	unit, ok := units[s[len(s)-1]]
	n, err := strconv.ParseUint(s[:len(s)-1], 10, 32)
	const longest = 100 * 365 * 24 * time.Hour
	if !ok || err != nil || n == 0 || n > uint64(longest/unit) {
		return 0, errors.New("is no such age")
	}
	return time.Duration(n) * unit, nil
}

func oneLine(s string) error {
	if strings.ContainsAny(s, "\r\n") {
		return errors.New("has a line break in it")
	}
	return nil
}

// check holds the value against its tags. The error never holds the value.
func (v Variable) check() error {
	tag := v.field.Tag
	if list := tag.Get("oneof"); list != "" && !slices.Contains(strings.Split(list, ","), v.value.String()) {
		return errors.New("is none of these")
	}
	if v.value.CanInt() {
		lo, err1 := strconv.ParseInt(tag.Get("min"), 10, 64)
		hi, err2 := strconv.ParseInt(tag.Get("max"), 10, 64)
		if err := errors.Join(err1, err2); err != nil {
			return fmt.Errorf("has no bounds: %w", err)
		}
		if n := v.value.Int(); n < lo || n > hi {
			return errors.New("is out of bounds")
		}
	}
	rule, ok := rules[tag.Get("check")]
	if !ok {
		return nil
	}
	if v.value.Kind() == reflect.Slice {
		for i := range v.value.Len() {
			if err := rule.check(v.value.Index(i).String()); err != nil {
				return err
			}
		}
		return nil
	}
	if s := v.value.String(); s != "" {
		return rule.check(s)
	}
	return nil
}
