// Package templates embeds the provisioning template and the policies of this repository, so that
// the emulator needs no folder beside it. The files are copies: /templates is their source.
package templates

import "embed"

//go:generate sh -c "cp ../../../templates/*.json ."

// FS holds the files by their names.
//
//go:embed *.json
var FS embed.FS
