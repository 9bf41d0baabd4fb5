package jobs

import (
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
	"path/filepath"
	"time"
)

// download is the built-in handler [DownloadFile]. Its arguments are the URL, the
// path of the file in or below the folder of downloads, and optionally the file's
// SHA-256 in hex and the Ed25519 signature, in base64, of these 32 bytes. With a
// SHA-256 it resumes what an earlier attempt has left. The file appears under its
// name when it is complete and verified.
func (s *Service) download(ctx context.Context, st *step) error {
	if len(st.args) < 2 || len(st.args) > 4 || st.runAsUser != "" {
		return errors.New("a download has the arguments URL, FILE, SHA-256 and SIGNATURE, the last two optional, and no runAsUser")
	}
	args := append(st.args[:len(st.args):len(st.args)], "", "")
	from, err := url.Parse(args[0])
	if err != nil {
		return errors.New("downloading: the URL is malformed") // it may have credentials
	}
	want, err := hex.DecodeString(args[2])
	if err != nil || len(want) != 0 && len(want) != sha256.Size {
		return fmt.Errorf("downloading: %q is not the SHA-256 of a file", args[2])
	}
	if err := s.checkSignature(want, args[3]); err != nil {
		return fmt.Errorf("downloading: %w", err)
	}
	name := args[1]
	if filepath.IsAbs(name) {
		if name, err = filepath.Rel(s.Downloads, name); err != nil {
			return fmt.Errorf("downloading: %w", err)
		}
	}
	root, err := os.OpenRoot(s.Downloads)
	if err != nil {
		return fmt.Errorf("downloading: %w", err)
	}
	defer root.Close()
	partial := name + ".partial"
	for delay := time.Second; ; delay = min(2*delay, time.Minute) {
		fatal, err := fetch(ctx, root, partial, from, want)
		if err == nil {
			if err = root.Rename(partial, name); err == nil {
				err = syncDirectory(filepath.Dir(filepath.Join(s.Downloads, name)))
			}
			fatal = true
		}
		if err == nil || fatal {
			return err
		}
		s.Log.Warn("a download is interrupted", "host", from.Host, "next", delay, "error", err)
		timer := time.NewTimer(delay)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("%w; the last error: %w", context.Cause(ctx), err)
		}
	}
}

// checkSignature verifies the signature of a digest, if one is required.
func (s *Service) checkSignature(digest []byte, signature string) error {
	if s.PublicKey == "" {
		return nil
	}
	text, err := os.ReadFile(s.PublicKey)
	if err != nil {
		return fmt.Errorf("reading agent.jobs.publicKey: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return fmt.Errorf("agent.jobs.publicKey: %s has no PEM block", s.PublicKey)
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	key, ok := parsed.(ed25519.PublicKey)
	if err != nil || !ok {
		return fmt.Errorf("agent.jobs.publicKey: %s has no Ed25519 public key", s.PublicKey)
	}
	raw, err := base64.StdEncoding.DecodeString(signature)
	if err != nil || len(digest) == 0 || !ed25519.Verify(key, digest, raw) {
		return errors.New("the signature is not that of agent.jobs.publicKey for this SHA-256")
	}
	return nil
}

var errNotHTTPS = errors.New("https is required")

// allowedURL: the file and its digest must not be readable or replaceable on the
// way.
func allowedURL(u *url.URL) error {
	ip := net.ParseIP(u.Hostname())
	if u.Scheme == "https" || u.Scheme == "http" && (u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()) {
		return nil
	}
	return fmt.Errorf("downloading: %w, and not %s://%s", errNotHTTPS, u.Scheme, u.Host)
}

// fetch appends to the partial file what it lacks, and verifies it. fatal means
// that another attempt does not help.
func fetch(ctx context.Context, root *os.Root, partial string, from *url.URL, want []byte) (fatal bool, err error) {
	if err := allowedURL(from); err != nil {
		return true, err
	}
	f, err := root.OpenFile(partial, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return true, fmt.Errorf("downloading: %w", err)
	}
	defer f.Close()
	sum, size := sha256.New(), int64(0)
	if len(want) > 0 {
		if size, err = io.Copy(sum, f); err != nil {
			return true, fmt.Errorf("downloading: %w", err)
		}
	}
	resumed := size > 0
	if !resumed || string(sum.Sum(nil)) != string(want) {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, from.String(), nil)
		if err != nil {
			return true, errors.New("downloading: the URL is malformed")
		}
		if resumed {
			r.Header.Set("Range", fmt.Sprintf("bytes=%d-", size))
		}
		client := http.Client{CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if len(via) > 10 {
				return errors.New("downloading: too many redirections")
			}
			return allowedURL(r.URL)
		}}
		answer, err := client.Do(r)
		if err != nil {
			if e, ok := errors.AsType[*url.Error](err); ok {
				err = e.Err // without the URL
			}
			return errors.Is(err, errNotHTTPS), fmt.Errorf("downloading: %w", err)
		}
		defer answer.Body.Close()
		switch code := answer.StatusCode; {
		case code == http.StatusOK:
			sum.Reset()
			if _, err := f.Seek(0, io.SeekStart); err != nil {
				return true, err
			}
			if err := f.Truncate(0); err != nil {
				return true, err
			}
			resumed = false
		case code == http.StatusPartialContent && resumed:
		case code == http.StatusRequestedRangeNotSatisfiable && resumed: // it is another file
			return false, errors.Join(errors.New("downloading: the file is shorter than what there is of it"), f.Truncate(0))
		default:
			return code < 500 && code != http.StatusRequestTimeout && code != http.StatusTooManyRequests, fmt.Errorf("downloading: %s", answer.Status)
		}
		if _, err := io.Copy(io.MultiWriter(f, sum), answer.Body); err != nil {
			_, disk := errors.AsType[*os.PathError](err)
			return disk, fmt.Errorf("downloading: %w", err)
		}
	}
	if got := sum.Sum(nil); len(want) > 0 && string(got) != string(want) {
		return !resumed, errors.Join(fmt.Errorf("downloading: the SHA-256 of the file is %x", got), f.Truncate(0))
	}
	if err := f.Sync(); err != nil {
		return true, fmt.Errorf("downloading: %w", err)
	}
	return false, nil
}
