// Package console serves a page at the address of the control API on which a person sees what
// happens in the emulator and acts on it. The page is a client of the control API and of the
// endpoints under /_local/, like any other; it loads nothing from elsewhere.
package console

import (
	"bytes"
	"embed"
	"html/template"
	"net/http"
	"net/url"
)

//go:embed console.html console.css console.js
var files embed.FS

var page = template.Must(template.ParseFS(files, "console.html"))

// A Config is what the page shows of the emulator from the start.
type Config struct {
	Endpoint            string // host name for devices
	Port                int
	API                 string // URL
	Account, Region     string
	Credentials         string // the folder with the claim, the server's root and device.yaml; empty if there is none
	DeviceConfiguration string // the content of device.yaml
	DevicePath          string // its path, as a word of a command
}

// contentSecurityPolicy permits the page's own files and requests only. What a device sends is text
// on the page; this holds if that fails.
const contentSecurityPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// Register serves the page at / and its files below /_local/console/.
func Register(mux *http.ServeMux, c Config) {
	var text bytes.Buffer
	if err := page.Execute(&text, c); err != nil {
		panic(err) // a defect of the template
	}
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		protect(w)
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = w.Write(text.Bytes()) // the client may be gone
	})
	// A browser resolves the names . and .. in a path, however they are escaped, but not in a query.
	mux.HandleFunc("/_local/console/call", func(w http.ResponseWriter, r *http.Request) {
		var err error
		if r.URL, err = url.Parse(r.URL.Query().Get("url")); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		mux.ServeHTTP(w, r)
	})
	for _, name := range []string{"console.css", "console.js"} {
		mux.HandleFunc("GET /_local/console/"+name, func(w http.ResponseWriter, r *http.Request) {
			protect(w)
			http.ServeFileFS(w, r, files, name)
		})
	}
}

func protect(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Security-Policy", contentSecurityPolicy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
}
