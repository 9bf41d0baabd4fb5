package devicecli

import (
	"bytes"
	"cmp"
	"context"
	_ "embed"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/identity"
	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/config"
	"example.com/fleety/device/internal/osfile"
	"github.com/spf13/cobra"
)

func newConfigCmd(console *cli.Console) *cobra.Command {
	var path string
	initialize := cli.Command("init [flags]", cli.NoArgs, func(context.Context, []string) error {
		if err := writeNew(path, config.Example, 0o600); err != nil { // it may get a proxy's password
			return err
		}
		if _, err := fmt.Fprintln(console.Out, path); err != nil {
			return fmt.Errorf("writing the result: %w", err)
		}
		console.Note((&config.Config{Path: path}).Commands("Set server.endpoint, serialNumber and deviceLocation in it, then run: iot_device bootstrap"))
		return nil
	})
	initialize.Flags().StringVarP(&path, "config", "c", config.DefaultPath, "write the configuration to `FILE`")
	return cli.Group("config", initialize)
}

// writeNew writes a configuration to a file that must not exist.
func writeNew(path string, data []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, fs.ErrExist) {
		return &cli.UsageError{Err: fmt.Errorf("%s exists and is not overwritten; name another file", path)}
	}
	if err != nil {
		return fmt.Errorf("writing the configuration: %w", err)
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Close()); err != nil {
		os.Remove(path) // a part of it would be read
		return fmt.Errorf("writing the configuration: %w", err)
	}
	return nil
}

type exportOptions struct {
	config.Sources
	output, roleAlias string
}

var exports = map[string]func(*exported) (string, error){
	"mosquitto":             exportMosquitto,
	"aws-iot-device-client": exportDeviceClient,
	"greengrass-lite":       exportGreengrassLite,
	"env":                   exportEnv,
}

func newExportCmd(console *cli.Console) *cobra.Command {
	var o exportOptions
	cmd := cli.Command("export mosquitto|aws-iot-device-client|greengrass-lite|env [flags]", cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		func(ctx context.Context, args []string) error { return export(ctx, console, o, args[0]) })
	cmd.ValidArgs = []string{"mosquitto", "aws-iot-device-client", "greengrass-lite", "env"}
	o.AddFlags(cmd.Flags())
	cmd.Flags().StringVarP(&o.output, "output", "o", "", "write to `FILE`, which must not exist, instead of standard output")
	cmd.Flags().StringVar(&o.roleAlias, "role-alias", "", "role alias `NAME` of Greengrass, the token exchange role's")
	return cmd
}

// exported is what the programs need. Paths are absolute.
type exported struct {
	server       config.Server
	files        identity.Files
	thing, roots string
	hardware     string // that holds the key: "tpm", "pkcs11"; empty for a file
	tokenURI     string // of a key in PKCS #11
	region       string // empty if the endpoints do not have it
	roleAlias    string
	warnings     []string
}

func export(ctx context.Context, console *cli.Console, o exportOptions, format string) error {
	d, err := open(ctx, console, o.Sources, false, true)
	if err != nil {
		return err
	}
	e := &exported{server: d.config.Server, files: d.identity.Files, thing: d.identity.Record.ThingName, roleAlias: o.roleAlias}
	e.region = cmp.Or(awsiot.ParseEndpoint(e.server.Endpoint).Region, awsiot.ParseEndpoint(e.server.CredentialsEndpoint).Region)
	if e.hardware, e.tokenURI, err = config.HardwareOf(e.files.PrivateKey); err != nil {
		return err
	}
	if e.roots, err = d.rootsFile(); err != nil {
		return fmt.Errorf("writing the Amazon roots: %w", err)
	}
	for _, path := range []*string{&e.files.Certificate, &e.files.PrivateKey, &e.roots} {
		if *path, err = filepath.Abs(*path); err != nil {
			return err
		}
		if format != "env" && (!utf8.ValidString(*path) || strings.ContainsFunc(*path, func(r rune) bool { return r < ' ' }) || strings.TrimSpace(*path) != *path) {
			return &cli.UsageError{Err: fmt.Errorf("the path %q cannot be written in a configuration", *path)}
		}
	}
	text, err := exports[format](e)
	if err != nil {
		return &cli.UsageError{Err: err}
	}
	console.Warn(e.warnings...)
	if o.output == "" {
		_, err = fmt.Fprint(console.Out, text)
		return err
	}
	return writeNew(o.output, []byte(text), 0o644)
}

// rootsFile returns a file with the server's roots, which it writes if they are those of this
// program.
func (d *device) rootsFile() (string, error) {
	if from := d.config.RootsFrom(); from == d.config.Bootstrap.CACertificatePath {
		return from, nil
	}
	var roots bytes.Buffer
	for _, root := range d.files.Bundle {
		pem.Encode(&roots, &pem.Block{Type: "CERTIFICATE", Bytes: root.Raw}) // a buffer does not fail
	}
	path := filepath.Join(d.config.StateDir, "amazon-roots.pem")
	if there, err := osfile.Read(path, int64(roots.Len())); err == nil && bytes.Equal(there, roots.Bytes()) {
		return path, nil
	}
	if err := os.MkdirAll(d.config.StateDir, 0o700); err != nil {
		return "", err
	}
	return path, osfile.Replace(path, roots.Bytes(), 0o644)
}

