package app

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/riverqueue/river"

	"postcall/pkg/alert"
	"postcall/pkg/call"
	"postcall/pkg/config"
)

// alerting adds the workers of the alerts. Without a channel the check does
// nothing.
func (w *Worker) alerting(workers *river.Workers) error {
	c := w.config.Alerts
	channels, err := channels(c)
	if err != nil {
		return err
	}
	worktime, err := alert.ParseWorkTime(c.WorkTime, c.AlertLocation())
	if err != nil {
		return fmt.Errorf("ALERT_WORK_TIME: %w", err)
	}
	river.AddWorker(workers, &alert.CheckWorker{Log: w.log, Checker: &alert.Checker{
		Pool: w.pool, Work: worktime, Channels: slices.Sorted(maps.Keys(channels)), Limits: AlertLimits(c),
	}})
	river.AddWorker(workers, &alert.SendWorker{
		Pool: w.pool, Channels: channels, Language: alert.Language(c.AlertLanguage), Location: c.AlertLocation(), Log: w.log,
	})
	return nil
}

// AlertLimits are from where on each rule fires.
func AlertLimits(c config.Alerts) alert.Limits {
	return alert.Limits{FailurePercent: c.FailurePercent, Dead: c.DeadLetters, SilenceHours: c.SilenceHours, CostUSD: c.CostUSD}
}

// channels are those that are configured, by their names.
func channels(c config.Alerts) (map[string]alert.Channel, error) {
	all := map[string]alert.Channel{}
	if c.AlertWebhookURL != "" {
		hook, err := alert.NewWebhook(c.AlertWebhookURL, c.AlertWebhookSecret.Reveal(), c.AlertAllowHTTP)
		if err != nil {
			return nil, fmt.Errorf("setting up ALERT_WEBHOOK_URL: %w", err)
		}
		all["webhook"] = hook
	}
	if c.TelegramToken != "" {
		bot, err := alert.NewTelegram(c.TelegramURL, c.TelegramToken.Reveal(), c.TelegramChat, c.AlertAllowHTTP)
		if err != nil {
			return nil, fmt.Errorf("setting up ALERT_TELEGRAM_URL: %w", err)
		}
		all["telegram"] = bot
	}
	if c.SMTPHost != "" {
		mail, err := alert.NewMail(alert.MailOptions{
			Host: c.SMTPHost, Port: c.SMTPPort, User: c.SMTPUser, Password: c.SMTPPassword.Reveal(),
			From: c.SMTPFrom, To: c.SMTPTo, Security: c.SMTPSecurity,
		})
		if err != nil {
			return nil, fmt.Errorf("setting up ALERT_SMTP_HOST: %w", err)
		}
		all["mail"] = mail
	}
	return all, nil
}

// Tried is what came of a test message to a channel.
type Tried struct {
	Channel string
	Err     error // nil if the channel took it
}

// TryAlerts sends one test message to each channel that is configured, in the
// order of their names. An error means that there is none, or that one cannot be
// set up; its code is Invalid.
func TryAlerts(ctx context.Context, c config.Alerts) ([]Tried, error) {
	all, err := channels(c)
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, call.Errorf(call.Invalid, "alerts go nowhere: set ALERT_TELEGRAM_TOKEN, ALERT_SMTP_HOST or ALERT_WEBHOOK_URL")
	}
	message := alert.Try(alert.Language(c.AlertLanguage), time.Now().In(c.AlertLocation()))
	var list []Tried
	for _, name := range slices.Sorted(maps.Keys(all)) {
		list = append(list, Tried{name, all[name].Send(ctx, message)})
	}
	return list, nil
}
