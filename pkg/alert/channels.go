package alert

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/wneessen/go-mail"

	"postcall/pkg/call"
	"postcall/pkg/export/outbound"
	"postcall/pkg/export/webhook"
)

// sendTimeout bounds one attempt on a channel.
const sendTimeout = 20 * time.Second

// Channel is where messages go. An error that is RateLimited says when to come
// back; any other is tried again later. None holds an address or a secret.
type Channel interface {
	Send(ctx context.Context, m Message) error
}

// Webhook posts messages as JSON, signed by the Standard Webhooks scheme.
type Webhook struct {
	url    *url.URL
	client *outbound.Client
	signer *standardwebhooks.Webhook
}

// NewWebhook checks the address and the secret, which is whsec_ and base64.
// plain allows http://.
func NewWebhook(address, secret string, plain bool) (*Webhook, error) {
	u, err := outbound.URL(address, plain)
	if err != nil {
		return nil, err
	}
	key, err := webhook.Key(secret)
	if err != nil {
		return nil, call.Errorf(call.Invalid, "the secret of the webhook for alerts %s", err.Error())
	}
	signer, err := standardwebhooks.NewWebhookRaw(key)
	if err != nil {
		return nil, call.Errorf(call.Invalid, "the secret of the webhook for alerts cannot sign")
	}
	return &Webhook{url: u, client: outbound.New(nil, sendTimeout), signer: signer}, nil
}

// Send posts a message; a receiver tells a repetition by its id.
func (w *Webhook) Send(ctx context.Context, m Message) error {
	body, err := json.Marshal(map[string]any{
		"type": "alert." + m.Event, "timestamp": m.At.UTC().Format(time.RFC3339),
		"data": map[string]any{"rule": m.Rule, "incident": m.Incident, "value": m.Value, "limit": m.Limit,
			"since": m.Since.UTC().Format(time.RFC3339), "title": m.Title, "text": m.Text},
	})
	if err != nil {
		return call.Errorf(call.Internal, "an alert cannot be written as JSON: %w", err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url.String(), bytes.NewReader(body))
	if err != nil {
		return call.Errorf(call.Internal, "the webhook's request could not be made")
	}
	at := time.Now()
	signature, err := w.signer.Sign(m.ID, at, body)
	if err != nil {
		return call.Errorf(call.Internal, "an alert could not be signed")
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "Postcall")
	r.Header.Set(standardwebhooks.HeaderWebhookID, m.ID)
	r.Header.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(at.Unix(), 10))
	r.Header.Set(standardwebhooks.HeaderWebhookSignature, signature)
	reply, err := w.client.Do(ctx, r)
	if reply.OK() {
		return nil // the status is the answer
	}
	if err != nil {
		return err
	}
	_, failure := reply.Failure("the webhook for alerts")
	return failure
}

// Telegram sends messages by a bot.
type Telegram struct {
	url    *url.URL
	chat   string
	client *outbound.Client
}

// NewTelegram checks what a bot needs. server is https://api.telegram.org or a
// local Bot API server; plain allows http://.
func NewTelegram(server, token, chat string, plain bool) (*Telegram, error) {
	u, err := outbound.URL(server, plain)
	if err != nil {
		return nil, err
	}
	if token == "" || chat == "" {
		return nil, call.Errorf(call.Invalid, "Telegram needs both the bot's token and a chat")
	}
	return &Telegram{url: u.JoinPath("bot"+token, "sendMessage"), chat: chat, client: outbound.New(nil, sendTimeout)}, nil
}

