package app

import (
	"fmt"
	"maps"
	"slices"

	"github.com/riverqueue/river"

	"postcall/pkg/alert"
)

// alerting adds the workers of the alerts. Without a channel the check does
// nothing.
func (w *Worker) alerting(workers *river.Workers) error {
	c := w.config
	channels := map[string]alert.Channel{}
	if c.AlertWebhookURL != "" {
		hook, err := alert.NewWebhook(c.AlertWebhookURL, c.AlertWebhookSecret.Reveal(), c.AlertAllowHTTP)
		if err != nil {
			return fmt.Errorf("setting up ALERT_WEBHOOK_URL: %w", err)
		}
		channels["webhook"] = hook
	}
	if c.TelegramToken != "" {
		bot, err := alert.NewTelegram(c.TelegramURL, c.TelegramToken.Reveal(), c.TelegramChat, c.AlertAllowHTTP)
		if err != nil {
			return fmt.Errorf("setting up ALERT_TELEGRAM_URL: %w", err)
		}
		channels["telegram"] = bot
	}
	if c.SMTPHost != "" {
		mail, err := alert.NewMail(alert.MailOptions{
			Host: c.SMTPHost, Port: c.SMTPPort, User: c.SMTPUser, Password: c.SMTPPassword.Reveal(),
			From: c.SMTPFrom, To: c.SMTPTo, Security: c.SMTPSecurity,
		})
		if err != nil {
			return fmt.Errorf("setting up ALERT_SMTP_HOST: %w", err)
		}
		channels["mail"] = mail
	}
	worktime, err := alert.ParseWorkTime(c.WorkTime, c.AlertLocation())
	if err != nil {
		return fmt.Errorf("ALERT_WORK_TIME: %w", err)
	}
	river.AddWorker(workers, &alert.CheckWorker{Log: w.log, Checker: &alert.Checker{
		Pool: w.pool, Work: worktime, Channels: slices.Sorted(maps.Keys(channels)),
		Limits: alert.Limits{FailurePercent: c.FailurePercent, Dead: c.DeadLetters, SilenceHours: c.SilenceHours, CostUSD: c.CostUSD},
	}})
	river.AddWorker(workers, &alert.SendWorker{
		Pool: w.pool, Channels: channels, Language: alert.Language(c.AlertLanguage), Location: c.AlertLocation(), Log: w.log,
	})
	return nil
}
