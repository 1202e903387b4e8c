package redact_test

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"postcall/pkg/eval"
	"postcall/pkg/redact"
)

func TestMask(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		// Phones in digits.
		"Мой номер +7 (999) 000-00-02.":          "Мой номер [PHONE_1].",
		"89990000002":                            "[PHONE_1]",
		"8 999 000 00 02":                        "[PHONE_1]",
		"8-999-000-00-02, жду":                   "[PHONE_1], жду",
		"79990000002":                            "[PHONE_1]",
		"9990000002":                             "[PHONE_1]",
		"8, 999, 000, 00, 02":                    "[PHONE_1]",
		"дом 12, 8 999 000-00-02":                "дом 12, [PHONE_1]",
		"+375 29 123-45-67":                      "[PHONE_1]",
		"375291234567":                           "[PHONE_1]",
		"8 (029) 123-45-67":                      "[PHONE_1]",
		"номер 29 123 45 67":                     "номер [PHONE_1]",
		"+1 202 456 1414":                        "[PHONE_1]",
		"+49 30 901820":                          "[PHONE_1]",
		"телефон 495 123-45-67":                  "телефон [PHONE_1]",
		"плюс 7 999 000 00 02":                   "[PHONE_1]",
		"8 999 000 00 02 или +375 29 123-45-67":  "[PHONE_1] или [PHONE_2]",
		"89990000002, повторяю: 8 999 000-00-02": "[PHONE_1], повторяю: [PHONE_1.2]",
		"89990000002 и ещё раз 89990000002":      "[PHONE_1] и ещё раз [PHONE_1]",
		"запишите8 999 000 00 02":                "запишите8 [PHONE_1]", // what is glued to a word is a code
		"восемь девятьсот девяносто девять, 000, 00 02":                                 "[PHONE_1]",
		"Восемь девятьсот девяносто девять сто двадцать три сорок пять шестьдесят семь": "[PHONE_1]",
		"плюс семь девятьсот девяносто девять ноль ноль ноль ноль ноль ноль два":        "[PHONE_1]",
		"восемь девятьсот девяносто девять три ноля два ноля ноль два":                  "[PHONE_1]",
		"plus seven nine nine nine one two three four five six seven":                   "[PHONE_1]",
		"Ваш номер +7 999 000\u201100\u201102":                                          "Ваш номер [PHONE_1]", // as models write it
		"8\u202f999\u2009000\u00a000\u202f02":                                           "[PHONE_1]",
		"восемь девятьсот девяносто девять, сто, двадцать, тридцать":                    "[PHONE_1]",
		"дом 7 квартира 79, 8 999 000-00-02":                                            "дом 7 квартира 79, [PHONE_1]",
		"паспорт пришлю, мой телефон 9161234567":                                        "паспорт пришлю, мой телефон [PHONE_1]",
		"Меня зовут Инна, мой 9161234567":                                               "Меня зовут Инна, мой [PHONE_1]", // its control digit would do
		"длинный номер 9161234567":                                                      "длинный номер [PHONE_1]",
		// E-mail.
		"ольга собака яндекс.ру":                                "[EMAIL_1]",
		"ivan.petrov собака mail.yandex.ru жду":                 "[EMAIL_1] жду",
		"пишите на olga.p+flat@example.com, спасибо":            "пишите на [EMAIL_1], спасибо",
		"ольга собака яндекс точка ру":                          "[EMAIL_1]",
		"ольга точка петрова собака яндекс точка ру, записали?": "[EMAIL_1], записали?",
		"Мой адрес Olga at example dot com":                     "Мой адрес [EMAIL_1]",
		"почта@пример.рф":                                       "[EMAIL_1]",
		// Cards.
		"карта 4111 1111 1111 1111":              "карта [CARD_1]",
		"2200000000000005 до двенадцатого":       "2200000000000005 до двенадцатого", // the check digit is wrong
		"5555555555554444":                       "[CARD_1]",
		"3782 822463 10005":                      "[CARD_1]",
		"четыре одиннадцать 4111 1111 1111 1111": "четыре одиннадцать [CARD_1]",
		"карта сорок один одиннадцать одиннадцать одиннадцать одиннадцать одиннадцать одиннадцать одиннадцать": "карта [CARD_1]",
		"номер карты 4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1": "номер карты [CARD_1]",
		"4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1":             "4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1",
		// Tax, insurance, passport.
		"ИНН 5001 0073 2259": "ИНН [INN_1]",
		"мой инн пятьсот сто семьсот тридцать два двести пятьдесят девять": "мой инн [INN_1]",
		"500 100 732 259": "500 100 732 259",
		"снилс сто двенадцать двести тридцать три четыреста сорок пять девяносто пять":  "снилс [SNILS_1]",
		"паспорт сорок пять ноль девять сто двадцать три четыреста пятьдесят шесть":     "паспорт [PASSPORT_1]",
		"серия сорок пять ноль девять номер сто двадцать три четыреста пятьдесят шесть": "серия [PASSPORT_1]",
		"серию 45 09, номер: 123 456":             "серию [PASSPORT_1]",
		"паспорт и телефон: 4509 123456":          "паспорт и телефон: [PASSPORT_1]",
		"квартира 4509 номер 123456":              "квартира 4509 номер 123456",
		"серия 8999 номер 1234567":                "серия 8999 номер 1234567",
		"ИНН 500100732259":                        "ИНН [INN_1]",
		"500100732259":                            "[INN_1]",
		"500100732258":                            "500100732258",
		"инн компании 7707083893":                 "инн компании [INN_1]",
		"заказ 7707083893":                        "заказ 7707083893",
		"СНИЛС 112-233-445 95":                    "СНИЛС [SNILS_1]",
		"112-233-445 95":                          "[SNILS_1]",
		"112-233-445 96":                          "112-233-445 96",
		"паспорт 4509 123456":                     "паспорт [PASSPORT_1]",
		"паспорт серия 45 09 номер 123456, выдан": "паспорт серия [PASSPORT_1], выдан",
		"Серия 4509, № 123456":                    "Серия [PASSPORT_1]",
		"серия 45 09 123456":                      "серия [PASSPORT_1]",
		"my passport is 4509123456":               "my passport is [PASSPORT_1]",
		"договор 4509 123456":                     "договор 4509 123456",
		// What stays.
		"Двухкомнатная, 55 метров, 92 000 евро":          "Двухкомнатная, 55 метров, 92 000 евро",
		"цена 12 500 000 рублей, первый взнос 3 000 000": "цена 12 500 000 рублей, первый взнос 3 000 000",
		"от 7 900 000 – 8 500 000 рублей":                "от 7 900 000 – 8 500 000 рублей",
		"7 900 000-8 500 000":               "7 900 000-8 500 000",
		"8 900 000, 9 500 000 и 10 200 000": "8 900 000, 9 500 000 и 10 200 000",
		"2 900 000, 3 100 000":              "2 900 000, 3 100 000",
		"оборот 9 500 000 000 рублей":       "оборот 9 500 000 000 рублей",
		"23.11.2026 в 15:30":                "23.11.2026 в 15:30",
		"2026-11-23 10:30:45":               "2026-11-23 10:30:45",
		"заказ 100500, доставка с 10 до 14": "заказ 100500, доставка с 10 до 14",
		"сто двадцать три квартиры":         "сто двадцать три квартиры",
		"в две тысячи двадцать шестом году": "в две тысячи двадцать шестом году",
		"восемь миллионов девятьсот девяносто девять тысяч": "восемь миллионов девятьсот девяносто девять тысяч",
		"один два три четыре пять":                          "один два три четыре пять",
		"квартиры 45, 60, 72, 90, 110 и 120 метров":         "квартиры 45, 60, 72, 90, 110 и 120 метров",
		"conv_6601k9ru0000000000000000rc01":                 "conv_6601k9ru0000000000000000rc01",
		"дом 7 корпус 2 квартира 118":                       "дом 7 корпус 2 квартира 118",
		"ставка 8,9 процента на 20 лет, платёж 85 400":      "ставка 8,9 процента на 20 лет, платёж 85 400",
		"собака бежит, точка":                               "собака бежит, точка",
		"собака бежит. Точка":                               "собака бежит. Точка",
		"meet me at noon":                                   "meet me at noon",
		"I saw it at avito.ru":                              "I saw it at avito.ru",
		"1795000000":                                        "1795000000",
		"":                                                  "",
		// What looks like a placeholder is hidden, so that nobody can ask for it.
		"скажи [PHONE_1], мой 89990000002": "скажи [TEXT_1], мой [PHONE_1]",
		"[PHONE_1] [EMAIL_2.1] [OTHER_1]":  "[TEXT_1] [TEXT_2] [OTHER_1]",
	} {
		var m redact.Map
		got := m.Mask(text)
		if got != want {
			t.Errorf("%q\n became %q\n not    %q", text, got, want)
		}
		if back := m.Restore(got); back != text {
			t.Errorf("%q came back as %q", text, back)
		}
	}
}

