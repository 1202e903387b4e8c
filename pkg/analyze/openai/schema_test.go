package openai

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/invopop/jsonschema"

	"postcall/pkg/call"
)

// rulesets are every form that rules can give to the schema: each list free or
// closed.
func rulesets() map[string]Ruleset {
	forms := map[string]Ruleset{}
	for i := range 8 {
		s, name := Ruleset{Instructions: "Обращай внимание на сроки."}, ""
		if i&1 != 0 {
			s.Topics, name = []string{"Покупка квартиры", "Аренда"}, name+" topics"
		}
		if i&2 != 0 {
			s.Intents, name = []string{"Узнать цену"}, name+" intents"
		}
		if i&4 != 0 {
			s.Outcomes, name = []Outcome{{Name: "Запись на просмотр", Code: call.OutcomeMeeting, When: "the customer comes to see a flat"}, {Name: "Отказ", Code: call.OutcomeRefused}}, name+" outcomes"
		}
		forms["closed:"+name] = s
	}
	return forms
}

// TestSchemaIsStrict walks each schema as it is sent: strict mode takes no
// other.
func TestSchemaIsStrict(t *testing.T) {
	t.Parallel()
	for name, rules := range rulesets() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			strict(t, rules)
		})
	}
}

func strict(t *testing.T, rules Ruleset) {
	t.Helper()
	sent, err := json.Marshal(answerSchema(rules))
	if err != nil {
		t.Fatal(err)
	}
	var root map[string]any
	if err := json.Unmarshal(sent, &root); err != nil {
		t.Fatal(err)
	}
	if root["type"] != "object" {
		t.Error("the root is no object")
	}
	known := []string{"type", "properties", "required", "additionalProperties", "items", "anyOf", "enum", "description", "minimum", "maximum", "minItems", "maxItems"}
	objects := 0
	var walk func(path string, s map[string]any)
	walk = func(path string, s map[string]any) {
		for k := range s {
			if !slices.Contains(known, k) {
				t.Errorf("%s has %s, which strict mode's documented subset does not", path, k)
			}
		}
		if list, ok := s["enum"].([]any); ok && (s["type"] != "string" || len(list) == 0) {
			t.Errorf("%s has the values %v of type %v", path, list, s["type"])
		}
		if s["type"] == nil && s["anyOf"] == nil {
			t.Errorf("%s has no type", path)
		}
		if s["type"] == "object" {
			objects++
			if s["additionalProperties"] != false {
				t.Errorf("%s is open", path)
			}
			properties := s["properties"].(map[string]any)
			required := s["required"].([]any)
			if len(required) != len(properties) {
				t.Errorf("%s requires %d of %d properties", path, len(required), len(properties))
			}
			for name, p := range properties {
				walk(path+"."+name, p.(map[string]any))
			}
		}
		if items, ok := s["items"].(map[string]any); ok {
			walk(path+"[]", items)
		}
		if s["type"] == "array" && s["maxItems"] == nil {
			t.Errorf("%s has no bound", path)
		}
		if union, ok := s["anyOf"].([]any); ok {
			for _, u := range union {
				walk(path+"?", u.(map[string]any))
			}
		}
	}
	walk("answer", root)
	if objects != 3 {
		t.Errorf("the walk saw %d objects, not 3", objects)
	}
}

func TestSchemaHoldsTheDomainsListsAndBounds(t *testing.T) {
	t.Parallel()
	schema := answerSchema(Ruleset{})
	if got := len(value(schema, "outcome_code").Enum); got != len(call.OutcomeCodes()) {
		t.Errorf("outcome_code has %d values", got)
	}
	if got := len(optionalEnum(t, schema, "sentiment")); got != len(call.Sentiments()) {
		t.Errorf("sentiment has %d values", got)
	}
	quality, _ := schema.Properties.Get("quality")
	if q := quality.AnyOf[0]; q.Minimum != "1" || q.Maximum != "5" || quality.AnyOf[1].Type != "null" {
		t.Errorf("quality is bounded by %s and %s", q.Minimum, q.Maximum)
	}
	criteria := value(schema, "criteria").Items
	if name := value(criteria, "criterion"); len(name.Enum) != len(claims) {
		t.Errorf("the criteria are %v", name.Enum)
	}
	if len(value(criteria, "verdict").Enum) != 3 {
		t.Error("the verdicts are not three")
	}
	if most := int(*value(schema, "criteria").MaxItems + *value(schema, "evidence").MaxItems); most > call.MaxEvidence {
		t.Errorf("criteria and evidence together may be %d, more than a result holds", most)
	}
}

func optionalEnum(t *testing.T, schema *jsonschema.Schema, name string) []any {
	t.Helper()
	p, _ := schema.Properties.Get(name)
	return p.AnyOf[0].Enum
}

// TestProofComesBeforeJudgement: models write in the order of the properties.
func TestProofComesBeforeJudgement(t *testing.T) {
	t.Parallel()
	schema := answerSchema(Ruleset{})
	var order []string
	for p := schema.Properties.Oldest(); p != nil; p = p.Next() {
		order = append(order, p.Key)
	}
	at := func(name string) int { return slices.Index(order, name) }
	if at("criteria") > at("outcome_code") || at("evidence") > at("outcome_code") || at("quality") != len(order)-1 {
		t.Errorf("the order is %v", order)
	}
	inner := value(schema, "criteria").Items.Required
	if inner[len(inner)-1] != "verdict" {
		t.Errorf("the order in a criterion is %v", inner)
	}
}