// What is written for other programs, with words in braces for what is known of the device.
//
//go:embed mosquitto.conf
var mosquitto string

//go:embed greengrass-lite.yaml
var greengrassLite string

// exportMosquitto maps up/# and down/# of the local broker to the thing's own topics.
func exportMosquitto(e *exported) (string, error) {
	if e.hardware != "" {
		return "", fmt.Errorf("the bridges of mosquitto read the private key from a file, and that of this device is in hardware (%s); iot_device run uses it for every program", e.hardware)
	}
	alpn := ""
	if e.server.Port == 443 {
		alpn = "bridge_alpn x-amzn-mqtt-ca\n"
	}
	return strings.NewReplacer("{thing}", e.thing, "{endpoint}", e.server.Endpoint, "{port}", strconv.Itoa(e.server.Port),
		"{roots}", e.roots, "{certificate}", e.files.Certificate, "{key}", e.files.PrivateKey, "{alpn}", alpn).Replace(mosquitto), nil
}

func exportDeviceClient(e *exported) (string, error) {
	if e.hardware != "" {
		return "", fmt.Errorf("the AWS IoT Device Client reads the private key from a file, and that of this device is in hardware (%s); for a PKCS #11 token, write its section secure-element by hand", e.hardware)
	}
	if e.server.Port != 443 && e.server.Port != config.DefaultPort {
		e.warnings = append(e.warnings, fmt.Sprintf("the AWS IoT Device Client has no setting for port %d", e.server.Port))
	}
	dirs := []string{filepath.Dir(e.files.Certificate), filepath.Dir(e.files.PrivateKey), filepath.Dir(e.roots)}
	slices.Sort(dirs)
	for _, dir := range slices.Compact(dirs) {
		if info, err := os.Stat(dir); err == nil && info.Mode().Perm() != 0o700 {
			e.warnings = append(e.warnings, fmt.Sprintf("the AWS IoT Device Client accepts the files in %s only if its mode is 0700; it is %04o", dir, info.Mode().Perm()))
		}
	}
	text, err := json.MarshalIndent(map[string]any{
		"endpoint": e.server.Endpoint, "thing-name": e.thing, "cert": e.files.Certificate, "key": e.files.PrivateKey, "root-ca": e.roots,
		"fleet-provisioning": map[string]any{"enabled": false},
	}, "", "  ")
	return string(text) + "\n", err
}

func exportGreengrassLite(e *exported) (string, error) {
	switch {
	case e.roleAlias == "" || e.server.CredentialsEndpoint == "":
		return "", errors.New("greengrass-lite needs --role-alias and the setting server.credentialsEndpoint, the output of \"aws iot describe-endpoint --endpoint-type iot:CredentialProvider\"")
	case !awsiot.RoleAliases.Valid(e.roleAlias):
		return "", fmt.Errorf("role alias %q: AWS IoT allows %s", e.roleAlias, awsiot.RoleAliases)
	case e.region == "":
		return "", fmt.Errorf("greengrass-lite needs the Region, which neither %s nor %s has", e.server.Endpoint, e.server.CredentialsEndpoint)
	case e.hardware == "tpm":
		return "", errors.New("greengrass-lite uses a key in a TPM by its persistent handle, and that of this device has none")
	case e.hardware == "pkcs11":
		e.files.PrivateKey = e.tokenURI
		e.warnings = append(e.warnings, "the private key is in a PKCS #11 token: Greengrass needs OpenSSL's provider pkcs11, with the token's PIN in openssl.cnf")
	}
	return strings.NewReplacer("{thing}", strconv.Quote(e.thing), "{endpoint}", strconv.Quote(e.server.Endpoint), "{roots}", strconv.Quote(e.roots),
		"{certificate}", strconv.Quote(e.files.Certificate), "{key}", strconv.Quote(e.files.PrivateKey), "{region}", strconv.Quote(e.region),
		"{credentialsEndpoint}", strconv.Quote(e.server.CredentialsEndpoint), "{roleAlias}", strconv.Quote(e.roleAlias)).Replace(greengrassLite), nil
}

func exportEnv(e *exported) (string, error) {
	if e.hardware != "" {
		e.warnings = append(e.warnings, fmt.Sprintf("the private key is in hardware (%s): AWS_IOT_PRIVATE_KEY names a file that has no key for other programs", e.hardware))
	}
	var b strings.Builder
	for _, v := range [][2]string{
		{"ENDPOINT", e.server.Endpoint}, {"PORT", fmt.Sprint(e.server.Port)}, {"THING_NAME", e.thing}, {"CERTIFICATE", e.files.Certificate},
		{"PRIVATE_KEY", e.files.PrivateKey}, {"ROOT_CA", e.roots}, {"CREDENTIALS_ENDPOINT", e.server.CredentialsEndpoint},
	} {
		if v[1] != "" {
			fmt.Fprintf(&b, "export AWS_IOT_%s='%s'\n", v[0], strings.ReplaceAll(v[1], "'", `'\''`))
		}
	}
	return b.String(), nil
}
