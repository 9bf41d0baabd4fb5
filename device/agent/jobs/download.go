package jobs

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/cenkalti/backoff/v5"

	"example.com/fleety/device/internal/osfile"
)

// download is the built-in handler [DownloadFile]. Its arguments are the URL, the path of the file
// in or below the folder of downloads, and optionally the file's SHA-256 in hex and the Ed25519
// signature, in base64, of these 32 bytes. With a SHA-256 it resumes what an earlier attempt has
// left. The file appears under its name, or in the folder of that name, when it is complete and
// verified. It belongs to the user that the step names.
func (s *Service) download(ctx context.Context, c Settings, st *step) error {
	if len(st.args) < 2 || len(st.args) > 4 {
		return errors.New("a download has the arguments URL, FILE, SHA-256 and SIGNATURE, the last two optional")
	}
	owner, err := credential(st.runAsUser)
	if err != nil {
		return err
	}
	args := append(st.args[:len(st.args):len(st.args)], "", "")
	from, err := url.Parse(args[0])
	if err != nil {
		return errors.New("the URL is malformed") // it may have credentials
	}
	want, err := hex.DecodeString(args[2])
	if err != nil || len(want) != 0 && len(want) != sha256.Size {
		return fmt.Errorf("%q is not the SHA-256 of a file", args[2])
	}
	if err := cmp.Or(allowedURL(from), c.checkSignature(want, args[3])); err != nil {
		return err
	}
	name := args[1]
	if filepath.IsAbs(name) {
		if name, err = filepath.Rel(c.Downloads, name); err != nil {
			return err
		}
	}
	root, err := os.OpenRoot(c.Downloads)
	if err != nil {
		return err
	}
	defer root.Close()
	if info, err := root.Stat(name); err == nil && info.IsDir() {
		name = filepath.Join(name, path.Base(from.Path))
	}
	partial := name + ".partial"
	defer func() { // of what no later attempt continues
		if info, err := root.Lstat(partial); err == nil && info.Mode().IsRegular() && (len(want) == 0 || info.Size() == 0) {
			_ = root.Remove(partial)
		}
	}()
	var wrong []byte
	attempt := func() (struct{}, error) { return struct{}{}, s.fetch(ctx, root, partial, from, want, &wrong) }
	var last error
	report := func(err error, next time.Duration) {
		last = err
		s.Log.Warn("a download is interrupted", "host", from.Host, "next", next, "error", err)
	}
	if _, err := backoff.Retry(ctx, attempt, backoff.WithNotify(report), backoff.WithMaxElapsedTime(0)); err != nil {
		if last != nil && ctx.Err() != nil {
			err = fmt.Errorf("%w; the last attempt: %w", err, last)
		}
		return err
	}
	if owner != nil {
		err = root.Chown(partial, int(owner.Uid), int(owner.Gid))
	}
	if err == nil {
		err = root.Rename(partial, name)
	}
	if err != nil {
		return err
	}
	return osfile.SyncDir(filepath.Dir(filepath.Join(c.Downloads, name)))
}

// checkSignature verifies the signature of a digest, if one is required.
func (c Settings) checkSignature(digest []byte, signature string) error {
	if c.PublicKey == "" {
		return nil
	}
	text, err := os.ReadFile(c.PublicKey)
	if err != nil {
		return fmt.Errorf("reading agent.jobs.publicKey: %w", err)
	}
	var key ed25519.PublicKey
	if block, _ := pem.Decode(text); block != nil {
		parsed, _ := x509.ParsePKIXPublicKey(block.Bytes) // whose error is that it is none
		key, _ = parsed.(ed25519.PublicKey)
	}
	if key == nil {
		return fmt.Errorf("agent.jobs.publicKey: %s is no Ed25519 public key in PEM", c.PublicKey)
	}
	raw, err := base64.StdEncoding.DecodeString(signature)
	if err != nil || len(digest) == 0 || !ed25519.Verify(key, digest, raw) {
		return errors.New("the signature is not that of agent.jobs.publicKey for this SHA-256")
	}
	return nil
}

