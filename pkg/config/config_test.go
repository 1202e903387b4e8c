package config_test

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"postcall/pkg/config"
)

var update = flag.Bool("update", false, "write the generated documents anew")

const root = "../.."

var usable = map[string]string{
	"DATABASE_URL":   "postgres://u:hunter2@localhost/postcall",
	"WEBHOOK_SECRET": "wsec_a, wsec_b",
	"OPENAI_API_KEY": "sk-topsecret",
}

func TestLoadIngest(t *testing.T) {
	t.Parallel()
	c, err := config.LoadIngest(t.Context(), config.Map(usable, nil))
	if err != nil {
		t.Fatal(err)
	}
	if got := len(c.WebhookSecret); got != 2 || c.WebhookSecret[1].Reveal() != "wsec_b" {
		t.Errorf("secrets are split by commas, spaces cut: got %d", got)
	}
	if c.Port != 3000 || c.ToleranceSec != 3600 || !c.AnalyzeAuto || c.MaxBodyBytes != 256<<20 {
		t.Errorf("defaults: %+v", c)
	}
}

func TestEmptyIsUnset(t *testing.T) {
	t.Parallel()
	c, err := config.LoadIngest(t.Context(), config.Map(map[string]string{"PORT": " ", "LOG_LEVEL": ""}, config.Map(usable, nil)))
	if err != nil {
		t.Fatal(err)
	}
	if c.Port != 3000 || c.LogLevel != "info" {
		t.Errorf("an empty variable takes the default: %+v", c)
	}
}

func TestProblems(t *testing.T) {
	t.Parallel()
	ingest := func(env map[string]string) error {
		_, err := config.LoadIngest(t.Context(), config.Map(env, nil))
		return err
	}
	worker := func(env map[string]string) error {
		_, err := config.LoadWorker(t.Context(), config.Map(env, nil))
		return err
	}
	evaluation := func(env map[string]string) error {
		_, err := config.LoadEval(t.Context(), config.Map(env, nil))
		return err
	}
	with := func(pairs ...string) map[string]string {
		env := map[string]string{}
		for k, v := range usable {
			env[k] = v
		}
		for i := 0; i < len(pairs); i += 2 {
			env[pairs[i]] = pairs[i+1]
		}
		return env
	}
	tests := []struct {
		name string
		err  error
		want []string // the variables named, in any order; none for no error
	}{
		{"nothing set, ingest", ingest(nil), []string{"WEBHOOK_SECRET"}},
		{"networks", ingest(with("WEBHOOK_ALLOWED_CIDRS", "elevenlabs,nowhere", "TRUSTED_PROXIES", "0.0.0.0/0")), []string{"WEBHOOK_ALLOWED_CIDRS", "TRUSTED_PROXIES"}},
		{"nothing set, worker", worker(nil), []string{"DATABASE_URL", "OPENAI_API_KEY"}},
		{"builtin needs no key", worker(map[string]string{"ANALYZER": "builtin", "DATABASE_URL": usable["DATABASE_URL"]}), nil},
		{"eval needs no database", evaluation(map[string]string{"OPENAI_API_KEY": "sk-topsecret"}), nil},
		{"nothing set, eval", evaluation(nil), []string{"OPENAI_API_KEY"}},
		{"everything wrong at once", ingest(with(
			"PORT", "http", "WEBHOOK_TOLERANCE_SEC", "-1", "LOG_FORMAT", "xml", "ANALYZE_AUTO", "perhaps", "BIND_ADDR", "localhost")),
			[]string{"PORT", "WEBHOOK_TOLERANCE_SEC", "LOG_FORMAT", "ANALYZE_AUTO", "BIND_ADDR"}},
		{"port above 65535", ingest(with("PORT", "65536")), []string{"PORT"}},
		{"a number that does not fit", ingest(with("PORT", "99999999999999999999")), []string{"PORT"}},
		{"an empty secret in the list", ingest(with("WEBHOOK_SECRET", "a,,b")), []string{"WEBHOOK_SECRET"}},
		{"only commas", ingest(with("WEBHOOK_SECRET", ",")), []string{"WEBHOOK_SECRET"}},
		{"another database", ingest(with("DATABASE_URL", "mysql://u:hunter2@h/d")), []string{"DATABASE_URL"}},
		{"a key over two lines", worker(with("OPENAI_API_KEY", "sk-topsecret\nX-Evil: 1")), []string{"OPENAI_API_KEY"}},
		{"unknown region and zone", worker(with("PHONE_REGION", "Russia", "CRM_TIME_ZONE", "Moscow")), []string{"PHONE_REGION", "CRM_TIME_ZONE"}},
		{"unknown analyser", worker(with("ANALYZER", "magic")), []string{"ANALYZER"}},
		{"base URL without scheme", worker(with("OPENAI_BASE_URL", "localhost:1234")), []string{"OPENAI_BASE_URL"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var got []string
			if e, ok := errors.AsType[*config.Error](tt.err); ok {
				for _, p := range e.Problems {
					got = append(got, p.Variable)
				}
			} else if tt.err != nil {
				t.Fatalf("an error of type %T", tt.err)
			}
			slices.Sort(got)
			slices.Sort(tt.want)
			if !slices.Equal(got, tt.want) {
				t.Errorf("named %v, want %v", got, tt.want)
			}
			for _, secret := range []string{"hunter2", "topsecret", "wsec_a"} {
				if tt.err != nil && strings.Contains(tt.err.Error(), secret) {
					t.Errorf("the error holds a secret: %v", tt.err)
				}
			}
		})
	}
}

func TestSecretsNeverPrint(t *testing.T) {
	t.Parallel()
	c, err := config.LoadWorker(t.Context(), config.Map(usable, nil))
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	for form, text := range map[string]string{
		"%v": fmt.Sprintf("%v", c), "%+v": fmt.Sprintf("%+v", c), "%#v": fmt.Sprintf("%#v", c), "json": string(encoded),
	} {
		if strings.Contains(text, "topsecret") || strings.Contains(text, "hunter2") {
			t.Errorf("%s shows a secret: %s", form, text)
		}
	}
}

// TestDocuments holds the documents against the structs; -update writes them.
func TestDocuments(t *testing.T) {
	t.Parallel()
	check := func(name, want string) {
		path := filepath.Join(root, name)
		got, err := os.ReadFile(path)
		if err != nil && !*update {
			t.Fatal(err)
		}
		if string(got) == want {
			return
		}
		if !*update {
			t.Errorf("%s does not match pkg/config: run `task generate`", name)
			return
		}
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	check(".env.example", config.EnvExample())
	for _, name := range []string{"README.md", "README.ru.md"} {
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		const begin, end = "<!-- environment -->\n", "<!-- /environment -->"
		before, rest, ok1 := strings.Cut(string(text), begin)
		_, after, ok2 := strings.Cut(rest, end)
		if !ok1 || !ok2 {
			t.Fatalf("%s has no place for the environment's table", name)
		}
		check(name, before+begin+config.Table()+end+after)
	}
}