// Send sends a message as plain text: nothing in it is markup. The Bot API knows
// no ids of messages: one whose answer got lost comes twice.
func (t *Telegram) Send(ctx context.Context, m Message) error {
	body, err := json.Marshal(map[string]any{"chat_id": t.chat, "text": m.Title + "\n\n" + m.Text, "link_preview_options": map[string]bool{"is_disabled": true}})
	if err != nil {
		return call.Errorf(call.Internal, "an alert cannot be written as JSON: %w", err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, t.url.String(), bytes.NewReader(body))
	if err != nil {
		return call.Errorf(call.Internal, "the request to Telegram could not be made")
	}
	r.Header.Set("Content-Type", "application/json")
	reply, err := t.client.Do(ctx, r)
	if err != nil {
		return err
	}
	var answer struct {
		OK          bool   `json:"ok"`
		Code        int    `json:"error_code"`
		Description string `json:"description"`
		Parameters  struct {
			RetryAfter int `json:"retry_after"`
		} `json:"parameters"`
	}
	if err := json.Unmarshal(reply.Body, &answer); err != nil {
		return call.Errorf(call.Unavailable, "Telegram answered %d with what is no JSON", reply.Status)
	}
	switch {
	case reply.OK() && answer.OK:
		return nil
	case reply.Status == http.StatusTooManyRequests:
		return &call.Error{Code: call.RateLimited, Message: "Telegram asks to wait",
			RetryAfter: min(max(time.Duration(answer.Parameters.RetryAfter)*time.Second, time.Second), outbound.MaxRetryAfter)}
	case reply.Status == http.StatusUnauthorized, reply.Status == http.StatusNotFound:
		return call.Errorf(call.Credentials, "Telegram does not know the bot (%d): compare ALERT_TELEGRAM_TOKEN with what BotFather says", reply.Status)
	case reply.Status == http.StatusBadRequest, reply.Status == http.StatusForbidden:
		return call.Errorf(call.Refused, "Telegram does not let the bot write to ALERT_TELEGRAM_CHAT (%d): add it to the chat", reply.Status)
	}
	return call.Errorf(call.Unavailable, "Telegram answered %d", reply.Status)
}

// MailOptions say how messages are mailed.
type MailOptions struct {
	Host     string
	Port     int
	User     string // empty for no authentication
	Password string
	From     string
	To       []string
	// Security is starttls, tls, or none, over which everything can be read.
	Security string
	// TLS is for tests; nil for what the system trusts.
	TLS *tls.Config
}

// Mail sends messages by SMTP.
type Mail struct{ o MailOptions }

// NewMail checks the addresses; it connects to nothing.
func NewMail(o MailOptions) (*Mail, error) {
	m := &Mail{o}
	if len(o.To) == 0 {
		return nil, call.Errorf(call.Invalid, "ALERT_SMTP_TO names nobody")
	}
	if _, err := m.letter(Message{}); err != nil {
		return nil, call.Errorf(call.Invalid, "an address in ALERT_SMTP_FROM or ALERT_SMTP_TO is none")
	}
	if _, err := m.client(); err != nil {
		return nil, call.Errorf(call.Invalid, "ALERT_SMTP_HOST, ALERT_SMTP_PORT or ALERT_SMTP_SECURITY cannot be used")
	}
	return m, nil
}

func (m *Mail) client() (*mail.Client, error) {
	options := []mail.Option{mail.WithPort(m.o.Port), mail.WithTimeout(sendTimeout)}
	switch m.o.Security {
	case "tls":
		options = append(options, mail.WithSSL())
	case "none":
		options = append(options, mail.WithTLSPolicy(mail.NoTLS))
	default:
		options = append(options, mail.WithTLSPolicy(mail.TLSMandatory))
	}
	if m.o.TLS != nil {
		options = append(options, mail.WithTLSConfig(m.o.TLS))
	}
	if m.o.User != "" {
		options = append(options, mail.WithSMTPAuth(mail.SMTPAuthAutoDiscover), mail.WithUsername(m.o.User), mail.WithPassword(m.o.Password))
	}
	return mail.NewClient(m.o.Host, options...)
}

// letter writes the mail. Its Message-ID is the message's, by which a mailbox
// tells a repetition.
func (m *Mail) letter(message Message) (*mail.Msg, error) {
	letter := mail.NewMsg()
	if err := letter.From(m.o.From); err != nil {
		return nil, err
	}
	if err := letter.To(m.o.To...); err != nil {
		return nil, err
	}
	letter.SetMessageIDWithValue(message.ID + "@postcall")
	letter.Subject(message.Title)
	letter.SetDate()
	letter.SetGenHeader("Auto-Submitted", "auto-generated")
	letter.SetBodyString(mail.TypeTextPlain, message.Text+"\n")
	return letter, nil
}

// Send mails a message.
func (m *Mail) Send(ctx context.Context, message Message) error {
	letter, err := m.letter(message)
	if err != nil {
		return call.Errorf(call.Invalid, "an alert cannot be written as a mail: %w", err)
	}
	client, err := m.client()
	if err != nil {
		return call.Errorf(call.Invalid, "the mail client cannot be set up: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	if err := client.DialAndSendWithContext(ctx, letter); err != nil {
		return fmt.Errorf("mailing an alert: %w", &call.Error{Code: call.Unavailable, Message: "the mail server did not take it", Err: err})
	}
	return nil
}