// fetch appends to the partial file what it lacks, and verifies it; wrong is the SHA-256 of the last
// file that was another. Its error does not have the URL, which may have credentials, and is
// permanent where another attempt would not help.
func (s *Service) fetch(ctx context.Context, root *os.Root, partial string, from *url.URL, want []byte, wrong *[]byte) error {
	f, err := root.OpenFile(partial, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return backoff.Permanent(err)
	}
	defer f.Close()
	sum, size := sha256.New(), int64(0)
	if len(want) > 0 {
		if size, err = io.Copy(sum, f); err != nil {
			return backoff.Permanent(err)
		}
	}
	resumed, whole := size > 0, false
	if !resumed || string(sum.Sum(nil)) != string(want) {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		stalled := time.AfterFunc(s.stallTimeout, func() { cancel(fmt.Errorf("the server sent nothing for %s", s.stallTimeout)) })
		defer stalled.Stop()
		r := &http.Request{Method: http.MethodGet, URL: from, Header: http.Header{"Accept-Encoding": {"identity"}}} // net/http would decompress
		if resumed {
			r.Header.Set("Range", fmt.Sprintf("bytes=%d-", size))
		}
		answer, err := s.client().Do(r.WithContext(ctx))
		if err != nil {
			return errors.Unwrap(err) // of a url.Error, which has the URL
		}
		defer answer.Body.Close()
		switch code := answer.StatusCode; {
		case code == http.StatusPartialContent && resumed:
		case code == http.StatusOK, code == http.StatusRequestedRangeNotSatisfiable && resumed:
			// It begins anew: the server sends all of it, or it has less than is there.
			_, err := f.Seek(0, io.SeekStart)
			if err = errors.Join(err, f.Truncate(0)); err != nil {
				return backoff.Permanent(err)
			}
			if code != http.StatusOK {
				return errors.New(answer.Status)
			}
			sum.Reset()
			resumed = false
		case code >= 500 || code == http.StatusRequestTimeout || code == http.StatusTooManyRequests:
			return errors.New(answer.Status)
		default:
			return backoff.Permanent(errors.New(answer.Status))
		}
		for err == nil {
			stalled.Reset(s.stallTimeout)
			_, err = io.CopyN(io.MultiWriter(f, sum), answer.Body, 16<<10)
		}
		if _, disk := errors.AsType[*os.PathError](err); disk { // probably full, which others would suffer from
			return backoff.Permanent(errors.Join(err, f.Truncate(0)))
		} else if !errors.Is(err, io.EOF) {
			return err
		}
		// Otherwise the end of the connection is that of the file, also where it was cut short.
		whole = answer.ContentLength >= 0 || answer.TransferEncoding != nil || answer.ProtoMajor > 1
	}
	if got := sum.Sum(nil); len(want) > 0 && string(got) != string(want) {
		err := errors.Join(fmt.Errorf("the SHA-256 of the file is %x", got), f.Truncate(0))
		if !resumed && (whole || bytes.Equal(got, *wrong)) {
			err = backoff.Permanent(err)
		}
		*wrong = got
		return err
	}
	if err := f.Sync(); err != nil {
		return backoff.Permanent(err)
	}
	return nil
}

// client makes requests that are allowed, through the proxy of the connection.
func (s *Service) client() *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DisableKeepAlives, transport.MaxResponseHeaderBytes = true, 64<<10 // by default 10 MiB, which are kept in memory
	transport.Proxy = func(r *http.Request) (*url.URL, error) {
		if s.Session.Proxy == "" || r.URL.Scheme == "http" { // which is on this machine
			return http.ProxyFromEnvironment(r)
		}
		return s.Session.ProxyURL()
	}
	return &http.Client{Transport: transport, CheckRedirect: func(r *http.Request, via []*http.Request) error {
		if len(via) > 10 {
			return backoff.Permanent(errors.New("too many redirections"))
		}
		return allowedURL(r.URL)
	}}
}

// allowedURL: what is downloaded must not be readable or replaceable on the way.
func allowedURL(u *url.URL) error {
	ip := net.ParseIP(u.Hostname())
	if u.Scheme == "https" || u.Scheme == "http" && (u.Hostname() == "localhost" || ip.IsLoopback()) {
		return nil
	}
	return backoff.Permanent(fmt.Errorf("https is required, and not %s://%s", u.Scheme, u.Host))
}
