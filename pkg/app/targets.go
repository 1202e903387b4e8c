package app

import (
	"context"
	"time"

	"go.uber.org/zap"

	"postcall/pkg/call"
	"postcall/pkg/config"
	"postcall/pkg/export"
	"postcall/pkg/export/bpmsoft"
	"postcall/pkg/export/markdown"
	"postcall/pkg/postgres"
	"postcall/pkg/work"
)

// targets lists the places that results are handed to. A further one is a
// function that sets it up and a line here.
func targets(c config.Worker, log *zap.Logger) ([]work.Target, error) {
	var list []work.Target
	for _, setUp := range []func(config.Worker, *zap.Logger) (work.Target, error){
		toMarkdown,
		toBPMSoft,
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
		Attempt:     c.CRMTimeout(),
		MaxAttempts: c.CRMMaxRetries + 1,
		Circuit:     postgres.Circuit{Failures: c.CRMCircuitFailures, Open: c.CRMCircuitOpen(), Probe: c.CRMTimeout() + time.Minute},
		OncePerCall: true,
		Choose:      e.Choose,
	}
	if c.CRMDryRun {
		t.Preview = e.Preview
	}
	return t, nil
}

// BPMSoft makes the exporter to BPMSoft's landing service from the
// configuration.
func BPMSoft(c config.Worker, log *zap.Logger) (*bpmsoft.Exporter, error) {
	m, err := bpmsoft.Load(c.CRMFieldMap)
	if err != nil {
		return nil, err
	}
	return bpmsoft.New(bpmsoft.Options{
		URL: c.CRMServiceURL, AllowHTTP: c.CRMAllowHTTP, LandingID: c.CRMLandingID,
		Referer: c.CRMReferer, Origin: c.CRMTrustedOrigin,
		User: c.CRMUser, Password: c.CRMPassword.Reveal(), Timeout: c.CRMTimeout(),
		Async: c.CRMAsync, LeadSource: c.CRMLeadSource, Region: c.PhoneRegion, Mapping: m, Log: log,
	})
}
