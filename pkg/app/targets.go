package app

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"

	"postcall/pkg/call"
	"postcall/pkg/config"
	"postcall/pkg/export"
	"postcall/pkg/export/bpmsoft"
	"postcall/pkg/export/markdown"
	"postcall/pkg/export/odata"
	"postcall/pkg/export/webhook"
	"postcall/pkg/postgres"
	"postcall/pkg/queue"
	"postcall/pkg/work"
)

// targets lists the places that results are handed to. A further one is a
// function that sets it up and a line here.
func targets(c config.Worker, log *zap.Logger) ([]work.Target, error) {
	var list []work.Target
	for _, setUp := range []func(config.Worker, *zap.Logger) (work.Target, error){
		toMarkdown,
		toBPMSoft,
		toWebhook,
	} {
		t, err := setUp(c, log)
		if err != nil {
			return nil, err
		}
		list = append(list, t)
	}
	return list, nil
}

// off stands for a target that is not set up. Its jobs of before wait until it
// is.
type off call.Target

func (o off) Target() call.Target { return call.Target(o) }

func (o off) Export(context.Context, export.Delivery) (export.Receipt, error) {
	return export.Receipt{Outcome: export.Failed}, call.Errorf(call.Unavailable, "%s is not set up", string(o))
}

func toMarkdown(c config.Worker, _ *zap.Logger) (work.Target, error) {
	return work.Target{
		Exporter: markdown.New(c.MarkdownPath, c.Location()),
		Enabled:  c.MarkdownEnabled,
		// Appends to the file take turns anyhow, under its lock.
		Concurrency: 2,
		Attempt:     30 * time.Second,
	}, nil
}

func toBPMSoft(c config.Worker, log *zap.Logger) (work.Target, error) {
	if !c.CRMEnabled {
		return work.Target{Exporter: off(call.TargetBPMSoft)}, nil
	}
	e, err := BPMSoft(c, log)
	if err != nil {
		return work.Target{}, err
	}
	t := work.Target{
		Exporter:    e,
		Enabled:     true,
		Concurrency: c.CRMConcurrency,
		MinInterval: c.CRMInterval(),
		Attempt:     e.Longest,
		MaxAttempts: c.CRMMaxRetries + 1,
		Circuit:     postgres.Circuit{Failures: c.CRMCircuitFailures, Open: c.CRMCircuitOpen(), Probe: e.Longest + time.Minute},
		OncePerCall: true,
		Choose:      e.Choose,
	}
	if c.CRMDryRun {
		t.Preview = e.Preview
	}
	return t, nil
}

func toWebhook(c config.Worker, _ *zap.Logger) (work.Target, error) {
	if c.WebhookOutURL == "" {
		return work.Target{Exporter: off(call.TargetWebhook)}, nil
	}
	e, err := Webhook(c)
	if err != nil {
		return work.Target{}, err
	}
	return work.Target{
		Exporter: e, Enabled: true, Concurrency: 4, Attempt: c.WebhookOutTimeout(), MaxAttempts: queue.ExportAttempts,
		Circuit: postgres.Circuit{Failures: 10, Open: 30 * time.Second, Probe: c.WebhookOutTimeout() + time.Minute},
	}, nil
}

// Webhook makes the exporter to the webhook from the configuration; it connects
// to nothing. Errors are Invalid.
func Webhook(c config.Worker) (*webhook.Exporter, error) {
	e, err := webhook.New(webhook.Options{URL: c.WebhookOutURL, Secrets: config.Reveal(c.WebhookOutSecrets), Timeout: c.WebhookOutTimeout(), Plain: c.WebhookOutAllowHTTP})
	if err != nil {
		return nil, fmt.Errorf("setting up the webhook (WEBHOOK_OUT_URL): %w", err)
	}
	return e, nil
}

// CRM is the exporter to BPMSoft in the configured mode, with what commands and
// the worker need beside it.
type CRM struct {
	export.Exporter
	Choose  func(export.Delivery) string
	Preview func(export.Delivery) (export.Receipt, error)
	Check   func(context.Context) []export.Finding
	Longest time.Duration // of one attempt
}

// BPMSoft makes the exporter to BPMSoft from the configuration; it connects to
// nothing. Errors are Invalid.
func BPMSoft(c config.Worker, log *zap.Logger) (CRM, error) {
	m, err := bpmsoft.Load(c.CRMFieldMap)
	if err != nil {
		return CRM{}, err
	}
	var by *odata.Exporter
	if c.CRMODataURL != "" && c.CRMODataUser != "" && c.CRMODataPassword != "" {
		by, err = odata.New(odata.Options{
			URL: c.CRMODataURL, User: c.CRMODataUser, Password: c.CRMODataPassword.Reveal(),
			Timeout: c.CRMTimeout(), Region: c.PhoneRegion, Plain: c.CRMAllowHTTP,
		})
		if err != nil {
			return CRM{}, fmt.Errorf("setting up OData (CRM_ODATA_URL): %w", err)
		}
	}
	if c.CRMMode == "odata" {
		return CRM{
			Exporter: by, Preview: by.Preview, Longest: odataRequests * c.CRMTimeout(),
			Choose: func(d export.Delivery) string { return m.Choose(d, c.PhoneRegion) },
			Check:  func(ctx context.Context) []export.Finding { return by.Check(ctx, "", "") },
		}, nil
	}
	e, err := bpmsoft.New(bpmsoft.Options{
		URL: c.CRMServiceURL, AllowHTTP: c.CRMAllowHTTP, LandingID: c.CRMLandingID,
		Referer: c.CRMReferer, Origin: c.CRMTrustedOrigin,
		User: c.CRMUser, Password: c.CRMPassword.Reveal(), Timeout: c.CRMTimeout(),
		Async: c.CRMAsync, LeadSource: c.CRMLeadSource, Region: c.PhoneRegion, Mapping: m, Log: log,
	})
	if err != nil {
		return CRM{}, err
	}
	return CRM{
		Exporter: e, Preview: e.Preview, Choose: e.Choose, Longest: c.CRMTimeout(),
		Check: func(ctx context.Context) []export.Finding {
			list := e.Check(ctx)
			if by != nil {
				list = append(list, by.Check(ctx, c.CRMLandingID, cmp.Or(c.CRMReferer, c.CRMTrustedOrigin))...)
			}
			return list
		},
	}, nil
}

// odataRequests is how many requests of an attempt may each take as long as
// one may. It makes up to fifteen, yet of a stand that is that slow the rest is
// better tried later.
const odataRequests = 4
