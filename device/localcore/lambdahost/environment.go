package lambdahost

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// checkEndpoints returns an error for a variable by which the function's calls
// of an AWS service would leave this machine.
func checkEndpoints(env []string) error {
	for _, variable := range env {
		name, value, _ := strings.Cut(variable, "=")
		switch {
		case name == "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS":
			return fmt.Errorf("hosting a function: %s would have it call AWS itself", name)
		case !strings.HasPrefix(name, "AWS_ENDPOINT_URL") || value == "":
			continue
		}
		u, err := url.Parse(value)
		if err != nil {
			return fmt.Errorf("hosting a function: %s is not a URL: %w", name, err)
		}
		if ip := net.ParseIP(u.Hostname()); u.Hostname() != "localhost" && !ip.IsLoopback() {
			return fmt.Errorf("hosting a function: %s is at %s, not on this machine", name, u.Host)
		}
	}
	return nil
}

// environment returns the variables that Lambda sets for a function on an
// OS-only runtime, and then those of the caller. Nothing is inherited: the
// credentials are plainly not real, the files and the metadata service that AWS
// SDKs would read others from are switched off, and endpoint gets their calls.
//
// AWS page: https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html
func environment(c *Config, api, endpoint string) []string {
	dir := filepath.Dir(c.Path)
	name := c.FunctionARN[strings.LastIndex(c.FunctionARN, ":")+1:]
	return append([]string{
		"AWS_LAMBDA_RUNTIME_API=" + api,
		"_HANDLER=" + filepath.Base(c.Path),
		"AWS_REGION=" + c.Region,
		"AWS_DEFAULT_REGION=" + c.Region,
		"AWS_LAMBDA_FUNCTION_NAME=" + name,
		"AWS_LAMBDA_FUNCTION_VERSION=$LATEST",
		"AWS_LAMBDA_FUNCTION_MEMORY_SIZE=128",
		"AWS_LAMBDA_INITIALIZATION_TYPE=on-demand",
		"AWS_LAMBDA_LOG_GROUP_NAME=/aws/lambda/" + name,
		"AWS_LAMBDA_LOG_STREAM_NAME=local",
		"AWS_ACCESS_KEY_ID=local",
		"AWS_SECRET_ACCESS_KEY=local",
		"AWS_SESSION_TOKEN=local",
		"AWS_ENDPOINT_URL=" + endpoint,
		"AWS_CONFIG_FILE=" + os.DevNull,
		"AWS_SHARED_CREDENTIALS_FILE=" + os.DevNull,
		"AWS_EC2_METADATA_DISABLED=true",
		"LAMBDA_TASK_ROOT=" + dir,
		"LAMBDA_RUNTIME_DIR=" + dir,
		"PATH=/usr/local/bin:/usr/bin:/bin:/opt/bin",
		"LANG=en_US.UTF-8",
		"TZ=:UTC",
	}, c.Env...)
}