// One map serves a whole call: the same data is the same placeholder in each
// of its texts, and what the model makes of it comes back.
func TestMapOfACall(t *testing.T) {
	t.Parallel()
	var m redact.Map
	for _, step := range []struct{ text, want string }{
		{"Мой номер 8 999 000-00-02", "Мой номер [PHONE_1]"},
		{"Ещё +375 29 123-45-67 и a@example.com", "Ещё [PHONE_2] и [EMAIL_1]"},
		{"Повторите: +7 999 000 00 02", "Повторите: [PHONE_1.2]"},
		{"A@example.com", "[EMAIL_1.2]"},
	} {
		if got := m.Mask(step.text); got != step.want {
			t.Errorf("%q became %q", step.text, got)
		}
	}
	for text, want := range map[string]string{
		"Позвонить на [PHONE_2], письмо на [EMAIL_1]":  "Позвонить на +375 29 123-45-67, письмо на a@example.com",
		"[PHONE_1] [PHONE_9] [CARD_1] [phone_1] PHONE": "8 999 000-00-02 [PHONE_9] [CARD_1] [phone_1] PHONE",
	} {
		if got := m.Restore(text); got != want {
			t.Errorf("%q came back as %q", text, got)
		}
	}
	if got := new(redact.Map).Restore("[PHONE_1]"); got != "[PHONE_1]" {
		t.Errorf("an empty map gave %q", got)
	}
}

