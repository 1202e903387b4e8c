package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"postcall/pkg/app"
	"postcall/pkg/call"
	"postcall/pkg/config"
	"postcall/pkg/privacy"
	"postcall/pkg/telemetry"
)

// subjectFlags name whom or what a command is about.
type subjectFlags struct{ phone, conversation string }

func (f *subjectFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.phone, "phone", "", "a person, by the phone number in any form")
	c.Flags().StringVar(&f.conversation, "conversation", "", "one call, by the conversation's id")
}

func eraseCommand() *cobra.Command {
	var (
		subject     subjectFlags
		dryRun, yes bool
	)
	c := &cobra.Command{
		Use: "erase", Short: "Erase all that is kept of a person or a call", Args: args(cobra.NoArgs),
		Long: `Erase all that is kept of a person, by the phone number, or of a call, by its
conversation: events, analyses, recordings, what was sent and answered, jobs, entries
of the Markdown file. A number is found in any form it is written in, wherever it
stands in a call; the whole call goes. What comes of an erased call later, by webhook
or import, is not stored. The audit log keeps that it was done, without the data.

It cannot be undone. Without --yes nothing is erased, and what would be is counted.
It says at the end what is left to be done by hand, such as leads in BPMSoft.

Run it where the worker runs, with the same DATABASE_URL, AUDIO_URL, CRM_MD_PATH,
SPOOL_PATH, PHONE_REGION and PRIVACY_KEY. It may be stopped and run again.`,
		Example: "  postcall subject-export --phone '+7 999 000-00-02' > copy.zip\n" +
			"  postcall erase --phone '+7 999 000-00-02' --dry-run\n  postcall erase --phone '+7 999 000-00-02' --yes",
		RunE: func(c *cobra.Command, _ []string) error {
			if dryRun && yes {
				return usage(errors.New("--dry-run and --yes exclude each other"))
			}
			return withArchive(c, subject, func(ctx context.Context, a *app.Archive, s privacy.Subject, progress func(done, total int64)) error {
				r, err := a.Erase(ctx, s, operator(), !yes, progress)
				if err != nil {
					return err
				}
				printErased(c.OutOrStdout(), r)
				if !yes && !dryRun {
					return usage(errors.New("nothing was erased: --yes erases"))
				}
				return nil
			})
		},
	}
	subject.add(c)
	c.Flags().BoolVar(&dryRun, "dry-run", false, "only count")
	c.Flags().BoolVar(&yes, "yes", false, "erase")
	return c
}

func printErased(w io.Writer, r privacy.Result) {
	done := "erased"
	if r.DryRun {
		done = "would be erased"
	}
	fmt.Fprintf(w, "%s: %d calls, %d events, %d analyses, %d dispatches, %d recordings", done, r.Calls, r.Events, r.Analyses, r.Dispatches, r.Recordings)
	if !r.DryRun {
		fmt.Fprintf(w, ", %d jobs, %d entries and %d lines of the Markdown file", r.Jobs, r.Entries, r.Lines)
	}
	fmt.Fprintln(w)
	for _, text := range r.ByHand {
		fmt.Fprintln(w, "by hand:", text)
	}
}

func subjectExportCommand() *cobra.Command {
	var (
		subject subjectFlags
		out     string
	)
	c := &cobra.Command{
		Use: "subject-export", Short: "Write a person's copy of all that is kept of them", Args: args(cobra.NoArgs),
		Long: `Write all that is kept of a person, or of a call, as a ZIP: data.json and the
recordings. Other people in the same calls are in it too: look at it before you hand
it over. It is audited without the data.`,
		Example: "  postcall subject-export --phone '+7 999 000-00-02' --out copy.zip",
		RunE: func(c *cobra.Command, _ []string) error {
			return withArchive(c, subject, func(ctx context.Context, a *app.Archive, s privacy.Subject, progress func(done, total int64)) error {
				to, finish, err := destination(c, out)
				if err != nil {
					return err
				}
				copied, err := a.Copy(ctx, s, operator(), to, progress)
				if err := errors.Join(err, finish(err)); err != nil {
					return err
				}
				fmt.Fprintf(c.ErrOrStderr(), "%d events, %d analyses, %d dispatches, %d recordings\n",
					copied.Events, copied.Analyses, copied.Dispatches, copied.Recordings)
				return nil
			})
		},
	}
	subject.add(c)
	c.Flags().StringVar(&out, "out", "", "the file to write; default: standard output")
	return c
}

// destination opens what a copy is written to. A file is only its owner's, and
// gone again if finish is told of an error.
func destination(c *cobra.Command, path string) (io.Writer, func(error) error, error) {
	if path == "" {
		return c.OutOrStdout(), func(error) error { return nil }, nil
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, nil, usage(err)
	}
	return file, func(failed error) error {
		err := file.Close()
		if failed != nil || err != nil {
			err = errors.Join(err, os.Remove(path))
		}
		return err
	}, nil
}

func withArchive(c *cobra.Command, f subjectFlags, do func(context.Context, *app.Archive, privacy.Subject, func(done, total int64)) error) (err error) {
	settings, err := config.LoadPrivacy(c.Context(), config.Environment())
	if err != nil {
		return err
	}
	s, err := privacy.NewSubject(f.phone, f.conversation, settings.PhoneRegion)
	if err != nil {
		return err
	}
	log, err := telemetry.Logger(c.ErrOrStderr(), settings.LogLevel, settings.LogFormat, "privacy")
	if err != nil {
		return err
	}
	log = log.WithOptions(zap.IncreaseLevel(zap.WarnLevel))
	a, err := app.OpenArchive(c.Context(), settings, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	bar := progressBar(c.ErrOrStderr(), 0, "searching")
	defer func() { _ = bar.Finish() }() // drawing is all that can fail
	err = do(c.Context(), a, s, func(done, total int64) {
		bar.ChangeMax64(total)
		_ = bar.Set64(done)
	})
	if call.CodeOf(err) == call.NotFound {
		return usage(err)
	}
	return err
}

// operator is who runs a command, for the audit log.
func operator() privacy.Actor {
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	return privacy.Actor{Name: "command line: " + name, Role: "admin"}
}
