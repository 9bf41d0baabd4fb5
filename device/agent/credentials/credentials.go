// Package credentials gets temporary AWS credentials from the AWS IoT credentials provider, with
// the device's certificate, and keeps them on disk until they expire. Processes that share the
// directory share the credentials.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/authorizing-direct-aws.html
package credentials

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/identity"
	"example.com/fleety/device/internal/osfile"
	"example.com/fleety/device/session"
)

const (
	// refreshBefore is how long before they expire credentials are replaced, where that is not more
	// than half of their life. SDKs ask for new ones 15 minutes before, and should then get some.
	refreshBefore = 20 * time.Minute
	retryAfter    = time.Minute      // the pause after a failure while there are credentials
	lockWait      = 10 * time.Second // for another caller's request, which may hang
)

// A Provider gets the credentials of role aliases. Its methods may be called concurrently; one
// request is sent for all callers that wait for the same credentials, in whichever process.
type Provider struct {
	// Session reaches the credentials provider: Endpoint, Port, RootCAs and Proxy are used, and
	// Log, which must be set.
	Session  session.Options
	Identity func() (*identity.Identity, error) // returns the device's identity
	// Dir holds the credentials. It is made if it is missing, and must be the device's user's alone.
	Dir string
}

// ProcessOutput is what the AWS SDKs read from a credential_process.
//
// AWS page: https://docs.aws.amazon.com/sdkref/latest/guide/feature-process-credentials.html
type ProcessOutput struct {
	Version         int    // 1
	AccessKeyID     string `json:"AccessKeyId"`
	SecretAccessKey awsiot.Secret
	SessionToken    awsiot.Secret
	Expiration      time.Time // by the device's clock
}

// stored are credentials in a file, with what they belong to.
type stored struct {
	Endpoint    string             `json:"endpoint"`
	ThingName   string             `json:"thingName"`
	Received    time.Time          `json:"received"`
	Credentials awsiot.Credentials `json:"credentials"`
	Retry       time.Time          `json:"retry,omitzero"` // when they are requested again after a failure
}

// due reports whether the credentials are to be replaced: soon enough before they expire, or where
// the clock was not set when they came. After a failure those that are valid have a pause.
func (s *stored) due(now time.Time) bool {
	left := s.Credentials.Expiration.Sub(now)
	soon := now.Before(s.Received) || left < min(refreshBefore, s.Credentials.Expiration.Sub(s.Received)/2)
	pause := s.Retry.Sub(now) // a longer one is of a clock that was set back since
	return soon && (left <= 0 || pause <= 0 || pause > retryAfter)
}

// Get returns credentials of the role alias: those on disk, unless they expire soon. Where new ones
// cannot be had for a temporary reason, those on disk are returned until they expire. The error
// wraps an [*awsiot.ErrorResponse] where AWS IoT rejects the request, else a [*session.Error] or
// what Identity returned.
func (p *Provider) Get(ctx context.Context, roleAlias string) (_ *ProcessOutput, err error) {
	if !awsiot.RoleAliases.Valid(roleAlias) {
		return nil, awsiot.WithClass(awsiot.Misconfigured, fmt.Errorf("role alias %q: AWS IoT allows %s", roleAlias, awsiot.RoleAliases))
	}
	id, err := p.Identity()
	if err != nil {
		return nil, err
	}
	log := p.Session.Log.With("roleAlias", roleAlias)
	unlock := p.lock(ctx, roleAlias)
	defer func() { unlock(err != nil) }() // a program may ask for any number of names
	path := filepath.Join(p.Dir, roleAlias+".json")
	s := p.read(path, id.Record.ThingName, log)
	if s == nil || s.due(time.Now()) {
		fresh, err := p.request(ctx, id, roleAlias)
		switch {
		case err == nil:
			s = fresh
		case s == nil || !time.Now().Before(s.Credentials.Expiration) || awsiot.ClassOf(err) != awsiot.Temporary:
			return nil, fmt.Errorf("requesting credentials of role alias %s: %w", roleAlias, err)
		default:
			log.Warn("the credentials could not be replaced and are used until they expire", "expiration", s.Credentials.Expiration, "error", err)
			s.Retry = time.Now().Add(retryAfter).UTC()
		}
		data, err := json.Marshal(s)
		if err == nil {
			err = osfile.Replace(path, data, 0o600)
		}
		if err != nil {
			log.Warn("the credentials cannot be stored and will be requested again", "error", err)
		}
	}
	c := s.Credentials
	return &ProcessOutput{1, c.AccessKeyID, c.SecretAccessKey, c.SessionToken, c.Expiration.UTC()}, nil
}

// read returns the credentials in a file, nil if there are none of this device.
func (p *Provider) read(path, thing string, log *slog.Logger) *stored {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var s stored
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	if err == nil && !complete(s.Credentials) {
		err = errors.New("a part of them is missing")
	}
	if err != nil {
		log.Warn("the stored credentials cannot be read and are requested again", "error", err)
		return nil
	}
	if s.Endpoint != p.Session.Endpoint || s.ThingName != thing {
		return nil
	}
	return &s
}

func (p *Provider) request(ctx context.Context, id *identity.Identity, roleAlias string) (*stored, error) {
	o := p.Session
	o.Certificate = func(context.Context) (*tls.Certificate, error) { return id.TLS(), nil }
	response, err := session.Get(ctx, o, awsiot.CredentialsPath(roleAlias), http.Header{awsiot.ThingNameHeader: {id.Record.ThingName}})
	if err != nil {
		return nil, err
	}
	decoder := json.NewDecoder(response.Body)
	if response.StatusCode != http.StatusOK {
		code, _, _ := strings.Cut(response.Header.Get("X-Amzn-ErrorType"), ":")
		code = strings.TrimSuffix(code, "Exception")
		e := &awsiot.ErrorResponse{StatusCode: response.StatusCode, ErrorCode: code, Operation: awsiot.AssumeRoleWithCertificate}
		var body struct{ Message string }
		if decoder.Decode(&body) == nil {
			e.ErrorMessage = body.Message
		}
		return nil, e
	}
	var body awsiot.CredentialsResponse
	err = decoder.Decode(&body)
	c := body.Credentials
	if err != nil || !complete(c) {
		return nil, fmt.Errorf("%s answered without credentials; is it the credentials provider?", o.Endpoint)
	}
	now := time.Now().UTC()
	// The expiration is compared with the device's clock, which may be wrong.
	if sent, err := http.ParseTime(response.Header.Get("Date")); err == nil && now.Sub(sent).Abs() > time.Minute {
		c.Expiration = c.Expiration.Add(now.Sub(sent))
	}
	return &stored{Endpoint: o.Endpoint, ThingName: id.Record.ThingName, Received: now, Credentials: c}, nil
}

// lock waits for other callers that work on the credentials of the role alias, until ctx ends or
// lockWait has passed. On a disk that has no locks or cannot be written it does not wait: the
// device must get credentials there too.
func (p *Provider) lock(ctx context.Context, roleAlias string) (unlock osfile.Unlock) {
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	_ = os.MkdirAll(p.Dir, 0o700) // opening the file fails if it is not there
	err := osfile.ErrLocked
	for errors.Is(err, osfile.ErrLocked) && ctx.Err() == nil {
		unlock, err = osfile.Lock(filepath.Join(p.Dir, roleAlias+".lock"), true)
	}
	if err != nil {
		return func(bool) error { return nil }
	}
	return unlock
}

func complete(c awsiot.Credentials) bool {
	return c.AccessKeyID != "" && c.SecretAccessKey != "" && c.SessionToken != "" && !c.Expiration.IsZero()
}