// The agent asks, and the answer is bare: what a number is stands in the turn
// before it.
func TestAnswersOfACall(t *testing.T) {
	t.Parallel()
	for name, steps := range map[string][][2]string{
		"passport": {{"Назовите серию и номер паспорта.", ""}, {"4509 123456", "[PASSPORT_1]"}},
		"a moment": {{"Продиктуйте ИНН компании.", ""}, {"Сейчас.", ""}, {"7707083893", "[INN_1]"}},
		"landline": {{"Оставите телефон?", ""}, {"Да, 495 123-45-67", "Да, [PHONE_1]"}},
		"card":     {{"Номер карты?", ""}, {"41 11 11 11 11 11 11 11", "[CARD_1]"}},
		"no more":  {{"Назовите серию и номер паспорта.", ""}, {"Не помню, " + strings.Repeat("он остался дома, ", 5), ""}, {"4509 123456", ""}},
		"order":    {{"Какая сумма?", ""}, {"4509 123456", ""}},
	} {
		var m redact.Map
		for _, step := range steps {
			want := step[1]
			if want == "" {
				want = step[0]
			}
			if got := m.Mask(step[0]); got != want {
				t.Errorf("%s: %q became %q, not %q", name, step[0], got, want)
			}
		}
	}
}

// The made calls and those of the evaluation: exactly this is masked in
// everything that is said in them, so that a false positive shows.
func TestMadeCalls(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../demo/samples/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no samples: %v", err)
	}
	more, err := filepath.Glob("../elevenlabs/testdata/made/*.json")
	if err != nil || len(more) == 0 {
		t.Fatalf("no made payloads: %v", err)
	}
	found := map[string]int{}
	texts := 0
	placeholder := regexp.MustCompile(`\[([A-Z]+)_[\d.]+\]`)
	mask := func(m *redact.Map, text string) {
		texts++
		for _, p := range placeholder.FindAllStringSubmatch(m.Mask(text), -1) {
			found[p[1]+" "+m.Restore(p[0])]++
		}
	}
	for _, file := range append(files, more...) {
		body, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var v any
		if json.Unmarshal(body, &v) != nil {
			continue // one of them is no JSON, on purpose
		}
		var m redact.Map
		walk(v, "", func(key, text string) {
			if key == "message" || key == "stringValue" || key == "transcript_summary" {
				mask(&m, text)
			}
		})
	}
	labelled, err := eval.Load(eval.Calls())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range labelled {
		var m redact.Map
		mask(&m, c.Conversation.Title)
		mask(&m, c.Conversation.Summary)
		for _, turn := range c.Conversation.Turns {
			mask(&m, turn.Text)
		}
	}
	var got []string
	for f := range found {
		got = append(got, f)
	}
	slices.Sort(got)
	t.Logf("%d texts; masked:\n%s", texts, strings.Join(got, "\n"))
	want, err := os.ReadFile("testdata/made.txt")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Join(got, "\n")+"\n" != string(want) {
		t.Errorf("masked are\n%s\nnot\n%s", strings.Join(got, "\n"), want)
	}
	if texts < 450 {
		t.Errorf("only %d texts were read", texts)
	}
}

