package alert

import (
	"fmt"
	"time"

	"postcall/pkg/queue"
)

// Message is what a channel is given.
type Message struct {
	queue.SendAlert

	// ID is the same at each attempt, and no other message's.
	ID string
	// Title is one line, Text a few, both for people.
	Title, Text string
}

// Language is that of the messages.
type Language string

// The languages.
const (
	English Language = "en"
	Russian Language = "ru"
)

// moment is how a time is told.
const moment = "2006-01-02 15:04 -07:00"

type phrases struct {
	events map[string]string // a title around the name of the rule
	rules  map[string]string // names
	values map[string]string // of value and limit
	advice map[string]string
	since  string
}

var texts = map[Language]phrases{
	English: {
		events: map[string]string{Fired: "Postcall: %s", Reminded: "Postcall, still: %s", Recovered: "Postcall, over: %s"},
		rules: map[string]string{RuleFailures: "analyses fail", RuleDead: "dead letters wait", RuleSilence: "no calls come",
			RuleCost: "analyses cost more than planned"},
		values: map[string]string{RuleFailures: "%.0f %% of the last hour's analyses were given up; the limit is %.0f %%.",
			RuleDead:    "%.0f calls wait for a person; the limit is %.0f.",
			RuleSilence: "%.1f hours of working time without a call; the limit is %.0f.",
			RuleCost:    "$%.2f today; the limit is $%.0f."},
		advice: map[string]string{RuleFailures: "Look at the dead letters: they say why.", RuleDead: "Retry or settle them in the dashboard.",
			RuleSilence: "Look at the webhook at ElevenLabs and at ingest's log.", RuleCost: "Look at the statistics and at ANALYZE_MODEL."},
		since: "Since %s.",
	},
	Russian: {
		events: map[string]string{Fired: "Postcall: %s", Reminded: "Postcall, всё ещё: %s", Recovered: "Postcall, прошло: %s"},
		rules: map[string]string{RuleFailures: "анализ не удаётся", RuleDead: "звонки ждут разбора вручную", RuleSilence: "звонки не поступают",
			RuleCost: "анализ стоит больше, чем задумано"},
		values: map[string]string{RuleFailures: "За последний час не удалось %.0f %% анализов; предел %.0f %%.",
			RuleDead:    "Ждут человека: %.0f; предел %.0f.",
			RuleSilence: "Рабочих часов без звонков: %.1f; предел %.0f.",
			RuleCost:    "За сегодня %.2f $; предел %.0f $."},
		advice: map[string]string{RuleFailures: "Посмотрите очередь неудавшихся: там сказано почему.", RuleDead: "Повторите их или закройте в панели.",
			RuleSilence: "Проверьте вебхук в ElevenLabs и журнал ingest.", RuleCost: "Посмотрите статистику и ANALYZE_MODEL."},
		since: "С %s.",
	},
}

// Trial is the event of a message that somebody sends by hand to see it arrive.
const Trial = "test"

// trials are its title and text, at a time.
var trials = map[Language][2]string{
	English: {"Postcall: a test", "Alerts arrive here. Nothing is wrong: somebody tries the channels. %s"},
	Russian: {"Postcall: проверка", "Сюда приходят оповещения. Ничего не случилось: кто-то проверяет каналы. %s"},
}

// Try writes the message that shows whether a channel works.
func Try(language Language, at time.Time) Message {
	return Message{
		SendAlert: queue.SendAlert{Rule: Trial, Event: Trial, At: at, Since: at},
		ID:        fmt.Sprintf("postcall-alert-%s-%d", Trial, at.UnixNano()),
		Title:     trials[language][0], Text: fmt.Sprintf(trials[language][1], at.Format(moment)),
	}
}

// message writes a message in a language, with times in loc.
func message(args queue.SendAlert, language Language, loc *time.Location) Message {
	p := texts[language]
	m := Message{SendAlert: args, ID: fmt.Sprintf("postcall-alert-%s-%d-%s-%d", args.Rule, args.Incident, args.Event, args.At.Unix())}
	m.Title = fmt.Sprintf(p.events[args.Event], p.rules[args.Rule])
	m.Text = fmt.Sprintf(p.values[args.Rule], args.Value, args.Limit)
	if args.Event != Fired {
		m.Text += "\n" + fmt.Sprintf(p.since, args.Since.In(loc).Format(moment))
	}
	if args.Event != Recovered {
		m.Text += "\n" + p.advice[args.Rule]
	}
	return m
}