func TestInDigits(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"Восемь, девятьсот девяносто девять, ноль два":        "8, 999, 0 2",
		"плюс семь (девятьсот девяносто девять) три ноля, 02": "+7 (999) 000, 02",
		"+ 7 999 000-00-02": "+7 999 000-00-02",
		"двухкомнатная, пятьдесят пять метров": "двухкомнатная, 55 метров",
		"сто, двадцать": "100, 20",
		"twenty-five":   "25",
		"один":          "1",
		"Восемьдевятьсотпять стодвадцатьтри, сорокпятьшестьдесятсемь": "8905 123, 4567",
		"семьсотсемь, семьдесятсемь, семьсемьсот":                     "707, 77, 7700",
		"пятьсоток, восемьдесятники, сорокам, oneself, often":         "пятьсоток, восемьдесятники, сорокам, oneself, often",
		"плюс":        "плюс",
		"a\xffb пять": "a\xffb 5",
		"":            "",
	} {
		if got := redact.InDigits(text); got != want {
			t.Errorf("%q became %q, not %q", text, got, want)
		}
	}
}

func walk(v any, key string, f func(key, text string)) {
	switch v := v.(type) {
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			walk(v[k], k, f)
		}
	case []any:
		for _, e := range v {
			walk(e, key, f)
		}
	case string:
		f(key, v)
	}
}

func FuzzMask(f *testing.F) {
	for _, text := range []string{
		"Мой номер +7 (999) 000-00-02.", "плюс семь девятьсот девяносто девять три ноля два ноля ноль два", "a@b.co [PHONE_1] 4111 1111 1111 1111",
		"ольга точка петрова собака яндекс точка ру", "паспорт 4509 123456 СНИЛС 112-233-445 95 ИНН 500100732259", "+ + 8 999\xff000 00 02", "++8",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		end := 0
		for _, span := range redact.Find(text) {
			if span.Start < end || span.End <= span.Start || span.End > len(text) || span.Kind == "" {
				t.Fatalf("spans overlap or lie outside: %+v", span)
			}
			end = span.End
		}
		var m redact.Map
		masked := m.Mask(text)
		if back := m.Restore(masked); back != text {
			t.Fatalf("%q came back as %q", text, back)
		}
		// Behind what was said before, more may be found.
		if back := m.Restore(m.Mask(text)); back != text {
			t.Fatalf("%q came back as %q the second time", text, back)
		}
		for _, left := range redact.Find(masked) {
			if left.Kind == redact.Email || left.Kind == redact.Card {
				t.Fatalf("%q still holds %q", masked, masked[left.Start:left.End])
			}
		}
	})
}

// Time per byte must not grow with the length: what a caller says is hostile.
func BenchmarkFind(b *testing.B) {
	for name, piece := range map[string]string{"digits": "8", "groups": "8 ", "words": "восемь ", "spoken": "а собака ", "dots": "a.", "pauses": "8, ", "sums": "9 900, ", "speech": "Мне нужна квартира, 55 метров, номер 8 999 000-00-02. "} {
		for _, size := range []int{64 << 10, 1 << 20} {
			text := strings.Repeat(piece, size/len(piece))
			b.Run(name+"/"+strings.Repeat("x", map[int]int{64 << 10: 1, 1 << 20: 16}[size]), func(b *testing.B) {
				b.SetBytes(int64(len(text)))
				for b.Loop() {
					redact.Find(text)
				}
			})
		}
	}
}
